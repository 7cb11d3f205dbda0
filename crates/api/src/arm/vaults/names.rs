//! What vaults may be called, and which names their endpoints would need.

use crate::arm::shared::{Answer, App, check_subscription};
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_domain::arm_names;
use strongroom_service::vaults;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Status";
    vec![

        Route::post(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.RecoveryServices/locations/{location}/checkNameAvailability",
            "RecoveryServices_CheckNameAvailability",
            check_name,
        )
        .action("Microsoft.RecoveryServices/locations/checkNameAvailability/action")
        .reads::<NameBody>("NameRequest")
        .summary("Whether a vault could have a name.")
        .tag(TAG),
        Route::post(
            "/subscriptions/{subscription}/providers/Microsoft.RecoveryServices/locations/{location}/capabilities",
            "RecoveryServices_Capabilities",
            capabilities,
        )
        .action("Microsoft.RecoveryServices/locations/capabilities/action")
        .takes("CapabilitiesRequest")
        .summary("Which DNS zones private endpoints would need: none.")
        .tag(TAG),
    ]
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["name", "type"]))]
struct NameBody {
    name: Option<String>,
    r#type: Option<String>,
}

fn check_name(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: NameBody = request.json()?;
    let kind = body.r#type.unwrap_or_default();
    if !kind.eq_ignore_ascii_case("Microsoft.RecoveryServices/vaults") {
        return Err(ArmError::invalid_parameter("type", "it is Microsoft.RecoveryServices/Vaults"));
    }
    let name = body.name.ok_or_else(|| ArmError::invalid_content("name is missing"))?;
    if let Err(error) = arm_names::check_vault_name(&name) {
        return Response::ok(
            json!({"nameAvailable": false, "reason": "Invalid", "message": error.to_string()}),
        );
    }
    if vaults::find(&app.service, &params["group"], &name)?.is_some() {
        let message = format!("Resource group '{}' has a vault '{name}' already.", &params["group"]);
        return Response::ok(json!({"nameAvailable": false, "reason": "AlreadyExists", "message": message}));
    }
    Response::ok(json!({"nameAvailable": true}))
}

fn capabilities(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let body: Value = request.json()?;
    let kind = body["type"].as_str().unwrap_or_default();
    if !kind.eq_ignore_ascii_case("Microsoft.RecoveryServices/vaults") {
        return Err(ArmError::invalid_parameter("type", "it is Microsoft.RecoveryServices/Vaults"));
    }
    let asked = body["properties"]["dnsZones"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Private endpoints are not there, and names are the hosts' own.
    let zones: Vec<Value> = asked
        .iter()
        .filter_map(|zone| zone["subResource"].as_str())
        .map(|part| json!({"subResource": crate::error::shorten(part), "requiredZoneNames": []}))
        .collect();
    Response::ok(json!({"type": kind, "properties": {"dnsZones": zones}}))
}
