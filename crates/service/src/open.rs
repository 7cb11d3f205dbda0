//! Opening, starting and stopping the service: the only file that knows all rooms. Their kinds of jobs, their chores and what
//! they remember are named here, and nowhere else.

use crate::core::clock::{self, Clock, SystemClock};
use crate::core::config::ServiceConfig;
use crate::core::data::DataDirectory;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::life::Life;
use crate::core::parts::Parts;
use crate::core::service::{Host, Inner, Service};
use crate::jobs::chore::{self, Chores};
use crate::jobs::kind::Kinds;
use crate::jobs::{self, runner, running, settle};
use crate::vaults::{self, groups, storage};
use crate::{audit, backup, drills, estate, housekeeping, points, protection, reconciliation, restore};
use parking_lot::Mutex;
use std::sync::Arc;
use strongroom_catalog::{Change, Recorded, ServiceCatalog, Setting, SqliteServiceCatalog, actor};
use strongroom_engine::vaults::Stores;
use strongroom_hypervisor::{Libvirt, LibvirtOptions};
use uuid::Uuid;

/// The kinds of jobs there are.
fn kinds() -> Kinds {
    Kinds::default()
        .with(backup::job::Backup)
        .with(restore::job::Restore)
        .with(restore::instant::InstantRestore)
        .with(drills::job::Drill)
}

/// What happens by itself.
fn chores() -> Chores {
    Chores::default()
        .with::<jobs::chores::BeginJobs>()
        .with::<jobs::chores::KeepLeases>()
        .with::<backup::schedule::Scheduler>()
        .with::<drills::schedule::DrillScheduler>()
        .with::<estate::machines::Discover>()
        .with::<housekeeping::sweep::Housekeeping>()
        .with::<audit::KeepAudit>()
        .with::<reconciliation::reconcile::Reconcile>()
}

/// What the rooms remember while the service lives.
fn parts() -> Parts {
    Parts::default()
        .with(kinds())
        .with(chores())
        .with(running::Runner::default())
        .with(vaults::stores::Opened::default())
        .with(vaults::exclusive::Found::default())
        .with(vaults::notes_state::Notes::default())
        .with(vaults::older_catalog::Comparisons::default())
        .with(vaults::turns::Turns::default())
        .with(points::snapshots::Snapshots::default())
        // A machine that appears in the place of one that is gone goes on being protected.
        .with(estate::machines::Discovery::telling(protection::items::adopt))
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
        Self::open_of(config, hosts, clock, around, parts())
    }

    /// A service of these parts.
    fn open_of(
        config: ServiceConfig,
        hosts: Vec<Host>,
        clock: Arc<dyn Clock>,
        around: impl FnOnce(Arc<dyn ServiceCatalog>) -> Arc<dyn ServiceCatalog>,
        parts: Parts,
    ) -> Result<Self> {
        let data = DataDirectory(config.data.clone());
        data.make()?;
        let lock = data.lock()?;
        let time = clock.clone();
        let catalog: Arc<dyn ServiceCatalog> = around(Arc::new(Recorded::new(
            SqliteServiceCatalog::open(&data.catalog())?,
            Arc::new(move || time.now()),
        )));
        let (subscription, tenant) = (id(&*catalog, "subscription")?, id(&*catalog, "tenant")?);
        let guard = clock::load_guard(&*catalog, &*clock)?;
        let opener = Stores { reach: config.s3.clone(), cache: Some(data.cache()), ..Default::default() };
        let service = Self(Arc::new(Inner {
            config,
            catalog,
            hosts,
            clock,
            guard: Mutex::new(guard),
            subscription,
            tenant,
            run: Uuid::new_v4(),
            opener,
            life: Life::default(),
            parts,
            _lock: lock,
        }));
        actor::named("service: start", || {
            for host in &service.hosts {
                groups::ensure(&service, &host.group, &host.location)?;
            }
            storage::mark_known(&service);
            // The directory is ours alone: whoever had jobs here is dead, and nobody may be told that they go on.
            settle::recover(&service)
        })?;
        Ok(service)
    }

    /// Begins to run what runs by itself: jobs, schedules, retention, discovery.
    pub fn start(&self) -> Result<()> {
        self.life.start();
        chore::start(self)
    }

    /// Tells what runs by itself to stop, and whoever waits for a vault's store to wait no longer.
    pub fn let_go(&self) {
        runner::let_go(self);
    }

    /// Stops what runs by itself: running jobs are put back, to go on at the next start.
    pub fn stop(&self) {
        runner::let_go(self);
        self.life.join();
        runner::wait_for_end(self);
        let seen = self.watch_clock();
        if let Err(error) = clock::save_guard(&*self.catalog, &seen) {
            tracing::warn!(%error, "keeping the time for the next start");
        }
    }
}

/// An id that the catalog keeps under this name; a new one where it has none.
fn id(catalog: &dyn ServiceCatalog, name: &str) -> Result<Uuid> {
    if let Some(setting) = catalog.get::<Setting>(name)? {
        return serde_json::from_value(setting.value)
            .map_err(|e| Error::new(ErrorKind::Corrupt, format!("the setting `{name}`: {e}")));
    }
    let id = Uuid::new_v4();
    let value = serde_json::Value::String(id.to_string());
    catalog.apply(&[Change::put(&Setting { id: name.into(), version: 0, value })])?;
    Ok(id)
}

/// For the tests of rooms: a service with kinds of jobs and chores of the test's own, without hosts.
#[cfg(test)]
pub(crate) fn of_kinds(
    data: &std::path::Path,
    clock: Arc<dyn Clock>,
    kinds: Kinds,
    chores: Chores,
) -> Result<Service> {
    let config = ServiceConfig { data: data.to_owned(), hosts: Vec::new(), ..ServiceConfig::default() };
    let parts = parts().with(kinds).with(chores);
    Service::open_of(config, Vec::new(), clock, |catalog| catalog, parts)
}
