//! Backup policies: Azure's JSON to rules, and back.
//!
//! A policy is written as V1 (`SimpleSchedulePolicy`) or V2 (`SimpleSchedulePolicyV2`), both with a `LongTermRetentionPolicy`.
//! Of its run times only the time of day counts; clients see again the text that they sent, so it is kept beside the rules
//! ([`Texts`]). Unknown fields and nulls are passed over: clients send back whole what they were shown, and more.

use crate::ArmError;
use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use strongroom_domain::calendar::{Month, MonthPick, WeekOfMonth, Weekday};
use strongroom_domain::policy::{
    DailyRetention, MonthlyRetention, Policy, PolicyTier, Retention, Schedule, SnapshotConsistency,
    WeeklyRetention, YearlyRetention,
};
use strongroom_domain::zone::ZoneName;

/// Texts that clients sent, to be shown again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Texts {
    /// The run time as it was sent, such as `2026-11-01T20:30:00Z`. None: the policy was not made by a client.
    pub run_time: Option<String>,
    /// Prefix and suffix of a resource group, which Azure wants for snapshots.
    pub snapshot_group: Option<(String, String)>,
    /// When points were to go to the archive tier: of no effect, as there is none.
    pub tiering: Option<Tiering>,
}

/// Azure's `tieringPolicy` for `ArchivedRP`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiering {
    /// `tieringMode`: `TierRecommended`, `TierAfter` or `DoNotTier`.
    pub mode: String,
    /// How many of the unit; 0 where the mode takes none.
    pub duration: u32,
    /// `Days`, `Weeks`, `Months` or `Years`; `Invalid` where the mode takes none.
    pub duration_type: String,
}

fn unavailable(message: impl Into<String>) -> ArmError {
    ArmError::bad_request("UserErrorFeatureNotSupportedOnThisServer", message)
}

fn invalid(why: impl std::fmt::Display) -> ArmError {
    ArmError::bad_request(
        "BMSUserErrorInvalidPolicyInput",
        format!(
            "Input for create or update policy is not in proper format. Please check format of parameters like schedule time, schedule days, retention time and retention days: {why}."
        ),
    )
}

/// A JSON object, or what is wrong.
fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Value, ArmError> {
    match value.get(name) {
        Some(found) if found.is_object() => Ok(found),
        _ => Err(invalid(format!("{name} is missing"))),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// Reads what a client sent as `properties`.
pub fn parse(properties: &Value) -> Result<(Policy, Texts), ArmError> {
    let kind = text(properties, "backupManagementType").unwrap_or("AzureIaasVM");
    if !kind.eq_ignore_ascii_case("AzureIaasVM") {
        let kind = crate::error::shorten(kind);
        return Err(unavailable(format!("Policies for {kind} are not available on this server.")));
    }
    let schedule_json = object(properties, "schedulePolicy")?;
    let schedule_kind = text(schedule_json, "schedulePolicyType").unwrap_or("SimpleSchedulePolicy");
    let tier = match text(properties, "policyType").map(PolicyTier::from_arm) {
        Some(Some(tier)) => tier,
        Some(None) => return Err(invalid("policyType must be V1 or V2")),
        None if schedule_kind.eq_ignore_ascii_case("SimpleSchedulePolicyV2") => PolicyTier::Enhanced,
        None => PolicyTier::Standard,
    };
    let expected = match tier {
        PolicyTier::Standard => "SimpleSchedulePolicy",
        PolicyTier::Enhanced => "SimpleSchedulePolicyV2",
    };
    if !schedule_kind.eq_ignore_ascii_case(expected) {
        return Err(invalid(format!(
            "schedulePolicyType must be {expected} for policyType {}",
            tier.arm_name()
        )));
    }
    let tiering = tiering(properties)?;
    let snapshot_consistency = snapshot_consistency(properties)?;
    let (schedule, run_time) = schedule(schedule_json)?;
    let zone = text(properties, "timeZone").unwrap_or("UTC");
    let zone: ZoneName = zone
        .parse()
        .map_err(|_| invalid(format!("timeZone '{}' is not known", crate::error::shorten(zone))))?;
    let retention_json = object(properties, "retentionPolicy")?;
    check_retention_times(retention_json, &schedule)?;
    let retention = retention(retention_json)?;
    let default_days = match tier {
        PolicyTier::Standard => 2,
        PolicyTier::Enhanced => 7,
    };
    let snapshot_days = match properties.get("instantRpRetentionRangeInDays") {
        None | Some(Value::Null) => default_days,
        Some(days) => number(days, "instantRpRetentionRangeInDays")?,
    };
    let require_all_disks = require_all_disks(properties)?.unwrap_or(false);
    let policy =
        Policy { tier, schedule, retention, zone, snapshot_days, snapshot_consistency, require_all_disks };
    policy.validate().map_err(|e| ArmError::bad_request(e.code(), e.to_string()))?;
    let texts = Texts { run_time: Some(run_time), snapshot_group: snapshot_group(properties)?, tiering };
    Ok((policy, texts))
}

/// A property of this server's own. None: the client does not know it.
pub fn require_all_disks(properties: &Value) -> Result<Option<bool>, ArmError> {
    match properties.get("strongroomRequireAllDisks") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(wanted)) => Ok(Some(*wanted)),
        Some(_) => Err(invalid("strongroomRequireAllDisks is neither true nor false")),
    }
}

