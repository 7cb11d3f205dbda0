//! Not found, empty, unreadable and unknown are four things: what is not where it was is no reason to remove anything. Under each
//! command that deletes, the vault's place is made to answer in each of these ways, and what was in it is all there once it
//! is put back.

mod common;

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strongroom_catalog::{
    Change, Immutability, Item, Job, Point, Query, ServiceCatalog, SoftDelete, SqliteServiceCatalog, Vault,
};
use strongroom_domain::PointId;
use strongroom_domain::item::ItemState;
use strongroom_domain::job::JobStatus;
use strongroom_domain::policy::{DailyRetention, Policy as Rules, Retention};
use strongroom_domain::retention::PointReason;
use strongroom_engine::image;
use strongroom_service::ErrorKind;
use strongroom_service::vaults::VaultSettings;
use strongroom_service::{
    Clock, Service, ServiceConfig, backup, groups, housekeeping, import, items, keys, points, policies,
    reconcile, retention, storage, unmanaged, vaults,
};
use strongroom_store::objects::Location;
use strongroom_store::reclaim::{ReclaimOptions, reclaim};
use strongroom_store::{Kept, KeptPolicy, Manifest, PointDraft, PointKind, Progress, Promise, Session};
use uuid::Uuid;

const DAY: i64 = 24 * 3600;

#[derive(Clone)]
struct Hands(Arc<Mutex<(Timestamp, Duration)>>);

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

/// A service whose vault `vault` protects a machine that no host has, under a policy of three days. Its clock is trusted.
struct Lab {
    directory: tempfile::TempDir,
    hands: Hands,
    service: Service,
    vault: Uuid,
    item: Uuid,
}

impl Lab {
    fn new(soft_delete: SoftDelete) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let start = ("2026-02-28T12:00:00Z".parse().unwrap(), Duration::from_secs(1000));
        let hands = Hands(Arc::new(Mutex::new(start)));
        let service = open(directory.path(), &hands);
        groups::put(&service, "group", "local", None).unwrap();
        let settings = VaultSettings { soft_delete: Some(soft_delete), ..VaultSettings::default() };
        let vault = vaults::put(&service, "group", "vault", "local", &settings).unwrap().0;
        let retention = Retention { daily: Some(DailyRetention { days: 3 }), ..Retention::default() };
        let rules = Rules { retention, snapshot_days: 1, ..Rules::default_standard() };
        policies::put(&service, &vault, "policy", rules, serde_json::Value::Null).unwrap();
        let machine = common::machine(&service, "machine");
        service.catalog().apply(&[Change::put(&machine)]).unwrap();
        let policy = policies::get(&service, &vault, "policy").unwrap();
        let item = items::protect(&service, &vault, &machine, &policy, None, "test").unwrap().item.id;
        let lab = Self { directory, hands, service, vault: vault.id, item };
        lab.pass(DAY);
        lab
    }

    /// Time passes evenly, with all that happens by itself.
    fn pass(&self, seconds: i64) {
        for _ in 0..seconds / 3600 {
            let mut hands = self.hands.0.lock().unwrap();
            hands.0 += SignedDuration::from_secs(3600);
            hands.1 += Duration::from_secs(3600);
            drop(hands);
            let _ = housekeeping::purge(&self.service);
            let _ = housekeeping::sweep(&self.service);
        }
    }

    fn vault(&self) -> Vault {
        self.service.catalog().get(self.vault).unwrap().unwrap()
    }

    fn item(&self) -> Item {
        self.service.catalog().get(self.item).unwrap().unwrap()
    }

    fn key(&self) -> PathBuf {
        self.service.data().keys().join(format!("{}.key", self.vault))
    }

    fn place(&self) -> PathBuf {
        self.service.data().vaults().join(self.vault.to_string())
    }

    /// The vault's store, opened beside the service.
    fn store(&self) -> strongroom_store::Vault {
        let location = Location::parse(self.place().to_str().unwrap()).unwrap();
        strongroom_engine::vaults::open(&location, Some(&self.key())).unwrap()
    }

    fn commit(&self, item: &str, kind: PointKind, job: Option<Uuid>) -> Manifest {
        self.commit_promised(item, kind, job, None)
    }

    fn commit_promised(
        &self,
        item: &str,
        kind: PointKind,
        job: Option<Uuid>,
        kept: Option<Promise>,
    ) -> Manifest {
        let mut attributes = serde_json::Map::new();
        if kind == PointKind::Machine {
            let uuid = match item {
                "machine" => self.item().machine_uuid,
                _ => Uuid::new_v4().to_string(),
            };
            attributes.insert("machine_uuid".into(), uuid.into());
        }
        if let Some(job) = job {
            attributes.insert("job".into(), job.to_string().into());
        }
        let store = self.store();
        let draft = common::point_draft(item.parse().unwrap(), self.service.now());
        let draft = PointDraft { kind, kept, attributes, ..draft };
        Session::begin(&store, "test").unwrap().commit(draft).unwrap()
    }

    /// A point in the vault and in the catalog, as a scheduled backup makes it.
    fn point(&self) -> Point {
        let manifest = self.commit("machine", PointKind::Machine, None);
        let item = self.item();
        let point: Point = serde_json::from_value(serde_json::json!({
            "id": manifest.point,
            "vault": self.vault,
            "item": item.id,
            "name": strongroom_domain::arm_names::recovery_point_name(&manifest.point, 0),
            "taken_at": manifest.taken_at,
            "consistency": manifest.consistency,
            "disks": [],
            "os": "Linux",
            "stored_bytes": 0,
            "scheduled_for": manifest.taken_at,
            "policy_type": "V1",
        }))
        .unwrap();
        self.service.catalog().apply(&[Change::put(&point)]).unwrap();
        point
    }

    /// A point of an image, with data, that the catalog does not know.
    fn photos(&self) -> Manifest {
        let photos = self.directory.path().join("photos.raw");
        let noise: Vec<u8> =
            (0..1 << 18_u32).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&photos, noise).unwrap();
        let options = image::BackupOptions {
            source: photos,
            format: image::SourceFormat::Raw,
            is_forced: false,
            item: "photos".parse().unwrap(),
            changed_extents: None,
            keep_until: None,
        };
        image::backup(&self.store(), &options, &Arc::default(), &|_| ()).unwrap().point
    }

    /// The object of a point's manifest.
    fn object_of(&self, made: &Manifest) -> String {
        format!("points/{}/{}", self.store().item_key(&made.item), made.point)
    }

    fn rows(&self) -> Vec<PointId> {
        let rows: Vec<Point> = self.service.catalog().find(&Query::all().ascending("taken_us")).unwrap();
        rows.iter().map(|p| p.id).collect()
    }

    /// What of the store is there, whole.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        contents(&self.place())
    }
}

