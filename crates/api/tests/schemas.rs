//! The schemas of the document: those of types by construction, those by hand against what is read and answered.

mod common;

use common::estate::Estate;
use common::{App, TestGate, request};
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use strongroom_api::arm::{routes, schemas};
use strongroom_api::wire::policy::{Texts, parse, show};
use strongroom_api::{Api, Response, Route, RouteError};
use strongroom_domain::policy::Policy;

/// Request bodies that are read by hand, and how the schema is held against that.
const READ_BY_HAND: &[(&str, &str)] = &[
    ("Policy", "a_policy_is_read_as_its_schema_says"),
    ("GraphQuery", "what_is_asked_by_hand_is_read_as_its_schema_says"),
    ("CapabilitiesRequest", "what_is_asked_by_hand_is_read_as_its_schema_says"),
    ("Container", "what_is_not_read_changes_nothing"),
    ("UndeleteRequest", "nothing of it is read: its handler takes no body"),
];

/// Answers that are put together by hand: `what_is_answered_is_as_the_schema_says`.
const SHOWN_BY_HAND: &[&str] = &["Resource", "ResourceList", "Vault"];

#[test]
fn bodies_come_from_types_but_for_a_few() {
    let mut typed = 0;
    for route in routes() {
        if let Some(name) = route.request_schema {
            let by_hand = READ_BY_HAND.iter().any(|(known, _)| *known == name);
            assert_eq!(route.request_type.is_none(), by_hand, "{route:?}: {name}");
            typed += usize::from(!by_hand);
        }
        if let Some(name) = route.response_schema {
            assert_eq!(route.response_type.is_none(), SHOWN_BY_HAND.contains(&name), "{route:?}: {name}");
            typed += usize::from(route.response_type.is_some());
        }
    }
    assert!(typed > 30, "{typed}");
}

fn check_schema(schema: &Value, at: &str) {
    const KNOWN: [&str; 6] = ["object", "array", "string", "integer", "number", "boolean"];
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    assert!(!types.is_empty() || schema["enum"].is_array(), "{at}: {schema}");
    assert!(types.iter().all(|one| KNOWN.contains(one) || *one == "null"), "{at}: {schema}");
    for foreign in ["title", "default", "$ref", "$defs", "$schema"] {
        assert!(schema.get(foreign).is_none(), "{at}: {foreign}");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(schema["properties"][required.as_str().unwrap()].is_object(), "{at}: {required} is required");
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        assert!(!name.contains('_'), "{at}: {name} is no name of the wire");
        check_schema(inner, &format!("{at}.{name}"));
    }
    for part in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(part) {
            check_schema(inner, at);
        }
    }
}

