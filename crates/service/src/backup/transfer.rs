//! Backups in two halves: keeping a snapshot as a recovery point, and bringing it into the vault, however often that takes.
//!
//! The first has its commit in [`keep`]: the transaction that writes the point. The second's is the point's manifest in the
//! vault (see [`super::backup`]); until then a try that fails is made again later, and one that was cut short anew.

use crate::backup::record::{BackupRequest, Parts, TRANSFER, detailed, record};
use crate::core::committed;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::jobs::ledger as jobs;
use crate::limits::{JOB_DURATION_MAX, TRANSFER_RETRY_MAX};
use crate::points::row::luns;
use crate::points::{retention, snapshots};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use strongroom_catalog::{Change, Item, Job, JobProgress, Point, PointSnapshot, Query, Transfer};
use strongroom_domain::fact;
use strongroom_domain::job::JobStatus;
use strongroom_engine::machine::{self, SPOILED, TakenMachine};
use strongroom_hypervisor::{DiskParent, Outcome};
use strongroom_store::{Manifest, Progress};

/// What the item's last point in the vault says that its disks are tracked by.
pub(crate) fn last_known(service: &Service, item: &Item) -> Result<BTreeMap<String, DiskParent>> {
    let newest: Vec<Point> =
        service.catalog.find(&Query::all().eq("item", item.id).descending("taken_us").limit(50))?;
    let last = newest.into_iter().find(|p| p.transfer == Transfer::Done);
    Ok(last
        .into_iter()
        .flat_map(|p| p.checkpoints)
        .map(|(target, (checkpoint, size_bytes))| (target, DiskParent { checkpoint, size_bytes }))
        .collect())
}

/// Keeps a snapshot and makes the point of it; or says why there is none.
pub(crate) fn keep(
    service: &Service,
    job: &Job,
    parts: &Parts,
    taken: &mut TakenMachine,
    luns: &[(String, i32)],
) -> Result<Result<Point, String>> {
    if !service.config.snapshots.keep {
        return Ok(Err("the configuration says that none are kept".into()));
    }
    if let Some(why) = &taken.snapshot.not_kept {
        return Ok(Err(why.clone()));
    }
    for directory in &taken.directories {
        if let Some(why) = snapshots::make_room(service, directory)? {
            return Ok(Err(why));
        }
    }
    let manifest = machine::manifest_of_kept(&taken.snapshot, &taken.facts)?;
    let mut point = detailed(service, job.id, parts, &manifest, luns)?;
    point.transfer = Transfer::Pending;
    let _keeping = service.snapshots().keeping();
    let kept = match taken.keep(&snapshots::owner(service)) {
        Ok(kept) => kept,
        Err(error) => return Ok(Err(error.to_string())),
    };
    point.snapshot = Some(PointSnapshot {
        host: parts.machine.host.clone(),
        record: kept.record.clone(),
        expires_at: snapshots::expires_at(service, &parts.item, point.taken_at)?,
    });
    snapshots::note(service, &kept.record);
    let go_on = |job: &mut Job| {
        jobs::begin_task(job, TRANSFER, service.now());
        job.internal.retain(|(name, _)| name != fact::SNAPSHOT_IS_POINT);
        job.internal.push((fact::SNAPSHOT_IS_POINT.into(), "true".into()));
        for warning in &manifest.warnings {
            if !job.warnings.contains(warning) {
                job.warnings.push(warning.clone());
            }
        }
    };
    // The commit: from here on the point is there.
    let committed = service.catalog.update::<Item, Error>(parts.item.id, |item| {
        item.last_point_at = item.last_point_at.max(Some(point.taken_at));
        Ok(vec![Change::put(&point), jobs::change_of(service, job, go_on)?])
    });
    match committed {
        Ok(Some(_)) => {
            point.version = 1;
            Ok(Ok(point))
        }
        failed => {
            // A write whose answer was lost may have been made. Where that cannot be seen the files stay: they are removed as
            // nobody's later, if they are.
            match service.catalog.get::<Point>(point.id) {
                Ok(Some(there)) => return Ok(Ok(there)),
                Ok(None) => snapshots::abandoned(service, &point, true),
                Err(error) => {
                    tracing::warn!(point = %point.id, %error, "whether a snapshot is a point is not known");
                }
            }
            failed?;
            Err(Error::not_found("The protected item is gone.").coded("UserErrorItemNotFound"))
        }
    }
}

/// A try to bring a kept snapshot into the vault. One that fails is made again later, unless nothing can come of it.
pub(crate) fn transfer_snapshot(
    service: &Service,
    job: &Job,
    parts: &Parts,
    point: &Point,
    progress: &Arc<Progress>,
) -> Result<()> {
    match try_transfer(service, job, parts, point, progress) {
        Err(error)
            if error.kind != ErrorKind::Cancelled && !is_final(&error) && !is_too_late(service, job) =>
        {
            again(service, job, &error)
        }
        Err(error) if error.kind != ErrorKind::Cancelled && !is_final(&error) => {
            let kind = match error.kind {
                ErrorKind::NotFound => ErrorKind::Unavailable,
                kind => kind,
            };
            Err(Error::new(
                kind,
                format!(
                    "The snapshot was taken, but its transfer to the vault did not succeed within {} hours; at last: {error}",
                    JOB_DURATION_MAX.as_secs() / 3600
                ),
            )
            .coded("UserErrorTransferToVaultFailed"))
        }
        done => done,
    }
}

