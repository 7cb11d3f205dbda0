//! The job that restores a recovery point: as disks in a place, or as a new machine.
//!
//! How disks come into a place is in [`super::restore_disks`] and [`super::restore_container`], how they replace a machine's in [`super::replace`]; a new machine
//! is committed by its definition (see [`strongroom_engine::machine`]).

use crate::core::committed;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::estate::{machines, places};
use crate::jobs::kind::{Again, Cancel, Claims, Hold, JobKind, Recovery};
use crate::jobs::{errors as job_errors, ledger as jobs};
use crate::points::snapshots::OpenPoint;
use crate::protection::items;
use crate::restore::disks::Destination;
use crate::restore::request::{
    self, Allowed, CREATE, CREATE_REPLACE, RestoreRequest, Sent, TRANSFER, Target,
};
use crate::restore::swap_plan::{self, Swap};
use crate::restore::{container as restore_container, disks as restore_disks, open, replace};
use crate::vaults::exclusive;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use strongroom_catalog::{Change, Item, Job, Machine, Point, Vault};
use strongroom_domain::job::{JobOperation, JobStatus, JobTask};
use strongroom_domain::{PointId, fact};
use strongroom_engine::machine::{self, Planned, RestoreOptions as MachineRestoreOptions, RestorePlan};
use strongroom_hypervisor::NetworkChoice;
use strongroom_store::Progress;
use uuid::Uuid;

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

/// Whether a restore could begin now; answers the names of the disks that it chooses (none: all). `luns`: these disks alone.
pub fn check(
    service: &Service,
    item: &Item,
    point: &Point,
    target: &Target,
    luns: Option<&[i32]>,
    allowed: Allowed,
) -> Result<Vec<String>> {
    let disks = luns.map_or_else(|| Ok(Vec::new()), |luns| request::choose(point, luns))?;
    match target {
        Target::Disks { directory, .. } => check_directory(directory)?,
        Target::Container { place, place_group, .. } => {
            restore_container::account(service, place_group, place)?;
        }
        Target::Machine { name, group, host, .. } => {
            if let Some(other) = machines::find(service, group, name)? {
                return Err(request::exists(&other.name, group));
            }
            match service.host(host)?.hypervisor.name_is_free(name) {
                Ok(()) => {}
                Err(strongroom_hypervisor::Error::AlreadyExists { .. }) => {
                    return Err(request::exists(name, group));
                }
                Err(error) => return Err(error.into()),
            }
            strongroom_engine::machine::check_name(name)?;
        }
        Target::Replace => {
            let machine = service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none());
            let machine = machine.ok_or_else(|| machines::not_found(&item.group, &item.machine_name))?;
            request::check_replace(service, &machine, allowed)?;
            if let Some(open) = jobs::open_of(service, item.id)? {
                return Err(job_errors::in_progress(item, &open));
            }
        }
    }
    Ok(disks)
}

/// What is asked of a restore, and by whom.
pub struct Asked<'a> {
    /// Where to.
    pub target: Target,
    /// These disks alone, by their numbers.
    pub luns: Option<&'a [i32]>,
    /// The resource group that the request named, which the job shows.
    pub group: &'a str,
    /// Who asks, as jobs show it.
    pub by: &'a str,
    /// What may be lost or left unencrypted for it.
    pub allowed: Allowed,
}

impl<'a> Asked<'a> {
    /// All disks, and nothing that needs somebody's leave.
    pub fn of(target: Target, group: &'a str, by: &'a str) -> Self {
        Self { target, luns: None, group, by, allowed: Allowed::default() }
    }
}

/// Checks a request and writes its job.
pub fn restore(
    service: &Service,
    vault: &Vault,
    item: &Item,
    point: &Point,
    asked: Asked<'_>,
) -> Result<Job> {
    let Asked { target, luns, group, by, allowed } = asked;
    let disks = check(service, item, point, &target, luns, allowed)?;
    let mut job = jobs::draft(service, item, KIND, JobOperation::Restore, by);
    job.tasks = vec![JobTask::new(TRANSFER)];
    job.tasks.extend(match &target {
        Target::Disks { .. } | Target::Container { .. } => None,
        Target::Machine { .. } => Some(JobTask::new(CREATE)),
        Target::Replace => Some(JobTask::new(CREATE_REPLACE)),
    });
    job.properties = facts(service, item, point, &target, group);
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
    service.life.wake();
    Ok(job)
}

