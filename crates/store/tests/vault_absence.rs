//! What is not found is not forgotten: listings that come back short, late or empty, objects that are said not to be there,
//! locations that are not mounted. Nothing is freed by any of it, and every point is whole once the store tells the truth.

mod common;

use common::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use strongroom_domain::{PointId, TypedExtent};
use strongroom_store::check::Finding;
use strongroom_store::objects::fault::{
    Crash, Fault, FaultPlan, FaultStore, Matches, Nth, OpKind, Operation,
};
use strongroom_store::objects::{BlobStore, Kind, OpenOptions, RetryLimits};
use strongroom_store::reclaim::{ReclaimOptions, ReclaimReport, reclaim};
use strongroom_store::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn faulty() -> (FaultStore, BlobStore) {
    let fault = FaultStore::new(Arc::new(object_store::memory::InMemory::new()), FaultPlan::none());
    (fault.clone(), store_in(fault))
}

fn store_in(fault: FaultStore) -> BlobStore {
    let options = OpenOptions { retry: RetryLimits::NONE, ..OpenOptions::default() };
    BlobStore::from_object_store(Arc::new(fault), "memory", options).unwrap()
}

fn try_reclaim(vault: &Vault, options: &ReclaimOptions) -> Result<ReclaimReport> {
    reclaim(vault, options, &Progress::default())
}

fn missing(result: Result<ReclaimReport>) -> Vec<PointId> {
    match result.unwrap_err() {
        StoreError::PointsMissing { points } => points,
        other => panic!("{other}"),
    }
}

/// Two points of item a and one of b that share data.
fn three_points(vault: &Vault) -> Vec<(Manifest, Vec<u8>)> {
    let image = Image::new([text(1, 70_000), noise(2, 60_000)].concat());
    let mut points = vec![(backup(vault, "a", &image, None).unwrap(), image.bytes())];
    image.0.lock()[10_000..14_000].copy_from_slice(&noise(3, 4000));
    let extents = Some(vec![TypedExtent::data(10_000, 4000)]);
    points.push((backup(vault, "a", &image, extents).unwrap(), image.bytes()));
    let other = Image::new([noise(2, 60_000), noise(4, 20_000)].concat());
    points.push((backup(vault, "b", &other, None).unwrap(), other.bytes()));
    points
}

fn assert_whole(vault: &Vault, points: &[(Manifest, Vec<u8>)], about: &str) {
    for (point, bytes) in points {
        let there = vault.point(&point.point).unwrap_or_else(|e| panic!("{about}: {e}"));
        let restored = restore(vault, &there).unwrap_or_else(|e| panic!("{about}: {e}"));
        assert!(restored == *bytes, "{about}: wrong bytes of {}", point.point);
    }
}

#[test]
fn points_moved_away_free_nothing() {
    for reclaimed_before in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (vault, _) = init(objects_at(directory.path()));
        let points = three_points(&vault);
        if reclaimed_before {
            reclaim_all(&vault, None);
        }
        let (from, to) = (directory.path().join("points"), directory.path().join("elsewhere"));
        std::fs::rename(&from, &to).unwrap();
        let before = stored(&vault, "packs/");
        for thorough in [false, true] {
            let options = ReclaimOptions { thorough, ..ReclaimOptions::default() };
            let error = try_reclaim(&vault, &options).unwrap_err();
            for (point, _) in &points {
                assert!(error.to_string().contains(&point.point.to_string()), "{error}");
            }
            assert!(error.to_string().contains("--accept-loss"), "{error}");
        }
        assert_eq!(stored(&vault, "packs/"), before);
        if reclaimed_before {
            let report = check(&vault, false);
            for (point, _) in &points {
                assert!(report.findings.iter().any(|f| f.points.iter().any(|p| p.point == point.point)));
            }
        }
        std::fs::rename(&to, &from).unwrap();
        reclaim_all(&vault, None);
        assert_whole(&vault, &points, "after they came back");
    }
}

/// Neither the roll names them yet, nor can the log be read.
#[test]
fn points_moved_away_that_only_leases_tell_of_free_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    for object in vault.objects().list("commits/").unwrap() {
        std::fs::write(directory.path().join(object.name), "nonsense").unwrap();
    }
    let (from, to) = (directory.path().join("points"), directory.path().join("elsewhere"));
    std::fs::rename(&from, &to).unwrap();
    let before = stored(&vault, "packs/");
    let mut expected: Vec<PointId> = points.iter().map(|(point, _)| point.point).collect();
    expected.sort();
    assert_eq!(missing(try_reclaim(&vault, &ReclaimOptions::default())), expected);
    assert_eq!(stored(&vault, "packs/"), before);
    std::fs::rename(&to, &from).unwrap();
    reclaim_all(&vault, None);
    assert_whole(&vault, &points, "after they came back");
}

/// Its manifest, its lease and its entry in the log are away, and the roll is an older one: its packs and their index are there.
#[test]
fn packs_of_a_session_that_nothing_tells_of_wait() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    for name in vault.objects().list("").unwrap().into_iter().map(|object| object.name) {
        let is_away = name.starts_with("commits/")
            || name.ends_with(&points[2].0.point.to_string())
            || name.ends_with(&points[2].0.session.to_string());
        if is_away && !name.starts_with("packs/") && !name.starts_with("index/") {
            std::fs::remove_file(directory.path().join(name)).unwrap();
        }
    }
    let vault = Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
    let before = stored(&vault, "packs/");
    for thorough in [false, true] {
        let options = ReclaimOptions { thorough, ..ReclaimOptions::default() };
        let report = try_reclaim(&vault, &options).unwrap();
        assert!(report.packs_deleted == 0 && report.waiting_bytes > 0, "{report:?}");
        let session = points[2].0.session.to_string();
        assert!(report.waiting_for.iter().any(|who| who.contains(&session)), "{report:?}");
    }
    assert_eq!(stored(&vault, "packs/"), before);
    assert_whole(&vault, &points[..2], "beside it");
    // Somebody looked.
    let options = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
    assert!(try_reclaim(&vault, &options).unwrap().packs_deleted > 0);
    assert_whole(&vault, &points[..2], "after");
}

