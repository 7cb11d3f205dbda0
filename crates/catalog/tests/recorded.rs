//! No change goes without its row in the audit, whoever makes it and however.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use strongroom_catalog::{
    AuditEntry, Change, DiskChoice, Immutability, Item, Policy, Principal, PrincipalKind, Query, Recorded,
    ResourceGroup, RoleAssignment, ServiceCatalog, Setting, SigningKey, SoftDelete, SqliteServiceCatalog,
    Table, Vault, actor,
};
use strongroom_domain::access::Role;
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::{DailyRetention, Policy as Rules};
use uuid::Uuid;

struct Place {
    _directory: tempfile::TempDir,
    catalog: Arc<dyn ServiceCatalog>,
}

fn at() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let inner = SqliteServiceCatalog::open(&directory.path().join("catalog.db")).unwrap();
    let catalog: Arc<dyn ServiceCatalog> = Arc::new(Recorded::new(inner, Arc::new(at)));
    let subscription = Setting { id: "subscription".into(), version: 0, value: "s".into() };
    catalog.apply(&[Change::put(&subscription)]).unwrap();
    Place { _directory: directory, catalog }
}

impl Place {
    /// Who did what, in order.
    fn rows(&self) -> Vec<(String, String, String)> {
        let rows: Vec<AuditEntry> = self.catalog.find(&Query::all().in_order_of_writing()).unwrap();
        rows.into_iter().map(|row| (row.principal, row.action, row.detail)).collect()
    }

    fn only(&self, who: &str, action: &str, detail: &str) {
        let rows = self.rows();
        assert_eq!(rows.last().unwrap(), &(who.to_owned(), action.to_owned(), detail.to_owned()));
    }
}

fn group(name: &str) -> ResourceGroup {
    ResourceGroup {
        id: Uuid::new_v4(),
        version: 0,
        name: name.into(),
        location: "local".into(),
        tags: BTreeMap::new(),
        created_at: at(),
    }
}

fn principal() -> Principal {
    Principal {
        id: Uuid::new_v4(),
        version: 0,
        kind: PrincipalKind::Service,
        app_id: Uuid::new_v4(),
        name: "nightly".into(),
        secret_hash: "secret".into(),
        created_at: at(),
        disabled: false,
    }
}

#[test]
fn making_changing_and_removing_have_a_row_each() {
    let place = place();
    assert!(place.rows().is_empty(), "settings are the service's own");
    let mut group = group("g");
    place.catalog.apply(&[Change::put(&group)]).unwrap();
    let groups = "Microsoft.Resources/subscriptions/resourceGroups";
    place.only(actor::SERVICE, &format!("{groups}/write"), "made resource group g");
    group.version = 1;
    place.catalog.apply(&[Change::put(&group)]).unwrap();
    assert_eq!(place.rows().len(), 1, "written again as it was, nothing has changed");
    group.version = 2;
    group.tags.insert("a".into(), "b".into());
    actor::named("service: retention", || place.catalog.apply(&[Change::put(&group)])).unwrap();
    place.only(
        "service: retention",
        &format!("{groups}/write"),
        "changed resource group g: tags.a none -> b",
    );
    group.version = 3;
    place.catalog.apply(&[Change::delete(&group)]).unwrap();
    place.only(actor::SERVICE, &format!("{groups}/delete"), "removed resource group g");
    let rows: Vec<AuditEntry> = place.catalog.find(&Query::all()).unwrap();
    assert!(rows.iter().all(|r| r.scope == "/subscriptions/s/resourceGroups/g" && r.at == at()));
}

fn vault() -> Vault {
    let doc = serde_json::json!({
        "id": Uuid::new_v4(), "group": "g", "name": "main", "location": "local", "sku": {"name": "Standard"},
        "redundancy": "geo", "soft_delete": "enabled", "soft_delete_days": 14, "enhanced_security": "enabled",
        "immutability": "disabled", "store_location": "/srv/main", "store_id": Uuid::new_v4(), "created_at": at(),
        "changed_at": at(),
    });
    serde_json::from_value(doc).unwrap()
}

fn policy(vault: &Vault, name: &str) -> Policy {
    let rules = Rules::default_standard();
    let (created_at, changed_at) = (at(), at());
    let wire = serde_json::json!({});
    Policy {
        id: Uuid::new_v4(),
        version: 0,
        vault: vault.id,
        datasource: Default::default(),
        name: name.into(),
        rules,
        wire,
        created_at,
        changed_at,
    }
}

