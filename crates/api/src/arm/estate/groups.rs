//! Resource groups and generic resources.

use crate::arm::estate::places::{account_id, account_tags, network_id, network_tags};
use crate::arm::jobs::following;
use crate::arm::shared::{
    Answer, App, by_name, by_shown_name, check_subscription, group_id, id_of_machine, page, subscription_id,
    vault_id,
};
use crate::odata::Equalities;
use crate::route::LIST;
use crate::schema::{nothing_required, without};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_catalog::{ResourceGroup, key};
use strongroom_service::{groups, machines, operations, places, vaults};

const GROUP: &str = "/subscriptions/{subscription}/resourceGroups/{group}";
const READ: &str = "Microsoft.Resources/subscriptions/resourceGroups/read";

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Resource groups";
    vec![
        Route::get("/subscriptions/{subscription}/resourceGroups", "ResourceGroups_List", list)
            .action(READ)
            .query(LIST)
            .by_row()
            .summary("All resource groups.")
            .tag(TAG),
        Route::get(GROUP, "ResourceGroups_Get", get).action(READ).summary("A resource group.").tag(TAG),
        Route::new(http::Method::HEAD, GROUP, "ResourceGroups_CheckExistence", exists)
            .action(READ)
            .success(&[204])
            .summary("Whether a resource group is there.")
            .tag(TAG),
        Route::put(GROUP, "ResourceGroups_CreateOrUpdate", put)
            .action("Microsoft.Resources/subscriptions/resourceGroups/write")
            .reads::<Body>("ResourceGroup")
            .success(&[200, 201])
            .summary("Makes a resource group, or changes its tags.")
            .tag(TAG),
        Route::patch(GROUP, "ResourceGroups_Update", patch)
            .action("Microsoft.Resources/subscriptions/resourceGroups/write")
            .reads::<Patch>("TagsPatch")
            .summary("Changes a resource group's tags.")
            .tag(TAG),
        Route::delete(GROUP, "ResourceGroups_Delete", delete)
            .action("Microsoft.Resources/subscriptions/resourceGroups/delete")
            .success(&[202])
            .summary("Removes a resource group that holds nothing.")
            .tag(TAG),
        Route::get("/subscriptions/{subscription}/operationresults/{operation}", "Operations_Result", result)
            .action("Microsoft.Resources/subscriptions/read")
            .success(&[200])
            .summary("How an operation of the subscription ended.")
            .tag(TAG),
        Route::get("/subscriptions/{subscription}/resources", "Resources_List", resources)
            .action("Microsoft.Resources/subscriptions/resources/read")
            .query(LIST)
            .summary("All resources, of all kinds.")
            .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/resources",
            "Resources_ListByResourceGroup",
            resources,
        )
        .action("Microsoft.Resources/subscriptions/resourceGroups/resources/read")
        .query(LIST)
        .summary("All resources of a group.")
        .tag(TAG),
    ]
}

fn show(app: &App, group: &ResourceGroup) -> Value {
    json!({
        "id": group_id(app, &group.name),
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "tags": group.tags,
        "properties": {"provisioningState": "Succeeded"},
    })
}

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("required" = ["location"]))]
struct Body {
    location: Option<String>,
    tags: Option<BTreeMap<String, String>>,
}

/// A group stays where it is: of a location that is given nothing is told.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transform = nothing_required, transform = without(&["location"]))]
struct Patch(Body);

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let mut found = groups::list(&app.service)?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter.equalities(&["tagName", "tagValue"]).map_err(refused)?;
        check_tag_filter(&wanted)?;
        found.retain(|g| has_tag(&wanted, g.tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str()))));
    }
    page(request, found, 1000, |g| by_name(&g.name, ""), |g| show(app, g))
}

fn check_tag_filter(wanted: &Equalities) -> Result<(), ArmError> {
    match wanted.get("tagValue").is_some() && wanted.get("tagName").is_none() {
        true => Err(ArmError::invalid_filter(wanted.source(), "a tagValue is one of a tagName")),
        false => Ok(()),
    }
}

/// Whether it has the tag, if one is wanted. Tags' names are compared without regard to case, their values with it.
fn has_tag<'a>(wanted: &Equalities, mut tags: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    let Some(name) = wanted.get("tagName") else { return true };
    tags.any(|(tag, value)| {
        key(tag) == key(name) && wanted.get("tagValue").is_none_or(|wanted| wanted == value)
    })
}

