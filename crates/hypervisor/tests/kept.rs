//! Kept snapshots: read again and again whatever becomes of the machine, concluded either way, and never left behind.

mod common;

use common::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strongroom_hypervisor::*;

const OWNER: &str = "the test";

/// A kept snapshot, and what its disks must hold.
struct Kept {
    snapshot: KeptSnapshot,
    instant: BTreeMap<String, Vec<u8>>,
}

fn keep(machine: &mut TestMachine<'_>) -> Kept {
    let mut snapshot = machine.snapshot();
    assert_eq!(snapshot.not_kept, None);
    let instant = machine.model.clone();
    let kept = snapshot.keep(OWNER, serde_json::json!({"mine": 7})).unwrap();
    drop(snapshot);
    assert_eq!((kept.owner.as_str(), &kept.extra["mine"]), (OWNER, &serde_json::json!(7)));
    Kept { snapshot: kept, instant }
}

/// Takes the whole of it over, as a vault would; returns the bytes.
fn transfer(machine: &TestMachine<'_>, kept: &Kept) -> (MachineSnapshot, BTreeMap<String, Vec<u8>>) {
    let (opened, again) = machine.hypervisor.open_kept(&kept.snapshot.record).unwrap();
    assert_eq!(again, kept.snapshot);
    let taken = machine.verify(&opened, &kept.instant);
    opened.check().unwrap();
    for disk in &opened.disks {
        let covered: u64 = disk.kinds().unwrap().iter().map(|e| e.extent.length_bytes).sum();
        assert_eq!(covered, disk.size_bytes, "the map is of the whole disk");
    }
    (opened, taken)
}

fn commit(machine: &mut TestMachine<'_>, kept: &Kept) {
    let (opened, taken) = transfer(machine, kept);
    machine.vault = taken;
    machine.parents = opened
        .disks
        .iter()
        .filter_map(|d| {
            let parent = DiskParent { checkpoint: d.checkpoint.clone()?, size_bytes: d.size_bytes };
            Some((d.target.clone(), parent))
        })
        .collect();
    drop(opened);
    let warnings = machine.hypervisor.conclude_kept(&kept.snapshot.record, Outcome::Committed).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
}

/// Through all that may become of a machine while its snapshot is read.
fn outlives(kind: Kind) {
    let storage = Storage::new(kind);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
    machine.start();
    machine.write("vda", MIB, 2 * MIB, 1);
    machine.write("vdb", MIB, 2 * MIB, 2);
    machine.back_up();
    machine.write("vda", 5 * MIB, MIB, 3);
    machine.write("vdb", 5 * MIB, MIB, 4);
    let kept = keep(&mut machine);
    for target in ["vda", "vdb"] {
        machine.write(target, 5 * MIB, 2 * MIB, 9);
    }
    drop(transfer(&machine, &kept));
    // Two at once, as a transfer and a restore would.
    let first = transfer(&machine, &kept);
    drop(transfer(&machine, &kept));
    drop(first);
    machine.stop();
    drop(transfer(&machine, &kept));
    // Its disks go elsewhere.
    let definition = virsh(&["dumpxml", "--inactive", &machine.name]);
    std::fs::create_dir(storage.path().join("elsewhere")).unwrap();
    let away = |p: &Path| storage.path().join("elsewhere").join(p.file_name().unwrap());
    let mut moved = definition.clone();
    for target in ["vda", "vdb"] {
        let from = machine.disk_path(target);
        std::fs::rename(&from, away(&from)).unwrap();
        moved = moved.replace(from.to_str().unwrap(), away(&from).to_str().unwrap());
    }
    machine.define(&moved);
    machine.start();
    drop(transfer(&machine, &kept));
    machine.stop();
    for target in ["vda", "vdb"] {
        std::fs::rename(away(&machine.disk_path(target)), machine.disk_path(target)).unwrap();
    }
    machine.define(&definition);
    machine.start();
    commit(&mut machine, &kept);

    // The next one builds on it, and leaves it alone.
    machine.write("vda", 8 * MIB, MIB, 5);
    machine.write("vdb", 8 * MIB, MIB, 6);
    let next = machine.back_up();
    assert!(!next.is_full("vda") && !next.is_full("vdb"), "{:?}", next.disks);
    assert!(next.data_bytes("vda") <= 3 * MIB && next.data_bytes("vdb") <= 4 * MIB, "{:?}", next.disks);
    let (opened, _) = machine.hypervisor.open_kept(&kept.snapshot.record).unwrap();
    let mut bytes = vec![0; MIB as usize];
    opened.disks[0].read_at(5 * MIB, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 3));
    drop(opened);

    assert_eq!(machine.hypervisor.kept_in(&storage.path()).unwrap(), std::slice::from_ref(&kept.snapshot));
    machine.hypervisor.remove_kept(&kept.snapshot.record).unwrap();
    machine.hypervisor.remove_kept(&kept.snapshot.record).unwrap();
    assert!(machine.hypervisor.kept_in(&storage.path()).unwrap().is_empty());
    let own = storage.own_files();
    assert_eq!(own.len(), 1, "the raw disk's clone to compare with: {own:?}");
    assert!(machine.checkpoints().len() <= 2);
    let gone = machine.hypervisor.open_kept(&kept.snapshot.record).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

