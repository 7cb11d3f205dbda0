//! How a user names a recovery point: by id, as `ITEM@latest`, or as `ITEM@TIME`.

use crate::names::{InvalidName, ItemName, PointId};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::fmt;
use thiserror::Error;

/// Which recovery point is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointSelector {
    /// By its id.
    Id(PointId),
    /// The item's newest point.
    Latest(ItemName),
    /// The item's newest point taken at or before this instant.
    At(ItemName, Timestamp),
}

/// Why a point's name could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// Neither an id nor an item's name.
    #[error(
        "`{0}` names no recovery point: use a point's id, ITEM@latest, or ITEM@TIME (see `strongroom rescue point list`)"
    )]
    NotAPoint(String),
    /// The part before the sign is no item's name.
    #[error(transparent)]
    Item(#[from] InvalidName),
    /// The part behind the sign is no time.
    #[error(
        "`{0}` is not a time: use 2026-11-21, 2026-11-21T20:30, 2026-11-21T20:30:15 (local time) or 2026-11-21T20:30:15Z"
    )]
    Time(String),
}

impl PointSelector {
    /// Parses what a user typed. A time without a zone is taken in `zone`; a date alone means the
    /// end of that day, so that `ITEM@2026-11-21` is the last point of the day.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, SelectorError> {
        let Some((item, when)) = text.rsplit_once('@') else {
            return text
                .parse()
                .map(Self::Id)
                .map_err(|_| SelectorError::NotAPoint(text.chars().take(80).collect()));
        };
        let item: ItemName = item.parse()?;
        if when == "latest" {
            return Ok(Self::Latest(item));
        }
        parse_time(when, zone)
            .map(|at| Self::At(item, at))
            .ok_or_else(|| SelectorError::Time(when.chars().take(80).collect()))
    }
}

impl fmt::Display for PointSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Latest(item) => write!(f, "{item}@latest"),
            Self::At(item, at) => write!(f, "{item}@{at}"),
        }
    }
}

fn parse_time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Some(instant);
    }
    // jiff reads a bare date as a DateTime at midnight too, so the date goes first.
    if text.len() == 10
        && let Ok(date) = text.parse::<Date>()
    {
        let next = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?;
        return next.timestamp().checked_sub(1.nanosecond()).ok();
    }
    let civil: DateTime = text.parse().ok()?;
    civil.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> Result<PointSelector, SelectorError> {
        PointSelector::parse(text, &TimeZone::UTC)
    }

    #[test]
    fn understands_each_form() {
        let id = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
        assert_eq!(utc(id).unwrap().to_string(), id);
        assert_eq!(utc("web@latest").unwrap(), PointSelector::Latest("web".parse().unwrap()));
        let at = |t: &str| PointSelector::At("web".parse().unwrap(), t.parse().unwrap());
        assert_eq!(utc("web@2026-11-21T20:30").unwrap(), at("2026-11-21T20:30:00Z"));
        assert_eq!(utc("web@2026-11-21T20:30:15+02:00").unwrap(), at("2026-11-21T18:30:15Z"));
        assert_eq!(utc("web@2026-11-21").unwrap(), at("2026-11-21T23:59:59.999999999Z"));
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let local = PointSelector::parse("web@2026-07-01T12:00", &berlin).unwrap();
        assert_eq!(local, at("2026-07-01T10:00:00Z"));
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(matches!(utc("web"), Err(SelectorError::NotAPoint(_))));
        assert!(matches!(utc("web@yesterday"), Err(SelectorError::Time(_))));
        assert!(matches!(utc("@latest"), Err(SelectorError::Item(_))));
    }
}
