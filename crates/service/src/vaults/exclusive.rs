//! Whether vaults' stores create objects only where there are none. On one that replaces them instead, points of runs that
//! write at once would be lost without anybody noticing: nothing is backed up to it. It is found out by doing it, for each
//! vault before its first backup and then daily: servers are changed, and updated.

use crate::core::error::{Error, Result};
use crate::core::service::Inner;
use crate::limits::EXCLUSIVE_INTERVAL;
use crate::vaults::report;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use strongroom_catalog::Vault;
use strongroom_store::StoreError;
use strongroom_store::objects::Kind;
use uuid::Uuid;

/// What was found, and when, by the service's clock.
#[derive(Default)]
pub(crate) struct Found(Mutex<HashMap<Uuid, (Duration, Option<String>)>>, Mutex<HashMap<Uuid, bool>>);

/// A vault's store was opened: whether it takes one writer at a time, which never changes, is remembered.
pub(crate) fn opened(service: &Inner, vault: Uuid, store: &strongroom_store::Vault) {
    if service.part::<Found>().1.lock().contains_key(&vault) {
        return;
    }
    match store.is_single_writer() {
        Ok(is_one) => drop(service.part::<Found>().1.lock().insert(vault, is_one)),
        Err(error) => tracing::debug!(%error, "whether a vault takes one writer at a time is not known yet"),
    }
}

/// Whether at most one job at a time may write to a vault. Until its store was opened, by the first job if by nobody before,
/// that is not known, and one is enough to find out.
pub(crate) fn takes_one_writer(service: &Inner, vault: Uuid) -> bool {
    service.part::<Found>().1.lock().get(&vault).copied().unwrap_or(true)
}

/// Fails where nothing may be written to a vault.
pub(crate) fn check(service: &Inner, vault: &Vault, store: &strongroom_store::Vault) -> Result<()> {
    let known = service.part::<Found>().0.lock().get(&vault.id).cloned();
    let now = service.clock.elapsed();
    if let Some((at, None)) = &known
        && now.saturating_sub(*at) < EXCLUSIVE_INTERVAL
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
    service.part::<Found>().0.lock().insert(vault.id, (now, found.clone()));
    let refused = found.map(|why| format!("Nothing is written to vault '{}': {why}.", vault.name));
    report::note_store(service, vault, refused.clone());
    match refused {
        None => Ok(()),
        Some(refused) => Err(Error::unsupported(refused).coded("UserErrorVaultStoreNotExclusive")),
    }
}
