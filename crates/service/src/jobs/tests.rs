//! The runner with kinds of jobs of the test's own: what it promises whatever they do.

use super::chore::{Chore, Chores, Rest};
use super::chores::{BeginJobs, KeepLeases};
use super::kind::{Again, Cancel, Claims, Hold, JobKind, Kinds, Recovery};
use super::lease::Heartbeat;
use super::{cancel, errors, ledger, runner, running};
use crate::core::clock::Clock;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::limits::{LEASE_DURATION, LEASE_RENEWAL};
use crate::vaults::settings;
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Job, Lease, Point, Vault};
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_domain::{Consistency, ConsistencyLevel, PointId};
use strongroom_store::Progress;
use uuid::Uuid;

/// A clock that stands still unless it is moved.
struct Still(Mutex<(Timestamp, Duration)>);

impl Still {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(("2026-03-01T00:00:00Z".parse().unwrap(), Duration::from_secs(1)))))
    }

    fn forward(&self, time: Duration) {
        let mut now = self.0.lock();
        now.0 += SignedDuration::try_from(time).unwrap();
        now.1 += time;
    }
}

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().1
    }
}

/// What the test's jobs do, and what was seen of them.
struct Script {
    name: &'static str,
    vault: Hold,
    again: Again,
    /// It is found committed.
    is_committed: bool,
    /// What a run does when it is told to go on.
    does: fn(&Service, &Job, &Progress) -> Result<()>,
    waits: bool,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    gate: Mutex<(usize, bool)>,
    bell: Condvar,
    looked: AtomicUsize,
    at_once: AtomicUsize,
}

impl State {
    /// Waits until so many runs have begun.
    fn wait_for_begun(&self, count: usize) {
        let mut gate = self.gate.lock();
        let until = Instant::now() + Duration::from_secs(60);
        while gate.0 < count {
            assert!(!self.bell.wait_until(&mut gate, until).timed_out(), "only {} runs began", gate.0);
        }
    }

    fn open(&self) {
        self.gate.lock().1 = true;
        self.bell.notify_all();
    }
}

impl JobKind for Script {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
        let mut gate = self.state.gate.lock();
        gate.0 += 1;
        self.state.bell.notify_all();
        while self.waits && !gate.1 {
            if progress.is_cancelled() {
                return Err(Error::cancelled());
            }
            self.state.bell.wait_for(&mut gate, Duration::from_millis(20));
        }
        drop(gate);
        (self.does)(service, job, progress)
    }

    fn recover(&self, _service: &Service, _job: &Job) -> Result<Recovery> {
        self.state.looked.fetch_add(1, Ordering::SeqCst);
        Ok(if self.is_committed { Recovery::Committed } else { Recovery::Nothing(self.again) })
    }

    fn claims(&self, service: &Service, job: &Job) -> Result<Claims> {
        Ok(Claims { vault: self.vault, ..Claims::of_machine(service, job)? })
    }

    fn cancel(&self, _service: &Service, _job: &Job) -> Result<Cancel> {
        self.state.at_once.fetch_add(1, Ordering::SeqCst);
        Ok(Cancel::AtOnce)
    }
}

/// Ends the job, as a kind does in its commit.
fn complete(service: &Service, job: &Job, _progress: &Progress) -> Result<()> {
    ledger::update(service, job, |row| {
        ledger::end(row, JobStatus::Completed, service.now());
        Ok(Vec::new())
    })?;
    Ok(())
}

struct World {
    service: Service,
    clock: Arc<Still>,
    state: Arc<State>,
    vault: Vault,
    _data: tempfile::TempDir,
}

impl World {
    fn new(script: impl FnOnce(Arc<State>) -> Script) -> Self {
        let (data, clock, state) = (tempfile::tempdir().unwrap(), Still::new(), Arc::new(State::default()));
        let kinds = Kinds::default().with(script(state.clone()));
        let chores = Chores::default().with::<BeginJobs>().with::<KeepLeases>();
        let service = crate::open::of_kinds(data.path(), clock.clone(), kinds, chores).unwrap();
        let vault = settings::draft(&service, "g".into(), "v", "local");
        service.catalog.apply(&[Change::put(&vault)]).unwrap();
        Self { service, clock, state, vault, _data: data }
    }

