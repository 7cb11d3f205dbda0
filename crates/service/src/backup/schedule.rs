//! What is due is begun.

use crate::backup::job as backup;
use crate::backup::record::BackupRequest;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::jobs::chore::{Chore, Rest};
use crate::jobs::ledger as jobs;
use crate::limits::SCHEDULE_INTERVAL;
use jiff::Timestamp;
use std::collections::HashMap;
use strongroom_catalog::{Change, Item, Policy, Query, ServiceError, actor};
use strongroom_domain::decide::{Decision, Situation, decide};
use strongroom_domain::item::ItemState;
use strongroom_domain::job::{JobError, JobStatus};
use uuid::Uuid;

/// Begins backups that are due.
#[derive(Default)]
pub(crate) struct Scheduler;

impl Chore for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if let Err(error) = tick(service) {
            tracing::error!(%error, "schedules could not be looked at");
        }
        Rest::For(SCHEDULE_INTERVAL)
    }
}

/// Looks at all schedules once.
pub fn tick(service: &Service) -> Result<()> {
    // A clock that jumped is found out before anything is decided by it.
    let now = service.watch_clock().wall;
    let states = [ItemState::IrPending.arm_name(), ItemState::Protected.arm_name()];
    let items: Vec<Item> = service.catalog.find(&Query::all().any_of("state", states))?;
    let mut policies: HashMap<Uuid, Option<Policy>> = HashMap::new();
    for item in items {
        let Some(id) = item.policy else { continue };
        let policy = match policies.get(&id) {
            Some(policy) => policy,
            None => {
                let found = service.catalog.get::<Policy>(id)?;
                policies.entry(id).or_insert(found)
            }
        };
        let Some(policy) = policy else { continue };
        let name = item.machine_name.clone();
        if let Err(error) = look(service, item, policy, now) {
            tracing::error!(item = name, %error, "the item's schedule could not be looked at");
        }
    }
    Ok(())
}

fn look(service: &Service, mut item: Item, policy: &Policy, now: Timestamp) -> Result<()> {
    let mut situation = Situation {
        policy: &policy.rules,
        considered_until: item.considered_until,
        now,
        running: false,
        clock_trusted: service.guard.lock().may_expire(),
    };
    // Nearly always there is nothing to do, and nothing else is asked.
    if matches!(decide(&situation), Decision::Wait { .. }) {
        return Ok(());
    }
    let running = jobs::open_of(service, item.id)?;
    situation.running = running.is_some();
    let decision = decide(&situation);
    let (due, skipped) = match decision {
        Decision::Wait { .. } => return Ok(()),
        Decision::Run { scheduled_for, .. } => (scheduled_for, None),
        Decision::Skip { scheduled_for, .. } => (scheduled_for, running),
    };
    item.considered_until = decision.considered_until();
    let request = BackupRequest::scheduled(due);
    let mut job = backup::draft(service, &item, &request, "");
    if let Some(running) = skipped {
        job.errors = vec![JobError {
            code: 400102,
            name: "UserErrorScheduledBackupSkipped".into(),
            message: format!(
                "The backup that was scheduled for {due} was skipped: the job {} ({}) was still running.",
                running.id,
                running.operation.arm_name()
            ),
            recommendation:
                "Give backups more time between each other, or find out why that job takes so long.".into(),
        }];
        jobs::end(&mut job, JobStatus::CompletedWithWarnings, now);
    }
    let begun = actor::named("service: scheduler", || {
        service.catalog.apply(&[Change::put(&item), Change::put(&job)])
    });
    match begun {
        Ok(()) => {
            service.life.wake();
            Ok(())
        }
        // Changed meanwhile: it is looked at again at the next tick.
        Err(ServiceError::Conflict { .. }) => Ok(()),
        Err(error) => Err(Error::from(error)),
    }
}
