//! The job that restores a recovery point: as disks in a place, or as a new machine.
//!
//! Disks are written into a hidden directory of the place; when all are there with the machine's definition it gets its
//! name, which is the commit. A new machine is committed by its definition (see [`crate::machine`]).

use super::backup::task;
use super::replace::{self, ReadyDisk};
use super::{Service, jobs, machines};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::record::{DEFINITION_KIND, DiskRecord};
use crate::machine::{self, RestoreOptions as MachineRestoreOptions};
use crate::restore::{RestoreOptions, restore_disk};
use crate::target::DiskFormat;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_catalog::service::{Change, Item, Job, Machine, Point, Vault};
use strongroom_domain::PointSelector;
use strongroom_domain::job::{JobOperation, JobStatus, JobTask, task as tasks};
use strongroom_hypervisor::{NetworkChoice, RestoreMachineRequest, RestoredDisk};
use strongroom_store::{Manifest, Progress, ReadSession};
use uuid::Uuid;

pub const TRANSFER: &str = tasks::TRANSFER_FROM_VAULT;
pub const CREATE: &str = tasks::CREATE_MACHINE;
pub const CREATE_REPLACE: &str = tasks::UPDATE_MACHINE;

/// What to make of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    Disks {
        place: String,
        directory: PathBuf,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub point: Uuid,
    pub target: Target,
    /// By target name; empty: all.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Of a replacement that is committed: what takes its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<ReadyDisk>,
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
) -> Result<Job> {
    let disks = match luns {
        None => Vec::new(),
        Some(luns) => choose(point, luns)?,
    };
    let mut job = jobs::draft(service, item, JobOperation::Restore, asked_by);
    job.tasks = vec![JobTask::new(TRANSFER)];
    let mut bag: Vec<(&str, String)> = Vec::new();
    let time = point.taken_at.strftime("%-m/%-d/%Y %-I:%M:%S %p").to_string();
    match &target {
        Target::Disks { place, directory } => {
            check_directory(directory)?;
            bag.push(("Job Type", "Recover disks".into()));
            bag.push(("Target Storage Account Name", place.clone()));
            bag.push(("Recovery point time ", time));
            bag.push(("Target resource group", target_group.to_owned()));
            job.internal.push(("restoreLocationType".into(), "RestoreDisks".into()));
        }
        Target::Machine { name, group, host, network, .. } => {
            if let Some(other) = machines::find(service, group, name)? {
                return Err(exists(&other.name, group));
            }
            match service.host(host)?.hypervisor.name_is_free(name) {
                Ok(()) => {}
                Err(strongroom_hypervisor::Error::AlreadyExists { .. }) => return Err(exists(name, group)),
                Err(error) => return Err(error.into()),
            }
            crate::machine::check_name(name)?;
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
            let machine = service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none());
            let machine = machine.ok_or_else(|| machines::not_found(&item.group, &item.machine_name))?;
            check_replace(service, &machine)?;
            if let Some(open) = jobs::open_of(service, item.id)? {
                return Err(super::backup::in_progress(item, &open));
            }
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
    let request =
        RestoreRequest { point: Uuid::from_bytes(*point.id.as_bytes()), target, disks, ready: Vec::new() };
    job.request = serde_json::to_value(&request).unwrap_or_default();
    job.vault = vault.id;
    jobs::put(service, &job, Vec::new())?;
    service.runner.wake();
    Ok(job)
}

/// Whether a machine's disks could be replaced now: only while it is off.
pub fn check_replace(service: &Service, machine: &Machine) -> Result<()> {
    let seen = machines::look(service, machine)?;
    match seen.summary.state.is_active() {
        false => Ok(()),
        true => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "The virtual machine '{}' is {}: its disks can only be replaced while it is stopped. Stop it (`az vm deallocate`), then restore again.",
                machine.name, seen.summary.state
            ),
        )
        .coded("UserErrorVmNotInDesirableState")),
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
    match names.is_empty() {
        true => {
            Err(Error::invalid("No disk was chosen; LUN -1 is the OS disk.").coded("UserErrorNoDiskSelected"))
        }
        false => Ok(names),
    }
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
    let store = service.store(&parts.vault)?;
    match &parts.request.target {
        Target::Replace => {
            let warnings = replace::run(service, job, &parts.vault, &parts.item, &parts.request, progress)?;
            complete(service, job.id, Vec::new(), warnings)
        }
        Target::Disks { directory, .. } => {
            let session = Arc::new(ReadSession::begin(&store, &format!("restore job {}", job.id))?);
            let manifest = store.point(&point_id(&parts.request))?;
            let made = restore_disks(job, &parts, &session, &manifest, directory, progress)?;
            complete(service, job.id, made, Vec::new())
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
            };
            let selector = PointSelector::Id(point_id(&parts.request));
            let restored = machine::restore(&*hypervisor, &store, &selector, &options, progress)?;
            task(service, job.id, CREATE)?;
            if let Err(error) = note_machine(service, &parts.request.target, &restored.uuid) {
                tracing::warn!(%error, "the restored machine will be discovered later");
            }
            let mut warnings = restored.warnings;
            warnings.retain(|w| !restored.notes.contains(w));
            let notes = match restored.notes.is_empty() {
                true => Vec::new(),
                false => vec![("Notes".to_owned(), restored.notes.join("; "))],
            };
            complete(service, job.id, notes, warnings)
        }
    }
}

