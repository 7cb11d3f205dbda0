//! The job that backs a machine up.
//!
//! Where the machine's storage clones files, it has two commits. The first makes the point: one transaction, after the
//! snapshot was kept, writes its row and ends the task "Take Snapshot". From there on it can be restored, and the transfer is
//! tried again until it succeeds, with pauses in which the job holds nothing, for as long as a backup may take. Elsewhere
//! there is only the second.
//!
//! The second is the point's manifest in the vault; what follows, one transaction that ends the job and notes the point, only
//! tells of it, and is made up for at the next start if it was missed.

use crate::backup::record::{self, BackupRequest, Parts, TAKE_SNAPSHOT, TRANSFER, VALIDATE};
use crate::backup::transfer;
use crate::core::committed;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::estate::machines;
use crate::jobs::kind::{Again, Cancel, Claims, Ended, Hold, JobKind, Recovery};
use crate::jobs::{errors as job_errors, ledger as jobs};
use crate::limits::{JOB_ATTEMPTS_MAX, TRANSFER_RETRY_MAX};
use crate::points::{retention, row, snapshots};
use crate::protection::items;
use crate::vaults::exclusive;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strongroom_catalog::{Change, Item, Job, Machine, Point, Policy, Query, Vault};
use strongroom_domain::fact;
use strongroom_domain::job::{JobOperation, JobTask};
use strongroom_domain::limits::ON_DEMAND_DAYS;
use strongroom_domain::policy::{Policy as Rules, SnapshotConsistency};
use strongroom_domain::retention::{PointFacts, PointReason, RetentionMode, retain};
use strongroom_engine::machine::record::MachineRecord;
use strongroom_engine::machine::{self, BackupOptions};
use strongroom_hypervisor::Quiesce;
use strongroom_store::{Kept, KeptPolicy, Progress};

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
pub(crate) fn draft(service: &Service, item: &Item, request: &BackupRequest, asked_by: &str) -> Job {
    let mut job = jobs::draft(service, item, KIND, JobOperation::Backup, asked_by);
    job.tasks = [TAKE_SNAPSHOT, TRANSFER, VALIDATE].map(JobTask::new).into();
    if let Some(until) = request.keep_until {
        job.properties.push((fact::POINT_KEPT_UNTIL.into(), until.to_string()));
    }
    job.properties.push((fact::SUBSCRIPTION.into(), service.subscription.to_string()));
    job.internal.push((fact::SNAPSHOT_IS_POINT.into(), "false".into()));
    job.request = serde_json::to_value(request).unwrap_or_default();
    job
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

/// The job that backs a machine up.
pub(crate) struct Backup;

impl JobKind for Backup {
    fn name(&self) -> &'static str {
        KIND
    }

    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
        run(service, job, progress)
    }

    fn recover(&self, service: &Service, job: &Job) -> Result<Recovery> {
        if recover(service, job)? {
            return Ok(Recovery::Committed);
        }
        // Where its snapshot is there only the transfer begins anew.
        let is_kept = snapshots::pending(service, job)?.is_some();
        Ok(Recovery::Nothing(if is_kept { Again::Always } else { Again::Times(JOB_ATTEMPTS_MAX) }))
    }

    fn claims(&self, service: &Service, job: &Job) -> Result<Claims> {
        let vault = if exclusive::takes_one_writer(service, job.vault) { Hold::Alone } else { Hold::Shared };
        Ok(Claims { vault, ..Claims::of_machine(service, job)? })
    }

    fn cancel(&self, service: &Service, job: &Job) -> Result<Cancel> {
        // A snapshot that is kept is removed by whoever ends the job.
        let is_kept = snapshots::pending(service, job)?.is_some();
        Ok(if is_kept { Cancel::NeedsRun } else { Cancel::AtOnce })
    }

    fn ends_with_protection(&self) -> bool {
        true
    }

    fn waits_for_vault(&self) -> bool {
        true
    }

    fn longest_pause(&self, service: &Service) -> Duration {
        TRANSFER_RETRY_MAX.max(Duration::from_secs(service.config.snapshots.retry_seconds))
    }

    fn put_back(&self, service: &Service, job: &mut Job) -> Result<()> {
        // With its snapshot the first of its tasks is done for good.
        if snapshots::pending(service, job)?.is_none() {
            job.tasks = job.tasks.iter().map(|task| JobTask::new(&task.id)).collect();
        }
        Ok(())
    }

    fn was_committed(&self, service: &Service, job: &Job) -> Result<bool> {
        Ok(snapshots::pending(service, job)?.is_some() && recover(service, job)?)
    }

    fn ended(&self, service: &Service, job: &Job) -> Result<Ended> {
        let mut ended = Ended::default();
        if let Some(point) = snapshots::pending(service, job)? {
            let is_needed = jobs::needing(service, &point)?.is_some();
            let (change, removed) = transfer::without_vault(job, point.clone(), is_needed);
            ended.changes.push(change);
            ended.then = Some(Box::new(move |service| snapshots::abandoned(service, &point, removed)));
        }
        let item = job.item.map(|item| service.catalog.get::<Item>(item)).transpose()?.flatten();
        if let Some(mut item) = item {
            item.last_backup = Some(record::last_backup(job));
            ended.changes.push(Change::put(&item));
        }
        Ok(ended)
    }
}

