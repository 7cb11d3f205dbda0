//! Finding recovery points, and their disks.

use crate::error::{Error, Result};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use strongroom_domain::PointSelector;
use strongroom_store::{Disk, Manifest, PointKind, Vault};

/// Parses what a user typed; times without a zone are local.
///
/// Times are shown in whole seconds: one given so means that second's end, so that what was shown can be typed.
pub fn parse_selector(text: &str) -> Result<PointSelector> {
    let selector = PointSelector::parse(text, &TimeZone::system())?;
    Ok(match selector {
        PointSelector::At(item, at) => PointSelector::At(item, end_of_second(at)),
        other => other,
    })
}

fn end_of_second(at: Timestamp) -> Timestamp {
    if at.subsec_nanosecond() != 0 {
        return at;
    }
    at.checked_add(999_999_999.nanoseconds()).unwrap_or(at)
}

/// Finds a point by what a user typed.
pub fn find(vault: &Vault, selector: &str) -> Result<Manifest> {
    Ok(vault.find_point(&parse_selector(selector)?)?)
}

/// The disk called `name`, or the only one.
pub fn choose_disk<'a>(point: &'a Manifest, name: Option<&str>) -> Result<&'a Disk> {
    let list = || {
        let lines: Vec<String> = point.disks.iter().map(|d| d.name.clone()).collect();
        lines.join(", ")
    };
    match (name, &point.disks[..]) {
        (_, []) => Err(Error::not_found(format!("recovery point {} has no disks", point.point))),
        (Some(name), disks) => disks.iter().find(|d| d.name == name).ok_or_else(|| {
            Error::not_found(format!(
                "recovery point {} has no disk `{name}`; it has: {}",
                point.point,
                list()
            ))
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::invalid(format!(
            "recovery point {} has several disks: choose one with --disk ({})",
            point.point,
            list()
        ))),
    }
}

/// What a point is of, for people.
pub fn kind_name(kind: PointKind) -> &'static str {
    match kind {
        PointKind::Machine => "machine",
        PointKind::Image => "image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_seconds_means_the_whole_second() {
        let at = |text: &str| match parse_selector(text).unwrap() {
            PointSelector::At(_, at) => at.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(at("web@2026-11-21T20:30:15Z"), "2026-11-21T20:30:15.999999999Z");
        assert_eq!(at("web@2026-11-21T20:30:15.5Z"), "2026-11-21T20:30:15.5Z");
    }
}
