//! What decides about a recovery point's life survives the loss of the catalog: what a vault says of itself is compared with
//! what the service knew, and what goes when, from a fresh data directory, with what would have gone.

mod common;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strongroom_catalog::{
    Change, DiskChoice, Immutability, Item, Machine, Point, Query, Redundancy, SoftDelete, Vault,
};
use strongroom_domain::calendar::{MonthPick, Weekday};
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::{
    DailyRetention, MonthlyRetention, Policy as Rules, Retention, WeeklyRetention,
};
use strongroom_domain::retention::PointReason;
use strongroom_domain::{PointId, arm_names};
use strongroom_service::import::{self, Imported};
use strongroom_service::retention::{self, Hold, Keeping};
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{Clock, Service, ServiceConfig, groups, housekeeping, items, policies, vaults};
use strongroom_store::objects::Location;
use strongroom_store::{Kept, KeptPolicy, PointDraft, Promise, Session};
use uuid::Uuid;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// One clock for all services of a test; it runs evenly.
#[derive(Clone)]
struct Hands(Arc<Mutex<(Timestamp, Duration)>>);

impl Hands {
    fn pass(&self, seconds: i64) {
        let mut hands = self.0.lock().unwrap();
        hands.0 += SignedDuration::from_secs(seconds);
        hands.1 += Duration::from_secs(seconds.unsigned_abs());
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

/// A service whose clock is trusted.
struct Lab {
    hands: Hands,
    directory: tempfile::TempDir,
    service: Service,
}

fn open(data: &Path, hands: &Hands) -> Service {
    let config = ServiceConfig { data: data.to_owned(), hosts: Vec::new(), ..ServiceConfig::default() };
    Service::open_with(config, Vec::new(), Arc::new(hands.clone())).unwrap()
}

/// Two services, of one clock, that had their first day.
fn labs() -> [Lab; 2] {
    let hands =
        Hands(Arc::new(Mutex::new(("2026-02-28T12:00:00Z".parse().unwrap(), Duration::from_secs(1000)))));
    let labs = [(); 2].map(|()| {
        let directory = tempfile::tempdir().unwrap();
        let service = open(directory.path(), &hands);
        Lab { hands: hands.clone(), directory, service }
    });
    for _ in 0..13 {
        hands.pass(2 * HOUR);
        labs.iter().for_each(|lab| housekeeping::sweep(&lab.service).unwrap());
    }
    labs
}

impl Lab {
    fn vault(&self) -> Vault {
        vaults::list(&self.service, None).unwrap().remove(0)
    }

    fn key(&self) -> std::path::PathBuf {
        self.service.data().keys().join(format!("{}.key", self.vault().id))
    }

    fn items(&self) -> Vec<Item> {
        let mut all: Vec<Item> = self.service.catalog().find(&Query::all()).unwrap();
        all.sort_by_key(|i| i.store_item.clone());
        all
    }

    fn points(&self, item: &Item) -> Vec<Point> {
        let query = Query::all().eq("item", item.id).ascending("taken_us");
        self.service.catalog().find(&query).unwrap()
    }

    fn keepings(&self, item: &Item) -> Vec<(PointId, Keeping)> {
        let points = self.points(item);
        let keepings = retention::keepings(&self.service, item, &points).unwrap();
        points.iter().map(|p| p.id).zip(keepings).collect()
    }

    fn protect(&self, name: &str, policy: &str, disks: Option<DiskChoice>) -> Item {
        let mut machine = common::machine(&self.service, name);
        machine.disks = [-1, 0, 1]
            .map(|lun| strongroom_catalog::MachineDisk {
                lun,
                target: format!("disk{lun}"),
                size_bytes: None,
                format: None,
                skipped: None,
            })
            .into();
        self.service.catalog().apply(&[Change::put(&machine)]).unwrap();
        let (vault, policy) = (self.vault(), policies::get(&self.service, &self.vault(), policy).unwrap());
        items::protect(&self.service, &vault, &machine, &policy, Some(disks), "test").unwrap().item
    }

    /// A point of today, as a backup makes it; `is_old`: as one of a program that wrote nothing of this into manifests.
    fn point(&self, item: &Item, kept: Kept, is_old: bool) -> PointId {
        let vault = self.vault();
        let location = Location::parse(&vault.store_location).unwrap();
        let store = strongroom_engine::vaults::open(&location, Some(&self.key())).unwrap();
        let now = self.hands.now();
        let (scheduled_for, keep_until) = match kept.reason {
            PointReason::Scheduled => (kept.scheduled_for, None),
            _ => (None, kept.keep_until),
        };
        let reason = (!is_old).then_some(kept.reason);
        let draft = PointDraft {
            kept: (!is_old).then_some(Promise::Known(kept)),
            ..common::point_draft(item.store_item.clone(), now)
        };
        let manifest = Session::begin(&store, "test").unwrap().commit(draft).unwrap();
        let point = Point {
            going_at: None,
            missing_since: None,
            id: manifest.point,
            version: 0,
            vault: vault.id,
            item: item.id,
            name: arm_names::recovery_point_name(&manifest.point, 0),
            taken_at: now,
            consistency: manifest.consistency,
            disks: Vec::new(),
            excluded: Vec::new(),
            has_choice: false,
            os: "Linux".into(),
            machine_size: String::new(),
            stored_bytes: 0,
            reason,
            scheduled_for,
            keep_until,
            kept_in_manifest: !is_old,
            policy_type: "V1".into(),
            job: None,
            drill: None,
            guest: None,
            transfer: Default::default(),
            vaulted_at: Some(now),
            snapshot: None,
            checkpoints: BTreeMap::new(),
            snapshot_ended_at: None,
            no_snapshot: String::new(),
        };
        self.service.catalog().apply(&[Change::put(&point)]).unwrap();
        manifest.point
    }

    /// Closed and opened again, as at an upgrade; a change then makes it look at its notes.
    fn restarted(self) -> Self {
        let Self { hands, directory, service } = self;
        drop(service);
        let service = open(directory.path(), &hands);
        let lab = Self { hands, directory, service };
        vaults::update(&lab.service, &lab.vault(), &VaultSettings::default()).unwrap();
        lab
    }

    /// A copy of the catalog is made.
    fn set_aside(self) -> (Self, std::path::PathBuf) {
        let Self { hands, directory, service } = self;
        drop(service);
        let aside = directory.path().join("aside.db");
        std::fs::copy(directory.path().join("catalog.db"), &aside).unwrap();
        (Self { service: open(directory.path(), &hands), hands, directory }, aside)
    }

    /// It is put back.
    fn put_back(self, aside: &Path) -> Self {
        let Self { hands, directory, service } = self;
        drop(service);
        for more in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(directory.path().join(format!("catalog.db{more}")));
        }
        std::fs::copy(aside, directory.path().join("catalog.db")).unwrap();
        Self { service: open(directory.path(), &hands), hands, directory }
    }

    fn remaining(&self) -> BTreeSet<PointId> {
        let all: Vec<Point> = self.service.catalog().find(&Query::all()).unwrap();
        all.iter().map(|p| p.id).collect()
    }

    fn clean(&self) {
        housekeeping::purge(&self.service).unwrap();
        housekeeping::sweep(&self.service).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => assert!(std::fs::copy(entry.path(), to).is_ok()),
        }
    }
}

