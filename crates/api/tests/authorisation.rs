//! Who may do what to which of the resources that a request names: those of its path, and those of its body.
//!
//! The whole service over a data directory of its own, without a hypervisor: machines, recovery points and drills are put into
//! the catalog. Two groups, `mine` and `theirs`, have the same in them.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use strongroom_api::arm::{App, routes, schemas};
use strongroom_api::auth::{
    AuditEvent, Caller, CallerKind, CatalogDirectory, Credentials, Gate, SignIn, SignInConfig,
};
use strongroom_api::route::{Named, Needs};
use strongroom_api::{Access, Api, ArmError, Client, Request, Response, Route};
use strongroom_catalog::{Change, Item, Job, Machine, Point, Query};
use strongroom_domain::access::{Assignment, Role, Scope, is_allowed};
use strongroom_domain::{Consistency, ConsistencyLevel};
use strongroom_service::config::RestoreDirectory;
use strongroom_service::{Service, ServiceConfig, SystemClock, vaults};
use uuid::Uuid;

const LINKED: &str = "LinkedAuthorizationFailed";
const GROUPS: [&str; 2] = ["mine", "theirs"];
const POINT: &str = "4711";
/// The smallest picture that there is.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// People by name, with the roles that a test gave them.
#[derive(Default)]
struct Roles {
    assigned: Mutex<HashMap<String, Vec<Assignment>>>,
    events: Mutex<Vec<AuditEvent>>,
}

impl Gate for Roles {
    fn authenticate(&self, credentials: &Credentials, _: Timestamp) -> Result<Caller, ArmError> {
        match credentials {
            Credentials::Bearer(name) => {
                Ok(Caller { kind: CallerKind::User, object_id: Uuid::from_u128(7), name: name.clone() })
            }
            Credentials::Process | Credentials::LocalUser { uid: 0 } => {
                Ok(Caller::local_administrator("test"))
            }
            _ => Err(ArmError::authentication_missing()),
        }
    }

    fn allowed(&self, caller: &Caller, action: &str, scope: &str) -> Result<bool, ArmError> {
        let assigned = self.assigned.lock().unwrap();
        Ok(caller.kind == CallerKind::LocalAdministrator
            || assigned.get(&caller.name).is_some_and(|assigned| is_allowed(assigned, action, scope)))
    }

    fn audit(&self, event: &AuditEvent) {
        self.events.lock().unwrap().push(event.clone());
    }
}

struct World {
    api: Api<App>,
    gate: Arc<Roles>,
    subscription: String,
    _directory: tempfile::TempDir,
}

impl World {
    /// In each group: a vault `vault`, a machine `machine` that is protected there and has a point with a drill, a machine
    /// `other`, a storage account `GROUPdisks`.
    fn new() -> Self {
        Self::with(routes())
    }

    fn with(routes: Vec<Route<App>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = |group: &str| {
            let path = directory.path().join(group);
            std::fs::create_dir(&path).unwrap();
            RestoreDirectory {
                name: format!("{group}disks"),
                path,
                format: None,
                group: group.into(),
                location: "local".into(),
            }
        };
        let config = ServiceConfig {
            data: directory.path().join("data"),
            hosts: Vec::new(),
            restore_directories: GROUPS.map(place).into(),
            ..ServiceConfig::default()
        };
        let service = Service::open_with(config, Vec::new(), Arc::new(SystemClock::new())).unwrap();
        let gate = Arc::new(Roles::default());
        let people = Arc::new(CatalogDirectory::new(service.catalog().clone()));
        let sign_in = SignIn::new(SignInConfig::new(service.tenant()), people.clone(), people).ok().unwrap();
        let subscription = format!("/subscriptions/{}", service.subscription());
        let app = App { service, gate: gate.clone(), sign_in: Arc::new(sign_in) };
        let api = Api::builder(Arc::new(app), gate.clone())
            .routes(strongroom_api::auth::routes())
            .routes(routes)
            .schemas(schemas())
            .build()
            .unwrap();
        let world = Self { api, gate, subscription, _directory: directory };
        for group in GROUPS {
            world.fill(group);
        }
        world
    }

    fn fill(&self, group: &str) {
        self.must(Method::PUT, &self.group(group), Some(json!({"location": "local"})));
        self.must(Method::PUT, &self.vault(group), Some(json!({"location": "local", "properties": {}})));
        for name in ["machine", "other"] {
            let machine: Machine = serde_json::from_value(json!({
                "id": Uuid::new_v4(), "host": "nowhere", "host_uuid": Uuid::new_v4().to_string(), "name": name, "group": group,
                "location": "local", "power": "shut off", "disks": [], "os": "Linux", "discovered_at": Timestamp::now(),
            }))
            .unwrap();
            self.apply(&[Change::put(&machine)]);
        }
        self.protect(group, group, "machine");
    }

    /// Protects a machine in the vault of a group, as the administrator, and gives it a recovery point.
    fn protect(&self, vault: &str, group: &str, machine: &str) {
        self.must(
            Method::PUT,
            &self.item(vault, group, machine),
            Some(self.protection(vault, group, machine)),
        );
        let service = &self.api.state().service;
        let of = vaults::get(service, vault, "vault").unwrap().id;
        let items: Vec<Item> = service.catalog().find(&Query::all().eq("vault", of)).unwrap();
        let item = items.iter().find(|i| i.group == group && i.machine_name == machine).unwrap();
        // The drill's job, by which its picture is called.
        let job = Uuid::new_v4();
        let point: Point = serde_json::from_value(json!({
            "id": Uuid::new_v4(), "vault": item.vault, "item": item.id, "name": POINT, "taken_at": Timestamp::now(),
            "consistency": Consistency::new(ConsistencyLevel::Crash, "It was off."),
            "disks": [{"lun": -1, "target": "vda", "size_bytes": 1 << 20}], "os": "Linux", "stored_bytes": 1,
            "policy_type": "V1",
            "drill": {
                "job": job, "at": Timestamp::now(), "passed": true, "seconds": 1.0, "screenshot": true,
                "check": {"command": "cat /etc/shadow", "exit_code": 0, "stdout": "the guest's secret", "stderr": "its other secret"},
            },
        }))
        .unwrap();
        self.apply(&[Change::put(&point)]);
        let picture = self.api.state().service.data().screenshots().join(format!("{job}.png"));
        std::fs::write(picture, PICTURE).unwrap();
    }

