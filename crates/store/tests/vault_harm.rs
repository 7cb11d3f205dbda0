//! What a vault stands: every object damaged or lost in turn, every storage operation failing in turn, writers and
//! reclaim beside each other.

mod common;

use common::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use strongroom_domain::{PointId, TypedExtent};
use strongroom_store::objects::fault::{Crash, Fault, FaultPlan, FaultStore};
use strongroom_store::objects::{BlobStore, Kind, OpenOptions, RetryLimits};
use strongroom_store::*;

/// A small vault with two items that share data, and what their points must be.
fn small_vault(objects: BlobStore) -> (Vault, KeyFile, Vec<(Manifest, Vec<u8>)>) {
    let (vault, key) = init(objects);
    let image = Image::new([text(1, 70_000), vec![0; 30_000], noise(2, 60_000)].concat());
    let mut points = vec![(backup(&vault, "a", &image, None).unwrap(), image.bytes())];
    image.0.lock()[10_000..14_000].copy_from_slice(&noise(3, 4000));
    let extents = Some(vec![TypedExtent::data(10_000, 4000)]);
    points.push((backup(&vault, "a", &image, extents).unwrap(), image.bytes()));
    let other = Image::new([noise(2, 60_000), noise(4, 20_000)].concat());
    points.push((backup(&vault, "b", &other, None).unwrap(), other.bytes()));
    (vault, key, points)
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    /// One bit, this far through the object (in 1/1000).
    Flip(usize),
    Cut,
    Remove,
}

