//! The job that restores a recovery point: as disks in a place, or as a new machine.
//!
//! How disks come into a place is in [`super::restore_disks`] and [`super::restore_container`], how they replace a machine's in [`super::replace`]; a new machine
//! is committed by its definition (see [`crate::machine`]).

use super::backup::task;
use super::places::{self, Pool};
use super::replace;
use super::restore_container::{self, Sent};
use super::restore_disks::{self, Destination};
use super::snapshots::{self, OpenPoint};
use super::swap::Swap;
use super::{Service, committed, jobs, machines};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Planned, RestoreOptions as MachineRestoreOptions, RestorePlan};
use crate::target::DiskFormat;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Job, Machine, Point, Vault};
use strongroom_domain::job::{JobOperation, JobStatus, JobTask, task as tasks};
use strongroom_hypervisor::{NetworkChoice, Unfinished};
use strongroom_store::Progress;
use uuid::Uuid;

pub const TRANSFER: &str = tasks::TRANSFER_FROM_VAULT;
pub const CREATE: &str = tasks::CREATE_MACHINE;
pub const CREATE_REPLACE: &str = tasks::UPDATE_MACHINE;

/// The disk that a machine boots from.
pub(super) const OS_DISK_LUN: i32 = -1;

/// What whoever restored a machine is to do.
fn after(definition: &str) -> Vec<String> {
    let addresses =
        "its MAC addresses are new: give it again what was bound to the old ones, such as a fixed address";
    let notes = [
        Some("it is not started"),
        machine::definition::has_interfaces(definition).then_some(addresses),
        Some(
            "where cloud-init runs inside, it sees a new instance and may lock passwords: use an SSH key, or set a password again",
        ),
    ];
    notes.into_iter().flatten().map(str::to_owned).collect()
}

/// What to make of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    Disks {
        place: String,
        directory: PathBuf,
        /// The pool whose volumes they become.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<Pool>,
        /// None: as each was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<DiskFormat>,
    },
    /// Disks into a container of a storage account.
    Container {
        place: String,
        place_group: String,
        /// None: qcow2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<DiskFormat>,
    },
    Machine {
        name: String,
        group: String,
        host: String,
        /// Where its disks go. None: where the machine's were.
        directory: Option<PathBuf>,
        /// None: as it was.
        network: Option<String>,
    },
    /// The machine's own disks are replaced.
    Replace,
}

/// What a restore does only if it is said to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Allowed {
    /// Disks that libvirt encrypted may be unencrypted.
    pub unencrypted: bool,
    /// Saved memory of a machine whose disks are replaced is thrown away.
    pub discard_saved_state: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub point: Uuid,
    pub target: Target,
    /// By target name; empty: all.
    #[serde(default)]
    pub disks: Vec<String>,
    #[serde(flatten)]
    pub allowed: Allowed,
    /// Of a replacement that is committed: how far it is.
    #[serde(default, skip_serializing_if = "Swap::is_empty")]
    pub swap: Swap,
    /// Of a new machine: the files that it will have.
    #[serde(default, skip_serializing_if = "RestorePlan::is_empty")]
    pub plan: RestorePlan,
    /// Into a container: what was sent.
    #[serde(default, skip_serializing_if = "Sent::is_empty")]
    pub sent: Sent,
}

/// Whether a restore could begin now; answers the names of the disks that it chooses (none: all). `luns`: these disks alone.
pub fn check(
    service: &Service,
    item: &Item,
    point: &Point,
    target: &Target,
    luns: Option<&[i32]>,
    allowed: Allowed,
) -> Result<Vec<String>> {
    let disks = luns.map_or_else(|| Ok(Vec::new()), |luns| choose(point, luns))?;
    match target {
        Target::Disks { directory, .. } => check_directory(directory)?,
        Target::Container { place, place_group, .. } => {
            restore_container::account(service, place_group, place)?;
        }
        Target::Machine { name, group, host, .. } => {
            if let Some(other) = machines::find(service, group, name)? {
                return Err(exists(&other.name, group));
            }
            match service.host(host)?.hypervisor.name_is_free(name) {
                Ok(()) => {}
                Err(strongroom_hypervisor::Error::AlreadyExists { .. }) => return Err(exists(name, group)),
                Err(error) => return Err(error.into()),
            }
            crate::machine::check_name(name)?;
        }
        Target::Replace => {
            let machine = service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none());
            let machine = machine.ok_or_else(|| machines::not_found(&item.group, &item.machine_name))?;
            check_replace(service, &machine, allowed)?;
            if let Some(open) = jobs::open_of(service, item.id)? {
                return Err(super::backup::in_progress(item, &open));
            }
        }
    }
    Ok(disks)
}