fn contents(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![place.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.exists() {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// How a vault's place can fail to answer as it should.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The manifests' directory is elsewhere: listings are empty, and what is asked for by name is not found.
    NoPoints,
    /// Its file system is not mounted: an empty directory.
    Empty,
    /// Nothing is there.
    Gone,
    /// What is there cannot be read as a directory.
    Unreadable,
}

const FAULTS: [Fault; 4] = [Fault::NoPoints, Fault::Empty, Fault::Gone, Fault::Unreadable];

impl Fault {
    fn begin(self, place: &Path) {
        let aside = place.with_extension("aside");
        match self {
            Self::NoPoints => std::fs::rename(place.join("points"), aside).unwrap(),
            _ => std::fs::rename(place, aside).unwrap(),
        }
        match self {
            Self::Empty => std::fs::create_dir(place).unwrap(),
            Self::Unreadable => std::fs::write(place, "").unwrap(),
            Self::NoPoints | Self::Gone => {}
        }
    }

    /// Puts back what was there, and says that nothing was done meanwhile to what stood in for it.
    fn end(self, place: &Path) {
        let aside = place.with_extension("aside");
        match self {
            Self::NoPoints => {
                let _ = std::fs::remove_dir(place.join("points"));
                return std::fs::rename(aside, place.join("points")).unwrap();
            }
            Self::Empty => std::fs::remove_dir_all(place).unwrap(),
            Self::Unreadable => std::fs::remove_file(place).unwrap(),
            Self::Gone => assert!(!place.exists(), "something was made where the vault was"),
        }
        std::fs::rename(aside, place).unwrap();
    }
}

/// What must be there whatever happened: all points of the store that were there, and what they are made of.
fn assert_nothing_lost(lab: &Lab, before: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let now = lab.contents();
    for (path, bytes) in before {
        let kept = ["points", "packs", "vault.json", "vault.copy.json"]
            .iter()
            .any(|part| path.strip_prefix(lab.place()).unwrap().starts_with(part));
        assert!(!kept || now.get(path) == Some(bytes), "{what}: {} is lost", path.display());
    }
    assert!(lab.key().is_file(), "{what}: the key is lost");
}

#[test]
fn points_that_are_not_found_expire_nothing() {
    for fault in FAULTS {
        let lab = Lab::new(SoftDelete::Enabled);
        let first = lab.point();
        lab.pass(3600);
        let points = [first, lab.point()];
        let before = lab.contents();
        fault.begin(&lab.place());
        lab.pass(5 * DAY);
        let _ = retention::expire_item(&lab.service, lab.item);
        let expected: Vec<_> = points.iter().map(|p| p.id).collect();
        let mut rows = lab.rows();
        rows.sort();
        assert_eq!(rows, expected, "{fault:?}");
        fault.end(&lab.place());
        assert_nothing_lost(&lab, &before, &format!("{fault:?}"));
        // Back again, and looked at, what has had its time goes.
        reconcile::one(&lab.service, &lab.vault()).unwrap();
        lab.pass(DAY);
        assert_eq!(lab.rows().len(), 1, "{fault:?}");
    }
}

#[test]
fn a_deleted_items_points_that_are_not_found_stay_known() {
    for fault in FAULTS {
        let lab = Lab::new(SoftDelete::Disabled);
        lab.point();
        let before = lab.contents();
        fault.begin(&lab.place());
        items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
        lab.pass(DAY);
        assert_eq!(lab.item().state, ItemState::SoftDeleted, "{fault:?}");
        let problem = reconcile::report(&lab.service, &lab.vault()).unwrap().and_then(|r| r.purge_problem);
        let problem = problem.unwrap_or_default();
        assert!(fault != Fault::NoPoints || problem.contains(&lab.rows()[0].to_string()), "{problem}");
        assert_eq!(lab.rows().len(), 1, "{fault:?}");
        fault.end(&lab.place());
        assert_nothing_lost(&lab, &before, &format!("{fault:?}"));
        lab.pass(3600);
        assert!(lab.service.catalog().get::<Item>(lab.item).unwrap().is_none(), "{fault:?}");
        assert_eq!(lab.store().points(None).unwrap().points.len(), 0);
    }
}

/// A vault brought back without its points: what it knows of them is told, and written off only when somebody says so.
#[test]
fn an_imported_vault_tells_of_points_that_are_not_to_be_seen() {
    let lab = Lab::new(SoftDelete::Enabled);
    let points = [lab.point(), lab.point()];
    Fault::NoPoints.begin(&lab.place());
    let other = tempfile::tempdir().unwrap();
    let service = open(other.path(), &lab.hands);
    let done =
        import::import(&service, lab.place().to_str().unwrap(), Some(&lab.key()), "group", "back", "local")
            .unwrap();
    let told = done.passed_over.join("\n");
    assert!(points.iter().all(|point| told.contains(&point.id.to_string())), "{told}");
    let back = vaults::get(&service, "group", "back").unwrap();
    let report = reconcile::report(&service, &back).unwrap().unwrap();
    assert_eq!((report.state, report.missing.len()), (reconcile::State::Differs, 2), "{report:?}");
    let lost = points[0].id;
    unmanaged::accept_loss(&service, &back, &lost, "somebody").unwrap();
    unmanaged::accept_loss(&service, &back, &points[1].id, "somebody").unwrap();
    let report = reconcile::one(&service, &back).unwrap();
    assert_eq!((report.state, report.missing.len()), (reconcile::State::Agreed, 0), "{report:?}");
}

/// What the catalog knows was taken from the vault: that both agree says nothing of what neither shows.
#[test]
fn an_imported_vault_without_its_list_of_points_is_no_witness_for_itself() {
    let lab = Lab::new(SoftDelete::Enabled);
    let point = lab.point();
    lab.commit("elsewhere", PointKind::Machine, None);
    // Takes the sessions' leases down.
    reclaim(&lab.store(), &ReclaimOptions::default(), &Progress::default()).unwrap();
    let hidden = lab.place().join("points").join(lab.store().item_key(&"elsewhere".parse().unwrap()));
    std::fs::rename(&hidden, lab.directory.path().join("hidden")).unwrap();
    for lost in ["roll", "roll.copy"] {
        std::fs::remove_file(lab.place().join(lost)).unwrap();
    }
    std::fs::remove_dir_all(lab.place().join("commits")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let service = open(other.path(), &lab.hands);
    let place = lab.place();
    let done = import::import(&service, place.to_str().unwrap(), Some(&lab.key()), "group", "back", "local");
    let done = done.unwrap();
    let told = done.passed_over.join("\n");
    assert!(done.points == 1 && told.contains("--as-listed"), "{told}");
    let back = vaults::get(&service, "group", "back").unwrap();
    for _ in 0..3 {
        lab.pass(DAY + 3600);
        let report = reconcile::one(&service, &back).unwrap();
        assert_eq!((report.points, report.state), (1, reconcile::State::Agreed), "{report:?}");
    }
    let report = reclaim(&lab.store(), &ReclaimOptions::default(), &Progress::default()).unwrap();
    assert!(!report.confirmed, "{report:?}");
    // The catalog that knew its points before is another matter.
    for _ in 0..3 {
        lab.pass(DAY + 3600);
        let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
        assert_eq!((report.points, report.missing.len()), (1, 0), "{} {report:?}", point.id);
    }
}

/// Points go because later ones stay. Those are looked for first.
#[test]
fn the_last_point_that_is_there_stays_whatever_was_known_of_later_ones() {
    for how in ["out of sight", "forgotten", "damaged"] {
        let lab = Lab::new(SoftDelete::Enabled);
        let first = lab.point();
        lab.pass(3600);
        let second = lab.point();
        let key = lab.store().item_key(&lab.item().store_item);
        let manifest = lab.place().join("points").join(key).join(second.id.to_string());
        match how {
            "out of sight" => std::fs::rename(&manifest, lab.directory.path().join("aside")).unwrap(),
            // Beside the service, which does not know of it yet.
            "forgotten" => lab.store().forget(&second.id, "test").unwrap(),
            _ => {
                let mut bytes = std::fs::read(&manifest).unwrap();
                bytes[50] ^= 1;
                std::fs::write(&manifest, bytes).unwrap();
            }
        }
        lab.pass(10 * DAY);
        assert!(lab.rows().contains(&first.id), "{how}");
        assert!(lab.store().point(&first.id).is_ok(), "{how}");
        assert_eq!(lab.rows().contains(&second.id), how != "forgotten", "{how}");
    }
}

/// What lies among the points and is none is named, with what to do.
#[test]
fn a_file_that_is_no_point_is_called_that() {
    let lab = Lab::new(SoftDelete::Disabled);
    std::fs::create_dir_all(lab.place().join("points")).unwrap();
    let file = lab.place().join("points/desktop.ini");
    std::fs::write(&file, "of a file browser").unwrap();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    lab.pass(3600);
    let error = vaults::delete(&lab.service, &lab.vault()).unwrap_err();
    assert!(error.message.contains("points/desktop.ini") && error.message.contains("by hand"), "{error}");
    std::fs::remove_file(&file).unwrap();
    vaults::delete(&lab.service, &lab.vault()).unwrap();
}

/// Somebody began to write it off, and was cut short; then it is there again.
#[test]
fn a_point_that_came_back_before_it_was_written_off_stays() {
    let lab = Lab::new(SoftDelete::Enabled);
    let first = lab.point();
    lab.pass(3600);
    lab.point();
    items::stop(&lab.service, &lab.item(), false, "test").unwrap();
    Fault::NoPoints.begin(&lab.place());
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    let mut row: Point = lab.service.catalog().get(first.id).unwrap().unwrap();
    row.going_at = Some(lab.service.now());
    lab.service.catalog().apply(&[Change::put(&row)]).unwrap();
    Fault::NoPoints.end(&lab.place());
    lab.pass(3600);
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    lab.pass(3600);
    let row: Point = lab.service.catalog().get(first.id).unwrap().unwrap();
    assert_eq!((row.going_at, row.missing_since), (None, None));
    assert!(lab.store().point(&first.id).is_ok());
}

/// Out of sight is not lost: nobody writes off what the vault has to keep, or what a job reads.
#[test]
fn a_missing_point_is_not_written_off_from_under_immutability_or_a_job() {
    let lab = Lab::new(SoftDelete::Enabled);
    let point = lab.point();
    Fault::NoPoints.begin(&lab.place());
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    let accept = || unmanaged::accept_loss(&lab.service, &lab.vault(), &point.id, "test");
    let change = |immutability: Immutability| {
        let mut vault = lab.vault();
        vault.immutability = immutability;
        lab.service.catalog().apply(&[Change::put(&vault)]).unwrap();
    };
    for immutability in [Immutability::Unlocked, Immutability::Locked] {
        change(immutability);
        let error = accept().unwrap_err();
        assert!(error.kind == ErrorKind::Denied && error.message.contains("immutable"), "{error:?}");
    }
    change(Immutability::Disabled);
    let mut job: Job = serde_json::from_value(serde_json::json!({
        "id": Uuid::new_v4(),
        "vault": lab.vault,
        "item": lab.item,
        "operation": "drill",
        "status": "in_progress",
        "started_at": lab.service.now(),
        "entity": "machine",
        "container": "machine",
        "tasks": [],
        "properties": [],
        "ended_at": null,
        "activity_id": Uuid::new_v4(),
        "request": { "point": point.id.to_string() },
    }))
    .unwrap();
    lab.service.catalog().apply(&[Change::put(&job)]).unwrap();
    let error = accept().unwrap_err();
    assert!(error.kind == ErrorKind::Busy && error.message.contains(&job.id.to_string()), "{error:?}");
    assert_eq!(lab.rows(), [point.id]);
    job.version = 1;
    job.status = JobStatus::Completed;
    lab.service.catalog().apply(&[Change::put(&job)]).unwrap();
    Fault::NoPoints.end(&lab.place());
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert!(lab.store().point(&point.id).is_ok());
    Fault::NoPoints.begin(&lab.place());
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    accept().unwrap();
    assert!(lab.rows().is_empty());
}

#[test]
fn a_vault_is_asked_what_it_holds_before_it_is_deleted() {
    let lab = Lab::new(SoftDelete::Disabled);
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    lab.pass(3600);
    // Neither of these is known to the catalog.
    lab.commit("photos", PointKind::Image, None);
    lab.commit("other", PointKind::Machine, None);
    let before = lab.contents();
    let error = vaults::delete(&lab.service, &lab.vault()).unwrap_err();
    assert_eq!(error.code, Some("ServiceResourceNotEmptyWithContainerDetails"), "{error}");
    for word in ["2 recovery points", "1 of an image", "point list --unmanaged", "point forget"] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    lab.pass(DAY);
    assert_eq!(lab.vault().deleted_at, None);
    assert_nothing_lost(&lab, &before, "refused");
}

#[test]
fn a_vault_that_does_not_answer_is_not_taken_for_an_empty_one() {
    for fault in [Fault::Empty, Fault::Gone, Fault::Unreadable] {
        let lab = Lab::new(SoftDelete::Disabled);
        items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
        lab.pass(3600);
        lab.commit("photos", PointKind::Image, None);
        let before = lab.contents();
        fault.begin(&lab.place());
        let error = vaults::delete(&lab.service, &lab.vault()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{fault:?}: {error}");
        assert!(error.message.contains("not known"), "{fault:?}: {error}");
        lab.pass(DAY);
        assert_eq!(lab.vault().deleted_at, None, "{fault:?}");
        fault.end(&lab.place());
        assert_nothing_lost(&lab, &before, &format!("{fault:?}"));
    }
}

#[test]
fn a_purge_needs_the_vaults_own_word_and_leaves_the_key() {
    for fault in FAULTS {
        let lab = Lab::new(SoftDelete::Enabled);
        lab.point();
        items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
        vaults::delete(&lab.service, &lab.vault()).unwrap();
        lab.pass(13 * DAY);
        let before = lab.contents();
        fault.begin(&lab.place());
        lab.pass(2 * DAY);
        assert!(lab.vault().deleted_at.is_some(), "{fault:?}");
        assert_eq!(lab.rows().len(), 1, "{fault:?}");
        fault.end(&lab.place());
        assert_nothing_lost(&lab, &before, &format!("{fault:?}"));
        lab.pass(2 * 3600);
        assert!(lab.service.catalog().get::<Vault>(lab.vault).unwrap().is_none(), "{fault:?}");
        assert!(!lab.place().exists(), "{fault:?}");
        assert!(lab.key().is_file(), "{fault:?}: the key is lost");
    }
}

#[test]
fn what_came_into_a_deleted_vault_keeps_it_from_being_purged() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    vaults::delete(&lab.service, &lab.vault()).unwrap();
    let photos = lab.commit("photos", PointKind::Image, None);
    lab.pass(20 * DAY);
    assert!(lab.vault().deleted_at.is_some());
    assert!(lab.key().is_file());
    let left = lab.store().points(None).unwrap().points;
    assert_eq!(left.iter().map(|p| p.point).collect::<Vec<_>>(), [photos.point]);
    // It can be brought back, with what it holds.
    vaults::undelete(&lab.service, lab.vault).unwrap();
}

/// Neither its manifest nor the lease that says it was committed is to be seen: its packs are.
#[test]
fn a_vault_with_data_whose_point_is_out_of_sight_is_not_purged() {
    let lab = Lab::new(SoftDelete::Disabled);
    let made = lab.photos();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    let away = lab.directory.path().join("away");
    std::fs::create_dir(&away).unwrap();
    for name in ["points", "sessions"] {
        std::fs::rename(lab.place().join(name), away.join(name)).unwrap();
    }
    let refused = vaults::delete(&lab.service, &lab.vault()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert!(refused.to_string().contains(&made.point.to_string()), "{refused}");
    // Whoever looks is told.
    let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert_ne!(report.state, reconcile::State::Agreed);
    lab.pass(20 * DAY);
    for name in ["points", "sessions"] {
        let _ = std::fs::remove_dir_all(lab.place().join(name));
        std::fs::rename(away.join(name), lab.place().join(name)).unwrap();
    }
    let left = lab.store().points(None).unwrap().points;
    assert_eq!(left.iter().map(|p| p.point).collect::<Vec<_>>(), [made.point]);
    let options = strongroom_store::check::CheckOptions { read_data: true };
    let check = strongroom_store::check::check(&lab.store(), &options, &Progress::default()).unwrap();
    assert!(check.findings.iter().all(|f| f.points.is_empty()), "{:?}", check.findings);
}

/// What came into it after it was deleted is out of sight when its time is over.
#[test]
fn a_deleted_vault_with_data_whose_point_is_out_of_sight_is_not_purged() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    vaults::delete(&lab.service, &lab.vault()).unwrap();
    lab.pass(13 * DAY);
    let made = lab.photos();
    let away = lab.directory.path().join("away");
    std::fs::create_dir(&away).unwrap();
    let own = lab.object_of(&made);
    let names = [own, format!("sessions/{}", made.session)];
    for (number, name) in names.iter().enumerate() {
        std::fs::rename(lab.place().join(name), away.join(number.to_string())).unwrap();
    }
    lab.pass(5 * DAY);
    assert!(lab.place().is_dir(), "it was purged");
    let report = reconcile::report(&lab.service, &lab.vault()).unwrap().unwrap();
    let problem = report.purge_problem.unwrap_or_default();
    assert!(problem.contains(&made.session.to_string()), "{problem}");
    for (number, name) in names.iter().enumerate() {
        std::fs::create_dir_all(lab.place().join(name).parent().unwrap()).unwrap();
        std::fs::rename(away.join(number.to_string()), lab.place().join(name)).unwrap();
    }
    let left = lab.store().points(None).unwrap().points;
    assert_eq!(left.iter().map(|p| p.point).collect::<Vec<_>>(), [made.point]);
}

#[test]
fn a_start_without_the_catalog_removes_neither_stores_nor_keys() {
    for fault in FAULTS.into_iter().map(Some).chain([None]) {
        let lab = Lab::new(SoftDelete::Enabled);
        lab.point();
        let before = lab.contents();
        let (place, key) = (lab.place(), lab.key());
        let Lab { directory, hands, service, .. } = lab;
        service.stop();
        drop(service);
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = std::fs::remove_file(directory.path().join(name));
        }
        if let Some(fault) = fault {
            fault.begin(&place);
        }
        let service = open(directory.path(), &hands);
        assert!(key.is_file(), "{fault:?}: the key is lost");
        assert!(fault == Some(Fault::Gone) || place.exists(), "{fault:?}");
        if let Some(fault) = fault {
            fault.end(&place);
        }
        assert_eq!(contents(&place), before, "{fault:?}");
        drop(service);
    }
}

#[test]
fn a_job_cut_short_between_the_point_and_its_row_is_made_up_for() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    // As the point before a replacement of disks is left: its job was never written, its row neither.
    let before = lab.commit("machine", PointKind::Machine, Some(Uuid::new_v4()));
    // By hand, of the same machine: nobody's business but who made it.
    let by_hand = lab.commit("machine", PointKind::Machine, None);
    let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert_eq!((report.adopted, report.unmanaged), (vec![before.point], 1));
    let row: Point = lab.service.catalog().get(before.point).unwrap().unwrap();
    assert_eq!((row.item, row.taken_at), (lab.item, before.taken_at));
    assert_eq!(lab.item().last_point_at, Some(before.taken_at));
    // What it was promised is not known: nothing lets it go by itself.
    assert_eq!((row.reason, row.scheduled_for, row.keep_until), (Some(PointReason::OnDemand), None, None));
    let points = points::list(&lab.service, &lab.item(), None, None).unwrap();
    let keepings = retention::keepings(&lab.service, &lab.item(), &points).unwrap();
    let (_, keeping) = points.iter().zip(keepings).find(|(point, _)| point.id == before.point).unwrap();
    assert_eq!(keeping.until, None, "{keeping:?}");

    let found = unmanaged::list(&lab.service, &lab.vault()).unwrap();
    assert_eq!(found.iter().map(|u| u.point).collect::<Vec<_>>(), [Some(by_hand.point)]);
    let (item, point) = unmanaged::adopt(&lab.service, &lab.vault(), &by_hand.point).unwrap();
    assert_eq!((item.id, point.id), (lab.item, by_hand.point));
    let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert_eq!((report.state, report.points), (reconcile::State::Agreed, 3));
}

/// Of a machine that was protected otherwise when its point was made, before the catalog was put back say.
#[test]
fn a_point_that_was_promised_more_than_its_item_keeps_is_not_adopted_by_itself() {
    let lab = Lab::new(SoftDelete::Enabled);
    let of_days = |days| Rules {
        retention: Retention { daily: Some(DailyRetention { days }), ..Retention::default() },
        ..Rules::default_standard()
    };
    let commit = |days| {
        let kept = Kept {
            reason: PointReason::Scheduled,
            scheduled_for: Some(lab.service.now()),
            keep_until: None,
            policy: Some(Box::new(KeptPolicy { name: "policy".into(), rules: of_days(days) })),
        };
        let job = Some(Uuid::new_v4());
        lab.commit_promised("machine", PointKind::Machine, job, Some(Promise::Known(kept))).point
    };
    let (long, short) = (commit(3650), commit(3));
    let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert_eq!((report.adopted, report.unmanaged), (vec![short], 1));
    let change = |immutability: Immutability| {
        let mut vault = lab.vault();
        vault.immutability = immutability;
        lab.service.catalog().apply(&[Change::put(&vault)]).unwrap();
    };
    change(Immutability::Locked);
    let error = unmanaged::adopt(&lab.service, &lab.vault(), &long).unwrap_err();
    assert!(error.message.contains("promised"), "{error}");
    lab.pass(10 * DAY);
    assert!(lab.store().point(&long).is_ok());
    change(Immutability::Disabled);
    unmanaged::adopt(&lab.service, &lab.vault(), &long).unwrap();
}

#[test]
fn a_job_that_runs_tells_of_its_point_itself() {
    let lab = Lab::new(SoftDelete::Enabled);
    let job = backup::backup_now(&lab.service, &lab.item(), None, "test").unwrap();
    let made = lab.commit("machine", PointKind::Machine, Some(job.id));
    let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
    assert_eq!((report.adopted, report.unmanaged), (vec![], 1));
    assert!(unmanaged::adopt(&lab.service, &lab.vault(), &made.point).is_err());
    assert!(unmanaged::forget(&lab.service, &lab.vault(), &made.point, "test").is_err());
}

#[test]
fn unmanaged_points_are_adopted_or_forgotten() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    let photos = lab.commit("photos", PointKind::Image, None);
    let other = lab.commit("other", PointKind::Machine, None);
    let (item, _) = unmanaged::adopt(&lab.service, &lab.vault(), &other.point).unwrap();
    assert_eq!((item.state, item.machine_name.as_str()), (ItemState::ProtectionStopped, "other"));
    let error = unmanaged::adopt(&lab.service, &lab.vault(), &photos.point).unwrap_err();
    assert!(error.message.contains("image 'photos'"), "{error}");
    // A machine of that name that is another one.
    let former = lab.commit("machine", PointKind::Machine, None);
    let (before, mut now) = (lab.item(), lab.item());
    now.machine_uuid = Uuid::new_v4().to_string();
    lab.service.catalog().apply(&[Change::put(&now)]).unwrap();
    let error = unmanaged::adopt(&lab.service, &lab.vault(), &former.point).unwrap_err();
    assert!(error.message.contains(&before.machine_uuid), "{error}");
    unmanaged::forget(&lab.service, &lab.vault(), &former.point, "test").unwrap();
    // The catalog's own points are forgotten by no such way.
    assert!(unmanaged::forget(&lab.service, &lab.vault(), &other.point, "test").is_err());
    unmanaged::forget(&lab.service, &lab.vault(), &photos.point, "test").unwrap();
    assert!(unmanaged::list(&lab.service, &lab.vault()).unwrap().is_empty());
    assert_eq!(lab.store().points(None).unwrap().points.len(), 2);
}

