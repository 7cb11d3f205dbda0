//! Tombstones: that a point was forgotten is written down before its manifest goes. A point that is not there and has
//! none is missing, not forgotten. See `docs/vault-format.md`, section 9.

use crate::error::{Result, StoreError};
use crate::limits::TOMBSTONE_MAX_BYTES;
use crate::objects::Kind;
use crate::sealed::Sealed;
use crate::vault::Vault;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::SystemTime;
use strongroom_domain::{PointId, SessionId};

pub const TOMBSTONES_PREFIX: &str = "tombstones/";
/// In place of the item's key, where nothing is known of the point but its id.
pub const UNKNOWN_ITEM: &str = "unknown";
pub(crate) const TOMBSTONE: Sealed = Sealed {
    what: "tombstone",
    magic: *b"SRTOMB\x01\x00",
    context: "strongroom v1 tombstone",
    max_bytes: TOMBSTONE_MAX_BYTES,
};

/// That a point was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which point.
    pub point: PointId,
    /// When it was forgotten.
    pub at: Timestamp,
    /// In words.
    pub why: String,
    /// Program and version.
    pub by: String,
    /// The session that made the point, where that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Sessions that took back what they had written of the point, because it was not complete: then it is their
    /// manifests alone that do not count, and the point may be made yet. Empty: the point is forgotten for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken_back: Vec<SessionId>,
}

impl Tombstone {
    /// Whether it is about a manifest of this session; none: one that cannot be read.
    pub fn covers(&self, session: Option<SessionId>) -> bool {
        self.is_final() || session.is_some_and(|session| self.taken_back.contains(&session))
    }

    /// Whether the point is forgotten for good.
    pub fn is_final(&self) -> bool {
        self.taken_back.is_empty()
    }
}

/// A tombstone that cannot be read. It hides nothing, and frees nothing.
#[derive(Debug)]
pub struct DamagedTombstone {
    /// Its object.
    pub object: String,
    /// As the object's name says. None: it is no name of a tombstone's.
    pub point: Option<PointId>,
    /// Why it cannot be read.
    pub error: StoreError,
}

/// The points that were forgotten, as far as tombstones are kept.
#[derive(Debug, Default)]
pub struct TombstoneList {
    /// Oldest first.
    pub tombstones: Vec<Tombstone>,
    /// Those that cannot be read.
    pub damaged: Vec<DamagedTombstone>,
}

pub fn object_name(item_key: &str, point: &PointId) -> String {
    format!("{TOMBSTONES_PREFIX}{item_key}/{point}")
}

/// Item key and point by the name of a tombstone's object.
pub fn parse_object_name(name: &str) -> Option<(&str, PointId)> {
    let (item_key, point) = name.strip_prefix(TOMBSTONES_PREFIX)?.split_once('/')?;
    let point: PointId = point.parse().ok()?;
    (object_name(item_key, &point) == name).then_some((item_key, point))
}

/// Reads one; none if the store says that it is not there.
pub fn load(vault: &Vault, object: &str) -> Result<Option<Tombstone>> {
    let loaded: Option<Tombstone> = TOMBSTONE.load(vault.objects(), vault.keys(), object)?;
    match loaded {
        Some(tombstone) if parse_object_name(object).is_none_or(|(_, point)| point != tombstone.point) => {
            Err(StoreError::corrupt(object, "it names another point than its object does"))
        }
        other => Ok(other),
    }
}

/// Names of tombstones, by point. Looked into only where it matters.
#[derive(Default)]
pub struct Names(HashMap<PointId, Vec<(String, SystemTime)>>);

impl Names {
    /// `prefix`: all, or those of one item.
    pub fn list(vault: &Vault, prefix: &str) -> Result<Self> {
        let mut names: HashMap<PointId, Vec<(String, SystemTime)>> = HashMap::new();
        for object in vault.objects().list(prefix)? {
            if let Some((_, point)) = parse_object_name(&object.name) {
                names.entry(point).or_default().push((object.name, object.last_modified));
            }
        }
        Ok(Self(names))
    }

    /// A readable tombstone of the point that covers a manifest of this session. A damaged one says nothing.
    pub fn covering(
        &self,
        vault: &Vault,
        point: &PointId,
        session: Option<SessionId>,
    ) -> Result<Option<Tombstone>> {
        for (object, _) in self.0.get(point).into_iter().flatten() {
            match load(vault, object) {
                Ok(Some(tombstone)) if tombstone.covers(session) => return Ok(Some(tombstone)),
                Ok(_) => {}
                Err(e) if e.is_damage() => tracing::warn!("{e}; passing it over"),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Whether there is a readable one of the point, of whichever session.
    pub fn any(&self, vault: &Vault, point: &PointId) -> Result<bool> {
        for (object, _) in self.0.get(point).into_iter().flatten() {
            match load(vault, object) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Whether there is one of the point, readable or not.
    pub fn is_named(&self, point: &PointId) -> bool {
        self.0.contains_key(point)
    }

    /// All of them: point, object, when it was written by the store's clock.
    pub fn iter(&self) -> impl Iterator<Item = (&PointId, &str, SystemTime)> {
        self.0.iter().flat_map(|(point, of)| of.iter().map(move |(name, at)| (point, name.as_str(), *at)))
    }
}

/// Writes a tombstone, or makes one that is there cover this too. The location must have been found marked.
pub fn write(vault: &Vault, item_key: &str, tombstone: Tombstone) -> Result<()> {
    let object = object_name(item_key, &tombstone.point);
    let bytes = TOMBSTONE.seal(vault.keys(), &object, &tombstone)?;
    match vault.objects().put_new(&object, bytes.clone()) {
        Err(e) if e.kind == Kind::AlreadyExists => {}
        other => return Ok(other?),
    }
    let there = match load(vault, &object) {
        Ok(there) => there,
        Err(e) if e.is_damage() => None,
        Err(e) => return Err(e),
    };
    let bytes = match there {
        Some(there) if there.is_final() => return Ok(()),
        Some(there) if !tombstone.is_final() => {
            let mut both = tombstone;
            both.taken_back.extend(there.taken_back);
            both.taken_back.sort_unstable();
            both.taken_back.dedup();
            TOMBSTONE.seal(vault.keys(), &object, &both)?
        }
        // Damaged, or less than what is known now.
        _ => bytes,
    };
    Ok(vault.objects().put(&object, bytes)?)
}
