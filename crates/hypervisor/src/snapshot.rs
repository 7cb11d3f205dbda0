//! A snapshot of a machine: one instant of all its disks, how consistent it is, what changed since
//! the parent, and readers for the bytes.

use crate::error::Result;
use crate::files::Fingerprint;
use crate::guest::{GuestReport, GuestWork};
use crate::image::Layer;
use crate::model::{DiskFormat, Firmware, Machine};
use crate::reader::ReadDisk;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use strongroom_domain::{Consistency, TypedExtent};

/// What the last committed recovery point recorded of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskParent {
    /// [`DiskSnapshot::checkpoint`] of that point.
    pub checkpoint: String,
    /// [`DiskSnapshot::size_bytes`] of that point.
    pub size_bytes: u64,
}

/// Whether the guest's file systems are frozen for the instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quiesce {
    /// Where the guest agent answers.
    #[default]
    Auto,
    /// In no case.
    Never,
}

/// Whether disk files may be cloned beside the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseClones {
    /// Where the storage can.
    #[default]
    Auto,
    /// In no case.
    Never,
}

/// What is wanted of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotRequest {
    /// Names the snapshot: 1 to 64 of `A-Z a-z 0-9 -`. Its checkpoint is called `strongroom-<id>`. Never used twice.
    pub id: String,
    /// By target name. A disk without a parent is read fully.
    pub parents: BTreeMap<String, DiskParent>,
    /// Targets that are left out.
    pub exclude: BTreeSet<String>,
    /// Whether to freeze.
    pub quiesce: Quiesce,
    /// Earlier points of the machine were taken frozen: that its agent is missing now deserves a warning.
    pub was_frozen: bool,
    /// Whether scripts are run in the guest.
    pub guest: GuestWork,
    /// Whether to clone.
    pub clones: UseClones,
    /// Where a pull-mode job keeps what the guest overwrites. Default: beside each disk, and
    /// `/var/tmp` for block devices. QEMU's user must be able to enter it.
    pub scratch_dir: Option<PathBuf>,
    /// The scratch files' limit, all together. Default: what is free, less a reserve.
    pub scratch_limit_bytes: Option<u64>,
}

/// The road a disk's bytes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Road {
    /// From a clone of the disk's file: the snapshot is independent of the machine.
    Clone,
    /// From the running machine's hypervisor, which keeps what is overwritten aside.
    PullJob,
    /// From the disk itself, while the machine is shut off.
    Offline,
}

/// What [`DiskSnapshot::extents`] cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Changes {
    /// The whole disk, from 0 to its size.
    Full {
        /// One sentence: why not less.
        reason: String,
    },
    /// Everything that may have changed since this checkpoint (one of those named as parents), and
    /// all of a disk that grew beyond the parent's size.
    Since {
        /// The parent's.
        checkpoint: String,
    },
}

/// One disk of a snapshot.
#[derive(Clone)]
pub struct DiskSnapshot {
    /// By which the machine knows it.
    pub target: String,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// Of the machine's image; readers always give plain bytes.
    pub format: DiskFormat,
    /// The road its bytes take.
    pub road: Road,
    /// What `extents` cover.
    pub changes: Changes,
    /// What has to be taken over, sorted and disjoint: data must be read, zeroes must become holes.
    pub extents: Vec<TypedExtent>,
    /// What the recovery point has to record as the parent for the next snapshot of this disk.
    /// `None`: nothing tracks its changes, the next one reads it fully.
    pub checkpoint: Option<String>,
    pub(crate) reader: Arc<dyn ReadDisk>,
}

impl DiskSnapshot {
    /// All of a disk, for implementations of [`Hypervisor`](crate::Hypervisor) outside of this crate.
    pub fn full(
        target: &str,
        size_bytes: u64,
        format: DiskFormat,
        reader: Arc<dyn ReadDisk>,
    ) -> Result<Self> {
        Ok(Self {
            target: target.to_owned(),
            size_bytes,
            format,
            road: Road::Offline,
            changes: Changes::Full { reason: "nothing tracks its changes".into() },
            extents: reader.kinds()?,
            checkpoint: None,
            reader,
        })
    }

    /// Reads it as it was.
    pub fn reader(&self) -> Arc<dyn ReadDisk> {
        self.reader.clone()
    }

    /// Data and zeroes of the whole disk, not just of what changed.
    pub fn kinds(&self) -> Result<Vec<TypedExtent>> {
        self.reader.kinds()
    }

    /// Fills `buffer` from `offset_bytes` on.
    pub fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.reader.read_at(offset_bytes, buffer)
    }
}

impl std::fmt::Debug for DiskSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskSnapshot")
            .field("target", &self.target)
            .field("size_bytes", &self.size_bytes)
            .field("road", &self.road)
            .field("changes", &self.changes)
            .field("extents", &self.extents.len())
            .field("checkpoint", &self.checkpoint)
            .finish_non_exhaustive()
    }
}

