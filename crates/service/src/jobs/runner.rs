//! Runs jobs: leases them, does them on threads of their own within the limits, and lets go of them when the service stops.
//! What a job does, and what it keeps from others, its kind says.

use super::kind::{self, Claims, Hold};
use super::running::{self, Reason, Running};
use super::{errors, lease, ledger, settle};
use crate::core::committed;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::limits::{JOB_DURATION_MAX, LEASE_DURATION, STOP_TIMEOUT, VAULT_BUSY_RETRY};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::{Job, JobProgress, actor};
use strongroom_store::Progress;

/// Whatever runs here is told to end, and nobody waits for a store that does not answer any longer.
pub(crate) fn let_go(service: &Service) {
    service.life.stop();
    for running in running::of(service).running.lock().values() {
        running.stop(Reason::ServiceStops);
    }
    // After the jobs know why.
    service.opener.stop.stop();
    service.life.wake();
}

/// Waits for the jobs that were told to end.
pub(crate) fn wait_for_end(service: &Service) {
    let until = Instant::now() + STOP_TIMEOUT;
    while running::of(service).count() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Begins the jobs that wait, as the limits allow.
pub(crate) fn begin_waiting(service: &Service) -> Result<()> {
    let limits = &service.config.limits;
    for job in ledger::open(service)?.into_iter().filter(|job| may_begin(service, job)) {
        if service.life.is_stopping() || running::of(service).count() >= limits.jobs {
            return Ok(());
        }
        let claims = match kind::of(service, &job).and_then(|kind| kind.claims(service, &job)) {
            Ok(claims) => claims,
            Err(error) if error.code == Some(errors::NOT_UNDERSTOOD) => {
                running::of(service).leave_alone(&job, &error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_free = {
            let running = running::of(service).running.lock();
            let beside = |r: &&Running| r.vault == job.vault && r.claims.vault == Hold::Alone;
            running.values().filter(|r| r.claims.host == claims.host).count() < limits.jobs_per_host
                && running.values().filter(|r| r.vault == job.vault).count() < limits.jobs_per_vault
                && !(claims.vault == Hold::Alone && running.values().any(|r| beside(&r)))
        };
        if is_free {
            begin(service, job, claims)?;
        }
    }
    Ok(())
}

/// Whether a job waits for a runner: nobody has it and its time has come, or whoever had it has not renewed its lease.
fn may_begin(service: &Service, job: &Job) -> bool {
    if running::of(service).has(job.id) {
        return false;
    }
    match &job.lease {
        Some(lease) => lease.until < service.now(),
        None => is_due(service, job),
    }
}

/// Whether a job that waits has waited long enough. One that is to be cancelled has; no clock that was put back makes one wait
/// for longer than it ever was to.
fn is_due(service: &Service, job: &Job) -> bool {
    let left = job.not_before.map(|at| at.duration_since(service.now()).as_secs()).unwrap_or_default();
    let longest = kind::known(service, job).map_or(0, |kind| kind.longest_pause(service).as_secs() as i64);
    job.cancel_requested || left <= 0 || left > longest
}

fn begin(service: &Service, mut job: Job, claims: Claims) -> Result<()> {
    let progress = Arc::new(Progress::default());
    let reason = Arc::new(Mutex::new(None));
    // Tries before this one count; the wall clock may say anything, but not that there is no time at all.
    let at_most = claims.time_limit.map(|limit| limit.saturating_sub(age(service, &job)).max(LEASE_DURATION));
    let running = Running {
        progress: progress.clone(),
        vault: job.vault,
        claims,
        began: Instant::now(),
        at_most,
        reason: reason.clone(),
        fence: job.fence + 1,
    };
    let id = job.id;
    // Before the lease: whoever cancels it once it has one finds it here.
    running::of(service).running.lock().insert(id, running);
    match lease::take(service, &mut job) {
        Ok(true) => {}
        Ok(false) => {
            running::of(service).running.lock().remove(&id);
            return Ok(());
        }
        Err(error) => {
            running::of(service).running.lock().remove(&id);
            return Err(error);
        }
    }
    if job.cancel_requested {
        running::of(service).cancel(id);
    }
    let (worker, job) = (service.clone(), Arc::new(job));
    let begun = job.clone();
    let spawned = std::thread::Builder::new().name(format!("job {id}")).spawn(move || {
        let name = match begun.asked_by.as_str() {
            "" => format!("service: job {id}"),
            who => format!("service: job {id} of {who}"),
        };
        actor::named(name, || run_one(&worker, &begun, &progress, &reason));
        running::of(&worker).running.lock().remove(&id);
        worker.life.wake();
    });
    if let Err(e) = spawned {
        running::of(service).running.lock().remove(&id);
        committed::record(service, "that a job waits", || put_back(service, &job, None, ""))?;
        return Err(Error::io("starting a job's thread", e));
    }
    Ok(())
}

/// How long ago a job began.
pub(crate) fn age(service: &Service, job: &Job) -> Duration {
    service.now().duration_since(job.started_at).try_into().unwrap_or_default()
}

fn run_one(service: &Service, job: &Job, progress: &Arc<Progress>, reason: &Mutex<Option<Reason>>) {
    let span = tracing::info_span!("job", id = %job.id, kind = job.kind, entity = job.entity);
    let _entered = span.enter();
    if job.unsettled {
        if let Err(error) = settle::settle(service, job, None, None) {
            tracing::error!(%error, "what became of the job could not be written");
        }
        return;
    }
    tracing::info!("begins");
    let work = || kind::of(service, job)?.run(service, job, progress);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let bug = "the job's thread ended by itself; this is a bug, see the log";
        Err(Error::new(ErrorKind::Failed, bug).unsettled())
    });
    let Err(error) = done else { return };
    let why = *reason.lock();
    if error.code == Some(errors::LEASE_LOST) || why == Some(Reason::LeaseLost) {
        // Whoever has it now sees to it.
        tracing::warn!(%error, "somebody else has the job");
        return;
    }
    if let Err(error) = end(service, job, &error, why) {
        tracing::error!(%error, "the job's end could not be written");
    }
}

/// A job did not come to its commit, for all that its error says: it is ended, or waits to be begun anew.
fn end(service: &Service, job: &Job, error: &Error, why: Option<Reason>) -> Result<()> {
    let is_cancelled = error.kind == ErrorKind::Cancelled;
    match why {
        _ if error.is_unsettled() => settle::settle(service, job, Some(error), why),
        Some(Reason::Asked) if is_cancelled => settle::cancelled(service, job),
        // Asked before the service was started anew.
        None if is_cancelled && settle::was_cancelled(service, job) => settle::cancelled(service, job),
        Some(Reason::ServiceStops) if is_cancelled => put_back(service, job, None, ""),
        Some(Reason::TooLong) if is_cancelled => settle::fail(service, job, &errors::took_too_long()),
        _ if waits_for_vault(service, job, error) => wait_for_vault(service, job, error),
        _ => {
            tracing::warn!(%error, "failed");
            settle::fail(service, job, error)
        }
    }
}

/// Whether a job failed of nothing but that something else writes to its vault, and there is time left to wait for that.
fn waits_for_vault(service: &Service, job: &Job, error: &Error) -> bool {
    kind::known(service, job).is_some_and(|kind| kind.waits_for_vault())
        && error.is_vault_busy()
        && age(service, job) < JOB_DURATION_MAX
}

/// It begins anew after a while.
fn wait_for_vault(service: &Service, job: &Job, error: &Error) -> Result<()> {
    tracing::info!(job = %job.id, %error, "the vault is written to by something else: the job waits");
    let until = service.now().saturating_add(VAULT_BUSY_RETRY)?;
    let warning = format!("{}: {error}", lease::WAITS_FOR_VAULT);
    committed::record(service, "that a job waits", || put_back(service, job, Some(until), &warning))
}

/// Lets go of a job: it is begun anew, not before that time.
fn put_back(service: &Service, job: &Job, not_before: Option<jiff::Timestamp>, warning: &str) -> Result<()> {
    ledger::update(service, job, |row| {
        if row.status.is_over() {
            return Ok(Vec::new());
        }
        row.lease = None;
        row.not_before = not_before;
        if !warning.is_empty() {
            row.warnings.push(warning.to_owned());
        }
        row.attempts = row.attempts.saturating_sub(1);
        row.progress = JobProgress::default();
        kind::of(service, row)?.put_back(service, row)?;
        Ok(Vec::new())
    })?;
    Ok(())
}
