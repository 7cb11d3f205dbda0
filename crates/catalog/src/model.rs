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
    /// The name, which says what the value means.
    pub id: String,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// Of the form that whoever reads it under this name knows.
    pub value: serde_json::Value,
}

/// How somebody signs in.
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
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// How it signs in.
    pub kind: PrincipalKind,
    /// Azure's application (client) id; of a user it has no use.
    pub app_id: Uuid,
    /// What it is called, and what a user signs in with.
    pub name: String,
    /// argon2, in the PHC format.
    pub secret_hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// It may not sign in.
    #[serde(default)]
    pub disabled: bool,
}

/// What a principal may do at a scope and all below it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoleAssignment {
    /// The name of the assignment in Azure's API: a GUID.
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The [`Principal::id`] of whose it is. The row goes with the principal.
    pub principal: Uuid,
    /// What it may do there.
    pub role: Role,
    /// A path: `/`, `/subscriptions/S`, and so on.
    pub scope: String,
    /// When it was given.
    pub created_at: Timestamp,
}

/// A key that tokens are signed with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    pub id: String,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// PKCS #8, PEM.
    pub private_key_pem: String,
    /// When it was made. Of those that may sign the newest does.
    pub created_at: Timestamp,
    /// No longer signs; what it signed is still accepted for a while.
    pub retired_at: Option<Timestamp>,
}

/// A change, or a refusal, and whose it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEntry {
    /// A UUID of version 7.
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// When it was done, or refused. Rows may be written in another order:
    /// [`Query::written_after`](crate::Query::written_after).
    pub at: Timestamp,
    /// Its name; of one that is not known, what it gave.
    pub principal: String,
    /// Azure's name of the action, like `Microsoft.RecoveryServices/Vaults/delete`; of a request that needs no permission its
    /// method and operation.
    pub action: String,
    /// The path of what it was done to; `/` where that is more than one thing, or is not known.
    pub scope: String,
    /// The HTTP status that was answered.
    pub status: u16,
    /// Azure's code of the refusal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Where the request came from: an address, or the kind of connection. Empty: there was no request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The request's, as the client gave it or as it was made for it. Empty: there was no request.
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

/// A group that vaults and machines are named under.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResourceGroup {
    /// Chosen at random: everything else names the group by its name.
    pub id: Uuid,
    /// See [`Row::version`].
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
    /// See [`Row::version`].
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
    /// See [`Row::version`].
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

/// A disk of a machine, as Azure numbers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// -1 for the first, which Azure calls the OS disk; then 0, 1, …
    pub lun: i32,
    /// `vda`, `sdb`, …
    pub target: String,
    /// As a guest sees it. None: it could not be found out.
    pub size_bytes: Option<u64>,
    /// `raw`, `qcow2`. None: another one, or it is not known.
    pub format: Option<String>,
    /// Why it is left out of backups.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// A machine that was discovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The catalog's. What the hypervisor knows by another id is another machine.
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The name of the host's configuration.
    pub host: String,
    /// The hypervisor's id of it.
    pub host_uuid: String,
    /// As the hypervisor calls it. One in its group, without regard to case, among those that are not gone.
    pub name: String,
    /// The name of its resource group.
    pub group: String,
    /// A vault of this location can protect it.
    pub location: String,
    /// Whether somebody chose group and location, rather than the configuration.
    #[serde(default)]
    pub placed: bool,
    /// The hypervisor's word: `running`, `shut off`, …
    pub power: String,
    /// The hypervisor's word of its guest agent: `connected`, `not-connected`, `no-channel`; empty: not looked at yet.
    #[serde(default)]
    pub agent: String,
    /// Those that Azure would count, in their order: no CD-ROM or floppy drives.
    pub disks: Vec<MachineDisk>,
    /// The names of those it is attached to, each once.
    #[serde(default)]
    pub networks: Vec<String>,
    /// 0: not known.
    #[serde(default)]
    pub vcpus: u32,
    /// In MiB. 0: not known.
    #[serde(default)]
    pub memory_mib: u64,
    /// `Linux` or `Windows`.
    pub os: String,
    /// Empty where there are none.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// When it was seen first.
    pub discovered_at: Timestamp,
    /// Since when it is gone from its host; the row stays, since its points may be restored. None: it is there.
    #[serde(default)]
    pub gone_at: Option<Timestamp>,
}

/// Which disks of an item are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskChoice {
    /// By [`MachineDisk::lun`].
    pub luns: Vec<i32>,
    /// These alone, or all but these. The OS disk is always among them.
    pub inclusion: bool,
}

/// How the last backup came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// The [`Job::id`] of the backup.
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
    /// [`MachineDisk::target`].
    pub target: String,
    /// Why it is not, in words.
    pub reason: String,
}

