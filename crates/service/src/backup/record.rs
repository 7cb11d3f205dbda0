//! What a backup is asked for, and how its point and its end come into the catalog.

use crate::core::committed;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::jobs::ledger as jobs;
use crate::points::row;
use crate::vaults::notes_state;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_catalog::{
    Change, Item, Job, LastBackup, Machine, MissedDisk, Point, PointDisk, Policy, Transfer, Vault,
};
use strongroom_domain::fact;
use strongroom_domain::item::ItemEvent;
use strongroom_domain::job::{JobStatus, task as tasks};
use strongroom_domain::policy::PolicyTier;
use strongroom_domain::retention::PointReason;
use strongroom_engine::machine::record::MachineRecord;
use strongroom_store::Manifest;
use uuid::Uuid;

/// Azure's names of what a backup does one after the other.
pub(crate) const TAKE_SNAPSHOT: &str = tasks::TAKE_SNAPSHOT;

pub(crate) const TRANSFER: &str = tasks::TRANSFER_TO_VAULT;

pub(crate) const VALIDATE: &str = "Validate Backup";

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupRequest {
    /// None: on demand.
    pub scheduled_for: Option<Timestamp>,
    /// Of a point on demand.
    pub keep_until: Option<Timestamp>,
    /// None: scheduled if it says for when, else on demand.
    #[serde(default)]
    pub reason: Option<PointReason>,
    /// Times that the transfer of its snapshot failed.
    #[serde(default)]
    pub failures: u32,
}

impl BackupRequest {
    pub(crate) fn scheduled(run: Timestamp) -> Self {
        Self { scheduled_for: Some(run), keep_until: None, reason: Some(PointReason::Scheduled), failures: 0 }
    }

    pub(super) fn until(keep_until: Timestamp, reason: PointReason) -> Self {
        Self { scheduled_for: None, keep_until: Some(keep_until), reason: Some(reason), failures: 0 }
    }

    pub(super) fn reason(&self) -> PointReason {
        let by_schedule = || match self.scheduled_for {
            Some(_) => PointReason::Scheduled,
            None => PointReason::OnDemand,
        };
        self.reason.unwrap_or_else(by_schedule)
    }
}

pub(crate) fn last_backup(job: &Job) -> LastBackup {
    LastBackup {
        job: job.id,
        started_at: job.started_at,
        status: job.status,
        error: job.errors.first().cloned(),
        missed: Vec::new(),
    }
}

/// Disks that a point lacks, though nobody excluded them.
pub(super) fn missed(manifest: &Manifest) -> Vec<MissedDisk> {
    let skipped = MachineRecord::of(manifest).skipped.into_iter();
    skipped
        .filter(|s| strongroom_hypervisor::is_missed(&s.reason))
        .map(|s| MissedDisk { target: s.disk, reason: s.reason })
        .collect()
}

pub(crate) struct Parts {
    pub item: Item,
    pub vault: Vault,
    pub machine: Machine,
    pub request: BackupRequest,
}

pub(super) fn parts(service: &Service, job: &Job) -> Result<Parts> {
    let (vault, item, request): (_, Item, _) = jobs::parts(service, job)?;
    let machine = service.catalog.get(item.machine)?.ok_or_else(|| {
        Error::not_found("The job's machine is no longer known.").coded("UserErrorVmNotFound")
    })?;
    Ok(Parts { item, vault, machine, request })
}

/// Disks that the item's choice leaves out. The first disk is always in.
pub(super) fn left_out(parts: &Parts) -> Vec<PointDisk> {
    let Some(choice) = &parts.item.disks else { return Vec::new() };
    parts
        .machine
        .disks
        .iter()
        .filter(|d| d.lun >= 0 && choice.luns.contains(&d.lun) != choice.inclusion)
        .map(|d| PointDisk {
            lun: d.lun,
            target: d.target.clone(),
            size_bytes: d.size_bytes.unwrap_or(0),
            encrypted: false,
            reason: String::new(),
        })
        .collect()
}

