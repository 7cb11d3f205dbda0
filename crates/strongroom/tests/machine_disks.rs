//! Disks of every kind: those that are backed up are in the point and come back, and of those that are not everybody is told.

mod machines;

use machines::bare::{Bare, define, disk_xml, domain_xml, noise, same};
use machines::office::Office;
use machines::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A libvirt storage pool over a directory, gone when it is dropped.
struct Pool(String);

impl Pool {
    fn new(directory: &Path) -> Self {
        std::fs::create_dir(directory).unwrap();
        open_up(directory);
        let pool = Self(unique("pool"));
        virsh(&["pool-define-as", &pool.0, "dir", "--target", text(directory)]);
        virsh(&["pool-start", &pool.0]);
        pool
    }

    fn refresh(&self) {
        virsh(&["pool-refresh", &self.0]);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        virsh_quietly(&["pool-destroy", &self.0]);
        virsh_quietly(&["pool-undefine", &self.0]);
    }
}

/// A raw file of noise as an image of this format.
fn image(path: &Path, format: &str, bytes: &[u8]) {
    let raw = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    std::fs::write(raw.path(), bytes).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", format, text(raw.path()), text(path)]);
}

fn content(path: &Path, format: &str) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    run("qemu-img", &["convert", "-U", "-f", format, "-O", "raw", text(path), text(raw.path())]);
    std::fs::read(raw.path()).unwrap()
}

fn volume_xml(pool: &Pool, volume: &str, format: &str, target: &str) -> String {
    format!(
        "<disk type='volume' device='disk'><driver name='qemu' type='{format}'/><source pool='{}' volume='{volume}'/><target dev='{target}' bus='virtio'/></disk>",
        pool.0
    )
}

/// vda a file, vdb and vdc volumes, vdd and vde read-only.
struct Mixed {
    _pool: Pool,
    name: String,
    model: BTreeMap<String, Vec<u8>>,
}

impl Mixed {
    fn new(directory: &Path) -> Self {
        start_libvirt();
        let pool_directory = directory.join("pool");
        let pool = Pool::new(&pool_directory);
        let name = unique("mixed");
        let mut model = BTreeMap::new();
        let mut make = |target: &str, path: &Path, format: &str, seed| {
            let bytes = noise(2 << 20, seed);
            image(path, format, &bytes);
            model.insert(target.to_owned(), bytes);
        };
        let at = |target: &str| directory.join(format!("{name}-{target}.img"));
        make("vda", &at("vda"), "qcow2", 1);
        make("vdb", &pool_directory.join("data & more.qcow2"), "qcow2", 2);
        make("vdc", &pool_directory.join("more.img"), "raw", 3);
        make("vdd", &at("vdd"), "qcow2", 4);
        make("vde", &at("vde"), "raw", 5);
        pool.refresh();
        let devices = [
            disk_xml("vda", "qcow2", &at("vda"), ""),
            volume_xml(&pool, "data &amp; more.qcow2", "qcow2", "vdb"),
            volume_xml(&pool, "more.img", "raw", "vdc"),
            disk_xml("vdd", "qcow2", &at("vdd"), "<readonly/>"),
            disk_xml("vde", "raw", &at("vde"), "<readonly/>"),
        ];
        define(&domain_xml(&name, "", &devices.concat()));
        Self { _pool: pool, name, model }
    }

    fn back_up(&self, lab: &Lab) -> Backup {
        let backup = lab.back_up(&self.name);
        assert_eq!(backup.warnings(), [""; 0], "{backup:?}");
        Bare::verify(lab, backup.point(), &self.model);
        backup
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        remove_machine(&self.name);
    }
}

fn volumes_and_read_only_disks(kind: Kind) {
    let storage = Storage::new(kind, 400);
    let lab = Lab::new();
    let mixed = Mixed::new(&storage.path());
    mixed.back_up(&lab);
    virsh(&["start", &mixed.name]);
    let running = mixed.back_up(&lab);
    assert_eq!(running.disk("vdb")["road"], storage.road());
    assert!(running.is_incremental("vdb"), "{running:?}");
    // Nothing tracks a disk that is not written, and nobody is to be warned of it each time.
    mixed.back_up(&lab);
    virsh(&["destroy", "--graceful", &mixed.name]);

    let restored_to = directory_in(&storage.path());
    let point = format!("{}@latest", mixed.name);
    let restored = lab.restore(&point, &unique("restored"), restored_to.path(), &[]);
    assert_eq!(restored.disks(), ["vda", "vdb", "vdc", "vdd", "vde"]);
    for (target, format) in [("vdb", "qcow2"), ("vdc", "raw"), ("vdd", "qcow2"), ("vde", "raw")] {
        same(&content(&restored.disk(target), format), &mixed.model[target], target);
    }
    let xml = restored.xml();
    assert!(!xml.contains("type='volume'") && xml.matches("<readonly/>").count() == 2, "{xml}");
    virsh(&["start", &restored.name]);
}

