//! What clients ask before they begin: status, features, usage, guards.

use super::containers::is_for_machines;
use super::{Answer, App, check_subscription, ids, vault_id, vault_of, vault_path};
use crate::route::{LIST, Named, Needs};
use crate::{ArmError, Params, Request, Response, Route};
use serde::Deserialize;
use serde_json::json;
use strongroom_catalog::service::Vault;
use strongroom_domain::access::linked;
use strongroom_domain::item::ItemState;
use strongroom_engine::service::{items, policies, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Status";
    vec![
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupStatus",
            "BackupStatus_Get",
            backup_status,
        )
        .action("Microsoft.RecoveryServices/locations/backupStatus/action")
        .takes("BackupStatusRequest")
        .names(&[Named { field: "resourceId", needs: Needs::Id(linked::READ_MACHINE) }])
        .summary("Whether, and where, a machine is protected.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupValidateFeatures",
            "FeatureSupport_Validate",
            validate_features,
        )
        .action("Microsoft.RecoveryServices/locations/backupValidateFeatures/action")
        .takes("FeatureRequest")
        .summary("Whether a feature can be used.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupPreValidateProtection",
            "ProtectionIntent_Validate",
            pre_validate,
        )
        .action("Microsoft.RecoveryServices/locations/backupPreValidateProtection/action")
        .takes("PreValidateRequest")
        .names(&[
            Named { field: "resourceId", needs: Needs::Id(linked::READ_MACHINE) },
            Named { field: "vaultId", needs: Needs::Id(linked::READ_VAULT) },
        ])
        .summary("Whether a machine could be protected.")
        .tag(TAG),
        Route::get(vault_path!("/backupUsageSummaries"), "BackupUsageSummaries_List", usage)
            .action("Microsoft.RecoveryServices/Vaults/backupUsageSummaries/read")
            .query(LIST)
            .summary("How many items and containers the vault has.")
            .tag(TAG),
        Route::get(vault_path!("/usages"), "Usages_ListByVaults", usages)
            .action("Microsoft.RecoveryServices/Vaults/usages/read")
            .summary("How many items the vault has.")
            .tag(TAG),
        Route::get(vault_path!("/backupResourceGuardProxies"), "ResourceGuardProxies_Get", guards)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/read")
            .summary("The vault's resource guards: there are none.")
            .tag(TAG),
        Route::get(vault_path!("/backupProtectionIntents"), "BackupProtectionIntent_List", guards)
            .action("Microsoft.RecoveryServices/Vaults/backupProtectionIntents/read")
            .query(LIST)
            .summary("Intents to protect: there are none.")
            .tag(TAG),
        Route::get(vault_path!("/backupEngines"), "BackupEngines_List", guards)
            .action("Microsoft.RecoveryServices/Vaults/backupEngines/read")
            .query(LIST)
            .summary("Backup servers: there are none.")
            .tag(TAG),
    ]
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusBody {
    resource_type: Option<String>,
    resource_id: Option<String>,
}

