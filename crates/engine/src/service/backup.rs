//! The job that backs a machine up.
//!
//! Where the machine's storage clones files, it has two commits. The first makes the point: one transaction, after the
//! snapshot was kept, writes its row and ends the task "Take Snapshot". From there on it can be restored, and the transfer is
//! tried again until it succeeds, with pauses in which the job holds nothing, for as long as a backup may take. Elsewhere
//! there is only the second.
//!
//! The second is the point's manifest in the vault; what follows, one transaction that ends the job and notes the point, only
//! tells of it, and is made up for at the next start if it was missed.

use super::{Service, committed, items, jobs, machines, notes, points, retention, snapshots, transfer};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::record::{DiskRecord, MachineRecord};
use crate::machine::{self, BackupOptions};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use strongroom_catalog::{
    Change, Item, Job, LastBackup, Machine, MachineDisk, MissedDisk, Point, PointDisk, PointGuest,
    PointScript, Policy, Query, Transfer, Vault,
};
use strongroom_domain::arm_names;
use strongroom_domain::item::ItemEvent;
use strongroom_domain::job::{JobOperation, JobStatus, JobTask, task as tasks};
use strongroom_domain::limits::ON_DEMAND_DAYS;
use strongroom_domain::policy::{Policy as Rules, PolicyTier, SnapshotConsistency};
use strongroom_domain::retention::{PointFacts, PointReason, RetentionMode, retain};
use strongroom_hypervisor::{GuestReport, GuestVia, Quiesce, ScriptRun};
use strongroom_store::{Kept, KeptPolicy, Manifest, Progress, Promise};
use uuid::Uuid;

/// Azure's names of what a backup does one after the other.
pub const TAKE_SNAPSHOT: &str = tasks::TAKE_SNAPSHOT;
pub const TRANSFER: &str = tasks::TRANSFER_TO_VAULT;
pub const VALIDATE: &str = "Validate Backup";

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
    pub(super) fn scheduled(run: Timestamp) -> Self {
        Self { scheduled_for: Some(run), keep_until: None, reason: Some(PointReason::Scheduled), failures: 0 }
    }

    fn until(keep_until: Timestamp, reason: PointReason) -> Self {
        Self { scheduled_for: None, keep_until: Some(keep_until), reason: Some(reason), failures: 0 }
    }

    fn reason(&self) -> PointReason {
        let by_schedule = || match self.scheduled_for {
            Some(_) => PointReason::Scheduled,
            None => PointReason::OnDemand,
        };
        self.reason.unwrap_or_else(by_schedule)
    }
}

/// What the manifest of a point that is made now is to say of why it is, and what is promised of it.
fn promise(service: &Service, item: &Item, request: &BackupRequest) -> Result<Kept> {
    let mut kept = Kept {
        reason: request.reason(),
        scheduled_for: request.scheduled_for,
        keep_until: request.keep_until,
        policy: None,
    };
    if kept.reason == PointReason::Scheduled
        && let Some(policy) = item.policy.map(|id| service.catalog.get::<Policy>(id)).transpose()?.flatten()
    {
        let points: Vec<Point> = service.catalog.find(&Query::all().eq("item", item.id))?;
        let mut facts = retention::facts(&points);
        facts.push(PointFacts {
            taken_at: service.now(),
            reason: Some(kept.reason),
            scheduled_for: kept.scheduled_for,
            keep_until: None,
        });
        let verdicts = retain(&policy.rules, RetentionMode::Policy, &facts);
        kept.keep_until = verdicts.last().and_then(|v| v.rules_until);
        kept.policy = Some(Box::new(KeptPolicy { name: policy.name, rules: policy.rules }));
    }
    Ok(kept)
}