    fn apply(&self, changes: &[Change]) {
        self.api.state().service.catalog().apply(changes).unwrap();
    }

    fn group(&self, group: &str) -> String {
        format!("{}/resourceGroups/{group}", self.subscription)
    }

    fn resource(&self, group: &str, kind: &str, name: &str) -> String {
        format!("{}/providers/Microsoft.{kind}/{name}", self.group(group))
    }

    fn vault(&self, group: &str) -> String {
        self.resource(group, "RecoveryServices/vaults", "vault")
    }

    fn machine(&self, group: &str, name: &str) -> String {
        self.resource(group, "Compute/virtualMachines", name)
    }

    fn account(&self, group: &str) -> String {
        self.resource(group, "Storage/storageAccounts", &format!("{group}disks"))
    }

    fn network(&self, group: &str) -> String {
        self.resource(group, "Network/virtualNetworks", "network")
    }

    fn item(&self, vault: &str, group: &str, machine: &str) -> String {
        let key = format!("iaasvmcontainerv2;{group};{machine}");
        format!(
            "{}/backupFabrics/Azure/protectionContainers/IaasVMContainer;{key}/protectedItems/VM;{key}",
            self.vault(vault)
        )
    }

    fn point(&self, vault: &str, group: &str) -> String {
        self.point_of(vault, group, "machine")
    }

    fn point_of(&self, vault: &str, group: &str, machine: &str) -> String {
        format!("{}/recoveryPoints/{POINT}", self.item(vault, group, machine))
    }

    fn protection(&self, vault: &str, group: &str, machine: &str) -> Value {
        json!({"properties": {
            "protectedItemType": "Microsoft.Compute/virtualMachines",
            "sourceResourceId": self.machine(group, machine),
            "policyId": format!("{}/backupPolicies/DefaultPolicy", self.vault(vault)),
        }})
    }

    fn assign(&self, who: &str, role: Role, scope: &str) {
        let assignment = Assignment { role, scope: Scope::new(scope) };
        self.gate.assigned.lock().unwrap().entry(who.into()).or_default().push(assignment);
    }

    fn ask(&self, who: &str, method: Method, path: &str, body: Option<Value>) -> Response {
        self.ask_raw(who, method, path, body.map(|body| body.to_string().into()).unwrap_or_default())
    }

    fn ask_raw(&self, who: &str, method: Method, path: &str, body: Vec<u8>) -> Response {
        let client = Client::Address([192, 0, 2, 1].into());
        let joined = if path.contains('?') { "&" } else { "?" };
        let mut request = Request::new(method, &format!("{path}{joined}api-version=1"), client).unwrap();
        request.credentials = Credentials::Bearer(who.into());
        request.body = body.into();
        self.api.dispatch(request)
    }

    /// As the local administrator.
    fn must(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = Request::in_process(method, &format!("{path}?api-version=1"), body.as_ref()).unwrap();
        let answer = self.api.dispatch(request);
        let told = answer.json_body().unwrap_or_default();
        assert!(answer.status.is_success(), "{path}: {} {told}", answer.status);
        told
    }

    /// Refused for want of `action` over `scope`, which the body names.
    fn refused(&self, answer: &Response, action: &str, scope: &str) {
        let told = answer.json_body().unwrap_or_default().to_string();
        assert_eq!((answer.status, code(answer).as_str()), (StatusCode::FORBIDDEN, LINKED), "{told}");
        for word in [format!("'{action}'"), format!("'{scope}'")] {
            assert!(told.contains(&word), "{word} is not in: {told}");
        }
    }

    fn jobs(&self) -> usize {
        self.api.state().service.catalog().find::<Job>(&Query::all()).unwrap().len()
    }

    fn items(&self) -> usize {
        self.api.state().service.catalog().find::<Item>(&Query::all()).unwrap().len()
    }

    /// A Backup Operator of the vault in `mine` alone.
    fn operator(&self) -> &'static str {
        self.assign("operator", Role::BackupOperator, &self.vault("mine"));
        "operator"
    }
}

fn code(answer: &Response) -> String {
    let body = answer.json_body().unwrap_or_default();
    body["error"]["code"].as_str().unwrap_or_default().to_owned()
}

fn restore(kind: &str, more: Value) -> Value {
    let mut properties = json!({"objectType": "IaasVMRestoreRequest", "recoveryType": kind});
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "properties": properties })
}

