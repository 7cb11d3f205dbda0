//! What is asked of a check, and what it answers.

use serde::Serialize;
use std::collections::BTreeSet;
use strongroom_domain::{ItemName, PointId};

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Read, decrypt and verify every stored byte, not only structure and tree nodes.
    pub read_data: bool,
}

/// A point that damage touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TouchedPoint {
    /// Which.
    pub point: PointId,
    /// None if the manifest itself cannot be read.
    pub item: Option<ItemName>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The object that is damaged, or missing; `block or node ID` where no object can be named.
    pub object: String,
    /// What is wrong with it, and what becomes of it, in words.
    pub detail: String,
    /// Those that damage touches, as far as is known; empty where it touches none.
    pub points: BTreeSet<TouchedPoint>,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Those that are there, readable or not.
    pub points: u64,
    /// All that were listed.
    pub objects: u64,
    /// Those that were listed.
    pub packs: u64,
    /// Bytes of packs read in full.
    pub read_bytes: u64,
    /// Tree nodes that were read, each once.
    pub nodes: u64,
    /// Damaged packs whose content has been stored again elsewhere since: no point misses anything; reclaim removes them.
    pub healed_packs: u64,
    /// Packs that belong to no point yet or any more; reclaim looks after them.
    pub unindexed_packs: u64,
    /// Everything that is not as it should be. Empty: the vault is sound.
    pub findings: Vec<Finding>,
    /// What the check wrote for itself and was not allowed to delete; reclaim does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}
