//! Machines that run from the vault at once, and drills: with real guests, through a service and alone.

mod machines;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use machines::bare::Bare;
use machines::guest::Guest;
use machines::office::{Made, Office, Service};
use machines::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_hypervisor::{Hypervisor as _, Libvirt, MachineState};

const LONG: Duration = Duration::from_secs(180);

/// A protected guest with files on its disk and a point, and what they must be.
fn saved(what: &str, office: &Office, storage: &Storage, mib: u32) -> (Guest, String) {
    let guest = Guest::start(what, &storage.path(), &[&format!("vda:qcow2:{mib}M")], "all");
    let count = mib / 16;
    guest.sh(&format!(
        "for n in $(seq {count}); do dd if=/dev/urandom of=/mnt/vda/file$n bs=1M count=8 2>/dev/null; done; sync"
    ));
    let sums = guest.sums();
    office.ok(&["vm", "list", "--refresh"]);
    office.ok(&["vm", "protect", &guest.name]);
    office.ok(&["vm", "backup", &guest.name]);
    guest.power_off();
    (guest, sums)
}

/// Not one that libvirt is still starting.
fn is_running(name: &str) -> bool {
    Libvirt::default().inspect(name).is_ok_and(|m| m.summary.state == MachineState::Running)
}

/// Also where it waits for its disks.
fn is_there(name: &str) -> bool {
    Libvirt::default().inspect(name).is_ok_and(|m| m.summary.state.is_active())
}

fn answers(name: &str) {
    Libvirt::default().wait_for_agent(name, LONG).unwrap();
}

fn job(office: &Office, id: &str) -> Value {
    office.ok(&["job", "show", id])
}

fn begin(office: &Office, machine: &str, name: &str) -> String {
    let begun =
        office.ok(&["vm", "restore", machine, "--instant", "--as", name, "--place", "place", "--no-wait"]);
    let id = begun["job"]["job"].as_str().unwrap().to_owned();
    wait_until("the machine runs", LONG, || is_running(name));
    id
}

/// Images of a machine, by its name.
fn images(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().flatten().map(|e| e.path());
    // A console's log is not part of it.
    let is_its = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().contains(name);
    entries.filter(is_its).filter(|p| !text(p).contains(".console.log")).collect()
}

/// Neither machine nor file nor socket.
fn nothing_is_left(storage: &Storage, name: &str, id: &str) {
    assert!(!machine_exists(name), "{name} is still there");
    assert!(images(&storage.path(), name).is_empty(), "{:?}", images(&storage.path(), name));
    assert!(storage.hidden_files().is_empty(), "{:?}", storage.hidden_files());
    let socket = PathBuf::from(format!("/run/strongroom/instant-{}.sock", id.replace('-', "")));
    assert!(!socket.exists(), "{} is still there", socket.display());
}

/// How much has been written into its images.
fn allocated(directory: &Path, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    images(directory, name).iter().filter_map(|i| i.metadata().ok()).map(|m| m.blocks() * 512).sum()
}

/// Nothing of it names the vault.
fn stands_alone(storage: &Storage, name: &str) {
    for image in images(&storage.path(), name) {
        let info = run("qemu-img", &["info", "-U", text(&image)]);
        assert!(!info.contains("backing") && info.contains("file format: qcow2"), "{info}");
    }
    for arguments in [&["dumpxml", name][..], &["dumpxml", "--inactive", name]] {
        let xml = virsh(arguments);
        assert!(!xml.contains("nbd") && !xml.contains("/instant-"), "{xml}");
    }
}

