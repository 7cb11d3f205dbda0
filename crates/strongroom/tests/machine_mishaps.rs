//! What happens to machines between backups, and to backups on their way: every point stays what it was, and the next
//! backup comes out right by itself. Machines here have no system inside; a model knows every byte of their disks.

mod machines;

use machines::bare::{Bare, define, disk_xml};
use machines::*;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Model = BTreeMap<String, Vec<u8>>;

const TWO: &[(&str, &str, u64)] = &[("vda", "qcow2", 32), ("vdb", "qcow2", 32)];

/// Everything that changes under a backup's feet, on one machine.
fn mishaps(kind: Kind) {
    let storage = Storage::new(kind, 600);
    let lab = Lab::new();
    let mut machine = Bare::new("mishaps", &storage.path(), TWO);
    machine.fill_with_noise("vda", 8, 1);
    machine.fill_with_noise("vdb", 8, 2);
    machine.start();
    let first = machine.back_up(&lab);
    assert_eq!(first.level(), "crash");
    assert!(first.0["consistency"]["reason"].as_str().unwrap().contains("guest agent"), "{first:?}");

    // QEMU is killed: nobody wrote down what had changed.
    machine.write("vda", 20 * MIB, MIB, 7);
    machine.kill_qemu();
    machine.start();
    let after_kill = machine.back_up(&lab);
    for disk in ["vda", "vdb"] {
        assert!(!after_kill.is_incremental(disk), "{after_kill:?}");
        assert!(after_kill.full_reason(disk).contains("crashed"), "{after_kill:?}");
        assert!(after_kill.is_warned(&[disk, "crashed"]), "{after_kill:?}");
        assert!(after_kill.read_bytes(disk) >= 8 * MIB, "{after_kill:?}");
    }
    // What was there is read, and only what changed is stored.
    assert!(after_kill.new_bytes("vda") <= MIB + 128 * KIB, "{after_kill:?}");
    assert_eq!(after_kill.new_bytes("vdb"), 0);
    machine.write("vdb", 9 * MIB, 64 * KIB, 8);
    let again = machine.back_up(&lab);
    assert!(again.warnings().is_empty() && again.is_incremental("vda"), "{again:?}");
    assert_eq!((again.read_bytes("vda"), again.read_bytes("vdb")), (0, 64 * KIB), "{again:?}");

    // A disk is added, another grows: only they are read fully, or by what is new.
    machine.attach_disk("vdc", "qcow2", 16);
    machine.write("vdc", 0, 2 * MIB, 9);
    machine.grow_disk("vdb", 48);
    machine.write("vdb", 40 * MIB, MIB, 10);
    let grown = machine.back_up(&lab);
    assert!(grown.is_incremental("vda"), "{grown:?}");
    assert_eq!(grown.read_bytes("vda"), 0);
    assert!(!grown.is_incremental("vdc"), "{grown:?}");
    assert!(grown.read_bytes("vdc") >= 2 * MIB);
    assert!(grown.read_bytes("vdb") <= 17 * MIB, "{grown:?}");
    machine.write("vdb", 41 * MIB, MIB, 11);
    let next = machine.back_up(&lab);
    assert!(next.warnings().is_empty(), "{next:?}");
    let read: Vec<u64> = ["vda", "vdb", "vdc"].iter().map(|d| next.read_bytes(d)).collect();
    assert_eq!(read, [0, MIB, 0], "{next:?}");

    // Our checkpoint is deleted behind our back: with its bitmaps, then only libvirt's knowledge of it.
    for metadata_only in [false, true] {
        let ours = machine.checkpoints();
        for name in &ours {
            let mut arguments = vec!["checkpoint-delete", &machine.name, name];
            if metadata_only {
                arguments.push("--metadata");
            }
            virsh(&arguments);
        }
        machine.write("vda", 22 * MIB, 64 * KIB, 12);
        let backup = machine.back_up(&lab);
        assert_eq!(backup.is_incremental("vda"), metadata_only, "{backup:?}");
        if !metadata_only {
            assert!(backup.is_warned(&["vda", "deleted"]), "{backup:?}");
            assert!(backup.new_bytes("vda") <= 64 * KIB, "{backup:?}");
        }
        let next = machine.back_up(&lab);
        assert!(
            next.is_incremental("vda") && next.read_bytes("vda") == 0 && next.warnings().is_empty(),
            "{next:?}"
        );
    }

    // Somebody else's checkpoint: it stays, and both work.
    let theirs = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(theirs.path(), "<domaincheckpoint><name>theirs.0</name></domaincheckpoint>").unwrap();
    virsh(&["checkpoint-create", &machine.name, text(theirs.path())]);
    for pattern in [13, 14, 15] {
        machine.write("vda", 23 * MIB, 64 * KIB, pattern);
        let backup = machine.back_up(&lab);
        assert!(backup.is_incremental("vda") && backup.read_bytes("vda") == 64 * KIB, "{backup:?}");
        assert!(backup.warnings().is_empty(), "{backup:?}");
        let (ours, others): (Vec<_>, Vec<_>) =
            machine.checkpoints().into_iter().partition(|name| name.starts_with("strongroom-"));
        assert_eq!(others, ["theirs.0"]);
        assert!(ours.len() <= 2, "{ours:?}");
    }

    // Zeroed and discarded ranges become holes.
    machine.write_zeroes("vda", MIB, MIB);
    machine.discard("vda", 4 * MIB, 2 * MIB);
    let holes = machine.back_up(&lab);
    assert!(holes.is_incremental("vda") && holes.read_bytes("vda") == 0, "{holes:?}");
    assert!(holes.disk("vda")["changed_bytes"].as_u64().unwrap() >= 3 * MIB);

    // It is shut off, backed up, started: still by what changed.
    machine.write("vda", 0, 64 * KIB, 16);
    machine.stop();
    let off = machine.back_up(&lab);
    assert!(off.is_incremental("vda") && off.is_incremental("vdb"), "{off:?}");
    machine.start();
    machine.write("vdb", 0, 64 * KIB, 17);
    let on = machine.back_up(&lab);
    assert!(on.warnings().is_empty() && on.is_incremental("vdb"), "{on:?}");
    assert_eq!((on.read_bytes("vda"), on.read_bytes("vdb")), (0, 64 * KIB), "{on:?}");

    // A disk that is removed is in the points before, and not in the next.
    virsh(&["detach-disk", &machine.name, "vdc", "--config"]);
    machine.stop();
    machine.start();
    let with_it = std::mem::take(&mut machine.model);
    machine.model = with_it.clone();
    machine.model.remove("vdc");
    let without = machine.back_up(&lab);
    assert_eq!(without.0["disks"].as_array().unwrap().len(), 2, "{without:?}");
    Bare::verify(&lab, on.point(), &with_it);
    lab.check();
    machine.stop();
    assert_eq!(storage.hidden_files(), Vec::<String>::new());
}

