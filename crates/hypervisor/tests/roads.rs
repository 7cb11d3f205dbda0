//! Snapshots by every road: cloning storage or not, running or shut off, qcow2 and raw side by side.

mod common;

use common::*;
use strongroom_domain::ConsistencyLevel;
use strongroom_hypervisor::*;

fn running(kind: Kind) {
    let storage = Storage::new(kind);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw"), ("vdc", "qcow2")]);
    machine.start();
    for (target, pattern) in [("vda", 1), ("vdb", 2), ("vdc", 3)] {
        machine.write(target, MIB, 2 * MIB, pattern);
        machine.write(target, 20 * MIB + 512, 1024, pattern + 10);
    }
    let road = if storage.clones() { Road::Clone } else { Road::PullJob };

    // The first one reads everything, and sees nothing of what is written after its instant.
    let snapshot = machine.snapshot();
    let instant = machine.model.clone();
    for target in ["vda", "vdb", "vdc"] {
        machine.write(target, MIB, MIB, 99);
        machine.write(target, 30 * MIB, MIB, 98);
    }
    assert!(snapshot.disks.iter().all(|d| d.road == road && matches!(d.changes, Changes::Full { .. })));
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash);
    assert!(snapshot.consistency.reason.contains("channel"), "{}", snapshot.consistency);
    assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    assert_eq!(snapshot.timings.suspended.is_some(), storage.clones());
    eprintln!("{kind:?}: {:?}", snapshot.timings);
    let taken = machine.verify(&snapshot, &instant);
    assert!(machine.commit(snapshot, taken).is_empty());
    assert_eq!(machine.state(), MachineState::Running);

    // The second one has those writes, and not much more.
    let second = machine.back_up();
    for target in ["vda", "vdc"] {
        assert!(!second.is_full(target));
        assert_eq!(second.data_bytes(target), 2 * MIB, "{:?}", second.disks[target].extents);
    }
    assert_eq!(second.is_full("vdb"), !storage.clones());
    if storage.clones() {
        assert!(second.data_bytes("vdb") <= 3 * MIB, "{:?}", second.disks["vdb"].extents);
        assert!(second.warnings.is_empty(), "{:?}", second.warnings);
    }

    // What now reads as zeroes is a hole, not skipped.
    machine.write_zeroes("vda", MIB, MIB);
    machine.discard("vdb", MIB, MIB);
    machine.discard("vdc", MIB, MIB);
    let third = machine.back_up();
    for target in ["vda", "vdc"] {
        assert_eq!(
            (third.data_bytes(target), third.total_bytes(target)),
            (0, MIB),
            "{:?}",
            third.disks[target].extents
        );
    }
    // Nothing changed.
    let fourth = machine.back_up();
    assert_eq!(fourth.total_bytes("vda") + fourth.total_bytes("vdc"), 0);
    if storage.clones() {
        assert_eq!(fourth.total_bytes("vdb"), 0, "{:?}", fourth.disks["vdb"].extents);
    }

    // An abandoned one leaves the chain as it was.
    machine.write("vda", 5 * MIB, MIB, 5);
    let abandoned = machine.snapshot();
    drop(abandoned);
    machine.write("vdb", 6 * MIB, MIB, 6);
    let fifth = machine.back_up();
    assert_eq!(fifth.data_bytes("vda"), MIB);
    assert_eq!(fifth.is_full("vdb"), !storage.clones());

    assert!(machine.checkpoints().len() <= 2, "{:?}", machine.checkpoints());
    let own = storage.own_files();
    assert_eq!(own.len(), usize::from(storage.clones()), "one clone of the raw disk at most: {own:?}");
    machine.stop();
    assert!(machine.bitmaps("vda").len() <= 2, "{:?}", machine.bitmaps("vda"));
}

#[test]
fn running_on_ext4() {
    running(Kind::Ext4);
}

#[test]
fn running_on_xfs() {
    running(Kind::Xfs);
}

#[test]
fn running_on_btrfs() {
    running(Kind::Btrfs);
}

fn shut_off(kind: Kind) {
    let storage = Storage::new(kind);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
    machine.write_offline("vda", "qcow2", MIB, MIB, 1);
    machine.write_offline("vdb", "raw", MIB, MIB, 2);
    let road = if storage.clones() { Road::Clone } else { Road::Offline };
    let first = machine.back_up();
    assert!(first.disks.values().all(|d| d.road == road));
    assert!(first.is_full("vda") && first.is_full("vdb"));
    assert_eq!(first.data_bytes("vda"), MIB);
    assert_eq!(first.consistency.level, ConsistencyLevel::Crash, "it never ran");

    // Off and off again: the image's own bitmap tells.
    machine.write_offline("vda", "qcow2", 3 * MIB, MIB, 3);
    let second = machine.back_up();
    assert!(!second.is_full("vda"));
    assert_eq!(second.total_bytes("vda"), MIB);
    assert_eq!(second.is_full("vdb"), !storage.clones());

    // Started: libvirt takes the bitmap over as a checkpoint.
    machine.start();
    machine.write("vda", 5 * MIB, MIB, 5);
    machine.write("vdb", 5 * MIB, MIB, 6);
    let third = machine.back_up();
    assert_eq!(third.total_bytes("vda"), MIB, "{:?}", third.disks["vda"]);
    assert!(!third.warnings.iter().any(|w| w.contains("vda")), "{:?}", third.warnings);
    machine.write("vda", 7 * MIB, MIB, 7);

    // And back.
    machine.stop();
    let fourth = machine.back_up();
    assert_eq!(fourth.total_bytes("vda"), MIB, "{:?}", fourth.disks["vda"]);
    assert_eq!(fourth.consistency.level, ConsistencyLevel::Crash, "the plug was pulled");

    // Abandoned while off: nothing new stays, the old chain goes on.
    drop(machine.snapshot());
    machine.write_offline("vda", "qcow2", 9 * MIB, MIB, 9);
    let fifth = machine.back_up();
    assert_eq!(fifth.total_bytes("vda"), MIB);
    assert!(machine.bitmaps("vda").len() <= 2 && machine.checkpoints().len() <= 2);
    let own = storage.own_files();
    assert_eq!(own.len(), usize::from(storage.clones()), "{own:?}");
}

#[test]
fn shut_off_on_ext4() {
    shut_off(Kind::Ext4);
}

#[test]
fn shut_off_on_xfs() {
    shut_off(Kind::Xfs);
}

/// A machine that is started while its disks are read in place goes first.
#[test]
fn starting_wins_over_reading() {
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
    machine.write_offline("vda", "qcow2", 0, 4 * MIB, 1);
    let snapshot = machine.snapshot();
    snapshot.check().unwrap();
    let mut buffer = vec![0; 4096];
    snapshot.disks[0].read_at(0, &mut buffer).unwrap();
    machine.start();
    machine.write("vda", 0, MIB, 2);
    let refused = snapshot.check().unwrap_err();
    assert!(matches!(&refused, Error::Busy { why, .. } if why.contains("started")), "{refused}");
    // Readers notice as well, in a moment.
    std::thread::sleep(limits::WATCH_INTERVAL * 3);
    assert!(matches!(snapshot.disks[0].read_at(0, &mut buffer), Err(Error::Busy { .. })));
    assert!(snapshot.finish(Outcome::Abandoned).unwrap().is_empty());
    assert!(machine.checkpoints().is_empty());
    machine.back_up();
}
