//! A vault's whole life against a model: any sequence of writes, discards, resizes, backups, forgets and reclaims
//! leaves every remaining point equal to what was backed up.

mod common;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use common::*;
use proptest::prelude::*;
use soak::number;
use strongroom_domain::{Extent, TypedExtent, extent::normalize};
use strongroom_store::*;

const UNIT: usize = 1024;

#[derive(Debug, Clone)]
enum Step {
    Write {
        at: usize,
        len: usize,
        seed: u64,
        random: bool,
    },
    Discard {
        at: usize,
        len: usize,
    },
    Resize {
        units: usize,
    },
    /// With the extents that changed, or reading everything.
    Backup {
        incremental: bool,
    },
    Forget {
        which: usize,
    },
    Reclaim {
        fresh_counts: bool,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0usize..4000;
    let len = 1usize..600;
    let step = prop_oneof![
        5 => (at.clone(), len.clone(), 0u64..6, any::<bool>())
            .prop_map(|(at, len, seed, random)| Step::Write { at, len, seed, random }),
        2 => (at, len).prop_map(|(at, len)| Step::Discard { at, len }),
        1 => (0usize..4000).prop_map(|units| Step::Resize { units }),
        5 => any::<bool>().prop_map(|incremental| Step::Backup { incremental }),
        2 => (0usize..8).prop_map(|which| Step::Forget { which }),
        2 => any::<bool>().prop_map(|fresh_counts| Step::Reclaim { fresh_counts }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..28)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number(60, 600), ..ProptestConfig::default() })]

    #[test]
    fn points_equal_the_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let (mut vault, key) = init(objects_at(dir.path()));
        let image = Image::new(vec![0; 3000 * UNIT]);
        let mut changed: Vec<(usize, usize, bool)> = Vec::new();
        let mut model: Vec<(Manifest, Vec<u8>)> = Vec::new();
        for step in steps {
            let size = image.bytes().len();
            match step {
                Step::Write { at, len, seed, random } => {
                    let (from, to) = ((at * UNIT).min(size), ((at + len) * UNIT).min(size));
                    let bytes = if random { noise(seed, to - from) } else { text(seed, to - from) };
                    image.0.lock()[from..to].copy_from_slice(&bytes);
                    changed.push((from, to, false));
                }
                Step::Discard { at, len } => {
                    let (from, to) = ((at * UNIT).min(size), ((at + len) * UNIT).min(size));
                    image.0.lock()[from..to].fill(0);
                    changed.push((from, to, true));
                }
                Step::Resize { units } => {
                    image.0.lock().resize(units * UNIT + 512, 0);
                    // What was cut off reads as zero when the disk grows again before the next backup, however often it changes its
                    // size until then.
                    if units * UNIT + 512 < size {
                        changed.push((units * UNIT + 512, usize::MAX, true));
                    }
                }
                Step::Backup { incremental } => {
                    let incremental = incremental && !model.is_empty();
                    let extents = incremental.then(|| typed(&changed, size));
                    let point = backup(&vault, "item", &image, extents).unwrap();
                    prop_assert_eq!(point.disks[0].size_bytes, size as u64);
                    model.push((point, image.bytes()));
                    changed.clear();
                }
                Step::Forget { which } => {
                    // The newest stays: extents are relative to it.
                    if model.len() > 1 {
                        let (point, _) = model.remove(which % (model.len() - 1));
                        vault.forget(&point.point, "test").unwrap();
                    }
                }
                Step::Reclaim { fresh_counts } => {
                    let report = reclaim_all(&vault, (!fresh_counts).then_some(cache.path()));
                    prop_assert_eq!(report.waiting_bytes, 0);
                }
                Step::Reopen => vault = Vault::open(objects_at(dir.path()), &key).unwrap(),
            }
        }
        let vault = Vault::open(objects_at(dir.path()), &key).unwrap();
        let listed: Vec<_> = vault.points(None).unwrap().points.into_iter().map(|p| p.point).collect();
        prop_assert_eq!(listed, model.iter().map(|(p, _)| p.point).collect::<Vec<_>>());
        for (point, bytes) in &model {
            prop_assert!(restore(&vault, point).unwrap() == *bytes, "point {} differs", point.point);
        }
        let report = check(&vault, true);
        prop_assert!(report.is_sound(), "{:?}", report.findings);
        // With nothing left, reclaim leaves no pack.
        for (point, _) in &model {
            vault.forget(&point.point, "test").unwrap();
        }
        reclaim_all(&vault, Some(cache.path()));
        reclaim_all(&vault, None);
        prop_assert_eq!(vault.objects().list("packs/").unwrap(), vec![]);
    }
}

