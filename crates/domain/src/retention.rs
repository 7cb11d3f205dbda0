//! How long recovery points are kept: a pure function of a policy and all of an item's points.
//!
//! Nothing about retention is written into a point, so a changed policy applies to the points that are already there.
//!
//! **Tags.** A scheduled point belongs to the civil day, in the policy's zone, on which its run was scheduled (not on which
//! it was made: a run that was missed stands for its own day). Then:
//!
//! - The schedule's own rule tags every scheduled point: the daily rule of a daily or hourly schedule, the weekly rule of a
//!   weekly one. Also points made under an earlier policy, on days that this one has no backups on: nothing that the schedule
//!   made is without a rule.
//! - The other rules tag one point of each day that they name: the day's first that is there. Azure asks for retention
//!   times that are the day's first run's, which is the same while it succeeds.
//! - A day without any point tags nothing: its tag does not go to another day's point. Azure documents no other.
//! - A point made on demand is no part of this; it is kept until its own date, and without one until somebody deletes it.
//! - A point of which nobody knows why it was made counts as one that was scheduled for when it was taken.
//!
//! **Expiry.** A point is kept by the longest rule that tags it, counted in the zone's civil time from when it was taken:
//! 7 days after 20:30 is 20:30, whatever the clocks did meanwhile, and a month after 31 January is the end of February. It
//! is counted from the run's time where that is later.

use crate::calendar::{Month, Weekday};
use crate::policy::{Policy, Retention, Schedule};
use jiff::civil::Date;
use jiff::{Span, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a recovery point was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointReason {
    /// A policy's schedule.
    Scheduled,
    /// Somebody wanted it.
    OnDemand,
    /// It has what a restore was about to replace.
    BeforeRestore,
}

impl PointReason {
    /// As it is written: `scheduled`, `on-demand`, `before-restore`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::OnDemand => "on-demand",
            Self::BeforeRestore => "before-restore",
        }
    }
}

/// What retention has to know of a recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFacts {
    /// The instant of the point.
    pub taken_at: Timestamp,
    /// None: nobody knows; see [`run`](Self::run).
    #[serde(default)]
    pub reason: Option<PointReason>,
    /// The run it was made for; None for one made on demand.
    #[serde(default)]
    pub scheduled_for: Option<Timestamp>,
    /// Of one made on demand: when it may go. None: never by itself.
    #[serde(default)]
    pub keep_until: Option<Timestamp>,
}

impl PointFacts {
    /// The run that it counts for; None of one made on demand. One of which nothing is known counts for when it was taken: it
    /// must not go sooner than those of the policy do.
    pub fn run(&self) -> Option<Timestamp> {
        let is_on_demand = match self.reason {
            Some(PointReason::OnDemand | PointReason::BeforeRestore) => true,
            Some(PointReason::Scheduled) => false,
            None => self.keep_until.is_some(),
        };
        self.scheduled_for.or((!is_on_demand).then_some(self.taken_at))
    }
}

/// What holds an item's points beside the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetentionMode {
    /// Nothing.
    Policy,
    /// The last point does not expire.
    KeepLast,
    /// No point expires.
    KeepAll,
}

/// The rules that tag a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// A daily point.
    pub daily: bool,
    /// A weekly point.
    pub weekly: bool,
    /// A monthly point.
    pub monthly: bool,
    /// A yearly point.
    pub yearly: bool,
    /// Made on demand, for its days.
    pub on_demand: bool,
}

/// What keeps a point the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// By the rule for days.
    Daily,
    /// By the rule for weeks.
    Weekly,
    /// By the rule for months.
    Monthly,
    /// By the rule for years.
    Yearly,
    /// By what was asked when it was made.
    OnDemand,
}

impl Rule {
    /// As Azure's `ruleName` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daily => "Daily",
            Self::Weekly => "Weekly",
            Self::Monthly => "Monthly",
            Self::Yearly => "Yearly",
            Self::OnDemand => "OnDemand",
        }
    }
}

