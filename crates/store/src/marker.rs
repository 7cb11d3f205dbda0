//! The marker: says that a location is this vault's. Without it nothing is written or deleted there: the vault's file
//! system may not be mounted, and whatever is there instead is none of ours. See `docs/vault-format.md`, section 3.

use crate::error::{Result, StoreError};
use crate::header::{HEADER_COPY_NAME, HEADER_NAME};
use crate::limits::RECORD_MAX_BYTES;
use crate::objects::{Kind, Questions};
use crate::record;
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use strongroom_domain::VaultId;

pub const MARKER_NAME: &str = "marker";
pub const MARKER_COPY_NAME: &str = "marker.copy";
pub const MARKER_NAMES: [&str; 2] = [MARKER_NAME, MARKER_COPY_NAME];
const FORMAT: &str = "strongroom-vault-marker";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: String,
    vault: VaultId,
}

/// What is wrong with one copy; nothing if it is right.
pub fn fault(vault: &Vault, name: &str) -> Result<Option<String>> {
    match record::load::<Marker>(vault.objects(), vault.keys(), name) {
        Ok(marker) if marker.format == FORMAT && marker.vault == vault.id() => Ok(None),
        Ok(marker) => Ok(Some(format!("it is the one of vault {}", marker.vault))),
        Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(Some("it is missing".into())),
        Err(StoreError::Object(e)) if e.kind == Kind::TooLarge => Ok(Some("it is too large".into())),
        Err(StoreError::Corrupt { detail, .. }) => Ok(Some(detail)),
        Err(e) => Err(e),
    }
}

/// Fails where the location does not carry this vault's marker: one right copy will do.
pub fn check(vault: &Vault) -> Result<()> {
    let Some(detail) = fault(vault, MARKER_NAME)? else { return Ok(()) };
    if fault(vault, MARKER_COPY_NAME)?.is_none() {
        return Ok(());
    }
    let has = |name| vault.objects().head(name).map(|info| info.is_some());
    if !has(HEADER_NAME)? && !has(HEADER_COPY_NAME)? {
        return Err(vault_is_gone(vault));
    }
    Err(StoreError::Unmarked { location: vault.location().to_owned(), detail })
}

/// What [`check`] asks, as long as nothing is wrong.
pub fn question() -> Questions {
    Questions::default().get(MARKER_NAME, RECORD_MAX_BYTES)
}

pub fn vault_is_gone(vault: &Vault) -> StoreError {
    StoreError::NotAVault {
        location: vault.location().to_owned(),
        detail: "the vault that was there is gone; mount its file system, or put it back".into(),
    }
}

/// Writes both copies.
pub fn write(vault: &Vault) -> Result<()> {
    MARKER_NAMES.iter().try_for_each(|name| write_one(vault, name))
}

/// Puts a copy right, beside the other one.
pub fn heal(vault: &Vault) -> Result<()> {
    for name in MARKER_NAMES {
        if let Some(detail) = fault(vault, name)? {
            check(vault)?;
            tracing::warn!("{name}: {detail}; writing it anew");
            write_one(vault, name)?;
        }
    }
    Ok(())
}

fn write_one(vault: &Vault, name: &str) -> Result<()> {
    let marker = Marker { format: FORMAT.into(), vault: vault.id() };
    Ok(vault.objects().put(name, record::encode(vault.keys(), name, &marker)?)?)
}