#[test]
fn a_missing_point_is_marked_and_found_again() {
    for fault in FAULTS {
        let lab = Lab::new(SoftDelete::Enabled);
        let point = lab.point();
        fault.begin(&lab.place());
        let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
        let marked = || lab.service.catalog().get::<Point>(point.id).unwrap().unwrap().missing_since;
        if fault == Fault::NoPoints {
            assert_eq!((report.state, report.missing), (reconcile::State::Differs, vec![point.id]));
            assert!(marked().is_some());
        } else {
            assert_eq!((report.state, report.missing), (reconcile::State::Unknown, vec![]), "{fault:?}");
            assert!(report.problem.is_some_and(|p| p.contains("not known")) && marked().is_none());
        }
        let kept = reconcile::report(&lab.service, &lab.vault()).unwrap().unwrap();
        assert_eq!(kept.state, report.state);
        fault.end(&lab.place());
        assert!(unmanaged::accept_loss(&lab.service, &lab.vault(), &point.id, "test").is_err());
        let report = reconcile::one(&lab.service, &lab.vault()).unwrap();
        assert_eq!((report.state, report.points), (reconcile::State::Agreed, 1), "{fault:?}");
        assert!(marked().is_none());
    }
    // Somebody looked, and it is lost.
    let lab = Lab::new(SoftDelete::Enabled);
    let point = lab.point();
    Fault::NoPoints.begin(&lab.place());
    reconcile::one(&lab.service, &lab.vault()).unwrap();
    unmanaged::accept_loss(&lab.service, &lab.vault(), &point.id, "test").unwrap();
    assert!(lab.rows().is_empty());
}

