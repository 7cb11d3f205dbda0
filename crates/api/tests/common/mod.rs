//! A small application and a gate in memory, for tests of what does not depend on either.
#![allow(dead_code)]

pub mod estate;
pub mod people;
pub mod wire;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use strongroom_api::auth::{AuditEvent, Caller, CallerKind, Credentials, Gate};
use strongroom_api::route::LIST;
use strongroom_api::{Api, ArmError, Client, Params, Request, Response, Route};
use uuid::Uuid;

pub const SUBSCRIPTION: &str = "11111111-1111-1111-1111-111111111111";
pub const VAULTS: &str =
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults";

/// What is allowed: `reader`'s token may read, `owner`'s do all.
#[derive(Default)]
pub struct TestGate {
    pub events: Mutex<Vec<AuditEvent>>,
}

impl Gate for TestGate {
    fn authenticate(&self, credentials: &Credentials, _now: Timestamp) -> Result<Caller, ArmError> {
        match credentials {
            Credentials::None => Err(ArmError::authentication_missing()),
            Credentials::Bearer(name) if matches!(name.as_str(), "reader" | "owner") => {
                Ok(Caller { kind: CallerKind::User, object_id: Uuid::from_u128(7), name: name.clone() })
            }
            Credentials::Bearer(_) | Credentials::Unreadable => Err(ArmError::invalid_token("it is unknown")),
            Credentials::LocalUser { uid: 0 } | Credentials::Process => {
                Ok(Caller::local_administrator("test"))
            }
            Credentials::LocalUser { uid } => {
                Err(ArmError::authorization_failed(&format!("user {uid}"), "", "*", "/"))
            }
        }
    }

    fn allowed(&self, caller: &Caller, action: &str, scope: &str) -> Result<bool, ArmError> {
        assert!(scope.starts_with('/'), "{scope}");
        Ok(caller.name != "reader" || action.ends_with("/read"))
    }

    fn audit(&self, event: &AuditEvent) {
        self.events.lock().unwrap().push(event.clone());
    }
}

/// The application: names of vaults.
pub struct App {
    pub names: Vec<String>,
}

pub fn show(_: &App, request: &Request, params: &Params) -> Result<Response, ArmError> {
    Response::ok(json!({
        "params": params.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "caller": request.caller().name,
        "apiVersion": request.api_version(),
        "base": request.base_url,
    }))
}

pub fn list(app: &App, request: &Request, _: &Params) -> Result<Response, ArmError> {
    let page = request.page(100)?;
    let (names, next) = page.cut(app.names.clone(), |name| name.clone());
    request.list(names.into_iter().map(Value::from), next.as_deref())
}

pub fn echo(_: &App, request: &Request, _: &Params) -> Result<Response, ArmError> {
    Response::with(StatusCode::CREATED, request.json::<Value>()?)
}

pub fn panics(_: &App, _: &Request, _: &Params) -> Result<Response, ArmError> {
    panic!("as the test wants")
}

pub fn start(_: &App, request: &Request, _: &Params) -> Result<Response, ArmError> {
    Ok(Response::accepted(request, Some("/op/a;b"), Some("/result/1"), 5))
}

const VAULT: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}";
const READ: &str = "Microsoft.RecoveryServices/Vaults/read";
const WRITE: &str = "Microsoft.RecoveryServices/Vaults/write";

pub fn routes() -> Vec<Route<App>> {
    vec![
        Route::get("/public", "Public_Get", show).public(),
        Route::get("/portal/{rest*}", "Portal_Get", show).public(),
        Route::get("/subscriptions", "Subscriptions_List", show),
        Route::get(VAULTS, "Vaults_List", list).action(READ).query(LIST),
        Route::get(VAULT, "Vaults_Get", show).action(READ).answers("Vault"),
        Route::put(VAULT, "Vaults_Put", echo).action(WRITE).takes("Vault").answers("Vault").success(&[201]),
        Route::delete(VAULT, "Vaults_Delete", panics).action("Microsoft.RecoveryServices/Vaults/delete"),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/special",
            "Special_Get",
            list,
        )
        .action(READ),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}/start",
            "Vaults_Start",
            start,
        )
        .action("Microsoft.RecoveryServices/Vaults/start/action")
        .success(&[202]),
    ]
}

pub fn api() -> (Api<App>, Arc<TestGate>) {
    let gate = Arc::new(TestGate::default());
    let app = App { names: (0..250).map(|n| format!("v{n:03}")).collect() };
    let schemas = json!({ "Vault": { "type": "object" } });
    let api = Api::builder(Arc::new(app), gate.clone())
        .routes(routes())
        .schemas(schemas.as_object().unwrap().clone())
        .build()
        .unwrap();
    (api, gate)
}

pub fn request(method: Method, target: &str, token: Option<&str>) -> Request {
    let mut request = Request::new(method, target, Client::Address([192, 0, 2, 1].into())).unwrap();
    if let Some(token) = token {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.set_headers(headers);
    }
    request.base_url = String::from("https://box:8443");
    request
}

pub fn vault(name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/RG/providers/Microsoft.RecoveryServices/vaults/{name}"
    )
}

pub fn code(response: &Response) -> String {
    let body = response.json_body().unwrap();
    body["error"]["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}
