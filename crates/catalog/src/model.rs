//! The rows of the service's state. What they mean and how they change is `engine`'s; here they only keep.

use crate::row::{Row, Value};
use crate::table::Table;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use strongroom_domain::access::Role;
use strongroom_domain::item::ItemState;
use strongroom_domain::job::{JobError, JobOperation, JobStatus, JobTask};
use strongroom_domain::policy::Policy as PolicyRules;
use strongroom_domain::retention::PointReason;
use strongroom_domain::{Consistency, Datasource, ItemName, PointId, VaultId};
use uuid::Uuid;

macro_rules! rows {
    ($($row:ty => $table:ident, |$self:ident| [$($value:expr),* $(,)?];)*) => { $(
        impl Row for $row {
            const TABLE: Table = Table::$table;

            fn id(&self) -> String {
                self.id.to_string()
            }

            fn version(&self) -> i64 {
                self.version
            }

            fn set_version(&mut self, version: i64) {
                self.version = version;
            }

            fn values(&self) -> Vec<Value> {
                let $self = self;
                let _ = $self;
                vec![$($value.into()),*]
            }
        }
    )* };
}

rows! {
    Setting => Settings, |s| [];
    Principal => Principals, |s| [s.app_id, key(&s.name)];
    RoleAssignment => RoleAssignments, |s| [s.principal];
    SigningKey => SigningKeys, |s| [s.created_at];
    ResourceGroup => ResourceGroups, |s| [key(&s.name)];
    Vault => Vaults, |s| [key(&s.group), key(&s.name), s.deleted_at.is_some()];
    Policy => Policies, |s| [s.vault, key(&s.name)];
    Machine => Machines, |s| [s.host.as_str(), s.host_uuid.as_str(), key(&s.group), key(&s.name), s.gone_at.is_some()];
    Item => Items, |s| [s.vault, s.machine, s.policy, state_key(s.state), key(&s.name())];
    Point => RecoveryPoints, |s| [s.vault, s.item, s.name.as_str(), s.taken_at];
    Job => Jobs, |s| [s.vault, s.item, s.operation.arm_name(), s.kind.as_str(), s.datasource.name(), s.status.arm_name(), !s.status.is_over(), s.started_at];
    Operation => Operations, |s| [s.vault, s.ended_at.is_none(), s.started_at];
    AuditEntry => Audit, |s| [s.at];
}

/// A name as it is looked up: without regard to case.
pub fn key(name: &str) -> String {
    name.to_lowercase()
}

/// A state as items are found by it.
pub fn state_key(state: ItemState) -> &'static str {
    state.arm_name()
}

/// Something the service remembers under a name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    pub id: String,
    #[serde(skip)]
    pub version: i64,
    pub value: serde_json::Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Signs in with an application id and a secret.
    Service,
    /// Signs in with a name and a password.
    User,
}

/// Somebody who may sign in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Principal {
    /// Azure's object id.
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub kind: PrincipalKind,
    /// Azure's application (client) id; of a user it has no use.
    pub app_id: Uuid,
    /// What it is called, and what a user signs in with.
    pub name: String,
    /// argon2, in the PHC format.
    pub secret_hash: String,
    pub created_at: Timestamp,
    #[serde(default)]
    pub disabled: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoleAssignment {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub principal: Uuid,
    pub role: Role,
    /// A path: `/`, `/subscriptions/S`, and so on.
    pub scope: String,
    pub created_at: Timestamp,
}

/// A key that tokens are signed with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    pub id: String,
    #[serde(skip)]
    pub version: i64,
    /// PKCS #8, PEM.
    pub private_key_pem: String,
    pub created_at: Timestamp,
    /// No longer signs; what it signed is still accepted for a while.
    pub retired_at: Option<Timestamp>,
}

