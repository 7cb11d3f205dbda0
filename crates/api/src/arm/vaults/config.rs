//! A vault's older settings objects, which clients still read and write.

use crate::arm::shared::{Answer, App, not_available, vault_id, vault_of, vault_path};
use crate::arm::vaults::vault::{redundancy_name, redundancy_of, soft_delete_name, soft_delete_of};
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_catalog::{SoftDelete, Vault};
use strongroom_domain::limits::SOFT_DELETE_DAYS;
use strongroom_service::vaults::{self, VaultSettings};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Vault settings";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupconfig/read";
    const WRITE: &str = "Microsoft.RecoveryServices/Vaults/backupconfig/write";
    const STORAGE_READ: &str = "Microsoft.RecoveryServices/Vaults/backupstorageconfig/read";
    const STORAGE_WRITE: &str = "Microsoft.RecoveryServices/Vaults/backupstorageconfig/write";
    vec![
        Route::get(vault_path!("/backupconfig/vaultconfig"), "BackupResourceVaultConfigs_Get", config)
            .answers("Resource")
            .action(READ)
            .summary("Soft delete and security settings.")
            .tag(TAG),
        Route::patch(
            vault_path!("/backupconfig/vaultconfig"),
            "BackupResourceVaultConfigs_Update",
            set_config,
        )
        .answers("Resource")
        .action(WRITE)
        .reads::<ConfigBody>("VaultConfig")
        .summary("Changes soft delete and security settings.")
        .tag(TAG),
        Route::put(vault_path!("/backupconfig/vaultconfig"), "BackupResourceVaultConfigs_Put", set_config)
            .answers("Resource")
            .action(WRITE)
            .reads::<ConfigBody>("VaultConfig")
            .summary("Changes soft delete and security settings.")
            .tag(TAG),
        Route::get(
            vault_path!("/backupstorageconfig/vaultstorageconfig"),
            "BackupResourceStorageConfigs_Get",
            storage,
        )
        .answers("Resource")
        .action(STORAGE_READ)
        .summary("The redundancy of the vault's storage.")
        .tag(TAG),
        Route::put(
            vault_path!("/backupstorageconfig/vaultstorageconfig"),
            "BackupResourceStorageConfigs_Update",
            set_storage,
        )
        .answers("Resource")
        .action(STORAGE_WRITE)
        .reads::<StorageBody>("StorageConfig")
        .summary("Changes the redundancy of the vault's storage.")
        .tag(TAG),
        Route::patch(
            vault_path!("/backupstorageconfig/vaultstorageconfig"),
            "BackupResourceStorageConfigs_Patch",
            patch_storage,
        )
        .action(STORAGE_WRITE)
        .reads::<StorageBody>("StorageConfig")
        .success(&[204])
        .summary("Changes the redundancy of the vault's storage.")
        .tag(TAG),
        Route::get(
            vault_path!("/backupEncryptionConfigs/backupResourceEncryptionConfig"),
            "BackupResourceEncryptionConfigs_Get",
            encryption,
        )
        .answers("Resource")
        .action("Microsoft.RecoveryServices/Vaults/backupEncryptionConfigs/read")
        .summary("How the vault's data is encrypted.")
        .tag(TAG),
    ]
}

fn show_config(app: &App, vault: &Vault) -> Value {
    json!({
        "id": format!("{}/backupconfig/vaultconfig", vault_id(app, vault)),
        "name": "vaultconfig",
        "type": "Microsoft.RecoveryServices/vaults/backupconfig",
        "properties": {
            "enhancedSecurityState": soft_delete_name(vault.enhanced_security),
            "softDeleteFeatureState": soft_delete_name(vault.soft_delete),
            "softDeleteRetentionPeriodInDays": vault.soft_delete_days,
            "isSoftDeleteFeatureStateEditable": vault.soft_delete != SoftDelete::AlwaysOn,
        },
    })
}

