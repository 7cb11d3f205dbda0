//! What is known about machines, without any way to change them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use uuid::Uuid;

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    Running,
    Paused,
    /// The guest put itself to sleep.
    Suspended,
    ShuttingDown,
    ShutOff,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    pub name: String,
    /// Hyphenated, lower case.
    pub uuid: String,
    pub state: MachineState,
    /// False for machines which vanish when they stop.
    pub persistent: bool,
    pub autostart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    Raw,
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
    File(PathBuf),
    Block(PathBuf),
    /// Network storage, a volume of a pool and so on, by libvirt's word for it.
    Other(String),
    /// No medium.
    None,
}

impl DiskSource {
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
    pub source: DiskSource,
    /// `None`: a format that is not supported.
    pub format: Option<DiskFormat>,
    /// As the guest sees it. `None`: could not be found out.
    pub size_bytes: Option<u64>,
    /// What it takes on storage.
    pub allocated_bytes: Option<u64>,
    pub read_only: bool,
    pub shareable: bool,
    pub transient: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    Connected,
    /// The machine has a channel for it, nothing answers there.
    NotConnected,
    /// The machine has no channel for it.
    NoChannel,
}

impl AgentState {
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
    #[serde(flatten)]
    pub summary: MachineSummary,
    pub disks: Vec<Disk>,
    pub agent: AgentState,
    /// Without secrets.
    pub definition_xml: String,
    /// UEFI variables.
    pub nvram: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub active: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoragePool {
    pub name: String,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDisk {
    /// As in the saved definition.
    pub target: String,
    pub path: PathBuf,
    pub format: DiskFormat,
    /// It is encrypted (LUKS) with this secret of libvirt's.
    #[serde(default)]
    pub secret: Option<Uuid>,
}

/// A key of a disk, to be kept by libvirt.
#[derive(Clone)]
pub struct NewSecret {
    pub uuid: Uuid,
    pub description: String,
    /// What it is for; of no other secret.
    pub usage: String,
    pub passphrase: String,
}

/// UEFI firmware, for which a machine's variables were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// The file of its code, which has this size.
    pub loader: PathBuf,
    pub loader_bytes: u64,
    /// It has Secure Boot, and needs system management mode for it.
    #[serde(default)]
    pub is_secure: bool,
}

/// A machine to be made from a saved definition. Disks of the definition that are not named are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreMachineRequest {
    pub definition_xml: String,
    pub new_name: String,
    pub disks: Vec<RestoredDisk>,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedMachine {
    pub name: String,
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
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The output was longer than what is kept.
    pub truncated: bool,
}
