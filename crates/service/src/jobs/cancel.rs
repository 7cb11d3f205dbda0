//! Cancelling a job.

use super::kind::{self, Cancel};
use super::{ledger, running};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use strongroom_catalog::{Job, Vault};
use strongroom_domain::job::JobStatus;
use uuid::Uuid;

/// Asks a job to stop. One that nobody has begun ends at once.
pub fn cancel(service: &Service, vault: &Vault, id: Uuid) -> Result<Job> {
    let job = ledger::get(service, vault, id)?;
    if job.kind.is_empty() {
        return Err(Error::invalid(format!(
            "A job of the operation {} cannot be cancelled.",
            job.operation.arm_name()
        ))
        .coded("UserErrorJobCancellationNotSupported"));
    }
    let cancelled = ledger::update_any(service, id, |job| {
        if job.status.is_over() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("Job '{id}' is over already: {}.", job.status.arm_name()),
            )
            .coded("UserErrorJobAlreadyCompleted"));
        }
        job.cancel_requested = true;
        job.status = JobStatus::Cancelling;
        // One of a kind that is not known has made nobody knows what.
        let at_once = match kind::known(service, job) {
            Some(kind) => kind.cancel(service, job)? == Cancel::AtOnce,
            None => false,
        };
        if job.lease.is_none() && !job.unsettled && at_once {
            ledger::note_cancelled(job);
            ledger::end(job, JobStatus::Cancelled, service.now());
        }
        Ok(Vec::new())
    })?;
    running::of(service).cancel(id);
    service.life.wake();
    cancelled.ok_or_else(|| Error::not_found(format!("Job '{id}' is gone.")))
}