/// Damages one object of a copy of the vault and goes through what must hold then.
fn harm_one(original: &Path, key: &KeyFile, points: &[(Manifest, Vec<u8>)], name: &str, harm: Harm) {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(original, dir.path());
    let path = dir.path().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let removed = matches!(harm, Harm::Remove);
    match harm {
        Harm::Flip(at) => {
            let bit = bytes.len() * 8 * at / 1000;
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
        }
        Harm::Cut => std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap(),
        Harm::Remove => std::fs::remove_file(&path).unwrap(),
    }
    let about = format!("{name} after {harm:?}");
    let vault = Vault::open(objects_at(dir.path()), key).unwrap_or_else(|e| panic!("{about}: {e}"));
    // Reading before anybody looked: right bytes or an error, never anything else.
    let mut lost: BTreeSet<PointId> = BTreeSet::new();
    for (point, bytes) in points {
        match vault.point(&point.point).and_then(|point| restore(&vault, &point)) {
            Ok(restored) => assert!(restored == *bytes, "{about}: wrong bytes restored"),
            Err(error) => {
                let gone = matches!(error, StoreError::NotFound { .. }) && name.starts_with("points/");
                assert!(error.is_damage() || gone, "{about}: {error}");
                lost.insert(point.point);
            }
        }
    }
    let report = check(&vault, true);
    if removed && is_gap(&vault, name) {
        // Which points there are is not known: nothing is freed until somebody says that those are all.
        let options = reclaim::ReclaimOptions::default();
        let refused = reclaim::reclaim(&vault, &options, &Progress::default()).unwrap_err();
        assert!(matches!(&refused, StoreError::RollUnknown { .. }), "{about}: {refused}");
        assert!(!report.is_sound(), "{about}");
        let options = reclaim::ReclaimOptions { as_listed: true, ..options };
        reclaim::reclaim(&vault, &options, &Progress::default()).unwrap();
        assert!(check(&vault, true).is_sound(), "{about}");
        reclaim_all(&vault, None);
    }
    if removed && ["tombstones/", "sessions/", "commits/"].iter().any(|prefix| name.starts_with(prefix)) {
        // What they said is in the roll by now, or is said by the point that is there.
        let report = check(&vault, true);
        assert!(report.is_sound(), "{about}: {:?}", report.findings);
        reclaim_all(&vault, None);
        for (point, bytes) in points {
            assert!(restore(&vault, point).unwrap() == *bytes, "{about}: wrong bytes after reclaim");
        }
        return;
    }
    assert!(!report.is_sound(), "{about}: check found nothing");
    // A run that is not there has no name any more: the packs it covered are named instead.
    let lost_run = name.starts_with("index/") && matches!(harm, Harm::Remove);
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.object == name || lost_run && f.detail.contains("no index run names it")),
        "{about}: check does not name it: {:?}",
        report.findings
    );
    let named: BTreeSet<PointId> =
        report.findings.iter().flat_map(|f| f.points.iter().map(|p| p.point)).collect();
    assert!(lost.is_subset(&named), "{about}: points {lost:?} cannot be restored, check names {named:?}");
    if removed && name.starts_with("points/") {
        // Gone, not forgotten: its space stays until somebody writes it off.
        let lost = *lost.first().unwrap();
        let before = stored(&vault, "packs/");
        let run = |accept_loss: Vec<PointId>| {
            let options = reclaim::ReclaimOptions { accept_loss, ..Default::default() };
            reclaim::reclaim(&vault, &options, &Progress::default())
        };
        let refused = run(vec![]).unwrap_err();
        assert!(
            matches!(&refused, StoreError::PointsMissing { points } if *points == [lost]),
            "{about}: {refused}"
        );
        assert_eq!(stored(&vault, "packs/"), before, "{about}");
        run(vec![lost]).unwrap();
        for (point, bytes) in points.iter().filter(|(point, _)| point.point != lost) {
            assert!(restore(&vault, point).unwrap() == *bytes, "{about}: wrong bytes after reclaim");
        }
        assert!(check(&vault, true).is_sound(), "{about}");
        return;
    }
    // The same data again heals what it can.
    let vault = Vault::open(objects_at(dir.path()), key).unwrap();
    for (point, bytes) in points {
        let image = Image::new(bytes.clone());
        let again =
            backup(&vault, point.item.as_str(), &image, None).unwrap_or_else(|e| panic!("{about}: {e}"));
        assert!(restore(&vault, &again).unwrap() == *bytes, "{about}: the new point differs");
    }
    let vault = Vault::open(objects_at(dir.path()), key).unwrap();
    for (point, bytes) in points {
        if name.ends_with(&point.point.to_string()) {
            vault.forget(&point.point, "test").unwrap();
        } else {
            let restored = restore(&vault, point).unwrap_or_else(|e| panic!("{about}: not healed: {e}"));
            assert!(restored == *bytes, "{about}: wrong bytes restored after healing");
        }
    }
    let report = check(&vault, true);
    let by_reclaim = ["reclaim removes it", "reclaim writes it anew"];
    let rest: Vec<_> =
        report.findings.iter().filter(|f| !by_reclaim.iter().any(|by| f.detail.contains(by))).collect();
    assert!(rest.is_empty(), "{about}: not sound after healing: {rest:?}");
    if ["sessions/", "commits/"].iter().any(|prefix| name.starts_with(prefix)) && path.exists() {
        // A lease that cannot be read counts for a day, and entries of the commit log are kept for one.
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
        let lease = std::fs::File::options().write(true).open(&path);
        lease.and_then(|lease| lease.set_modified(then)).unwrap();
    }
    // Reclaim takes the damaged remains away, and nothing else.
    reclaim_all(&vault, None);
    let vault = Vault::open(objects_at(dir.path()), key).unwrap();
    let report = check(&vault, true);
    assert!(report.is_sound(), "{about}: not sound after reclaim: {:?}", report.findings);
    assert!(vault.objects().list("damaged/").unwrap().is_empty(), "{about}: damage lists stay");
    for (point, bytes) in points.iter().filter(|(p, _)| !name.ends_with(&p.point.to_string())) {
        assert!(restore(&vault, point).unwrap() == *bytes, "{about}: wrong bytes after reclaim");
    }
}

/// Whether the commit log has this entry between those that are accounted for and its last.
fn is_gap(vault: &Vault, name: &str) -> bool {
    let Some(number) = name.strip_prefix("commits/") else { return false };
    let lists = vault.objects().get("lists").unwrap();
    let lists: serde_json::Value =
        serde_json::from_slice(lists.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let last = vault.objects().list("commits/").unwrap().pop().unwrap().name;
    let number = u64::from_str_radix(number, 16).unwrap();
    number > lists["accounted"].as_u64().unwrap() && *name < *last
}

#[test]
fn every_object_damaged_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, key, mut points) = small_vault(objects_at(dir.path()));
    // A tombstone, a roll that names the points, and one lease of a session that committed since.
    let forgotten = backup(&vault, "d", &Image::new(noise(8, 20_000)), None).unwrap();
    vault.forget(&forgotten.point, "test").unwrap();
    reclaim_all(&vault, None);
    let last = Image::new(text(7, 20_000));
    points.push((backup(&vault, "c", &last, None).unwrap(), last.bytes()));
    drop(vault);
    let objects = objects_at(dir.path()).list("").unwrap();
    for prefix in
        ["tombstones/", "roll", "roll.copy", "marker", "marker.copy", "lists", "sessions/", "commits/"]
    {
        assert!(objects.iter().any(|object| object.name.starts_with(prefix)), "{objects:?}");
    }
    for object in objects {
        for harm in
            [Harm::Flip(1), Harm::Flip(333), Harm::Flip(620), Harm::Flip(999), Harm::Cut, Harm::Remove]
        {
            harm_one(dir.path(), &key, &points, &object.name, harm);
        }
    }
}

