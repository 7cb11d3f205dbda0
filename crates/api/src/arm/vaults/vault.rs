//! Recovery Services vaults.

use crate::arm::jobs::following;
use crate::arm::shared::{
    Answer, App, by_shown_name, check_subscription, format, not_available, page, vault_id, vault_of,
    vault_path,
};
use crate::route::{Named, Needs, PAGED};
use crate::schema::{nothing_required, one_of, without};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_catalog::{Immutability, Redundancy, SoftDelete, Vault};
use strongroom_domain::access::linked;
use strongroom_domain::limits::SOFT_DELETE_DAYS;
use strongroom_service::vaults::{self, VaultSettings};
use strongroom_service::{operations, reconcile};

const READ: &str = "Microsoft.RecoveryServices/Vaults/read";
pub(crate) const WRITE: &str = "Microsoft.RecoveryServices/Vaults/write";

/// What a vault's body can name.
const NAMES: &[Named] = &[
    Named { field: "identity.userAssignedIdentities", needs: Needs::Members(linked::IDENTITY) },
    Named { field: "properties.monitoringSettings", needs: KEPT },
    Named { field: "properties.costManagementSettings", needs: KEPT },
    Named { field: "properties.restoreSettings", needs: KEPT },
];
const KEPT: Needs = Needs::Nothing("it is kept and shown as it came, and nothing is done by it");

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Vaults";
    vec![
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/vaults",
            "Vaults_ListBySubscriptionId",
            list,
        )
        .action(READ)
        .query(PAGED)
        .by_row()
        .summary("All vaults.")
        .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults",
            "Vaults_ListByResourceGroup",
            list,
        )
        .action(READ)
        .query(PAGED)
        .by_row()
        .summary("The vaults of a group.")
        .tag(TAG),
        Route::get(vault_path!(""), "Vaults_Get", get).action(READ).answers("Vault").summary("A vault.").tag(TAG),
        Route::put(vault_path!(""), "Vaults_CreateOrUpdate", put)
            .action(WRITE)
            .reads::<Body>("Vault")
            .names(NAMES)
            .answers("Vault")
            .success(&[200, 201])
            .summary("Makes a vault, or changes one.")
            .tag(TAG),
        Route::patch(vault_path!(""), "Vaults_Update", patch)
            .action(WRITE)
            .reads::<Patch>("VaultPatch")
            .names(NAMES)
            .success(&[200, 202])
            .summary("Changes a vault.")
            .tag(TAG),
        Route::delete(vault_path!(""), "Vaults_Delete", delete)
            .action("Microsoft.RecoveryServices/Vaults/delete")
            .success(&[202])
            .summary("Deletes a vault without protected items.")
            .tag(TAG),
        Route::get(vault_path!("/operationStatus/{operation}"), "Operations_OperationStatusGet", status).shows::<following::OperationShown>("OperationStatus")
            .action("Microsoft.RecoveryServices/Vaults/operationStatus/read")
            .summary("How an operation on the vault stands.")
            .tag(TAG),
        Route::get(vault_path!("/operationResults/{operation}"), "Operations_GetOperationResult", result)
            .action("Microsoft.RecoveryServices/Vaults/operationResults/read")
            .summary("How an operation on the vault ended.")
            .tag(TAG),
    ]
}

pub(crate) fn soft_delete_name(state: SoftDelete) -> &'static str {
    match state {
        SoftDelete::Enabled => "Enabled",
        SoftDelete::Disabled => "Disabled",
        // Azure's own spelling in answers.
        SoftDelete::AlwaysOn => "AlwaysON",
    }
}

pub(crate) fn soft_delete_of(text: &str) -> Result<SoftDelete, ArmError> {
    match text.to_lowercase().as_str() {
        "enabled" | "enable" => Ok(SoftDelete::Enabled),
        "disabled" | "disable" => Ok(SoftDelete::Disabled),
        "alwayson" => Ok(SoftDelete::AlwaysOn),
        _ => Err(ArmError::invalid_parameter("softDeleteState", "it is Enabled, Disabled or AlwaysON")),
    }
}