/// A protected item.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    /// The catalog's; Azure's clients know [`name`](Self::name).
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`] of where it is protected. The row goes with the vault.
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
    /// The [`Policy::id`] of what it goes by. None: it is stopped or deleted.
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

/// A disk of a point, or one that the point lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// [`MachineDisk::lun`]: restores name disks by it.
    pub lun: i32,
    /// [`MachineDisk::target`].
    pub target: String,
    /// As a guest sees it. 0: it was left out, and its size is not known.
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
    /// The [`Job::id`] of the drill.
    pub job: Uuid,
    /// When its result was written.
    pub at: Timestamp,
    /// Whether the point is proven: the machine booted, and the check, if there was one, was content.
    pub passed: bool,
    /// `agent` or `screen`: by what it was seen to have booted. None: it was not.
    #[serde(default)]
    pub answered: Option<String>,
    /// From the machine's start until then, or until it was given up.
    pub seconds: f64,
    /// None: there was none, or it was not run.
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
    /// What was run inside the machine.
    pub command: String,
    /// None: a signal ended it.
    pub exit_code: Option<i32>,
    /// The last of its output, as text.
    pub stdout: String,
    /// The last of its error output, as text.
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
    Failed {
        /// In words.
        reason: String,
    },
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
    /// How the script before the instant went. None: it was not run.
    pub pre: Option<PointScript>,
    /// How the script after the instant went. None: it was not run.
    pub post: Option<PointScript>,
    /// Azure's names for what was wrong, in the order in which it happened.
    pub problems: Vec<String>,
}

/// How a script went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointScript {
    /// How often it was run.
    pub tries: u32,
    /// All tries together.
    pub elapsed_ms: u64,
    /// None: a signal ended it, or it could not be run.
    pub exit_code: Option<i32>,
}

/// A recovery point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// The same as in the vault.
    pub id: PointId,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`] of where it is.
    pub vault: Uuid,
    /// The [`Item::id`] of whose it is. The row goes with the item.
    pub item: Uuid,
    /// Azure's: a decimal number.
    pub name: String,
    /// The instant that all its disks show.
    pub taken_at: Timestamp,
    /// What the data is fit for, and why it is no better.
    pub consistency: Consistency,
    /// Those that it has.
    pub disks: Vec<PointDisk>,
    /// Disks that were left out by the item's choice.
    #[serde(default)]
    pub excluded: Vec<PointDisk>,
    /// The item chose among the machine's disks, or some are missing.
    #[serde(default)]
    pub has_choice: bool,
    /// `Linux` or `Windows`.
    pub os: String,
    /// The machine's size at that time, as the machine shows it; empty where nobody noted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_size: String,
    /// What it added to the vault, compressed.
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
    /// The [`Job::id`] of what made it. None: not known, as of imported points.
    pub job: Option<Uuid>,
    /// None: nothing was done inside, or nothing was noted of it.
    #[serde(default)]
    pub guest: Option<PointGuest>,
    /// The last proof that it can be restored, or that it cannot.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// Whether it is in the vault.
    #[serde(default)]
    pub transfer: Transfer,
    /// When it came into the vault. None: it is not there, or was before this was noted.
    #[serde(default)]
    pub vaulted_at: Option<Timestamp>,
    /// Where its disks can be read without the vault. None: nowhere, or no more; see [`no_snapshot`](Self::no_snapshot).
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

/// Who runs a job, so that nobody else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run of the service that has it.
    pub owner: Uuid,
    /// It ends then unless it is renewed: somebody else may take the job over.
    pub until: Timestamp,
}

/// How far a job is. All zero and none where nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Read or written so far.
    pub done_bytes: u64,
    /// 0: not known yet.
    pub total_bytes: u64,
    /// None: nothing to measure yet.
    pub percent: Option<u32>,
    /// Estimated. None: too early to tell.
    pub remaining_seconds: Option<u64>,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What Azure's clients know it by.
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`] of what it is about. The row goes with the vault.
    pub vault: Uuid,
    /// The [`Item::id`] of what it is about. None: it is about the vault.
    pub item: Option<Uuid>,
    /// What it is about, which is known when its item is gone.
    #[serde(default)]
    pub datasource: Datasource,
    /// What it does, in Azure's terms.
    pub operation: JobOperation,
    /// Which part of the service does it, by name; empty: it was over when it was written.
    #[serde(default)]
    pub kind: String,
    /// Where it is.
    pub status: JobStatus,
    /// When it was written, also of one that waits.
    pub started_at: Timestamp,
    /// None: it is not over.
    pub ended_at: Option<Timestamp>,
    /// What it is about: the machine's name.
    pub entity: String,
    /// Azure's short name of the item's container: `iaasvmcontainerv2;{group};{machine}`.
    pub container: String,
    /// Its steps, in the order in which they are done.
    pub tasks: Vec<JobTask>,
    /// In the order in which they are shown.
    pub properties: Vec<(String, String)>,
    /// Facts like those of `properties` that only Azure's own clients read.
    #[serde(default)]
    pub internal: Vec<(String, String)>,
    /// As its runner wrote it last.
    #[serde(default)]
    pub progress: JobProgress,
    /// Why it failed, or was skipped. Empty: neither.
    #[serde(default)]
    pub errors: Vec<JobError>,
    /// What whoever asked for it is to know, in words.
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
    /// Somebody asked for its end; its runner sees to it.
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
    /// Azure's `activityId`: chosen at random, nothing here follows from it.
    pub activity_id: Uuid,
    /// Who asked for it; empty: the schedule.
    #[serde(default)]
    pub asked_by: String,
}

/// A long-running operation that a client follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    /// The client asks by this. Of a restore it is the job's.
    pub id: Uuid,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`] of what it is about. None: it is about no vault.
    pub vault: Option<Uuid>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// None: it goes on.
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
