//! What the service is told from outside.

use crate::error::{Error, Result};
use crate::limits::KEY_FILE_MAX_BYTES;
use crate::target::DiskFormat;
use serde::Deserialize;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use strongroom_store::objects::{ContainerSettings, Secret};

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
    /// Containers that disks can be restored to.
    pub storage_accounts: Vec<StorageAccount>,
    pub limits: Limits,
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
    /// What disks are restored as; default: as each was.
    pub format: Option<DiskFormat>,
    #[serde(default = "default_group")]
    pub group: String,
    #[serde(default = "default_location")]
    pub location: String,
}

/// A container that disks can be restored to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAccount {
    /// 3 to 24 letters and digits.
    pub name: String,
    /// `azure://CONTAINER/PREFIX` or `s3://BUCKET/PREFIX`. The container must exist.
    pub url: String,
    /// Default: Azure's, or Amazon's.
    pub endpoint: Option<String>,
    /// The account in Azure; the access key id of S3.
    pub account: String,
    /// The account's key; the secret access key of S3. Or a file that holds it.
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    /// S3's; default `us-east-1`.
    pub region: Option<String>,
    /// Also where the endpoint is not encrypted.
    #[serde(default)]
    pub allow_http: bool,
    /// What disks are restored as; default: as each was.
    pub format: Option<DiskFormat>,
    #[serde(default = "default_group")]
    pub group: String,
    #[serde(default = "default_location")]
    pub location: String,
}

impl StorageAccount {
    pub(super) fn settings(&self) -> Result<ContainerSettings> {
        let key = match (&self.key, &self.key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(path)) => {
                let failed = |e| Error::io(format!("reading {}", path.display()), e);
                let mut text = String::new();
                File::open(path)
                    .map_err(failed)?
                    .take(KEY_FILE_MAX_BYTES)
                    .read_to_string(&mut text)
                    .map_err(failed)?;
                Secret(text.trim().to_owned())
            }
            (None, None) => Secret::default(),
        };
        Ok(ContainerSettings {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            account: self.account.clone(),
            key,
            region: self.region.clone(),
            allow_http: self.allow_http,
        })
    }
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
            storage_accounts: Vec::new(),
            limits: Limits::default(),
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
