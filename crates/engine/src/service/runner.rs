//! Runs jobs: leases them, does them on threads of their own within the limits, keeps their progress, and lets go of them
//! when the service stops.

use super::{
    Service, audit, backup, clock, committed, drill, exclusive, housekeeping, instant, jobs, machines,
    operations, reconcile, replace, restore, schedule, snapshots, storage, transfer,
};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    BACKUP_DURATION_MAX, DISCOVERY_INTERVAL, HEARTBEAT_INTERVAL, JOB_ATTEMPTS_MAX, LEASE_DURATION,
    SCHEDULE_INTERVAL, STOP_TIMEOUT, TRANSFER_RETRY_MAX, UNSETTLED_RETRY, VAULT_BUSY_RETRY,
};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Job, JobProgress, Lease, Machine, ServiceError, actor};
use strongroom_domain::job::{Estimate, JobError, JobOperation, JobStatus};
use strongroom_store::Progress;
use uuid::Uuid;

/// Why a running job is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Asked,
    TooLong,
    /// It goes on at the next start.
    ServiceStops,
}

struct Running {
    progress: Arc<Progress>,
    host: String,
    vault: Uuid,
    /// It makes a point in the vault.
    writes: bool,
    began: Instant,
    /// A machine may depend on it: it takes as long as it takes.
    is_unlimited: bool,
    /// It is told to stop when it has run for so long.
    at_most: Duration,
    reason: Arc<Mutex<Option<Reason>>>,
}

impl Running {
    fn stop(&self, reason: Reason) {
        self.reason.lock().get_or_insert(reason);
        self.progress.cancel();
    }
}

/// What runs by itself.
pub struct Runner {
    running: Mutex<HashMap<Uuid, Running>>,
    /// Counts what happened that may give somebody here work.
    rung: Mutex<u64>,
    bell: Condvar,
    started: AtomicBool,
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Runner {
    pub(super) fn new() -> Self {
        Self {
            running: Mutex::default(),
            rung: Mutex::new(0),
            bell: Condvar::new(),
            started: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            threads: Mutex::default(),
        }
    }

    /// There may be something to do: jobs to begin, or something deleted to purge.
    pub fn wake(&self) {
        *self.rung.lock() += 1;
        self.bell.notify_all();
    }

    /// Sleeps until the bell has rung since `heard`, which is how often the caller knows that it has.
    pub(super) fn wait(&self, heard: &mut u64, at_most: Duration) {
        let mut rung = self.rung.lock();
        if *rung == *heard && !self.is_stopping() {
            self.bell.wait_for(&mut rung, at_most);
        }
        *heard = *rung;
    }

    /// A thread that the service's end waits for.
    pub(super) fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.retain(|other| !other.is_finished());
        threads.push(thread);
    }

    /// Whether anything runs by itself here.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Tells a running job that somebody wants it to stop.
    pub(super) fn cancel(&self, job: Uuid) {
        if let Some(running) = self.running.lock().get(&job) {
            running.stop(Reason::Asked);
        }
    }

    /// How many jobs run now.
    pub fn count(&self) -> usize {
        self.running.lock().len()
    }

    /// Sleeps, but not past the end of the service.
    pub(super) fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

pub(super) fn start(service: &Service) -> Result<()> {
    type Loop = fn(&Service);
    let loops: [(&str, Loop); 7] = [
        ("jobs", run_jobs),
        ("heartbeat", keep_leases),
        ("scheduler", run_schedule),
        ("discovery", run_discovery),
        ("housekeeping", housekeeping::run),
        ("audit", audit::run),
        ("reconciliation", reconcile::run),
    ];
    service.runner.started.store(true, Ordering::SeqCst);
    let mut threads = service.runner.threads.lock();
    for (name, work) in loops {
        let service = service.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || actor::named(format!("service: {name}"), || work(&service)))
            .map_err(|e| Error::io(format!("starting the thread for {name}"), e))?;
        threads.push(thread);
    }
    Ok(())
}