/// Whether the item's policy lets its machine be frozen.
fn quiesce(service: &Service, item: &Item) -> Result<Quiesce> {
    let policy = item.policy.map(|id| service.catalog.get::<Policy>(id)).transpose()?.flatten();
    let rules = policy.map(|policy| policy.rules).or_else(|| item.last_rules.clone());
    Ok(match rules.unwrap_or_else(Rules::default_standard).snapshot_consistency {
        SnapshotConsistency::AsPossible => Quiesce::Auto,
        SnapshotConsistency::OnlyCrash => Quiesce::Never,
    })
}

/// A new backup job of an item, not written yet.
pub(super) fn draft(service: &Service, item: &Item, request: &BackupRequest, asked_by: &str) -> Job {
    let mut job = jobs::draft(service, item, JobOperation::Backup, asked_by);
    job.tasks = [TAKE_SNAPSHOT, TRANSFER, VALIDATE].map(JobTask::new).into();
    if let Some(until) = request.keep_until {
        job.properties.push((
            "Recovery Point Expiry Time in UTC".into(),
            until.strftime("%-m/%-d/%Y %-I:%M:%S %p").to_string(),
        ));
    }
    job.properties.push(("VM Subscription ID".into(), service.subscription.to_string()));
    job.internal.push(("IsInstantRpJob".into(), "False".into()));
    job.request = serde_json::to_value(request).unwrap_or_default();
    job
}

pub(super) fn last_backup(job: &Job) -> LastBackup {
    LastBackup {
        job: job.id,
        started_at: job.started_at,
        status: job.status,
        error: job.errors.first().cloned(),
        missed: Vec::new(),
    }
}

/// Disks that a point lacks, though nobody excluded them.
fn missed(manifest: &Manifest) -> Vec<MissedDisk> {
    let skipped = MachineRecord::of(manifest).skipped.into_iter();
    skipped
        .filter(|s| strongroom_hypervisor::is_missed(&s.reason))
        .map(|s| MissedDisk { target: s.disk, reason: s.reason })
        .collect()
}

pub(super) struct Parts {
    pub item: Item,
    pub vault: Vault,
    pub machine: Machine,
    pub request: BackupRequest,
}

fn parts(service: &Service, job: &Job) -> Result<Parts> {
    let (vault, item, request): (_, Item, _) = jobs::parts(service, job)?;
    let machine = service.catalog.get(item.machine)?.ok_or_else(|| {
        Error::not_found("The job's machine is no longer known.").coded("UserErrorVmNotFound")
    })?;
    Ok(Parts { item, vault, machine, request })
}

/// Looks for a machine that nobody has seen since the item's vault was imported. Whether it was found is seen by whoever goes on.
fn look_for_machine(service: &Service, job: &Job) {
    let look = || -> Result<()> {
        let Some(item) = job.item.map(|id| service.catalog.get::<Item>(id)).transpose()?.flatten() else {
            return Ok(());
        };
        if service.catalog.get::<Machine>(item.machine)?.is_none() {
            let machine = machines::get_or_look(service, &item.group, &item.machine_name)?;
            items::adopt(service, &machine)?;
        }
        Ok(())
    };
    if let Err(error) = look() {
        tracing::warn!(job = %job.id, %error, "the job's machine was looked for");
    }
}

