//! Condemned lists: packs whose content is no longer needed where it is. From being written on, a list hides those
//! places from every session that begins; the packs go when every session that began before is over.
//! See `docs/vault-format.md`, section 7.

use crate::damage::PackRef;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::Excluded;
use crate::limits::RECORD_MAX_BYTES;
use crate::lists::{self, CONDEMNED_PREFIX};
use crate::objects::{Kind, Questions};
use crate::record;
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use strongroom_domain::SessionId;

/// How far a list's packs are on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CondemnedState {
    /// They are there still, for sessions that may need them.
    Condemned,
    /// They are gone. The list stays while anybody may still name them.
    Deleted,
}

/// A condemned list: packs that go together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CondemnedRecord {
    /// Which.
    pub packs: Vec<PackRef>,
    /// Sessions that were there when the list was written, and may still come to need what is in these packs. None
    /// until they have been listed, which must be after this list was written.
    pub sessions: Option<Vec<SessionId>>,
    /// How far they are on their way out.
    pub state: CondemnedState,
}

/// The lists there are.
#[derive(Debug, Default)]
pub struct CondemnedLists {
    /// By object name.
    pub records: Vec<(String, CondemnedRecord)>,
    /// Objects whose record is damaged.
    pub damaged: Vec<String>,
    /// Objects that are in force and not to be had.
    pub missing: Vec<String>,
    /// Which are in force is known from a listing alone.
    pub incomplete: bool,
}

impl CondemnedLists {
    /// Packs that are gone, as lists say.
    pub fn deleted_packs(&self) -> HashSet<PackId> {
        let deleted = self.records.iter().filter(|(_, record)| record.state == CondemnedState::Deleted);
        deleted.flat_map(|(_, record)| record.packs.iter().map(|pack| PackId::from(*pack))).collect()
    }

    /// Whether some of the packs are still there, for sessions that may need them.
    pub fn awaits_deletion(&self) -> bool {
        self.records.iter().any(|(_, record)| record.state == CondemnedState::Condemned)
            || !self.missing.is_empty()
    }

    /// Whether any pack may be about to go, for all that is known.
    pub fn are_doubtful(&self) -> bool {
        !self.damaged.is_empty() || !self.missing.is_empty()
    }
}

/// One list; none if it is not there, or damaged.
pub fn load(vault: &Vault, name: &str) -> Result<Option<CondemnedRecord>> {
    match record::load::<CondemnedRecord>(vault.objects(), vault.keys(), name) {
        Ok(record) => Ok(Some(record)),
        Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(None),
        Err(e) if e.is_damage() => Ok(None),
        Err(e) => Err(e),
    }
}

/// What [`list`] asks first.
pub fn questions() -> Questions {
    Questions::default().get(lists::LISTS_NAME, RECORD_MAX_BYTES).list(CONDEMNED_PREFIX)
}

/// The lists that are in force: as a listing shows them, and those that it leaves out.
pub fn list(vault: &Vault) -> Result<CondemnedLists> {
    let mut out = CondemnedLists::default();
    let known = lists::load(vault)?;
    let listed = vault.objects().list(CONDEMNED_PREFIX)?.into_iter().map(|object| object.name);
    let mut names: BTreeSet<String> = listed.collect();
    match &known {
        Some(known) => names.extend(known.names.iter().cloned()),
        None => out.incomplete = true,
    }
    for name in names {
        match record::load::<CondemnedRecord>(vault.objects(), vault.keys(), &name) {
            Ok(record) => out.records.push((name, record)),
            // Gone since it was listed; or it is in force, and not to be had.
            Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {
                if known.as_ref().is_some_and(|known| known.names.contains(&name))
                    && lists::load(&vault.plain())?.is_none_or(|now| now.names.contains(&name))
                {
                    out.missing.push(name);
                }
            }
            Err(e) if e.is_damage() => {
                tracing::warn!("{e}; `strongroom rescue vault reclaim` puts that right");
                out.damaged.push(name);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// Writes a list under its object's name, in place of an earlier version.
pub fn save(vault: &Vault, name: &str, record: &CondemnedRecord) -> Result<()> {
    Ok(vault.objects().put(name, record::encode(vault.keys(), name, record)?)?)
}

/// Adds all condemned packs to `excluded`.
pub fn load_into(vault: &Vault, excluded: &mut Excluded) -> Result<()> {
    let lists = list(vault)?;
    excluded.awaits_deletion |= lists.awaits_deletion();
    excluded.distrust |= lists.are_doubtful() || (lists.incomplete && vault.is_marked());
    for (_, record) in lists.records {
        excluded.condemned.extend(record.packs.into_iter().map(PackId::from));
    }
    Ok(())
}
