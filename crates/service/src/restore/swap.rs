//! After a replacement's commit: the point's disks take the place of the machine's.
//!
//! The machine has its old disks or its new ones, never some of each, and never one that is half. A single disk that is ready
//! takes one step: where the file system can, it is exchanged with the machine's, atomically, so that there is no
//! moment without a disk, and the old one is still there. Whether the machine is off is looked at right before it and
//! after it: one that was started in between has one of the two open, and keeps it. Which of the files is which the job's row
//! knows, by their inodes.
//!
//! While more than that is to be done, one disk, the gate, is not under its name, so that the machine cannot be started. The gate
//! goes first and comes back last. Each step is safe to do again, and the job's row says which are done, so that a
//! restart of the service goes on from anywhere.
//!
//! A disk that is rewritten in place (see [`Way`]) is a gate itself. Should the point turn out to be unreadable, or the job be
//! cancelled, it is rewritten to the point that was taken of it before; that this point is in the vault is what makes it safe to
//! begin.

use crate::core::committed;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::estate::machines;
use crate::jobs::ledger as jobs;
use crate::limits::{REPLACE_RETRY_FIRST, REPLACE_RETRY_MAX};
use crate::restore::request::{self, NOT_OFF, RestoreRequest};
use crate::restore::swap_plan::{self, File, Files, ReadyDisk, Way};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};
use strongroom_catalog::{Item, Job, Machine, Vault};
use strongroom_domain::PointId;
use strongroom_engine::present;
use strongroom_hypervisor::Unfinished;
use strongroom_store::{Progress, ReadSession, Rewritten};

/// Writes down how far a replacement is that cannot be given up any more: as late as the catalog makes it.
fn keep_note(service: &Service, job: &Job, request: &RestoreRequest) -> Result<()> {
    committed::record(service, "how far a replacement is", || jobs::save_params(service, job, request))
}

/// Does what is left of a replacement that is ready. It fails if the machine has its old disks after all; while it can have
/// neither, it goes on trying.
pub(crate) fn carry_out(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    mut request: RestoreRequest,
    progress: &Arc<Progress>,
    warnings: &mut Vec<String>,
) -> Result<Rewritten> {
    let work = Work { service, job, vault, item };
    if !request.swap.needs_gate() {
        if work.exchange_one(&mut request, progress, warnings)? {
            return Ok(Rewritten::default());
        }
        request.swap.by_gate = true;
        keep_note(service, job, &request)?;
    }
    if !request.swap.is_shut {
        work.check_wanted(&mut request, progress)?;
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
        if service.life.is_stopping() {
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
                keep_note(service, job, &request)?;
                continue;
            }
        }
        work.tell(&error);
        service.life.pause(pause);
        pause = (pause * 2).min(REPLACE_RETRY_MAX);
    }
}

struct Work<'a> {
    service: &'a Service,
    job: &'a Job,
    vault: &'a Vault,
    item: &'a Item,
}

