//! The whole service over a data directory of its own, without a hypervisor: a group, a vault, two machines in the catalog, one of
//! them protected and with a recovery point. All is asked for by the local administrator, in process.

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use strongroom_api::arm::App;
use strongroom_api::{Api, Request, Response};
use strongroom_catalog::{Change, Item, Machine, Point, Query, Row};
use strongroom_domain::{Consistency, ConsistencyLevel};
use strongroom_service::config::RestoreDirectory;
use strongroom_service::{Service, ServiceConfig, SystemClock};
use uuid::Uuid;

pub const POINT: &str = "4711";

pub struct Estate {
    pub api: Api<App>,
    pub subscription: String,
    _directory: tempfile::TempDir,
}

impl Estate {
    /// A vault `vault` in group `g`, machines `web` (protected, with a point) and `db`.
    pub fn new() -> Self {
        Self::with_networks(&[])
    }

    /// The same, with private networks in the configuration.
    pub fn with_networks(networks: &[&str]) -> Self {
        let estate = Self::bare(networks);
        estate.must(Method::PUT, &estate.group(), Some(json!({"location": "local"})));
        estate.must(Method::PUT, &estate.vault(), Some(json!({"location": "local", "properties": {}})));
        for name in ["web", "db"] {
            estate.machine_row(name);
        }
        estate.must(Method::PUT, &estate.item("web"), Some(estate.protection("web")));
        estate.point_row();
        estate
    }

    /// Nothing in it.
    fn bare(networks: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = ServiceConfig {
            data: directory.path().join("data"),
            hosts: Vec::new(),
            restore_directories: vec![RestoreDirectory {
                name: "places".into(),
                path: directory.path().to_owned(),
                format: None,
                group: "g".into(),
                location: "local".into(),
            }],
            private_networks: networks.iter().map(|&n| n.to_owned().try_into().unwrap()).collect(),
            ..ServiceConfig::default()
        };
        let service = Service::open_with(config, Vec::new(), Arc::new(SystemClock::new())).unwrap();
        let subscription = format!("/subscriptions/{}", service.subscription());
        Self { api: App::api(service).unwrap(), subscription, _directory: directory }
    }

    pub fn service(&self) -> &Service {
        &self.api.state().service
    }

    fn machine_row(&self, name: &str) {
        let machine: Machine = serde_json::from_value(json!({
            "id": Uuid::new_v4(), "host": "nowhere", "host_uuid": Uuid::new_v4().to_string(), "name": name, "group": "g",
            "location": "local", "power": "shut off", "os": "Linux", "vcpus": 2, "memory_mib": 2048,
            "disks": [{"lun": -1, "target": "vda"}], "discovered_at": Timestamp::now(),
        }))
        .unwrap();
        self.apply(&[Change::put(&machine)]);
    }

    fn point_row(&self) {
        let items: Vec<Item> = self.rows();
        let point: Point = serde_json::from_value(json!({
            "id": Uuid::new_v4(), "vault": items[0].vault, "item": items[0].id, "name": POINT, "taken_at": Timestamp::now(),
            "consistency": Consistency::new(ConsistencyLevel::Crash, "It was off."),
            "disks": [{"lun": -1, "target": "vda", "size_bytes": 1 << 20}], "os": "Linux", "stored_bytes": 1, "policy_type": "V1",
        }))
        .unwrap();
        self.apply(&[Change::put(&point)]);
    }

    pub fn rows<R: Row>(&self) -> Vec<R> {
        self.service().catalog().find(&Query::all()).unwrap()
    }

    pub fn apply(&self, changes: &[Change]) {
        self.service().catalog().apply(changes).unwrap();
    }

    /// A route's path, with what is there in place of the names in its pattern; others stay.
    pub fn path_of(&self, pattern: &str) -> String {
        let subscription = self.service().subscription().to_string();
        [
            ("{subscription}", subscription.as_str()),
            ("{group}", "g"),
            ("{vault}", "vault"),
            ("{fabric}", "Azure"),
            ("{container}", "IaasVMContainer;iaasvmcontainerv2;g;web"),
            ("{item}", "VM;iaasvmcontainerv2;g;web"),
            ("{point}", POINT),
            ("{policy}", "DefaultPolicy"),
            ("{machine}", "web"),
            ("{location}", "local"),
            ("{disk}", "web_vda"),
        ]
        .iter()
        .fold(pattern.to_owned(), |path, (name, value)| path.replace(name, value))
    }

    pub fn group(&self) -> String {
        format!("{}/resourceGroups/g", self.subscription)
    }

    pub fn vault(&self) -> String {
        self.vault_called("vault")
    }

    pub fn vault_called(&self, name: &str) -> String {
        format!("{}/providers/Microsoft.RecoveryServices/vaults/{name}", self.group())
    }

    pub fn location(&self, rest: &str) -> String {
        format!("{}/providers/Microsoft.RecoveryServices/locations/local/{rest}", self.subscription)
    }

    pub fn machine(&self, name: &str) -> String {
        format!("{}/providers/Microsoft.Compute/virtualMachines/{name}", self.group())
    }

    pub fn item(&self, machine: &str) -> String {
        let key = format!("iaasvmcontainerv2;g;{machine}");
        format!(
            "{}/backupFabrics/Azure/protectionContainers/IaasVMContainer;{key}/protectedItems/VM;{key}",
            self.vault()
        )
    }

    pub fn protection(&self, machine: &str) -> Value {
        json!({"properties": {
            "protectedItemType": "Microsoft.Compute/virtualMachines", "sourceResourceId": self.machine(machine),
            "policyId": format!("{}/backupPolicies/DefaultPolicy", self.vault()),
        }})
    }

    pub fn call(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let joined = if path.contains('?') { "&" } else { "?" };
        let target = format!("{path}{joined}api-version=2026-01-01");
        self.api.dispatch(Request::in_process(method, &target, body.as_ref()).unwrap())
    }

    /// Status and body.
    pub fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.call(method, path, body);
        (answer.status.as_u16(), answer.json_body().unwrap_or_default())
    }

    pub fn must(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, told) = self.ask(method, path, body);
        assert!((200..300).contains(&status), "{path}: {status} {told}");
        told
    }

    pub fn get(&self, path: &str) -> Value {
        self.must(Method::GET, path, None)
    }

    /// Filtered, with the filter as people write it.
    pub fn filtered(&self, path: &str, filter: &str) -> (u16, Value) {
        self.ask(Method::GET, &format!("{path}?$filter={}", filter.replace(' ', "+")), None)
    }

    /// What it is refused with: the code and the words.
    pub fn refused(&self, method: Method, path: &str, body: Option<Value>) -> (String, String) {
        let (status, told) = self.ask(method, path, body);
        assert!((400..500).contains(&status), "{path}: {status} {told}");
        let text = |name: &str| told["error"][name].as_str().unwrap_or_default().to_owned();
        (text("code"), text("message"))
    }
}

pub fn names(list: &Value) -> Vec<&str> {
    list["value"].as_array().unwrap().iter().filter_map(|row| row["name"].as_str()).collect()
}
