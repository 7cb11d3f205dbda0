//! Backup policies: when backups are made and how long they are kept, as Azure has them for virtual machines.
//!
//! All times of a policy are civil times in its zone. What follows from a policy is in [`crate::schedule`] (when),
//! [`crate::retention`] (how long) and [`crate::decide`] (what the scheduler does now).

use crate::calendar::{Month, MonthPick, Weekday};
use crate::limits::*;
use crate::zone::ZoneName;
use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use thiserror::Error;

/// What a policy may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyTier {
    /// Daily or weekly; snapshots kept up to 5 days. Azure's `V1`.
    Standard,
    /// Also hourly; snapshots kept up to 30 days. Azure's `V2`.
    Enhanced,
}

impl PolicyTier {
    /// Azure's `policyType`.
    pub fn arm_name(self) -> &'static str {
        match self {
            Self::Standard => "V1",
            Self::Enhanced => "V2",
        }
    }

    /// Reads Azure's `policyType`, whatever its case.
    pub fn from_arm(text: &str) -> Option<Self> {
        [Self::Standard, Self::Enhanced].into_iter().find(|tier| tier.arm_name().eq_ignore_ascii_case(text))
    }

    /// The fewest and the most days that snapshots may be kept.
    pub fn snapshot_days(self) -> (u32, u32) {
        match self {
            Self::Standard => STANDARD_SNAPSHOT_DAYS,
            Self::Enhanced => ENHANCED_SNAPSHOT_DAYS,
        }
    }
}

/// When backups are made, in civil time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Once a day.
    Daily {
        /// At this time of the policy's zone.
        time: Time,
    },
    /// On some days of the week.
    Weekly {
        /// On these.
        days: BTreeSet<Weekday>,
        /// At this time of the policy's zone.
        time: Time,
    },
    /// Every so many hours from `window_start` to the window's end, both included: 08:00, every 4 hours, for 12 hours is
    /// 08:00, 12:00, 16:00 and 20:00. A window is a multiple of the interval, and may go past midnight.
    Hourly {
        /// How far apart, in hours.
        every_hours: u32,
        /// The first of a day.
        window_start: Time,
        /// From the first to the last of a day, in hours.
        window_hours: u32,
    },
}

impl Schedule {
    /// The time of a day's first run.
    pub fn first_time(&self) -> Time {
        match self {
            Self::Daily { time } | Self::Weekly { time, .. } => *time,
            Self::Hourly { window_start, .. } => *window_start,
        }
    }
}

/// Every day's points are kept so many days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyRetention {
    /// How many days a daily point is kept.
    pub days: u32,
}

/// One point of each of these days of the week is kept so many weeks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeeklyRetention {
    /// Whose points are weekly ones.
    pub days_of_week: BTreeSet<Weekday>,
    /// How many weeks those are kept.
    pub weeks: u32,
}

/// One point of each of these days of every month is kept so many months.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthlyRetention {
    /// Whose points are monthly ones.
    pub by: MonthPick,
    /// How many months those are kept.
    pub months: u32,
}

/// One point of each of these days of these months is kept so many years.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct YearlyRetention {
    /// In which months.
    pub months: BTreeSet<Month>,
    /// Whose points are yearly ones.
    pub by: MonthPick,
    /// How many years those are kept.
    pub years: u32,
}

/// How long backups are kept. A point is kept by the longest rule that tags it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Of daily points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<DailyRetention>,
    /// Of weekly points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<WeeklyRetention>,
    /// Of monthly points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<MonthlyRetention>,
    /// Of yearly points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yearly: Option<YearlyRetention>,
}

/// How consistent a snapshot is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotConsistency {
    /// As the machine allows: it is frozen where its agent answers.
    #[default]
    AsPossible,
    /// Nothing in the machine is asked to do anything. Azure's `OnlyCrashConsistent`.
    OnlyCrash,
}

impl SnapshotConsistency {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// A backup policy's rules. Its name and place are the catalog's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Standard or enhanced.
    pub tier: PolicyTier,
    /// When backups are made.
    pub schedule: Schedule,
    /// How long they are kept.
    pub retention: Retention,
    /// Whose days and times those are.
    pub zone: ZoneName,
    /// Days that snapshots are kept for restores at once, beside the copy in the vault.
    pub snapshot_days: u32,
    /// How consistent snapshots are to be.
    #[serde(default, skip_serializing_if = "SnapshotConsistency::is_usual")]
    pub snapshot_consistency: SnapshotConsistency,
    /// A backup fails, rather than warn, when a disk that nobody excluded cannot be backed up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_all_disks: bool,
}

