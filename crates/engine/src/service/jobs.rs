//! Jobs: listing them, cancelling them, and how they end.

use super::Service;
use crate::error::{Error, ErrorKind, Result};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use strongroom_catalog::{Change, Item, Job, JobProgress, Point, Query, Vault};
use strongroom_domain::PointId;
use strongroom_domain::job::{JobError, JobOperation, JobStatus, JobTask, TaskStatus};
use strongroom_store::StoreError;
use uuid::Uuid;

/// Which jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    pub operation: Option<JobOperation>,
    pub started_from: Option<Timestamp>,
    pub started_before: Option<Timestamp>,
    pub item: Option<Uuid>,
}

impl JobFilter {
    /// Whether a job is one of those.
    pub fn passes(&self, job: &Job) -> bool {
        self.status.is_none_or(|status| job.status == status)
            && self.operation.is_none_or(|operation| job.operation == operation)
            && self.started_from.is_none_or(|from| job.started_at >= from)
            && self.started_before.is_none_or(|before| job.started_at < before)
            && self.item.is_none_or(|item| job.item == Some(item))
    }
}

/// A page of jobs, the newest first.
pub fn list(service: &Service, vault: &Vault, filter: &JobFilter, skip: u32, limit: u32) -> Result<Vec<Job>> {
    let mut query = Query::all().eq("vault", vault.id);
    if let Some(status) = filter.status {
        query = query.eq("status", status.arm_name());
    }
    if let Some(operation) = filter.operation {
        query = query.eq("operation", operation.arm_name());
    }
    if let Some(item) = filter.item {
        query = query.eq("item", item);
    }
    if let Some(from) = filter.started_from {
        query = query.at_least("started_us", from);
    }
    if let Some(before) = filter.started_before {
        query = query.less("started_us", before);
    }
    Ok(service.catalog.find(&query.descending("started_us").ascending("id").skip(skip).limit(limit))?)
}

pub fn get(service: &Service, vault: &Vault, id: Uuid) -> Result<Job> {
    service.catalog.get::<Job>(id)?.filter(|job| job.vault == vault.id).ok_or_else(|| {
        Error::not_found(format!("Job '{id}' was not found in vault '{}'.", vault.name)).coded("JobNotFound")
    })
}

/// Whether any job of an item is not over.
pub(super) fn has_open(service: &Service, item: Uuid) -> Result<bool> {
    Ok(service.catalog.first::<Job>(Query::all().eq("item", item).eq("open", true))?.is_some())
}

/// The job of an item that is not over and stands in the way of others, if any.
pub fn open_of(service: &Service, item: Uuid) -> Result<Option<Job>> {
    let open: Vec<Job> =
        service.catalog.find(&Query::all().eq("item", item).eq("open", true).descending("started_us"))?;
    // Those only read a point, some of them for long.
    Ok(open.into_iter().find(|job| job.operation != JobOperation::Drill && !super::instant::is_one(job)))
}

/// The points that a job reads, or may have to: as long as it is open they stay.
fn points_of(job: &Job) -> impl Iterator<Item = PointId> + '_ {
    ["/point", "/swap/before"]
        .into_iter()
        .filter_map(|at| job.request.pointer(at)?.as_str()?.parse().ok())
        .map(PointId::from_uuid)
}

/// A job that is not over, and that a point must not go before. To be asked after the point's row was read: a job that is made
/// later changes the row.
pub(super) fn needing(service: &Service, point: &Point) -> Result<Option<Job>> {
    let open: Vec<Job> = service.catalog.find(&Query::all().eq("item", point.item).eq("open", true))?;
    Ok(open.into_iter().find(|job| points_of(job).any(|id| id == point.id)))
}

/// Writes a job that reads a point. The same transaction touches the point, so that whoever is about to remove it notices, and
/// is refused for one that goes already. From there on the point stays until the job is over.
pub(super) fn put_reading(service: &Service, job: &Job, point: &Point) -> Result<()> {
    let gone = || {
        Error::not_found(format!(
            "Recovery point '{}' of '{}' has expired meanwhile: choose another one.",
            point.name, job.entity
        ))
        .coded("UserErrorRecoveryPointNotFound")
    };
    let pinned = service.catalog.update::<Point, Error>(point.id, |row| match row.going_at {
        Some(_) => Err(gone()),
        None => Ok(vec![Change::put(job)]),
    })?;
    pinned.map(|_| ()).ok_or_else(gone)
}

