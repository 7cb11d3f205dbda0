//! Finding protected items.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use strongroom_catalog::{Item, Query, Vault, key};
use strongroom_domain::arm_names;
use uuid::Uuid;

/// The refusal for an item that is not there.
pub(crate) fn not_found(name: &str) -> Error {
    Error::not_found(format!(
        "The protected item '{name}' was not found in this vault. See the vault's items with `az backup item list`."
    ))
    .coded("BMSUserErrorItemNotFound")
}

/// Items of a vault, by name.
pub fn list(service: &Service, vault: &Vault) -> Result<Vec<Item>> {
    let all: Vec<Item> = service.catalog.find(&Query::all().eq("vault", vault.id).ascending("name_key"))?;
    // What was deleted without a grace is on its way out.
    Ok(all.into_iter().filter(|i| i.deleted_at.is_none() || i.purge_at != i.deleted_at).collect())
}

/// By Azure's name of it, whose prefix some clients leave out.
pub fn find(service: &Service, vault: &Vault, name: &str) -> Result<Option<Item>> {
    let Some(parsed) = arm_names::parse_item_name(name) else { return Ok(None) };
    let name = arm_names::item_name(&parsed.group, &parsed.machine);
    Ok(service.catalog.first(Query::all().eq("vault", vault.id).eq("name_key", key(&name)))?)
}

/// As [`find`]; fails where there is none.
pub fn get(service: &Service, vault: &Vault, name: &str) -> Result<Item> {
    find(service, vault, name)?.ok_or_else(|| not_found(name))
}

/// The items of a machine, in all vaults.
pub fn of_machine(service: &Service, machine: Uuid) -> Result<Vec<Item>> {
    Ok(service.catalog.find(&Query::all().eq("machine", machine))?)
}