fn get(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Response::ok(show(app, &groups::get(&app.service, &params["group"])?))
}

fn exists(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    Ok(match groups::find(&app.service, &params["group"])? {
        Some(_) => Response::empty(StatusCode::NO_CONTENT),
        None => Response::empty(StatusCode::NOT_FOUND),
    })
}

fn put(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: Body = request.json()?;
    let location = body.location.ok_or_else(|| {
        ArmError::bad_request("LocationRequired", "The location property is required for this definition.")
    })?;
    let (group, is_new) = groups::put(&app.service, &params["group"], &location, body.tags)?;
    Response::with(if is_new { StatusCode::CREATED } else { StatusCode::OK }, show(app, &group))
}

fn patch(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let Patch(body) = request.json()?;
    let group = groups::get(&app.service, &params["group"])?;
    let (group, _) = groups::put(&app.service, &group.name, &group.location, body.tags)?;
    Response::ok(show(app, &group))
}

fn delete(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    groups::delete(&app.service, &params["group"])?;
    let operation = operations::done(&app.service, None)?;
    let path = format!("{}/operationresults/{}", subscription_id(app), operation.id);
    Ok(Response::accepted(request, None, Some(&path), 1))
}

fn result(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let id = following::parse_operation(&params["operation"])?;
    operations::state(&app.service, id)?;
    Ok(Response::empty(StatusCode::OK))
}

fn resources(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let service = &app.service;
    let group = match params.get("group") {
        Some(name) => Some(groups::get(service, name)?.name),
        None => None,
    };
    let in_group = |g: &str| group.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(g));
    let resource = |id: String, name: &str, kind: &str, location: &str, tags: Value| {
        let mut shown = json!({"id": id, "name": name, "type": kind, "location": location});
        if tags.as_object().is_some_and(|tags| !tags.is_empty()) {
            shown["tags"] = tags;
        }
        shown
    };
    let mut all = Vec::new();
    for m in machines::list(service, None)?.iter().filter(|m| in_group(&m.group)) {
        let kind = "Microsoft.Compute/virtualMachines";
        all.push(resource(id_of_machine(app, m), &m.name, kind, &m.location, json!(m.tags)));
    }
    for v in vaults::list(service, None)?.iter().filter(|v| in_group(&v.group)) {
        let kind = "Microsoft.RecoveryServices/vaults";
        all.push(resource(vault_id(app, v), &v.name, kind, &v.location, json!(v.tags)));
    }
    for p in places::list(service)?.iter().filter(|p| in_group(&p.group)) {
        let id = account_id(app, p);
        let tags = account_tags(p);
        all.push(resource(id, &p.name, "Microsoft.Storage/storageAccounts", &p.location, tags));
    }
    for n in places::networks(service)?.iter().filter(|n| in_group(&n.group)) {
        let id = network_id(app, n);
        let tags = network_tags(n);
        all.push(resource(id, &n.name, "Microsoft.Network/virtualNetworks", &n.location, tags));
    }
    // The forms that clients use: resourceType eq '…', name eq '…', tagName eq '…' and tagValue eq '…'.
    if let Some(filter) = request.filter()? {
        let wanted = filter
            .equalities(&["resourceType", "name", "resourceGroup", "location", "tagName", "tagValue"])
            .map_err(|e| ArmError::invalid_filter(filter.source(), e))?;
        check_tag_filter(&wanted)?;
        all.retain(|r| {
            let tags = r["tags"].as_object().into_iter().flatten();
            let tags = tags.filter_map(|(tag, value)| Some((tag.as_str(), value.as_str()?)));
            let field = |name: &str| r[name].as_str().unwrap_or_default();
            wanted.passes("resourceType", field("type"))
                && wanted.passes("name", field("name"))
                && wanted.get("resourceGroup").is_none_or(|g| is_in_group(field("id"), g))
                && wanted.passes("location", field("location"))
                && has_tag(&wanted, tags)
        });
    }
    page(request, all, 1000, by_shown_name, Value::clone)
}

fn is_in_group(id: &str, group: &str) -> bool {
    let mut parts = id.split('/').skip_while(|part| !part.eq_ignore_ascii_case("resourceGroups"));
    parts.nth(1).is_some_and(|of| of.eq_ignore_ascii_case(group))
}
