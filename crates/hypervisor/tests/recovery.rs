//! What goes wrong between backups, and what must happen instead.

mod common;

use common::*;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strongroom_hypervisor::*;

const QCOW2: &[(&str, &str)] = &[("vda", "qcow2"), ("vdb", "qcow2")];

fn on_ext4_and_xfs(test: impl Fn(&Storage)) {
    for kind in [Kind::Ext4, Kind::Xfs] {
        eprintln!("{kind:?}");
        test(&Storage::new(kind));
    }
}

/// QEMU writes bitmaps only when it closes an image: after SIGKILL they are lost or inconsistent.
#[test]
fn qemu_killed_between_two_backups() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, QCOW2);
        machine.start();
        machine.write("vda", MIB, MIB, 1);
        machine.back_up();
        // Once with a bitmap that was never written, once with one that is marked as in use.
        for (round, clean_restart) in [(0, false), (1, true)] {
            if clean_restart {
                machine.stop();
                machine.start();
            }
            machine.write("vda", (4 + round) * MIB, MIB, 4);
            machine.kill_qemu();
            machine.start();
            let after = machine.back_up();
            for target in ["vda", "vdb"] {
                assert!(after.is_full(target), "{:?}", after.disks);
                let told = after.warnings.iter().any(|w| w.contains(target) && w.contains("crashed"));
                assert!(told, "{:?}", after.warnings);
            }
            machine.write("vdb", 8 * MIB, MIB, 8);
            let next = machine.back_up();
            assert!(next.warnings.is_empty(), "{:?}", next.warnings);
            assert_eq!((next.total_bytes("vda"), next.total_bytes("vdb")), (0, MIB));
        }
        assert!(machine.checkpoints().len() <= 2);
        machine.stop();
        let bitmaps = machine.bitmaps("vda");
        assert_eq!(bitmaps.len(), machine.checkpoints().len(), "nothing stale is left: {bitmaps:?}");
    });
}

/// Killed, and backed up before it is started again.
#[test]
fn qemu_killed_and_left_off() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, QCOW2);
        machine.start();
        machine.back_up();
        machine.stop();
        machine.start();
        machine.write("vda", MIB, MIB, 1);
        machine.kill_qemu();
        let off = machine.back_up();
        assert!(off.is_full("vda") && off.is_full("vdb"));
        assert_eq!(off.consistency.level, strongroom_domain::ConsistencyLevel::Crash);
        assert!(off.consistency.reason.contains("crashed"), "{}", off.consistency);
        machine.start();
        machine.write("vda", 2 * MIB, MIB, 2);
        let next = machine.back_up();
        assert_eq!((next.total_bytes("vda"), next.total_bytes("vdb")), (MIB, 0), "{:?}", next.warnings);
        // A resize fails on images with inconsistent bitmaps: none may be left.
        virsh(&["blockresize", &machine.name, "vda", "40M"]);
    });
}

#[test]
fn checkpoint_deleted_behind_our_back() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, QCOW2);
        machine.start();
        machine.back_up();
        machine.write("vda", MIB, MIB, 1);
        let parent = machine.parents["vda"].checkpoint.clone();

        // Its metadata alone: it is found again.
        virsh(&["checkpoint-delete", "--metadata", &machine.name, &parent]);
        let found = machine.back_up();
        assert_eq!((found.total_bytes("vda"), found.total_bytes("vdb")), (MIB, 0), "{:?}", found.warnings);

        // Metadata and bitmaps.
        machine.write("vda", 2 * MIB, MIB, 2);
        for name in machine.checkpoints() {
            virsh(&["checkpoint-delete", &machine.name, &name]);
        }
        let gone = machine.back_up();
        assert!(gone.is_full("vda") && gone.is_full("vdb"));
        assert!(gone.warnings.iter().any(|w| w.contains("deleted")), "{:?}", gone.warnings);

        // The bitmap of one disk: that disk alone.
        machine.write("vdb", 3 * MIB, MIB, 3);
        let parent = machine.parents["vda"].checkpoint.clone();
        remove_bitmap(&machine, "vda", &parent);
        let half = machine.back_up();
        assert!(half.is_full("vda"));
        assert_eq!(half.total_bytes("vdb"), MIB);
        assert_eq!(half.warnings.len(), 1, "{:?}", half.warnings);
        let next = machine.back_up();
        assert_eq!((next.total_bytes("vda"), next.total_bytes("vdb")), (0, 0), "{:?}", next.warnings);

        // Metadata lost while it was off, over a restart.
        machine.write("vda", 5 * MIB, MIB, 5);
        machine.stop();
        for name in machine.checkpoints() {
            virsh(&["checkpoint-delete", "--metadata", &machine.name, &name]);
        }
        machine.start();
        let found = machine.back_up();
        assert_eq!((found.total_bytes("vda"), found.total_bytes("vdb")), (MIB, 0), "{:?}", found.warnings);
        machine.stop();
        let bitmaps = machine.bitmaps("vda");
        assert!(bitmaps.len() <= 2, "bitmaps nobody knew of were cleaned away: {bitmaps:?}");
    });
}

