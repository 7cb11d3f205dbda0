//! What the service is told from outside.

use super::drill::DrillSchedule;
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
    /// Points that prove by themselves that they can be restored.
    pub drills: Vec<DrillSchedule>,
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
            drills: Vec::new(),
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