#[test]
fn an_operator_of_one_vault_protects_no_machine_of_another_group() {
    let world = World::new();
    let who = world.operator();
    let theirs = world.machine("theirs", "other");
    assert_eq!(world.ask(who, Method::GET, &theirs, None).status, StatusCode::FORBIDDEN);
    let (jobs, items) = (world.jobs(), world.items());
    let item = world.item("mine", "theirs", "other");
    let protect = || world.ask(who, Method::PUT, &item, Some(world.protection("mine", "theirs", "other")));
    world.refused(&protect(), "Microsoft.Compute/virtualMachines/write", &theirs);
    // Whether it is there or not: the same.
    let nothing = world.item("mine", "theirs", "nothing");
    let answer = world.ask(who, Method::PUT, &nothing, Some(world.protection("mine", "theirs", "nothing")));
    world.refused(&answer, "Microsoft.Compute/virtualMachines/write", &world.machine("theirs", "nothing"));
    // The path names it too.
    let unnamed =
        json!({"properties": {"policyId": format!("{}/backupPolicies/DefaultPolicy", world.vault("mine"))}});
    world.refused(
        &world.ask(who, Method::PUT, &item, Some(unnamed)),
        "Microsoft.Compute/virtualMachines/write",
        &theirs,
    );
    let container = item.split("/protectedItems").next().unwrap();
    let answer = world.ask(who, Method::PUT, container, Some(json!({"properties": {}})));
    world.refused(&answer, "Microsoft.Compute/virtualMachines/write", &theirs);
    assert_eq!((world.jobs(), world.items()), (jobs, items));
    assert_eq!(world.ask(who, Method::POST, &format!("{item}/backup"), None).status, StatusCode::NOT_FOUND);

    // Who reads it does not thereby copy it.
    world.assign(who, Role::Reader, &world.group("theirs"));
    world.refused(&protect(), "Microsoft.Compute/virtualMachines/write", &theirs);
    world.assign(who, Role::BackupOperator, &theirs);
    assert_eq!(protect().status, StatusCode::ACCEPTED);
}

#[test]
fn an_operator_of_one_vault_restores_nothing_into_another_group() {
    let world = World::new();
    let who = world.operator();
    let point = world.point("mine", "mine");
    let restores = format!("{point}/restore");
    let before = world.jobs();
    let disks = restore("RestoreDisks", json!({"storageAccountId": world.account("theirs")}));
    let answer = world.ask(who, Method::POST, &restores, Some(disks.clone()));
    world.refused(&answer, "Microsoft.Storage/storageAccounts/write", &world.account("theirs"));
    let instant = format!("{point}/providers/Strongroom.Backup/instantRestore");
    let new = |group: &str, more: Value| {
        let mut all = json!({"targetVirtualMachineId": world.machine(group, "new"),
            "targetResourceGroupId": world.group(group)});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        restore("AlternateLocation", all)
    };
    world.assign(who, Role::BackupOperator, &world.group("mine"));
    for path in [&restores, &instant] {
        for (body, action, scope) in [
            (
                new("mine", json!({"targetResourceGroupId": world.group("theirs")})),
                "Microsoft.Resources/subscriptions/resourceGroups/write",
                world.group("theirs"),
            ),
            (
                new("mine", json!({"targetVirtualMachineId": world.machine("theirs", "new")})),
                "Microsoft.Compute/virtualMachines/write",
                world.machine("theirs", "new"),
            ),
            (
                new("mine", json!({"virtualNetworkId": world.network("theirs")})),
                "Microsoft.Network/virtualNetworks/subnets/join/action",
                world.network("theirs"),
            ),
            (
                new("mine", json!({"storageAccountId": world.account("theirs")})),
                "Microsoft.Storage/storageAccounts/write",
                world.account("theirs"),
            ),
        ] {
            world.refused(&world.ask(who, Method::POST, path, Some(body)), action, &scope);
        }
    }
    // Asking whether it could begin tells no more.
    let asked = json!({"id": point, "properties": {
        "objectType": "ValidateIaasVMRestoreOperationRequest", "restoreRequest": disks["properties"],
    }});
    let answer = world.ask(
        who,
        Method::POST,
        &format!("{}/backupValidateOperation", world.vault("mine")),
        Some(asked),
    );
    world.refused(&answer, "Microsoft.Storage/storageAccounts/write", &world.account("theirs"));
    assert_eq!(world.jobs(), before);
    let own = restore("RestoreDisks", json!({"storageAccountId": world.account("mine")}));
    assert_eq!(world.ask(who, Method::POST, &restores, Some(own)).status, StatusCode::ACCEPTED);
    // Who may restore there, may restore there.
    world.assign(who, Role::BackupOperator, &world.account("theirs"));
    assert_eq!(world.ask(who, Method::POST, &restores, Some(disks)).status, StatusCode::ACCEPTED);
}

#[test]
fn an_operator_of_one_vault_replaces_no_other_groups_disks() {
    let world = World::new();
    let who = world.operator();
    // Somebody who may has protected it in the operator's vault.
    world.must(
        Method::PUT,
        &world.item("theirs", "theirs", "machine"),
        Some(json!({"properties": {
            "protectionState": "ProtectionStopped", "policyId": "",
        }})),
    );
    world.apply(&{
        let points: Vec<Point> = world.api.state().service.catalog().find(&Query::all()).unwrap();
        points.iter().map(Change::delete).collect::<Vec<_>>()
    });
    world.protect("mine", "theirs", "machine");
    let theirs = world.machine("theirs", "machine");
    let restores = format!("{}/restore", world.point("mine", "theirs"));
    let before = world.jobs();
    for body in [
        restore("OriginalLocation", json!({"sourceResourceId": theirs})),
        restore("originallocation", json!({})),
    ] {
        let answer = world.ask(who, Method::POST, &restores, Some(body));
        world.refused(&answer, "Microsoft.Compute/virtualMachines/write", &theirs);
    }
    assert_eq!(world.jobs(), before);
    world.assign(who, Role::BackupOperator, &theirs);
    let answer = world.ask(who, Method::POST, &restores, Some(restore("OriginalLocation", json!({}))));
    // There is no host of this machine here; but nobody forbids it.
    assert_ne!(answer.status, StatusCode::FORBIDDEN, "{:?}", answer.json_body());
}