#[test]
fn every_schema_is_one_and_requires_only_what_it_tells() {
    let all = schemas();
    for (name, schema) in &all {
        check_schema(schema, name);
    }
    let used = |name: &str| {
        routes().iter().any(|r| r.request_schema == Some(name) || r.response_schema == Some(name))
    };
    let unused: Vec<&String> = all.keys().filter(|name| !used(name)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct Declared {
    name: Option<String>,
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct Other {
    another: Option<String>,
}

fn built(routes: impl IntoIterator<Item = Route<App>>) -> Result<Api<App>, RouteError> {
    Api::builder(Arc::new(App { names: vec![] }), Arc::new(TestGate::default())).routes(routes).build()
}

/// Without it a handler could read what the document does not tell.
#[test]
fn a_handler_reads_the_type_that_its_route_declares() {
    fn read<T: serde::de::DeserializeOwned + Serialize + 'static>() -> strongroom_api::Handler<App> {
        |_, request, _| Response::ok(request.json::<T>()?)
    }
    let action = "Microsoft.RecoveryServices/Vaults/write";
    let api = built([
        Route::post("/a/b", "A", read::<Declared>()).reads::<Declared>("Declared").action(action),
        Route::post("/a/c", "B", read::<Other>()).reads::<Declared>("Declared").action(action),
        Route::post("/a/d", "C", read::<Value>()).reads::<Declared>("Declared").action(action),
    ])
    .unwrap();
    for (path, status) in [("/a/b", 200), ("/a/c", 500), ("/a/d", 500)] {
        let mut request = request(Method::POST, &format!("{path}?api-version=1"), Some("owner"));
        request.body = b"{}".to_vec().into();
        assert_eq!(api.dispatch(request).status.as_u16(), status, "{path}");
    }
}

#[test]
fn one_name_tells_one_schema() {
    let read = |_: &App, _: &strongroom_api::Request, _: &strongroom_api::Params| Response::ok(json!({}));
    let twice = built([
        Route::post("/a/b", "A", read).reads::<Declared>("Same"),
        Route::post("/a/c", "B", read).reads::<Other>("Same"),
    ]);
    assert!(matches!(twice, Err(RouteError::SchemaTwice { schema: "Same", .. })));
}

/// What may be in a policy, by places: all that can be read is in one of these.
fn policies() -> Vec<Value> {
    let times = json!(["2026-07-24T05:30:00Z"]);
    let keep = |unit: &str| json!({"count": 12, "durationType": unit});
    let policy = |tier: &str, schedule: Value| {
        json!({
            "backupManagementType": "AzureIaasVM", "policyType": tier, "timeZone": "UTC",
            "instantRPDetails": {"azureBackupRGNamePrefix": "before", "azureBackupRGNameSuffix": "after"},
            "tieringPolicy": {"ArchivedRP": {"tieringMode": "TierAfter", "duration": 12, "durationType": "Months"}},
            "snapshotConsistencyType": "OnlyCrashConsistent", "strongroomRequireAllDisks": true,
            "instantRpRetentionRangeInDays": 3, "schedulePolicy": schedule,
            "retentionPolicy": {
                "retentionPolicyType": "LongTermRetentionPolicy",
                "dailySchedule": {"retentionTimes": times, "retentionDuration": keep("Days")},
                "weeklySchedule": {
                    "daysOfTheWeek": ["Sunday"], "retentionTimes": times, "retentionDuration": keep("Weeks"),
                },
                "monthlySchedule": {
                    "retentionScheduleFormatType": "Daily", "retentionTimes": times,
                    "retentionScheduleDaily": {"daysOfTheMonth": [{"date": 1, "isLast": false}]},
                    "retentionDuration": keep("Months"),
                },
                "yearlySchedule": {
                    "retentionScheduleFormatType": "Weekly", "monthsOfYear": ["February"], "retentionTimes": times,
                    "retentionScheduleWeekly": {"daysOfTheWeek": ["Sunday"], "weeksOfTheMonth": ["First"]},
                    "retentionDuration": keep("Years"),
                },
            },
        })
    };
    let mut weekly = policy(
        "V1",
        json!({
            "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Weekly",
            "scheduleRunDays": ["Sunday"], "scheduleRunTimes": times,
        }),
    );
    let mut weekly_enhanced = policy(
        "V2",
        json!({
            "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Weekly",
            "weeklySchedule": {"scheduleRunDays": ["Sunday"], "scheduleRunTimes": times},
        }),
    );
    for weekly in [&mut weekly, &mut weekly_enhanced] {
        let retention = weekly["retentionPolicy"].as_object_mut().unwrap();
        retention.retain(|name, _| name == "retentionPolicyType" || name == "weeklySchedule");
        // Snapshots of a weekly policy are kept five days.
        weekly["instantRpRetentionRangeInDays"] = json!(5);
    }
    vec![
        policy(
            "V1",
            json!({
                "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Daily", "scheduleRunTimes": times,
            }),
        ),
        policy(
            "V2",
            json!({
                "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Daily",
                "dailySchedule": {"scheduleRunTimes": times},
            }),
        ),
        policy(
            "V2",
            json!({
                "schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Hourly",
                "hourlySchedule": {
                    "interval": 4, "scheduleWindowStartTime": "2026-07-24T05:30:00Z", "scheduleWindowDuration": 12,
                },
            }),
        ),
        weekly,
        weekly_enhanced,
    ]
}

/// All places that a schema tells, as JSON pointers.
fn places(schema: &Value, at: &str, found: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{at}/{name}");
        places(inner, &place, found);
        found.push(place);
    }
}

/// All that a body has beside what the schema tells; into what is open it is not looked.
fn untold(schema: &Value, body: &Value, at: &str, found: &mut Vec<String>) {
    let Some(told) = schema["properties"].as_object() else { return };
    for (name, inner) in body.as_object().into_iter().flatten() {
        let place = format!("{at}/{name}");
        match told.get(name) {
            Some(schema) => untold(schema, inner, &place, found),
            None => found.push(place),
        }
    }
}

#[test]
fn a_policy_is_read_as_its_schema_says() {
    let schema = &schemas()["Policy"]["properties"]["properties"];
    let outcome = |policy: &Value| -> Result<(Policy, Texts), String> {
        parse(policy).map_err(|error| error.to_json().to_string())
    };
    let wrong = [json!("wrong"), json!(null), json!(987_654), json!(["wrong"]), json!(false)];
    // Some other value at a place makes another policy, or none.
    let is_read = |policy: &Value, place: &str| {
        policy.pointer(place).is_some()
            && wrong.iter().any(|wrong| {
                let mut other = policy.clone();
                *other.pointer_mut(place).unwrap() = wrong.clone();
                outcome(&other) != outcome(policy)
            })
    };
    let mut told = Vec::new();
    places(schema, "", &mut told);
    assert!(told.len() > 25, "{told:?}");
    for place in told {
        assert!(policies().iter().any(|policy| is_read(policy, &place)), "nobody reads {place}");
    }
    // Whatever is read, and what is shown and comes back, is told; but for these, which mean nothing.
    const NOTHING: [&str; 2] = ["/protectedItemsCount", "/schedulePolicy/scheduleWeeklyFrequency"];
    for policy in policies() {
        let (rules, texts) = outcome(&policy).unwrap_or_else(|error| panic!("{error}: {policy}"));
        let mut beside = Vec::new();
        untold(schema, &policy, "", &mut beside);
        assert!(beside.is_empty(), "{beside:?}");
        let shown = show(&rules, &texts, jiff::civil::date(2026, 7, 24), 0);
        untold(schema, &shown, "", &mut beside);
        // A note of ours, for who reads it.
        beside.retain(|place| !NOTHING.contains(&place.as_str()) && place != "/strongroomTiering");
        assert!(beside.is_empty(), "{beside:?}");
        assert!(NOTHING.iter().all(|place| !is_read(&shown, place)));
    }
}

#[test]
fn what_is_asked_by_hand_is_read_as_its_schema_says() {
    let estate = Estate::new();
    let own = estate.service().subscription().to_string();
    let graph = "/providers/Microsoft.ResourceGraph/resources".to_owned();
    let query =
        "RecoveryServicesResources | where type == 'microsoft.recoveryservices/locations/deletedvaults'";
    let capabilities = estate.location("capabilities");
    let zones = json!({
        "type": "Microsoft.RecoveryServices/vaults", "properties": {"dnsZones": [{"subResource": "AzureBackup"}]},
    });
    for (name, path, body) in [
        ("GraphQuery", graph, json!({"query": query, "subscriptions": [own]})),
        ("CapabilitiesRequest", capabilities, zones),
    ] {
        let told = estate.must(Method::POST, &path, Some(body.clone()));
        let mut told_places = Vec::new();
        places(&schemas()[name], "", &mut told_places);
        assert!(told_places.len() >= 2, "{told_places:?}");
        for place in told_places {
            let mut other = body.clone();
            let changed = other.pointer_mut(&place).unwrap_or_else(|| panic!("{place} is not tried"));
            *changed = if changed.is_array() { json!(["wrong"]) } else { json!("wrong") };
            assert_ne!(
                estate.ask(Method::POST, &path, Some(other)),
                (200, told.clone()),
                "nobody reads {place}"
            );
        }
        let mut beside = Vec::new();
        untold(&schemas()[name], &body, "", &mut beside);
        assert!(beside.is_empty(), "{beside:?}");
        assert!(!estate.refused(Method::POST, &path, Some(json!({}))).0.is_empty(), "{name}");
    }
}

/// Two parts of a vault are kept as JSON, and their schemas stand beside what reads them.
#[test]
fn parts_of_a_vault_are_read_as_their_schemas_say() {
    let estate = Estate::new();
    let user = estate.group() + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u";
    let sent = json!({
        "location": "local", "sku": {"name": "RS0"},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {user.as_str(): {}}},
    });
    let schema = &schemas()["Vault"];
    let mut beside = Vec::new();
    untold(schema, &sent, "", &mut beside);
    assert!(beside.is_empty(), "{beside:?}");
    let mut told = Vec::new();
    for part in ["sku", "identity"] {
        places(&schema["properties"][part], &format!("/{part}"), &mut told);
    }
    let shown = |name: &str, body: &Value| {
        let (status, told) = estate.ask(Method::PUT, &estate.vault_called(name), Some(body.clone()));
        let users = told["identity"]["userAssignedIdentities"].as_object().map(|users| users.len());
        (status, told["sku"].clone(), told["identity"]["type"].clone(), users)
    };
    let taken = shown("taken", &sent);
    assert_eq!(taken, (201, json!({"name": "RS0"}), json!("UserAssigned"), Some(1)));
    assert_eq!(told.len(), 3, "{told:?}");
    for (at, place) in told.iter().enumerate() {
        let mut other = sent.clone();
        *other.pointer_mut(place).unwrap_or_else(|| panic!("{place} is not tried")) = Value::Null;
        assert_ne!(shown(&format!("other{at}"), &other), taken, "nobody reads {place}");
    }
}

