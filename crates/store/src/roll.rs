//! The roll: which points the vault is known to have, whatever a listing says. Written by whoever holds the reclaim
//! lock, and when a vault is made. See `docs/vault-format.md`, section 9.

use crate::error::{Result, StoreError};
use crate::limits::ROLL_MAX_BYTES;
use crate::lists;
use crate::marker;
use crate::sealed::Sealed;
use crate::vault::Vault;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::{PointId, SessionId};

pub const ROLL_NAME: &str = "roll";
pub const ROLL_COPY_NAME: &str = "roll.copy";
pub const ROLL_NAMES: [&str; 2] = [ROLL_NAME, ROLL_COPY_NAME];
pub(crate) const ROLL: Sealed = Sealed {
    what: "roll",
    magic: *b"SRROLL\x01\x00",
    context: "strongroom v1 roll",
    max_bytes: ROLL_MAX_BYTES,
};

/// A point the vault is known to have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RollPoint {
    pub point: PointId,
    pub item_key: String,
    /// The session that made it; none if its manifest could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// Counts up with each writing: of two copies, the higher one is the later.
    pub generation: u64,
    /// Whether it is known to be whole. One that was made from a listing is not, until somebody agreed.
    pub confirmed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_agreed_at: Option<Timestamp>,
    /// Sorted.
    pub points: Vec<RollPoint>,
    /// Sessions of which there are packs, and of which it is known what became of them. Sorted.
    pub settled: Vec<SessionId>,
    /// The number up to which all entries of the commit log are decided, and their points named here.
    #[serde(default)]
    pub accounted: u64,
}

/// What is known of the roll.
pub enum RollState {
    /// `whole`: both copies are right, and the same.
    Known { roll: Roll, whole: bool },
    /// Neither copy can be read.
    Unknown { detail: String },
}

/// One copy, if it is there.
pub fn load_copy(vault: &Vault, name: &str) -> Result<Option<Roll>> {
    ROLL.load(vault.objects(), vault.keys(), name)
}

pub fn load(vault: &Vault) -> Result<RollState> {
    let mut copies = Vec::new();
    let mut faults = Vec::new();
    for name in ROLL_NAMES {
        match load_copy(vault, name) {
            Ok(Some(roll)) => copies.push(roll),
            Ok(None) => faults.push(format!("{name} is missing")),
            Err(e) if e.is_damage() => faults.push(e.to_string()),
            Err(e) => return Err(e),
        }
    }
    let whole = copies.len() == ROLL_NAMES.len() && copies.iter().all(|copy| *copy == copies[0]);
    match copies.into_iter().max_by_key(|roll| roll.generation) {
        Some(roll) => Ok(RollState::Known { roll, whole }),
        None => Ok(RollState::Unknown { detail: faults.join("; ") }),
    }
}

/// Writes both copies, one after the other: a crash in between leaves one of them.
pub fn save(vault: &Vault, roll: &Roll) -> Result<()> {
    marker::check(vault)?;
    put(vault, roll)
}

/// The same where there is no marker yet to look at.
pub fn put(vault: &Vault, roll: &Roll) -> Result<()> {
    for name in [ROLL_COPY_NAME, ROLL_NAME] {
        vault.objects().put(name, ROLL.seal(vault.keys(), name, roll)?)?;
    }
    Ok(())
}

/// What is begun with where neither copy can be read: counting goes on far beyond what it can have reached, and the commit
/// log where `lists` says.
pub fn anew(vault: &Vault) -> Result<Roll> {
    let generation = u64::try_from(vault.environment().now().as_second()).unwrap_or_default();
    Ok(Roll { generation, accounted: lists::accounted(vault)?, ..Roll::default() })
}

/// The roll, for somebody who cannot do without.
pub fn unknown(vault: &Vault, detail: &str) -> StoreError {
    StoreError::RollUnknown { location: vault.location().to_owned(), detail: detail.to_owned() }
}