#[test]
fn machine_volumes_and_read_only_disks_are_backed_up_where_files_are_cloned() {
    volumes_and_read_only_disks(Kind::Xfs);
}

#[test]
fn machine_volumes_and_read_only_disks_are_backed_up_elsewhere() {
    volumes_and_read_only_disks(Kind::Ext4);
}

/// Replaced in place, drilled and started at once like any other disk.
#[test]
fn machine_volumes_are_restored_in_every_way() {
    let storage = Storage::new(Kind::Ext4, 400);
    let office = Office::new(&storage.path());
    let mixed = Mixed::new(&storage.path());
    let name = mixed.name.as_str();
    office.ok(&["vm", "protect", name]);
    let job = office.ok(&["vm", "backup", name])["backups"][0]["job"].clone();
    assert_eq!((&job["status"], &job["warnings"]), (&"Completed".into(), &serde_json::json!([])), "{job}");
    let first = office.ok(&["point", "show", name, "latest"])["point"].as_str().unwrap().to_owned();
    let volume = storage.path().join("pool/data & more.qcow2");
    image(&volume, "qcow2", &noise(2 << 20, 99));
    let replaced = office.ok(&["vm", "restore", name, "--replace"]);
    assert_eq!(replaced["job"]["status"], "Completed", "{replaced}");
    same(&content(&volume, "qcow2"), &mixed.model["vdb"], "the volume");

    let made = machines::office::Made(unique("instant"));
    let child = office.begin_instant(name, &first, &made.0);
    wait_until("the machine runs", Duration::from_secs(60), || domain_state(&made.0) == "running");
    // Off, its data is moved at once.
    virsh_quietly(&["destroy", &made.0]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let list = virsh(&["domblklist", &made.0]);
    for target in ["vdb", "vdc", "vdd", "vde"] {
        let path = list.lines().find_map(|l| l.trim().strip_prefix(target)).unwrap().trim();
        same(&content(Path::new(path), "qcow2"), &mixed.model[target], target);
    }
    // It has no system: that it was started with these disks is all there is to see.
    office.fails(&["vm", "drill", name, "--timeout", "5"], &["UserErrorDrillFailed", "it read"]);
}

fn domain_state(name: &str) -> String {
    let output = try_run("virsh", &["-q", "-c", "qemu:///system", "domstate", name]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A server of an image, as a SAN would be one.
struct NbdServer(Child);

impl NbdServer {
    fn start(image: &Path, socket: &Path) -> Self {
        let child = Command::new("qemu-nbd")
            .args(["-t", "-f", "raw", "-e", "8", "-x", "disk", "-k", text(socket), text(image)])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        wait_until("the server listens", Duration::from_secs(30), || socket.exists());
        run("chmod", &["0777", text(socket)]);
        server
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn machine_disks_that_are_not_backed_up_are_told_of() {
    let storage = Storage::new(Kind::Ext4, 300);
    let office = Office::new(&storage.path());
    let name = unique("kinds");
    let at = |target: &str| storage.path().join(format!("{name}-{target}.img"));
    for target in ["vda", "vdb", "vdc", "vdd"] {
        run("qemu-img", &["create", "-q", "-f", "raw", text(&at(target)), "1M"]);
    }
    let socket = storage.path().join("nbd.sock");
    let _server = NbdServer::start(&at("vdb"), &socket);
    let network = format!(
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='disk'><host transport='unix' socket='{}'/></source><target dev='vdb' bus='virtio'/></disk>",
        socket.display()
    );
    let devices = [
        disk_xml("vda", "raw", &at("vda"), ""),
        network,
        disk_xml("vdc", "raw", &at("vdc"), "<shareable/>"),
        disk_xml("vdd", "raw", &at("vdd"), "<transient/>"),
        "<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>".into(),
        "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>".into(),
        "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='srtest-no-such-pool' volume='v'/><target dev='vde' bus='virtio'/></disk>".into(),
    ];
    define(&domain_xml(&name, "", &devices.concat()));
    let _gone = machines::office::Made(name.clone());
    const MISSED: [(&str, &str); 4] =
        [("vdb", "network"), ("vdc", "shared"), ("vdd", "transient"), ("vde", "srtest-no-such-pool")];

    // Before the first backup, where it is set up and where machines are listed.
    for arguments in [["vm", "protect", &name].as_slice(), &["vm", "list", "--name", &name]] {
        let shown = told(&office.run(arguments));
        for (disk, why) in MISSED {
            assert!(
                shown.contains(&format!("disk {disk} of {name} will not be")) && shown.contains(why),
                "{shown}"
            );
        }
        assert!(!shown.contains("hda") && !shown.contains("fda"), "{shown}");
    }
    // The backup is one of what can be had.
    let backup = office.ok(&["vm", "backup", &name])["backups"][0].clone();
    assert_eq!(backup["job"]["status"], "CompletedWithWarnings", "{backup}");
    let warnings: Vec<&str> =
        backup["job"]["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), MISSED.len(), "{warnings:?}");
    for ((disk, why), warning) in MISSED.iter().zip(&warnings) {
        assert!(warning.contains(&format!("disk `{disk}` is not in the backup")) && warning.contains(why));
    }
    let point = office.ok(&["point", "show", &name, "latest"]);
    assert_eq!(point["excluded_disks"], serde_json::json!(["vdb", "vdc", "vdd", "vde"]), "{point}");
    let missed = point["missed_disks"].as_object().unwrap();
    assert!(MISSED.iter().all(|(disk, why)| missed[*disk].as_str().unwrap().contains(why)), "{point}");
    let state = office.state(&name);
    assert!(state["problem"].as_str().unwrap().contains("disk vdc: it is shared"), "{state}");

    // Nor does it come to light at a restore alone, but there as well.
    let made = machines::office::Made(unique("restored"));
    let restored = office.ok(&["vm", "restore", &name, "--as", &made.0, "--place", "place"]);
    assert_eq!(restored["job"]["status"], "CompletedWithWarnings", "{restored}");
    let warned = restored["job"]["warnings"].to_string();
    assert!(
        MISSED.iter().all(|(disk, _)| warned.contains(&format!("disk `{disk}` of the machine"))),
        "{warned}"
    );

    office.fails(&["vm", "drill", &name, "--timeout", "5"], &["UserErrorDrillFailed"]);
    let drills = office.ok(&["job", "list", "--operation", "drill"]);
    let drill = office.ok(&["job", "show", drills["jobs"][0]["job"].as_str().unwrap()]);
    let warned = drill["warnings"].to_string();
    assert!(
        MISSED.iter().all(|(disk, _)| warned.contains(&format!("disk `{disk}` of the machine"))),
        "{drill}"
    );

    // A policy can demand all of it.
    let policy = office.ok(&["policy", "set", "DefaultPolicy", "--require-all-disks", "yes"]);
    assert_eq!(policy["properties"]["strongroomRequireAllDisks"], true, "{policy}");
    // Who does not know the property does not change it.
    let mut of_azures = policy.clone();
    of_azures["properties"].as_object_mut().unwrap().remove("strongroomRequireAllDisks");
    std::fs::write(office.path("policy.json"), of_azures.to_string()).unwrap();
    let file = office.path("policy.json");
    let policy = office.ok(&["policy", "set", "DefaultPolicy", "--file", text(&file)]);
    assert_eq!(policy["properties"]["strongroomRequireAllDisks"], true, "{policy}");
    office.fails(&["vm", "backup", &name], &["UserErrorDisksNotBackedUp", "disk `vdc`: it is shared"]);
    // What was left out by choice is nobody's fault.
    let excluded: Vec<&str> = MISSED.iter().flat_map(|(disk, _)| ["--exclude", disk]).collect();
    let protect = office.run(&[&["vm", "protect", &name], excluded.as_slice()].concat());
    assert!(!told(&protect).contains("warning"), "{}", told(&protect));
    let backup = office.ok(&["vm", "backup", &name])["backups"][0].clone();
    assert_eq!(backup["job"]["status"], "Completed", "{backup}");
    assert!(office.state(&name)["problem"].is_null());
}
