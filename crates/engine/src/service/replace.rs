//! Replacing a machine's disks with those of a recovery point.
//!
//! The machine must be off. Its present disks are backed up first, as a point on demand that retention governs. The point's
//! disks are written beside them under hidden names; when all are complete and durable, the job's row says so: that is the
//! commit, and from there on it goes forward only, also after a crash. Then each takes the place of the old one.

use super::backup::{self, task};
use super::restore::{CREATE_REPLACE, RestoreRequest};
use super::{Service, machines};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::{RestoreOptions, restore_disk};
use crate::target::DiskFormat;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_catalog::service::{Item, Job, Machine, Vault};
use strongroom_hypervisor::DiskSource;
use strongroom_store::{Disk, Manifest, Progress};

/// A restored disk that is complete, and the one whose place it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyDisk {
    pub new: PathBuf,
    pub disk: PathBuf,
}

/// How long the point of the disks before is kept.
const BEFORE_KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Does it all; returns warnings.
pub(super) fn run(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    request: &RestoreRequest,
    progress: &Arc<Progress>,
) -> Result<Vec<String>> {
    let machine = machine_of(service, item)?;
    super::restore::check_replace(service, &machine)?;
    let super::snapshots::OpenPoint { source, manifest, mut warnings } =
        super::restore::open_of(service, job, vault, item, request)?;
    let places = places(service, &machine, &manifest, request, &mut warnings)?;
    // The way back: nothing of what is there now is lost.
    let keep_until = service.now().saturating_add(BEFORE_KEPT)?;
    backup::take_point(service, vault, item, &machine, keep_until, &job.asked_by, progress)?;
    progress.check()?;

    let mut made = Made::default();
    for (disk, old, format) in places {
        let new = hidden_name(&old, job)?;
        let _ = fs::remove_file(&new);
        made.0.push(ReadyDisk { new: new.clone(), disk: old.clone() });
        let options = RestoreOptions { to: new.clone(), format, force: false, durable: true };
        restore_disk(&source, disk, &options, progress)?;
        like(&new, &old)?;
    }
    progress.check()?;
    super::restore::check_replace(service, &machine)?;
    // The commit point.
    let ready = std::mem::take(&mut made.0);
    let mut request = request.clone();
    request.ready.clone_from(&ready);
    let kept = serde_json::to_value(&request).unwrap_or_default();
    service.catalog.update::<Job, Error>(job.id, |row| {
        row.request.clone_from(&kept);
        Ok(Vec::new())
    })?;
    task(service, job.id, CREATE_REPLACE)?;
    finish(service, item, &ready)?;
    Ok(warnings)
}

fn machine_of(service: &Service, item: &Item) -> Result<Machine> {
    service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none()).ok_or_else(|| {
        Error::not_found(format!(
            "The virtual machine '{}' is no longer there: restore the point as a new machine.",
            item.machine_name
        ))
        .coded("UserErrorVmNotFound")
    })
}

/// Which disk goes where, in which format.
fn places<'m>(
    service: &Service,
    machine: &Machine,
    manifest: &'m Manifest,
    request: &RestoreRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<(&'m Disk, PathBuf, DiskFormat)>> {
    let seen = machines::look(service, machine)?;
    let mut places = Vec::new();
    for disk in &manifest.disks {
        if !request.disks.is_empty() && !request.disks.contains(&disk.name) {
            continue;
        }
        let Some(there) = seen.disks.iter().find(|d| d.target == disk.name) else {
            warnings
                .push(format!("the machine has no disk {} any more: that disk was not restored", disk.name));
            continue;
        };
        let DiskSource::File(path) = &there.source else {
            return Err(Error::unsupported(format!(
                "Disk {} of '{}' is not a file: restore the point's disks to a storage location, and copy it from there.",
                disk.name, machine.name
            ))
            .coded("UserErrorReplaceDisksNotSupported"));
        };
        let format = match there.format {
            Some(strongroom_hypervisor::DiskFormat::Raw) => DiskFormat::Raw,
            Some(strongroom_hypervisor::DiskFormat::Qcow2) => DiskFormat::Qcow2,
            None => {
                return Err(Error::unsupported(format!(
                    "Disk {} of '{}' is neither raw nor qcow2: restore the point's disks to a storage location.",
                    disk.name, machine.name
                ))
                .coded("UserErrorReplaceDisksNotSupported"));
            }
        };
        // Through links, to the file itself.
        let path =
            fs::canonicalize(path).map_err(|e| Error::io(format!("looking at {}", path.display()), e))?;
        places.push((disk, path, format));
    }
    if places.is_empty() {
        return Err(Error::invalid(format!("'{}' has none of the point's disks.", machine.name))
            .coded("UserErrorNoDiskSelected"));
    }
    Ok(places)
}

fn hidden_name(disk: &Path, job: &Job) -> Result<PathBuf> {
    let name = disk.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", disk.display())))?;
    Ok(disk.with_file_name(format!(".{}.strongroom-new-{}", name.to_string_lossy(), job.id.simple())))
}

/// Owner and permissions of the one whose place it takes.
fn like(new: &Path, old: &Path) -> Result<()> {
    let failed =
        |e| Error::io(format!("giving {} the owner and permissions of {}", new.display(), old.display()), e);
    let before = fs::metadata(old).map_err(failed)?;
    chown(new, Some(before.uid()), Some(before.gid())).map_err(failed)?;
    fs::set_permissions(new, before.permissions()).map_err(failed)
}

/// After the commit: each restored disk takes its place. Done again after a crash.
pub(super) fn finish(service: &Service, item: &Item, ready: &[ReadyDisk]) -> Result<()> {
    let machine = machine_of(service, item)?;
    if let Err(error) = super::restore::check_replace(service, &machine) {
        let left: Vec<String> =
            ready.iter().filter(|r| r.new.exists()).map(|r| r.new.display().to_string()).collect();
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "The machine was started while its disks were being replaced. Stop it and restore again. Not in place yet: {}. ({error})",
                left.join(", ")
            ),
        )
        .coded("UserErrorVmNotInDesirableState"));
    }
    for disk in ready {
        match fs::rename(&disk.new, &disk.disk) {
            Ok(()) => {}
            // Done before the crash.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && disk.disk.exists() => {}
            Err(e) => return Err(Error::io(format!("naming {}", disk.disk.display()), e)),
        }
        if let Some(directory) = disk.disk.parent() {
            fs::File::open(directory)
                .and_then(|d| d.sync_all())
                .map_err(|e| Error::io(format!("syncing {}", directory.display()), e))?;
        }
    }
    Ok(())
}

/// What a replacement that was cut short before its commit left.
pub(super) fn remove_leftovers(service: &Service, job: &Job, item: &Item) {
    let Ok(machine) = machine_of(service, item) else { return };
    let Ok(seen) = machines::look(service, &machine) else { return };
    for path in seen.disks.iter().filter_map(|d| d.source.path()) {
        if let Ok(path) = fs::canonicalize(path)
            && let Ok(new) = hidden_name(&path, job)
        {
            let _ = fs::remove_file(new);
        }
    }
}

/// Restored disks that have not taken their place. Removed unless they are taken out.
#[derive(Default)]
struct Made(Vec<ReadyDisk>);

impl Drop for Made {
    fn drop(&mut self) {
        for disk in &self.0 {
            let _ = fs::remove_file(&disk.new);
        }
    }
}
