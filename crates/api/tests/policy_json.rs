//! Azure's policy JSON as clients send it and as they are shown it.

use serde_json::{Value, json};
use strongroom_api::wire::policy::{Texts, parse, show};
use strongroom_domain::calendar::{Month, MonthPick, WeekOfMonth, Weekday};
use strongroom_domain::policy::{Policy, PolicyTier, Schedule, SnapshotConsistency};

fn day() -> jiff::civil::Date {
    jiff::civil::date(2026, 7, 24)
}

fn read(properties: &Value) -> (Policy, Texts) {
    parse(properties).unwrap_or_else(|error| panic!("{}: {properties}", error.to_json()))
}

/// What a client is shown of what it sent.
fn shown(properties: &Value) -> Value {
    let (policy, texts) = read(properties);
    // As the catalog keeps them.
    let policy: Policy = serde_json::from_value(serde_json::to_value(policy).unwrap()).unwrap();
    let texts: Texts = serde_json::from_value(serde_json::to_value(texts).unwrap()).unwrap();
    show(&policy, &texts, day(), 0)
}

fn refused(properties: &Value) -> (String, String) {
    let error = parse(properties).expect_err("taken").to_json();
    let text = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}

/// `base` with some of its fields changed; null removes.
fn with(base: &Value, changes: &[(&str, Value)]) -> Value {
    let mut changed = base.clone();
    for (path, value) in changes {
        *changed.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.clone();
    }
    changed
}

/// A daily policy with one field more.
fn and(field: &str, value: Value) -> Value {
    let mut sent = daily();
    sent[field] = value;
    sent
}

fn daily() -> Value {
    json!({
        "backupManagementType": "AzureIaasVM", "policyType": "V1", "instantRPDetails": {},
        "schedulePolicy": {
            "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Daily",
            "scheduleRunTimes": ["2026-07-24T19:00:00Z"], "scheduleWeeklyFrequency": 0
        },
        "retentionPolicy": {
            "retentionPolicyType": "LongTermRetentionPolicy",
            "dailySchedule": {
                "retentionTimes": ["2026-07-24T19:00:00Z"],
                "retentionDuration": {"count": 30, "durationType": "Days"}
            }
        },
        "instantRpRetentionRangeInDays": 2, "timeZone": "UTC", "protectedItemsCount": 0
    })
}

fn hourly() -> Value {
    json!({
        "backupManagementType": "AzureIaasVM", "policyType": "V2", "instantRPDetails": {},
        "schedulePolicy": {
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Hourly",
            "hourlySchedule": {
                "interval": 4, "scheduleWindowStartTime": "2026-09-09T08:00:00Z", "scheduleWindowDuration": 12
            }
        },
        "retentionPolicy": {
            "retentionPolicyType": "LongTermRetentionPolicy",
            "dailySchedule": {
                "retentionTimes": ["2026-09-09T08:00:00Z"],
                "retentionDuration": {"count": 30, "durationType": "Days"}
            }
        },
        "instantRpRetentionRangeInDays": 2, "timeZone": "Pacific Standard Time", "protectedItemsCount": 0
    })
}

/// All four rules, each form of picking days.
fn grandfathers() -> Value {
    let times = json!(["2026-07-24T05:30:00Z"]);
    let mut policy = daily();
    policy["schedulePolicy"]["scheduleRunTimes"] = times.clone();
    policy["retentionPolicy"] = json!({
        "retentionPolicyType": "LongTermRetentionPolicy",
        "dailySchedule": {"retentionTimes": times, "retentionDuration": {"count": 14, "durationType": "Days"}},
        "weeklySchedule": {
            "daysOfTheWeek": ["Sunday", "Monday"], "retentionTimes": times,
            "retentionDuration": {"count": 8, "durationType": "Weeks"}
        },
        "monthlySchedule": {
            "retentionScheduleFormatType": "Daily",
            "retentionScheduleDaily": {"daysOfTheMonth": [{"date": 1, "isLast": false}, {"date": 0, "isLast": true}]},
            "retentionTimes": times, "retentionDuration": {"count": 60, "durationType": "Months"}
        },
        "yearlySchedule": {
            "retentionScheduleFormatType": "Weekly", "monthsOfYear": ["February", "November"],
            "retentionScheduleWeekly": {"daysOfTheWeek": ["Sunday"], "weeksOfTheMonth": ["First", "Last"]},
            "retentionTimes": times, "retentionDuration": {"count": 4, "durationType": "Years"}
        }
    });
    policy
}