pub(crate) fn redundancy_name(redundancy: Redundancy) -> &'static str {
    match redundancy {
        Redundancy::Local => "LocallyRedundant",
        Redundancy::Zone => "ZoneRedundant",
        Redundancy::Geo => "GeoRedundant",
    }
}

pub(crate) fn redundancy_of(text: &str) -> Result<Redundancy, ArmError> {
    match text.to_lowercase().as_str() {
        "locallyredundant" => Ok(Redundancy::Local),
        "zoneredundant" => Ok(Redundancy::Zone),
        "georedundant" | "readaccessgeozoneredundant" => Ok(Redundancy::Geo),
        _ => Err(ArmError::invalid_parameter(
            "standardTierStorageRedundancy",
            "it is LocallyRedundant, ZoneRedundant or GeoRedundant",
        )),
    }
}

fn immutability_name(state: Immutability) -> &'static str {
    match state {
        Immutability::Disabled => "Disabled",
        Immutability::Unlocked => "Unlocked",
        Immutability::Locked => "Locked",
    }
}

pub(crate) fn etag(vault: &Vault) -> String {
    let at = format::time(vault.changed_at).replace(':', "%3A");
    format!("W/\"datetime'{at}'\"")
}

pub(crate) fn show(app: &App, vault: &Vault) -> Result<Value, ArmError> {
    let items = vaults::item_count(&app.service, vault, true)?;
    let mut properties = json!({
        "provisioningState": "Succeeded",
        "privateEndpointStateForBackup": "None",
        "privateEndpointStateForSiteRecovery": "None",
        "monitoringSettings": {
            "azureMonitorAlertSettings": {
                "alertsForAllJobFailures": "Enabled",
                "alertsForAllReplicationIssues": "Enabled",
                "alertsForAllFailoverIssues": "Enabled",
            },
            "classicAlertSettings": {
                "alertsForCriticalOperations": "Enabled",
                "emailNotificationsForSiteRecovery": "Enabled",
            },
        },
        "costManagementSettings": {"granularityLevel": "VaultLevel"},
        "backupStorageVersion": if items > 0 { "V2" } else { "Unassigned" },
        "securitySettings": {
            "softDeleteSettings": {
                "softDeleteRetentionPeriodInDays": vault.soft_delete_days,
                "softDeleteState": soft_delete_name(vault.soft_delete),
                "enhancedSecurityState": soft_delete_name(vault.enhanced_security),
            },
            "immutabilitySettings": {"state": immutability_name(vault.immutability)},
            "multiUserAuthorization": "Disabled",
            "sourceScanConfiguration": {"state": "Disabled"},
        },
        "redundancySettings": {
            "standardTierStorageRedundancy": redundancy_name(vault.redundancy),
            "crossRegionRestore": if vault.cross_region_restore { "Enabled" } else { "Disabled" },
        },
        "regionOfChoiceSettings": {"status": "Disabled"},
        "secureScore": "Adequate",
        "bcdrSecurityLevel": "Good",
        "publicNetworkAccess": "Enabled",
        "restoreSettings": {"crossSubscriptionRestoreSettings": {"crossSubscriptionRestoreState": "Enabled"}},
    });
    if let Some(report) = reconcile::report(&app.service, vault)? {
        properties["strongroomUnmanagedPoints"] = report.unmanaged.into();
        properties["strongroomMissingPoints"] = report.missing.len().into();
    }
    if let Value::Object(map) = &mut properties {
        map.extend(vault.kept.clone());
    }
    let mut shown = json!({
        "location": vault.location,
        "name": vault.name,
        "etag": etag(vault),
    });
    if !vault.tags.is_empty() {
        shown["tags"] = json!(vault.tags);
    }
    if let Some(identity) = &vault.identity {
        shown["identity"] = identity.clone();
    }
    shown["properties"] = properties;
    shown["id"] = vault_id(app, vault).into();
    shown["type"] = "Microsoft.RecoveryServices/vaults".into();
    shown["sku"] = vault.sku.clone();
    Ok(shown)
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["location"]))]
struct Body {
    location: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    #[schemars(schema_with = "sku_schema")]
    sku: Option<Value>,
    #[schemars(schema_with = "identity_schema")]
    identity: Option<Value>,
    properties: Option<Properties>,
}

