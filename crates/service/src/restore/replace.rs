//! Replacing a machine's disks with those of a recovery point, at the cost of what differs.
//!
//! The machine must be off. Its present disks are backed up first, as a point on demand that retention governs. What each
//! becomes is made ready beside it, under a hidden name:
//!
//! - from a snapshot on the same storage, a clone of the snapshot's disk;
//! - where the storage clones files, a clone of the present disk, to which only what differs is written;
//! - elsewhere, where less than half differs or there is no room for another disk: nothing yet. The disk itself will be rewritten, in
//!   place;
//! - else a new disk.
//!
//! Then the job's row says that all is ready, and from there on [`super::swap`] goes forward, also after a crash, unless it finds
//! that the machine was started. Before it, nothing of the machine's has been touched.

use crate::backup::job as backup;
use crate::core::committed;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::estate::{machines, places};
use crate::jobs::ledger as jobs;
use crate::points::snapshots::OpenPoint;
use crate::restore::request::{self, CREATE_REPLACE, RestoreRequest};
use crate::restore::swap_plan::{self, ReadyDisk, Swap, Way};
use crate::restore::{hidden, open, swap, variables};
use jiff::SignedDuration;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_catalog::{Change, Item, Job, Machine, Point, Transfer, Vault};
use strongroom_domain::fact;
use strongroom_engine::present;
use strongroom_engine::restore::{RestoreOptions, restore_disk};
use strongroom_engine::source::PointSource;
use strongroom_engine::target::{self, DiskFormat};
use strongroom_hypervisor::DiskSource;
use strongroom_store::{Disk, Manifest, Progress, Rewritten};
use uuid::Uuid;

/// How long the point of the disks before is kept.
const BEFORE_KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

