//! Notes: small documents that whoever keeps a vault leaves in it, to find them again when all else is lost.
//!
//! Sealed like manifests, under a key of their own; the newest one of a name replaces the one before, in one step. No
//! point depends on a note: one that is missing or damaged costs what it said, and nothing else. See
//! `docs/vault-format.md`, section 8.

use crate::crypto::{TAG_BYTES, VaultKeys, hash16, random};
use crate::error::{Result, StoreError};
use crate::limits::{NOTE_MAX_BYTES, NOTE_NAME_MAX_BYTES};
use crate::manifest::{bounded_decompress, hashed_body};
use crate::objects::Kind;
use crate::vault::Vault;
use bytes::Bytes;
use serde_json::Value;
use strongroom_domain::ItemName;

pub const NOTES_PREFIX: &str = "notes/";
const MAGIC: [u8; 8] = *b"SRNOTE\x01\x00";
/// Magic, vault id, nonce, length.
const HEAD_BYTES: usize = 40;
/// What the seal binds beside the content: magic and vault id.
const BOUND_BYTES: usize = 24;

impl Vault {
    /// Leaves a note, in place of the one of that name. The commit is its object, put in one step. `name` is lower-case
    /// letters, digits and hyphens.
    pub fn write_note(&self, name: &str, content: &Value) -> Result<()> {
        let object = object_name(name)?;
        self.check_there()?;
        let bytes = seal(self.keys(), &object, content)?;
        Ok(self.objects().put(&object, bytes)?)
    }

    /// How objects of an item are called; it tells nothing of the item's name.
    pub fn item_key(&self, item: &ItemName) -> String {
        self.keys().item_key(item)
    }

    /// A note, if there is one.
    pub fn read_note(&self, name: &str) -> Result<Option<Value>> {
        let object = object_name(name)?;
        match self.objects().get_bounded(&object, NOTE_MAX_BYTES) {
            Ok(bytes) => open(self.keys(), &object, &bytes).map(Some),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) if e.kind == Kind::TooLarge => {
                Err(StoreError::corrupt(&object, "it is larger than a note can be"))
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn object_name(name: &str) -> Result<String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > NOTE_NAME_MAX_BYTES || !name.bytes().all(legal) {
        return Err(StoreError::Invalid {
            what: "note",
            detail: format!("`{}` is no name of one", name.escape_debug()),
        });
    }
    Ok(format!("{NOTES_PREFIX}{name}"))
}

fn additional_data(head: &[u8], object: &str) -> Vec<u8> {
    [&head[..BOUND_BYTES], object.as_bytes()].concat()
}

fn seal(keys: &VaultKeys, object: &str, content: &Value) -> Result<Bytes> {
    let invalid = |detail: String| StoreError::Invalid { what: "note", detail };
    let json = serde_json::to_vec(content).map_err(|e| invalid(e.to_string()))?;
    if json.len() as u64 > NOTE_MAX_BYTES / 2 {
        return Err(invalid(format!("it has {} bytes, and may have {}", json.len(), NOTE_MAX_BYTES / 2)));
    }
    let mut sealed = Vec::with_capacity(zstd_safe::compress_bound(json.len()));
    zstd_safe::compress(&mut sealed, &json, 3)
        .map_err(|code| invalid(zstd_safe::get_error_name(code).into()))?;
    let mut out = Vec::with_capacity(HEAD_BYTES + sealed.len() + TAG_BYTES + 16);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(keys.vault.as_bytes());
    // One key for all notes of a vault, written now and then: random nonces do not meet.
    let mut nonce = [0; 12];
    random(&mut nonce)?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&((sealed.len() + TAG_BYTES) as u32).to_le_bytes());
    let tag = keys.note_key().seal(nonce, &additional_data(&out, object), &mut sealed);
    out.extend_from_slice(&sealed);
    out.extend_from_slice(&tag);
    let hash = hash16(&[&out]);
    out.extend_from_slice(&hash);
    Ok(out.into())
}

fn open(keys: &VaultKeys, object: &str, bytes: &[u8]) -> Result<Value> {
    let corrupt = |detail: &str| StoreError::corrupt(object, detail);
    let body = hashed_body(object, bytes, HEAD_BYTES)?;
    let sealed_len = u32::from_le_bytes([body[36], body[37], body[38], body[39]]) as usize;
    if body[..8] != MAGIC || sealed_len != body.len() - HEAD_BYTES {
        return Err(corrupt("it is no note"));
    }
    if body[8..24] != keys.vault.as_bytes()[..] {
        return Err(corrupt("it is of another vault"));
    }
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&body[24..36]);
    let mut sealed = body[HEAD_BYTES..].to_vec();
    let plain = keys
        .note_key()
        .open(nonce, &additional_data(body, object), &mut sealed)
        .ok_or_else(|| corrupt("it does not decrypt: changed, moved, or of another vault"))?;
    let json = bounded_decompress(plain).map_err(|detail| corrupt(&detail))?;
    serde_json::from_slice(&json).map_err(|e| corrupt(&format!("it is not what it should be: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use strongroom_domain::VaultId;

    fn keys(vault: u8, data: u8) -> VaultKeys {
        VaultKeys::new(VaultId::from_bytes([vault; 16]), [data; 32])
    }

    #[test]
    fn a_note_opens_only_where_and_as_it_was_written() {
        let content = json!({"policies": [{"name": "Größe; %"}]});
        let bytes = seal(&keys(1, 7), "notes/policies", &content).unwrap();
        assert_eq!(open(&keys(1, 7), "notes/policies", &bytes).unwrap(), content);
        assert!(open(&keys(1, 7), "notes/others", &bytes).is_err());
        assert!(open(&keys(2, 7), "notes/policies", &bytes).is_err());
        assert!(open(&keys(1, 8), "notes/policies", &bytes).is_err());
        assert!(!bytes.windows(8).any(|w| w == b"policies"), "its content can be read without the key");
        for at in 0..bytes.len() {
            let mut harmed = bytes.to_vec();
            harmed[at] ^= 1;
            assert!(open(&keys(1, 7), "notes/policies", &harmed).is_err(), "byte {at}");
            assert!(open(&keys(1, 7), "notes/policies", &bytes[..at]).is_err(), "cut at {at}");
        }
        // Two of the same content do not look alike.
        assert_ne!(seal(&keys(1, 7), "notes/policies", &content).unwrap(), bytes);
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "a/b", "..", "A", "a b", "ä", &"x".repeat(65)] {
            assert!(object_name(bad).is_err(), "{bad}");
        }
        assert_eq!(object_name("policies").unwrap(), "notes/policies");
    }
}
