//! What stays behind a snapshot until it is finished: clones, a job, a watch, a checkpoint.

use super::reconcile;
use super::session::Session;
use super::take::PlannedDisk;
use crate::error::{Error, Result};
use crate::files::{self, Fingerprint, OwnedFile};
use crate::limits::{OWN_CHECKPOINTS_KEPT, SCRATCH_RESERVE_BYTES, WATCH_INTERVAL};
use crate::snapshot::{CloneFile, Independent, Outcome, ReadDisk, SnapshotBackend};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use strongroom_domain::TypedExtent;

/// Why a snapshot cannot be read any more, once it cannot.
#[derive(Default)]
pub struct Spoiled {
    is: AtomicBool,
    why: Mutex<Option<Error>>,
}

impl Spoiled {
    pub fn set(&self, why: Error) {
        let mut slot = self.why.lock().unwrap_or_else(|p| p.into_inner());
        slot.get_or_insert(why);
        self.is.store(true, Ordering::Release);
    }

    pub fn check(&self) -> Result<()> {
        if !self.is.load(Ordering::Acquire) {
            return Ok(());
        }
        let slot = self.why.lock().unwrap_or_else(|p| p.into_inner());
        slot.clone().map_or(Ok(()), Err)
    }
}

/// A reader that stops when the snapshot is spoiled, and then says why.
pub struct Watched<R> {
    pub inner: R,
    pub spoiled: Arc<Spoiled>,
}

impl<R: ReadDisk> ReadDisk for Watched<R> {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.spoiled.check()?;
        let done = self.inner.read_at(offset_bytes, buffer);
        self.spoiled.check()?;
        done
    }

    fn kinds(&self) -> Result<Vec<TypedExtent>> {
        self.spoiled.check()?;
        self.inner.kinds()
    }
}

/// A clone of a disk.
pub struct Clone {
    pub file: OwnedFile,
    /// Raw disks: kept after a commit, to compare with the next one.
    pub keep: bool,
    /// The one kept before, which goes then.
    pub previous: Option<PathBuf>,
}

/// A pull-mode job in progress.
pub struct Job {
    pub socket: PathBuf,
    pub scratch: Vec<OwnedFile>,
    pub scratch_limit_bytes: Option<u64>,
}

impl Job {
    /// Why the job must be cancelled now, if so.
    fn excess(&self) -> Option<String> {
        let used: u64 = self.scratch.iter().map(|f| files::allocated_bytes(f.path())).sum();
        if let Some(limit) = self.scratch_limit_bytes
            && used > limit
        {
            return Some(format!("the scratch files grew to {used} bytes; their limit is {limit}"));
        }
        let directories: BTreeSet<_> = self.scratch.iter().filter_map(|f| f.path().parent()).collect();
        for directory in directories {
            if let Some(free) = files::free_bytes(directory)
                && free < SCRATCH_RESERVE_BYTES.min(self.reserve_of(used))
            {
                return Some(format!(
                    "the file system of the scratch directory {} has only {free} bytes left",
                    directory.display()
                ));
            }
        }
        None
    }

    /// On small file systems a smaller reserve must do: an eighth of what there was.
    fn reserve_of(&self, used: u64) -> u64 {
        let total = self
            .scratch
            .iter()
            .filter_map(|f| f.path().parent())
            .filter_map(files::free_bytes)
            .min()
            .unwrap_or(0)
            .saturating_add(used);
        total / 8
    }
}

pub struct Backend {
    pub session: Arc<Session>,
    pub disks: Vec<PlannedDisk>,
    /// Made for this snapshot.
    pub checkpoint: Option<String>,
    pub clones: Vec<Clone>,
    pub job: Option<Arc<Job>>,
    /// Disks read in place: how they were.
    pub untouched: Arc<Vec<(PathBuf, Fingerprint)>>,
    pub spoiled: Arc<Spoiled>,
    pub watch: Option<Watch>,
}

