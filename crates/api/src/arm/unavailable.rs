//! What Azure has and this server has not yet: refused with an error that says so, never with a false success.

use super::{Answer, App, check_subscription, item_of, item_path, vault_of, vault_path};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use serde_json::{Value, json};

pub(super) fn not_available(what: &str) -> ArmError {
    ArmError::new(
        StatusCode::BAD_REQUEST,
        "UserErrorFeatureNotSupportedOnThisServer",
        format!("{what} is not available on this server."),
    )
}

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

/// `az`'s `--use-secondary-region` asks for the copy in the paired region by the vault's own lists' paths, with a slash at
/// their end, in versions of an API of its own. What is here is no copy.
pub(super) fn check_region(request: &Request) -> Result<(), ArmError> {
    const VERSIONS: [&str; 3] = ["2018-12-20", "2021-11-15", "2023-01-15"];
    match request.ends_in_slash && VERSIONS.contains(&request.api_version()) {
        true => Err(not_available(CROSS_REGION)),
        false => Ok(()),
    }
}

const CROSS_REGION: &str = "Reading and restoring from a secondary region";

fn cross_region(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Err(not_available(CROSS_REGION))
}

macro_rules! refused {
    ($($name:ident: $what:expr;)*) => { $(
        fn $name(app: &App, _: &Request, params: &Params) -> Answer {
            vault_of(app, params)?;
            Err(not_available($what))
        }
    )* };
}