#[test]
fn only_the_vaults_id_deletes_its_key_and_only_when_the_vault_is_gone() {
    let lab = Lab::new(SoftDelete::Disabled);
    let id = lab.vault().store_id.to_string();
    assert!(keys::delete(&lab.service, &id, false).unwrap_err().message.contains("vault 'vault' has it"));
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    lab.pass(3600);
    let key = lab.key();
    let place = lab.place();
    vaults::delete(&lab.service, &lab.vault()).unwrap();
    lab.pass(3600);
    assert!(!place.exists() && key.is_file());
    let strays = storage::strays(&lab.service).unwrap();
    assert_eq!((strays.stores.len(), strays.keys.len()), (0, 1));
    assert_eq!(strays.keys[0].vault.unwrap().to_string(), id);
    // What the key's file is called is told apart from what it opens.
    let error = keys::delete(&lab.service, &lab.vault.to_string(), false).unwrap_err();
    assert!(error.message.contains(&id) && error.message.contains("is called"), "{error}");
    // Part of it, the catalog's id and another vault's are not it.
    for wrong in [&id[..8], &lab.vault.to_string(), &Uuid::new_v4().to_string()] {
        assert!(keys::delete(&lab.service, wrong, false).is_err(), "{wrong}");
    }
    // Where the store could be is not mounted: nobody knows.
    let marker = lab.service.data().vaults().join(storage::MARKER);
    std::fs::rename(&marker, lab.directory.path().join("marker")).unwrap();
    assert_eq!(keys::delete(&lab.service, &id, false).unwrap_err().kind, ErrorKind::Unavailable);
    assert!(key.is_file());
    std::fs::rename(lab.directory.path().join("marker"), &marker).unwrap();
    assert_eq!(keys::delete(&lab.service, &id, false).unwrap(), key);
    assert!(!key.exists());
}

