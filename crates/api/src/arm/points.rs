//! Recovery points, and restoring them.

use super::{Answer, App, caller, item_id, item_of, item_path};
use crate::route::LIST;
use crate::{ArmError, Params, Request, Response, Route};
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_catalog::service::{Item, Machine, Point, PointDisk, Vault};
use strongroom_domain::ConsistencyLevel;
use strongroom_domain::retention::Verdict;
use strongroom_engine::service::restore::{self, Target};
use strongroom_engine::service::{groups, operations, places, points, retention};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Recovery points";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read";
    vec![
        Route::get(item_path!("/recoveryPoints"), "RecoveryPoints_List", list)
            .action(READ)
            .query(LIST)
            .summary("An item's recovery points, the newest first.")
            .tag(TAG),
        Route::get(item_path!("/recoveryPoints/{point}"), "RecoveryPoints_Get", get)
            .action(READ)
            .summary("A recovery point.")
            .tag(TAG),
        Route::post(item_path!("/recoveryPoints/{point}/restore"), "Restores_Trigger", restore)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action")
            .takes("RestoreRequest")
            .success(&[202])
            .summary("Restores a recovery point: as disks, or as a new machine.")
            .tag(TAG),
        Route::post(
            item_path!("/recoveryPointsRecommendedForMove"),
            "RecoveryPointsRecommendedForMove_List",
            recommended,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPointsRecommendedForMove/action")
        .summary("Points that had better be moved to the archive: there is none here.")
        .tag(TAG),
    ]
}

fn level_name(level: ConsistencyLevel) -> &'static str {
    match level {
        ConsistencyLevel::Application => "AppConsistent",
        ConsistencyLevel::FileSystem => "FileSystemConsistent",
        ConsistencyLevel::Crash => "CrashConsistent",
    }
}

fn show(app: &App, vault: &Vault, item: &Item, point: &Point, verdict: Option<&Verdict>) -> Value {
    let disk = |d: &PointDisk| json!({"lun": d.lun, "name": d.target});
    let mut p = json!({
        "objectType": "IaasVMRecoveryPoint",
        "recoveryPointType": level_name(point.consistency.level),
        "recoveryPointTime": super::time(point.taken_at),
        "recoveryPointAdditionalInfo": point.consistency.reason,
        "sourceVMStorageType": "PremiumVMOnPartialPremiumStorage",
        "isSourceVMEncrypted": false,
        "isInstantIlrSessionActive": false,
        "recoveryPointTierDetails": [{"type": "HardenedRP", "status": "Valid"}],
        "isManagedVirtualMachine": true,
        "virtualMachineSize": "",
        "originalStorageAccountOption": false,
        "osType": point.os,
        "recoveryPointMoveReadinessInfo": {"ArchivedRP": {
            "isReadyForMove": false,
            "additionalInfo": "This server has no archive tier.",
        }},
        "securityType": "None",
        "isPrivateAccessEnabledOnAnyDisk": false,
        "createdWithPolicyType": point.policy_type,
    });
    if point.has_choice {
        let mut included: Vec<&PointDisk> = point.disks.iter().collect();
        included.sort_by_key(|d| d.lun);
        p["recoveryPointDiskConfiguration"] = json!({
            "numberOfDisksIncludedInBackup": point.disks.len(),
            "numberOfDisksAttachedToVm": point.disks.len() + point.excluded.len(),
            "includedDiskList": included.into_iter().map(disk).collect::<Vec<_>>(),
            "excludedDiskList": point.excluded.iter().map(disk).collect::<Vec<_>>(),
        });
    }
    if let Some(expires_at) = verdict.and_then(Verdict::expires_at) {
        p["recoveryPointProperties"] = json!({"expiryTime": super::time(expires_at), "isSoftDeleted": false});
    }
    json!({
        "id": format!("{}/recoveryPoints/{}", item_id(app, vault, item), point.name),
        "name": point.name,
        "type": "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints",
        "properties": p,
    })
}

/// A point with what keeps it.
type Kept = (Point, Option<Verdict>);

fn kept(app: &App, item: &Item) -> Result<Vec<Kept>, ArmError> {
    let all = points::list(&app.service, item, None, None)?;
    let verdicts = retention::verdicts(&app.service, item, &all)?;
    Ok(match verdicts {
        Some(verdicts) => all.into_iter().zip(verdicts.into_iter().map(Some)).collect(),
        None => all.into_iter().map(|p| (p, None)).collect(),
    })
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let mut found = kept(app, &item)?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&[
                "startDate",
                "endDate",
                "restorePointQueryType",
                "extendedInfo",
                "isVaultTierRecoveryPoint",
                "recoveryPointType",
            ])
            .map_err(refused)?;
        let from = wanted.time("startDate").map_err(refused)?;
        let until = wanted.time("endDate").map_err(refused)?;
        found.retain(|(p, _)| {
            from.is_none_or(|from| p.taken_at >= from)
                && until.is_none_or(|until| p.taken_at <= until)
                && wanted.passes("recoveryPointType", level_name(p.consistency.level))
        });
    }
    super::page(request, found, 500, |(p, v)| show(app, &vault, &item, p, v.as_ref()))
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let point = points::get(&app.service, &item, &params["point"])?;
    let found = kept(app, &item)?.into_iter().find(|(p, _)| p.id == point.id);
    let verdict = found.and_then(|(_, v)| v);
    Response::ok(show(app, &vault, &item, &point, verdict.as_ref()))
}

