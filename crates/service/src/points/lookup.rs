//! Recovery points of items.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use jiff::Timestamp;
use strongroom_catalog::{Item, Point, Query, Transfer};

/// An item's points, the newest first; with `from` and `until`: taken then.
pub fn list(
    service: &Service,
    item: &Item,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<Vec<Point>> {
    let mut query = Query::all().eq("item", item.id);
    if let Some(from) = from {
        query = query.at_least("taken_us", from);
    }
    if let Some(until) = until {
        query = query.less("taken_us", until);
    }
    let found: Vec<Point> = service.catalog.find(&query.descending("taken_us"))?;
    Ok(found.into_iter().filter(|point| point.going_at.is_none()).collect())
}

/// An item's point by its name, which is Azure's. Not found: it never was, has expired, or is about to go.
pub fn get(service: &Service, item: &Item, name: &str) -> Result<Point> {
    let found: Option<Point> = service.catalog.first(Query::all().eq("item", item.id).eq("name", name))?;
    found.filter(|point| point.going_at.is_none()).ok_or_else(|| not_found(item, name))
}

/// The refusal for a point that is not there.
pub fn not_found(item: &Item, name: &str) -> Error {
    Error::not_found(format!(
        "Recovery point '{name}' of '{}' was not found: it never was, or it has expired. See `az backup recoverypoint list`.",
        item.machine_name
    ))
    .coded("UserErrorRecoveryPointNotFound")
}

/// How many rows of points an item has; those that are about to go count.
pub(crate) fn count(service: &Service, item: &Item) -> Result<u64> {
    use strongroom_catalog::Row;
    Ok(service.catalog.count(Point::TABLE, &Query::all().eq("item", item.id))?)
}

/// In the vault, for all that is known.
pub(crate) fn is_there(point: &Point) -> bool {
    point.transfer == Transfer::Done && point.missing_since.is_none()
}
