//! How jobs end that did not come to their commit, and what becomes of those of which that is not known.

use super::kind::{self, Again, Cancel, Ended, Recovery};
use super::running::{self, Reason};
use super::{errors, ledger, operations};
use crate::core::committed;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::limits::UNSETTLED_RETRY;
use jiff::Timestamp;
use std::time::Duration;
use strongroom_catalog::{Job, JobProgress};
use strongroom_domain::job::{JobError, JobStatus};

/// At the start, where whoever had leases is dead: the data directory is this run's alone.
pub(crate) fn recover(service: &Service) -> Result<()> {
    operations::recover(service)?;
    for job in ledger::open(service)? {
        let outcome = match what_is_there(service, &job) {
            Ok(Recovery::Committed) => goes_on(service, &job, None),
            Ok(Recovery::Nothing(again)) => take_up_again(service, &job, again),
            // One of a kind that only a newer version knows waits for that.
            Err(error) if kind::known(service, &job).is_none() => {
                running::of(service).leave_alone(&job, &error);
                Ok(())
            }
            Err(error) if error.code == Some(errors::NOT_UNDERSTOOD) => Err(error),
            // Neither failed nor begun anew before that is known.
            Err(error) => leave_unsettled(service, &job, &error, None),
        };
        if let Err(error) = outcome {
            if committed::is_catalogs(&error) {
                return Err(error);
            }
            tracing::warn!(job = %job.id, %error, "taking up a job that was interrupted");
            fail(service, &job, &error)?;
        }
    }
    Ok(())
}

fn what_is_there(service: &Service, job: &Job) -> Result<Recovery> {
    kind::of(service, job)?.recover(service, job)
}

