//! From a policy's schedule to instants.
//!
//! A schedule names civil times; the policy's zone makes instants of them:
//!
//! - A civil time that does not exist, because clocks were put forward over it, runs at the first instant that follows.
//! - One that occurs twice, because clocks were put back, runs at the first of the two.
//! - No two runs coincide: what a gap maps to one instant is one run.
//!
//! In other words, a run is at the first instant at which clocks in the zone show its time or a later one. It follows that
//! runs have the order of their civil times, whatever the zone does.

use crate::calendar::Weekday;
use crate::policy::{Policy, Schedule};
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};
use std::collections::VecDeque;

/// Days by which a run's day may lie before the civil day of an instant that it follows: a window takes up to a day, and
/// may open at any time of its own.
const DAYS_BACK: i32 = 2;
/// Days by which the day of a run may lie after the civil day of an instant that it precedes, where clocks went back over
/// midnight, or a zone over the date line.
const DAYS_AHEAD: i32 = 2;
/// A schedule that has no run in so many days has none.
const DAYS_WITHOUT_RUN_MAX: i32 = 14;

impl Schedule {
    /// The civil times of the runs that begin with `date`, in order. Of an hourly schedule, those of the window that opens
    /// on this day, which may be the next day's.
    pub fn slots(&self, date: Date) -> Vec<DateTime> {
        match self {
            Self::Daily { time } => vec![date.to_datetime(*time)],
            Self::Weekly { days, time } if days.contains(&Weekday::of(date)) => {
                vec![date.to_datetime(*time)]
            }
            Self::Weekly { .. } => Vec::new(),
            Self::Hourly { every_hours, window_start, window_hours } => {
                let opens = date.to_datetime(*window_start);
                (0..=*window_hours)
                    .step_by(usize::try_from(*every_hours).unwrap_or(1).max(1))
                    .map_while(|hours| opens.checked_add(i64::from(hours).hours()).ok())
                    .collect()
            }
        }
    }
}

/// The instant at which something scheduled for a civil time happens; None beyond the calendar (years -9999 to 9999).
pub fn instant_of(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        // The first of the two is the one before the clocks were put back.
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
        AmbiguousOffset::Gap { before, after } => {
            // Read with the offset after the gap it is an instant before the gap, and the other way round: the gap is between.
            let early = after.to_timestamp(civil).ok()?;
            let late = before.to_timestamp(civil).ok()?;
            let end = zone.following(early).map(|change| change.timestamp()).take_while(|at| *at <= late);
            // More than one change in there: the first from which on the civil time has passed.
            let mut end = end.filter(|at| zone.to_datetime(*at) >= civil);
            Some(end.next().unwrap_or(late))
        }
    }
}

/// The runs of a policy after an instant, in order.
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    policy: &'a Policy,
    /// The last one given; the next is later.
    after: Timestamp,
    /// The next day whose slots are to be looked at; None at the calendar's end.
    date: Option<Date>,
    ready: VecDeque<DateTime>,
}

impl Iterator for Runs<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        for _ in 0..DAYS_BACK + DAYS_WITHOUT_RUN_MAX {
            while let Some(civil) = self.ready.pop_front() {
                let at = instant_of(civil, self.policy.zone.time_zone());
                if let Some(at) = at.filter(|at| *at > self.after) {
                    self.after = at;
                    return Some(at);
                }
            }
            let date = self.date?;
            self.date = date.tomorrow().ok();
            self.ready.extend(self.policy.schedule.slots(date));
        }
        None
    }
}

