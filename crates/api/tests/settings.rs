//! Settings that Azure has: kept, shown, and honoured.

mod common;

use common::estate::{Estate, names};
use http::Method;
use serde_json::{Value, json};
use strongroom_api::auth::Credentials;
use strongroom_api::{Client, Request};
use strongroom_catalog::{Change, Point};
use uuid::Uuid;

#[test]
fn a_vault_closed_to_public_networks_hands_out_data_to_the_listed_alone() {
    let estate = Estate::with_networks(&["192.0.2.0/24", "2001:db8::7"]);
    let vault = estate.vault();
    let job = Uuid::new_v4();
    let mut point: Point = estate.rows().remove(0);
    point.drill = serde_json::from_value(json!({
        "job": job, "at": "2026-01-01T00:00:00Z", "passed": true, "seconds": 1.0, "screenshot": true,
        "check": {"command": "true", "exit_code": 0, "stdout": "what it said", "stderr": ""},
    }))
    .unwrap();
    estate.apply(&[Change::put(&point)]);
    std::fs::write(estate.service().data().screenshots().join(format!("{job}.png")), b"\x89PNG\r\n\x1a\n")
        .unwrap();
    let drill = format!("{}/recoveryPoints/4711/providers/Strongroom.Backup/drill", estate.item("web"));
    let screen = format!("{drill}/screenshot");
    let from = |address: Option<&str>, path: &str| {
        let target = format!("{path}?api-version=1");
        let mut request = Request::in_process(Method::GET, &target, None).unwrap();
        if let Some(address) = address {
            request.client = Client::Address(address.parse().unwrap());
            request.credentials = Credentials::Process;
        }
        let answer = estate.api.dispatch(request);
        (answer.status.as_u16(), answer.json_body().unwrap_or_default())
    };
    let says = |address: &str| !from(Some(address), &drill).1["check"]["stdout"].is_null();
    let access = |state: &str| {
        let body = json!({"properties": {"publicNetworkAccess": state}});
        estate.must(Method::PATCH, &vault, Some(body))["properties"]["publicNetworkAccess"].clone()
    };
    assert_eq!(estate.get(&vault)["properties"]["publicNetworkAccess"], "Enabled");
    assert_eq!(from(Some("198.51.100.1"), &screen).0, 200);
    assert_eq!(access("disabled"), "Disabled");
    for (address, may) in [
        ("192.0.2.1", true),
        ("192.0.2.255", true),
        ("::ffff:192.0.2.9", true),
        ("2001:db8::7", true),
        ("192.0.3.1", false),
        ("2001:db8::8", false),
        ("127.0.0.1", false),
    ] {
        let (status, told) = from(Some(address), &screen);
        assert_eq!(status, if may { 200 } else { 403 }, "{address}: {told}");
        assert_eq!(says(address), may, "{address}");
        // Managing goes on.
        assert_eq!(from(Some(address), &vault).0, 200);
        if !may {
            assert_eq!(told["error"]["code"], "PublicNetworkAccessDisabled");
        }
    }
    assert_eq!(from(None, &screen).0, 200);
    assert_eq!(access("Enabled"), "Enabled");
    assert_eq!(from(Some("198.51.100.1"), &screen).0, 200);
    let wrong = json!({"properties": {"publicNetworkAccess": "Perhaps"}});
    assert_eq!(estate.refused(Method::PATCH, &vault, Some(wrong)).0, "InvalidParameter");
    // And one is made so.
    let closed = json!({"location": "local", "properties": {"publicNetworkAccess": "Disabled"}});
    let made = estate.must(Method::PUT, &estate.vault_called("closed"), Some(closed));
    assert_eq!(made["properties"]["publicNetworkAccess"], "Disabled");
}

#[test]
fn resources_are_found_by_their_tags() {
    let estate = Estate::new();
    let tags = json!({"tags": {"Team": "storage", "stage": "x"}});
    estate.must(Method::PATCH, &estate.vault(), Some(tags));
    estate.must(Method::PATCH, &estate.machine("db"), Some(json!({"tags": {"team": "data"}})));
    let resources = format!("{}/resources", estate.subscription);
    let found = |filter: &str| {
        let (status, told) = estate.filtered(&resources, filter);
        assert_eq!(status, 200, "{filter}: {told}");
        names(&told).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(found("tagName eq 'team'"), ["db", "vault"]);
    assert_eq!(found("tagname eq 'team' and tagvalue eq 'storage'"), ["vault"]);
    assert_eq!(found("tagName eq 'team' and tagValue eq 'Storage'"), [""; 0]);
    assert_eq!(found("tagName eq 'stage' and resourceType eq 'Microsoft.Compute/virtualMachines'"), [""; 0]);
    let (_, told) = estate.filtered(&resources, "name eq 'vault'");
    assert_eq!(told["value"][0]["tags"]["stage"], "x");
    assert_eq!(estate.filtered(&resources, "tagValue eq 'x'").0, 400);
}

#[test]
fn a_policy_keeps_what_it_says_of_tiers_and_consistency() {
    let estate = Estate::new();
    let path = format!("{}/backupPolicies/Mine", estate.vault());
    let mut policy: Value = estate.get(&format!("{}/backupPolicies/EnhancedPolicy", estate.vault()));
    policy["properties"]["tieringPolicy"] =
        json!({"ArchivedRP": {"tieringMode": "TierAfter", "duration": 3, "durationType": "Months"}});
    policy["properties"]["snapshotConsistencyType"] = "OnlyCrashConsistent".into();
    estate.must(Method::PUT, &path, Some(policy.clone()));
    let shown = estate.get(&path);
    for field in ["tieringPolicy", "snapshotConsistencyType"] {
        assert_eq!(shown["properties"][field], policy["properties"][field], "{field}");
    }
}

#[test]
fn midnight_may_be_called_zero() {
    let estate = Estate::new();
    let jobs = format!("{}/backupJobs", estate.vault());
    let (status, told) = estate
        .filtered(&jobs, "startTime eq '2020-11-01 00:00:00 AM' and endTime eq '2099-11-01 00:30:00 AM'");
    assert_eq!((status, told["value"].as_array().map(Vec::len)), (200, Some(1)), "{told}");
}
