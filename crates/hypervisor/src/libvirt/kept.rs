//! Kept snapshots, read again and concluded: with the machine there, running or not, or long gone.

use super::conn::Conn;
use super::options::LibvirtOptions;
use super::planned::disks_of;
use super::reconcile;
use super::session::Session;
use crate::error::{Error, Result};
use crate::export::{NbdDisk, ServeOptions};
use crate::kept::{self, KeptSnapshot, Record, RecordDisk};
use crate::limits::{KEPT_LOCK_TIMEOUT, OWN_CHECKPOINTS_KEPT};
use crate::model::DiskFormat;
use crate::reader::ReadDisk;
use crate::snapshot::{DiskSnapshot, Independent, MachineSnapshot, Outcome, Road, SnapshotBackend};
use crate::text::machine;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks after a kept snapshot that is being read: that is all it does.
struct Reading {
    record: Record,
    _directory: ReadersDirectory,
}

impl SnapshotBackend for Reading {
    fn check(&self) -> Result<()> {
        kept::check_below(&self.record)?;
        self.record.disks.iter().try_for_each(RecordDisk::check)
    }

    fn finish(&mut self, _: Outcome) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn independent(&self) -> Option<Independent> {
        None
    }

    fn let_go(&mut self) {}
}

/// Where the servers of kept qcow2 clones have their sockets. Shared by all that read; whoever comes when nobody reads
/// clears away what killed ones left.
struct ReadersDirectory {
    path: PathBuf,
    _lock: File,
}

impl ReadersDirectory {
    fn open(options: &LibvirtOptions) -> Result<Self> {
        let make = |path: &Path, mode| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(|e| Error::io("creating", path, e))
        };
        make(&options.run_dir, 0o711)?;
        let path = options.run_dir.join("kept");
        let lock_path = options.run_dir.join("kept.lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|e| Error::io("opening", &lock_path, e))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(&path);
        }
        let deadline = Instant::now() + KEPT_LOCK_TIMEOUT;
        while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
            if Instant::now() > deadline {
                return Err(Error::Busy {
                    what: lock_path.display().to_string(),
                    why: "another process holds it".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        make(&path, 0o700)?;
        Ok(Self { path, _lock: lock })
    }
}

pub fn open(options: &LibvirtOptions, path: &Path) -> Result<(MachineSnapshot, KeptSnapshot)> {
    let record = kept::read(path)?;
    record.check_directories()?;
    kept::check_below(&record)?;
    let directory = ReadersDirectory::open(options)?;
    let mut disks = Vec::new();
    for disk in &record.disks {
        disk.check()?;
        let (size_bytes, reader): (u64, Arc<dyn ReadDisk>) = match disk.format {
            DiskFormat::Raw => {
                let raw = kept::open_raw(disk)?;
                (raw.size_bytes(), Arc::new(raw))
            }
            DiskFormat::Qcow2 => {
                let what = format!("disk `{}` of {}", disk.target, machine(&record.name));
                let serve = ServeOptions { bitmap: None, without_locks: disk.has_backing };
                let nbd = NbdDisk::open_image(&disk.layer()?, &serve, &directory.path, &what)?;
                (nbd.size_bytes(), Arc::new(nbd))
            }
        };
        if size_bytes != disk.size_bytes {
            return Err(Error::Spoiled {
                what: disk.file.display().to_string(),
                why: "it has another size than when it was taken".into(),
            });
        }
        disks.push(DiskSnapshot {
            target: disk.target.clone(),
            size_bytes,
            format: disk.format,
            road: Road::Clone,
            changes: disk.changes.clone(),
            extents: disk.extents()?,
            checkpoint: disk.checkpoint.clone(),
            reader,
        });
    }
    let kept = KeptSnapshot { record: path.to_owned(), ..kept::describe(&record)? };
    let snapshot = MachineSnapshot {
        uuid: record.uuid.clone(),
        name: record.name.clone(),
        taken_at: record.taken_at,
        consistency: record.consistency.clone(),
        definition_xml: record.definition_xml.clone(),
        nvram: record.nvram.clone(),
        firmware: record.firmware.clone(),
        tpm: record.tpm.clone(),
        disks,
        skipped: record.skipped.clone(),
        warnings: record.warnings.clone(),
        timings: record.timings,
        guest: record.guest.clone(),
        not_kept: Some("it is kept already".into()),
        backend: Some(Box::new(Reading { record, _directory: directory })),
    };
    Ok((snapshot, kept))
}

/// Moves the machine's change tracking on, or back to the parent. A machine that is gone has none.
pub fn conclude(
    options: &LibvirtOptions,
    connect: impl FnOnce() -> Result<Arc<Conn>>,
    path: &Path,
    outcome: Outcome,
) -> Result<Vec<String>> {
    let record = kept::read(path)?;
    let mut warnings = Vec::new();
    let what = machine(&record.name);
    let domain = connect()?.find_by_uuid(&record.uuid).map_err(|e| e.about("looking for", &what))?;
    if let Some(dom) = domain {
        let session = Session::open(options, dom, &record.id)?;
        let disks = disks_of(&session.dom(), &what)?;
        let checkpoint = session.checkpoint();
        let has_checkpoint = record.disks.iter().any(|d| d.checkpoint.as_deref() == Some(&*checkpoint));
        match outcome {
            Outcome::Committed if has_checkpoint => {
                let keep = BTreeSet::from([checkpoint.as_str()]);
                reconcile::prune(&session, &disks, &keep, OWN_CHECKPOINTS_KEPT, &mut warnings);
            }
            Outcome::Abandoned if has_checkpoint => {
                reconcile::drop_checkpoint(&session, &disks, &checkpoint, &mut warnings);
            }
            _ => {}
        }
    }
    for disk in &record.disks {
        let gone = match outcome {
            Outcome::Committed => &disk.previous,
            Outcome::Abandoned => &disk.compare,
        };
        let Some(gone) = gone.as_deref().filter(|path| record.may_remove(path)) else { continue };
        if let Err(error) = std::fs::remove_file(gone) {
            warnings.push(format!("the old clone {} could not be removed: {error}", gone.display()));
        }
    }
    Ok(warnings)
}
