//! Vaults come and go: what nobody can take back takes two steps, and what was deleted can be brought back.

mod common;

use common::estate::{Estate, names};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use strongroom_catalog::Vault;
use strongroom_service::housekeeping;

fn immutability(state: &str) -> Value {
    json!({"location": "local", "properties": {"securitySettings": {"immutabilitySettings": {"state": state}}}})
}

#[test]
fn immutability_is_locked_in_two_steps() {
    let estate = Estate::new();
    let (put, patch) = (Method::PUT, Method::PATCH);
    let state = |vault: &str| {
        let shown = estate.get(vault);
        shown["properties"]["securitySettings"]["immutabilitySettings"]["state"].as_str().unwrap().to_owned()
    };
    let vault = estate.vault();
    for method in [&put, &patch] {
        let (code, message) = estate.refused(method.clone(), &vault, Some(immutability("Locked")));
        assert_eq!(code, "BMSUserErrorImmutabilityMustBeUnlockedFirst");
        assert!(message.contains("Unlocked first") && message.contains("'vault'"), "{message}");
        assert_eq!(state(&vault), "Disabled");
    }
    // Neither is one made so.
    let other = estate.vault_called("other");
    assert_eq!(
        estate.refused(put.clone(), &other, Some(immutability("Locked"))).0,
        "BMSUserErrorImmutabilityMustBeUnlockedFirst"
    );
    assert_eq!(estate.ask(Method::GET, &other, None).0, 404);
    estate.must(put, &other, Some(immutability("Unlocked")));
    for vault in [&vault, &other] {
        estate.must(patch.clone(), vault, Some(immutability("Unlocked")));
        estate.must(patch.clone(), vault, Some(immutability("Disabled")));
        estate.refused(patch.clone(), vault, Some(immutability("Locked")));
        estate.must(patch.clone(), vault, Some(immutability("Unlocked")));
        estate.must(patch.clone(), vault, Some(immutability("Locked")));
        assert_eq!(state(vault), "Locked");
        assert_eq!(
            estate.refused(patch.clone(), vault, Some(immutability("Unlocked"))).0,
            "BMSUserErrorImmutabilityLocked"
        );
    }
}

#[test]
fn a_deleted_empty_vault_is_brought_back() {
    let estate = Estate::new();
    let path = estate.vault_called("empty");
    let deleted = estate.location("deletedVaults");
    let make = || estate.must(Method::PUT, &path, Some(json!({"location": "local", "tags": {"n": "1"}})));
    let purge = || housekeeping::purge(estate.service()).unwrap();
    let listed = || -> Vec<String> { names(&estate.get(&deleted)).into_iter().map(str::to_owned).collect() };
    make();
    estate.must(Method::DELETE, &path, None);
    purge();
    assert_eq!(estate.ask(Method::GET, &path, None).0, 404);
    let first = listed();
    let shown = estate.get(&format!("{deleted}/{}", first[0]));
    assert_eq!(shown["properties"]["vaultId"], path);
    let at = |field: &str| shown["properties"][field].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(at("purgeAt").duration_since(at("vaultDeletionTime")), SignedDuration::from_hours(14 * 24));
    // One of the same name comes, and goes as well.
    make();
    let undelete =
        |name: &str| estate.ask(Method::POST, &format!("{deleted}/{name}/undelete"), Some(json!({})));
    assert_eq!(undelete(&first[0]).1["error"]["code"], "ResourceAlreadyExists");
    estate.must(Method::DELETE, &path, None);
    assert_eq!(listed().len(), 2);
    let (status, told) = undelete("empty");
    assert_eq!((status, told["error"]["code"].as_str()), (409, Some("AmbiguousDeletedVault")), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains(&first[0]), "{told}");
    assert_eq!(undelete(&first[0]).0, 202);
    let back = estate.get(&path);
    assert_eq!((&back["tags"]["n"], listed().len()), (&json!("1"), 1));
    assert_eq!(names(&estate.get(&format!("{path}/backupPolicies"))).len(), 2);
    // Without soft delete it is gone at once.
    let off =
        json!({"properties": {"securitySettings": {"softDeleteSettings": {"softDeleteState": "Disabled"}}}});
    estate.must(Method::PATCH, &path, Some(off));
    let row =
        estate.rows::<Vault>().into_iter().find(|v| v.deleted_at.is_none() && v.name == "empty").unwrap();
    estate.must(Method::DELETE, &path, None);
    purge();
    assert!(estate.rows::<Vault>().iter().all(|v| v.id != row.id));
    assert_eq!(undelete(&first[0]).0, 404);
}