/// A point with all that the catalog says of it.
pub(crate) fn detailed(
    service: &Service,
    job: Uuid,
    parts: &Parts,
    manifest: &Manifest,
    luns: &[(String, i32)],
) -> Result<Point> {
    let policy: Option<Policy> = parts.item.policy.map(|id| service.catalog.get(id)).transpose()?.flatten();
    let rules = policy.as_ref().map(|p| &p.rules).or(parts.item.last_rules.as_ref());
    let policy_type = match rules.map(|r| r.tier) {
        Some(PolicyTier::Enhanced) => "V2",
        _ => "V1",
    };
    let mut point = row::point_row(&parts.vault, &parts.item, manifest, luns);
    point.os.clone_from(&parts.machine.os);
    // Of the manifest those that nobody excluded.
    point.excluded.retain(|d| !d.reason.is_empty());
    for disk in &mut point.excluded {
        let known = parts.machine.disks.iter().find(|d| d.target == disk.target);
        disk.size_bytes = known.and_then(|d| d.size_bytes).unwrap_or(0);
    }
    let chosen = left_out(parts);
    point.excluded.retain(|d| !chosen.iter().any(|c| c.target == d.target));
    point.excluded.splice(0..0, chosen);
    point.has_choice = parts.item.disks.is_some() || !point.excluded.is_empty();
    point.reason = Some(parts.request.reason());
    point.scheduled_for = parts.request.scheduled_for;
    point.keep_until = parts.request.keep_until;
    point.policy_type = policy_type.into();
    point.job = Some(job);
    point.name = row::free_name(service, &point)?;
    Ok(point)
}

/// Tells the catalog of a point that is in the vault: the point, the item's new state, and the job's end, at once, and until
/// it knows.
pub(crate) fn record(
    service: &Service,
    job: &Job,
    parts: &Parts,
    manifest: &Manifest,
    luns: &[(String, i32)],
    warnings: &[String],
    no_snapshot: &str,
) -> Result<()> {
    committed::record(service, "a point that is in the vault", || {
        record_once(service, job, parts, manifest, luns, warnings, no_snapshot)
    })
}

fn record_once(
    service: &Service,
    job: &Job,
    parts: &Parts,
    manifest: &Manifest,
    luns: &[(String, i32)],
    warnings: &[String],
    no_snapshot: &str,
) -> Result<()> {
    let mut point = detailed(service, job.id, parts, manifest, luns)?;
    point.vaulted_at = Some(service.now());
    point.no_snapshot = no_snapshot.to_owned();
    if !point.kept_in_manifest {
        notes_state::look_again(service, parts.vault.id);
    }
    let read_bytes: u64 = manifest.disks.iter().map(|d| d.read_bytes).sum();
    jobs::update(service, job, |job| {
        // By a try whose answer was lost.
        if job.status.is_over() {
            return Ok(Vec::new());
        }
        let now = service.now();
        for warning in manifest.warnings.iter().chain(warnings) {
            if !job.warnings.contains(warning) {
                job.warnings.push(warning.clone());
            }
        }
        jobs::begin_task(job, VALIDATE, now);
        job.progress.percent = Some(100);
        job.progress.remaining_seconds = Some(0);
        job.progress.done_bytes = job.progress.done_bytes.max(read_bytes);
        job.progress.total_bytes = job.progress.total_bytes.max(job.progress.done_bytes);
        let size_mib = manifest.disks.iter().map(|d| d.changed_bytes).sum::<u64>().div_ceil(1 << 20);
        job.properties.retain(|(name, _)| name != fact::BACKUP_SIZE_MIB);
        let at = job.properties.len().saturating_sub(1);
        job.properties.insert(at, (fact::BACKUP_SIZE_MIB.into(), size_mib.to_string()));
        let status =
            if job.warnings.is_empty() { JobStatus::Completed } else { JobStatus::CompletedWithWarnings };
        jobs::end(job, status, now);
        let mut changes = Vec::new();
        match service.catalog.get::<Point>(point.id)? {
            None => changes.push(Change::put(&point)),
            // Of a snapshot: now it is in the vault as well.
            Some(mut there) if there.transfer != Transfer::Done => {
                there.transfer = Transfer::Done;
                there.vaulted_at = point.vaulted_at;
                there.stored_bytes = point.stored_bytes;
                there.kept_in_manifest = point.kept_in_manifest;
                changes.push(Change::put(&there));
            }
            Some(_) => {}
        }
        if let Some(mut item) = service.catalog.get::<Item>(parts.item.id)? {
            if let Ok(next) = item.state.after(&ItemEvent::FirstBackupDone) {
                item.state = next;
            }
            item.last_backup = Some(LastBackup { missed: missed(manifest), ..last_backup(job) });
            item.last_point_at = item.last_point_at.max(Some(point.taken_at));
            changes.push(Change::put(&item));
        }
        Ok(changes)
    })?;
    Ok(())
}