/// Vaults go elsewhere than the data directory, whose own place never had a marker.
#[test]
fn a_key_can_be_deleted_where_vaults_are_kept_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let (data, base) = (directory.path().join("data"), directory.path().join("base"));
    std::fs::create_dir(&base).unwrap();
    let start = ("2026-02-28T12:00:00Z".parse().unwrap(), Duration::from_secs(1000));
    let hands = Hands(Arc::new(Mutex::new(start)));
    let open = || {
        let config = ServiceConfig {
            data: data.clone(),
            hosts: Vec::new(),
            vault_storage: Some(base.display().to_string()),
            ..ServiceConfig::default()
        };
        Service::open_with(config, Vec::new(), Arc::new(hands.clone())).unwrap()
    };
    let service = open();
    groups::put(&service, "group", "local", None).unwrap();
    let settings = VaultSettings { soft_delete: Some(SoftDelete::Disabled), ..VaultSettings::default() };
    let make = |name: &str| vaults::put(&service, "group", name, "local", &settings).unwrap().0;
    let (first, second) = (make("first"), make("second"));
    std::fs::remove_file(data.join("vaults").join(storage::MARKER)).unwrap();
    vaults::delete(&service, &first).unwrap();
    housekeeping::purge(&service).unwrap();
    let id = first.store_id.to_string();
    let key = |vault: &Vault| data.join("keys").join(format!("{}.key", vault.id));
    // Its store is left where it is, for somebody to remove.
    assert!(keys::delete(&service, &id, false).unwrap_err().message.contains("its store is there"));
    std::fs::remove_dir_all(&first.store_location).unwrap();
    // Where it was is known, and is mounted or not.
    let away = |name: &str| (base.join(storage::MARKER), directory.path().join(name));
    let (marker, aside) = away("marker");
    std::fs::rename(&marker, &aside).unwrap();
    assert_eq!(keys::delete(&service, &id, false).unwrap_err().kind, ErrorKind::Unavailable);
    std::fs::rename(&aside, &marker).unwrap();
    assert_eq!(keys::delete(&service, &id, false).unwrap(), key(&first));
    // Nothing is known of the second any more: it may have been in either place, and somebody has to say that both are seen.
    std::fs::remove_dir_all(&second.store_location).unwrap();
    let id = second.store_id.to_string();
    drop(service);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    let service = open();
    let error = keys::delete(&service, &id, false).unwrap_err();
    assert!(error.message.contains("--init-storage") && key(&second).is_file(), "{error}");
    assert!(storage::init(&service).unwrap());
    assert!(!storage::init(&service).unwrap());
    let error = keys::delete(&service, &id, false).unwrap_err();
    assert!(error.message.contains("--vault-is-gone") && key(&second).is_file(), "{error}");
    assert_eq!(keys::delete(&service, &id, true).unwrap(), key(&second));
}

