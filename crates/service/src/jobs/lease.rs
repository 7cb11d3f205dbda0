//! Leases: who runs a job, until when, and under which number.
//!
//! Whoever takes a job counts its fence up, in the transaction that gives it the lease; every write of whoever runs a job is refused
//! unless the row still has that number. So a job can be taken over once its lease has run out, although whoever had it may only be
//! slow: what that one writes afterwards changes nothing.

use super::running::{self, Reason, Running};
use super::{errors, ledger};
use crate::core::error::Result;
use crate::core::service::Service;
use crate::limits::{HEARTBEAT_INTERVAL, LEASE_DURATION, LEASE_RENEWAL};
use jiff::Timestamp;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;
use strongroom_catalog::{Change, Job, JobProgress, Lease, ServiceError};
use strongroom_domain::job::Estimate;
use uuid::Uuid;

pub(super) const WAITS_FOR_VAULT: &str = "It waits until nothing else writes to the vault";

/// Leases a job to this run of the service. False: somebody changed it meanwhile, and it is looked at again. One whose lease had run
/// out was cut short, for all that is known: what it has left is looked at first.
pub(super) fn take(service: &Service, job: &mut Job) -> Result<bool> {
    if let Some(before) = &job.lease {
        tracing::warn!(job = %job.id, owner = %before.owner, until = %before.until, "a job is taken over: its lease ran out");
        job.unsettled = true;
    }
    job.lease = Some(Lease { owner: service.run, until: until(service)? });
    job.fence += 1;
    // To look at what it left is no attempt.
    job.attempts += u32::from(!job.unsettled);
    job.not_before = None;
    job.warnings.retain(|w| !w.starts_with(WAITS_FOR_VAULT));
    match service.catalog.apply(&[Change::put(job)]) {
        Ok(()) => {
            job.version += 1;
            Ok(true)
        }
        Err(ServiceError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn until(service: &Service) -> Result<Timestamp> {
    Ok(service.now().saturating_add(LEASE_DURATION)?)
}

/// What the heartbeat wrote last of each job.
#[derive(Default)]
pub(crate) struct Heartbeat(HashMap<Uuid, (JobProgress, Duration)>);

impl Heartbeat {
    /// Renews leases, writes progress down, and ends what takes too long. How long until the next time.
    pub fn beat(&mut self, service: &Service) -> Duration {
        let running: Vec<(Uuid, u64, JobProgress)> = {
            let running = running::of(service).running.lock();
            for job in running.values() {
                if job.at_most.is_some_and(|at_most| job.began.elapsed() > at_most) {
                    job.stop(Reason::TooLong);
                }
            }
            running.iter().map(|(id, r)| (*id, r.fence, progress_of(r))).collect()
        };
        let now = service.clock.elapsed();
        self.0.retain(|id, _| running.iter().any(|(other, ..)| other == id));
        for (id, fence, progress) in running {
            let is_fresh = |(written, at): &(JobProgress, Duration)| {
                *written == progress && now.saturating_sub(*at) < LEASE_RENEWAL
            };
            if self.0.get(&id).is_some_and(is_fresh) {
                continue;
            }
            match renew(service, id, fence, progress) {
                Ok(()) => drop(self.0.insert(id, (progress, now))),
                Err(error) if error.code == Some(errors::LEASE_LOST) => {
                    tracing::error!(job = %id, "its lease ran out, and somebody else has it");
                    if let Some(job) = running::of(service).running.lock().get(&id) {
                        job.stop(Reason::LeaseLost);
                    }
                }
                Err(error) => tracing::warn!(job = %id, %error, "progress could not be written"),
            }
        }
        HEARTBEAT_INTERVAL
    }
}

fn renew(service: &Service, id: Uuid, fence: u64, progress: JobProgress) -> Result<()> {
    ledger::update_any(service, id, |row| {
        match row.fence.cmp(&fence) {
            // It runs here from a moment before the row says so: see `runner::begin`.
            Ordering::Less => return Ok(Vec::new()),
            Ordering::Equal => {}
            Ordering::Greater => return Err(errors::lease_lost(id)),
        }
        // Let go of meanwhile, by its own thread.
        if let Some(lease) = &mut row.lease {
            lease.until = until(service)?;
            row.progress = progress;
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

fn progress_of(running: &Running) -> JobProgress {
    let (done_bytes, total_bytes) = (running.progress.done_bytes(), running.progress.total_bytes());
    let progress = Estimate::measured(running.began.elapsed(), done_bytes, total_bytes);
    JobProgress {
        done_bytes,
        total_bytes,
        percent: progress.percent,
        remaining_seconds: progress.remaining.map(|d| d.as_secs()),
    }
}