/// Why a policy was refused. The message says what is wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Change what the message names.
    #[error("{0}")]
    Invalid(String),
    /// Keep snapshots for a shorter time, or backups for a longer one.
    #[error(
        "snapshots kept {snapshot_days} days must go before the backups do, which the policy keeps {kept_days} days: keep snapshots for at most {most} days, or backups longer",
        most = kept_days.saturating_sub(1).max(1)
    )]
    SnapshotsOutliveBackups {
        /// How long snapshots are kept.
        snapshot_days: u32,
        /// How long points are.
        kept_days: u32,
    },
}

impl PolicyError {
    /// Azure's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "BMSUserErrorInvalidPolicyInput",
            Self::SnapshotsOutliveBackups { .. } => "BMSUserErrorInstantRPRetentionExceedsVaultedRetention",
        }
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::Invalid(message.into()))
}

fn within(what: &str, given: u32, (least, most): (u32, u32), unit: &str) -> Result<(), PolicyError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    invalid(format!("{what} is {given} {unit}; it must be from {least} to {most} {unit}"))
}

impl Policy {
    /// Daily at 20:30 UTC, kept 180 days, snapshots 2 days: made with each vault as `DefaultPolicy`.
    pub fn default_standard() -> Self {
        Self {
            tier: PolicyTier::Standard,
            schedule: Schedule::Daily { time: Time::constant(20, 30, 0, 0) },
            retention: Retention { daily: Some(DailyRetention { days: 180 }), ..Retention::default() },
            zone: ZoneName::utc(),
            snapshot_days: 2,
            snapshot_consistency: SnapshotConsistency::default(),
            require_all_disks: false,
        }
    }

    /// Every 4 hours from 08:00 to 20:00 UTC, kept 30 days, snapshots 7 days: made with each vault as `EnhancedPolicy`.
    pub fn default_enhanced() -> Self {
        Self {
            tier: PolicyTier::Enhanced,
            schedule: Schedule::Hourly {
                every_hours: 4,
                window_start: Time::constant(8, 0, 0, 0),
                window_hours: 12,
            },
            retention: Retention { daily: Some(DailyRetention { days: 30 }), ..Retention::default() },
            zone: ZoneName::utc(),
            snapshot_days: 7,
            snapshot_consistency: SnapshotConsistency::default(),
            require_all_disks: false,
        }
    }

