//! Operations, as clients follow them.

use crate::arm::shared::{Answer, App, check_subscription, format, item_path, vault_of, vault_path};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use strongroom_catalog::Vault;
use strongroom_service::operations::{self, OperationState};
use uuid::Uuid;

pub fn routes() -> Vec<Route<App>> {
    const JOBS: &str = "Jobs";
    const FOLLOW: &str = "Operations";
    const READ_OPERATION: &str = "Microsoft.RecoveryServices/Vaults/backupOperations/read";
    const READ_RESULT: &str = "Microsoft.RecoveryServices/Vaults/backupOperationResults/read";
    vec![

        Route::get(
            vault_path!("/backupJobs/{job}/operationsStatus/{operation}"),
            "JobOperationStatuses_Get",
            status,
        ).shows::<OperationShown>("OperationStatus")
        .action("Microsoft.RecoveryServices/Vaults/backupJobs/operationsStatus/read")
        .summary("How cancelling a job stands.")
        .tag(JOBS),
        Route::get(
            vault_path!("/backupJobs/{job}/operationResults/{operation}"),
            "JobOperationResults_Get",
            result,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupJobs/operationResults/read")
        .success(&[204, 202])
        .summary("Whether cancelling a job is over.")
        .tag(JOBS),
        Route::get(vault_path!("/backupOperations/{operation}"), "BackupOperationStatuses_Get", status).shows::<OperationShown>("OperationStatus")
            .action(READ_OPERATION)
            .summary("How an operation stands.")
            .tag(FOLLOW),
        Route::get(vault_path!("/backupOperationResults/{operation}"), "BackupOperationResults_Get", result)
            .action(READ_RESULT)
            .success(&[204, 202])
            .summary("Whether an operation is over.")
            .tag(FOLLOW),
        Route::get(item_path!("/operationsStatus/{operation}"), "ProtectedItemOperationStatuses_Get", status).shows::<OperationShown>("OperationStatus")
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/operationsStatus/read")
            .summary("How an operation on an item stands.")
            .tag(FOLLOW),
        Route::get(item_path!("/operationResults/{operation}"), "ProtectedItemOperationResults_Get", result)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/operationResults/read")
            .success(&[204, 202])
            .summary("Whether an operation on an item is over.")
            .tag(FOLLOW),
        Route::get(
            vault_path!("/backupPolicies/{policy}/operations/{operation}"),
            "ProtectionPolicyOperationStatuses_Get",
            status,
        ).shows::<OperationShown>("OperationStatus")
        .action("Microsoft.RecoveryServices/Vaults/backupPolicies/operations/read")
        .summary("How an operation on a policy stands.")
        .tag(FOLLOW),
        Route::get(
            vault_path!("/backupPolicies/{policy}/operationResults/{operation}"),
            "ProtectionPolicyOperationResults_Get",
            result,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupPolicies/operationResults/read")
        .success(&[204, 202])
        .summary("Whether an operation on a policy is over.")
        .tag(FOLLOW),
    ]
}

/// What cannot be an id names nothing: the same as what is not there.
pub(super) fn parse_id(text: &str, code: &'static str, what: &str) -> Result<Uuid, ArmError> {
    Uuid::try_parse(text).map_err(|_| {
        ArmError::not_found(code, format!("There is no {what} '{}'.", crate::error::shorten(text)))
    })
}

pub(crate) fn parse_operation(text: &str) -> Result<Uuid, ArmError> {
    parse_id(text, "OperationNotFound", "operation")
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperationShown {
    id: String,
    name: String,
    status: Status,
    #[schemars(extend("format" = "date-time"))]
    start_time: String,
    #[schemars(extend("format" = "date-time"))]
    end_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, extend("type" = "object"))]
    pub(crate) properties: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    error: Option<Failure>,
}

#[derive(Serialize, JsonSchema)]
enum Status {
    InProgress,
    Succeeded,
    Failed,
}

#[derive(Serialize, JsonSchema)]
struct Failure {
    code: String,
    message: String,
}

pub(crate) fn show_operation(state: &OperationState) -> OperationShown {
    let status = match (&state.error, state.ended_at) {
        (Some(_), _) => Status::Failed,
        (None, Some(_)) => Status::Succeeded,
        (None, None) => Status::InProgress,
    };
    let job = state.job.filter(|_| state.error.is_none() && state.ended_at.is_some());
    let error = state.error.clone();
    OperationShown {
        id: state.id.to_string(),
        name: state.id.to_string(),
        status,
        start_time: format::time(state.started_at),
        end_time: state.ended_at.map_or_else(|| format::no_time().to_owned(), format::time),
        properties: job
            .map(|job| json!({"objectType": "OperationStatusJobExtendedInfo", "jobId": job.to_string()})),
        error: error.map(|(code, message)| Failure { code, message }),
    }
}

fn state(app: &App, params: &Params) -> Result<OperationState, ArmError> {
    check_subscription(app, params)?;
    let vault = vault_of(app, params)?;
    operation_of(app, &vault, &params["operation"])
}

/// An operation of this vault. Another vault's are as if they were not there.
pub(crate) fn operation_of(app: &App, vault: &Vault, id: &str) -> Result<OperationState, ArmError> {
    let id = parse_operation(id)?;
    let state = operations::state(&app.service, id)?;
    match state.vault {
        Some(of) if of != vault.id => Err(ArmError::not_found(
            "OperationNotFound",
            format!("Operation {id} was not found in vault '{}'.", vault.name),
        )),
        _ => Ok(state),
    }
}

pub(crate) fn status(app: &App, _: &Request, params: &Params) -> Answer {
    Ok(Response::ok(show_operation(&state(app, params)?))?.retry_after(1))
}

pub(crate) fn result(app: &App, request: &Request, params: &Params) -> Answer {
    let state = state(app, params)?;
    Ok(match state.ended_at {
        Some(_) => Response::empty(StatusCode::NO_CONTENT),
        None => Response::accepted(request, None, Some(&request.path_text()), 1),
    })
}
