//! One suite for every catalog, and what is special to the one in a file.

use jiff::Timestamp;
use std::path::Path;
use std::process::Command;
use strongroom_catalog::*;
use strongroom_domain::{Consistency, ConsistencyLevel, PointId, VaultId};

fn vault(n: u8) -> VaultSeen {
    VaultSeen { id: VaultId::from_bytes([n; 16]), location: format!("/vaults/{n}") }
}

fn point(n: u8, item: &str, source: Option<&str>, second: i64) -> PointRow {
    PointRow {
        id: PointId::from_bytes([n; 16]),
        item: item.parse().unwrap(),
        kind: ItemKind::Machine,
        source_id: source.map(str::to_owned),
        parent: (n > 1).then(|| PointId::from_bytes([n - 1; 16])),
        taken_at: Timestamp::new(second, 123_456_000).unwrap(),
        committed_at: Timestamp::from_second(second + 5).unwrap(),
        consistency: Consistency::new(ConsistencyLevel::FileSystem, "it's frozen; \"really\""),
        disks: vec![DiskRow { name: "vda".into(), size_bytes: 1 << 40 }],
        read_bytes: 10,
        new_bytes: 9,
        stored_bytes: 8,
        warnings: 2,
    }
}

fn ids(points: &[StoredPoint]) -> Vec<u8> {
    points.iter().map(|p| p.point.id.as_bytes()[0]).collect()
}

/// What every catalog must do.
fn suite(make: impl Fn() -> Box<dyn Catalog>) {
    // What was recorded comes back as it was.
    let catalog = make();
    assert!(catalog.vaults().unwrap().is_empty());
    assert!(catalog.last_points(ItemKind::Machine).unwrap().is_empty());
    catalog.record(&vault(1), &point(1, "web", Some("u1"), 100)).unwrap();
    let stored = catalog.points(&"web".parse().unwrap()).unwrap();
    assert_eq!(stored[0].point, point(1, "web", Some("u1"), 100));
    assert_eq!((stored[0].vault, stored[0].location.as_str()), (vault(1).id, "/vaults/1"));
    let seen = catalog.vaults().unwrap();
    assert!(
        seen[0].first_seen_at <= seen[0].last_seen_at && seen[0].first_seen_at.as_second() > 1_000_000_000
    );

    // The same point twice is one; the newest of each source counts, wherever it is.
    catalog.record(&vault(1), &point(1, "web", Some("u1"), 100)).unwrap();
    catalog.record(&vault(2), &point(2, "web", Some("u1"), 300)).unwrap();
    catalog.record(&vault(1), &point(3, "web", Some("u1"), 200)).unwrap();
    catalog.record(&vault(1), &point(4, "web", Some("u2"), 50)).unwrap();
    catalog.record(&vault(1), &point(5, "db", None, 400)).unwrap();
    let image = PointRow { kind: ItemKind::Image, ..point(6, "disk image", None, 500) };
    catalog.record(&vault(1), &image).unwrap();
    assert_eq!(ids(&catalog.points(&"web".parse().unwrap()).unwrap()), [4, 1, 3, 2]);
    assert_eq!(ids(&catalog.last_points(ItemKind::Machine).unwrap()), [5, 4, 2]);
    assert_eq!(ids(&catalog.last_points(ItemKind::Image).unwrap()), [6]);

    // Removed ones are gone, unknown ones are no matter, and another vault's copy stays.
    catalog.record(&vault(2), &point(3, "web", Some("u1"), 200)).unwrap();
    let some = [PointId::from_bytes([3; 16]), PointId::from_bytes([99; 16])];
    assert_eq!(catalog.remove(vault(1).id, &some).unwrap(), 1);
    assert_eq!(catalog.remove(vault(1).id, &some).unwrap(), 0);
    assert_eq!(ids(&catalog.points(&"web".parse().unwrap()).unwrap()), [4, 1, 3, 2]);

    // What a vault says replaces what was known of it; of one item, if only that was read.
    let truth = [point(1, "web", Some("u1"), 100), point(7, "web", Some("u1"), 700), point(8, "db", None, 1)];
    let web = "web".parse().unwrap();
    let synced = catalog.sync(&vault(1), Some(&web), &truth).unwrap();
    assert_eq!(synced, Synced { added: 1, removed: 1 });
    assert_eq!(ids(&catalog.points(&web).unwrap()), [1, 3, 2, 7]);
    assert_eq!(ids(&catalog.points(&"db".parse().unwrap()).unwrap()), [5], "not of this item");
    assert_eq!(catalog.sync(&vault(1), None, &truth).unwrap(), Synced { added: 1, removed: 2 });
    assert_eq!(ids(&catalog.points(&"db".parse().unwrap()).unwrap()), [8]);
    assert_eq!(catalog.sync(&vault(1), None, &truth).unwrap(), Synced::default());

    // A vault that moved keeps its points; one made where another was takes its place.
    catalog.sync(&VaultSeen { location: "/moved".into(), ..vault(1) }, Some(&web), &truth).unwrap();
    assert!(catalog.points(&web).unwrap().iter().any(|p| p.location == "/moved"));
    catalog.record(&VaultSeen { location: "/moved".into(), ..vault(3) }, &point(9, "new", None, 1)).unwrap();
    let mut left: Vec<u8> = catalog.vaults().unwrap().iter().map(|v| v.id.as_bytes()[0]).collect();
    left.sort_unstable();
    assert_eq!(left, [2, 3]);
    assert_eq!(ids(&catalog.points(&web).unwrap()), [3, 2]);

    assert!(catalog.forget_vault(vault(2).id).unwrap());
    assert!(!catalog.forget_vault(vault(2).id).unwrap());
    assert!(catalog.points(&web).unwrap().is_empty());
    assert!(catalog.take_warnings().is_empty());
}

