//! What the caller may see beside what a route asks for by itself.

use super::app::App;
use super::lists::retain;
use super::paths::{group_id, machine_id, subscription_id};
use crate::route::Link;
use crate::{ArmError, Client, Request};
use http::StatusCode;
use std::collections::HashMap;
use strongroom_catalog::{Item, Machine, Vault};
use strongroom_domain::access::DRILL_OUTPUT;
use strongroom_service::Error;

/// The action of reading machines.
pub(crate) const READ_MACHINES: &str = "Microsoft.Compute/virtualMachines/read";

/// What is of machines that the caller may read, each by its group and name. Groups are asked about once.
pub(crate) fn of_readable_machines<T>(
    app: &App,
    request: &Request,
    all: Vec<T>,
    machine: impl Fn(&T) -> (&str, &str),
) -> Result<Vec<T>, ArmError> {
    let may = |id: &str| app.gate.allowed(request.caller(), READ_MACHINES, id);
    if may(&subscription_id(app))? {
        return Ok(all);
    }
    let mut groups: HashMap<String, bool> = HashMap::new();
    for group in all.iter().map(|row| machine(row).0) {
        if !groups.contains_key(group) {
            groups.insert(group.to_owned(), may(&group_id(app, group))?);
        }
    }
    retain(all, |row| {
        let (group, name) = machine(row);
        if groups.get(group) == Some(&true) { Ok(true) } else { may(&machine_id(app, group, name)) }
    })
}

/// Whether the caller may see what a drill saw inside a machine.
pub(crate) fn sees_drills(
    app: &App,
    request: &Request,
    vault: &Vault,
    scope: &str,
) -> Result<bool, ArmError> {
    Ok(check_data_access(app, request, vault).is_ok()
        && app.gate.allowed(request.caller(), DRILL_OUTPUT, scope)?)
}

/// Whether what is in a vault's points may go where the request comes from. Every handler that answers bytes of points asks this;
/// managing the vault does not depend on it.
pub(crate) fn check_data_access(app: &App, request: &Request, vault: &Vault) -> Result<(), ArmError> {
    let Client::Address(address) = request.client else { return Ok(()) };
    let is_listed = app.service.config().private_networks.iter().any(|network| network.contains(address));
    if is_listed || !strongroom_service::vaults::is_closed_to_public_networks(vault) {
        return Ok(());
    }
    Err(ArmError::new(
        StatusCode::FORBIDDEN,
        "PublicNetworkAccessDisabled",
        format!(
            "Vault '{}' is closed to public networks: what is in its recovery points goes only to the service's own host, over its socket, and to the configuration's private_networks, and {address} is in none. Ask from there, or open the vault (`az backup vault update --public-network-access Enable`).",
            vault.name
        ),
    ))
}

/// Something is needed over a machine, by its group and name.
pub(crate) fn machine_link(app: &App, actions: &'static [&'static str], group: &str, name: &str) -> Link {
    Link { actions, scope: machine_id(app, group, name) }
}

/// The same over the machine of an item: under the name that it was protected by, and under the one that it has now.
pub(crate) fn item_machine_links(
    app: &App,
    actions: &'static [&'static str],
    item: &Item,
) -> Result<Vec<Link>, ArmError> {
    let mut links = vec![machine_link(app, actions, &item.group, &item.machine_name)];
    let now: Option<Machine> =
        app.service.catalog().get(item.machine).map_err(|e| ArmError::from(Error::from(e)))?;
    links.extend(now.map(|machine| machine_link(app, actions, &machine.group, &machine.name)));
    links.dedup();
    Ok(links)
}

/// Who asks, as jobs note it.
pub(crate) fn caller(request: &Request) -> String {
    request.caller().name.clone()
}