/// Azure's name for snapshots that nothing in the machine is asked for.
const ONLY_CRASH: &str = "OnlyCrashConsistent";

/// When points are to go to the archive tier; none where they are not to.
fn tiering(properties: &Value) -> Result<Option<Tiering>, ArmError> {
    const DURATIONS: [&str; 4] = ["Days", "Weeks", "Months", "Years"];
    let tiers = properties.get("tieringPolicy").and_then(Value::as_object);
    let mut found = None;
    for (tier, says) in tiers.into_iter().flatten().filter(|(_, says)| !says.is_null()) {
        let mode = text(says, "tieringMode").unwrap_or_default();
        let is = |known: &str| mode.eq_ignore_ascii_case(known);
        if is("DoNotTier") || is("Invalid") {
            continue;
        }
        if !tier.eq_ignore_ascii_case("ArchivedRP") {
            let tier = crate::error::shorten(tier);
            return Err(invalid(format!(
                "tieringPolicy is of ArchivedRP, the archive tier, not of '{tier}'"
            )));
        }
        let duration = match says.get("duration") {
            None | Some(Value::Null) => 0,
            Some(given) => number(given, "duration")?,
        };
        let unit = text(says, "durationType").unwrap_or("Invalid");
        let unit_known = DURATIONS.iter().find(|known| known.eq_ignore_ascii_case(unit));
        let (mode, duration, unit) = match unit_known {
            _ if is("TierRecommended") => ("TierRecommended", 0, "Invalid"),
            Some(unit) if is("TierAfter") && duration > 0 => ("TierAfter", duration, *unit),
            _ if is("TierAfter") => {
                return Err(invalid(
                    "a tieringPolicy of TierAfter has a duration and a durationType: Days, Weeks, Months or Years",
                ));
            }
            _ => return Err(invalid("tieringMode must be TierRecommended, TierAfter or DoNotTier")),
        };
        found = Some(Tiering { mode: mode.to_owned(), duration, duration_type: unit.to_owned() });
    }
    Ok(found)
}

fn snapshot_consistency(properties: &Value) -> Result<SnapshotConsistency, ArmError> {
    match text(properties, "snapshotConsistencyType") {
        None | Some("") => Ok(SnapshotConsistency::AsPossible),
        Some(kind) if kind.eq_ignore_ascii_case(ONLY_CRASH) => Ok(SnapshotConsistency::OnlyCrash),
        Some(_) => Err(invalid(format!(
            "snapshotConsistencyType must be {ONLY_CRASH}, or left out: then snapshots are as consistent as the machine allows"
        ))),
    }
}

/// Prefix and suffix of the group for snapshots, in either spelling of their names.
fn snapshot_group(properties: &Value) -> Result<Option<(String, String)>, ArmError> {
    let details = properties.get("instantRPDetails").or_else(|| properties.get("instantRpDetails"));
    let part = |name: &str| {
        let fields = details.and_then(Value::as_object).into_iter().flatten();
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).find_map(|(_, part)| part.as_str())
    };
    let prefix = part("azureBackupRGNamePrefix").unwrap_or_default();
    let suffix = part("azureBackupRGNameSuffix").unwrap_or_default();
    match prefix.len() + suffix.len() {
        0 => Ok(None),
        1..=90 => Ok(Some((prefix.to_owned(), suffix.to_owned()))),
        _ => Err(invalid("prefix and suffix of instantRPDetails are longer than a resource group's name")),
    }
}

/// Each retention time is the schedule's, as Azure wants it: there are no other points to keep. Of an hourly schedule's day any.
fn check_retention_times(retention: &Value, schedule: &Schedule) -> Result<(), ArmError> {
    if matches!(schedule, Schedule::Hourly { .. }) {
        return Ok(());
    }
    let rules = ["dailySchedule", "weeklySchedule", "monthlySchedule", "yearlySchedule"];
    for rule in rules.iter().filter_map(|rule| retention.get(rule)) {
        for given in rule.get("retentionTimes").and_then(Value::as_array).into_iter().flatten() {
            if time_of_day(given.as_str().unwrap_or_default())?.0 != schedule.first_time() {
                return Err(invalid("retentionTimes must be the schedule's time"));
            }
        }
    }
    Ok(())
}