#[test]
fn kept_outlives_the_machine_on_xfs() {
    outlives(Kind::Xfs);
}

#[test]
fn kept_outlives_the_machine_on_btrfs() {
    outlives(Kind::Btrfs);
}

/// The transfer failed for good: the chain goes on from the parent, and the snapshot can still be read.
#[test]
fn kept_and_abandoned() {
    let storage = Storage::new(Kind::Xfs);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
    machine.start();
    machine.write("vda", MIB, MIB, 1);
    machine.back_up();
    let before = machine.checkpoints();
    machine.write("vda", 3 * MIB, MIB, 2);
    machine.write("vdb", 3 * MIB, MIB, 2);
    let kept = keep(&mut machine);
    assert_eq!(machine.checkpoints().len(), before.len() + 1);
    let warnings = machine.hypervisor.conclude_kept(&kept.snapshot.record, Outcome::Abandoned).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(machine.checkpoints(), before);
    machine.write("vda", 5 * MIB, MIB, 3);
    let next = machine.back_up();
    assert_eq!(next.data_bytes("vda"), 2 * MIB, "{:?}", next.disks["vda"]);
    assert!(!next.is_full("vdb"));
    let (opened, _) = machine.hypervisor.open_kept(&kept.snapshot.record).unwrap();
    let mut bytes = vec![0; MIB as usize];
    opened.disks[1].read_at(3 * MIB, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 2));
    drop(opened);
    machine.hypervisor.remove_kept(&kept.snapshot.record).unwrap();
}

