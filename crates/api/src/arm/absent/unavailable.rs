//! What Azure has and this server has not yet: refused with an error that says so, never with a false success.

use crate::arm::shared::{
    Answer, App, CROSS_REGION, check_subscription, item_of, item_path, not_available, vault_of, vault_path,
};
use crate::{ArmError, Handler, Params, Request, Route};
use http::{Method, StatusCode};

/// Made elsewhere: this server shows what it finds.
fn made_elsewhere(what: &str) -> Answer {
    Err(ArmError::new(StatusCode::BAD_REQUEST, "OperationNotAllowed", what))
}

fn machine(_: &App, _: &Request, _: &Params) -> Answer {
    made_elsewhere(
        "Virtual machines are not made or deleted through this server: define them with libvirt (`virt-install`, `virsh define`), and they are discovered. `az backup restore restore-disks` makes a machine of a recovery point.",
    )
}

fn network(_: &App, _: &Request, _: &Params) -> Answer {
    made_elsewhere(
        "Virtual networks are the hosts' libvirt networks: make and remove them there (`virsh net-define`).",
    )
}

fn account(_: &App, _: &Request, _: &Params) -> Answer {
    made_elsewhere(
        "Storage accounts are the places that disks can be restored to: libvirt's storage pools (`virsh pool-define`), and what the service's configuration lists.",
    )
}

fn cross_region(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Err(not_available(CROSS_REGION))
}

macro_rules! refused {
    ($($name:ident, $constant:ident: $what:expr;)*) => { $(
        const $constant: &str = $what;

        fn $name(app: &App, _: &Request, params: &Params) -> Answer {
            vault_of(app, params)?;
            Err(not_available($constant))
        }
    )* };
}

refused! {
    guard, GUARD: "Multi-user authorisation with resource guards";
    pin, PIN: "A security PIN for critical operations";
    keys, KEYS: "Encryption with customer-managed keys";
    files, FILES: "Recovering files by mounting a recovery point";
    archive, ARCHIVE: "Moving recovery points to the archive tier";
    intents, INTENTS: "Automatic protection";
    scan, SCAN: "Scanning protected machines for threats";
    workloads, WORKLOADS: "Looking for databases in machines";
    export, EXPORT: "Exporting jobs to a blob (`GET …/backupJobs` lists them)";
    data_move, DATA_MOVE: "Moving a vault's data to another vault";
    agents, AGENTS: "Registering agents and servers with a vault";
    endpoints, ENDPOINTS: "Private endpoints";
    replication, REPLICATION: "Site recovery";
}

fn access_token(app: &App, _: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    Err(not_available(CROSS_REGION))
}

macro_rules! location {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/",
            $rest
        )
    };
}

macro_rules! elsewhere {
    ($rest:literal) => {
        concat!("/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.", $rest)
    };
}

/// Method, pattern, operation, handler, what it is of, action.
type Refused = (Method, &'static str, &'static str, Handler<App>, &'static str, &'static str);

/// The tag of all that answers so. `docs/az.md` lists them, by what they are of.
pub const TAG: &str = "Not available yet";