    /// Checks the policy against Azure's limits. Ours are wider in one: daily retention may be under 7 days.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.check_schedule()?;
        self.check_retention()?;
        within("the retention of snapshots", self.snapshot_days, self.tier.snapshot_days(), "days")?;
        let kept_days = self.base_retention_days();
        // A policy that keeps a single day has nothing shorter to offer.
        if self.snapshot_days >= kept_days && (self.snapshot_days, kept_days) != (1, 1) {
            return Err(PolicyError::SnapshotsOutliveBackups {
                snapshot_days: self.snapshot_days,
                kept_days,
            });
        }
        Ok(())
    }

    fn check_schedule(&self) -> Result<(), PolicyError> {
        match &self.schedule {
            Schedule::Daily { .. } => Ok(()),
            Schedule::Weekly { days, .. } if days.is_empty() => {
                invalid("a weekly schedule needs at least one day of the week")
            }
            Schedule::Weekly { .. } => Ok(()),
            Schedule::Hourly { .. } if self.tier == PolicyTier::Standard => invalid(
                "a Standard policy (V1) runs daily or weekly; hourly schedules need an Enhanced policy (V2)",
            ),
            Schedule::Hourly { every_hours, window_hours, .. } => {
                if !HOURLY_INTERVALS.contains(every_hours) {
                    return invalid(format!(
                        "an hourly schedule runs every 4, 6, 8 or 12 hours, not every {every_hours}"
                    ));
                }
                let allowed = (*every_hours, HOURLY_WINDOW_MAX_HOURS);
                within("the window of an hourly schedule", *window_hours, allowed, "hours")?;
                if window_hours % every_hours != 0 {
                    return invalid(format!(
                        "the window of an hourly schedule is a multiple of its interval: {window_hours} hours are none of {every_hours}; {} would be",
                        window_hours - window_hours % every_hours
                    ));
                }
                Ok(())
            }
        }
    }

    fn check_retention(&self) -> Result<(), PolicyError> {
        let Retention { daily, weekly, monthly, yearly } = &self.retention;
        let weekly_days = match &self.schedule {
            Schedule::Weekly { days, .. } => Some(days),
            Schedule::Daily { .. } | Schedule::Hourly { .. } => None,
        };
        match (daily, weekly_days) {
            (Some(_), Some(_)) => {
                return invalid("a weekly schedule has no daily retention: use weekly retention");
            }
            (None, None) => return invalid("a daily or hourly schedule needs daily retention"),
            (Some(daily), None) => within("daily retention", daily.days, DAILY_RETENTION_DAYS, "days")?,
            (None, Some(_)) if weekly.is_none() => {
                return invalid("a weekly schedule needs weekly retention");
            }
            (None, Some(_)) => {}
        }
        if let Some(weekly) = weekly {
            within("weekly retention", weekly.weeks, WEEKLY_RETENTION_WEEKS, "weeks")?;
            if weekly.days_of_week.is_empty() {
                return invalid("weekly retention needs at least one day of the week");
            }
            check_scheduled("weekly", &weekly.days_of_week, weekly_days)?;
        }
        if let Some(monthly) = monthly {
            within("monthly retention", monthly.months, MONTHLY_RETENTION_MONTHS, "months")?;
            check_pick("monthly", &monthly.by, weekly_days)?;
        }
        if let Some(yearly) = yearly {
            within("yearly retention", yearly.years, YEARLY_RETENTION_YEARS, "years")?;
            if yearly.months.is_empty() {
                return invalid("yearly retention needs at least one month");
            }
            check_pick("yearly", &yearly.by, weekly_days)?;
        }
        Ok(())
    }

    /// Days that every scheduled point is kept at least: by the daily rule, or the weekly one of a weekly schedule.
    pub fn base_retention_days(&self) -> u32 {
        let Retention { daily, weekly, .. } = &self.retention;
        match (&self.schedule, daily, weekly) {
            (Schedule::Weekly { .. }, _, Some(weekly)) => weekly.weeks.saturating_mul(7),
            (Schedule::Daily { .. } | Schedule::Hourly { .. }, Some(daily), _) => daily.days,
            _ => 0,
        }
    }
}

fn check_scheduled(
    rule: &str,
    days: &BTreeSet<Weekday>,
    scheduled: Option<&BTreeSet<Weekday>>,
) -> Result<(), PolicyError> {
    match scheduled.and_then(|scheduled| days.difference(scheduled).next()) {
        Some(day) => {
            invalid(format!("{rule} retention names {day}, on which the weekly schedule makes no backup"))
        }
        None => Ok(()),
    }
}

