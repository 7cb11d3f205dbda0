//! Retention against a model that keeps no set of rules but walks the calendar: written differently, with plain integers.

mod model;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use jiff::Timestamp;
use jiff::civil::Time;
use model::{Clocks, DAY, HOUR, days_of, instant, month_of, months_later, picks, weekday_of};
use proptest::prelude::*;
use std::collections::BTreeSet;
use strongroom_domain::calendar::{Month, MonthPick, WeekOfMonth, Weekday};
use strongroom_domain::policy::{
    DailyRetention, MonthlyRetention, Policy, PolicyTier, Retention, Schedule, WeeklyRetention,
    YearlyRetention,
};
use strongroom_domain::retention::{PointFacts, PointReason, RetentionMode, Verdict, keeps_less, retain};
use strongroom_domain::zone::ZoneName;

const ZONES: [&str; 5] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Auckland"];

fn span() -> (i64, i64) {
    (days_of(2019, 1, 1) * DAY, days_of(2040, 1, 1) * DAY)
}

fn watched(zone: &str) -> (ZoneName, Clocks) {
    let zone: ZoneName = zone.parse().unwrap();
    let (from, until) = span();
    // A rule may keep a point for 99 years.
    let clocks = Clocks::watched(zone.time_zone(), from - 10 * DAY, until + 101 * 366 * DAY);
    (zone, clocks)
}

/// Whether the rules still keep a point at an instant: asks each rule whether its time has come.
fn kept(policy: &Policy, clocks: &Clocks, points: &[PointFacts], index: usize, now: i64) -> bool {
    let point = points[index];
    let second = |at: Timestamp| at.as_second();
    // What nobody knows the reason of counts as scheduled.
    let run_of = |point: &PointFacts| match (point.reason, point.scheduled_for) {
        (Some(PointReason::OnDemand | PointReason::BeforeRestore), _) => None,
        (_, run) => Some(second(run.unwrap_or(point.taken_at))),
    };
    let Some(run) = run_of(&point) else {
        return point.keep_until.is_none_or(|until| now < second(until));
    };
    let day = clocks.civil(run).div_euclid(DAY);
    // Nobody of the same day is before it.
    let is_first = points.iter().enumerate().all(|(other, that)| {
        let Some(that_run) = run_of(that) else { return true };
        clocks.civil(that_run).div_euclid(DAY) != day
            || (run, second(point.taken_at), index) <= (that_run, second(that.taken_at), other)
    });
    let from = clocks.civil(run.max(second(point.taken_at)));
    let (from_day, from_second) = (from.div_euclid(DAY), from.rem_euclid(DAY));
    let not_yet = |day: i64| now < clocks.first_showing(day * DAY + from_second);
    let by_week = matches!(policy.schedule, Schedule::Weekly { .. });
    let Retention { daily, weekly, monthly, yearly } = &policy.retention;
    if daily.is_some_and(|rule| not_yet(from_day + i64::from(rule.days))) {
        return true;
    }
    if let Some(rule) = weekly
        && (by_week || (is_first && rule.days_of_week.contains(&weekday_of(day))))
        && not_yet(from_day + 7 * i64::from(rule.weeks))
    {
        return true;
    }
    if let Some(rule) = monthly
        && is_first
        && picks(&rule.by, day)
        && not_yet(months_later(from_day, i64::from(rule.months)))
    {
        return true;
    }
    if let Some(rule) = yearly
        && is_first
        && rule.months.contains(&month_of(day))
        && picks(&rule.by, day)
        && not_yet(months_later(from_day, 12 * i64::from(rule.years)))
    {
        return true;
    }
    false
}

fn set<T: Ord + Copy + std::fmt::Debug + 'static>(
    all: &'static [T],
    least: usize,
) -> impl Strategy<Value = BTreeSet<T>> {
    prop::sample::subsequence(all, least..=all.len()).prop_map(|some| some.into_iter().collect())
}

