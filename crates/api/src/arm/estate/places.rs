//! Storage accounts (places that disks can be restored to) and virtual networks.

use crate::arm::shared::{Answer, App, by_name, check_subscription, group_id, page};
use crate::route::PAGED;
use crate::{Params, Request, Response, Route};
use serde_json::{Value, json};
use strongroom_service::places::{self, Place, VirtualNetwork};

const ACCOUNTS: &str = "/subscriptions/{subscription}/providers/Microsoft.Storage/storageAccounts";
const GROUP_ACCOUNTS: &str =
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts";
const ACCOUNT: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}";
const NETWORKS: &str = "/subscriptions/{subscription}/providers/Microsoft.Network/virtualNetworks";
const GROUP_NETWORKS: &str =
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks";
const NETWORK: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{network}";
const SUBNETS: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{network}/subnets";
const SUBNET: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{network}/subnets/{subnet}";

pub fn routes() -> Vec<Route<App>> {
    const STORAGE: &str = "Storage accounts";
    const NETWORKING: &str = "Virtual networks";
    const READ_ACCOUNT: &str = "Microsoft.Storage/storageAccounts/read";
    const READ_NETWORK: &str = "Microsoft.Network/virtualNetworks/read";
    vec![
        Route::get(ACCOUNTS, "StorageAccounts_List", accounts)
            .action(READ_ACCOUNT)
            .query(PAGED)
            .by_row()
            .summary("All places that disks can be restored to.")
            .tag(STORAGE),
        Route::get(GROUP_ACCOUNTS, "StorageAccounts_ListByResourceGroup", accounts)
            .action(READ_ACCOUNT)
            .query(PAGED)
            .by_row()
            .summary("The places of a group.")
            .tag(STORAGE),
        Route::get(ACCOUNT, "StorageAccounts_Get", account)
            .action(READ_ACCOUNT)
            .summary("A place that disks can be restored to.")
            .tag(STORAGE),
        Route::get(NETWORKS, "VirtualNetworks_ListAll", networks)
            .action(READ_NETWORK)
            .query(PAGED)
            .by_row()
            .summary("All virtual networks.")
            .tag(NETWORKING),
        Route::get(GROUP_NETWORKS, "VirtualNetworks_List", networks)
            .action(READ_NETWORK)
            .query(PAGED)
            .by_row()
            .summary("The virtual networks of a group.")
            .tag(NETWORKING),
        Route::get(NETWORK, "VirtualNetworks_Get", network)
            .answers("Resource")
            .action(READ_NETWORK)
            .summary("A virtual network.")
            .tag(NETWORKING),
        Route::get(SUBNETS, "Subnets_List", subnets)
            .action("Microsoft.Network/virtualNetworks/subnets/read")
            .summary("A virtual network's subnets: there is one.")
            .tag(NETWORKING),
        Route::get(SUBNET, "Subnets_Get", subnet)
            .answers("Resource")
            .action("Microsoft.Network/virtualNetworks/subnets/read")
            .summary("A subnet.")
            .tag(NETWORKING),
    ]
}

pub fn account_id(app: &App, place: &Place) -> String {
    format!("{}/providers/Microsoft.Storage/storageAccounts/{}", group_id(app, &place.group), place.name)
}

pub fn network_id(app: &App, network: &VirtualNetwork) -> String {
    format!("{}/providers/Microsoft.Network/virtualNetworks/{}", group_id(app, &network.group), network.name)
}

/// A directory, or a container's address.
fn shown_path(place: &Place) -> String {
    place.path.as_ref().map_or_else(|| place.url.clone(), |path| path.display().to_string())
}

pub fn account_tags(place: &Place) -> Value {
    json!({"path": shown_path(place), "kind": place.kind})
}

pub fn network_tags(network: &VirtualNetwork) -> Value {
    json!({"host": network.host, "active": network.active.to_string()})
}

fn show_account(app: &App, place: &Place) -> Value {
    json!({
        "id": account_id(app, place),
        "name": place.name,
        "type": "Microsoft.Storage/storageAccounts",
        "location": place.location,
        "kind": "StorageV2",
        "sku": {"name": "Standard_LRS", "tier": "Standard"},
        "tags": account_tags(place),
        "properties": {
            "provisioningState": "Succeeded",
            "primaryLocation": place.location,
            "statusOfPrimary": "available",
            "accountType": "Standard_LRS",
            "primaryEndpoints": {"blob": place.url},
        },
    })
}

fn accounts(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let mut all = places::list(&app.service)?;
    if let Some(group) = params.get("group") {
        all.retain(|p| p.group.eq_ignore_ascii_case(group));
    }
    page(request, all, 1000, |p| by_name(&p.name, &p.group), |p| show_account(app, p))
}

fn account(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Response::ok(show_account(app, &places::get(&app.service, &params["group"], &params["account"])?))
}

pub(crate) const SUBNET_NAME: &str = "default";

fn show_subnet(app: &App, network: &VirtualNetwork) -> Value {
    json!({
        "id": format!("{}/subnets/{SUBNET_NAME}", network_id(app, network)),
        "name": SUBNET_NAME,
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": {"provisioningState": "Succeeded", "addressPrefix": "0.0.0.0/0"},
    })
}

fn show_network(app: &App, network: &VirtualNetwork) -> Value {
    json!({
        "id": network_id(app, network),
        "name": network.name,
        "type": "Microsoft.Network/virtualNetworks",
        "location": network.location,
        "tags": network_tags(network),
        "properties": {
            "provisioningState": "Succeeded",
            "addressSpace": {"addressPrefixes": ["0.0.0.0/0"]},
            "subnets": [show_subnet(app, network)],
        },
    })
}

fn networks(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let mut all = places::networks(&app.service)?;
    if let Some(group) = params.get("group") {
        all.retain(|n| n.group.eq_ignore_ascii_case(group));
    }
    page(request, all, 1000, |n| by_name(&n.name, &n.group), |n| show_network(app, n))
}

fn found(app: &App, params: &Params) -> Result<VirtualNetwork, crate::ArmError> {
    check_subscription(app, params)?;
    Ok(places::network(&app.service, &params["group"], &params["network"])?)
}

fn network(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(show_network(app, &found(app, params)?))
}

fn subnets(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(json!({"value": [show_subnet(app, &found(app, params)?)]}))
}

fn subnet(app: &App, _: &Request, params: &Params) -> Answer {
    let network = found(app, params)?;
    if !params["subnet"].eq_ignore_ascii_case(SUBNET_NAME) {
        let name =
            format!("Microsoft.Network/virtualNetworks/{}/subnets/{}", network.name, &params["subnet"]);
        return Err(crate::ArmError::resource_not_found(&name, &params["group"]));
    }
    Response::ok(show_subnet(app, &network))
}