fn number(value: &Value, name: &str) -> Result<u32, ArmError> {
    // Some clients send numbers as text.
    let found = value.as_u64().or_else(|| value.as_str().and_then(|t| t.trim().parse().ok()));
    found
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| invalid(format!("{name} is not a whole number that is not negative")))
}

/// The time of day of `2026-07-24T19:00:00Z`, which is in the policy's zone whatever the `Z` says, and the text as it is shown
/// again. One with an offset counts at UTC, as Azure reads it.
fn time_of_day(given: &str) -> Result<(Time, String), ArmError> {
    let refused =
        || invalid(format!("'{}' is not a time such as 2026-07-24T19:30:00Z", crate::error::shorten(given)));
    let (_, clock) = given.split_once(['T', 't', ' ']).filter(|_| given.len() <= 40).ok_or_else(refused)?;
    let time = match given.parse::<jiff::Timestamp>() {
        Ok(at) => jiff::tz::TimeZone::UTC.to_datetime(at).time(),
        Err(_) => given.parse::<jiff::civil::DateTime>().map_err(|_| refused())?.time(),
    };
    let time = Time::new(time.hour(), time.minute(), 0, 0).map_err(|_| refused())?;
    // Azure drops a fraction of zero.
    let shown = match clock.split_once('.') {
        Some((whole, fraction)) if fraction.trim_start_matches('0').eq_ignore_ascii_case("z") => {
            format!("{}{whole}Z", &given[..given.len() - clock.len()])
        }
        _ => given.to_owned(),
    };
    Ok((time, shown))
}

fn run_times(value: &Value) -> Result<(Time, String), ArmError> {
    let times = value.get("scheduleRunTimes").and_then(Value::as_array);
    match times.map(Vec::as_slice) {
        Some([one]) => time_of_day(one.as_str().unwrap_or_default()),
        Some([]) | None => Err(invalid("scheduleRunTimes is missing")),
        Some(_) => Err(invalid("scheduleRunTimes must have one time")),
    }
}

fn days_of_week(value: Option<&Value>, name: &str) -> Result<BTreeSet<Weekday>, ArmError> {
    let given = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    given
        .iter()
        .map(|day| {
            day.as_str()
                .and_then(Weekday::from_arm)
                .ok_or_else(|| invalid(format!("{name} has something that is not a day of the week")))
        })
        .collect()
}

fn schedule(value: &Value) -> Result<(Schedule, String), ArmError> {
    let frequency = text(value, "scheduleRunFrequency").unwrap_or_default();
    match frequency.to_lowercase().as_str() {
        "daily" => {
            let at = value.get("dailySchedule").filter(|v| v.is_object()).unwrap_or(value);
            let (time, shown) = run_times(at)?;
            Ok((Schedule::Daily { time }, shown))
        }
        "weekly" => {
            let at = value.get("weeklySchedule").filter(|v| v.is_object()).unwrap_or(value);
            let (time, shown) = run_times(at)?;
            let days = days_of_week(at.get("scheduleRunDays"), "scheduleRunDays")?;
            Ok((Schedule::Weekly { days, time }, shown))
        }
        "hourly" => {
            let hourly = object(value, "hourlySchedule")?;
            let start = text(hourly, "scheduleWindowStartTime")
                .ok_or_else(|| invalid("scheduleWindowStartTime is missing"))?;
            let (window_start, shown) = time_of_day(start)?;
            let every_hours = number(hourly.get("interval").unwrap_or(&Value::Null), "interval")?;
            let window_hours = number(
                hourly.get("scheduleWindowDuration").unwrap_or(&Value::Null),
                "scheduleWindowDuration",
            )?;
            Ok((Schedule::Hourly { every_hours, window_start, window_hours }, shown))
        }
        _ => Err(invalid("scheduleRunFrequency must be Daily, Weekly or, for policyType V2, Hourly")),
    }
}

/// The count of a `retentionDuration`, in the unit it must have.
fn count(value: &Value, unit: &str) -> Result<u32, ArmError> {
    let duration = object(value, "retentionDuration")?;
    let given = text(duration, "durationType").unwrap_or(unit);
    if !given.eq_ignore_ascii_case(unit) {
        return Err(invalid(format!(
            "durationType must be {unit} there, not {}",
            crate::error::shorten(given)
        )));
    }
    number(duration.get("count").unwrap_or(&Value::Null), "count")
}

