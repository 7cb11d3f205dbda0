//! Times as Azure's clients put them into filters.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A time in a filter: 12-hour (`2026-11-01 12:00:00 AM`), ISO 8601, or a date alone. UTC unless it says otherwise.
///
/// ```
/// use strongroom_api::odata::parse_time;
/// let midnight = parse_time("2026-11-01 12:00:00 AM");
/// assert_eq!(midnight, "2026-11-01T00:00:00Z".parse().ok());
/// assert_eq!(parse_time("2026-11-01"), midnight);
/// assert_eq!(parse_time("yesterday"), None);
/// ```
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    // Of twelve hours the first is 12; some clients call it 0.
    let upper = text.to_ascii_uppercase().replacen(" 00:", " 12:", 1).replacen(" 0:", " 12:", 1);
    let civil = ["%Y-%m-%d %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p", "%Y-%m-%d %I:%M %p"]
        .iter()
        .find_map(|format| DateTime::strptime(format, &upper).ok())
        .or_else(|| text.parse::<DateTime>().ok())?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn twelve_hours_twice_a_day() {
        for (given, hour) in [
            ("12:00:00 AM", 0),
            ("01:30:00 am", 1),
            ("12:59:59 PM", 12),
            ("11:00:00 PM", 23),
            ("9:05:00 PM", 21),
            ("00:00:00 AM", 0),
            ("00:30:00 PM", 12),
            ("0:05:00 am", 0),
        ] {
            let at = parse_time(&format!("2026-11-01 {given}")).unwrap();
            assert_eq!(at.to_zoned(jiff::tz::TimeZone::UTC).hour(), hour, "{given}");
        }
        assert_eq!(parse_time("2026-11-01T10:00:00+02:00"), "2026-11-01T08:00:00Z".parse().ok());
        assert_eq!(parse_time("2026-11-01T10:00:00"), "2026-11-01T10:00:00Z".parse().ok());
        for bad in ["", "2026-13-01", "2026-11-01 13:00:00 PM", "2026-11-01 00:00:00 XM", "12"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
