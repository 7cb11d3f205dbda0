//! The job that starts a machine from the vault at once, and moves its data in behind it until it stands on its own.
//!
//! First the plan is written into the job's row, then files are made, then the machine is started: that is the commit.
//! Before it, whatever goes wrong leaves nothing. After it, nothing but an explicit cancellation takes the machine away:
//! failures are waited out, a stop of the service lets go of the machine, and its next start takes it up again, under the
//! same socket, before the machine's requests have waited too long; one that was paused meanwhile is resumed.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::core::{committed, drills};
use crate::estate::machines;
use crate::jobs::kind::{Again, Cancel, Claims, Hold, JobKind, Recovery};
use crate::jobs::ledger as jobs;
use crate::limits::{INSTANT_BOOT, INSTANT_BOOT_BLIND, INSTANT_LOOK_INTERVAL, INSTANT_RETRY_MAX};
use crate::points::snapshots;
use crate::restore::{job as restore, request};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::{Item, Job, Point, Vault};
use strongroom_domain::job::{JobOperation, JobTask, task as tasks};
use strongroom_domain::{PointId, fact};
use strongroom_engine::machine::instant::{self, Exports, Network, Plan, Wanted};
use strongroom_hypervisor::{AgentState, Hypervisor};
use strongroom_store::{Progress, ReadSession};
use uuid::Uuid;

/// What to make of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMachine {
    /// Its name, on its host and in its group; must be free.
    pub name: String,
    /// The resource group that it is put in.
    pub group: String,
    /// The host that it is made on, by the configuration's name.
    pub host: String,
    /// Where its disks go. None: where the machine's were.
    pub directory: Option<PathBuf>,
    /// None: as it was.
    pub network: Option<String>,
    /// Disks that libvirt encrypted may be unencrypted.
    #[serde(default)]
    pub unencrypted: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct InstantRequest {
    point: Uuid,
    target: NewMachine,
    #[serde(default)]
    disks: Vec<String>,
    /// What is being made; from here on something may have to be removed.
    #[serde(default)]
    plan: Option<Plan>,
    /// The machine was started: it is somebody's.
    #[serde(default)]
    started: bool,
}

/// The job that starts a machine from the vault, and moves its data in behind it.
pub(crate) struct InstantRestore;

impl JobKind for InstantRestore {
    fn name(&self) -> &'static str {
        KIND
    }

    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
        run(service, job, progress)
    }

    fn recover(&self, service: &Service, job: &Job) -> Result<Recovery> {
        recover(service, job)
    }

    fn claims(&self, service: &Service, job: &Job) -> Result<Claims> {
        // A machine depends on it.
        Ok(Claims { time_limit: None, ..Claims::of_machine(service, job)? })
    }

    fn item(&self) -> Hold {
        Hold::Shared
    }

    fn reads(&self, job: &Job) -> Vec<PointId> {
        request::reads(job)
    }

    fn cancel(&self, _service: &Service, job: &Job) -> Result<Cancel> {
        Ok(if job.request["plan"].is_null() { Cancel::AtOnce } else { Cancel::NeedsRun })
    }
}

/// What rows name this kind of job by.
const KIND: &str = "instant_restore";

/// Checks a request and writes its job. `luns`: these disks alone.
pub fn begin(
    service: &Service,
    vault: &Vault,
    item: &Item,
    point: &Point,
    target: NewMachine,
    luns: Option<&[i32]>,
    asked_by: &str,
) -> Result<Job> {
    drills::check_boots(item)?;
    let disks = match luns {
        None => Vec::new(),
        Some(luns) => request::choose(point, luns)?,
    };
    snapshots::check_vaulted(point)?;
    strongroom_engine::machine::check_name(&target.name)?;
    if machines::find(service, &target.group, &target.name)?.is_some() {
        return Err(request::exists(&target.name, &target.group));
    }
    match service.host(&target.host)?.hypervisor.name_is_free(&target.name) {
        Ok(()) => {}
        Err(strongroom_hypervisor::Error::AlreadyExists { .. }) => {
            return Err(request::exists(&target.name, &target.group));
        }
        Err(error) => return Err(error.into()),
    }
    let mut job = jobs::draft(service, item, KIND, JobOperation::Restore, asked_by);
    job.tasks = vec![JobTask::new(tasks::START_MACHINE), JobTask::new(tasks::TRANSFER_FROM_VAULT)];
    let time = point.taken_at.to_string();
    let bag = [
        (fact::RESTORE_AS, fact::INSTANT_MACHINE.to_owned()),
        (fact::ORIGINAL_MACHINE, item.machine_name.clone()),
        (fact::TARGET_MACHINE, target.name.clone()),
        (fact::POINT_TIME, time),
        (fact::TARGET_GROUP, target.group.clone()),
        (fact::SUBSCRIPTION, service.subscription.to_string()),
    ];
    job.properties = bag.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    job.vault = vault.id;
    let request = InstantRequest {
        point: Uuid::from_bytes(*point.id.as_bytes()),
        target,
        disks,
        plan: None,
        started: false,
    };
    job.request = serde_json::to_value(&request).unwrap_or_default();
    jobs::put_reading(service, &job, point)?;
    service.life.wake();
    Ok(job)
}

