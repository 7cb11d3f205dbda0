//! A host over months and years: it ticks, backs up, is off, has its clock set, and its operators change their minds. What the
//! scheduler decided is held against the schedule's civil times, worked out by plain arithmetic.

mod model;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use jiff::Timestamp;
use jiff::civil::Time;
use model::{Clocks, DAY, HOUR, days_of, instant};
use proptest::prelude::*;
use soak::number;
use std::time::Duration;
use strongroom_domain::calendar::Weekday;
use strongroom_domain::clock::{ClockGuard, ClockRecord};
use strongroom_domain::decide::{Decision, Situation, anchor, decide};
use strongroom_domain::item::{ItemEvent, ItemState};
use strongroom_domain::limits::CLOCK_GRACE;
use strongroom_domain::policy::{DailyRetention, Policy, Retention, Schedule, WeeklyRetention};
use strongroom_domain::retention::{PointFacts, PointReason, retain};

const MINUTE: i64 = 60;

/// Something the scheduler did. Times are seconds by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Ran { at: i64, scheduled_for: i64 },
    Skipped { at: i64, scheduled_for: i64 },
}

impl Done {
    fn scheduled_for(&self) -> i64 {
        match self {
            Self::Ran { scheduled_for, .. } | Self::Skipped { scheduled_for, .. } => *scheduled_for,
        }
    }
}

/// A host with one machine, and the service that looks after it.
struct Host {
    /// What really passed, which the wall clock may not show.
    passed: i64,
    wall: i64,
    on: bool,
    booted: i64,
    guard: ClockGuard,
    record: ClockRecord,
    policy: Policy,
    state: ItemState,
    considered_until: Timestamp,
    /// How long a backup takes, and when the present one ends, in what really passed.
    backup_takes: i64,
    busy_until: Option<i64>,
    points: Vec<PointFacts>,
    removed: Vec<(i64, PointFacts)>,
    done: Vec<Done>,
}

impl Host {
    /// A machine that is protected from `wall` on, on a host that has been running for long.
    fn new(policy: Policy, wall: i64) -> Self {
        let record = ClockRecord { wall: instant(wall), doubt: None, even_seconds: 0 };
        let guard = ClockGuard::start(Some(&record), instant(wall), Duration::ZERO);
        Self {
            passed: 0,
            wall,
            on: true,
            booted: 0,
            guard,
            record,
            policy,
            state: ItemState::NotProtected.after(&ItemEvent::Protect).unwrap(),
            considered_until: anchor(None, instant(wall)),
            backup_takes: 5 * MINUTE,
            busy_until: None,
            points: Vec::new(),
            removed: Vec::new(),
            done: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        instant(self.wall)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs((self.passed - self.booted) as u64)
    }

    /// Lets time pass, a tick each `step` seconds.
    fn run(&mut self, seconds: i64, step: i64) {
        let end = self.passed + seconds;
        while self.passed < end {
            let step = step.min(end - self.passed);
            self.passed += step;
            self.wall += step;
            self.tick();
        }
    }

    fn set_clock(&mut self, by: i64) {
        self.wall += by;
    }

    fn off(&mut self, seconds: i64) {
        self.on = false;
        self.busy_until = None;
        self.passed += seconds;
        self.wall += seconds;
        self.on = true;
        self.booted = self.passed;
        self.guard = ClockGuard::start(Some(&self.record), self.now(), self.monotonic());
        self.tick();
    }

    fn change_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.considered_until = anchor(Some(self.considered_until), self.now());
    }

    fn event(&mut self, event: ItemEvent) {
        self.state = self.state.after(&event).unwrap();
        if matches!(event, ItemEvent::Resume { .. }) {
            self.considered_until = anchor(Some(self.considered_until), self.now());
        }
    }

