//! Runs jobs: leases them, does them on threads of their own within the limits, keeps their progress, and lets go of them
//! when the service stops.

use super::{
    Service, backup, clock, drill, housekeeping, instant, jobs, machines, operations, reconcile, restore,
    schedule, snapshots, storage, transfer,
};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    BACKUP_DURATION_MAX, DISCOVERY_INTERVAL, HEARTBEAT_INTERVAL, JOB_ATTEMPTS_MAX, LEASE_DURATION,
    SCHEDULE_INTERVAL, STOP_TIMEOUT, TRANSFER_RETRY_MAX,
};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strongroom_catalog::service::{Change, Item, Job, JobProgress, Lease, Machine, ServiceError};
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
    let loops: [(&str, Loop); 6] = [
        ("jobs", run_jobs),
        ("heartbeat", keep_leases),
        ("schedule", run_schedule),
        ("discovery", run_discovery),
        ("housekeeping", housekeeping::run),
        ("reconciliation", reconcile::run),
    ];
    service.runner.started.store(true, Ordering::SeqCst);
    let mut threads = service.runner.threads.lock();
    for (name, work) in loops {
        let service = service.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&service))
            .map_err(|e| Error::io(format!("starting the thread for {name}"), e))?;
        threads.push(thread);
    }
    Ok(())
}

pub(super) fn stop(service: &Service) {
    let runner = &service.runner;
    runner.stopping.store(true, Ordering::SeqCst);
    for running in runner.running.lock().values() {
        running.stop(Reason::ServiceStops);
    }
    runner.wake();
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
            let done = match job.operation {
                JobOperation::Backup => backup::recover(self, &job),
                JobOperation::Restore if instant::is_one(&job) => instant::recover(self, &job),
                JobOperation::Restore => restore::recover(self, &job),
                JobOperation::Drill => drill::recover(self, &job),
                _ => Ok(false),
            };
            let outcome = match done {
                Ok(true) => continue,
                Ok(false) => self.take_up_again(&job),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!(job = %id, %error, "taking up a job that was interrupted");
                fail(self, id, &error)?;
            }
        }
        Ok(())
    }

    /// Puts a job that was interrupted back, or ends it.
    fn take_up_again(&self, job: &Job) -> Result<()> {
        let is_kept = snapshots::pending(self, job)?.is_some();
        self.catalog.update::<Job, Error>(job.id, |job| {
            let now = self.now();
            job.lease = None;
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
        let is_free = {
            let running = service.runner.running.lock();
            running.values().filter(|r| r.host == host).count() < limits.jobs_per_host
                && running.values().filter(|r| r.vault == job.vault).count() < limits.jobs_per_vault
        };
        if is_free {
            begin(service, job, host)?;
        }
    }
    Ok(())
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
    job.attempts += 1;
    job.not_before = None;
    match service.catalog.apply(&[Change::put(&job)]) {
        Ok(()) => job.version += 1,
        Err(ServiceError::Conflict { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let progress = Arc::new(Progress::default());
    let reason = Arc::new(Mutex::new(None));
    let running = Running {
        progress: progress.clone(),
        host,
        vault: job.vault,
        began: Instant::now(),
        is_unlimited: instant::is_one(&job),
        // Tries before this one count; the wall clock may say anything, but not that there is no time at all.
        at_most: BACKUP_DURATION_MAX.saturating_sub(transfer::age(service, &job)).max(LEASE_DURATION),
        reason: reason.clone(),
    };
    let id = job.id;
    service.runner.running.lock().insert(id, running);
    // A cancellation between the lease and this is not lost.
    if service.catalog.get::<Job>(id)?.is_some_and(|j| j.cancel_requested) {
        service.runner.cancel(id);
    }
    let worker = service.clone();
    let spawned = std::thread::Builder::new().name(format!("job {id}")).spawn(move || {
        run_one(&worker, &job, &progress, &reason);
        worker.runner.running.lock().remove(&id);
        worker.runner.wake();
    });
    if let Err(e) = spawned {
        service.runner.running.lock().remove(&id);
        return Err(Error::io("starting a job's thread", e));
    }
    Ok(())
}

fn run_one(service: &Service, job: &Job, progress: &Arc<Progress>, reason: &Mutex<Option<Reason>>) {
    let span =
        tracing::info_span!("job", id = %job.id, operation = job.operation.arm_name(), entity = job.entity);
    let _entered = span.enter();
    tracing::info!("begins");
    let work = || match job.operation {
        JobOperation::Backup => backup::run(service, job, progress),
        JobOperation::Restore if instant::is_one(job) => instant::run(service, job, progress),
        JobOperation::Restore => restore::run(service, job, progress),
        JobOperation::Drill => drill::run(service, job, progress),
        other => Err(Error::new(ErrorKind::Failed, format!("{} is not a job to be run", other.arm_name()))),
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Failed, "the job's thread ended by itself; this is a bug, see the log"))
    });
    let why = *reason.lock();
    let ended = match (done, why) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(Reason::Asked)) if error.kind == ErrorKind::Cancelled => cancelled(service, job.id),
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
        (Err(error), _) => {
            tracing::warn!(%error, "failed");
            fail(service, job.id, &error)
        }
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the job's end could not be written");
    }
}

fn cancelled(service: &Service, id: Uuid) -> Result<()> {
    finish(service, id, |job, now| {
        jobs::note_cancelled(job);
        jobs::end(job, JobStatus::Cancelled, now);
    })
}

fn put_back(service: &Service, id: Uuid) -> Result<()> {
    service.catalog.update::<Job, Error>(id, |job| {
        job.lease = None;
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

/// Ends a job that made nothing, and notes it at its item.
fn finish(service: &Service, id: Uuid, end: impl Fn(&mut Job, jiff::Timestamp)) -> Result<()> {
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
            let (change, removed) = transfer::without_vault(job, point.clone());
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