#[test]
fn a_point_that_only_its_catalog_knows_frees_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    three_points(&vault);
    let unknown = vault.environment().new_point_id();
    let options = ReclaimOptions { expected: vec![unknown], ..ReclaimOptions::default() };
    assert_eq!(missing(try_reclaim(&vault, &options)), [unknown]);
}

#[test]
fn a_loss_that_is_accepted_is_freed() {
    let directory = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    reclaim_all(&vault, Some(cache.path()));
    let lost = vault.objects().list("points/").unwrap();
    let lost = lost.iter().find(|o| o.name.ends_with(&points[2].0.point.to_string())).unwrap();
    std::fs::remove_file(directory.path().join(&lost.name)).unwrap();
    let id = points[2].0.point;
    let options = ReclaimOptions {
        cache_dir: Some(cache.path().to_owned()),
        accept_loss: vec![id],
        ..ReclaimOptions::default()
    };
    // One that is there is not written off.
    assert!(vault.accept_loss(&points[0].0.point, "x").is_err());
    assert_eq!(
        missing(try_reclaim(&vault, &ReclaimOptions { accept_loss: vec![], ..options.clone() })),
        [id]
    );
    // Where another is missing too, nothing is written off either.
    let unknown = vault.environment().new_point_id();
    let refused = ReclaimOptions { expected: vec![unknown], ..options.clone() };
    assert_eq!(missing(try_reclaim(&vault, &refused)), [unknown]);
    assert!(vault.tombstone(&id).unwrap().is_none());
    let report = try_reclaim(&vault, &options).unwrap();
    assert!(report.packs_deleted > 0, "{report:?}");
    assert_eq!(vault.tombstone(&id).unwrap().unwrap().why, "accepted loss");
    reclaim_all(&vault, Some(cache.path()));
    assert_whole(&vault, &points[..2], "after the loss");
    assert!(check(&vault, true).is_sound());
}

#[test]
fn a_manifest_that_is_not_to_be_had_frees_nothing() {
    let (fault, objects) = faulty();
    let (vault, _) = init(objects);
    let points = three_points(&vault);
    let id = points[1].0.point;
    let name = vault.objects().list("points/").unwrap();
    let name = name.into_iter().find(|o| o.name.ends_with(&id.to_string())).unwrap().name;
    let before = stored(&vault, "packs/");
    let plan = FaultPlan::none().rule(
        Matches { op: Some(OpKind::Get), name_prefix: Some(name), nth: Nth::Every },
        Fault::SayNotFound,
    );
    fault.set_plan(plan.clone());
    assert_eq!(missing(try_reclaim(&vault, &ReclaimOptions::default())), [id]);
    // Where nothing but the listing knows of it, too, and that is to be taken for all there is.
    fault.set_plan(FaultPlan::none());
    for name in vault.objects().list("").unwrap().into_iter().map(|object| object.name) {
        if ["roll", "commits/", "sessions/"].iter().any(|part| name.starts_with(part)) {
            vault.objects().delete(&name).unwrap();
        }
    }
    fault.set_plan(plan);
    let as_listed = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
    assert_eq!(missing(try_reclaim(&vault, &as_listed)), [id]);
    fault.set_plan(FaultPlan::none());
    assert_eq!(stored(&vault, "packs/"), before);
    assert_whole(&vault, &points, "after");
}

#[test]
fn forgetting_is_written_down_first_and_finished_by_whoever_comes() {
    for finisher in ["forget", "reclaim"] {
        let mut k = 0;
        loop {
            let (fault, objects) = faulty();
            let (vault, key) = init(objects.clone());
            let points = three_points(&vault);
            let id = points[0].0.point;
            fault.set_plan(FaultPlan::crash_at(k, Crash::Before));
            let forgot = vault.forget(&id, "it expired");
            fault.set_plan(FaultPlan::none());
            let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(2))).unwrap();
            let visible = vault.points(None).unwrap().points.iter().any(|p| p.point == id);
            let tombstone = vault.tombstone(&id).unwrap();
            assert_eq!(visible, tombstone.is_none(), "{k}");
            assert_eq!(vault.point(&id).is_ok(), visible);
            if forgot.is_err() && (finisher == "forget" || visible) {
                vault.forget(&id, "it expired").unwrap();
            }
            // Again is fine.
            if finisher == "forget" {
                vault.forget(&id, "another reason").unwrap();
            }
            reclaim_all(&vault, None);
            assert!(
                !vault.objects().list("points/").unwrap().iter().any(|o| o.name.contains(&id.to_string()))
            );
            let tombstone = vault.tombstone(&id).unwrap().unwrap();
            assert_eq!(
                (tombstone.why.as_str(), tombstone.session),
                ("it expired", Some(points[0].0.session))
            );
            assert_whole(&vault, &points[1..], "beside");
            assert!(check(&vault, true).is_sound());
            if forgot.is_ok() {
                break;
            }
            k += 1;
        }
        assert!(k > 4);
    }
}

#[test]
fn tombstones_are_kept_for_ninety_days() {
    let (fault, objects) = faulty();
    let (vault, _) = init(objects);
    let points = three_points(&vault);
    vault.forget(&points[0].0.point, "test").unwrap();
    for (days, left) in [(0, 1), (89, 1), (2, 0)] {
        fault.age(DAY * days);
        reclaim_all(&vault, None);
        assert_eq!(vault.tombstones().unwrap().tombstones.len(), left, "{days} days later");
    }
    assert_whole(&vault, &points[1..], "after");
}