/// Removes a bitmap through the monitor, as another tool would.
fn remove_bitmap(machine: &TestMachine<'_>, target: &str, name: &str) {
    let query = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
    let answer: serde_json::Value =
        serde_json::from_str(&virsh(&["qemu-monitor-command", &machine.name, query])).unwrap();
    let path = machine.disk_path(target);
    let node = answer["return"]
        .as_array()
        .unwrap()
        .iter()
        .find(|n| n["file"].as_str() == path.to_str() && n.get("dirty-bitmaps").is_some())
        .unwrap();
    let command = serde_json::json!({ "execute": "block-dirty-bitmap-remove",
        "arguments": { "node": node["node-name"], "name": name } });
    virsh(&["qemu-monitor-command", &machine.name, &command.to_string()]);
}

#[test]
fn checkpoints_and_snapshots_of_others_are_left_alone() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, QCOW2);
        machine.start();
        virsh(&["checkpoint-create-as", &machine.name, "theirs-1"]);
        machine.back_up();
        machine.write("vda", MIB, MIB, 1);
        virsh(&["checkpoint-create-as", &machine.name, "theirs-2"]);
        machine.write("vda", 2 * MIB, MIB, 2);
        let second = machine.back_up();
        assert_eq!(second.total_bytes("vda"), 2 * MIB, "{:?}", second.warnings);
        for _ in 0..3 {
            machine.back_up();
        }
        let left = machine.checkpoints();
        assert!(left.contains(&"theirs-1".into()) && left.contains(&"theirs-2".into()), "{left:?}");
        assert!(left.len() <= 4, "{left:?}");

        // A broken one of theirs stays as well.
        machine.write("vdb", MIB, MIB, 3);
        machine.kill_qemu();
        machine.start();
        machine.back_up();
        machine.write("vdb", 2 * MIB, MIB, 4);
        let next = machine.back_up();
        assert_eq!(next.total_bytes("vdb"), MIB, "{:?}", next.warnings);
        assert!(machine.checkpoints().contains(&"theirs-1".into()));
    });
}

/// Another tool's external snapshot puts a new file on top: changes go on being tracked.
#[test]
fn external_snapshots_of_others() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, QCOW2);
        machine.start();
        machine.write("vda", MIB, MIB, 1);
        machine.back_up();
        machine.write("vda", 2 * MIB, MIB, 2);
        virsh(&["snapshot-create-as", &machine.name, "theirs", "--disk-only"]);
        machine.write("vda", 3 * MIB, MIB, 3);
        let over = machine.back_up();
        assert_eq!(over.total_bytes("vda"), 2 * MIB, "{:?} {:?}", over.disks, over.warnings);
        machine.write("vda", 4 * MIB, MIB, 4);
        let next = machine.back_up();
        assert_eq!(next.total_bytes("vda"), MIB, "{:?}", next.warnings);
        assert!(virsh(&["snapshot-list", &machine.name, "--name"]).contains("theirs"));

        // Off: the chain is read whole, from its top.
        machine.stop();
        let off = machine.back_up();
        assert!(off.is_full("vda"), "{:?}", off.disks);
        machine.start();
        machine.write("vda", 6 * MIB, MIB, 6);
        machine.back_up();
    });
}

/// Not a test of its own: the process that the next ones kill.
#[test]
fn child_that_is_killed() {
    let Ok(job) = std::env::var("HYPERVISOR_TEST_CHILD") else { return };
    let (name, request) = job.split_once('\n').unwrap();
    let request: SnapshotRequest = serde_json::from_str(request).unwrap();
    let mut round = 0;
    loop {
        round += 1;
        let request = SnapshotRequest { id: format!("{}-{round}", request.id), ..request.clone() };
        let hypervisor = apart(std::env::var_os(RUN_DIRECTORY).unwrap().into());
        let snapshot = hypervisor.snapshot(name, &request).unwrap();
        println!("taken");
        if std::env::var_os("HYPERVISOR_TEST_CHILD_ONCE").is_some() {
            std::thread::sleep(Duration::from_secs(600));
        }
        drop(snapshot);
    }
}