/// Whatever runs here is told to end, and nobody waits for a store that does not answer any longer.
pub(super) fn let_go(service: &Service) {
    let runner = &service.runner;
    runner.stopping.store(true, Ordering::SeqCst);
    for running in runner.running.lock().values() {
        running.stop(Reason::ServiceStops);
    }
    // After the jobs know why.
    service.opener.stop.stop();
    runner.wake();
}

pub(super) fn stop(service: &Service) {
    let_go(service);
    let runner = &service.runner;
    let threads: Vec<_> = runner.threads.lock().drain(..).collect();
    for thread in threads {
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
    let until = Instant::now() + STOP_TIMEOUT;
    while runner.count() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = service.watch_clock();
    if let Err(error) = clock::save_guard(&*service.catalog, &seen) {
        tracing::warn!(%error, "keeping the time for the next start");
    }
}

impl Service {
    /// At the start: whoever had leases is dead, since the data directory is ours alone.
    pub(super) fn recover(&self) -> Result<()> {
        storage::mark_known(self);
        operations::recover(self)?;
        for job in jobs::open(self)? {
            let id = job.id;
            let outcome = match self.what_is_there(&job) {
                Ok(true) => self.is_settled(id, None),
                Ok(false) => self.take_up_again(&job),
                Err(error) if error.code == Some(jobs::NOT_UNDERSTOOD) => Err(error),
                // Neither failed nor begun anew before that is known.
                Err(error) => leave_unsettled(self, id, &error, None),
            };
            if let Err(error) = outcome {
                if committed::is_catalogs(&error) {
                    return Err(error);
                }
                tracing::warn!(job = %id, %error, "taking up a job that was interrupted");
                fail(self, id, &error)?;
            }
        }
        Ok(())
    }

    /// Looks at what a job that was cut short has left. `true`: it was committed, and is complete or goes on; `false`: it was
    /// not, and what it left is gone. An error: that cannot be seen now.
    fn what_is_there(&self, job: &Job) -> Result<bool> {
        match job.operation {
            JobOperation::Backup => backup::recover(self, job),
            JobOperation::Restore if instant::is_one(job) => instant::recover(self, job),
            JobOperation::Restore => restore::recover(self, job),
            JobOperation::Drill => drill::recover(self, job),
            _ => Ok(false),
        }
    }

    /// It is known what there is of a job. One that goes on does so after a while.
    fn is_settled(&self, id: Uuid, pause: Option<Duration>) -> Result<()> {
        let Some(job) = self.catalog.get::<Job>(id)? else { return Ok(()) };
        if job.status.is_over() || !job.unsettled && pause.is_none() {
            return Ok(());
        }
        let not_before = pause.map(|pause| self.now().saturating_add(pause)).transpose()?;
        self.catalog.update::<Job, Error>(id, |job| {
            job.unsettled = false;
            job.not_before = not_before;
            Ok(Vec::new())
        })?;
        Ok(())
    }

    /// Puts a job that was interrupted back, or ends it.
    fn take_up_again(&self, job: &Job) -> Result<()> {
        let is_kept = snapshots::pending(self, job)?.is_some();
        self.catalog.update::<Job, Error>(job.id, |job| {
            let now = self.now();
            job.lease = None;
            job.unsettled = false;
            if is_kept {
                // Its snapshot is there: only the transfer begins anew, as often as it takes.
                job.progress = JobProgress::default();
            } else if job.cancel_requested {
                jobs::note_cancelled(job);
                jobs::end(job, JobStatus::Cancelled, now);
            } else if job.attempts >= JOB_ATTEMPTS_MAX
                || job.operation != JobOperation::Backup && job.attempts > 0
            {
                job.errors = vec![JobError {
                    code: 400340,
                    name: "UserErrorServiceInterrupted".into(),
                    message: format!(
                        "The service ended while this job ran{}.",
                        if job.attempts > 1 { format!(", {} times", job.attempts) } else { String::new() }
                    ),
                    recommendation: "Nothing of it remains. Run it again.".into(),
                }];
                jobs::end(job, JobStatus::Failed, now);
            } else if job.attempts > 0 {
                job.warnings.push("The service ended while this job ran; it was begun anew.".into());
            }
            Ok(Vec::new())
        })?;
        Ok(())
    }
}

/// Takes jobs up as the limits allow.
fn run_jobs(service: &Service) {
    let mut heard = 0;
    while !service.runner.is_stopping() {
        if let Err(error) = begin_waiting(service) {
            tracing::error!(%error, "jobs could not be begun");
        }
        service.runner.wait(&mut heard, Duration::from_secs(2));
    }
}

fn begin_waiting(service: &Service) -> Result<()> {
    let limits = &service.config.limits;
    for job in jobs::open(service)?.into_iter().filter(|job| job.lease.is_none() && is_due(service, job)) {
        if service.runner.is_stopping() || service.runner.count() >= limits.jobs {
            return Ok(());
        }
        let host = host_of(service, &job)?;
        let waits_for_writer = writes(&job) && exclusive::takes_one_writer(service, job.vault);
        let is_free = {
            let running = service.runner.running.lock();
            running.values().filter(|r| r.host == host).count() < limits.jobs_per_host
                && running.values().filter(|r| r.vault == job.vault).count() < limits.jobs_per_vault
                && !(waits_for_writer && running.values().any(|r| r.vault == job.vault && r.writes))
        };
        if is_free {
            begin(service, job, host)?;
        }
    }
    Ok(())
}

/// Whether a job makes a point in its vault.
fn writes(job: &Job) -> bool {
    job.operation == JobOperation::Backup || replace::is_one(job)
}

/// Whether a job that waits has waited long enough. One that is to be cancelled has; no clock that was put back makes one wait
/// for longer than it ever was to.
fn is_due(service: &Service, job: &Job) -> bool {
    let left = job.not_before.map(|at| at.duration_since(service.now()).as_secs()).unwrap_or_default();
    let is_running = service.runner.running.lock().contains_key(&job.id);
    let longest = TRANSFER_RETRY_MAX.as_secs().max(service.config.snapshots.retry_seconds) as i64;
    !is_running && (job.cancel_requested || left <= 0 || left > longest)
}

/// The host a job burdens.
fn host_of(service: &Service, job: &Job) -> Result<String> {
    let Some(item) = job.item.map(|id| service.catalog.get::<Item>(id)).transpose()?.flatten() else {
        return Ok(String::new());
    };
    Ok(service.catalog.get::<Machine>(item.machine)?.map(|m| m.host).unwrap_or_default())
}

fn begin(service: &Service, mut job: Job, host: String) -> Result<()> {
    let now = service.now();
    job.lease = Some(Lease { owner: service.run, until: now.saturating_add(LEASE_DURATION)? });
    // To look at what it left is no attempt.
    job.attempts += u32::from(!job.unsettled);
    job.not_before = None;
    job.warnings.retain(|w| !w.starts_with(WAITS_FOR_VAULT));
    let progress = Arc::new(Progress::default());
    let reason = Arc::new(Mutex::new(None));
    let running = Running {
        progress: progress.clone(),
        host,
        vault: job.vault,
        writes: writes(&job),
        began: Instant::now(),
        is_unlimited: instant::is_one(&job),
        // Tries before this one count; the wall clock may say anything, but not that there is no time at all.
        at_most: BACKUP_DURATION_MAX.saturating_sub(transfer::age(service, &job)).max(LEASE_DURATION),
        reason: reason.clone(),
    };
    let id = job.id;
    // Before the lease: whoever cancels it once it has one finds it here.
    service.runner.running.lock().insert(id, running);
    match service.catalog.apply(&[Change::put(&job)]) {
        Ok(()) => job.version += 1,
        Err(error) => {
            service.runner.running.lock().remove(&id);
            return match error {
                ServiceError::Conflict { .. } => Ok(()),
                error => Err(error.into()),
            };
        }
    }
    if job.cancel_requested {
        service.runner.cancel(id);
    }
    let worker = service.clone();
    let spawned = std::thread::Builder::new().name(format!("job {id}")).spawn(move || {
        let name = match job.asked_by.as_str() {
            "" => format!("service: job {id}"),
            who => format!("service: job {id} of {who}"),
        };
        actor::named(name, || run_one(&worker, &job, &progress, &reason));
        worker.runner.running.lock().remove(&id);
        worker.runner.wake();
    });
    if let Err(e) = spawned {
        service.runner.running.lock().remove(&id);
        committed::record(service, "that a job waits", || put_back(service, id))?;
        return Err(Error::io("starting a job's thread", e));
    }
    Ok(())
}

fn run_one(service: &Service, job: &Job, progress: &Arc<Progress>, reason: &Mutex<Option<Reason>>) {
    let span =
        tracing::info_span!("job", id = %job.id, operation = job.operation.arm_name(), entity = job.entity);
    let _entered = span.enter();
    if job.unsettled {
        if let Err(error) = settle(service, job.id, None, None) {
            tracing::error!(%error, "what became of the job could not be written");
        }
        return;
    }
    tracing::info!("begins");
    let work = || match job.operation {
        JobOperation::Backup => backup::run(service, job, progress),
        JobOperation::Restore if instant::is_one(job) => instant::run(service, job, progress),
        JobOperation::Restore => restore::run(service, job, progress),
        JobOperation::Drill => drill::run(service, job, progress),
        other => Err(Error::new(ErrorKind::Failed, format!("{} is not a job to be run", other.arm_name()))),
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let bug = "the job's thread ended by itself; this is a bug, see the log";
        Err(Error::new(ErrorKind::Failed, bug).unsettled())
    });
    let why = *reason.lock();
    let ended = match (done, why) {
        (Ok(()), _) => Ok(()),
        (Err(error), why) if error.is_unsettled() => settle(service, job.id, Some(&error), why),
        (Err(error), Some(Reason::Asked)) if error.kind == ErrorKind::Cancelled => cancelled(service, job.id),
        // Asked before the service was started anew.
        (Err(error), None) if error.kind == ErrorKind::Cancelled && was_cancelled(service, job.id) => {
            cancelled(service, job.id)
        }
        (Err(error), Some(Reason::ServiceStops)) if error.kind == ErrorKind::Cancelled => {
            put_back(service, job.id)
        }
        (Err(error), Some(Reason::TooLong)) if error.kind == ErrorKind::Cancelled => {
            let error = Error::new(
                ErrorKind::Failed,
                format!(
                    "It took longer than {} hours, which is the most a backup may.",
                    BACKUP_DURATION_MAX.as_secs() / 3600
                ),
            )
            .coded("UserErrorBackupTookTooLong");
            fail(service, job.id, &error)
        }
        (Err(error), _) if waits_for_vault(service, job, &error) => wait_for_vault(service, job.id, &error),
        (Err(error), _) => {
            tracing::warn!(%error, "failed");
            fail(service, job.id, &error)
        }
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the job's end could not be written");
    }
}