/// It is known what there is of a job. One that goes on does so after a while.
fn goes_on(service: &Service, job: &Job, pause: Option<Duration>) -> Result<()> {
    ledger::update(service, job, |row| {
        if row.status.is_over() {
            return Ok(Vec::new());
        }
        row.lease = None;
        if row.unsettled || pause.is_some() {
            row.unsettled = false;
            row.not_before = pause.map(|pause| service.now().saturating_add(pause)).transpose()?;
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Puts a job that was interrupted back, or ends it.
fn take_up_again(service: &Service, job: &Job, again: Again) -> Result<()> {
    ledger::update(service, job, |row| {
        let now = service.now();
        row.lease = None;
        row.unsettled = false;
        let is_over = match again {
            Again::Always => false,
            Again::Times(most) => row.attempts >= most,
            Again::Never => row.attempts > 0,
        };
        if again == Again::Always {
            row.progress = JobProgress::default();
        } else if row.cancel_requested {
            ledger::note_cancelled(row);
            ledger::end(row, JobStatus::Cancelled, now);
        } else if is_over {
            row.errors = vec![interrupted(row.attempts)];
            ledger::end(row, JobStatus::Failed, now);
        } else if row.attempts > 0 {
            row.warnings.push("The service ended while this job ran; it was begun anew.".into());
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

fn interrupted(attempts: u32) -> JobError {
    let times = if attempts > 1 { format!(", {attempts} times") } else { String::new() };
    JobError {
        code: 400340,
        name: "UserErrorServiceInterrupted".into(),
        message: format!("The service ended while this job ran{times}."),
        recommendation: "Nothing of it remains. Run it again.".into(),
    }
}

/// Of a job that may have been committed: looks at what is there, and completes it, lets it go on, or ends it as it was going
/// to end (by `failure`; without one: as one that was interrupted).
pub(super) fn settle(
    service: &Service,
    job: &Job,
    failure: Option<&Error>,
    why: Option<Reason>,
) -> Result<()> {
    // It is only looked at, not ended: the next start does that as well.
    if service.life.is_stopping() {
        return Ok(());
    }
    let look = || -> Result<Option<Recovery>> {
        let Some(row) = service.catalog.get::<Job>(job.id)?.filter(|row| !row.status.is_over()) else {
            return Ok(None);
        };
        // With the number of the lease that this look is made under.
        what_is_there(service, &Job { fence: job.fence, ..row }).map(Some)
    };
    match look() {
        Ok(None) => Ok(()),
        Ok(Some(Recovery::Committed)) => {
            committed::record(service, "that a job goes on", || goes_on(service, job, Some(UNSETTLED_RETRY)))
        }
        Ok(Some(Recovery::Nothing(again))) => match (failure, why) {
            (_, Some(Reason::Asked)) => cancelled(service, job),
            (Some(failure), _) => fail(service, job, failure),
            (None, _) => {
                committed::record(service, "the end of a job", || take_up_again(service, job, again))
            }
        },
        Err(error) if error.code == Some(errors::NOT_UNDERSTOOD) => fail(service, job, &error),
        Err(error) => leave_unsettled(service, job, &error, Some(UNSETTLED_RETRY)),
    }
}

const NOT_SEEN_YET: &str = "Whether it was done before it was cut short could not be seen yet";

/// It cannot be seen now whether a job was committed: it is looked at again, and does nothing else before. Who cancels it
/// does without knowing, unless it has made something that it alone can take away.
fn leave_unsettled(service: &Service, job: &Job, error: &Error, pause: Option<Duration>) -> Result<()> {
    tracing::warn!(job = %job.id, %error, "whether a job was committed is not known yet");
    committed::record(service, "that a job is to be looked at", || {
        ledger::update(service, job, |row| {
            if row.status.is_over() {
                return Ok(Vec::new());
            }
            row.lease = None;
            row.unsettled = true;
            row.not_before = pause.map(|pause| service.now().saturating_add(pause)).transpose()?;
            row.warnings.retain(|w| !w.starts_with(NOT_SEEN_YET));
            row.warnings.push(format!("{NOT_SEEN_YET}: {error}"));
            if row.cancel_requested && kind::of(service, row)?.cancel(service, row)? == Cancel::AtOnce {
                ledger::note_cancelled(row);
                ledger::end(row, JobStatus::Cancelled, service.now());
            }
            Ok(Vec::new())
        })?;
        Ok(())
    })
}

/// Whether somebody asked a job to stop.
pub(super) fn was_cancelled(service: &Service, job: &Job) -> bool {
    service.catalog.get::<Job>(job.id).is_ok_and(|row| row.is_some_and(|row| row.cancel_requested))
}

/// Ends a job that was cancelled.
pub(super) fn cancelled(service: &Service, job: &Job) -> Result<()> {
    finish(service, job, |row, now| {
        ledger::note_cancelled(row);
        ledger::end(row, JobStatus::Cancelled, now);
    })
}

/// Ends a job that failed.
pub(super) fn fail(service: &Service, job: &Job, error: &Error) -> Result<()> {
    let error = errors::job_error(error);
    finish(service, job, |row, now| {
        row.errors = vec![error.clone()];
        ledger::end(row, JobStatus::Failed, now);
    })
}

/// Ends a job that made nothing, with what follows for others; as late as the catalog makes it.
fn finish(service: &Service, job: &Job, end: impl Fn(&mut Job, Timestamp)) -> Result<()> {
    committed::record(service, "the end of a job", || finish_once(service, job, &end))
}

fn finish_once(service: &Service, job: &Job, end: &impl Fn(&mut Job, Timestamp)) -> Result<()> {
    let kind = kind::of(service, job)?;
    // What was made all the same is there, and is told so.
    if let Some(row) = service.catalog.get::<Job>(job.id)?
        && kind.was_committed(service, &Job { fence: job.fence, ..row }).unwrap_or(false)
    {
        return Ok(());
    }
    let mut then = None;
    ledger::update(service, job, |row| {
        then = None;
        if row.status.is_over() {
            return Ok(Vec::new());
        }
        end(row, service.now());
        let ended: Ended = kind.ended(service, row)?;
        then = ended.then;
        Ok(ended.changes)
    })?;
    if let Some(then) = then {
        then(service);
    }
    Ok(())
}
