//! The service: its configuration, catalog, hosts and clock, and what its rooms remember. It knows none of them.
//!
//! All calls block.

use super::clock::Clock;
use super::config::ServiceConfig;
use super::data::DataDirectory;
use super::error::{Error, Result};
use super::life::Life;
use super::parts::Parts;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;
use strongroom_catalog::ServiceCatalog;
use strongroom_domain::clock::{ClockGuard, ClockRecord};
use strongroom_engine::vaults::Stores;
use strongroom_hypervisor::Hypervisor;
use uuid::Uuid;

/// A hypervisor whose machines are protected.
pub struct Host {
    /// As the configuration names it.
    pub name: String,
    /// What reaches it.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where its machines are put unless somebody chose otherwise.
    pub group: String,
    /// The location of its machines.
    pub location: String,
}

/// The service's state and what works on it. Clones are the same service.
#[derive(Clone)]
pub struct Service(pub(crate) Arc<Inner>);

#[doc(hidden)]
pub struct Inner {
    pub(crate) config: ServiceConfig,
    pub(crate) catalog: Arc<dyn ServiceCatalog>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) guard: Mutex<ClockGuard>,
    pub(crate) subscription: Uuid,
    pub(crate) tenant: Uuid,
    /// This run of the service: who has a job's lease.
    pub(crate) run: Uuid,
    /// How vaults' stores are opened.
    pub(crate) opener: Stores,
    /// Whether things run by themselves, and the bell for whoever waits for work.
    pub(crate) life: Life,
    /// What the rooms remember.
    pub(crate) parts: Parts,
    /// Held while the data directory is in use; ends with the process.
    pub(crate) _lock: File,
}

impl Inner {
    /// What a room remembers, by its type.
    pub(crate) fn part<T: std::any::Any>(&self) -> &T {
        self.parts.get()
    }
}

impl std::ops::Deref for Service {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Service {
    /// Where it keeps what is its own.
    pub fn data(&self) -> DataDirectory {
        DataDirectory(self.config.data.clone())
    }

    /// The time by its clock, which tests set.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The host of this name. Not found: the configuration has it no longer, though machines or jobs may remember it.
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

    /// The id of the only subscription, made with the catalog.
    pub fn subscription(&self) -> Uuid {
        self.subscription
    }

    /// The id of the only tenant, made with the catalog.
    pub fn tenant(&self) -> Uuid {
        self.tenant
    }

    /// As the configuration lists them.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What it was told when it was opened.
    pub fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// Its rows. What other code than this crate's writes there, it writes past the rules.
    pub fn catalog(&self) -> &Arc<dyn ServiceCatalog> {
        &self.catalog
    }
}