fn retention(value: &Value) -> Result<Retention, ArmError> {
    let kind = text(value, "retentionPolicyType").unwrap_or("LongTermRetentionPolicy");
    if !kind.eq_ignore_ascii_case("LongTermRetentionPolicy") {
        return Err(invalid("retentionPolicyType must be LongTermRetentionPolicy"));
    }
    let part = |name: &str| value.get(name).filter(|v| v.is_object());
    let mut retention = Retention::default();
    if let Some(daily) = part("dailySchedule") {
        retention.daily = Some(DailyRetention { days: count(daily, "Days")? });
    }
    if let Some(weekly) = part("weeklySchedule") {
        retention.weekly = Some(WeeklyRetention {
            days_of_week: days_of_week(weekly.get("daysOfTheWeek"), "daysOfTheWeek")?,
            weeks: count(weekly, "Weeks")?,
        });
    }
    if let Some(monthly) = part("monthlySchedule") {
        retention.monthly = Some(MonthlyRetention { by: pick(monthly)?, months: count(monthly, "Months")? });
    }
    if let Some(yearly) = part("yearlySchedule") {
        let given = yearly.get("monthsOfYear").and_then(Value::as_array).cloned().unwrap_or_default();
        let months = given
            .iter()
            .map(|m| {
                m.as_str()
                    .and_then(Month::from_arm)
                    .ok_or_else(|| invalid("monthsOfYear has something that is not a month"))
            })
            .collect::<Result<_, _>>()?;
        retention.yearly =
            Some(YearlyRetention { months, by: pick(yearly)?, years: count(yearly, "Years")? });
    }
    Ok(retention)
}

fn pick(value: &Value) -> Result<MonthPick, ArmError> {
    let form = text(value, "retentionScheduleFormatType").unwrap_or_default();
    match form.to_lowercase().as_str() {
        "daily" => {
            let daily = object(value, "retentionScheduleDaily")?;
            let given = daily.get("daysOfTheMonth").and_then(Value::as_array).cloned().unwrap_or_default();
            let (mut days, mut last) = (BTreeSet::new(), false);
            for day in &given {
                if day.get("isLast").and_then(Value::as_bool) == Some(true) {
                    last = true;
                    continue;
                }
                let date = number(day.get("date").unwrap_or(&Value::Null), "date")?;
                match u8::try_from(date) {
                    Ok(date @ 1..=31) => drop(days.insert(date)),
                    _ => return Err(invalid("a date of daysOfTheMonth is not from 1 to 31")),
                }
            }
            Ok(MonthPick::Dates { days, last })
        }
        "weekly" => {
            let weekly = object(value, "retentionScheduleWeekly")?;
            let given = weekly.get("weeksOfTheMonth").and_then(Value::as_array).cloned().unwrap_or_default();
            let weeks = given
                .iter()
                .map(|w| {
                    w.as_str().and_then(WeekOfMonth::from_arm).ok_or_else(|| {
                        invalid("weeksOfTheMonth must be of First, Second, Third, Fourth and Last")
                    })
                })
                .collect::<Result<_, _>>()?;
            Ok(MonthPick::Positions {
                weeks,
                days_of_week: days_of_week(weekly.get("daysOfTheWeek"), "daysOfTheWeek")?,
            })
        }
        _ => Err(invalid("retentionScheduleFormatType must be Daily or Weekly")),
    }
}

/// The `properties` of a policy. `day`: that of its making, for run times whose text nobody sent.
pub fn show(policy: &Policy, texts: &Texts, day: jiff::civil::Date, items: u64) -> Value {
    let run_time = texts.run_time.clone().unwrap_or_else(|| {
        let at = policy.schedule.first_time();
        format!("{day}T{:02}:{:02}:00Z", at.hour(), at.minute())
    });
    let times = json!([run_time]);
    let details = match &texts.snapshot_group {
        Some((prefix, suffix)) => {
            json!({"azureBackupRGNamePrefix": prefix, "azureBackupRGNameSuffix": suffix})
        }
        None => json!({}),
    };
    let mut shown = json!({
        "backupManagementType": "AzureIaasVM",
        "policyType": policy.tier.arm_name(),
        "instantRPDetails": details,
        "schedulePolicy": show_schedule(policy, &run_time, &times),
        "retentionPolicy": show_retention(policy, &times),
        "instantRpRetentionRangeInDays": policy.snapshot_days,
        "timeZone": policy.zone.as_str(),
        "protectedItemsCount": items,
    });
    if let Some(tiering) = &texts.tiering {
        shown["tieringPolicy"] = json!({"ArchivedRP": {
            "tieringMode": tiering.mode, "duration": tiering.duration, "durationType": tiering.duration_type,
        }});
        shown["strongroomTiering"] = "It has no effect: this server has no archive tier.".into();
    }
    if policy.snapshot_consistency == SnapshotConsistency::OnlyCrash {
        shown["snapshotConsistencyType"] = ONLY_CRASH.into();
    }
    // What Azure does not know is shown where it is.
    if policy.require_all_disks {
        shown["strongroomRequireAllDisks"] = true.into();
    }
    shown
}