#[test]
fn libvirt_mishaps_on_ext4() {
    mishaps(Kind::Ext4);
}

#[test]
fn libvirt_mishaps_on_xfs() {
    mishaps(Kind::Xfs);
}

/// One raw disk, which can hold no record of what changed: where files can be cloned the last clone tells, elsewhere
/// everything is read and only what changed is stored.
fn one_raw_disk(kind: Kind) {
    let storage = Storage::new(kind, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("raw", &storage.path(), &[("vda", "raw", 48)]);
    machine.fill_with_noise("vda", 16, 11);
    machine.back_up(&lab);
    for running in [true, true, false] {
        if running && machine.state() != "running" {
            machine.start();
        }
        machine.write("vda", 20 * MIB, 192 * KIB, 1);
        machine.discard("vda", 2 * MIB, 2 * MIB);
        if !running {
            machine.stop();
        }
        let backup = machine.back_up(&lab);
        assert!(backup.warnings().is_empty(), "{backup:?}");
        assert!(backup.new_bytes("vda") <= 256 * KIB, "{backup:?}");
        let incremental = kind != Kind::Ext4;
        assert_eq!(backup.is_incremental("vda"), incremental, "{backup:?}");
        if incremental {
            assert!(backup.read_bytes("vda") <= MIB, "{backup:?}");
        } else {
            assert!(!backup.full_reason("vda").is_empty(), "{backup:?}");
        }
    }
    lab.check();
}

/// A disk that is a block device, as LVM's are: its changes are not tracked, and it comes back as a file.
#[test]
fn libvirt_a_block_device() {
    let storage = Storage::new(Kind::Ext4, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("block", &storage.path(), &[("vda", "raw", 32), ("vdb", "qcow2", 8)]);
    machine.fill_with_noise("vda", 8, 12);
    let device = LoopDevice::new(&machine.disk_path("vda"));
    let on_device = format!(
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='{}'/><target dev='vda' bus='virtio'/></disk>",
        device.0
    );
    let other = disk_xml("vdb", "qcow2", &machine.disk_path("vdb"), "");
    virsh(&["undefine", &machine.name]);
    define(&machines::bare::domain_xml(&machine.name, "", &(on_device + &other)));
    let off = machine.back_up(&lab);
    assert_eq!(off.disk("vda")["road"], "offline");
    machine.start();
    machine.write("vda", 20 * MIB, MIB, 1);
    machine.write("vdb", 0, MIB, 2);
    let on = machine.back_up(&lab);
    assert_eq!(on.disk("vda")["road"], "pull-job");
    assert!(on.new_bytes("vda") <= MIB && !on.full_reason("vda").is_empty(), "{on:?}");
    let to = directory_in(&storage.path());
    let restored = lab.restore(on.point(), &unique("restored"), to.path(), &[]);
    let bytes = std::fs::read(restored.disk("vda")).unwrap();
    machines::bare::same(&bytes, &machine.model["vda"], "the restored file");
    assert!(!restored.xml().contains(&device.0), "{}", restored.xml());
    virsh(&["start", &restored.name]);
    machine.stop();
}

struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &std::path::Path) -> Self {
        Self(run("losetup", &["--find", "--show", text(file)]).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn libvirt_one_raw_disk_on_ext4() {
    one_raw_disk(Kind::Ext4);
}

#[test]
fn libvirt_one_raw_disk_on_btrfs() {
    one_raw_disk(Kind::Btrfs);
}

/// The command is killed at many moments of a backup. Every earlier point stays whole, the next backup needs no help, and
/// reclaim gives the remains back.
///
/// `STRONGROOM_TEST_KILLS` sets the number of rounds, for a longer look.
fn killed_on_the_way(kind: Kind, rounds: u32) {
    let rounds = std::env::var("STRONGROOM_TEST_KILLS").map_or(rounds, |n| n.parse().unwrap());
    let storage = Storage::new(kind, 900);
    let lab = Lab::new();
    let mut machine = Bare::new("killed", &storage.path(), &[("vda", "qcow2", 96), ("vdb", "raw", 32)]);
    machine.fill_with_noise("vda", 64, 3);
    machine.fill_with_noise("vdb", 16, 4);
    machine.start();
    // How long a backup takes that has much to do. Its point goes again, so that the next have as much.
    let started = Instant::now();
    let whole = lab.back_up(&machine.name);
    let length = started.elapsed();
    let mut points: Vec<(String, Model)> = vec![(whole.point().to_owned(), machine.model.clone())];
    let (mut killed_in_a_job, mut too_late) = (0, 0);
    for round in 0..rounds {
        // Much to read and to write again: every other time all of it is new to the vault.
        let seed = 100 + u64::from(round);
        rewrite(&mut machine, seed);
        let mut child = lab.begin_backup(&machine.name);
        if kind == Kind::Ext4 && round < 3 {
            // The moments that leave a job behind, however fast the machine is today.
            while !machine.has_job() && child.try_wait().unwrap().is_none() {}
        } else {
            // Spread over the whole of it, and a bit more.
            std::thread::sleep(length.mul_f64(1.1 * f64::from(round * 7 % rounds) / f64::from(rounds)));
        }
        too_late += u32::from(child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        killed_in_a_job += u32::from(machine.has_job());
        // It may have been complete: then it is one of the points.
        let now = lab.points(&machine.name);
        for point in &now[points.len()..] {
            points.push((point.clone(), machine.model.clone()));
        }
        assert_eq!(
            now,
            points.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>(),
            "no point is lost, none appears"
        );
        assert_eq!(machine.state(), "running", "whatever became of the backup, the machine goes on");
        machine.write("vda", 90 * MIB, 64 * KIB, round as u8 + 1);
        if round % 3 == 2 {
            let backup = lab.back_up(&machine.name);
            points.push((backup.point().to_owned(), machine.model.clone()));
        }
    }
    eprintln!("{rounds} rounds: {killed_in_a_job} left a job behind, {too_late} were over before");
    if kind == Kind::Ext4 {
        assert!(killed_in_a_job > 0, "no round left a job behind: the moments are badly chosen");
    }
    let last = lab.back_up(&machine.name);
    points.push((last.point().to_owned(), machine.model.clone()));
    let next = lab.back_up(&machine.name);
    assert!(next.warnings().is_empty() && next.is_incremental("vda"), "{next:?}");
    assert_eq!(next.read_bytes("vda"), 0, "{next:?}");
    lab.check();
    for (point, model) in &points {
        Bare::verify(&lab, point, model);
    }
    // Nothing is left beside the disks but what raw disks are compared with, and in libvirt but our two checkpoints.
    let left = storage.hidden_files();
    assert!(left.iter().all(|n| n.contains("-vdb-") && n.ends_with(".clone")) && left.len() <= 1, "{left:?}");
    assert!(machine.checkpoints().len() <= 2);
    assert!(!machine.has_job());
    // Nor does anything of the killed ones run on, and hold what was deleted.
    machine.stop();
    wait_until("killed backups' helpers end", Duration::from_secs(20), || {
        let users = storage.users();
        users.iter().for_each(|user| eprintln!("runs on: {user}"));
        users.is_empty()
    });
    // What nobody needs any more comes back.
    let (keep, gone) = points.split_last().unwrap();
    for (point, _) in gone {
        lab.ok(&to_strs(&lab.vault_args(&["rescue", "point", "forget", point])));
    }
    lab.ok(&to_strs(&lab.vault_args(&["rescue", "point", "forget", next.point()])));
    lab.ok(&["rescue", "vault", "reclaim", text(&lab.vault)]);
    Bare::verify(&lab, &keep.0, &keep.1);
    lab.check();
}

fn to_strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// New content for a good part of the first disk, by few commands: noise comes from a file through QEMU's monitor.
fn rewrite(machine: &mut Bare, seed: u64) {
    // A pattern a block, so that blocks differ from one another and from all before.
    for step in 0..6u64 {
        let pattern = (seed * 31 + step * 7) as u8;
        machine.write("vda", (seed % 5 + step * 10) * MIB, 8 * MIB, pattern);
    }
    machine.write("vdb", seed % 16 * MIB, 8 * MIB, seed as u8);
}

#[test]
fn libvirt_killed_on_the_way_by_pull_job() {
    killed_on_the_way(Kind::Ext4, 14);
}

#[test]
fn libvirt_killed_on_the_way_by_clone() {
    killed_on_the_way(Kind::Xfs, 10);
}

/// A process that is killed when it goes out of use.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A backup on its way, and stopped by SIGSTOP while it holds its machine; with how many points there were before it.
fn stopped_while_it_holds(lab: &Lab, machine: &Bare, begin: impl Fn() -> Child) -> (Killed, usize) {
    let arguments = ["-q", "-c", "qemu:///system", "event", "--event", "lifecycle", "--loop", "--domain"];
    let events = Command::new("virsh")
        .args(arguments)
        .arg(&machine.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = Killed(events);
    let lines = BufReader::new(events.0.stdout.take().unwrap()).lines();
    let (suspended, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = lines.map_while(Result::ok).filter(|line| line.contains("Suspended"));
        let _ = lines.map(|line| suspended.send(line)).take_while(Result::is_ok).count();
    });
    for _ in 0..40 {
        let points = lab.points(&machine.name).len();
        let mut child = Killed(begin());
        // Of one that is over, without an event that was not listened for yet, too.
        while told.recv_timeout(Duration::from_millis(100)).is_err() && child.0.try_wait().unwrap().is_none()
        {
        }
        signal(&child.0, "STOP");
        if machine.state() == "paused" {
            return (child, points);
        }
        // A moment too late.
        signal(&child.0, "CONT");
        child.0.wait().unwrap();
        while told.try_recv().is_ok() {}
    }
    panic!("no backup was stopped while it held its machine");
}

/// A backup is killed while it holds its machine. The next waits until the machine has been let go, and holds it for itself.
#[test]
fn libvirt_killed_while_it_holds() {
    let storage = Storage::new(Kind::Xfs, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("held", &storage.path(), &[("vda", "qcow2", 48), ("vdb", "raw", 16)]);
    machine.fill_with_noise("vda", 16, 5);
    machine.start();
    // A host on which it takes a while until the machine is let go.
    let slow = tempfile::tempdir().unwrap();
    let (virsh, log) = (slow.path().join("virsh"), slow.path().join("log"));
    let script =
        format!("#!/bin/sh\nsleep 3\nPATH=${{PATH#*:}}\nvirsh \"$@\"\necho \"$*\" >> {}\n", text(&log));
    std::fs::write(&virsh, script).unwrap();
    run("chmod", &["755", text(&virsh)]);
    let path = format!("{}:{}", text(slow.path()), std::env::var("PATH").unwrap());
    let (mut child, _) = stopped_while_it_holds(&lab, &machine, || {
        let arguments = lab.vault_args(&["rescue", "vm", "backup", &machine.name]);
        lab.command(&to_strs(&arguments)).env("PATH", &path).spawn().unwrap()
    });
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let next = lab.back_up(&machine.name);
    let let_go = std::fs::read_to_string(&log).unwrap();
    assert_eq!(let_go.matches("resume").count(), 3, "it waits for all that the helper does: {let_go}");
    assert!(next.warnings().iter().all(|w| !w.contains("resume")), "{next:?}");
    let reason = next.0["consistency"]["reason"].as_str().unwrap();
    assert!(reason.contains("guest agent") && !reason.contains("paused"), "{reason}");
    assert_eq!(machine.state(), "running");
    Bare::verify(&lab, next.point(), &machine.model);
    lab.check();
    machine.stop();
}

/// Somebody resumes a machine while a backup holds it: its disks, cloned one after the other, are no point.
#[test]
fn libvirt_resumed_while_it_is_held() {
    let storage = Storage::new(Kind::Xfs, 300);
    let lab = Lab::new();
    let mut machine = Bare::new("resumed", &storage.path(), &[("vda", "qcow2", 48), ("vdb", "raw", 16)]);
    machine.fill_with_noise("vda", 16, 6);
    machine.start();
    lab.back_up(&machine.name);
    let (mut child, points) = stopped_while_it_holds(&lab, &machine, || lab.begin_backup(&machine.name));
    virsh(&["resume", &machine.name]);
    signal(&child.0, "CONT");
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.0.wait().unwrap().success(), "{said}");
    assert!(said.contains(&machine.name) && said.contains("resumed") && said.contains("again"), "{said}");
    assert_eq!(lab.points(&machine.name).len(), points);
    assert_eq!(machine.state(), "running");
    assert!(storage.hidden_files().iter().all(|n| n.contains("-vdb-")), "{:?}", storage.hidden_files());
    machine.write("vda", 2 * MIB, 64 * KIB, 7);
    let next = lab.back_up(&machine.name);
    assert!(next.is_incremental("vda"), "{next:?}");
    Bare::verify(&lab, next.point(), &machine.model);
    lab.check();
    machine.stop();
}

/// The machine is stopped, or its disk's room runs out, while its backup is read: an error that says so, and nothing else.
#[test]
fn libvirt_stopped_while_it_is_read() {
    let storage = Storage::new(Kind::Ext4, 900);
    let lab = Lab::new();
    let mut machine = Bare::new("stopped", &storage.path(), &[("vda", "qcow2", 256)]);
    machine.fill_with_noise("vda", 200, 5);
    machine.start();
    let child = lab.begin_backup(&machine.name);
    wait_until("the job has begun", Duration::from_secs(30), || machine.has_job());
    // Held still, so that it cannot be done before its machine is.
    signal(&child, "STOP");
    machine.stop();
    signal(&child, "CONT");
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&machine.name) || said.contains("vda"), "{said}");
    assert!(lab.points(&machine.name).is_empty());
    assert_eq!(storage.hidden_files(), Vec::<String>::new());
    let backup = machine.back_up(&lab);
    assert!(backup.warnings().is_empty(), "{backup:?}");
}

fn signal(child: &std::process::Child, name: &str) {
    run("kill", &[&format!("-{name}"), &child.id().to_string()]);
}

/// SIGTERM ends a backup and a restore, and leaves nothing of either.
#[test]
fn libvirt_stopped_by_a_signal() {
    let storage = Storage::new(Kind::Ext4, 900);
    let lab = Lab::new();
    let mut machine = Bare::new("signal", &storage.path(), &[("vda", "qcow2", 256)]);
    machine.fill_with_noise("vda", 200, 6);
    machine.start();
    let child = lab.begin_backup(&machine.name);
    wait_until("the job has begun", Duration::from_secs(30), || machine.has_job());
    // Meanwhile a second one is told to wait (the first is held still, so that it cannot be done before).
    signal(&child, "STOP");
    let arguments = lab.vault_args(&["rescue", "vm", "backup", &machine.name, "--json"]);
    let second = lab.try_it(&to_strs(&arguments));
    assert!(!second.status.success(), "{}", told(&second));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("\"busy\"") && said.contains("another backup"), "{said}");
    signal(&child, "TERM");
    signal(&child, "CONT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", told(&output));
    assert!(!machine.has_job() && machine.checkpoints().is_empty());
    assert!(lab.points(&machine.name).is_empty());
    assert_eq!(storage.hidden_files(), Vec::<String>::new());

    let backup = machine.back_up(&lab);
    let new_name = unique("restored");
    let target = storage.path().join("restored");
    let begin_restore = || {
        let arguments =
            ["rescue", "vm", "restore", backup.point(), "--as", &new_name, "--storage", text(&target)];
        let child = lab
            .command(&to_strs(&lab.vault_args(&arguments)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the restore has begun", Duration::from_secs(30), || {
            target.is_dir() && !hidden_files(&target).is_empty()
        });
        child
    };
    let child = begin_restore();
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", told(&output));
    assert!(!machine_exists(&new_name) && !target.exists());

    // Killed, it cannot tidy up; but nothing has a final name, and the next restore is not disturbed.
    let mut child = begin_restore();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!machine_exists(&new_name));
    let named = std::fs::read_dir(&target).unwrap().flatten().count() - hidden_files(&target).len();
    assert_eq!(named, 0);
    let restored = lab.restore(backup.point(), &new_name, &target, &["--format", "raw"]);
    machines::bare::same(
        &std::fs::read(restored.disk("vda")).unwrap(),
        &machine.model["vda"],
        "the restored disk",
    );
}

