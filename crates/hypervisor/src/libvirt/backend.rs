//! What stays behind a snapshot until it is finished: clones, a job, a watch, a checkpoint.

use super::job::{Fate, Job};
use super::planned::PlannedDisk;
use super::reconcile;
use super::session::Session;
use crate::error::{Error, Result};
use crate::files::{self, Fingerprint, OwnedFile};
use crate::limits::{OWN_CHECKPOINTS_KEPT, WATCH_FINDS_OUT, WATCH_INTERVAL};
use crate::reader::ReadDisk;
use crate::snapshot::{CloneFile, Independent, Outcome, SnapshotBackend};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
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
        if done.is_err() {
            // Whoever serves the disk is gone; the watch finds out why, and says it better than a connection that ended.
            let until = Instant::now() + WATCH_FINDS_OUT;
            while Instant::now() < until {
                self.spoiled.check()?;
                std::thread::sleep(WATCH_INTERVAL);
            }
        }
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
                    let _ = session.revive(Duration::ZERO).and_then(|dom| dom.abort_job());
                    spoiled.set(Error::failed(
                        "backing up",
                        session.what(),
                        format!("{why}; the machine goes on. Give more room with another scratch directory"),
                    ));
                    return false;
                }
                if !rounds.is_multiple_of(5) {
                    return true;
                }
                match job.fate(&session, Duration::ZERO) {
                    // While libvirt is away QEMU goes on serving the disks.
                    Ok(Fate::Runs(_)) | Err(_) => true,
                    Ok(Fate::Gone(why)) => {
                        spoiled.set(job_is_gone(&session, &why));
                        false
                    }
                }
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

    /// Whether what was read belongs to the instant, as far as the job is concerned. Waits for a libvirt that is away.
    fn check_job(&self) -> Result<()> {
        let Some(job) = &self.job else { return Ok(()) };
        match job.fate(&self.session, self.session.patience)? {
            Fate::Runs(_) => Ok(()),
            Fate::Gone(why) => Err(job_is_gone(&self.session, &why)),
        }
    }
}

fn job_is_gone(session: &Session, why: &str) -> Error {
    Error::failed(
        "backing up",
        session.what(),
        format!("its backup job ended early: {why}; run the backup again"),
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
        self.check_job()?;
        changed_since(&self.untouched, &self.session.what())
    }

    fn finish(&mut self, outcome: Outcome) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        self.watch = None;
        // Of a libvirt that was restarted meanwhile a new connection is needed for all that follows.
        let ended = match self.job.take() {
            Some(job) => job.end(&self.session),
            None => self.session.revive(self.session.patience).map(drop).or_else(|e| {
                let is_gone = e.code == super::sys::ERR_NO_DOMAIN;
                if is_gone { Ok(()) } else { Err(e.about("finishing the backup of", &self.session.what())) }
            }),
        };
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