    fn tick(&mut self) {
        self.guard.observe(self.now(), self.monotonic());
        self.record = self.guard.record();
        if self.busy_until.is_some_and(|end| end <= self.passed) {
            self.busy_until = None;
            self.state = self.state.after(&ItemEvent::FirstBackupDone).unwrap();
        }
        if self.state.is_scheduled() {
            self.schedule();
        }
        if self.guard.may_expire() {
            let verdicts = retain(&self.policy, self.state.retention_mode(), &self.points);
            let (wall, now) = (self.wall, self.now());
            let mut verdicts = verdicts.into_iter();
            let removed = &mut self.removed;
            self.points.retain(|point| {
                let goes = verdicts.next().unwrap().is_expired(now);
                if goes {
                    removed.push((wall, *point));
                }
                !goes
            });
        }
    }

    fn schedule(&mut self) {
        let decision = decide(&Situation {
            policy: &self.policy,
            considered_until: self.considered_until,
            now: self.now(),
            running: self.busy_until.is_some(),
            clock_trusted: self.guard.may_expire(),
        });
        self.considered_until = decision.considered_until();
        match decision {
            Decision::Run { scheduled_for, .. } => {
                assert_eq!(self.busy_until, None, "two backups at once");
                assert!(scheduled_for <= self.now());
                self.busy_until = Some(self.passed + self.backup_takes);
                self.points.push(PointFacts {
                    taken_at: self.now(),
                    reason: Some(PointReason::Scheduled),
                    scheduled_for: Some(scheduled_for),
                    keep_until: None,
                });
                self.done.push(Done::Ran { at: self.wall, scheduled_for: scheduled_for.as_second() });
            }
            Decision::Skip { scheduled_for, .. } => {
                self.done.push(Done::Skipped { at: self.wall, scheduled_for: scheduled_for.as_second() });
            }
            Decision::Wait { until, .. } => assert!(until.is_some_and(|until| until > self.now())),
        }
    }

    fn scheduled(&self) -> Vec<i64> {
        self.done.iter().map(Done::scheduled_for).collect()
    }
}

fn daily(zone: &str, hour: i8, minute: i8, days: u32) -> Policy {
    Policy {
        schedule: Schedule::Daily { time: Time::constant(hour, minute, 0, 0) },
        zone: zone.parse().unwrap(),
        retention: Retention { daily: Some(DailyRetention { days }), ..Retention::default() },
        ..Policy::default_standard()
    }
}

fn hourly(zone: &str, every_hours: u32, start: i8, window_hours: u32) -> Policy {
    Policy {
        schedule: Schedule::Hourly {
            every_hours,
            window_start: Time::constant(start, 0, 0, 0),
            window_hours,
        },
        zone: zone.parse().unwrap(),
        ..Policy::default_enhanced()
    }
}

fn weekly(zone: &str) -> Policy {
    let days = [Weekday::Sunday, Weekday::Wednesday];
    Policy {
        schedule: Schedule::Weekly { days: days.into(), time: Time::constant(2, 30, 0, 0) },
        retention: Retention {
            weekly: Some(WeeklyRetention { days_of_week: days.into(), weeks: 5 }),
            ..Retention::default()
        },
        ..daily(zone, 2, 30, 1)
    }
}

fn expected(policy: &Policy, after: i64, until: i64) -> Vec<i64> {
    let clocks = Clocks::watched(policy.zone.time_zone(), after - 20 * DAY, until + 20 * DAY);
    model::runs(&policy.schedule, &clocks, after, until)
}

fn start() -> i64 {
    days_of(2026, 11, 21) * DAY + 12 * HOUR
}

#[test]
fn years_of_nights_without_anyone() {
    for policy in [
        daily("Europe/Berlin", 2, 30, 30),
        hourly("America/New_York", 4, 22, 8),
        weekly("Australia/Lord_Howe"),
        Policy::default_standard(),
    ] {
        let mut host = Host::new(policy.clone(), start());
        host.run(2 * 366 * DAY, 15 * MINUTE);
        assert_eq!(host.scheduled(), expected(&policy, start(), host.wall), "{policy:?}");
        assert!(
            host.done.iter().all(
                |done| matches!(done, Done::Ran { at, scheduled_for } if at - scheduled_for < 15 * MINUTE)
            )
        );
        // What is gone had its time, and what is there has not had it.
        let clocks = Clocks::watched(policy.zone.time_zone(), start() - DAY, host.wall + 400 * DAY);
        let days = i64::from(policy.base_retention_days());
        let end =
            |point: &PointFacts| clocks.first_showing(clocks.civil(point.taken_at.as_second()) + days * DAY);
        assert!(
            host.removed.iter().all(|(at, point)| (0..15 * MINUTE).contains(&(at - end(point)))),
            "{policy:?}"
        );
        assert!(host.points.iter().all(|point| end(point) > host.wall));
        assert_eq!(host.removed.len() + host.points.len(), host.done.len());
        assert_eq!(host.state, ItemState::Protected);
    }
}