/// No later try would end otherwise.
fn is_final(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Invalid | ErrorKind::Unsupported) || error.code == Some(SPOILED)
}

fn is_too_late(service: &Service, job: &Job) -> bool {
    age(service, job) >= JOB_DURATION_MAX
}

/// How long ago it began.
pub(crate) fn age(service: &Service, job: &Job) -> Duration {
    service.now().duration_since(job.started_at).try_into().unwrap_or_default()
}

fn try_transfer(
    service: &Service,
    job: &Job,
    parts: &Parts,
    point: &Point,
    progress: &Arc<Progress>,
) -> Result<()> {
    // Cancelled while it waited.
    progress.check()?;
    jobs::task(service, job, TRANSFER)?;
    let Some((_hold, snapshot)) = snapshots::hold(service, point.id)? else {
        return Err(Error::not_found("The point's snapshot is gone.").coded(SPOILED));
    };
    let hypervisor = service.host(&snapshot.host)?.hypervisor.clone();
    let record_path = snapshots::locate(service, point.id, &snapshot, &*hypervisor, &parts.machine.name)?;
    let store = service.writable_store(&parts.vault)?;
    let (manifest, warnings) = machine::transfer_kept(&*hypervisor, &store, &record_path, progress)?;
    record(service, job, parts, &manifest, &luns(&parts.machine.disks), &warnings, "")?;
    // The job is over; what has expired is looked for again by and by.
    if let Err(error) = retention::expire_item(service, parts.item.id) {
        tracing::warn!(%error, "expired points could not be removed");
    }
    Ok(())
}

const FAILED_SO_FAR: &str = "The transfer to the vault failed";

/// Lets go of the job until the transfer is to be tried again.
fn again(service: &Service, job: &Job, error: &Error) -> Result<()> {
    tracing::warn!(%error, "the transfer is tried again later");
    let first = Duration::from_secs(service.config.snapshots.retry_seconds);
    // The point is there, and its job must not end because this could not be written.
    committed::record(service, "that a transfer is tried again", || again_once(service, job, error, first))
}

fn again_once(service: &Service, job: &Job, error: &Error, first: Duration) -> Result<()> {
    jobs::update(service, job, |job| {
        if job.status.is_over() {
            return Ok(Vec::new());
        }
        let mut request: BackupRequest = serde_json::from_value(job.request.clone()).map_err(|e| {
            Error::new(ErrorKind::Failed, format!("The job's request is not understood: {e}"))
        })?;
        let pause = first.saturating_mul(1 << request.failures.min(16)).min(TRANSFER_RETRY_MAX.max(first));
        request.failures += 1;
        job.request = serde_json::to_value(&request).unwrap_or_default();
        job.lease = None;
        job.not_before = Some(service.now().saturating_add(pause)?);
        job.progress = JobProgress::default();
        let times = if request.failures == 1 { "once".into() } else { format!("{} times", request.failures) };
        job.warnings.retain(|w| !w.starts_with(FAILED_SO_FAR));
        job.warnings.push(format!(
            "{FAILED_SO_FAR} {times}, the last time because of this: {error}. The point can be restored from its snapshot; the transfer is tried again until {} hours after the backup began.",
            JOB_DURATION_MAX.as_secs() / 3600
        ));
        Ok(Vec::new())
    })?;
    Ok(())
}

/// What follows for a point that never came into the vault when its job ends: nobody wants that of a cancelled one, unless a
/// job is going to restore it; that of a failed one stays, as long as its snapshot can be read.
pub(crate) fn without_vault(job: &Job, mut point: Point, is_needed: bool) -> (Change, bool) {
    let unreadable = job.errors.iter().any(|e| e.name == SPOILED);
    if (job.status != JobStatus::Failed || unreadable) && !is_needed {
        return (Change::delete(&point), true);
    }
    let reason = job.errors.first().map(|e| e.message.clone()).unwrap_or_default();
    point.transfer = Transfer::Failed { reason };
    (Change::put(&point), false)
}

/// Of a point whose snapshot was kept: whether it came into the vault. Where that cannot be known now, the next try finds out.
pub(crate) fn recover_snapshot(service: &Service, job: &Job, parts: &Parts, point: &Point) -> Result<bool> {
    let look = || -> Result<Option<Manifest>> {
        Ok(service.store(&parts.vault)?.point_of(&parts.item.store_item, &point.id)?)
    };
    match look() {
        Ok(None) => Ok(false),
        Ok(Some(manifest)) => {
            let mut warnings = Vec::new();
            if let Some(snapshot) = &point.snapshot
                && let Ok(host) = service.host(&snapshot.host)
            {
                match host.hypervisor.conclude_kept(&snapshot.record, Outcome::Committed) {
                    Ok(more) => warnings = more,
                    Err(error) => warnings.push(machine::not_tidied(&error)),
                }
            }
            record(service, job, parts, &manifest, &luns(&parts.machine.disks), &warnings, "")?;
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(job = %job.id, %error, "whether a point is in the vault is not known yet");
            Ok(false)
        }
    }
}
