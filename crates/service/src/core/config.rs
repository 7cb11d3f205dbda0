//! What the service is told from outside.

use crate::core::drills::DrillSchedule;
use crate::core::error::{Error, Result};
use crate::limits::{KEY_FILE_MAX_BYTES, SNAPSHOT_RESERVE_PERCENT, TRANSFER_RETRY_FIRST};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use strongroom_engine::target::DiskFormat;
use strongroom_store::objects::{ContainerAddress, ContainerSettings, Reach, Secret};

/// The service's configuration; every part has a default.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Hypervisors whose machines are protected; empty: none, vaults can be managed all the same.
    pub hosts: Vec<HostConfig>,
    /// Where the vaults' bytes go: a directory or `s3://bucket/prefix`; default: in the data directory.
    pub vault_storage: Option<String>,
    /// How vaults in S3 are reached, beside the `AWS_*` variables of the service's environment.
    pub s3: Reach,
    /// Directories that disks can be restored to, shown as storage accounts beside libvirt's storage pools.
    pub restore_directories: Vec<RestoreDirectory>,
    /// Containers that disks can be restored to.
    pub storage_accounts: Vec<StorageAccount>,
    /// How much is done at the same time.
    pub limits: Limits,
    /// Points that prove by themselves that they can be restored.
    pub drills: Vec<DrillSchedule>,
    /// How snapshots are kept beside machines' disks.
    pub snapshots: SnapshotConfig,
    /// How much the audit keeps.
    pub audit: AuditConfig,
    /// Where the data of vaults goes that are closed to public networks.
    pub private_networks: Vec<Network>,
}

/// Addresses that begin alike: `192.0.2.0/24`, or one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address is one of these. An IPv4 address that is written as one of IPv6 (`::ffff:192.0.2.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        // 128 bits of either kind; what an IPv4 address is in IPv6's clothes counts as such.
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => (true, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (false, u128::from(v6)),
        };
        let ((own_kind, own), (kind, given)) = (bits(self.address), bits(address));
        own_kind == kind && (own ^ given).leading_zeros() >= u32::from(self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let wrong =
            || format!("'{text}' is not a network such as 192.0.2.0/24 or 2001:db8::/32, or an address");
        let (address, prefix) = text.split_once('/').map_or((&*text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |p| p.parse().map_err(|_| wrong()))?;
        if prefix > most {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        format!("{}/{}", network.address, network.prefix)
    }
}

/// A hypervisor in the configuration.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// What jobs and machines remember it by: another name is another host.
    pub name: String,
    /// As libvirt knows it.
    #[serde(default = "default_uri")]
    pub uri: String,
    /// The resource group of its machines.
    #[serde(default = "default_group")]
    pub group: String,
    /// Azure's word for a region, the same for a vault and what it protects: `local`.
    #[serde(default = "default_location")]
    pub location: String,
}

/// A directory in the configuration that disks can be restored to.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDirectory {
    /// Like a storage account's: 3 to 24 letters and digits.
    pub name: String,
    /// Absolute, on the service's host.
    pub path: PathBuf,
    /// What disks are restored as; default: as each was.
    pub format: Option<DiskFormat>,
    /// The resource group that it is shown in.
    #[serde(default = "default_group")]
    pub group: String,
    /// As of a host.
    #[serde(default = "default_location")]
    pub location: String,
}

/// A container of a storage account, Azure's or S3's, that disks can be restored to.
#[derive(Debug, Clone, Deserialize, Serialize)]
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
    /// Where the account's key is, or the secret access key of S3: a file, or a variable of the service's environment. It is
    /// read anew for each restore, and never kept or shown.
    pub key_file: Option<PathBuf>,
    /// See `key_file`: one of the two is set.
    pub key_env: Option<String>,
    /// S3's; default `us-east-1`.
    pub region: Option<String>,
    /// Also where the endpoint is not encrypted.
    #[serde(default)]
    pub allow_http: bool,
    /// Certificates of authorities (PEM) that are trusted in place of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// At most so many requests are begun each second.
    #[serde(default)]
    pub requests_per_second: Option<NonZeroU32>,
    /// What disks are restored as; default: qcow2, of which holes take nothing.
    pub format: Option<DiskFormat>,
    /// The resource group that it is shown in.
    #[serde(default = "default_group")]
    pub group: String,
    /// As of a host.
    #[serde(default = "default_location")]
    pub location: String,
}