/// A change, or a refusal, and whose it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEntry {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub at: Timestamp,
    /// Its name; of one that is not known, what it gave.
    pub principal: String,
    pub action: String,
    pub scope: String,
    /// The HTTP status that was answered.
    pub status: u16,
    /// Azure's code of the refusal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation_id: String,
    /// Others of the same kind and the same principal that were left out before this one, because they were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What became of what, where action and scope do not say it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl AuditEntry {
    /// Something that was done, by somebody, to something; what else there is to say of it is set afterwards.
    pub fn new(
        at: Timestamp,
        principal: impl Into<String>,
        action: impl Into<String>,
        scope: impl Into<String>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            version: 0,
            at,
            principal: principal.into(),
            action: action.into(),
            scope: scope.into(),
            status: 200,
            code: String::new(),
            client: String::new(),
            correlation_id: String::new(),
            left_out: 0,
            detail: String::new(),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResourceGroup {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub name: String,
    pub location: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoftDelete {
    Enabled,
    Disabled,
    /// Nobody can turn it off again.
    AlwaysOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redundancy {
    Local,
    Zone,
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

/// From what keeps least to what keeps most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Immutability {
    Disabled,
    Unlocked,
    Locked,
}

/// A Recovery Services vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vault {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub group: String,
    pub name: String,
    pub location: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// As it was given: `{"name": "Standard"}`.
    pub sku: serde_json::Value,
    /// The system-assigned identity's ids, and user-assigned ones, as Azure shows them.
    #[serde(default)]
    pub identity: Option<serde_json::Value>,
    pub redundancy: Redundancy,
    #[serde(default)]
    pub cross_region_restore: bool,
    pub soft_delete: SoftDelete,
    pub soft_delete_days: u32,
    /// What `enhancedSecurityState` says, which Azure keeps apart.
    pub enhanced_security: SoftDelete,
    pub immutability: Immutability,
    /// Objects that only clients read, as they sent them: monitoringSettings and so on.
    #[serde(default)]
    pub kept: BTreeMap<String, serde_json::Value>,
    /// Where its bytes are, and which vault is there.
    pub store_location: String,
    pub store_id: VaultId,
    /// Of an imported vault: where its key is; else it is in the data directory.
    #[serde(default)]
    pub key_file: Option<String>,
    /// Which points it had was taken from what its store showed when it was imported.
    #[serde(default)]
    pub is_as_listed: bool,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
    #[serde(default)]
    pub purge_at: Option<Timestamp>,
    /// It was found to hold nothing that anybody wants: its store is being removed, and cannot be brought back.
    #[serde(default)]
    pub is_being_removed: bool,
    /// Points were removed since the last reclaim.
    #[serde(default)]
    pub reclaim_due: bool,
    #[serde(default)]
    pub reclaimed_at: Option<Timestamp>,
}

/// A backup policy of a vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Policy {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub vault: Uuid,
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub datasource: Datasource,
    pub rules: PolicyRules,
    /// What clients sent and read beside the rules, as texts they want to see again.
    pub wire: serde_json::Value,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
}

/// A disk of a machine, as Azure numbers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// -1 for the first, which Azure calls the OS disk; then 0, 1, …
    pub lun: i32,
    /// `vda`, `sdb`, …
    pub target: String,
    pub size_bytes: Option<u64>,
    pub format: Option<String>,
    /// Why it is left out of backups.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// A machine that was discovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    /// The name of the host's configuration.
    pub host: String,
    /// The hypervisor's id of it.
    pub host_uuid: String,
    pub name: String,
    pub group: String,
    pub location: String,
    /// Whether somebody chose group and location, rather than the configuration.
    #[serde(default)]
    pub placed: bool,
    /// The hypervisor's word: `running`, `shut off`, …
    pub power: String,
    /// The hypervisor's word of its guest agent: `connected`, `not-connected`, `no-channel`; empty: not looked at yet.
    #[serde(default)]
    pub agent: String,
    pub disks: Vec<MachineDisk>,
    #[serde(default)]
    pub networks: Vec<String>,
    #[serde(default)]
    pub vcpus: u32,
    #[serde(default)]
    pub memory_mib: u64,
    /// `Linux` or `Windows`.
    pub os: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    pub discovered_at: Timestamp,
    #[serde(default)]
    pub gone_at: Option<Timestamp>,
}

/// Which disks of an item are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskChoice {
    pub luns: Vec<i32>,
    /// These alone, or all but these. The OS disk is always among them.
    pub inclusion: bool,
}

