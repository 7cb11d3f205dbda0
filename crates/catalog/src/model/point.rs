//! Recovery points.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use strongroom_domain::retention::PointReason;
use strongroom_domain::{Consistency, PointId};
use uuid::Uuid;

/// A disk of a point, or one that the point lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    /// [`MachineDisk::lun`](crate::MachineDisk::lun): restores name disks by it.
    pub lun: i32,
    /// [`MachineDisk::target`](crate::MachineDisk::target).
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
    /// The [`Job::id`](crate::Job::id) of the drill.
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
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`](crate::Vault::id) of where it is.
    pub vault: Uuid,
    /// The [`Item::id`](crate::Item::id) of whose it is. The row goes with the item.
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
    /// The [`Job::id`](crate::Job::id) of what made it. None: not known, as of imported points.
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