/// What retention says of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The rules that it is kept by.
    pub tags: Tags,
    /// The rule that `rules_until` is by. None: there is none for it.
    #[serde(default)]
    pub rule: Option<Rule>,
    /// When the rules let it go. None: never, in the calendar's years.
    pub rules_until: Option<Timestamp>,
    /// Held beyond that: the item's last point, or everything.
    pub held: bool,
}

impl Verdict {
    /// When it expires; None while something holds it.
    pub fn expires_at(&self) -> Option<Timestamp> {
        if self.held { None } else { self.rules_until }
    }

    /// Whether it is to go now.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }
}

/// Says of each of an item's points how long it is kept. The answer has the order of `points`, which may be any.
///
/// ```
/// use strongroom_domain::policy::Policy;
/// use strongroom_domain::retention::{retain, PointFacts, PointReason, RetentionMode};
/// let run = "2026-11-21T20:30:00Z".parse().unwrap();
/// let point = PointFacts {
///     taken_at: run,
///     reason: Some(PointReason::Scheduled),
///     scheduled_for: Some(run),
///     keep_until: None,
/// };
/// let kept = retain(&Policy::default_standard(), RetentionMode::Policy, &[point]);
/// assert_eq!(kept[0].expires_at(), Some("2027-05-20T20:30:00Z".parse().unwrap()));
/// ```
pub fn retain(policy: &Policy, mode: RetentionMode, points: &[PointFacts]) -> Vec<Verdict> {
    let zone = policy.zone.time_zone();
    let day_of = |at: Timestamp| zone.to_datetime(at).date();
    // The first point of each day. Of two with one time the one listed first: any will do, but always the same.
    let mut firsts: BTreeMap<Date, (Timestamp, Timestamp, usize)> = BTreeMap::new();
    for (index, point) in points.iter().enumerate() {
        let Some(run) = point.run() else { continue };
        let this = (run, point.taken_at, index);
        firsts.entry(day_of(run)).and_modify(|first| *first = this.min(*first)).or_insert(this);
    }
    let last = points.iter().map(|point| point.taken_at).max();
    let keep = |(index, point): (usize, &PointFacts)| {
        let held = match mode {
            RetentionMode::Policy => false,
            RetentionMode::KeepLast => Some(point.taken_at) == last,
            RetentionMode::KeepAll => true,
        };
        let Some(run) = point.run() else {
            let tags = Tags { on_demand: true, ..Tags::default() };
            return Verdict { tags, rule: Some(Rule::OnDemand), rules_until: point.keep_until, held };
        };
        let date = day_of(run);
        let is_first = firsts.get(&date).is_some_and(|(_, _, first)| *first == index);
        let tags = tag(policy, date, is_first);
        let (rule, rules_until) = longest(policy, tags, run.max(point.taken_at));
        Verdict { tags, rule, rules_until, held }
    };
    points.iter().enumerate().map(keep).collect()
}

