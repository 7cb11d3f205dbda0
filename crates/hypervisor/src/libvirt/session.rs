//! What a snapshot of one machine has for itself: its lock, its directory, its file names.

use super::conn::{Conn, VirtResult};
use super::dom::Dom;
use super::options::LibvirtOptions;
use crate::error::{Error, Result};
use crate::files;
use crate::kept;
use crate::limits::{CLONE_PREFIX, LET_GO_TIMEOUT, LOCK_TIMEOUT, OWN_PREFIX};
use crate::text::machine;
use rustix::fs::FlockOperation;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Session {
    /// Over the connection that worked last.
    dom: Mutex<Arc<Dom>>,
    /// libvirt's number of the machine's run when the session began.
    pub instance: Option<u32>,
    pub name: String,
    pub uuid: String,
    pub uri: String,
    /// How long a libvirt that went away is waited for.
    pub patience: Duration,
    /// The snapshot's.
    pub id: String,
    /// For our own servers' sockets; emptied at the start of every snapshot of the machine.
    pub run_directory: PathBuf,
    qemu_dir: PathBuf,
    /// Held by those who may let the machine go: this process, and the helper that does so should this one be killed.
    pub window_lock: File,
    /// Removed, while still locked, when the session ends.
    window_lock_path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Session {
    pub fn open(options: &LibvirtOptions, dom: Dom, id: &str) -> Result<Self> {
        let id_is_fine =
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !id_is_fine {
            return Err(Error::unsupported(
                format!("the snapshot id `{}`", crate::text::shorten(id)),
                "it has 1 to 64 letters, digits and hyphens",
            ));
        }
        let name = dom.name();
        let uuid = dom.uuid().map_err(|e| e.about("inspecting", &machine(&name)))?;
        make_directory(&options.run_dir, 0o711)?;
        let lock_path = options.run_dir.join(format!("{uuid}.lock"));
        let busy = |why: &str| Error::Busy { what: machine(&name), why: why.into() };
        let lock = wait_for_lock(&lock_path, LOCK_TIMEOUT)?
            .ok_or_else(|| busy("another backup of it is running"))?;
        // What is suspended or frozen now may be about to be let go: nothing of it is to be looked at before that.
        let window_lock_path = options.run_dir.join(format!("{uuid}.window"));
        let window_lock = wait_for_lock(&window_lock_path, LET_GO_TIMEOUT)?.ok_or_else(|| {
            busy("a backup of it was killed while it held it, and it is still being let go")
        })?;
        // As it is after that: it may have been started anew, and libvirt too.
        let dom = dom.conn.domain_by_uuid(&uuid).map_err(|e| e.about("inspecting", &machine(&name)))?;
        let run_directory = options.run_dir.join(&uuid);
        // Left by a process that was killed.
        let _ = std::fs::remove_dir_all(&run_directory);
        make_directory(&run_directory, 0o700)?;
        Ok(Self {
            instance: dom.id_at_lookup(),
            dom: Mutex::new(Arc::new(dom)),
            name,
            uuid,
            uri: options.uri.clone(),
            patience: options.return_timeout,
            id: id.to_owned(),
            run_directory,
            qemu_dir: options.qemu_dir.clone(),
            window_lock,
            window_lock_path,
            lock_path,
            _lock: lock,
        })
    }

    pub fn what(&self) -> String {
        machine(&self.name)
    }

    pub fn dom(&self) -> Arc<Dom> {
        self.dom.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }

    /// The machine, over a new connection where libvirt was restarted since; waits so long for one that is away.
    pub fn revive(&self, patience: Duration) -> VirtResult<Arc<Dom>> {
        let deadline = Instant::now() + patience;
        loop {
            let dom = self.dom();
            let away = match dom.state() {
                Err(e) if e.is_away() => e,
                Err(e) => return Err(e),
                Ok(_) => return Ok(dom),
            };
            let found = Conn::open(&self.uri).ok().map(|conn| conn.domain_by_uuid(&self.uuid));
            match found {
                Some(Ok(dom)) => {
                    let dom = Arc::new(dom);
                    *self.dom.lock().unwrap_or_else(|p| p.into_inner()) = dom.clone();
                    return Ok(dom);
                }
                Some(Err(e)) if !e.is_away() => return Err(e),
                _ if Instant::now() > deadline => return Err(away),
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// There while a guest may be frozen by us.
    pub fn frozen_mark(&self) -> PathBuf {
        self.run_directory.with_extension("frozen")
    }

    pub fn disk(&self, target: &str) -> String {
        format!("disk `{target}` of {}", self.what())
    }

    /// The new checkpoint's name.
    pub fn checkpoint(&self) -> String {
        format!("{OWN_PREFIX}{}", self.id)
    }

    fn own_file(&self, directory: &Path, target: &str, checkpoint: &str, suffix: &str) -> PathBuf {
        directory.join(format!("{CLONE_PREFIX}{}-{target}-{checkpoint}.{suffix}", self.uuid))
    }

    /// Where the clone of a disk is for a checkpoint (of ours).
    pub fn clone_path(&self, disk: &Path, target: &str, checkpoint: &str) -> PathBuf {
        self.own_file(disk.parent().unwrap_or(Path::new("/")), target, checkpoint, "clone")
    }

    pub fn scratch_path(&self, directory: &Path, target: &str) -> PathBuf {
        self.own_file(directory, target, &self.checkpoint(), "scratch")
    }

    /// Removes what earlier, killed processes left of this machine in a directory, except these files.
    pub fn remove_leftovers(&self, directory: &Path, keep: &[PathBuf]) {
        let prefix = format!("{CLONE_PREFIX}{}-", self.uuid);
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let Some(text) = file_name.to_str() else { continue };
            let path = entry.path();
            // Kept snapshots stay; what one that was cut short left has no record.
            let is_stray = text.ends_with(kept::NEW_RECORD_SUFFIX)
                || kept::record_of_file(text, &self.uuid).is_some_and(|r| !path.with_file_name(r).exists());
            let ours = text.starts_with(&prefix)
                && (text.ends_with(".clone") || text.ends_with(".scratch") || is_stray);
            if !ours || keep.contains(&path) {
                continue;
            }
            // Scratch files belong to QEMU's user while they are used.
            if !text.ends_with(".scratch") && !files::is_own_file(&path) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what an interrupted backup left"),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a left file could not be removed")
                }
            }
        }
    }

    /// A socket path which this machine's QEMU may create: in the directory that libvirt keeps for
    /// the running machine, where ownership and security labels are right.
    pub fn job_socket(&self) -> Result<PathBuf> {
        let file = format!("{OWN_PREFIX}{}.sock", self.id.get(..8).unwrap_or(&self.id));
        if let Some(id) = self.instance {
            let prefix = format!("domain-{id}-");
            let own: Vec<PathBuf> = std::fs::read_dir(&self.qemu_dir)
                .map(|entries| {
                    entries
                        .flatten()
                        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
                        .map(|e| e.path())
                        .collect()
                })
                .unwrap_or_default();
            if let [directory] = own.as_slice() {
                return Ok(directory.join(file));
            }
        }
        // Elsewhere: a directory which QEMU's user, seen at the running machine's own files, may write to.
        let directory = self.qemu_directory();
        make_directory(&directory, 0o700)?;
        if let Some(owner) = self.qemu_owner() {
            std::os::unix::fs::chown(&directory, Some(owner.0), Some(owner.1))
                .map_err(|e| Error::io("handing over", &directory, e))?;
        }
        Ok(directory.join(file))
    }

    fn qemu_directory(&self) -> PathBuf {
        self.run_directory.with_extension("qemu")
    }

    fn qemu_owner(&self) -> Option<(u32, u32)> {
        let meta = std::fs::metadata(&self.qemu_dir).ok()?;
        Some((meta.uid(), meta.gid()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.run_directory);
        let _ = std::fs::remove_dir_all(self.qemu_directory());
        let _ = std::fs::remove_file(&self.window_lock_path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// A machine's lock, over all processes of this host, if it becomes free in time. A process that was killed while it started
/// another leaves it the lock for a moment.
fn wait_for_lock(path: &Path, timeout: Duration) -> Result<Option<File>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(file) = try_lock(path)? {
            return Ok(Some(file));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A machine's lock, if nobody holds it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io("opening", path, e))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // The last holder may have removed it between our opening and locking it.
        let held = file.metadata().map_err(|e| Error::io("looking at", path, e))?;
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == held.ino() && there.dev() == held.dev() => return Ok(Some(file)),
            _ => {}
        }
    }
}

pub(super) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(e) => Err(Error::io("creating", path, e)),
    }
}
