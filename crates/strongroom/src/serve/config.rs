//! The configuration file: TOML, all of it optional. `strongroom serve --print-config` prints a commented example.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use strongroom_service::config::{Network, RestoreDirectory, StorageAccount};
use strongroom_service::drill::DrillSchedule;
use strongroom_service::{AuditConfig, HostConfig, Limits, ServiceConfig, SnapshotConfig};
use strongroom_service::{Error, ErrorKind, Result};
use strongroom_store::objects::{Location, Reach, check_local};

/// Where the file is looked for.
pub const DEFAULT_PATH: &str = "/etc/strongroom/strongroom.toml";
/// The example that ships with the program.
pub const EXAMPLE: &str = include_str!("../../../../packaging/strongroom.toml");
/// Where the service listens unless it is told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8443";
const FILE_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    pub listen: Vec<SocketAddr>,
    /// What URLs begin with where a client does not say how it addressed the server.
    pub public_url: Option<String>,
    pub tls: TlsConfig,
    pub hosts: Vec<HostConfig>,
    pub vault_storage: Option<String>,
    pub s3: Reach,
    pub restore_directories: Vec<RestoreDirectory>,
    pub storage_accounts: Vec<StorageAccount>,
    pub limits: Limits,
    pub drills: Vec<DrillSchedule>,
    pub snapshots: SnapshotConfig,
    pub audit: AuditConfig,
    pub private_networks: Vec<Network>,
}

impl Default for FileConfig {
    fn default() -> Self {
        let service = ServiceConfig::default();
        Self {
            listen: Vec::new(),
            public_url: None,
            tls: TlsConfig::default(),
            hosts: service.hosts,
            vault_storage: service.vault_storage,
            s3: service.s3,
            restore_directories: service.restore_directories,
            storage_accounts: service.storage_accounts,
            limits: service.limits,
            drills: service.drills,
            snapshots: service.snapshots,
            audit: service.audit,
            private_networks: service.private_networks,
        }
    }
}

impl FileConfig {
    /// What the service is told of it.
    pub fn service(&self, data: &Path) -> Result<ServiceConfig> {
        let data =
            std::path::absolute(data).map_err(|e| Error::io(format!("looking at {}", data.display()), e))?;
        Ok(ServiceConfig {
            data,
            hosts: self.hosts.clone(),
            vault_storage: self.vault_storage.clone(),
            s3: self.s3.clone(),
            restore_directories: self.restore_directories.clone(),
            storage_accounts: self.storage_accounts.clone(),
            limits: self.limits.clone(),
            drills: self.drills.clone(),
            snapshots: self.snapshots.clone(),
            audit: self.audit.clone(),
            private_networks: self.private_networks.clone(),
        })
    }

