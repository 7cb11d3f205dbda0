//! Machines that change between backups, and what is left out of them.

mod common;

use common::*;
use std::collections::BTreeSet;
use strongroom_hypervisor::*;

fn attach(machine: &TestMachine<'_>, xml: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    virsh(&["attach-device", &machine.name, file.path().to_str().unwrap(), "--persistent"]);
}

fn added_removed_and_resized(kind: Kind) {
    let storage = Storage::new(kind);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "qcow2")]);
    machine.start();
    machine.write("vda", MIB, MIB, 1);
    machine.write("vdb", MIB, MIB, 2);
    machine.back_up();

    // Added: that one is read fully, without a warning, since nothing was lost.
    let path = machine.create_disk("vdc", "qcow2");
    attach(&machine, &disk_xml("vdc", "qcow2", &path, ""));
    machine.write("vda", 2 * MIB, MIB, 3);
    let added = machine.back_up();
    assert!(added.is_full("vdc") && !added.is_full("vda") && !added.is_full("vdb"));
    assert_eq!(added.total_bytes("vda"), MIB);
    assert!(added.warnings.is_empty(), "{:?}", added.warnings);

    // Grown while it runs: the new part is named as well.
    virsh(&["blockresize", &machine.name, "vdb", "48M"]);
    machine.model.get_mut("vdb").unwrap().resize(48 * MIB as usize, 0);
    machine.write("vdb", 40 * MIB, MIB, 4);
    let grown = machine.back_up();
    assert!(!grown.is_full("vdb") && !grown.is_full("vda"));
    assert_eq!((grown.data_bytes("vdb"), grown.total_bytes("vdb")), (MIB, 16 * MIB));
    assert!(grown.warnings.is_empty(), "{:?}", grown.warnings);
    assert_eq!(machine.back_up().total_bytes("vdb"), 0);

    // Removed: the others go on.
    virsh(&["detach-disk", &machine.name, "vdc", "--persistent"]);
    let gone = || !machine.hypervisor.inspect(&machine.name).unwrap().disks.iter().any(|d| d.target == "vdc");
    if !(0..50).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        gone()
    }) {
        // No system inside that would let go of it.
        machine.stop();
        machine.start();
        assert!(gone());
    }
    machine.model.remove("vdc");
    machine.vault.remove("vdc");
    machine.parents.remove("vdc");
    machine.write("vda", 5 * MIB, MIB, 5);
    let removed = machine.back_up();
    assert_eq!((removed.total_bytes("vda"), removed.total_bytes("vdb")), (MIB, 0), "{:?}", removed.warnings);

    // Grown while it is off.
    machine.stop();
    run("qemu-img", &["resize", "-q", "-f", "qcow2", machine.disk_path("vda").to_str().unwrap(), "48M"]);
    machine.model.get_mut("vda").unwrap().resize(48 * MIB as usize, 0);
    machine.start();
    machine.write("vda", 47 * MIB, MIB, 6);
    let grown = machine.back_up();
    assert_eq!(grown.total_bytes("vda"), 16 * MIB, "{:?}", grown.disks["vda"]);

    // Replaced by another image of the same name, which knows of no tracking.
    machine.stop();
    let path = machine.disk_path("vdb");
    std::fs::remove_file(&path).unwrap();
    machine.create_disk("vdb", "qcow2");
    machine.start();
    machine.write("vdb", 0, MIB, 7);
    let replaced = machine.back_up();
    assert!(replaced.is_full("vdb") && !replaced.is_full("vda"), "{:?}", replaced.warnings);
    assert!(machine.checkpoints().len() <= 2);
    machine.back_up();
}

#[test]
fn added_removed_and_resized_on_ext4() {
    added_removed_and_resized(Kind::Ext4);
}

#[test]
fn added_removed_and_resized_on_xfs() {
    added_removed_and_resized(Kind::Xfs);
}

#[test]
fn raw_disks_are_compared_with_their_last_clone() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "raw")]);
        machine.start();
        machine.write("vda", MIB, 4 * MIB, 1);
        machine.back_up();
        assert!(machine.checkpoints().is_empty());
        machine.write("vda", 2 * MIB, 64 << 10, 2);
        machine.write("vda", 20 * MIB, MIB, 3);
        machine.discard("vda", 4 * MIB, MIB);
        let second = machine.back_up();
        assert!(!second.is_full("vda"));
        assert!(second.total_bytes("vda") <= 4 * MIB, "{kind:?} {:?}", second.disks);
        // Killed: that does not matter here.
        machine.write("vda", 10 * MIB, MIB, 4);
        machine.kill_qemu();
        let off = machine.back_up();
        assert!(!off.is_full("vda") && off.total_bytes("vda") <= 2 * MIB, "{kind:?} {:?}", off.disks);
        // Grown.
        run("truncate", &["-s", "40M", machine.disk_path("vda").to_str().unwrap()]);
        machine.model.get_mut("vda").unwrap().resize(40 * MIB as usize, 0);
        let grown = machine.back_up();
        assert_eq!((grown.data_bytes("vda"), grown.total_bytes("vda")), (0, 8 * MIB), "{:?}", grown.disks);
        // The clone to compare with was removed.
        for file in storage.own_files() {
            std::fs::remove_file(storage.path().join(file)).unwrap();
        }
        let lost = machine.back_up();
        assert!(lost.is_full("vda"));
        assert!(lost.warnings.iter().any(|w| w.contains("clone")), "{:?}", lost.warnings);
        assert!(!machine.back_up().is_full("vda"));
    }
}