/// Checks a request and writes its job. `luns`: these disks alone.
#[allow(clippy::too_many_arguments)]
pub fn restore(
    service: &Service,
    vault: &Vault,
    item: &Item,
    point: &Point,
    target: Target,
    luns: Option<&[i32]>,
    target_group: &str,
    asked_by: &str,
    allowed: Allowed,
) -> Result<Job> {
    let disks = check(service, item, point, &target, luns, allowed)?;
    let mut job = jobs::draft(service, item, JobOperation::Restore, asked_by);
    job.tasks = vec![JobTask::new(TRANSFER)];
    let mut bag: Vec<(&str, String)> = Vec::new();
    let time = point.taken_at.strftime("%-m/%-d/%Y %-I:%M:%S %p").to_string();
    match &target {
        Target::Disks { place, .. } => {
            bag.push(("Job Type", "Recover disks".into()));
            bag.push(("Target Storage Account Name", place.clone()));
            bag.push(("Recovery point time ", time));
            bag.push(("Target resource group", target_group.to_owned()));
            job.internal.push(("restoreLocationType".into(), "RestoreDisks".into()));
        }
        Target::Container { place, .. } => {
            bag.push(("Job Type", "Recover disks".into()));
            bag.push(("Target Storage Account Name", place.clone()));
            bag.push(("Recovery point time ", time));
            bag.push(("Target resource group", target_group.to_owned()));
            job.internal.push(("restoreLocationType".into(), "RestoreDisks".into()));
        }
        Target::Machine { name, network, .. } => {
            job.tasks.push(JobTask::new(CREATE));
            bag.push(("Job Type", "Recover VM to an alternate location".into()));
            bag.push(("Original VM Name", item.machine_name.clone()));
            bag.push(("Target VM Name", name.clone()));
            if let Some(network) = network {
                bag.push(("Target VNet Name", format!("Group {target_group} {network}")));
            }
            bag.push(("Recovery point time ", time));
            bag.push(("Target resource group", target_group.to_owned()));
            job.internal.push(("restoreLocationType".into(), "AlternateLocation".into()));
        }
        Target::Replace => {
            job.tasks.push(JobTask::new(CREATE_REPLACE));
            bag.push(("Job Type", "Replace disks".into()));
            bag.push(("Target VM Name", item.machine_name.clone()));
            bag.push(("Recovery point time ", time));
            bag.push(("Target resource group", item.group.to_lowercase()));
            job.internal.push(("restoreLocationType".into(), "OriginalLocation".into()));
        }
    }
    bag.push(("VM Subscription ID", service.subscription.to_string()));
    job.properties = bag.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let request = RestoreRequest {
        point: Uuid::from_bytes(*point.id.as_bytes()),
        target,
        disks,
        allowed,
        swap: Swap::default(),
        plan: RestorePlan::default(),
        sent: Sent::default(),
    };
    job.request = serde_json::to_value(&request).unwrap_or_default();
    job.vault = vault.id;
    jobs::put_reading(service, &job, point)?;
    service.runner.wake();
    Ok(job)
}

/// How long a machine is waited for of which a snapshot is being taken, or ended.
const SNAPSHOT_ENDS: Duration = Duration::from_secs(15);

/// The machine's disks are in use.
pub(super) const NOT_OFF: &str = "UserErrorVmNotInDesirableState";