pub fn routes() -> Vec<Route<App>> {
    let mut routes = vec![
        Route::get(vault_path!("/backupResourceGuardProxies/{guard}"), "ResourceGuardProxy_Get", no_guard)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/read")
            .summary("A resource guard: there is none.")
            .tag("Status"),
        Route::put(
            elsewhere!("Compute/virtualMachines/{machine}"),
            "VirtualMachines_CreateOrUpdate",
            machine,
        )
        .action("Microsoft.Compute/virtualMachines/write")
        .summary("Refused: machines are made with libvirt.")
        .tag("Virtual machines"),
        Route::delete(elsewhere!("Compute/virtualMachines/{machine}"), "VirtualMachines_Delete", machine)
            .action("Microsoft.Compute/virtualMachines/delete")
            .summary("Refused: machines are removed with libvirt.")
            .tag("Virtual machines"),
        Route::put(
            elsewhere!("Network/virtualNetworks/{network}"),
            "VirtualNetworks_CreateOrUpdate",
            network,
        )
        .action("Microsoft.Network/virtualNetworks/write")
        .summary("Refused: networks are made with libvirt.")
        .tag("Virtual networks"),
        Route::delete(elsewhere!("Network/virtualNetworks/{network}"), "VirtualNetworks_Delete", network)
            .action("Microsoft.Network/virtualNetworks/delete")
            .summary("Refused: networks are removed with libvirt.")
            .tag("Virtual networks"),
        Route::put(elsewhere!("Storage/storageAccounts/{account}"), "StorageAccounts_Create", account)
            .action("Microsoft.Storage/storageAccounts/write")
            .summary("Refused: places are configured.")
            .tag("Storage accounts"),
        Route::delete(elsewhere!("Storage/storageAccounts/{account}"), "StorageAccounts_Delete", account)
            .action("Microsoft.Storage/storageAccounts/delete")
            .summary("Refused: places are configured.")
            .tag("Storage accounts"),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.Storage/checkNameAvailability",
            "StorageAccounts_CheckNameAvailability",
            account,
        )
        .action("Microsoft.Storage/checkNameAvailability/read")
        .summary("Refused: places are configured.")
        .tag("Storage accounts"),
        Route::post(item_path!("/undelete"), "ProtectedItems_Undelete", undelete_by_put)
            .action(
                "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write",
            )
            .summary("Undeleting is a PUT with isRehydrate.")
            .tag("Protected items"),
    ];
    let refused: [Refused; 41] = [
        (
            Method::PUT,
            vault_path!("/backupResourceGuardProxies/{guard}"),
            "ResourceGuardProxy_Put",
            guard,
            GUARD,
            "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/write",
        ),
        (
            Method::DELETE,
            vault_path!("/backupResourceGuardProxies/{guard}"),
            "ResourceGuardProxy_Delete",
            guard,
            GUARD,
            "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/delete",
        ),
        (
            Method::POST,
            vault_path!("/backupResourceGuardProxies/{guard}/unlockDelete"),
            "ResourceGuardProxy_UnlockDelete",
            guard,
            GUARD,
            "Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/unlockDelete/action",
        ),
        (
            Method::POST,
            vault_path!("/backupSecurityPIN"),
            "SecurityPINs_Get",
            pin,
            PIN,
            "Microsoft.RecoveryServices/Vaults/backupSecurityPIN/action",
        ),
        (
            Method::PATCH,
            vault_path!("/backupEncryptionConfigs/backupResourceEncryptionConfig"),
            "BackupResourceEncryptionConfigs_Update",
            keys,
            KEYS,
            "Microsoft.RecoveryServices/Vaults/backupEncryptionConfigs/write",
        ),
        (
            Method::PUT,
            vault_path!("/backupEncryptionConfigs/backupResourceEncryptionConfig"),
            "BackupResourceEncryptionConfigs_Put",
            keys,
            KEYS,
            "Microsoft.RecoveryServices/Vaults/backupEncryptionConfigs/write",
        ),
        (
            Method::POST,
            item_path!("/recoveryPoints/{point}/provisionInstantItemRecovery"),
            "ItemLevelRecoveryConnections_Provision",
            files,
            FILES,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/provisionInstantItemRecovery/action",
        ),
        (
            Method::POST,
            item_path!("/recoveryPoints/{point}/listInstantItemRecoveryOperationResult"),
            "ItemLevelRecoveryConnections_OperationResult",
            files,
            FILES,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/provisionInstantItemRecovery/action",
        ),
        (
            Method::POST,
            item_path!("/recoveryPoints/{point}/revokeInstantItemRecovery"),
            "ItemLevelRecoveryConnections_Revoke",
            files,
            FILES,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/revokeInstantItemRecovery/action",
        ),
        (
            Method::POST,
            item_path!("/recoveryPoints/{point}/move"),
            "RecoveryPoint_Move",
            archive,
            ARCHIVE,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/move/action",
        ),
        (
            Method::POST,
            vault_path!("/backupTieringCost/default/fetchTieringCost"),
            "FetchTieringCost_Post",
            archive,
            ARCHIVE,
            "Microsoft.RecoveryServices/Vaults/backupTieringCost/fetchTieringCost/action",
        ),
        (
            Method::GET,
            vault_path!("/backupTieringCost/default/operationResults/{operation}"),
            "TieringCostOperationResults_Get",
            archive,
            ARCHIVE,
            "Microsoft.RecoveryServices/Vaults/backupTieringCost/operationResults/read",
        ),
        (
            Method::GET,
            vault_path!("/backupTieringCost/default/operationsStatus/{operation}"),
            "TieringCostOperationStatus_Get",
            archive,
            ARCHIVE,
            "Microsoft.RecoveryServices/Vaults/backupTieringCost/operationsStatus/read",
        ),
        (
            Method::POST,
            vault_path!("/backupFabrics/{fabric}/getRPExtendedInfo"),
            "RecoveryPoints_GetExtendedInfo",
            scan,
            SCAN,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read",
        ),
        (
            Method::GET,
            vault_path!("/backupFabrics/{fabric}/getRPExtendedInfoOperationResult/{operation}"),
            "RecoveryPoints_GetExtendedInfoResult",
            scan,
            SCAN,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read",
        ),
        (
            Method::POST,
            item_path!("/configureSourceScan"),
            "ProtectedItems_ConfigureSourceScan",
            scan,
            SCAN,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write",
        ),
        (
            Method::PUT,
            vault_path!("/backupFabrics/{fabric}/backupProtectionIntent/{intent}"),
            "ProtectionIntent_CreateOrUpdate",
            intents,
            INTENTS,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/backupProtectionIntent/write",
        ),
        (
            Method::POST,
            vault_path!("/backupFabrics/{fabric}/protectionContainers/{container}/inquire"),
            "ProtectionContainers_Inquire",
            workloads,
            WORKLOADS,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/inquire/action",
        ),
        (
            Method::POST,
            vault_path!("/backupJobsExport"),
            "Jobs_Export",
            export,
            EXPORT,
            "Microsoft.RecoveryServices/Vaults/backupJobsExport/action",
        ),
        (
            Method::GET,
            vault_path!("/backupJobs/operationResults/{operation}"),
            "ExportJobsOperationResults_Get",
            export,
            EXPORT,
            "Microsoft.RecoveryServices/Vaults/backupJobs/operationResults/read",
        ),
        (
            Method::POST,
            vault_path!("/backupstorageconfig/vaultstorageconfig/prepareDataMove"),
            "BMSPrepareDataMove",
            data_move,
            DATA_MOVE,
            "Microsoft.RecoveryServices/Vaults/backupstorageconfig/write",
        ),
        (
            Method::POST,
            vault_path!("/backupstorageconfig/vaultstorageconfig/triggerDataMove"),
            "BMSTriggerDataMove",
            data_move,
            DATA_MOVE,
            "Microsoft.RecoveryServices/Vaults/backupstorageconfig/write",
        ),
        (
            Method::GET,
            vault_path!("/backupstorageconfig/vaultstorageconfig/operationResults/{operation}"),
            "BMSPrepareDataMoveOperationResult_Get",
            data_move,
            DATA_MOVE,
            "Microsoft.RecoveryServices/Vaults/backupstorageconfig/read",
        ),
        (
            Method::GET,
            vault_path!("/backupstorageconfig/vaultstorageconfig/operationStatus/{operation}"),
            "GetOperationStatus",
            data_move,
            DATA_MOVE,
            "Microsoft.RecoveryServices/Vaults/backupstorageconfig/read",
        ),
        (
            Method::PUT,
            vault_path!("/certificates/{certificate}"),
            "VaultCertificates_Create",
            agents,
            AGENTS,
            "Microsoft.RecoveryServices/Vaults/certificates/write",
        ),
        (
            Method::DELETE,
            vault_path!("/registeredIdentities/{identity}"),
            "RegisteredIdentities_Delete",
            agents,
            AGENTS,
            "Microsoft.RecoveryServices/Vaults/registeredIdentities/delete",
        ),
        (
            Method::GET,
            vault_path!("/extendedInformation/vaultExtendedInfo"),
            "VaultExtendedInfo_Get",
            agents,
            AGENTS,
            "Microsoft.RecoveryServices/Vaults/extendedInformation/read",
        ),
        (
            Method::PUT,
            vault_path!("/extendedInformation/vaultExtendedInfo"),
            "VaultExtendedInfo_CreateOrUpdate",
            agents,
            AGENTS,
            "Microsoft.RecoveryServices/Vaults/extendedInformation/write",
        ),
        (
            Method::PATCH,
            vault_path!("/extendedInformation/vaultExtendedInfo"),
            "VaultExtendedInfo_Update",
            agents,
            AGENTS,
            "Microsoft.RecoveryServices/Vaults/extendedInformation/write",
        ),
        (
            Method::PUT,
            vault_path!("/privateEndpointConnections/{connection}"),
            "PrivateEndpointConnection_Put",
            endpoints,
            ENDPOINTS,
            "Microsoft.RecoveryServices/Vaults/privateEndpointConnections/write",
        ),
        (
            Method::DELETE,
            vault_path!("/privateEndpointConnections/{connection}"),
            "PrivateEndpointConnection_Delete",
            endpoints,
            ENDPOINTS,
            "Microsoft.RecoveryServices/Vaults/privateEndpointConnections/delete",
        ),
        (
            Method::GET,
            vault_path!("/privateEndpointConnections/{connection}/operationsStatus/{operation}"),
            "PrivateEndpoint_GetOperationStatus",
            endpoints,
            ENDPOINTS,
            "Microsoft.RecoveryServices/Vaults/privateEndpointConnections/operationsStatus/read",
        ),
        (
            Method::GET,
            vault_path!("/replicationVaultSettings/{setting}"),
            "ReplicationVaultSetting_Get",
            replication,
            REPLICATION,
            "Microsoft.RecoveryServices/Vaults/replicationVaultSettings/read",
        ),
        (
            Method::PUT,
            vault_path!("/replicationVaultSettings/{setting}"),
            "ReplicationVaultSetting_Create",
            replication,
            REPLICATION,
            "Microsoft.RecoveryServices/Vaults/replicationVaultSettings/write",
        ),
        (
            Method::POST,
            location!("backupCrrJobs"),
            "BackupCrrJobs_List",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupCrrJobs/action",
        ),
        (
            Method::POST,
            location!("backupCrrJob"),
            "BackupCrrJobDetails_Get",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupCrrJob/action",
        ),
        (
            Method::POST,
            location!("backupCrossRegionRestore"),
            "CrossRegionRestore_Trigger",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupCrossRegionRestore/action",
        ),
        (
            Method::GET,
            location!("backupCrrOperationResults/{operation}"),
            "CrrOperationResults_Get",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupCrrOperationResults/read",
        ),
        (
            Method::GET,
            location!("backupCrrOperationsStatus/{operation}"),
            "CrrOperationStatus_Get",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupCrrOperationsStatus/read",
        ),
        (
            Method::GET,
            location!("backupAadProperties"),
            "AadProperties_Get",
            cross_region,
            CROSS_REGION,
            "Microsoft.RecoveryServices/locations/backupAadProperties/read",
        ),
        (
            Method::POST,
            item_path!("/recoveryPoints/{point}/accessToken"),
            "RecoveryPoints_GetAccessToken",
            access_token,
            CROSS_REGION,
            "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/accessToken/action",
        ),
    ];
    routes.extend(refused.map(|(method, pattern, operation, handler, what, action)| {
        Route::new(method, pattern, operation, handler).action(action).summary(what).tag(TAG)
    }));
    routes
}

fn no_guard(app: &App, _: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    Err(ArmError::not_found(
        "ResourceNotFound",
        "This vault has no resource guard: multi-user authorisation with resource guards is not available on this server.",
    ))
}

fn undelete_by_put(app: &App, _: &Request, params: &Params) -> Answer {
    item_of(app, params)?;
    Err(ArmError::bad_request(
        "BMSUserErrorInvalidInput",
        "An item is undeleted by PUT with isRehydrate true, or `az backup protection undelete`.",
    ))
}