    fn job(&self, kind: &str) -> Job {
        let job = ledger::draft_in(&self.service, self.vault.id, kind, JobOperation::Backup, "");
        Job { entity: "m".into(), ..job }
    }

    fn put(&self, job: &Job) {
        self.service.catalog.apply(&[Change::put(job)]).unwrap();
    }

    fn row(&self, job: &Job) -> Job {
        self.service.catalog.get::<Job>(job.id).unwrap().unwrap()
    }

    /// Until nothing runs here any more.
    fn settle(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while running::of(&self.service).count() > 0 {
            assert!(Instant::now() < until, "a job does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Counts the errors that are logged.
#[derive(Clone, Default)]
struct Log(Arc<AtomicUsize>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}

    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _span: &tracing::span::Id) {}

    fn exit(&self, _span: &tracing::span::Id) {}
}

fn quick(state: Arc<State>) -> Script {
    Script {
        name: "quick",
        vault: Hold::Shared,
        again: Again::Times(3),
        is_committed: false,
        does: complete,
        waits: false,
        state,
    }
}

fn waiting(state: Arc<State>) -> Script {
    Script { waits: true, ..quick(state) }
}

#[test]
fn a_job_whose_lease_ran_out_is_looked_at_and_then_begun_again() {
    let world = World::new(quick);
    let before = Lease { owner: Uuid::new_v4(), until: world.service.now() - SignedDuration::from_secs(1) };
    let job = Job { lease: Some(before), fence: 7, attempts: 1, ..world.job("quick") };
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    assert_eq!(world.state.looked.load(Ordering::SeqCst), 1);
    let row = world.row(&job);
    assert_eq!((row.status, row.fence, row.attempts), (JobStatus::InProgress, 8, 1), "{row:?}");
    assert!(row.lease.is_none() && !row.unsettled, "{row:?}");
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    let row = world.row(&job);
    assert_eq!((row.status, row.fence, row.attempts), (JobStatus::Completed, 9, 2), "{row:?}");
}

#[test]
fn a_job_that_somebody_has_is_left_to_him() {
    let world = World::new(quick);
    let until = world.service.now() + SignedDuration::from_secs(1);
    let job = Job { lease: Some(Lease { owner: Uuid::new_v4(), until }), fence: 7, ..world.job("quick") };
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    assert_eq!(world.row(&job).fence, 7);
    assert_eq!(world.state.gate.lock().0, 0);
}

#[test]
fn who_lost_a_job_writes_nothing_to_it() {
    let world = World::new(waiting);
    let job = world.job("quick");
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.state.wait_for_begun(1);
    // Somebody else takes it over.
    let other = Uuid::new_v4();
    ledger::update_any(&world.service, job.id, |row| {
        row.fence += 1;
        row.lease = Some(Lease { owner: other, until: world.service.now() + SignedDuration::from_hours(1) });
        Ok(Vec::new())
    })
    .unwrap();
    let taken = world.row(&job);
    world.state.open();
    world.settle();
    let row = world.row(&job);
    assert_eq!(row.version, taken.version, "{row:?}");
    assert_eq!(row.lease.unwrap().owner, other);
}

#[test]
fn the_heartbeat_tells_who_lost_a_job_to_stop() {
    let world = World::new(waiting);
    let job = world.job("quick");
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.state.wait_for_begun(1);
    ledger::update_any(&world.service, job.id, |row| {
        row.fence += 1;
        Ok(Vec::new())
    })
    .unwrap();
    let taken = world.row(&job);
    Heartbeat::default().beat(&world.service);
    // Nobody opened its gate: it was told to stop.
    world.settle();
    let row = world.row(&job);
    assert_eq!((row.version, row.status), (taken.version, JobStatus::InProgress), "{row:?}");
}

/// A service that has just started begins jobs while its heartbeat beats: none is let go of that is only about to have its lease.
#[test]
fn the_heartbeat_leaves_a_job_alone_whose_lease_is_being_taken() {
    let world = World::new(waiting);
    let job = world.job("quick");
    world.put(&job);
    let service = &world.service;
    let reason = Arc::new(Mutex::new(None));
    let running = running::Running {
        progress: Arc::new(Progress::default()),
        vault: job.vault,
        claims: Claims::of_machine(service, &job).unwrap(),
        began: Instant::now(),
        at_most: None,
        reason: reason.clone(),
        fence: job.fence + 1,
    };
    running::of(service).running.lock().insert(job.id, running);
    Heartbeat::default().beat(service);
    assert_eq!((*reason.lock(), world.row(&job).version), (None, 1));
}

#[test]
fn a_lease_is_renewed_where_nothing_goes_on() {
    let world = World::new(waiting);
    let job = world.job("quick");
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.state.wait_for_begun(1);
    let mut heartbeat = Heartbeat::default();
    for _ in 0..20 {
        heartbeat.beat(&world.service);
        world.clock.forward(LEASE_RENEWAL / 2);
        let left = world.row(&job).lease.unwrap().until.duration_since(world.service.now());
        assert!(left.is_positive(), "the lease ran out");
    }
    // Nothing is written more often than it has to be.
    let written = world.row(&job).version;
    heartbeat.beat(&world.service);
    heartbeat.beat(&world.service);
    assert!(world.row(&job).version <= written + 1);
    assert!(LEASE_RENEWAL * 2 < LEASE_DURATION);
    world.state.open();
    world.settle();
    assert_eq!(world.row(&job).status, JobStatus::Completed);
}

#[test]
fn those_that_write_to_a_vault_alone_run_one_after_the_other() {
    let world = World::new(|state| Script { vault: Hold::Alone, ..waiting(state) });
    let jobs = [world.job("quick"), world.job("quick")];
    jobs.iter().for_each(|job| world.put(job));
    runner::begin_waiting(&world.service).unwrap();
    world.state.wait_for_begun(1);
    runner::begin_waiting(&world.service).unwrap();
    assert_eq!(running::of(&world.service).count(), 1);
    world.state.open();
    world.settle();
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    assert!(jobs.iter().all(|job| world.row(job).status == JobStatus::Completed));
}

#[test]
fn a_run_that_ends_by_a_bug_is_looked_at() {
    let world = World::new(|state| Script { does: |_, _, _| panic!("a bug"), ..quick(state) });
    let job = world.job("quick");
    world.put(&job);
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    assert_eq!(world.state.looked.load(Ordering::SeqCst), 1);
    let row = world.row(&job);
    assert_eq!(row.status, JobStatus::Failed, "{row:?}");
    assert!(row.errors[0].message.contains("this is a bug"), "{row:?}");
}

#[test]
fn a_job_of_an_unknown_kind_is_left_alone() {
    let world = World::new(quick);
    let job = world.job("of-a-newer-version");
    world.put(&job);
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        for _ in 0..3 {
            runner::begin_waiting(&world.service).unwrap();
        }
        super::settle::recover(&world.service).unwrap();
    });
    // It is looked at every other second: the log says so once.
    assert_eq!(log.0.load(Ordering::SeqCst), 1);
    let row = world.row(&job);
    assert_eq!((row.status, row.version), (JobStatus::InProgress, 1), "{row:?}");
    // Nobody knows what it has made: it is not over because somebody wants it to be.
    assert_eq!(cancel::cancel(&world.service, &world.vault, job.id).unwrap().status, JobStatus::Cancelling);
    assert_eq!(super::kind::of(&world.service, &job).err().unwrap().code, Some(errors::NOT_UNDERSTOOD));
}

