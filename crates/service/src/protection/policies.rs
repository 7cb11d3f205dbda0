//! Backup policies of a vault.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
pub use crate::vaults::policy_rows::{by_id, find, list};
use crate::vaults::{lookup as vaults, notes, policy_rows};
use serde_json::Value;
use strongroom_catalog::{Change, Immutability, Item, Policy, Query, ServiceError, Vault};
use strongroom_domain::arm_names;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::retention::keeps_less;

/// The refusal for a policy that is not there.
pub(crate) fn not_found(vault: &Vault, name: &str) -> Error {
    Error::not_found(format!(
        "The backup policy '{name}' was not found in vault '{}'. See the vault's policies with `az backup policy list`.",
        vault.name
    ))
    .coded("BMSUserErrorObjectNotFound")
}

/// A vault's policy of that name, in any case; fails where there is none.
pub fn get(service: &Service, vault: &Vault, name: &str) -> Result<Policy> {
    policy_rows::find(service, vault, name)?.ok_or_else(|| not_found(vault, name))
}

/// Makes a policy, or changes one: from then on it holds for all its items, and for the points they have.
pub fn put(
    service: &Service,
    vault: &Vault,
    name: &str,
    rules: Rules,
    wire: Value,
) -> Result<(Policy, bool)> {
    rules.validate().map_err(|e| Error::invalid(e.to_string()).coded(e.code()))?;
    loop {
        let found = policy_rows::find(service, vault, name)?;
        let is_new = found.is_none();
        if is_new {
            arm_names::check_policy_name(name)
                .map_err(|e| Error::invalid(e.to_string()).coded("BMSUserErrorInvalidPolicyInput"))?;
        }
        let mut policy = found.unwrap_or_else(|| policy_rows::draft(service, vault.id, name, rules.clone()));
        if policy.rules.tier != rules.tier && items_of(service, &policy)? > 0 {
            return Err(Error::invalid(format!(
                "Policy '{}' has protected items: it cannot be changed between standard and enhanced. Make another policy and move them to it.",
                policy.name
            ))
            .coded("BMSUserErrorInvalidPolicyInput"));
        }
        let mut changes = Vec::new();
        if !is_new {
            // As it is now: it may just have become immutable.
            let Some(vault) = service.catalog.get::<Vault>(vault.id)? else {
                return Err(vaults::not_found(&vault.group, &vault.name));
            };
            check_immutable(service, &vault, &policy, &rules)?;
            changes.push(Change::unchanged(&vault));
        }
        policy.rules = rules.clone();
        policy.wire = wire.clone();
        policy.changed_at = service.now();
        changes.push(Change::put(&policy));
        match service.catalog.apply(&changes) {
            Ok(()) => {
                policy.version += 1;
                notes::changed(service, vault);
                return Ok((policy, is_new));
            }
            Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the vault lets a policy change like this: what is protected by it is not kept for less long.
fn check_immutable(service: &Service, vault: &Vault, policy: &Policy, rules: &Rules) -> Result<()> {
    if vault.immutability == Immutability::Disabled || !keeps_less(&policy.rules, rules) {
        return Ok(());
    }
    match items_of(service, policy)? {
        0 => Ok(()),
        used => Err(vaults::immutable(
            vault,
            format!(
                "{used} protected item(s) use policy '{}', which cannot keep recovery points for less long. It can keep them longer.",
                policy.name
            ),
        )),
    }
}

/// Removes a policy that no item uses.
pub fn delete(service: &Service, vault: &Vault, name: &str) -> Result<bool> {
    let Some(policy) = policy_rows::find(service, vault, name)? else { return Ok(false) };
    let used = items_of(service, &policy)?;
    if used > 0 {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Policy '{}' cannot be deleted: {used} protected item(s) use it. Give them another policy, or stop their protection first.",
                policy.name
            ),
        )
        .coded("BMSUserErrorPolicyObjectInUse"));
    }
    // An item that comes to use it at this moment is caught by its own look at the policy's version.
    service.catalog.apply(&[Change::delete(&policy)])?;
    notes::changed(service, vault);
    Ok(true)
}

/// Live items that use a policy.
pub fn items_of(service: &Service, policy: &Policy) -> Result<u64> {
    Ok(service
        .catalog
        .count(<Item as strongroom_catalog::Row>::TABLE, &Query::all().eq("policy", policy.id))?)
}