impl StorageAccount {
    fn without_key(&self) -> ContainerSettings {
        ContainerSettings {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            account: self.account.clone(),
            key: Secret::default(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            reach: Reach { ca_file: self.ca_file.clone(), requests_per_second: self.requests_per_second },
        }
    }

    /// What is wrong with it, if anything, as far as can be seen without asking anybody.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |why: &str| Error::invalid(format!("the storage account `{}` is not right: {why}", self.name));
        self.without_key().check().map_err(|why| wrong(&why))?;
        match (&self.key_file, &self.key_env) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err(wrong("say where its key is, by key_file or by key_env")),
        }
    }

    /// Where its objects are.
    pub fn shown(&self) -> Result<ContainerAddress> {
        self.without_key().shown().map_err(Error::invalid)
    }

    /// With its key.
    pub(crate) fn settings(&self) -> Result<ContainerSettings> {
        let key = match (&self.key_file, &self.key_env) {
            (Some(path), _) => {
                let failed = |e| Error::io(format!("reading the key {}", path.display()), e);
                let mut text = String::new();
                let file = File::open(path).map_err(failed)?;
                file.take(KEY_FILE_MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
                text
            }
            (None, Some(variable)) => std::env::var(variable).map_err(|_| {
                Error::invalid(format!(
                    "the service's environment has no {variable}, where the key should be"
                ))
            })?,
            (None, None) => String::new(),
        };
        Ok(ContainerSettings { key: Secret(key.trim().to_owned()), ..self.without_key() })
    }
}

/// How much at once.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Jobs that run at the same time, all together. Others wait.
    pub jobs: usize,
    /// Of these, of machines of one host.
    pub jobs_per_host: usize,
    /// Of these, of one vault.
    pub jobs_per_vault: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 8, jobs_per_host: 4, jobs_per_vault: 8 }
    }
}

/// How snapshots are kept beside machines' disks.
#[derive(Debug, Clone, Deserialize, Serialize)]
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

/// How long the audit is kept, and who else is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Rows older than this go from the catalog into files in the data directory.
    pub keep_days: u32,
    /// The same of the oldest, while all together are larger than this.
    pub keep_megabytes: u64,
    /// How many months' files are kept.
    pub files_keep_months: u32,
    /// And how much in all: the oldest go.
    pub files_keep_megabytes: u64,
    /// The socket of the host's syslog, usually /dev/log, which is told every row as well.
    pub syslog: Option<PathBuf>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            keep_days: 365,
            keep_megabytes: 64,
            files_keep_months: 84,
            files_keep_megabytes: 4096,
            syslog: None,
        }
    }
}

impl AuditConfig {
    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let all_kept = self.keep_days > 0 && self.keep_megabytes > 0;
        let files_kept = self.files_keep_months > 0 && self.files_keep_megabytes > 0;
        (!all_kept || !files_kept).then_some("every number must be 1 or more: with 0 nothing would be kept")
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
            s3: Reach::default(),
            restore_directories: Vec::new(),
            storage_accounts: Vec::new(),
            limits: Limits::default(),
            drills: Vec::new(),
            snapshots: SnapshotConfig::default(),
            audit: AuditConfig::default(),
            private_networks: Vec::new(),
        }
    }
}

fn default_uri() -> String {
    "qemu:///system".into()
}

/// The resource group of what is configured without one: `strongroom`.
pub fn default_group() -> String {
    "strongroom".into()
}

/// The location of what is configured without one: `local`.
pub fn default_location() -> String {
    "local".into()
}