/// Killed between its packs and its point, or right after it: which of the two is not known at once.
#[test]
fn packs_of_a_session_that_may_have_committed_wait_for_a_day() {
    let (fault, objects) = faulty();
    let (vault, key) = init(objects.clone());
    let image = Image::new(noise(1, 200_000));
    let under_way = begin(&vault, "a", &image, None).unwrap();
    fault.set_plan(FaultPlan::crash_at(commit_operation(), Crash::After));
    under_way.commit(&vault, "a").unwrap_err();
    assert!(fault.crashed());
    fault.set_plan(FaultPlan::none());
    let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(2))).unwrap();
    let before = stored(&vault, "packs/");
    let point = vault.points(None).unwrap().points.pop().expect("the process died after its point");
    // Hidden: a listing leaves it out, and it is said not to be there.
    fault.set_plan(
        FaultPlan::none()
            .rule(
                Matches { op: Some(OpKind::List), name_prefix: Some("points".into()), nth: Nth::Every },
                Fault::EmptyList,
            )
            .rule(
                Matches { op: Some(OpKind::Get), name_prefix: Some("points/".into()), nth: Nth::Every },
                Fault::SayNotFound,
            ),
    );
    let report = reclaim_all(&vault, None);
    assert!(report.packs_deleted == 0 && report.waiting_bytes > 0, "{report:?}");
    assert!(report.waiting_for[0].contains(&point.point.to_string()), "{report:?}");
    fault.set_plan(FaultPlan::none());
    assert_eq!(stored(&vault, "packs/"), before);
    reclaim_all(&vault, None);
    assert!(restore(&vault, &point).unwrap() == image.bytes());
    assert!(vault.objects().list("sessions/").unwrap().is_empty());
}

/// Which operation of a commit writes the manifest, counted from the commit's first.
fn commit_operation() -> u64 {
    let (fault, objects) = faulty();
    let (vault, _) = init(objects);
    let under_way = begin(&vault, "a", &Image::new(noise(1, 200_000)), None).unwrap();
    fault.set_plan(FaultPlan::none());
    under_way.commit(&vault, "a").unwrap();
    fault.log().iter().position(|o| o.op == OpKind::Put && o.name.starts_with("points/")).unwrap() as u64
}

#[test]
fn a_session_that_died_before_its_point_frees_its_packs_a_day_later() {
    let (fault, objects) = faulty();
    let (vault, key) = init(objects.clone());
    let under_way = begin(&vault, "a", &Image::new(noise(1, 200_000)), None).unwrap();
    fault.set_plan(FaultPlan::crash_at(commit_operation(), Crash::Before));
    under_way.commit(&vault, "a").unwrap_err();
    fault.set_plan(FaultPlan::none());
    let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(2))).unwrap();
    assert!(reclaim_all(&vault, None).waiting_bytes > 0);
    assert!(stored(&vault, "packs/") > 0);
    fault.age(DAY + Duration::from_secs(60));
    reclaim_all(&vault, None);
    assert_eq!((stored(&vault, "packs/"), stored(&vault, "sessions/")), (0, 0));
}

/// As where another directory is mounted in place of the vault's: with a header even, but without the marker.
#[test]
fn without_the_marker_nothing_is_written_or_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    let marker = std::fs::read(directory.path().join("marker")).unwrap();
    // One copy will do, and the other is put right.
    std::fs::remove_file(directory.path().join("marker.copy")).unwrap();
    drop(Session::begin(&vault, "test").unwrap());
    assert!(directory.path().join("marker.copy").exists());
    for name in ["marker", "marker.copy"] {
        std::fs::remove_file(directory.path().join(name)).unwrap();
    }
    let vault = Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
    let before = vault.objects().list("").unwrap();
    let refusals = [
        Session::begin(&vault, "test").map(drop),
        try_reclaim(&vault, &ReclaimOptions::default()).map(drop),
        vault.write_note("policies", &"kept".into()),
        vault.forget(&points[0].0.point, "test"),
        vault.accept_loss(&vault.environment().new_point_id(), "test"),
    ];
    for (index, refused) in refusals.into_iter().enumerate() {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Unmarked { .. }), "{index}: {error}");
    }
    // Restores go on, without a lease.
    assert_whole(&vault, &points, "without the marker");
    assert!(check(&vault, true).findings.iter().any(|finding| finding.object == "marker"));
    assert_eq!(vault.objects().list("").unwrap(), before);
    vault.renew_marker().unwrap();
    assert_eq!(std::fs::read(directory.path().join("marker")).unwrap(), marker);
    vault.forget(&points[0].0.point, "test").unwrap();
}

/// Where the parts of a vault are: each may be a file system of its own, or a directory that a file server answers for.
const PARTS: [&str; 10] =
    ["points", "tombstones", "sessions", "commits", "index", "packs", "condemned", "lists", "roll", "marker"];

/// From operation `from` on, up to `to`, these parts are not to be seen; the rest is. Counted by what a run did to whom nothing
/// was hidden, so that all of them go at the same time.
fn vanishing(log: &[Operation], parts: &[&str], from: usize, to: usize) -> FaultPlan {
    let mut plan = FaultPlan::none();
    for part in parts {
        for (op, lie) in [
            (OpKind::Get, Fault::SayNotFound),
            (OpKind::Head, Fault::SayNotFound),
            (OpKind::List, Fault::EmptyList),
        ] {
            let of = |log: &[Operation]| {
                log.iter().filter(|o| o.op == op && o.name.starts_with(part)).count() as u64
            };
            let until = if to < log.len() { of(&log[..to]) } else { u64::MAX };
            let nth = Nth::Between(of(&log[..from]), until);
            plan = plan.rule(Matches { op: Some(op), name_prefix: Some((*part).into()), nth }, lie);
        }
    }
    plan
}

/// A file system that goes while a reclaim is at it: all of the vault or parts of it, before any of its reads, for good or to
/// come back a few operations later. Also where the lease, or the marker, stays in sight, which would stop it before all else.
#[test]
fn a_mount_that_vanishes_midway_loses_nothing() {
    std::thread::scope(|scope| {
        for was_reclaimed in [false, true] {
            scope.spawn(move || lose_nothing_midway(was_reclaimed));
        }
    });
}

