//! Machines that run from the vault at once, and drills: points that prove that they can be restored. Azure has no calls for
//! these; they are under our own namespace.

use super::request::{accepted, check_item};
use crate::arm::protection::drilled::{Shown, show};
use crate::arm::protection::points::point_of;
use crate::arm::shared::{
    Answer, App, caller, check_data_access, item_machine_links, item_path, sees_drills,
};
use crate::route::{Link, QueryParameter};
use crate::{ArmError, Params, Request, Response, Route};
use base64::Engine as _;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use strongroom_domain::access::{DRILL_OUTPUT, linked};
use strongroom_service::drill::{self, DrillOptions};
use strongroom_service::limits::{DRILL_TIMEOUT_MAX, DRILL_TIMEOUT_MIN};

const EXPAND: &[QueryParameter] =
    &[QueryParameter::optional("$expand", "`screenshot`: with the picture, base64.")];

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read";
    const RESTORE: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action";
    vec![
        Route::post(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/drill"),
            "RecoveryPoints_Drill",
            begin_drill,
        )
        .action(RESTORE)
        .reads::<DrillBody>("DrillRequest")
        .also_needs(
            "with a check: Microsoft.Compute/virtualMachines/runCommand/action over the machine",
            commanded_machine,
        )
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
        .shows::<Shown>("Drill")
        .summary("How the last drill of a recovery point came out.")
        .tag(TAG),
        Route::get(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/drill/screenshot"),
            "RecoveryPoints_GetDrillScreenshot",
            screenshot,
        )
        .action(DRILL_OUTPUT)
        .summary("The screen at the last drill of a recovery point: image/png.")
        .tag(TAG),
    ]
}

/// The machine whose copy runs a command.
fn commanded_machine(app: &App, request: &Request, params: &Params) -> Result<Vec<Link>, ArmError> {
    if request.json_or_default::<DrillBody>()?.properties.check.is_none() {
        return Ok(Vec::new());
    }
    let (_, item, _) = point_of(app, params)?;
    item_machine_links(app, linked::COMMANDED_MACHINE, &item)
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
struct DrillBody {
    properties: DrillProperties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct DrillProperties {
    check: Option<String>,
    #[schemars(range(min = DRILL_TIMEOUT_MIN.as_secs(), max = DRILL_TIMEOUT_MAX.as_secs()))]
    timeout_seconds: Option<u64>,
    unencrypted: bool,
}

fn begin_drill(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_item(&item)?;
    // Without a body it is a drill like any other.
    let p = request.json_or_default::<DrillBody>()?.properties;
    let options = DrillOptions {
        check: p.check,
        timeout: p.timeout_seconds.map(Duration::from_secs),
        unencrypted: p.unencrypted,
    };
    let job = drill::begin(&app.service, &vault, &item, &point, &options, &caller(request))?;
    accepted(app, request, &vault, &item, &job)
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, _, point) = point_of(app, params)?;
    let scope = request.path_text();
    let sees = sees_drills(app, request, &vault, &scope)?;
    let wants = request.query.get("$expand").is_some_and(|e| e.eq_ignore_ascii_case("screenshot"));
    if wants {
        check_data_access(app, request, &vault)?;
    }
    if wants && !sees {
        return Err(request.caller().refused(DRILL_OUTPUT, &scope));
    }
    let Some(drill) = &point.drill else {
        return Err(ArmError::not_found(
            "UserErrorDrillNotFound",
            format!("Recovery point '{}' has had no drill.", point.name),
        ));
    };
    let mut shown = show(drill);
    if !sees {
        shown.withhold_output();
    }
    if wants && drill.screenshot {
        let picture = drill::screenshot(&app.service, &point)?;
        shown.screenshot = Some(base64::engine::general_purpose::STANDARD.encode(picture));
    }
    Response::ok(shown)
}

fn screenshot(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, _, point) = point_of(app, params)?;
    check_data_access(app, request, &vault)?;
    Ok(Response::bytes("image/png", drill::screenshot(&app.service, &point)?))
}
