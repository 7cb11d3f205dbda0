//! Accounts, roles, keys and the audit as they are kept in the catalog.

mod common;

use common::people::hash;
use jiff::Timestamp;
use std::sync::Arc;
use strongroom_api::auth::{
    AccountKind, AuditEvent, CallerKind, CatalogDirectory, Credentials, Directory, Gate, KeyStore, SignIn,
    SignInConfig, StoredKey,
};
use strongroom_catalog::{
    AuditEntry, Change, Principal, PrincipalKind, Query, RoleAssignment, ServiceCatalog, SqliteServiceCatalog,
};
use strongroom_domain::access::Role;
use uuid::Uuid;

struct Place {
    _directory: tempfile::TempDir,
    catalog: Arc<dyn ServiceCatalog>,
    people: CatalogDirectory,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let catalog: Arc<dyn ServiceCatalog> =
        Arc::new(SqliteServiceCatalog::open(&directory.path().join("catalog.db")).unwrap());
    Place { people: CatalogDirectory::new(catalog.clone()), _directory: directory, catalog }
}

fn principal(kind: PrincipalKind, name: &str) -> Principal {
    let (id, app_id, created_at) = (Uuid::new_v4(), Uuid::new_v4(), Timestamp::UNIX_EPOCH);
    Principal {
        id,
        version: 0,
        kind,
        app_id,
        name: name.into(),
        secret_hash: hash(),
        created_at,
        disabled: false,
    }
}

#[test]
fn accounts_are_found_by_what_they_sign_in_with() {
    let Place { catalog, people, .. } = place();
    let (robot, anna) =
        (principal(PrincipalKind::Service, "Robot"), principal(PrincipalKind::User, "Anna@Example.org"));
    catalog.apply(&[Change::put(&robot), Change::put(&anna)]).unwrap();
    let find = |kind, name: &str| people.by_name(kind, name).unwrap().map(|a| a.object_id);
    assert_eq!(find(AccountKind::Application, &robot.app_id.to_string()), Some(robot.id));
    assert_eq!(find(AccountKind::Application, &robot.app_id.to_string().to_uppercase()), Some(robot.id));
    assert_eq!(find(AccountKind::Application, "robot"), Some(robot.id));
    assert_eq!(find(AccountKind::User, "anna@example.ORG"), Some(anna.id));
    // One kind does not sign in as the other, nor anybody by an object id.
    assert_eq!(find(AccountKind::User, "robot"), None);
    assert_eq!(find(AccountKind::Application, &anna.app_id.to_string()), None);
    assert_eq!(find(AccountKind::Application, "anna@example.org"), None);
    assert_eq!(find(AccountKind::Application, &robot.id.to_string()), None);
    assert_eq!(people.by_object_id(anna.id).unwrap().unwrap().name, "Anna@Example.org");
    assert_eq!(people.by_object_id(anna.app_id).unwrap(), None);
    assert!(!format!("{:?}", people.by_object_id(anna.id).unwrap()).contains("argon2"));
}

#[test]
fn roles_decide() {
    let Place { catalog, people, .. } = place();
    let robot = principal(PrincipalKind::Service, "robot");
    let assignment = RoleAssignment {
        id: Uuid::new_v4(),
        version: 0,
        principal: robot.id,
        role: Role::BackupOperator,
        scope: "/subscriptions/s/resourceGroups/g".into(),
        created_at: Timestamp::UNIX_EPOCH,
    };
    catalog.apply(&[Change::put(&robot), Change::put(&assignment)]).unwrap();
    let config = SignInConfig { tenant: Uuid::new_v4(), administrators: vec![0] };
    let gate = SignIn::new(config, Arc::new(people.clone()), Arc::new(people.clone())).unwrap();
    let mut caller = gate.authenticate(&Credentials::Process, Timestamp::UNIX_EPOCH).unwrap();
    (caller.kind, caller.object_id) = (CallerKind::Application, robot.id);
    let item = "/subscriptions/S/resourceGroups/G/providers/Microsoft.RecoveryServices/vaults/v";
    let may = |action: &str, scope: &str| gate.allowed(&caller, action, scope).unwrap();
    assert!(may("Microsoft.RecoveryServices/Vaults/read", item));
    assert!(!may("Microsoft.RecoveryServices/Vaults/delete", item));
    assert!(!may("Microsoft.RecoveryServices/Vaults/read", "/subscriptions/s/resourceGroups/g2"));
    caller.object_id = Uuid::new_v4();
    assert!(!gate.allowed(&caller, "Microsoft.RecoveryServices/Vaults/read", item).unwrap());
}

#[test]
fn keys_are_kept() {
    let Place { people, .. } = place();
    let key = |id: &str, at| StoredKey {
        id: id.into(),
        private_key_pem: "PEM".into(),
        created_at: Timestamp::from_second(at).unwrap(),
    };
    people.add(&key("a", 1)).unwrap();
    people.add(&key("b", 2)).unwrap();
    assert_eq!(people.load().unwrap(), [key("b", 2), key("a", 1)]);
    assert!(people.add(&key("a", 3)).is_err(), "no key takes another's place");
    people.remove("a").unwrap();
    people.remove("a").unwrap();
    assert_eq!(people.load().unwrap(), [key("b", 2)]);
}

#[test]
fn events_become_rows() {
    let Place { catalog, people, .. } = place();
    let event = AuditEvent {
        at: Timestamp::from_second(1_800_000_000).unwrap(),
        request_id: Uuid::new_v4(),
        correlation_id: Uuid::new_v4(),
        caller_kind: CallerKind::User,
        caller_object_id: Uuid::new_v4(),
        caller_name: "anna".into(),
        client: "192.0.2.1".into(),
        operation: "Vaults_Delete".into(),
        action: "Microsoft.RecoveryServices/vaults/delete".into(),
        scope: "/subscriptions/s".into(),
        method: "DELETE".into(),
        status: 403,
        code: "AuthorizationFailed".into(),
        left_out: 0,
        detail: "made vault v".into(),
    };
    people.record(&event).unwrap();
    people.record(&AuditEvent { action: String::new(), left_out: 7, ..event.clone() }).unwrap();
    let rows: Vec<AuditEntry> = catalog.find(&Query::all().ascending("at_us")).unwrap();
    assert_eq!(rows.len(), 2);
    let first = rows.iter().find(|r| r.left_out == 0).unwrap();
    assert_eq!((first.principal.as_str(), first.detail.as_str()), ("anna", "made vault v"));
    assert_eq!(
        (first.action.as_str(), first.status, first.code.as_str()),
        (event.action.as_str(), 403, "AuthorizationFailed")
    );
    assert_eq!(
        (first.client.as_str(), first.correlation_id.clone()),
        ("192.0.2.1", event.correlation_id.to_string())
    );
    let second = rows.iter().find(|r| r.left_out == 7).unwrap();
    assert_eq!((second.principal.as_str(), second.action.as_str()), ("anna", "DELETE Vaults_Delete"));
}