/// Of a job that may have been committed: looks at what is there, and completes it, lets it go on, or ends it as it was going
/// to end (by `failure`; without one: as one that was interrupted).
fn settle(service: &Service, id: Uuid, failure: Option<&Error>, why: Option<Reason>) -> Result<()> {
    let look = || -> Result<Option<(Job, bool)>> {
        let Some(job) = service.catalog.get::<Job>(id)?.filter(|job| !job.status.is_over()) else {
            return Ok(None);
        };
        let is_there = service.what_is_there(&job)?;
        Ok(Some((job, is_there)))
    };
    // It is only looked at, not ended: the next start does that as well.
    if service.runner.is_stopping() {
        return Ok(());
    }
    match look() {
        Ok(None) => Ok(()),
        Ok(Some((_, true))) => {
            committed::record(service, "that a job goes on", || service.is_settled(id, Some(UNSETTLED_RETRY)))
        }
        Ok(Some((job, false))) => match (failure, why) {
            (_, Some(Reason::Asked)) => cancelled(service, id),
            (Some(failure), _) => fail(service, id, failure),
            (None, _) => committed::record(service, "the end of a job", || service.take_up_again(&job)),
        },
        Err(error) if error.code == Some(jobs::NOT_UNDERSTOOD) => fail(service, id, &error),
        Err(error) => leave_unsettled(service, id, &error, Some(UNSETTLED_RETRY)),
    }
}

