//! Sessions that are slow, stand still, or begin while others' packs wait to be deleted: a point is whole, or there is none.

mod common;

use common::*;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use strongroom_domain::{PointSelector, TypedExtent};
use strongroom_store::objects::testing::S3Server;
use strongroom_store::objects::{BlobStore, Kind, OpenOptions};
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
        vault.forget(&first.point, "test").unwrap();
        assert!(reclaim_all(&vault, None).waiting_bytes > 0);
        let second = one.commit(&vault, "a").unwrap();
        // Beside the wait nothing is damaged.
        let report = check(&vault, true);
        assert!(report.is_sound(), "{:?}", report.findings);

        let extents = if changes_something { change(&image, 16384, 3) } else { vec![] };
        let two = begin(&vault, "a", &image, Some(extents)).unwrap();
        vault.forget(&second.point, "test").unwrap();
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
    let options = InitOptions { block_size_bytes: BLOCK, single_writer: true, ..InitOptions::default() };
    let key = KeyFile::generate(options.vault).unwrap();
    let vault = Vault::init(objects_at(directory.path()), &key, options).unwrap();
    assert!(vault.is_single_writer().unwrap());
    // A program that does not know the name refuses the vault; a header that an earlier one wrote gets it back.
    let header = directory.path().join("vault.json");
    let names = || {
        let text = std::fs::read_to_string(&header).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        line["requires"].clone()
    };
    let all = serde_json::json!(["kept", "tombstones", "roll", "marker", "commits", "single-writer"]);
    assert_eq!(names(), all);
    for name in ["vault.json", "vault.copy.json"] {
        let path = directory.path().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().next().unwrap().replace(",\"single-writer\"", "");
        let hash = blake3::hash(line.as_bytes()).to_hex();
        std::fs::write(path, format!("{line}\nblake3 {hash}\n")).unwrap();
    }
    assert_eq!(names().as_array().unwrap().len(), 5);
    let vault = Vault::open(objects_at(directory.path()), &key).unwrap();
    assert!(vault.is_single_writer().unwrap());
    drop(Session::begin(&vault, "one that writes").unwrap());
    assert_eq!(names(), all);
    // So that it is known without the note.
    std::fs::remove_dir_all(directory.path().join("notes")).unwrap();
    let vault = Vault::open(objects_at(directory.path()), &key).unwrap();
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

/// Its server replaces what it is to create.
#[test]
fn a_vault_for_one_writer_replaces_no_point() {
    let server = S3Server::start();
    server.ignore_conditions();
    let objects =
        || BlobStore::from_object_store(server.client("one"), "test", OpenOptions::default()).unwrap();
    let options = InitOptions { block_size_bytes: BLOCK, single_writer: true, ..InitOptions::default() };
    let key = KeyFile::generate(options.vault).unwrap();
    let vault = Vault::init(objects(), &key, options).unwrap();
    let (image, other) = (Image::new(noise(1, 1 << 20)), Image::new(noise(2, 1 << 20)));
    let id = vault.environment().new_point_id();
    let commit = |vault: &Vault, image: &Image| {
        let under_way = begin(vault, "a", image, None).unwrap();
        let disks = vec![Disk::new("disk", &under_way.written)];
        under_way.session.commit_as(id, draft("a", vault, disks, None))
    };
    let point = commit(&vault, &image).unwrap();
    for vault in [vault, Vault::open(objects(), &key).unwrap()] {
        let refused = commit(&vault, &other).unwrap_err();
        assert!(matches!(&refused, StoreError::Object(e) if e.kind == Kind::AlreadyExists), "{refused}");
        assert_eq!(vault.point(&id).unwrap().session, point.session);
        assert!(restore(&vault, &point).unwrap() == image.bytes());
    }
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

/// An index run's file, by section 5 of `docs/vault-format.md`.
struct RunFile {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    packs: u32,
    records_at: usize,
}

impl RunFile {
    const RECORD_BYTES: usize = 48;
    const BLOCKS: u8 = 1;
    const NODES: u8 = 2;

    /// A copy of its own: the files may be links.
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (packs, fences) = (u32_at(32), u32_at(36));
        let records_at = 40 + packs as usize * 24 + fences as usize * 8;
        Self { path: path.to_owned(), bytes, packs, records_at }
    }

    /// Where the records of one kind of frame begin.
    fn records(&self, kind: u8) -> Vec<usize> {
        let count = u64::from_le_bytes(self.bytes[24..32].try_into().unwrap()) as usize;
        let all = (0..count).map(|number| self.records_at + number * Self::RECORD_BYTES);
        all.filter(|at| self.bytes[at + 46] == kind).collect()
    }

    fn pack(&mut self, record: usize) -> &mut [u8] {
        &mut self.bytes[record + 32..record + 36]
    }

    /// Another pack than the right one, which the run lists too.
    fn wrong_pack(&mut self, record: usize) {
        let packs = self.packs;
        let pack = self.pack(record);
        let right = u32::from_le_bytes((&*pack).try_into().unwrap());
        pack.copy_from_slice(&((right + 1) % packs).to_le_bytes());
    }

    fn wrong_offset(&mut self, record: usize) {
        self.bytes[record + 36] ^= 1;
    }

    fn save(self) {
        std::fs::remove_file(&self.path).unwrap();
        std::fs::write(&self.path, &self.bytes).unwrap();
    }
}

