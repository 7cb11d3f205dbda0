//! Sealed documents: JSON, compressed and encrypted under a key of its kind, bound to vault and object name. Notes,
//! tombstones and the roll are such. See `docs/vault-format.md`, sections 8 and 9.

use crate::crypto::{SealKey, TAG_BYTES, VaultKeys, hash16, random};
use crate::error::{Result, StoreError};
use crate::manifest::{bounded_decompress, hashed_body};
use crate::objects::{BlobStore, Kind};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Magic, vault id, nonce, length.
const HEAD_BYTES: usize = 40;
/// What the seal binds beside the content: magic and vault id.
const BOUND_BYTES: usize = 24;

/// A kind of sealed document.
pub struct Sealed {
    /// How errors call it.
    pub what: &'static str,
    pub magic: [u8; 8],
    /// The context its key is derived with.
    pub context: &'static str,
    /// The largest object.
    pub max_bytes: u64,
}

fn additional_data(head: &[u8], object: &str) -> Vec<u8> {
    [&head[..BOUND_BYTES], object.as_bytes()].concat()
}

impl Sealed {
    fn key(&self, keys: &VaultKeys) -> SealKey {
        keys.seal_key(self.context, &[])
    }

    pub fn seal<T: Serialize>(&self, keys: &VaultKeys, object: &str, content: &T) -> Result<Bytes> {
        let invalid = |detail: String| StoreError::Invalid { what: self.what, detail };
        let json = serde_json::to_vec(content).map_err(|e| invalid(e.to_string()))?;
        if json.len() as u64 > self.max_bytes / 2 {
            return Err(invalid(format!("it has {} bytes, and may have {}", json.len(), self.max_bytes / 2)));
        }
        let mut sealed = Vec::with_capacity(zstd_safe::compress_bound(json.len()));
        zstd_safe::compress(&mut sealed, &json, 3)
            .map_err(|code| invalid(zstd_safe::get_error_name(code).into()))?;
        let mut out = Vec::with_capacity(HEAD_BYTES + sealed.len() + TAG_BYTES + 16);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(keys.vault.as_bytes());
        // One key for all documents of a kind, written now and then: random nonces do not meet.
        let mut nonce = [0; 12];
        random(&mut nonce)?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&((sealed.len() + TAG_BYTES) as u32).to_le_bytes());
        let tag = self.key(keys).seal(nonce, &additional_data(&out, object), &mut sealed);
        out.extend_from_slice(&sealed);
        out.extend_from_slice(&tag);
        let hash = hash16(&[&out]);
        out.extend_from_slice(&hash);
        Ok(out.into())
    }

    pub fn open<T: DeserializeOwned>(&self, keys: &VaultKeys, object: &str, bytes: &[u8]) -> Result<T> {
        let corrupt = |detail: &str| StoreError::corrupt(object, detail);
        let body = hashed_body(object, bytes, HEAD_BYTES)?;
        let sealed_len = u32::from_le_bytes([body[36], body[37], body[38], body[39]]) as usize;
        if body[..8] != self.magic || sealed_len != body.len() - HEAD_BYTES {
            return Err(corrupt(&format!("it is no {}", self.what)));
        }
        if body[8..24] != keys.vault.as_bytes()[..] {
            return Err(corrupt("it is of another vault"));
        }
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&body[24..36]);
        let mut sealed = body[HEAD_BYTES..].to_vec();
        let plain = self
            .key(keys)
            .open(nonce, &additional_data(body, object), &mut sealed)
            .ok_or_else(|| corrupt("it does not decrypt: changed, moved, or of another vault"))?;
        let json = bounded_decompress(plain).map_err(|detail| corrupt(&detail))?;
        serde_json::from_slice(&json).map_err(|e| corrupt(&format!("it is not what it should be: {e}")))
    }

    /// Reads one; none if the store says that it is not there.
    pub fn load<T: DeserializeOwned>(
        &self,
        store: &BlobStore,
        keys: &VaultKeys,
        object: &str,
    ) -> Result<Option<T>> {
        match store.get_bounded(object, self.max_bytes) {
            Ok(bytes) => self.open(keys, object, &bytes).map(Some),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) if e.kind == Kind::TooLarge => {
                Err(StoreError::corrupt(object, format!("it is larger than a {} can be", self.what)))
            }
            Err(e) => Err(e.into()),
        }
    }
}
