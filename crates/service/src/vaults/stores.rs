//! The stores of vaults: where their bytes are, opened once.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::limits::CATALOG_ROOM_BYTES;
use crate::vaults::{exclusive, lookup as vaults};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use strongroom_catalog::Vault;
use strongroom_store::objects::{Kind, Location, ObjectError, Op};
use strongroom_store::{StoreError, Vault as Store};
use uuid::Uuid;

/// Vaults' stores that are open.
#[derive(Default)]
pub(crate) struct Opened(Mutex<HashMap<Uuid, Store>>);

impl Service {
    /// The store of a vault, opened once.
    pub(crate) fn store(&self, vault: &Vault) -> Result<Store> {
        let opened = &self.part::<Opened>().0;
        if let Some(store) = opened.lock().get(&vault.id) {
            return Ok(store.clone());
        }
        let store = open_store(self, vault)?;
        exclusive::opened(self, vault.id, &store);
        Ok(opened.lock().entry(vault.id).or_insert(store).clone())
    }

    /// The same, if points may be written to it.
    pub(crate) fn writable_store(&self, vault: &Vault) -> Result<Store> {
        let store = self.store(vault)?;
        exclusive::check(self, vault, &store)?;
        Ok(store)
    }

    /// A store that was made just now.
    pub(super) fn keep_store(&self, vault: Uuid, store: Store) {
        exclusive::opened(self, vault, &store);
        self.part::<Opened>().0.lock().insert(vault, store);
    }

    /// It is opened anew where it is needed next.
    pub(crate) fn close_store(&self, vault: Uuid) {
        self.part::<Opened>().0.lock().remove(&vault);
    }
}

/// Whether at most one run at a time may write to a vault's store.
pub fn is_single_writer(service: &Service, vault: &Vault) -> Result<bool> {
    Ok(service.store(vault)?.is_single_writer()?)
}

/// How much a vault's store holds.
pub fn stats(service: &Service, vault: &Vault) -> Result<strongroom_store::Stats> {
    Ok(service.store(vault)?.stats()?)
}

pub(crate) fn key_path(service: &Service, vault: &Vault) -> PathBuf {
    match &vault.key_file {
        Some(path) => PathBuf::from(path),
        None => service.data().key(vault.id),
    }
}

fn open_store(service: &Service, vault: &Vault) -> Result<Store> {
    let location = Location::parse(&vault.store_location)?;
    let store = service
        .opener
        .open(&location, Some(&key_path(service, vault)))
        .map_err(|e| out_of_sight(vault, e.into()))?;
    if store.id() != vault.store_id {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} holds another vault ({}) than '{}' ({})",
                vault.store_location,
                store.id(),
                vault.name,
                vault.store_id
            ),
        ));
    }
    Ok(store)
}

/// Of a vault that was there: nobody is to make another one in its place.
fn out_of_sight(vault: &Vault, error: Error) -> Error {
    let why = match (error.cause(), error.cause::<ObjectError>()) {
        (Some(StoreError::NotAVault { location, detail }), _) => format!("{location} is no vault: {detail}"),
        (_, Some(object)) if object.op == Op::Open && object.kind == Kind::NotFound => {
            object.without_advice()
        }
        _ => return error,
    };
    let what = format!(
        "The store of vault '{}' is not there: {why}. Mount {}, or make it reachable, and run it again.",
        vault.name, vault.store_location
    );
    Error::new(error.kind, what).caused_by(error)
}

/// Vaults on the disk of the catalog give up some of their reserves, so that the catalog can be written to where that is what
/// frees space. False: none could.
pub(crate) fn give_up_reserves(service: &Service) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
    let own = device(&service.config.data);
    let Ok(vaults) = vaults::list(service, None) else { return false };
    let mut has_given = false;
    for vault in vaults.iter().filter(|v| own.is_some() && device(Path::new(&v.store_location)) == own) {
        has_given |= service.store(vault).is_ok_and(|store| store.give_up_reserve(CATALOG_ROOM_BYTES));
    }
    has_given
}

/// Looks at all vaults that were not looked at for a day.
pub fn check_exclusive(service: &Service) -> Result<()> {
    for vault in vaults::list(service, None)? {
        if service.life.is_stopping() {
            return Ok(());
        }
        let looked = service.store(&vault).and_then(|store| exclusive::check(service, &vault, &store));
        if let Err(error) = looked {
            tracing::error!(vault = vault.name, %error, "a vault's store");
        }
    }
    Ok(())
}
