//! The service under a clock of the test's own: schedules over days, clocks that jump, retention, soft deletion. Nothing
//! runs by itself here; each look at the schedule, and each housekeeping, is the test's.

mod common;
#[path = "common/faults.rs"]
mod faults;
#[path = "common/host.rs"]
mod host;

use faults::Faults;
use host::FakeHost;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strongroom_catalog::{
    AuditEntry, Change, Item, Job, Lease, Machine, Operation, Point, Policy, Query, Row as _, SoftDelete,
    Table, Transfer, Vault, key,
};
use strongroom_domain::arm_names;
use strongroom_domain::item::ItemState;
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_domain::policy::{DailyRetention, Policy as Rules, Retention};
use strongroom_service::restore::Target;
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{
    AuditConfig, Clock, DataDirectory, Service, ServiceConfig, audit, backup, drill, groups, housekeeping,
    instant, items, points, policies, restore, retention, schedule, vaults,
};
use strongroom_store::Session;
use strongroom_store::objects::Location;
use uuid::Uuid;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Wall time, which may jump, and time that passes.
#[derive(Clone)]
struct Hands(Arc<Mutex<(Timestamp, Duration)>>);

impl Hands {
    fn new(at: &str) -> Self {
        Self(Arc::new(Mutex::new((at.parse().unwrap(), Duration::from_secs(1000)))))
    }

    fn pass(&self, seconds: i64) {
        let mut hands = self.0.lock().unwrap();
        hands.0 += SignedDuration::from_secs(seconds);
        hands.1 += Duration::from_secs(seconds.unsigned_abs());
    }