/// Two machines go into one vault at the same time, while it is reclaimed; they share what they have in common.
#[test]
fn libvirt_two_at_once_and_a_reclaim() {
    let storage = Storage::new(Kind::Xfs, 900);
    let lab = Lab::new();
    let mut machines = [0u64, 1].map(|n| {
        let mut machine = Bare::new("pair", &storage.path(), &[("vda", "qcow2", 64)]);
        machine.fill_with_noise("vda", 24, 7);
        if n == 1 {
            machine.start();
        }
        machine
    });
    machines[0].start();
    let mut points: Vec<(String, Model)> = Vec::new();
    let mut last_new = 0;
    for round in 0..4u8 {
        for (index, machine) in machines.iter_mut().enumerate() {
            machine.write("vda", 30 * MIB + u64::from(round) * MIB, MIB, 20 + round);
            machine.write("vda", 40 * MIB, 256 * KIB, 40 + 2 * round + index as u8);
        }
        let children: Vec<_> = machines.iter().map(|m| lab.begin_backup(&m.name)).collect();
        let reclaim = lab.command(&["rescue", "vault", "reclaim", text(&lab.vault)]).output().unwrap();
        assert!(reclaim.status.success(), "{}", told(&reclaim));
        last_new = 0;
        for (child, machine) in children.into_iter().zip(&machines) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", told(&output));
            let backup = Backup(serde_json::from_slice(&output.stdout).unwrap());
            last_new += backup.new_bytes("vda");
            points.push((backup.point().to_owned(), machine.model.clone()));
        }
        if round == 2 {
            for (point, _) in points.drain(..4) {
                lab.ok(&to_strs(&lab.vault_args(&["rescue", "point", "forget", &point])));
            }
        }
    }
    assert!(last_new <= 3 * MIB, "{last_new}");
    // One that comes later has next to nothing to add.
    let mut third = Bare::new("pair", &storage.path(), &[("vda", "qcow2", 64)]);
    third.fill_with_noise("vda", 24, 7);
    let shared = third.back_up(&lab);
    assert!(shared.new_bytes("vda") == 0, "{shared:?}");
    lab.ok(&["rescue", "vault", "reclaim", text(&lab.vault)]);
    lab.check();
    for (point, model) in &points {
        Bare::verify(&lab, point, model);
    }
}