/// A thread that looks after a snapshot; it ends with this.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(mut look: impl FnMut() -> bool + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(WATCH_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                if !look() {
                    return;
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Backend {
    /// Begins to look after the job, or the disks that are read in place.
    pub fn start_watch(&mut self) {
        let spoiled = self.spoiled.clone();
        if let Some(job) = self.job.clone() {
            let session = self.session.clone();
            let mut rounds = 0u32;
            self.watch = Some(Watch::start(move || {
                rounds += 1;
                if let Some(why) = job.excess() {
                    // First the machine, then the message.
                    let _ = session.dom.abort_job();
                    spoiled.set(Error::failed(
                        "backing up",
                        session.what(),
                        format!("{why}; the machine goes on. Give more room with another scratch directory"),
                    ));
                    return false;
                }
                if rounds.is_multiple_of(5) && !job_is_ours(&session, &job) {
                    spoiled.set(job_is_gone(&session));
                    return false;
                }
                true
            }));
        } else if !self.untouched.is_empty() {
            let untouched = self.untouched.clone();
            let what = self.session.what();
            self.watch = Some(Watch::start(move || match changed_since(&untouched, &what) {
                Ok(()) => true,
                Err(error) => {
                    spoiled.set(error);
                    false
                }
            }));
        }
    }

    fn end_job(&mut self) -> Result<()> {
        match self.job.take() {
            Some(job) if job_is_ours(&self.session, &job) => {
                reconcile::end_job(&self.session.dom, &self.session.what())
            }
            _ => Ok(()),
        }
    }
}

fn job_is_ours(session: &Session, job: &Job) -> bool {
    let socket = job.socket.to_string_lossy();
    session.dom.backup_xml().is_ok_and(|xml| xml.is_some_and(|xml| xml.contains(socket.as_ref())))
}

fn job_is_gone(session: &Session) -> Error {
    Error::failed(
        "backing up",
        session.what(),
        "its backup job ended early: the machine was stopped or crashed, or somebody cancelled the job; run the backup again",
    )
}

/// Whether disks that are read in place are still as they were.
pub fn changed_since(untouched: &[(PathBuf, Fingerprint)], what: &str) -> Result<()> {
    for (path, before) in untouched {
        if files::fingerprint(path)? != *before {
            return Err(Error::Busy {
                what: what.to_owned(),
                why: "it was started, or its disk was written to, while the disk was being read; run the backup again"
                    .into(),
            });
        }
    }
    Ok(())
}

impl SnapshotBackend for Backend {
    fn check(&self) -> Result<()> {
        self.spoiled.check()?;
        if let Some(job) = &self.job
            && !job_is_ours(&self.session, job)
        {
            return Err(job_is_gone(&self.session));
        }
        changed_since(&self.untouched, &self.session.what())
    }

    fn finish(&mut self, outcome: Outcome) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        self.watch = None;
        let ended = self.end_job();
        match outcome {
            Outcome::Committed => {
                // Its parent is not needed any more; of the others the newest stays, which may be
                // the parent of another vault's points.
                let keep: BTreeSet<&str> = self.checkpoint.as_deref().into_iter().collect();
                reconcile::prune(&self.session, &self.disks, &keep, OWN_CHECKPOINTS_KEPT, &mut warnings);
            }
            Outcome::Abandoned => {
                if let Some(name) = &self.checkpoint {
                    reconcile::drop_checkpoint(&self.session, &self.disks, name, &mut warnings);
                }
            }
        }
        for clone in &mut self.clones {
            if outcome == Outcome::Committed && clone.keep {
                clone.file.keep();
                if let Some(previous) = clone.previous.take()
                    && let Err(error) = std::fs::remove_file(&previous)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    warnings
                        .push(format!("the old clone {} could not be removed: {error}", previous.display()));
                }
            } else if let Err(error) = clone.file.remove() {
                warnings.push(format!("a clone could not be removed: {error}"));
            }
        }
        ended.map(|()| warnings)
    }

    fn independent(&self) -> Option<Independent> {
        if self.job.is_some() || self.clones.len() != self.disks.len() {
            return None;
        }
        let clone = |(clone, disk): (&Clone, &PlannedDisk)| CloneFile {
            path: clone.file.path().to_owned(),
            has_backing: disk.has_backing(),
            layer: disk.layer.clone(),
            keep: clone.keep,
            previous: clone.previous.clone(),
        };
        Some(Independent {
            id: self.session.id.clone(),
            clones: self.clones.iter().zip(&self.disks).map(clone).collect(),
            below: self.untouched.to_vec(),
        })
    }

    fn let_go(&mut self) {
        self.watch = None;
        self.checkpoint = None;
        for clone in &mut self.clones {
            if clone.keep {
                clone.file.keep();
            } else if let Err(error) = clone.file.remove() {
                tracing::warn!(%error, "a clone's first name could not be removed");
            }
        }
    }
}
