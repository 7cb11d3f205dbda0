//! Machines that were discovered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

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
    /// See [`Row::version`](crate::Row::version).
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
