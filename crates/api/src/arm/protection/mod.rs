//! What is protected: items, containers, policies, recovery points.

pub(crate) mod containers;
pub(crate) mod drilled;
pub(crate) mod graph_query;
pub(crate) mod items;
pub(crate) mod points;
pub(crate) mod policies;
pub(crate) mod resource_graph;
pub(crate) mod status;

use crate::Route;
use crate::arm::shared::App;

pub(crate) fn routes() -> Vec<Route<App>> {
    [
        containers::routes(),
        items::routes(),
        points::routes(),
        policies::routes(),
        resource_graph::routes(),
        status::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
