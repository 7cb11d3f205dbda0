//! Restoring a recovery point: as disks, as a new machine, in the machine's place. And asking beforehand whether that could begin.

use super::request::{Body, NAMES, USES_SOURCE, accepted, check_item};
use crate::arm::protection::points::point_of;
use crate::arm::shared::{Answer, App, caller, item_path};
use crate::{Params, Request, Route};
use strongroom_service::restore::{self, Asked};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Recovery points";
    vec![
        Route::post(item_path!("/recoveryPoints/{point}/restore"), "Restores_Trigger", restore)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action")
            .reads::<Body>("RestoreRequest")
            .names(NAMES)
            .also_needs(USES_SOURCE, |app, request, params| {
                let (_, item, _) = point_of(app, params)?;
                request.json::<Body>()?.properties.used_source(app, &item, false)
            })
            .success(&[202])
            .summary("Restores a recovery point: as disks, as a new machine, or in the machine's place.")
            .tag(TAG),
    ]
}

fn restore(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_item(&item)?;
    let p = request.json::<Body>()?.properties;
    let (target, group) = p.target(app, request, &vault, &item, &point)?;
    let service = &app.service;
    let job = restore::restore(
        service,
        &vault,
        &item,
        &point,
        Asked { target, luns: p.luns(), group: &group, by: &caller(request), allowed: p.allowed() },
    )?;
    accepted(app, request, &vault, &item, &job)
}