fn lose_nothing_midway(was_reclaimed: bool) {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(store_in(FaultStore::new(memory.clone(), FaultPlan::none())));
    let mut points = three_points(&vault);
    let large = noise(5, 120_000);
    points.push((backup(&vault, "c", &Image::new(large.clone()), None).unwrap(), large.clone()));
    if was_reclaimed {
        reclaim_all(&vault, None);
    }
    let part = large[..20 * 1024].to_vec();
    points.push((backup(&vault, "d", &Image::new(part.clone()), None).unwrap(), part));
    // One whose pack nobody needs then, and one of whose pack another point needs a part.
    for forgotten in [3, 2] {
        vault.forget(&points.remove(forgotten).0.point, "test").unwrap();
    }
    drop(vault);
    // A copy of the vault, of which a reclaim sees what the plan leaves.
    let reclaimed = |plan: FaultPlan| {
        let fault = FaultStore::new(Arc::new(memory.fork()), FaultPlan::none());
        let vault = open_quietly(&store_in(fault.clone()), &key).unwrap();
        fault.set_plan(plan);
        let reclaimed = try_reclaim(&vault, &ReclaimOptions::default());
        let log = fault.log();
        fault.set_plan(FaultPlan::none());
        (fault, log, reclaimed)
    };
    let (_, log, report) = reclaimed(FaultPlan::none());
    let report = report.unwrap();
    assert!(report.packs_rewritten > 0 && report.packs_deleted > report.packs_rewritten, "{report:?}");
    let all_but = |left: &[&str]| PARTS.into_iter().filter(|part| !left.contains(part)).collect();
    let mut sets: Vec<Vec<&str>> = PARTS.map(|part| vec![part]).to_vec();
    sets.push(PARTS.to_vec());
    sets.push(all_but(&["sessions"]));
    sets.push(all_but(&["marker"]));
    sets.push(all_but(&["sessions", "marker"]));
    for parts in &sets {
        for from in 0..log.len() {
            let is_in = |o: &Operation| parts.iter().any(|part| o.name.starts_with(part));
            if !is_in(&log[from]) || matches!(log[from].op, OpKind::Put | OpKind::Delete) {
                continue;
            }
            for reads in [4, usize::MAX] {
                let to = from.saturating_add(reads);
                let until = if to < log.len() { format!("up to {to}") } else { "for good".into() };
                let about = format!("{parts:?} gone from operation {from} on, {until}");
                let (fault, seen, result) = reclaimed(vanishing(&log, parts, from, to));
                let vault = open_quietly(&store_in(fault), &key).unwrap();
                let of_runs = |o: &&Operation| o.name.starts_with("sessions") || o.name.starts_with("locks");
                if seen.iter().filter(|o| !of_runs(o)).any(|o| o.op == OpKind::Delete) {
                    assert_whole(&vault, &points, &format!("{about}; {result:?}"));
                }
                if reads == usize::MAX {
                    assert_stopped(&seen, parts, &log[..from], &about);
                }
            }
        }
    }
}

/// Nothing is deleted once the marker is gone, and no pack once the lease is, but right after a look that found it there. Gone it
/// may be since the last such look, which is where this begins.
fn assert_stopped(log: &[Operation], gone: &[&str], before: &[Operation], about: &str) {
    let is_gone = |part| gone.contains(&part);
    let (marker, lease) = (is_gone("marker"), is_gone("sessions"));
    // As many looks as were made before it went found it there.
    let after_looks = |op: OpKind, part: &str| {
        let is_look = |o: &Operation| o.op == op && o.name.starts_with(part);
        let found = before.iter().filter(|o| is_look(o)).count();
        let mut looks = log.iter().enumerate().filter(|(_, o)| is_look(o));
        found.checked_sub(1).and_then(|last| looks.nth(last)).map_or(0, |(index, _)| index + 1)
    };
    let after_marker = if marker { after_looks(OpKind::Get, "marker") } else { 0 };
    let after_lease = if lease { after_looks(OpKind::Head, "sessions") } else { 0 };
    let since = after_marker.max(after_lease);
    let mut was_looked = true;
    for operation in log.iter().skip(since) {
        let is_of = |part: &str| operation.name.starts_with(part);
        let kept = ["points", "tombstones", "packs", "commits", "condemned"].into_iter().any(is_of);
        if operation.op != OpKind::Delete {
            was_looked &= !marker && operation.op == OpKind::Get && is_of("marker");
        } else if (kept && marker) || (is_of("packs") && lease) {
            assert!(was_looked, "{about}: {} was deleted", operation.name);
        }
    }
}

/// Makes a vault what an earlier release would have made of it.
fn make_version_1(vault: &Vault) {
    let text = vault.objects().get("vault.json").unwrap();
    let line = std::str::from_utf8(&text).unwrap().lines().next().unwrap();
    let mut header: serde_json::Value = serde_json::from_str(line).unwrap();
    let fields = header.as_object_mut().unwrap();
    fields["version"] = 1.into();
    fields.remove("requires").unwrap();
    fields.remove("release").unwrap();
    write_header(vault, &header);
    for name in ["marker", "marker.copy", "roll", "roll.copy", "lists"] {
        vault.objects().delete(name).unwrap();
    }
    for prefix in ["tombstones/", "sessions/"] {
        for object in vault.objects().list(prefix).unwrap() {
            vault.objects().delete(&object.name).unwrap();
        }
    }
}

fn write_header(vault: &Vault, header: &serde_json::Value) {
    let line = header.to_string();
    let bytes = format!("{line}\nblake3 {}\n", blake3::hash(line.as_bytes()).to_hex());
    for name in ["vault.json", "vault.copy.json"] {
        vault.objects().put(name, bytes.clone().into()).unwrap();
    }
}

/// The real world with a clock that can be moved.
struct Clock(Mutex<jiff::SignedDuration>);

impl Environment for Clock {
    fn now(&self) -> jiff::Timestamp {
        System.now() + *self.0.lock()
    }
    fn elapsed(&self) -> Duration {
        System.elapsed()
    }
    fn new_session_id(&self) -> strongroom_domain::SessionId {
        System.new_session_id()
    }
    fn new_point_id(&self) -> PointId {
        System.new_point_id()
    }
    fn new_vault_id(&self) -> strongroom_domain::VaultId {
        System.new_vault_id()
    }
    fn process(&self) -> ProcessIdentity {
        System.process()
    }
    fn is_gone(&self, _: &ProcessIdentity) -> bool {
        false
    }
}

