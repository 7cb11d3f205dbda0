//! Vaults: their settings, the deleted ones, what they hold.

pub(crate) mod config;
pub(crate) mod deleted;
pub(crate) mod holdings;
pub(crate) mod import;
pub(crate) mod names;
pub(crate) mod vault;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [
        vault::routes(),
        config::routes(),
        deleted::routes(),
        holdings::routes(),
        names::routes(),
        import::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