/// The same to change a vault: nothing has to be in it, and it stays where it is.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = nothing_required, transform = without(&["location"]))]
struct Patch(Body);

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    security_settings: Option<SecuritySettings>,
    redundancy_settings: Option<RedundancySettings>,
    #[schemars(extend("type" = "object"))]
    monitoring_settings: Option<Value>,
    #[schemars(extend("type" = "object"))]
    cost_management_settings: Option<Value>,
    #[schemars(extend("type" = "string", "enum" = ["Enabled", "Disabled"]))]
    public_network_access: Option<Value>,
    #[schemars(extend("type" = "object"))]
    restore_settings: Option<Value>,
    /// Keys of customers are not available: anything but null is refused.
    #[schemars(extend("enum" = [null]))]
    encryption: Option<Value>,
    strongroom_single_writer: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct SecuritySettings {
    soft_delete_settings: Option<SoftDeleteSettings>,
    #[schemars(transform = one_of("state", &["Disabled", "Unlocked", "Locked"]))]
    immutability_settings: Option<StateOnly>,
    #[schemars(transform = one_of("state", &["Disabled"]))]
    source_scan_configuration: Option<StateOnly>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct SoftDeleteSettings {
    #[schemars(extend("enum" = ["Enabled", "Disabled", "AlwaysON"]))]
    soft_delete_state: Option<String>,
    #[schemars(extend("enum" = ["Enabled", "Disabled", "AlwaysON"]))]
    enhanced_security_state: Option<String>,
    #[schemars(range(min = SOFT_DELETE_DAYS.0, max = SOFT_DELETE_DAYS.1))]
    soft_delete_retention_period_in_days: Option<i64>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct StateOnly {
    state: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct RedundancySettings {
    #[schemars(extend("enum" = ["LocallyRedundant", "ZoneRedundant", "GeoRedundant"]))]
    standard_tier_storage_redundancy: Option<String>,
    #[schemars(extend("enum" = ["Enabled", "Disabled"]))]
    cross_region_restore: Option<String>,
}

impl Properties {
    /// What would be shown as set, and would protect nothing.
    fn check_available(&self) -> Result<(), ArmError> {
        let scan = self.security_settings.as_ref().and_then(|s| s.source_scan_configuration.as_ref());
        let across = self.redundancy_settings.as_ref().and_then(|r| r.cross_region_restore.as_deref());
        for (state, off, what) in [
            (scan.and_then(|s| s.state.as_deref()), "Disabled", "Scanning protected machines for threats"),
            (across, "Disabled", "Cross-region restore"),
        ] {
            if state.is_some_and(|state| !state.eq_ignore_ascii_case(off)) {
                return Err(not_available(what));
            }
        }
        Ok(())
    }
}

impl Body {
    fn settings(self, app: &App, before: Option<&Vault>) -> Result<VaultSettings, ArmError> {
        let properties = self.properties.unwrap_or_default();
        if properties.encryption.as_ref().is_some_and(|e| !e.is_null()) {
            return Err(not_available("Encryption with customer-managed keys"));
        }
        properties.check_available()?;
        let mut settings = VaultSettings {
            tags: self.tags,
            sku: self.sku.map(sku_of).transpose()?,
            identity: match self.identity {
                None | Some(Value::Null) => None,
                Some(identity) => Some(identity_of(app, &identity, before)?),
            },
            ..VaultSettings::default()
        };
        settings.single_writer = properties.strongroom_single_writer;
        let security = properties.security_settings.unwrap_or_default();
        let soft = security.soft_delete_settings.unwrap_or_default();
        settings.soft_delete = soft.soft_delete_state.as_deref().map(soft_delete_of).transpose()?;
        settings.enhanced_security =
            soft.enhanced_security_state.as_deref().map(soft_delete_of).transpose()?;
        settings.soft_delete_days =
            soft.soft_delete_retention_period_in_days.map(|days| u32::try_from(days).unwrap_or(0));
        if let Some(state) = security.immutability_settings.and_then(|i| i.state) {
            settings.immutability = Some(match state.to_lowercase().as_str() {
                "disabled" => Immutability::Disabled,
                "unlocked" => Immutability::Unlocked,
                "locked" => Immutability::Locked,
                _ => {
                    return Err(ArmError::invalid_parameter(
                        "immutabilitySettings.state",
                        "it is Disabled, Unlocked or Locked",
                    ));
                }
            });
        }
        let redundancy = properties.redundancy_settings.unwrap_or_default();
        settings.redundancy =
            redundancy.standard_tier_storage_redundancy.as_deref().map(redundancy_of).transpose()?;
        settings.cross_region_restore =
            redundancy.cross_region_restore.map(|state| state.eq_ignore_ascii_case("enabled"));
        for (name, value) in [
            ("monitoringSettings", properties.monitoring_settings),
            ("costManagementSettings", properties.cost_management_settings),
            (vaults::PUBLIC_NETWORK_ACCESS, public_network_access(properties.public_network_access)?),
            (vaults::RESTORE_SETTINGS, properties.restore_settings),
        ] {
            // They are shown again as they came: never null, and never large.
            if let Some(value) = value.filter(|v| !v.is_null() && v.to_string().len() <= 4096) {
                settings.kept.insert(name.into(), value);
            }
        }
        Ok(settings)
    }
}

/// Whether a vault is open to public networks, in the word that it is shown by.
fn public_network_access(wanted: Option<Value>) -> Result<Option<Value>, ArmError> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_null()) else { return Ok(None) };
    match wanted.as_str().unwrap_or_default().to_lowercase().as_str() {
        "enabled" | "enable" => Ok(Some("Enabled".into())),
        "disabled" | "disable" => Ok(Some("Disabled".into())),
        _ => Err(ArmError::invalid_parameter("publicNetworkAccess", "it is Enabled or Disabled")),
    }
}

fn sku_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {"name": {"type": "string", "enum": ["Standard", "RS0"]}},
        "required": ["name"],
    })
}