/// Sorted extents of all changes, the last one winning.
fn typed(changed: &[(usize, usize, bool)], size: usize) -> Vec<TypedExtent> {
    let mut out: Vec<TypedExtent> = Vec::new();
    let mut unit_kind = vec![None; size.div_ceil(512)];
    for &(from, to, zero) in changed {
        for slot in &mut unit_kind[from.min(size) / 512..to.min(size) / 512] {
            *slot = Some(zero);
        }
    }
    for (i, kind) in unit_kind.iter().enumerate() {
        let (at, len) = ((i * 512) as u64, 512.min(size - i * 512) as u64);
        match kind {
            Some(true) => out.push(TypedExtent::zero(at, len)),
            Some(false) => out.push(TypedExtent::data(at, len)),
            None => {}
        }
    }
    out
}

#[test]
fn random_reads_and_maps_agree_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(dir.path()));
    let mut bytes = noise(1, 900_000);
    bytes[100_000..300_000].fill(0);
    bytes[700_001..890_001].fill(0);
    let point = backup(&vault, "item", &Image::new(bytes.clone()), None).unwrap();
    let disk = ReadSession::begin(&vault, "test").unwrap().open_disk(point.disks[0].tree());
    for i in 0..200u64 {
        let r = noise(i, 16);
        let at = u64::from_le_bytes(r[..8].try_into().unwrap()) % 900_000;
        let len = u64::from_le_bytes(r[8..].try_into().unwrap()) % (900_000 - at).min(100_000);
        let mut buffer = vec![1; len as usize];
        disk.read_at(at, &mut buffer).unwrap();
        assert_eq!(buffer, bytes[at as usize..(at + len) as usize], "{len} bytes at {at}");
        let map = disk.extents(at, len).unwrap();
        let plain: Vec<Extent> = map.iter().map(|e| e.extent).collect();
        assert_eq!(normalize(&plain, 900_000).unwrap().iter().map(|e| e.length_bytes).sum::<u64>(), len);
        for e in map.iter().filter(|e| e.kind == strongroom_domain::ExtentKind::Zero) {
            let range = e.extent.offset_bytes as usize..e.extent.end_bytes() as usize;
            assert!(bytes[range].iter().all(|b| *b == 0));
        }
    }
    assert!(disk.read_at(899_999, &mut [0; 2]).is_err());
    assert!(disk.read_at(u64::MAX, &mut [0; 2]).is_err());
    assert_eq!(disk.data_bytes().unwrap(), {
        let blocks = bytes.chunks(BLOCK as usize);
        blocks.filter(|b| b.iter().any(|x| *x != 0)).map(|b| b.len() as u64).sum::<u64>()
    });
}

#[test]
fn small_changes_cost_little_and_equal_data_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(dir.path()));
    let image = Image::new(noise(1, 4 << 20));
    let first = backup(&vault, "a", &image, None).unwrap();
    assert!(first.stored_bytes > 4 << 20 && first.stored_bytes < (4 << 20) + 200_000);
    // Another item of the same data.
    let other = backup(&vault, "b", &image, None).unwrap();
    assert_eq!((other.disks[0].new_bytes, other.stored_bytes), (0, 0));
    image.0.lock()[5000..5100].fill(7);
    let second = backup(&vault, "a", &image, Some(vec![TypedExtent::data(5000, 100)])).unwrap();
    assert_eq!((second.disks[0].read_bytes, second.disks[0].new_bytes), (4096, 4096));
    assert!(second.stored_bytes < 20_000, "{}", second.stored_bytes);
    let third = backup(&vault, "a", &image, Some(vec![])).unwrap();
    assert_eq!(third.disks[0].root, second.disks[0].root);
    assert_eq!(restore(&vault, &third).unwrap(), image.bytes());
    // A disk of holes has no tree, however large.
    let session = Session::begin(&vault, "test").unwrap();
    let written = session
        .write_disk(DiskRequest {
            source: std::sync::Arc::new(image.clone()),
            name: "sparse".into(),
            size_bytes: 10 << 40,
            extents: vec![TypedExtent::zero(0, 10 << 40)],
            parent: None,
            progress: Default::default(),
        })
        .unwrap();
    assert_eq!(written.tree.root, None);
}

#[test]
fn bad_openings_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = objects_at(&dir.path().join("empty"));
    let key = KeyFile::generate(InitOptions::default().vault).unwrap();
    let error = Vault::open(empty, &key).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NotAVault { .. }), "{error}");
    let (vault, right) = init(objects_at(&dir.path().join("v")));
    let error = Vault::open(objects_at(&dir.path().join("v")), &key).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    let again = Vault::init(objects_at(&dir.path().join("v")), &right, InitOptions::default());
    assert!(matches!(again.map(|_| ()).unwrap_err(), StoreError::AlreadyExists { .. }));
    // A newer format.
    let path = dir.path().join("v/vault.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().next().unwrap().replace("\"version\":2", "\"version\":3");
    std::fs::write(&path, format!("{line}\nblake3 {}\n", blake3::hash(line.as_bytes()).to_hex())).unwrap();
    let error = Vault::open(objects_at(&dir.path().join("v")), &right).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 3, .. }), "{error}");
    assert_eq!(vault.points(None).unwrap().points.len(), 0);
}
