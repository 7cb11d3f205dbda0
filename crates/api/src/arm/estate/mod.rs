//! What there is to protect, and where: subscriptions, groups, machines, places, hosts.

pub(crate) mod audit;
pub(crate) mod groups;
pub(crate) mod hosts;
pub(crate) mod machines;
pub(crate) mod places;
pub(crate) mod subscriptions;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [
        subscriptions::routes(),
        groups::routes(),
        machines::routes(),
        places::routes(),
        hosts::routes(),
        audit::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
