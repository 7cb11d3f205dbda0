//! What a catalog's rows say.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::{Consistency, ItemName, PointId, VaultId};

/// What recovery points are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    Machine,
    Image,
}

impl ItemKind {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Image => "image",
        }
    }

    pub(crate) fn from_code(code: &str) -> Option<Self> {
        [Self::Machine, Self::Image].into_iter().find(|kind| kind.code() == code)
    }
}

/// A vault, as it was just used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSeen {
    pub id: VaultId,
    pub location: String,
}

/// A vault that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultRow {
    pub id: VaultId,
    /// Where it was seen last.
    pub location: String,
    pub first_seen_at: Timestamp,
    pub last_seen_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRow {
    pub name: String,
    pub size_bytes: u64,
}

/// A recovery point. Times are kept to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PointRow {
    pub id: PointId,
    pub item: ItemName,
    pub kind: ItemKind,
    /// What the item is a backup of, where that has an identity of its own: a machine's UUID.
    pub source_id: Option<String>,
    pub parent: Option<PointId>,
    pub taken_at: Timestamp,
    pub committed_at: Timestamp,
    pub consistency: Consistency,
    pub disks: Vec<DiskRow>,
    pub read_bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    /// How many the point has.
    pub warnings: u64,
}

/// A point, and the vault that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredPoint {
    pub vault: VaultId,
    /// The vault's, when it was seen last.
    pub location: String,
    #[serde(flatten)]
    pub point: PointRow,
}

/// What a [`sync`](crate::Catalog::sync) changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    pub added: u64,
    pub removed: u64,
}