#[test]
fn a_store_that_is_out_of_sight_is_to_be_mounted_and_not_made_anew() {
    for fault in [Fault::Empty, Fault::Gone] {
        let lab = Lab::new(SoftDelete::Enabled);
        lab.point();
        let (place, vault) = (lab.place(), lab.vault());
        let Lab { directory, hands, service, .. } = lab;
        drop(service);
        fault.begin(&place);
        let service = open(directory.path(), &hands);
        let problem = reconcile::one(&service, &vault).unwrap().problem.unwrap();
        assert!(problem.contains("Mount") && problem.contains("reachable"), "{fault:?}: {problem}");
        let advised = ["init", "create the vault"].iter().any(|advice| problem.contains(advice));
        assert!(!advised, "{fault:?}: {problem}");
    }
}

/// Vaults were kept elsewhere, the catalog is lost, and the configuration does not name the place any more.
#[test]
fn a_key_is_kept_where_nothing_says_where_its_vault_was() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    let (id, key, place) = (lab.vault().store_id.to_string(), lab.key(), lab.place());
    let Lab { directory, hands, service, .. } = lab;
    service.stop();
    drop(service);
    let base = directory.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let elsewhere = base.join(place.file_name().unwrap());
    std::fs::rename(&place, &elsewhere).unwrap();
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(name));
    }
    let service = open(directory.path(), &hands);
    let error = keys::delete(&service, &id, false).unwrap_err();
    assert!(key.is_file());
    assert!(["vault_storage", "--vault-is-gone"].iter().all(|w| error.message.contains(w)), "{error}");
    drop(service);
    // Configured again, it is found there, whatever somebody says.
    let config = ServiceConfig {
        data: directory.path().to_owned(),
        hosts: Vec::new(),
        vault_storage: Some(base.display().to_string()),
        ..ServiceConfig::default()
    };
    let service = Service::open_with(config, Vec::new(), Arc::new(hands.clone())).unwrap();
    storage::init(&service).unwrap();
    let error = keys::delete(&service, &id, true).unwrap_err();
    assert!(error.message.contains("its store is there") && key.is_file(), "{error}");
    drop(service);
    std::fs::remove_dir_all(&elsewhere).unwrap();
    let service = open(directory.path(), &hands);
    assert!(keys::delete(&service, &id, false).is_err());
    assert_eq!(keys::delete(&service, &id, true).unwrap(), key);
}

