//! With a system inside that answers the guest agent: consistency, and what the guest feels.

mod common;

use common::tiny::*;
use common::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use strongroom_domain::ConsistencyLevel;
use strongroom_hypervisor::*;

fn consistent_and_restorable(kind: Kind) {
    let storage = Storage::new(kind);
    let mut guest = Guest::start(&storage, &["vda:qcow2:64M", "vdb:raw:32M"], "all");
    let sums = "cd /mnt && sha256sum vda/* vdb/* 2>/dev/null | sort";
    guest.sh("dd if=/dev/urandom of=/mnt/vda/one bs=64k count=64; cp /mnt/vda/one /mnt/vdb/");
    let inspected = guest.hypervisor.inspect(&guest.name).unwrap();
    assert_eq!(inspected.agent, AgentState::Connected);

    let restored = tempfile::Builder::new().prefix("srtest-").tempdir_in(storage.path()).unwrap();
    run("chmod", &["0711", restored.path().to_str().unwrap()]);
    let mut definition = String::new();
    for round in 0..3 {
        // Written through the page cache, not synced: the freeze has to bring it to the disk.
        guest.sh(&format!(
            "dd if=/dev/urandom of=/mnt/vda/file{round} bs=64k count=32; cp /mnt/vda/file{round} /mnt/vdb/"
        ));
        if round == 1 {
            guest.sh("rm /mnt/vda/one; fstrim /mnt/vda; fstrim /mnt/vdb");
        }
        let snapshot = guest.snapshot();
        assert_eq!(snapshot.consistency.level, ConsistencyLevel::FileSystem, "{}", snapshot.consistency);
        assert!(snapshot.consistency.reason.contains("2 file systems"), "{}", snapshot.consistency);
        assert!(snapshot.timings.frozen.unwrap() < Duration::from_secs(5));
        assert_eq!(matches!(snapshot.disks[0].changes, Changes::Since { .. }), round > 0);
        eprintln!("{kind:?}: {:?}", snapshot.timings);
        assert!(guest.is_thawed());
        let files = materialize(&snapshot, restored.path());
        for file in files.values() {
            // Frozen means clean: nothing is left for a journal to do.
            run("e2fsck", &["-fn", file.to_str().unwrap()]);
        }
        definition = snapshot.definition_xml.clone();
        commit(&mut guest, snapshot);
    }
    let before = guest.sh(sums);

    // Shut down cleanly.
    guest.hypervisor.shutdown(&guest.name, Duration::from_secs(60)).unwrap();
    let off = guest.snapshot();
    assert_eq!(off.consistency.level, ConsistencyLevel::FileSystem, "{}", off.consistency);
    assert!(off.consistency.reason.contains("shut down"), "{}", off.consistency);
    let files = materialize(&off, restored.path());
    commit(&mut guest, off);

    // A new machine from it, beside the old one.
    let new_name = format!("{}-new", guest.name);
    let request = RestoreMachineRequest {
        definition_xml: definition,
        new_name: new_name.clone(),
        disks: files
            .into_iter()
            .map(|(target, path)| RestoredDisk { target, path, format: DiskFormat::Raw, secret: None })
            .collect(),
        network: NetworkChoice::Keep,
        nvram: None,
        firmware: None,
        tpm: None,
        unencrypted: false,
    };
    guest.boot();
    let created = guest.hypervisor.create(&request).unwrap();
    assert_ne!(created.uuid, inspected.summary.uuid);
    let again = guest.hypervisor.create(&request).unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
    let new = Guest {
        name: new_name,
        storage: &storage,
        hypervisor: guest.hypervisor.clone(),
        parents: BTreeMap::new(),
        count: 0,
    };
    new.boot();
    assert_eq!(new.sh(sums), before);
    assert_eq!(before.lines().count(), 7, "{before}");
    let missing = RestoreMachineRequest {
        new_name: format!("{}-x", guest.name),
        network: NetworkChoice::Network("no such network".into()),
        ..request
    };
    assert!(matches!(guest.hypervisor.create(&missing), Err(Error::NotFound { .. })));
}

#[test]
fn consistent_and_restorable_on_ext4() {
    consistent_and_restorable(Kind::Ext4);
}

#[test]
fn consistent_and_restorable_on_xfs() {
    consistent_and_restorable(Kind::Xfs);
}

/// Sequence-stamped writes over two disks, going on all the time: the copies are cut at one point.
fn one_instant(kind: Kind) {
    let storage = Storage::new(kind);
    let mut guest = Guest::start(&storage, &["vda:qcow2:16M", "vdb:raw:16M", "vdc:qcow2:16M"], "none");
    guest.sh("stamp /dev/vda /dev/vdb /dev/vdc >/dev/null 2>&1 </dev/null &");
    let restored = tempfile::tempdir().unwrap();
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        let mut request = guest.request();
        // Not through the freeze: no file system is there to be frozen.
        request.quiesce = if round % 2 == 0 { Quiesce::Auto } else { Quiesce::Never };
        let snapshot = guest.hypervisor.snapshot(&guest.name, &request).unwrap();
        assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash);
        let files = materialize(&snapshot, restored.path());
        let paths: Vec<_> = files.values().map(|p| p.to_str().unwrap()).collect();
        let program = tiny().join("stampcheck");
        let verdict = run(program.to_str().unwrap(), &paths);
        eprintln!("{kind:?}: {} {:?}", verdict.trim(), snapshot.timings);
        commit(&mut guest, snapshot);
    }
}