/// How the last backup came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    pub job: Uuid,
    pub started_at: Timestamp,
    pub status: JobStatus,
    #[serde(default)]
    pub error: Option<JobError>,
    /// Disks that its point lacks, though nobody excluded them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<MissedDisk>,
}

/// A disk that is not backed up, though nobody excluded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedDisk {
    pub target: String,
    pub reason: String,
}

/// A protected item.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub vault: Uuid,
    /// What it is.
    #[serde(default)]
    pub datasource: Datasource,
    /// The machine that it is, or is in, as it is known here, and at the hypervisor.
    pub machine: Uuid,
    pub machine_uuid: String,
    pub group: String,
    pub machine_name: String,
    /// Its name in the vault's store.
    pub store_item: ItemName,
    pub state: ItemState,
    pub policy: Option<Uuid>,
    /// What retention goes on by while there is no policy.
    #[serde(default)]
    pub last_rules: Option<PolicyRules>,
    #[serde(default)]
    pub disks: Option<DiskChoice>,
    pub protected_at: Timestamp,
    /// The schedule was looked at up to here.
    pub considered_until: Timestamp,
    #[serde(default)]
    pub last_backup: Option<LastBackup>,
    #[serde(default)]
    pub last_point_at: Option<Timestamp>,
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

    pub fn container(&self) -> String {
        strongroom_domain::arm_names::container_name(&self.group, &self.machine_name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    pub lun: i32,
    pub target: String,
    pub size_bytes: u64,
    /// libvirt encrypted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// Of one that was left out: why, unless somebody excluded it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How a drill of a point came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    pub job: Uuid,
    pub at: Timestamp,
    pub passed: bool,
    /// `agent` or `screen`: by what it was seen to have booted. None: it was not.
    #[serde(default)]
    pub answered: Option<String>,
    /// From the machine's start until then, or until it was given up.
    pub seconds: f64,
    #[serde(default)]
    pub check: Option<DrillCheck>,
    /// There is a picture of its screen.
    #[serde(default)]
    pub screenshot: bool,
    /// Why it has not passed.
    #[serde(default)]
    pub message: String,
}

/// What a drill's check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    pub command: String,
    /// None: a signal ended it.
    pub exit_code: Option<i32>,
    /// The last of its output, as text.
    pub stdout: String,
    pub stderr: String,
}

/// Where a point's way into the vault stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Transfer {
    /// It is in the vault.
    #[default]
    Done,
    /// Its job is at it, or will try again.
    Pending,
    /// It will never be there: the snapshot is all there is.
    Failed { reason: String },
}

/// The snapshot of a point: clones of its disks, beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointSnapshot {
    /// Which of the configuration's hosts has it.
    pub host: String,
    /// What the hypervisor opens it by.
    pub record: PathBuf,
    /// When it goes, if nothing made it go before.
    pub expires_at: Timestamp,
}

/// What was done inside the machine around a point's instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointGuest {
    /// Of the extension.
    pub version: String,
    /// How it was reached: `agent` or `port`.
    pub via: String,
    /// It was installed, upgraded or replaced for this point.
    pub installed: bool,
    /// The one in the guest was not the one that had been put there.
    pub was_tampered_with: bool,
    /// The guest has a configuration of scripts.
    pub configured: bool,
    pub pre: Option<PointScript>,
    pub post: Option<PointScript>,
    /// Azure's names for what was wrong, in the order in which it happened.
    pub problems: Vec<String>,
}

/// How a script went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointScript {
    pub tries: u32,
    /// All tries together.
    pub elapsed_ms: u64,
    /// None: a signal ended it, or it could not be run.
    pub exit_code: Option<i32>,
}