/// The last point of a machine is its own, read from the vault.
#[test]
fn libvirt_the_last_point_is_the_machines_own() {
    let storage = Storage::new(Kind::Ext4, 300);
    let lab = Lab::new();
    let machine = Bare::new("last", &storage.path(), &[("vda", "qcow2", 8)]);
    let listed = || lab.listed(&machine.name)["last_point"]["point"].clone();
    assert!(listed().is_null());
    let first = machine.back_up(&lab);
    assert_eq!(listed(), first.point());
    // Without a vault none is known, and the machine is listed all the same.
    let bare = lab.ok(&["rescue", "vm", "list"]);
    let of_machine = bare["machines"].as_array().unwrap().iter().find(|m| m["name"] == machine.name).unwrap();
    assert!(of_machine["last_point"].is_null(), "{bare}");
    // Of points that are forgotten the one before is the last.
    let second = machine.back_up(&lab);
    assert_eq!(listed(), second.point());
    lab.ok(&to_strs(&lab.vault_args(&["rescue", "point", "forget", second.point()])));
    assert_eq!(listed(), first.point());
    // A machine that has the name of another is not it.
    virsh(&["undefine", &machine.name, "--checkpoints-metadata"]);
    define(&machines::bare::domain_xml(
        &machine.name,
        "",
        &disk_xml("vda", "qcow2", &machine.disk_path("vda"), ""),
    ));
    assert!(listed().is_null());
    let of_another = machine.back_up(&lab);
    assert!(of_another.is_warned(&["another machine of this name"]), "{of_another:?}");
    assert_eq!(of_another.new_bytes("vda"), 0);
}