pub(super) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    look_for_machine(service, job);
    // Its snapshot may be a point already, which no failure to read rows ends.
    let (parts, pending) = committed::record(service, "a backup", || {
        Ok((parts(service, job)?, snapshots::pending(service, job)?))
    })?;
    if let Some(point) = pending {
        return transfer::transfer_snapshot(service, job, &parts, &point, progress);
    }
    task(service, job.id, TAKE_SNAPSHOT)?;
    if let Some(gone_at) = parts.machine.gone_at {
        return Err(Error::not_found(format!(
            "Machine '{}' is no longer on host '{}' (last seen before {gone_at}).",
            parts.machine.name, parts.machine.host
        ))
        .coded("UserErrorVmNotFound"));
    }
    let seen = machines::look(service, &parts.machine)?;
    let store = service.writable_store(&parts.vault);
    let (left_out, known) = (left_out(&parts), luns(&parts.machine.disks));
    let options = BackupOptions {
        require_all_disks: requires_all_disks(service, &parts.item)?,
        exclude: left_out
            .iter()
            .map(|d| d.target.clone())
            .filter(|target| seen.disks.iter().any(|d| d.target == *target))
            .collect::<BTreeSet<_>>(),
        item: Some(parts.item.store_item.clone()),
        job: Some(job.id.to_string()),
        parents: transfer::last_known(service, &parts.item)?,
        kept: Some(promise(service, &parts.item, &parts.request)?),
        quiesce: quiesce(service, &parts.item)?,
        ..BackupOptions::default()
    };
    let hypervisor = service.host(&parts.machine.host)?.hypervisor.clone();
    let mut taken = machine::take(&*hypervisor, store, &parts.machine.name, &options, progress)
        .map_err(|error| missing_disk(&seen, &options.exclude).unwrap_or(error))?;
    match transfer::keep(service, job, &parts, &mut taken, &known)? {
        Ok(point) => {
            drop(taken);
            transfer::transfer_snapshot(service, job, &parts, &point, progress)
        }
        Err(why) => {
            if let Err(error) = task(service, job.id, TRANSFER) {
                tracing::warn!(%error, "the job's progress could not be written");
            }
            let done = taken.transfer(progress)?;
            record(service, job.id, &parts, &done.point, &known, &done.warnings, &why)?;
            // The job is over; what has expired is looked for again by and by.
            if let Err(error) = retention::expire_item(service, parts.item.id) {
                tracing::warn!(%error, "expired points could not be removed");
            }
            Ok(())
        }
    }
}

fn requires_all_disks(service: &Service, item: &Item) -> Result<bool> {
    let policy = item.policy.map(|id| service.catalog.get::<Policy>(id)).transpose()?.flatten();
    Ok(policy.is_some_and(|p| p.rules.require_all_disks))
}

/// What a backup failed of, if it is that a disk's file is not there: said so, whatever it was that stumbled over it.
fn missing_disk(machine: &strongroom_hypervisor::Machine, left_out: &BTreeSet<String>) -> Option<Error> {
    let name = &machine.summary.name;
    let gone = |disk: &&strongroom_hypervisor::Disk| {
        let path = disk.source.path().filter(|_| !left_out.contains(&disk.target));
        path.is_some_and(|path| matches!(path.try_exists(), Ok(false)))
    };
    let disk = machine.disks.iter().find(gone)?;
    let path = disk.source.path()?.display();
    let error = Error::not_found(format!(
        "Disk '{}' of machine '{name}' is not there: {path} does not exist.",
        disk.target
    ));
    Some(error.coded("UserErrorDiskNotFound").numbered(
        400003,
        "Put the disk's file back, or mount the storage that it is on; or take the disk out of the machine's definition, or out of its backups. Then run the job again.",
    ))
}