#[test]
fn what_is_left_out_is_named() {
    let storage = Storage::new(Kind::Ext4);
    let iso = storage.path().join("some.iso");
    std::fs::write(&iso, vec![1; 65536]).unwrap();
    let extra = |target: &str, flags: &str| {
        let path = storage.path().join(format!("extra-{target}"));
        std::fs::File::create(&path).unwrap().set_len(MIB).unwrap();
        disk_xml(target, "raw", &path, flags)
    };
    let devices = format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/><target dev='hdc' bus='ide'/><readonly/></disk>
         <disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>{}{}",
        iso.display(),
        extra("vdx", "<readonly/>"),
        extra("vdy", "<shareable/>")
    );
    let mut machine = TestMachine::with(&storage, &[("vda", "qcow2"), ("vdb", "qcow2")], &devices);
    let inspected = machine.hypervisor.inspect(&machine.name).unwrap();
    assert_eq!(inspected.disks.len(), 6);
    assert_eq!(inspected.disks[0].size_bytes, Some(DISK_BYTES));
    assert_eq!(inspected.agent, AgentState::NoChannel);
    machine.start();
    machine.write("vda", 0, MIB, 1);
    let mut request = machine.request();
    request.exclude = BTreeSet::from(["vdb".to_owned()]);
    let snapshot = machine.hypervisor.snapshot(&machine.name, &request).unwrap();
    let mut expected = machine.model.clone();
    expected.remove("vdb");
    // Read-only, but with data.
    expected.insert("vdx".into(), vec![0; MIB as usize]);
    machine.verify(&snapshot, &expected);
    let skipped: BTreeSet<&str> = snapshot.skipped.iter().map(|(target, _)| target.as_str()).collect();
    assert_eq!(skipped, BTreeSet::from(["fda", "hdc", "vdb", "vdy"]));
    drop(snapshot);

    let mut request = machine.request();
    request.exclude = ["vda", "vdb", "vdx"].map(str::to_owned).into();
    let none = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
    assert!(matches!(&none, Error::Unsupported { why, .. } if why.contains("CD-ROM")), "{none}");
    request.exclude = BTreeSet::from(["vdz".to_owned()]);
    assert!(matches!(machine.hypervisor.snapshot(&machine.name, &request), Err(Error::NotFound { .. })));
    request.exclude = BTreeSet::new();
    request.id = "../x".into();
    assert!(matches!(machine.hypervisor.snapshot(&machine.name, &request), Err(Error::Unsupported { .. })));
}

/// At the scratch files' limit the backup fails, never the machine.
#[test]
fn scratch_files_are_bounded() {
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    machine.write("vda", 0, 16 * MIB, 1);
    machine.back_up();
    let scratch = storage.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    run("chmod", &["0711", scratch.to_str().unwrap()]);
    let request = SnapshotRequest {
        scratch_dir: Some(scratch.clone()),
        scratch_limit_bytes: Some(4 * MIB),
        ..machine.request()
    };
    let snapshot = machine.hypervisor.snapshot(&machine.name, &request).unwrap();
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1);
    for at in 0..16 {
        machine.write("vda", at * MIB, MIB, 2);
    }
    std::thread::sleep(limits::WATCH_INTERVAL * 3);
    let mut buffer = vec![0; 4096];
    let failed = snapshot.disks[0].read_at(0, &mut buffer).unwrap_err();
    assert!(failed.to_string().contains("scratch files grew"), "{failed}");
    assert!(snapshot.check().is_err());
    snapshot.finish(Outcome::Abandoned).unwrap();
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    assert_eq!(machine.state(), MachineState::Running);
    machine.write("vda", 20 * MIB, MIB, 3);
    // The chain is as it was.
    let next = machine.back_up();
    assert_eq!(next.total_bytes("vda"), 17 * MIB);
}

/// Where there is hardly room for scratch files, a backup does not begin.
#[test]
fn no_room_for_scratch_files() {
    let storage = Storage::sized(Kind::Ext4, 120);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    run("fallocate", &["-l", "60M", storage.path().join("filler").to_str().unwrap()]);
    let request = machine.request();
    let refused = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
    assert!(refused.to_string().contains("bytes free; choose another"), "{refused}");
    assert!(machine.checkpoints().is_empty() && storage.own_files().is_empty());
}

/// A machine that stops during a pull-mode transfer spoils it; from clones, it does not matter.
#[test]
fn stopping_during_the_transfer() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
        machine.start();
        machine.write("vda", 0, 4 * MIB, 1);
        let snapshot = machine.snapshot();
        machine.stop();
        if storage.clones() {
            let taken = machine.verify(&snapshot, &machine.model.clone());
            assert!(machine.commit(snapshot, taken).is_empty());
            assert!(!machine.back_up().is_full("vda"), "its checkpoint was kept");
        } else {
            let failed = snapshot.check().unwrap_err();
            assert!(failed.to_string().contains("ended early"), "{failed}");
            assert!(snapshot.disks[0].read_at(0, &mut [0; 4096]).is_err());
            let warnings = snapshot.finish(Outcome::Abandoned).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            assert!(machine.checkpoints().is_empty() && machine.bitmaps("vda").is_empty());
            machine.back_up();
        }
    }
}

/// A machine without a definition that outlives it: no checkpoints, but backups.
#[test]
fn machines_that_are_not_persistent() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
        machine.start();
        virsh(&["undefine", &machine.name]);
        machine.write("vda", 0, MIB, 1);
        let first = machine.back_up();
        assert!(first.disks["vda"].checkpoint.is_none());
        machine.write("vdb", 0, MIB, 1);
        let second = machine.back_up();
        assert!(second.is_full("vda") && second.warnings.is_empty(), "{:?}", second.warnings);
        assert_eq!(second.is_full("vdb"), !storage.clones());
    }
}