fn show_days(days: &BTreeSet<Weekday>) -> Vec<&'static str> {
    days.iter().map(|d| d.arm_name()).collect()
}

fn show_schedule(policy: &Policy, run_time: &str, times: &Value) -> Value {
    let enhanced = policy.tier == PolicyTier::Enhanced;
    match (&policy.schedule, enhanced) {
        (Schedule::Daily { .. }, false) => json!({
            "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Daily",
            "scheduleRunTimes": times, "scheduleWeeklyFrequency": 0,
        }),
        (Schedule::Weekly { days: on, .. }, false) => json!({
            "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Weekly",
            "scheduleRunDays": show_days(on), "scheduleRunTimes": times, "scheduleWeeklyFrequency": 0,
        }),
        (Schedule::Daily { .. }, true) => json!({
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Daily",
            "dailySchedule": {"scheduleRunTimes": times},
        }),
        (Schedule::Weekly { days: on, .. }, true) => json!({
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Weekly",
            "weeklySchedule": {"scheduleRunDays": show_days(on), "scheduleRunTimes": times},
        }),
        (Schedule::Hourly { every_hours, window_hours, .. }, _) => json!({
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Hourly",
            "hourlySchedule": {
                "interval": every_hours, "scheduleWindowStartTime": run_time,
                "scheduleWindowDuration": window_hours,
            },
        }),
    }
}

fn show_retention(policy: &Policy, times: &Value) -> Map<String, Value> {
    let mut retention = Map::new();
    retention.insert("retentionPolicyType".into(), "LongTermRetentionPolicy".into());
    let duration = |count: u32, unit: &str| json!({"count": count, "durationType": unit});
    if let Some(daily) = &policy.retention.daily {
        retention.insert(
            "dailySchedule".into(),
            json!({"retentionTimes": times, "retentionDuration": duration(daily.days, "Days")}),
        );
    }
    if let Some(weekly) = &policy.retention.weekly {
        retention.insert(
            "weeklySchedule".into(),
            json!({
                "daysOfTheWeek": show_days(&weekly.days_of_week), "retentionTimes": times,
                "retentionDuration": duration(weekly.weeks, "Weeks"),
            }),
        );
    }
    if let Some(monthly) = &policy.retention.monthly {
        let mut shown = show_pick(&monthly.by);
        shown.insert("retentionTimes".into(), times.clone());
        shown.insert("retentionDuration".into(), duration(monthly.months, "Months"));
        retention.insert("monthlySchedule".into(), shown.into());
    }
    if let Some(yearly) = &policy.retention.yearly {
        let mut shown = show_pick(&yearly.by);
        let months: Vec<&str> = yearly.months.iter().map(|m| m.arm_name()).collect();
        shown.insert("monthsOfYear".into(), json!(months));
        shown.insert("retentionTimes".into(), times.clone());
        shown.insert("retentionDuration".into(), duration(yearly.years, "Years"));
        retention.insert("yearlySchedule".into(), shown.into());
    }
    retention
}

fn show_pick(pick: &MonthPick) -> Map<String, Value> {
    let mut shown = Map::new();
    match pick {
        MonthPick::Dates { days, last } => {
            let mut all: Vec<Value> = days.iter().map(|d| json!({"date": d, "isLast": false})).collect();
            if *last {
                all.push(json!({"date": 0, "isLast": true}));
            }
            shown.insert("retentionScheduleFormatType".into(), "Daily".into());
            shown.insert("retentionScheduleDaily".into(), json!({"daysOfTheMonth": all}));
        }
        MonthPick::Positions { weeks, days_of_week } => {
            let days: Vec<&str> = days_of_week.iter().map(|d| d.arm_name()).collect();
            let weeks: Vec<&str> = weeks.iter().map(|w| w.arm_name()).collect();
            shown.insert("retentionScheduleFormatType".into(), "Weekly".into());
            shown.insert(
                "retentionScheduleWeekly".into(),
                json!({"daysOfTheWeek": days, "weeksOfTheMonth": weeks}),
            );
        }
    }
    shown
}
