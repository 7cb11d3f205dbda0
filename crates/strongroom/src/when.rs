//! Times as users type them: an instant, a local date or time, or so long before or after now.

use jiff::civil::{Date, DateTime, date};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// Which way `30d` looks, and which end of a day a date alone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// Since when: so long ago; the day's beginning.
    From,
    /// Until when, of what was: so long ago; the day's end.
    Until,
    /// Until when, of what will be: so long from now; the day's end.
    Keep,
}

const WORDS: &str = "use 2026-11-21, 2026-11-21T20:30 (local time), 2026-11-21T20:30:15Z, or a number of minutes, hours, days or weeks, as in 90m, 12h, 30d, 2w";

/// Reads a time; `now` and `zone` are what relative and local ones refer to.
pub fn parse_at(text: &str, sense: Sense, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let wrong = || {
        let short: String = text.chars().take(40).collect();
        match beyond(text.trim()) {
            Some(bound) => format!("`{short}` is too far: {bound}"),
            None => format!("`{short}` is not a time: {WORDS}"),
        }
    };
    let text = text.trim();
    if let Some(length) = length(text) {
        let at = if sense == Sense::Keep { now.checked_add(length) } else { now.checked_sub(length) };
        return at.map_err(|_| wrong());
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    // jiff reads a bare date as a DateTime at midnight too, so the date goes first.
    if text.len() == 10
        && let Ok(day) = text.parse::<Date>()
    {
        let first = |date: Date| date.to_zoned(zone.clone()).map(|zoned| zoned.timestamp());
        let at = match sense {
            Sense::From => first(day),
            Sense::Until | Sense::Keep => {
                day.tomorrow().and_then(first).and_then(|next| next.checked_sub(1.millisecond()))
            }
        };
        return at.map_err(|_| wrong());
    }
    let civil: DateTime = text.parse().map_err(|_| wrong())?;
    civil.to_zoned(zone.clone()).map(|zoned| zoned.timestamp()).map_err(|_| wrong())
}

/// The bound that something understood lies beyond.
fn beyond(text: &str) -> Option<String> {
    // The last day, and the first one, are not whole in every zone.
    let is_late = match (length(text), Pieces::parse(text)) {
        (Some(_), _) => {
            return Some(format!("times are from {:.0} to {:.0}", Timestamp::MIN, Timestamp::MAX));
        }
        (None, Ok(pieces)) if pieces.date() >= date(9999, 12, 30) => true,
        (None, Ok(pieces)) if pieces.date() <= date(-9999, 1, 3) => false,
        _ => return None,
    };
    let (which, bound) = if is_late { ("latest", Timestamp::MAX) } else { ("earliest", Timestamp::MIN) };
    Some(format!("the {which} time is {bound:.0}"))
}

/// Relative to this moment, local where no zone is given.
pub fn parse(text: &str, sense: Sense) -> Result<Timestamp, String> {
    parse_at(text, sense, Timestamp::now(), &TimeZone::system())
}

/// For arguments.
pub fn parse_from(text: &str) -> Result<Timestamp, String> {
    parse(text, Sense::From)
}

pub fn parse_until(text: &str) -> Result<Timestamp, String> {
    parse(text, Sense::Until)
}

/// Refuses a time until which something is to be kept that has passed.
pub fn in_future(until: Option<Timestamp>) -> strongroom_engine::Result<Option<Timestamp>> {
    match until {
        Some(until) if until <= Timestamp::now() => Err(strongroom_engine::Error::invalid(format!(
            "--keep-until is {until}, which has passed already; give a time in the future"
        ))),
        until => Ok(until),
    }
}

pub fn parse_keep(text: &str) -> Result<Timestamp, String> {
    parse(text, Sense::Keep)
}

fn length(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let hours_or_seconds = match unit {
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse::<i64>().ok()?.checked_mul(hours_or_seconds).map(SignedDuration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, sense: Sense) -> Result<String, String> {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        parse_at(text, sense, now, &berlin).map(|at| at.to_string())
    }

    #[test]
    fn each_form_is_understood() {
        for (text, sense, expected) in [
            ("30d", Sense::From, "2026-10-22T12:00:00Z"),
            ("30d", Sense::Keep, "2026-12-21T12:00:00Z"),
            ("90m", Sense::Until, "2026-11-21T10:30:00Z"),
            ("2w", Sense::Keep, "2026-12-05T12:00:00Z"),
            ("2026-11-01", Sense::From, "2026-10-31T23:00:00Z"),
            ("2026-11-01", Sense::Until, "2026-11-01T22:59:59.999Z"),
            ("2026-11-01", Sense::Keep, "2026-11-01T22:59:59.999Z"),
            ("2026-11-01T20:30", Sense::From, "2026-11-01T19:30:00Z"),
            ("2026-11-01T20:30:00Z", Sense::From, "2026-11-01T20:30:00Z"),
        ] {
            assert_eq!(read(text, sense).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_too_far_is_told_with_the_bound() {
        for text in ["9999-12-31", "9999-12-31T10:00", "9999-12-31T00:00:00Z"] {
            let error = read(text, Sense::Keep).unwrap_err();
            assert!(error.contains("the latest time is 9999-12-30T22:00:00Z"), "{error}");
        }
        assert!(read("9999999w", Sense::Keep).unwrap_err().contains("to 9999-12-30T22:00:00Z"));
        assert!(
            read("-009999-01-01", Sense::From).unwrap_err().contains("the earliest time is -009999-01-02")
        );
        assert!(read("9999-13-31", Sense::Keep).unwrap_err().contains("is not a time"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "d", "-3d", "1.5d", "3y", "99999999999999w", "tomorrow", "2026-13-01", "ü", "3ü"] {
            assert!(read(text, Sense::Keep).is_err(), "{text}");
        }
    }
}