/// All bits of all objects, by structure check and hashes alone; slow things left out.
#[test]
fn every_bit_flip_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(dir.path()));
    backup(&vault, "a", &Image::new(text(1, 9000)), None).unwrap();
    drop(vault);
    let objects = objects_at(dir.path()).list("").unwrap();
    let names: BTreeSet<String> = objects.iter().map(|object| object.name.clone()).collect();
    for object in objects {
        let path = dir.path().join(&object.name);
        let sound = std::fs::read(&path).unwrap();
        // Every bit of what is small, a sample of what is larger.
        let step = (sound.len() * 8 / 400).max(1);
        for bit in (0..sound.len() * 8).step_by(step) {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let found = match Vault::open(objects_at(dir.path()), &key) {
                Ok(vault) => !check(&vault, true).is_sound(),
                Err(_) => true,
            };
            assert!(found, "bit {bit} of {}", object.name);
            // What check recorded or rebuilt must not reach the next round.
            for extra in objects_at(dir.path()).list("").unwrap() {
                if !names.contains(&extra.name) {
                    std::fs::remove_file(dir.path().join(extra.name)).unwrap();
                }
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &sound).unwrap();
        }
    }
}

fn faulty() -> (FaultStore, BlobStore) {
    let fault = FaultStore::new(Arc::new(object_store::memory::InMemory::new()), FaultPlan::none());
    let options = OpenOptions { retry: RetryLimits::NONE, ..OpenOptions::default() };
    let objects = BlobStore::from_object_store(Arc::new(fault.clone()), "memory", options).unwrap();
    (fault, objects)
}