/// Whether points could go sooner by `after` than they do by `before`, whatever points there are. Each rule must be made up
/// for: by the same one of `after`, for as many days and as long, or by the one that keeps every point.
///
/// ```
/// use strongroom_domain::policy::{DailyRetention, Policy};
/// use strongroom_domain::retention::keeps_less;
/// let before = Policy::default_standard();
/// let mut after = before.clone();
/// after.retention.daily = Some(DailyRetention { days: 179 });
/// assert!(keeps_less(&before, &after) && !keeps_less(&after, &before));
/// ```
pub fn keeps_less(before: &Policy, after: &Policy) -> bool {
    let by_week = |policy: &Policy| matches!(policy.schedule, Schedule::Weekly { .. });
    let daily = after.retention.daily.map_or(0, |daily| daily.days);
    let weekly = after.retention.weekly.as_ref().filter(|_| by_week(after)).map_or(0, |rule| rule.weeks * 7);
    let every_point_days = daily.max(weekly);
    // In another zone a day begins at another time, and another of its points may be the first.
    let same_days = before.zone == after.zone;
    let Retention { daily, weekly, monthly, yearly } = &before.retention;
    let is_kept = [
        daily.as_ref().is_none_or(|rule| every_point_days >= rule.days),
        weekly.as_ref().is_none_or(|rule| {
            every_point_days >= rule.weeks * 7
                || same_days
                    && !by_week(before)
                    && after.retention.weekly.as_ref().is_some_and(|then| {
                        then.weeks >= rule.weeks && then.days_of_week.is_superset(&rule.days_of_week)
                    })
        }),
        monthly.as_ref().is_none_or(|rule| {
            every_point_days >= rule.months * 31
                || same_days
                    && after
                        .retention
                        .monthly
                        .as_ref()
                        .is_some_and(|then| then.months >= rule.months && then.by.covers(&rule.by))
        }),
        yearly.as_ref().is_none_or(|rule| {
            every_point_days >= rule.years * 366
                || same_days
                    && after.retention.yearly.as_ref().is_some_and(|then| {
                        then.years >= rule.years
                            && then.months.is_superset(&rule.months)
                            && then.by.covers(&rule.by)
                    })
        }),
    ];
    !is_kept.into_iter().all(|kept| kept)
}

fn tag(policy: &Policy, date: Date, is_first: bool) -> Tags {
    let Retention { daily, weekly, monthly, yearly } = &policy.retention;
    let by_week = matches!(policy.schedule, Schedule::Weekly { .. });
    let on_day = |weekly: &crate::policy::WeeklyRetention| {
        by_week || (is_first && weekly.days_of_week.contains(&Weekday::of(date)))
    };
    Tags {
        daily: daily.is_some(),
        weekly: weekly.as_ref().is_some_and(on_day),
        monthly: is_first && monthly.as_ref().is_some_and(|monthly| monthly.by.matches(date)),
        yearly: is_first
            && yearly
                .as_ref()
                .is_some_and(|yearly| yearly.months.contains(&Month::of(date)) && yearly.by.matches(date)),
        on_demand: false,
    }
}

/// The longest rule that tags a point, and its end: None beyond the calendar, or where a policy that is not valid has no rule
/// for it: what nothing lets go stays.
fn longest(policy: &Policy, tags: Tags, from: Timestamp) -> (Option<Rule>, Option<Timestamp>) {
    let Retention { daily, weekly, monthly, yearly } = &policy.retention;
    let spans = [
        daily.as_ref().filter(|_| tags.daily).map(|daily| (Rule::Daily, i64::from(daily.days).days())),
        weekly.as_ref().filter(|_| tags.weekly).map(|weekly| (Rule::Weekly, i64::from(weekly.weeks).weeks())),
        monthly
            .as_ref()
            .filter(|_| tags.monthly)
            .map(|monthly| (Rule::Monthly, i64::from(monthly.months).months())),
        yearly.as_ref().filter(|_| tags.yearly).map(|yearly| (Rule::Yearly, i64::from(yearly.years).years())),
    ];
    let mut longest: (Option<Rule>, Option<Timestamp>) = (None, None);
    for (rule, span) in spans.into_iter().flatten() {
        match later(policy, from, span) {
            None => return (Some(rule), None),
            Some(end) if longest.1.is_none_or(|so_far| so_far < end) => longest = (Some(rule), Some(end)),
            Some(_) => {}
        }
    }
    longest
}

/// So much later by the zone's clocks.
fn later(policy: &Policy, from: Timestamp, span: Span) -> Option<Timestamp> {
    let civil = policy.zone.time_zone().to_datetime(from).checked_add(span).ok()?;
    crate::schedule::instant_of(civil, policy.zone.time_zone())
}