pub(super) fn point_id(request: &RestoreRequest) -> strongroom_domain::PointId {
    strongroom_domain::PointId::from_uuid(request.point)
}

/// The restored machine is known at once, in the group that was asked for.
pub(super) fn note_machine(service: &Service, target: &Target, uuid: &str) -> Result<()> {
    let Target::Machine { name, group, host, .. } = target else { return Ok(()) };
    machines::discover(service)?;
    let query = strongroom_catalog::service::Query::all().eq("host", host.as_str()).eq("host_uuid", uuid);
    let Some(machine) = service.catalog.first::<Machine>(query)? else { return Ok(()) };
    if machine.group.eq_ignore_ascii_case(group) {
        return Ok(());
    }
    tracing::info!(machine = name, group, "placing the restored machine");
    machines::place(service, &machine, group, &machine.location).map(|_| ())
}

/// Azure's name of the container that restored disks come in: the machine's, without hyphens, and 32 digits.
fn container(job: &Job) -> String {
    let plain: String = job.entity.chars().filter(|c| c.is_alphanumeric()).collect();
    format!("{}-{}", plain.to_lowercase(), job.id.simple())
}

fn restore_disks(
    job: &Job,
    parts: &Parts,
    session: &Arc<ReadSession>,
    manifest: &Manifest,
    place: &Path,
    progress: &Arc<Progress>,
) -> Result<Vec<(String, String)>> {
    let container = container(job);
    let final_directory = place.join(&container);
    let hidden = Hidden(place.join(format!(".{container}")));
    // Of an attempt that was interrupted.
    let _ = fs::remove_dir_all(&hidden.0);
    DirBuilder::new()
        .mode(0o711)
        .create(&hidden.0)
        .map_err(|e| Error::io(format!("making directory {}", hidden.0.display()), e))?;
    let mut restored = Vec::new();
    for disk in &manifest.disks {
        if !parts.request.disks.is_empty() && !parts.request.disks.contains(&disk.name) {
            continue;
        }
        let format = match DiskRecord::of(disk).format {
            Some(strongroom_hypervisor::DiskFormat::Raw) => DiskFormat::Raw,
            _ => DiskFormat::Qcow2,
        };
        let name = format!("{}-{}.{}", job.entity, disk.name, format.name());
        let options = RestoreOptions { to: hidden.0.join(&name), format, force: false, durable: true };
        restore_disk(session, disk, &options, progress)?;
        restored.push((disk.name.clone(), name, format));
    }
    progress.check()?;
    let template = template(&job.entity, manifest, &final_directory, &restored)?;
    let template_name = format!("azuredeploy{}.json", job.id);
    let config_name =
        format!("config-{}-{}.json", job.entity.chars().filter(|c| *c != '-').collect::<String>(), job.id);
    if let Some(xml) = &template {
        write_new(&hidden.0.join(format!("{}.xml", job.entity)), xml.as_bytes())?;
    }
    let config = json!({
        "machine": job.entity,
        "recoveryPoint": manifest.point.to_string(),
        "takenAt": manifest.taken_at.to_string(),
        "disks": restored.iter().map(|(target, file, format)| json!({
            "target": target, "file": file, "format": format.name(),
        })).collect::<Vec<_>>(),
        "definition": template.as_ref().map(|_| format!("{}.xml", job.entity)),
    });
    let text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    write_new(&hidden.0.join(&config_name), &text)?;
    write_new(&hidden.0.join(&template_name), &text)?;
    sync(&hidden.0)?;
    progress.check()?;
    // The commit: from here on the disks are there, under their name.
    fs::rename(&hidden.0, &final_directory)
        .map_err(|e| Error::io(format!("naming {}", final_directory.display()), e))?;
    sync(place)?;
    let at = final_directory.display();
    let names = |disks: Vec<&str>| disks.join("; ");
    Ok(vec![
        ("Config Blob Name".into(), config_name.clone()),
        ("Config Blob Container Name".into(), container),
        ("Config Blob Uri".into(), format!("file://{at}/{config_name}")),
        ("Create VM Template Blob Uri".into(), format!("file://{at}/{template_name}")),
        ("Restored disk(s)".into(), names(restored.iter().map(|(t, ..)| t.as_str()).collect())),
        ("Backed-up disk(s)".into(), names(manifest.disks.iter().map(|d| d.name.as_str()).collect())),
    ])
}

