//! The refusal of what Azure has and this server has not: never a false success.

use crate::{ArmError, Request};
use http::StatusCode;

pub(crate) fn not_available(what: &str) -> ArmError {
    ArmError::new(
        StatusCode::BAD_REQUEST,
        "UserErrorFeatureNotSupportedOnThisServer",
        format!("{what} is not available on this server."),
    )
}

/// `az`'s `--use-secondary-region` asks for the copy in the paired region by the vault's own lists' paths, with a slash at
/// their end, in versions of an API of its own. What is here is no copy.
pub(crate) fn check_region(request: &Request) -> Result<(), ArmError> {
    const VERSIONS: [&str; 3] = ["2018-12-20", "2021-11-15", "2023-01-15"];
    match request.ends_in_slash && VERSIONS.contains(&request.api_version()) {
        true => Err(not_available(CROSS_REGION)),
        false => Ok(()),
    }
}

pub(crate) const CROSS_REGION: &str = "Reading and restoring from a secondary region";
