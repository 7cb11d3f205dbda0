//! A second opinion on time: plain calendar arithmetic on integers, and a zone's clocks as a list of offsets that was found
//! by looking at the clock, again and again. Shares nothing with the crate but the question that it asks the zone: what do
//! you show at this instant?
//!
//! Instants and civil times are seconds since 1970-01-01T00:00:00, the latter as if the place were at UTC.

#![allow(dead_code)]

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use strongroom_domain::calendar::{Month, MonthPick, WeekOfMonth, Weekday};
use strongroom_domain::policy::Schedule;

pub const DAY: i64 = 86_400;
pub const HOUR: i64 = 3600;

/// Days since 1970-01-01, by counting years and months.
pub fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let mut days = 0;
    let years = if year >= 1970 { 1970..year } else { year..1970 };
    let sign = if year >= 1970 { 1 } else { -1 };
    for one in years {
        days += sign * if is_leap(one) { 366 } else { 365 };
    }
    days + (1..month).map(|one| days_in(year, one)).sum::<i64>() + day - 1
}

pub fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

pub fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Year, month and day of a day since 1970-01-01, by walking there.
pub fn date_of(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_of(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_of(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - days_of(year, month, 1) + 1)
}

/// 0 for Sunday. 1970-01-01 was a Thursday.
pub fn weekday_of(days: i64) -> Weekday {
    Weekday::ALL[(days + 4).rem_euclid(7) as usize]
}

/// So many months later; where the day is not there, the month's last.
pub fn months_later(days: i64, months: i64) -> i64 {
    let (mut year, mut month, day) = date_of(days);
    for _ in 0..months {
        month += 1;
        if month == 13 {
            (year, month) = (year + 1, 1);
        }
    }
    days_of(year, month, day.min(days_in(year, month)))
}

/// Whether a day is picked, by counting through its month.
pub fn picks(pick: &MonthPick, days: i64) -> bool {
    let (year, month, day) = date_of(days);
    let length = days_in(year, month);
    match pick {
        MonthPick::Dates { days, last } => days.contains(&(day as u8)) || (*last && day == length),
        MonthPick::Positions { weeks, days_of_week } => {
            let of_month = |day: i64| days_of(year, month, day);
            let alike: Vec<i64> =
                (1..=length).filter(|&one| weekday_of(of_month(one)) == weekday_of(days)).collect();
            let nth = |index: usize| alike.get(index) == Some(&day);
            days_of_week.contains(&weekday_of(days))
                && weeks.iter().any(|week| match week {
                    WeekOfMonth::First => nth(0),
                    WeekOfMonth::Second => nth(1),
                    WeekOfMonth::Third => nth(2),
                    WeekOfMonth::Fourth => nth(3),
                    WeekOfMonth::Last => alike.last() == Some(&day),
                })
        }
    }
}

pub fn month_of(days: i64) -> Month {
    Month::ALL[date_of(days).1 as usize - 1]
}

pub fn instant(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub fn seconds_of(time: Time) -> i64 {
    i64::from(time.hour()) * HOUR + i64::from(time.minute()) * 60 + i64::from(time.second())
}

pub fn time_of(seconds: i64) -> Time {
    let seconds = seconds.rem_euclid(DAY);
    Time::new((seconds / HOUR) as i8, (seconds / 60 % 60) as i8, (seconds % 60) as i8, 0).unwrap()
}

/// A zone's clocks between two instants: from each instant on, the offset in seconds, up to the next.
pub struct Clocks {
    pub changes: Vec<(i64, i64)>,
    until: i64,
}

impl Clocks {
    /// Looks at the zone's clock every 6 hours and finds each change to the second.
    pub fn watched(zone: &TimeZone, from: i64, until: i64) -> Self {
        let shows = |at: i64| i64::from(zone.to_offset(instant(at)).seconds());
        let mut changes = vec![(from, shows(from))];
        let mut at = from;
        while at < until {
            let next = at + 6 * HOUR;
            let before = shows(at);
            if shows(next) != before {
                let (mut low, mut high) = (at, next);
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    if shows(middle) == before { low = middle } else { high = middle }
                }
                changes.push((high, shows(high)));
                at = high;
            } else {
                at = next;
            }
        }
        Self { changes, until }
    }

    pub fn civil(&self, at: i64) -> i64 {
        let index = self.changes.partition_point(|(from, _)| *from <= at).max(1) - 1;
        at + self.changes[index].1
    }

    /// The first instant at which the clocks show a civil time, or a later one.
    pub fn first_showing(&self, civil: i64) -> i64 {
        // No zone is further from UTC than 26 hours.
        let first = self.changes.partition_point(|(from, _)| *from <= civil - 26 * HOUR).max(1) - 1;
        for (index, (from, offset)) in self.changes.iter().enumerate().skip(first) {
            let end = self.changes.get(index + 1).map_or(self.until + 30 * DAY, |(next, _)| *next);
            if end + offset > civil {
                return (civil - offset).max(*from);
            }
        }
        panic!("{civil} is beyond what was watched");
    }
}

/// The runs of a schedule in (`after`, `until`]: all its civil times, each at the first instant that shows it.
pub fn runs(schedule: &Schedule, clocks: &Clocks, after: i64, until: i64) -> Vec<i64> {
    let mut found = Vec::new();
    for day in after.div_euclid(DAY) - 4..=until.div_euclid(DAY) + 4 {
        let mut civil = Vec::new();
        match schedule {
            Schedule::Daily { time } => civil.push(day * DAY + seconds_of(*time)),
            Schedule::Weekly { days, time } => {
                if days.contains(&weekday_of(day)) {
                    civil.push(day * DAY + seconds_of(*time));
                }
            }
            Schedule::Hourly { every_hours, window_start, window_hours } => {
                let mut hours = 0;
                while hours <= i64::from(*window_hours) {
                    civil.push(day * DAY + seconds_of(*window_start) + hours * HOUR);
                    hours += i64::from(*every_hours);
                }
            }
        }
        found.extend(civil.into_iter().map(|civil| clocks.first_showing(civil)));
    }
    found.sort_unstable();
    found.dedup();
    found.retain(|at| after < *at && *at <= until);
    found
}