/// The machine's definition with its disks where they were restored to, to be edited and used.
fn template(
    machine: &str,
    manifest: &Manifest,
    directory: &Path,
    disks: &[(String, String, DiskFormat)],
) -> Result<Option<String>> {
    let Some(definition) = manifest.definition.as_ref().filter(|d| d.kind == DEFINITION_KIND) else {
        return Ok(None);
    };
    let directory = std::path::absolute(directory)
        .map_err(|e| Error::io(format!("looking at {}", directory.display()), e))?;
    let request = RestoreMachineRequest {
        definition_xml: definition.text.clone(),
        new_name: format!("{machine}-restored"),
        disks: disks
            .iter()
            .map(|(target, file, format)| RestoredDisk {
                target: target.clone(),
                path: directory.join(file),
                format: match format {
                    DiskFormat::Raw => strongroom_hypervisor::DiskFormat::Raw,
                    DiskFormat::Qcow2 => strongroom_hypervisor::DiskFormat::Qcow2,
                },
            })
            .collect(),
        network: NetworkChoice::Keep,
        nvram: None,
    };
    Ok(Some(strongroom_hypervisor::new_definition(&request)?))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn sync(directory: &Path) -> Result<()> {
    fs::File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::io(format!("syncing {}", directory.display()), e))
}

/// A directory that goes again unless it got its final name.
struct Hidden(PathBuf);

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn complete(
    service: &Service,
    job: Uuid,
    made: Vec<(String, String)>,
    warnings: Vec<String>,
) -> Result<()> {
    service.catalog.update::<Job, Error>(job, |job| {
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
    })?;
    Ok(())
}

/// After a crash: what was committed is told, and what was not leaves nothing.
pub(super) fn recover(service: &Service, job: &Job) -> Result<bool> {
    if job.attempts == 0 {
        return Ok(false);
    }
    let parts = parts(service, job)?;
    match &parts.request.target {
        Target::Replace if parts.request.ready.is_empty() => {
            replace::remove_leftovers(service, job, &parts.item);
        }
        Target::Replace => {
            replace::finish(service, &parts.item, &parts.request.ready)?;
            complete(service, job.id, Vec::new(), Vec::new())?;
            return Ok(true);
        }
        Target::Disks { directory, .. } => {
            let _ = fs::remove_dir_all(directory.join(format!(".{}", container(job))));
            if directory.join(container(job)).is_dir() {
                complete(service, job.id, Vec::new(), Vec::new())?;
                return Ok(true);
            }
        }
        Target::Machine { name, host, directory, .. } => {
            // The name was free when the job began, and nobody else makes a machine of files named like this.
            if let Ok(machine) = service.host(host)?.hypervisor.inspect(name)
                && machine.disks.iter().any(|d| is_restored_file(d.source.path(), name))
            {
                note_machine(service, &parts.request.target, &machine.summary.uuid)?;
                complete(service, job.id, Vec::new(), Vec::new())?;
                return Ok(true);
            }
            if let Some(directory) = directory {
                remove_leftovers(directory, name);
            }
        }
    }
    Ok(false)
}

fn is_restored_file(path: Option<&Path>, machine: &str) -> bool {
    path.and_then(|p| p.file_name())
        .and_then(|n| n.to_str())
        .is_some_and(|file| file.starts_with(&format!("{machine}-")))
}

/// Hidden partial files of a restore whose process is dead.
fn remove_leftovers(directory: &Path, machine: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(&format!(".{machine}-")) && name.contains(".strongroom-partial-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}
