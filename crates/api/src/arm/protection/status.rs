//! What clients ask before they begin: status, features, usage, guards.

use crate::arm::shared::kinds::{Kinds, check_resource_type, labels};
use crate::arm::shared::{Answer, App, check_subscription, ids, vault_id, vault_of, vault_path};
use crate::route::{LIST, Named, Needs};
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use strongroom_catalog::{Item, Vault};
use strongroom_domain::Datasource;
use strongroom_domain::access::linked;
use strongroom_domain::arm_names;
use strongroom_domain::item::ItemState;
use strongroom_service::{items, policies, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Status";
    vec![
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupStatus",
            "BackupStatus_Get",
            backup_status,
        )
        .action("Microsoft.RecoveryServices/locations/backupStatus/action")
        .reads::<StatusBody>("BackupStatusRequest")
        .names(&[Named { field: "resourceId", needs: Needs::Id(linked::READ_MACHINE) }])
        .summary("Whether, and where, a machine is protected.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupValidateFeatures",
            "FeatureSupport_Validate",
            validate_features,
        )
        .action("Microsoft.RecoveryServices/locations/backupValidateFeatures/action")
        .reads::<FeatureBody>("FeatureRequest")
        .summary("Whether a feature can be used.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/backupPreValidateProtection",
            "ProtectionIntent_Validate",
            pre_validate,
        )
        .action("Microsoft.RecoveryServices/locations/backupPreValidateProtection/action")
        .reads::<PreValidateBody>("PreValidateRequest")
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
    ]
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["resourceId"]))]
struct StatusBody {
    resource_type: Option<String>,
    resource_id: Option<String>,
}

fn backup_status(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: StatusBody = request.json()?;
    // What is not known of is not said to be unprotected.
    check_resource_type(body.resource_type.as_deref())?;
    let not_protected = || Response::ok(json!({"protectionStatus": "NotProtected"}));
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
        .map_err(|e| ArmError::from(strongroom_service::Error::from(e)))?;
    let Some(vault) = vault else { return not_protected() };
    let policy = item.policy.map(|id| policies::by_id(&app.service, id)).transpose()?.flatten();
    let status = match item.state {
        ItemState::ProtectionStopped | ItemState::BackupsSuspended => "ProtectionStopped",
        _ => "Protected",
    };
    let mut shown = json!({
        "protectionStatus": status,
        "vaultId": vault_id(app, &vault),
        "fabricName": "Azure",
        "containerName": item.container().to_lowercase(),
        "protectedItemName": item.name().to_lowercase(),
        "protectedItemsCount": 0,
    });
    if let Some(policy) = policy {
        shown["policyName"] = policy.name.into();
    }
    Response::ok(shown)
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["resourceId"]))]
struct PreValidateBody {
    resource_type: Option<String>,
    resource_id: Option<String>,
    vault_id: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["featureType"]))]
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
    let mut shown = match check_protect(app, request, &body) {
        Ok(()) => json!({"status": "Succeeded"}),
        // That nothing could be looked at says nothing about protecting.
        Err(error) if error.status.is_server_error() => return Err(error),
        Err(error) => json!({
            "status": "Failed", "errorCode": error.code, "errorMessage": error.message,
            "recommendation": "Correct this, then ask again.",
        }),
    };
    let id = body.resource_id.as_deref().unwrap_or_default();
    if let Ok(named) = ids::read(app, request, "resourceId", id, &ids::MACHINE) {
        shown["containerName"] = arm_names::container_name(&named.group, named.name()).into();
        shown["protectedItemName"] = arm_names::item_name(&named.group, named.name()).into();
    }
    Response::ok(shown)
}

/// What Azure answers beforehand of a machine that is protected, in whichever vault.
fn already_protected(message: String) -> ArmError {
    ArmError::bad_request("VirtualMachineAlreadyProtected", message)
}

/// What protecting a machine in a vault would be refused with; or that it is protected there already.
fn check_protect(app: &App, request: &Request, body: &PreValidateBody) -> Result<(), ArmError> {
    check_resource_type(body.resource_type.as_deref())?;
    let id = body.resource_id.as_deref().ok_or_else(|| ArmError::invalid_content("resourceId is missing"))?;
    ids::read(app, request, "resourceId", id, &ids::MACHINE)?;
    let machine = items::machine_by_id(&app.service, id)?;
    // Some ask of the machine alone.
    let vault = match body.vault_id.as_deref().filter(|id| !id.is_empty()) {
        None => None,
        Some(id) => {
            let named = ids::read(app, request, "vaultId", id, &ids::VAULT)?;
            Some(vaults::get(&app.service, &named.group, named.name())?)
        }
    };
    if let Some(vault) = &vault {
        let protectable = items::check_protect(&app.service, vault, &machine);
        protectable.map_err(ArmError::from).map_err(|error| match error.code.as_ref() {
            "UserErrorVmAlreadyProtected" => already_protected(error.message),
            _ => error,
        })?;
    }
    let is_protected = |i: &Item| matches!(i.state, ItemState::IrPending | ItemState::Protected);
    let found = items::of_machine(&app.service, machine.id)?;
    match found.iter().any(|item| is_protected(item) && vault.as_ref().is_none_or(|v| v.id == item.vault)) {
        false => Ok(()),
        true => {
            Err(already_protected(format!("The virtual machine '{}' is protected already.", machine.name)))
        }
    }
}

fn usage(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let mut found = items::list(&app.service, &vault)?;
    found.retain(|i| i.datasource == Datasource::Machine);
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter.equalities(&["type", "backupManagementType"]).map_err(refused)?;
        let kinds = ["BackupProtectedItemCountSummary", "BackupProtectionContainerCountSummary"];
        wanted.one_of("type", &kinds).map_err(refused)?;
        let kinds = Kinds::wanted(&wanted).map_err(refused)?;
        found.retain(|i| kinds.take(i.datasource));
    }
    let entry = |name: &str, shown: &str, value: usize| {
        json!({
            "unit": "Count", "currentValue": value, "limit": -1,
            "name": {"value": name, "localizedValue": shown},
        })
    };
    let management = labels(Datasource::Machine).management;
    // An item is a container of its own, so that both are as many.
    Response::ok(json!({"value": [entry(management, "Azure Virtual Machine", found.len())]}))
}

fn usages(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let count = items::list(&app.service, &vault)?.len();
    Response::ok(json!({"value": [{
        "unit": "Count", "quotaPeriod": "P1D", "currentValue": count, "limit": -1,
        "name": {"value": "ProtectedItemsCount", "localizedValue": "Protected items"},
    }]}))
}
