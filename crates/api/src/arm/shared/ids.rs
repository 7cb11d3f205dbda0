//! ARM ids in bodies: each field takes one kind of resource, of our subscription. What is anything else is refused.

use super::app::App;
use super::find::check_subscription;
use crate::{ArmError, Params, Request};
use strongroom_domain::arm_names::{ResourceId, parse_resource_id};

/// What a field's id must name.
pub(crate) struct Kind {
    provider: &'static str,
    types: &'static [&'static str],
    /// For people: "a virtual machine".
    what: &'static str,
}

pub(crate) const MACHINE: Kind =
    Kind { provider: "Microsoft.Compute", types: &["virtualMachines"], what: "a virtual machine" };
pub(crate) const STORAGE_ACCOUNT: Kind =
    Kind { provider: "Microsoft.Storage", types: &["storageAccounts"], what: "a storage account" };
pub(crate) const NETWORK: Kind =
    Kind { provider: "Microsoft.Network", types: &["virtualNetworks"], what: "a virtual network" };
pub(crate) const SUBNET: Kind =
    Kind { provider: "Microsoft.Network", types: &["virtualNetworks", "subnets"], what: "a subnet" };
pub(crate) const GROUP: Kind = Kind { provider: "", types: &[], what: "a resource group" };
pub(crate) const VAULT: Kind =
    Kind { provider: "Microsoft.RecoveryServices", types: &["vaults"], what: "a vault" };
pub(crate) const POLICY: Kind = Kind {
    provider: "Microsoft.RecoveryServices",
    types: &["vaults", "backupPolicies"],
    what: "a backup policy",
};
pub(crate) const POINT: Kind = Kind {
    provider: "Microsoft.RecoveryServices",
    types: &["vaults", "backupFabrics", "protectionContainers", "protectedItems", "recoveryPoints"],
    what: "a recovery point",
};

/// The code of an id that is one, of something else; other parts of the API have their own.
pub(crate) const INVALID: &str = "BMSUserErrorInvalidInput";

/// What `field` names.
pub(crate) fn read(
    app: &App,
    request: &Request,
    field: &str,
    id: &str,
    kind: &Kind,
) -> Result<ResourceId, ArmError> {
    check_id_subscription(app, id)?;
    let found = parse_resource_id(id, kind.provider, kind.types).ok_or_else(|| {
        let (what, id) = (kind.what, crate::error::shorten(id));
        ArmError::bad_request(INVALID, format!("{field} is not the id of {what}: '{id}'."))
    })?;
    check_named(request, field, id)?;
    Ok(found)
}

/// Whether the id is in a field that the route declares: of no other is it known whether the caller may.
pub(crate) fn check_named(request: &Request, field: &str, id: &str) -> Result<(), ArmError> {
    if request.was_named(id) {
        return Ok(());
    }
    tracing::error!(request_id = %request.request_id, field, "a route does not declare what its body names; this is a bug");
    Err(ArmError::internal(request.request_id))
}

/// Whether an id is of our subscription.
pub(crate) fn check_id_subscription(app: &App, id: &str) -> Result<(), ArmError> {
    let mut parts = id.strip_prefix('/').unwrap_or_default().split('/');
    match (parts.next(), parts.next()) {
        (Some(word), Some(given)) if word.eq_ignore_ascii_case("subscriptions") && !given.is_empty() => {
            check_subscription(app, &Params::from([("subscription", given)]))
        }
        _ => Err(ArmError::bad_request(
            "LinkedInvalidPropertyId",
            format!("'{}' is not the id of a resource.", crate::error::shorten(id)),
        )),
    }
}