/// `to` takes in a copy of `from`'s vault, which is all that was left of it.
fn lose_catalog(from: &Lab, to: &Lab) -> Imported {
    let store = to.directory.path().join("copy");
    copy(Path::new(&from.vault().store_location), &store);
    let store = store.display().to_string();
    import::import(&to.service, &store, Some(&from.key()), "group", "back", "local").unwrap()
}

fn scheduled(lab: &Lab, rules: &Rules) -> Kept {
    Kept {
        reason: PointReason::Scheduled,
        scheduled_for: Some(lab.hands.now() - SignedDuration::from_secs(60)),
        keep_until: None,
        policy: Some(Box::new(KeptPolicy { name: "policy".into(), rules: rules.clone() })),
    }
}

fn daily(days: u32) -> Rules {
    let retention = Retention { daily: Some(DailyRetention { days }), ..Retention::default() };
    Rules { retention, snapshot_days: 1, ..Rules::default_standard() }
}

fn vault(lab: &Lab, settings: &VaultSettings) {
    groups::put(&lab.service, "group", "local", None).unwrap();
    let mut unlocked = settings.clone();
    if settings.immutability == Some(Immutability::Locked) {
        // It takes a step of its own.
        unlocked.immutability = Some(Immutability::Unlocked);
    }
    let (vault, _) = vaults::put(&lab.service, "group", "vault", "local", &unlocked).unwrap();
    vaults::update(&lab.service, &vault, settings).unwrap();
}