#[test]
fn a_clock_put_forward_a_month_runs_once_and_expires_nothing() {
    let mut host = Host::new(daily("Europe/Berlin", 20, 30, 30), start());
    host.run(60 * DAY, 10 * MINUTE);
    let (before, removed) = (host.done.len(), host.removed.len());
    host.set_clock(30 * DAY);
    // A night passes before somebody sees it.
    host.run(20 * HOUR, 10 * MINUTE);
    let ran = host.done.len() - before;
    assert!((1..=2).contains(&ran), "one for what seemed missed, one for the night: {ran}");
    assert_eq!(host.removed.len(), removed, "nothing was lost");
    host.set_clock(-30 * DAY);
    host.run(23 * HOUR, 10 * MINUTE);
    assert_eq!(host.removed.len(), removed);
    // The clock has run evenly for a day: the night that was held up is made up for, and the nights go on, and so does expiry.
    let before = host.done.len();
    host.run(10 * DAY, 10 * MINUTE);
    assert!(host.removed.len() > removed);
    let nights: Vec<i64> = host.done[before..].iter().map(Done::scheduled_for).collect();
    assert_eq!(nights, expected(&host.policy, start() + 61 * DAY, host.wall));
    assert_eq!(nights.len(), 10 + 1);
}

#[test]
fn a_clock_that_stays_a_month_ahead_expires_after_its_grace() {
    let mut host = Host::new(daily("UTC", 20, 30, 30), start());
    host.run(60 * DAY, 10 * MINUTE);
    let removed = host.removed.len();
    host.set_clock(30 * DAY);
    host.run(CLOCK_GRACE.as_secs() as i64 - 10 * MINUTE, 10 * MINUTE);
    assert_eq!(host.removed.len(), removed);
    host.run(20 * MINUTE, 10 * MINUTE);
    assert!(host.removed.len() > removed + 25);
    assert!(!host.points.is_empty());
}

#[test]
fn a_clock_put_back_an_hour_runs_nothing_twice() {
    for minute in 0..90 {
        let mut host = Host::new(daily("Europe/Berlin", 20, 30, 30), start());
        host.run(3 * DAY, 10 * MINUTE);
        let nights = host.done.len();
        // The fourth evening: between 20:00 and 21:30 the clock is put back.
        host.run(7 * HOUR + minute * MINUTE, MINUTE);
        host.set_clock(-HOUR);
        host.run(4 * HOUR, MINUTE);
        assert_eq!(host.done.len(), nights + 1, "{minute}");
        host.run(DAY, MINUTE);
        let mut scheduled = host.scheduled();
        assert!(scheduled.is_sorted());
        scheduled.dedup();
        assert_eq!(scheduled.len(), nights + 2, "{minute}");
    }
}

#[test]
fn what_was_missed_runs_once_on_return() {
    let policy = hourly("Europe/Berlin", 4, 8, 12);
    let mut host = Host::new(policy, start());
    host.run(2 * DAY, 10 * MINUTE);
    let before = host.done.len();
    host.off(9 * DAY + 5 * HOUR);
    assert_eq!(host.done.len(), before + 1);
    let Some(Done::Ran { at, scheduled_for }) = host.done.last() else { panic!("skipped") };
    assert_eq!(*at, host.wall);
    assert!(at - scheduled_for < 12 * HOUR, "the last of what was missed");
    // Not running is not running: the clock is in doubt, and expires nothing for a day.
    let removed = host.removed.len();
    host.run(DAY - 10 * MINUTE, 10 * MINUTE);
    assert_eq!(host.removed.len(), removed);
}