/// Backs an item up before a restore replaces its disks. Where its snapshot can be kept, it is there when this
/// returns, and a job of its own transfers it to the vault, and warns; else it is in the vault, and `warnings` are all there is.
#[allow(clippy::too_many_arguments)]
pub(super) fn take_point(
    service: &Service,
    vault: &Vault,
    item: &Item,
    machine: &Machine,
    keep_until: Timestamp,
    asked_by: &str,
    warnings: &mut Vec<String>,
    progress: &Arc<Progress>,
) -> Result<Point> {
    let request = BackupRequest::until(keep_until, PointReason::BeforeRestore);
    let mut job = draft(service, item, &request, asked_by);
    jobs::begin_task(&mut job, TAKE_SNAPSHOT, service.now());
    let hypervisor = service.host(&machine.host)?.hypervisor.clone();
    let options = BackupOptions {
        item: Some(item.store_item.clone()),
        job: Some(job.id.to_string()),
        parents: transfer::last_known(service, item)?,
        kept: Some(promise(service, item, &request)?),
        quiesce: quiesce(service, item)?,
        ..BackupOptions::default()
    };
    let mut taken =
        machine::take(&*hypervisor, service.writable_store(vault), &machine.name, &options, progress)?;
    let parts = Parts { item: item.clone(), vault: vault.clone(), machine: machine.clone(), request };
    let why = match transfer::keep(service, &job, &parts, &mut taken, &luns(&machine.disks))? {
        Ok(point) => {
            service.runner.wake();
            return Ok(point);
        }
        Err(why) => why,
    };
    let done = taken.transfer(progress)?;
    // What it cost is nothing to whoever restores.
    let told = done.warnings.iter().filter(|w| !w.contains("is read fully"));
    warnings.extend(told.map(|w| format!("the point of the disks before: {w}")));
    let mut point = point_row(vault, item, &done.point, &luns(&machine.disks));
    point.os.clone_from(&machine.os);
    point.no_snapshot = why;
    let taken_at = point.taken_at;
    // It is in the vault: the row follows, however long that takes.
    committed::record(service, "a point that is in the vault", || {
        if let Some(there) = service.catalog.get::<Point>(point.id)? {
            return Ok(there);
        }
        let mut point = point.clone();
        point.name = free_name(service, &point)?;
        service.catalog.update::<Item, Error>(item.id, |row| {
            row.last_point_at = row.last_point_at.max(Some(taken_at));
            Ok(vec![Change::put(&point)])
        })?;
        point.version = 1;
        Ok(point)
    })
}

/// Notes that a job has come to a task.
pub(super) fn task(service: &Service, job: Uuid, task: &str) -> Result<()> {
    service.catalog.update::<Job, Error>(job, |job| {
        jobs::begin_task(job, task, service.now());
        Ok(Vec::new())
    })?;
    Ok(())
}

pub(super) fn luns(disks: &[MachineDisk]) -> Vec<(String, i32)> {
    disks.iter().map(|d| (d.target.clone(), d.lun)).collect()
}

