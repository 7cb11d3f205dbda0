//! Condemned lists: packs whose content is no longer needed where it is. From being written on, a list hides those
//! places from every session that begins; the packs go when every session that began before is over.
//! See `docs/vault-format.md`, section 7.

use crate::damage::PackRef;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::Excluded;
use crate::objects::Kind;
use crate::record;
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use strongroom_domain::SessionId;

pub const CONDEMNED_PREFIX: &str = "condemned/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CondemnedState {
    Condemned,
    Deleted,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CondemnedRecord {
    pub packs: Vec<PackRef>,
    /// Sessions that were there when the list was written, and may still come to need what is in these packs. None
    /// until they have been listed, which must be after this list was written.
    pub sessions: Option<Vec<SessionId>>,
    pub state: CondemnedState,
}

/// The lists there are.
#[derive(Debug, Default)]
pub struct CondemnedLists {
    /// By object name.
    pub records: Vec<(String, CondemnedRecord)>,
    /// Objects whose record is damaged.
    pub damaged: Vec<String>,
}

impl CondemnedLists {
    /// Whether some of the packs are still there, for sessions that may need them.
    pub fn awaits_deletion(&self) -> bool {
        self.records.iter().any(|(_, record)| record.state == CondemnedState::Condemned)
    }
}

pub fn list(vault: &Vault) -> Result<CondemnedLists> {
    let mut out = CondemnedLists::default();
    for object in vault.objects().list(CONDEMNED_PREFIX)? {
        match record::load::<CondemnedRecord>(vault.objects(), vault.keys(), &object.name) {
            Ok(record) => out.records.push((object.name, record)),
            Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {}
            Err(e) if e.is_damage() => {
                tracing::warn!("{e}; `strongroom rescue vault reclaim` puts that right");
                out.damaged.push(object.name);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

pub fn save(vault: &Vault, name: &str, record: &CondemnedRecord) -> Result<()> {
    Ok(vault.objects().put(name, record::encode(vault.keys(), name, record)?)?)
}

/// Adds all condemned packs to `excluded`.
pub fn load_into(vault: &Vault, excluded: &mut Excluded) -> Result<()> {
    let lists = list(vault)?;
    excluded.awaits_deletion |= lists.awaits_deletion();
    for (_, record) in lists.records {
        excluded.condemned.extend(record.packs.into_iter().map(PackId::from));
    }
    excluded.distrust |= !lists.damaged.is_empty();
    Ok(())
}