/// A vault of the catalog that is not seen in the data directory is not taken for one that never was there.
#[test]
fn a_place_whose_vaults_are_out_of_sight_gets_no_marker_by_the_way() {
    let lab = Lab::new(SoftDelete::Enabled);
    let base = lab.directory.path().join("base");
    let Lab { directory, hands, service, .. } = lab;
    let place = service.data().vaults();
    drop(service);
    std::fs::rename(&place, directory.path().join("away")).unwrap();
    std::fs::create_dir(&place).unwrap();
    let config = ServiceConfig {
        data: directory.path().to_owned(),
        hosts: Vec::new(),
        vault_storage: Some(base.display().to_string()),
        ..ServiceConfig::default()
    };
    let service = Service::open_with(config, Vec::new(), Arc::new(hands)).unwrap();
    assert!(storage::init(&service).unwrap());
    assert!(base.join(storage::MARKER).is_file() && !place.join(storage::MARKER).exists());
    // Once it is there again it gets its marker without a start.
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(directory.path().join("away"), &place).unwrap();
    std::fs::remove_file(place.join(storage::MARKER)).unwrap();
    service.start().unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !place.join(storage::MARKER).is_file() {
        assert!(std::time::Instant::now() < until, "no marker");
        std::thread::sleep(Duration::from_millis(20));
    }
    service.stop();
}