#[test]
fn machine_instant_restore_keeps_what_is_written_and_stands_alone() {
    let storage = Storage::new(Kind::Ext4, 1200);
    let office = Office::new(&storage.path());
    let service = Service::start(&office);
    let (guest, sums) = saved("source", &office, &storage, 256);
    let made = Made(unique("instant"));
    office.fails(
        &["vm", "restore", &guest.name, "--instant", "--as", &guest.name, "--place", "place"],
        &["UserErrorVmWithSameNameAlreadyExists"],
    );
    let id = begin(&office, &guest.name, &made.0);
    answers(&made.0);
    let new = Guest::called(&made.0);
    new.sh("echo kept > /mnt/vda/written && sync");
    assert_eq!(office.ok(&["job", "watch", &id])["status"], "Completed");
    let done = job(&office, &id);
    assert!(
        done["details"]["Guest agent answered after"].as_str().unwrap().contains("nothing moved"),
        "{done}"
    );
    assert_eq!(done["tasks"][0]["name"], "Start machine", "{done}");
    stands_alone(&storage, &made.0);
    service.kill();
    new.sh("echo 3 > /proc/sys/vm/drop_caches");
    let now = new.sums();
    assert!(sums.lines().all(|line| now.contains(line)), "{sums}\n{now}");
    assert_eq!(new.sh("cat /mnt/vda/written"), "kept\n");
    // Also from the images alone.
    new.shut_down();
    new.boot();
    assert_eq!(new.sh("cat /mnt/vda/written"), "kept\n");
}

#[test]
fn machine_instant_restore_survives_the_service() {
    let storage = Storage::new(Kind::Ext4, 1200);
    let office = Office::new(&storage.path());
    let service = Service::start(&office);
    let (guest, sums) = saved("source", &office, &storage, 384);

    // Killed while the machine boots, and again while its data moves in: it waits, and goes on.
    let made = Made(unique("cut"));
    let id = begin(&office, &guest.name, &made.0);
    service.kill();
    std::thread::sleep(Duration::from_secs(3));
    let service = Service::start(&office);
    wait_until("data moves", LONG, || allocated(&storage.path(), &made.0) > 24 * MIB);
    service.kill();
    let image = &images(&storage.path(), &made.0)[0];
    assert!(run("qemu-img", &["info", "-U", text(image)]).contains("backing"), "it was killed too late");
    let _service = Service::start(&office);
    answers(&made.0);
    assert_eq!(office.ok(&["job", "watch", &id])["operation"], "Restore");
    assert!(job(&office, &id)["status"].as_str().unwrap().starts_with("Completed"));
    stands_alone(&storage, &made.0);
    assert_eq!(Guest::called(&made.0).sums(), sums);
}