const NOT_SEEN_YET: &str = "Whether it was done before it was cut short could not be seen yet";

/// It cannot be seen now whether a job was committed: it is looked at again, and does nothing else before. Who cancels it
/// does without knowing, unless it has made something that it alone can take away.
fn leave_unsettled(service: &Service, id: Uuid, error: &Error, pause: Option<Duration>) -> Result<()> {
    tracing::warn!(job = %id, %error, "whether a job was committed is not known yet");
    committed::record(service, "that a job is to be looked at", || {
        service.catalog.update::<Job, Error>(id, |job| {
            if job.status.is_over() {
                return Ok(Vec::new());
            }
            job.lease = None;
            job.unsettled = true;
            job.not_before = pause.map(|pause| service.now().saturating_add(pause)).transpose()?;
            job.warnings.retain(|w| !w.starts_with(NOT_SEEN_YET));
            job.warnings.push(format!("{NOT_SEEN_YET}: {error}"));
            if job.cancel_requested && !jobs::has_begun(job) {
                jobs::note_cancelled(job);
                jobs::end(job, JobStatus::Cancelled, service.now());
            }
            Ok(Vec::new())
        })?;
        Ok(())
    })
}

fn was_cancelled(service: &Service, id: Uuid) -> bool {
    service.catalog.get::<Job>(id).is_ok_and(|job| job.is_some_and(|job| job.cancel_requested))
}

