//! The ledger: every write of a job's row goes through here.
//!
//! Whoever runs a job writes with the number that its lease gave it ([`update`]): when the lease ran out and somebody else
//! took the job over, that number is no longer the row's, and nothing is written.

use super::errors::{self, NOT_UNDERSTOOD};
use super::kind::{self, Hold};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strongroom_catalog::{Change, Item, Job, JobProgress, Point, Query, Vault};
use strongroom_domain::job::{JobError, JobOperation, JobStatus, JobTask, TaskStatus};
use strongroom_domain::{Datasource, fact};
use uuid::Uuid;

/// Which jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// None: whichever.
    pub status: Option<JobStatus>,
    /// None: whichever.
    pub operation: Option<JobOperation>,
    /// Begun then or later. None: ever.
    pub started_from: Option<Timestamp>,
    /// Begun earlier than this. None: ever.
    pub started_before: Option<Timestamp>,
    /// Of this item. None: of any, or of none.
    pub item: Option<Uuid>,
    /// About one of these. None: about anything.
    pub datasources: Option<Vec<Datasource>>,
}

impl JobFilter {
    /// Whether a job is one of those.
    pub fn passes(&self, job: &Job) -> bool {
        self.status.is_none_or(|status| job.status == status)
            && self.operation.is_none_or(|operation| job.operation == operation)
            && self.started_from.is_none_or(|from| job.started_at >= from)
            && self.started_before.is_none_or(|before| job.started_at < before)
            && self.item.is_none_or(|item| job.item == Some(item))
            && self.datasources.as_ref().is_none_or(|any_of| any_of.contains(&job.datasource))
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
    if let Some(datasources) = &filter.datasources {
        query = query.any_of("datasource", datasources.iter().map(|d| d.name()));
    }
    if let Some(from) = filter.started_from {
        query = query.at_least("started_us", from);
    }
    if let Some(before) = filter.started_before {
        query = query.less("started_us", before);
    }
    Ok(service.catalog.find(&query.descending("started_us").ascending("id").skip(skip).limit(limit))?)
}

/// The job of this id, if it is of this vault.
pub fn get(service: &Service, vault: &Vault, id: Uuid) -> Result<Job> {
    service.catalog.get::<Job>(id)?.filter(|job| job.vault == vault.id).ok_or_else(|| {
        Error::not_found(format!("Job '{id}' was not found in vault '{}'.", vault.name)).coded("JobNotFound")
    })
}

/// Whether any job of an item is not over.
pub(crate) fn has_open(service: &Service, item: Uuid) -> Result<bool> {
    Ok(service.catalog.first::<Job>(Query::all().eq("item", item).eq("open", true))?.is_some())
}

/// The job of an item that is not over and stands in the way of others, if any.
pub fn open_of(service: &Service, item: Uuid) -> Result<Option<Job>> {
    let open: Vec<Job> =
        service.catalog.find(&Query::all().eq("item", item).eq("open", true).descending("started_us"))?;
    // Those that only read a point do not, some of them for long. One of a kind that is not known may do anything.
    Ok(open.into_iter().find(|job| kind::known(service, job).is_none_or(|kind| kind.item() == Hold::Alone)))
}

/// A job that is not over, and that a point must not go before. To be asked after the point's row was read: a job that is made
/// later changes the row.
pub(crate) fn needing(service: &Service, point: &Point) -> Result<Option<Job>> {
    let open: Vec<Job> = service.catalog.find(&Query::all().eq("item", point.item).eq("open", true))?;
    // One of a kind that is not known may read any.
    let needs = |job: &Job| kind::known(service, job).is_none_or(|kind| kind.reads(job).contains(&point.id));
    Ok(open.into_iter().find(needs))
}

/// Jobs that are not over, the oldest first.
pub(crate) fn open(service: &Service) -> Result<Vec<Job>> {
    Ok(service.catalog.find(&Query::all().eq("open", true).ascending("started_us"))?)
}

/// A new job about an item, which this kind does, not written yet. An empty kind: it is over when it is written.
pub(crate) fn draft(
    service: &Service,
    item: &Item,
    kind: &str,
    operation: JobOperation,
    asked_by: &str,
) -> Job {
    Job {
        item: Some(item.id),
        datasource: item.datasource,
        entity: item.machine_name.clone(),
        container: strongroom_domain::arm_names::container_short_name(&item.group, &item.machine_name),
        properties: vec![(fact::MACHINE.into(), item.machine_name.clone())],
        ..draft_in(service, item.vault, kind, operation, asked_by)
    }
}

/// A new job in a vault, about no item.
pub(super) fn draft_in(
    service: &Service,
    vault: Uuid,
    kind: &str,
    operation: JobOperation,
    asked_by: &str,
) -> Job {
    Job {
        id: Uuid::new_v4(),
        version: 0,
        vault,
        item: None,
        datasource: Datasource::default(),
        operation,
        kind: kind.to_owned(),
        status: JobStatus::InProgress,
        started_at: service.now(),
        ended_at: None,
        entity: String::new(),
        container: String::new(),
        tasks: Vec::new(),
        properties: Vec::new(),
        internal: Vec::new(),
        progress: JobProgress::default(),
        errors: Vec::new(),
        warnings: Vec::new(),
        request: serde_json::Value::Null,
        lease: None,
        fence: 0,
        cancel_requested: false,
        attempts: 0,
        unsettled: false,
        not_before: None,
        activity_id: Uuid::new_v4(),
        asked_by: asked_by.to_owned(),
    }
}

/// Writes a job that reads a point. The same transaction touches the point, so that whoever is about to remove it notices, and
/// is refused for one that goes already. From there on the point stays until the job is over.
pub(crate) fn put_reading(service: &Service, job: &Job, point: &Point) -> Result<()> {
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

/// The row of a job that is being run changes: by whoever has its lease, as `job` says, and by nobody else. `change` answers what
/// else is to be applied together with it. None: there is no such job any more.
pub(crate) fn update(
    service: &Service,
    job: &Job,
    mut change: impl FnMut(&mut Job) -> Result<Vec<Change>>,
) -> Result<Option<Job>> {
    update_any(service, job.id, |row| {
        is_under(row, job.fence)?;
        change(row)
    })
}

fn is_under(row: &Job, fence: u64) -> Result<()> {
    if row.fence == fence { Ok(()) } else { Err(errors::lease_lost(row.id)) }
}

/// The change of the row of a job that is being run, to be applied together with that of another row. One that nobody has seen
/// yet is written by it.
pub(crate) fn change_of(service: &Service, job: &Job, change: impl FnOnce(&mut Job)) -> Result<Change> {
    let mut row = service.catalog.get::<Job>(job.id)?.unwrap_or_else(|| job.clone());
    is_under(&row, job.fence)?;
    change(&mut row);
    Ok(Change::put(&row))
}

/// The row of a job changes, whoever has its lease: what somebody asks of it, and what is found out about one that nobody runs.
pub(super) fn update_any(
    service: &Service,
    id: Uuid,
    change: impl FnMut(&mut Job) -> Result<Vec<Change>>,
) -> Result<Option<Job>> {
    service.catalog.update::<Job, Error>(id, change)
}

/// The parameters of a job, as its row keeps them.
pub(crate) fn params(params: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(params).map_err(|e| {
        Error::new(ErrorKind::Failed, format!("The job's request could not be written down: {e}"))
    })
}

/// Keeps what a job has to remember, in its own parameters.
pub(crate) fn save_params(service: &Service, job: &Job, params: &impl Serialize) -> Result<()> {
    let kept = self::params(params)?;
    update(service, job, |row| {
        row.request.clone_from(&kept);
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Notes that a job has come to a task.
pub(crate) fn task(service: &Service, job: &Job, task: &str) -> Result<()> {
    update(service, job, |row| {
        begin_task(row, task, service.now());
        Ok(Vec::new())
    })?;
    Ok(())
}

/// What a job is about, and what is to be done.
pub(crate) fn parts<R: DeserializeOwned>(service: &Service, job: &Job) -> Result<(Vault, Item, R)> {
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

/// Moves on to a task: those before it are complete.
pub(crate) fn begin_task(job: &mut Job, id: &str, now: Timestamp) {
    let Some(at) = job.tasks.iter().position(|t| t.id == id) else { return };
    for task in &mut job.tasks[..at] {
        end_task(task, JobStatus::Completed, now);
    }
    job.tasks[at].begin(now);
}

/// Ends a job in this row; the row is still to be written.
pub(crate) fn end(job: &mut Job, status: JobStatus, now: Timestamp) {
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

pub(crate) fn note_cancelled(job: &mut Job) {
    job.errors = vec![JobError::cancelled()];
}