#[test]
fn one_instant_on_ext4() {
    one_instant(Kind::Ext4);
}

#[test]
fn one_instant_on_xfs() {
    one_instant(Kind::Xfs);
}

#[test]
fn one_instant_on_btrfs() {
    one_instant(Kind::Btrfs);
}

#[test]
fn why_it_is_not_better() {
    let storage = Storage::new(Kind::Xfs);
    let channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    let mut machine = TestMachine::with(&storage, &[("vda", "qcow2")], channel);
    machine.start();
    let silent = machine.back_up();
    assert_eq!(silent.consistency.level, ConsistencyLevel::Crash);
    assert!(silent.consistency.reason.contains("not running"), "{}", silent.consistency);
    assert!(silent.warnings.is_empty(), "nobody expects more: {:?}", silent.warnings);
    let request = SnapshotRequest { was_frozen: true, ..machine.request() };
    let missed = machine.hypervisor.snapshot(&machine.name, &request).unwrap();
    assert_eq!(missed.consistency.level, ConsistencyLevel::Crash);
    assert!(
        missed.warnings.len() == 1 && missed.warnings[0].starts_with("UserErrorFsFreezeFailed: "),
        "{:?}",
        missed.warnings
    );
    drop(missed);
    // One that the user paused stays so.
    virsh(&["suspend", &machine.name]);
    let paused = machine.back_up();
    assert_eq!(paused.consistency.level, ConsistencyLevel::Crash);
    assert!(paused.consistency.reason.contains("paused"), "{}", paused.consistency);
    assert_eq!(machine.state(), MachineState::Paused);
    let hung = machine.hypervisor.wait_for_agent(&machine.name, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(hung, Error::Busy { .. }), "{hung}");
}

/// A freeze of somebody else's is not undone, and an agent that hangs does not hold things up.
#[test]
fn agents_that_refuse_or_hang() {
    let storage = Storage::new(Kind::Xfs);
    let mut guest = Guest::start(&storage, &["vda:qcow2:32M"], "all");
    virsh(&["domfsfreeze", &guest.name]);
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash);
    assert!(snapshot.consistency.reason.contains("freezing failed"), "{}", snapshot.consistency);
    assert_eq!(snapshot.warnings.len(), 1, "{:?}", snapshot.warnings);
    drop(snapshot);
    assert!(!guest.is_thawed(), "it was theirs");
    virsh(&["domfsthaw", &guest.name]);

    guest.sh("(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 </dev/null &");
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    let snapshot = guest.snapshot();
    assert_eq!(snapshot.consistency.level, ConsistencyLevel::Crash, "{}", snapshot.consistency);
    assert!(snapshot.consistency.reason.contains("does not answer"), "{}", snapshot.consistency);
    assert!(began.elapsed() < Duration::from_secs(20));
    eprintln!("hung agent: {:?} {}", began.elapsed(), snapshot.consistency);
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_is_killed() {
    let Ok(name) = std::env::var("HYPERVISOR_TEST_FREEZER") else { return };
    for round in 0.. {
        let request =
            SnapshotRequest { id: format!("{round}-{}", std::process::id()), ..SnapshotRequest::default() };
        drop(Libvirt::default().snapshot(&name, &request).unwrap());
    }
}

#[test]
fn killed_while_the_guest_is_frozen() {
    let storage = Storage::new(Kind::Xfs);
    let guest = Guest::start(&storage, &["vda:qcow2:32M"], "all");
    for round in 0..6 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["child_that_is_killed", "--exact"])
            .env("HYPERVISOR_TEST_FREEZER", &guest.name)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(100 + 61 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let state = || guest.hypervisor.inspect(&guest.name).unwrap().summary.state;
        while state() != MachineState::Running || !guest.is_thawed() {
            assert!(Instant::now() < deadline, "left {} or frozen", state());
            std::thread::sleep(Duration::from_millis(50));
        }
        guest.sh(&format!("echo {round} > /mnt/vda/alive; sync"));
    }
}

#[test]
fn messages_for_what_is_missing() {
    let hypervisor = libvirt();
    let unknown = hypervisor.inspect("no <such> machine").unwrap_err();
    assert!(matches!(&unknown, Error::NotFound { what } if what.contains("no <such> machine")), "{unknown}");
    assert!(hypervisor.name_is_free("no <such> machine").is_ok());
    assert!(!hypervisor.list().unwrap().iter().any(|m| m.name == "no <such> machine"));
    hypervisor.networks().unwrap();
    hypervisor.storage_pools().unwrap();
    let nowhere = Libvirt::new(LibvirtOptions {
        uri: "qemu+unix:///system?socket=/nonexistent/libvirt-sock".into(),
        ..LibvirtOptions::default()
    });
    let unavailable = nowhere.list().unwrap_err();
    assert!(
        matches!(&unavailable, Error::Unavailable { hint, .. } if hint.contains("start it")),
        "{unavailable}"
    );
}
