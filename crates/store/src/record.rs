//! Records: small control objects (leases, condemned lists, damage lists, locks), one line of JSON
//! with a keyed mac, so that nobody without the key can talk a vault into deleting something.
//! See `docs/vault-format.md`, section 7.

use crate::crypto::{VaultKeys, hex};
use crate::error::{Result, StoreError};
use crate::limits::RECORD_MAX_BYTES;
use crate::objects::BlobStore;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub fn encode<T: Serialize>(keys: &VaultKeys, name: &str, record: &T) -> Result<Bytes> {
    let line = serde_json::to_string(record)
        .map_err(|e| StoreError::Invalid { what: "record", detail: e.to_string() })?;
    let mac = hex(&keys.record_mac(name, line.as_bytes()));
    Ok(format!("{line}\nmac {mac}\n").into())
}

pub fn decode<T: DeserializeOwned>(keys: &VaultKeys, name: &str, bytes: &[u8]) -> Result<T> {
    let corrupt = |detail: &str| StoreError::corrupt(name, detail);
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
    let (line, mac) = text.split_once('\n').ok_or_else(|| corrupt("it is cut short"))?;
    if mac != format!("mac {}\n", hex(&keys.record_mac(name, line.as_bytes()))) {
        return Err(corrupt("its mac is wrong"));
    }
    serde_json::from_str(line).map_err(|e| corrupt(&format!("it is not what it should be: {e}")))
}

pub fn load<T: DeserializeOwned>(store: &BlobStore, keys: &VaultKeys, name: &str) -> Result<T> {
    decode(keys, name, &store.get_bounded(name, RECORD_MAX_BYTES)?)
}