/// The same objects elsewhere, as links: none is ever changed where it is.
fn linked(from: &Path) -> tempfile::TempDir {
    fn link_all(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (entry, to) = (entry.unwrap(), to.to_owned());
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                link_all(&entry.path(), &target);
            } else {
                std::fs::hard_link(entry.path(), target).unwrap();
            }
        }
    }
    let to = tempfile::tempdir_in(from.parent().unwrap()).unwrap();
    link_all(from, to.path());
    to
}

/// Large index runs of a local vault are not read whole when they are opened. Damage in one is neither believed where
/// something would be deleted for it, nor merged into a sound run, nor taken for damage of what the run names.
///
/// What is damaged is chosen by what the run says: its order is that of ids, and so of a key that is another each time.
#[test]
fn a_damaged_large_index_run_harms_nothing() {
    let home = tempfile::tempdir().unwrap();
    let original = home.path().join("vault");
    let (vault, key) = init(objects_at(&original));
    // More than 4 MiB of records.
    let blocks = 90_000;
    let image = Image::new(noise(1, blocks * BLOCK as usize));
    let first = backup(&vault, "a", &image, None).unwrap();
    // Packs hold frames in about the disk's order, whatever the workers' timing: a third of the first ones is dead, the second
    // half of the disk and the nodes above it belong to both points.
    let mut extents = Vec::new();
    for block in (0..blocks / 2).step_by(3) {
        extents.extend(change(&image, block * BLOCK as usize, block as u64));
    }
    let second = backup(&vault, "a", &image, Some(extents)).unwrap();
    let large = vault.objects().list("index/").unwrap().into_iter().max_by_key(|run| run.size_bytes).unwrap();
    assert!(large.size_bytes > 4 << 20);
    drop(vault);

    type Damage = fn(&mut RunFile);
    let places_of_blocks: Damage = |run| {
        for (number, record) in run.records(RunFile::BLOCKS).into_iter().step_by(1400).enumerate() {
            if number % 2 == 0 { run.wrong_pack(record) } else { run.wrong_offset(record) }
        }
    };
    let places_of_nodes: Damage = |run| {
        for (number, record) in run.records(RunFile::NODES).into_iter().enumerate() {
            if number % 2 == 0 { run.wrong_pack(record) } else { run.wrong_offset(record) }
        }
    };
    // Of a pack that is not listed, of no kind of frame that there is, of another id.
    let no_places: Damage = |run| {
        let none = run.packs.to_le_bytes();
        for (number, record) in run.records(RunFile::BLOCKS).into_iter().step_by(1400).enumerate() {
            match number % 3 {
                0 => run.pack(record).copy_from_slice(&none),
                1 => run.bytes[record + 46] = 9,
                _ => run.bytes[record + 31] ^= 1,
            }
        }
    };
    // Several readers come across it at once.
    let directory = linked(&original);
    let mut run = RunFile::open(&directory.path().join(&large.name));
    run.records(RunFile::BLOCKS).into_iter().for_each(|record| run.wrong_offset(record));
    run.save();
    let wanted = image.bytes();
    for round in 0..2 {
        let vault = Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
        let disk = ReadSession::begin(&vault, "test").unwrap().open_disk(second.disks[0].tree());
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let (disk, wanted) = (&disk, &wanted);
                scope.spawn(move || {
                    let at = (blocks / 2 + (round * 8 + reader) * 100) * BLOCK as usize;
                    let mut block = vec![0; BLOCK as usize];
                    disk.read_at(at as u64, &mut block).unwrap();
                    assert!(block == wanted[at..at + BLOCK as usize]);
                });
            }
        });
        vault.record_damage().unwrap();
        assert_eq!(stored(&vault, "damaged/"), 0, "what the index named is sound");
    }

    // Whether reclaim can see what is dead although the run is damaged: of a run that is dropped it sees nothing, until a
    // check has made it anew.
    for (about, damage, sees_dead) in [
        ("places of blocks", places_of_blocks, true),
        ("places of nodes", places_of_nodes, false),
        ("no places for blocks", no_places, false),
    ] {
        let directory = linked(&original);
        let mut run = RunFile::open(&directory.path().join(&large.name));
        damage(&mut run);
        run.save();
        let open = || Vault::open_in(objects_at(directory.path()), &key, Arc::new(Incarnation(2))).unwrap();
        assert!(restore(&open(), &second).unwrap() == image.bytes(), "{about}");
        open().forget(&first.point, "test").unwrap();
        let report = reclaim_all(&open(), None);
        assert_eq!(report.packs_deleted > 0, sees_dead, "{about}: {report:?}");
        let image = Image::new(image.bytes());
        if sees_dead {
            assert!(restore(&open(), &second).unwrap() == image.bytes(), "{about}");
            for seed in 0..9 {
                let extents = change(&image, 40_960, 1_000_000 + seed);
                backup(&open(), "a", &image, Some(extents)).unwrap();
            }
        }
        // Where everything is restored in the end, that reads the data.
        let report = check(&open(), sees_dead);
        let findings = &report.findings;
        assert!(findings.iter().all(|f| f.object.starts_with("index/")), "{about}: {findings:?}");
        assert!(findings.iter().any(|f| f.object == large.name), "{about}: {findings:?}");
        let report = check(&open(), sees_dead);
        assert!(report.is_sound(), "{about}: {:?}", report.findings);
        if !sees_dead {
            let report = reclaim_all(&open(), None);
            assert!(report.packs_deleted > 0, "{about}: {report:?}");
        }
        let last = open().points(Some(&"a".parse().unwrap())).unwrap().take_last().unwrap();
        assert!(restore(&open(), &last).unwrap() == image.bytes(), "{about}");
    }
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
