//! Time zones as users give them: by IANA name ("Europe/Berlin") or by Windows name ("Pacific Standard Time", which is
//! what Azure's clients send). The text is kept as it was given; "UTC" is both.

mod windows;

use crate::limits::ZONE_NAME_MAX_BYTES;
use crate::names::InvalidName;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of a time zone that is known.
///
/// The host's time zone data is used where it has the zone, since it is kept up to date; else the data built into the
/// program, so that hosts without any work too.
///
/// ```
/// use strongroom_domain::zone::ZoneName;
/// let zone: ZoneName = "Pacific Standard Time".parse().unwrap();
/// assert_eq!(zone.as_str(), "Pacific Standard Time");
/// assert_eq!(zone.iana_name(), "America/Los_Angeles");
/// assert!("Middle-earth Standard Time".parse::<ZoneName>().is_err());
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName {
    text: String,
    zone: TimeZone,
}

impl ZoneName {
    /// UTC.
    pub fn utc() -> Self {
        Self { text: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The IANA name of the zone.
    pub fn iana_name(&self) -> &str {
        self.zone.iana_name().unwrap_or(&self.text)
    }

    /// Its rules.
    pub fn time_zone(&self) -> &TimeZone {
        &self.zone
    }
}

/// The IANA zone that a Windows name stands for, whatever its case.
pub fn iana_of_windows(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    windows::WINDOWS_ZONES
        .binary_search_by(|(windows, _)| windows.to_ascii_lowercase().as_str().cmp(&name))
        .ok()
        .map(|found| windows::WINDOWS_ZONES[found].1)
}

/// The Windows names that are understood, with the IANA zones they stand for.
pub fn windows_zones() -> &'static [(&'static str, &'static str)] {
    &windows::WINDOWS_ZONES
}

fn look_up(name: &str) -> Option<TimeZone> {
    let known = |name: &str| {
        let system = jiff::tz::db().get(name).ok();
        system.or_else(|| TimeZoneDatabase::bundled().get(name).ok()).filter(|zone| !zone.is_unknown())
    };
    iana_of_windows(name).map_or_else(|| known(name), known)
}

impl FromStr for ZoneName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse =
            |reason| Err(InvalidName { kind: "time zone", given: text.chars().take(80).collect(), reason });
        if text.len() > ZONE_NAME_MAX_BYTES {
            return refuse("it is longer than 64 bytes");
        }
        if text.eq_ignore_ascii_case("UTC") {
            return Ok(Self { text: text.to_owned(), zone: TimeZone::UTC });
        }
        match look_up(text) {
            Some(zone) => Ok(Self { text: text.to_owned(), zone }),
            None => refuse(
                "use an IANA name, as in Europe/Berlin, a Windows name, as in Pacific Standard Time, or UTC",
            ),
        }
    }
}

impl TryFrom<String> for ZoneName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> String {
        zone.text
    }
}

impl PartialEq for ZoneName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ZoneName {}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZoneName({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_windows_name_is_found_and_stands_for_a_zone() {
        for (windows, iana) in windows_zones() {
            assert_eq!(iana_of_windows(windows), Some(*iana));
            assert_eq!(iana_of_windows(&windows.to_uppercase()), Some(*iana));
            // Also on a host without time zone data.
            assert!(TimeZoneDatabase::bundled().get(iana).is_ok(), "{iana}");
            assert_eq!(windows.parse::<ZoneName>().unwrap().as_str(), *windows);
        }
        let names: Vec<String> = windows_zones().iter().map(|(name, _)| name.to_lowercase()).collect();
        assert!(names.is_sorted());
    }

    #[test]
    fn keeps_the_text_and_refuses_what_is_no_zone() {
        for given in ["Europe/Berlin", "utc", "UTC", "W. Europe Standard Time", "US/Pacific"] {
            let zone: ZoneName = given.parse().unwrap();
            assert_eq!(zone.to_string(), given);
            let json = serde_json::to_string(&zone).unwrap();
            assert_eq!(serde_json::from_str::<ZoneName>(&json).unwrap(), zone);
        }
        for bad in ["", "Berlin", "../../etc/passwd", "Etc/Unknown", "+02:00", &"x".repeat(65)] {
            assert!(bad.parse::<ZoneName>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<ZoneName>(serde_json::json!(bad)).is_err(), "{bad:?}");
        }
    }
}
