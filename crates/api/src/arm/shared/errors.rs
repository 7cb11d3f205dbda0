//! What use cases refuse, as Azure would say it.

use crate::ArmError;
use http::StatusCode;
use strongroom_service::{Error, ErrorKind};

/// A use case's error, as Azure would say it.
fn arm_error(error: Error) -> ArmError {
    let coded = error.code;
    let is_user_error = coded.is_some_and(|c| c.contains("UserError") || c.starts_with("ServiceResource"));
    let (status, code) = match error.kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Busy => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Unsupported => (StatusCode::BAD_REQUEST, "NotSupported"),
        ErrorKind::NeedsFull => (StatusCode::CONFLICT, "Conflict"),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "DataDamaged"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "Forbidden"),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "BadRequest"),
        ErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        ErrorKind::Cancelled => (StatusCode::CONFLICT, "OperationCancelled"),
        ErrorKind::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError"),
    };
    // Azure's backup plane answers what the user did wrong with 400, whatever it was.
    let status = match is_user_error && status != StatusCode::NOT_FOUND {
        true => StatusCode::BAD_REQUEST,
        false => status,
    };
    if status.is_server_error() {
        tracing::error!(target: crate::ANSWERS, %error, "a request failed");
    }
    ArmError::new(status, coded.unwrap_or(code), with_link(coded, error.into_message()))
}

/// Azure's front door says more of a resource that is not there.
fn with_link(code: Option<&str>, message: String) -> String {
    if code == Some("ResourceNotFound") && message.starts_with("The Resource '") {
        return format!("{message} For more details please go to https://aka.ms/ARMResourceNotFoundFix");
    }
    message
}

impl From<Error> for ArmError {
    fn from(error: Error) -> Self {
        arm_error(error)
    }
}