fn weekly(tier: &str) -> Value {
    let times = json!(["2026-07-24T05:30:00Z"]);
    let schedule = match tier {
        "V1" => json!({
            "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Weekly",
            "scheduleRunDays": ["Sunday", "Wednesday"], "scheduleRunTimes": times, "scheduleWeeklyFrequency": 0
        }),
        _ => json!({
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Weekly",
            "weeklySchedule": {"scheduleRunDays": ["Sunday", "Wednesday"], "scheduleRunTimes": times}
        }),
    };
    let mut policy = daily();
    policy["policyType"] = json!(tier);
    policy["schedulePolicy"] = schedule;
    policy["retentionPolicy"] = json!({
        "retentionPolicyType": "LongTermRetentionPolicy",
        "weeklySchedule": {
            "daysOfTheWeek": ["Sunday", "Wednesday"], "retentionTimes": times,
            "retentionDuration": {"count": 12, "durationType": "Weeks"}
        }
    });
    policy
}

#[test]
fn what_is_sent_is_shown_again() {
    let enhanced_daily = json!({
        "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Daily",
        "dailySchedule": {"scheduleRunTimes": ["2026-07-24T19:00:00Z"]}
    });
    for sent in [
        daily(),
        hourly(),
        grandfathers(),
        weekly("V1"),
        weekly("V2"),
        with(&daily(), &[("/policyType", json!("V2")), ("/schedulePolicy", enhanced_daily)]),
        with(
            &daily(),
            &[(
                "/instantRPDetails",
                json!({"azureBackupRGNamePrefix": "rg-", "azureBackupRGNameSuffix": "-backup"}),
            )],
        ),
    ] {
        assert_eq!(shown(&sent), sent);
        // And shown once more, nothing has changed.
        assert_eq!(shown(&shown(&sent)), sent);
    }
}

#[test]
fn the_rules_are_those_that_were_sent() {
    let (policy, _) = read(&grandfathers());
    assert_eq!(policy.tier, PolicyTier::Standard);
    assert_eq!(policy.schedule, Schedule::Daily { time: jiff::civil::time(5, 30, 0, 0) });
    assert_eq!(policy.retention.daily.map(|rule| rule.days), Some(14));
    let week = policy.retention.weekly.unwrap();
    assert_eq!((week.weeks, week.days_of_week), (8, [Weekday::Sunday, Weekday::Monday].into()));
    let month = policy.retention.monthly.unwrap();
    assert_eq!((month.months, month.by), (60, MonthPick::Dates { days: [1].into(), last: true }));
    let year = policy.retention.yearly.unwrap();
    assert_eq!((year.years, year.months), (4, [Month::February, Month::November].into()));
    let weeks = [WeekOfMonth::First, WeekOfMonth::Last].into();
    assert_eq!(year.by, MonthPick::Positions { weeks, days_of_week: [Weekday::Sunday].into() });

    let (policy, _) = read(&hourly());
    assert_eq!(policy.zone.iana_name(), "America/Los_Angeles");
    let window_start = jiff::civil::time(8, 0, 0, 0);
    assert_eq!(policy.schedule, Schedule::Hourly { every_hours: 4, window_start, window_hours: 12 });
}

