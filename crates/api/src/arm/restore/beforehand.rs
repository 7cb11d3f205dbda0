//! Asking beforehand whether a restore could begin.

use super::request::{Properties, USES_SOURCE, check_item, invalid};
use crate::arm::jobs::following;
use crate::arm::protection::points::point_of;
use crate::arm::shared::{Answer, App, ids, vault_id, vault_of, vault_path};
use crate::route::{Link, Named, Needs};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use strongroom_catalog::Vault;
use strongroom_domain::access::linked;
use strongroom_domain::arm_names::ResourceId;
use strongroom_service::operations;
use strongroom_service::restore::{self};

pub fn routes() -> Vec<Route<App>> {
    const BEFOREHAND: &str = "Asking beforehand";
    vec![
        Route::post(vault_path!("/backupValidateOperation"), "Operation_Validate", validate)
            .action("Microsoft.RecoveryServices/Vaults/backupValidateOperation/action")
            .reads::<ValidateBody>("ValidateRequest")
            .names(NAMES_BEFOREHAND)
            .also_needs(USES_SOURCE, used_beforehand)
            .shows::<ValidateAnswer>("ValidateResponse")
            .summary("Whether a restore could begin: what stands in its way.")
            .tag(BEFOREHAND),
        Route::post(vault_path!("/backupTriggerValidateOperation"), "ValidateOperation_Trigger", trigger)
            .action("Microsoft.RecoveryServices/Vaults/backupTriggerValidateOperation/action")
            .reads::<ValidateBody>("ValidateRequest")
            .names(NAMES_BEFOREHAND)
            .also_needs(USES_SOURCE, used_beforehand)
            .success(&[202])
            .summary("The same, as an operation that is followed.")
            .tag(BEFOREHAND),
        Route::get(
            vault_path!("/backupValidateOperationsStatuses/{operation}"),
            "ValidateOperationStatuses_Get",
            status,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupValidateOperationsStatuses/read")
        .shows::<following::OperationShown>("OperationStatus")
        .summary("How a validation stands, and what it found.")
        .tag(BEFOREHAND),
        Route::get(
            vault_path!("/backupValidateOperationResults/{operation}"),
            "ValidateOperationResults_Get",
            result,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupValidateOperationResults/read")
        .shows::<ValidateAnswer>("ValidateResponse")
        .summary("What a validation found.")
        .tag(BEFOREHAND),
    ]
}

/// The same where it is only asked about.
const NAMES_BEFOREHAND: &[Named] = &[
    Named { field: "id", needs: Needs::Id(linked::READ_POINT) },
    Named { field: "properties.restoreRequest.recoveryPointId", needs: OF_THE_ID },
    Named { field: "properties.restoreRequest.sourceResourceId", needs: OF_THE_ID },
    Named {
        field: "properties.restoreRequest.targetVirtualMachineId",
        needs: Needs::Id(linked::TARGET_MACHINE),
    },
    Named {
        field: "properties.restoreRequest.targetResourceGroupId",
        needs: Needs::Id(linked::TARGET_GROUP),
    },
    Named { field: "properties.restoreRequest.storageAccountId", needs: Needs::Id(linked::TARGET_ACCOUNT) },
    Named { field: "properties.restoreRequest.virtualNetworkId", needs: Needs::Id(linked::TARGET_NETWORK) },
    Named { field: "properties.restoreRequest.subnetId", needs: Needs::Id(linked::TARGET_NETWORK) },
];

const OF_THE_ID: Needs = Needs::Nothing("it repeats what the id names, and is refused if it does not");

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["id", "properties"]))]
struct ValidateBody {
    /// Of the recovery point.
    id: String,
    properties: ValidateProperties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["objectType", "restoreRequest"]))]
struct ValidateProperties {
    #[schemars(extend("enum" = ["ValidateIaasVMRestoreOperationRequest", "ValidateRestoreOperationRequest"]))]
    object_type: String,
    restore_request: Option<Properties>,
}