/// Whether a machine's disks could be replaced now: only while it is off, which is that it has no process, no saved memory
/// that goes on with the disks as they are, and no snapshot in work.
pub fn check_replace(service: &Service, machine: &Machine, allowed: Allowed) -> Result<()> {
    let seen = machines::look(service, machine)?;
    let name = &machine.name;
    let not_off = |why: String| Err(Error::new(ErrorKind::Busy, why).coded(NOT_OFF));
    if seen.summary.state.is_active() {
        return not_off(format!(
            "The virtual machine '{name}' is {}: its disks can only be replaced while it is stopped. Stop it (`az vm deallocate`), then restore again.",
            seen.summary.state
        ));
    }
    let hypervisor = &service.host(&machine.host)?.hypervisor;
    let mut unfinished = hypervisor.unfinished(name)?;
    // A transfer that ends holds the machine for a moment.
    let until = Instant::now() + SNAPSHOT_ENDS;
    while unfinished == Some(Unfinished::Snapshot) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        unfinished = hypervisor.unfinished(name)?;
    }
    match unfinished {
        None => Ok(()),
        Some(Unfinished::SavedState) if allowed.discard_saved_state => Ok(()),
        Some(Unfinished::SavedState) => not_off(format!(
            "The virtual machine '{name}' has saved memory (`virsh managedsave`), with which it would go on over other disks at its next start. Start it and shut it down, or have the memory thrown away (`strongroom vm restore … --replace --discard-saved-state`), then restore again."
        )),
        Some(Unfinished::Snapshot) => not_off(format!(
            "A backup of the virtual machine '{name}' is being taken: its disks can only be replaced when it is over. Restore again then."
        )),
    }
}

pub(super) fn exists(name: &str, group: &str) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("A virtual machine '{name}' already exists in resource group '{group}', or on its host. Choose a name that is free."),
    )
    .coded("UserErrorVmWithSameNameAlreadyExists")
}

pub(super) fn choose(point: &Point, luns: &[i32]) -> Result<Vec<String>> {
    // An empty list is what `az` makes of --restore-only-osdisk.
    let luns = if luns.is_empty() { &[OS_DISK_LUN] } else { luns };
    let mut names = Vec::new();
    for lun in luns {
        let disk = point.disks.iter().find(|d| d.lun == *lun).ok_or_else(|| {
            let known: Vec<String> =
                point.disks.iter().map(|d| format!("{} ({})", d.lun, d.target)).collect();
            Error::invalid(format!(
                "The recovery point has no disk with LUN {lun}; it has: {}. LUN -1 is the OS disk.",
                known.join(", ")
            ))
            .coded("UserErrorDiskNotFoundInRecoveryPoint")
        })?;
        names.push(disk.target.clone());
    }
    Ok(names)
}

fn check_directory(directory: &Path) -> Result<()> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("{} is not a directory", directory.display()))),
        Err(e) => Err(Error::io(format!("looking at {}", directory.display()), e)),
    }
    .map_err(|e| e.coded("UserErrorStorageAccountNotReachable"))
}

struct Parts {
    vault: Vault,
    item: Item,
    request: RestoreRequest,
}

fn parts(service: &Service, job: &Job) -> Result<Parts> {
    let (vault, item, request) = jobs::parts(service, job)?;
    Ok(Parts { vault, item, request })
}

