//! What clients read that is empty here, or says no more than that: there truly is nothing of it.

use crate::arm::shared::kinds::nothing;
use crate::arm::shared::{Answer, App, vault_of, vault_path};
use crate::route::{LIST, PAGED};
use crate::{ArmError, Params, Request, Response, Route};
use serde_json::json;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Status";
    const NETWORKING: &str = "Private endpoints";
    const REPLICATION: &str = "Site recovery";
    vec![
        Route::get(vault_path!("/replicationUsages"), "ReplicationUsages_List", none)
            .action("Microsoft.RecoveryServices/Vaults/replicationUsages/read")
            .query(PAGED)
            .summary("Machines that are replicated: there are none.")
            .tag(REPLICATION),
        Route::get(vault_path!("/replicationVaultSettings"), "ReplicationVaultSetting_List", none)
            .action("Microsoft.RecoveryServices/Vaults/replicationVaultSettings/read")
            .query(PAGED)
            .summary("Settings of replication: there are none.")
            .tag(REPLICATION),
        Route::get(vault_path!("/privateLinkResources"), "PrivateLinkResources_List", none)
            .action("Microsoft.RecoveryServices/Vaults/privateLinkResources/read")
            .query(PAGED)
            .summary("What private endpoints could lead to: there is nothing.")
            .tag(NETWORKING),
        Route::get(vault_path!("/privateLinkResources/{resource}"), "PrivateLinkResources_Get", no_link)
            .action("Microsoft.RecoveryServices/Vaults/privateLinkResources/read")
            .summary("There is none.")
            .tag(NETWORKING),
        Route::get(vault_path!("/privateEndpointConnections"), "PrivateEndpointConnections_List", none)
            .action("Microsoft.RecoveryServices/Vaults/privateEndpointConnections/read")
            .query(PAGED)
            .summary("Connections of private endpoints: there are none.")
            .tag(NETWORKING),
        Route::get(
            vault_path!("/privateEndpointConnections/{connection}"),
            "PrivateEndpointConnection_Get",
            no_connection,
        )
        .action("Microsoft.RecoveryServices/Vaults/privateEndpointConnections/read")
        .summary("There is none.")
        .tag(NETWORKING),
        Route::get(vault_path!("/backupEngines/{engine}"), "BackupEngines_Get", no_engine)
            .action("Microsoft.RecoveryServices/Vaults/backupEngines/read")
            .summary("A backup server: there is none.")
            .tag(TAG),
        Route::get(vault_path!("/backupResourceGuardProxies"), "ResourceGuardProxies_Get", guards)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/read")
            .summary("The vault's resource guards: there are none.")
            .tag(TAG),
        Route::get(vault_path!("/backupProtectionIntents"), "BackupProtectionIntent_List", intents)
            .action("Microsoft.RecoveryServices/Vaults/backupProtectionIntents/read")
            .query(LIST)
            .summary("Intents to protect: there are none.")
            .tag(TAG),
        Route::get(vault_path!("/backupEngines"), "BackupEngines_List", engines)
            .action("Microsoft.RecoveryServices/Vaults/backupEngines/read")
            .query(LIST)
            .summary("Backup servers: there are none.")
            .tag(TAG),
    ]
}

fn none(app: &App, request: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    nothing(request, &[])
}

fn missing(app: &App, params: &Params, kind: &str, name: &str) -> Answer {
    let vault = vault_of(app, params)?;
    let what = format!("Microsoft.RecoveryServices/vaults/{}/{kind}/{name}", vault.name);
    Err(ArmError::resource_not_found(&what, &vault.group))
}

fn no_link(app: &App, _: &Request, params: &Params) -> Answer {
    missing(app, params, "privateLinkResources", &params["resource"])
}

fn no_connection(app: &App, _: &Request, params: &Params) -> Answer {
    missing(app, params, "privateEndpointConnections", &params["connection"])
}

fn no_engine(app: &App, _: &Request, params: &Params) -> Answer {
    missing(app, params, "backupEngines", &params["engine"])
}

fn intents(app: &App, request: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    nothing(request, &["backupManagementType", "itemType", "itemName", "parentName"])
}

fn engines(app: &App, request: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    nothing(request, &["backupManagementType", "friendlyName", "backupEngineName"])
}

fn guards(app: &App, _: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    Response::ok(json!({"value": []}))
}