fn used_beforehand(app: &App, request: &Request, _: &Params) -> Result<Vec<Link>, ArmError> {
    let body: ValidateBody = request.json()?;
    let Some(asked) = body.properties.restore_request else { return Ok(Vec::new()) };
    let id = ids::read(app, request, "id", &body.id, &ids::POINT)?;
    // Of what is not there nothing is replaced; the answer says that it is not.
    match point_of(app, &point_path(&id)) {
        Ok((_, item, _)) => asked.used_source(app, &item, false),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What stands in the way of the restore that a body describes; the outer error: the body is none.
fn look(app: &App, request: &Request, params: &Params) -> Result<(Vault, Option<ArmError>), ArmError> {
    let vault = vault_of(app, params)?;
    let body: ValidateBody = request.json()?;
    let kinds = ["ValidateIaasVMRestoreOperationRequest", "ValidateRestoreOperationRequest"];
    if !kinds.iter().any(|k| k.eq_ignore_ascii_case(&body.properties.object_type)) {
        return Err(invalid(
            "Restores of virtual machines can be validated: objectType must be ValidateIaasVMRestoreOperationRequest.",
        ));
    }
    let asked = body.properties.restore_request.ok_or_else(|| invalid("restoreRequest is missing."))?;
    let id = ids::read(app, request, "id", &body.id, &ids::POINT)?;
    let path = point_path(&id);
    let found = (|| -> Result<(), ArmError> {
        let (of, item, point) = point_of(app, &path)?;
        if of.id != vault.id {
            return Err(invalid("The recovery point is not of this vault."));
        }
        check_item(&item)?;
        let (target, _) = asked.target(app, request, &vault, &item, &point)?;
        restore::check(&app.service, &item, &point, &target, asked.luns(), asked.allowed())?;
        Ok(())
    })();
    match found {
        // That nothing could be looked at says nothing about the restore.
        Err(error) if error.status.is_server_error() => Err(error),
        found => Ok((vault, found.err())),
    }
}

/// A recovery point's id as the parameters of its path.
fn point_path(id: &ResourceId) -> Params {
    let [vault, fabric, container, item, point] = [0, 1, 2, 3, 4].map(|at| id.names[at].as_str());
    Params::from([
        ("group", id.group.as_str()),
        ("vault", vault),
        ("fabric", fabric),
        ("container", container),
        ("item", item),
        ("point", point),
    ])
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ValidateAnswer {
    validate_operation_response: Validated,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Validated {
    validation_results: Vec<InTheWay>,
}

#[derive(Serialize, JsonSchema)]
struct InTheWay {
    code: String,
    message: String,
    recommendations: Vec<&'static str>,
}

fn show(found: Option<(String, String)>) -> ValidateAnswer {
    let recommendations = vec!["Correct this, then ask again."];
    let results = found.map(|(code, message)| InTheWay { code, message, recommendations });
    let validation_results = results.into_iter().collect();
    ValidateAnswer { validate_operation_response: Validated { validation_results } }
}

fn validate(app: &App, request: &Request, params: &Params) -> Answer {
    let (_, found) = look(app, request, params)?;
    Response::ok(show(found.map(|e| (e.code.into(), e.message))))
}

fn trigger(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, found) = look(app, request, params)?;
    let found = found.map(|e| (e.code.to_string(), e.message));
    let operation = operations::validated(&app.service, &vault, found)?.id;
    let base = vault_id(app, &vault);
    let status = format!("{base}/backupValidateOperationsStatuses/{operation}");
    let result = format!("{base}/backupValidateOperationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

/// A validation that a path names, and what it found. What is no validation is as if it were not there.
fn validation(app: &App, params: &Params) -> Result<(operations::OperationState, ValidateAnswer), ArmError> {
    let vault = vault_of(app, params)?;
    let mut state = following::operation_of(app, &vault, &params["operation"])?;
    if !state.validates {
        return Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "OperationNotFound",
            format!("Operation {} is no validation.", state.id),
        ));
    }
    // That it found something is no failure of its own.
    let found = state.error.take();
    Ok((state, show(found)))
}

fn status(app: &App, _: &Request, params: &Params) -> Answer {
    let (state, found) = validation(app, params)?;
    let mut shown = following::show_operation(&state);
    let mut found = json!(found);
    found["objectType"] = "OperationStatusValidateOperationExtendedInfo".into();
    shown.properties = Some(found);
    Response::ok(shown)
}

fn result(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(validation(app, params)?.1)
}