    /// Only the wall clock: somebody set it.
    fn jump(&self, seconds: i64) {
        self.0.lock().unwrap().0 += SignedDuration::from_secs(seconds);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

fn open(data: &Path, hands: &Hands) -> Service {
    open_around(data, hands, &Faults::default())
}

fn open_around(data: &Path, hands: &Hands, faults: &Faults) -> Service {
    let config = ServiceConfig { data: data.to_owned(), hosts: Vec::new(), ..ServiceConfig::default() };
    let around = |catalog| faults.around(catalog);
    Service::open_around(config, Vec::new(), Arc::new(hands.clone()), around).unwrap()
}

/// A service with a vault, a policy and a protected machine that no host has, since the 1st of the month at noon, whose
/// clock is trusted.
struct Lab {
    directory: tempfile::TempDir,
    hands: Hands,
    faults: Faults,
    service: Service,
    vault: Uuid,
    item: Uuid,
}

impl Lab {
    fn new(rules: Rules) -> Self {
        Self::with(rules, &VaultSettings::default())
    }

    fn with(rules: Rules, settings: &VaultSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hands = Hands::new("2026-02-28T12:00:00Z");
        let faults = Faults::default();
        let service = open_around(directory.path(), &hands, &faults);
        groups::put(&service, "group", "local", None).unwrap();
        let vault = vaults::put(&service, "group", "vault", "local", settings).unwrap().0;
        policies::put(&service, &vault, "policy", rules, serde_json::Value::Null).unwrap();
        let mut lab = Self { directory, hands, faults, service, vault: vault.id, item: Uuid::nil() };
        // The first start is followed by the grace.
        for _ in 0..24 {
            lab.hands.pass(HOUR);
            housekeeping::sweep(&lab.service).unwrap();
        }
        lab.item = lab.protect("machine");
        lab
    }

    /// The same data directory, by a service with a host.
    fn with_host(self, host: &FakeHost) -> Self {
        let Self { directory, hands, faults, service, vault, item } = self;
        drop(service);
        let config = ServiceConfig {
            data: directory.path().to_owned(),
            hosts: Vec::new(),
            ..ServiceConfig::default()
        };
        let hosts = vec![host.as_host()];
        let service = Service::open_with(config, hosts, Arc::new(hands.clone())).unwrap();
        Self { directory, hands, faults, service, vault, item }
    }

    fn protect(&self, name: &str) -> Uuid {
        let machine = common::machine(&self.service, name);
        self.service.catalog().apply(&[Change::put(&machine)]).unwrap();
        items::protect(&self.service, &self.vault(), &machine, &self.policy(), None, "test").unwrap().item.id
    }

    fn vault(&self) -> Vault {
        self.service.catalog().get(self.vault).unwrap().unwrap()
    }

    fn policy(&self) -> Policy {
        policies::get(&self.service, &self.vault(), "policy").unwrap()
    }

    fn item(&self) -> Item {
        self.service.catalog().get(self.item).unwrap().unwrap()
    }

    fn set_rules(&self, rules: Rules) {
        policies::put(&self.service, &self.vault(), "policy", rules, serde_json::Value::Null).unwrap();
    }

    fn jobs(&self) -> Vec<Job> {
        let query = Query::all().eq("operation", JobOperation::Backup.arm_name()).ascending("started_us");
        self.service.catalog().find(&query).unwrap()
    }

    /// For which runs of the schedule there are jobs, each as often as there are.
    fn runs(&self) -> Vec<Timestamp> {
        let run = |job: &Job| -> Option<Timestamp> {
            serde_json::from_value::<backup::BackupRequest>(job.request.clone()).unwrap().scheduled_for
        };
        self.jobs().iter().filter_map(run).collect()
    }

    /// Looks at the schedules, twice; then what was begun is over, as a runner would have it.
    fn tick(&self) {
        schedule::tick(&self.service).unwrap();
        schedule::tick(&self.service).unwrap();
        self.end_jobs();
    }

    fn end_jobs(&self) {
        for mut job in self.jobs().into_iter().filter(|j| !j.status.is_over()) {
            job.status = JobStatus::Failed;
            job.ended_at = Some(self.service.now());
            self.service.catalog().apply(&[Change::put(&job)]).unwrap();
        }
    }

    /// Time passes evenly, with all that happens by itself.
    fn live(&self, seconds: i64, step: i64) {
        for _ in 0..seconds / step {
            self.hands.pass(step);
            housekeeping::purge(&self.service).unwrap();
            housekeeping::sweep(&self.service).unwrap();
            self.tick();
        }
    }

    /// A point in the vault and in the catalog, as a scheduled backup makes it.
    fn point(&self, scheduled_for: &str) -> Point {
        let item = self.item();
        let run: Timestamp = scheduled_for.parse().unwrap();
        let store = self.store();
        let draft = common::point_draft(item.store_item.clone(), run);
        let manifest = Session::begin(&store, "test").unwrap().commit(draft).unwrap();
        let point = Point {
            id: manifest.point,
            version: 0,
            vault: self.vault,
            item: item.id,
            name: arm_names::recovery_point_name(&manifest.point, 0),
            taken_at: run,
            consistency: manifest.consistency,
            disks: Vec::new(),
            excluded: Vec::new(),
            has_choice: false,
            os: "Linux".into(),
            machine_size: String::new(),
            stored_bytes: 0,
            reason: None,
            scheduled_for: Some(run),
            keep_until: None,
            kept_in_manifest: false,
            policy_type: "V1".into(),
            job: None,
            drill: None,
            guest: None,
            transfer: Transfer::Done,
            vaulted_at: Some(run),
            snapshot: None,
            checkpoints: BTreeMap::new(),
            going_at: None,
            snapshot_ended_at: None,
            missing_since: None,
            no_snapshot: String::new(),
        };
        self.service.catalog().apply(&[Change::put(&point)]).unwrap();
        point
    }

    /// The vault's store, opened beside the service.
    fn store(&self) -> strongroom_store::Vault {
        let vault = self.vault();
        let key = self.service.data().keys().join(format!("{}.key", vault.id));
        let location = Location::parse(&vault.store_location).unwrap();
        strongroom_engine::vaults::open(&location, Some(&key)).unwrap()
    }

    /// The days of the points that are left, and the vault's and the catalog's are the same.
    fn days(&self) -> Vec<i8> {
        let points: Vec<Point> =
            self.service.catalog().find(&Query::all().eq("item", self.item).ascending("taken_us")).unwrap();
        let stored: BTreeSet<_> =
            self.store().points(None).unwrap().points.iter().map(|m| m.point.to_string()).collect();
        assert_eq!(stored, points.iter().map(|p| p.id.to_string()).collect());
        points.iter().map(|p| p.taken_at.to_zoned(jiff::tz::TimeZone::UTC).day()).collect()
    }

    /// Points of the 1st to the 6th of March, with the clock at noon of the 6th.
    fn six_points(&self) {
        for day in 1..=6 {
            self.point(&format!("2026-03-0{day}T11:00:00Z"));
        }
        while self.service.now() < "2026-03-06T12:00:00Z".parse().unwrap() {
            self.hands.pass(HOUR);
            // The clock is watched, as it is all the time; nobody expires anything.
            housekeeping::purge(&self.service).unwrap();
        }
        assert_eq!(self.days(), [1, 2, 3, 4, 5, 6]);
    }

    /// The point of a day of March.
    fn point_of(&self, day: i8) -> Point {
        let query = Query::all().eq("item", self.item).eq("taken_us", march(day, 11, 0));
        self.service.catalog().first(query).unwrap().unwrap()
    }

    /// Asks for a point's disks; nobody does it.
    fn restore(&self, point: &Point) -> strongroom_service::Result<Job> {
        let directory = self.directory.path().to_owned();
        let target = Target::Disks { place: "place".into(), directory, pool: None, format: None };
        restore::restore(
            &self.service,
            &self.vault(),
            &self.item(),
            point,
            restore::Asked::of(target, "group", "test"),
        )
    }

    fn end(&self, mut job: Job) {
        job = self.service.catalog().get(job.id).unwrap().unwrap();
        job.status = JobStatus::Completed;
        job.ended_at = Some(self.service.now());
        self.service.catalog().apply(&[Change::put(&job)]).unwrap();
    }

    fn expire(&self) -> usize {
        retention::expire_item(&self.service, self.item).unwrap()
    }
}

fn daily(days: u32) -> Rules {
    let retention = Retention { daily: Some(DailyRetention { days }), ..Retention::default() };
    Rules { retention, snapshot_days: 1, ..Rules::default_standard() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn march(day: i8, hour: i8, minute: i8) -> Timestamp {
    at(&format!("2026-03-{day:02}T{hour:02}:{minute:02}:00Z"))
}

#[test]
fn each_run_is_made_once_over_days() {
    let lab = Lab::new(Rules::default_standard());
    lab.live(10 * DAY, 900);
    let expected: Vec<Timestamp> = (1..=10).map(|day| march(day, 20, 30)).collect();
    assert_eq!(lab.runs(), expected);
    assert!(lab.jobs().iter().all(|job| job.asked_by.is_empty() && job.item == Some(lab.item)));

    let lab = Lab::new(Rules::default_enhanced());
    // A step that never hits a run's minute.
    lab.live(3 * DAY, 977);
    let runs = lab.runs();
    let expected: Vec<Timestamp> = [(1, 12), (1, 16), (1, 20)]
        .into_iter()
        .chain([2, 3].into_iter().flat_map(|day| [8, 12, 16, 20].map(|hour| (day, hour))))
        .map(|(day, hour)| march(day, hour, 0))
        .filter(|run| *run > march(1, 12, 0))
        .collect();
    assert_eq!(&runs[..expected.len()], expected);
    assert!(runs.len() <= expected.len() + 1);
}

#[test]
fn missed_runs_are_one_and_a_running_backup_skips_the_next() {
    let lab = Lab::new(Rules::default_standard());
    lab.hands.pass(5 * DAY);
    lab.tick();
    assert_eq!(lab.runs(), [march(5, 20, 30)]);

    // A backup that is still open when the next is due: that one is skipped, and told of.
    lab.hands.pass(DAY);
    schedule::tick(&lab.service).unwrap();
    lab.hands.pass(DAY);
    schedule::tick(&lab.service).unwrap();
    assert_eq!(lab.runs(), [march(5, 20, 30), march(6, 20, 30), march(7, 20, 30)]);
    let skipped = lab.jobs().pop().unwrap();
    assert_eq!(skipped.status, JobStatus::CompletedWithWarnings);
    assert_eq!(skipped.errors[0].name, "UserErrorScheduledBackupSkipped");
    assert!(skipped.ended_at.is_some());
    lab.tick();
    assert_eq!(lab.runs().len(), 3);
}

#[test]
fn a_clock_that_jumps_runs_nothing_twice() {
    for jump in [-60, -HOUR, -5 * HOUR, -26 * HOUR, -3 * DAY, HOUR, 30 * DAY] {
        let jump: i64 = jump;
        let lab = Lab::new(Rules::default_standard());
        lab.live(5 * DAY, 900);
        assert_eq!(lab.runs().len(), 5, "{jump}");
        lab.hands.jump(jump);
        // The schedule is the first to see it, before anything else has looked at the clock.
        lab.tick();
        let after_jump = lab.runs().len();
        assert!(after_jump <= 5 + usize::from(jump > HOUR), "{jump}: {:?}", lab.runs());
        lab.live(5 * DAY, 900);
        let runs = lab.runs();
        let once: BTreeSet<Timestamp> = runs.iter().copied().collect();
        if jump > -2 * DAY {
            assert_eq!(once.len(), runs.len(), "{jump}: run twice: {runs:?}");
        } else {
            // Days that come a second time are days: after the grace each has its run, and none has two.
            assert!(runs.len() <= 5 + 5 && once.len() + 3 >= runs.len(), "{jump}: {runs:?}");
        }
        // And it goes on: no more than the runs of the days that it was held up for are missing.
        let made = runs.len() - after_jump;
        let held_up = usize::try_from((-jump).max(0) / DAY).unwrap() + 1;
        assert!(made + held_up >= 5, "{jump}: {runs:?}");
    }
}

#[test]
fn a_clock_that_was_far_ahead_and_is_put_right_holds_nothing_up_for_long() {
    let lab = Lab::new(Rules::default_standard());
    lab.hands.jump(30 * DAY);
    lab.live(3 * DAY, 900);
    let ahead = lab.runs().len();
    assert!((3..=4).contains(&ahead), "{:?}", lab.runs());
    lab.hands.jump(-30 * DAY);
    lab.live(4 * DAY, 900);
    let runs = lab.runs();
    assert_eq!(runs.iter().collect::<BTreeSet<_>>().len(), runs.len(), "{runs:?}");
    // After a day of an even clock the schedule goes on.
    assert!(runs.len() >= ahead + 3, "{runs:?}");
}

#[test]
fn items_that_are_stopped_or_suspended_are_not_run_and_resumed_ones_make_up_for_nothing() {
    let lab = Lab::new(Rules::default_standard());
    lab.live(DAY, HOUR);
    assert_eq!(lab.runs(), [march(1, 20, 30)]);
    for suspend in [false, true] {
        let before = lab.runs().len();
        let stopped = items::stop(&lab.service, &lab.item(), suspend, "test").unwrap();
        assert_eq!(stopped.job.status, JobStatus::Completed);
        lab.live(3 * DAY, HOUR);
        assert_eq!(lab.runs().len(), before, "suspended: {suspend}");
        let machine: Machine = lab.service.catalog().get(lab.item().machine).unwrap().unwrap();
        items::protect(&lab.service, &lab.vault(), &machine, &lab.policy(), None, "test").unwrap();
        lab.tick();
        assert_eq!(lab.runs().len(), before, "suspended: {suspend}");
        lab.live(DAY, HOUR);
        assert_eq!(lab.runs().len(), before + 1, "suspended: {suspend}");
    }
}

#[test]
fn nothing_expires_on_a_first_day_nor_on_a_clock_that_jumped_without_a_grace() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    // Trusted: what is older than three days goes, the rest stays.
    assert_eq!(lab.expire(), 3);
    assert_eq!(lab.days(), [4, 5, 6]);

    // A month forward: all of it would be old.
    lab.hands.jump(30 * DAY);
    assert_eq!(lab.expire(), 0);
    for _ in 0..23 {
        lab.hands.pass(HOUR);
        housekeeping::sweep(&lab.service).unwrap();
        housekeeping::purge(&lab.service).unwrap();
        assert_eq!(lab.expire(), 0);
    }
    assert_eq!(lab.days(), [4, 5, 6]);
    // Put right within the grace: nothing was lost.
    lab.hands.jump(-30 * DAY);
    assert_eq!(lab.expire(), 0);
    // Another day of an even clock: the points of the 4th and 5th have had their three days by the 8th.
    for _ in 0..25 {
        lab.hands.pass(HOUR);
        housekeeping::sweep(&lab.service).unwrap();
    }
    assert!(lab.service.now() > march(8, 11, 0) && lab.service.now() < march(9, 11, 0));
    assert_eq!(lab.days(), [6]);
}

/// A file system in memory over a directory, unmounted on drop. Needs root, as the whole suite does.
struct Mount(std::path::PathBuf);

impl Mount {
    /// What is in the directory goes along.
    fn over(directory: &Path) -> Self {
        let copy = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
        };
        let here = |path: &Path| path.join(".").into_os_string();
        run("cp", &["-a".as_ref(), &here(directory), copy.path().as_ref()]);
        let options = ["-t", "tmpfs", "-o", "size=64m", "tmpfs"].map(std::ffi::OsStr::new);
        run("mount", &[&options[..], &[directory.as_ref()]].concat());
        let mount = Self(directory.to_owned());
        run("cp", &["-a".as_ref(), &here(copy.path()), directory.as_ref()]);
        mount
    }

    /// Takes all that is free, to the last block.
    fn fill(&self) {
        let file = std::fs::File::create(self.0.join("fill")).unwrap();
        let mut piece = vec![1; 1 << 20];
        while !piece.is_empty() {
            if std::io::Write::write(&mut &file, &piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn points_expire_on_a_disk_that_is_full_to_its_last_block() {
    let Lab { directory, hands, faults, service, vault, item } = Lab::new(daily(3));
    service.stop();
    drop(service);
    let mount = Mount::over(directory.path());
    let service = open_around(directory.path(), &hands, &faults);
    let lab = Lab { directory, hands, faults, service, vault, item };
    lab.six_points();
    mount.fill();
    assert!(std::fs::write(lab.directory.path().join("x"), "x").is_err());
    housekeeping::sweep(&lab.service).unwrap();
    assert_eq!(lab.days(), [4, 5, 6]);
    lab.service.stop();
    let Lab { directory, service, .. } = lab;
    drop(service);
    // Before the directory is removed under it.
    drop(mount);
    drop(directory);
}

#[test]
fn a_clock_that_stays_ahead_is_believed_after_the_grace_and_the_last_point_is_held() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    lab.hands.jump(30 * DAY);
    for hour in 0..26 {
        assert_eq!(lab.days().len(), 6, "after {hour} hours");
        if hour == 24 {
            break;
        }
        lab.hands.pass(HOUR);
        housekeeping::purge(&lab.service).unwrap();
    }
    lab.hands.pass(HOUR);
    housekeeping::sweep(&lab.service).unwrap();
    assert_eq!(lab.days(), [6]);
    lab.live(2 * DAY, HOUR);
    assert_eq!(lab.days(), [6]);
    // Another one: the last is let go of.
    lab.point("2026-04-09T11:00:00Z");
    assert_eq!(lab.expire(), 1);
    assert_eq!(lab.days(), [9]);
}

#[test]
fn a_clock_put_back_an_hour_expires_nothing_early_and_nothing_twice() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    lab.hands.jump(-HOUR);
    assert_eq!(lab.expire(), 0);
    lab.live(20 * HOUR, HOUR);
    assert_eq!(lab.days(), [1, 2, 3, 4, 5, 6]);
    // A day of grace later it is the 7th at noon: the point of the 4th has had its time as well.
    lab.live(5 * HOUR, HOUR);
    assert_eq!(lab.days(), [5, 6]);
}

#[test]
fn a_service_that_was_away_for_long_waits_and_what_it_knew_is_kept() {
    let Lab { directory, hands, faults, service, vault, item } = {
        let lab = Lab::new(daily(3));
        lab.six_points();
        lab
    };
    service.stop();
    drop(service);
    // An hour: as if it had never been away. What it left is due at once.
    hands.pass(HOUR);
    let service = open(directory.path(), &hands);
    let lab = Lab { directory, hands, faults: faults.clone(), service, vault, item };
    assert_eq!(lab.expire(), 3);
    // Ten days, or a clock that says so: nobody can tell.
    let Lab { directory, hands, service, .. } = lab;
    service.stop();
    drop(service);
    hands.pass(10 * DAY);
    let service = open(directory.path(), &hands);
    let lab = Lab { directory, hands, faults: faults.clone(), service, vault, item };
    housekeeping::sweep(&lab.service).unwrap();
    assert_eq!((lab.expire(), lab.days()), (0, vec![4, 5, 6]));
    lab.live(DAY, HOUR);
    housekeeping::sweep(&lab.service).unwrap();
    assert_eq!(lab.days(), [6]);
}

#[test]
fn a_policys_change_holds_for_the_points_there_are() {
    let lab = Lab::new(daily(100));
    lab.six_points();
    assert_eq!(lab.expire(), 0);
    lab.set_rules(daily(3));
    assert_eq!((lab.expire(), lab.days()), (3, vec![4, 5, 6]));
    lab.set_rules(daily(100));
    lab.hands.pass(5 * DAY);
    housekeeping::purge(&lab.service).unwrap();
    assert_eq!((lab.expire(), lab.days()), (0, vec![4, 5, 6]));
    lab.set_rules(daily(1));
    assert_eq!((lab.expire(), lab.days()), (2, vec![6]));
}

#[test]
fn stopping_protection_keeps_every_point_and_suspending_lets_them_expire_but_for_the_last() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    items::stop(&lab.service, &lab.item(), false, "test").unwrap();
    assert_eq!(lab.item().state, ItemState::ProtectionStopped);
    assert_eq!((lab.expire(), lab.days()), (0, vec![1, 2, 3, 4, 5, 6]));
    // The policy is free to go.
    assert!(policies::delete(&lab.service, &lab.vault(), "policy").unwrap());
    lab.live(40 * DAY, HOUR);
    assert_eq!(lab.days(), [1, 2, 3, 4, 5, 6]);
    // Until somebody says by which policy it goes on.
    lab.set_rules(daily(39));
    let machine: Machine = lab.service.catalog().get(lab.item().machine).unwrap().unwrap();
    items::protect(&lab.service, &lab.vault(), &machine, &lab.policy(), None, "test").unwrap();
    assert_eq!((lab.expire(), lab.days()), (5, vec![6]));

    let lab = Lab::new(daily(3));
    lab.six_points();
    items::stop(&lab.service, &lab.item(), true, "test").unwrap();
    assert_eq!(lab.item().state, ItemState::BackupsSuspended);
    assert_eq!((lab.expire(), lab.days()), (3, vec![4, 5, 6]));
    lab.live(5 * DAY, HOUR);
    assert_eq!(lab.days(), [6]);
    lab.live(40 * DAY, HOUR);
    assert_eq!(lab.days(), [6]);
}

#[test]
fn a_point_that_a_waiting_job_needs_stays_until_that_is_over() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    let job = lab.restore(&lab.point_of(1)).unwrap();
    lab.expire();
    assert_eq!(lab.days(), [1, 4, 5, 6]);
    // Each job for itself.
    lab.end(job);
    let second = lab.restore(&lab.point_of(1)).unwrap();
    lab.expire();
    assert_eq!(lab.days(), [1, 4, 5, 6]);
    lab.end(second);
    assert_eq!(lab.expire(), 1);
    assert_eq!(lab.days(), [4, 5, 6]);
}

/// The same of every other kind of job that reads a point: a drill, a machine that runs from it, a replacement of disks.
#[test]
fn each_kind_of_job_keeps_its_point() {
    let lab = Lab::new(daily(3));
    let disk = lab.directory.path().join("disk.img");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let host = FakeHost::new(lab.directory.path());
    let there = host.add("machine", &[("vda", &disk)]);
    let lab = lab.with_host(&host);
    lab.six_points();
    let mut machine: Machine = lab.service.catalog().get(lab.item().machine).unwrap().unwrap();
    (machine.host, machine.host_uuid) = ("host".into(), there.summary.uuid);
    lab.service.catalog().apply(&[Change::put(&machine)]).unwrap();
    let to = |name: &str| instant::NewMachine {
        name: name.into(),
        group: "group".into(),
        host: "host".into(),
        directory: Some(lab.directory.path().to_owned()),
        network: None,
        unencrypted: false,
    };
    let (service, vault) = (&lab.service, lab.vault());
    let first = lab.point_of(1);
    let kinds: [(&str, &dyn Fn() -> Job); 3] = [
        ("drill", &|| {
            let options = drill::DrillOptions::default();
            drill::begin(service, &vault, &lab.item(), &first, &options, "test").unwrap()
        }),
        ("instant restore", &|| {
            instant::begin(service, &vault, &lab.item(), &first, to("new"), None, "test").unwrap()
        }),
        ("replacement", &|| {
            let (item, target) = (lab.item(), Target::Replace);
            restore::restore(service, &vault, &item, &first, restore::Asked::of(target, "group", "test"))
                .unwrap()
        }),
    ];
    for (kind, begin) in kinds {
        let job = begin();
        lab.expire();
        assert_eq!(lab.days(), [1, 4, 5, 6], "{kind} that waits");
        let mut running: Job = service.catalog().get(job.id).unwrap().unwrap();
        running.lease = Some(Lease { owner: Uuid::new_v4(), until: service.now() });
        service.catalog().apply(&[Change::put(&running)]).unwrap();
        lab.expire();
        assert_eq!(lab.days(), [1, 4, 5, 6], "{kind} that runs");
        lab.end(job);
    }
    assert_eq!(lab.expire(), 1);
    assert_eq!(lab.days(), [4, 5, 6]);
}

/// Each between the other's look and its write.
#[test]
fn a_job_and_the_end_of_its_point_do_not_pass_each_other() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    // The job comes after it was looked for.
    let made: Arc<Mutex<Option<Job>>> = Arc::default();
    let (service, vault, item, point) = (lab.service.clone(), lab.vault(), lab.item(), lab.point_of(1));
    let (directory, keeps) = (lab.directory.path().to_owned(), made.clone());
    lab.faults.after_query(move |table| {
        if table == Table::Jobs && keeps.lock().unwrap().is_none() {
            let target = Target::Disks {
                place: "place".into(),
                directory: directory.clone(),
                pool: None,
                format: None,
            };
            let job = restore::restore(
                &service,
                &vault,
                &item,
                &point,
                restore::Asked::of(target, "group", "test"),
            )
            .unwrap();
            *keeps.lock().unwrap() = Some(job);
        }
    });
    lab.expire();
    lab.faults.after_query(|_| ());
    let job = made.lock().unwrap().take().unwrap();
    assert!(lab.days().contains(&1), "a job was promised a point that went");
    lab.expire();
    assert_eq!(lab.days(), [1, 4, 5, 6]);
    lab.end(job);

    // The point goes after the job was checked, before it is written.
    let (service, item) = (lab.service.clone(), lab.item);
    let is_new = |c: &Change| matches!(c, Change::Put { table: Table::Jobs, version: 0, .. });
    let mut once = true;
    lab.faults.set(move |changes| {
        if changes.iter().any(is_new) && std::mem::take(&mut once) {
            assert_eq!(retention::expire_item(&service, item).unwrap(), 1);
        }
        None
    });
    let error = lab.restore(&lab.point_of(1)).unwrap_err();
    assert_eq!(error.code, Some("UserErrorRecoveryPointNotFound"), "{error}");
    assert!(error.message.contains("has expired"), "{error}");
    assert_eq!(lab.days(), [4, 5, 6]);
    let open: Vec<Job> = lab.service.catalog().find(&Query::all().eq("open", true)).unwrap();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_point_that_goes_is_not_shown_and_goes_in_the_end_whatever_fails() {
    for failing in 0..3 {
        let lab = Lab::new(daily(3));
        lab.six_points();
        let first = lab.point_of(1);
        let mut number = 0;
        lab.faults.set(move |changes| {
            let is_points = |c: &Change| {
                let (Change::Put { table, .. } | Change::Delete { table, .. }) = c else { return false };
                *table == Table::RecoveryPoints
            };
            let is_it = changes.iter().any(is_points);
            number += usize::from(is_it);
            (is_it && number == failing + 1).then(|| faults::error(failing))
        });
        let _ = retention::expire_item(&lab.service, lab.item);
        lab.faults.heal();
        // Whatever is told to be there can be restored; whatever is not cannot.
        let stored = lab.store().points(None).unwrap().points;
        for point in points::list(&lab.service, &lab.item(), None, None).unwrap() {
            assert!(stored.iter().any(|m| m.point == point.id), "{failing}: it is told to be there");
        }
        if lab.service.catalog().get::<Point>(first.id).unwrap().is_some_and(|p| p.version > 1) {
            assert!(lab.restore(&first).is_err(), "{failing}");
        }
        // Also while the clock is not to be trusted: it was decided.
        lab.hands.jump(-3 * HOUR);
        let _ = retention::expire_item(&lab.service, lab.item);
        lab.hands.jump(3 * HOUR);
        for _ in 0..30 {
            lab.hands.pass(HOUR);
            housekeeping::purge(&lab.service).unwrap();
        }
        lab.expire();
        assert!(!lab.days().contains(&1), "{failing}");
    }
}

#[test]
fn what_was_softly_deleted_is_whole_until_its_time_is_over() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    assert_eq!(lab.item().state, ItemState::SoftDeleted);
    // Nothing of it expires meanwhile.
    lab.live(13 * DAY, HOUR);
    assert_eq!(lab.days(), [1, 2, 3, 4, 5, 6]);
    // Brought back, it is stopped; deleted again, its time begins anew.
    items::undelete(&lab.service, &lab.item(), "test").unwrap();
    assert_eq!(lab.item().state, ItemState::ProtectionStopped);
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    lab.live(13 * DAY, HOUR);
    assert_eq!(lab.days().len(), 6);
    // A clock that jumps over the end purges nothing without the grace.
    lab.hands.jump(30 * DAY);
    lab.live(23 * HOUR, HOUR);
    assert_eq!(lab.days().len(), 6);
    lab.live(2 * HOUR, HOUR);
    assert!(lab.service.catalog().get::<Item>(lab.item).unwrap().is_none());
    assert_eq!(lab.days(), Vec::<i8>::new());
    // Its space is given back, and its jobs tell of it still.
    assert!(lab.service.catalog().count(Job::TABLE, &Query::all().eq("item", lab.item)).unwrap() >= 4);
}

#[test]
fn without_soft_deletion_an_item_goes_at_once_but_not_from_under_a_job() {
    let settings = VaultSettings { soft_delete: Some(SoftDelete::Disabled), ..VaultSettings::default() };
    let lab = Lab::with(daily(3), &settings);
    lab.six_points();
    let job = backup::backup_now(&lab.service, &lab.item(), None, "test").unwrap();
    // A runner has it: cancelling it takes a moment.
    let mut running: Job = lab.service.catalog().get(job.id).unwrap().unwrap();
    running.lease = Some(strongroom_catalog::Lease {
        owner: Uuid::new_v4(),
        until: lab.service.now() + SignedDuration::from_secs(60),
    });
    lab.service.catalog().apply(&[Change::put(&running)]).unwrap();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    housekeeping::purge(&lab.service).unwrap();
    // The backup may commit its point yet: what it belongs to stays until the job is over.
    assert_eq!(lab.days().len(), 6);
    let open: Job = lab.service.catalog().get(job.id).unwrap().unwrap();
    assert_eq!(open.status, JobStatus::Cancelling);
    lab.end_jobs();
    housekeeping::purge(&lab.service).unwrap();
    assert!(lab.service.catalog().get::<Item>(lab.item).unwrap().is_none());
    assert_eq!(lab.days(), Vec::<i8>::new());
}

#[test]
fn a_deleted_vault_is_kept_and_purged_with_all_it_holds() {
    let lab = Lab::new(daily(3));
    lab.six_points();
    assert!(vaults::delete(&lab.service, &lab.vault()).is_err());
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    vaults::delete(&lab.service, &lab.vault()).unwrap();
    assert!(vaults::find(&lab.service, "group", "vault").unwrap().is_none());
    lab.live(3 * DAY, HOUR);
    let vault = vaults::undelete(&lab.service, lab.vault).unwrap();
    assert_eq!(vault.deleted_at, None);
    assert_eq!(lab.days().len(), 6);
    items::undelete(&lab.service, &lab.item(), "test").unwrap();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    vaults::delete(&lab.service, &lab.vault()).unwrap();

    let DataDirectory(data) = lab.service.data();
    let store = data.join("vaults").join(lab.vault.to_string());
    let key_file = data.join("keys").join(format!("{}.key", lab.vault));
    lab.live(13 * DAY, HOUR);
    assert!(store.is_dir() && key_file.is_file());
    // A clock that jumped purges no vault either.
    lab.hands.jump(30 * DAY);
    lab.live(23 * HOUR, HOUR);
    assert!(store.is_dir() && key_file.is_file());
    lab.live(2 * HOUR, HOUR);
    // The key is nobody's to delete but who types its vault's id.
    assert!(!store.exists() && key_file.is_file());
    assert!(lab.service.catalog().get::<Vault>(lab.vault).unwrap().is_none());
    for (table, rows) in
        [(Item::TABLE, "items"), (Point::TABLE, "points"), (Job::TABLE, "jobs"), (Policy::TABLE, "policies")]
    {
        assert_eq!(lab.service.catalog().count(table, &Query::all()).unwrap(), 0, "{rows}");
    }
    // Its name is free.
    assert_eq!(key("vault"), "vault");
    vaults::put(&lab.service, "group", "vault", "local", &VaultSettings::default()).unwrap();
}

#[test]
fn operations_are_forgotten_after_a_week() {
    let lab = Lab::new(daily(3));
    let count = || lab.service.catalog().count(Operation::TABLE, &Query::all()).unwrap();
    assert_eq!(count(), 1);
    lab.live(6 * DAY, HOUR);
    assert_eq!(count(), 1);
    lab.live(2 * DAY, HOUR);
    assert_eq!(count(), 0);
}

/// Who did what to what, in the order of writing.
fn audit_rows(service: &Service) -> Vec<(String, String)> {
    let rows: Vec<AuditEntry> = service.catalog().find(&Query::all().in_order_of_writing()).unwrap();
    rows.into_iter().map(|row| (row.principal, row.detail)).collect()
}

#[test]
fn what_happens_by_itself_is_in_the_audit() {
    let lab = Lab::new(daily(7));
    let told = |who: &str, what: &str| {
        let rows = audit_rows(&lab.service);
        assert!(rows.iter().any(|(w, detail)| w == who && detail.contains(what)), "{who}, {what}: {rows:?}");
    };
    lab.live(DAY, HOUR);
    told("service: scheduler", "made job Backup ");
    let point = lab.point("2026-03-02T12:00:00Z");
    lab.point("2026-03-20T12:00:00Z");
    lab.hands.pass(30 * DAY);
    for _ in 0..25 {
        lab.hands.pass(HOUR);
        housekeeping::sweep(&lab.service).unwrap();
    }
    assert_eq!(lab.service.catalog().get::<Point>(point.id).unwrap().map(|p| p.id), None, "it has expired");
    told("service: retention", &format!("removed point {}", point.id));
    let item = lab.item();
    items::delete(&lab.service, &lab.vault(), &item, "anna").unwrap();
    for _ in 0..24 * 16 {
        lab.hands.pass(HOUR);
        housekeeping::purge(&lab.service).unwrap();
    }
    told("service: purge", "removed point ");
    told("service: purge", "removed item machine");
}

fn with_audit(config: AuditConfig) -> (tempfile::TempDir, Hands, Service) {
    let directory = tempfile::tempdir().unwrap();
    let hands = Hands::new("2026-02-28T12:00:00Z");
    let data = directory.path().join("data");
    let config = ServiceConfig { data, hosts: Vec::new(), audit: config, ..ServiceConfig::default() };
    let service = Service::open_with(config, Vec::new(), Arc::new(hands.clone())).unwrap();
    (directory, hands, service)
}

fn write_rows(service: &Service, numbers: std::ops::Range<u128>, detail: &str) {
    let changes: Vec<Change> = numbers
        .map(|n| {
            let new = AuditEntry::new(service.now(), "p", "a", "/");
            Change::put(&AuditEntry { id: Uuid::from_u128(n), detail: detail.into(), ..new })
        })
        .collect();
    service.catalog().apply(&changes).unwrap();
}

fn exported(service: &Service) -> Vec<u128> {
    let mut files: Vec<_> =
        std::fs::read_dir(service.data().audit()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let texts: Vec<String> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let ids = |text: &String| -> Vec<u128> {
        let id = |line: &str| serde_json::from_str::<AuditEntry>(line).unwrap().id.as_u128();
        text.lines().map(id).collect()
    };
    texts.iter().flat_map(ids).collect()
}

#[test]
fn the_audit_is_bounded_and_nothing_of_it_is_lost() {
    let kept =
        AuditConfig { keep_days: 30, keep_megabytes: 1, files_keep_months: 2, ..AuditConfig::default() };
    let (_directory, hands, service) = with_audit(kept);
    let there = || {
        let rows: Vec<AuditEntry> = service.catalog().find(&Query::all().in_order_of_writing()).unwrap();
        rows.iter().filter(|r| r.action == "a").map(|row| row.id.as_u128()).collect::<Vec<_>>()
    };
    // By age: but not by a clock that is not trusted yet.
    write_rows(&service, 1..4, "old");
    hands.jump(40 * DAY);
    write_rows(&service, 4..6, "new");
    assert_eq!(audit::keep(&service).unwrap(), 0);
    for _ in 0..26 {
        hands.pass(HOUR);
        audit::keep(&service).unwrap();
    }
    assert_eq!((there(), exported(&service)), (vec![4, 5], vec![1, 2, 3]));
    // By size, the oldest first.
    write_rows(&service, 100..800, &"x".repeat(2000));
    let moved = audit::keep(&service).unwrap();
    let (left, gone) = (there(), exported(&service));
    assert!(moved > 100 && left.len() < 550 && !left.is_empty(), "{moved}, {}", left.len());
    assert_eq!(*left.last().unwrap(), 799, "the newest stay");
    let all: Vec<u128> = gone.iter().chain(&left).copied().collect();
    assert_eq!(all, (1..6).chain(100..800).collect::<Vec<_>>(), "each is in one place");
    assert_eq!(audit::keep(&service).unwrap(), 0);
    // Who follows goes on where it was, and is told where that is no longer.
    let newest = audit::page(&service, None, 1).unwrap();
    write_rows(&service, 900..902, "later");
    let later = audit::page(&service, newest.cursor, 10).unwrap();
    assert_eq!(later.rows.iter().map(|r| r.id.as_u128()).collect::<Vec<_>>(), [900, 901]);
    let expired = audit::page(&service, Some(Uuid::from_u128(1)), 10).unwrap_err();
    assert_eq!(expired.code, Some("AuditCursorExpired"));
    // Files go when their months are over, and that is told.
    for _ in 0..100 {
        hands.pass(DAY);
        audit::keep(&service).unwrap();
    }
    audit::keep(&service).unwrap();
    let removed: Vec<AuditEntry> = service.catalog().find(&Query::all()).unwrap();
    let removed = removed.iter().filter(|r| r.action == "Strongroom.Backup/auditFiles/delete");
    assert!(removed.count() >= 1);
    assert!(!service.data().audit().join("audit-2026-02.jsonl").exists());
}

#[test]
fn syslog_is_told_every_row_once() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let config = AuditConfig { syslog: Some(path.clone()), ..AuditConfig::default() };
    let (_directory, _hands, service) = with_audit(config);
    write_rows(&service, 1..3, "before anybody listened");
    let log = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    log.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    service.start().unwrap();
    // Once it has begun, it tells what comes.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while service.catalog().get::<strongroom_catalog::Setting>("audit-syslog").unwrap().is_none() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    write_rows(&service, 10..700, "x");
    let mut buffer = [0; 8192];
    for wanted in 10..700u128 {
        let length = log.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let (head, json) = text.split_once(": ").unwrap();
        assert!(head.starts_with("<86>") && head.contains(" strongroom["), "{head}");
        assert_eq!(serde_json::from_str::<AuditEntry>(json).unwrap().id.as_u128(), wanted);
    }
    service.stop();
}