/// Shut off, and then gone altogether.
#[test]
fn kept_of_a_machine_that_is_gone() {
    let storage = Storage::new(Kind::Xfs);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.write_offline("vda", "qcow2", MIB, MIB, 1);
    let kept = keep(&mut machine);
    virsh(&["undefine", &machine.name, "--checkpoints-metadata"]);
    std::fs::remove_file(machine.disk_path("vda")).unwrap();
    drop(transfer(&machine, &kept));
    assert!(machine.hypervisor.conclude_kept(&kept.snapshot.record, Outcome::Committed).unwrap().is_empty());
    // Even its directory moves on.
    let elsewhere = storage.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for name in storage.own_files() {
        std::fs::rename(storage.path().join(&name), elsewhere.join(&name)).unwrap();
    }
    let found = machine.hypervisor.kept_in(&elsewhere).unwrap();
    assert_eq!((found.len(), &found[0].id), (1, &kept.snapshot.id));
    let (opened, _) = machine.hypervisor.open_kept(&found[0].record).unwrap();
    machine.verify(&opened, &kept.instant);
    drop(opened);
    machine.hypervisor.remove_kept(&found[0].record).unwrap();
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

fn spoiled(machine: &TestMachine<'_>, record: &Path, words: &str) {
    let error = machine.hypervisor.open_kept(record).unwrap_err();
    assert!(matches!(&error, Error::Spoiled { .. }) && error.to_string().contains(words), "{error}");
}

/// What can no longer be relied on says so, and is never read.
#[test]
fn kept_and_spoiled() {
    let storage = Storage::new(Kind::Xfs);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
    // The disk is based on an image, named relative to it.
    let base = storage.path().join("base.qcow2");
    let (disk, base_text) = (machine.disk_path("vda"), base.to_str().unwrap().to_owned());
    std::fs::rename(&disk, &base).unwrap();
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 1M", &base_text]);
    machine.model.get_mut("vda").unwrap()[..MIB as usize].fill(5);
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", disk.to_str().unwrap()],
    );
    machine.start();
    machine.write("vda", 2 * MIB, MIB, 6);
    let kept = keep(&mut machine);
    assert!(kept.snapshot.disks[0].has_backing && !kept.snapshot.disks[1].has_backing);
    let (opened, _) = transfer(&machine, &kept);
    machine.stop();
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 64k", &base_text]);
    machine.model.get_mut("vda").unwrap()[..65_536].fill(7);
    // Off, its definition does not name the base.
    let request = machine.request();
    let refused = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("base.qcow2"), "{refused}");
    let late = opened.check().unwrap_err();
    assert!(matches!(late, Error::Spoiled { .. }), "{late}");
    drop(opened);
    spoiled(&machine, &kept.snapshot.record, "base.qcow2");
    machine.hypervisor.remove_kept(&kept.snapshot.record).unwrap();

    machine.start();
    let other = keep(&mut machine);
    let clone: &PathBuf = &other.snapshot.disks[1].path;
    run("qemu-io", &["-f", "raw", "-c", "write -P 7 0 64k", clone.to_str().unwrap()]);
    spoiled(&machine, &other.snapshot.record, "written to");
    std::fs::remove_file(clone).unwrap();
    spoiled(&machine, &other.snapshot.record, "removed");
    std::fs::write(&other.snapshot.record, "{}").unwrap();
    spoiled(&machine, &other.snapshot.record, "not understood");
    assert!(machine.hypervisor.kept_in(&storage.path()).unwrap().is_empty());
    machine.hypervisor.remove_kept(&other.snapshot.record).unwrap();
    // What is without its record goes with the next snapshot.
    assert!(storage.own_files().iter().any(|f| f.ends_with(".kept")), "{:?}", storage.own_files());
    machine.back_up();
    let own = storage.own_files();
    assert!(own.iter().all(|f| f.ends_with(".clone")) && own.len() == 1, "{own:?}");
}

/// Of its files nobody else reads any; and where others could put their own in their place, none is kept, or read.
#[test]
fn kept_where_nobody_else_can_write() {
    use std::os::unix::fs::PermissionsExt as _;
    let storage = Storage::new(Kind::Xfs);
    let mut machine = TestMachine::new(&storage, &[("vda", "raw")]);
    machine.start();
    machine.write("vda", MIB, MIB, 1);
    let kept = keep(&mut machine);
    let record = &kept.snapshot.record;
    for file in [record, &kept.snapshot.disks[0].path] {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
    }
    let permit = |mode| {
        std::fs::set_permissions(storage.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    permit(0o777);
    let refused = machine.hypervisor.open_kept(record).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("others may write"), "{refused}");
    let request = machine.request();
    let mut snapshot = machine.hypervisor.snapshot(&machine.name, &request).unwrap();
    let why = snapshot.not_kept.clone().unwrap();
    assert!(why.contains("others may write") && why.contains(storage.path().to_str().unwrap()), "{why}");
    assert!(snapshot.keep(OWNER, serde_json::Value::Null).is_err());
    drop(snapshot);
    permit(0o711);
    drop(transfer(&machine, &kept));
    machine.hypervisor.remove_kept(record).unwrap();
}

#[test]
fn not_kept_where_files_cannot_be_cloned() {
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    let mut request = machine.request();
    request.clones = UseClones::Auto;
    let mut snapshot = machine.hypervisor.snapshot(&machine.name, &request).unwrap();
    let why = snapshot.not_kept.clone().unwrap();
    assert!(why.contains("cannot clone files") && why.contains(storage.path().to_str().unwrap()), "{why}");
    let refused = snapshot.keep(OWNER, serde_json::Value::Null).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported { .. }) && refused.to_string().contains(&why), "{refused}");
    // It goes on as it was.
    let taken = machine.verify(&snapshot, &machine.model.clone());
    assert!(machine.commit(snapshot, taken).is_empty());
    assert!(storage.own_files().is_empty());
}