pub(super) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    let parts = parts(service, job)?;
    task(service, job.id, TRANSFER)?;
    match &parts.request.target {
        Target::Replace => {
            let done = replace::run(service, job, &parts.vault, &parts.item, &parts.request, progress)?;
            complete(service, job.id, done.details, done.warnings)
        }
        Target::Disks { directory, pool, format, .. } => {
            let mut open = open(service, job, &parts)?;
            open.warnings.extend(check_encryption(&open, &parts.request)?);
            let to = Destination { directory, pool: pool.as_ref(), format: *format };
            let more = restore_disks::run(
                service,
                job,
                &parts.request,
                &open.source,
                &open.manifest,
                &to,
                progress,
            )?;
            complete(service, job.id, Vec::new(), [open.warnings, more].concat())
        }
        Target::Container { .. } => {
            let warnings = restore_container::run(
                service,
                job,
                &parts.request,
                &|| open(service, job, &parts),
                progress,
            )?;
            complete(service, job.id, Vec::new(), warnings)
        }
        Target::Machine { name, host, directory, network, .. } => {
            let hypervisor = service.host(host)?.hypervisor.clone();
            let options = MachineRestoreOptions {
                new_name: name.clone(),
                storage: directory.clone(),
                network: match network {
                    Some(network) => NetworkChoice::Network(network.clone()),
                    None => NetworkChoice::Keep,
                },
                disks: parts.request.disks.clone(),
                format: None,
                unencrypted: parts.request.allowed.unencrypted,
                planned: Some(planned(service, job, &parts.request)),
            };
            let open = open(service, job, &parts)?;
            let restored =
                machine::restore_from(&*hypervisor, &open.source, open.manifest, &options, progress)?;
            // It is defined: from here on nothing fails.
            if let Err(error) = task(service, job.id, CREATE) {
                tracing::warn!(%error, "the job's progress could not be written");
            }
            places::refresh_pools(service, host, &restored.storage);
            if let Err(error) = note_machine(service, &parts.request.target, &restored.uuid) {
                tracing::warn!(%error, "the restored machine will be discovered later");
            }
            let mut warnings = [open.warnings, restored.warnings].concat();
            warnings.retain(|w| !restored.notes.contains(w));
            let mut notes = restored.notes;
            notes.extend(after(restored.point.definition.as_ref().map_or("", |d| &d.text)));
            complete(service, job.id, vec![("Notes".to_owned(), notes.join("; "))], warnings)
        }
    }
}

/// Refuses what would leave disks unencrypted unasked; warnings where it was asked for.
pub(super) fn check_encryption(open: &OpenPoint, request: &RestoreRequest) -> Result<Vec<String>> {
    machine::encryption::check(&open.manifest, &request.disks, request.allowed.unencrypted)
}

/// Opens the job's point, and tells from where it is read.
pub(super) fn open_of(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    request: &RestoreRequest,
) -> Result<OpenPoint> {
    let purpose = format!("restore job {}", job.id);
    let open = snapshots::open_point(service, vault, &item.machine_name, point_id(request), &purpose)?;
    let from = open.source.name();
    service.catalog.update::<Job, Error>(job.id, |row| {
        row.properties.retain(|(name, _)| name != RESTORED_FROM);
        let at = row.properties.len().saturating_sub(1);
        row.properties.insert(at, (RESTORED_FROM.into(), from.into()));
        Ok(Vec::new())
    })?;
    Ok(open)
}

const RESTORED_FROM: &str = "Restored from";

fn open(service: &Service, job: &Job, parts: &Parts) -> Result<OpenPoint> {
    open_of(service, job, &parts.vault, &parts.item, &parts.request)
}

pub(super) fn point_id(request: &RestoreRequest) -> strongroom_domain::PointId {
    strongroom_domain::PointId::from_uuid(request.point)
}

/// Keeps in the job's row which files a new machine will have.
fn planned(service: &Service, job: &Job, request: &RestoreRequest) -> Planned {
    let (service, id, request) = (service.clone(), job.id, request.clone());
    let tag = id.simple().to_string()[..8].to_owned();
    let keep = move |plan: &RestorePlan| {
        let request = RestoreRequest { plan: plan.clone(), ..request.clone() };
        super::swap::note(&service, id, &request)
    };
    Planned { tag, keep: Arc::new(keep) }
}