#[test]
fn a_stray_store_keeps_its_key() {
    let lab = Lab::new(SoftDelete::Enabled);
    lab.point();
    let (id, key) = (lab.vault().store_id.to_string(), lab.key());
    let Lab { directory, hands, service, .. } = lab;
    service.stop();
    drop(service);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(name));
    }
    let service = open(directory.path(), &hands);
    let strays = storage::strays(&service).unwrap();
    assert_eq!((strays.stores.len(), strays.keys.len()), (1, 1));
    assert_eq!((strays.stores[0].points, &strays.stores[0].problem), (Some(1), &None));
    let error = keys::delete(&service, &id, false).unwrap_err();
    assert!(error.message.contains("its store is there"), "{error}");
    assert!(key.is_file());
}

#[test]
fn nothing_is_made_in_a_place_without_its_marker() {
    let lab = Lab::new(SoftDelete::Enabled);
    let data = lab.service.data();
    let put = |name| vaults::put(&lab.service, "group", name, "local", &VaultSettings::default());
    put("second").unwrap();
    // The file system that the vaults are on is not mounted.
    std::fs::rename(data.vaults(), lab.directory.path().join("away")).unwrap();
    std::fs::create_dir(data.vaults()).unwrap();
    let error = put("third").unwrap_err();
    for word in ["has no marker", "Mount it", "--init-storage"] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    assert_eq!(std::fs::read_dir(data.vaults()).unwrap().count(), 0);
    assert!(vaults::find(&lab.service, "group", "third").unwrap().is_none());
    // Somebody says that it is a new place.
    assert!(storage::init(&lab.service).unwrap());
    put("third").unwrap();
}

/// A data directory of release 0.1.0; see `fixtures/README.md`.
fn old_data(directory: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-0.1.0.tar.gz");
    let done = std::process::Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory).status();
    assert!(done.unwrap().success());
    let data = directory.join("data");
    // It lies elsewhere now.
    let catalog = SqliteServiceCatalog::open(&data.join("catalog.db")).unwrap();
    let catalog: &dyn ServiceCatalog = &catalog;
    let vault = catalog.find::<Vault>(&Query::all()).unwrap().pop().unwrap();
    let place = data.join("vaults").join(vault.id.to_string());
    assert!(place.is_dir());
    catalog
        .update::<Vault, strongroom_service::Error>(vault.id, |row| {
            row.store_location = place.to_str().unwrap().into();
            Ok(Vec::new())
        })
        .unwrap();
    data
}

#[test]
fn a_data_directory_of_release_0_1_0_is_taken_over_whole() {
    let directory = tempfile::tempdir().unwrap();
    let data = old_data(directory.path());
    let before = contents(&data.join("vaults"));
    let service =
        Service::open(ServiceConfig { data: data.clone(), hosts: Vec::new(), ..ServiceConfig::default() })
            .unwrap();
    assert!(data.join("vaults").join(storage::MARKER).is_file());
    let vault = vaults::list(&service, None).unwrap().pop().unwrap();
    let report = reconcile::one(&service, &vault).unwrap();
    assert_eq!((report.points, report.unmanaged, report.missing), (4, 1, vec![]));
    let images = unmanaged::list(&service, &vault).unwrap();
    assert_eq!((images.len(), images[0].item.as_str()), (1, "photos"));
    let error = vaults::delete(&service, &vault).unwrap_err();
    assert!(error.message.contains("protected item"), "{error}");
    for _ in 0..3 {
        housekeeping::purge(&service).unwrap();
        housekeeping::sweep(&service).unwrap();
    }
    let rows: Vec<Point> = service.catalog().find(&Query::all()).unwrap();
    assert_eq!(rows.iter().filter(|p| p.missing_since.is_none()).count(), 3);
    // All points and what they are made of are there as they were.
    let now = contents(&data.join("vaults"));
    for (path, bytes) in &before {
        let is_data =
            path.components().any(|part| ["points", "packs"].iter().any(|d| part.as_os_str() == *d));
        assert!(!is_data || now.get(path) == Some(bytes), "{}", path.display());
    }
    vaults::put(&service, "strongroom", "another", "local", &VaultSettings::default()).unwrap();
}

#[test]
fn an_old_data_directory_whose_vaults_are_not_mounted_gets_no_marker() {
    let directory = tempfile::tempdir().unwrap();
    let data = old_data(directory.path());
    std::fs::rename(data.join("vaults"), data.join("away")).unwrap();
    std::fs::create_dir(data.join("vaults")).unwrap();
    let config = ServiceConfig { data: data.clone(), hosts: Vec::new(), ..ServiceConfig::default() };
    let service = Service::open(config).unwrap();
    assert_eq!(std::fs::read_dir(data.join("vaults")).unwrap().count(), 0);
    let made = vaults::put(&service, "strongroom", "another", "local", &VaultSettings::default());
    assert_eq!(made.unwrap_err().code, Some("VaultStorageNotMarked"));
}

#[test]
fn a_vault_that_does_not_list_what_it_is_known_to_hold_is_not_purged() {
    let lab = Lab::new(SoftDelete::Disabled);
    lab.point();
    // Nobody's but the vault's, which takes stock of it when space is given back.
    lab.commit("photos", PointKind::Image, None);
    items::delete(&lab.service, &lab.vault(), &lab.item(), "test").unwrap();
    lab.pass(4 * 3600);
    assert!(lab.rows().is_empty());
    let before = lab.contents();
    Fault::NoPoints.begin(&lab.place());
    let _ = vaults::delete(&lab.service, &lab.vault());
    lab.pass(DAY);
    assert!(lab.place().is_dir() && lab.service.catalog().get::<Vault>(lab.vault).unwrap().is_some());
    Fault::NoPoints.end(&lab.place());
    assert_nothing_lost(&lab, &before, "a short listing");
}
