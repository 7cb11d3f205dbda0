//! The OpenAPI document, made from the route table: it cannot say what the server does not do.

use crate::error::ErrorBody;
use crate::route::{Access, QueryParameter, Route, RouteError, Segment};
use crate::schema;
use serde_json::{Map, Value, json};

/// The document for these routes. `schemas` are the components that routes name.
pub fn document<S>(routes: &[Route<S>], mut schemas: Map<String, Value>) -> Result<Value, RouteError> {
    schemas.entry("ErrorResponse").or_insert_with(schema::of_answer::<ErrorBody>);
    let mut paths: Map<String, Value> = Map::new();
    add_types(routes, &mut schemas)?;
    for route in routes {
        for schema in [route.request_schema, route.response_schema].into_iter().flatten() {
            if !schemas.contains_key(schema) {
                return Err(RouteError::UnknownSchema { route: format!("{route:?}"), schema });
            }
        }
        // OpenAPI has no parameter for several segments: its slashes would have to come encoded.
        let path = route.pattern.replace("*}", "}");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_lowercase()] = operation(route);
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Strongroom",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Azure Backup for one's own machines: the parts of Azure Resource Manager that its clients \
                use, and what goes beyond them under Strongroom.Backup. Paths match without regard to case; any \
                api-version is accepted.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } },
        },
        "security": [{ "bearer": [] }],
    }))
}

/// Adds the schemas that come from types.
pub(crate) fn add_types<S>(routes: &[Route<S>], schemas: &mut Map<String, Value>) -> Result<(), RouteError> {
    for route in routes {
        for (name, body) in route.schemas() {
            let schema = body.schema();
            if *schemas.entry(name).or_insert_with(|| schema.clone()) != schema {
                return Err(RouteError::SchemaTwice { route: format!("{route:?}"), schema: name });
            }
        }
    }
    Ok(())
}

fn operation<S>(route: &Route<S>) -> Value {
    let mut parameters: Vec<Value> = route
        .segments()
        .filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => {
                Some(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
            }
        })
        .collect();
    if route.needs_api_version {
        parameters.push(json!({
            "name": "api-version", "in": "query", "required": true, "description": "Any; repeated in URLs of the answer.",
            "schema": { "type": "string", "pattern": "^[A-Za-z0-9.-]{1,64}$" },
        }));
    }
    parameters.extend(route.query.iter().map(|QueryParameter { name, description, required }| {
        let schema = if *name == "$top" { json!({ "type": "integer", "minimum": 1 }) } else { json!({ "type": "string" }) };
        json!({ "name": name, "in": "query", "required": required, "description": description, "schema": schema })
    }));

    let mut responses = Map::new();
    for (at, status) in route.success.iter().enumerate() {
        let mut response = json!({ "description": "Success" });
        let schema = route.response_schema.filter(|_| at == 0 && !matches!(status, 202 | 204));
        if let Some(schema) = schema {
            response["content"] = content(schema);
        }
        responses.insert(status.to_string(), response);
    }
    responses.insert(
        String::from("default"),
        json!({ "description": "Refusal or failure", "content": content("ErrorResponse") }),
    );

    let mut out = json!({
        "operationId": route.operation_id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if !route.tag.is_empty() {
        out["tags"] = json!([route.tag]);
    }
    if let Some(schema) = route.request_schema {
        let required = matches!(route.method.as_str(), "PUT" | "PATCH");
        out["requestBody"] = json!({ "required": required, "content": content(schema) });
    }
    match route.access {
        Access::Public => out["security"] = json!([]),
        Access::Authenticated => {}
        Access::Action(action) => out["x-action"] = json!(action),
    }
    // What is needed beside, over what the body names: one of these actions.
    let linked = route.names.iter().filter(|named| !named.needs.actions().is_empty());
    let linked: Map<String, Value> =
        linked.map(|named| (named.field.to_owned(), json!(named.needs.actions()))).collect();
    if !linked.is_empty() {
        out["x-linked-actions"] = Value::Object(linked);
    }
    if let Some((words, _)) = route.also {
        out["x-also-needs"] = json!(words);
    }
    out
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}