#[test]
fn one_that_nobody_runs_is_cancelled_at_once_and_one_that_runs_when_it_stops() {
    let world = World::new(waiting);
    let (waits, runs) = (world.job("quick"), world.job("quick"));
    world.put(&runs);
    runner::begin_waiting(&world.service).unwrap();
    world.state.wait_for_begun(1);
    world.put(&waits);
    let service = &world.service;
    assert_eq!(cancel::cancel(service, &world.vault, waits.id).unwrap().status, JobStatus::Cancelled);
    assert_eq!(cancel::cancel(service, &world.vault, runs.id).unwrap().status, JobStatus::Cancelling);
    world.settle();
    assert_eq!(world.row(&runs).status, JobStatus::Cancelled);
}

#[test]
fn what_a_start_finds_is_taken_up_as_its_kind_says() {
    for (again, attempts, expected) in [
        (Again::Always, 9, JobStatus::InProgress),
        (Again::Times(3), 2, JobStatus::InProgress),
        (Again::Times(3), 3, JobStatus::Failed),
        (Again::Never, 0, JobStatus::InProgress),
        (Again::Never, 1, JobStatus::Failed),
    ] {
        let world = World::new(|state| Script { again, ..quick(state) });
        let until = world.service.now() + SignedDuration::from_hours(1);
        let lease = Some(Lease { owner: Uuid::new_v4(), until });
        let job = Job { lease, attempts, ..world.job("quick") };
        world.put(&job);
        super::settle::recover(&world.service).unwrap();
        let row = world.row(&job);
        assert_eq!(row.status, expected, "{again:?}, {attempts} attempts: {row:?}");
        assert!(row.lease.is_none(), "{row:?}");
    }
}