    /// What it says, part by part, for the audit: where keys are, and none of them.
    pub fn sections(&self) -> Map<String, Value> {
        // Named one by one: a new part has to be thought about.
        let Self {
            listen,
            public_url,
            tls,
            hosts,
            vault_storage,
            s3,
            restore_directories,
            storage_accounts,
            limits,
            drills,
            snapshots,
            audit,
            private_networks,
        } = self;
        let parts = [
            ("listen", json!(listen)),
            ("public_url", json!(public_url)),
            ("tls", json!(tls)),
            ("hosts", json!(hosts)),
            ("vault_storage", json!(vault_storage)),
            ("s3", json!(s3)),
            ("restore_directories", json!(restore_directories)),
            ("storage_accounts", json!(storage_accounts)),
            ("limits", json!(limits)),
            ("drills", json!(drills)),
            ("snapshots", json!(snapshots)),
            ("audit", json!(audit)),
            ("private_networks", json!(private_networks)),
        ];
        parts.into_iter().map(|(name, says)| (name.to_owned(), says)).collect()
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Files in PEM; without them the service makes an authority and a certificate of its own.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Names and addresses that clients use, beside this host's own.
    pub names: Vec<String>,
}

/// Reads a file; without a path the default one, if it is there.
pub fn load(path: Option<&Path>) -> Result<FileConfig> {
    let chosen = match path {
        Some(path) => Some(path),
        None => Some(Path::new(DEFAULT_PATH)).filter(|p| p.exists()),
    };
    let mut config = match chosen {
        None => FileConfig::default(),
        Some(path) => read(path)?,
    };
    if config.listen.is_empty() {
        config.listen = DEFAULT_LISTEN.parse().into_iter().collect();
    }
    check(&config)?;
    Ok(config)
}

fn read(path: &Path) -> Result<FileConfig> {
    use std::io::Read as _;
    let failed = |e| Error::io(format!("reading the configuration {}", path.display()), e);
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(FILE_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    toml::from_str(&text)
        .map_err(|e| Error::invalid(format!("the configuration {} is not right:\n{e}", path.display())))
}

fn check(config: &FileConfig) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for host in &config.hosts {
        if !names.insert(host.name.to_lowercase()) {
            return Err(Error::invalid(format!(
                "the configuration has two hosts of the name `{}`",
                host.name
            )));
        }
    }
    if let Some(place) = &config.vault_storage {
        Location::parse(place)
            .map_err(|e| Error::invalid(format!("the configuration's vault_storage is not right: {e}")))?;
    }
    for directory in &config.restore_directories {
        check_local(&directory.path).map_err(|e| {
            Error::invalid(format!("the restore directory `{}` is not right: {e}", directory.name))
        })?;
    }
    for account in &config.storage_accounts {
        account.check()?;
    }
    let places = config.restore_directories.iter().map(|d| (&d.group, &d.name));
    let mut names = std::collections::BTreeSet::new();
    for (group, name) in places.chain(config.storage_accounts.iter().map(|a| (&a.group, &a.name))) {
        if !names.insert((group.to_lowercase(), name.to_lowercase())) {
            return Err(Error::invalid(format!("the configuration has two places of the name `{name}`")));
        }
    }
    for drill in &config.drills {
        if let Some(problem) = drill.problem() {
            return Err(Error::invalid(format!(
                "the configuration's drills of `{}` are not right: {problem}",
                drill.machine
            )));
        }
    }
    let limits = &config.limits;
    if [limits.jobs, limits.jobs_per_host, limits.jobs_per_vault].contains(&0) {
        return Err(Error::invalid(
            "the configuration's limits must be 1 or more: with 0 nothing would ever run",
        ));
    }
    let snapshots = &config.snapshots;
    if snapshots.reserve_percent > 90 || snapshots.retry_seconds == 0 {
        return Err(Error::invalid(
            "the configuration's snapshots must have a reserve_percent of 90 or less, and retry_seconds of 1 or more",
        ));
    }
    if let Some(problem) = config.audit.problem() {
        return Err(Error::invalid(format!("the configuration's audit is not right: {problem}")));
    }
    if config.tls.certificate.is_some() != config.tls.key.is_some() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the configuration must have both tls.certificate and tls.key, or neither",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right_and_says_the_defaults() {
        let example: FileConfig = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(example.hosts.len(), 1);
        // With every commented line in force it is right as well.
        let all: String =
            EXAMPLE.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let all: FileConfig = toml::from_str(&all).unwrap();
        check(&all).unwrap();
        assert_eq!(AuditConfig { syslog: None, ..all.audit.clone() }, AuditConfig::default());
        assert_eq!(all.listen, ["127.0.0.1:8443".parse().unwrap()]);
    }

    #[test]
    fn it_is_told_as_users_write_it() {
        let config: FileConfig = toml::from_str(
            "listen = ['127.0.0.1:21001']\n[limits]\njobs = 4\n[[storage_accounts]]\nname = 'abc'\nurl = 's3://b/p'\naccount = 'id'\nkey_file = '/etc/key'\nrequests_per_second = 5\n[s3]\nca_file = '/etc/ca.pem'",
        )
        .unwrap();
        let sections = config.sections();
        assert_eq!(sections["listen"], json!(["127.0.0.1:21001"]));
        assert_eq!(sections["limits"]["jobs"], 4);
        assert_eq!(sections["storage_accounts"][0]["key_file"], "/etc/key");
        assert_eq!(sections["storage_accounts"][0]["requests_per_second"], 5);
        assert_eq!(sections["s3"]["ca_file"], "/etc/ca.pem");
        assert!(sections["public_url"].is_null() && sections["tls"]["certificate"].is_null());
        // What is told can be read as it is written.
        let read: Limits = serde_json::from_value(sections["limits"].clone()).unwrap();
        assert_eq!(read.jobs, 4);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(toml::from_str::<TlsConfig>("certifcate = 'x'").is_err());
        assert!(toml::from_str::<FileConfig>("[s3]\nrequests_per_second = 0").is_err());
        let mut config: FileConfig = toml::from_str("[limits]\njobs = 0").unwrap();
        assert!(check(&config).is_err());
        config.limits.jobs = 1;
        check(&config).unwrap();
        config.audit.keep_days = 0;
        assert!(check(&config).is_err());
        for (text, names) in [
            ("vault_storage = 's3:bucket/x'", "s3://bucket/x"),
            ("vault_storage = 'sftp:host:/x'", "sftp:host:/x"),
            ("restore_directories = [{ name = 'abc', path = 'b2:bucket' }]", "b2:bucket"),
        ] {
            let error = check(&toml::from_str(text).unwrap()).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
        check(&toml::from_str("vault_storage = './a:b'").unwrap()).unwrap();
    }
}
