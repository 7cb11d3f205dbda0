//! Sessions that are slow, stand still, or begin while others' packs wait to be deleted: a point is whole, or there is none.

mod common;

use common::*;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use strongroom_domain::{PointSelector, TypedExtent};
use strongroom_store::reclaim::{ReclaimOptions, reclaim};
use strongroom_store::*;

fn change(image: &Image, offset: usize, seed: u64) -> Vec<TypedExtent> {
    image.0.lock()[offset..offset + 4096].copy_from_slice(&noise(seed, 4096));
    vec![TypedExtent::data(offset as u64, 4096)]
}

/// Each session builds on a point that is forgotten while it is at work, and whose data was condemned before it began.
#[test]
fn a_parent_forgotten_while_its_packs_wait_takes_nothing_with_it() {
    for changes_something in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (vault, _) = init(objects_at(directory.path()));
        let image = Image::new(noise(1, 4 << 20));
        let first = backup(&vault, "a", &image, None).unwrap();
        let extents = change(&image, 8192, 2);
        let one = begin(&vault, "a", &image, Some(extents)).unwrap();
        vault.forget(&first.point).unwrap();
        assert!(reclaim_all(&vault, None).waiting_bytes > 0);
        let second = one.commit(&vault, "a").unwrap();
        // Beside the wait nothing is damaged.
        let report = check(&vault, true);
        assert!(report.is_sound(), "{:?}", report.findings);

        let extents = if changes_something { change(&image, 16384, 3) } else { vec![] };
        let two = begin(&vault, "a", &image, Some(extents)).unwrap();
        vault.forget(&second.point).unwrap();
        let report = reclaim_all(&vault, None);
        assert!(report.packs_deleted > 0, "{report:?}");
        let third = two.commit(&vault, "a").unwrap();
        let report = check(&vault, true);
        assert!(report.is_sound(), "{:?}", report.findings);
        assert!(restore(&vault, &third).unwrap() == image.bytes());
        // From then on only what changes is read again.
        let extents = change(&image, 32768, 4);
        reclaim_all(&vault, None);
        assert_eq!(begin(&vault, "a", &image, Some(extents)).unwrap().written.read_bytes, 4096);
    }
}

#[test]
fn a_vault_for_one_writer_takes_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    vault.make_single_writer().unwrap();
    assert!(vault.is_single_writer().unwrap());
    let reader = ReadSession::begin(&vault, "a reader").unwrap();
    let one = Session::begin(&vault, "the one").unwrap();
    for _ in 0..2 {
        let error = Session::begin(&vault, "the other").map(drop).unwrap_err();
        assert!(matches!(&error, StoreError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("`the one`"), "{error}");
    }
    assert!(matches!(
        reclaim(&vault, &ReclaimOptions::default(), &Progress::default()),
        Err(StoreError::Busy { .. })
    ));
    // What was refused left no lease; and readers are not in the way of one another.
    assert_eq!(std::fs::read_dir(directory.path().join("sessions")).unwrap().count(), 2);
    drop(ReadSession::begin(&vault, "another reader").unwrap());
    drop(one);
    drop(reader);
    let image = Image::new(noise(1, 1 << 20));
    let point = backup(&vault, "a", &image, None).unwrap();
    assert!(restore(&vault, &point).unwrap() == image.bytes());
    // Vaults of many writers are as they were.
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let _one = Session::begin(&vault, "one").unwrap();
    Session::begin(&vault, "another").unwrap();
}

fn make_old(directory: &Path, session: &Session) {
    let lease = directory.join("sessions").join(session.id().to_string());
    let file = std::fs::File::options().write(true).open(lease).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(400)).unwrap();
}