fn is_cancelled_by_somebody(service: &Service, job: Uuid) -> Result<bool> {
    Ok(service.catalog.get::<Job>(job)?.is_none_or(|job| job.cancel_requested))
}

pub(crate) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    let (vault, _, mut request) = jobs::parts::<InstantRequest>(service, job)?;
    let hypervisor = service.host(&request.target.host)?.hypervisor.clone();
    let work =
        Work { service, job, vault: &vault, hypervisor: &*hypervisor, progress, exports: Mutex::default() };
    // The exports are there until the machine is gone: one that waits for its disk takes long to end.
    let done = work.all(&mut request);
    let Err(error) = done else { return Ok(()) };
    let Some(plan) = &request.plan else { return Err(error) };
    // What may run is not taken away for that.
    if error.is_unsettled() {
        return Err(error);
    }
    let is_cancelled = || is_cancelled_by_somebody(service, job.id);
    if request.started && !committed::record(service, "a cancellation", is_cancelled)? {
        // The service stops: the machine runs on.
        return Err(error);
    }
    // Tried for a while: libvirt may be restarting. A machine that was started, and is not wanted any more, for as long as it takes.
    let mut left = 5;
    loop {
        match instant::abandon(&*hypervisor, plan) {
            Ok(()) => return Err(error),
            Err(_) if request.started && service.life.is_stopping() => return Err(error.unsettled()),
            Err(gone) if left == 0 && !request.started => {
                return Err(Error::new(
                    gone.kind,
                    format!(
                        "{error}; and what was made could not be removed ({gone}): machine `{}`",
                        plan.machine
                    ),
                ));
            }
            Err(gone) => {
                tracing::warn!(error = %gone, "a machine that was cancelled could not be removed yet")
            }
        }
        left = (left - 1).max(0);
        std::thread::sleep(Duration::from_secs(1));
    }
}

struct Work<'a> {
    service: &'a Service,
    job: &'a Job,
    vault: &'a Vault,
    hypervisor: &'a dyn Hypervisor,
    progress: &'a Arc<Progress>,
    exports: Mutex<Option<Exports>>,
}