/// How long the machine felt the snapshot. `None`: did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From asking to freeze until thawed. The guest was writing out what it had cached for most of `freezing`.
    pub frozen: Option<Duration>,
    /// The part of `frozen` until the guest agent said that it is done.
    pub freezing: Option<Duration>,
    /// From asking to suspend until resumed.
    pub suspended: Option<Duration>,
    /// The part of it in which the new checkpoint was made.
    pub tracking: Option<Duration>,
    /// The part of it in which the disks were cloned.
    pub cloning: Option<Duration>,
    /// From the start of the call until the snapshot could be read.
    pub total: Duration,
}

/// What became of the recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exists: its checkpoint is kept as the next one's parent, older ones of ours go.
    Committed,
    /// It does not: its checkpoint goes, the parent's stays as it was.
    Abandoned,
}

/// What an implementation does behind a snapshot.
pub(crate) trait SnapshotBackend: Send + Sync {
    fn check(&self) -> Result<()>;
    fn finish(&mut self, outcome: Outcome) -> Result<Vec<String>>;
    /// The clones behind the disks, in their order. None: it is not independent of the machine.
    fn independent(&self) -> Option<Independent>;
    /// It was kept: from here on nobody looks after it, and what belongs to it stays.
    fn let_go(&mut self);
}

/// What a snapshot of clones consists of.
pub(crate) struct Independent {
    pub id: String,
    pub clones: Vec<CloneFile>,
    /// Files below the clones that belong to the machine.
    pub below: Vec<(PathBuf, Fingerprint)>,
}

pub(crate) struct CloneFile {
    pub path: PathBuf,
    pub has_backing: bool,
    /// The disk's image, and what libvirt says is below that.
    pub layer: Layer,
    /// Raw disks: stays under its name after a commit, to compare with the next one.
    pub keep: bool,
    /// The one kept before, which goes then.
    pub previous: Option<PathBuf>,
}

/// A machine at one instant. Dropping it without [`MachineSnapshot::finish`] abandons it.
pub struct MachineSnapshot {
    /// Of the machine.
    pub uuid: String,
    /// The machine's name.
    pub name: String,
    /// The instant.
    pub taken_at: SystemTime,
    /// How consistent it is.
    pub consistency: Consistency,
    /// As it will be at its next start. May hold secrets (console passwords).
    pub definition_xml: String,
    /// UEFI variables' file.
    pub nvram: Option<PathBuf>,
    /// What they are for. `None`: not known, or it has no UEFI.
    pub firmware: Option<Firmware>,
    /// The file with what an emulated TPM remembers.
    pub tpm: Option<PathBuf>,
    /// Those that were taken.
    pub disks: Vec<DiskSnapshot>,
    /// Drives that were left out, and why.
    pub skipped: Vec<(String, String)>,
    /// A sentence each: what the user should know.
    pub warnings: Vec<String>,
    /// How long the machine felt it.
    pub timings: Timings,
    /// What the extension in the guest did. `None`: there was none.
    pub guest: Option<GuestReport>,
    /// Why [`keep`](Self::keep) cannot be. None: it can.
    pub not_kept: Option<String>,
    pub(crate) backend: Option<Box<dyn SnapshotBackend>>,
}

impl MachineSnapshot {
    /// One at whose end nothing is to be done, for implementations of [`Hypervisor`](crate::Hypervisor) outside of this
    /// crate. It cannot be kept.
    pub fn of_disks(machine: &Machine, consistency: Consistency, disks: Vec<DiskSnapshot>) -> Self {
        Self {
            uuid: machine.summary.uuid.clone(),
            name: machine.summary.name.clone(),
            taken_at: SystemTime::now(),
            consistency,
            definition_xml: machine.definition_xml.clone(),
            nvram: None,
            firmware: None,
            tpm: None,
            disks,
            skipped: Vec::new(),
            warnings: Vec::new(),
            timings: Timings::default(),
            guest: None,
            not_kept: Some("it is not independent of the machine".into()),
            backend: None,
        }
    }

    /// Whether everything read so far belongs to the instant. To be asked after the last read and
    /// before the recovery point is committed.
    pub fn check(&self) -> Result<()> {
        self.backend.as_ref().map_or(Ok(()), |backend| backend.check())
    }

    /// Ends the snapshot. Returns warnings: what could not be cleaned up, which the next snapshot will try again.
    pub fn finish(mut self, outcome: Outcome) -> Result<Vec<String>> {
        // Readers first: what they hold open could stand in the way of cleaning up.
        self.disks.clear();
        match self.backend.take() {
            Some(mut backend) => backend.finish(outcome),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for MachineSnapshot {
    fn drop(&mut self) {
        self.disks.clear();
        if let Some(mut backend) = self.backend.take() {
            match backend.finish(Outcome::Abandoned) {
                Ok(warnings) => warnings.iter().for_each(|w| tracing::warn!(machine = self.name, "{w}")),
                Err(error) => tracing::warn!(machine = self.name, %error, "abandoning a snapshot"),
            }
        }
    }
}

impl std::fmt::Debug for MachineSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineSnapshot")
            .field("name", &self.name)
            .field("consistency", &self.consistency)
            .field("disks", &self.disks)
            .field("warnings", &self.warnings)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}