/// What rows name this kind of job by.
const KIND: &str = "backup";

pub(crate) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    look_for_machine(service, job);
    // Its snapshot may be a point already, which no failure to read rows ends.
    let (parts, pending) = committed::record(service, "a backup", || {
        Ok((record::parts(service, job)?, snapshots::pending(service, job)?))
    })?;
    if let Some(point) = pending {
        return transfer::transfer_snapshot(service, job, &parts, &point, progress);
    }
    jobs::task(service, job, TAKE_SNAPSHOT)?;
    if let Some(gone_at) = parts.machine.gone_at {
        return Err(Error::not_found(format!(
            "Machine '{}' is no longer on host '{}' (last seen before {gone_at}).",
            parts.machine.name, parts.machine.host
        ))
        .coded("UserErrorVmNotFound"));
    }
    let seen = machines::look(service, &parts.machine)?;
    let store = service.writable_store(&parts.vault).map_err(Into::into);
    let (left_out, known) = (record::left_out(&parts), row::luns(&parts.machine.disks));
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
        .map_err(|error| missing_disk(&seen, &options.exclude).unwrap_or_else(|| error.into()))?;
    match transfer::keep(service, job, &parts, &mut taken, &known)? {
        Ok(point) => {
            drop(taken);
            transfer::transfer_snapshot(service, job, &parts, &point, progress)
        }
        Err(why) => {
            if let Err(error) = jobs::task(service, job, TRANSFER) {
                tracing::warn!(%error, "the job's progress could not be written");
            }
            let done = taken.transfer(progress)?;
            record::record(service, job, &parts, &done.point, &known, &done.warnings, &why)?;
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
pub(crate) fn take_point(
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
    let store = service.writable_store(vault).map_err(Into::into);
    let mut taken = machine::take(&*hypervisor, store, &machine.name, &options, progress)?;
    let parts = Parts { item: item.clone(), vault: vault.clone(), machine: machine.clone(), request };
    let why = match transfer::keep(service, &job, &parts, &mut taken, &row::luns(&machine.disks))? {
        Ok(point) => {
            service.life.wake();
            return Ok(point);
        }
        Err(why) => why,
    };
    let done = taken.transfer(progress)?;
    // What it cost is nothing to whoever restores.
    let told = done.warnings.iter().filter(|w| !w.contains("is read fully"));
    warnings.extend(told.map(|w| format!("the point of the disks before: {w}")));
    let mut point = row::point_row(vault, item, &done.point, &row::luns(&machine.disks));
    point.os.clone_from(&machine.os);
    point.no_snapshot = why;
    let taken_at = point.taken_at;
    // It is in the vault: the row follows, however long that takes.
    committed::record(service, "a point that is in the vault", || {
        if let Some(there) = service.catalog.get::<Point>(point.id)? {
            return Ok(there);
        }
        let mut point = point.clone();
        point.name = row::free_name(service, &point)?;
        service.catalog.update::<Item, Error>(item.id, |row| {
            row.last_point_at = row.last_point_at.max(Some(taken_at));
            Ok(vec![Change::put(&point)])
        })?;
        point.version = 1;
        Ok(point)
    })
}

/// After a crash: whether the point was committed. Then the rest is made up for.
pub(crate) fn recover(service: &Service, job: &Job) -> Result<bool> {
    if job.attempts == 0 {
        return Ok(false);
    }
    let parts = record::parts(service, job)?;
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
    record::record(service, job, &parts, manifest, &row::luns(&parts.machine.disks), &[], "")?;
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
        return Err(job_errors::in_progress(item, &open));
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
    service.life.wake();
    Ok(job)
}
