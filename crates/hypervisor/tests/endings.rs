//! Whatever ends a backup ends its job in the machine: at once, later, or by the next start of anything of ours.

mod common;

use common::*;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strongroom_hypervisor::*;

/// Runs a test of this binary again, in a mount namespace with a libvirt of its own that it may stop and start.
fn with_own_libvirt(test: &str) -> Option<OwnLibvirt> {
    if std::env::var_os("HYPERVISOR_TEST_NAMESPACE").is_some() {
        return Some(OwnLibvirt::start());
    }
    let done = Command::new("unshare")
        .args(["-m", "--propagation", "private", std::env::current_exe().unwrap().to_str().unwrap()])
        .args([test, "--exact", "--nocapture"])
        .env("HYPERVISOR_TEST_NAMESPACE", "1")
        .status()
        .unwrap();
    assert!(done.success(), "see above");
    None
}

struct OwnLibvirt {
    directory: tempfile::TempDir,
}

const BOUND: &[(&str, &str)] = &[
    ("run", "/run/libvirt"),
    ("etc", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("own", "/run/strongroom"),
];

impl OwnLibvirt {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("srtest-").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        run("chmod", &["0711", directory.path().to_str().unwrap()]);
        for (name, place) in BOUND {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::create_dir_all(place).unwrap();
        }
        run("cp", &["-a", "/etc/libvirt/.", &at("etc")]);
        for file in std::fs::read_dir(directory.path().join("etc/qemu")).unwrap().flatten() {
            if file.path().extension().is_some_and(|e| e == "xml") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        // What libvirtd knows of QEMU takes it seconds to find out.
        let _ = try_run("cp", &["-a", "/var/cache/libvirt/.", &at("cache")]);
        for (name, place) in BOUND {
            run("mount", &["--bind", &at(name), place]);
        }
        run("virtlogd", &["-d", "-p", &at("virtlogd.pid")]);
        let own = Self { directory };
        own.up();
        own
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn up(&self) {
        run("libvirtd", &["-d", "-p", &self.at("libvirtd.pid")]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !try_run("virsh", &["-q", "-c", "qemu:///system", "version"]).status.success() {
            assert!(Instant::now() < deadline, "libvirt does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn down(&self) {
        let pid = std::fs::read_to_string(self.at("libvirtd.pid")).unwrap();
        run("kill", &[pid.trim()]);
        while try_run("kill", &["-0", pid.trim()]).status.success() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for OwnLibvirt {
    fn drop(&mut self) {
        for daemon in ["libvirtd.pid", "virtlogd.pid"] {
            if let Ok(pid) = std::fs::read_to_string(self.at(daemon)) {
                let _ = try_run("kill", &[pid.trim()]);
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        for (_, place) in BOUND {
            let _ = try_run("umount", &["-l", place]);
        }
    }
}

fn job_runs(machine: &TestMachine<'_>) -> bool {
    try_run("virsh", &["-q", "-c", "qemu:///system", "backup-dumpxml", &machine.name]).status.success()
}

#[test]
fn libvirt_restarted_during_a_backup() {
    let Some(own) = with_own_libvirt("libvirt_restarted_during_a_backup") else { return };
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    machine.write("vda", MIB, MIB, 1);
    let snapshot = machine.snapshot();
    own.down();
    own.up();
    // QEMU served the disks all the time.
    let taken = machine.verify(&snapshot, &machine.model.clone());
    assert_eq!(machine.commit(snapshot, taken), [""; 0]);
    assert!(!job_runs(&machine), "its job was ended over a new connection");
    assert_eq!(storage.own_files(), [""; 0]);
    machine.write("vda", 4 * MIB, MIB, 2);
    assert_eq!(machine.back_up().total_bytes("vda"), MIB, "the next is incremental");
}

#[test]
fn libvirt_gone_at_the_end_of_a_backup() {
    let Some(own) = with_own_libvirt("libvirt_gone_at_the_end_of_a_backup") else { return };
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    let mut other = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    let patient = Libvirt::new(LibvirtOptions {
        return_timeout: Duration::from_millis(300),
        ..LibvirtOptions::default()
    });
    let request = machine.request();
    let snapshot = patient.snapshot(&machine.name, &request).unwrap();
    own.down();
    let failed = snapshot.check().unwrap_err();
    assert!(matches!(&failed, Error::Unavailable { what, .. } if what == "libvirt"), "{failed}");
    let failed = snapshot.finish(Outcome::Abandoned).unwrap_err();
    assert!(failed.to_string().contains("libvirt"), "{failed}");
    // The job goes on, and what it writes to has its name.
    let scratch = storage.own_files();
    assert!(scratch.len() == 1 && scratch[0].ends_with(".scratch"), "{scratch:?}");
    own.up();
    assert!(job_runs(&machine));
    // Anything of ours, of any machine.
    other.back_up();
    assert!(!job_runs(&machine));
    assert_eq!(storage.own_files(), [""; 0]);
    let next = machine.back_up();
    assert!(next.warnings.is_empty(), "{:?}", next.warnings);
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_is_killed() {
    let Ok(job) = std::env::var("HYPERVISOR_TEST_CHILD") else { return };
    let (name, request) = job.split_once('\n').unwrap();
    let _snapshot = Libvirt::default().snapshot(name, &serde_json::from_str(request).unwrap()).unwrap();
    println!("taken");
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn whoever_comes_next_ends_the_job_of_a_killed_process() {
    let storage = Storage::new(Kind::Ext4);
    let elsewhere = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    let request = SnapshotRequest { scratch_dir: Some(elsewhere.path()), ..machine.request() };
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["child_that_is_killed", "--exact", "--nocapture"])
        .env(
            "HYPERVISOR_TEST_CHILD",
            format!("{}\n{}", machine.name, serde_json::to_string(&request).unwrap()),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(killed.stdout.take().unwrap()));
    assert!(lines.any(|l| l.unwrap().contains("taken")));
    // While it lives, nobody ends it.
    machine.hypervisor.list().unwrap();
    assert!(job_runs(&machine));
    killed.kill().unwrap();
    killed.wait().unwrap();
    machine.hypervisor.list().unwrap();
    assert!(!job_runs(&machine));
    assert_eq!(
        (storage.own_files(), elsewhere.own_files()),
        (vec![], vec![]),
        "wherever its scratch file was"
    );
}

#[test]
fn the_reason_says_what_ended_the_job() {
    let storage = Storage::new(Kind::Ext4);
    for (end, said) in
        [("destroy", "powered off"), ("kill", "QEMU was killed or crashed"), ("cancel", "domjobabort")]
    {
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
        machine.start();
        let snapshot = machine.snapshot();
        match end {
            "kill" => machine.kill_qemu(),
            "cancel" => {
                virsh(&["domjobabort", &machine.name]);
                let deadline = Instant::now() + Duration::from_secs(20);
                while job_runs(&machine) {
                    assert!(Instant::now() < deadline, "the job does not end");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            _ => drop(virsh(&["destroy", &machine.name])),
        }
        let failed = snapshot.disks[0].read_at(0, &mut [0; 4096]).unwrap_err().to_string();
        assert!(failed.contains(said), "{end}: {failed}");
        let failed = snapshot.check().unwrap_err().to_string();
        assert!(failed.contains(said), "{end}: {failed}");
        drop(snapshot);
        assert_eq!(storage.own_files(), [""; 0]);
    }
}

/// A copy or a merge of the user's is under way.
#[test]
fn a_job_on_a_disk_makes_the_machine_busy() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "qcow2")]);
        machine.start();
        machine.back_up();
        let copy = storage.path().join("copy");
        virsh(&["blockcopy", &machine.name, "vdb", copy.to_str().unwrap(), "--transient-job", "--wait"]);
        let request = machine.request();
        let busy = machine.hypervisor.snapshot(&machine.name, &request).unwrap_err();
        let told = matches!(&busy, Error::Busy { why, .. }
            if why.contains("`vdb`") && why.contains("block copy") && why.contains("--abort"));
        assert!(told, "{busy}");
        virsh(&["blockjob", &machine.name, "vdb", "--abort"]);
        assert_eq!(storage.own_files(), [""; 0]);
        let next = machine.back_up();
        assert!(!next.is_full("vda") && next.warnings.is_empty(), "{:?}", next.warnings);
    }
}

/// Snapshots within the images can be reverted to whatever was backed up since.
#[test]
fn internal_snapshots_can_be_reverted_to() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
        machine.start();
        machine.write("vda", 0, MIB, 1);
        virsh(&["snapshot-create-as", &machine.name, "s1"]);
        let before = machine.model.clone();
        machine.write("vda", 0, MIB, 2);
        let backed_up = machine.back_up();
        let told =
            backed_up.warnings.iter().filter(|w| w.contains("`s1`") && w.contains("snapshot-delete")).count();
        assert_eq!((told, backed_up.warnings.len()), (1, 1), "{:?}", backed_up.warnings);
        assert!(backed_up.disks["vda"].checkpoint.is_none());
        virsh(&["snapshot-revert", &machine.name, "s1"]);
        assert_eq!(machine.state(), MachineState::Running);
        machine.model = before;
        machine.back_up();
        machine.stop();
        machine.back_up();
        assert!(machine.bitmaps("vda").is_empty() && machine.checkpoints().is_empty());
        virsh(&["snapshot-delete", &machine.name, "s1"]);
        // From then on it is tracked, and only then.
        let first = machine.back_up();
        assert!(first.is_full("vda") && first.disks["vda"].checkpoint.is_some());
        machine.start();
        machine.write("vda", 2 * MIB, MIB, 3);
        assert_eq!(machine.back_up().total_bytes("vda"), MIB);

        // One that is made while it is tracked, by whatever: the next backup gives the tracking up.
        machine.stop();
        run("qemu-img", &["snapshot", "-c", "s2", machine.disk_path("vda").to_str().unwrap()]);
        let off = machine.back_up();
        assert!(off.is_full("vda") && off.warnings.len() == 1, "{:?}", off.warnings);
        assert!(machine.bitmaps("vda").is_empty() && machine.checkpoints().is_empty());
        run("qemu-img", &["snapshot", "-a", "s2", machine.disk_path("vda").to_str().unwrap()]);
    }
}

/// libvirt undefines no machine with checkpoints.
#[test]
fn what_follows_a_machine_can_be_taken_out_of_it() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let storage = Storage::new(kind);
        let mut machine = TestMachine::new(&storage, &[("vda", "qcow2"), ("vdb", "raw")]);
        machine.start();
        virsh(&["checkpoint-create-as", &machine.name, "theirs", "--diskspec", "vda,checkpoint=bitmap"]);
        machine.back_up();
        machine.back_up();
        let gone = machine.hypervisor.untrack(&machine.name).unwrap();
        assert_eq!((gone.checkpoints, gone.warnings), (2, vec![]));
        assert_eq!(machine.checkpoints(), ["theirs"]);
        assert_eq!(storage.own_files(), [""; 0]);
        machine.stop();
        assert_eq!(machine.bitmaps("vda"), ["theirs"]);
        virsh(&["checkpoint-delete", "--metadata", &machine.name, "theirs"]);

        let again = machine.back_up();
        assert!(again.is_full("vda"));
        let gone = machine.hypervisor.untrack(&machine.name).unwrap();
        assert_eq!((gone.checkpoints, gone.warnings), (1, vec![]));
        assert_eq!(machine.hypervisor.untrack(&machine.name).unwrap(), Untracked::default());
        assert_eq!(machine.bitmaps("vda"), ["theirs"]);
        virsh(&["undefine", &machine.name]);
    }
}

/// Off is: no process, no saved memory, no snapshot in work.
#[test]
fn a_machine_with_saved_memory_is_not_at_rest() {
    let storage = Storage::new(Kind::Ext4);
    let mut machine = TestMachine::new(&storage, &[("vda", "qcow2")]);
    machine.start();
    virsh(&["managedsave", &machine.name]);
    assert_eq!(machine.state(), MachineState::ShutOff);
    assert_eq!(machine.hypervisor.unfinished(&machine.name).unwrap(), Some(Unfinished::SavedState));
    machine.hypervisor.discard_saved_state(&machine.name).unwrap();
    assert_eq!(machine.hypervisor.unfinished(&machine.name).unwrap(), None);
    let snapshot = machine.snapshot();
    assert_eq!(machine.hypervisor.unfinished(&machine.name).unwrap(), Some(Unfinished::Snapshot));
    drop(snapshot);
    assert_eq!(machine.hypervisor.unfinished(&machine.name).unwrap(), None);
}