#[test]
fn the_file_catalog_passes() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    suite(|| {
        count.set(count.get() + 1);
        Box::new(SqliteCatalog::open(&dir.path().join(format!("made/{}/catalog.db", count.get()))).unwrap())
    });
}

#[test]
fn it_is_there_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    SqliteCatalog::open(&path).unwrap().record(&vault(1), &point(1, "web", None, 1)).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = SqliteCatalog::open(&path).unwrap();
    assert_eq!(ids(&again.points(&"web".parse().unwrap()).unwrap()), [1]);
    assert!(again.take_warnings().is_empty());
}

#[test]
fn several_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    // Also at the very beginning, when there is no database yet.
    std::thread::scope(|scope| {
        for n in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                let catalog = SqliteCatalog::open(path).unwrap();
                for k in 0..10u8 {
                    catalog.record(&vault(1), &point(n * 16 + k, "web", None, i64::from(k))).unwrap();
                }
            });
        }
    });
    assert_eq!(SqliteCatalog::open(&path).unwrap().points(&"web".parse().unwrap()).unwrap().len(), 80);
}

fn aside(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains(".damaged-") && !n.ends_with("-wal") && !n.ends_with("-shm"))
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_no_database_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    for round in 1..=4usize {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        std::fs::write(&path, "this is no database, whatever its name says".repeat(100)).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        let told = catalog.take_warnings();
        assert!(told.len() == 1 && told[0].contains("begun anew"), "{told:?}");
        assert!(catalog.take_warnings().is_empty(), "told once");
        catalog.sync(&vault(1), None, &[point(1, "web", None, 1)]).unwrap();
        assert_eq!(ids(&catalog.points(&"web".parse().unwrap()).unwrap()), [1]);
        assert_eq!(aside(dir.path()).len(), round.min(limits::DAMAGED_KEPT), "and not more are kept");
        drop(catalog);
    }
}

/// Damage in the middle of a file which opens well, found at once or at use.
#[test]
fn damaged_pages_are_healed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let catalog = SqliteCatalog::open(&path).unwrap();
    for n in 0..250 {
        catalog.record(&vault(1), &point(n, "web", None, i64::from(n))).unwrap();
    }
    drop(catalog);
    let sound = std::fs::read(&path).unwrap();
    assert!(sound.len() > 8 * 4096, "{}", sound.len());
    for page in 0..sound.len() / 4096 {
        let mut bytes = sound.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xA5);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        std::fs::write(&path, bytes).unwrap();
        let catalog = SqliteCatalog::open(&path).unwrap();
        catalog.sync(&vault(1), None, &[point(1, "web", None, 1)]).unwrap();
        assert_eq!(ids(&catalog.points(&"web".parse().unwrap()).unwrap()), [1], "page {page}");
        assert_eq!(catalog.take_warnings().len(), 1, "page {page}");
    }
}

/// It opens well, and turns out not to be what it should be when it is used.
#[test]
fn damage_at_use_is_healed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let catalog = SqliteCatalog::open(&path).unwrap();
    catalog.record(&vault(1), &point(1, "web", None, 1)).unwrap();
    let sqlite = |sql: &str| {
        let done = Command::new("python3")
            .args(["-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2])"])
            .arg(&path)
            .arg(sql)
            .status();
        assert!(done.unwrap().success());
    };
    // A schema that is not ours any more, then a row that is not.
    for damage in ["DROP TABLE recovery_points", "UPDATE recovery_points SET consistency = 'perfect'"] {
        sqlite(damage);
        assert!(catalog.points(&"web".parse().unwrap()).unwrap().is_empty(), "{damage}");
        assert_eq!(catalog.take_warnings().len(), 1, "{damage}");
        catalog.record(&vault(1), &point(1, "web", None, 1)).unwrap();
        assert_eq!(ids(&catalog.points(&"web".parse().unwrap()).unwrap()), [1]);
    }
    assert!(catalog.take_warnings().is_empty());
}

#[test]
fn a_newer_program_s_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    drop(SqliteCatalog::open(&path).unwrap());
    let done = Command::new("python3")
        .args(["-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(\"INSERT INTO _sqlx_migrations VALUES (9999, 'later', CURRENT_TIMESTAMP, 1, x'00', 1)\"); c.commit()"])
        .arg(&path)
        .status();
    assert!(done.unwrap().success());
    let Err(error) = SqliteCatalog::open(&path) else { panic!("opened") };
    assert!(matches!(error, CatalogError::Newer { .. }), "{error}");
    assert!(aside(dir.path()).is_empty());
}

#[test]
fn places_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.join("catalog.db"), dir.path().to_owned()] {
        let Err(error) = SqliteCatalog::open(&path) else { panic!("{path:?} opened") };
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