/// Azure's two kinds of vault, which are one here.
fn sku_of(wanted: Value) -> Result<Value, ArmError> {
    let is_known = |name: &str| ["Standard", "RS0"].iter().any(|known| known.eq_ignore_ascii_case(name));
    match wanted["name"].as_str().is_some_and(is_known) {
        true => Ok(wanted),
        false => Err(ArmError::invalid_parameter("sku.name", "it is Standard or RS0.")),
    }
}

fn identity_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {"type": {"type": "string"}, "userAssignedIdentities": {"type": "object"}},
        "required": ["type"],
    })
}

/// The identity a client asks for; its ids stay the same for the life of the vault.
fn identity_of(app: &App, wanted: &Value, before: Option<&Vault>) -> Result<Option<Value>, ArmError> {
    let kind = wanted["type"].as_str().unwrap_or("None").to_lowercase().replace(' ', "");
    let system = kind.contains("systemassigned");
    let user = kind.contains("userassigned");
    if !system && !user {
        return Ok(None);
    }
    let mut identity = serde_json::Map::new();
    if system {
        let known = before.and_then(|v| v.identity.as_ref()).and_then(|i| i["principalId"].as_str());
        let id = known.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        identity.insert("principalId".into(), id.into());
        identity.insert("tenantId".into(), app.service.tenant().to_string().into());
    }
    let name = match (system, user) {
        (true, true) => "SystemAssigned, UserAssigned",
        (false, true) => "UserAssigned",
        _ => "SystemAssigned",
    };
    identity.insert("type".into(), name.into());
    if user {
        let mut users = before
            .and_then(|v| v.identity.as_ref())
            .and_then(|i| i["userAssignedIdentities"].as_object().cloned())
            .unwrap_or_default();
        if let Some(wanted) = wanted["userAssignedIdentities"].as_object() {
            for (id, value) in wanted.iter().take(100) {
                // Null takes one away.
                match value.is_null() {
                    true => drop(users.remove(id)),
                    false => {
                        users.entry(id.clone()).or_insert_with(|| {
                            json!({
                                "clientId": uuid::Uuid::new_v4().to_string(),
                                "principalId": uuid::Uuid::new_v4().to_string(),
                            })
                        });
                    }
                }
            }
        }
        identity.insert("userAssignedIdentities".into(), Value::Object(users));
    }
    Ok(Some(Value::Object(identity)))
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let all = vaults::list(&app.service, params.get("group"))?;
    let shown = all.iter().map(|v| show(app, v)).collect::<Result<Vec<_>, _>>()?;
    page(request, shown, 1000, by_shown_name, Value::clone)
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(show(app, &vault_of(app, params)?)?)
}

