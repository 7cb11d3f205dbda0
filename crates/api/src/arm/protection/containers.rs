//! Containers and protectable items: machines, as a vault's backup plane names them.

use crate::arm::jobs::following;
use crate::arm::shared::kinds::{Kinds, labels, nothing};
use crate::arm::shared::{
    Answer, App, by_name, check_container, check_fabric, container_id, id_of_machine, machine_id,
    machine_link, not_available, of_readable_machines, page, vault_id, vault_of, vault_path,
};
use crate::route::{LIST, Link, Named, Needs};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use serde_json::{Value, json};
use strongroom_catalog::{Item, Machine, Vault};
use strongroom_domain::Datasource;
use strongroom_domain::access::linked;
use strongroom_domain::arm_names;
use strongroom_domain::item::ItemState;
use strongroom_service::{items, machines};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Containers";
    vec![
        Route::post(
            vault_path!("/backupFabrics/{fabric}/refreshContainers"),
            "ProtectionContainers_Refresh",
            refresh,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/refreshContainers/action")
        .success(&[202])
        .summary("Looks for machines on all hosts now.")
        .tag(TAG),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/operationResults/{operation}"),
            "ProtectionContainerRefreshOperationResults_Get",
            refreshed,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/operationResults/read")
        .success(&[204, 202])
        .summary("Whether looking for machines is over.")
        .tag(TAG),
        Route::get(vault_path!("/backupProtectableItems"), "BackupProtectableItems_List", protectable)
            .action("Microsoft.RecoveryServices/Vaults/backupProtectableItems/read")
            .query(LIST)
            .summary("Machines that the vault could protect.")
            .tag(TAG),
        Route::get(vault_path!("/backupProtectionContainers"), "BackupProtectionContainers_List", list)
            .action("Microsoft.RecoveryServices/Vaults/backupProtectionContainers/read")
            .query(LIST)
            .summary("Machines that the vault protects.")
            .tag(TAG),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/protectableContainers"),
            "ProtectableContainers_List",
            protectable_containers,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectableContainers/read")
        .query(LIST)
        .summary("Containers that could be registered: machines need not be.")
        .tag(TAG),
        Route::get(
            vault_path!("/backupDeletedProtectionContainers"),
            "DeletedProtectionContainers_List",
            deleted,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupDeletedProtectionContainers/read")
        .query(LIST)
        .summary("Machines whose items are deleted and can be brought back.")
        .tag(TAG),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}"),
            "ProtectionContainers_Get",
            get,
        )
        .answers("Resource")
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/read")
        .also_needs("Microsoft.Compute/virtualMachines/read over the machine", |app, _, params| {
            Ok(machine_of(app, params, linked::READ_MACHINE))
        })
        .summary("A machine that the vault protects.")
        .tag(TAG),
        Route::put(
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}"),
            "ProtectionContainers_Register",
            register,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/write")
        .takes("Container")
        .names(&[Named { field: "properties.sourceResourceId", needs: Needs::Id(linked::PROTECTED_MACHINE) }])
        .also_needs("the same over the machine of the path", |app, _, params| {
            Ok(machine_of(app, params, linked::PROTECTED_MACHINE))
        })
        .summary("Registers a machine, which discovery has done already.")
        .tag(TAG),
        Route::delete(
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}"),
            "ProtectionContainers_Unregister",
            unregister,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/delete")
        .success(&[202, 204])
        .summary("Forgets the registration of a machine without an item.")
        .tag(TAG),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}/items"),
            "BackupWorkloadItems_List",
            workload_items,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/items/read")
        .query(LIST)
        .summary("Databases within a machine: none are looked for.")
        .tag(TAG),
        Route::get(CONTAINER, "ProtectionContainerOperationResults_Get", following::result)
            .action(
                "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/operationResults/read",
            )
            .success(&[204, 202])
            .summary("Whether an operation on a container is over.")
            .tag("Operations"),
        Route::get(
            vault_path!("/backupFabrics/{fabric}/operationsStatus/{operation}"),
            "ProtectionContainerRefreshOperationStatus_Get",
            following::status,
        )
        .shows::<following::OperationShown>("OperationStatus")
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/operationsStatus/read")
        .summary("How looking for machines stands.")
        .tag("Operations"),
    ]
}

/// The machine that a container's name is of; what is no such name is not found.
fn machine_of(app: &App, params: &Params, actions: &'static [&'static str]) -> Vec<Link> {
    let machine = arm_names::parse_container_name(&params["container"]);
    machine.map(|key| machine_link(app, actions, &key.group, &key.machine)).into_iter().collect()
}

