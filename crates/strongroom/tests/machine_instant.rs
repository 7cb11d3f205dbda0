//! Drills, with real guests: through a service and alone.

mod machines;

use machines::bare::Bare;
use machines::guest::Guest;
use machines::office::{Office, Service};
use machines::*;
use serde_json::Value;
use std::time::Duration;
use strongroom_hypervisor::{Hypervisor as _, Libvirt};

const LONG: Duration = Duration::from_secs(180);

/// A protected guest with files on its disk and a point.
fn saved(what: &str, office: &Office, storage: &Storage, mib: u32) -> Guest {
    let guest = Guest::start(what, &storage.path(), &[&format!("vda:qcow2:{mib}M")], "all");
    let count = mib / 16;
    guest.sh(&format!(
        "for n in $(seq {count}); do dd if=/dev/urandom of=/mnt/vda/file$n bs=1M count=8 2>/dev/null; done; sync"
    ));
    office.ok(&["vm", "list", "--refresh"]);
    office.ok(&["vm", "protect", &guest.name]);
    office.ok(&["vm", "backup", &guest.name]);
    guest.power_off();
    guest
}

fn is_running(name: &str) -> bool {
    Libvirt::default().inspect(name).is_ok_and(|m| m.summary.state.is_active())
}

fn job(office: &Office, id: &str) -> Value {
    office.ok(&["job", "show", id])
}

#[test]
fn machine_drill_tells_of_a_good_point_and_of_a_check_that_fails() {
    let storage = Storage::new(Kind::Ext4, 700);
    let office = Office::new(&storage.path());
    let guest = saved("good", &office, &storage, 64);
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
}

#[test]
fn machine_drill_leaves_nothing_when_it_is_killed() {
    let storage = Storage::new(Kind::Ext4, 700);
    let office = Office::new(&storage.path());
    let service = Service::start(&office);
    let guest = saved("killed", &office, &storage, 64);
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
