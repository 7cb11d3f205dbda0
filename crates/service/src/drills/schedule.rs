//! Drills that happen by themselves.

use super::job;
use crate::core::error::Result;
use crate::core::service::Service;
use crate::jobs::chore::{Chore, Rest};
use crate::limits::SCHEDULE_INTERVAL;
use crate::points::lookup as points;
use strongroom_catalog::{Item, Job, Query, Transfer, Vault, actor};

/// Begins drills that are due.
#[derive(Default)]
pub(crate) struct DrillScheduler;

impl Chore for DrillScheduler {
    fn name(&self) -> &'static str {
        "drills"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if let Err(error) = actor::named("service: scheduler", || tick(service)) {
            tracing::error!(%error, "the drills' schedule could not be looked at");
        }
        Rest::For(SCHEDULE_INTERVAL)
    }
}

/// Begins the drill that is due the longest, one at a time.
pub fn tick(service: &Service) -> Result<()> {
    if service.config.drills.is_empty() {
        return Ok(());
    }
    let open = Query::all().eq("kind", job::KIND).eq("open", true);
    if service.catalog.first::<Job>(open)?.is_some() {
        return Ok(());
    }
    for item in service.catalog.find::<Item>(&Query::all())? {
        let Some(schedule) = service.config.drills.iter().find(|s| s.is_for(&item)) else { continue };
        if item.state.check_restore().is_err() {
            continue;
        }
        let last = Query::all().eq("item", item.id).eq("kind", job::KIND).descending("started_us");
        let last: Option<Job> = service.catalog.first(last)?;
        let every_hours = i64::from(schedule.every_days) * 24;
        if last.is_some_and(|job| service.now().duration_since(job.started_at).as_hours() < every_hours) {
            continue;
        }
        let points = points::list(service, &item, None, None)?;
        let Some(point) = points.into_iter().find(|p| p.transfer == Transfer::Done) else { continue };
        let Some(vault) = service.catalog.get::<Vault>(item.vault)? else { continue };
        job::begin(service, &vault, &item, &point, &schedule.options(), "")?;
        return Ok(());
    }
    Ok(())
}