fn recommended(app: &App, request: &Request, params: &Params) -> Answer {
    item_of(app, params)?;
    super::page(request, Vec::<Value>::new(), 500, Value::clone)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    properties: Properties,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    object_type: Option<String>,
    recovery_type: Option<String>,
    recovery_point_id: Option<String>,
    target_virtual_machine_id: Option<String>,
    target_resource_group_id: Option<String>,
    storage_account_id: Option<String>,
    virtual_network_id: Option<String>,
    region: Option<String>,
    /// Ours: `qcow2`, `raw` or `vhd`, of restored disks.
    disk_format: Option<String>,
    #[serde(deserialize_with = "super::format::luns")]
    restore_disk_lun_list: Option<Vec<i32>>,
}

/// The last segment of an ARM id, and the group it is in.
fn group_and_name(id: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = id.split('/').filter(|p| !p.is_empty()).collect();
    let at = parts.iter().position(|p| p.eq_ignore_ascii_case("resourceGroups"))?;
    Some(((*parts.get(at + 1)?).to_owned(), (*parts.last()?).to_owned()))
}

fn invalid(message: impl Into<String>) -> ArmError {
    ArmError::bad_request("BMSUserErrorInvalidInput", message)
}

fn restore(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let service = &app.service;
    item.state.check_restore().map_err(|e| {
        ArmError::bad_request(e.code(), format!("'{}' cannot be restored: {e}.", item.machine_name))
    })?;
    let point = points::get(service, &item, &params["point"])?;
    let body: Body = request.json()?;
    let p = body.properties;
    if p.object_type.as_deref().is_some_and(|t| {
        !["IaasVMRestoreRequest", "IaasVMRestoreWithRehydrationRequest"]
            .iter()
            .any(|k| k.eq_ignore_ascii_case(t))
    }) {
        return Err(invalid("The restore request's objectType must be IaasVMRestoreRequest."));
    }
    if p.recovery_point_id.as_deref().is_some_and(|id| !id.is_empty() && id != point.name) {
        return Err(invalid("recoveryPointId is not the recovery point that the path names."));
    }
    let place = match &p.storage_account_id {
        None => None,
        Some(id) => {
            super::check_id_subscription(app, id)?;
            let (group, name) = group_and_name(id)
                .ok_or_else(|| invalid("storageAccountId is not the id of a storage account."))?;
            Some(places::get(service, &group, &name)?)
        }
    };
    let region = p.region.as_deref().unwrap_or(&vault.location);
    if !strongroom_engine::service::vaults::same_location(region, &vault.location) {
        return Err(super::unavailable::not_available("Restoring to another region"));
    }
    let target_group = match &p.target_resource_group_id {
        Some(id) => {
            let (group, _) = group_and_name(id)
                .ok_or_else(|| invalid("targetResourceGroupId is not the id of a resource group."))?;
            groups::get(service, &group)?.name
        }
        None => item.group.clone(),
    };
    let kind = p.recovery_type.as_deref().unwrap_or_default();
    let target = match kind.to_lowercase().as_str() {
        "restoredisks" => {
            let place = place.ok_or_else(|| invalid("storageAccountId is missing."))?;
            let format = p.disk_format.as_deref().map(str::parse).transpose()?.or(place.format);
            match place.path {
                Some(directory) => Target::Disks { place: place.name, directory, pool: place.pool, format },
                None => Target::Container { place: place.name, format },
            }
        }
        "alternatelocation" => new_machine(app, &p, &item, place, &target_group)?,
        "originallocation" => Target::Replace,
        _ => {
            return Err(invalid("recoveryType must be RestoreDisks, AlternateLocation or OriginalLocation."));
        }
    };
    let job = restore::restore(
        service,
        &vault,
        &item,
        &point,
        target,
        p.restore_disk_lun_list.as_deref(),
        &target_group,
        &caller(request),
    )?;
    // Of restores the operation's id is the job's.
    let operation = operations::begun(&app.service, &job, true)?;
    let base = item_id(app, &vault, &item);
    let status = format!("{base}/operationsStatus/{operation}");
    let result = format!("{base}/operationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

fn machine_of(app: &App, item: &Item) -> Result<Machine, ArmError> {
    Ok(strongroom_engine::service::machines::get(&app.service, &item.group, &item.machine_name)?)
}

fn new_machine(
    app: &App,
    p: &Properties,
    item: &Item,
    place: Option<places::Place>,
    target_group: &str,
) -> Result<Target, ArmError> {
    let service = &app.service;
    let (group, name) = p
        .target_virtual_machine_id
        .as_deref()
        .and_then(group_and_name)
        .ok_or_else(|| invalid("targetVirtualMachineId is not the id of a virtual machine."))?;
    if !group.eq_ignore_ascii_case(target_group) {
        return Err(invalid("targetVirtualMachineId is not in the target resource group."));
    }
    let network = match &p.virtual_network_id {
        None => None,
        Some(id) => {
            let (group, name) = group_and_name(id)
                .ok_or_else(|| invalid("virtualNetworkId is not the id of a virtual network."))?;
            Some(places::network(service, &group, &name)?)
        }
    };
    // The host the network is on; else the machine's own; else the first.
    let known = machine_of(app, item).ok().map(|m| m.host);
    let host = network.as_ref().map(|n| n.host.clone()).or(known);
    let host = match host {
        Some(host) => host,
        None => service.hosts().first().map(|h| h.name.clone()).ok_or_else(|| {
            ArmError::bad_request(
                "UserErrorNoHost",
                "There is no host to restore to: add one to the configuration.",
            )
        })?,
    };
    Ok(Target::Machine {
        name,
        group: target_group.to_owned(),
        host,
        directory: match place {
            Some(place) if place.path.is_none() => {
                return Err(invalid(format!(
                    "A machine's disks cannot be in the container '{}': choose a directory or a storage pool, or restore the disks alone.",
                    place.name
                )));
            }
            place => place.and_then(|p| p.path),
        },
        network: network.map(|n| n.name),
    })
}
