//! Deleted vaults: listed, looked at, brought back; and as the resource graph shows them.

use crate::arm::jobs::following;
use crate::arm::shared::{Answer, App, by_name, check_subscription, format, page, subscription_id, vault_id};
use crate::arm::vaults::vault::{WRITE, status};
use crate::route::{Link, Named, Needs, PAGED};
use crate::{ArmError, Params, Request, Response, Route};
use serde_json::{Value, json};
use strongroom_catalog::Vault;
use strongroom_service::{operations, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Vaults";
    vec![
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/deletedVaults",
            "DeletedVaults_ListBySubscriptionId",
            deleted,
        )
        .action("Microsoft.RecoveryServices/locations/deletedVaults/read")
        .query(PAGED)
        .summary("Deleted vaults that can be brought back.")
        .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/deletedVaults/{deleted}",
            "DeletedVaults_Get",
            deleted_one,
        ).answers("Resource")
        .action("Microsoft.RecoveryServices/locations/deletedVaults/read")
        .summary("A deleted vault.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/deletedVaults/{deleted}/undelete",
            "DeletedVaults_Undelete",
            undelete,
        )
        .action("Microsoft.RecoveryServices/locations/deletedVaults/undelete/action")
        .takes("UndeleteRequest")
        .names(&[Named { field: "properties", needs: Needs::Nothing("it is not read: the path says which vault") }])
        .also_needs("Microsoft.RecoveryServices/Vaults/write over the vault", |app, _, params| {
            Ok(vec![Link { actions: &[WRITE], scope: vault_id(app, &find_deleted(app, params)?) }])
        })
        .success(&[202])
        .summary("Brings a deleted vault back.")
        .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/deletedVaults/{deleted}/operations/{operation}",
            "DeletedVaults_GetOperationStatus",
            deleted_status,
        ).shows::<following::OperationShown>("OperationStatus")
        .action("Microsoft.RecoveryServices/locations/deletedVaults/read")
        .summary("How bringing a vault back stands.")
        .tag(TAG),
    ]
}

fn deleted_name(vault: &Vault) -> String {
    format!("{}_{}", vault.group, vault.id)
}

pub(crate) fn show_deleted(app: &App, vault: &Vault) -> Value {
    let name = deleted_name(vault);
    let mut properties = json!({"vaultId": vault_id(app, vault)});
    for (field, time) in [("vaultDeletionTime", vault.deleted_at), ("purgeAt", vault.purge_at)] {
        if let Some(time) = time {
            properties[field] = format::time(time).into();
        }
    }
    json!({
        "id": format!(
            "{}/providers/Microsoft.RecoveryServices/locations/{}/deletedVaults/{name}",
            subscription_id(app), vault.location
        ),
        "name": name,
        "type": "Microsoft.RecoveryServices/locations/deletedVaults",
        "location": vault.location,
        "properties": properties,
    })
}

/// All deleted vaults as the resource graph shows them, each with the id that it had.
pub(crate) fn all_deleted(app: &App) -> Result<Vec<(String, Value)>, ArmError> {
    let shown = |vault: &Vault| {
        let mut row = show_deleted(app, vault);
        row["type"] = "microsoft.recoveryservices/locations/deletedvaults".into();
        row["resourceGroup"] = vault.group.clone().into();
        row["subscriptionId"] = app.service.subscription().to_string().into();
        row["tags"] = json!(vault.tags);
        (vault_id(app, vault), row)
    };
    Ok(vaults::list_all_deleted(&app.service)?.iter().map(shown).collect())
}

fn deleted(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let found = vaults::list_deleted(&app.service, &params["location"])?;
    page(request, found, 1000, |v| by_name(&v.name, &v.id.to_string()), |v| show_deleted(app, v))
}

fn find_deleted(app: &App, params: &Params) -> Result<Vault, ArmError> {
    check_subscription(app, params)?;
    let wanted = &params["deleted"];
    let mut found = vaults::list_deleted(&app.service, &params["location"])?;
    match found.iter().any(|v| deleted_name(v).eq_ignore_ascii_case(wanted)) {
        true => found.retain(|v| deleted_name(v).eq_ignore_ascii_case(wanted)),
        false => found.retain(|v| v.name.eq_ignore_ascii_case(wanted)),
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(deleted_name).collect();
        return Err(ArmError::conflict(
            "AmbiguousDeletedVault",
            format!(
                "There are {} deleted vaults '{}': name one of them as it is listed: {}.",
                found.len(),
                crate::error::shorten(wanted),
                names.join(", ")
            ),
        ));
    }
    found.pop().ok_or_else(|| {
        ArmError::not_found(
            "ResourceNotFound",
            format!("The deleted vault '{}' was not found in this location.", crate::error::shorten(wanted)),
        )
    })
}

fn deleted_one(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(show_deleted(app, &find_deleted(app, params)?))
}

fn undelete(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = find_deleted(app, params)?;
    let path = format!(
        "{}/providers/Microsoft.RecoveryServices/locations/{}/deletedVaults/{}",
        subscription_id(app),
        vault.location,
        deleted_name(&vault)
    );
    let vault = vaults::undelete(&app.service, vault.id)?;
    let operation = operations::done(&app.service, Some(vault.id))?;
    let path = format!("{path}/operations/{}", operation.id);
    Ok(Response::accepted(request, Some(&path), Some(&path), 1))
}

fn deleted_status(app: &App, request: &Request, params: &Params) -> Answer {
    status(app, request, params)
}