/// Backs up, forgets, reclaims: with operation `k` failing, for every `k`. Whatever was committed before is there after,
/// what was not is not visible, and all goes on without repair.
#[test]
fn every_operation_failing_in_turn() {
    type Plan = Box<dyn Fn(u64) -> FaultPlan>;
    let all_faults: Vec<(&str, Plan)> = vec![
        ("error before", Box::new(|k| FaultPlan::fail_operation(k, Fault::ErrorBefore(Kind::Other)))),
        ("error after", Box::new(|k| FaultPlan::fail_operation(k, Fault::ErrorAfter(Kind::Other)))),
        ("crash before", Box::new(|k| FaultPlan::crash_at(k, Crash::Before))),
        ("crash after", Box::new(|k| FaultPlan::crash_at(k, Crash::After))),
        (
            "torn",
            Box::new(|k| {
                FaultPlan::fail_operation(k, Fault::TornObject { keep_bytes: 100, kind: Kind::Other })
            }),
        ),
        (
            "delay",
            Box::new(|k| FaultPlan::fail_operation(k, Fault::Delay(std::time::Duration::from_millis(5)))),
        ),
    ];
    for (about, plan) in all_faults {
        let mut k = 0;
        loop {
            let about = format!("{about} at operation {k}");
            let (fault, objects) = faulty();
            let (vault, key, mut points) = small_vault(objects.clone());
            let image = Image::new([text(9, 50_000), noise(2, 60_000)].concat());
            fault.set_plan(plan(k));
            // The work that is disturbed: a backup, a forget, a reclaim.
            let forgotten = points[0].0.point;
            let backed_up = backup(&vault, "a", &image, None);
            let forgot = vault.forget(&forgotten, "test");
            let reclaimed =
                strongroom_store::reclaim::reclaim(&vault, &Default::default(), &Progress::default());
            let struck = fault.operations() > k;
            fault.set_plan(FaultPlan::none());

            let vault = Vault::open_in(objects.clone(), &key, Arc::new(Incarnation(2)))
                .unwrap_or_else(|e| panic!("{about}: {e}"));
            let list = vault.points(None).unwrap();
            let visible: BTreeSet<PointId> = list.points.iter().map(|p| p.point).collect();
            if let Ok(point) = &backed_up {
                points.push((point.clone(), image.bytes()));
            }
            if forgot.is_ok() || !visible.contains(&forgotten) {
                points.retain(|(p, _)| p.point != forgotten);
            }
            for (point, bytes) in &points {
                assert!(visible.contains(&point.point), "{about}: a committed point is gone");
                let restored = restore(&vault, point).unwrap_or_else(|e| panic!("{about}: {e}"));
                assert!(restored == *bytes, "{about}: wrong bytes");
            }
            for point in
                list.points.iter().filter(|p| !points.iter().any(|(known, _)| known.point == p.point))
            {
                // The commit went through, only its answer was lost: then it must be whole.
                assert!(backed_up.is_err(), "{about}: an uncommitted point is visible");
                assert!(restore(&vault, point).unwrap() == image.bytes(), "{about}: half a point is visible");
            }
            for damaged in &list.damaged {
                assert!(about.starts_with("torn"), "{about}: {:?}", damaged);
                vault.forget(&damaged.point.unwrap(), "test").unwrap();
            }
            if about.starts_with("torn") {
                // A lease that cannot be read counts as held for five minutes: let them pass.
                for lease in objects.list("sessions/").unwrap().iter().filter(|lease| lease.size_bytes == 100)
                {
                    objects.delete(&lease.name).unwrap();
                }
            }
            // All goes on without repair; nothing is left over.
            let next =
                backup(&vault, "a", &image, None).unwrap_or_else(|e| panic!("{about}: next backup: {e}"));
            assert!(restore(&vault, &next).unwrap() == image.bytes(), "{about}: next backup differs");
            reclaim_all(&vault, None);
            let report = check(&vault, true);
            assert!(report.is_sound() || about.starts_with("torn"), "{about}: {:?}", report.findings);
            for point in vault.points(None).unwrap().points {
                restore(&vault, &point).unwrap_or_else(|e| panic!("{about}: after reclaim: {e}"));
                vault.forget(&point.point, "test").unwrap();
            }
            let thorough = strongroom_store::reclaim::ReclaimOptions { thorough: true, ..Default::default() };
            // Whether a session that died at its commit has a point is known for certain a day later.
            fault.age(std::time::Duration::from_secs(25 * 3600));
            strongroom_store::reclaim::reclaim(&vault, &thorough, &Progress::default()).unwrap();
            let left = vault.objects().list("packs/").unwrap();
            assert!(left.is_empty(), "{about}: left over: {left:?}");
            assert_eq!(vault.objects().list("sessions/").unwrap(), vec![], "{about}: leases left over");
            if !struck {
                assert!(backed_up.is_ok() && forgot.is_ok() && reclaimed.is_ok(), "{about}");
                break;
            }
            k += 1;
        }
        assert!(k > 20, "{about}: only {k} operations");
    }
}

#[test]
fn a_full_store_is_an_error_and_loses_nothing() {
    for room in [0, 100, 3000, 50_000, 90_000] {
        let (fault, objects) = faulty();
        let (vault, key, points) = small_vault(objects.clone());
        fault.set_plan(FaultPlan::full_after(room));
        let error = backup(&vault, "a", &Image::new(noise(77, 200_000)), None).unwrap_err();
        assert!(matches!(&error, StoreError::Object(e) if e.kind == Kind::NoSpace), "{error}");
        fault.set_plan(FaultPlan::none());
        let vault = Vault::open_in(objects, &key, Arc::new(Incarnation(2))).unwrap();
        assert_eq!(vault.points(None).unwrap().points.len(), points.len());
        reclaim_all(&vault, None);
        for (point, bytes) in &points {
            assert!(restore(&vault, point).unwrap() == *bytes);
        }
        assert!(check(&vault, true).is_sound());
    }
}

