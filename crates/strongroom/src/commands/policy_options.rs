//! Policies as they are typed: `--daily 20:30 --keep-days 180 --weekly sun:12`, made into Azure's form.

use clap::Args;
use jiff::civil::Time;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::str::FromStr;
use strongroom_domain::calendar::{Month, WeekOfMonth, Weekday};
use strongroom_engine::Error;

/// What a policy is to be. The service checks it against Azure's limits.
#[derive(Debug, Args)]
pub struct PolicyOptions {
    /// Back up every day at this time.
    #[arg(long, value_name = "HH:MM", value_parser = time, conflicts_with_all = ["on", "hourly"])]
    daily: Option<Time>,
    /// Back up on these days of the week, as in sun,wed@20:30.
    #[arg(long, value_name = "DAYS@HH:MM", conflicts_with = "hourly")]
    on: Option<OnDays>,
    /// Back up every 4, 6, 8 or 12 hours, within --window.
    #[arg(long, value_name = "HOURS")]
    hourly: Option<u32>,
    /// When hourly backups begin, and for how many hours, a multiple of --hourly [default: 08:00+12; every 8 hours +16].
    #[arg(long, value_name = "HH:MM+HOURS")]
    window: Option<Window>,
    /// The time zone of all these times, as in Europe/Berlin [default: of a new policy this host's].
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Keep each day's points so many days; `none` for not.
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<Kept<u32>>,
    /// Keep a point of these days of the week for weeks, as in sun:12 or sun,wed:12; `none` for not.
    #[arg(long, value_name = "DAYS:WEEKS")]
    weekly: Option<Kept<Weekly>>,
    /// Keep a point of each month for months, as in first-sunday:12, last-fri:12, 1,15:12 or last:12; `none` for not.
    #[arg(long, value_name = "WHICH:MONTHS")]
    monthly: Option<Kept<Monthly>>,
    /// Keep a point of these months for years, as in jan/first-sunday:10 or jan,jul/last:7; `none` for not.
    #[arg(long, value_name = "MONTHS/WHICH:YEARS")]
    yearly: Option<Kept<Yearly>>,
    /// Keep snapshots so many days, for restores at once.
    #[arg(long, value_name = "DAYS")]
    snapshot_days: Option<u32>,
    /// Whether a backup fails when a disk that nobody excluded cannot be backed up; else that is a warning.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    require_all_disks: Option<bool>,
    /// An enhanced policy (V2), which hourly ones always are.
    #[arg(long)]
    enhanced: bool,
    /// Azure's form of the policy, as `policy show --json` prints it; - is standard input.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = [
        "daily", "on", "hourly", "window", "zone", "keep_days", "weekly", "monthly", "yearly", "snapshot_days", "require_all_disks", "enhanced",
    ])]
    pub file: Option<PathBuf>,
}

fn time(text: &str) -> Result<Time, String> {
    let wrong = || format!("`{text}` is no time of day: give hours and minutes, as in 20:30");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) && part.len() <= 2 {
        true => part.parse::<i8>().ok(),
        false => None,
    };
    let time = number(hours).zip(number(minutes)).and_then(|(h, m)| Time::new(h, m, 0, 0).ok());
    time.ok_or_else(wrong)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("`{text}` is neither yes nor no")),
    }
}

fn weekday(text: &str) -> Result<Weekday, String> {
    const SHORT: [(&str, Weekday); 7] = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    let lower = text.trim().to_lowercase();
    let short = SHORT.iter().find(|(short, _)| *short == lower).map(|(_, day)| *day);
    short
        .or_else(|| Weekday::from_arm(&lower))
        .ok_or_else(|| format!("`{text}` is no day of the week: give mon, tue, wed, thu, fri, sat or sun"))
}

fn weekdays(text: &str) -> Result<Vec<Weekday>, String> {
    text.split(',').map(weekday).collect()
}

fn number(text: &str, what: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no number of {what}"))
}

/// Something that is kept so long, or not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept<T> {
    None,
    Some(T),
}