#[test]
fn a_change_says_which_fields_are_others() {
    let place = place();
    let mut vault = vault();
    let (mut daily, weekly) = (policy(&vault, "daily"), policy(&vault, "weekly"));
    place.catalog.apply(&[Change::put(&vault), Change::put(&daily), Change::put(&weekly)]).unwrap();
    let last = || place.rows().last().unwrap().2.clone();

    vault.version = 1;
    vault.immutability = Immutability::Locked;
    vault.soft_delete = SoftDelete::AlwaysOn;
    vault.soft_delete_days = 60;
    vault.cross_region_restore = true;
    vault.changed_at = Timestamp::from_second(1_800_000_001).unwrap();
    // Bookkeeping is not told.
    vault.reclaim_due = true;
    place.catalog.apply(&[Change::put(&vault)]).unwrap();
    let fields = "cross region restore false -> true, immutability Disabled -> Locked, soft delete Enabled -> AlwaysOn, \
                  soft delete days 14 -> 60";
    assert_eq!(last(), format!("changed vault main: {fields}"));
    vault.version = 2;
    vault.immutability = Immutability::Unlocked;
    let (done, changed) = actor::of_request(|| place.catalog.apply(&[Change::put(&vault)]));
    done.unwrap();
    assert_eq!(changed, ["changed vault main: immutability Locked -> Unlocked"]);

    daily.version = 1;
    daily.rules.retention.daily = Some(DailyRetention { days: 30 });
    place.catalog.apply(&[Change::put(&daily)]).unwrap();
    assert_eq!(last(), "changed policy daily: rules.retention.daily.days 180 -> 30");

    let doc = serde_json::json!({
        "id": Uuid::new_v4(), "vault": vault.id, "machine": Uuid::new_v4(), "machine_uuid": "u", "group": "g",
        "machine_name": "web", "store_item": "web", "state": "ir_pending", "policy": daily.id, "protected_at": at(),
        "considered_until": at(), "data_id": "1",
    });
    let mut item: Item = serde_json::from_value(doc).unwrap();
    place.catalog.apply(&[Change::put(&item)]).unwrap();
    item.version = 1;
    item.state = ItemState::Protected;
    item.policy = Some(weekly.id);
    item.disks = Some(DiskChoice { luns: vec![0, 1], inclusion: true });
    place.catalog.apply(&[Change::put(&item)]).unwrap();
    let fields = r#"disks none -> {"inclusion":true,"luns":[0,1]}, policy daily -> weekly, state IrPending -> Protected"#;
    assert_eq!(last(), format!("changed item web (Protected): {fields}"));
}

#[test]
fn who_may_what_is_told_without_secrets() {
    let place = place();
    let principal = principal();
    let assignment = RoleAssignment {
        id: Uuid::new_v4(),
        version: 0,
        principal: principal.id,
        role: Role::Owner,
        scope: "/subscriptions/s".into(),
        created_at: at(),
    };
    actor::named("local administrator (user 0)", || {
        place.catalog.apply(&[Change::put(&principal), Change::put(&assignment)])
    })
    .unwrap();
    let who = "local administrator (user 0)".to_owned();
    assert_eq!(
        place.rows(),
        [
            (who.clone(), "Strongroom.Backup/principals/write".into(), "made principal nightly".into()),
            (
                who,
                "Microsoft.Authorization/roleAssignments/write".into(),
                "made role Owner of nightly".into()
            ),
        ]
    );
    let key = SigningKey {
        id: "kid".into(),
        version: 0,
        private_key_pem: "secret".into(),
        created_at: at(),
        retired_at: None,
    };
    place.catalog.apply(&[Change::put(&key)]).unwrap();
    place.only(actor::SERVICE, "Strongroom.Backup/signingKeys/write", "made signing key kid");
    let renewed =
        Principal { version: 1, secret_hash: "another secret".into(), disabled: true, ..principal.clone() };
    place.catalog.apply(&[Change::put(&renewed)]).unwrap();
    let detail = "changed principal nightly: disabled false -> true, secret hash (not shown)";
    place.only(actor::SERVICE, "Strongroom.Backup/principals/write", detail);
    let all = place.catalog.fetch(Table::Audit, &Query::all()).unwrap();
    assert!(all.iter().all(|row| !row.doc.replace("secret hash", "").contains("secret")));
}

#[test]
fn a_change_that_fails_has_no_row_and_a_row_comes_with_its_change() {
    let place = place();
    place.catalog.apply(&[Change::put(&group("g"))]).unwrap();
    assert!(place.catalog.apply(&[Change::put(&group("other")), Change::put(&group("G"))]).is_err());
    assert_eq!(place.rows().len(), 1);
}

#[test]
fn a_request_is_told_what_it_changed_and_writes_its_row_itself() {
    let place = place();
    let (done, changed) = actor::of_request(|| place.catalog.apply(&[Change::put(&group("g"))]));
    done.unwrap();
    assert_eq!(changed, ["made resource group g"]);
    assert!(place.rows().is_empty());
    // Who acted before acts again, also after a panic.
    let panicked = std::panic::catch_unwind(|| actor::named("somebody", || panic!("as the test wants")));
    assert!(panicked.is_err());
    place.catalog.apply(&[Change::put(&group("h"))]).unwrap();
    assert_eq!(place.rows()[0].0, actor::SERVICE);
}

#[test]
fn many_of_a_kind_share_a_row() {
    let place = place();
    let groups: Vec<Change> = (0..500).map(|n| Change::put(&group(&format!("group-{n}")))).collect();
    place.catalog.apply(&groups).unwrap();
    let rows = place.rows();
    assert_eq!(rows.len(), 1);
    let detail = &rows[0].2;
    assert!(detail.starts_with("made 500 resource group group-0, resource group group-1, "), "{detail}");
    assert!(detail.len() < 1200 && detail.ends_with(", …"), "{}", detail.len());
}