#[test]
fn what_is_not_read_changes_nothing() {
    let estate = Estate::new();
    let path = estate
        .path_of(&format!("{}/backupFabrics/{{fabric}}/protectionContainers/{{container}}", estate.vault()));
    let mut body = json!({"properties": {
        "sourceResourceId": estate.machine("web"), "friendlyName": "web", "backupManagementType": "AzureIaasVM",
        "containerType": "Microsoft.Compute/virtualMachines",
    }});
    let schema = &schemas()["Container"];
    let mut told = Vec::new();
    places(schema, "", &mut told);
    assert!(told.iter().all(|place| body.pointer(place).is_some()), "{told:?}");
    let answered = estate.must(Method::PUT, &path, Some(body.clone()));
    body["properties"]["friendlyName"] = json!(["anything"]);
    assert_eq!(estate.must(Method::PUT, &path, Some(body)), answered);
    assert_eq!(estate.must(Method::PUT, &path, Some(json!({"properties": {}}))), answered);
}

/// Whether a value is what a schema says; as much of JSON Schema as the document uses.
fn check(schema: &Value, value: &Value, at: &str) {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    let right = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).any(is),
        Value::String(one) => is(one),
        _ => true,
    };
    assert!(right, "{at}: {value} is not {}", schema["type"]);
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value} is not of {allowed:?}");
    }
    let (Value::Object(_) | Value::Array(_)) = value else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{at}: {required} is missing in {value}");
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let told = schema["properties"].get(name).or(schema.get("additionalProperties"));
        told.into_iter().for_each(|told| check(told, inner, &format!("{at}.{name}")));
    }
    if let Some(items) = schema.get("items") {
        value.as_array().into_iter().flatten().for_each(|inner| check(items, inner, &format!("{at}[]")));
    }
}

#[test]
fn what_is_answered_is_as_the_schema_says() {
    let estate = Estate::new();
    let document = estate.call(Method::GET, "/openapi.json", None).wire_body().1;
    let document: Value = serde_json::from_slice(&document).unwrap();
    let schemas: &Map<String, Value> = document["components"]["schemas"].as_object().unwrap();
    let (mut answered, mut refused) = (0, 0);
    for route in routes().iter().filter(|route| route.method == Method::GET) {
        let path = estate.path_of(route.pattern).replace(['{', '}'], "");
        let answer = estate.call(Method::GET, &path, None);
        let (name, body) = match (answer.status, route.response_schema, answer.json_body()) {
            (StatusCode::OK, Some(name), Some(body)) => (name, body),
            (status, _, Some(body)) if !status.is_success() => ("ErrorResponse", body),
            _ => continue,
        };
        check(&schemas[name], &body, &format!("{route:?}"));
        if name == "ErrorResponse" {
            refused += 1;
        } else {
            answered += 1;
        }
    }
    assert!(answered > 20 && refused > 20, "{answered} {refused}");
}