/// What a replacement has to tell.
pub(crate) struct Replaced {
    pub details: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// Does it all, or what is left of it.
pub(crate) fn run(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    request: &RestoreRequest,
    progress: &Arc<Progress>,
) -> Result<Replaced> {
    let mut request = request.clone();
    let mut warnings = Vec::new();
    let mut written = Rewritten::default();
    if request.swap.is_empty() {
        written = prepare(service, job, vault, item, &mut request, &mut warnings, progress)?;
    }
    if let Err(error) = jobs::task(service, job, CREATE_REPLACE) {
        tracing::warn!(%error, "the job's progress could not be written");
    }
    let variables = request.swap.variables.clone();
    let directories: BTreeSet<PathBuf> =
        request.swap.disks.iter().filter_map(|d| Some(d.disk.parent()?.to_owned())).collect();
    let done = swap::carry_out(service, job, vault, item, request, progress, &mut warnings);
    if let Some(variables) = variables {
        match &done {
            Ok(_) => match machine_of(service, item) {
                Ok(machine) => variables.put(service, &machine, &mut warnings),
                Err(_) => variables.remove(),
            },
            // One that goes on later needs them.
            Err(error) if error.is_unsettled() || service.life.is_stopping() => {}
            Err(_) => variables.remove(),
        }
    }
    let rest = done?;
    // A disk may be a volume: its pool shows its size.
    if let Ok(machine) = machine_of(service, item) {
        directories.iter().for_each(|directory| places::refresh_pools(service, &machine.host, directory));
    }
    let details = vec![
        (fact::COMPARED_BYTES.to_owned(), (written.compared_bytes + rest.compared_bytes).to_string()),
        (fact::WRITTEN_BYTES.to_owned(), (written.written_bytes + rest.written_bytes).to_string()),
    ];
    Ok(Replaced { details, warnings })
}

/// Up to the commit.
fn prepare(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    request: &mut RestoreRequest,
    warnings: &mut Vec<String>,
    progress: &Arc<Progress>,
) -> Result<Rewritten> {
    let machine = machine_of(service, item)?;
    request::check_replace(service, &machine, request.allowed)?;
    let open = open::open_of(service, job, vault, item, request)?;
    warnings.extend(request::check_encryption(&open, request)?);
    let OpenPoint { source, manifest, warnings: told } = open;
    warnings.extend(told);
    if request.disks.is_empty() {
        warnings.extend(strongroom_engine::machine::missed_disks(&manifest));
    }
    let places = places(service, &machine, &manifest, request, warnings)?;
    // The way back: nothing of what is there now is lost.
    let keep_until = service.now().saturating_add(BEFORE_KEPT)?;
    let before =
        backup::take_point(service, vault, item, &machine, keep_until, &job.asked_by, warnings, progress)?;
    progress.check()?;
    request::check_replace(service, &machine, request.allowed)?;

    // In the vault: what is only in a snapshot is no way back.
    let vaulted = match before.transfer {
        Transfer::Done => service.store(vault)?.point(&before.id).ok(),
        _ => None,
    };
    let mut total = Rewritten::default();
    let mut made = Made::default();
    for place in places {
        let new = hidden::hidden_name(&place.path, job)?;
        let _ = fs::remove_file(&new);
        made.0.push(ReadyDisk {
            new,
            disk: place.path.clone(),
            target: place.disk.name.clone(),
            format: place.format,
            way: Way::Ready,
            files: None,
        });
        let Some(ready) = made.0.last_mut() else { continue };
        let present = vaulted.iter().flat_map(|m| &m.disks).find(|d| d.name == place.disk.name);
        let done = make_ready(&source, &place, present, ready, progress)?;
        total.compared_bytes += done.compared_bytes;
        total.written_bytes += done.written_bytes;
        total.zeroed_bytes += done.zeroed_bytes;
    }
    progress.check()?;
    request::check_replace(service, &machine, request.allowed)?;
    for disk in made.0.iter_mut().filter(|d| d.way == Way::Ready) {
        disk.files = Some(swap_plan::Files::of(disk)?);
    }
    let variables = variables::prepare(service, job, &machine, &manifest, request, warnings)?;
    request.swap = Swap {
        disks: made.0.clone(),
        before: Some(Uuid::from_bytes(*before.id.as_bytes())),
        variables: variables.clone(),
        ..Swap::default()
    };
    let ready = || {
        // By a try whose answer was lost.
        let row = service.catalog.get::<Job>(job.id)?;
        if row.is_some_and(|row| swap_plan::has_begun(&row)) {
            return Ok(());
        }
        progress.check()?;
        note_ready(service, job, request, &before)
    };
    match committed::record(service, "a replacement that is ready", ready) {
        // Where it is not known, the row says so later whether they are needed.
        Err(error) if !error.is_unsettled() => {
            variables.iter().for_each(swap_plan::Ready::remove);
            Err(error)
        }
        noted => {
            made.0.clear();
            noted.map(|()| total)
        }
    }
}

/// Makes one disk ready, in the way that costs least.
fn make_ready(
    source: &PointSource,
    place: &DiskPlace<'_>,
    present: Option<&Disk>,
    ready: &mut ReadyDisk,
    progress: &Arc<Progress>,
) -> Result<Rewritten> {
    if let PointSource::Vault(session) = source {
        let reader = session.open_disk(place.disk.tree());
        let info = present::look(&ready.disk, place.format)?;
        let fits = info.is_self_contained && info.size_bytes == place.disk.size_bytes;
        if fits && present::clone_file(&ready.disk, &ready.new)? {
            let done = present::rewrite(&reader, &ready.new, place.format, true, progress)?;
            hidden::like(&ready.new, &ready.disk)?;
            return Ok(done);
        }
        let data_bytes = reader.data_bytes()?;
        if let Some(present) = present.filter(|p| fits && p.size_bytes == place.disk.size_bytes) {
            let differing_bytes = reader.differing_bytes(&session.open_disk(present.tree()))?;
            if differing_bytes < info.allocated_bytes / 2
                || target::check_room(&ready.new, place.format, data_bytes).is_err()
            {
                target::check_room(&ready.new, place.format, differing_bytes)?;
                ready.way = Way::InPlace;
                return Ok(Rewritten::default());
            }
        }
    }
    let options = RestoreOptions { to: ready.new.clone(), format: place.format, force: false, durable: true };
    let done = restore_disk(source, place.disk, &options, progress)?;
    hidden::like(&ready.new, &ready.disk)?;
    let written_bytes = if done.is_clone { 0 } else { done.data_bytes };
    Ok(Rewritten { written_bytes, ..Rewritten::default() })
}

pub(crate) fn machine_of(service: &Service, item: &Item) -> Result<Machine> {
    service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none()).ok_or_else(|| {
        Error::not_found(format!(
            "The virtual machine '{}' is no longer there: restore the point as a new machine.",
            item.machine_name
        ))
        .coded("UserErrorVmNotFound")
    })
}