impl Work<'_> {
    fn all(&self, request: &mut InstantRequest) -> Result<()> {
        self.progress.check()?;
        if !request.started {
            jobs::task(self.service, self.job, tasks::START_MACHINE)?;
        }
        let mut pause = Duration::from_secs(1);
        loop {
            let error = match self.attempt(request) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == ErrorKind::Cancelled => return Err(error),
                Err(error) if !request.started => return Err(error),
                Err(error) => error,
            };
            // A machine runs from the vault: giving up would take its disks away. It is tried again until it works, or
            // somebody cancels it.
            tracing::warn!(machine = request.target.name, %error, "moving a machine's data does not go on");
            let told = self.warn(&format!("It does not go on for now, and is tried again: {error}"));
            if let Err(error) = told {
                tracing::warn!(%error, "the job's warning could not be written");
            }
            self.wait(pause)?;
            pause = (pause * 2).min(INSTANT_RETRY_MAX);
        }
    }

    /// Once for each text.
    fn warn(&self, text: &str) -> Result<()> {
        jobs::update(self.service, self.job, |job| {
            if !job.warnings.iter().any(|w| w == text) && job.warnings.len() < WARNINGS_MAX {
                job.warnings.push(text.to_owned());
            }
            Ok(Vec::new())
        })?;
        Ok(())
    }

    fn note(&self, name: &str, value: String) -> Result<()> {
        jobs::update(self.service, self.job, |job| {
            job.properties.retain(|(n, _)| n != name);
            job.properties.push((name.to_owned(), value.clone()));
            Ok(Vec::new())
        })?;
        Ok(())
    }

    fn wait(&self, time: Duration) -> Result<()> {
        Ok(self.progress.pause(time)?)
    }

    fn attempt(&self, request: &mut InstantRequest) -> Result<()> {
        let store = self.service.store(self.vault)?;
        let session = ReadSession::begin(&store, &format!("instant restore job {}", self.job.id))?;
        let point = store.point(&strongroom_domain::PointId::from_uuid(request.point))?;
        if request.plan.is_none() {
            let target = &request.target;
            let wanted = Wanted {
                name: &target.name,
                uuid: self.job.id,
                directory: target.directory.as_deref(),
                network: target.network.clone().map_or(Network::AsItWas, Network::To),
                disks: &request.disks,
                is_thrown_away: false,
                unencrypted: target.unencrypted,
            };
            let plan = instant::plan(self.hypervisor, &session, &point, &wanted)?;
            for warning in instant::warnings(&point, &plan) {
                self.warn(&warning)?;
            }
            request.plan = Some(plan);
            for warning in
                strongroom_engine::machine::encryption::check(&point, &request.disks, target.unencrypted)?
            {
                self.warn(&warning)?;
            }
            jobs::save_params(self.service, self.job, request)?;
        }
        let Some(plan) = request.plan.clone() else { return Err(Error::cancelled()) };
        // Those of the attempt before stay, since a machine may run from them; unless they could not read the vault.
        let are_sound = self.exports.lock().as_ref().is_some_and(|e| e.last_failure().is_none());
        if !are_sound {
            // The socket is taken over.
            drop(self.exports.lock().take());
            *self.exports.lock() = Some(instant::serve(self.hypervisor, &session, &point, &plan)?);
        }
        let found = instant::find(self.hypervisor, &plan)?;
        let mut is_new = false;
        if !request.started {
            let mut notes = Vec::new();
            match &found {
                Some(machine) if machine.state.is_active() => {}
                Some(_) => instant::start_again(self.hypervisor, &point, &plan)
                    .or_else(|error| self.check_runs(error.into(), &plan))?,
                None => {
                    // Of an attempt that came to nothing.
                    instant::remove_files(&plan);
                    instant::make_files(&point, &plan)?;
                    self.progress.check()?;
                    match instant::start(self.hypervisor, &point, &plan) {
                        Ok(made) => {
                            made.losses.iter().try_for_each(|loss| self.warn(loss)).unwrap_or_else(|error| {
                                tracing::warn!(%error, "the job's warning could not be written");
                            });
                            notes = made.warnings;
                        }
                        Err(error) => self.check_runs(error.into(), &plan)?,
                    }
                }
            }
            is_new = true;
            request.started = true;
            self.note_start(request, &plan, &notes)?;
            if let Err(error) = self.place(request) {
                tracing::warn!(%error, "the machine will be discovered later");
            }
        }
        jobs::task(self.service, self.job, tasks::TRANSFER_FROM_VAULT)?;
        let began = Instant::now();
        if is_new {
            self.let_boot(&plan)?;
        }
        self.move_in(&plan)?;
        self.note(fact::MOVED_IN, format!("{:.0} s", began.elapsed().as_secs_f64()))?;
        if !instant::stands_alone(&plan)? {
            return Err(Error::new(
                ErrorKind::Failed,
                "an image still names the vault, though all was moved",
            ));
        }
        restore::complete(self.service, self.job, Vec::new(), Vec::new())
    }

    /// After a start that failed: it may have been its answer alone that was lost. Until that is known the exports stay.
    fn check_runs(&self, error: Error, plan: &Plan) -> Result<()> {
        loop {
            match instant::find(self.hypervisor, plan) {
                Ok(Some(machine)) if machine.state.is_active() => {
                    tracing::warn!(machine = machine.name, %error, "the machine runs all the same");
                    return Ok(());
                }
                Ok(_) => return Err(error),
                Err(unknown) => {
                    tracing::warn!(machine = plan.machine, %unknown, "whether a machine runs is not known");
                    self.wait(Duration::from_secs(1)).map_err(Error::unsettled)?;
                }
            }
        }
    }

    /// The machine runs, which was the commit: this is written down late rather than not at all.
    fn note_start(&self, request: &InstantRequest, plan: &Plan, notes: &[String]) -> Result<()> {
        let value = serde_json::to_value(request).unwrap_or_default();
        let mut properties = vec![(fact::STARTED_MACHINE.to_owned(), plan.machine.clone())];
        if !notes.is_empty() {
            properties.insert(0, (fact::NOTES.to_owned(), notes.join("; ")));
        }
        committed::record(self.service, "a machine's start", || {
            jobs::update(self.service, self.job, |job| {
                job.request = value.clone();
                job.properties.retain(|(name, _)| !properties.iter().any(|(new, _)| new == name));
                job.properties.extend(properties.clone());
                Ok(Vec::new())
            })?;
            Ok(())
        })
    }

    /// The restored machine is known at once, in the group that was asked for.
    fn place(&self, request: &InstantRequest) -> Result<()> {
        let target = &request.target;
        let uuid = self.job.id.hyphenated().to_string();
        let made = request::Target::Machine {
            name: target.name.clone(),
            group: target.group.clone(),
            host: target.host.clone(),
            directory: None,
            network: None,
        };
        restore::note_machine(self.service, &made, &uuid)
    }

    /// The machine boots by itself first: what it reads it needs now, the rest has time.
    fn let_boot(&self, plan: &Plan) -> Result<()> {
        let began = Instant::now();
        loop {
            let machine = self.hypervisor.inspect(&plan.machine)?;
            let limit = match machine.agent {
                AgentState::Connected => {
                    if self.hypervisor.wait_for_agent(&plan.machine, Duration::from_millis(500)).is_ok() {
                        return self.note(
                            fact::AGENT_ANSWERED_AFTER,
                            format!("{:.1} s, with nothing moved yet", began.elapsed().as_secs_f64()),
                        );
                    }
                    INSTANT_BOOT
                }
                AgentState::NotConnected => INSTANT_BOOT,
                AgentState::NoChannel => INSTANT_BOOT_BLIND,
            };
            if !machine.summary.state.is_active() || began.elapsed() > limit {
                return Ok(());
            }
            self.wait(Duration::from_millis(200))?;
        }
    }

    fn move_in(&self, plan: &Plan) -> Result<()> {
        let total: u64 = plan.disks.iter().map(|d| d.size_bytes).sum();
        let mut shown = self.progress.done_bytes();
        if self.progress.total_bytes() == 0 {
            self.progress.add_total(total);
        }
        let mut begun = HashMap::new();
        loop {
            self.progress.check()?;
            let found = instant::find(self.hypervisor, plan)?;
            let Some(machine) = found.filter(|m| m.state.is_active()) else {
                return self.move_offline(plan);
            };
            if self.hypervisor.resume_after_io_error(&machine.name)? {
                tracing::info!(machine = machine.name, "resumed: its disks can be read again");
                self.warn("The machine was paused until its disks could be read again.")?;
                let failure = self.exports.lock().as_ref().and_then(Exports::last_failure);
                if let Some(failure) = failure {
                    self.warn(&format!("The vault could not be read: {failure}"))?;
                }
            }
            let Some(done) = instant::advance(self.hypervisor, &machine.name, plan, &mut begun)? else {
                break;
            };
            if done > shown {
                self.progress.add_done(done - shown);
                shown = done;
            }
            self.wait(INSTANT_LOOK_INTERVAL)?;
        }
        self.progress.add_done(total.saturating_sub(shown));
        Ok(())
    }

    /// Somebody shut it down, or removed it: its images are completed all the same.
    fn move_offline(&self, plan: &Plan) -> Result<()> {
        if !plan.disks.iter().any(|d| d.path.exists()) {
            return Err(Error::not_found(format!(
                "machine `{}` and its disks were removed meanwhile; cancel the job",
                plan.machine
            )));
        }
        instant::move_offline(plan, self.progress)?;
        self.warn(&match instant::find(self.hypervisor, plan)? {
            Some(_) => format!(
                "Machine `{}` was shut down, or ended by itself, while its data was moved in; its disks are complete: start it again.",
                plan.machine
            ),
            None => format!(
                "Machine `{}` was removed meanwhile; its disks are complete, in {}.",
                plan.machine,
                plan.directory.display()
            ),
        })
    }
}

const WARNINGS_MAX: usize = 20;

/// After a crash or a stop: a machine that was started is taken up again; what was not leaves nothing.
fn recover(service: &Service, job: &Job) -> Result<Recovery> {
    let (_, _, request) = jobs::parts::<InstantRequest>(service, job)?;
    let Some(plan) = &request.plan else { return Ok(Recovery::Nothing(Again::Never)) };
    let hypervisor = service.host(&request.target.host)?.hypervisor.clone();
    let is_there = instant::find(&*hypervisor, plan);
    let was_started = request.started || !matches!(is_there, Ok(None));
    if job.cancel_requested || !was_started {
        instant::abandon(&*hypervisor, plan)?;
        return Ok(Recovery::Nothing(Again::Never));
    }
    Ok(Recovery::Committed)
}