/// What the job says of itself, in the order in which it is shown.
fn facts(
    service: &Service,
    item: &Item,
    point: &Point,
    target: &Target,
    group: &str,
) -> Vec<(String, String)> {
    let mut facts: Vec<(&str, String)> = match target {
        Target::Disks { place, .. } | Target::Container { place, .. } => {
            vec![(fact::RESTORE_AS, fact::RESTORED_DISKS.into()), (fact::TARGET_PLACE, place.clone())]
        }
        Target::Machine { name, network, .. } => {
            let mut facts = vec![
                (fact::RESTORE_AS, fact::NEW_MACHINE.into()),
                (fact::ORIGINAL_MACHINE, item.machine_name.clone()),
                (fact::TARGET_MACHINE, name.clone()),
            ];
            facts.extend(network.clone().map(|network| (fact::TARGET_NETWORK, network)));
            facts
        }
        Target::Replace => vec![
            (fact::RESTORE_AS, fact::REPLACED_DISKS.into()),
            (fact::TARGET_MACHINE, item.machine_name.clone()),
        ],
    };
    facts.push((fact::POINT_TIME, point.taken_at.to_string()));
    let group = match target {
        Target::Replace => item.group.to_lowercase(),
        _ => group.to_owned(),
    };
    facts.push((fact::TARGET_GROUP, group));
    facts.push((fact::SUBSCRIPTION, service.subscription.to_string()));
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn check_directory(directory: &Path) -> Result<()> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("{} is not a directory", directory.display()))),
        Err(e) => Err(Error::io(format!("looking at {}", directory.display()), e)),
    }
    .map_err(|e| e.coded("UserErrorStorageAccountNotReachable"))
}

/// The job that restores a point as disks, as a new machine, or in place of a machine's disks.
pub(crate) struct Restore;

impl JobKind for Restore {
    fn name(&self) -> &'static str {
        KIND
    }

    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
        run(service, job, progress)
    }

    fn recover(&self, service: &Service, job: &Job) -> Result<Recovery> {
        recover(service, job)
    }

    fn claims(&self, service: &Service, job: &Job) -> Result<Claims> {
        let claims = Claims::of_machine(service, job)?;
        // One that replaces disks makes a point of those before.
        let writes = job.request["target"]["kind"] == "replace";
        let alone = writes && exclusive::takes_one_writer(service, job.vault);
        Ok(Claims { vault: if alone { Hold::Alone } else { Hold::Shared }, ..claims })
    }

    fn reads(&self, job: &Job) -> Vec<PointId> {
        request::reads(job)
    }

    fn cancel(&self, _service: &Service, job: &Job) -> Result<Cancel> {
        let has_begun = request::has_sent(job) || swap_plan::has_begun(job);
        Ok(if has_begun { Cancel::NeedsRun } else { Cancel::AtOnce })
    }
}

/// What rows name this kind of job by.
const KIND: &str = "restore";

struct Parts {
    vault: Vault,
    item: Item,
    request: RestoreRequest,
}

fn parts(service: &Service, job: &Job) -> Result<Parts> {
    let (vault, item, request) = jobs::parts(service, job)?;
    Ok(Parts { vault, item, request })
}

