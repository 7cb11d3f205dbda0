//! Long-running operations, as clients follow them.

use super::Service;
use crate::error::{Error, Result};
use jiff::Timestamp;
use strongroom_catalog::service::{Change, Job, Operation};
use uuid::Uuid;

/// How an operation stands.
#[derive(Debug, Clone)]
pub struct OperationState {
    pub id: Uuid,
    pub started_at: Timestamp,
    /// None while it goes on.
    pub ended_at: Option<Timestamp>,
    pub job: Option<Uuid>,
    /// Azure's code and message, if it failed.
    pub error: Option<(String, String)>,
}

/// One that is over when its job is, or has begun.
pub(super) fn of_job(service: &Service, id: Uuid, job: &Job, follows_job: bool) -> Operation {
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
    }
}

/// One that is over as soon as its job has begun. Of restores its id is the job's.
pub fn begun(service: &Service, job: &Job, id_is_jobs: bool) -> Result<Uuid> {
    let id = if id_is_jobs { job.id } else { Uuid::new_v4() };
    service.catalog.apply(&[Change::put(&of_job(service, id, job, false))])?;
    Ok(id)
}

/// One that is over already.
pub fn done(service: &Service, vault: Option<Uuid>) -> Result<Operation> {
    let now = service.now();
    let operation = Operation {
        id: Uuid::new_v4(),
        version: 0,
        vault,
        started_at: now,
        ended_at: Some(now),
        job: None,
        follows_job: false,
        error: None,
    };
    service.catalog.apply(&[Change::put(&operation)])?;
    Ok(operation)
}

pub fn state(service: &Service, id: Uuid) -> Result<OperationState> {
    let operation: Operation = service.catalog.get(id)?.ok_or_else(|| {
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
    Ok(OperationState { id, started_at: operation.started_at, ended_at, job: operation.job, error })
}
