//! Schedules in every zone of the time zone database that ever changed its clocks since 1970, against plain arithmetic.

mod model;

use jiff::tz::TimeZoneDatabase;
use model::{Clocks, DAY, HOUR, days_of, instant, runs, time_of};
use strongroom_domain::calendar::Weekday;
use strongroom_domain::policy::{Policy, PolicyTier, Schedule};
use strongroom_domain::zone::ZoneName;

fn zones() -> Vec<ZoneName> {
    let names: Vec<String> =
        TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect();
    assert!(names.len() > 500, "only {} zones", names.len());
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn policy(zone: &ZoneName, schedule: Schedule) -> Policy {
    Policy { tier: PolicyTier::Enhanced, schedule, zone: zone.clone(), ..Policy::default_enhanced() }
}

/// Compares the runs in (`after`, `until`], asked for in each way there is.
fn compare(policy: &Policy, clocks: &Clocks, after: i64, until: i64) -> usize {
    let expected = runs(&policy.schedule, clocks, after, until);
    let asked: Vec<i64> =
        policy.runs(instant(after)).map(|at| at.as_second()).take_while(|at| *at <= until).collect();
    assert_eq!(asked, expected, "{} {:?} from {}", policy.zone, policy.schedule, instant(after));
    let mut last = after;
    for &at in &expected {
        let context = format!("{} {:?} at {}", policy.zone, policy.schedule, instant(at));
        assert_eq!(policy.next_run(instant(last)), Some(instant(at)), "{context}");
        assert_eq!(policy.last_due(instant(last), instant(at)), Some(instant(at)), "{context}");
        assert_eq!(policy.last_due(instant(last), instant(at - 1)), None, "{context}");
        assert_eq!(policy.last_due(instant(after), instant(at)), Some(instant(at)), "{context}");
        // Some time later, when clocks may have gone back over the run's time, or over midnight.
        let then = (at + HOUR / 2).min(until);
        let due = expected.iter().rev().find(|other| **other <= then).map(|other| instant(*other));
        assert_eq!(policy.last_due(instant(after), instant(then)), due, "{context}");
        last = at;
    }
    assert_eq!(policy.last_due(instant(last), instant(until)), None);
    expected.len()
}

/// Around each change of the clocks since 1970: at the times that the change skips, repeats and borders on.
#[test]
fn every_change_of_every_zone() {
    let (from, until) = (days_of(1970, 1, 1) * DAY, days_of(2038, 1, 1) * DAY);
    let (mut changing, mut changes, mut compared) = (0, 0, 0);
    for zone in zones() {
        let clocks = Clocks::watched(zone.time_zone(), from - 10 * DAY, until + 10 * DAY);
        let mut turn = changing;
        changing += usize::from(clocks.changes.len() > 1);
        for pair in clocks.changes.windows(2) {
            let [(_, before), (at, after)] = pair else { unreachable!() };
            if *at < from || *at > until {
                continue;
            }
            changes += 1;
            turn += 1;
            let (old, new) = (at + before, at + after);
            let times = [old, old - 60, (old + new) / 2, new, old.min(new) - 60, old.max(new) + 60, new + 60];
            let time = time_of(times[turn % times.len()]);
            let schedule = match turn % 4 {
                0 => Schedule::Daily { time },
                1 => Schedule::Hourly { every_hours: 4, window_start: time, window_hours: 24 },
                2 => Schedule::Hourly {
                    every_hours: 6,
                    window_start: time_of(old + 14 * HOUR),
                    window_hours: 12,
                },
                _ => Schedule::Weekly {
                    days: [model::weekday_of(new.div_euclid(DAY)), Weekday::Wednesday].into(),
                    time,
                },
            };
            compared += compare(&policy(&zone, schedule), &clocks, at - 2 * DAY, at + 3 * DAY);
        }
    }
    println!("{changing} zones, {changes} changes, {compared} runs");
    assert!(changing > 400 && changes > 20_000, "{changing} zones, {changes} changes");
}

/// Whole years, day by day: each day that a zone's clocks show has its one run, in each of the zones that put their clocks
/// forward and back now.
#[test]
fn each_day_has_its_run() {
    let (from, until) = (days_of(2024, 1, 1) * DAY, days_of(2028, 1, 1) * DAY);
    let mut changing = 0;
    for (index, zone) in zones().iter().enumerate() {
        let clocks = Clocks::watched(zone.time_zone(), from - 10 * DAY, until + 10 * DAY);
        if clocks.changes.len() < 3 {
            continue;
        }
        changing += 1;
        let time = [30, 90, 120, 150, 180, 1230][index % 6] * 60;
        let policy = policy(zone, Schedule::Daily { time: time_of(time) });
        let (first, end) = (clocks.first_showing(from), clocks.first_showing(until));
        let mut day = from / DAY;
        for at in policy.runs(instant(first - 1)).map(|at| at.as_second()).take_while(|at| *at < end) {
            let shown = clocks.civil(at);
            assert_eq!(shown.div_euclid(DAY), day, "{zone}: {}", instant(at));
            // The time itself, or the end of the gap that swallowed it.
            let late = shown.rem_euclid(DAY) - time;
            assert!(
                late == 0 || (late > 0 && clocks.civil(at - 1) < day * DAY + time),
                "{zone}: {}",
                instant(at)
            );
            day += 1;
        }
        assert_eq!(day, until / DAY, "{zone}");
    }
    println!("{changing} zones");
    assert!(changing > 150, "{changing} zones");
}

/// A day that is 23, 25 or 23.5 hours long has the runs of an hourly schedule, whichever window it has.
#[test]
fn every_window_over_every_kind_of_change() {
    let (from, until) = (days_of(2010, 1, 1) * DAY, days_of(2013, 1, 1) * DAY);
    for name in [
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Antarctica/Troll",
        "Africa/Casablanca",
        "Pacific/Apia",
        "Asia/Gaza",
        "Asia/Tehran",
    ] {
        let zone: ZoneName = name.parse().unwrap();
        let clocks = Clocks::watched(zone.time_zone(), from - 10 * DAY, until + 10 * DAY);
        for every_hours in [4, 6, 8, 12] {
            for window_hours in [every_hours, 12, 13, 24] {
                for start in [0, 90, 150, 8 * 60, 23 * 60 + 45] {
                    let window_start = time_of(start * 60);
                    let schedule = Schedule::Hourly { every_hours, window_start, window_hours };
                    let policy = policy(&zone, schedule);
                    assert_eq!(policy.validate().is_ok(), window_hours % every_hours == 0);
                    for (at, _) in &clocks.changes[1..] {
                        compare(&policy, &clocks, at - 3 * DAY / 2, at + 3 * DAY / 2);
                    }
                }
            }
        }
    }
}
