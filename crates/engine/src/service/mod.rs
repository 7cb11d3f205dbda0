//! The service: vaults, policies, discovered machines, protected items, jobs, and what runs by itself.
//!
//! Each use case decides from what the catalog says and writes what follows in one transaction; that transaction is its
//! commit point. Long work is a job: it is written first, done by the [`runner`], and made true by one last transaction.
//! Killed at any moment, the next start finds each job either done (its recovery point is in the vault, its machine is
//! defined) or not, and says so or does it again.
//!
//! - [`groups`], [`vaults`], [`policies`], [`machines`], [`items`], [`points`], [`places`]: the resources.
//! - [`jobs`], [`operations`]: what is being done, and following it.
//! - [`runner`], [`backup`], [`restore`], [`instant`], [`drill`]: doing it.
//! - `committed`: what follows a commit, whatever fails.
//! - [`snapshots`]: the snapshot tier.
//! - [`storage`], [`unmanaged`], [`reconcile`]: what is where, and whether the vaults say the same as the catalog.
//! - [`schedule`], [`retention`], [`housekeeping`], `notes`: what happens without anyone.
//! - [`audit`]: what is remembered of all that, by whoever did it.
//!
//! All calls block.

pub mod audit;
pub mod backup;
pub mod clock;
mod committed;
pub mod config;
pub mod drill;
pub mod exclusive;
pub mod groups;
mod held;
pub mod housekeeping;
pub mod import;
pub mod instant;
pub mod items;
pub mod jobs;
pub mod keys;
pub mod machines;
pub(crate) mod notes;
mod older_catalog;
pub mod operations;
pub mod places;
pub mod points;
pub mod policies;
pub mod reconcile;
pub mod replace;
pub mod restore;
mod restore_container;
mod restore_disks;
pub mod retention;
pub mod runner;
pub mod schedule;
pub mod snapshots;
pub mod storage;
pub mod swap;
mod transfer;
pub mod unmanaged;
pub mod untrack;
mod variables;
pub mod vaults;

pub use clock::{Clock, SystemClock};
pub use config::{AuditConfig, HostConfig, Limits, ServiceConfig, SnapshotConfig};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::DATA_LOCK_WAIT;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::{
    Change, Recorded, ServiceCatalog, ServiceError, Setting, SqliteServiceCatalog, actor,
};
use strongroom_domain::clock::{ClockGuard, ClockRecord};
use strongroom_hypervisor::{Hypervisor, Libvirt, LibvirtOptions};
use uuid::Uuid;

/// A hypervisor whose machines are protected.
pub struct Host {
    pub name: String,
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where its machines are put unless somebody chose otherwise.
    pub group: String,
    pub location: String,
}

/// The service's state and what works on it. Clones are the same service.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

#[doc(hidden)]
pub struct Inner {
    config: ServiceConfig,
    pub(crate) catalog: Arc<dyn ServiceCatalog>,
    hosts: Vec<Host>,
    clock: Arc<dyn Clock>,
    guard: Mutex<ClockGuard>,
    subscription: Uuid,
    tenant: Uuid,
    /// This run of the service: who has a job's lease.
    run: Uuid,
    /// How vaults' stores are opened.
    pub(crate) opener: crate::vaults::Stores,
    /// Vaults' stores that are open.
    stores: Mutex<HashMap<Uuid, strongroom_store::Vault>>,
    pub(crate) runner: runner::Runner,
    pub(crate) snapshots: snapshots::Snapshots,
    pub(crate) discovery: machines::Discovery,
    notes: notes::Notes,
    older_catalog: older_catalog::Comparisons,
    reconciliation: reconcile::Reconciliation,
    exclusive: exclusive::Found,
    /// Held while the data directory is in use; ends with the process.
    _lock: File,
}

impl std::ops::Deref for Service {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The data directory's parts.
#[derive(Debug, Clone)]
pub struct DataDirectory(pub PathBuf);

impl DataDirectory {
    /// Makes it, for its owner only, if it is missing.
    pub fn make(&self) -> Result<()> {
        for directory in [self.0.clone(), self.vaults(), self.keys(), self.tls(), self.screenshots()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|e| Error::io(format!("making directory {}", directory.display()), e))?;
        }
        Ok(())
    }

    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog.db")
    }

    pub fn vaults(&self) -> PathBuf {
        self.0.join("vaults")
    }

    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("strongroom.sock")
    }

    /// What the audit no longer keeps in the catalog.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Pictures of machines' screens that drills took.
    pub fn screenshots(&self) -> PathBuf {
        self.0.join("screenshots")
    }

    /// One process at a time.
    pub fn lock(&self) -> Result<File> {
        let path = self.0.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        let until = Instant::now() + DATA_LOCK_WAIT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        format!("another strongroom is using {}: stop it, or talk to it", self.0.display()),
                    ));
                }
                Err(e) => return Err(Error::io(format!("locking {}", path.display()), e.into())),
            }
        }
    }
}

impl Service {
    /// Opens the data directory, or makes it, with the hypervisors of the configuration. Jobs that a run before was at when
    /// it ended are looked at, and end or wait to be done again; nothing runs by itself until [`start`](Self::start).
    pub fn open(config: ServiceConfig) -> Result<Self> {
        let hosts = config
            .hosts
            .iter()
            .map(|host| Host {
                name: host.name.clone(),
                hypervisor: Arc::new(Libvirt::new(LibvirtOptions {
                    uri: host.uri.clone(),
                    ..LibvirtOptions::default()
                })),
                group: host.group.clone(),
                location: host.location.clone(),
            })
            .collect();
        Self::open_with(config, hosts, Arc::new(SystemClock::new()))
    }

