//! After a replacement's commit: the point's disks take the place of the machine's.
//!
//! The machine has its old disks or its new ones, never some of each, and never one that is half: while more than a single
//! rename is to be done, one disk, the gate, is not under its name, so that the machine cannot be started. The gate
//! goes first and comes back last. Each step is safe to do again, and the job's row says which are done, so that a
//! restart of the service goes on from anywhere.
//!
//! A disk that is rewritten in place (see [`Way`]) is a gate itself. Should the point turn out to be unreadable, or the job be
//! cancelled, it is rewritten to the point that was taken of it before; that this point is in the vault is what makes it safe to
//! begin.

use super::restore::RestoreRequest;
use super::{Service, machines};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{REPLACE_RETRY_FIRST, REPLACE_RETRY_MAX};
use crate::present;
use crate::target::DiskFormat;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::service::{Item, Job, Machine, Vault};
use strongroom_domain::PointId;
use strongroom_store::{Progress, ReadSession, Rewritten};
use uuid::Uuid;

/// How a disk becomes the point's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The new disk is complete, under the hidden name.
    #[default]
    Ready,
    /// The disk itself is put under the hidden name, and what differs is written to it there.
    InPlace,
}

/// A disk that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyDisk {
    /// The hidden name beside the disk.
    pub new: PathBuf,
    pub disk: PathBuf,
    /// As the machine calls it.
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub format: DiskFormat,
    #[serde(default)]
    pub way: Way,
}

impl ReadyDisk {
    /// Where the old disk waits while it is the gate.
    fn aside(&self) -> PathBuf {
        let mut name = self.new.clone().into_os_string();
        name.push("-old");
        name.into()
    }

    fn is_there(&self) -> bool {
        self.disk.symlink_metadata().is_ok()
    }
}

/// What of a replacement is done; kept in the job's request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Not empty: the replacement is committed.
    pub disks: Vec<ReadyDisk>,
    /// The point of the disks before.
    #[serde(default)]
    pub before: Option<Uuid>,
    /// The gate is shut: the machine cannot be started until all is done.
    #[serde(default)]
    pub is_shut: bool,
    /// It goes back to the disks before, and why; empty: the job was cancelled.
    #[serde(default)]
    pub back: Option<String>,
}

impl Swap {
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    fn gate(&self) -> usize {
        self.disks.iter().position(|d| d.way == Way::InPlace).unwrap_or(0)
    }

    fn needs_gate(&self) -> bool {
        self.disks.len() > 1 || self.disks.iter().any(|d| d.way == Way::InPlace)
    }
}

