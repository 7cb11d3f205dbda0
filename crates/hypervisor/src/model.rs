//! What is known about machines, without any way to change them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// It runs.
    Running,
    /// It is held, in memory.
    Paused,
    /// The guest put itself to sleep.
    Suspended,
    /// The guest was asked to end.
    ShuttingDown,
    /// It is off.
    ShutOff,
    /// Its guest or its QEMU crashed.
    Crashed,
}

impl MachineState {
    /// Whether there is a running hypervisor process that holds the disks.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff)
    }
}

impl std::fmt::Display for MachineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::ShuttingDown => "shutting down",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
        })
    }
}

/// What a list shows of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    /// Its name.
    pub name: String,
    /// Hyphenated, lower case.
    pub uuid: String,
    /// Whether it runs.
    pub state: MachineState,
    /// False for machines which vanish when they stop.
    pub persistent: bool,
    /// Whether it starts with its host.
    pub autostart: bool,
}

/// A format of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Bytes as the guest sees them.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl DiskFormat {
    /// The name which QEMU and libvirt use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Where a disk's bytes live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "at")]
pub enum DiskSource {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// Network storage, a volume of a pool and so on, by libvirt's word for it.
    Other(String),
    /// No medium.
    None,
}

impl DiskSource {
    /// Of a file or a device.
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::File(path) | Self::Block(path) => Some(path),
            _ => None,
        }
    }
}

/// A disk (or drive) of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name inside the machine's definition: `vda`, `sdb`, …
    pub target: String,
    /// `virtio`, `scsi`, `sata`, …
    pub bus: String,
    /// `disk`, `cdrom`, `floppy`, `lun`
    pub device: String,
    /// Where its data is.
    pub source: DiskSource,
    /// `None`: a format that is not supported.
    pub format: Option<DiskFormat>,
    /// As the guest sees it. `None`: could not be found out.
    pub size_bytes: Option<u64>,
    /// What it takes on storage.
    pub allocated_bytes: Option<u64>,
    /// The machine only reads it.
    pub read_only: bool,
    /// Other machines may use it, too.
    pub shareable: bool,
    /// What is written goes when the machine stops.
    pub transient: bool,
    /// QEMU encrypts it.
    pub encrypted: bool,
    /// The definition names an image that it is based on.
    #[serde(default)]
    pub has_backing_store: bool,
    /// Why it is left out of snapshots. `None`: it is taken.
    pub skipped: Option<String>,
}

impl Disk {
    /// Why backups lack it, though it holds data of the machine.
    pub fn missed(&self) -> Option<&str> {
        self.skipped.as_deref().filter(|why| crate::skipped::is_missed(why))
    }
}

/// What there is of a guest agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// It answers.
    Connected,
    /// The machine has a channel for it, nothing answers there.
    NotConnected,
    /// The machine has no channel for it.
    NoChannel,
}

impl AgentState {
    /// As it is said.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::NotConnected => "not-connected",
            Self::NoChannel => "no-channel",
        }
    }
}

/// Everything about one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// What lists show.
    #[serde(flatten)]
    pub summary: MachineSummary,
    /// In the definition's order, with drives that are left out.
    pub disks: Vec<Disk>,
    /// What there is of its guest agent.
    pub agent: AgentState,
    /// Without secrets.
    pub definition_xml: String,
    /// UEFI variables.
    pub nvram: Option<PathBuf>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// As definitions name it.
    pub name: String,
    /// Whether machines can use it now.
    pub active: bool,
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoragePool {
    /// As definitions name it.
    pub name: String,
    /// Whether it can be used now.
    pub active: bool,
    /// For pools that are directories.
    pub path: Option<PathBuf>,
}

/// How a restored machine is connected.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkChoice {
    /// As in its definition.
    #[default]
    Keep,
    /// Every interface to this virtual network.
    Network(String),
    /// No interfaces.
    None,
}

/// A disk of a machine that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDisk {
    /// As in the saved definition.
    pub target: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub format: DiskFormat,
    /// It is encrypted (LUKS) with this secret of libvirt's.
    #[serde(default)]
    pub secret: Option<Uuid>,
}

/// A key of a disk, to be kept by libvirt.
#[derive(Clone)]
pub struct NewSecret {
    /// What the disk names it by.
    pub uuid: Uuid,
    /// For whoever looks at it.
    pub description: String,
    /// What it is for; of no other secret.
    pub usage: String,
    /// The key itself.
    pub passphrase: String,
}

/// UEFI firmware, for which a machine's variables were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// The file of its code, which has this size.
    pub loader: PathBuf,
    /// How long the file was.
    pub loader_bytes: u64,
    /// It has Secure Boot, and needs system management mode for it.
    #[serde(default)]
    pub is_secure: bool,
}

/// A machine to be made from a saved definition. Disks of the definition that are not named are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreMachineRequest {
    /// What was saved.
    pub definition_xml: String,
    /// Must be free.
    pub new_name: String,
    /// Those that the new machine gets.
    pub disks: Vec<RestoredDisk>,
    /// What it is connected to.
    pub network: NetworkChoice,
    /// The file of UEFI variables for the new machine alone; libvirt makes one that is not there. `None`: where libvirt likes.
    pub nvram: Option<PathBuf>,
    /// What they were made for; where there are none: that the machine never had any. `None`: not known.
    #[serde(default)]
    pub firmware: Option<Firmware>,
    /// What its emulated TPM remembers; `None`: it begins empty.
    pub tpm: Option<Vec<u8>>,
    /// Disks without a secret that were encrypted are to be unencrypted. Otherwise that is refused.
    #[serde(default)]
    pub unencrypted: bool,
}

/// A machine that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedMachine {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// A sentence each: what is different from the saved machine beyond name, UUID, MAC addresses and disks, as it must be.
    pub warnings: Vec<String>,
    /// A sentence each: what the saved machine had and this one lacks.
    #[serde(default)]
    pub losses: Vec<String>,
}

/// What was taken out of a machine that backups had left in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Untracked {
    /// Checkpoints that went.
    pub checkpoints: usize,
    /// A sentence each: what could not be taken away.
    pub warnings: Vec<String>,
}

/// What a machine without a process still has under way, so that its disks are not at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unfinished {
    /// Its memory was saved: it goes on from there at its next start, with the disks exactly as they are now.
    SavedState,
    /// A backup of it is being taken.
    Snapshot,
}

/// What a program run in a guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOutput {
    /// Exit code; `None` when a signal ended it.
    pub exit_code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it printed as errors.
    pub stderr: Vec<u8>,
    /// The output was longer than what is kept.
    pub truncated: bool,
}