fn put(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: Body = request.json()?;
    let location = body.location.clone().ok_or_else(|| {
        ArmError::bad_request("LocationRequired", "The location property is required for this definition.")
    })?;
    let before = vaults::find(&app.service, &params["group"], &params["vault"])?;
    let settings = body.settings(app, before.as_ref())?;
    let (vault, is_new) =
        vaults::put(&app.service, &params["group"], &params["vault"], &location, &settings)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let operation = operations::done(&app.service, Some(vault.id))?;
    let path = format!("{}/operationStatus/{}", vault_id(app, &vault), operation.id);
    let answer = Response::with(status, show(app, &vault)?)?;
    Ok(match is_new {
        true => answer
            .header(http::HeaderName::from_static("azure-asyncoperation"), request.url_of(&path))
            .retry_after(1),
        false => answer,
    })
}

fn patch(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let Patch(body) = request.json()?;
    let vault = vaults::update(&app.service, &vault, &body.settings(app, Some(&vault))?)?;
    Response::ok(show(app, &vault)?)
}

fn delete(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = match vault_of(app, params) {
        Ok(vault) => vault,
        // Deleting what is not there is done already; but only if the group is.
        Err(error) if error.status == StatusCode::NOT_FOUND && error.code == "ResourceNotFound" => {
            return Ok(Response::empty(StatusCode::NO_CONTENT));
        }
        Err(error) => return Err(error),
    };
    vaults::delete(&app.service, &vault)?;
    let operation = operations::done(&app.service, None)?;
    let base = vault_id(app, &vault);
    let status = format!("{base}/operationStatus/{}", operation.id);
    let result = format!("{base}/operationResults/{}", operation.id);
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

/// An operation of the vault that a path names. Also when the vault is gone: that may be what the operation did. Another
/// vault's is as if it were not there.
fn operation_of(app: &App, params: &Params) -> Result<operations::OperationState, ArmError> {
    check_subscription(app, params)?;
    let state = operations::state(&app.service, following::parse_operation(&params["operation"])?)?;
    if let (Some(of), Some(group), Some(name)) = (state.vault, params.get("group"), params.get("vault"))
        && vaults::find(&app.service, group, name)?.is_none_or(|vault| vault.id != of)
    {
        return Err(ArmError::not_found(
            "OperationNotFound",
            format!("Operation {} was not found in vault '{}'.", state.id, crate::error::shorten(name)),
        ));
    }
    Ok(state)
}

pub(crate) fn status(app: &App, _: &Request, params: &Params) -> Answer {
    let state = operation_of(app, params)?;
    Response::ok(following::show_operation(&state))
}

fn result(app: &App, _: &Request, params: &Params) -> Answer {
    operation_of(app, params)?;
    match vaults::find(&app.service, &params["group"], &params["vault"])? {
        Some(vault) => Response::ok(show(app, &vault)?),
        None => Ok(Response::empty(StatusCode::NO_CONTENT)),
    }
}
