//! What a kind of job is to the runner, which knows none of them by name.

use super::errors;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::limits::{JOB_DURATION_MAX, JOB_PAUSE_MAX};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use strongroom_catalog::{Change, Item, Job, Machine};
use strongroom_domain::PointId;
use strongroom_domain::job::JobTask;
use strongroom_store::Progress;

/// A kind of job. Jobs are stored with its name, beside Azure's operation, and with parameters that it alone reads.
pub(crate) trait JobKind: Send + Sync {
    /// What rows name it by: never changed once a job was written.
    fn name(&self) -> &'static str;

    /// Does a job, on a thread of its own. Its commit is in here; the row that says so is written by here as well.
    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()>;

    /// Looks at what a job that was cut short has left: makes up for what was committed, and takes away what was not. An error:
    /// that cannot be seen now.
    fn recover(&self, service: &Service, job: &Job) -> Result<Recovery>;

    /// What it burdens and what it keeps from others, while it runs.
    fn claims(&self, service: &Service, job: &Job) -> Result<Claims>;

    /// Whether others may work on its item beside it, from when it is written until it is over.
    fn item(&self) -> Hold {
        Hold::Alone
    }

    /// The points that it reads, or may have to: as long as it is open they stay.
    fn reads(&self, _job: &Job) -> Vec<PointId> {
        Vec::new()
    }

    /// What becomes of one that is cancelled while nobody runs it.
    fn cancel(&self, _service: &Service, _job: &Job) -> Result<Cancel> {
        Ok(Cancel::AtOnce)
    }

    /// Whether it ends when its item's protection does: nobody wants what it makes any more.
    fn ends_with_protection(&self) -> bool {
        false
    }

    /// Whether it waits where something else writes to its vault, rather than fail.
    fn waits_for_vault(&self) -> bool {
        false
    }

    /// The longest that it ever waits between two tries: no clock that was put back makes it longer.
    fn longest_pause(&self, _service: &Service) -> Duration {
        JOB_PAUSE_MAX
    }

    /// Changes the row of one that is let go of, to be begun anew.
    fn put_back(&self, _service: &Service, job: &mut Job) -> Result<()> {
        for task in &mut job.tasks {
            *task = JobTask::new(&task.id);
        }
        Ok(())
    }

    /// Of one that is about to be told as failed or cancelled: whether it was committed all the same, and is told so now.
    fn was_committed(&self, _service: &Service, _job: &Job) -> Result<bool> {
        Ok(false)
    }

    /// What else follows, in the transaction that ends a job which made nothing. The row is as it will be written.
    fn ended(&self, _service: &Service, _job: &Job) -> Result<Ended> {
        Ok(Ended::default())
    }
}

/// What was found of a job that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// It was committed: it is told as done, or goes on.
    Committed,
    /// It was not, and what it left is gone.
    Nothing(Again),
}

/// How often a job that was cut short, and left nothing, is begun again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// As often as it takes: what counts of it is kept.
    Always,
    /// So many times in all.
    Times(u32),
    /// Whoever wants it decides: it has failed, if it had begun.
    Never,
}

/// How a job shares something with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It does not touch it, or only reads.
    Shared,
    /// No other that does the same runs beside it.
    Alone,
}

/// What becomes of a cancelled job that nobody runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It is over.
    AtOnce,
    /// It has made something that only it can take away or complete: it is begun once more for that.
    NeedsRun,
}

/// What a job burdens, and what it keeps from others.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    /// The host that it burdens; empty: none.
    pub host: String,
    /// Whether another that writes to its vault may run beside it.
    pub vault: Hold,
    /// It is told to stop after so long, tries before this one counted. None: it takes as long as it takes.
    pub time_limit: Option<Duration>,
}

impl Claims {
    /// Of a job about an item's machine, which writes nothing to its vault.
    pub fn of_machine(service: &Service, job: &Job) -> Result<Self> {
        let item = job.item.map(|id| service.catalog.get::<Item>(id)).transpose()?.flatten();
        let machine = item.map(|item| service.catalog.get::<Machine>(item.machine)).transpose()?.flatten();
        let host = machine.map(|machine| machine.host).unwrap_or_default();
        Ok(Self { host, vault: Hold::Shared, time_limit: Some(JOB_DURATION_MAX) })
    }
}

/// What is done after the transaction that ended a job.
pub(crate) type AfterEnd = Box<dyn FnOnce(&Service) + Send>;

/// What follows the end of a job that made nothing.
#[derive(Default)]
pub(crate) struct Ended {
    /// In the same transaction.
    pub changes: Vec<Change>,
    /// After it; what fails of it is made up for later.
    pub then: Option<AfterEnd>,
}

/// The kinds that this service knows.
#[derive(Default)]
pub(crate) struct Kinds(BTreeMap<&'static str, Box<dyn JobKind>>);

impl Kinds {
    /// With one more.
    #[must_use]
    pub fn with(mut self, kind: impl JobKind + 'static) -> Self {
        self.0.insert(kind.name(), Box::new(kind));
        self
    }
}

/// The kind of a job, if this service knows it.
pub(crate) fn known<'s>(service: &'s Service, job: &Job) -> Option<&'s dyn JobKind> {
    service.part::<Kinds>().0.get(job.kind.as_str()).map(|kind| &**kind)
}

/// The kind of a job; one that is not known was written by a newer version, or is no job to be run.
pub(crate) fn of<'s>(service: &'s Service, job: &Job) -> Result<&'s dyn JobKind> {
    known(service, job).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("This version of Strongroom has no kind of job `{}`.", job.kind.escape_debug()),
        )
        .coded(errors::NOT_UNDERSTOOD)
    })
}