/// A new job about an item, not written yet.
pub(super) fn draft(service: &Service, item: &Item, operation: JobOperation, asked_by: &str) -> Job {
    Job {
        id: Uuid::new_v4(),
        version: 0,
        vault: item.vault,
        item: Some(item.id),
        operation,
        status: JobStatus::InProgress,
        started_at: service.now(),
        ended_at: None,
        entity: item.machine_name.clone(),
        container: strongroom_domain::arm_names::container_short_name(&item.group, &item.machine_name),
        tasks: Vec::new(),
        properties: vec![("VM Name".into(), item.machine_name.clone())],
        internal: Vec::new(),
        progress: JobProgress::default(),
        errors: Vec::new(),
        warnings: Vec::new(),
        request: serde_json::Value::Null,
        lease: None,
        cancel_requested: false,
        attempts: 0,
        unsettled: false,
        not_before: None,
        activity_id: Uuid::new_v4(),
        asked_by: asked_by.to_owned(),
    }
}

/// Ends a job in this row; the row is still to be written.
pub(super) fn end(job: &mut Job, status: JobStatus, now: Timestamp) {
    job.status = status;
    // A clock that was set back makes no job end before it began.
    let now = now.max(job.started_at);
    job.ended_at = Some(now);
    job.lease = None;
    for task in &mut job.tasks {
        end_task(task, status, now);
    }
}

fn end_task(task: &mut JobTask, status: JobStatus, now: Timestamp) {
    let status = match status {
        JobStatus::Failed => TaskStatus::Failed,
        JobStatus::Cancelled => TaskStatus::Cancelled,
        _ => TaskStatus::Completed,
    };
    task.finish(status, now);
}

/// Moves on to a task: those before it are complete.
pub(super) fn begin_task(job: &mut Job, id: &str, now: Timestamp) {
    let Some(at) = job.tasks.iter().position(|t| t.id == id) else { return };
    for task in &mut job.tasks[..at] {
        end_task(task, JobStatus::Completed, now);
    }
    job.tasks[at].begin(now);
}

/// Asks a job to stop. One that nobody has begun ends at once.
pub fn cancel(service: &Service, vault: &Vault, id: Uuid) -> Result<Job> {
    let job = get(service, vault, id)?;
    if !job.operation.is_cancellable() {
        return Err(Error::invalid(format!(
            "A job of the operation {} cannot be cancelled.",
            job.operation.arm_name()
        ))
        .coded("UserErrorJobCancellationNotSupported"));
    }
    let is_kept = super::snapshots::pending(service, &job)?.is_some();
    let cancelled = service.catalog.update::<Job, Error>(id, |job| {
        if job.status.is_over() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("Job '{id}' is over already: {}.", job.status.arm_name()),
            )
            .coded("UserErrorJobAlreadyCompleted"));
        }
        job.cancel_requested = true;
        job.status = JobStatus::Cancelling;
        // One that has made something is begun once more, to take it away; one whose snapshot is there is ended by the
        // runner, which removes it.
        let has_begun = has_begun(job) || job.unsettled;
        if job.lease.is_none() && !is_kept && !has_begun {
            note_cancelled(job);
            end(job, JobStatus::Cancelled, service.now());
        }
        Ok(Vec::new())
    })?;
    service.runner.cancel(id);
    service.runner.wake();
    cancelled.ok_or_else(|| Error::not_found(format!("Job '{id}' is gone.")))
}

/// Whether a job has made something, before its commit or after it, that only it can take away or complete.
pub(super) fn has_begun(job: &Job) -> bool {
    super::instant::has_begun(job) || super::restore_container::has_begun(job) || super::swap::has_begun(job)
}

pub(super) fn note_cancelled(job: &mut Job) {
    job.errors = vec![JobError::cancelled()];
}

