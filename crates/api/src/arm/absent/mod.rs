//! What Azure has and this server has not: empty where there truly is nothing, else refused.

pub(crate) mod empty;
pub(crate) mod unavailable;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [empty::routes(), unavailable::routes()].into_iter().flatten().collect()
}