/// The lease had run out by the clock of the store, though this process's own has not moved: its machine stood still.
#[test]
fn nothing_is_committed_under_a_lease_that_had_run_out() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let image = Image::new(noise(1, 1 << 20));
    let under_way = begin(&vault, "a", &image, Some(vec![TypedExtent::data(0, 1 << 20)])).unwrap();
    make_old(directory.path(), &under_way.session);
    let error = under_way.commit(&vault, "a").unwrap_err();
    assert!(matches!(error, StoreError::LeaseLost { .. }), "{error}");
    assert!(vault.points(None).unwrap().points.is_empty());
    assert!(check(&vault, true).is_sound());
    reclaim_all(&vault, None);
    assert_eq!(stored(&vault, "packs/"), 0);
}

/// Large index runs of a local vault are not read whole when they are opened. Damage in one is neither believed where
/// something would be deleted for it, nor merged into a sound run, nor taken for damage of what the run names.
#[test]
fn a_damaged_large_index_run_harms_nothing() {
    const RECORD_BYTES: u64 = 48;
    let directory = tempfile::tempdir().unwrap();
    let (vault, key) = init(objects_at(directory.path()));
    // More than 4 MiB of records.
    let blocks = 90_000;
    let image = Image::new(noise(1, blocks * BLOCK as usize));
    let first = backup(&vault, "a", &image, None).unwrap();
    let mut extents = Vec::new();
    for block in (0..blocks / 2).step_by(3) {
        extents.extend(change(&image, block * BLOCK as usize, block as u64));
    }
    let second = backup(&vault, "a", &image, Some(extents)).unwrap();
    let large = vault.objects().list("index/").unwrap().into_iter().max_by_key(|run| run.size_bytes).unwrap();
    assert!(large.size_bytes > 4 << 20);
    let path = directory.path().join(&large.name);
    let mut mode = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let end = large.size_bytes - 32;
    for number in 0..60 {
        // The number of the pack, or the offset in it.
        let at = end - RECORD_BYTES * (number * 1400 + 1) + if number % 2 == 0 { 32 } else { 36 };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    drop(file);

    let open = || Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
    assert!(restore(&open(), &second).unwrap() == image.bytes());
    open().forget(&first.point).unwrap();
    let report = reclaim_all(&open(), None);
    assert!(report.packs_deleted > 0, "{report:?}");
    assert!(restore(&open(), &second).unwrap() == image.bytes());
    for seed in 0..9 {
        let extents = change(&image, 40_960, 1_000_000 + seed);
        backup(&open(), "a", &image, Some(extents)).unwrap();
    }
    let report = check(&open(), true);
    assert!(report.findings.iter().all(|f| f.object.starts_with("index/")), "{:?}", report.findings);
    assert!(report.findings.iter().any(|f| f.object == large.name), "{:?}", report.findings);
    let report = check(&open(), true);
    assert!(report.is_sound(), "{:?}", report.findings);
    let last = open().points(Some(&"a".parse().unwrap())).unwrap().take_last().unwrap();
    assert!(restore(&open(), &last).unwrap() == image.bytes());
}

/// The last point is the one that nothing builds on, also where it was taken at an earlier hour than the one before.
#[test]
fn a_clock_put_back_does_not_change_which_point_is_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let image = Image::new(noise(1, 65_536));
    let at = |hours: i64, parent: Option<&Manifest>| {
        let under_way = begin(&vault, "a", &image, Some(vec![TypedExtent::data(0, 65_536)])).unwrap();
        let disks = vec![Disk::new("disk", &under_way.written)];
        let mut draft = draft("a", &vault, disks, parent);
        draft.taken_at += jiff::SignedDuration::from_hours(hours);
        under_way.session.commit(draft).unwrap()
    };
    let first = at(5, None);
    let second = at(0, Some(&first));
    let last = vault.find_point(&PointSelector::Latest("a".parse().unwrap())).unwrap();
    assert_eq!(last.point, second.point);
    let third = at(1, Some(&second));
    assert_eq!(vault.points(None).unwrap().take_last().unwrap().point, third.point);
}
