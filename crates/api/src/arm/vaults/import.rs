//! Taking in vaults that are there, and where a vault's bytes are. Azure has no calls for it.

use crate::arm::shared::{Answer, App, check_subscription, format, vault_of, vault_path};
use crate::arm::vaults::vault;
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use strongroom_service::{import, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    vec![
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Strongroom.Backup/importVault",
            "Vaults_Import",
            import_vault,
        )
        .action("Microsoft.RecoveryServices/Vaults/write")
        .reads::<ImportBody>("ImportRequest")
        .summary("Makes a vault of a store that is there, with all its points.")
        .tag(TAG),
        Route::get(vault_path!("/providers/Strongroom.Backup/store"), "Vaults_Store", store)
            .action("Microsoft.RecoveryServices/Vaults/read")
            .summary("Where a vault's bytes are, and how many.")
            .tag(TAG),
    ]
}

#[derive(Deserialize, JsonSchema)]
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
        "vault": vault::show(app, &done.vault)?,
        "items": done.items,
        "recoveryPoints": done.points,
        "policies": done.policies,
        "settings": done.settings,
        "stopped": done.stopped,
        "passedOver": done.passed_over,
    }))
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
        "singleWriter": vaults::is_single_writer(&app.service, &vault)?,
        "reclaimedAt": vault.reclaimed_at.map(format::time),
    }))
}