fn check_pick(rule: &str, by: &MonthPick, scheduled: Option<&BTreeSet<Weekday>>) -> Result<(), PolicyError> {
    match by {
        MonthPick::Dates { days, last } => {
            if days.is_empty() && !last {
                return invalid(format!("{rule} retention by date needs at least one date, or the last day"));
            }
            match days.iter().find(|day| !(1..=31).contains(*day)) {
                Some(day) => invalid(format!("{rule} retention names day {day}; days are 1 to 31")),
                None => Ok(()),
            }
        }
        MonthPick::Positions { weeks, days_of_week } => {
            if weeks.is_empty() || days_of_week.is_empty() {
                return invalid(format!(
                    "{rule} retention by week needs at least one of First, Second, Third, Fourth, Last and one day of the week"
                ));
            }
            check_scheduled(rule, days_of_week, scheduled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::WeekOfMonth;

    fn weekly(days: &[Weekday]) -> Policy {
        let days: BTreeSet<Weekday> = days.iter().copied().collect();
        Policy {
            schedule: Schedule::Weekly { days: days.clone(), time: Time::constant(6, 0, 0, 0) },
            retention: Retention {
                weekly: Some(WeeklyRetention { days_of_week: days, weeks: 12 }),
                ..Retention::default()
            },
            ..Policy::default_standard()
        }
    }

    fn refused(policy: &Policy, words: &str) {
        let error = policy.validate().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn defaults_are_valid_and_survive_json() {
        for policy in [Policy::default_standard(), Policy::default_enhanced(), weekly(&[Weekday::Sunday])] {
            assert_eq!(policy.validate(), Ok(()));
            let json = serde_json::to_value(&policy).unwrap();
            assert_eq!(serde_json::from_value::<Policy>(json).unwrap(), policy);
        }
        let written = serde_json::to_string(&Policy::default_enhanced()).unwrap();
        assert_eq!(
            written,
            r#"{"tier":"enhanced","schedule":{"hourly":{"every_hours":4,"window_start":"08:00:00","window_hours":12}},"retention":{"daily":{"days":30}},"zone":"UTC","snapshot_days":7}"#
        );
    }

    #[test]
    fn schedules_are_checked() {
        let mut hourly = Policy::default_enhanced();
        hourly.tier = PolicyTier::Standard;
        refused(&hourly, "Enhanced");
        for (every_hours, window_hours, words) in
            [(5, 12, "4, 6, 8 or 12"), (6, 4, "from 6 to 24"), (4, 25, "from 4 to 24"), (8, 12, "8 would be")]
        {
            let mut hourly = Policy::default_enhanced();
            hourly.schedule = Schedule::Hourly { every_hours, window_hours, window_start: Time::midnight() };
            refused(&hourly, words);
        }
        let mut none = weekly(&[Weekday::Sunday]);
        none.schedule = Schedule::Weekly { days: BTreeSet::new(), time: Time::midnight() };
        refused(&none, "at least one day");
    }

    #[test]
    fn retention_is_checked() {
        let mut policy = weekly(&[Weekday::Sunday]);
        policy.retention.daily = Some(DailyRetention { days: 10 });
        refused(&policy, "no daily retention");
        let mut policy = weekly(&[Weekday::Sunday]);
        policy.retention.weekly = Some(WeeklyRetention { days_of_week: [Weekday::Monday].into(), weeks: 1 });
        refused(&policy, "names Monday");
        let mut policy = Policy::default_standard();
        policy.retention.daily = None;
        refused(&policy, "needs daily retention");
        for days in [0, 10_000] {
            policy.retention.daily = Some(DailyRetention { days });
            refused(&policy, "from 1 to 9999 days");
        }
        policy.retention.daily = Some(DailyRetention { days: 10 });
        let dates = |days: &[u8]| MonthPick::Dates { days: days.iter().copied().collect(), last: false };
        policy.retention.monthly = Some(MonthlyRetention { by: dates(&[32]), months: 1 });
        refused(&policy, "day 32");
        policy.retention.monthly = Some(MonthlyRetention { by: dates(&[]), months: 1 });
        refused(&policy, "at least one date");
        policy.retention.monthly = Some(MonthlyRetention { by: dates(&[1]), months: 1189 });
        refused(&policy, "from 1 to 1188 months");
        policy.retention.monthly = None;
        let by = MonthPick::Positions { weeks: [WeekOfMonth::Last].into(), days_of_week: BTreeSet::new() };
        policy.retention.yearly =
            Some(YearlyRetention { months: [Month::May].into(), by: by.clone(), years: 1 });
        refused(&policy, "one day of the week");
        policy.retention.yearly =
            Some(YearlyRetention { months: BTreeSet::new(), by: dates(&[1]), years: 1 });
        refused(&policy, "one month");
        policy.retention.yearly =
            Some(YearlyRetention { months: [Month::May].into(), by: dates(&[1]), years: 100 });
        refused(&policy, "from 1 to 99 years");
    }

    #[test]
    fn snapshots_go_before_backups() {
        let mut policy = Policy::default_standard();
        policy.snapshot_days = 6;
        refused(&policy, "from 1 to 5 days");
        for (snapshot_days, days, fine) in [(2, 2, false), (2, 3, true), (1, 1, true), (2, 1, false)] {
            policy.snapshot_days = snapshot_days;
            policy.retention.daily = Some(DailyRetention { days });
            assert_eq!(policy.validate().is_ok(), fine, "{snapshot_days} {days}");
        }
        let error = policy.validate().unwrap_err();
        assert_eq!(error.code(), "BMSUserErrorInstantRPRetentionExceedsVaultedRetention");
        assert!(error.to_string().contains("at most 1 days"), "{error}");
        let mut enhanced = Policy::default_enhanced();
        enhanced.snapshot_days = 31;
        refused(&enhanced, "from 1 to 30 days");
    }
}