/// Writes down how far a replacement is.
pub(super) fn note(service: &Service, job: Uuid, request: &RestoreRequest) -> Result<()> {
    let kept = serde_json::to_value(request).map_err(|e| {
        Error::new(ErrorKind::Failed, format!("The job's request could not be written down: {e}"))
    })?;
    service.catalog.update::<Job, Error>(job, |row| {
        row.request.clone_from(&kept);
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Does what is left of a committed replacement. It fails if the machine has its old disks after all; while it can have neither,
/// it goes on trying.
pub(super) fn carry_out(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    mut request: RestoreRequest,
    progress: &Arc<Progress>,
) -> Result<Rewritten> {
    let work = Work { service, job: job.id, vault, item };
    if !request.swap.needs_gate() {
        return work.replace_one(&mut request).map(|()| Rewritten::default());
    }
    if !request.swap.is_shut {
        work.shut(&mut request)?;
    }
    let mut pause = REPLACE_RETRY_FIRST;
    loop {
        // What was cancelled goes back whatever was asked.
        let going_back = Arc::new(Progress::default());
        let progress = if request.swap.back.is_some() { &going_back } else { progress };
        let error = match work.complete(&request, progress) {
            Ok(done) => {
                return match request.swap.back {
                    None => Ok(done),
                    Some(why) if why.is_empty() => Err(Error::cancelled()),
                    Some(why) => Err(Error::new(
                        ErrorKind::Failed,
                        format!("{why} The machine has the disks that it had before."),
                    )),
                };
            }
            Err(error) => error,
        };
        if service.runner.is_stopping() {
            return Err(Error::cancelled());
        }
        if request.swap.back.is_none() {
            let back = match error.kind {
                ErrorKind::Cancelled => Some(String::new()),
                ErrorKind::Corrupt | ErrorKind::NotFound => Some(error.message.clone()),
                _ => None,
            };
            if back.is_some() && request.swap.before.is_some() {
                request.swap.back = back;
                note(service, job.id, &request)?;
                continue;
            }
        }
        work.tell(&error);
        wait(service, pause);
        pause = (pause * 2).min(REPLACE_RETRY_MAX);
    }
}

fn wait(service: &Service, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until && !service.runner.is_stopping() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Work<'a> {
    service: &'a Service,
    job: Uuid,
    vault: &'a Vault,
    item: &'a Item,
}

impl Work<'_> {
    /// Fails if the machine runs. One that is gone does not.
    fn check_off(&self) -> Result<()> {
        match self.service.catalog.get::<Machine>(self.item.machine)?.filter(|m| m.gone_at.is_none()) {
            None => Ok(()),
            Some(machine) => match super::restore::check_replace(self.service, &machine) {
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                other => other,
            },
        }
    }

    /// A single disk that is complete: one rename does it.
    fn replace_one(&self, request: &mut RestoreRequest) -> Result<()> {
        let Some(disk) = request.swap.disks.first().cloned() else { return Ok(()) };
        if disk.new.symlink_metadata().is_err() && disk.is_there() {
            // Done before a crash.
            return sync_directory(&disk.disk);
        }
        if let Err(error) = self.check_off() {
            return Err(self.give_up(request, error));
        }
        rename(&disk.new, &disk.disk)?;
        sync_directory(&disk.disk)
    }

    /// From here on the machine cannot be started until all is done; or it fails, and nothing has changed.
    fn shut(&self, request: &mut RestoreRequest) -> Result<()> {
        let swap = request.swap.clone();
        let done = self.check_off().and_then(|()| {
            for (at, disk) in swap.disks.iter().enumerate() {
                let to = match disk.way {
                    Way::InPlace => disk.new.clone(),
                    Way::Ready if at == swap.gate() => disk.aside(),
                    Way::Ready => continue,
                };
                if disk.is_there() && to.symlink_metadata().is_err() {
                    rename_new(&disk.disk, &to)?;
                    sync_directory(&disk.disk)?;
                }
            }
            // Started just before: it has opened its disks, and goes on with them.
            self.check_off()
        });
        match done {
            Ok(()) => {
                request.swap.is_shut = true;
                note(self.service, self.job, request)
            }
            Err(error) => Err(self.give_up(request, error)),
        }
    }

    /// Takes the commit back: everything is as it was. Returns why.
    fn give_up(&self, request: &mut RestoreRequest, why: Error) -> Error {
        let swap = std::mem::take(&mut request.swap);
        let undo = || -> Result<()> {
            for (at, disk) in swap.disks.iter().enumerate() {
                let from = match disk.way {
                    Way::InPlace => disk.new.clone(),
                    Way::Ready if at == swap.gate() && swap.needs_gate() => disk.aside(),
                    Way::Ready => continue,
                };
                if !disk.is_there() && from.symlink_metadata().is_ok() {
                    rename_new(&from, &disk.disk)?;
                    sync_directory(&disk.disk)?;
                }
            }
            // Before the new disks go: their absence would say that they are in place.
            note(self.service, self.job, request)
        };
        if let Err(error) = undo() {
            return Error::new(
                error.kind,
                format!(
                    "{why} And what had been begun could not be undone; the service does so at its next start: {error}"
                ),
            );
        }
        for disk in swap.disks.iter().filter(|d| d.way == Way::Ready) {
            let _ = fs::remove_file(&disk.new);
        }
        why
    }

    /// With the gate shut: rewrites what is rewritten in place, puts all disks in place, and opens the gate.
    fn complete(&self, request: &RestoreRequest, progress: &Progress) -> Result<Rewritten> {
        let swap = &request.swap;
        let Some(gate) = swap.disks.get(swap.gate()) else { return Ok(Rewritten::default()) };
        let mut done = Rewritten::default();
        // The gate comes last: where it is open, all is done but the sweeping.
        if !gate.is_there() {
            done = self.rewrite(request, progress)?;
            let goes_back = swap.back.is_some();
            let others = swap.disks.iter().enumerate().filter(|(at, _)| *at != swap.gate()).map(|(_, d)| d);
            for disk in others {
                match disk.way {
                    Way::Ready if goes_back => remove(&disk.new)?,
                    // Those that are done already have no hidden name any more.
                    _ if disk.new.symlink_metadata().is_ok() => {
                        rename(&disk.new, &disk.disk)?;
                        sync_directory(&disk.disk)?;
                    }
                    _ => {}
                }
            }
            rename(&gate.new, &gate.disk)?;
        }
        sync_directory(&gate.disk)?;
        remove(&gate.aside())?;
        Ok(done)
    }

    fn rewrite(&self, request: &RestoreRequest, progress: &Progress) -> Result<Rewritten> {
        let mut total = Rewritten::default();
        let swap = &request.swap;
        if swap.disks.iter().all(|d| d.way != Way::InPlace) {
            return Ok(total);
        }
        let wanted = match &swap.back {
            Some(_) => swap.before.unwrap_or(request.point),
            None => request.point,
        };
        let store = self.service.store(self.vault)?;
        let session = ReadSession::begin(&store, &format!("replace job {}", self.job))?;
        let manifest = store.point(&PointId::from_uuid(wanted))?;
        for ready in swap.disks.iter().filter(|d| d.way == Way::InPlace && d.new.exists()) {
            let disk = manifest.disks.iter().find(|d| d.name == ready.target).ok_or_else(|| {
                Error::not_found(format!("Recovery point {wanted} has no disk {}.", ready.target))
            })?;
            let reader = session.open_disk(disk.tree());
            let done = present::rewrite(&reader, &ready.new, ready.format, false, progress)?;
            total.compared_bytes += done.compared_bytes;
            total.written_bytes += done.written_bytes;
            total.zeroed_bytes += done.zeroed_bytes;
        }
        Ok(total)
    }

    /// Says in the job what it waits for.
    fn tell(&self, error: &Error) {
        tracing::warn!(job = %self.job, %error, "a replacement cannot go on yet");
        let text = format!("It had to wait: {error}");
        let told = self.service.catalog.update::<Job, Error>(self.job, |job| {
            if !job.warnings.contains(&text) {
                job.warnings.push(text.clone());
            }
            Ok(Vec::new())
        });
        if let Err(error) = told {
            tracing::warn!(%error, "the job's warning could not be written");
        }
    }
}

/// Whether the machine still is the one that is known, seen without changing anything.
pub(super) fn disks_of(service: &Service, item: &Item) -> Vec<PathBuf> {
    let Ok(Some(machine)) = service.catalog.get::<Machine>(item.machine) else { return Vec::new() };
    let Ok(seen) = machines::look(service, &machine) else { return Vec::new() };
    seen.disks.iter().filter_map(|d| d.source.path()).filter_map(|p| fs::canonicalize(p).ok()).collect()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(format!("naming {}", to.display()), e))
}

/// Never over anything.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .or_else(|e| match e {
            rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => fs::rename(from, to),
            e => Err(e.into()),
        })
        .map_err(|e: io::Error| Error::io(format!("naming {}", to.display()), e))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn sync_directory(file: &Path) -> Result<()> {
    let Some(directory) = file.parent() else { return Ok(()) };
    fs::File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::io(format!("syncing {}", directory.display()), e))
}