/// As `az backup policy set` sends back what it was shown: nulls, other spellings, fields of its own.
#[test]
fn what_az_sends_back_is_taken() {
    let sent = json!({
        "backupManagementType": "AzureIaasVM",
        "instantRpDetails": {"azureBackupRgNamePrefix": null, "azureBackupRgNameSuffix": null},
        "instantRpRetentionRangeInDays": 2, "policyType": "V1", "protectedItemsCount": 1,
        "resourceGuardOperationRequests": null,
        "retentionPolicy": {
            "dailySchedule": {
                "retentionDuration": {"count": 30, "durationType": "Days"},
                "retentionTimes": ["2026-01-01T19:30:00+00:00"]
            },
            "monthlySchedule": null, "retentionPolicyType": "LongTermRetentionPolicy",
            "weeklySchedule": null, "yearlySchedule": null
        },
        "schedulePolicy": {
            "hourlySchedule": null, "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunDays": null,
            "scheduleRunFrequency": "Daily", "scheduleRunTimes": ["2026-01-01T19:30:00+00:00"],
            "scheduleWeeklyFrequency": 0
        },
        "snapshotConsistencyType": null,
        "tieringPolicy": {"ArchivedRP": {"duration": 0, "durationType": "Invalid", "tieringMode": "DoNotTier"}},
        "timeZone": "UTC"
    });
    let (policy, _) = read(&sent);
    assert_eq!(policy.schedule, Schedule::Daily { time: jiff::civil::time(19, 30, 0, 0) });
    let shown = shown(&sent);
    assert_eq!(shown["schedulePolicy"]["scheduleRunTimes"], json!(["2026-01-01T19:30:00+00:00"]));
    assert_eq!(shown["instantRPDetails"], json!({}));
    for absent in ["snapshotConsistencyType", "resourceGuardOperationRequests", "instantRpDetails"] {
        assert!(shown.get(absent).is_none(), "{absent}");
    }
    // A group's prefix comes back in the spelling of the newer clients.
    let named = with(&sent, &[("/instantRpDetails/azureBackupRgNamePrefix", json!("rg-"))]);
    let details = &self::shown(&named)["instantRPDetails"];
    assert_eq!(details["azureBackupRGNamePrefix"], "rg-", "{details}");
}

#[test]
fn run_times_are_shown_as_azure_shows_them() {
    for (given, echoed) in [
        ("2026-07-24T19:00:00.000Z", "2026-07-24T19:00:00Z"),
        ("2026-07-24T08:00:00+00:00", "2026-07-24T08:00:00+00:00"),
        ("2026-07-24T08:00:00", "2026-07-24T08:00:00"),
        ("2026-07-24T08:00:00.0000000Z", "2026-07-24T08:00:00Z"),
    ] {
        let sent = with(
            &daily(),
            &[
                ("/schedulePolicy/scheduleRunTimes/0", json!(given)),
                ("/retentionPolicy/dailySchedule/retentionTimes/0", json!(given)),
            ],
        );
        let shown = shown(&sent);
        assert_eq!(shown["schedulePolicy"]["scheduleRunTimes"][0], echoed);
        assert_eq!(shown["retentionPolicy"]["dailySchedule"]["retentionTimes"][0], echoed);
    }
}