fn refresh(app: &App, request: &Request, params: &Params) -> Answer {
    check_fabric(params)?;
    let vault = vault_of(app, params)?;
    let operation = machines::refresh(&app.service, Some(vault.id))?;
    let status = format!("{}/backupFabrics/Azure/operationsStatus/{}", vault_id(app, &vault), operation.id);
    let result = refresh_path(app, &vault, operation.id);
    Ok(Response::accepted(request, Some(&status), Some(&result), REFRESH_RETRY_SECONDS))
}

/// Where a refresh is followed.
fn refresh_path(app: &App, vault: &Vault, operation: uuid::Uuid) -> String {
    format!("{}/backupFabrics/Azure/operationResults/{operation}", vault_id(app, vault))
}

fn refreshed(app: &App, request: &Request, params: &Params) -> Answer {
    check_fabric(params)?;
    let vault = vault_of(app, params)?;
    let state = following::operation_of(app, &vault, &params["operation"])?;
    match (state.ended_at, state.error) {
        (None, _) => Ok(Response::accepted(
            request,
            None,
            Some(&refresh_path(app, &vault, state.id)),
            REFRESH_RETRY_SECONDS,
        )),
        (Some(_), Some((code, message))) => {
            Err(ArmError::new(StatusCode::INTERNAL_SERVER_ERROR, code, message))
        }
        (Some(_), None) => Ok(Response::empty(StatusCode::NO_CONTENT)),
    }
}

/// How soon somebody who follows a refresh may ask again: a look takes some seconds at most.
const REFRESH_RETRY_SECONDS: u32 = 1;

fn show_protectable(app: &App, vault: &Vault, machine: &Machine) -> Value {
    let container = arm_names::container_name(&machine.group, &machine.name);
    let id = container_id(app, vault, &container);
    let labels = labels(Datasource::Machine);
    json!({
        "id": format!("{id}/protectableItems/{}", arm_names::protectable_id_name(&machine.group, &machine.name)),
        "name": arm_names::container_short_name(&machine.group, &machine.name),
        "type": "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers/protectableItems",
        "properties": {
            "virtualMachineId": id_of_machine(app, machine),
            "virtualMachineVersion": "Compute",
            "resourceGroup": machine.group,
            "backupManagementType": labels.management,
            "workloadType": labels.workload,
            "protectableItemType": labels.item,
            "friendlyName": machine.name,
            "protectionState": "NotProtected",
        },
    })
}

fn protectable(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let found = items::protectable(&app.service, &vault)?;
    let mut found = of_readable_machines(app, request, found, |m| (m.group.as_str(), m.name.as_str()))?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&["backupManagementType", "workloadType", "friendlyName", "status", "itemType"])
            .map_err(refused)?;
        let states = ["NotProtected", "Protecting", "Protected", "ProtectionFailed"];
        let state = wanted.one_of("status", &states).map_err(refused)?;
        let kinds = Kinds::wanted(&wanted).map_err(refused)?;
        if !kinds.take(Datasource::Machine) || state.is_some_and(|state| state != states[0]) {
            found.clear();
        }
        found.retain(|m| wanted.passes("friendlyName", &m.name));
    }
    page(request, found, 500, |m| by_name(&m.name, &m.group), |m| show_protectable(app, &vault, m))
}

/// The first two are machines'.
const CONTAINER_TYPES: [&str; 16] = [
    "Microsoft.Compute/virtualMachines",
    "IaasVMContainer",
    "Microsoft.ClassicCompute/virtualMachines",
    "IaasVMServiceContainer",
    "Windows",
    "AzureBackupServerContainer",
    "AzureSqlContainer",
    "AzureWorkloadContainer",
    "Cluster",
    "DPMContainer",
    "GenericContainer",
    "HanaHSRContainer",
    "SQLAGWorkLoadContainer",
    "StorageContainer",
    "VCenter",
    "VMAppContainer",
];
const HEALTHY: &str = "Healthy";

fn show(app: &App, vault: &Vault, item: &Item) -> Value {
    let container = item.container();
    json!({
        "id": container_id(app, vault, &container),
        "name": container,
        "type": "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers",
        "properties": {
            "virtualMachineId": machine_id(app, &item.group, &item.machine_name),
            "virtualMachineVersion": "Compute",
            "resourceGroup": item.group,
            "friendlyName": item.machine_name,
            "backupManagementType": labels(item.datasource).management,
            "registrationStatus": if item.state == ItemState::SoftDeleted { "SoftDeleted" } else { "Registered" },
            "healthStatus": HEALTHY,
            "containerType": "Microsoft.Compute/virtualMachines",
            "protectableObjectType": "Microsoft.Compute/virtualMachines",
        },
    })
}