refused! {
    guard: "Multi-user authorisation with resource guards";
    keys: "Encryption with customer-managed keys";
    files: "Recovering files by mounting a recovery point";
    archive: "Moving recovery points to the archive tier";
    intents: "Automatic protection";
    scan: "Scanning protected machines for threats";
    access_token: CROSS_REGION;
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

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Not available yet";
    vec![
        Route::get(vault_path!("/backupResourceGuardProxies/{guard}"), "ResourceGuardProxy_Get", no_guard)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/read")
            .summary("A resource guard: there is none.")
            .tag(TAG),
        Route::put(vault_path!("/backupResourceGuardProxies/{guard}"), "ResourceGuardProxy_Put", guard)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/write")
            .summary("Not available yet.")
            .tag(TAG),
        Route::delete(vault_path!("/backupResourceGuardProxies/{guard}"), "ResourceGuardProxy_Delete", guard)
            .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/delete")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(
            vault_path!("/backupResourceGuardProxies/{guard}/unlockDelete"),
            "ResourceGuardProxy_UnlockDelete",
            guard,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupResourceGuardProxies/unlockDelete/action")
        .summary("Not available yet.")
        .tag(TAG),
        Route::patch(
            vault_path!("/backupEncryptionConfigs/backupResourceEncryptionConfig"),
            "BackupResourceEncryptionConfigs_Update",
            keys,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupEncryptionConfigs/write")
        .summary("Not available yet.")
        .tag(TAG),
        Route::put(
            vault_path!("/backupEncryptionConfigs/backupResourceEncryptionConfig"),
            "BackupResourceEncryptionConfigs_Put",
            keys,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupEncryptionConfigs/write")
        .summary("Not available yet.")
        .tag(TAG),
        Route::post(
            item_path!("/recoveryPoints/{point}/provisionInstantItemRecovery"),
            "ItemLevelRecoveryConnections_Provision",
            files,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/provisionInstantItemRecovery/action")
        .summary("Not available yet.")
        .tag(TAG),
        Route::post(
            item_path!("/recoveryPoints/{point}/revokeInstantItemRecovery"),
            "ItemLevelRecoveryConnections_Revoke",
            files,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/revokeInstantItemRecovery/action")
        .summary("Not available yet.")
        .tag(TAG),
        Route::post(item_path!("/recoveryPoints/{point}/move"), "RecoveryPoint_Move", archive)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/move/action")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(item_path!("/configureSourceScan"), "ProtectedItems_ConfigureSourceScan", scan)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write")
            .summary("Not available yet.")
            .tag(TAG),
        Route::put(
            vault_path!("/backupFabrics/{fabric}/backupProtectionIntent/{intent}"),
            "ProtectionIntent_CreateOrUpdate",
            intents,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/backupProtectionIntent/write")
        .summary("Not available yet.")
        .tag(TAG),
        Route::post(
            "/providers/Microsoft.ResourceGraph/resources",
            "ResourceGraph_Query",
            resource_graph,
        )
        .takes("GraphQuery")
        .summary("What clients ask the resource graph for: deleted vaults.")
        .tag("Resource groups"),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ClassicStorage/storageAccounts/{account}",
            "ClassicStorageAccounts_Get",
            classic,
        )
        .action("Microsoft.Storage/storageAccounts/read")
        .summary("There are no classic storage accounts.")
        .tag("Storage accounts"),
        Route::put(elsewhere!("Compute/virtualMachines/{machine}"), "VirtualMachines_CreateOrUpdate", machine)
            .action("Microsoft.Compute/virtualMachines/write")
            .summary("Refused: machines are made with libvirt.")
            .tag("Virtual machines"),
        Route::delete(elsewhere!("Compute/virtualMachines/{machine}"), "VirtualMachines_Delete", machine)
            .action("Microsoft.Compute/virtualMachines/delete")
            .summary("Refused: machines are removed with libvirt.")
            .tag("Virtual machines"),
        Route::put(elsewhere!("Network/virtualNetworks/{network}"), "VirtualNetworks_CreateOrUpdate", network)
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
        Route::post(location!("backupCrrJobs"), "BackupCrrJobs_List", cross_region)
            .action("Microsoft.RecoveryServices/locations/backupCrrJobs/action")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(location!("backupCrrJob"), "BackupCrrJobDetails_Get", cross_region)
            .action("Microsoft.RecoveryServices/locations/backupCrrJob/action")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(location!("backupCrossRegionRestore"), "CrossRegionRestore_Trigger", cross_region)
            .action("Microsoft.RecoveryServices/locations/backupCrossRegionRestore/action")
            .summary("Not available yet.")
            .tag(TAG),
        Route::get(
            location!("backupCrrOperationResults/{operation}"),
            "CrrOperationResults_Get",
            cross_region,
        )
        .action("Microsoft.RecoveryServices/locations/backupCrrOperationResults/read")
        .summary("Not available yet.")
        .tag(TAG),
        Route::get(
            location!("backupCrrOperationsStatus/{operation}"),
            "CrrOperationStatus_Get",
            cross_region,
        )
        .action("Microsoft.RecoveryServices/locations/backupCrrOperationsStatus/read")
        .summary("Not available yet.")
        .tag(TAG),
        Route::get(location!("backupAadProperties"), "AadProperties_Get", cross_region)
            .action("Microsoft.RecoveryServices/locations/backupAadProperties/read")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(item_path!("/recoveryPoints/{point}/accessToken"), "RecoveryPoints_GetAccessToken", access_token)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/accessToken/action")
            .summary("Not available yet.")
            .tag(TAG),
        Route::post(item_path!("/undelete"), "ProtectedItems_Undelete", undelete_by_put)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write")
            .summary("Undeleting is a PUT with isRehydrate.")
            .tag(TAG),
    ]
}

fn no_guard(app: &App, _: &Request, params: &Params) -> Answer {
    vault_of(app, params)?;
    Err(ArmError::not_found(
        "ResourceNotFound",
        "This vault has no resource guard: multi-user authorisation with resource guards is not available on this server.",
    ))
}

fn classic(_: &App, _: &Request, _: &Params) -> Answer {
    Err(ArmError::invalid_resource_namespace("Microsoft.ClassicStorage"))
}

fn undelete_by_put(app: &App, _: &Request, params: &Params) -> Answer {
    item_of(app, params)?;
    Err(ArmError::bad_request(
        "BMSUserErrorInvalidInput",
        "An item is undeleted by PUT with isRehydrate true, or `az backup protection undelete`.",
    ))
}

/// Deleted vaults, and the items in them, which is what clients look for there. Of the query's own language only
/// `contains "…"` is understood, which narrows by id.
fn resource_graph(app: &App, request: &Request, _: &Params) -> Answer {
    let body: Value = request.json()?;
    let query = body["query"].as_str().unwrap_or_default().to_lowercase();
    let scope = super::subscription_id(app);
    let may = app.gate.allowed(
        request.caller(),
        "Microsoft.RecoveryServices/locations/deletedVaults/read",
        &scope,
    )?;
    let mut found = match query.contains("deletedvaults") && may {
        true if query.contains("/protecteditems") => super::vaults::items_of_deleted(app, request)?,
        true => super::vaults::all_deleted(app)?,
        false => Vec::new(),
    };
    let wanted: Vec<&str> = query.split("contains \"").skip(1).filter_map(|s| s.split('"').next()).collect();
    found.retain(|row| {
        let id = row["id"].as_str().unwrap_or_default().to_lowercase();
        wanted.iter().all(|w| id.contains(w))
    });
    Response::ok(json!({
        "totalRecords": found.len(), "count": found.len(), "data": found, "facets": [], "resultTruncated": "false",
    }))
}