/// A recovery point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    pub id: PointId,
    #[serde(skip)]
    pub version: i64,
    pub vault: Uuid,
    pub item: Uuid,
    /// Azure's: a decimal number.
    pub name: String,
    pub taken_at: Timestamp,
    pub consistency: Consistency,
    pub disks: Vec<PointDisk>,
    /// Disks that were left out by the item's choice.
    #[serde(default)]
    pub excluded: Vec<PointDisk>,
    #[serde(default)]
    pub has_choice: bool,
    pub os: String,
    /// The machine's size at that time, as the machine shows it; empty where nobody noted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_size: String,
    pub stored_bytes: u64,
    /// Why it was made. None: nobody knows, or it was not written down yet and follows from the next two.
    #[serde(default)]
    pub reason: Option<PointReason>,
    /// The run it was made for.
    pub scheduled_for: Option<Timestamp>,
    /// Of one made on demand: until when. None: nothing lets it go by itself.
    pub keep_until: Option<Timestamp>,
    /// The vault's manifest of it says these three itself.
    #[serde(default)]
    pub kept_in_manifest: bool,
    /// `V1` or `V2`: the kind of policy it was made under.
    pub policy_type: String,
    pub job: Option<Uuid>,
    /// None: nothing was done inside, or nothing was noted of it.
    #[serde(default)]
    pub guest: Option<PointGuest>,
    /// The last proof that it can be restored, or that it cannot.
    #[serde(default)]
    pub drill: Option<Drill>,
    #[serde(default)]
    pub transfer: Transfer,
    /// When it came into the vault. None: it is not there, or was before this was noted.
    #[serde(default)]
    pub vaulted_at: Option<Timestamp>,
    #[serde(default)]
    pub snapshot: Option<PointSnapshot>,
    /// What tracks each disk's changes from its instant on, by target, and how large the disk was then.
    #[serde(default)]
    pub checkpoints: BTreeMap<String, (String, u64)>,
    /// When it was decided that it goes, which nobody takes back: no job that is made after this may read it.
    #[serde(default)]
    pub going_at: Option<Timestamp>,
    /// Since when it is not found in the vault, which does not say that it was forgotten. None: it is there, for all that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// When the snapshot went.
    #[serde(default)]
    pub snapshot_ended_at: Option<Timestamp>,
    /// Why there is no snapshot, or no more; empty where nobody knows.
    #[serde(default)]
    pub no_snapshot: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run of the service that has it.
    pub owner: Uuid,
    pub until: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    pub done_bytes: u64,
    /// 0: not known yet.
    pub total_bytes: u64,
    /// None: nothing to measure yet.
    pub percent: Option<u32>,
    pub remaining_seconds: Option<u64>,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub vault: Uuid,
    pub item: Option<Uuid>,
    /// What it is about, which is known when its item is gone.
    #[serde(default)]
    pub datasource: Datasource,
    pub operation: JobOperation,
    /// Which part of the service does it, by name; empty: it was over when it was written.
    #[serde(default)]
    pub kind: String,
    pub status: JobStatus,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// What it is about: the machine's name.
    pub entity: String,
    pub container: String,
    pub tasks: Vec<JobTask>,
    /// In the order in which they are shown.
    pub properties: Vec<(String, String)>,
    #[serde(default)]
    pub internal: Vec<(String, String)>,
    #[serde(default)]
    pub progress: JobProgress,
    #[serde(default)]
    pub errors: Vec<JobError>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What is to be done, in the engine's words.
    pub request: serde_json::Value,
    /// None: it waits for a runner.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// How often it was leased: who had it before writes to it no more.
    #[serde(default)]
    pub fence: u64,
    #[serde(default)]
    pub cancel_requested: bool,
    /// Times it was begun.
    #[serde(default)]
    pub attempts: u32,
    /// It was cut short, and whether it had been committed could not be seen yet: that comes before anything else.
    #[serde(default)]
    pub unsettled: bool,
    /// It waits until then.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    pub activity_id: Uuid,
    /// Who asked for it; empty: the schedule.
    #[serde(default)]
    pub asked_by: String,
}

/// A long-running operation that a client follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    pub id: Uuid,
    #[serde(skip)]
    pub version: i64,
    pub vault: Option<Uuid>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// The job that does it.
    pub job: Option<Uuid>,
    /// Over with the job, not with its beginning.
    #[serde(default)]
    pub follows_job: bool,
    /// Azure's code and message.
    #[serde(default)]
    pub error: Option<(String, String)>,
    /// It asked whether something could be done; the error is what it found.
    #[serde(default)]
    pub validates: bool,
}