#[test]
fn machine_instant_restore_without_a_service() {
    let storage = Storage::new(Kind::Ext4, 1200);
    let office = Office::new(&storage.path());
    let service = Service::start(&office);
    let (guest, sums) = saved("source", &office, &storage, 128);

    // Begun by a service, cancelled when it is gone: nothing remains.
    let late = Made(unique("late"));
    let id = begin(&office, &guest.name, &late.0);
    drop(service);
    assert!(is_there(&late.0));
    office.ok(&["job", "cancel", &id]);
    assert_eq!(job(&office, &id)["status"], "Cancelled");
    nothing_is_left(&storage, &late.0, &id);

    // Alone; shut down on the way, it is completed all the same.
    let off = Made(unique("off"));
    let child = office
        .command(&["vm", "restore", &guest.name, "--instant", "--as", &off.0, "--place", "place", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the machine runs", LONG, || is_running(&off.0));
    virsh_quietly(&["destroy", &off.0]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let restored: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(restored["job"]["status"], "CompletedWithWarnings", "{restored}");
    assert!(restored.to_string().contains("start it again"), "{restored}");
    assert!(!is_there(&off.0));
    stands_alone(&storage, &off.0);
    let new = Guest::called(&off.0);
    new.boot();
    assert_eq!(new.sums(), sums);
}

/// At whatever moment: nothing remains, also of what was written.
#[test]
fn machine_instant_restore_is_cancelled_at_any_moment() {
    let storage = Storage::new(Kind::Ext4, 1200);
    let office = Office::new(&storage.path());
    let _service = Service::start(&office);
    let (guest, _) = saved("source", &office, &storage, 128);
    let mut cancelled = 0;
    let pauses_ms = soak::every_other(&[0, 30, 100, 300, 700, 1500, 3000, 5000, 7000]);
    for &pause_ms in &pauses_ms {
        let thrown = Made(unique("thrown"));
        let begun = office.ok(&[
            "vm",
            "restore",
            &guest.name,
            "--instant",
            "--as",
            &thrown.0,
            "--place",
            "place",
            "--no-wait",
        ]);
        let id = begun["job"]["job"].as_str().unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        let asked = office.run(&["job", "cancel", id]);
        let done = job(&office, id);
        if done["status"] == "Completed" {
            // Of a machine that is so fast.
            assert!(!asked.status.success() && machine_exists(&thrown.0), "{done}");
            continue;
        }
        assert_eq!(done["status"], "Cancelled", "{pause_ms} ms: {done}");
        nothing_is_left(&storage, &thrown.0, id);
        cancelled += 1;
    }
    assert!(3 * cancelled > pauses_ms.len(), "{cancelled} of {}", pauses_ms.len());
}

#[test]
fn machine_drill_tells_a_good_point_from_a_ruined_one() {
    let storage = Storage::new(Kind::Ext4, 700);
    let office = Office::new(&storage.path());
    let (guest, _) = saved("good", &office, &storage, 64);
    let name = guest.name.as_str();
    let picture = office.path("screen.png");

    // Alone.
    let drilled = office.ok(&[
        "vm",
        "drill",
        name,
        "--check",
        "ls /mnt/vda && echo bad >&2",
        "--screenshot",
        text(&picture),
    ]);
    let drill = &drilled["drill"];
    assert_eq!((&drill["passed"], &drill["answered_by"]), (&true.into(), &"agent".into()), "{drilled}");
    assert!(drill["check"]["stdout"].as_str().unwrap().contains("file1"), "{drilled}");
    assert_eq!(drill["check"]["stderr"], "bad\n");
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(office.ok(&["point", "show", name, "latest"])["drill"]["passed"], true);
    assert!(storage.hidden_files().is_empty(), "{:?}", storage.hidden_files());

    let _service = Service::start(&office);
    // A check that fails is a failure.
    let output = office.run(&["vm", "drill", name, "--check", "exit 3", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let shown = office.ok(&["vm", "drill", name, "--show"]);
    assert_eq!((&shown["drill"]["passed"], &shown["drill"]["check"]["exitCode"]), (&false.into(), &3.into()));
    office.fails(&["vm", "drill", name, "--timeout", "1"], &["UserErrorInvalidTimeout"]);

    // A boot disk that is ruined: firmware finds nothing.
    let mut ruined = Bare::new("ruined", &storage.path(), &[("vda", "qcow2", 16)]);
    ruined.fill_with_noise("vda", 8, 5);
    office.ok(&["vm", "list", "--refresh"]);
    office.ok(&["vm", "protect", &ruined.name]);
    office.ok(&["vm", "backup", &ruined.name]);
    office.fails(
        &["vm", "drill", &ruined.name, "--timeout", "12", "--screenshot", text(&office.path("ruined.png"))],
        &["UserErrorDrillFailed", "guest agent"],
    );
    let point = office.ok(&["point", "show", &ruined.name, "latest"]);
    assert_eq!(
        (&point["drill"]["passed"], &point["drill"]["has_screenshot"]),
        (&false.into(), &true.into()),
        "{point}"
    );
    assert!(office.path("ruined.png").exists());
    let jobs = office.ok(&["job", "list", "--operation", "drill"]);
    assert_eq!(jobs["jobs"][0]["status"], "Failed", "{jobs}");
    assert!(storage.hidden_files().is_empty());
}

#[test]
fn machine_drill_leaves_nothing_when_it_is_killed() {
    let storage = Storage::new(Kind::Ext4, 700);
    let office = Office::new(&storage.path());
    let service = Service::start(&office);
    let (guest, _) = saved("killed", &office, &storage, 64);
    let begun = office.ok(&["vm", "drill", &guest.name, "--no-wait"]);
    let id = begun["job"]["job"].as_str().unwrap().to_owned();
    let name = format!("strongroom-drill-{}", &id.replace('-', "")[..12]);
    wait_until("it runs", LONG, || is_running(&name));
    // It is nobody's to protect.
    let list = office.ok(&["vm", "list", "--refresh"]).to_string();
    assert!(!list.contains("strongroom-drill"), "{list}");
    service.kill();
    wait_until("libvirt ends it", Duration::from_secs(30), || !machine_exists(&name));
    assert!(!storage.hidden_files().is_empty());
    let _service = Service::start(&office);
    wait_until("its files are gone", Duration::from_secs(30), || storage.hidden_files().is_empty());
    let done = job(&office, &id);
    assert_eq!(
        (&done["status"], &done["errors"][0]["name"]),
        (&"Failed".into(), &"UserErrorServiceInterrupted".into())
    );

    // Cancelled: the same, and no result.
    let begun = office.ok(&["vm", "drill", &guest.name, "--no-wait"]);
    let id = begun["job"]["job"].as_str().unwrap().to_owned();
    let name = format!("strongroom-drill-{}", &id.replace('-', "")[..12]);
    wait_until("it runs", LONG, || is_running(&name));
    office.ok(&["job", "cancel", &id]);
    assert!(!machine_exists(&name) && storage.hidden_files().is_empty());
    assert!(office.ok(&["point", "show", &guest.name, "latest"]).get("drill").is_none());

    // Also while its check runs, whose end is not waited for.
    let begun =
        office.ok(&["vm", "drill", &guest.name, "--check", "touch /run/checking; sleep 300", "--no-wait"]);
    let id = begun["job"]["job"].as_str().unwrap().to_owned();
    let name = format!("strongroom-drill-{}", &id.replace('-', "")[..12]);
    wait_until("it runs", LONG, || is_running(&name));
    let is_checking = || {
        let look = ["-c", "test -e /run/checking"];
        let asked = Libvirt::default().guest_exec(&name, "/bin/sh", &look, Duration::from_secs(10));
        asked.is_ok_and(|output| output.exit_code == Some(0))
    };
    wait_until("its check runs", LONG, is_checking);
    let asked_at = std::time::Instant::now();
    office.ok(&["job", "cancel", &id]);
    assert!(asked_at.elapsed() < Duration::from_secs(30), "{:?}", asked_at.elapsed());
    assert_eq!(job(&office, &id)["status"], "Cancelled");
    assert!(!machine_exists(&name) && storage.hidden_files().is_empty());
    assert!(office.ok(&["point", "show", &guest.name, "latest"]).get("drill").is_none());
}

#[test]
fn machine_drill_happens_by_itself() {
    let storage = Storage::new(Kind::Ext4, 200);
    let office = Office::new(&storage.path());
    let mut bare = Bare::new("empty", &storage.path(), &[("vda", "qcow2", 16)]);
    bare.fill_with_noise("vda", 4, 6);
    office.ok(&["vm", "protect", &bare.name]);
    office.ok(&["vm", "backup", &bare.name]);
    let configuration = std::fs::read_to_string(office.path("strongroom.toml")).unwrap();
    let write = |drills: &str| {
        std::fs::write(office.path("strongroom.toml"), format!("{configuration}\n[[drills]]\n{drills}"))
            .unwrap();
    };
    write("machine = \"*\"\nevery_days = 0\n");
    office.fails(&["serve", "--listen", "127.0.0.1:0"], &["every_days"]);
    write("machine = \"*\"\nevery_days = 1\ntimeout_seconds = 5\n");
    let _service = Service::start(&office);
    let drills = || office.ok(&["job", "list", "--operation", "drill"])["jobs"].as_array().unwrap().clone();
    wait_until("a drill is over", LONG, || drills().iter().any(|j| j["status"] == "Failed"));
    let found = drills();
    assert_eq!((found.len(), &found[0]["asked_for"]), (1, &false.into()), "{found:?}");
    assert_eq!(found[0]["errors"][0]["name"], "UserErrorDrillFailed", "{found:?}");
}