#[test]
fn a_vault_of_version_1_is_upgraded_once_wherever_it_is_killed() {
    let mut k = 0;
    loop {
        let (fault, objects) = faulty();
        let (vault, key) = init(objects.clone());
        let points = three_points(&vault);
        make_version_1(&vault);
        let open = || Vault::open_in(objects.clone(), &key, Arc::new(Incarnation(2))).unwrap();
        // Reading changes nothing.
        let names = |vault: &Vault| -> Vec<String> {
            vault.objects().list("").unwrap().into_iter().map(|object| object.name).collect()
        };
        let before = names(&vault);
        assert_whole(&open(), &points, "version 1");
        assert!(check(&open(), true).is_sound());
        assert_eq!(names(&vault), before);
        fault.set_plan(FaultPlan::crash_at(k, if k % 2 == 0 { Crash::Before } else { Crash::After }));
        let begun = open_quietly(&objects, &key).and_then(|vault| Session::begin(&vault, "test").map(drop));
        fault.set_plan(FaultPlan::none());
        assert_whole(&open(), &points, "killed in between");
        drop(Session::begin(&open(), "test").unwrap());
        let header = vault.objects().get("vault.json").unwrap();
        assert_eq!(vault.objects().get("vault.copy.json").unwrap(), header);
        let header = std::str::from_utf8(&header).unwrap().to_owned();
        assert!(
            header.contains(r#""version":2"#)
                && header.contains(r#""requires":["kept","tombstones","roll","marker","commits"]"#),
            "{header}"
        );
        for name in ["marker", "marker.copy", "roll", "roll.copy", "lists"] {
            assert!(vault.objects().head(name).unwrap().is_some(), "{name} after a kill at {k}");
        }
        assert_whole(&open(), &points, "upgraded");
        assert!(check(&open(), true).is_sound());
        // What it has is known from a listing alone.
        assert!(!reclaim_all(&open(), None).confirmed);
        if begun.is_ok() {
            break;
        }
        k += 1;
    }
    assert!(k > 10);
}

fn open_quietly(objects: &BlobStore, key: &KeyFile) -> Result<Vault> {
    Vault::open_in(objects.clone(), key, Arc::new(Incarnation(2)))
}

#[test]
fn what_was_dead_before_tombstones_is_freed_once_two_agreements_say_so() {
    for as_listed in [false, true] {
        let (fault, objects) = faulty();
        let (vault, key) = init(objects.clone());
        let points = three_points(&vault);
        // Forgotten as an earlier release did: the manifest just goes.
        for object in vault.objects().list("points/").unwrap() {
            if object.name.ends_with(&points[2].0.point.to_string()) {
                vault.objects().delete(&object.name).unwrap();
            }
        }
        make_version_1(&vault);
        fault.age(DAY);
        let clock = Arc::new(Clock(Mutex::default()));
        let vault = Vault::open_in(objects, &key, clock.clone()).unwrap();
        let before = stored(&vault, "packs/");
        let known: Vec<PointId> = points[..2].iter().map(|(point, _)| point.point).collect();
        let nothing = |about: &str| {
            let report = reclaim_all(&vault, None);
            assert!(!report.confirmed && report.packs_deleted == 0, "{about}: {report:?}");
            assert!(
                report.waiting_bytes > 0 && report.waiting_for[0].contains("agree"),
                "{about}: {report:?}"
            );
            assert_eq!(stored(&vault, "packs/"), before, "{about}");
        };
        nothing("at first");
        if as_listed {
            let options = ReclaimOptions { as_listed, ..ReclaimOptions::default() };
            assert!(try_reclaim(&vault, &options).unwrap().packs_deleted > 0);
        } else {
            let Agreement::First { since } = vault.agree(&known).unwrap() else { panic!() };
            nothing("agreed once");
            *clock.0.lock() += jiff::SignedDuration::from_hours(23);
            assert_eq!(vault.agree(&known).unwrap(), Agreement::First { since });
            nothing("agreed twice on a day");
            // Somebody who misses a point begins it anew; one who does not know one yet does not.
            let lost = vault.environment().new_point_id();
            assert_eq!(
                vault.agree(&[known[0], known[1], lost]).unwrap(),
                Agreement::Differs { missing: vec![lost], unknown: vec![] }
            );
            *clock.0.lock() += jiff::SignedDuration::from_hours(2);
            let Agreement::First { .. } = vault.agree(&known).unwrap() else { panic!() };
            nothing("after a difference");
            *clock.0.lock() += jiff::SignedDuration::from_hours(12);
            assert_eq!(
                vault.agree(&known[1..]).unwrap(),
                Agreement::Differs { missing: vec![], unknown: vec![known[0]] }
            );
            nothing("while one was not known");
            *clock.0.lock() += jiff::SignedDuration::from_hours(12);
            assert_eq!(vault.agree(&known).unwrap(), Agreement::Confirmed);
            assert_eq!(vault.agree(&known).unwrap(), Agreement::Confirmed);
            assert!(reclaim_all(&vault, None).packs_deleted > 0);
        }
        assert!(stored(&vault, "packs/") < before);
        assert_whole(&vault, &points[..2], "after");
        assert!(check(&vault, true).is_sound());
        assert_eq!(reclaim_all(&vault, None).packs_deleted, 0);
    }
}

/// A list that was taken from the vault itself knows nothing of a point that neither shows.
#[test]
fn agreements_with_the_vaults_own_listing_free_nothing() {
    let (fault, objects) = faulty();
    let (vault, key) = init(objects.clone());
    let points = three_points(&vault);
    // Takes the sessions' leases down.
    reclaim_all(&vault, None);
    let hidden = points[1].0.point.to_string();
    let listed = vault.objects().list("points/").unwrap();
    let name = listed.into_iter().find(|object| object.name.ends_with(&hidden)).unwrap().name;
    let bytes = vault.objects().get(&name).unwrap();
    vault.objects().delete(&name).unwrap();
    for lost in ["roll", "roll.copy"] {
        vault.objects().delete(lost).unwrap();
    }
    for entry in vault.objects().list("commits/").unwrap() {
        vault.objects().delete(&entry.name).unwrap();
    }
    fault.age(2 * DAY);
    let clock = Arc::new(Clock(Mutex::default()));
    let vault = Vault::open_in(objects, &key, clock.clone()).unwrap();
    let known = [points[0].0.point, points[2].0.point];
    // One agreement that counted, of somebody who is gone: it counts no more.
    let first = vault.agree(&known).unwrap();
    assert!(matches!(first, Agreement::First { .. }), "{first:?}");
    for _ in 0..3 {
        *clock.0.lock() += jiff::SignedDuration::from_hours(25);
        assert_eq!(vault.agree_as_listed(&known).unwrap(), Agreement::AsListed);
        let report =
            try_reclaim(&vault, &ReclaimOptions { thorough: true, ..ReclaimOptions::default() }).unwrap();
        assert!(!report.confirmed && report.packs_deleted == 0, "{report:?}");
        assert!(report.waiting_for[0].contains("--as-listed"), "{report:?}");
    }
    vault.objects().put(&name, bytes).unwrap();
    assert_whole(&vault, &points, "the point that is back");
    assert!(check(&vault, true).is_sound());
}

#[test]
fn without_its_roll_nothing_is_freed() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    reclaim_all(&vault, None);
    vault.forget(&points[2].0.point, "test").unwrap();
    for name in ["roll", "roll.copy"] {
        std::fs::remove_file(directory.path().join(name)).unwrap();
    }
    let before = stored(&vault, "packs/");
    let error = try_reclaim(&vault, &ReclaimOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::RollUnknown { .. }), "{error}");
    assert!(error.to_string().contains("--as-listed"), "{error}");
    assert_eq!(stored(&vault, "packs/"), before);
    let options = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
    assert!(try_reclaim(&vault, &options).unwrap().packs_deleted > 0);
    assert_whole(&vault, &points[..2], "after");
    assert!(check(&vault, true).is_sound());
}