impl Policy {
    /// The runs after an instant.
    ///
    /// ```
    /// use strongroom_domain::policy::Policy;
    /// let policy = Policy::default_standard();
    /// let runs: Vec<String> =
    ///     policy.runs("2026-11-21T20:30:00Z".parse().unwrap()).take(2).map(|at| at.to_string()).collect();
    /// assert_eq!(runs, ["2026-11-22T20:30:00Z", "2026-11-23T20:30:00Z"]);
    /// ```
    pub fn runs(&self, after: Timestamp) -> Runs<'_> {
        let today = self.zone.time_zone().to_datetime(after).date();
        let date = today.checked_sub(DAYS_BACK.days()).unwrap_or(Date::MIN);
        Runs { policy: self, after, date: Some(date), ready: VecDeque::new() }
    }

    /// The first run after an instant. None for a schedule without days, which is not valid, and at the calendar's end.
    pub fn next_run(&self, after: Timestamp) -> Option<Timestamp> {
        self.runs(after).next()
    }

    /// The latest run after `after` and not after `until`: what is due. Of several that were missed, the last alone.
    pub fn last_due(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let zone = self.zone.time_zone();
        let today = zone.to_datetime(until).date();
        let mut date = today.checked_add(DAYS_AHEAD.days()).unwrap_or(Date::MAX);
        for _ in 0..DAYS_AHEAD + DAYS_BACK + DAYS_WITHOUT_RUN_MAX {
            for civil in self.schedule.slots(date).into_iter().rev() {
                match instant_of(civil, zone) {
                    Some(at) if at <= after => return None,
                    Some(at) if at <= until => return Some(at),
                    _ => {}
                }
            }
            date = date.yesterday().ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::ZoneName;
    use jiff::civil::{Time, time};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn daily(zone: &str, time: Time) -> Policy {
        Policy {
            schedule: Schedule::Daily { time },
            zone: zone.parse::<ZoneName>().unwrap(),
            ..Policy::default_standard()
        }
    }

    fn runs(policy: &Policy, after: &str, until: &str) -> Vec<String> {
        policy.runs(at(after)).take_while(|run| *run <= at(until)).map(|run| run.to_string()).collect()
    }

    #[test]
    fn a_time_that_does_not_exist_runs_at_the_next_that_does() {
        let policy = daily("Europe/Berlin", time(2, 30, 0, 0));
        assert_eq!(
            runs(&policy, "2026-03-28T00:00:00Z", "2026-03-30T23:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_time_that_occurs_twice_runs_once_first() {
        let policy = daily("Europe/Berlin", time(2, 30, 0, 0));
        assert_eq!(
            runs(&policy, "2026-10-24T00:00:00Z", "2026-10-26T23:00:00Z"),
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        // Asked in the second pass of that hour, it is over.
        assert_eq!(policy.next_run(at("2026-10-25T01:10:00Z")), Some(at("2026-10-26T01:30:00Z")));
        assert_eq!(
            policy.last_due(at("2026-10-24T12:00:00Z"), at("2026-10-25T01:10:00Z")),
            Some(at("2026-10-25T00:30:00Z"))
        );
    }

    #[test]
    fn clocks_that_go_back_over_midnight_hide_no_run() {
        // Azores, 2026-10-25T01:00Z: 01:00 becomes 00:00. Havana: 01:00 becomes 00:00. Godthab went back from 00:00 to 23:00.
        let policy = daily("America/Nuuk", time(23, 30, 0, 0));
        let days = runs(&policy, "2022-10-27T12:00:00Z", "2022-11-01T12:00:00Z");
        assert_eq!(days.len(), 5, "{days:?}");
        for policy in [daily("America/Nuuk", time(23, 30, 0, 0)), daily("America/Havana", time(0, 10, 0, 0))]
        {
            let mut last = at("2021-12-31T00:00:00Z");
            for run in policy.runs(last).take(730).collect::<Vec<_>>() {
                let before = run - 1.nanosecond();
                assert_eq!(policy.last_due(last, run), Some(run));
                assert_eq!(policy.last_due(last, before), None);
                assert_eq!(policy.next_run(before), Some(run));
                last = run;
            }
        }
    }

    #[test]
    fn a_day_that_a_zone_skipped_runs_at_its_end() {
        let policy = daily("Pacific/Apia", time(20, 30, 0, 0));
        assert_eq!(
            runs(&policy, "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z"),
            ["2011-12-30T06:30:00Z", "2011-12-30T10:00:00Z", "2011-12-31T06:30:00Z"]
        );
    }

    #[test]
    fn hourly_windows_include_their_end_and_go_past_midnight() {
        let mut policy = Policy::default_enhanced();
        assert_eq!(
            runs(&policy, "2026-11-21T00:00:00Z", "2026-11-22T08:00:00Z"),
            [
                "2026-11-21T08:00:00Z",
                "2026-11-21T12:00:00Z",
                "2026-11-21T16:00:00Z",
                "2026-11-21T20:00:00Z",
                "2026-11-22T08:00:00Z"
            ]
        );
        policy.schedule =
            Schedule::Hourly { every_hours: 6, window_start: time(20, 0, 0, 0), window_hours: 13 };
        assert_eq!(
            runs(&policy, "2026-11-21T05:00:00Z", "2026-11-22T20:00:00Z"),
            [
                "2026-11-21T08:00:00Z",
                "2026-11-21T20:00:00Z",
                "2026-11-22T02:00:00Z",
                "2026-11-22T08:00:00Z",
                "2026-11-22T20:00:00Z"
            ]
        );
        // The end of a window of a whole day is the next one's start: one run.
        policy.schedule =
            Schedule::Hourly { every_hours: 12, window_start: time(8, 0, 0, 0), window_hours: 24 };
        assert_eq!(
            runs(&policy, "2026-11-21T00:00:00Z", "2026-11-22T08:00:00Z"),
            ["2026-11-21T08:00:00Z", "2026-11-21T20:00:00Z", "2026-11-22T08:00:00Z"]
        );
    }

    #[test]
    fn of_missed_runs_the_last_is_due() {
        let policy = Policy::default_standard();
        let due = |after: &str, until: &str| policy.last_due(at(after), at(until)).map(|run| run.to_string());
        assert_eq!(
            due("2020-01-01T00:00:00Z", "2026-11-21T20:29:59Z").as_deref(),
            Some("2026-11-20T20:30:00Z")
        );
        assert_eq!(due("2026-11-20T20:30:00Z", "2026-11-21T20:29:59Z"), None);
        assert_eq!(due("2026-11-21T20:30:00Z", "2026-11-20T20:30:00Z"), None);
        assert_eq!(
            due("2026-11-21T20:29:59Z", "2026-11-21T20:30:00Z").as_deref(),
            Some("2026-11-21T20:30:00Z")
        );
    }

    #[test]
    fn a_schedule_without_days_has_no_runs_and_the_calendar_ends() {
        let mut policy = Policy::default_standard();
        assert_eq!(policy.next_run(Timestamp::MAX), None);
        assert!(policy.next_run(Timestamp::MIN).is_some());
        assert_eq!(policy.last_due(Timestamp::MIN, Timestamp::MIN), None);
        policy.schedule = Schedule::Weekly { days: [].into(), time: Time::midnight() };
        assert_eq!(policy.next_run(at("2026-11-21T00:00:00Z")), None);
        assert_eq!(policy.last_due(Timestamp::MIN, at("2026-11-21T00:00:00Z")), None);
    }
}