fn month_pick() -> impl Strategy<Value = MonthPick> {
    prop_oneof![
        (prop::collection::btree_set(1u8..=31, 1..4), any::<bool>())
            .prop_map(|(days, last)| MonthPick::Dates { days, last }),
        (set(&WeekOfMonth::ALL, 1), set(&Weekday::ALL, 1))
            .prop_map(|(weeks, days_of_week)| MonthPick::Positions { weeks, days_of_week }),
    ]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let time = (0i8..24, prop::sample::select(&[0i8, 15, 30, 45][..]))
        .prop_map(|(hour, minute)| Time::new(hour, minute, 0, 0).unwrap());
    prop_oneof![
        2 => time.clone().prop_map(|time| Schedule::Daily { time }),
        1 => (set(&Weekday::ALL, 1), time.clone()).prop_map(|(days, time)| Schedule::Weekly { days, time }),
        2 => (prop::sample::select(&[4u32, 6, 8, 12][..]), time, 1u32..=6).prop_map(|(every_hours, window_start, times)| {
            Schedule::Hourly { every_hours, window_start, window_hours: every_hours * times.min(24 / every_hours) }
        }),
    ]
}

fn policy(zone: ZoneName) -> impl Strategy<Value = Policy> {
    let rules = (
        1u32..60,
        prop::option::of((set(&Weekday::ALL, 1), 1u32..30)),
        prop::option::of((month_pick(), 1u32..30)),
        prop::option::of((set(&Month::ALL, 1), month_pick(), 1u32..6)),
    );
    (schedule(), rules).prop_map(move |(schedule, (days, weekly, monthly, yearly))| {
        let by_week = match &schedule {
            Schedule::Weekly { days, .. } => Some(days.clone()),
            _ => None,
        };
        // What a weekly schedule makes no backup on can't be picked.
        let picked = |by: MonthPick| match (by, &by_week) {
            (MonthPick::Positions { weeks, .. }, Some(days)) => {
                MonthPick::Positions { weeks, days_of_week: days.clone() }
            }
            (by, _) => by,
        };
        let weekly = match (by_week.clone(), weekly) {
            (Some(days_of_week), rule) => {
                Some(WeeklyRetention { days_of_week, weeks: rule.map_or(days, |(_, weeks)| weeks) })
            }
            (None, rule) => rule.map(|(days_of_week, weeks)| WeeklyRetention { days_of_week, weeks }),
        };
        Policy {
            tier: PolicyTier::Enhanced,
            schedule,
            retention: Retention {
                daily: by_week.is_none().then_some(DailyRetention { days }),
                weekly,
                monthly: monthly.map(|(by, months)| MonthlyRetention { by: picked(by), months }),
                yearly: yearly.map(|(months, by, years)| YearlyRetention { months, by: picked(by), years }),
            },
            zone: zone.clone(),
            snapshot_days: 1,
            snapshot_consistency: Default::default(),
            require_all_disks: false,
        }
    })
}

/// Points of some months as a host makes them: most runs, each a little late, some much, some not at all; and some on demand.
fn points(policy: &Policy, start: i64, seed: &[u8]) -> Vec<PointFacts> {
    let mut points = Vec::new();
    for (run, chance) in policy.runs(instant(start)).zip(seed.iter().cycle()).take(90) {
        let late = match chance % 16 {
            0..=2 => continue,
            3 => 40 * HOUR,
            other => i64::from(other) * 7,
        };
        let taken_at = instant(run.as_second() + late);
        // Of some it is not known any more why they were made.
        let (reason, scheduled_for) = match chance % 5 {
            0 => (None, None),
            _ => (Some(PointReason::Scheduled), Some(run)),
        };
        points.push(PointFacts { taken_at, reason, scheduled_for, keep_until: None });
        if chance % 11 == 0 {
            let keep_until =
                (chance % 2 == 0).then(|| instant(taken_at.as_second() + i64::from(*chance) * DAY));
            let reason = Some(PointReason::OnDemand);
            points.push(PointFacts { taken_at, reason, scheduled_for: None, keep_until });
        }
    }
    points
}

fn check(policy: &Policy, clocks: &Clocks, points: &[PointFacts], now: i64) -> Result<(), TestCaseError> {
    let verdicts = retain(policy, RetentionMode::Policy, points);
    for (index, verdict) in verdicts.iter().enumerate() {
        // At the instant, and right at the end of what was answered.
        let end =
            verdict.expires_at().map_or(now, |at| at.as_second() + i64::from(at.subsec_nanosecond() > 0));
        for at in [now, end, end - 1] {
            prop_assert_eq!(
                !verdict.is_expired(instant(at)),
                kept(policy, clocks, points, index, at),
                "{:?} at {}: {:?} under {:?}",
                points[index],
                instant(at),
                verdict,
                policy
            );
        }
    }
    Ok(())
}

