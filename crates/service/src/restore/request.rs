//! What is asked of a restore, and what is to be looked at before it may begin.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::estate::machines;
use crate::estate::places::Pool;
use crate::points::row::OS_DISK_LUN;
use crate::points::snapshots::OpenPoint;
use crate::restore::swap_plan::Swap;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strongroom_catalog::{Job, Machine, Point};
use strongroom_domain::PointId;
use strongroom_domain::job::task as tasks;
use strongroom_engine::machine::{self, RestorePlan};
use strongroom_engine::target::DiskFormat;
use strongroom_hypervisor::Unfinished;
use uuid::Uuid;

/// Azure's name of what a restore does first: the disks' data.
pub const TRANSFER: &str = tasks::TRANSFER_FROM_VAULT;

/// Azure's name of what follows it where a machine is made.
pub const CREATE: &str = tasks::CREATE_MACHINE;

/// Azure's name of what follows it where a machine's disks are replaced.
pub const CREATE_REPLACE: &str = tasks::UPDATE_MACHINE;

/// What to make of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// Disks into a directory, or a storage pool.
    Disks {
        /// The place's name, a storage account's to clients.
        place: String,
        /// Where that was when the restore was asked for.
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
        /// The storage account's name.
        place: String,
        /// Its resource group.
        place_group: String,
        /// None: qcow2.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<DiskFormat>,
    },
    /// A new machine.
    Machine {
        /// Its name, on its host and in its group; must be free.
        name: String,
        /// The resource group that it is put in.
        group: String,
        /// The host that it is made on, by the configuration's name.
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

/// What a restore's job is to do, and what it remembers on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The point, by the catalog's id.
    pub point: Uuid,
    /// What is made of it.
    pub target: Target,
    /// By target name; empty: all.
    #[serde(default)]
    pub disks: Vec<String>,
    /// What somebody said it may do.
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

/// How long a machine is waited for of which a snapshot is being taken, or ended.
const SNAPSHOT_ENDS: Duration = Duration::from_secs(15);

/// The machine's disks are in use.
pub(crate) const NOT_OFF: &str = "UserErrorVmNotInDesirableState";

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

pub(crate) fn exists(name: &str, group: &str) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("A virtual machine '{name}' already exists in resource group '{group}', or on its host. Choose a name that is free."),
    )
    .coded("UserErrorVmWithSameNameAlreadyExists")
}

pub(crate) fn choose(point: &Point, luns: &[i32]) -> Result<Vec<String>> {
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

/// Refuses what would leave disks unencrypted unasked; warnings where it was asked for.
pub(crate) fn check_encryption(open: &OpenPoint, request: &RestoreRequest) -> Result<Vec<String>> {
    Ok(machine::encryption::check(&open.manifest, &request.disks, request.allowed.unencrypted)?)
}

pub(crate) fn point_id(request: &RestoreRequest) -> strongroom_domain::PointId {
    strongroom_domain::PointId::from_uuid(request.point)
}

/// What was sent to a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Whether anything may have been.
    pub begun: bool,
    /// Names and the server's ids of uploads.
    pub uploads: Vec<(String, String)>,
}

impl Sent {
    pub fn is_empty(&self) -> bool {
        !self.begun
    }
}

/// Whether a job may have left something in a container that it is still to take away.
pub(crate) fn has_sent(job: &Job) -> bool {
    job.request.pointer("/sent/begun").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// The points that a restore's job reads, or may have to.
pub(crate) fn reads(job: &Job) -> Vec<PointId> {
    let named = ["/point", "/swap/before"].into_iter().filter_map(|at| job.request.pointer(at)?.as_str());
    named.filter_map(|id| id.parse().ok()).map(PointId::from_uuid).collect()
}
