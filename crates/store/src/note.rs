//! Notes: small documents that whoever keeps a vault leaves in it, to find them again when all else is lost.
//!
//! Sealed like manifests, under a key of their own; the newest one of a name replaces the one before, in one step. No
//! point depends on a note: one that is missing or damaged costs what it said, and nothing else. See
//! `docs/vault-format.md`, section 8.

use crate::error::{Result, StoreError};
use crate::limits::{NOTE_MAX_BYTES, NOTE_NAME_MAX_BYTES};
use crate::marker;
use crate::sealed::Sealed;
use crate::vault::Vault;
use serde_json::Value;
use strongroom_domain::ItemName;

pub const NOTES_PREFIX: &str = "notes/";
const NOTE: Sealed = Sealed {
    what: "note",
    magic: *b"SRNOTE\x01\x00",
    context: "strongroom v1 note",
    max_bytes: NOTE_MAX_BYTES,
};

impl Vault {
    /// Leaves a note, in place of the one of that name. The commit is its object, put in one step. `name` is lower-case
    /// letters, digits and hyphens.
    pub fn write_note(&self, name: &str, content: &Value) -> Result<()> {
        let object = object_name(name)?;
        self.begin_writing()?;
        let bytes = NOTE.seal(self.keys(), &object, content)?;
        Ok(self.objects().put(&object, bytes)?)
    }

    /// Leaves a note that is made of the one before. None: there is none, or what there is cannot be read.
    pub fn change_note(&self, name: &str, change: impl FnOnce(Option<Value>) -> Value) -> Result<()> {
        let object = object_name(name)?;
        let questions = self.single_writer_question(marker::question());
        let asked = self.asking(questions.get(object.as_str(), NOTE_MAX_BYTES));
        let before = match NOTE.load(asked.objects(), self.keys(), &object) {
            Err(error) if error.is_damage() => {
                tracing::warn!("{object} is damaged, and begun anew: {error}");
                None
            }
            other => other?,
        };
        asked.begin_writing()?;
        let bytes = NOTE.seal(self.keys(), &object, &change(before))?;
        Ok(asked.objects().put(&object, bytes)?)
    }

    /// How objects of an item are called; it tells nothing of the item's name.
    pub fn item_key(&self, item: &ItemName) -> String {
        self.keys().item_key(item)
    }

    /// A note, if there is one.
    pub fn read_note(&self, name: &str) -> Result<Option<Value>> {
        let object = object_name(name)?;
        NOTE.load(self.objects(), self.keys(), &object)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::VaultKeys;
    use serde_json::json;
    use strongroom_domain::VaultId;

    fn keys(vault: u8, data: u8) -> VaultKeys {
        VaultKeys::new(VaultId::from_bytes([vault; 16]), [data; 32])
    }

    #[test]
    fn a_note_opens_only_where_and_as_it_was_written() {
        let content = json!({"policies": [{"name": "Größe; %"}]});
        let bytes = NOTE.seal(&keys(1, 7), "notes/policies", &content).unwrap();
        assert_eq!(NOTE.open::<Value>(&keys(1, 7), "notes/policies", &bytes).unwrap(), content);
        assert!(NOTE.open::<Value>(&keys(1, 7), "notes/others", &bytes).is_err());
        assert!(NOTE.open::<Value>(&keys(2, 7), "notes/policies", &bytes).is_err());
        assert!(NOTE.open::<Value>(&keys(1, 8), "notes/policies", &bytes).is_err());
        assert!(!bytes.windows(8).any(|w| w == b"policies"), "its content can be read without the key");
        for at in 0..bytes.len() {
            let mut harmed = bytes.to_vec();
            harmed[at] ^= 1;
            assert!(NOTE.open::<Value>(&keys(1, 7), "notes/policies", &harmed).is_err(), "byte {at}");
            assert!(NOTE.open::<Value>(&keys(1, 7), "notes/policies", &bytes[..at]).is_err(), "cut at {at}");
        }
        // Two of the same content do not look alike.
        assert_ne!(NOTE.seal(&keys(1, 7), "notes/policies", &content).unwrap(), bytes);
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "a/b", "..", "A", "a b", "ä", &"x".repeat(65)] {
            assert!(object_name(bad).is_err(), "{bad}");
        }
        assert_eq!(object_name("policies").unwrap(), "notes/policies");
    }
}
