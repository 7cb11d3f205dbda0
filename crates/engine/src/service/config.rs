//! What the service is told from outside.

use crate::limits::{SNAPSHOT_RESERVE_PERCENT, TRANSFER_RETRY_FIRST};
use serde::Deserialize;
use std::path::PathBuf;

/// The service's configuration; every part has a default.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Where everything is kept.
    pub data: PathBuf,
    pub hosts: Vec<HostConfig>,
    /// Where the vaults' bytes go: a directory or `s3://bucket/prefix`; default: in the data directory.
    pub vault_storage: Option<String>,
    /// Directories that disks can be restored to, shown as storage accounts beside libvirt's storage pools.
    pub restore_directories: Vec<RestoreDirectory>,
    pub limits: Limits,
    pub snapshots: SnapshotConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    pub name: String,
    /// As libvirt knows it.
    #[serde(default = "default_uri")]
    pub uri: String,
    /// The resource group of its machines.
    #[serde(default = "default_group")]
    pub group: String,
    #[serde(default = "default_location")]
    pub location: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDirectory {
    /// Like a storage account's: 3 to 24 letters and digits.
    pub name: String,
    pub path: PathBuf,
    #[serde(default = "default_group")]
    pub group: String,
    #[serde(default = "default_location")]
    pub location: String,
}

/// How much at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub jobs: usize,
    pub jobs_per_host: usize,
    pub jobs_per_vault: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 8, jobs_per_host: 4, jobs_per_vault: 8 }
    }
}

/// How snapshots are kept beside machines' disks.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Whether they are, where the storage can.
    pub keep: bool,
    /// What of a file system stays free of them (per cent of its size).
    pub reserve_percent: u32,
    /// How long a transfer into the vault waits after it failed once (seconds); twice as long after each further failure.
    pub retry_seconds: u64,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            keep: true,
            reserve_percent: SNAPSHOT_RESERVE_PERCENT,
            retry_seconds: TRANSFER_RETRY_FIRST.as_secs(),
        }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            hosts: vec![HostConfig {
                name: "local".into(),
                uri: default_uri(),
                group: default_group(),
                location: default_location(),
            }],
            vault_storage: None,
            restore_directories: Vec::new(),
            limits: Limits::default(),
            snapshots: SnapshotConfig::default(),
        }
    }
}

fn default_uri() -> String {
    "qemu:///system".into()
}

pub fn default_group() -> String {
    "strongroom".into()
}

pub fn default_location() -> String {
    "local".into()
}