#[test]
fn a_command_in_a_drill_needs_what_running_it_in_the_machine_does() {
    let world = World::new();
    let who = world.operator();
    let drill = format!("{}/providers/Strongroom.Backup/drill", world.point("mine", "mine"));
    let checks = Some(json!({"properties": {"check": "cat /etc/shadow"}}));
    let run = "Microsoft.Compute/virtualMachines/runCommand/action";
    let machine = world.machine("mine", "machine");
    world.refused(&world.ask(who, Method::POST, &drill, checks.clone()), run, &machine);
    // No backup role over the machine itself is enough.
    world.assign(who, Role::BackupContributor, &world.group("mine"));
    world.refused(&world.ask(who, Method::POST, &drill, checks.clone()), run, &machine);
    for body in [None, Some(json!({"properties": {}})), Some(json!({"properties": {"check": null}}))] {
        assert_ne!(world.ask(who, Method::POST, &drill, body).status, StatusCode::FORBIDDEN);
    }
    world.assign(who, Role::Contributor, &machine);
    assert_ne!(world.ask(who, Method::POST, &drill, checks).status, StatusCode::FORBIDDEN);
}

/// Names and values of a list.
fn listed(answer: &Response) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.json_body());
    let body = answer.json_body().unwrap();
    let rows = body["value"].as_array().unwrap();
    let machine = |row: &Value| row["properties"]["virtualMachineId"].as_str().unwrap().to_owned();
    rows.iter().map(machine).collect()
}

#[test]
fn lists_of_machines_have_those_alone_that_the_caller_may_read() {
    let world = World::new();
    let who = world.operator();
    world.protect("mine", "theirs", "other");
    let (vault, own) = (world.vault("mine"), world.machine("mine", "other"));
    let ask = |rest: &str| world.ask(who, Method::GET, &format!("{vault}/{rest}"), None);
    let protected = || listed(&ask("backupProtectionContainers"));
    assert_eq!((listed(&ask("backupProtectableItems")), protected()), (vec![], vec![]));
    let container = |group: &str, machine: &str| {
        ask(&format!(
            "backupFabrics/Azure/protectionContainers/IaasVMContainer;iaasvmcontainerv2;{group};{machine}"
        ))
    };
    for (group, machine) in [("theirs", "other"), ("theirs", "nothing"), ("mine", "machine")] {
        let answer = container(group, machine);
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{group}/{machine}: {:?}", answer.json_body());
    }
    world.assign(who, Role::BackupReader, &own);
    assert_eq!(listed(&ask("backupProtectableItems")), std::slice::from_ref(&own));
    // A page of one is one of what may be seen, and names nothing else in its token.
    let first = ask("backupProtectableItems?$top=1");
    assert_eq!((listed(&first), first.json_body().unwrap().get("nextLink")), (vec![own.clone()], None));
    world.assign(who, Role::Reader, &world.group("mine"));
    assert_eq!(protected(), [world.machine("mine", "machine")]);
    assert_eq!(container("mine", "machine").status, StatusCode::OK);
    assert_eq!(container("theirs", "other").status, StatusCode::FORBIDDEN);
    world.must(Method::DELETE, &world.item("mine", "theirs", "other"), None);
    assert_eq!(listed(&ask("backupDeletedProtectionContainers")), Vec::<String>::new());
    world.assign(who, Role::Reader, "/");
    assert_eq!(listed(&ask("backupDeletedProtectionContainers")), [world.machine("theirs", "other")]);
    assert_eq!(protected().len(), 2);
}

