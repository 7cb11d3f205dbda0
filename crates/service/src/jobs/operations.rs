//! Long-running operations, as clients follow them.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use jiff::Timestamp;
use strongroom_catalog::{Change, Job, Operation, Query, Vault};
use uuid::Uuid;

/// How an operation stands.
#[derive(Debug, Clone)]
pub struct OperationState {
    /// What it is followed by.
    pub id: Uuid,
    /// The vault that it is about, if it is about one.
    pub vault: Option<Uuid>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// None while it goes on.
    pub ended_at: Option<Timestamp>,
    /// The job that does it. None: it is done without one.
    pub job: Option<Uuid>,
    /// Azure's code and message, if it failed; of a validation, what it found.
    pub error: Option<(String, String)>,
    /// It asked whether something could be done.
    pub validates: bool,
}

/// One that is over when its job is, or has begun.
pub(crate) fn of_job(service: &Service, id: Uuid, job: &Job, follows_job: bool) -> Operation {
    let now = service.now();
    Operation {
        id,
        version: 0,
        vault: Some(job.vault),
        started_at: now,
        ended_at: (!follows_job || job.status.is_over()).then_some(now),
        job: Some(job.id),
        follows_job,
        error: None,
        validates: false,
    }
}

/// One that is over as soon as its job has begun. Of restores its id is the job's. The job is there: where the operation cannot be
/// written it is followed by the job's own id.
pub fn begun(service: &Service, job: &Job, id_is_jobs: bool) -> Result<Uuid> {
    let id = if id_is_jobs { job.id } else { Uuid::new_v4() };
    if let Err(error) = service.catalog.apply(&[Change::put(&of_job(service, id, job, false))]) {
        tracing::warn!(job = %job.id, %error, "an operation could not be written; its job goes on");
        return Ok(job.id);
    }
    Ok(id)
}

/// One that is over already.
pub fn done(service: &Service, vault: Option<Uuid>) -> Result<Operation> {
    ended(service, vault, false, None)
}

/// A validation that is over, with what it found in the way: Azure's code and message.
pub fn validated(service: &Service, vault: &Vault, found: Option<(String, String)>) -> Result<Operation> {
    ended(service, Some(vault.id), true, found)
}

fn ended(
    service: &Service,
    vault: Option<Uuid>,
    validates: bool,
    error: Option<(String, String)>,
) -> Result<Operation> {
    let now = service.now();
    let operation = Operation {
        id: Uuid::new_v4(),
        version: 0,
        vault,
        started_at: now,
        ended_at: Some(now),
        job: None,
        follows_job: false,
        error,
        validates,
    };
    service.catalog.apply(&[Change::put(&operation)])?;
    Ok(operation)
}

/// Ends one that no job does, well or with an error.
pub(crate) fn end(service: &Service, id: Uuid, problem: Option<&Error>) -> Result<()> {
    let error = problem.map(|e| (e.code.unwrap_or("InternalServerError").to_owned(), e.message.clone()));
    service.catalog.update::<Operation, Error>(id, |row| {
        row.ended_at = Some(service.now().max(row.started_at));
        row.error.clone_from(&error);
        Ok(Vec::new())
    })?;
    Ok(())
}

/// What is said of one that the service's end cut short.
pub(crate) fn interrupted(what: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("The service ended while {what}. Ask again."))
        .coded("UserErrorServiceInterrupted")
}

/// At the start: what does not follow a job was done by a thread that is no more.
pub(crate) fn recover(service: &Service) -> Result<()> {
    let open: Vec<Operation> = service.catalog.find(&Query::all().eq("open", true))?;
    for operation in open.iter().filter(|o| !o.follows_job) {
        end(service, operation.id, Some(&interrupted("this went on")))?;
    }
    Ok(())
}

/// How an operation stands; that of a job may be asked for by the job's id. Not found: it never was, or is longer over than
/// operations are kept.
pub fn state(service: &Service, id: Uuid) -> Result<OperationState> {
    let operation: Option<Operation> = match service.catalog.get(id)? {
        None => service.catalog.get::<Job>(id)?.map(|job| of_job(service, id, &job, false)),
        there => there,
    };
    let operation = operation.ok_or_else(|| {
        Error::not_found(format!("Operation {id} was not found; operations are kept for some days."))
            .coded("OperationNotFound")
    })?;
    let mut ended_at = operation.ended_at;
    let mut error = operation.error;
    if ended_at.is_none() && operation.follows_job {
        match operation.job.map(|job| service.catalog.get::<Job>(job)).transpose()?.flatten() {
            Some(job) => ended_at = job.ended_at,
            None => {
                ended_at = Some(service.now());
                error = Some(("JobNotFound".into(), "The operation's job is no longer known.".into()));
            }
        }
    }
    let Operation { vault, started_at, job, validates, .. } = operation;
    Ok(OperationState { id, vault, started_at, ended_at, job, error, validates })
}
