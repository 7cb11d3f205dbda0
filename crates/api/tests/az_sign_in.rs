//! The real azure-cli and the real azure-identity sign in. Installs both where they are missing (`scripts/install-az`).

mod common;

use common::people::*;
use common::wire::{Running, start};
use http::StatusCode;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use strongroom_api::http::ServerBounds;
use strongroom_api::{ArmError, Params, Request, Response, Route};

const SUBSCRIPTION: &str = "11111111-1111-1111-1111-111111111111";

fn subscriptions(_: &Office, _: &Request, _: &Params) -> Result<Response, ArmError> {
    let one = json!({
        "id": format!("/subscriptions/{SUBSCRIPTION}"), "subscriptionId": SUBSCRIPTION, "displayName": "Strongroom",
        "state": "Enabled", "tenantId": TENANT, "authorizationSource": "RoleBased", "managedByTenants": [],
        "subscriptionPolicies": { "locationPlacementId": "Public_2014-09-01", "quotaId": "x", "spendingLimit": "Off" },
    });
    Response::ok(json!({ "value": [one], "count": { "type": "Total", "value": 1 } }))
}

fn tenants(_: &Office, _: &Request, _: &Params) -> Result<Response, ArmError> {
    Response::ok(
        json!({ "value": [{ "id": format!("/tenants/{TENANT}"), "tenantId": TENANT, "displayName": "Strongroom" }] }),
    )
}

/// Where az and the SDKs are.
fn installed() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| match std::env::var_os("STRONGROOM_TEST_AZ") {
        Some(path) => path.into(),
        None => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/install-az");
            let output = Command::new(script).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().into()
        }
    })
}

/// As a person sees them: a home of their own, the certificate, no telemetry.
fn command(server: &Running, program: &str) -> Command {
    let home = server.directory.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    let mut command = Command::new(installed().join(program));
    command
        .env("HOME", &home)
        .env("AZURE_CONFIG_DIR", home.join("azure"))
        .env("REQUESTS_CA_BUNDLE", server.authority())
        .env("AZURE_CORE_COLLECT_TELEMETRY", "no")
        .env("AZURE_EXTENSION_USE_DYNAMIC_INSTALL", "no")
        .env("NO_PROXY", "localhost");
    command
}

fn az(server: &Running, arguments: &[&str]) -> Output {
    let output = command(server, "az/bin/az").args(arguments).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("Traceback"), "{arguments:?}: {output:?}");
    output
}

fn az_ok(server: &Running, arguments: &[&str]) -> Value {
    let output = az(server, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn world() -> (Running, std::sync::Arc<Memory>, String) {
    let world = World::with([
        Route::get("/subscriptions", "Subscriptions_List", subscriptions),
        Route::get("/tenants", "Tenants_List", tenants),
    ]);
    world.pass(jiff::Timestamp::now().as_second() - START);
    let memory = world.memory.clone();
    let server = start(world.api, ServerBounds::default());
    let url = format!("https://localhost:{}", server.address.port());
    az_ok(&server, &["cloud", "register", "-n", "strongroom", "--endpoint-resource-manager", &url]);
    az_ok(&server, &["cloud", "set", "-n", "strongroom"]);
    (server, memory, url)
}

#[test]
fn az_signs_in_as_an_application() {
    let (server, memory, url) = world();
    let (app, tenant) = (APP_ID.to_string(), TENANT.to_string());
    let login = |secret| {
        az(&server, &["login", "--service-principal", "-u", &app, "-p", secret, "--tenant", &tenant])
    };
    let wrong = login("wrong horse");
    assert!(!wrong.status.success());
    let said = String::from_utf8_lossy(&wrong.stderr).to_string();
    assert!(said.contains("application id or its secret is wrong"), "{said}");

    let right = login("right horse");
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    let shown = az_ok(&server, &["account", "show"]);
    assert_eq!(
        (shown["id"].as_str(), shown["tenantId"].as_str()),
        (Some(SUBSCRIPTION), Some(tenant.as_str()))
    );
    let token = az_ok(&server, &["account", "get-access-token"]);
    assert_eq!(part(token["accessToken"].as_str().unwrap(), 1)["tid"], tenant.as_str());
    let resource = "https://management.strongroom.local/";
    let me = az_ok(&server, &["rest", "--url", &format!("{url}/who"), "--resource", resource]);
    assert_eq!(me["name"], "robot");

    let events = memory.events.lock().unwrap();
    let sign_ins: Vec<_> = events.iter().filter(|e| e.operation == "SignIn").map(|e| e.status).collect();
    assert_eq!(sign_ins.first(), Some(&401));
    assert_eq!(sign_ins.last(), Some(&200));
    assert!(events.iter().all(|e| e.status != StatusCode::INTERNAL_SERVER_ERROR.as_u16()));
}

#[test]
fn az_signs_in_as_a_user() {
    let (server, _, url) = world();
    let wrong = az(&server, &["login", "-u", "anna@example.org", "-p", "wrong horse"]);
    assert!(!wrong.status.success());
    let listed = az_ok(&server, &["login", "-u", "anna@example.org", "-p", "right horse"]);
    assert_eq!(listed[0]["id"], SUBSCRIPTION, "{listed}");
    assert_eq!(listed[0]["user"]["name"], "anna@example.org");
    let resource = "https://management.strongroom.local/";
    let me = az_ok(&server, &["rest", "--url", &format!("{url}/who"), "--resource", resource]);
    assert_eq!(me["name"], "anna@example.org");
    let group = format!(
        "{url}/subscriptions/s/resourceGroups/g2/providers/Microsoft.RecoveryServices/vaults/v?api-version=1"
    );
    let refused = az(&server, &["rest", "--url", &group, "--resource", resource]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AuthorizationFailed"), "{refused:?}");
}

#[test]
fn the_sdk_signs_in() {
    let (server, _, url) = world();
    for tenant in ["adfs", &TENANT.to_string()] {
        let program = format!(
            "from azure.identity import ClientSecretCredential\n\
             c = ClientSecretCredential('{tenant}', '{APP_ID}', 'right horse', authority='{url}', disable_instance_discovery=True)\n\
             for scope in ('https://management.strongroom.local//.default', '{url}/.default'):\n    print(c.get_token(scope).token)\n"
        );
        let output = command(&server, "sdk/bin/python").args(["-c", &program]).output().unwrap();
        assert!(output.status.success(), "{tenant}: {}", String::from_utf8_lossy(&output.stderr));
        for token in String::from_utf8(output.stdout).unwrap().lines() {
            assert_eq!(part(token, 1)["appid"], APP_ID.to_string());
        }
    }
}