#[test]
fn a_backup_that_takes_too_long_costs_the_next_one() {
    let mut host = Host::new(hourly("UTC", 4, 0, 20), start());
    host.backup_takes = 5 * HOUR;
    host.run(4 * DAY, 10 * MINUTE);
    let ran = host.done.iter().filter(|done| matches!(done, Done::Ran { .. })).count();
    assert_eq!((ran, host.done.len()), (12, 24), "every other one is skipped, and each is told of");
    assert!(host.done.windows(2).all(|pair| pair[0].scheduled_for() < pair[1].scheduled_for()));
}

#[test]
fn stopped_items_run_nothing_and_keep_all_their_points_and_suspended_ones_the_last() {
    let mut host = Host::new(daily("Europe/Berlin", 20, 30, 7), start());
    host.run(20 * DAY, 10 * MINUTE);
    for (stop, left) in [(ItemEvent::Stop, 7), (ItemEvent::Suspend, 1)] {
        host.event(stop);
        let before = host.done.len();
        host.run(40 * DAY, 10 * MINUTE);
        assert_eq!(host.done.len(), before);
        assert_eq!(host.points.len(), left, "{stop:?}");
        let last = host.points.iter().map(|p| p.taken_at).max().unwrap();
        host.event(ItemEvent::Resume { has_points: true });
        host.run(HOUR, 10 * MINUTE);
        assert_eq!(host.done.len(), before, "what was not made while it was stopped is not made up for");
        assert_eq!(host.points.iter().map(|p| p.taken_at).collect::<Vec<_>>(), [last], "by the policy again");
        host.run(30 * DAY, 10 * MINUTE);
        assert_eq!(host.done.len(), before + 30);
        assert_eq!(host.points.len(), 7);
    }
    host.event(ItemEvent::Delete);
    host.run(14 * DAY, 10 * MINUTE);
    assert_eq!(host.points.len(), 7, "what can be brought back is kept whole");
    host.event(ItemEvent::Undelete);
    host.run(14 * DAY, 10 * MINUTE);
    assert_eq!((host.state, host.points.len()), (ItemState::ProtectionStopped, 7));
}

/// Something that happens to the host, in minutes and such.
#[derive(Debug, Clone)]
enum Step {
    Run(i64),
    Off(i64),
    SetClock(i64),
    Policy(usize),
    Stop,
    Resume,
    Takes(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1i64..5000).prop_map(Step::Run),
        2 => (1i64..20_000).prop_map(Step::Off),
        1 => (0usize..4).prop_map(Step::Policy),
        1 => Just(Step::Stop),
        1 => Just(Step::Resume),
        1 => (1i64..600).prop_map(Step::Takes),
    ]
}

fn jump() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Up to a day back: as far as is waited for.
        (-24 * 60i64..60 * 24 * 60).prop_map(Step::SetClock),
        Just(Step::SetClock(-60)),
        Just(Step::SetClock(30 * 24 * 60)),
    ]
}

fn policies() -> [Policy; 4] {
    [
        daily("Europe/Berlin", 2, 30, 20),
        hourly("America/New_York", 6, 20, 18),
        weekly("Pacific/Auckland"),
        daily("Africa/Casablanca", 23, 45, 3),
    ]
}

