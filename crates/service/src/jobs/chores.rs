//! The runner's own chores: beginning jobs, and keeping the leases of those that run.

use super::chore::{Chore, Rest};
use super::{lease, runner};
use crate::core::service::Service;
use crate::limits::JOBS_INTERVAL;

/// Takes jobs up as the limits allow.
#[derive(Default)]
pub(crate) struct BeginJobs;

impl Chore for BeginJobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if let Err(error) = runner::begin_waiting(service) {
            tracing::error!(%error, "jobs could not be begun");
        }
        Rest::UntilBell(JOBS_INTERVAL)
    }
}

/// Renews leases and writes progress down.
#[derive(Default)]
pub(crate) struct KeepLeases(lease::Heartbeat);

impl Chore for KeepLeases {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        Rest::For(self.0.beat(service))
    }
}