#[test]
fn a_vault_that_uses_what_this_program_does_not_know_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(directory.path()));
    let text = vault.objects().get("vault.json").unwrap();
    let mut header: serde_json::Value =
        serde_json::from_str(std::str::from_utf8(&text).unwrap().lines().next().unwrap()).unwrap();
    header["requires"].as_array_mut().unwrap().push("time-travel".into());
    header["release"] = "9.9.9".into();
    write_header(&vault, &header);
    let error = Vault::open(objects_at(directory.path()), &key).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::UnknownRequirement { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("time-travel") && text.contains("9.9.9") && !text.contains("tombstones"), "{text}");
}

/// What a session wrote is away: manifest, lease, index run, packs. What others wrote, and its point builds on, stays.
#[test]
fn a_point_that_is_out_of_sight_with_its_session_keeps_what_it_builds_on() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    reclaim_all(&vault, None);
    let names = || vault.objects().list("").unwrap().into_iter().map(|object| object.name);
    let before: Vec<String> = names().collect();
    let bytes = points[2].1.clone();
    let hidden = backup(&vault, "c", &Image::new(bytes.clone()), None).unwrap();
    let new: Vec<String> =
        names().filter(|name| !before.contains(name) && !name.starts_with("commits/")).collect();
    assert!(new.iter().any(|name| name.starts_with("points/")), "{new:?}");
    vault.forget(&points[2].0.point, "test").unwrap();
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for (number, name) in new.iter().enumerate() {
        std::fs::rename(directory.path().join(name), elsewhere.join(number.to_string())).unwrap();
    }
    for thorough in [false, true] {
        let options = ReclaimOptions { thorough, ..ReclaimOptions::default() };
        let report = try_reclaim(&vault, &options).unwrap();
        assert_eq!(report.packs_deleted, 0, "{report:?}");
        assert!(report.waiting_for.iter().any(|who| who.contains(&hidden.point.to_string())), "{report:?}");
    }
    let report = check(&vault, true);
    let named = |finding: &Finding| finding.points.iter().any(|of| of.point == hidden.point);
    assert!(report.findings.iter().any(named), "{:?}", report.findings);
    // An entry of the log that is away too, with a later one there, is noticed.
    let entry = names().find(|name| name.starts_with("commits/") && !before.contains(name)).unwrap();
    let (from, to) = (directory.path().join(&entry), elsewhere.join("entry"));
    std::fs::rename(&from, &to).unwrap();
    let refused = try_reclaim(&vault, &ReclaimOptions::default()).unwrap_err();
    assert!(matches!(&refused, StoreError::RollUnknown { .. }), "{refused}");
    assert!(refused.to_string().contains(&entry), "{refused}");
    let report = check(&vault, true);
    assert!(report.findings.iter().any(|finding| finding.object == entry), "{:?}", report.findings);
    std::fs::rename(&to, &from).unwrap();
    for (number, name) in new.iter().enumerate() {
        std::fs::create_dir_all(directory.path().join(name).parent().unwrap()).unwrap();
        std::fs::rename(elsewhere.join(number.to_string()), directory.path().join(name)).unwrap();
    }
    std::fs::remove_dir(&elsewhere).unwrap();
    reclaim_all(&vault, None);
    assert_whole(&vault, &[(hidden, bytes)], "after it came back");
    assert_whole(&vault, &points[..2], "beside it");
    assert!(check(&vault, true).is_sound());
}

/// Its answer was lost, its tombstone written, its removal refused: the id stays free for the next attempt.
#[test]
fn a_point_whose_taking_back_was_cut_short_can_be_made_again() {
    let (fault, objects) = faulty();
    let (vault, _) = init(objects);
    let image = Image::new(noise(1, 100_000));
    let id = vault.environment().new_point_id();
    let commit = || {
        let under_way = begin(&vault, "a", &image, None).unwrap();
        let disks = vec![Disk::new("disk", &under_way.written)];
        under_way.session.commit_as(id, draft("a", &vault, disks, None))
    };
    let on = |op| Matches { op: Some(op), name_prefix: Some("points/".into()), nth: Nth::Every };
    fault.set_plan(
        FaultPlan::none()
            .rule(on(OpKind::Put), Fault::ErrorAfter(Kind::Other))
            .rule(on(OpKind::Delete), Fault::ErrorBefore(Kind::Other)),
    );
    commit().unwrap_err();
    fault.set_plan(FaultPlan::none());
    assert!(vault.objects().list("points/").unwrap().len() == 1 && vault.point(&id).is_err());
    let point = commit().unwrap();
    assert_whole(&vault, &[(point, image.bytes())], "made again");
    reclaim_all(&vault, None);
    assert!(check(&vault, true).is_sound());
    // One that is there is not made again.
    assert!(matches!(commit().unwrap_err(), StoreError::Object(e) if e.kind == Kind::AlreadyExists));
}