#[test]
fn what_a_start_finds_committed_goes_on() {
    let world = World::new(|state| Script { is_committed: true, ..quick(state) });
    let until = world.service.now() + SignedDuration::from_hours(1);
    let lease = Some(Lease { owner: Uuid::new_v4(), until });
    let job = Job { lease, attempts: 1, ..world.job("quick") };
    world.put(&job);
    super::settle::recover(&world.service).unwrap();
    let row = world.row(&job);
    assert!(row.lease.is_none() && row.status == JobStatus::InProgress, "{row:?}");
    runner::begin_waiting(&world.service).unwrap();
    world.settle();
    assert_eq!(world.row(&job).status, JobStatus::Completed);
}

#[test]
fn a_chore_has_its_turns_until_the_service_stops() {
    static TURNS: AtomicUsize = AtomicUsize::new(0);
    #[derive(Default)]
    struct Counts;
    impl Chore for Counts {
        fn name(&self) -> &'static str {
            "counts"
        }

        fn turn(&mut self, service: &Service) -> Rest {
            let turn = TURNS.fetch_add(1, Ordering::SeqCst);
            if turn == 2 {
                service.life.stop();
            }
            Rest::For(Duration::ZERO)
        }
    }
    let (data, clock) = (tempfile::tempdir().unwrap(), Still::new());
    let chores = Chores::default().with::<Counts>();
    let service = crate::open::of_kinds(data.path(), clock, Kinds::default(), chores).unwrap();
    service.start().unwrap();
    service.life.join();
    assert_eq!(TURNS.load(Ordering::SeqCst), 3);
}

/// What a run writes together with another row is refused like all else that it writes.
#[test]
fn a_change_beside_another_rows_is_of_who_has_the_lease() {
    let world = World::new(quick);
    let job = Job { fence: 3, ..world.job("quick") };
    let service = &world.service;
    // Nobody has seen it yet.
    let change = ledger::change_of(service, &job, |row| row.warnings.push("first".into())).unwrap();
    service.catalog.apply(&[change]).unwrap();
    let change = ledger::change_of(service, &job, |row| row.warnings.push("second".into())).unwrap();
    service.catalog.apply(&[change]).unwrap();
    assert_eq!(world.row(&job).warnings, ["first", "second"]);
    let before = Job { fence: 2, ..job };
    let refused = ledger::change_of(service, &before, |row| row.warnings.clear()).err().unwrap();
    assert_eq!(refused.code, Some(errors::LEASE_LOST));
}

/// Nobody knows which points a job reads whose kind is not known: all of its item stay until it is over.
#[test]
fn an_unknown_kind_is_taken_to_need_every_point_of_its_item() {
    let world = World::new(quick);
    let item = Uuid::new_v4();
    let point: Point = serde_json::from_value(serde_json::json!({
        "id": PointId::from_uuid(Uuid::new_v4()), "vault": world.vault.id, "item": item, "name": "4711",
        "taken_at": world.service.now(), "consistency": Consistency::new(ConsistencyLevel::Crash, ""), "disks": [], "os": "Linux",
        "stored_bytes": 0, "scheduled_for": null, "keep_until": null, "policy_type": "V1", "job": null,
    }))
    .unwrap();
    let known = Job { item: Some(item), ..world.job("quick") };
    world.put(&known);
    assert!(ledger::needing(&world.service, &point).unwrap().is_none());
    let unknown = Job { item: Some(item), ..world.job("of-a-newer-version") };
    world.put(&unknown);
    let needs = ledger::needing(&world.service, &point).unwrap().unwrap();
    assert_eq!(needs.id, unknown.id);
    let code = super::kind::of(&world.service, &unknown).err().unwrap();
    assert_eq!((code.kind, code.code), (ErrorKind::Unsupported, Some(errors::NOT_UNDERSTOOD)));
}