/// Disks that the item's choice leaves out. The first disk is always in.
fn left_out(parts: &Parts) -> Vec<PointDisk> {
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
pub(super) fn detailed(
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
    let mut point = point_row(&parts.vault, &parts.item, manifest, luns);
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
    point.name = free_name(service, &point)?;
    Ok(point)
}

/// Tells the catalog of a point that is in the vault: the point, the item's new state, and the job's end, at once, and until
/// it knows.
pub(super) fn record(
    service: &Service,
    job: Uuid,
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
    job: Uuid,
    parts: &Parts,
    manifest: &Manifest,
    luns: &[(String, i32)],
    warnings: &[String],
    no_snapshot: &str,
) -> Result<()> {
    let mut point = detailed(service, job, parts, manifest, luns)?;
    point.vaulted_at = Some(service.now());
    point.no_snapshot = no_snapshot.to_owned();
    if !point.kept_in_manifest {
        notes::look_again(service, parts.vault.id);
    }
    let read_bytes: u64 = manifest.disks.iter().map(|d| d.read_bytes).sum();
    service.catalog.update::<Job, Error>(job, |job| {
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
        let size_mb = manifest.disks.iter().map(|d| d.changed_bytes).sum::<u64>().div_ceil(1 << 20);
        job.properties.retain(|(name, _)| name != "Backup Size");
        let at = job.properties.len().saturating_sub(1);
        job.properties.insert(at, ("Backup Size".into(), format!("{size_mb} MB")));
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

fn guest_note(report: GuestReport) -> PointGuest {
    let script = |run: ScriptRun| PointScript {
        tries: run.tries,
        elapsed_ms: run.elapsed_ms,
        exit_code: run.exit_code,
    };
    PointGuest {
        version: report.version,
        via: match report.via {
            GuestVia::Agent => "agent".into(),
            GuestVia::Port => "port".into(),
        },
        installed: report.installed,
        was_tampered_with: report.was_tampered_with,
        configured: report.configured,
        pre: report.pre.map(script),
        post: report.post.map(script),
        problems: report.problems.iter().map(|code| code.name().to_owned()).collect(),
    }
}

/// A point as the catalog keeps it, from its manifest.
pub(super) fn point_row(vault: &Vault, item: &Item, manifest: &Manifest, luns: &[(String, i32)]) -> Point {
    // A disk that was not known yet gets a number that no other has: a restore names disks by it.
    let mut taken: BTreeSet<i32> = luns.iter().map(|(_, lun)| *lun).collect();
    let mut lun_of = |target: &str| {
        let known = luns.iter().find(|(known, _)| known == target).map(|(_, lun)| *lun);
        known.unwrap_or_else(|| {
            let free = (-1..).find(|lun| !taken.contains(lun)).unwrap_or(i32::MAX);
            taken.insert(free);
            free
        })
    };
    let (reason, scheduled_for, keep_until) = match &manifest.kept {
        // What a policy promised changes with it.
        Some(Promise::Known(kept)) if kept.reason == PointReason::Scheduled => {
            (Some(kept.reason), kept.scheduled_for, None)
        }
        Some(Promise::Known(kept)) => (Some(kept.reason), None, kept.keep_until),
        // It may say anything: nothing lets it go by itself.
        Some(Promise::NotUnderstood(_)) => (Some(PointReason::OnDemand), None, None),
        None => (None, None, None),
    };
    let encrypted = crate::machine::encryption::encrypted_disks(manifest);
    let disks = manifest
        .disks
        .iter()
        .map(|d| PointDisk {
            lun: lun_of(&d.name),
            target: d.name.clone(),
            size_bytes: d.size_bytes,
            encrypted: encrypted.contains(&d.name),
            reason: String::new(),
        })
        .collect();
    // How large those are that were left out it does not say.
    let excluded: Vec<PointDisk> = MachineRecord::of(manifest)
        .skipped
        .into_iter()
        .filter(|s| {
            s.reason == strongroom_hypervisor::EXCLUDED || strongroom_hypervisor::is_missed(&s.reason)
        })
        .map(|skipped| PointDisk {
            lun: lun_of(&skipped.disk),
            target: skipped.disk,
            size_bytes: 0,
            encrypted: false,
            reason: Some(skipped.reason)
                .filter(|why| strongroom_hypervisor::is_missed(why))
                .unwrap_or_default(),
        })
        .collect();
    Point {
        id: manifest.point,
        version: 0,
        vault: vault.id,
        item: item.id,
        name: arm_names::recovery_point_name(&manifest.point, 0),
        taken_at: manifest.taken_at,
        consistency: manifest.consistency.clone(),
        disks,
        has_choice: !excluded.is_empty(),
        excluded,
        os: "Linux".into(),
        machine_size: manifest
            .definition
            .as_ref()
            .map(|d| machine::definition::facts(&d.text))
            .map_or_else(String::new, |facts| machines::size_name(facts.vcpus, facts.memory_mib)),
        stored_bytes: manifest.stored_bytes,
        reason,
        scheduled_for,
        keep_until,
        kept_in_manifest: manifest.kept.is_some(),
        policy_type: "V1".into(),
        job: None,
        drill: None,
        guest: MachineRecord::of(manifest).guest.map(guest_note),
        transfer: Transfer::Done,
        vaulted_at: Some(manifest.committed_at),
        snapshot: None,
        checkpoints: manifest
            .disks
            .iter()
            .filter_map(|d| Some((d.name.clone(), (DiskRecord::of(d).checkpoint?, d.size_bytes))))
            .collect(),
        going_at: None,
        snapshot_ended_at: None,
        missing_since: None,
        no_snapshot: String::new(),
    }
}

/// The point's number; the next one where another point of the item has it.
pub(super) fn free_name(service: &Service, point: &Point) -> Result<String> {
    for attempt in 0.. {
        let name = arm_names::recovery_point_name(&point.id, attempt);
        let query = Query::all().eq("item", point.item).eq("name", name.as_str());
        match service.catalog.first::<Point>(query)? {
            Some(other) if other.id != point.id => {}
            _ => return Ok(name),
        }
    }
    unreachable!("an item has fewer points than there are numbers")
}

/// After a crash: whether the point was committed. Then the rest is made up for.
pub(super) fn recover(service: &Service, job: &Job) -> Result<bool> {
    if job.attempts == 0 {
        return Ok(false);
    }
    let parts = parts(service, job)?;
    if let Some(point) = snapshots::pending(service, job)? {
        return transfer::recover_snapshot(service, job, &parts, &point);
    }
    let store = service.store(&parts.vault)?;
    let id = job.id.to_string();
    let list = store.points(Some(&parts.item.store_item))?;
    let Some(manifest) = list.points.iter().find(|p| MachineRecord::of(p).job.as_deref() == Some(&*id))
    else {
        return Ok(false);
    };
    record(service, job.id, &parts, manifest, &luns(&parts.machine.disks), &[], "")?;
    Ok(true)
}

/// Backs an item up now, and keeps the point until then.
pub fn backup_now(
    service: &Service,
    item: &Item,
    keep_until: Option<Timestamp>,
    asked_by: &str,
) -> Result<Job> {
    let now = service.now();
    let keep_until = match keep_until {
        Some(until) if until <= now => {
            return Err(Error::invalid(format!(
                "The recovery point's expiry time {until} has passed already; give one in the future."
            ))
            .coded("UserErrorInvalidRecoveryPointExpiryTime"));
        }
        Some(until) if until > now.saturating_add(jiff::SignedDuration::from_hours(24 * 366 * 99))? => {
            return Err(Error::invalid("A recovery point can be kept for 99 years at most.")
                .coded("UserErrorInvalidRecoveryPointExpiryTime"));
        }
        Some(until) => until,
        None => now.saturating_add(jiff::SignedDuration::from_hours(24 * i64::from(ON_DEMAND_DAYS)))?,
    };
    item.state.check_backup().map_err(|e| {
        Error::invalid(format!("'{}' cannot be backed up: {e}.", item.machine_name)).coded(e.code())
    })?;
    if let Some(open) = jobs::open_of(service, item.id)? {
        return Err(in_progress(item, &open));
    }
    let job = draft(service, item, &BackupRequest::until(keep_until, PointReason::OnDemand), asked_by);
    // Only if nobody changed the item meanwhile: two that come at once do not both get through.
    match service.catalog.apply(&[Change::put(item), Change::put(&job)]) {
        Ok(()) => {}
        Err(strongroom_catalog::ServiceError::Conflict { .. }) => {
            let again: Item = service.catalog.get(item.id)?.ok_or_else(|| {
                Error::not_found("The protected item is gone.").coded("UserErrorItemNotFound")
            })?;
            return backup_now(service, &again, Some(keep_until), asked_by);
        }
        Err(error) => return Err(error.into()),
    }
    service.runner.wake();
    Ok(job)
}

pub(super) fn in_progress(item: &Item, job: &Job) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!(
            "Unable to initiate backup as another backup operation is currently in progress: '{}' has the job {} ({}). Wait until it is over, or cancel it.",
            item.machine_name,
            job.id,
            job.operation.arm_name()
        ),
    )
    .coded("UserErrorBackupOperationInProgress")
}

/// Whether an item has any point.
pub(super) fn has_points(service: &Service, item: &Item) -> Result<bool> {
    Ok(points::count(service, item)? > 0)
}
