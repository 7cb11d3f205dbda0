//! Finding vaults, and what several rooms ask of one.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::vaults::groups;
use serde_json::Value;
use strongroom_catalog::{Item, Query, Row, Vault, key};
use strongroom_domain::item::ItemState;
use uuid::Uuid;

/// The object of [`VaultSettings::kept`] that says where points may be restored to.
pub const RESTORE_SETTINGS: &str = "restoreSettings";

/// The text of [`VaultSettings::kept`] that says whether the vault's data goes to addresses that the configuration does not list.
pub const PUBLIC_NETWORK_ACCESS: &str = "publicNetworkAccess";

/// Whether a vault's data goes out only to the service's own host and the listed networks.
pub fn is_closed_to_public_networks(vault: &Vault) -> bool {
    vault.kept.get(PUBLIC_NETWORK_ACCESS).and_then(Value::as_str) == Some("Disabled")
}

/// The refusal for a vault that is not there, in Azure's words.
pub(crate) fn not_found(group: &str, name: &str) -> Error {
    crate::core::refusals::resource_not_found(&format!("Microsoft.RecoveryServices/vaults/{name}"), group)
}

/// The vault of that name in a group, both in any case. None also for one that is deleted.
pub fn find(service: &Service, group: &str, name: &str) -> Result<Option<Vault>> {
    let query = Query::all().eq("group_key", key(group)).eq("name_key", key(name)).eq("deleted", false);
    Ok(service.catalog.first(query)?)
}

/// As [`find`]; fails where there is none, or no such group.
pub fn get(service: &Service, group: &str, name: &str) -> Result<Vault> {
    match find(service, group, name)? {
        Some(vault) => Ok(vault),
        None => Err(not_found(&groups::get(service, group)?.name, name)),
    }
}

/// Vaults by name, of one group or of all.
pub fn list(service: &Service, group: Option<&str>) -> Result<Vec<Vault>> {
    let mut query = Query::all().eq("deleted", false).ascending("group_key").ascending("name_key");
    if let Some(group) = group {
        let group = groups::get(service, group)?.name;
        query = query.eq("group_key", key(&group));
    }
    Ok(service.catalog.find(&query)?)
}

/// Of a vault whose points live as long as they were promised to: nothing may let them go sooner.
pub(crate) fn immutable(vault: &Vault, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Denied, format!("Vault '{}' is immutable: {why}", vault.name))
        .coded("UserErrorOperationNotAllowedOnImmutableVault")
}

/// A location as it is kept and compared: Azure writes them with blanks and capitals, or without.
pub fn plain_location(location: &str) -> String {
    location.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

/// Whether two locations are one, however they are written.
pub fn same_location(a: &str, b: &str) -> bool {
    plain_location(a) == plain_location(b)
}

/// Points went: their space is to be reclaimed.
pub(crate) fn reclaim_later(service: &Service, vault: Uuid) -> Result<()> {
    service.catalog.update::<Vault, Error>(vault, |row| {
        row.reclaim_due = true;
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Items of a vault: live ones, or soft-deleted ones too.
pub fn item_count(service: &Service, vault: &Vault, with_deleted: bool) -> Result<u64> {
    let mut query = Query::all().eq("vault", vault.id);
    if !with_deleted {
        query = query.ne("state", ItemState::SoftDeleted.arm_name());
    }
    Ok(service.catalog.count(Item::TABLE, &query)?)
}
