//! The main road, with a system inside: a guest's files before each backup are identical in the machine restored from it,
//! on storage that can clone and on storage that cannot, for qcow2 and raw, running and shut off.

mod machines;

use machines::guest::Guest;
use machines::*;
use std::path::Path;
use std::time::Duration;

fn kind_of(xml: &str, target: &str) -> String {
    let disk = xml.split("<disk ").find(|d| d.contains(&format!("<target dev='{target}'"))).unwrap();
    let driver = disk.split("type='").nth(2).unwrap();
    driver.split('\'').next().unwrap().to_owned()
}

/// The two images hold the same for a guest.
fn compare(restored: &Path, restored_format: &str, original: &Path, format: &str) {
    run("qemu-img", &["compare", "-q", "-f", restored_format, "-F", format, text(restored), text(original)]);
}

/// Three disks of both formats; four backups; restores of the first, of the last, and of a part.
fn a_guest_lives_on(kind: Kind) {
    let storage = Storage::new(kind, 900);
    let lab = Lab::new();
    let disks = [("vda", "qcow2", 64), ("vdb", "raw", 32), ("vdc", "qcow2", 32)];
    let specified = disks.map(|(target, format, mib)| format!("{target}:{format}:{mib}M"));
    let guest = Guest::start("road", &storage.path(), &specified.each_ref().map(String::as_str), "all");
    let original =
        |target: &str, format: &str| storage.path().join(format!("{}-{target}.{format}", guest.name));

    let listed = lab.listed(&guest.name);
    assert_eq!((&listed["state"], &listed["agent"]), (&"running".into(), &"connected".into()), "{listed}");
    assert!(listed["last_point"].is_null());

    // First: everything.
    guest.sh("for d in vda vdb vdc; do mkdir /mnt/$d/docs; for n in 1 2 3 4 5; do head -c 300000 /dev/urandom > /mnt/$d/docs/$n; done; done; head -c 8000000 /dev/urandom > /mnt/vda/large; sync");
    let sums_before_first = guest.sums();
    let first = lab.back_up(&guest.name);
    assert!(guest.is_thawed());
    assert_eq!(first.level(), "file-system", "{first:?}");
    assert!(first.0["consistency"]["reason"].as_str().unwrap().contains("3 file systems"), "{first:?}");
    assert!(first.warnings().is_empty(), "{first:?}");
    assert!(first.0["timings"]["frozen_ms"].as_f64().unwrap() > 0.0);
    for (target, ..) in disks {
        assert_eq!(first.disk(target)["road"], storage.road());
        assert!(!first.is_incremental(target) && first.full_reason(target).is_empty());
    }
    assert_eq!(lab.listed(&guest.name)["last_point"]["point"], first.point());

    // Second: what changed. Not much is read of qcow2, nor of raw where clones can be compared.
    guest.sh("head -c 1000000 /dev/urandom > /mnt/vda/docs/6; rm /mnt/vda/docs/1; echo second > /mnt/vdb/second; sync");
    let sums_before_second = guest.sums();
    let second = lab.back_up(&guest.name);
    assert!(second.warnings().is_empty(), "{second:?}");
    assert_eq!(second.0["parent"], first.point());
    for target in ["vda", "vdc"] {
        assert!(second.is_incremental(target), "{second:?}");
    }
    assert!(second.read_bytes("vda") >= 1_000_000 && second.read_bytes("vda") < 6 * MIB, "{second:?}");
    assert!(second.read_bytes("vdc") < 2 * MIB, "{second:?}");
    match kind {
        Kind::Ext4 => {
            assert!(!second.is_incremental("vdb") && !second.full_reason("vdb").is_empty(), "{second:?}");
            assert!(second.new_bytes("vdb") < 2 * MIB, "read, compared, and not stored again: {second:?}");
        }
        Kind::Xfs | Kind::Btrfs => assert!(second.is_incremental("vdb"), "{second:?}"),
    }

    // Third: what was deleted and trimmed becomes holes.
    let data_before = restored_data_bytes(&lab, second.point(), &["vda", "vdb"]);
    guest.sh("rm /mnt/vda/large; rm -r /mnt/vdb/docs; sync; fstrim /mnt/vda; fstrim /mnt/vdb");
    let sums_before_third = guest.sums();
    let third = lab.back_up(&guest.name);
    let data_after = restored_data_bytes(&lab, third.point(), &["vda", "vdb"]);
    assert!(data_after[0] + 7 * MIB < data_before[0], "{data_before:?} {data_after:?}");
    assert!(data_after[1] + MIB < data_before[1], "{data_before:?} {data_after:?}");
    assert!(third.new_bytes("vda") < 2 * MIB, "{third:?}");

    // The command is killed while the guest is held: it is let go at once, and nothing else comes of it.
    for round in 1..=6 {
        let mut child = lab.begin_backup(&guest.name);
        std::thread::sleep(Duration::from_millis(45 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the guest is thawed", Duration::from_secs(10), || guest.is_thawed());
        guest.sh("for d in vda vdb vdc; do echo alive > /mnt/$d/alive; done; sync");
    }

    // Fourth: shut off, and then the disks can be compared byte by byte with what is restored.
    guest.sh("echo last words > /mnt/vdc/last; sync");
    let sums_before_fourth = guest.sums();
    guest.shut_down();
    let fourth = lab.back_up(&guest.name);
    assert_eq!(fourth.level(), "file-system", "{fourth:?}");
    assert!(fourth.is_incremental("vda") && fourth.is_incremental("vdc"), "{fourth:?}");
    assert!(fourth.read_bytes("vda") < 4 * MIB, "{fourth:?}");
    lab.check();
    let points = lab.points(&guest.name);
    assert_eq!(points[..3], [first.point(), second.point(), third.point()]);
    assert_eq!(points.last().unwrap(), fourth.point());

    let restored_to = directory_in(&storage.path());
    let new_name = unique("restored");
    let restored = lab.restore(&format!("{}@latest", guest.name), &new_name, restored_to.path(), &[]);
    for (target, format, _) in disks {
        assert_eq!(kind_of(&restored.xml(), target), format);
        compare(&restored.disk(target), format, &original(target, format), format);
    }
    // A machine of its own.
    let uuid = |name: &str| virsh(&["domuuid", name]);
    assert_ne!(uuid(&restored.name), uuid(&guest.name));
    assert_eq!(hidden_files(restored_to.path()), Vec::<String>::new());

    // Every disk as raw; one disk alone.
    let all_raw = lab.restore(fourth.point(), &unique("raw"), restored_to.path(), &["--format", "raw"]);
    for (target, format, _) in disks {
        compare(&all_raw.disk(target), "raw", &original(target, format), format);
    }
    drop(all_raw);
    let one = lab.restore(
        fourth.point(),
        &unique("one"),
        restored_to.path(),
        &["--disk", "vdc", "--format", "qcow2"],
    );
    assert_eq!(one.disks(), ["vdc"]);
    assert!(!one.xml().contains("dev='vda'") && one.xml().contains("dev='vdc'"));
    compare(&one.disk("vdc"), "qcow2", &original("vdc", "qcow2"), "qcow2");
    drop(one);

    // The restored machines live, and hold the files of their time.
    let of_first = lab.restore(first.point(), &unique("first"), restored_to.path(), &[]);
    for (restored, sums) in [(&restored, &sums_before_fourth), (&of_first, &sums_before_first)] {
        let born_again = Guest::of_restored(restored);
        born_again.boot();
        assert_eq!(&born_again.sums(), sums);
        born_again.power_off();
    }
    // The points between are whole file systems, with their files.
    for (point, sums) in [(&second, &sums_before_second), (&third, &sums_before_third)] {
        verify_files(&lab, point.point(), sums, &["vda", "vdb", "vdc"]);
    }

    // A restored machine is a machine: it is backed up itself, and shares what the vault has.
    let offspring = lab.back_up(&new_name);
    let new: u64 = ["vda", "vdb", "vdc"].iter().map(|d| offspring.new_bytes(d)).sum();
    assert!(new < 4 * MIB, "{offspring:?}");
    // Nothing of ours is left beside the disks but the clones that raw disks are compared with.
    let left = storage.hidden_files();
    let is_clone_of_raw = |name: &String| name.contains("-vdb-") && name.ends_with(".clone");
    assert!(left.iter().all(is_clone_of_raw) && left.len() <= 1, "{left:?}");
}

/// What of these disks is not holes.
fn restored_data_bytes(lab: &Lab, point: &str, disks: &[&str]) -> Vec<u64> {
    use std::os::unix::fs::MetadataExt as _;
    disks.iter().map(|disk| lab.restore_disk(point, disk).path().metadata().unwrap().blocks() * 512).collect()
}

/// Mounts a point's disks here, and compares names and sums with what the guest said.
fn verify_files(lab: &Lab, point: &str, sums: &str, disks: &[&str]) {
    let base = directory_in(lab.path());
    for disk in disks {
        let image = lab.restore_disk(point, disk);
        run("e2fsck", &["-p", text(image.path())]);
        let at = base.path().join(disk);
        std::fs::create_dir(&at).unwrap();
        run("mount", &["-o", "loop,ro", text(image.path()), text(&at)]);
        let prefix = format!("  ./{disk}/");
        let wanted: Vec<&str> = sums.lines().filter(|line| line.contains(&prefix)).collect();
        let script = format!(
            "cd {} && find ./{disk} -type f | LC_ALL=C sort | xargs sha256sum",
            base.path().display()
        );
        let found = try_run("sh", &["-c", &script]);
        run("umount", &[text(&at)]);
        assert!(found.status.success(), "{}", told(&found));
        let found = String::from_utf8(found.stdout).unwrap();
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted, "{disk} of {point}");
    }
}

#[test]
fn libvirt_a_guest_lives_on_ext4() {
    a_guest_lives_on(Kind::Ext4);
}

#[test]
fn libvirt_a_guest_lives_on_xfs() {
    a_guest_lives_on(Kind::Xfs);
}

#[test]
fn libvirt_a_guest_lives_on_btrfs() {
    a_guest_lives_on(Kind::Btrfs);
}

/// While the guest writes numbered blocks across two disks without pause, each backup is cut between two of them.
fn one_instant_in_a_storm(kind: Kind, disks: [&str; 2]) {
    let storage = Storage::new(kind, 500);
    let lab = Lab::new();
    let specified = disks.map(|disk| format!("{disk}:qcow2:24M"));
    let guest = Guest::start("storm", &storage.path(), &specified.each_ref().map(String::as_str), "none");
    let [a, b] = disks;
    guest.sh(&format!("stamp /dev/{a} /dev/{b} > /tmp/stamp.log 2>&1 & echo $! > /tmp/stamp.pid"));
    let mut points = Vec::new();
    for round in 0..4 {
        let before = written(&guest, disks);
        let backup = lab.back_up(&guest.name);
        assert!(backup.warnings().is_empty(), "{backup:?}");
        assert!(backup.disk(a)["road"] == storage.road());
        assert_eq!(backup.is_incremental(a) && backup.is_incremental(b), round > 0, "{backup:?}");
        assert!(written(&guest, disks) > before, "the storm went on");
        points.push((backup.point().to_owned(), before));
    }
    guest.sh("kill $(cat /tmp/stamp.pid)");
    let mut last = 0;
    for (point, before) in points {
        let images = disks.map(|disk| lab.restore_disk(&point, disk));
        let check = tiny_stampcheck();
        let said = run(&check, &images.each_ref().map(|i| text(i.path())));
        assert!(said.starts_with("ok N="), "{said}");
        let number: u64 = said["ok N=".len()..].split(' ').next().unwrap().parse().unwrap();
        assert!(number >= before && number > last, "{said}: not older than what was there before ({before})");
        last = number;
    }
}

fn tiny_stampcheck() -> String {
    text(&machines::guest::tiny().join("stampcheck")).to_owned()
}

/// A number the storm has reached for certain: its writes go to the device at once.
fn written(guest: &Guest, disks: [&str; 2]) -> u64 {
    // Fields 5 of /sys/block/*/stat: writes completed. Both disks take turns.
    let stat = guest.sh(&format!("cat /sys/block/{}/stat /sys/block/{}/stat", disks[0], disks[1]));
    let counts = stat.lines().map(|line| line.split_whitespace().nth(4).unwrap().parse::<u64>().unwrap());
    // Less what a block could have taken in several requests, and the two that may be under way.
    (counts.sum::<u64>() / 2).saturating_sub(2)
}

#[test]
fn libvirt_one_instant_in_a_storm_by_pull_job() {
    one_instant_in_a_storm(Kind::Ext4, ["vda", "vdb"]);
}

#[test]
fn libvirt_one_instant_in_a_storm_by_clone() {
    one_instant_in_a_storm(Kind::Xfs, ["sda", "sdb"]);
}
