//! The commands on the service with real machines: protected, backed up, restored, stopped; alone and through a service.

mod machines;

use machines::bare::{Bare, same};
use machines::office::{Made, Office, Service};
use machines::*;
use std::path::Path;

/// A restored disk is what the model says.
fn verify(directory: &Path, machine: &str, bare: &Bare) {
    for (target, bytes) in &bare.model {
        let found = std::fs::read_dir(directory).unwrap().flatten().map(|e| e.path()).find(|p| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(&format!("{machine}-{target}."))
        });
        let found = found.unwrap_or_else(|| panic!("no {target} of {machine} in {}", directory.display()));
        let raw = tempfile::NamedTempFile::new_in(directory).unwrap();
        run("qemu-img", &["convert", "-O", "raw", text(&found), text(raw.path())]);
        same(&std::fs::read(raw.path()).unwrap(), bytes, target);
    }
}

fn lives(office: &Office, storage: &Storage, bare: &mut Bare) {
    let name = bare.name.clone();
    let before = office.state(&name);
    assert_eq!((&before["state"], &before["power"]), (&"NotProtected".into(), &"off".into()), "{before}");
    office.fails(&["vm", "protect", &name, "--policy", "Nothing"], &["Nothing"]);
    office.fails(&["vm", "protect", &name, "--exclude", "vdz"], &["no disk `vdz`", "vda"]);
    office.ok(&["vm", "protect", &name]);
    assert_eq!(office.state(&name)["state"], "IRPending");

    let first = office.ok(&["vm", "backup", &name, "--keep-until", "10d"]);
    let first = &first["backups"][0];
    assert_eq!(first["job"]["status"], "Completed", "{first}");
    assert_eq!(office.state(&name)["state"], "Protected");
    bare.start();
    bare.write("vda", 3 << 20, 65_536, 7);
    let second = office.ok(&["vm", "backup", &name]);
    assert_eq!(second["backups"][0]["point"]["consistency"], "crash", "{second}");
    let points = office.ok(&["point", "list", &name]);
    assert_eq!(points["points"].as_array().unwrap().len(), 2);
    assert_eq!(points["points"][0]["point"], second["backups"][0]["point"]["point"]);
    // The newest says until when it is kept, too, and that it stays beyond that while it is the last.
    let newest = &points["points"][0];
    assert!(newest["expires_at"].is_string() && newest["held_by"] == "LastRecoveryPoint", "{points}");
    // The one before expires as it was asked for.
    let expires: jiff::Timestamp = points["points"][1]["expires_at"].as_str().unwrap().parse().unwrap();
    let hours = expires.duration_since(jiff::Timestamp::now()).as_hours();
    assert!((239..=240).contains(&hours), "{points}");

    let made = Made(unique("restored"));
    let restore = ["vm", "restore", &name, "--as", &made.0, "--place", "place"];
    let restored = office.ok(&restore);
    assert_eq!(restored["job"]["operation"], "Restore", "{restored}");
    assert!(machine_exists(&made.0));
    verify(&storage.path(), &made.0, bare);
    office.fails(&restore, &["UserErrorVmWithSameNameAlreadyExists"]);
    assert_eq!(office.state(&made.0)["state"], "NotProtected");

    office.ok(&["vm", "stop", &name]);
    office.fails(&["vm", "backup", &name], &["UserErrorItemProtectionStopped"]);
    let resumed = office.ok(&["vm", "resume", &name, "--policy", "EnhancedPolicy"]);
    assert_eq!(resumed["machines"][0]["policy"], "EnhancedPolicy", "{resumed}");
    office.ok(&["vault", "create", "other"]);
    office.fails(&["vm", "protect", &name, "--vault", "other"], &["UserErrorVmAlreadyProtected"]);
    office.ok(&["vault", "delete", "other"]);
    bare.stop();
}

#[test]
fn machine_service_commands_alone() {
    let storage = Storage::new(Kind::Ext4, 400);
    let office = Office::new(&storage.path());
    let mut bare = Bare::new("alone", &storage.path(), &[("vda", "qcow2", 16), ("vdb", "raw", 8)]);
    bare.fill_with_noise("vda", 8, 1);
    lives(&office, &storage, &mut bare);
}

#[test]
fn machine_service_commands_through_a_service() {
    let storage = Storage::new(Kind::Ext4, 400);
    let office = Office::new(&storage.path());
    let mut bare = Bare::new("served", &storage.path(), &[("vda", "qcow2", 16)]);
    bare.fill_with_noise("vda", 8, 2);
    let _service = Service::start(&office);
    // It appears when the service looks; here at once.
    office.ok(&["vm", "list", "--refresh"]);
    lives(&office, &storage, &mut bare);
}

/// Alone, what was begun is cancelled; a service's job goes on.
#[test]
fn machine_service_commands_are_interrupted() {
    let storage = Storage::new(Kind::Ext4, 700);
    let office = Office::new(&storage.path());
    let mut bare = Bare::new("stop", &storage.path(), &[("vda", "raw", 256)]);
    bare.fill_with_noise("vda", 224, 3);
    office.ok(&["vm", "protect", &bare.name]);
    let output = office.interrupt_backup(&bare.name);
    let shown = told(&output);
    assert!(output.status.code() == Some(130) && shown.contains("stopped on request"), "{shown}");
    let jobs = office.ok(&["job", "list", "--operation", "backup"]);
    assert_eq!(jobs["jobs"][0]["status"], "Cancelled", "{jobs}");
    assert!(office.ok(&["point", "list", &bare.name])["points"].as_array().unwrap().is_empty());
    assert!(bare.checkpoints().is_empty());

    bare.fill_with_noise("vda", 224, 4);
    let _service = Service::start(&office);
    let output = office.interrupt_backup(&bare.name);
    let shown = told(&output);
    assert!(output.status.code() == Some(130) && shown.contains("the job goes on"), "{shown}");
    let jobs = office.ok(&["job", "list", "--operation", "backup"]);
    let job = jobs["jobs"][0]["job"].as_str().unwrap();
    assert_eq!(office.ok(&["job", "watch", job])["status"], "Completed");
    assert_eq!(office.ok(&["point", "list", &bare.name])["points"].as_array().unwrap().len(), 1);
}