/// The restored machine is known at once, in the group that was asked for.
pub(super) fn note_machine(service: &Service, target: &Target, uuid: &str) -> Result<()> {
    let Target::Machine { name, group, host, .. } = target else { return Ok(()) };
    machines::discover(service)?;
    let query = strongroom_catalog::Query::all().eq("host", host.as_str()).eq("host_uuid", uuid);
    let Some(machine) = service.catalog.first::<Machine>(query)? else { return Ok(()) };
    if machine.group.eq_ignore_ascii_case(group) {
        return Ok(());
    }
    tracing::info!(machine = name, group, "placing the restored machine");
    let placed = machines::place(service, &machine, group, &machine.location)?;
    super::items::adopt(service, &placed)
}

/// Tells of a restore that is committed, until the catalog knows.
pub(super) fn complete(
    service: &Service,
    job: Uuid,
    made: Vec<(String, String)>,
    warnings: Vec<String>,
) -> Result<()> {
    let told = || {
        service.catalog.update::<Job, Error>(job, |job| {
            // By a try whose answer was lost.
            if job.status.is_over() {
                return Ok(Vec::new());
            }
            let last = job.properties.pop();
            job.properties.extend(made.clone());
            job.properties.extend(last);
            job.warnings.extend(warnings.clone());
            job.progress.percent = Some(100);
            job.progress.remaining_seconds = Some(0);
            let status =
                if job.warnings.is_empty() { JobStatus::Completed } else { JobStatus::CompletedWithWarnings };
            jobs::end(job, status, service.now());
            Ok(Vec::<Change>::new())
        })
    };
    committed::record(service, "a restore that is done", told)?;
    Ok(())
}

/// After a crash: what was committed is told, and what was not leaves nothing.
pub(super) fn recover(service: &Service, job: &Job) -> Result<bool> {
    if job.attempts == 0 {
        return Ok(false);
    }
    let parts = parts(service, job)?;
    match &parts.request.target {
        // What was sent is looked at by the job itself: the container may not answer now.
        Target::Container { .. } if !parts.request.sent.is_empty() => {
            service.catalog.update::<Job, Error>(job.id, |job| {
                job.lease = None;
                Ok(Vec::new())
            })?;
            return Ok(true);
        }
        Target::Container { .. } => {}
        Target::Replace if parts.request.swap.is_empty() => {
            replace::remove_leftovers(service, job, &parts.item);
        }
        Target::Replace => {
            // It goes on, as a job that was never begun: however often that takes.
            service.catalog.update::<Job, Error>(job.id, |job| {
                job.lease = None;
                job.attempts = job.attempts.saturating_sub(1);
                Ok(Vec::new())
            })?;
            return Ok(true);
        }
        Target::Disks { directory, pool, .. } => {
            restore_disks::remove_leftovers(job, directory);
            if directory.join(restore_disks::container(job)).is_dir() {
                let warnings = restore_disks::publish(service, job, directory, pool.as_ref());
                complete(service, job.id, Vec::new(), warnings)?;
                return Ok(true);
            }
        }
        Target::Machine { name, host, .. } => {
            // The name was free when the job began, and nobody else makes a machine of files named like this.
            let found = match service.host(host)?.hypervisor.inspect(name) {
                Ok(machine) => {
                    Some(machine).filter(|m| m.disks.iter().any(|d| is_restored_file(d.source.path(), name)))
                }
                Err(strongroom_hypervisor::Error::NotFound { .. }) => None,
                // Its files stay until that is known.
                Err(error) => return Err(error.into()),
            };
            if let Some(machine) = found {
                if let Err(error) = note_machine(service, &parts.request.target, &machine.summary.uuid) {
                    tracing::warn!(%error, "the restored machine will be discovered later");
                }
                let notes = after(&machine.definition_xml).join("; ");
                complete(service, job.id, vec![("Notes".to_owned(), notes)], Vec::new())?;
                return Ok(true);
            }
            machine::remove_unfinished(&parts.request.plan);
        }
    }
    Ok(false)
}

fn is_restored_file(path: Option<&Path>, machine: &str) -> bool {
    path.and_then(|p| p.file_name())
        .and_then(|n| n.to_str())
        .is_some_and(|file| file.starts_with(&format!("{machine}-")))
}
