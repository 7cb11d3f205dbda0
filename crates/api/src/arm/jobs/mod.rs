//! Jobs, and operations as clients follow them.

pub(crate) mod following;
pub(crate) mod job;
mod labels;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [job::routes(), following::routes()].into_iter().flatten().collect()
}