/// Two items, one vault, at the same time, again and again, with points forgotten and reclaim running beside.
#[test]
fn writers_and_reclaim_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(dir.path()));
    drop(vault);
    let shared = noise(5, 300_000);
    std::thread::scope(|scope| {
        let writers = ["a", "b"].map(|item| {
            let (key, shared, dir) = (&key, &shared, &dir);
            scope.spawn(move || {
                for round in 0..12u64 {
                    let vault = Vault::open(objects_at(dir.path()), key).unwrap();
                    // What one item drops, the other has just taken up.
                    let own = noise(round + u64::from(item == "b"), 200_000);
                    let image = Image::new([shared.clone(), own].concat());
                    let point = backup(&vault, item, &image, None).unwrap();
                    assert!(restore(&vault, &point).unwrap() == image.bytes(), "{item} round {round}");
                    let mut points = vault.points(Some(&item.parse().unwrap())).unwrap().points;
                    while points.len() > 2 {
                        vault.forget(&points.remove(0).point, "test").unwrap();
                    }
                }
            })
        });
        let cache = tempfile::tempdir().unwrap();
        while writers.iter().any(|writer| !writer.is_finished()) {
            let vault = Vault::open(objects_at(dir.path()), &key).unwrap();
            reclaim_all(&vault, Some(cache.path()));
        }
    });
    let vault = Vault::open(objects_at(dir.path()), &key).unwrap();
    let points = vault.points(None).unwrap().points;
    assert_eq!(points.len(), 4);
    let report = check(&vault, true);
    assert!(report.is_sound(), "{:?}", report.findings);
    let packs_before = stored(&vault, "packs/");
    // What both stored at the same time is there twice, until somebody looks at everything.
    let thorough = strongroom_store::reclaim::ReclaimOptions { thorough: true, ..Default::default() };
    let report = strongroom_store::reclaim::reclaim(&vault, &thorough, &Progress::default()).unwrap();
    let after = vault.stats().unwrap();
    // 300 kB shared; items a and b hold rounds 10 and 11, and 11 and 12: three different ones.
    // Packs alone are compared: where the last reclaim beside the writers left nothing to free, this one only takes its notes.
    assert!(
        stored(&vault, "packs/") <= packs_before && after.stored_bytes < 1_300_000,
        "{packs_before}, {after:?}, {report:?}"
    );
    for point in points {
        restore(&vault, &point).unwrap();
    }
}

/// A whole reclaim comes between any two of a backup's operations: the point is there, and stays.
#[test]
fn a_reclaim_between_any_two_operations_of_a_backup() {
    let image = Image::new([text(9, 50_000), noise(2, 60_000)].concat());
    for k in 0.. {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let fault = FaultStore::new(memory.clone(), FaultPlan::none());
        let open = |store| BlobStore::from_object_store(store, "memory", OpenOptions::default()).unwrap();
        let (_, key, _) = small_vault(open(memory.clone()));
        // Both of this process, as leases know it.
        let vault = Vault::open(open(Arc::new(fault.clone())), &key).unwrap();
        let reclaiming = Vault::open(open(memory), &key).unwrap();
        fault.set_plan(FaultPlan::fail_operation(k, Fault::Delay(std::time::Duration::from_millis(200))));
        let done = std::thread::scope(|scope| {
            let backup = scope.spawn(|| backup(&vault, "a", &image, None));
            while fault.operations() <= k && !backup.is_finished() {
                std::thread::yield_now();
            }
            reclaim_all(&reclaiming, None);
            backup.join().unwrap()
        });
        let point = done.unwrap_or_else(|error| panic!("operation {k}: {error}"));
        if fault.operations() <= k {
            assert!(k > 10);
            break;
        }
        reclaim_all(&reclaiming, None);
        assert!(restore(&reclaiming, &point).unwrap() == image.bytes(), "operation {k}");
        let report = check(&reclaiming, true);
        assert!(report.is_sound(), "operation {k}: {:?}", report.findings);
    }
}

#[test]
fn one_reclaim_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _, _) = small_vault(objects_at(dir.path()));
    let held = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    strongroom_store::reclaim::reclaim(&vault, &Default::default(), &Progress::default())
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(held.iter().any(Result::is_ok));
    for error in held.into_iter().filter_map(Result::err) {
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    }
    assert!(vault.objects().list("locks/").unwrap().is_empty());
}

#[test]
fn a_vault_that_is_gone_is_not_begun_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (place, elsewhere) = (dir.path().join("vault"), dir.path().join("elsewhere"));
    std::fs::create_dir(&place).unwrap();
    let (vault, _) = init(objects_at(&place));
    let image = Image::new(noise(1, 50_000));
    let point = backup(&vault, "a", &image, None).unwrap();
    // As where its file system is not mounted.
    std::fs::rename(&place, &elsewhere).unwrap();
    std::fs::create_dir(&place).unwrap();
    let refusals = [
        Session::begin(&vault, "test").map(drop),
        ReadSession::begin(&vault, "test").map(drop),
        reclaim::reclaim(&vault, &Default::default(), &Progress::default()).map(drop),
        vault.write_note("policies", &"kept".into()),
    ];
    for (index, refused) in refusals.into_iter().enumerate() {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::NotAVault { .. }), "{index}: {error}");
        assert!(error.to_string().contains("mount its file system"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "nothing is written there");
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(&elsewhere, &place).unwrap();
    backup(&vault, "a", &image, None).unwrap();
    assert!(restore(&vault, &point).unwrap() == image.bytes());
}
