//! Subscriptions, tenants, locations and providers: there is one of each of the first two.

use crate::arm::shared::{Answer, App, SUBSCRIPTION, check_subscription, subscription_id};
use crate::route::PAGED;
use crate::{Params, Request, Response, Route};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use strongroom_service::{groups, machines, vaults};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Subscriptions";
    vec![
        Route::get("/subscriptions", "Subscriptions_List", list).summary("The subscription.").tag(TAG),
        Route::get(SUBSCRIPTION, "Subscriptions_Get", get)
            .action("Microsoft.Resources/subscriptions/read")
            .summary("The subscription.")
            .tag(TAG),
        Route::get("/subscriptions/{subscription}/locations", "Subscriptions_ListLocations", locations)
            .action("Microsoft.Resources/subscriptions/locations/read")
            .summary("Locations that machines, vaults and groups have.")
            .tag(TAG),
        Route::get("/tenants", "Tenants_List", tenants).summary("The tenant.").tag(TAG),
        Route::get("/subscriptions/{subscription}/providers", "Providers_List", providers)
            .action("Microsoft.Resources/subscriptions/providers/read")
            .query(PAGED)
            .summary("Resource providers, all registered.")
            .tag(TAG),
        Route::get("/subscriptions/{subscription}/providers/{provider}", "Providers_Get", provider)
            .action("Microsoft.Resources/subscriptions/providers/read")
            .summary("A resource provider.")
            .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/{provider}/register",
            "Providers_Register",
            provider,
        )
        .action("Microsoft.Resources/subscriptions/providers/register/action")
        .summary("Registers a provider, which always is.")
        .tag(TAG),
    ]
}

fn subscription(app: &App) -> Value {
    json!({
        "id": subscription_id(app),
        "subscriptionId": app.service.subscription().to_string(),
        "tenantId": app.service.tenant().to_string(),
        "displayName": "Strongroom",
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    })
}

fn list(app: &App, _: &Request, _: &Params) -> Answer {
    Response::ok(json!({"value": [subscription(app)], "count": {"type": "Total", "value": 1}}))
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Response::ok(subscription(app))
}

fn tenants(app: &App, _: &Request, _: &Params) -> Answer {
    let tenant = app.service.tenant().to_string();
    Response::ok(json!({"value": [{
        "id": format!("/tenants/{tenant}"),
        "tenantId": tenant,
        "displayName": "Strongroom",
        "tenantCategory": "Home",
    }]}))
}

fn locations(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let mut names: BTreeSet<String> = app.service.hosts().iter().map(|h| h.location.clone()).collect();
    names.extend(groups::list(&app.service)?.into_iter().map(|g| g.location));
    names.extend(machines::list(&app.service, None)?.into_iter().map(|m| m.location));
    names.extend(vaults::list(&app.service, None)?.into_iter().map(|v| v.location));
    let subscription = subscription_id(app);
    let shown: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({
                "id": format!("{subscription}/locations/{name}"),
                "name": name,
                "type": "Region",
                "displayName": name,
                "regionalDisplayName": name,
                "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
            })
        })
        .collect();
    Response::ok(json!({"value": shown}))
}

const PROVIDERS: [(&str, &[&str]); 5] = [
    ("Microsoft.RecoveryServices", &["vaults", "locations/backupStatus", "locations/deletedVaults"]),
    ("Microsoft.Compute", &["virtualMachines", "disks"]),
    ("Microsoft.Storage", &["storageAccounts"]),
    ("Microsoft.Network", &["virtualNetworks", "virtualNetworks/subnets"]),
    ("Strongroom.Backup", &["hosts"]),
];

fn show(app: &App, (namespace, types): (&str, &[&str])) -> Value {
    let types: Vec<Value> = types
        .iter()
        .map(|t| json!({"resourceType": t, "locations": [], "apiVersions": ["2026-07-01"]}))
        .collect();
    json!({
        "id": format!("{}/providers/{namespace}", subscription_id(app)),
        "namespace": namespace,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": types,
    })
}

fn providers(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let shown: Vec<Value> = PROVIDERS.iter().map(|p| show(app, *p)).collect();
    Response::ok(json!({"value": shown}))
}

fn provider(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let wanted = &params["provider"];
    match PROVIDERS.iter().find(|(namespace, _)| namespace.eq_ignore_ascii_case(wanted)) {
        Some(found) => Response::ok(show(app, *found)),
        None => Err(crate::ArmError::invalid_resource_namespace(wanted)),
    }
}
