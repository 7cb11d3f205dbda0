//! Opening the point of a restore, and keeping what it has come to.

use crate::core::error::Result;
use crate::core::service::Service;
use crate::jobs::ledger as jobs;
use crate::points::snapshots::{self, OpenPoint};
use crate::restore::request::{self, RestoreRequest};
use strongroom_catalog::{Item, Job, Vault};
use strongroom_domain::fact;

/// Opens the job's point, and tells from where it is read.
pub(crate) fn open_of(
    service: &Service,
    job: &Job,
    vault: &Vault,
    item: &Item,
    request: &RestoreRequest,
) -> Result<OpenPoint> {
    let purpose = format!("restore job {}", job.id);
    let open =
        snapshots::open_point(service, vault, &item.machine_name, request::point_id(request), &purpose)?;
    let from = open.source.name();
    jobs::update(service, job, |row| {
        row.properties.retain(|(name, _)| name != RESTORED_FROM);
        let at = row.properties.len().saturating_sub(1);
        row.properties.insert(at, (RESTORED_FROM.into(), from.into()));
        Ok(Vec::new())
    })?;
    Ok(open)
}

const RESTORED_FROM: &str = fact::RESTORED_FROM;
