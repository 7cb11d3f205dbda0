//! Points that the vault does not have, without a word of it that they may go.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use strongroom_catalog::Point;
use strongroom_domain::PointId;

/// The row stays. False: it went meanwhile.
pub(crate) fn mark_missing(service: &Service, point: &PointId) -> Result<bool> {
    if service
        .catalog
        .get::<Point>(point)?
        .is_some_and(|row| row.missing_since.is_some() && row.going_at.is_none())
    {
        return Ok(true);
    }
    let marked = service.catalog.update::<Point, Error>(point, |row| {
        row.missing_since.get_or_insert(service.now());
        // It does not go: it is shown as missing, until it is found, or somebody accepts that it is lost.
        row.going_at = None;
        Ok(Vec::new())
    })?;
    Ok(marked.is_some())
}