/// What a failure is called in jobs.
pub(super) fn job_error(error: &Error) -> JobError {
    let (code, name, recommendation) = match error.kind {
        ErrorKind::NotFound => not_found(error),
        ErrorKind::AlreadyExists => {
            (400203, "UserErrorTargetAlreadyExists", "Choose another name or place, then run the job again.")
        }
        ErrorKind::Busy => (
            400101,
            "UserErrorOperationInProgress",
            "Wait until what uses it is over, then run the job again.",
        ),
        ErrorKind::Unsupported => (
            400110,
            "UserErrorUnsupportedConfiguration",
            "Change what the message names, then run the job again.",
        ),
        ErrorKind::NeedsFull => {
            (400111, "UserErrorFullBackupNeeded", "Run the backup again: all will be read.")
        }
        ErrorKind::Corrupt => (
            400300,
            "VaultDataDamaged",
            "Check the vault with `strongroom rescue vault check --read-data`; the next backup heals what it still can.",
        ),
        ErrorKind::Denied => (
            400310,
            "UserErrorAccessDenied",
            "Give the service the permission, or the key, that the message names.",
        ),
        ErrorKind::Invalid => (400001, "UserErrorInvalidRequest", "Correct the request, then run it again."),
        ErrorKind::NoSpace => (400320, "UserErrorNotEnoughSpace", "Make room, then run the job again."),
        ErrorKind::Unavailable => (
            400330,
            "UserErrorHostUnavailable",
            "Start or repair what does not answer; the next scheduled run tries again.",
        ),
        ErrorKind::Cancelled => {
            (400158, "UserErrorJobSuccessfullyCancelled", "Run it again when you want it done.")
        }
        ErrorKind::Failed => {
            (400999, "InternalError", "Run the job again; if it fails again, look at the service's log.")
        }
    };
    let (code, recommendation) = error.number.unwrap_or((code, recommendation));
    JobError {
        code,
        name: error.code.unwrap_or(name).into(),
        message: error.message.clone(),
        recommendation: recommendation.into(),
    }
}

/// What was not found, and what to do about it.
fn not_found(error: &Error) -> (i64, &'static str, &'static str) {
    match error.cause::<StoreError>() {
        Some(StoreError::NotFound { .. }) => (
            400004,
            "UserErrorRecoveryPointNotFound",
            "Choose another recovery point. If this one ought to be there, look with `strongroom vault reconcile`.",
        ),
        Some(StoreError::NotAVault { .. } | StoreError::Unmarked { .. }) => (
            400005,
            "UserErrorVaultStoreNotFound",
            "Mount the file system that the vault is on, or put the vault back where it was, then run the job again.",
        ),
        Some(_) => (
            400005,
            "UserErrorVaultStoreNotFound",
            "Make sure that the vault's place is mounted and can be read, then run the job again; `strongroom rescue vault check` says what is missing.",
        ),
        None if error.code == Some(MISSING_POINT) => (
            400004,
            MISSING_POINT,
            "Choose another recovery point. If this one ought to be there, look with `strongroom vault reconcile`.",
        ),
        None if is_machines(error) => (
            400002,
            "UserErrorVmNotFound",
            "Make sure that the machine and its disks are there, then run the job again.",
        ),
        None => (
            400006,
            "UserErrorResourceNotFound",
            "Make sure that what the message names is there, then run the job again.",
        ),
    }
}

/// A recovery point that is named and is not there.
const MISSING_POINT: &str = "UserErrorRecoveryPointNotFound";

/// Whether the machine, or something of it, is what was not found.
fn is_machines(error: &Error) -> bool {
    use strongroom_hypervisor::Error as Hypervisor;
    let is_it = |what: &str| what.starts_with("machine ") || what.starts_with("disk ");
    error.code == Some("UserErrorVmNotFound")
        || matches!(error.cause(), Some(Hypervisor::NotFound { what }) if is_it(what))
}

/// Of a job that nobody can say anything of, ever.
pub(super) const NOT_UNDERSTOOD: &str = "UserErrorJobNotUnderstood";

/// What a job is about, and what is to be done.
pub(super) fn parts<R: DeserializeOwned>(service: &Service, job: &Job) -> Result<(Vault, Item, R)> {
    let gone =
        |what: &str| Error::not_found(format!("The job's {what} is no longer known.")).coded(NOT_UNDERSTOOD);
    let item = job.item.map(|id| service.catalog.get(id)).transpose()?.flatten();
    let vault = service.catalog.get(job.vault)?.ok_or_else(|| gone("vault"))?;
    let request = serde_json::from_value(job.request.clone()).map_err(|e| {
        Error::new(ErrorKind::Failed, format!("The job's request is not understood: {e}"))
            .coded(NOT_UNDERSTOOD)
    })?;
    Ok((vault, item.ok_or_else(|| gone("item"))?, request))
}

/// Jobs that are not over, the oldest first.
pub(super) fn open(service: &Service) -> Result<Vec<Job>> {
    Ok(service.catalog.find(&Query::all().eq("open", true).ascending("started_us"))?)
}
