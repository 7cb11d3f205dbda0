//! The jobs that run in this process.

use super::kind::Claims;
use crate::core::error::Error;
use crate::core::service::Service;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::Job;
use strongroom_store::Progress;
use uuid::Uuid;

/// Why a running job is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody cancelled it.
    Asked,
    /// It has run for as long as it may.
    TooLong,
    /// It goes on at the next start.
    ServiceStops,
    /// Somebody else has it.
    LeaseLost,
}

/// A job that runs in this process.
pub(super) struct Running {
    pub progress: Arc<Progress>,
    pub vault: Uuid,
    pub claims: Claims,
    pub began: Instant,
    /// It is told to stop when it has run for so long. None: it takes as long as it takes.
    pub at_most: Option<Duration>,
    pub reason: Arc<Mutex<Option<Reason>>>,
    /// The number that its lease has.
    pub fence: u64,
}

impl Running {
    /// Tells it to stop; the first reason counts.
    pub fn stop(&self, reason: Reason) {
        self.reason.lock().get_or_insert(reason);
        self.progress.cancel();
    }
}

/// The jobs that run in this process.
#[derive(Default)]
pub(crate) struct Runner {
    pub(super) running: Mutex<HashMap<Uuid, Running>>,
    /// Those of which the log says already that they are left alone.
    left_alone: Mutex<HashSet<Uuid>>,
}

/// The service's runner.
pub(crate) fn of(service: &Service) -> &Runner {
    service.part()
}

impl Runner {
    /// Tells a running job that somebody wants it to stop.
    pub fn cancel(&self, job: Uuid) {
        if let Some(running) = self.running.lock().get(&job) {
            running.stop(Reason::Asked);
        }
    }

    /// How many jobs run now.
    pub fn count(&self) -> usize {
        self.running.lock().len()
    }

    /// Says once of a job that nobody here can do that it waits for who can.
    pub(super) fn leave_alone(&self, job: &Job, error: &Error) {
        if self.left_alone.lock().insert(job.id) {
            tracing::error!(job = %job.id, kind = job.kind, %error, "a job is left alone");
        }
    }

    pub(super) fn has(&self, job: Uuid) -> bool {
        self.running.lock().contains_key(&job)
    }
}
