//! After a job's commit there is no failure: what the job made is there, whatever becomes of the row that tells of it.
//!
//! What is written down after a commit is tried until the catalog takes it, for as long as the service lives; whatever the job
//! keeps up meanwhile (exports that a machine runs from, holds on snapshots) stays up. Where the service ends before, the
//! next start finds the job open, and completes it from what is there ([`Service::recover`]). Where that cannot be seen, the job
//! is unsettled: it is neither failed nor begun anew, and is looked at again.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::limits::{COMMITTED_RETRY_FIRST, COMMITTED_RETRY_MAX};
use std::error::Error as _;
use strongroom_catalog::ServiceError;

/// Writes down what is true already, again until the catalog takes it. An error that is not the catalog's ends it. When
/// the service stops, or the catalog is beyond waiting, so does this: the error is an unsettled one. One that does not run yet has no other time: it does not open.
pub(crate) fn record<T>(service: &Service, what: &str, mut write: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = COMMITTED_RETRY_FIRST;
    loop {
        let error = match write() {
            Err(error) if is_catalogs(&error) => error,
            Err(error) if cause(&error).is_some() => return Err(error.unsettled()),
            done => return done,
        };
        if service.life.is_stopping() || !service.life.is_started() {
            return Err(error.unsettled());
        }
        tracing::warn!(%error, "{what} could not be written down yet, and is tried again");
        service.life.pause(pause);
        pause = (pause * 2).min(COMMITTED_RETRY_MAX);
    }
}

fn cause(error: &Error) -> Option<&ServiceError> {
    error.source().and_then(|cause| cause.downcast_ref::<ServiceError>())
}

/// Whether the catalog failed, and may work again later. A name that was taken meanwhile is another one then.
pub(crate) fn is_catalogs(error: &Error) -> bool {
    cause(error).is_some_and(|cause| match cause {
        ServiceError::Conflict { .. }
        | ServiceError::Taken { .. }
        | ServiceError::Busy { .. }
        | ServiceError::NoSpace { .. }
        | ServiceError::Failed { .. } => true,
        ServiceError::Damaged { .. } | ServiceError::Newer { .. } => false,
    })
}
