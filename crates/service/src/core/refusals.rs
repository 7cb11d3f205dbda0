//! Refusals that several rooms word alike.

use super::error::Error;

/// What Azure's front door says of a resource that is not there.
pub(crate) fn resource_not_found(kind_and_name: &str, group: &str) -> Error {
    Error::not_found(format!("The Resource '{kind_and_name}' under resource group '{group}' was not found."))
        .coded("ResourceNotFound")
}
