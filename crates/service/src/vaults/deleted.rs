//! Deleted vaults: deleting one, listing them, bringing one back. How they go for good is in [`crate::housekeeping`].

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::vaults::{groups, held, lookup as vaults};
use strongroom_catalog::{Item, Query, SoftDelete, Vault};
use strongroom_domain::item::purge_at;
use uuid::Uuid;

/// Vaults that were deleted and can be brought back.
pub fn list_deleted(service: &Service, location: &str) -> Result<Vec<Vault>> {
    Ok(list_all_deleted(service)?
        .into_iter()
        .filter(|v| vaults::same_location(&v.location, location))
        .collect())
}

/// Deleted vaults of all locations.
pub fn list_all_deleted(service: &Service) -> Result<Vec<Vault>> {
    Ok(service.catalog.find(&Query::all().eq("deleted", true).ascending("name_key"))?)
}

/// Deletes a vault without live items. It stays, with what it holds, for its soft delete's days, and can be brought back (see
/// [`undelete`]); without soft delete an empty one is purged at once. The vault itself is asked what it holds: one that holds what the catalog does not know is not deleted, and neither is one that does not answer.
pub fn delete(service: &Service, vault: &Vault) -> Result<()> {
    check_no_items(service, vault)?;
    let held = held::look(service, vault)?;
    check_strangers(service, vault, &held, "deleted")?;
    check_in_sight(vault, &held)?;
    let deleted = service.catalog.update::<Vault, Error>(vault.id, |row| {
        check_no_items(service, row)?;
        let is_kept = row.soft_delete != SoftDelete::Disabled || vaults::item_count(service, row, true)? > 0;
        let now = service.now();
        row.deleted_at = Some(now);
        row.changed_at = now;
        let until = purge_at(now, is_kept.then_some(row.soft_delete_days));
        // Not before any of its items, whatever was promised to those.
        let items: Vec<Item> = service.catalog.find(&Query::all().eq("vault", row.id))?;
        row.purge_at = items.iter().filter_map(|item| item.purge_at).chain([until]).max();
        Ok(Vec::new())
    })?;
    service.life.wake();
    deleted.map(|_| ()).ok_or_else(|| vaults::not_found(&vault.group, &vault.name))
}

fn check_no_items(service: &Service, vault: &Vault) -> Result<()> {
    let live = vaults::item_count(service, vault, false)?;
    if live == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault cannot be deleted as there are existing resources within the vault. Vault '{}' has {live} protected item(s). Please ensure there are no containers or protected items associated with this vault: stop their protection and delete their data first.",
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}

/// Brings a deleted vault back, to the group that it was in.
pub fn undelete(service: &Service, id: Uuid) -> Result<Vault> {
    let purged = || {
        Error::not_found(format!("The deleted vault {id} was not found; it may have been purged."))
            .coded("ResourceNotFound")
    };
    let deleted = service.catalog.get::<Vault>(id)?.ok_or_else(purged)?;
    groups::get(service, &deleted.group)?;
    let vault = service.catalog.update::<Vault, Error>(id, |row| {
        if row.is_being_removed {
            return Err(purged());
        }
        row.deleted_at = None;
        row.purge_at = None;
        row.changed_at = service.now();
        Ok(Vec::new())
    });
    match vault {
        Ok(Some(vault)) => Ok(vault),
        Ok(None) => Err(purged()),
        Err(error) if error.kind == ErrorKind::AlreadyExists => Err(Error::already_exists(format!(
            "Resource group '{}' has another vault '{}' by now. Delete that one, then bring this one back.",
            deleted.group, deleted.name
        ))
        .coded("ResourceAlreadyExists")),
        Err(error) => Err(error),
    }
}

/// Refuses for a vault that knows of points which are not to be seen: nobody can say that they are not needed.
fn check_in_sight(vault: &Vault, held: &held::Held) -> Result<()> {
    let out = held.store.out_of_sight()?;
    if out.is_nothing() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault '{}' cannot be deleted: of what it holds, this is not to be seen: {}. Mount or restore what is missing in {}; a point that is lost for good is written off by `strongroom point forget POINT --missing --vault {}`.",
            vault.name,
            out.told(),
            vault.store_location,
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}

/// Refuses for a vault that holds what the catalog does not know.
pub(crate) fn check_strangers(service: &Service, vault: &Vault, held: &held::Held, what: &str) -> Result<()> {
    let strangers = held::strangers(service, vault, held)?;
    if strangers.count() == 0 {
        return Ok(());
    }
    let foreign: Vec<&str> = strangers.foreign().take(10).collect();
    let files = match foreign[..] {
        [] => String::new(),
        _ => format!(
            " What is none of the vault's has to be taken out of it by hand: {} at {}.",
            foreign.join(", "),
            vault.store_location
        ),
    };
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault cannot be {what} as there are existing resources within the vault. Vault '{}' holds {} that the catalog does not know. Look at them with `strongroom point list --unmanaged --vault {}`; then adopt each (`strongroom point adopt`) or forget it (`strongroom point forget POINT --unmanaged`).{files}",
            vault.name,
            strangers.told(),
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}
