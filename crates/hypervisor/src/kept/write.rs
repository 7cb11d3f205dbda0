//! Keeps a snapshot: names of their own for its clones, and the record.

use super::{KeptSnapshot, Record, RecordDisk, VERSION, describe, file_path, pack, record_name};
use crate::error::{Error, Result};
use crate::files::{self, Fingerprint};
use crate::limits::{KEPT_NVRAM_BYTES_MAX, KEPT_RECORD_BYTES_MAX};
use crate::snapshot::{Independent, MachineSnapshot};
use crate::text::machine;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

impl MachineSnapshot {
    /// Makes the snapshot independent of this process: its clones stay, durable, until
    /// [`Hypervisor::remove_kept`](crate::Hypervisor::remove_kept), and are read through
    /// [`open_kept`](crate::Hypervisor::open_kept). Its checkpoint stays until
    /// [`conclude_kept`](crate::Hypervisor::conclude_kept). After an error the snapshot is as it was.
    ///
    /// `owner`: who may clear it away, should nobody know of it any more; `extra`: whatever is to be found with it.
    pub fn keep(&mut self, owner: &str, extra: serde_json::Value) -> Result<KeptSnapshot> {
        let independent = self.backend.as_ref().and_then(|backend| backend.independent());
        let Some(independent) = independent.filter(|_| self.not_kept.is_none()) else {
            let why = self.not_kept.clone().unwrap_or_else(|| "it is kept already".into());
            return Err(Error::unsupported(format!("the snapshot of {}", machine(&self.name)), why));
        };
        let kept = write(self, independent, owner, extra)?;
        // Readers first: what they hold open could stand in the way.
        self.disks.clear();
        if let Some(mut backend) = self.backend.take() {
            backend.let_go();
        }
        Ok(kept)
    }
}

/// Files made on the way; removed unless all came to its end.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Gives the clones names of their own and writes the record.
fn write(
    snapshot: &MachineSnapshot,
    independent: Independent,
    owner: &str,
    extra: serde_json::Value,
) -> Result<KeptSnapshot> {
    let id = independent.id.as_str();
    if let Some((path, _)) = independent.below.iter().find(|(_, f)| matches!(f, Fingerprint::Block { .. })) {
        return Err(Error::unsupported(
            path.display().to_string(),
            "a disk is based on a block device, whose changes cannot be told later",
        ));
    }
    let mut made = Made::default();
    let disks = keep_clones(snapshot, &independent, &mut made)?;
    let mut warnings = snapshot.warnings.clone();
    let mut small = |from: &Option<PathBuf>, kind, what| {
        let (from, first) = from.as_deref().zip(disks.first())?;
        Some(keep_small(
            from,
            &file_path(&first.file, &snapshot.uuid, kind, id),
            what,
            &mut made,
            &mut warnings,
        ))
    };
    let nvram = small(&snapshot.nvram, "nvram", "the UEFI variables");
    let tpm = small(&snapshot.tpm, "tpm", "what the TPM remembers");
    let records = record_paths(&disks, &record_name(&snapshot.uuid, id));
    let record = Record {
        version: VERSION,
        id: id.into(),
        owner: owner.into(),
        extra,
        records: records.clone(),
        uuid: snapshot.uuid.clone(),
        name: snapshot.name.clone(),
        taken_at: snapshot.taken_at,
        consistency: snapshot.consistency.clone(),
        definition_xml: snapshot.definition_xml.clone(),
        nvram,
        firmware: snapshot.firmware.clone(),
        tpm,
        disks,
        skipped: snapshot.skipped.clone(),
        warnings,
        timings: snapshot.timings,
        guest: snapshot.guest.clone(),
        below: independent.below,
    };
    let bytes =
        serde_json::to_vec(&record).map_err(|e| Error::failed("recording", snapshot.name.as_str(), e))?;
    if bytes.len() as u64 > KEPT_RECORD_BYTES_MAX {
        return Err(Error::unsupported(
            machine(&snapshot.name),
            "its disks are too fragmented for a snapshot to be kept",
        ));
    }
    // The first one last: it is the commit point.
    for path in records.iter().rev() {
        made.0.push(path.clone());
        write_record(path, &bytes)?;
    }
    made.0.clear();
    describe(&record)
}

/// Gives each clone another name: the same file, which takes no space and no time.
fn keep_clones(
    snapshot: &MachineSnapshot,
    independent: &Independent,
    made: &mut Made,
) -> Result<Vec<RecordDisk>> {
    let mut disks = Vec::new();
    for (disk, clone) in snapshot.disks.iter().zip(&independent.clones) {
        let file = file_path(&clone.path, &snapshot.uuid, &disk.target, &independent.id);
        std::fs::hard_link(&clone.path, &file).map_err(|e| Error::io("keeping", &file, e))?;
        made.0.push(file.clone());
        let handle = files::open_own(&file)?;
        handle.sync_all().map_err(|e| Error::io("syncing", &file, e))?;
        let meta = handle.metadata().map_err(|e| Error::io("looking at", &file, e))?;
        disks.push(RecordDisk {
            target: disk.target.clone(),
            size_bytes: disk.size_bytes,
            format: disk.format,
            changes: disk.changes.clone(),
            extents: pack(&disk.extents),
            checkpoint: disk.checkpoint.clone(),
            file,
            length_bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            has_backing: clone.has_backing,
            layer: Some(clone.layer.clone()),
            compare: clone.keep.then(|| clone.path.clone()),
            previous: clone.previous.clone(),
        });
    }
    Ok(disks)
}

/// Copies a small file that belongs to the machine. Where that fails the machine's own is named, and a warning says so.
fn keep_small(from: &Path, to: &Path, what: &str, made: &mut Made, warnings: &mut Vec<String>) -> PathBuf {
    match copy_small(from, to) {
        Ok(()) => {
            made.0.push(to.to_owned());
            to.to_owned()
        }
        Err(error) => {
            warnings.push(format!("{what} could not be kept with the snapshot: {error}"));
            from.to_owned()
        }
    }
}

/// A record in each directory that has a disk, the first one first.
fn record_paths(disks: &[RecordDisk], name: &str) -> Vec<PathBuf> {
    let mut records: Vec<PathBuf> = Vec::new();
    for disk in disks {
        let record = disk.file.with_file_name(name);
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records
}

fn write_record(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let _ = std::fs::remove_file(&new);
    let failed = |e| Error::io("writing", path, e);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&new, path)).map_err(|e| {
        let _ = std::fs::remove_file(&new);
        failed(e)
    })?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| Error::io("syncing", directory, e))
}

fn copy_small(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    File::open(from)?.take(KEPT_NVRAM_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > KEPT_NVRAM_BYTES_MAX {
        return Err(std::io::Error::other(format!("they are larger than {KEPT_NVRAM_BYTES_MAX} bytes")));
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    file.write_all(&bytes)?;
    file.sync_all()
}