    /// With hypervisors and a clock of the caller's.
    pub fn open_with(config: ServiceConfig, hosts: Vec<Host>, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_around(config, hosts, clock, |catalog| catalog)
    }

    /// As [`open_with`](Self::open_with), with something around the catalog.
    pub fn open_around(
        config: ServiceConfig,
        hosts: Vec<Host>,
        clock: Arc<dyn Clock>,
        around: impl FnOnce(Arc<dyn ServiceCatalog>) -> Arc<dyn ServiceCatalog>,
    ) -> Result<Self> {
        let data = DataDirectory(config.data.clone());
        data.make()?;
        let lock = data.lock()?;
        let time = clock.clone();
        let catalog: Arc<dyn ServiceCatalog> = around(Arc::new(Recorded::new(
            SqliteServiceCatalog::open(&data.catalog())?,
            Arc::new(move || time.now()),
        )));
        let id = |name: &str| -> Result<Uuid> {
            if let Some(setting) = catalog.get::<Setting>(name)? {
                return serde_json::from_value(setting.value)
                    .map_err(|e| Error::new(ErrorKind::Corrupt, format!("the setting `{name}`: {e}")));
            }
            let id = Uuid::new_v4();
            let value = serde_json::Value::String(id.to_string());
            catalog.apply(&[Change::put(&Setting { id: name.into(), version: 0, value })])?;
            Ok(id)
        };
        let (subscription, tenant) = (id("subscription")?, id("tenant")?);
        let guard = clock::load_guard(&*catalog, &*clock)?;
        let opener = crate::vaults::Stores { reach: config.s3.clone(), ..Default::default() };
        let service = Self(Arc::new(Inner {
            runner: runner::Runner::new(),
            snapshots: snapshots::Snapshots::default(),
            discovery: machines::Discovery::default(),
            notes: notes::Notes::default(),
            older_catalog: older_catalog::Comparisons::default(),
            reconciliation: reconcile::Reconciliation::default(),
            config,
            catalog,
            hosts,
            clock,
            guard: Mutex::new(guard),
            subscription,
            tenant,
            run: Uuid::new_v4(),
            opener,
            stores: Mutex::default(),
            exclusive: exclusive::Found::default(),
            _lock: lock,
        }));
        actor::named("service: start", || {
            for host in &service.hosts {
                groups::ensure(&service, &host.group, &host.location)?;
            }
            // The directory is ours alone: whoever had jobs here is dead, and nobody may be told that they go on.
            service.recover()
        })?;
        Ok(service)
    }

    pub fn data(&self) -> DataDirectory {
        DataDirectory(self.config.data.clone())
    }

    /// Begins to run what runs by itself: jobs, schedules, retention, discovery.
    pub fn start(&self) -> Result<()> {
        runner::start(self)
    }

    /// Tells what runs by itself to stop, and whoever waits for a vault's store to wait no longer.
    pub fn let_go(&self) {
        runner::let_go(self);
    }

    /// Stops what runs by itself: running jobs are put back, to go on at the next start.
    pub fn stop(&self) {
        runner::stop(self);
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|h| h.name == name).ok_or_else(|| {
            Error::not_found(format!("host `{name}` is no longer in the configuration; add it again"))
        })
    }

    /// Compares the clocks; what is to be kept of it.
    pub(crate) fn watch_clock(&self) -> ClockRecord {
        let mut guard = self.guard.lock();
        guard.observe(self.clock.now(), self.clock.elapsed());
        guard.record()
    }

    pub fn subscription(&self) -> Uuid {
        self.subscription
    }

    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn config(&self) -> &ServiceConfig {
        &self.config
    }

    pub fn catalog(&self) -> &Arc<dyn ServiceCatalog> {
        &self.catalog
    }

    /// The store of a vault, opened once.
    pub(crate) fn store(&self, vault: &strongroom_catalog::Vault) -> Result<strongroom_store::Vault> {
        if let Some(store) = self.stores.lock().get(&vault.id) {
            return Ok(store.clone());
        }
        let store = vaults::open_store(self, vault)?;
        exclusive::opened(self, vault.id, &store);
        Ok(self.stores.lock().entry(vault.id).or_insert(store).clone())
    }

    /// The same, if points may be written to it.
    pub(crate) fn writable_store(
        &self,
        vault: &strongroom_catalog::Vault,
    ) -> Result<strongroom_store::Vault> {
        let store = self.store(vault)?;
        exclusive::check(self, vault, &store)?;
        Ok(store)
    }

    pub(crate) fn close_store(&self, vault: Uuid) {
        self.stores.lock().remove(&vault);
    }
}

/// What Azure's front door says of a resource that is not there.
pub(crate) fn resource_not_found(kind_and_name: &str, group: &str) -> Error {
    Error::not_found(format!(
        "The Resource '{kind_and_name}' under resource group '{group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
    ))
    .coded("ResourceNotFound")
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        let kind = match &error {
            ServiceError::Conflict { .. } | ServiceError::Busy { .. } => ErrorKind::Busy,
            ServiceError::Taken { .. } => ErrorKind::AlreadyExists,
            ServiceError::Damaged { .. } => ErrorKind::Corrupt,
            ServiceError::Newer { .. } => ErrorKind::Unsupported,
            ServiceError::NoSpace { .. } => ErrorKind::NoSpace,
            ServiceError::Failed { .. } => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string()).caused_by(error)
    }
}