/// The time of day is the policy's zone's, though the text says UTC; with an offset it is brought to UTC first.
#[test]
fn run_times_are_of_the_policys_zone() {
    let sent = with(
        &daily(),
        &[
            ("/schedulePolicy/scheduleRunTimes/0", json!("2026-07-24T19:00:00+02:00")),
            ("/retentionPolicy/dailySchedule/retentionTimes/0", json!("2026-07-24T17:00:00Z")),
            ("/timeZone", json!("Pacific Standard Time")),
        ],
    );
    let (policy, _) = read(&sent);
    let next = policy.next_run("2026-07-24T20:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(next.to_string(), "2026-07-25T00:00:00Z", "17:00 in Los Angeles");
}

#[test]
fn a_vaults_own_policies_have_the_day_they_were_made() {
    let shown = show(&Policy::default_standard(), &Texts::default(), day(), 3);
    assert_eq!(shown["schedulePolicy"]["scheduleRunTimes"], json!(["2026-07-24T20:30:00Z"]));
    assert_eq!(shown["retentionPolicy"]["dailySchedule"]["retentionDuration"]["count"], 180);
    assert_eq!(shown["protectedItemsCount"], 3);
    assert_eq!(read(&shown).0, Policy::default_standard());
    let shown = show(&Policy::default_enhanced(), &Texts::default(), day(), 0);
    assert_eq!(shown["schedulePolicy"]["hourlySchedule"]["scheduleWindowStartTime"], "2026-07-24T08:00:00Z");
    assert_eq!(read(&shown).0, Policy::default_enhanced());
}

#[test]
fn what_is_wrong_is_said_with_azures_code() {
    let weekly = weekly("V1");
    for (base, path, value, word) in [
        (daily(), "/schedulePolicy/scheduleRunTimes", json!([]), "scheduleRunTimes"),
        (
            daily(),
            "/schedulePolicy/scheduleRunTimes",
            json!(["2026-07-24T19:00:00Z", "2026-07-24T20:00:00Z"]),
            "one time",
        ),
        (daily(), "/schedulePolicy/scheduleRunTimes/0", json!("tonight"), "tonight"),
        (daily(), "/schedulePolicy/scheduleRunTimes/0", json!("2026-07-24T25:00:00Z"), "25:00"),
        (daily(), "/schedulePolicy/scheduleRunTimes/0", json!(7), "time"),
        (daily(), "/schedulePolicy/scheduleRunTimes/0", json!("2026-07-24"), "2026-07-24"),
        (daily(), "/schedulePolicy/scheduleRunTimes/0", json!("2026-07-24T20:00:00Z"), "retentionTimes"),
        (daily(), "/schedulePolicy/scheduleRunFrequency", json!("Sometimes"), "scheduleRunFrequency"),
        (daily(), "/schedulePolicy/schedulePolicyType", json!("LogSchedulePolicy"), "schedulePolicyType"),
        (daily(), "/schedulePolicy", json!(null), "schedulePolicy"),
        (daily(), "/retentionPolicy", json!([]), "retentionPolicy"),
        (daily(), "/retentionPolicy/retentionPolicyType", json!("SimpleRetentionPolicy"), "LongTerm"),
        (daily(), "/retentionPolicy/dailySchedule", json!(null), "daily retention"),
        (daily(), "/retentionPolicy/dailySchedule/retentionDuration/count", json!(-1), "count"),
        (daily(), "/retentionPolicy/dailySchedule/retentionDuration/count", json!(10_000), "9999"),
        (daily(), "/retentionPolicy/dailySchedule/retentionDuration/durationType", json!("Weeks"), "Days"),
        (daily(), "/timeZone", json!("Middle-earth Standard Time"), "timeZone"),
        (daily(), "/policyType", json!("V3"), "policyType"),
        (daily(), "/policyType", json!("V2"), "SimpleSchedulePolicyV2"),
        (daily(), "/instantRpRetentionRangeInDays", json!(6), "5 days"),
        (hourly(), "/schedulePolicy/hourlySchedule/interval", json!(5), "every"),
        (hourly(), "/schedulePolicy/hourlySchedule/scheduleWindowDuration", json!(25), "24"),
        (hourly(), "/schedulePolicy/hourlySchedule/scheduleWindowDuration", json!(14), "multiple"),
        (grandfathers(), "/retentionPolicy/yearlySchedule/monthsOfYear/0", json!("Brumaire"), "month"),
        (
            grandfathers(),
            "/retentionPolicy/monthlySchedule/retentionScheduleDaily/daysOfTheMonth/0/date",
            json!(32),
            "31",
        ),
        (
            grandfathers(),
            "/retentionPolicy/yearlySchedule/retentionScheduleWeekly/weeksOfTheMonth/0",
            json!("Fifth"),
            "weeksOfTheMonth",
        ),
        (weekly.clone(), "/schedulePolicy/scheduleRunDays", json!([]), "day of the week"),
        (weekly.clone(), "/schedulePolicy/scheduleRunDays/0", json!("Someday"), "scheduleRunDays"),
        (weekly.clone(), "/retentionPolicy/weeklySchedule/daysOfTheWeek/0", json!("Monday"), "Monday"),
        (
            daily(),
            "/instantRPDetails",
            json!({"azureBackupRGNamePrefix": "a".repeat(91)}),
            "instantRPDetails",
        ),
    ] {
        let sent = with(&base, &[(path, value)]);
        let (code, message) = refused(&sent);
        assert_eq!(code, "BMSUserErrorInvalidPolicyInput", "{path}: {message}");
        assert!(message.contains(word), "{path}: {message}");
    }
    let (code, message) =
        refused(&with(&daily(), &[("/retentionPolicy/dailySchedule/retentionDuration/count", json!(2))]));
    assert_eq!(code, "BMSUserErrorInstantRPRetentionExceedsVaultedRetention", "{message}");
}

/// This server's own: Azure's clients never see it where it is not set.
#[test]
fn all_disks_can_be_required() {
    let mut sent = daily();
    assert!(!read(&sent).0.require_all_disks && shown(&sent).get("strongroomRequireAllDisks").is_none());
    for (value, is_required) in [(json!(true), true), (json!(false), false), (Value::Null, false)] {
        sent["strongroomRequireAllDisks"] = value;
        assert_eq!(read(&sent).0.require_all_disks, is_required);
        assert_eq!(shown(&sent).get("strongroomRequireAllDisks").is_some(), is_required);
    }
    sent["strongroomRequireAllDisks"] = json!("yes");
    assert!(refused(&sent).1.contains("strongroomRequireAllDisks"));
}

/// There is no archive tier: what a policy says of one is kept and shown, with a word about that.
#[test]
fn tiering_is_kept_and_said_to_have_no_effect() {
    let tiering = |mode: &str, duration: u32, unit: &str| json!({"ArchivedRP": {"tieringMode": mode, "duration": duration, "durationType": unit}});
    for (given, kept) in [
        (tiering("TierRecommended", 0, "Invalid"), tiering("TierRecommended", 0, "Invalid")),
        (tiering("tierafter", 3, "months"), tiering("TierAfter", 3, "Months")),
    ] {
        let shown = shown(&and("tieringPolicy", given));
        assert_eq!(shown["tieringPolicy"], kept);
        assert!(shown["strongroomTiering"].as_str().unwrap().contains("no archive tier"), "{shown}");
        // And comes back as it was shown.
        assert_eq!(self::shown(&shown)["tieringPolicy"], kept);
    }
    let shown = shown(&and("tieringPolicy", tiering("DoNotTier", 0, "Invalid")));
    assert!(shown.get("tieringPolicy").is_none() && shown.get("strongroomTiering").is_none(), "{shown}");
    for wrong in [
        tiering("TierAfter", 0, "Months"),
        tiering("TierAfter", 3, "Invalid"),
        tiering("TierSometimes", 3, "Months"),
        json!({"InstantRP": {"tieringMode": "TierAfter", "duration": 3, "durationType": "Months"}}),
    ] {
        let (code, _) = refused(&and("tieringPolicy", wrong));
        assert_eq!(code, "BMSUserErrorInvalidPolicyInput");
    }
}

#[test]
fn snapshots_can_be_wanted_without_freezing() {
    let sent = and("snapshotConsistencyType", json!("onlyCrashConsistent"));
    assert_eq!(read(&sent).0.snapshot_consistency, SnapshotConsistency::OnlyCrash);
    assert_eq!(shown(&sent)["snapshotConsistencyType"], "OnlyCrashConsistent");
    assert_eq!(read(&daily()).0.snapshot_consistency, SnapshotConsistency::AsPossible);
    let (_, message) = refused(&and("snapshotConsistencyType", json!("AppConsistent")));
    assert!(message.contains("snapshotConsistencyType"), "{message}");
}

#[test]
fn policies_of_other_workloads_are_refused() {
    for kind in ["AzureWorkload", "AzureStorage", "MAB"] {
        let sent = with(&daily(), &[("/backupManagementType", json!(kind))]);
        let (_, message) = refused(&sent);
        assert!(message.contains(kind), "{message}");
    }
}
