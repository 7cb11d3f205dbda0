//! Times and durations in Azure's spelling, and disk numbers in its clients'.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt::Write as _;

/// `2026-09-09T13:20:14.3509918Z`: seven digits of a second, without zeros at the end.
pub fn time(at: Timestamp) -> String {
    let d = TimeZone::UTC.to_datetime(at);
    let mut out = String::with_capacity(28);
    let (hour, minute, second) = (d.hour(), d.minute(), d.second());
    // Into memory: it does not fail.
    let _ = write!(out, "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", d.year(), d.month(), d.day());
    let ticks = d.subsec_nanosecond() / 100;
    if ticks > 0 {
        let _ = write!(out, ".{ticks:07}");
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push('Z');
    out
}

/// What operations and tasks show where there is no time; without a `Z`, as Azure has it.
pub fn no_time() -> &'static str {
    "0001-01-01T00:00:00"
}

/// `PT1H14M35.3967185S`.
pub fn duration(length: SignedDuration) -> String {
    let length = length.max(SignedDuration::ZERO);
    let seconds = length.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = String::from("PT");
    if hours > 0 {
        out += &format!("{hours}H");
    }
    if minutes > 0 {
        out += &format!("{minutes}M");
    }
    let digits = format!("{:07}", length.subsec_nanos() / 100);
    let digits = digits.trim_end_matches('0');
    match (rest, digits.is_empty()) {
        (0, true) if seconds > 0 => {}
        (_, true) => out += &format!("{rest}S"),
        (_, false) => out += &format!("{rest}.{digits}S"),
    }
    out
}

/// What remains of a soft deletion: `13.23:59:45.7545917`.
pub fn remaining(length: SignedDuration) -> String {
    let length = length.max(SignedDuration::ZERO);
    let seconds = length.as_secs();
    format!(
        "{}.{:02}:{:02}:{:02}.{:07}",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        length.subsec_nanos() / 100
    )
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Lun {
    Number(i32),
    /// What `az` was given on its command line it sends as text.
    Text(String),
}

/// Disk numbers in a body: numbers, or text that is one.
pub(crate) fn luns<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<i32>>, D::Error> {
    let Some(luns) = Option::<Vec<Lun>>::deserialize(from)? else { return Ok(None) };
    let number = |lun| match lun {
        Lun::Number(number) => Ok(number),
        Lun::Text(text) => text
            .trim()
            .parse()
            .map_err(|_| D::Error::custom(format!("'{}' is not a disk's LUN", crate::error::shorten(&text)))),
    };
    luns.into_iter().map(number).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations() {
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2026-09-09T13:20:14.350991812Z"), "2026-09-09T13:20:14.3509918Z");
        assert_eq!(at("2026-09-09T13:20:14.458015Z"), "2026-09-09T13:20:14.458015Z");
        assert_eq!(at("2026-09-09T13:20:14Z"), "2026-09-09T13:20:14Z");
        let of = |seconds, nanos| duration(SignedDuration::new(seconds, nanos));
        assert_eq!(of(11, 231_092_900), "PT11.2310929S");
        assert_eq!(of(71, 107_023_200), "PT1M11.1070232S");
        assert_eq!(of(4475, 396_718_500), "PT1H14M35.3967185S");
        assert_eq!(of(0, 0), "PT0S");
        assert_eq!(of(120, 0), "PT2M");
        assert_eq!(of(-5, 0), "PT0S");
        assert_eq!(remaining(SignedDuration::new(14 * 86_400 - 15, 754_591_700)), "13.23:59:45.7545917");
    }
}
