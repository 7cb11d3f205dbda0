//! How a deleted vault goes for good, with its store.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::points::retention;
use crate::vaults::{deleted, held, older_catalog, purged, report, storage, stores};
use std::path::{Path, PathBuf};
use strongroom_catalog::{Change, Setting, Vault};
use strongroom_store::Progress;
use strongroom_store::reclaim::{ReclaimOptions, reclaim};

/// Removes a deleted vault whose time is over, with all it holds; the key stays. It goes only by the vault's own word: its store shows
/// that it is this vault's, its points are the catalog's and are forgotten one by one, and then there is none.
pub(crate) fn purge(service: &Service, vault: &Vault) -> Result<()> {
    let own = own_store(service, vault);
    // Cut short after the store was moved out of its place: what was found then holds.
    let is_moved = vault.is_being_removed && matches!(own.as_deref().map(exists), Some(Ok(false)));
    if !is_moved {
        older_catalog::ensure_current(service, vault)?;
        if service.catalog.get::<Vault>(vault.id)?.is_none_or(|row| row.deleted_at.is_none()) {
            return Ok(());
        }
        empty(service, vault)?;
        let marked = service.catalog.update::<Vault, Error>(vault.id, |row| {
            if row.deleted_at.is_none() {
                return Err(Error::new(ErrorKind::Busy, "it was brought back"));
            }
            row.is_being_removed = true;
            Ok(Vec::new())
        })?;
        if marked.is_none() {
            return Ok(());
        }
    }
    let key = stores::key_path(service, vault);
    match &own {
        Some(own) => remove_own_store(service, vault, own)?,
        None => tracing::warn!(
            vault = vault.name, id = %vault.store_id,
            location = vault.store_location,
            "the store of a purged vault is left where it is; remove it by hand"
        ),
    }
    let purged = purged::Purged {
        name: vault.name.clone(),
        store_id: vault.store_id,
        store_location: vault.store_location.clone(),
        purged_at: service.now(),
    };
    let Some(row) = service.catalog.get::<Vault>(vault.id)? else { return Ok(()) };
    let mut changes = vec![Change::delete(&row)];
    let report = service.catalog.get::<Setting>(report::setting(vault.id))?;
    changes.extend(report.as_ref().map(Change::delete));
    let noted = service.catalog.get::<Setting>(older_catalog::setting(vault.id))?;
    changes.extend(noted.as_ref().map(Change::delete));
    let id = purged::purged_setting(vault.id);
    let version = service.catalog.get::<Setting>(&id)?.map_or(0, |s| s.version);
    let value = serde_json::to_value(&purged).unwrap_or_default();
    changes.push(Change::put(&Setting { id, version, value }));
    service.catalog.apply(&changes)?;
    tracing::info!(
        vault = vault.name, id = %vault.store_id, key = %key.display(),
        "a deleted vault was purged; its key stays (`strongroom vault key delete` deletes it)"
    );
    Ok(())
}

/// Forgets a deleted vault's points; fails unless it says then that it holds none.
fn empty(service: &Service, vault: &Vault) -> Result<()> {
    service.close_store(vault.id);
    let held = held::look(service, vault)?;
    deleted::check_strangers(service, vault, &held, "purged")?;
    let mut left = Vec::new();
    for point in held::expected(service, vault)? {
        if service.catalog.get::<Vault>(vault.id)?.is_none_or(|row| row.deleted_at.is_none()) {
            return Err(Error::new(ErrorKind::Busy, "it was brought back"));
        }
        if !retention::forget(service, &held.store, &point)? {
            left.push(point.id.to_string());
        }
    }
    if !left.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: {} of its recovery points are not found in it, and it does not say that they were forgotten: {}. Put them back; or bring the vault back (`strongroom vault undelete`) and accept the loss with `strongroom point forget POINT --missing`.",
                vault.name,
                left.len(),
                left.join(", ")
            ),
        ));
    }
    // The vault knows what was in it: a point that it neither finds nor was told to forget stops this.
    let options = ReclaimOptions { thorough: true, ..ReclaimOptions::default() };
    let report = reclaim(&held.store, &options, &Progress::default())?;
    if !report.waiting_for.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: it has data of which it is not known that nobody needs it, of {}. Its points may be out of sight: put them back, or look with `strongroom rescue vault check`; it is tried again.",
                vault.name,
                report.waiting_for.join("; ")
            ),
        ));
    }
    let after = held::look(service, vault)?;
    if !after.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: it holds {} recovery point(s) still.",
                vault.name,
                after.points.len() + after.damaged.len()
            ),
        ));
    }
    Ok(())
}

/// The store's directory, if it is one that this service made in its own data directory.
fn own_store(service: &Service, vault: &Vault) -> Option<PathBuf> {
    let own = service.data().vaults().join(vault.id.to_string());
    (vault.key_file.is_none() && Path::new(&vault.store_location) == own).then_some(own)
}

fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("looking at {}", path.display()), e)),
    }
}

/// Removes a store that was found to hold nothing. Moved out of its place first: nobody takes half of one for a vault.
fn remove_own_store(service: &Service, vault: &Vault, own: &Path) -> Result<()> {
    storage::check_own(service)?;
    service.close_store(vault.id);
    let aside = own.with_file_name(format!(".removing-{}", vault.id));
    if exists(own)? {
        std::fs::rename(own, &aside)
            .map_err(|e| Error::io(format!("moving {} to {}", own.display(), aside.display()), e))?;
    }
    if exists(&aside)? {
        std::fs::remove_dir_all(&aside).map_err(|e| Error::io(format!("removing {}", aside.display()), e))?;
    }
    Ok(())
}
