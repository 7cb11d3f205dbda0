//! What clients read that is empty here, or says no more than that: there truly is nothing of it.

use crate::arm::jobs::job;
use crate::arm::protection::containers;
use crate::arm::shared::kinds::nothing;
use crate::arm::shared::{Answer, App, check_subscription, vault_of, vault_path};
use crate::route::{LIST, PAGED};
use crate::{Access, ArmError, Params, Request, Response, Route};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_domain::arm_names;
use strongroom_engine::service::vaults;

const CONTAINER: &str =
    vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}/operationResults/{operation}");

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Status";
    const NETWORKING: &str = "Private endpoints";
    const REPLICATION: &str = "Site recovery";
    vec![
        Route::get("/providers/Microsoft.RecoveryServices/operations", "Operations_List", operations)
            .summary("What can be done with vaults: the actions that roles allow.")
            .tag("Subscriptions"),
        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/locations/{location}/checkNameAvailability",
            "RecoveryServices_CheckNameAvailability",
            check_name,
        )
        .action("Microsoft.RecoveryServices/locations/checkNameAvailability/action")
        .takes("NameRequest")
        .summary("Whether a vault could have a name.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/capabilities",
            "RecoveryServices_Capabilities",
            capabilities,
        )
        .action("Microsoft.RecoveryServices/locations/capabilities/action")
        .takes("CapabilitiesRequest")
        .summary("Which DNS zones private endpoints would need: none.")
        .tag(TAG),
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
        Route::get(
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}/items"),
            "BackupWorkloadItems_List",
            workload_items,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/items/read")
        .query(LIST)
        .summary("Databases within a machine: none are looked for.")
        .tag("Containers"),
        Route::get(CONTAINER, "ProtectionContainerOperationResults_Get", job::result)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/operationResults/read")
            .success(&[204, 202])
            .summary("Whether an operation on a container is over.")
            .tag("Operations"),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/operationsStatus/{operation}"),
            "ProtectionContainerRefreshOperationStatus_Get",
            job::status,
        )
        .answers("OperationStatus")
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/operationsStatus/read")
        .summary("How looking for machines stands.")
        .tag("Operations"),
    ]
}

/// By the actions that routes need: what there is to be allowed.
fn operations(_: &App, _: &Request, _: &Params) -> Answer {
    const PROVIDER: &str = "Microsoft.RecoveryServices/";
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for route in crate::arm::routes() {
        if let Access::Action(action) = route.access
            && action.starts_with(PROVIDER)
        {
            found.entry(action).or_insert(route.summary);
        }
    }
    let shown = found.into_iter().map(|(action, summary)| {
        let rest = action.strip_prefix(PROVIDER).unwrap_or(action);
        let resource = rest.rsplit_once('/').map_or(rest, |(resource, _)| resource);
        json!({
            "name": action,
            "display": {
                "provider": "Microsoft.RecoveryServices", "resource": resource, "operation": rest, "description": summary,
            },
            "origin": "user",
        })
    });
    Response::ok(json!({"value": shown.collect::<Vec<_>>()}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NameBody {
    name: Option<String>,
    r#type: Option<String>,
}

fn check_name(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: NameBody = request.json()?;
    let kind = body.r#type.unwrap_or_default();
    if !kind.eq_ignore_ascii_case("Microsoft.RecoveryServices/vaults") {
        return Err(ArmError::invalid_parameter("type", "it is Microsoft.RecoveryServices/Vaults"));
    }
    let name = body.name.ok_or_else(|| ArmError::invalid_content("name is missing"))?;
    if let Err(error) = arm_names::check_vault_name(&name) {
        return Response::ok(
            json!({"nameAvailable": false, "reason": "Invalid", "message": error.to_string()}),
        );
    }
    if vaults::find(&app.service, &params["group"], &name)?.is_some() {
        let message = format!("Resource group '{}' has a vault '{name}' already.", &params["group"]);
        return Response::ok(json!({"nameAvailable": false, "reason": "AlreadyExists", "message": message}));
    }
    Response::ok(json!({"nameAvailable": true}))
}

fn capabilities(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: Value = request.json()?;
    let kind = body["type"].as_str().unwrap_or_default();
    if !kind.eq_ignore_ascii_case("Microsoft.RecoveryServices/vaults") {
        return Err(ArmError::invalid_parameter("type", "it is Microsoft.RecoveryServices/Vaults"));
    }
    let asked = body["properties"]["dnsZones"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Private endpoints are not there, and names are the hosts' own.
    let zones: Vec<Value> = asked
        .iter()
        .filter_map(|zone| zone["subResource"].as_str())
        .map(|part| json!({"subResource": crate::error::shorten(part), "requiredZoneNames": []}))
        .collect();
    Response::ok(json!({"type": kind, "properties": {"dnsZones": zones}}))
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

fn workload_items(app: &App, request: &Request, params: &Params) -> Answer {
    containers::found(app, params)?;
    nothing(
        request,
        &["backupManagementType", "workloadType", "workloadItemType", "itemType", "protectionStatus"],
    )
}