pub(crate) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    let parts = parts(service, job)?;
    jobs::task(service, job, TRANSFER)?;
    match &parts.request.target {
        Target::Replace => {
            let done = replace::run(service, job, &parts.vault, &parts.item, &parts.request, progress)?;
            complete(service, job, done.details, done.warnings)
        }
        Target::Disks { directory, pool, format, .. } => {
            let mut open = open(service, job, &parts)?;
            open.warnings.extend(request::check_encryption(&open, &parts.request)?);
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
            complete(service, job, Vec::new(), [open.warnings, more].concat())
        }
        Target::Container { .. } => {
            let warnings = restore_container::run(
                service,
                job,
                &parts.request,
                &|| open(service, job, &parts),
                progress,
            )?;
            complete(service, job, Vec::new(), warnings)
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
            if let Err(error) = jobs::task(service, job, CREATE) {
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
            complete(service, job, vec![(fact::NOTES.to_owned(), notes.join("; "))], warnings)
        }
    }
}

fn open(service: &Service, job: &Job, parts: &Parts) -> Result<OpenPoint> {
    open::open_of(service, job, &parts.vault, &parts.item, &parts.request)
}

/// Keeps in the job's row which files a new machine will have.
fn planned(service: &Service, job: &Job, request: &RestoreRequest) -> Planned {
    let (service, job, request) = (service.clone(), job.clone(), request.clone());
    let tag = job.id.simple().to_string()[..8].to_owned();
    let keep = move |plan: &RestorePlan| {
        let request = RestoreRequest { plan: plan.clone(), ..request.clone() };
        jobs::save_params(&service, &job, &request).map_err(Into::into)
    };
    Planned { tag, keep: Arc::new(keep) }
}

/// The restored machine is known at once, in the group that was asked for.
pub(crate) fn note_machine(service: &Service, target: &Target, uuid: &str) -> Result<()> {
    let Target::Machine { name, group, host, .. } = target else { return Ok(()) };
    machines::discover(service)?;
    let query = strongroom_catalog::Query::all().eq("host", host.as_str()).eq("host_uuid", uuid);
    let Some(machine) = service.catalog.first::<Machine>(query)? else { return Ok(()) };
    if machine.group.eq_ignore_ascii_case(group) {
        return Ok(());
    }
    tracing::info!(machine = name, group, "placing the restored machine");
    let placed = machines::place(service, &machine, group, &machine.location)?;
    items::adopt(service, &placed)
}

/// Tells of a restore that is committed, until the catalog knows.
pub(crate) fn complete(
    service: &Service,
    job: &Job,
    made: Vec<(String, String)>,
    warnings: Vec<String>,
) -> Result<()> {
    let told = || {
        jobs::update(service, job, |job| {
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
fn recover(service: &Service, job: &Job) -> Result<Recovery> {
    if job.attempts == 0 {
        return Ok(Recovery::Nothing(Again::Never));
    }
    let parts = parts(service, job)?;
    match &parts.request.target {
        // What was sent is looked at by the job itself: the container may not answer now.
        Target::Container { .. } if !parts.request.sent.is_empty() => {
            return Ok(Recovery::Committed);
        }
        Target::Container { .. } => {}
        Target::Replace if parts.request.swap.is_empty() => {
            replace::remove_leftovers(service, job, &parts.item);
        }
        Target::Replace => {
            // It goes on, as a job that was never begun: however often that takes.
            jobs::update(service, job, |job| {
                job.attempts = job.attempts.saturating_sub(1);
                Ok(Vec::new())
            })?;
            return Ok(Recovery::Committed);
        }
        Target::Disks { directory, pool, .. } => {
            restore_disks::remove_leftovers(job, directory);
            if directory.join(restore_disks::container(job)).is_dir() {
                let warnings = restore_disks::publish(service, job, directory, pool.as_ref());
                complete(service, job, Vec::new(), warnings)?;
                return Ok(Recovery::Committed);
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
                complete(service, job, vec![(fact::NOTES.to_owned(), notes)], Vec::new())?;
                return Ok(Recovery::Committed);
            }
            machine::remove_unfinished(&parts.request.plan);
        }
    }
    Ok(Recovery::Nothing(Again::Never))
}

fn is_restored_file(path: Option<&Path>, machine: &str) -> bool {
    path.and_then(|p| p.file_name())
        .and_then(|n| n.to_str())
        .is_some_and(|file| file.starts_with(&format!("{machine}-")))
}