#[test]
fn a_point_of_ten_years_that_is_imported_is_one_of_ten_years_and_the_vault_has_its_settings() {
    for is_old in [false, true] {
        let [lab, fresh] = labs();
        let settings = VaultSettings {
            immutability: Some(Immutability::Locked),
            soft_delete: Some(SoftDelete::AlwaysOn),
            soft_delete_days: Some(99),
            redundancy: Some(Redundancy::Zone),
            ..VaultSettings::default()
        };
        vault(&lab, &settings);
        policies::put(&lab.service, &lab.vault(), "policy", daily(3650), serde_json::Value::Null).unwrap();
        let item = lab.protect("machine", "policy", None);
        let id = lab.point(&item, scheduled(&lab, &daily(3650)), is_old);
        let lab = lab.restarted();
        let done = lose_catalog(&lab, &fresh);
        assert_eq!((done.passed_over.as_slice(), done.items, done.points, done.stopped), (&[][..], 1, 1, 0));
        assert!(done.settings);
        let back = fresh.vault();
        assert_eq!(
            (back.immutability, back.soft_delete, back.soft_delete_days, back.redundancy),
            (Immutability::Locked, SoftDelete::AlwaysOn, 99, Redundancy::Zone)
        );
        let item = fresh.items().remove(0);
        assert_eq!(item.state, ItemState::Protected);
        let (point, keeping) = fresh.keepings(&item).remove(0);
        // The newest says until when, too.
        assert_eq!((point, keeping.hold), (id, Some(Hold::LastPoint)));
        assert_eq!(Some(keeping), lab.keepings(&lab.items()[0]).pop().map(|(_, k)| k));
        let days = keeping.until.unwrap().duration_since(fresh.hands.now()).as_hours() / 24;
        assert!((3649..=3650).contains(&days), "{days}");
    }
}

