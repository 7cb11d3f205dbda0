//! What Azure has no call for, under a namespace of our own: hosts, importing vaults, checking them, placing machines.

use crate::arm::estate::machines::show as show_machine;
use crate::arm::shared::{
    Answer, App, check_subscription, format, ids, subscription_id, vault_of, vault_path,
};
use crate::arm::vaults::vault;
use crate::route::{Named, Needs, QueryParameter};
use crate::{ArmError, Params, Request, Response, Route, limits};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use strongroom_domain::access::linked;
use strongroom_engine::service::{audit, import, machines, untrack, vaults};
use uuid::Uuid;

const AUDIT: &[QueryParameter] = &[
    QueryParameter::optional(
        "after",
        "A cursor: the `cursor` of an answer before, to go on; `oldest` to begin with the oldest. Without it: the newest.",
    ),
    QueryParameter::optional("$top", "How many events at most."),
];

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
        .names(&[Named { field: "resourceGroup", needs: Needs::Group(linked::PLACED_MACHINE) }])
        .summary("Puts a machine into another resource group and location.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}/providers/Strongroom.Backup/untrack",
            "VirtualMachines_Untrack",
            untrack_machine,
        )
        .action("Microsoft.Compute/virtualMachines/write")
        .summary("Takes away what backups left in a machine to follow its changes; its next backup reads everything once.")
        .tag(TAG),
        Route::get("/subscriptions/{subscription}/providers/Strongroom.Backup/auditEvents", "Audit_List", audit_events)
            .action("Microsoft.Insights/eventtypes/values/read")
            .query(AUDIT)
            .summary("The audit: changes and refusals, in the order in which they were written.")
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
                    "lastSeen": seen.map(|s| format::time(s.at)),
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
        "vault": vault::show(app, &done.vault)?,
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
    ids::check_named(request, "resourceGroup", &body.resource_group)?;
    let machine = machines::get(&app.service, &params["group"], &params["machine"])?;
    let machine = machines::place(&app.service, &machine, &body.resource_group, &body.location)?;
    Response::ok(show_machine(app, &machine, false))
}

fn untrack_machine(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let machine = machines::get(&app.service, &params["group"], &params["machine"])?;
    let gone = untrack::untrack(&app.service, &machine).map_err(ArmError::from)?;
    Response::ok(json!({"checkpoints": gone.checkpoints, "warnings": gone.warnings}))
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

/// The service's activity log, for whoever follows it: a page, and the cursor of what comes after it.
fn audit_events(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let invalid = |what: &str| ArmError::bad_request("InvalidQueryParameter", what);
    let most = match request.query.get("$top") {
        None => limits::PAGE_MAX_ITEMS as u32,
        Some(text) => match text.parse::<u32>() {
            Ok(most) if most as usize <= limits::PAGE_MAX_ITEMS => most,
            _ => return Err(invalid("$top is a number up to 1000.")),
        },
    };
    let page = match request.query.get("after") {
        None => audit::page(&app.service, None, most)?,
        Some("oldest") => audit::oldest(&app.service, most)?,
        Some(cursor) => {
            let cursor = cursor.parse::<Uuid>().map_err(|_| invalid("after is no cursor of an answer."))?;
            audit::page(&app.service, Some(cursor), most)?
        }
    };
    Response::ok(json!({ "value": page.rows, "cursor": page.cursor }))
}
