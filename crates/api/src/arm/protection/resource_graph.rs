//! Azure Resource Graph, as far as clients of backup need it: deleted vaults, and the items in them.
//!
//! Of the query language a small part is read, and all of a query is: whatever is not understood is refused. No rows are
//! answered only where there are none; a report that reads no rows takes that for good news.

use super::graph_query::{self, ITEMS, kind_of, refused, run};
use super::items;
use crate::arm::shared::{Answer, App, subscription_id, vault_id};
use crate::arm::vaults::deleted;
use crate::{ArmError, Request, Response, Route};
use serde_json::{Value, json};
use strongroom_service::vaults;

pub fn routes() -> Vec<Route<App>> {
    vec![
        Route::post("/providers/Microsoft.ResourceGraph/resources", "ResourceGraph_Query", query)
            .takes("GraphQuery")
            .summary("Deleted vaults and the items in them; other queries are refused.")
            .tag("Resource groups"),
    ]
}

/// What stands beside the query; what would change the answer and is not understood is refused.
fn check_options(app: &App, body: &Value) -> Result<(), ArmError> {
    let own = app.service.subscription().to_string();
    let of_ours = |value: &Value| {
        let given = value.as_array().map(Vec::as_slice).unwrap_or_default();
        given.is_empty() || given.iter().filter_map(Value::as_str).any(|id| id.eq_ignore_ascii_case(&own))
    };
    let options = body["options"].as_object().into_iter().flatten();
    let beside = body
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !["query", "options"].contains(&name.as_str()));
    for (name, value) in beside.chain(options) {
        let is_understood = match (name.as_str(), value) {
            (_, Value::Null) => true,
            ("subscriptions", Value::Array(_)) => of_ours(value),
            ("facets" | "managementGroups", Value::Array(none)) => none.is_empty(),
            ("resultFormat", format) => format == "objectArray",
            ("allowPartialScopes", Value::Bool(_)) => true,
            _ => false,
        };
        if !is_understood {
            return Err(refused(format!(
                "'{}' with this value is not understood",
                crate::error::shorten(name)
            )));
        }
    }
    Ok(())
}

fn query(app: &App, request: &Request, _: &crate::Params) -> Answer {
    let body: Value = request.json()?;
    let text = body["query"].as_str().ok_or_else(|| ArmError::invalid_content("query is missing"))?;
    check_options(app, &body)?;
    let stages = graph_query::parse(text)?;
    let rows = match kind_of(&stages)? {
        ITEMS => items_of_deleted(app, request)?,
        _ => deleted::all_deleted(app)?,
    };
    let found = run(&stages, readable(app, request, rows)?)?;
    Response::ok(json!({
        "totalRecords": found.len(), "count": found.len(), "data": found, "facets": [], "resultTruncated": "false",
    }))
}

/// Those that the caller may read; refused where that is none of what is there, or of nothing.
fn readable(app: &App, request: &Request, rows: Vec<(String, Value)>) -> Result<Vec<Value>, ArmError> {
    const READ: &str = "Microsoft.RecoveryServices/locations/deletedVaults/read";
    let scope = subscription_id(app);
    if app.gate.allowed(request.caller(), READ, &scope)? {
        return Ok(rows.into_iter().map(|(_, row)| row).collect());
    }
    let mut readable = Vec::new();
    for (vault, row) in rows {
        if app.gate.allowed(request.caller(), READ, &vault)? {
            readable.push(row);
        }
    }
    match readable.is_empty() {
        true => Err(request.caller().refused(READ, &scope)),
        false => Ok(readable),
    }
}

/// The items in all deleted vaults, each with the id that its vault had.
pub(crate) fn items_of_deleted(app: &App, request: &Request) -> Result<Vec<(String, Value)>, ArmError> {
    let mut found = Vec::new();
    for vault in vaults::list_all_deleted(&app.service)? {
        let base = deleted::show_deleted(app, &vault)["id"].as_str().unwrap_or_default().to_owned();
        for item in strongroom_service::items::list(&app.service, &vault)? {
            let shown = items::show(app, request, &vault, &item, None);
            let row = json!({
                "id": format!(
                    "{base}/backupFabrics/Azure/protectionContainers/{}/protectedItems/{}",
                    item.container(),
                    item.name()
                ),
                "type": "microsoft.recoveryservices/locations/deletedvaults/backupfabrics/protectioncontainers/protecteditems",
                "name": item.name(),
                "location": vault.location,
                "resourceGroup": vault.group,
                "subscriptionId": app.service.subscription().to_string(),
                "properties": shown["properties"],
                "tags": null,
            });
            found.push((vault_id(app, &vault), row));
        }
    }
    Ok(found)
}