/// All that tells of points is away, the packs are there: that is not a vault without points.
#[test]
fn packs_without_points_are_not_taken_for_nobodys() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    let hide = |names: &[&str]| {
        for name in names {
            std::fs::rename(directory.path().join(name), directory.path().join(format!("{name}.away")))
                .unwrap();
        }
    };
    let restore = |names: &[&str]| {
        for name in names {
            let _ = std::fs::remove_dir_all(directory.path().join(name));
            let _ = std::fs::remove_file(directory.path().join(name));
            std::fs::rename(directory.path().join(format!("{name}.away")), directory.path().join(name))
                .unwrap();
        }
    };
    let as_listed = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
    // The points alone: leases and the log know of them.
    hide(&["points"]);
    assert_eq!(vault.out_of_sight().unwrap().points.len(), 3);
    restore(&["points"]);
    // Leases too: the log does.
    hide(&["points", "sessions"]);
    let out = vault.out_of_sight().unwrap();
    assert!(out.points.len() == 3 && out.points.iter().all(|missing| !missing.was_there), "{out:?}");
    assert!(out.told().contains(&points[0].0.point.to_string()), "{}", out.told());
    assert!(!check(&vault, false).is_sound());
    restore(&["points", "sessions"]);
    // All of them, and the roll.
    let all = ["points", "sessions", "commits", "roll", "roll.copy"];
    hide(&all);
    let before = stored(&vault, "packs/");
    assert!(vault.out_of_sight().unwrap().unexplained_packs);
    let report = check(&vault, false);
    assert!(report.findings.iter().any(|finding| finding.object == "packs/"), "{:?}", report.findings);
    let refused = try_reclaim(&vault, &as_listed).unwrap_err();
    assert!(refused.to_string().contains("neither a point nor a tombstone"), "{refused}");
    assert_eq!(stored(&vault, "packs/"), before);
    restore(&all);
    assert!(vault.out_of_sight().unwrap().is_nothing());
    reclaim_all(&vault, None);
    assert_whole(&vault, &points, "after they came back");
    // In the roll they are known, whatever became of leases and log.
    hide(&["points", "commits"]);
    let out = vault.out_of_sight().unwrap();
    assert!(out.points.len() == 3 && out.points.iter().all(|missing| missing.was_there), "{out:?}");
    restore(&["points", "commits"]);
    assert!(check(&vault, true).is_sound());
}

/// Whatever a refusal names can be written off, also what only the counts of an earlier reclaim know.
#[test]
fn a_loss_that_only_the_counts_know_can_be_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(directory.path()));
    let points = three_points(&vault);
    let rolls = ["roll", "roll.copy"].map(|name| directory.path().join(name));
    let empty: Vec<Vec<u8>> = rolls.iter().map(|path| std::fs::read(path).unwrap()).collect();
    reclaim_all(&vault, Some(cache.path()));
    let id = points[2].0.point;
    let lost = vault.objects().list("points/").unwrap();
    let lost = lost.iter().find(|o| o.name.ends_with(&id.to_string())).unwrap();
    std::fs::remove_file(directory.path().join(&lost.name)).unwrap();
    // A vault brought back from an older copy, log and all: but for the packs nothing of it tells of the point.
    for (path, bytes) in rolls.iter().zip(empty) {
        std::fs::write(path, bytes).unwrap();
    }
    for object in vault.objects().list("commits/").unwrap() {
        std::fs::remove_file(directory.path().join(object.name)).unwrap();
    }
    std::fs::remove_file(directory.path().join("lists")).unwrap();
    let vault = Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
    let options = ReclaimOptions { cache_dir: Some(cache.path().to_owned()), ..ReclaimOptions::default() };
    assert_eq!(missing(try_reclaim(&vault, &options)), [id]);
    try_reclaim(&vault, &ReclaimOptions { accept_loss: vec![id], ..options }).unwrap();
    assert_whole(&vault, &points[..2], "after the loss");
}

/// A roll that is made anew begins where the log was pruned to; and what was passed over once stays passed over.
#[test]
fn a_log_that_was_pruned_or_has_a_gap_holds_nothing_up_for_ever() {
    let (fault, objects) = faulty();
    let (vault, key) = init(objects.clone());
    let points = three_points(&vault);
    let ids: Vec<PointId> = points.iter().map(|(point, _)| point.point).collect();
    for _ in 0..3 {
        fault.age(DAY * 2);
        backup(&vault, "e", &Image::new(text(5, 9000)), None).unwrap();
        reclaim_all(&vault, None);
    }
    assert!(!vault.objects().list("commits/").unwrap().iter().any(|object| object.name.ends_with("0001")));
    // The roll is lost; the catalog agrees twice.
    for name in ["roll", "roll.copy"] {
        vault.objects().delete(name).unwrap();
    }
    let clock = Arc::new(Clock(Mutex::default()));
    let open = || Vault::open_in(objects.clone(), &key, clock.clone()).unwrap();
    assert!(open().out_of_sight().unwrap().is_nothing(), "{:?}", open().out_of_sight());
    let mut known = ids.clone();
    known.extend(vault.points(Some(&"e".parse().unwrap())).unwrap().points.iter().map(|point| point.point));
    assert!(matches!(open().agree(&known).unwrap(), Agreement::First { .. }));
    *clock.0.lock() += jiff::SignedDuration::from_hours(25);
    assert_eq!(open().agree(&known).unwrap(), Agreement::Confirmed);
    reclaim_all(&open(), None);
    assert!(check(&open(), true).is_sound());
    // An entry that says nothing but how far the log went is lost.
    for _ in 0..3 {
        reclaim_all(&open(), None);
    }
    let mut listed = vault.objects().list("commits/").unwrap();
    listed.pop();
    let lost = listed.pop().unwrap().name;
    vault.objects().delete(&lost).unwrap();
    let refused = try_reclaim(&open(), &ReclaimOptions::default()).unwrap_err();
    assert!(refused.to_string().contains(&lost), "{refused}");
    let options = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
    try_reclaim(&open(), &options).unwrap();
    reclaim_all(&open(), None);
    assert!(check(&open(), true).is_sound());
    assert_whole(&open(), &points, "after");
}