fn backup_status(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: StatusBody = request.json()?;
    let not_protected = || {
        Response::ok(
            json!({"protectionStatus": "NotProtected", "vaultId": "", "fabricName": "", "containerName": "", "protectedItemName": "", "policyName": "", "protectedItemsCount": 0}),
        )
    };
    if body.resource_type.as_deref().is_some_and(|t| !t.eq_ignore_ascii_case("VM")) {
        return not_protected();
    }
    let id = body.resource_id.ok_or_else(|| ArmError::invalid_content("resourceId is missing"))?;
    ids::check_id_subscription(app, &id)?;
    ids::check_named(request, "resourceId", &id)?;
    let machine = items::machine_by_id(&app.service, &id)?;
    let item = items::of_machine(&app.service, machine.id)?
        .into_iter()
        .find(|i| !matches!(i.state, ItemState::SoftDeleted | ItemState::NotProtected));
    let Some(item) = item else { return not_protected() };
    let vault: Option<Vault> = app
        .service
        .catalog()
        .get(item.vault)
        .map_err(|e| ArmError::from(strongroom_engine::Error::from(e)))?;
    let Some(vault) = vault else { return not_protected() };
    let policy = item.policy.map(|id| policies::by_id(&app.service, id)).transpose()?.flatten();
    let status = match item.state {
        ItemState::ProtectionStopped | ItemState::BackupsSuspended => "ProtectionStopped",
        _ => "Protected",
    };
    Response::ok(json!({
        "protectionStatus": status,
        "vaultId": vault_id(app, &vault),
        "fabricName": "Azure",
        "containerName": item.container().to_lowercase(),
        "protectedItemName": item.name().to_lowercase(),
        "policyName": policy.map(|p| p.name).unwrap_or_default(),
        "protectedItemsCount": 0,
    }))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PreValidateBody {
    resource_type: Option<String>,
    resource_id: Option<String>,
    vault_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FeatureBody {
    feature_type: Option<String>,
}

fn validate_features(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let asked = request.json::<FeatureBody>()?.feature_type;
    let asked = asked.ok_or_else(|| ArmError::invalid_content("featureType is missing"))?;
    let supported = asked.eq_ignore_ascii_case("AzureVMResourceBackup");
    Response::ok(json!({"supportStatus": if supported { "Supported" } else { "NotSupported" }}))
}

fn pre_validate(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: PreValidateBody = request.json()?;
    Response::ok(match check_protect(app, request, &body) {
        Ok(()) => json!({"status": "Succeeded"}),
        // That nothing could be looked at says nothing about protecting.
        Err(error) if error.status.is_server_error() => return Err(error),
        Err(error) => json!({
            "status": "Failed", "errorCode": error.code, "errorMessage": error.message,
            "recommendation": "Correct this, then ask again.",
        }),
    })
}

/// What protecting a machine in a vault would be refused with.
fn check_protect(app: &App, request: &Request, body: &PreValidateBody) -> Result<(), ArmError> {
    if body.resource_type.as_deref().is_some_and(|t| !t.eq_ignore_ascii_case("VM")) {
        return Err(super::unavailable::not_available("Protecting anything but virtual machines"));
    }
    let id = body.resource_id.as_deref().ok_or_else(|| ArmError::invalid_content("resourceId is missing"))?;
    ids::read(app, request, "resourceId", id, &ids::MACHINE)?;
    let machine = items::machine_by_id(&app.service, id)?;
    // Some ask of the machine alone.
    let Some(id) = body.vault_id.as_deref().filter(|id| !id.is_empty()) else { return Ok(()) };
    let vault = ids::read(app, request, "vaultId", id, &ids::VAULT)?;
    let vault = vaults::get(&app.service, &vault.group, vault.name())?;
    Ok(items::check_protect(&app.service, &vault, &machine)?)
}

fn usage(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let found = items::list(&app.service, &vault)?;
    let mut containers = false;
    let mut machines_only = true;
    if let Some(filter) = request.filter()? {
        let wanted = filter
            .equalities(&["type", "backupManagementType"])
            .map_err(|e| ArmError::invalid_filter(filter.source(), e))?;
        containers = wanted
            .get("type")
            .is_some_and(|t| t.eq_ignore_ascii_case("BackupProtectionContainerCountSummary"));
        machines_only = is_for_machines(wanted.get("backupManagementType"));
    }
    let count = if machines_only { found.len() } else { 0 };
    let entry = |name: &str, shown: &str, value: usize| {
        json!({
            "unit": "Count", "currentValue": value, "limit": -1,
            "name": {"value": name, "localizedValue": shown},
        })
    };
    let entries = match containers {
        true => vec![entry("AzureIaasVM", "Azure Virtual Machine", count)],
        false => vec![entry("AzureVM", "Azure Virtual Machine", count)],
    };
    Response::ok(json!({"value": entries}))
}

fn usages(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let count = items::list(&app.service, &vault)?.len();
    Response::ok(json!({"value": [{
        "unit": "Count", "quotaPeriod": "P1D", "currentValue": count, "limit": -1,
        "name": {"value": "ProtectedItemsCount", "localizedValue": "Protected items"},
    }]}))
}

fn guards(app: &App, _: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    Response::ok(json!({"value": []}))
}
