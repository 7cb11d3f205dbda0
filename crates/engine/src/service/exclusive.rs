//! Whether vaults' stores create objects only where there are none. On one that replaces them instead, points of runs that
//! write at once would be lost without anybody noticing: nothing is backed up to it. It is found out by doing it, for each
//! vault before its first backup and then daily: servers are changed, and updated.

use super::{Inner, Service, vaults};
use crate::error::{Error, Result};
use crate::limits::EXCLUSIVE_INTERVAL;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Instant;
use strongroom_catalog::service::Vault;
use strongroom_store::StoreError;
use strongroom_store::objects::Kind;
use uuid::Uuid;

/// What was found, and when.
#[derive(Default)]
pub(super) struct Found(Mutex<HashMap<Uuid, (Instant, Option<String>)>>);

/// Fails where nothing may be written to a vault.
pub(super) fn check(service: &Inner, vault: &Vault, store: &strongroom_store::Vault) -> Result<()> {
    let known = service.exclusive.0.lock().get(&vault.id).cloned();
    if let Some((at, None)) = &known
        && at.elapsed() < EXCLUSIVE_INTERVAL
    {
        return Ok(());
    }
    let found = match store.check_exclusive() {
        Ok(()) => None,
        Err(StoreError::Object(e)) if e.kind == Kind::NotExclusive => Some(e.to_string()),
        // Found good before, and not to be asked now.
        Err(error) if matches!(known, Some((_, None))) => {
            tracing::warn!(vault = vault.name, %error, "whether the vault's store is still safe could not be looked at");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    service.exclusive.0.lock().insert(vault.id, (Instant::now(), found.clone()));
    match found {
        None => Ok(()),
        Some(why) => Err(Error::unsupported(format!("Nothing is written to vault '{}': {why}.", vault.name))
            .coded("UserErrorVaultStoreNotExclusive")),
    }
}

/// Looks at all vaults that were not looked at for a day.
pub(super) fn look(service: &Service) -> Result<()> {
    for vault in vaults::list(service, None)? {
        if service.runner.is_stopping() {
            return Ok(());
        }
        let looked = service.store(&vault).and_then(|store| check(service, &vault, &store));
        if let Err(error) = looked {
            tracing::error!(vault = vault.name, %error, "a vault's store");
        }
    }
    Ok(())
}