fn listed(app: &App, request: &Request, params: &Params, deleted_only: bool) -> Answer {
    let vault = vault_of(app, params)?;
    let found = items::list(&app.service, &vault)?;
    let mut found =
        of_readable_machines(app, request, found, |i| (i.group.as_str(), i.machine_name.as_str()))?;
    found.retain(|i| !deleted_only || i.state == ItemState::SoftDeleted);
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&["backupManagementType", "friendlyName", "status", "containerType", "healthStatus"])
            .map_err(refused)?;
        let status =
            wanted.one_of("status", &["Registered", "SoftDeleted", "NotRegistered"]).map_err(refused)?;
        let kind = wanted.one_of("containerType", &CONTAINER_TYPES).map_err(refused)?;
        if kind.is_some_and(|kind| !CONTAINER_TYPES[..2].contains(&kind)) {
            found.clear();
        }
        let kinds = Kinds::wanted(&wanted).map_err(refused)?;
        found.retain(|i| {
            kinds.take(i.datasource)
                && wanted.passes("friendlyName", &i.machine_name)
                && wanted.passes("healthStatus", HEALTHY)
                // Azure lists the soft-deleted ones among the registered.
                && match status {
                    None | Some("Registered") => true,
                    Some("SoftDeleted") => i.state == ItemState::SoftDeleted,
                    Some(_) => false,
                }
        });
    }
    page(request, found, 500, |i| by_name(&i.name(), ""), |i| show(app, &vault, i))
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    listed(app, request, params, false)
}

fn deleted(app: &App, request: &Request, params: &Params) -> Answer {
    listed(app, request, params, true)
}

fn protectable_containers(app: &App, request: &Request, params: &Params) -> Answer {
    check_fabric(params)?;
    vault_of(app, params)?;
    nothing(request, &["backupManagementType", "status"])
}

pub(crate) fn found(app: &App, params: &Params) -> Result<(Vault, Item), ArmError> {
    let vault = vault_of(app, params)?;
    let not_found = || {
        ArmError::not_found(
            "BMSUserErrorContainerObjectNotFound",
            format!(
                "The container '{}' was not found in this vault.",
                crate::error::shorten(&params["container"])
            ),
        )
    };
    let key = arm_names::parse_container_name(&params["container"]).ok_or_else(not_found)?;
    let name = arm_names::item_name(&key.group, &key.machine);
    let item = items::find(&app.service, &vault, &name)?.ok_or_else(not_found)?;
    check_container(params, &item.container())?;
    Ok((vault, item))
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    let (vault, item) = found(app, params)?;
    Response::ok(show(app, &vault, &item))
}

fn register(app: &App, _: &Request, params: &Params) -> Answer {
    check_fabric(params)?;
    let vault = vault_of(app, params)?;
    let name = &params["container"];
    let machine = arm_names::parse_container_name(name)
        .map(|key| machines::get(&app.service, &key.group, &key.machine))
        .transpose()?
        .ok_or_else(|| not_available("Registering containers other than virtual machines"))?;
    let container = arm_names::container_name(&machine.group, &machine.name);
    Response::ok(json!({
        "id": container_id(app, &vault, &container),
        "name": container,
        "type": "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers",
        "properties": {
            "virtualMachineId": id_of_machine(app, &machine),
            "resourceGroup": machine.group,
            "friendlyName": machine.name,
            "backupManagementType": labels(Datasource::Machine).management,
            "registrationStatus": "Registered",
            "healthStatus": "Healthy",
            "containerType": "Microsoft.Compute/virtualMachines",
        },
    }))
}

fn unregister(app: &App, _: &Request, params: &Params) -> Answer {
    match found(app, params) {
        Ok((_, item)) => Err(ArmError::bad_request(
            "BMSUserErrorContainerHasDatasources",
            format!(
                "The container of '{}' still has a protected item: stop its protection and delete its data first.",
                item.machine_name
            ),
        )),
        Err(error) if error.code == "BMSUserErrorContainerObjectNotFound" => {
            Ok(Response::empty(StatusCode::NO_CONTENT))
        }
        Err(error) => Err(error),
    }
}

const CONTAINER: &str =
    vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}/operationResults/{operation}");

fn workload_items(app: &App, request: &Request, params: &Params) -> Answer {
    found(app, params)?;
    nothing(
        request,
        &["backupManagementType", "workloadType", "workloadItemType", "itemType", "protectionStatus"],
    )
}
