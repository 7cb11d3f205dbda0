//! Protected items.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::item::ItemState;
use strongroom_domain::job::{JobError, JobStatus};
use strongroom_domain::policy::Policy as PolicyRules;
use strongroom_domain::{Datasource, ItemName};
use uuid::Uuid;

/// Which disks of an item are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskChoice {
    /// By [`MachineDisk::lun`](crate::MachineDisk::lun).
    pub luns: Vec<i32>,
    /// These alone, or all but these. The OS disk is always among them.
    pub inclusion: bool,
}

/// How the last backup came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// The [`Job::id`](crate::Job::id) of the backup.
    pub job: Uuid,
    /// When the job began.
    pub started_at: Timestamp,
    /// How the job ended.
    pub status: JobStatus,
    /// The first of its errors. None: it had none.
    #[serde(default)]
    pub error: Option<JobError>,
    /// Disks that its point lacks, though nobody excluded them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<MissedDisk>,
}

/// A disk that is not backed up, though nobody excluded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedDisk {
    /// [`MachineDisk::target`](crate::MachineDisk::target).
    pub target: String,
    /// Why it is not, in words.
    pub reason: String,
}

/// A protected item.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    /// The catalog's; Azure's clients know [`name`](Self::name).
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`](crate::Vault::id) of where it is protected. The row goes with the vault.
    pub vault: Uuid,
    /// What it is.
    #[serde(default)]
    pub datasource: Datasource,
    /// The machine that it is, or is in, as it is known here, and at the hypervisor.
    pub machine: Uuid,
    /// The hypervisor's id of the machine.
    pub machine_uuid: String,
    /// The machine's resource group: part of the item's name, so the machine stays in it.
    pub group: String,
    /// What the machine was called when it was protected: part of the item's name.
    pub machine_name: String,
    /// Its name in the vault's store.
    pub store_item: ItemName,
    /// Where its protection stands.
    pub state: ItemState,
    /// The [`Policy::id`](crate::Policy::id) of what it goes by. None: it is stopped or deleted.
    pub policy: Option<Uuid>,
    /// What retention goes on by while there is no policy.
    #[serde(default)]
    pub last_rules: Option<PolicyRules>,
    /// Which disks are backed up. None: all.
    #[serde(default)]
    pub disks: Option<DiskChoice>,
    /// When it was protected first; where nobody knows, when it was adopted or imported.
    pub protected_at: Timestamp,
    /// The schedule was looked at up to here.
    pub considered_until: Timestamp,
    /// None: there was none yet.
    #[serde(default)]
    pub last_backup: Option<LastBackup>,
    /// When its newest point was taken, as far as the catalog knows; the point itself may be gone. None: there was none.
    #[serde(default)]
    pub last_point_at: Option<Timestamp>,
    /// When it was deleted; the row stays until it is purged. None: it is not deleted.
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
    /// When what was soft-deleted goes for good.
    #[serde(default)]
    pub purge_at: Option<Timestamp>,
    /// Of one that is not backed up any more: what backups had left in its machine was taken away.
    #[serde(default)]
    pub untracked: bool,
    /// Azure's `protectedItemDataId`.
    pub data_id: String,
}

impl Item {
    /// Azure's: `VM;iaasvmcontainerv2;{group};{machine}`.
    pub fn name(&self) -> String {
        strongroom_domain::arm_names::item_name(&self.group, &self.machine_name)
    }

    /// Azure's: `IaasVMContainer;iaasvmcontainerv2;{group};{machine}`.
    pub fn container(&self) -> String {
        strongroom_domain::arm_names::container_name(&self.group, &self.machine_name)
    }
}
