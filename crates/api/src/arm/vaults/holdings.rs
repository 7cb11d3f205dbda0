//! What vaults hold that the catalog does not know, and the other way round; and stores and keys that no vault has. Azure has no calls
//! for it.

use crate::arm::shared::{
    Answer, App, caller, check_subscription, format, item_id, page, subscription_id, vault_id, vault_of,
    vault_path,
};
use crate::auth::CallerKind;
use crate::route::QueryParameter;
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use serde_json::{Value, json};
use strongroom_catalog::Vault;
use strongroom_domain::PointId;
use strongroom_engine::points::kind_name;
use strongroom_service::reconcile::{self, Report, State};
use strongroom_service::storage::{StrayKey, StrayStore};
use strongroom_service::unmanaged::{self, Unmanaged};
use strongroom_service::{keys, storage};

const VAULT_IS_GONE: &[QueryParameter] = &[QueryParameter::optional(
    "vaultIsGone",
    "`true`: the vault is gone, also where nothing says where it was.",
)];

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read";
    const DELETE: &str =
        "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/delete";
    // What is adopted goes by its item's policy from then on: not for those who only back up and restore.
    const WRITE: &str = "Microsoft.RecoveryServices/Vaults/write";
    vec![
        Route::get(
            vault_path!("/providers/Strongroom.Backup/reconciliation"),
            "Vaults_Reconciliation",
            report,
        )
        .action("Microsoft.RecoveryServices/Vaults/read")
        .summary("How the vault and the catalog compared when they were last looked at.")
        .tag(TAG),
        Route::post(vault_path!("/providers/Strongroom.Backup/reconcile"), "Vaults_Reconcile", reconcile_now)
            .action(WRITE)
            .summary("Compares the vault and the catalog now.")
            .tag(TAG),
        Route::get(vault_path!("/providers/Strongroom.Backup/unmanagedPoints"), "UnmanagedPoints_List", list)
            .action(READ)
            .query(&[crate::route::TOP, crate::route::SKIP_TOKEN])
            .summary("Recovery points that are in the vault and that the catalog does not know.")
            .tag(TAG),
        Route::post(
            vault_path!("/providers/Strongroom.Backup/unmanagedPoints/{point}/adopt"),
            "UnmanagedPoints_Adopt",
            adopt,
        )
        .action(WRITE)
        .summary("Adopts a machine's point into its item, or into a new one whose protection is stopped.")
        .tag(TAG),
        Route::delete(
            vault_path!("/providers/Strongroom.Backup/unmanagedPoints/{point}"),
            "UnmanagedPoints_Forget",
            forget,
        )
        .action(DELETE)
        .summary("Forgets a point that the catalog does not know.")
        .tag(TAG),
        Route::delete(
            vault_path!("/providers/Strongroom.Backup/missingPoints/{point}"),
            "MissingPoints_AcceptLoss",
            accept_loss,
        )
        .action(DELETE)
        .summary("Accepts that a point which is missing in the vault is lost: its row goes.")
        .tag(TAG),
        Route::get("/subscriptions/{subscription}/providers/Strongroom.Backup/strays", "Strays_List", strays)
            .action("Strongroom.Backup/strays/read")
            .summary("Stores and keys on the service's host that no vault has.")
            .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Strongroom.Backup/initStorage",
            "Storage_Init",
            init_storage,
        )
        .action("Strongroom.Backup/storage/write")
        .summary("Says that the place for vaults is the right one: it gets its marker.")
        .tag(TAG),
        Route::delete(
            "/subscriptions/{subscription}/providers/Strongroom.Backup/keys/{vault}",
            "Keys_Delete",
            delete_key,
        )
        .action("Strongroom.Backup/keys/delete")
        .query(VAULT_IS_GONE)
        .summary("Deletes the key of a vault that is gone, by the vault's id in full.")
        .tag(TAG),
    ]
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Agreed => "Agreed",
        State::Differs => "Differs",
        State::Unknown => "Unknown",
    }
}

fn show_report(vault: &Vault, report: Option<&Report>) -> Value {
    let Some(report) = report else {
        return json!({"state": "Unknown", "problem": "They were not compared yet.", "vault": vault.name});
    };
    let texts = |points: &[PointId]| points.iter().map(PointId::to_string).collect::<Vec<_>>();
    json!({
        "vault": vault.name,
        "time": format::time(report.at),
        "state": state_name(report.state),
        "problem": report.problem,
        "recoveryPoints": report.points,
        "missingPoints": texts(&report.missing),
        "unlistedPoints": texts(&report.unlisted),
        "unmanagedPoints": report.unmanaged,
        "adoptedPoints": texts(&report.adopted),
        "forgottenPoints": texts(&report.forgotten),
        "returnedPoints": texts(&report.returned),
        "reclaimProblem": report.reclaim_problem,
        "purgeProblem": report.purge_problem,
        "storeProblem": report.store_problem,
    })
}