impl Work<'_> {
    /// Fails if the machine runs. One that is gone does not.
    fn check_off(&self, request: &RestoreRequest) -> Result<()> {
        match self.service.catalog.get::<Machine>(self.item.machine)?.filter(|m| m.gone_at.is_none()) {
            None => Ok(()),
            Some(machine) => match request::check_replace(self.service, &machine, request.allowed) {
                Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
                other => other,
            },
        }
    }

    /// The last before the machine gets other disks: its saved memory would go on over them.
    fn discard_saved_state(&self, request: &RestoreRequest) -> Result<()> {
        if !request.allowed.discard_saved_state {
            return Ok(());
        }
        let machine = self.service.catalog.get::<Machine>(self.item.machine)?;
        let Some(machine) = machine.filter(|m| m.gone_at.is_none()) else { return Ok(()) };
        let hypervisor = &self.service.host(&machine.host)?.hypervisor;
        if hypervisor.unfinished(&machine.name)? == Some(Unfinished::SavedState) {
            tracing::info!(machine = machine.name, "its saved memory is thrown away, as was asked");
            hypervisor.discard_saved_state(&machine.name)?;
        }
        Ok(())
    }

    /// Cancelled while nothing was changed yet.
    fn check_wanted(&self, request: &mut RestoreRequest, progress: &Progress) -> Result<()> {
        match progress.check() {
            Err(error) if !self.service.life.is_stopping() => Err(self.give_up(request, error.into())),
            other => Ok(other?),
        }
    }

    /// A single disk that is complete. `false`: the two cannot be exchanged here.
    fn exchange_one(
        &self,
        request: &mut RestoreRequest,
        progress: &Progress,
        warnings: &mut Vec<String>,
    ) -> Result<bool> {
        let Some(disk) = request.swap.disks.first().cloned() else { return Ok(true) };
        let (there, ready) = self.look(&disk)?;
        let Some(files) = disk.files else {
            // Of a version that only renamed, which takes the gate's way now.
            return Ok(ready.is_none() && there.is_some());
        };
        if there != Some(files.new) {
            if ready != Some(files.new) {
                let lost = Error::not_found(format!(
                    "The disk that was to take the place of {} is gone; the machine has the disks that it had before.",
                    disk.disk.display()
                ));
                return Err(self.give_up(request, lost));
            }
            self.check_wanted(request, progress)?;
            if let Err(error) = self.check_off(request).and_then(|()| self.discard_saved_state(request)) {
                return Err(self.give_up(request, error));
            }
            match exchange(&disk.new, &disk.disk) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return Err(self.give_up(request, error)),
            }
        }
        self.keep_exchange(request, &disk, files, warnings)?;
        Ok(true)
    }

    /// What is under a disk's names. It is known in the end, or the service stops.
    fn look(&self, disk: &ReadyDisk) -> Result<(Option<File>, Option<File>)> {
        let mut pause = REPLACE_RETRY_FIRST;
        loop {
            match swap_plan::file_at(&disk.disk).and_then(|there| Ok((there, swap_plan::file_at(&disk.new)?)))
            {
                Ok(found) => return Ok(found),
                Err(error) => self.try_later(error, &mut pause)?,
            }
        }
    }

    /// Waits; when the service stops, that is the answer.
    fn try_later(&self, error: Error, pause: &mut Duration) -> Result<()> {
        if self.service.life.is_stopping() {
            return Err(error.unsettled());
        }
        self.tell(&error);
        self.service.life.pause(*pause);
        *pause = (*pause * 2).min(REPLACE_RETRY_MAX);
        Ok(())
    }

    /// With the new disk in its place, and the old one under the hidden name: the machine is off, or it was started meanwhile and
    /// has one of the two, which it keeps.
    fn keep_exchange(
        &self,
        request: &mut RestoreRequest,
        disk: &ReadyDisk,
        files: Files,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let mut pause = REPLACE_RETRY_FIRST;
        loop {
            let looked = sync_directory(&disk.disk).and_then(|()| match self.check_off(request) {
                Ok(()) => Ok(None),
                Err(started) if started.code == Some(NOT_OFF) => Ok(Some(started)),
                Err(unknown) => Err(unknown),
            });
            let started = match looked {
                Ok(None) => break,
                Ok(Some(started)) => started,
                Err(error) => {
                    self.try_later(error, &mut pause)?;
                    continue;
                }
            };
            let has_old = match swap_plan::file_at(&disk.new) {
                Ok(found) => found == Some(files.old) && is_open(&disk.new),
                Err(error) => {
                    self.try_later(error, &mut pause)?;
                    continue;
                }
            };
            if has_old {
                // It was started just before: nothing has changed for it, nor does anything.
                match exchange(&disk.new, &disk.disk) {
                    Ok(true) => {
                        if let Err(error) = sync_directory(&disk.disk) {
                            tracing::warn!(%error, "a machine's own disk is back, but might not outlive a crash");
                        }
                        return Err(self.give_up(request, started));
                    }
                    Ok(false) => self.try_later(started, &mut pause)?,
                    Err(error) => self.try_later(error, &mut pause)?,
                }
                continue;
            }
            if !is_open(&disk.disk) {
                warnings.push(format!(
                    "the machine was started while its disk was replaced, and which of the two it has could not be seen: the disk before stays as {}; remove it when the machine is sound",
                    disk.new.display()
                ));
                return Ok(());
            }
            break;
        }
        // The one before. Whatever else has come to have the name stays.
        let remove_old = || match swap_plan::file_at(&disk.new)? {
            Some(found) if found == files.old => remove(&disk.new).and_then(|()| sync_directory(&disk.disk)),
            _ => Ok(()),
        };
        if let Err(error) = remove_old() {
            warnings.push(format!("the disk before could not be removed: {error}"));
        }
        Ok(())
    }

    /// From here on the machine cannot be started until all is done; or it fails, and nothing has changed.
    fn shut(&self, request: &mut RestoreRequest) -> Result<()> {
        let swap = request.swap.clone();
        let discarded = self.check_off(request).and_then(|()| self.discard_saved_state(request));
        let done = discarded.and_then(|()| {
            for (at, disk) in swap.disks.iter().enumerate() {
                let to = match disk.way {
                    Way::InPlace => disk.new.clone(),
                    Way::Ready if at == swap.gate() => disk.aside(),
                    Way::Ready => continue,
                };
                if disk.is_there()? && swap_plan::file_at(&to)?.is_none() {
                    rename_new(&disk.disk, &to)?;
                    sync_directory(&disk.disk)?;
                }
            }
            // Started just before: it has opened its disks, and goes on with them.
            self.check_off(request)
        });
        match done {
            Ok(()) => {
                request.swap.is_shut = true;
                keep_note(self.service, self.job, request)
            }
            Err(error) => Err(self.give_up(request, error)),
        }
    }

    /// Takes back what was begun: everything is as it was. Returns why.
    fn give_up(&self, request: &mut RestoreRequest, why: Error) -> Error {
        let swap = std::mem::take(&mut request.swap);
        let undo = || -> Result<()> {
            for (at, disk) in swap.disks.iter().enumerate() {
                let from = match disk.way {
                    Way::InPlace => disk.new.clone(),
                    Way::Ready if at == swap.gate() && swap.needs_gate() => disk.aside(),
                    Way::Ready => continue,
                };
                if !disk.is_there()? && swap_plan::file_at(&from)?.is_some() {
                    rename_new(&from, &disk.disk)?;
                    sync_directory(&disk.disk)?;
                }
            }
            Ok(())
        };
        // A job that has failed is not looked at again: it ends when all is as it was.
        let mut pause = REPLACE_RETRY_FIRST;
        while let Err(error) = undo() {
            if let Err(stopped) = self.try_later(error, &mut pause) {
                return stopped;
            }
        }
        // Before the new disks go: the row must not name what is not there.
        if let Err(error) = keep_note(self.service, self.job, request) {
            return error;
        }
        for disk in swap.disks.iter().filter(|d| d.way == Way::Ready) {
            let is_ours = disk
                .files
                .is_none_or(|of| swap_plan::file_at(&disk.new).is_ok_and(|found| found == Some(of.new)));
            if is_ours {
                let _ = fs::remove_file(&disk.new);
            }
        }
        why
    }

    /// With the gate shut: rewrites what is rewritten in place, puts all disks in place, and opens the gate.
    fn complete(&self, request: &RestoreRequest, progress: &Progress) -> Result<Rewritten> {
        let swap = &request.swap;
        let Some(gate) = swap.disks.get(swap.gate()) else { return Ok(Rewritten::default()) };
        let mut done = Rewritten::default();
        // The gate comes last: where it is open, all is done but the sweeping.
        if !gate.is_there()? {
            done = self.rewrite(request, progress)?;
            let goes_back = swap.back.is_some();
            let others = swap.disks.iter().enumerate().filter(|(at, _)| *at != swap.gate()).map(|(_, d)| d);
            for disk in others {
                match disk.way {
                    Way::Ready if goes_back => remove(&disk.new)?,
                    // Those that are done already have no hidden name any more.
                    _ if swap_plan::file_at(&disk.new)?.is_some() => {
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
        let session = ReadSession::begin(&store, &format!("replace job {}", self.job.id))?;
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
        tracing::warn!(job = %self.job.id, %error, "a replacement cannot go on yet");
        let text = format!("It had to wait: {error}");
        let told = jobs::update(self.service, self.job, |job| {
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
pub(crate) fn disks_of(service: &Service, item: &Item) -> Vec<PathBuf> {
    let Ok(Some(machine)) = service.catalog.get::<Machine>(item.machine) else { return Vec::new() };
    let Ok(seen) = machines::look(service, &machine) else { return Vec::new() };
    seen.disks.iter().filter_map(|d| d.source.path()).filter_map(|p| fs::canonicalize(p).ok()).collect()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(format!("naming {}", to.display()), e))
}

/// Gives each of two files the other's name, at one instant. `false`: that cannot be done here, and nothing was.
fn exchange(one: &Path, other: &Path) -> Result<bool> {
    use rustix::io::Errno;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format!("exchanging {} with {}", one.display(), other.display()), e.into())),
    }
}

/// Whether any process of this host has a file open, as far as can be seen.
fn is_open(path: &Path) -> bool {
    let Ok(wanted) = fs::metadata(path) else { return false };
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let is_process = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let files = processes
        .flatten()
        .filter(|process| is_process(&process.file_name()))
        .filter_map(|process| fs::read_dir(process.path().join("fd")).ok())
        .flat_map(|files| files.flatten());
    // By the name first, which costs nothing to ask of files that lie on storage that does not answer.
    files.map(|file| file.path()).any(|file| {
        fs::read_link(&file).is_ok_and(|link| link.file_name() == path.file_name())
            && fs::metadata(&file).is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
    })
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

#[cfg(test)]
mod tests;
