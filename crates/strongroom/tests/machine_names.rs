//! A machine may be called what libvirt allows, and its files may lie where the host allows: a table of names, and every verb.

mod machines;

use machines::bare::{define, disk_xml, domain_xml};
use machines::office::{Made, Office};
use machines::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strongroom_hypervisor::{Hypervisor as _, Libvirt, MachineState};

/// Each begins with what hurts: libvirt names the directory of a running machine by the beginning of its name.
const NAMES: &[&str] = &["Bob's R&D\"<a>\\b ", "-v ü 100%25,;:$(x) "];
const DIRECTORY: &str = "it's R&D, 50%25 <x>: #1?";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;").replace('"', "&quot;")
}

/// A machine with one disk of noise.
fn machine(name: &str, directory: &Path) -> Made {
    start_libvirt();
    let made = Made(format!("{name}{}", unique("n")));
    let disk = directory.join(format!("{}.qcow2", made.0));
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&disk), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", text(&disk)]);
    let disk = PathBuf::from(escape(text(&disk)));
    define(&domain_xml(&escape(&made.0), "", &disk_xml("vda", "qcow2", &disk, "")));
    made
}

/// What a command that must succeed answers. The name comes after `--`: it could be taken for an option.
fn answer(mut command: Command, verb: &[&str], options: &[&str], name: &str) -> Value {
    let began = std::time::Instant::now();
    let output = command.args(verb).args(options).args(["--json", "--", name]).output().unwrap();
    assert!(output.status.success(), "{verb:?} {options:?} {name}: {}", told(&output));
    eprintln!("{:?}: {verb:?} {options:?}", began.elapsed());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_off(name: &str) {
    let _ = Libvirt::default().power_off(name);
    wait_until("it is off", Duration::from_secs(30), || {
        Libvirt::default().inspect(name).unwrap().summary.state == MachineState::ShutOff
    });
}

#[test]
fn machine_names_and_every_verb_of_the_service() {
    let storage = Storage::new(Kind::Ext4, 400);
    let directory = storage.path().join(DIRECTORY);
    std::fs::create_dir(&directory).unwrap();
    open_up(&directory);
    let office = Office::new(&directory);
    for name in NAMES {
        let machine = machine(name, &directory);
        let name = machine.0.as_str();
        eprintln!("{name}");
        let ok = |verb: &[&str], options: &[&str]| answer(office.command(&[]), verb, options, name);
        assert_eq!(office.state(name)["power"], "off");
        ok(&["vm", "protect"], &[]);
        Libvirt::default().start(name).unwrap();
        let backed_up = ok(&["vm", "backup"], &[]);
        assert_eq!(backed_up["backups"][0]["job"]["status"], "Completed", "{backed_up}");
        assert!(!virsh_quietly(&["backup-dumpxml", name]), "its job is over");
        assert!(hidden_files(&directory).is_empty(), "{:?}", hidden_files(&directory));
        assert_eq!(ok(&["point", "list"], &[])["points"].as_array().unwrap().len(), 1);
        assert_eq!(office.state(name)["state"], "Protected");

        let copy = Made(format!("{name} & copy"));
        ok(&["vm", "restore"], &["--place", "place", &format!("--as={}", copy.0)]);
        Libvirt::default().start(&copy.0).unwrap();
        is_off(&copy.0);
        ok(&["vm", "restore"], &["--to", "place"]);
        is_off(name);
        ok(&["vm", "restore"], &["--replace"]);
        Libvirt::default().start(name).unwrap();
        let again = ok(&["vm", "backup"], &[]);
        assert_eq!(again["backups"][0]["job"]["status"], "Completed", "{again}");
        // It waits for an agent in the guest, which there is none of: once is enough.
        if name.starts_with(NAMES[0]) {
            let instant = Made(format!("{name} now"));
            ok(&["vm", "restore"], &["--instant", "--place", "place", &format!("--as={}", instant.0)]);
            is_off(&instant.0);
        }

        assert_eq!(ok(&["vm", "untrack"], &[])["machines"][0]["checkpoints"], 2);
        ok(&["vm", "stop"], &[]);
        ok(&["vm", "resume"], &[]);
        ok(&["vm", "delete"], &["--yes"]);
        ok(&["vm", "undelete"], &[]);
        assert_eq!(office.state(name)["state"], "ProtectionStopped");
    }
}

#[test]
fn machine_names_and_every_verb_without_a_service() {
    let storage = Storage::new(Kind::Ext4, 400);
    let directory = storage.path().join(DIRECTORY);
    std::fs::create_dir(&directory).unwrap();
    open_up(&directory);
    let lab = Lab::new();
    for name in NAMES {
        let machine = machine(name, &directory);
        let name = machine.0.as_str();
        eprintln!("{name}");
        Libvirt::default().start(name).unwrap();
        let vault = ["--vault", text(&lab.vault)];
        let backed_up = answer(lab.command(&[]), &["rescue", "vm", "backup"], &vault, name);
        assert_eq!(backed_up["disks"][0]["road"], "pull-job", "{backed_up}");
        assert!(!virsh_quietly(&["backup-dumpxml", name]), "its job is over");
        assert!(hidden_files(&directory).is_empty(), "{:?}", hidden_files(&directory));
        assert!(lab.listed(name)["last_point"].is_object() || lab.listed(name)["last_point"].is_string());
        let point = backed_up["point"].as_str().unwrap();
        let copy = Made(format!("{name} & copy"));
        let new_name = format!("--as={}", copy.0);
        let to = [&vault[..], &["--storage", text(&directory), &new_name]].concat();
        lab.ok(&[&["rescue", "vm", "restore", point], &to[..]].concat());
        Libvirt::default().start(&copy.0).unwrap();
        is_off(&copy.0);
        let untracked = answer(lab.command(&[]), &["rescue", "vm", "untrack"], &[], name);
        assert_eq!(untracked["machines"][0]["checkpoints"], 1);
    }
    lab.check();
}

/// Off is more than without a process; and what follows a machine ends with its protection.
#[test]
fn machine_names_no_other_disks_under_saved_memory() {
    let storage = Storage::new(Kind::Ext4, 400);
    let office = Office::new(&storage.path());
    let machine = machine("", &storage.path());
    let name = machine.0.as_str();
    let checkpoints = || virsh(&["checkpoint-list", name, "--name"]).split_whitespace().count();
    office.ok(&["vm", "protect", name]);
    Libvirt::default().start(name).unwrap();
    office.ok(&["vm", "backup", name]);
    virsh(&["managedsave", name]);
    let replace = ["vm", "restore", name, "--replace"];
    office.fails(&replace, &["saved memory", "--discard-saved-state"]);
    assert!(Libvirt::default().unfinished(name).unwrap().is_some(), "it was left as it is");
    office.ok(&[&replace[..], &["--discard-saved-state"]].concat());
    assert!(Libvirt::default().unfinished(name).unwrap().is_none());

    Libvirt::default().start(name).unwrap();
    office.ok(&["vm", "backup", name]);
    assert!(checkpoints() > 0);
    office.ok(&["vm", "stop", name]);
    assert_eq!(checkpoints(), 0, "stopped, it is not followed any more");
    office.ok(&["vm", "resume", name]);
    office.ok(&["vm", "backup", name]);
    assert!(checkpoints() > 0);
    is_off(name);
    office.ok(&["vm", "delete", name, "--yes"]);
    virsh(&["undefine", name]);
}
