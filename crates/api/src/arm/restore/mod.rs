//! What is made of recovery points: disks, machines, drills.

pub(crate) mod beforehand;
pub(crate) mod drills;
pub(crate) mod instant;
pub(crate) mod request;
pub(crate) mod restores;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [restores::routes(), drills::routes(), beforehand::routes(), instant::routes()]
        .into_iter()
        .flatten()
        .collect()
}