fn cancelled(service: &Service, id: Uuid) -> Result<()> {
    finish(service, id, |job, now| {
        jobs::note_cancelled(job);
        jobs::end(job, JobStatus::Cancelled, now);
    })
}

fn put_back(service: &Service, id: Uuid) -> Result<()> {
    put_back_until(service, id, None, "")
}

/// Whether a backup failed of nothing but that something else writes to its vault, and there is time left to wait for that.
fn waits_for_vault(service: &Service, job: &Job, error: &Error) -> bool {
    job.operation == JobOperation::Backup
        && error.is_vault_busy()
        && transfer::age(service, job) < BACKUP_DURATION_MAX
}

/// The backup begins anew after a while.
fn wait_for_vault(service: &Service, id: Uuid, error: &Error) -> Result<()> {
    tracing::info!(job = %id, %error, "the vault is written to by something else: the backup waits");
    let until = service.now().saturating_add(VAULT_BUSY_RETRY)?;
    let warning = format!("{WAITS_FOR_VAULT}: {error}");
    committed::record(service, "that a backup waits", || put_back_until(service, id, Some(until), &warning))
}

const WAITS_FOR_VAULT: &str = "It waits until nothing else writes to the vault";

/// Lets go of a job: it is begun anew, not before that time.
fn put_back_until(
    service: &Service,
    id: Uuid,
    not_before: Option<jiff::Timestamp>,
    warning: &str,
) -> Result<()> {
    service.catalog.update::<Job, Error>(id, |job| {
        if job.status.is_over() {
            return Ok(Vec::new());
        }
        job.lease = None;
        job.not_before = not_before;
        if !warning.is_empty() {
            job.warnings.push(warning.to_owned());
        }
        job.attempts = job.attempts.saturating_sub(1);
        if snapshots::pending(service, job)?.is_some() {
            job.progress = JobProgress::default();
            return Ok(Vec::new());
        }
        for task in &mut job.tasks {
            *task = strongroom_domain::job::JobTask::new(&task.id);
        }
        job.progress = JobProgress::default();
        Ok(Vec::new())
    })?;
    Ok(())
}

pub(super) fn fail(service: &Service, id: Uuid, error: &Error) -> Result<()> {
    let error = jobs::job_error(error);
    finish(service, id, |job, now| {
        job.errors = vec![error.clone()];
        jobs::end(job, JobStatus::Failed, now);
    })
}

