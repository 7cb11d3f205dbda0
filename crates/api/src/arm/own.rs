//! What Azure has no call for, under a namespace of our own: hosts, importing vaults, checking them, placing machines.

use super::{Answer, App, check_subscription, subscription_id, vault_of, vault_path};
use crate::{ArmError, Params, Request, Response, Route};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use strongroom_engine::service::{import, machines, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    vec![
        Route::get("/subscriptions/{subscription}/providers/Strongroom.Backup/hosts", "Hosts_List", hosts)
            .action("Strongroom.Backup/hosts/read")
            .summary("The hosts whose machines are protected, and how they were when last looked at.")
            .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Strongroom.Backup/discover",
            "Hosts_Discover",
            discover,
        )
        .action("Strongroom.Backup/hosts/discover/action")
        .summary("Looks for machines on all hosts now.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Strongroom.Backup/importVault",
            "Vaults_Import",
            import_vault,
        )
        .action("Microsoft.RecoveryServices/Vaults/write")
        .takes("ImportRequest")
        .summary("Makes a vault of a store that is there, with all its points.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}/providers/Strongroom.Backup/place",
            "VirtualMachines_Place",
            place,
        )
        .action("Microsoft.Compute/virtualMachines/write")
        .takes("PlaceRequest")
        .summary("Puts a machine into another resource group and location.")
        .tag(TAG),
        Route::get(vault_path!("/providers/Strongroom.Backup/store"), "Vaults_Store", store)
            .action("Microsoft.RecoveryServices/Vaults/read")
            .summary("Where a vault's bytes are, and how many.")
            .tag(TAG),
    ]
}

fn hosts(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let seen = machines::hosts_seen(&app.service);
    let shown: Vec<Value> = app
        .service
        .hosts()
        .iter()
        .map(|host| {
            let seen = seen.get(&host.name);
            json!({
                "id": format!("{}/providers/Strongroom.Backup/hosts/{}", subscription_id(app), host.name),
                "name": host.name,
                "type": "Strongroom.Backup/hosts",
                "location": host.location,
                "properties": {
                    "resourceGroup": host.group,
                    "machines": seen.map(|s| s.machines),
                    "lastSeen": seen.map(|s| super::time(s.at)),
                    "problem": seen.and_then(|s| s.problem.clone()),
                },
            })
        })
        .collect();
    Response::ok(json!({"value": shown}))
}

fn discover(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    machines::discover(&app.service)?;
    hosts(app, request, params)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImportBody {
    name: String,
    store: String,
    key_file: Option<PathBuf>,
    location: Option<String>,
}

fn import_vault(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    // It reads a key file of the service's host: that is root's business.
    if request.caller().kind != crate::auth::CallerKind::LocalAdministrator {
        return Err(request.caller().refused("Strongroom.Backup/importVault/action", &request.path_text()));
    }
    let body: ImportBody = request.json()?;
    let default = app.service.hosts().first().map_or("local", |h| h.location.as_str()).to_owned();
    let location = body.location.unwrap_or(default);
    let done = import::import(
        &app.service,
        &body.store,
        body.key_file.as_deref(),
        &params["group"],
        &body.name,
        &location,
    )?;
    Response::ok(json!({
        "vault": super::vaults::show(app, &done.vault)?,
        "items": done.items,
        "recoveryPoints": done.points,
        "policies": done.policies,
        "settings": done.settings,
        "stopped": done.stopped,
        "passedOver": done.passed_over,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlaceBody {
    resource_group: String,
    location: String,
}

fn place(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: PlaceBody = request.json()?;
    // Also a write to where it goes.
    let target = super::group_id(app, &body.resource_group);
    let action = "Microsoft.Compute/virtualMachines/write";
    if !app.gate.allowed(request.caller(), action, &target)? {
        return Err(request.caller().refused(action, &target));
    }
    let machine = machines::get(&app.service, &params["group"], &params["machine"])?;
    let machine = machines::place(&app.service, &machine, &body.resource_group, &body.location)?;
    Response::ok(super::compute::show(app, &machine, false))
}

fn store(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let stats = vaults::stats(&app.service, &vault).map_err(ArmError::from)?;
    Response::ok(json!({
        "location": vault.store_location,
        "storeId": vault.store_id.to_string(),
        "storedBytes": stats.stored_bytes,
        "recoveryPoints": stats.points,
        "secondCopy": "none",
        "reclaimedAt": vault.reclaimed_at.map(super::time),
    }))
}