fn play(host: &mut Host, step: &Step) {
    match step {
        Step::Run(minutes) => host.run(minutes * MINUTE, 20 * MINUTE),
        Step::Off(minutes) => host.off(minutes * MINUTE),
        // A step that nobody was there to see, before or after a pause of hours, can't be told from a longer pause.
        Step::SetClock(minutes) => {
            host.set_clock(minutes * MINUTE);
            host.run(MINUTE, MINUTE);
        }
        Step::Policy(index) => host.change_policy(policies()[*index].clone()),
        Step::Stop if host.state.is_scheduled() => host.event(ItemEvent::Stop),
        Step::Resume if !host.state.is_scheduled() => {
            let has_points = !host.points.is_empty();
            host.event(ItemEvent::Resume { has_points });
        }
        Step::Takes(minutes) => host.backup_takes = minutes * MINUTE,
        Step::Stop | Step::Resume => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number(120, 1200), failure_persistence: None, ..ProptestConfig::default() })]

    /// On a clock that is right: each run of each stretch under one schedule happens, is skipped beside another, or is missed
    /// with the host off and made up for once.
    #[test]
    fn whatever_happens_each_run_is_accounted_for(
        from in 0i64..700,
        first in 0usize..4,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut host = Host::new(policies()[first].clone(), start() + from * DAY);
        for step in &steps {
            let (was, done) = (host.wall, host.done.len());
            let (policy, scheduled) = (host.policy.clone(), host.state.is_scheduled());
            play(&mut host, step);
            let now: Vec<i64> = host.done[done..].iter().map(Done::scheduled_for).collect();
            let mut due = if scheduled { expected(&policy, was, host.wall) } else { Vec::new() };
            if matches!(step, Step::Off(_)) {
                due = due.last().copied().into_iter().collect();
            }
            prop_assert_eq!(now, due, "{:?} from {}", step, instant(was));
        }
    }

    /// On a clock that jumps: nothing runs twice, nothing runs early, and nothing goes before its time on a clock that jumped
    /// within the last day.
    #[test]
    fn a_clock_that_jumps_repeats_nothing_and_loses_nothing(
        first in 0usize..4,
        steps in prop::collection::vec(prop_oneof![3 => step(), 1 => jump()], 1..40),
    ) {
        let mut host = Host::new(policies()[first].clone(), start());
        let mut jumped_at: Option<i64> = None;
        for step in &steps {
            let removed = host.removed.len();
            if matches!(step, Step::SetClock(minutes) if minutes.abs() > 5) {
                jumped_at = Some(host.passed);
            }
            play(&mut host, step);
            if jumped_at.is_some_and(|at| host.passed - at < CLOCK_GRACE.as_secs() as i64) {
                prop_assert_eq!(host.removed.len(), removed, "lost after {:?}", step);
            }
        }
        for done in &host.done {
            let (Done::Ran { at, scheduled_for } | Done::Skipped { at, scheduled_for }) = done;
            prop_assert!(scheduled_for <= at);
        }
    }
}

/// Back by up to a day, again and again, each run is there once.
#[test]
fn no_run_is_repeated_by_any_step_back_within_a_day() {
    for back in [1, 30, 60, 61, 300, 12 * 60, 24 * 60] {
        let policy = hourly("Europe/Berlin", 4, 0, 20);
        let mut host = Host::new(policy, start());
        for _ in 0..12 {
            host.run(31 * HOUR, 10 * MINUTE);
            host.set_clock(-back * MINUTE);
        }
        let scheduled = host.scheduled();
        assert!(scheduled.windows(2).all(|pair| pair[0] < pair[1]), "{back}");
        // And none is left out: the clock comes by each in the end.
        let until = scheduled.last().copied().unwrap();
        assert_eq!(scheduled, expected(&host.policy, start(), until), "{back}");
    }
}

/// What was considered of a future that was not holds the schedule up no longer than the grace, whenever it happens.
#[test]
fn a_schedule_is_not_held_up_by_a_future_that_was_not() {
    for hour in 0..24 {
        for policy in [daily("UTC", 20, 30, 30), weekly("UTC")] {
            let mut host = Host::new(policy.clone(), start());
            host.run(9 * DAY + hour * HOUR, 10 * MINUTE);
            let (before, from) = (host.done.len(), host.wall);
            host.set_clock(365 * DAY);
            host.run(20 * MINUTE, 10 * MINUTE);
            host.set_clock(-365 * DAY);
            assert_eq!(host.done.len(), before + 1);
            host.run(20 * DAY, 10 * MINUTE);
            let nights: Vec<i64> = host.done[before + 1..].iter().map(Done::scheduled_for).collect();
            let mut due = expected(&policy, from, host.wall);
            // Of what the wrong minutes and the grace held up, which begins with the tick that sees the jump, the last is made up for.
            let late = due.iter().filter(|at| **at <= from + DAY + 30 * MINUTE).count();
            due.drain(..late.saturating_sub(1));
            assert_eq!(nights, due, "{hour} {policy:?}");
        }
    }
}
