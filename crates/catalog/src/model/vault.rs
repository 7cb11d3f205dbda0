//! Resource groups, vaults and their policies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strongroom_domain::policy::Policy as PolicyRules;
use strongroom_domain::{Datasource, VaultId};
use uuid::Uuid;

/// A group that vaults and machines are named under.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResourceGroup {
    /// Chosen at random: everything else names the group by its name.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// As it was written when it was made; looked up without regard to case.
    pub name: String,
    /// As Azure's clients see it; the group's members may have others.
    pub location: String,
    /// Empty where there are none.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Whether what is deleted can be brought back for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoftDelete {
    /// It can. This can be turned off.
    Enabled,
    /// It goes at once.
    Disabled,
    /// Nobody can turn it off again.
    AlwaysOn,
}

/// How often a vault's bytes are to be stored, in Azure's terms. It is recorded and shown: nothing is copied to a second
/// place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redundancy {
    /// In one place (`LocallyRedundant`).
    Local,
    /// In several zones of a region (`ZoneRedundant`).
    Zone,
    /// In a second region as well (`GeoRedundant`).
    Geo,
}

impl SoftDelete {
    /// That of both which keeps more.
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::AlwaysOn, _) | (_, Self::AlwaysOn) => Self::AlwaysOn,
            (Self::Enabled, _) | (_, Self::Enabled) => Self::Enabled,
            (Self::Disabled, Self::Disabled) => Self::Disabled,
        }
    }
}

/// Whether points of a vault may go sooner than they were promised to: from what keeps least to what keeps most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Immutability {
    /// They may, where the caller may delete.
    Disabled,
    /// They may not; this can be turned off.
    Unlocked,
    /// They may not, and nobody can turn this off.
    Locked,
}

/// A Recovery Services vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vault {
    /// The catalog's; that of its store is [`store_id`](Self::store_id).
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The name of its resource group.
    pub group: String,
    /// One in its group, without regard to case; a deleted vault may have the same.
    pub name: String,
    /// It protects machines of this location only.
    pub location: String,
    /// Empty where there are none.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// As it was given: `{"name": "Standard"}`.
    pub sku: serde_json::Value,
    /// The system-assigned identity's ids, and user-assigned ones, as Azure shows them.
    #[serde(default)]
    pub identity: Option<serde_json::Value>,
    /// Can be changed until the vault has items.
    pub redundancy: Redundancy,
    /// Only with [`Redundancy::Geo`]. Recorded and shown: nothing follows from it.
    #[serde(default)]
    pub cross_region_restore: bool,
    /// Whether deleted items and vaults can be brought back.
    pub soft_delete: SoftDelete,
    /// For how many days.
    pub soft_delete_days: u32,
    /// What `enhancedSecurityState` says, which Azure keeps apart.
    pub enhanced_security: SoftDelete,
    /// Whether its points may go sooner than they were promised to.
    pub immutability: Immutability,
    /// Objects that only clients read, as they sent them: monitoringSettings and so on.
    #[serde(default)]
    pub kept: BTreeMap<String, serde_json::Value>,
    /// Where its bytes are: a directory, or `s3://bucket/prefix`.
    pub store_location: String,
    /// Which vault is there, as its header says.
    pub store_id: VaultId,
    /// Of an imported vault: where its key is; else it is in the data directory.
    #[serde(default)]
    pub key_file: Option<String>,
    /// Which points it had was taken from what its store showed when it was imported.
    #[serde(default)]
    pub is_as_listed: bool,
    /// When it was made, or imported.
    pub created_at: Timestamp,
    /// When its settings were changed last, or whether it is deleted.
    pub changed_at: Timestamp,
    /// When it was deleted; the row stays until it is purged. None: it is not deleted.
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
    /// When it goes for good, with all that it holds. None: it is not deleted.
    #[serde(default)]
    pub purge_at: Option<Timestamp>,
    /// It was found to hold nothing that anybody wants: its store is being removed, and cannot be brought back.
    #[serde(default)]
    pub is_being_removed: bool,
    /// Points were removed since the last reclaim.
    #[serde(default)]
    pub reclaim_due: bool,
    /// When reclaim was begun last, whatever came of it. None: never.
    #[serde(default)]
    pub reclaimed_at: Option<Timestamp>,
}

/// A backup policy of a vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Policy {
    /// Items name it by this.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`] of whose it is. The row goes with the vault.
    pub vault: Uuid,
    /// One in its vault, without regard to case.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub datasource: Datasource,
    /// When backups are made, and how long they are kept.
    pub rules: PolicyRules,
    /// What clients sent and read beside the rules, as texts they want to see again.
    pub wire: serde_json::Value,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub changed_at: Timestamp,
}