fn config(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(show_config(app, &vault_of(app, params)?))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
struct ConfigBody {
    properties: ConfigProperties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct ConfigProperties {
    #[schemars(extend("enum" = ["Enabled", "Disabled", "AlwaysON"]))]
    enhanced_security_state: Option<String>,
    #[schemars(extend("enum" = ["Enabled", "Disabled", "AlwaysON"]))]
    soft_delete_feature_state: Option<String>,
    #[schemars(range(min = SOFT_DELETE_DAYS.0, max = SOFT_DELETE_DAYS.1))]
    soft_delete_retention_period_in_days: Option<i64>,
}

fn set_config(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let body: ConfigBody = request.json()?;
    let p = body.properties;
    let settings = VaultSettings {
        enhanced_security: p.enhanced_security_state.as_deref().map(soft_delete_of).transpose()?,
        soft_delete: p.soft_delete_feature_state.as_deref().map(soft_delete_of).transpose()?,
        soft_delete_days: p.soft_delete_retention_period_in_days.map(|d| u32::try_from(d).unwrap_or(0)),
        ..VaultSettings::default()
    };
    let vault = vaults::update(&app.service, &vault, &settings)?;
    Response::ok(show_config(app, &vault))
}

fn show_storage(app: &App, vault: &Vault) -> Result<Value, ArmError> {
    let name = redundancy_name(vault.redundancy);
    let locked = vaults::item_count(&app.service, vault, true)? > 0;
    Ok(json!({
        "id": format!("{}/backupstorageconfig/vaultstorageconfig", vault_id(app, vault)),
        "name": "vaultstorageconfig",
        "type": "Microsoft.RecoveryServices/vaults/backupstorageconfig",
        "properties": {
            "storageModelType": name,
            "storageType": name,
            "dedupState": "Enabled",
            "xcoolState": "Disabled",
            "storageTypeState": if locked { "Locked" } else { "Unlocked" },
            "crossRegionRestoreFlag": vault.cross_region_restore,
        },
    }))
}

fn storage(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(show_storage(app, &vault_of(app, params)?)?)
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
struct StorageBody {
    properties: StorageProperties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct StorageProperties {
    #[schemars(extend("enum" = ["LocallyRedundant", "ZoneRedundant", "GeoRedundant"]))]
    storage_model_type: Option<String>,
    /// The same by its older name; the other one counts.
    #[schemars(extend("enum" = ["LocallyRedundant", "ZoneRedundant", "GeoRedundant"]))]
    storage_type: Option<String>,
    cross_region_restore_flag: Option<bool>,
}

fn store(app: &App, request: &Request, params: &Params) -> Result<Vault, ArmError> {
    let vault = vault_of(app, params)?;
    let body: StorageBody = request.json()?;
    let p = body.properties;
    if p.cross_region_restore_flag == Some(true) {
        return Err(not_available("Cross-region restore"));
    }
    let settings = VaultSettings {
        redundancy: p.storage_model_type.or(p.storage_type).as_deref().map(redundancy_of).transpose()?,
        cross_region_restore: p.cross_region_restore_flag,
        ..VaultSettings::default()
    };
    Ok(vaults::update(&app.service, &vault, &settings)?)
}

fn set_storage(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = store(app, request, params)?;
    Response::ok(show_storage(app, &vault)?)
}

fn patch_storage(app: &App, request: &Request, params: &Params) -> Answer {
    store(app, request, params)?;
    Ok(Response::empty(http::StatusCode::NO_CONTENT))
}

fn encryption(app: &App, _: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    Response::ok(json!({
        "id": format!("{}/backupEncryptionConfigs/backupResourceEncryptionConfig", vault_id(app, &vault)),
        "name": "backupResourceEncryptionConfig",
        "type": "Microsoft.RecoveryServices/vaults/backupEncryptionConfigs",
        "properties": {
            "useSystemAssignedIdentity": true,
            "encryptionAtRestType": "MicrosoftManaged",
            "lastUpdateStatus": "NotEnabled",
            "infrastructureEncryptionState": "Disabled",
        },
    }))
}
