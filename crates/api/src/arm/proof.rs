//! Machines that run from the vault at once, and drills: points that prove that they can be restored. Azure has no calls for
//! these; they are under our own namespace.

use super::points::{Body, group_and_name, invalid, new_machine};
use super::{Answer, App, caller, item_id, item_of, item_path};
use crate::route::QueryParameter;
use crate::{ArmError, Params, Request, Response, Route};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use strongroom_catalog::service::{Drill, Item, Job, Point, Vault};
use strongroom_engine::service::drill::{self, DrillOptions};
use strongroom_engine::service::instant::{self, NewMachine};
use strongroom_engine::service::restore::Target;
use strongroom_engine::service::{groups, operations, places, points};

const EXPAND: &[QueryParameter] =
    &[QueryParameter::optional("$expand", "`screenshot`: with the picture, base64.")];

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read";
    const RESTORE: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action";
    vec![
        Route::post(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/instantRestore"),
            "RecoveryPoints_InstantRestore",
            instant_restore,
        )
        .action(RESTORE)
        .takes("InstantRestoreRequest")
        .success(&[202])
        .summary("Starts a new machine from the vault at once; its data is moved in behind it.")
        .tag(TAG),
        Route::post(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/drill"),
            "RecoveryPoints_Drill",
            begin_drill,
        )
        .action(RESTORE)
        .takes("DrillRequest")
        .success(&[202])
        .summary("Boots a recovery point in isolation, looks at it, and throws it away.")
        .tag(TAG),
        Route::get(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/drill"),
            "RecoveryPoints_GetDrill",
            get,
        )
        .action(READ)
        .query(EXPAND)
        .answers("Drill")
        .summary("How the last drill of a recovery point came out.")
        .tag(TAG),
        Route::get(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/drill/screenshot"),
            "RecoveryPoints_GetDrillScreenshot",
            screenshot,
        )
        .action(READ)
        .summary("The screen at the last drill of a recovery point: image/png.")
        .tag(TAG),
    ]
}

pub(super) fn show(drill: &Drill) -> Value {
    json!({
        "passed": drill.passed,
        "time": super::time(drill.at),
        "jobId": drill.job.to_string(),
        "answeredBy": drill.answered,
        "seconds": drill.seconds,
        "message": drill.message,
        "check": drill.check.as_ref().map(|c| json!({
            "command": c.command, "exitCode": c.exit_code, "stdout": c.stdout, "stderr": c.stderr,
        })),
        "hasScreenshot": drill.screenshot,
    })
}

/// The point that a path names, of an item that can be restored.
fn point_of(app: &App, params: &Params) -> Result<(Vault, Item, Point), ArmError> {
    let (vault, item) = item_of(app, params)?;
    let point = points::get(&app.service, &item, &params["point"])?;
    Ok((vault, item, point))
}

fn check_restore(item: &Item) -> Result<(), ArmError> {
    item.state.check_restore().map_err(|e| {
        ArmError::bad_request(e.code(), format!("'{}' cannot be restored: {e}.", item.machine_name))
    })
}

fn accepted(app: &App, request: &Request, vault: &Vault, item: &Item, job: &Job) -> Answer {
    let operation = operations::begun(&app.service, job, true)?;
    let base = item_id(app, vault, item);
    let status = format!("{base}/operationsStatus/{operation}");
    let result = format!("{base}/operationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

fn instant_restore(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_restore(&item)?;
    let service = &app.service;
    let body: Body = request.json()?;
    let p = body.properties;
    let place = match &p.storage_account_id {
        None => None,
        Some(id) => {
            super::check_id_subscription(app, id)?;
            let (group, name) = group_and_name(id)
                .ok_or_else(|| invalid("storageAccountId is not the id of a storage account."))?;
            Some(places::get(service, &group, &name)?)
        }
    };
    let target_group = match &p.target_resource_group_id {
        Some(id) => {
            let (group, _) = group_and_name(id)
                .ok_or_else(|| invalid("targetResourceGroupId is not the id of a resource group."))?;
            groups::get(service, &group)?.name
        }
        None => item.group.clone(),
    };
    let Target::Machine { name, group, host, directory, network, .. } =
        new_machine(app, &p, &item, place, &target_group)?
    else {
        return Err(invalid("targetVirtualMachineId is missing."));
    };
    let target = NewMachine { name, group, host, directory, network };
    let luns = p.restore_disk_lun_list.as_deref();
    let job = instant::begin(service, &vault, &item, &point, target, luns, &caller(request))?;
    accepted(app, request, &vault, &item, &job)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DrillBody {
    properties: DrillProperties,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DrillProperties {
    check: Option<String>,
    timeout_seconds: Option<u64>,
}

fn begin_drill(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_restore(&item)?;
    // Without a body it is a drill like any other.
    let p = request.json_or_default::<DrillBody>()?.properties;
    let options = DrillOptions { check: p.check, timeout: p.timeout_seconds.map(Duration::from_secs) };
    let job = drill::begin(&app.service, &vault, &item, &point, &options, &caller(request))?;
    accepted(app, request, &vault, &item, &job)
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let (_, _, point) = point_of(app, params)?;
    let Some(drill) = &point.drill else {
        return Err(ArmError::not_found(
            "UserErrorDrillNotFound",
            format!("Recovery point '{}' has had no drill.", point.name),
        ));
    };
    let mut shown = show(drill);
    let wants = request.query.get("$expand").is_some_and(|e| e.eq_ignore_ascii_case("screenshot"));
    if wants && drill.screenshot {
        let picture = drill::screenshot(&app.service, &point)?;
        shown["screenshot"] = base64::engine::general_purpose::STANDARD.encode(picture).into();
    }
    Response::ok(shown)
}

fn screenshot(app: &App, _: &Request, params: &Params) -> Answer {
    let (_, _, point) = point_of(app, params)?;
    Ok(Response::bytes("image/png", drill::screenshot(&app.service, &point)?))
}