fn any_case() -> impl Strategy<Value = (usize, Policy, Policy, i64, Vec<u8>, i64)> {
    (0..ZONES.len()).prop_flat_map(|zone| {
        let name: ZoneName = ZONES[zone].parse().unwrap();
        (
            Just(zone),
            policy(name.clone()),
            policy(name),
            0i64..3000,
            prop::collection::vec(any::<u8>(), 30..60),
            0i64..2500,
        )
    })
}

/// The model's clocks are watched once.
fn clocks(zone: usize) -> &'static Clocks {
    static WATCHED: [std::sync::OnceLock<Clocks>; ZONES.len()] =
        [const { std::sync::OnceLock::new() }; ZONES.len()];
    WATCHED[zone].get_or_init(|| watched(ZONES[zone]).1)
}

/// Ten times as many in a soak.
fn cases(few: u32) -> ProptestConfig {
    ProptestConfig {
        cases: soak::number(few, 10 * few),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The same rules, each for longer.
fn grown(policy: &Policy, by: [u32; 4]) -> Policy {
    let mut grown = policy.clone();
    let Retention { daily, weekly, monthly, yearly } = &mut grown.retention;
    daily.iter_mut().for_each(|rule| rule.days += by[0]);
    weekly.iter_mut().for_each(|rule| rule.weeks += by[1]);
    monthly.iter_mut().for_each(|rule| rule.months += by[2]);
    yearly.iter_mut().for_each(|rule| rule.years += by[3]);
    grown
}

proptest! {
    #![proptest_config(cases(1500))]

    /// What is not said to keep less lets no point go sooner.
    #[test]
    fn what_keeps_no_less_keeps_every_point(
        (_, before, mut other, start, seed, _) in any_case(),
        by in prop::array::uniform4(0u32..2000),
    ) {
        prop_assert!(!keeps_less(&before, &before));
        let longer = grown(&before, by);
        prop_assert!(!keeps_less(&before, &longer));
        other.retention = grown(&other, by).retention;
        let made = points(&before, span().0 + start * DAY, &seed);
        let then = retain(&before, RetentionMode::Policy, &made);
        for after in [&longer, &other] {
            if keeps_less(&before, after) {
                continue;
            }
            for (was, is) in then.iter().zip(retain(after, RetentionMode::Policy, &made)) {
                let end = |verdict: &Verdict| verdict.expires_at().unwrap_or(Timestamp::MAX);
                prop_assert!(end(&is) >= end(was), "{:?} became {:?}", was, is);
            }
        }
    }

    #[test]
    fn rules_agree_with_the_model((zone, policy, changed, start, seed, later) in any_case()) {
        prop_assert_eq!((policy.validate(), changed.validate()), (Ok(()), Ok(())));
        let start = span().0 + start * DAY;
        let points = points(&policy, start, &seed);
        let now = start + later * DAY + 12345;
        check(&policy, clocks(zone), &points, now)?;
        // A changed policy applies to the points that are there.
        check(&changed, clocks(zone), &points, now)?;
    }

    #[test]
    fn the_order_of_the_points_does_not_matter((_, policy, _, start, seed, _) in any_case()) {
        let points = points(&policy, span().0 + start * DAY, &seed);
        let straight = retain(&policy, RetentionMode::KeepLast, &points);
        let mut turned = points.clone();
        turned.reverse();
        let mut back = retain(&policy, RetentionMode::KeepLast, &turned);
        back.reverse();
        prop_assert_eq!(straight, back);
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// Points that are removed as they expire do not make others go that would have stayed, also where the policy changes; and
    /// under one policy, with runs in time, it comes to the same as looking once: tags do not wander to what is left.
    #[test]
    fn expiring_bit_by_bit((_, policy, changed, start, seed, later) in any_case()) {
        let start = span().0 + start * DAY;
        let switch = start + later % 100 * DAY;
        let late = points(&policy, start, &seed);
        let in_time: Vec<PointFacts> =
            late.iter().filter(|p| p.scheduled_for.is_none_or(|run| p.taken_at.duration_since(run).as_hours() < 1)).copied().collect();
        for (all, changes) in [(late, true), (in_time, false)] {
            let mut left: Vec<usize> = (0..all.len()).collect();
            for day in (0..400).step_by(3) {
                let now = instant(start + day * DAY + 3 * HOUR);
                let rules = if changes && now.as_second() >= switch { &changed } else { &policy };
                let at_once = retain(rules, RetentionMode::Policy, &all);
                let rest: Vec<PointFacts> = left.iter().map(|&index| all[index]).collect();
                let gone: BTreeSet<usize> = left
                    .iter()
                    .zip(retain(rules, RetentionMode::Policy, &rest))
                    .filter(|(_, verdict)| verdict.is_expired(now))
                    .map(|(&index, _)| index)
                    .collect();
                prop_assert!(gone.iter().all(|&index| at_once[index].is_expired(now)));
                left.retain(|index| !gone.contains(index));
                if !changes {
                    let expected: Vec<usize> = (0..all.len()).filter(|&index| !at_once[index].is_expired(now)).collect();
                    prop_assert_eq!(&left, &expected);
                }
            }
        }
    }

    #[test]
    fn the_last_point_stays((_, policy, _, start, seed, _) in any_case()) {
        let mut points = points(&policy, span().0 + start * DAY, &seed);
        // Those stay anyway.
        points.retain(|p| p.reason != Some(PointReason::OnDemand) || p.keep_until.is_some());
        prop_assume!(!points.is_empty());
        let far = instant(span().1 + 30_000 * DAY);
        let verdicts = retain(&policy, RetentionMode::KeepLast, &points);
        let left: Vec<Timestamp> =
            points.iter().zip(&verdicts).filter(|(_, v)| !v.is_expired(far)).map(|(p, _)| p.taken_at).collect();
        let last = points.iter().map(|point| point.taken_at).max();
        prop_assert!(!left.is_empty() && left.iter().all(|at| Some(*at) == last));
        let all = retain(&policy, RetentionMode::KeepAll, &points);
        prop_assert!(all.iter().all(|verdict| !verdict.is_expired(Timestamp::MAX)));
    }
}

/// Twelve years of daily backups under a policy of all four rules, swept each day: what is there on each first of a month is
/// what a person would list.
#[test]
fn twelve_years_of_grandfathers() {
    let (zone, clocks) = watched("Europe/Berlin");
    let policy = Policy {
        zone,
        schedule: Schedule::Daily { time: Time::constant(2, 30, 0, 0) },
        retention: Retention {
            daily: Some(DailyRetention { days: 14 }),
            weekly: Some(WeeklyRetention { days_of_week: [Weekday::Sunday].into(), weeks: 8 }),
            monthly: Some(MonthlyRetention {
                by: MonthPick::Positions {
                    weeks: [WeekOfMonth::First].into(),
                    days_of_week: [Weekday::Sunday].into(),
                },
                months: 12,
            }),
            yearly: Some(YearlyRetention {
                months: [Month::January].into(),
                by: MonthPick::Dates { days: [1].into(), last: false },
                years: 10,
            }),
        },
        ..Policy::default_standard()
    };
    assert_eq!(policy.validate(), Ok(()));
    let mut left: Vec<PointFacts> = Vec::new();
    let first_day = days_of(2020, 1, 1);
    for run in policy.runs(instant(clocks.first_showing(first_day * DAY))).take(12 * 365 + 3) {
        let reason = Some(PointReason::Scheduled);
        left.push(PointFacts { taken_at: run, reason, scheduled_for: Some(run), keep_until: None });
        let now = instant(run.as_second() + HOUR);
        let verdicts = retain(&policy, RetentionMode::KeepLast, &left);
        let mut verdicts = verdicts.iter();
        left.retain(|_| !verdicts.next().unwrap().is_expired(now));
        let today = clocks.civil(run.as_second()).div_euclid(DAY);
        let (year, _, day) = model::date_of(today);
        if day != 1 {
            continue;
        }
        let days: BTreeSet<i64> =
            left.iter().map(|point| clocks.civil(point.taken_at.as_second()).div_euclid(DAY)).collect();
        let expected: BTreeSet<i64> = (first_day..=today)
            .filter(|&one| {
                let (of_year, month, date) = model::date_of(one);
                let sunday = weekday_of(one) == Weekday::Sunday;
                // The daylight-saving days may be an hour off: an hour has passed since this day's run.
                today - one < 14
                    || (sunday && today - one < 56)
                    || (sunday && date <= 7 && months_later(one, 12) > today)
                    || (month == 1 && date == 1 && year - of_year < 10)
            })
            .collect();
        assert_eq!(days, expected, "{:?}", model::date_of(today));
    }
    assert!(left.len() > 40, "{}", left.len());
}