impl Policy {
    /// When the snapshot of a point that was taken then goes; the copy in the vault stays by [`retain`].
    pub fn snapshot_until(&self, taken_at: Timestamp) -> Option<Timestamp> {
        later(self, taken_at, i64::from(self.snapshot_days).days())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{MonthPick, WeekOfMonth};
    use crate::policy::{DailyRetention, MonthlyRetention, WeeklyRetention, YearlyRetention};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn scheduled(run: &str) -> PointFacts {
        let reason = Some(PointReason::Scheduled);
        PointFacts { taken_at: at(run), reason, scheduled_for: Some(at(run)), keep_until: None }
    }

    fn until(keep: &Verdict) -> String {
        keep.expires_at().map_or("held".to_owned(), |at| at.to_string())
    }

    #[test]
    fn days_are_civil_days() {
        let mut policy = Policy::default_standard();
        policy.zone = "Europe/Berlin".parse().unwrap();
        policy.retention.daily = Some(DailyRetention { days: 7 });
        // 20:30 before clocks go forward is 20:30 after.
        let kept = retain(&policy, RetentionMode::Policy, &[scheduled("2026-03-27T19:30:00Z")]);
        assert_eq!(until(&kept[0]), "2026-04-03T18:30:00Z");
        assert!(!kept[0].is_expired(at("2026-04-03T18:29:59Z")));
        assert!(kept[0].is_expired(at("2026-04-03T18:30:00Z")));
    }

    #[test]
    fn of_an_hourly_day_the_first_is_kept_longer() {
        let mut policy = Policy::default_enhanced();
        policy.retention.weekly =
            Some(WeeklyRetention { days_of_week: [Weekday::Saturday].into(), weeks: 10 });
        let by = MonthPick::Positions {
            weeks: [WeekOfMonth::Third].into(),
            days_of_week: [Weekday::Saturday].into(),
        };
        policy.retention.monthly = Some(MonthlyRetention { by, months: 12 });
        let by = MonthPick::Dates { days: [21].into(), last: false };
        policy.retention.yearly = Some(YearlyRetention { months: [Month::November].into(), by, years: 7 });
        // In any order; the run of 08:00 failed.
        let points = ["2026-11-21T16:00:00Z", "2026-11-21T12:00:00Z", "2026-11-22T08:00:00Z"].map(scheduled);
        let kept = retain(&policy, RetentionMode::Policy, &points);
        assert_eq!(kept[0].tags, Tags { daily: true, ..Tags::default() });
        assert_eq!(
            kept[1].tags,
            Tags { daily: true, weekly: true, monthly: true, yearly: true, on_demand: false }
        );
        assert_eq!(kept[2].tags, Tags { daily: true, ..Tags::default() });
        assert_eq!(
            kept.iter().map(until).collect::<Vec<_>>(),
            ["2026-12-21T16:00:00Z", "2033-11-21T12:00:00Z", "2026-12-22T08:00:00Z"]
        );
    }

    #[test]
    fn a_missed_run_stands_for_its_day_and_is_kept_from_when_it_was_taken() {
        let mut policy = Policy::default_standard();
        policy.retention.daily = Some(DailyRetention { days: 3 });
        policy.retention.weekly = Some(WeeklyRetention { days_of_week: [Weekday::Friday].into(), weeks: 4 });
        let late = PointFacts { taken_at: at("2026-11-23T09:00:00Z"), ..scheduled("2026-11-20T20:30:00Z") };
        let kept = retain(&policy, RetentionMode::Policy, &[late]);
        assert!(kept[0].tags.weekly);
        assert_eq!(until(&kept[0]), "2026-12-21T09:00:00Z");
    }

    #[test]
    fn a_weekly_policy_does_not_drop_what_a_daily_one_made() {
        let mut policy = Policy::default_standard();
        let days = [Weekday::Sunday];
        policy.schedule = Schedule::Weekly { days: days.into(), time: policy.schedule.first_time() };
        policy.retention = Retention {
            weekly: Some(WeeklyRetention { days_of_week: days.into(), weeks: 4 }),
            ..Retention::default()
        };
        // A Saturday.
        let kept = retain(&policy, RetentionMode::Policy, &[scheduled("2026-11-21T20:30:00Z")]);
        assert_eq!(until(&kept[0]), "2026-12-19T20:30:00Z");
    }

    #[test]
    fn on_demand_points_have_their_own_date_or_none() {
        let policy = Policy::default_standard();
        let demand = |reason, keep_until| PointFacts {
            taken_at: at("2020-11-21T10:00:00Z"),
            reason,
            scheduled_for: None,
            keep_until,
        };
        let until_2031 = Some(at("2031-01-01T00:00:00Z"));
        let points = [
            demand(Some(PointReason::OnDemand), None),
            demand(Some(PointReason::OnDemand), until_2031),
            demand(Some(PointReason::BeforeRestore), until_2031),
            demand(None, until_2031),
        ];
        let kept = retain(&policy, RetentionMode::Policy, &points);
        assert_eq!((kept[0].expires_at(), kept[0].held), (None, false));
        assert!(kept[1..].iter().all(|k| until(k) == "2031-01-01T00:00:00Z"));
        assert!(kept.iter().all(|k| k.tags.on_demand && !k.tags.daily && k.rule == Some(Rule::OnDemand)));
    }

    #[test]
    fn a_point_of_which_nothing_is_known_goes_by_the_policy_as_one_that_was_scheduled() {
        let mut policy = Policy::default_standard();
        policy.retention.yearly = Some(YearlyRetention {
            months: [Month::November].into(),
            by: MonthPick::Dates { days: [21].into(), last: false },
            years: 10,
        });
        let unknown = PointFacts { reason: None, scheduled_for: None, ..scheduled("2026-11-21T20:30:00Z") };
        for point in [unknown, scheduled("2026-11-21T20:30:00Z")] {
            let kept = retain(&policy, RetentionMode::Policy, &[point]);
            assert_eq!(
                (until(&kept[0]).as_str(), kept[0].rule),
                ("2036-11-21T20:30:00Z", Some(Rule::Yearly))
            );
        }
    }

    #[test]
    fn what_is_held_does_not_expire() {
        let policy = Policy::default_standard();
        let points = ["2020-01-01T20:30:00Z", "2020-01-03T20:30:00Z", "2020-01-02T20:30:00Z"].map(scheduled);
        let gone = |mode| {
            let kept = retain(&policy, mode, &points);
            kept.iter().map(|keep| keep.is_expired(at("2026-11-21T00:00:00Z"))).collect::<Vec<_>>()
        };
        assert_eq!(gone(RetentionMode::Policy), [true, true, true]);
        assert_eq!(gone(RetentionMode::KeepLast), [true, false, true]);
        assert_eq!(gone(RetentionMode::KeepAll), [false, false, false]);
    }

    #[test]
    fn what_no_rule_lets_go_stays() {
        let mut policy = Policy::default_standard();
        policy.retention = Retention::default();
        let kept = retain(&policy, RetentionMode::Policy, &[scheduled("2020-01-01T20:30:00Z")]);
        assert_eq!(until(&kept[0]), "held");
        // Beyond the calendar.
        let kept =
            retain(&Policy::default_standard(), RetentionMode::Policy, &[scheduled("9999-12-30T20:30:00Z")]);
        assert_eq!(until(&kept[0]), "held");
    }

    #[test]
    fn a_month_after_the_thirty_first_is_the_months_end() {
        let mut policy = Policy::default_standard();
        policy.retention.daily = Some(DailyRetention { days: 1 });
        policy.retention.monthly =
            Some(MonthlyRetention { by: MonthPick::Dates { days: [31].into(), last: false }, months: 1 });
        let kept = retain(&policy, RetentionMode::Policy, &[scheduled("2027-01-31T20:30:00Z")]);
        assert_eq!(until(&kept[0]), "2027-02-28T20:30:00Z");
        assert_eq!(policy.snapshot_until(at("2027-01-31T20:30:00Z")), Some(at("2027-02-02T20:30:00Z")));
    }
}