#[test]
fn a_page_of_a_list_tells_nothing_of_rows_that_it_does_not_show() {
    let world = World::new();
    let theirs = world.machine("theirs", "other");
    world.assign("narrow", Role::Reader, &theirs);
    let list = format!("{}/providers/Microsoft.Compute/virtualMachines?$top=1", world.subscription);
    let answer = world.ask("narrow", Method::GET, &list, None).json_body().unwrap();
    let ids: Vec<&str> =
        answer["value"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!((ids, answer.get("nextLink")), (vec![theirs.as_str()], None), "{answer}");
}

#[test]
fn what_a_drill_saw_inside_is_not_for_readers() {
    let world = World::new();
    let point = world.point("mine", "mine");
    let points = point.rsplit_once('/').unwrap().0.to_owned();
    let drill = format!("{point}/providers/Strongroom.Backup/drill");
    let jobs = format!("{}/backupJobs", world.vault("mine"));
    let of_mine = world.must(Method::GET, &jobs, None)["value"][0]["name"].as_str().unwrap().to_owned();
    let job = format!("{jobs}/{of_mine}");
    let id: Uuid = of_mine.parse().unwrap();
    // As the end of a drill notes it.
    let drilled = |row: &mut Job| {
        row.properties.push(("Check ended with".into(), "0".into()));
        row.properties.push(("check_output".into(), "the guest's secret".into()));
        row.properties.push(("Check errors".into(), "its other secret".into()));
        Ok::<_, strongroom_service::Error>(Vec::new())
    };
    world.api.state().service.catalog().update(id, drilled).unwrap();
    for role in Role::ALL {
        let who = role.arm_name();
        world.assign(who, role, &world.vault("mine"));
        let may = !matches!(role, Role::Reader | Role::BackupReader);
        for path in [&point, &points, &drill, &job] {
            let answer = world.ask(who, Method::GET, path, None);
            let told = answer.json_body().unwrap().to_string();
            assert_eq!(answer.status, StatusCode::OK, "{role}: {told}");
            assert_eq!(
                (told.contains("the guest's secret"), told.contains("its other secret")),
                (may, may),
                "{role}: {told}"
            );
            // How it came out is for all who see the point.
            assert!(told.contains("\"passed\":true") || told.contains("Check ended with"), "{told}");
        }
        for path in [&format!("{drill}/screenshot"), &format!("{drill}?$expand=screenshot")] {
            let answer = world.ask(who, Method::GET, path, None);
            let wanted = if may { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(answer.status, wanted, "{role}: {path}: {:?}", answer.json_body());
            if !may {
                assert_eq!(code(&answer), "AuthorizationFailed");
            }
        }
    }
}

#[test]
fn a_refusal_for_what_a_body_names_is_in_the_audit() {
    let world = World::new();
    let who = world.operator();
    let body = restore("RestoreDisks", json!({"storageAccountId": world.account("theirs")}));
    world.ask(who, Method::POST, &format!("{}/restore", world.point("mine", "mine")), Some(body));
    let events = world.gate.events.lock().unwrap();
    let event = events.last().unwrap();
    assert_eq!((event.caller_name.as_str(), event.operation.as_str()), (who, "Restores_Trigger"));
    assert_eq!((event.status, event.code.as_str()), (403, LINKED));
    assert_eq!(event.action, "Microsoft.Storage/storageAccounts/write");
    assert_eq!(event.scope, world.account("theirs"));
}

#[test]
fn a_new_machine_beside_anothers_disks_needs_that_machine() {
    let world = World::new();
    let who = world.operator();
    world.protect("mine", "theirs", "other");
    world.assign(who, Role::BackupOperator, &world.group("mine"));
    let point = world.point_of("mine", "theirs", "other");
    let all = json!({
        "targetVirtualMachineId": world.machine("mine", "new"), "targetResourceGroupId": world.group("mine"),
        "storageAccountId": world.account("mine"), "virtualNetworkId": world.network("mine"),
    });
    for path in [format!("{point}/restore"), format!("{point}/providers/Strongroom.Backup/instantRestore")] {
        for missing in ["storageAccountId", "virtualNetworkId"] {
            let mut less = all.clone();
            less.as_object_mut().unwrap().remove(missing);
            let answer = world.ask(who, Method::POST, &path, Some(restore("AlternateLocation", less)));
            let theirs = world.machine("theirs", "other");
            world.refused(&answer, "Microsoft.Compute/virtualMachines/write", &theirs);
        }
        let answer = world.ask(who, Method::POST, &path, Some(restore("AlternateLocation", all.clone())));
        assert_ne!(answer.status, StatusCode::FORBIDDEN, "{:?}", answer.json_body());
    }
}

#[test]
fn a_body_cannot_hide_what_it_names() {
    let world = World::new();
    let who = world.operator();
    world.assign(who, Role::BackupOperator, &world.group("mine"));
    let path = format!("{}/restore", world.point("mine", "mine"));
    let (own, theirs) = (world.account("mine"), world.account("theirs"));
    let disks = |id: &str| restore("RestoreDisks", json!({"storageAccountId": id})).to_string();
    let before = world.jobs();
    let bodies = [
        // As serde takes structs from lists, in the order of their fields.
        format!(
            r#"{{"properties":["IaasVMRestoreRequest","RestoreDisks",null,null,null,null,"{theirs}",null,null,null,null,null]}}"#
        ),
        format!(
            r#"{{"properties":{{"recoveryType":"RestoreDisks","storageAccountId":"{own}","storageAccountId":"{theirs}"}}}}"#
        ),
        format!(
            r#"{{"properties":{{"recoveryType":"RestoreDisks","storageAccountId":"{theirs}","storageAccountId":"{own}"}}}}"#
        ),
        format!(
            r#"{{"properties":{{"recoveryType":"RestoreDisks","storageAccountId":"{theirs}"}},"properties":{{}}}}"#
        ),
        // Numbers that one reader minds and another does not.
        format!(
            r#"{{"x":1e999,"properties":{{"recoveryType":"RestoreDisks","storageAccountId":"{theirs}"}}}}"#
        ),
        format!("\u{feff}{}", disks(&theirs)),
        disks(&theirs.to_uppercase()),
        disks(&theirs.replace("/resourceGroups/theirs", "/resourceGroups/mine/../theirs")),
        disks(&theirs.replace("/resourceGroups/theirs", "//resourceGroups/theirs")),
        disks(&format!("{}/x/{theirs}", world.group("mine"))),
        disks(&theirs[1..]),
    ];
    for body in bodies {
        let answer = world.ask_raw(who, Method::POST, &path, body.clone().into());
        assert!(answer.status.is_client_error(), "{body}: {} {:?}", answer.status, answer.json_body());
    }
    assert_eq!(world.jobs(), before);
    assert_eq!(world.ask_raw(who, Method::POST, &path, disks(&own).into()).status, StatusCode::ACCEPTED);
}

/// Whether a property may name something: by its name, or since anything can be in it.
fn may_name(name: &str, schema: &Value) -> bool {
    let is_id = name == "id" || ["Id", "Ids", "ID"].iter().any(|end| name.ends_with(end));
    let is_group = name.to_lowercase().contains("resourcegroup");
    let is_open = schema["type"] == "object"
        && schema["properties"].is_null()
        && schema["additionalProperties"].is_null();
    is_id || is_group || is_open
}

/// All properties of a schema that may name something, by their places in the body.
fn places(schema: &Value, at: &str, found: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        if may_name(name, inner) {
            found.push(place.clone());
        }
        places(inner, &place, found);
    }
}

/// What is declared wrongly of a body: what may name something and is not declared, what is declared and is not there.
fn undeclared(schema: &Value, names: &[Named]) -> Vec<String> {
    let mut there = Vec::new();
    places(schema, "", &mut there);
    let declared = |place: &String| names.iter().any(|named| named.field == place);
    let mut wrong: Vec<String> = there.iter().filter(|place| !declared(place)).cloned().collect();
    wrong.extend(names.iter().map(|n| n.field.to_owned()).filter(|field| !there.contains(field)));
    wrong
}

#[test]
fn every_route_declares_what_its_body_can_name() {
    let schemas = schemas();
    let mut with_bodies = 0;
    for route in routes() {
        let Some(schema) = route.request_schema else {
            assert!(route.names.is_empty(), "{route:?} takes no body, and declares what that names");
            continue;
        };
        with_bodies += 1;
        let wrong = undeclared(&schemas[schema], route.names);
        assert!(wrong.is_empty(), "{route:?}: declare what is needed over {wrong:?} (Route::names)");
        for named in route.names {
            assert!(
                !matches!(named.needs, Needs::Nothing("")) && !matches!(named.needs, Needs::Id([])),
                "{route:?}: say why nothing is needed over {}",
                named.field
            );
        }
    }
    assert!(with_bodies > 20, "{with_bodies}");
    // And it is noticed.
    let names = [Named { field: "properties.vaultId", needs: Needs::Nothing("a test") }];
    let text = json!({"type": "string"});
    let schema = json!({"properties": {"properties": {"properties": {"vaultId": text, "otherId": text, "tags": {"type": "object"}}}}});
    assert_eq!(undeclared(&schema, &names), ["properties.otherId", "properties.tags"]);
    assert_eq!(undeclared(&json!({}), &names), ["properties.vaultId"]);
}

/// `docs/permissions.md`, as the routes and the roles have it.
fn permissions() -> String {
    let allowed = |actions: &[&str]| -> String {
        let may = |role: &Role| actions.iter().any(|action| role.allows(action));
        let roles: Vec<&str> =
            Role::ALL.iter().filter(|role| may(role)).map(|role| role.arm_name()).collect();
        if roles.len() == Role::ALL.len() { "all".into() } else { roles.join(", ") }
    };
    let quoted = |actions: &[&str]| actions.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(" or ");
    let mut tags: Vec<&str> = Vec::new();
    let routes = routes();
    for route in &routes {
        if !tags.contains(&route.tag) {
            tags.push(route.tag);
        }
    }
    let mut out = String::from(
        "# What each operation needs\n\nWritten from the program's own tables by `STRONGROOM_WRITE_DOCS=1 cargo test -p strongroom-api --test authorisation`; a test\ncompares. What the words mean is in [api.md](api.md#permissions-and-audit). The action is needed over what the path names. Under an\noperation stands what is needed over something else: what a field of its body names, or what follows from it.\n",
    );
    for tag in tags {
        out += &format!("\n## {tag}\n\n| operation | needs | roles that have it |\n|---|---|---|\n");
        for route in routes.iter().filter(|route| route.tag == tag) {
            let (needs, roles) = match route.access {
                Access::Public => ("nothing".to_owned(), "everybody".to_owned()),
                Access::Authenticated => {
                    ("to be signed in; it shows each caller what is theirs".to_owned(), "all".to_owned())
                }
                Access::Action(action) => (quoted(&[action]), allowed(&[action])),
            };
            out += &format!("| `{}` | {needs} | {roles} |\n", route.operation_id);
            for named in route.names.iter().filter(|named| !named.needs.actions().is_empty()) {
                let actions = named.needs.actions();
                out += &format!("| – `{}` | {} | {} |\n", named.field, quoted(actions), allowed(actions));
            }
            if let Some((words, _)) = route.also {
                out += &format!("| – | {words} | |\n");
            }
        }
    }
    out
}

#[test]
fn the_documented_permissions_are_those_of_routes_and_roles() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/permissions.md");
    let text = permissions();
    if std::env::var_os("STRONGROOM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|there| there == text),
        "docs/permissions.md is not up to date; write it anew: STRONGROOM_WRITE_DOCS=1 cargo test -p strongroom-api --test authorisation"
    );
}

