//! Paths of resources: as patterns of routes, and as ids.

use super::app::App;
use strongroom_catalog::{Item, Machine, Vault};
use strongroom_domain::arm_names;

pub(crate) const SUBSCRIPTION: &str = "/subscriptions/{subscription}";

/// The vault's path, as a pattern.
macro_rules! vault_path {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}",
            $rest
        )
    };
}
/// A protected item's path, as a pattern.
macro_rules! item_path {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/vaults/{vault}",
            "/backupFabrics/{fabric}/protectionContainers/{container}/protectedItems/{item}",
            $rest
        )
    };
}
pub(crate) use {item_path, vault_path};

/// The subscription's path.
pub(crate) fn subscription_id(app: &App) -> String {
    format!("/subscriptions/{}", app.service.subscription())
}

pub(crate) fn group_id(app: &App, group: &str) -> String {
    [&subscription_id(app), "/resourceGroups/", group].concat()
}

pub(crate) fn vault_id(app: &App, vault: &Vault) -> String {
    format!("{}/providers/Microsoft.RecoveryServices/vaults/{}", group_id(app, &vault.group), vault.name)
}

pub(crate) fn machine_id(app: &App, group: &str, name: &str) -> String {
    [&group_id(app, group), "/providers/Microsoft.Compute/virtualMachines/", name].concat()
}

pub(crate) fn id_of_machine(app: &App, machine: &Machine) -> String {
    machine_id(app, &machine.group, &machine.name)
}

pub(crate) fn container_id(app: &App, vault: &Vault, container: &str) -> String {
    container_id_in(&vault_id(app, vault), container)
}

fn container_id_in(vault_id: &str, container: &str) -> String {
    // Not `format!`, which lets a long text grow bit by bit.
    [vault_id, "/backupFabrics/Azure/protectionContainers/", container].concat()
}

pub(crate) fn item_id(app: &App, vault: &Vault, item: &Item) -> String {
    let container = arm_names::container_short_name(&item.group, &item.machine_name);
    item_id_in(&vault_id(app, vault), &container)
}

/// The same, by the vault's id and the container's short name.
pub(crate) fn item_id_in(vault_id: &str, container: &str) -> String {
    let (item, container) = (arm_names::item_name_of(container), arm_names::container_name_of(container));
    container_id_in(vault_id, &container) + "/protectedItems/" + &item
}
