//! The service under a clock of the test's own: schedules over days, clocks that jump, retention, soft deletion. Nothing
//! runs by itself here; each look at the schedule, and each housekeeping, is the test's.

mod common;

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strongroom_catalog::service::{
    Change, Item, Job, Machine, Operation, Point, Policy, Query, Row as _, SoftDelete, Transfer, Vault, key,
};
use strongroom_domain::item::ItemState;
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_domain::policy::{DailyRetention, Policy as Rules, Retention};
use strongroom_domain::{Consistency, ConsistencyLevel, arm_names};
use strongroom_engine::service::vaults::VaultSettings;
use strongroom_engine::service::{
    Clock, DataDirectory, Service, ServiceConfig, backup, groups, housekeeping, items, policies, retention,
    schedule, vaults,
};
use strongroom_store::objects::Location;
use strongroom_store::{Disk, PointDraft, PointKind, Session};
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
    let config = ServiceConfig { data: data.to_owned(), hosts: Vec::new(), ..ServiceConfig::default() };
    Service::open_with(config, Vec::new(), Arc::new(hands.clone())).unwrap()
}

/// A service with a vault, a policy and a protected machine that no host has, since the 1st of the month at noon, whose
/// clock is trusted.
struct Lab {
    directory: tempfile::TempDir,
    hands: Hands,
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
        let service = open(directory.path(), &hands);
        groups::put(&service, "group", "local", None).unwrap();
        let vault = vaults::put(&service, "group", "vault", "local", settings).unwrap().0;
        policies::put(&service, &vault, "policy", rules, serde_json::Value::Null).unwrap();
        let mut lab = Self { directory, hands, service, vault: vault.id, item: Uuid::nil() };
        // The first start is followed by the grace.
        for _ in 0..24 {
            lab.hands.pass(HOUR);
            housekeeping::sweep(&lab.service).unwrap();
        }
        lab.item = lab.protect("machine");
        lab
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
        let manifest = Session::begin(&store, "test")
            .unwrap()
            .commit(PointDraft {
                item: item.store_item.clone(),
                kind: PointKind::Machine,
                taken_at: run,
                parent: None,
                consistency: Consistency::new(ConsistencyLevel::Crash, "a test"),
                disks: vec![Disk {
                    name: "vda".into(),
                    size_bytes: 1 << 20,
                    root: None,
                    read_bytes: 0,
                    changed_bytes: 0,
                    new_bytes: 0,
                    full_reason: None,
                    attributes: serde_json::Map::default(),
                }],
                definition: None,
                kept: None,
                warnings: Vec::new(),
                attributes: Default::default(),
            })
            .unwrap();
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
            snapshot_ended_at: None,
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
    let Lab { directory, hands, service, vault, item } = {
        let lab = Lab::new(daily(3));
        lab.six_points();
        lab
    };
    service.stop();
    drop(service);
    // An hour: as if it had never been away. What it left is due at once.
    hands.pass(HOUR);
    let service = open(directory.path(), &hands);
    let lab = Lab { directory, hands, service, vault, item };
    assert_eq!(lab.expire(), 3);
    // Ten days, or a clock that says so: nobody can tell.
    let Lab { directory, hands, service, .. } = lab;
    service.stop();
    drop(service);
    hands.pass(10 * DAY);
    let service = open(directory.path(), &hands);
    let lab = Lab { directory, hands, service, vault, item };
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
    running.lease = Some(strongroom_catalog::service::Lease {
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
    assert!(!store.exists() && !key_file.exists());
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