/// A disk of the point, and the machine's that it replaces.
struct DiskPlace<'m> {
    disk: &'m Disk,
    path: PathBuf,
    format: DiskFormat,
}

/// Which disk goes where, in which format.
fn places<'m>(
    service: &Service,
    machine: &Machine,
    manifest: &'m Manifest,
    request: &RestoreRequest,
    warnings: &mut Vec<String>,
) -> Result<Vec<DiskPlace<'m>>> {
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
        // Whatever was asked for: the machine's definition would not fit the disk.
        if there.encrypted {
            return Err(Error::unsupported(format!(
                "Disk {} of '{}' is encrypted by libvirt, and what would take its place is not: restore the point as a new machine, which \
                 gets encrypted disks with a new key.",
                disk.name, machine.name
            ))
            .coded("UserErrorEncryptedDiskNotSupported"));
        }
        if there.has_backing_store {
            return Err(Error::unsupported(format!(
                "Disk {} of '{}' is based on another image by its definition, which would show through a disk that takes its place: restore \
                 the point's disks to a storage location, or merge the images first (`virsh blockcommit`).",
                disk.name, machine.name
            ))
            .coded("UserErrorReplaceDisksNotSupported"));
        }
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
        places.push(DiskPlace { disk, path, format });
    }
    if places.is_empty() {
        return Err(Error::invalid(format!("'{}' has none of the point's disks.", machine.name))
            .coded("UserErrorNoDiskSelected"));
    }
    Ok(places)
}

/// What a replacement that was cut short before its commit left.
pub(crate) fn remove_leftovers(service: &Service, job: &Job, item: &Item) {
    variables::remove_leftovers(service, job, item);
    for path in swap::disks_of(service, item) {
        let Ok(new) = hidden::hidden_name(&path, job) else { continue };
        // A new disk that was being written has one more hidden name, before it has its own.
        let partial = new.file_name().map(|n| format!(".{}.strongroom-partial-", n.to_string_lossy()));
        let _ = fs::remove_file(&new);
        if let (Some(partial), Some(directory)) = (partial, new.parent()) {
            remove_beginning_with(directory, &partial);
        }
    }
}

/// Files of a directory whose names begin like this.
pub(crate) fn remove_beginning_with(directory: &Path, beginning: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(beginning)) {
            let _ = fs::remove_file(entry.path());
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

/// Writes down that all is ready, and what the way back is: that point stays from here on, until the job is over.
fn note_ready(service: &Service, job: &Job, request: &RestoreRequest, before: &Point) -> Result<()> {
    let kept = jobs::params(request)?;
    jobs::update(service, job, |row| {
        row.request.clone_from(&kept);
        match service.catalog.get::<Point>(before.id)?.filter(|point| point.going_at.is_none()) {
            // Touched: whoever is about to remove it notices.
            Some(point) => Ok(vec![Change::put(&point)]),
            None => Err(Error::not_found(
                "The point that was taken of the disks before was removed meanwhile: nothing was replaced.",
            )),
        }
    })?;
    Ok(())
}