/// The commit log does not grow with what was committed long ago; nor does it need what is pruned.
#[test]
fn the_commit_log_is_pruned_once_its_points_are_in_the_roll() {
    let (fault, objects) = faulty();
    let (vault, key) = init(objects.clone());
    let mut points = three_points(&vault);
    for round in 0..4 {
        fault.age(DAY * 2);
        reclaim_all(&vault, None);
        let left = vault.objects().list("commits/").unwrap();
        assert!(left.len() < 4, "{left:?}");
        // Another program, which knows no number yet.
        let vault = Vault::open_in(objects.clone(), &key, Arc::new(Incarnation(2 + round))).unwrap();
        let image = Image::new(text(10 + round, 30_000));
        points.push((backup(&vault, "d", &image, None).unwrap(), image.bytes()));
    }
    // Without `lists`, which says from where to count, the roll says so: also where all that it accounts for is pruned.
    for _ in 0..2 {
        fault.age(DAY * 2);
        reclaim_all(&vault, None);
    }
    let log = |vault: &Vault| -> Vec<String> {
        let listed = vault.objects().list("commits/").unwrap();
        listed.into_iter().map(|object| object.name).collect()
    };
    let last = log(&vault).pop().unwrap();
    for name in log(&vault).into_iter().chain(["lists".into()]) {
        vault.objects().delete(&name).unwrap();
    }
    let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(9))).unwrap();
    let image = Image::new(text(9, 30_000));
    points.push((backup(&vault, "d", &image, None).unwrap(), image.bytes()));
    assert!(log(&vault)[0] >= last, "{:?} begins anew after {last}", log(&vault));
    reclaim_all(&vault, None);
    assert_whole(&vault, &points, "after");
    assert!(check(&vault, true).is_sound());
}

/// A store whose listings come back short, empty or late, and which says of what is there that it is not, under
/// everything that writes and deletes. Once it tells the truth, what was not forgotten is there, bit for bit.
///
/// STRONGROOM_DENYING_STORES: how many such stores, instead of 60.
#[test]
fn a_store_that_denies_what_it_has_loses_nothing() {
    let stores = std::env::var("STRONGROOM_DENYING_STORES").map_or(60, |count| count.parse().unwrap());
    for seed in 0..stores {
        // Rounds in which the store tells the truth leave more for the others to lose.
        let truthful = seed % 3;
        let (fault, objects) = faulty();
        let (vault, key) = init(objects.clone());
        let mut kept = three_points(&vault);
        if seed % 2 == 0 {
            reclaim_all(&vault, None);
        }
        let cache = tempfile::tempdir().unwrap();
        let image = Image::new([text(seed, 60_000), noise(seed, 60_000)].concat());
        for round in 0..4u64 {
            let lying = seed * 4 + round;
            let lie = match lying % 4 {
                0 => Fault::ShortList { seed: lying },
                1 => Fault::EmptyList,
                2 => Fault::LateList,
                _ => Fault::SayNotFound,
            };
            let of = 1 + lying % 3;
            let ops = match lie {
                Fault::SayNotFound => vec![OpKind::Get, OpKind::Head],
                _ => vec![OpKind::List],
            };
            let mut plan = FaultPlan::none();
            for op in ops.into_iter().filter(|_| truthful == 0 || lying % 3 != truthful) {
                let nth = Nth::OneIn { of: of + u64::from(op != OpKind::List) * 5, seed: lying };
                plan = plan.rule(Matches { op: Some(op), name_prefix: None, nth }, lie);
            }
            fault.set_plan(plan);
            futures::executor::block_on(fault.remember()).unwrap();
            let opened = Vault::open_in(objects.clone(), &key, Arc::new(Incarnation(2 + lying)));
            let Ok(vault) = opened else { continue };
            let cached = ReclaimOptions {
                cache_dir: (round % 2 == 0).then(|| cache.path().to_owned()),
                thorough: round == 3,
                ..ReclaimOptions::default()
            };
            image.0.lock()[round as usize * 8192..][..4096].copy_from_slice(&noise(lying, 4096));
            // A point whose session did not say that it failed must be whole; it builds on what it was shown.
            if let Ok(point) = backup(&vault, "c", &image, None) {
                kept.push((point, image.bytes()));
            }
            let forgotten = kept[lying as usize % kept.len()].0.point;
            let _ = vault.forget(&forgotten, "test");
            let _ = try_reclaim(&vault, &cached);
            let _ = strongroom_store::check::check(&vault, &Default::default(), &Progress::default());
            let _ = vault.write_note("policies", &round.into());
            let _ = try_reclaim(&vault, &cached);
            fault.set_plan(FaultPlan::none());
            // What was forgotten, was; by this loop's word, or because the forget got that far.
            let truth = Vault::open_in(objects.clone(), &key, Arc::new(Incarnation(2 + lying))).unwrap();
            if truth.tombstone(&forgotten).unwrap().is_some() {
                kept.retain(|(point, _)| point.point != forgotten);
            }
            assert_whole(&truth, &kept, &format!("seed {seed}, round {round}, {lie:?}"));
        }
        // And once it tells the truth, all goes on.
        fault.set_plan(FaultPlan::none());
        let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(1_000_000))).unwrap();
        fault.age(DAY * 2);
        let about = format!("seed {seed}, in the end");
        let options = ReclaimOptions { as_listed: true, ..ReclaimOptions::default() };
        try_reclaim(&vault, &options).unwrap_or_else(|e| panic!("{about}: {e}"));
        assert_whole(&vault, &kept, &about);
        let report = check(&vault, true);
        let serious: Vec<_> = report.findings.iter().filter(|finding| !finding.points.is_empty()).collect();
        assert!(serious.is_empty(), "{about}: {serious:?}");
    }
}