impl World {
    /// A route's path, all of it in one group.
    fn path(&self, pattern: &str, group: &str) -> String {
        let key = format!("iaasvmcontainerv2;{group};machine");
        let (subscription, container, item) = (
            self.subscription.rsplit('/').next().unwrap(),
            format!("IaasVMContainer;{key}"),
            format!("VM;{key}"),
        );
        let account = format!("{group}disks");
        let known = [
            ("{subscription}", subscription),
            ("{group}", group),
            ("{vault}", "vault"),
            ("{fabric}", "Azure"),
            ("{container}", container.as_str()),
            ("{item}", item.as_str()),
            ("{point}", POINT),
            ("{machine}", "other"),
            ("{policy}", "DefaultPolicy"),
            ("{account}", account.as_str()),
            ("{location}", "local"),
            ("{provider}", "Microsoft.RecoveryServices"),
        ];
        let path = known.iter().fold(pattern.to_owned(), |path, (name, value)| path.replace(name, value));
        // Whatever else there is.
        path.split('/')
            .map(|part| if part.starts_with('{') { "00000000-0000-0000-0000-000000000001" } else { part })
            .collect::<Vec<_>>()
            .join("/")
    }

    /// A body that a schema allows, whose ids are of one group.
    fn body(&self, schema: &Value, name: &str, group: &str) -> Value {
        if let Some(id) = self.named(name, group) {
            return id;
        }
        if let Some(first) = schema["enum"].get(0) {
            return first.clone();
        }
        match schema["type"].as_str() {
            Some("string") => "local".into(),
            Some("integer") => schema["minimum"].as_i64().unwrap_or(1).into(),
            Some("boolean") => true.into(),
            Some("array") => json!([]),
            _ => schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, inner)| (name.clone(), self.body(inner, name, group)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// What a property names, in a group. A name that is not known here has to be added: that is what this test is for.
    fn named(&self, name: &str, group: &str) -> Option<Value> {
        Some(match name {
            "sourceResourceId" | "resourceId" => self.machine(group, "machine").into(),
            "targetVirtualMachineId" => self.machine(group, "new").into(),
            "targetResourceGroupId" => self.group(group).into(),
            "storageAccountId" => self.account(group).into(),
            "virtualNetworkId" => self.network(group).into(),
            "subnetId" => format!("{}/subnets/default", self.network(group)).into(),
            "policyId" => format!("{}/backupPolicies/DefaultPolicy", self.vault(group)).into(),
            "vaultId" => self.vault(group).into(),
            "id" => self.point(group, group).into(),
            "recoveryPointId" => POINT.into(),
            "resourceGroup" => group.into(),
            "userAssignedIdentities" => {
                let id = self.resource(group, "ManagedIdentity/userAssignedIdentities", "identity");
                json!({ id: {} })
            }
            // Not what these routes are tried with.
            "isRehydrate" | "protectionState" => Value::Null,
            "region" => "local".into(),
            "objectType" => "IaasVMRestoreRequest".into(),
            _ => return None,
        })
    }
}

/// Who may name something of another group, by the role over that: those that the tables say, written down once more.
const WRITES: &[Role] = &[Role::Owner, Role::Contributor, Role::BackupContributor, Role::BackupOperator];
const BACKS_UP: &[Role] = &[Role::Owner, Role::Contributor, Role::BackupContributor];
const MANAGES: &[Role] = &[Role::Owner, Role::Contributor];
const READS: &[Role] = &Role::ALL;

fn who_may_name(field: &str) -> &'static [Role] {
    match field.rsplit('.').next().unwrap() {
        "sourceResourceId"
        | "targetVirtualMachineId"
        | "targetResourceGroupId"
        | "storageAccountId"
        | "virtualNetworkId"
        | "subnetId" => WRITES,
        "resourceGroup" | "userAssignedIdentities" => MANAGES,
        "resourceId" | "vaultId" | "policyId" | "id" => READS,
        other => panic!("say here who may name {other}"),
    }
}

#[test]
fn through_no_route_does_any_role_reach_another_group_by_the_path() {
    let world = World::new();
    let schemas = schemas();
    for role in Role::ALL {
        world.assign(role.arm_name(), role, &world.group("mine"));
    }
    let before = (world.jobs(), world.items());
    let mut walked = 0;
    for route in world.api.routes() {
        let Access::Action(_) = route.access else { continue };
        let path = world.path(route.pattern, "theirs");
        let body = route.request_schema.map(|schema| world.body(&schemas[schema], "", "theirs"));
        for role in Role::ALL {
            let answer = world.ask(role.arm_name(), route.method.clone(), &path, body.clone());
            let what = format!("{role}: {route:?}: {:?}", answer.json_body());
            if route.by_row && answer.status == StatusCode::OK {
                // What is the caller's own of a subscription's list.
                let shown = answer.json_body().unwrap().to_string();
                assert!(
                    !route.pattern.contains("{group}") && !shown.contains("resourceGroups/theirs"),
                    "{what}"
                );
            } else {
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{what}");
                assert_eq!(code(&answer), "AuthorizationFailed", "{what}");
            }
            walked += 1;
        }
    }
    assert!(walked > 600, "{walked}");
    assert_eq!((world.jobs(), world.items()), before);
}

#[test]
fn through_no_route_does_any_role_reach_another_group_by_the_body() {
    let world = World::new();
    let schemas = schemas();
    let owner = |named: &str| format!("owner and {named}");
    for role in Role::ALL {
        world.assign(role.arm_name(), role, &world.group("mine"));
        // These asks are of the whole subscription.
        for place in ["Microsoft.RecoveryServices/locations", "Strongroom.Backup"] {
            world.assign(role.arm_name(), role, &format!("{}/providers/{place}", world.subscription));
        }
    }
    let before = (world.jobs(), world.items());
    let mut walked = 0;
    let mut allowed = Vec::new();
    for route in world.api.routes().iter().filter(|r| r.names.iter().any(|n| !n.needs.actions().is_empty())) {
        let path = world.path(route.pattern, "mine");
        let mut body = world.body(&schemas[route.request_schema.unwrap()], "", "mine");
        if route.operation_id.contains("alidate") && body["properties"]["objectType"].is_string() {
            body["properties"]["objectType"] = "ValidateIaasVMRestoreOperationRequest".into();
        }
        let Access::Action(action) = route.access else { panic!("{route:?}") };
        for named in route.names.iter().filter(|n| !n.needs.actions().is_empty()) {
            let pointer = format!("/{}", named.field.replace('.', "/"));
            let theirs = world.named(named.field.rsplit('.').next().unwrap(), "theirs").unwrap();
            let mut other = body.clone();
            *other.pointer_mut(&pointer).unwrap_or_else(|| panic!("{route:?}: {pointer} in {body}")) =
                theirs.clone();
            for role in Role::ALL {
                let answer = world.ask(role.arm_name(), route.method.clone(), &path, Some(other.clone()));
                let told = answer.json_body().unwrap_or_default().to_string();
                let what = format!("{role}: {route:?} with {}: {told}", named.field);
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{what}");
                let wanted = if role.allows(action) { LINKED } else { "AuthorizationFailed" };
                assert_eq!(code(&answer), wanted, "{what}");
                walked += 1;
            }
            allowed.push((route, path.clone(), other, named.field, theirs));
        }
    }
    assert!(walked > 150, "{walked}");
    assert_eq!((world.jobs(), world.items()), before, "something was done that was refused");
    // Who has a role over what is named as well, and all over the rest.
    for (at, (route, path, body, field, theirs)) in allowed.into_iter().enumerate() {
        let scope = match &theirs {
            Value::Object(members) => members.keys().next().unwrap().clone(),
            Value::String(id) if id.starts_with('/') => id.clone(),
            group => world.group(group.as_str().unwrap()),
        };
        for role in Role::ALL {
            let who = owner(&format!("{role} {at}"));
            world.assign(&who, Role::Owner, &world.group("mine"));
            let locations = format!("{}/providers/Microsoft.RecoveryServices/locations", world.subscription);
            world.assign(&who, Role::Owner, &locations);
            world.assign(&who, role, &scope);
            let answer = world.ask(&who, route.method.clone(), &path, Some(body.clone()));
            let may = who_may_name(field).contains(&role);
            assert_eq!(
                answer.status != StatusCode::FORBIDDEN,
                may,
                "{role} over {scope}: {route:?} with {field}: {:?}",
                answer.json_body()
            );
        }
    }
}

#[test]
fn what_follows_from_a_request_without_an_id_is_asked_for_too() {
    let world = World::new();
    world.protect("mine", "theirs", "other");
    let point = world.point_of("mine", "theirs", "other");
    let (item, new) = (world.item("mine", "theirs", "other"), world.item("mine", "theirs", "new"));
    let container = |item: &str| item.split("/protectedItems").next().unwrap().to_owned();
    let replace = restore("OriginalLocation", json!({}));
    let beforehand = json!({"id": point, "properties": {
        "objectType": "ValidateIaasVMRestoreOperationRequest", "restoreRequest": replace["properties"],
    }});
    let policy =
        json!({"properties": {"policyId": format!("{}/backupPolicies/DefaultPolicy", world.vault("mine"))}});
    let mut disks = policy.clone();
    disks["properties"]["extendedProperties"] = json!({"diskExclusionProperties": {"diskLunList": []}});
    let new_machine =
        restore("AlternateLocation", json!({"targetVirtualMachineId": world.machine("mine", "new")}));
    let check = json!({"properties": {"check": "true"}});
    let vault = world.vault("mine");
    let (get, put, post) = (Method::GET, Method::PUT, Method::POST);
    // A deleted vault of theirs, which the path names.
    let mut deleted = vaults::get(&world.api.state().service, "theirs", "vault").unwrap();
    (deleted.id, deleted.version, deleted.name) = (Uuid::new_v4(), 0, "deleted".into());
    deleted.deleted_at = Some(Timestamp::now());
    world.apply(&[Change::put(&deleted)]);
    let locations = format!("{}/providers/Microsoft.RecoveryServices/locations", world.subscription);
    let undelete = format!("{locations}/local/deletedVaults/theirs_{}/undelete", deleted.id);
    let (deleted, other, machine) = (
        world.resource("theirs", "RecoveryServices/vaults", "deleted"),
        world.machine("theirs", "other"),
        world.machine("theirs", "new"),
    );
    let own = |what: &str| format!("{point}/providers/Strongroom.Backup/{what}");
    // Operation, method, path and body; what is needed over what; the roles that suffice over that.
    type Case<'a> = (&'a str, &'a Method, String, Value, &'a str, &'a [Role]);
    let cases: Vec<Case<'_>> = vec![
        ("ProtectedItems_CreateOrUpdate", &put, new.clone(), policy, &machine, WRITES),
        ("ProtectedItems_CreateOrUpdate", &put, item.clone(), disks, &other, WRITES),
        ("ProtectionContainers_Get", &get, container(&item), Value::Null, &other, READS),
        ("ProtectionContainers_Register", &put, container(&item), json!({"properties": {}}), &other, WRITES),
        ("Restores_Trigger", &post, format!("{point}/restore"), replace, &other, WRITES),
        ("Restores_Trigger", &post, format!("{point}/restore"), new_machine.clone(), &other, WRITES),
        (
            "Operation_Validate",
            &post,
            format!("{vault}/backupValidateOperation"),
            beforehand.clone(),
            &other,
            WRITES,
        ),
        (
            "ValidateOperation_Trigger",
            &post,
            format!("{vault}/backupTriggerValidateOperation"),
            beforehand,
            &other,
            WRITES,
        ),
        ("RecoveryPoints_InstantRestore", &post, own("instantRestore"), new_machine, &other, WRITES),
        ("DeletedVaults_Undelete", &post, undelete, json!({}), &deleted, BACKS_UP),
        ("RecoveryPoints_Drill", &post, own("drill"), check, &other, MANAGES),
    ];
    for route in world.api.routes().iter().filter(|r| r.also.is_some()) {
        let tried = cases.iter().any(|case| case.0 == route.operation_id);
        assert!(tried, "{route:?} asks for more than its body names: say here for what, and who may");
    }
    for (at, (operation, method, path, body, scope, roles)) in cases.into_iter().enumerate() {
        let body = Some(body).filter(|body| !body.is_null());
        let narrow = format!("owner of mine {at}");
        world.assign(&narrow, Role::Owner, &world.group("mine"));
        world.assign(&narrow, Role::Owner, &locations);
        let answer = world.ask(&narrow, method.clone(), &path, body.clone());
        let told = answer.json_body().unwrap_or_default().to_string();
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (StatusCode::FORBIDDEN, LINKED),
            "{operation}: {told}"
        );
        assert!(told.contains(&format!("'{scope}'")), "{operation}: {told}");
        // The refused one first: what is done changes what is needed.
        let (may, may_not): (Vec<Role>, Vec<Role>) =
            Role::ALL.into_iter().partition(|role| roles.contains(role));
        for role in may_not.into_iter().chain(may) {
            let who = format!("{role} {at}");
            world.assign(&who, Role::Owner, &world.group("mine"));
            world.assign(&who, Role::Owner, &locations);
            world.assign(&who, role, scope);
            let answer = world.ask(&who, method.clone(), &path, body.clone());
            assert_eq!(
                answer.status != StatusCode::FORBIDDEN,
                roles.contains(&role),
                "{operation}: {role}: {:?}",
                answer.json_body()
            );
        }
    }
}

/// A declaration that somebody forgets opens nothing.
#[test]
fn an_id_that_no_route_declares_is_refused() {
    let forgotten = |mut route: Route<App>| {
        if route.operation_id == "Restores_Trigger" {
            (route.names, route.also) = (&[], None);
        }
        route
    };
    let world = World::with(routes().into_iter().map(forgotten).collect());
    let before = world.jobs();
    for group in GROUPS {
        let body = restore("RestoreDisks", json!({"storageAccountId": world.account(group)}));
        let path = format!("{}/restore", world.point("mine", "mine"));
        let answer = world.ask(world.operator(), Method::POST, &path, Some(body));
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{:?}", answer.json_body());
    }
    assert_eq!(world.jobs(), before);
}
