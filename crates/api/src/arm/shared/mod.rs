//! What every room needs: the application, paths and ids, what a path names, lists, times, refusals. Knows no room.

mod access;
mod answer;
mod app;
mod errors;
mod find;
pub(crate) mod format;
pub(crate) mod ids;
pub(crate) mod kinds;
mod lists;
mod paths;
mod refused;

pub(crate) use access::{
    caller, check_data_access, item_machine_links, machine_link, of_readable_machines, sees_drills,
};
pub(crate) use answer::Answer;
pub use app::App;
pub(crate) use find::{check_container, check_fabric, check_subscription, item_of, vault_of};
pub(crate) use lists::{by_name, by_shown_name, page, resource};
pub(crate) use paths::{
    SUBSCRIPTION, container_id, group_id, id_of_machine, item_id, item_id_in, item_path, machine_id,
    subscription_id, vault_id, vault_path,
};
pub(crate) use refused::{CROSS_REGION, check_region, not_available};