impl<T: FromStr> FromStr for Kept<T>
where
    T::Err: ToString,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::Some).map_err(|e: T::Err| e.to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OnDays(Vec<Weekday>, Time);

impl FromStr for OnDays {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (days, at) = text
            .split_once('@')
            .ok_or_else(|| format!("`{text}` has no time: give days and a time, as in sun,wed@20:30"))?;
        Ok(Self(weekdays(days)?, time(at)?))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    start: Time,
    hours: u32,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (start, hours) = text
            .split_once('+')
            .ok_or_else(|| format!("`{text}` has no length: give a time and hours, as in 08:00+12"))?;
        Ok(Self { start: time(start)?, hours: number(hours, "hours")? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Weekly {
    days: Vec<Weekday>,
    weeks: u32,
}

fn before_colon<'a>(text: &'a str, example: &str) -> Result<(&'a str, &'a str), String> {
    text.rsplit_once(':').ok_or_else(|| format!("`{text}` does not say how long: give it as in {example}"))
}

impl FromStr for Weekly {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (days, weeks) = before_colon(text, "sun:12")?;
        Ok(Self { days: weekdays(days)?, weeks: number(weeks, "weeks")? })
    }
}

/// Which days of a month.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// Days of the month; 0 is the last.
    Dates(Vec<u8>),
    Positions(Vec<(WeekOfMonth, Weekday)>),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` names no days of a month: give first-sunday, last-fri, 1, 1,15 or last (its last day)"
            )
        };
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts.iter().all(|p| p.contains('-')) {
            let position = |part: &&str| {
                let (week, day) = part.split_once('-').ok_or_else(wrong)?;
                Ok::<_, String>((WeekOfMonth::from_arm(week).ok_or_else(wrong)?, weekday(day)?))
            };
            return Ok(Self::Positions(parts.iter().map(position).collect::<Result<_, _>>()?));
        }
        let date = |part: &&str| match *part {
            "last" => Ok(0),
            number => number.parse::<u8>().ok().filter(|d| (1..=31).contains(d)).ok_or_else(wrong),
        };
        Ok(Self::Dates(parts.iter().map(date).collect::<Result<_, _>>()?))
    }
}

impl Which {
    /// Into a monthly or yearly schedule of Azure's form.
    fn put(&self, schedule: &mut Value) -> Result<(), Error> {
        match self {
            Self::Dates(dates) => {
                let days: Vec<Value> =
                    dates.iter().map(|date| json!({ "date": date, "isLast": *date == 0 })).collect();
                schedule["retentionScheduleFormatType"] = "Daily".into();
                schedule["retentionScheduleDaily"] = json!({ "daysOfTheMonth": days });
            }
            Self::Positions(positions) => {
                let mut weeks: Vec<&str> = positions.iter().map(|(week, _)| week.arm_name()).collect();
                let mut days: Vec<&str> = positions.iter().map(|(_, day)| day.arm_name()).collect();
                for names in [&mut weeks, &mut days] {
                    let mut seen = Vec::new();
                    names.retain(|name| {
                        let is_new = !seen.contains(name);
                        seen.push(*name);
                        is_new
                    });
                }
                // Azure has each of these weeks on each of these days.
                if weeks.len() * days.len() != positions.len() {
                    return Err(Error::invalid(
                        "a policy keeps the same days of the week in each of its weeks of the month: name all of them, as in first-sun,first-wed,last-sun,last-wed",
                    ));
                }
                schedule["retentionScheduleFormatType"] = "Weekly".into();
                schedule["retentionScheduleWeekly"] =
                    json!({ "weeksOfTheMonth": weeks, "daysOfTheWeek": days });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Monthly {
    which: Which,
    months: u32,
}

impl FromStr for Monthly {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (which, months) = before_colon(text, "first-sunday:12")?;
        Ok(Self { which: which.parse()?, months: number(months, "months")? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Yearly {
    months: Vec<Month>,
    which: Which,
    years: u32,
}

impl FromStr for Yearly {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, years) = before_colon(text, "jan/first-sunday:10")?;
        let (months, which) = rest
            .split_once('/')
            .ok_or_else(|| format!("`{text}` names no months: give it as in jan/first-sunday:10"))?;
        let month = |text: &str| {
            let lower = text.trim().to_lowercase();
            Month::ALL
                .into_iter()
                .find(|m| {
                    let name = m.arm_name().to_lowercase();
                    name == lower || lower.len() == 3 && name.starts_with(&lower)
                })
                .ok_or_else(|| format!("`{text}` is no month: give jan, feb, mar and so on"))
        };
        Ok(Self {
            months: months.split(',').map(month).collect::<Result<_, _>>()?,
            which: which.parse()?,
            years: number(years, "years")?,
        })
    }
}

impl PolicyOptions {
    /// Whether anything is said at all.
    pub fn is_empty(&self) -> bool {
        let has_schedule = self.daily.is_some() || self.on.is_some() || self.hourly.is_some();
        let has_window = self.window.is_some() || self.zone.is_some() || self.snapshot_days.is_some();
        let has_window = has_window || self.require_all_disks.is_some();
        let keeps = self.keep_days.is_some()
            || self.weekly.is_some()
            || self.monthly.is_some()
            || self.yearly.is_some();
        !has_schedule && !has_window && !keeps && !self.enhanced && self.file.is_none()
    }

    /// The properties of a new policy. `zone`: where none is named.
    pub fn new_properties(&self, zone: &str, today: jiff::civil::Date) -> Result<Value, Error> {
        if self.daily.is_none() && self.on.is_none() && self.hourly.is_none() {
            return Err(Error::invalid("when are backups made? Give --daily, --on or --hourly, or --file"));
        }
        let mut properties = json!({
            "backupManagementType": "AzureIaasVM",
            "policyType": "V1",
            "timeZone": zone,
            "retentionPolicy": { "retentionPolicyType": "LongTermRetentionPolicy" },
        });
        if self.on.is_none() {
            properties["retentionPolicy"]["dailySchedule"] =
                json!({ "retentionDuration": { "count": 30, "durationType": "Days" } });
        }
        self.change(&mut properties, today)?;
        Ok(properties)
    }

    /// Changes what is named in a policy of Azure's form.
    pub fn change(&self, properties: &mut Value, today: jiff::civil::Date) -> Result<(), Error> {
        if self.enhanced || self.hourly.is_some() {
            properties["policyType"] = "V2".into();
        }
        if let Some(zone) = &self.zone {
            properties["timeZone"] = zone.as_str().into();
        }
        if let Some(days) = self.snapshot_days {
            properties["instantRpRetentionRangeInDays"] = days.into();
        }
        if let Some(required) = self.require_all_disks {
            properties["strongroomRequireAllDisks"] = required.into();
        }
        self.change_schedule(properties, today)?;
        self.change_retention(properties)?;
        let times = run_times(&properties["schedulePolicy"]);
        for part in ["dailySchedule", "weeklySchedule", "monthlySchedule", "yearlySchedule"] {
            let schedule = &mut properties["retentionPolicy"][part];
            if schedule.is_object() {
                schedule["retentionTimes"] = times.clone();
            } else if let Some(retention) = properties["retentionPolicy"].as_object_mut() {
                retention.remove(part);
            }
        }
        Ok(())
    }

    fn change_schedule(&self, properties: &mut Value, today: jiff::civil::Date) -> Result<(), Error> {
        let is_enhanced = properties["policyType"] == "V2";
        let stamp = |time: Time| format!("{today}T{:02}:{:02}:00Z", time.hour(), time.minute());
        let kind = if is_enhanced { "SimpleSchedulePolicyV2" } else { "SimpleSchedulePolicy" };
        let (frequency, part, mut inner) = if let Some(time) = self.daily {
            ("Daily", "dailySchedule", json!({ "scheduleRunTimes": [stamp(time)] }))
        } else if let Some(OnDays(days, time)) = &self.on {
            let days: Vec<&str> = days.iter().map(|d| d.arm_name()).collect();
            let inner = json!({ "scheduleRunDays": days, "scheduleRunTimes": [stamp(*time)] });
            if let Some(retention) = properties["retentionPolicy"].as_object_mut() {
                // Not every day has one any more.
                retention.remove("dailySchedule");
            }
            ("Weekly", "weeklySchedule", inner)
        } else if self.hourly.is_some() || self.window.is_some() {
            let before = properties["schedulePolicy"]["hourlySchedule"].clone();
            if self.hourly.is_none() && !before.is_object() {
                return Err(Error::invalid("--window is for hourly policies: give --hourly too"));
            }
            // A multiple of the interval.
            let hours = if self.hourly == Some(8) { 16 } else { 12 };
            let default = Window { start: Time::constant(8, 0, 0, 0), hours };
            let mut inner = match before.is_object() {
                true => before,
                false => json!({}),
            };
            if let Some(hours) = self.hourly {
                inner["interval"] = hours.into();
            }
            if let Some(window) = self
                .window
                .as_ref()
                .or_else(|| inner["scheduleWindowStartTime"].is_null().then_some(&default))
            {
                inner["scheduleWindowStartTime"] = stamp(window.start).into();
                inner["scheduleWindowDuration"] = window.hours.into();
            }
            ("Hourly", "hourlySchedule", inner)
        } else {
            // As it was, but for its tier.
            let old = &properties["schedulePolicy"];
            if old["schedulePolicyType"] == kind || !old.is_object() {
                return Ok(());
            }
            let frequency = old["scheduleRunFrequency"].as_str().unwrap_or_default().to_owned();
            let mut inner = json!({ "scheduleRunTimes": old["scheduleRunTimes"] });
            match frequency.as_str() {
                "Weekly" => {
                    inner["scheduleRunDays"] = old["scheduleRunDays"].clone();
                    ("Weekly", "weeklySchedule", inner)
                }
                _ => ("Daily", "dailySchedule", inner),
            }
        };
        let mut schedule = json!({ "schedulePolicyType": kind, "scheduleRunFrequency": frequency });
        match (is_enhanced, inner.as_object_mut()) {
            (false, Some(inner)) => schedule.as_object_mut().map(|s| s.append(inner)).unwrap_or_default(),
            _ => schedule[part] = inner,
        }
        properties["schedulePolicy"] = schedule;
        Ok(())
    }

    fn change_retention(&self, properties: &mut Value) -> Result<(), Error> {
        let duration = |count: u32, unit: &str| json!({ "count": count, "durationType": unit });
        let retention = &mut properties["retentionPolicy"];
        match &self.keep_days {
            None => {}
            Some(Kept::None) => retention["dailySchedule"] = Value::Null,
            Some(Kept::Some(days)) => {
                retention["dailySchedule"] = json!({ "retentionDuration": duration(*days, "Days") });
            }
        }
        match &self.weekly {
            None => {}
            Some(Kept::None) => retention["weeklySchedule"] = Value::Null,
            Some(Kept::Some(weekly)) => {
                let days: Vec<&str> = weekly.days.iter().map(|d| d.arm_name()).collect();
                retention["weeklySchedule"] =
                    json!({ "daysOfTheWeek": days, "retentionDuration": duration(weekly.weeks, "Weeks") });
            }
        }
        match &self.monthly {
            None => {}
            Some(Kept::None) => retention["monthlySchedule"] = Value::Null,
            Some(Kept::Some(monthly)) => {
                let mut schedule = json!({ "retentionDuration": duration(monthly.months, "Months") });
                monthly.which.put(&mut schedule)?;
                retention["monthlySchedule"] = schedule;
            }
        }
        match &self.yearly {
            None => {}
            Some(Kept::None) => retention["yearlySchedule"] = Value::Null,
            Some(Kept::Some(yearly)) => {
                let months: Vec<&str> = yearly.months.iter().map(|m| m.arm_name()).collect();
                let mut schedule =
                    json!({ "monthsOfYear": months, "retentionDuration": duration(yearly.years, "Years") });
                yearly.which.put(&mut schedule)?;
                retention["yearlySchedule"] = schedule;
            }
        }
        Ok(())
    }
}

/// The times of a schedule, whichever form it has.
pub fn run_times(schedule: &Value) -> Value {
    let places = ["/scheduleRunTimes", "/dailySchedule/scheduleRunTimes", "/weeklySchedule/scheduleRunTimes"];
    if let Some(times) = places.iter().find_map(|p| schedule.pointer(p)).filter(|t| t.is_array()) {
        return times.clone();
    }
    match schedule.pointer("/hourlySchedule/scheduleWindowStartTime") {
        Some(start) => json!([start]),
        None => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use strongroom_api::wire::policy::parse;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: PolicyOptions,
    }

    fn options(line: &str) -> Result<PolicyOptions, String> {
        Line::try_parse_from(["policy"].into_iter().chain(line.split_whitespace()))
            .map(|l| l.options)
            .map_err(|e| e.to_string())
    }

    fn day() -> jiff::civil::Date {
        "2026-11-21".parse().unwrap()
    }

    fn made(line: &str) -> Value {
        options(line).unwrap().new_properties("Europe/Berlin", day()).unwrap()
    }

    /// As the service reads it, in its own words.
    fn understood(properties: &Value) -> String {
        let (policy, _) = parse(properties).unwrap_or_else(|e| panic!("{}: {properties}", e.message));
        serde_json::to_string(&policy).unwrap()
    }

    #[test]
    fn what_is_typed_is_what_the_service_understands() {
        for (line, words) in [
            (
                "--daily 20:30",
                r#""schedule":{"daily":{"time":"20:30:00"}},"retention":{"daily":{"days":30}},"zone":"Europe/Berlin""#,
            ),
            (
                "--daily 7:05 --zone UTC --keep-days 180",
                r#"{"daily":{"time":"07:05:00"}},"retention":{"daily":{"days":180}},"zone":"UTC""#,
            ),
            ("--on sun,wed@20:30 --weekly sun,wed:12", r#""weekly":{"days":"#),
            (
                "--hourly 6 --window 09:00+18 --snapshot-days 5",
                r#"{"hourly":{"every_hours":6,"window_start":"09:00:00","window_hours":18}}"#,
            ),
            ("--hourly 4", r#"{"hourly":{"every_hours":4,"window_start":"08:00:00","window_hours":12}}"#),
            ("--hourly 8", r#"{"hourly":{"every_hours":8,"window_start":"08:00:00","window_hours":16}}"#),
            ("--daily 20:30 --require-all-disks yes", r#""require_all_disks":true"#),
            ("--daily 20:30 --enhanced", r#""tier":"enhanced","schedule":{"daily""#),
            ("--daily 20:30 --monthly first-sunday:12", r#""months":12"#),
            ("--daily 20:30 --monthly 1,15,last:12", r#""last":true"#),
            ("--daily 20:30 --yearly jan,jul/last-fri:7", r#""years":7"#),
        ] {
            let properties = made(line);
            let text = understood(&properties);
            assert!(text.contains(words), "{line}: {text}");
        }
    }

    #[test]
    fn a_change_changes_what_it_names() {
        let change = |mut properties: Value, line: &str| {
            options(line).unwrap().change(&mut properties, day()).unwrap();
            properties
        };
        let first = made("--daily 20:30 --keep-days 60 --weekly sun:12 --yearly jan/first-sunday:10");
        let later = change(first.clone(), "--keep-days 90 --weekly none");
        let text = understood(&later);
        assert!(text.contains(r#"{"days":90}"#) && text.contains(r#""years":10"#), "{text}");
        assert!(!text.contains(r#""weekly""#) && text.contains("20:30:00"), "{text}");
        // Another tier keeps the schedule.
        let enhanced = understood(&change(first.clone(), "--enhanced"));
        assert!(
            enhanced.contains(r#""tier":"enhanced","schedule":{"daily":{"time":"20:30:00"}}"#),
            "{enhanced}"
        );
        // An hourly one keeps what is not named.
        let hourly = change(made("--hourly 4 --window 06:00+12"), "--hourly 6");
        assert!(
            understood(&hourly).contains(r#""every_hours":6,"window_start":"06:00:00","window_hours":12"#)
        );
        let weekly = change(first, "--on sat@01:00 --weekly sat:8 --yearly none");
        assert!(!understood(&weekly).contains(r#""daily""#), "{weekly}");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            "--daily 25:00",
            "--daily 8",
            "--daily 8:0:0",
            "--daily 20:30 --hourly 4",
            "--on sun",
            "--on someday@20:30",
            "--weekly sun",
            "--weekly :12",
            "--monthly first:12",
            "--monthly 32:12",
            "--monthly 0:12",
            "--monthly fifth-sunday:3",
            "--yearly first-sunday:10",
            "--yearly foo/1:10",
            "--window 08:00",
            "--require-all-disks",
            "--require-all-disks perhaps",
            "--keep-days many",
            "--daily 20:30 --file x.json",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
        assert!(options("--keep-days 30").unwrap().new_properties("UTC", day()).is_err());
        assert!(options("--window 08:00+12").unwrap().new_properties("UTC", day()).is_err());
        let crossed = options("--daily 20:30 --monthly first-sun,last-wed:12").unwrap();
        assert!(crossed.new_properties("UTC", day()).is_err());
        assert!(options("").unwrap().is_empty() && !options("--enhanced").unwrap().is_empty());
    }
}
