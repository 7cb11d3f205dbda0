//! Deleting a vault's key, which nothing else in the program does: a vault without its key is lost.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::vaults::{purged, storage};
use std::path::{Path, PathBuf};
use std::{fs, io};
use strongroom_catalog::{Query, Vault};
use strongroom_domain::VaultId;
use strongroom_store::KeyFile;
use strongroom_store::objects::Location;
use uuid::Uuid;

fn busy(message: String) -> Error {
    Error::new(ErrorKind::Busy, message).coded("VaultKeyInUse")
}

/// Deletes the key of a vault that is gone: `id` is the vault's id, in full. The key's file, which is no longer there.
///
/// Refused while the catalog has the vault, while its store is there, and where that cannot be known. `is_vault_gone`: somebody says
/// that it is gone, wherever it was.
pub fn delete(service: &Service, id: &str, is_vault_gone: bool) -> Result<PathBuf> {
    let id: VaultId = id.parse().map_err(|_| {
        Error::invalid(format!(
            "'{}' is not a vault's id. Give the id in full, as `strongroom vault list --strays` shows it.",
            id.chars().take(100).flat_map(char::escape_debug).collect::<String>()
        ))
    })?;
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    if let Some(vault) = known.iter().find(|v| v.store_id == id) {
        let state = if vault.deleted_at.is_some() { "was deleted and is not purged yet" } else { "has it" };
        return Err(busy(format!(
            "The key of vault {id} is kept: vault '{}' {state}. Without its key nothing in it can be read.",
            vault.name
        )));
    }
    let Some((path, name)) = find(service, id)? else { return Err(no_key(service, id)) };
    let (places, is_located) = places(service, id, name)?;
    for place in &places {
        check_elsewhere(service, id, place)?;
    }
    if !is_located && !is_vault_gone {
        return Err(busy(format!(
            "The key of vault {id} is kept: nothing says where the vault was, and it is not known to be gone. It is in none of the \
             places of now: {}{}. If vaults were kept elsewhere, set vault_storage in the configuration to that place, in which it is \
             looked for; if the vault is surely gone, run this again with --vault-is-gone.",
            service.data().vaults().display(),
            service.config.vault_storage.as_ref().map(|base| format!(", {base}")).unwrap_or_default()
        )));
    }
    fs::remove_file(&path).map_err(|e| Error::io(format!("deleting {}", path.display()), e))?;
    tracing::warn!(vault = %id, path = %path.display(), "a vault's key was deleted, as somebody asked by its id");
    Ok(path)
}

fn no_key(service: &Service, id: VaultId) -> Error {
    let named = service.data().keys().join(format!("{id}.key"));
    if let Ok(key) = KeyFile::load(&named) {
        return Error::invalid(format!(
            "{id} is what the key's file {} is called; the vault that it opens is {}. Give the vault's id, if that is the one.",
            named.display(),
            key.vault
        ));
    }
    Error::not_found(format!(
        "There is no key of vault {id} in {}; see `strongroom vault list --strays`.",
        service.data().keys().display()
    ))
    .coded("ResourceNotFound")
}

/// Where a vault's store is, or would be, each of which can be seen now; and whether something says where it was. Where nothing
/// does, vaults may have been kept in a place that is no longer in the configuration.
fn places(service: &Service, id: VaultId, name: Option<Uuid>) -> Result<(Vec<String>, bool)> {
    let mut places: Vec<String> =
        storage::strays(service)?.stores.iter().map(|s| s.path.display().to_string()).collect();
    let purged =
        name.map(|uuid| purged::purged(service, uuid)).transpose()?.flatten().filter(|p| p.store_id == id);
    storage::check_seen(service, purged.as_ref().map(|p| p.store_location.as_str()))?;
    let is_located = purged.is_some();
    places.extend(purged.map(|p| p.store_location));
    if let Some(uuid) = name {
        places.push(service.data().vaults().join(uuid.to_string()).display().to_string());
        if let Some(base) = &service.config.vault_storage {
            places.push(format!("{}/{uuid}", base.trim_end_matches('/')));
        }
    }
    Ok((places, is_located))
}

/// Refused where the vault's store is at this place, and where that cannot be known.
fn check_elsewhere(service: &Service, id: VaultId, place: &str) -> Result<()> {
    match storage::vault_at(service, place) {
        Ok(Some(found)) if found == id => Err(busy(format!(
            "The key of vault {id} is kept: its store is there, at {place}. Import it (`strongroom vault import`), or remove the store first if nobody wants what it holds."
        ))),
        Ok(_) => Ok(()),
        Err(why) if Path::new(place).exists() || place.contains("://") => Err(busy(format!(
            "The key of vault {id} is kept: whether {place} is its store is not known ({why}). Make it readable, or remove it, then run it again."
        ))),
        Err(why) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("The key of vault {id} is kept: whether its store is at {place} is not known ({why})."),
        )),
    }
}

/// The key's file in the data directory, and the vault of the catalog that it was made for.
pub(crate) fn find(service: &Service, id: VaultId) -> Result<Option<(PathBuf, Option<Uuid>)>> {
    let keys = service.data().keys();
    let failed = |e: io::Error| Error::io(format!("reading {}", keys.display()), e);
    for entry in fs::read_dir(&keys).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|e| e != "key") {
            continue;
        }
        // One that cannot be read is no match: it is not the one that was named.
        if KeyFile::load(&path).is_ok_and(|key| key.vault == id) {
            let uuid = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            return Ok(Some((path, uuid)));
        }
    }
    Ok(None)
}

/// The key in the data directory that is of the vault at `location`, if there is one.
pub(crate) fn of_store(service: &Service, location: &str) -> Result<Option<PathBuf>> {
    // What is wrong with the location is said by whoever opens it.
    let Ok(objects) = service.opener.open_objects(&Location::parse(location)?) else {
        return Ok(None);
    };
    let Ok(id) = strongroom_store::Vault::identify(&objects) else { return Ok(None) };
    Ok(find(service, id)?.map(|(path, _)| path))
}