#[test]
fn of_what_no_promise_is_known_nothing_goes_until_somebody_gives_a_policy() {
    let [lab, fresh] = labs();
    vault(&lab, &VaultSettings::default());
    policies::put(&lab.service, &lab.vault(), "policy", daily(2), serde_json::Value::Null).unwrap();
    let item = lab.protect("machine", "policy", None);
    for _ in 0..4 {
        lab.point(&item, Kept::on_demand(None), true);
        lab.hands.pass(DAY);
        for lab in [&lab, &fresh] {
            housekeeping::purge(&lab.service).unwrap();
        }
    }
    // The vault as it was before anything but policies was noted.
    for note in std::fs::read_dir(Path::new(&lab.vault().store_location).join("notes")).unwrap() {
        let path = note.unwrap().path();
        if !path.ends_with("policies") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let done = lose_catalog(&lab, &fresh);
    assert_eq!((done.stopped, done.settings), (1, false));
    fresh.hands.pass(HOUR);
    for _ in 0..60 {
        fresh.hands.pass(DAY / 2);
        fresh.clean();
    }
    assert_eq!(fresh.remaining().len(), 4);
    let item = fresh.items().remove(0);
    assert!(fresh.keepings(&item).iter().all(|(_, k)| k.hold == Some(Hold::ProtectionStopped)));
    // Then they go by it, as scheduled ones.
    let machine = Machine {
        id: item.machine,
        name: item.machine_name.clone(),
        group: item.group.clone(),
        ..common::machine(&fresh.service, "machine")
    };
    fresh.service.catalog().apply(&[Change::put(&machine)]).unwrap();
    let policy = policies::get(&fresh.service, &fresh.vault(), "policy").unwrap();
    items::protect(&fresh.service, &fresh.vault(), &machine, &policy, None, "test").unwrap();
    fresh.clean();
    assert_eq!(fresh.remaining().len(), 1);
}

#[test]
fn what_cannot_be_read_of_a_vault_is_told_and_makes_nothing_laxer() {
    let [lab, fresh] = labs();
    vault(&lab, &VaultSettings { immutability: Some(Immutability::Locked), ..VaultSettings::default() });
    policies::put(&lab.service, &lab.vault(), "policy", daily(2), serde_json::Value::Null).unwrap();
    let item = lab.protect("machine", "policy", None);
    lab.point(&item, scheduled(&lab, &daily(2)), false);
    let notes = Path::new(&lab.vault().store_location).join("notes");
    let settings = std::fs::read(notes.join("settings")).unwrap();
    std::fs::remove_file(notes.join("settings")).unwrap();
    // One that is away although its machines are noted is as good as one that cannot be read.
    let [third, _] = labs();
    let done = lose_catalog(&lab, &third);
    assert!(!done.settings && done.passed_over.join("\n").contains("immutab"), "{:?}", done.passed_over);
    let told = done.passed_over.join("\n");
    assert!(told.contains("--immutability-state") && told.contains("--soft-delete-duration"), "{told}");
    let back = third.vault();
    assert_eq!((back.immutability, back.soft_delete_days), (Immutability::Unlocked, 180));
    std::fs::write(notes.join("settings"), settings).unwrap();
    for name in ["settings", "items"] {
        let mut bytes = std::fs::read(notes.join(name)).unwrap();
        bytes[60] ^= 1;
        std::fs::write(notes.join(name), bytes).unwrap();
    }
    let done = lose_catalog(&lab, &fresh);
    let told = done.passed_over.join("\n");
    assert!(told.contains("settings") && told.contains("machines") && told.contains("immutab"), "{told}");
    let back = fresh.vault();
    assert_eq!(
        (back.immutability, back.soft_delete, back.soft_delete_days),
        (Immutability::Unlocked, SoftDelete::Enabled, 180)
    );
    let item = fresh.items().remove(0);
    // By its newest point it is still known what was promised.
    assert_eq!((item.state, item.last_rules), (ItemState::ProtectionStopped, Some(daily(2))));
}

/// A default policy that stands in for what the vault does not name any more is not the one of that name.
#[test]
fn without_the_vaults_policies_no_other_of_that_name_lets_points_go() {
    let [lab, fresh] = labs();
    vault(&lab, &VaultSettings::default());
    let rules = daily(3650);
    policies::put(&lab.service, &lab.vault(), "DefaultPolicy", rules.clone(), serde_json::Value::Null)
        .unwrap();
    let item = lab.protect("machine", "DefaultPolicy", None);
    lab.point(&item, scheduled(&lab, &rules), false);
    std::fs::remove_file(Path::new(&lab.vault().store_location).join("notes/policies")).unwrap();
    let done = lose_catalog(&lab, &fresh);
    assert!(done.policies == 0 && done.stopped == 1, "{done:?}");
    assert!(done.passed_over.join("\n").contains("DefaultPolicy"), "{:?}", done.passed_over);
    let item = fresh.items().remove(0);
    assert_eq!((item.state, item.policy), (ItemState::ProtectionStopped, None));
    assert_eq!(item.last_rules, Some(rules));
}

fn lock(lab: &Lab) {
    for wanted in [Immutability::Unlocked, Immutability::Locked] {
        let settings = VaultSettings { immutability: Some(wanted), ..VaultSettings::default() };
        vaults::update(&lab.service, &lab.vault(), &settings).unwrap();
    }
}

/// Neither does a settings note that is away or cannot be read, nor a resume under the rules of then; and what keeps as much goes on.
#[test]
fn what_an_older_catalog_cannot_know_is_as_strict_as_at_an_import() {
    for is_away in [false, true] {
        let [lab, _] = labs();
        vault(&lab, &VaultSettings::default());
        let rules = |days| (daily(days), serde_json::Value::Null);
        let put = |lab: &Lab, name: &str, days| {
            let (rules, wire) = rules(days);
            policies::put(&lab.service, &lab.vault(), name, rules, wire).unwrap();
        };
        put(&lab, "policy", 3);
        put(&lab, "other", 3);
        let kept = lab.protect("kept", "policy", None);
        let stopped = lab.protect("stopped", "other", None);
        lab.point(&kept, scheduled(&lab, &daily(3)), false);
        lab.point(&stopped, scheduled(&lab, &daily(3)), false);
        let (lab, aside) = lab.restarted().set_aside();
        lock(&lab);
        let get = |lab: &Lab, item: &Item| lab.service.catalog().get::<Item>(item.id).unwrap().unwrap();
        // Its first backup since then.
        let mut row = get(&lab, &kept);
        row.state = ItemState::Protected;
        lab.service.catalog().apply(&[Change::put(&row)]).unwrap();
        put(&lab, "long", 30);
        let machine: Machine = lab.service.catalog().get(stopped.machine).unwrap().unwrap();
        let long = policies::get(&lab.service, &lab.vault(), "long").unwrap();
        items::protect(&lab.service, &lab.vault(), &machine, &long, None, "test").unwrap();
        items::stop(&lab.service, &get(&lab, &stopped), false, "test").unwrap();
        let note = Path::new(&lab.vault().store_location).join("notes/settings");
        match is_away {
            true => std::fs::remove_file(&note).unwrap(),
            false => std::fs::write(&note, "x").unwrap(),
        }
        let lab = lab.put_back(&aside);
        lab.clean();
        vaults::update(&lab.service, &lab.vault(), &VaultSettings::default()).unwrap();
        let vault = lab.vault();
        assert_eq!((vault.immutability, vault.soft_delete_days), (Immutability::Unlocked, 180), "{is_away}");
        assert_eq!(get(&lab, &kept).state, ItemState::IrPending, "it keeps as much as before");
        let item = get(&lab, &stopped);
        assert_eq!((item.state, item.last_rules), (ItemState::ProtectionStopped, Some(daily(30))));
        let resume = |name: &str| {
            let policy = policies::get(&lab.service, &vault, name).unwrap();
            items::protect(&lab.service, &vault, &machine, &policy, None, "test")
        };
        assert!(resume("other").is_err());
        assert!(resume("long").is_ok());
    }
}

/// A catalog that was put back from a copy does not make anything laxer that was said since.
#[test]
fn a_catalog_that_is_older_than_the_vaults_notes_makes_nothing_laxer() {
    type Step<'a> = (&'a str, &'a dyn Fn(&Lab, &Item));
    let change: [Step; 4] = [
        ("stopped", &|lab, item| drop(items::stop(&lab.service, item, false, "test").unwrap())),
        ("longer", &|lab, _| {
            policies::put(&lab.service, &lab.vault(), "policy", daily(30), serde_json::Value::Null).unwrap();
        }),
        ("undeleted", &|lab, item| drop(items::undelete(&lab.service, item, "test").unwrap())),
        ("nothing", &|_, _| {}),
    ];
    for (what, change) in change {
        let [lab, _] = labs();
        vault(&lab, &VaultSettings::default());
        policies::put(&lab.service, &lab.vault(), "policy", daily(3), serde_json::Value::Null).unwrap();
        let item = lab.protect("machine", "policy", None);
        lab.point(&item, scheduled(&lab, &daily(3)), false);
        lab.hands.pass(HOUR);
        lab.point(&item, scheduled(&lab, &daily(3)), false);
        let get = |lab: &Lab| lab.service.catalog().get::<Item>(item.id).unwrap().unwrap();
        if what == "undeleted" {
            items::delete(&lab.service, &lab.vault(), &get(&lab), "test").unwrap();
        }
        let (lab, aside) = lab.restarted().set_aside();
        if what != "nothing" {
            lock(&lab);
            let settings = VaultSettings {
                soft_delete: Some(SoftDelete::AlwaysOn),
                soft_delete_days: Some(60),
                ..VaultSettings::default()
            };
            vaults::update(&lab.service, &lab.vault(), &settings).unwrap();
        }
        change(&lab, &get(&lab));
        let lab = lab.put_back(&aside);
        for _ in 0..20 * 12 {
            lab.hands.pass(2 * HOUR);
            lab.clean();
        }
        let vault = lab.vault();
        if what == "nothing" {
            assert_eq!((lab.remaining().len(), get(&lab).state), (1, ItemState::IrPending), "{what}");
            assert_eq!(vault.immutability, Immutability::Disabled);
            continue;
        }
        let state = if what == "longer" { ItemState::IrPending } else { ItemState::ProtectionStopped };
        assert_eq!((lab.remaining().len(), get(&lab).state), (2, state), "{what}");
        let rules = policies::get(&lab.service, &vault, "policy").unwrap().rules;
        assert_eq!(rules, daily(if what == "longer" { 30 } else { 3 }), "{what}");
        assert_eq!(
            (vault.immutability, vault.soft_delete, vault.soft_delete_days),
            (Immutability::Locked, SoftDelete::AlwaysOn, 60),
            "{what}"
        );
    }
}

#[test]
fn nothing_expires_while_it_cannot_be_noted_what_older_points_were_promised() {
    let [lab, _] = labs();
    vault(&lab, &VaultSettings::default());
    let set = |lab: &Lab, days| {
        policies::put(&lab.service, &lab.vault(), "policy", daily(days), serde_json::Value::Null).unwrap();
    };
    set(&lab, 100);
    let item = lab.protect("machine", "policy", None);
    for _ in 0..4 {
        lab.point(&item, scheduled(&lab, &daily(100)), true);
        for _ in 0..2 {
            lab.hands.pass(DAY / 2);
            lab.clean();
        }
    }
    let lab = {
        let Lab { hands, directory, service } = lab;
        drop(service);
        let service = open(directory.path(), &hands);
        Lab { hands, directory, service }
    };
    // Nothing can be written where the notes are.
    let notes = Path::new(&lab.vault().store_location).join("notes");
    let aside = notes.with_file_name("notes-aside");
    std::fs::rename(&notes, &aside).unwrap();
    std::fs::write(&notes, "in the way").unwrap();
    set(&lab, 1);
    assert!(retention::expire_item(&lab.service, item.id).is_err());
    assert_eq!(lab.remaining().len(), 4);
    std::fs::remove_file(&notes).unwrap();
    std::fs::rename(&aside, &notes).unwrap();
    assert_eq!(retention::expire_item(&lab.service, item.id).unwrap(), 3);
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    None,
    Stop,
    Suspend,
    Delete,
    Undelete,
}

fn rules() -> impl Strategy<Value = Rules> {
    (1u32..12, prop::option::of(1u32..4), prop::option::of(1u32..3)).prop_map(|(days, weeks, months)| Rules {
        retention: Retention {
            daily: Some(DailyRetention { days }),
            weekly: weeks.map(|weeks| WeeklyRetention {
                days_of_week: [Weekday::Monday, Weekday::Thursday].into(),
                weeks,
            }),
            monthly: months.map(|months| MonthlyRetention {
                by: MonthPick::Dates { days: [1, 5].into(), last: true },
                months,
            }),
            ..Retention::default()
        },
        ..daily(1)
    })
}

fn settings() -> impl Strategy<Value = VaultSettings> {
    let immutability =
        prop::sample::select(&[Immutability::Disabled, Immutability::Unlocked, Immutability::Locked][..]);
    let soft = prop::sample::select(&[SoftDelete::Enabled, SoftDelete::Disabled, SoftDelete::AlwaysOn][..]);
    (immutability, soft, 14u32..30).prop_map(|(immutability, soft_delete, days)| VaultSettings {
        immutability: Some(immutability),
        soft_delete: Some(soft_delete),
        soft_delete_days: Some(days),
        ..VaultSettings::default()
    })
}

/// A point each day: what of, for how many days on demand, and whether it is of before manifests said so.
fn days() -> impl Strategy<Value = Vec<(u8, i64, bool)>> {
    prop::collection::vec((0u8..6, 1i64..40, any::<bool>()), 1..8)
}

fn fate() -> impl Strategy<Value = Fate> {
    prop::sample::select(&[Fate::None, Fate::Stop, Fate::Suspend, Fate::Delete, Fate::Undelete][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_when_is_the_same_before_and_after_the_catalog_was_lost(
        settings in settings(),
        rules in [rules(), rules()],
        machines in prop::collection::vec((0usize..2, days(), fate(), any::<bool>()), 1..4),
        shorter in any::<bool>(),
    ) {
        let [lab, fresh] = labs();
        vault(&lab, &settings);
        for (index, rules) in rules.iter().enumerate() {
            policies::put(&lab.service, &lab.vault(), &format!("policy{index}"), rules.clone(), serde_json::Value::Null).unwrap();
        }
        let protected: Vec<Item> = machines.iter().enumerate().map(|(index, (policy, _, _, chosen))| {
            let disks = chosen.then(|| DiskChoice { luns: vec![1], inclusion: false });
            lab.protect(&format!("machine{index}"), &format!("policy{policy}"), disks)
        }).collect();
        for day in 0..8 {
            for (item, (policy, days, ..)) in protected.iter().zip(&machines) {
                let Some((kind, length, is_old)) = days.get(day) else { continue };
                let until = Some(lab.hands.now() + SignedDuration::from_hours(24 * length));
                let kept = match kind {
                    0..=3 => scheduled(&lab, &rules[*policy]),
                    4 => Kept::on_demand(until),
                    _ => Kept { reason: PointReason::BeforeRestore, ..Kept::on_demand(until) },
                };
                lab.point(item, kept, *is_old);
            }
            for _ in 0..2 {
                lab.hands.pass(DAY / 2);
                [&lab, &fresh].into_iter().for_each(Lab::clean);
            }
        }
        for (item, (_, _, fate, _)) in protected.iter().zip(&machines) {
            let item = || lab.service.catalog().get::<Item>(item.id).unwrap().unwrap();
            match fate {
                Fate::None => {}
                Fate::Stop => drop(items::stop(&lab.service, &item(), false, "test").unwrap()),
                Fate::Suspend => drop(items::stop(&lab.service, &item(), true, "test").unwrap()),
                // An immutable vault may refuse it.
                Fate::Delete => drop(items::delete(&lab.service, &lab.vault(), &item(), "test")),
                Fate::Undelete => {
                    if items::delete(&lab.service, &lab.vault(), &item(), "test").is_ok() {
                        items::undelete(&lab.service, &item(), "test").unwrap();
                    }
                }
            }
        }
        let lab = lab.restarted();
        let done = lose_catalog(&lab, &fresh);
        prop_assert_eq!(done.passed_over, Vec::<String>::new());

        // What is known of each is the same.
        let (before, after) = (lab.items(), fresh.items());
        prop_assert_eq!(before.len(), after.len());
        for (was, is) in before.iter().zip(&after) {
            prop_assert_eq!(&was.store_item, &is.store_item);
            let expected = match was.state {
                ItemState::IrPending if !lab.points(was).is_empty() => ItemState::Protected,
                state => state,
            };
            prop_assert_eq!(is.state, expected);
            prop_assert_eq!(
                (&was.disks, was.deleted_at, was.purge_at, &was.last_rules, was.name()),
                (&is.disks, is.deleted_at, is.purge_at, &is.last_rules, is.name())
            );
            let name = |lab: &Lab, id: Option<Uuid>| {
                id.map(|id| policies::by_id(&lab.service, id).unwrap().unwrap().name)
            };
            prop_assert_eq!(name(&lab, was.policy), name(&fresh, is.policy));
            prop_assert_eq!(lab.keepings(was), fresh.keepings(is));
        }
        // What is refused is the same.
        let both = [&lab, &fresh].map(|lab| {
            let (vault, item) = (lab.vault(), lab.items().remove(0));
            let shorter = !shorter
                || policies::put(&lab.service, &vault, "policy0", daily(1), serde_json::Value::Null).is_ok();
            let softer = VaultSettings { soft_delete: Some(SoftDelete::Disabled), ..VaultSettings::default() };
            let softer = vaults::update(&lab.service, &vault, &softer).is_ok();
            (shorter, softer, items::delete(&lab.service, &lab.vault(), &item, "test").is_ok())
        });
        prop_assert_eq!(both[0], both[1]);

        // What goes when is the same.
        for day in 0..45 {
            for _ in 0..2 {
                lab.hands.pass(DAY / 2);
                [&lab, &fresh].into_iter().for_each(Lab::clean);
            }
            prop_assert_eq!(lab.remaining(), fresh.remaining(), "day {}", day);
            prop_assert_eq!(lab.items().len(), fresh.items().len(), "day {}", day);
        }
    }
}
