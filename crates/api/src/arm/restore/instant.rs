//! Machines that run from the vault at once. Azure has no call for it; it is under our own namespace.

use super::request::{Body, NAMES, USES_SOURCE, accepted, check_item, invalid};
use crate::arm::protection::points::point_of;
use crate::arm::shared::{Answer, App, caller, item_path};
use crate::schema::without;
use crate::{Params, Request, Route};
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::json;
use strongroom_service::instant::{self, NewMachine};
use strongroom_service::restore::Target;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Strongroom";
    const RESTORE: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action";
    vec![
        Route::post(
            item_path!("/recoveryPoints/{point}/providers/Strongroom.Backup/instantRestore"),
            "RecoveryPoints_InstantRestore",
            instant_restore,
        )
        .action(RESTORE)
        .reads::<InstantBody>("InstantRestoreRequest")
        .names(NAMES)
        .also_needs(USES_SOURCE, |app, request, params| {
            let (_, item, _) = point_of(app, params)?;
            request.json::<InstantBody>()?.0.properties.used_source(app, &item, true)
        })
        .success(&[202])
        .summary("Starts a new machine from the vault at once; its data is moved in behind it.")
        .tag(TAG),
    ]
}

/// What a restore is asked with, of which only a new machine can be made.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = of_a_new_machine)]
struct InstantBody(Body);

fn of_a_new_machine(schema: &mut Schema) {
    let Some(properties) = schema.pointer_mut("/properties/properties") else { return };
    properties["required"] = json!(["targetVirtualMachineId"]);
    if let Ok(properties) = properties.try_into() {
        // It is the one kind, its disks are the vault's, and nothing is replaced.
        without(&["objectType", "recoveryType", "region", "diskFormat", "discardSavedState"])(properties);
    }
}

fn instant_restore(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_item(&item)?;
    let p = request.json::<InstantBody>()?.0.properties;
    p.check_source(app, request, &item)?;
    let place = p.place(app, request)?;
    let target_group = p.group(app, request, &item)?;
    let Target::Machine { name, group, host, directory, network } =
        p.new_machine(app, request, &item, place, &target_group)?
    else {
        return Err(invalid("targetVirtualMachineId is missing."));
    };
    let target = NewMachine { name, group, host, directory, network, unencrypted: p.unencrypted };
    let job = instant::begin(&app.service, &vault, &item, &point, target, p.luns(), &caller(request))?;
    accepted(app, request, &vault, &item, &job)
}