/// Ends a job that made nothing, and notes it at its item; as late as the catalog makes it.
fn finish(service: &Service, id: Uuid, end: impl Fn(&mut Job, jiff::Timestamp)) -> Result<()> {
    committed::record(service, "the end of a job", || finish_once(service, id, &end))
}

fn finish_once(service: &Service, id: Uuid, end: &impl Fn(&mut Job, jiff::Timestamp)) -> Result<()> {
    // What came into the vault all the same is there, and is told so.
    if let Some(job) = service.catalog.get::<Job>(id)?
        && job.operation == JobOperation::Backup
        && snapshots::pending(service, &job)?.is_some()
        && backup::recover(service, &job).unwrap_or(false)
    {
        return Ok(());
    }
    let mut without_vault = None;
    service.catalog.update::<Job, Error>(id, |job| {
        without_vault = None;
        if job.status.is_over() {
            return Ok(Vec::new());
        }
        let point = snapshots::pending(service, job)?;
        end(job, service.now());
        if job.operation != JobOperation::Backup {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        if let Some(point) = point {
            let is_needed = jobs::needing(service, &point)?.is_some();
            let (change, removed) = transfer::without_vault(job, point.clone(), is_needed);
            changes.push(change);
            without_vault = Some((point, removed));
        }
        let item = job.item.map(|item| service.catalog.get::<Item>(item)).transpose()?.flatten();
        if let Some(mut item) = item {
            item.last_backup = Some(backup::last_backup(job));
            changes.push(Change::put(&item));
        }
        Ok(changes)
    })?;
    if let Some((point, removed)) = without_vault {
        snapshots::abandoned(service, &point, removed);
    }
    Ok(())
}

/// Renews leases, writes progress down, and ends what takes too long.
fn keep_leases(service: &Service) {
    let mut written: HashMap<Uuid, JobProgress> = HashMap::new();
    while !service.runner.is_stopping() {
        service.runner.pause(HEARTBEAT_INTERVAL);
        let running: Vec<(Uuid, JobProgress)> = {
            let running = service.runner.running.lock();
            for job in running.values().filter(|r| !r.is_unlimited && r.began.elapsed() > r.at_most) {
                job.stop(Reason::TooLong);
            }
            running.iter().map(|(id, r)| (*id, progress_of(r))).collect()
        };
        written.retain(|id, _| running.iter().any(|(other, _)| other == id));
        for (id, progress) in running {
            if written.get(&id) == Some(&progress) {
                continue;
            }
            let done = service.catalog.update::<Job, Error>(id, |job| {
                if let Some(lease) = &mut job.lease {
                    lease.until = service.now().saturating_add(LEASE_DURATION)?;
                    job.progress = progress;
                }
                Ok(Vec::new())
            });
            match done {
                Ok(_) => drop(written.insert(id, progress)),
                Err(error) => tracing::warn!(job = %id, %error, "progress could not be written"),
            }
        }
    }
}

fn progress_of(running: &Running) -> JobProgress {
    let (done_bytes, total_bytes) = (running.progress.done_bytes(), running.progress.total_bytes());
    let progress = Estimate::measured(running.began.elapsed(), done_bytes, total_bytes);
    JobProgress {
        done_bytes,
        total_bytes,
        percent: progress.percent,
        remaining_seconds: progress.remaining.map(|d| d.as_secs()),
    }
}

fn run_schedule(service: &Service) {
    while !service.runner.is_stopping() {
        if let Err(error) = schedule::tick(service) {
            tracing::error!(%error, "schedules could not be looked at");
        }
        if let Err(error) = drill::tick(service) {
            tracing::error!(%error, "the drills' schedule could not be looked at");
        }
        service.runner.pause(SCHEDULE_INTERVAL);
    }
}

fn run_discovery(service: &Service) {
    while !service.runner.is_stopping() {
        if let Err(error) = machines::look_around(service, false) {
            tracing::error!(%error, "machines could not be discovered");
        }
        service.runner.pause(DISCOVERY_INTERVAL);
    }
}