fn report(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    Response::ok(show_report(&vault, reconcile::report(&app.service, &vault)?.as_ref()))
}

fn reconcile_now(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    Response::ok(show_report(&vault, Some(&reconcile::one(&app.service, &vault)?)))
}

fn show(app: &App, vault: &Vault, point: &Unmanaged) -> Value {
    let name = point.point.map(|p| p.to_string()).unwrap_or_default();
    json!({
        "id": format!("{}/providers/Strongroom.Backup/unmanagedPoints/{name}", vault_id(app, vault)),
        "name": name,
        "type": "Strongroom.Backup/unmanagedPoints",
        "properties": {
            "item": point.item,
            "kind": point.kind.map(kind_name),
            "recoveryPointTime": point.taken_at.map(format::time),
            "sizeBytes": point.size_bytes,
            "storedBytes": point.stored_bytes,
            "canBeAdopted": point.can_be_adopted,
            "problem": point.problem,
        },
    })
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let found = unmanaged::list(&app.service, &vault)?;
    // The newest first.
    let key = |p: &Unmanaged| {
        let at = p.taken_at.map_or(0, |at| at.as_microsecond().max(0));
        format!(
            "{:020}\u{1}{}\u{1}{}",
            i64::MAX - at,
            p.point.map(|p| p.to_string()).unwrap_or_default(),
            p.problem.as_deref().unwrap_or_default()
        )
    };
    page(request, found, 500, key, |p| show(app, &vault, p))
}

fn point_id(params: &Params) -> Result<PointId, ArmError> {
    params["point"].parse().map_err(|_| {
        ArmError::new(
            StatusCode::BAD_REQUEST,
            "InvalidParameter",
            format!("'{}' is not the id of a recovery point.", crate::error::shorten(&params["point"])),
        )
    })
}

fn adopt(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let (item, point) = unmanaged::adopt(&app.service, &vault, &point_id(params)?)?;
    Response::ok(json!({
        "machine": item.machine_name,
        "itemId": item_id(app, &vault, &item),
        "recoveryPoint": point.name,
        "id": format!("{}/recoveryPoints/{}", item_id(app, &vault, &item), point.name),
    }))
}

fn forget(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    unmanaged::forget(&app.service, &vault, &point_id(params)?, &caller(request))?;
    Ok(Response::empty(StatusCode::NO_CONTENT))
}

fn accept_loss(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    unmanaged::accept_loss(&app.service, &vault, &point_id(params)?, &caller(request))?;
    Ok(Response::empty(StatusCode::NO_CONTENT))
}

fn strays(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let found = storage::strays(&app.service)?;
    let store = |s: &StrayStore| {
        json!({
            "path": s.path.display().to_string(),
            "vaultId": s.vault.map(|v| v.to_string()),
            "keyFile": s.key_file.as_ref().map(|p| p.display().to_string()),
            "recoveryPoints": s.points,
            "problem": s.problem,
        })
    };
    let key = |k: &StrayKey| {
        json!({
            "path": k.path.display().to_string(),
            "vaultId": k.vault.map(|v| v.to_string()),
            "vaultName": k.name,
            "problem": k.problem,
        })
    };
    Response::ok(json!({
        "stores": found.stores.iter().map(store).collect::<Vec<_>>(),
        "keys": found.keys.iter().map(key).collect::<Vec<_>>(),
        "problems": found.problems,
    }))
}

/// What concerns the service's host itself is root's business.
fn check_local(request: &Request, action: &str) -> Result<(), ArmError> {
    match request.caller().kind {
        CallerKind::LocalAdministrator => Ok(()),
        _ => Err(request.caller().refused(action, &request.path_text())),
    }
}

fn init_storage(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    check_local(request, "Strongroom.Backup/storage/write")?;
    Response::ok(json!({"marked": storage::init(&app.service)?}))
}

fn delete_key(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    check_local(request, "Strongroom.Backup/keys/delete")?;
    let is_vault_gone = request.query.get("vaultIsGone").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let path = keys::delete(&app.service, &params["vault"], is_vault_gone)?;
    Response::ok(json!({
        "id": format!("{}/providers/Strongroom.Backup/keys/{}", subscription_id(app), params["vault"].to_lowercase()),
        "deleted": path.display().to_string(),
    }))
}