/// A process that backs the machine up, which is apart from here on.
fn child(storage: &Storage, machine: &mut TestMachine<'_>, once: bool) -> std::process::Child {
    machine.hypervisor = apart(storage.run_directory());
    let request = machine.request();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child_that_is_killed", "--exact", "--nocapture"])
        .env(
            "HYPERVISOR_TEST_CHILD",
            format!("{}\n{}", machine.name, serde_json::to_string(&request).unwrap()),
        )
        .env(RUN_DIRECTORY, storage.run_directory())
        .stdout(Stdio::piped());
    if once {
        command.env("HYPERVISOR_TEST_CHILD_ONCE", "1");
    }
    command.spawn().unwrap()
}

#[test]
fn interrupted_backup_leaves_a_job_behind() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, &[("vda", "qcow2"), ("vdb", "raw")]);
        machine.start();
        machine.write("vda", MIB, MIB, 1);
        machine.back_up();
        machine.write("vda", 2 * MIB, MIB, 2);
        let mut killed = child(storage, &mut machine, true);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(killed.stdout.take().unwrap()));
        assert!(lines.any(|l| l.unwrap().contains("taken")));

        // While it lives, it is not disturbed.
        let request = machine.request();
        let busy = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
        assert!(matches!(&busy, Error::Busy { why, .. } if why.contains("another backup")), "{busy}");

        killed.kill().unwrap();
        killed.wait().unwrap();
        machine.write("vda", 3 * MIB, MIB, 3);
        let after = machine.back_up();
        assert_eq!(after.total_bytes("vda"), 2 * MIB, "{:?}", after.warnings);
        let told = after.warnings.iter().any(|w| w.contains("interrupted"));
        assert_eq!(told, !storage.clones(), "{:?}", after.warnings);
        assert!(machine.checkpoints().len() <= 2, "{:?}", machine.checkpoints());
        assert_eq!(storage.own_files().len(), usize::from(storage.clones()), "{:?}", storage.own_files());
    });
}

#[test]
fn killed_at_any_moment() {
    on_ext4_and_xfs(|storage| {
        let mut machine = TestMachine::new(storage, &[("vda", "qcow2"), ("vdb", "raw")]);
        machine.start();
        machine.back_up();
        for round in 0..8u64 {
            machine.write("vda", round * MIB, MIB / 2, round as u8 + 1);
            let mut killed = child(storage, &mut machine, false);
            std::thread::sleep(Duration::from_millis(60 + 37 * round));
            killed.kill().unwrap();
            killed.wait().unwrap();
            // The helper process lets a held machine go on.
            let deadline = Instant::now() + Duration::from_secs(30);
            while machine.state() != MachineState::Running {
                assert!(Instant::now() < deadline, "left {}", machine.state());
                std::thread::sleep(Duration::from_millis(10));
            }
            let after = machine.back_up();
            assert!(!after.is_full("vda"), "{:?}", after.warnings);
            assert_eq!(after.total_bytes("vda"), MIB / 2, "{:?}", after.warnings);
        }
        assert!(machine.checkpoints().len() <= 2, "{:?}", machine.checkpoints());
        // Nothing that served a killed process goes on.
        let mine = storage.path().display().to_string();
        let serving =
            || run("ps", &["-eo", "args"]).lines().any(|l| l.starts_with("qemu-nbd") && l.contains(&mine));
        let deadline = Instant::now() + Duration::from_secs(30);
        while serving() {
            assert!(Instant::now() < deadline, "a server was left behind");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn job_of_another_program() {
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    let directory = virsh_directory(&machine);
    let scratch = storage.path().join("theirs");
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{directory}/theirs.sock'/>
         <disks><disk name='vda' backup='yes' type='file'><scratch file='{}'/></disk></disks></domainbackup>",
        scratch.display()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    virsh(&["backup-begin", &machine.name, file.path().to_str().unwrap()]);
    let request = machine.request();
    let busy = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
    assert!(matches!(&busy, Error::Busy { why, .. } if why.contains("another program")), "{busy}");
    assert!(virsh(&["backup-dumpxml", &machine.name]).contains("theirs.sock"), "it was left alone");
    virsh(&["domjobabort", &machine.name]);
    while try_run("virsh", &["-q", "backup-dumpxml", &machine.name]).status.success() {
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.back_up();
}

fn virsh_directory(machine: &TestMachine<'_>) -> String {
    let id = virsh(&["domid", &machine.name]);
    let prefix = format!("domain-{}-", id.trim());
    let entries = std::fs::read_dir("/var/lib/libvirt/qemu").unwrap().flatten();
    let found =
        entries.map(|e| e.path()).find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&prefix));
    found.unwrap().display().to_string()
}
