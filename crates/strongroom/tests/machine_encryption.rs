//! Disks that libvirt encrypts: a restored one is encrypted again, or somebody has said that it may not be.

mod machines;

use machines::bare::{Bare, define, disk_xml, domain_xml, same};
use machines::*;
use std::collections::BTreeMap;
use std::path::Path;

/// A secret of libvirt's; gone when dropped.
struct Secret(String);

impl Secret {
    fn new(lab: &Lab, value: &str) -> Self {
        let uuid = String::from_utf8(std::fs::read("/proc/sys/kernel/random/uuid").unwrap()).unwrap();
        let uuid = uuid.trim().to_owned();
        let xml = lab.path().join("secret.xml");
        let usage = format!("<usage type='volume'><volume>srtest {uuid}</volume></usage>");
        std::fs::write(&xml, format!("<secret private='no'><uuid>{uuid}</uuid>{usage}</secret>")).unwrap();
        virsh(&["secret-define", text(&xml)]);
        let file = lab.path().join("value");
        std::fs::write(&file, value).unwrap();
        virsh(&["secret-set-value", &uuid, "--plain", "--file", text(&file)]);
        Self(uuid)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        virsh_quietly(&["secret-undefine", &self.0]);
    }
}

/// An encrypted image of 8 MiB. QEMU of many releases gives up where a host stretches keys faster than its clock can measure.
fn encrypt(disk: &Path, passphrase: &str) {
    let secret = format!("secret,id=s,data={passphrase}");
    let options = ["-f", "luks", "-o", "key-secret=s,iter-time=10"];
    let arguments = [&["create", "-q", "--object", &secret], &options[..], &[text(disk), "8M"]].concat();
    for _ in 0..60 {
        let output = try_run("qemu-img", &arguments);
        if output.status.success() {
            return;
        }
        assert!(told(&output).contains("Unable to get accurate CPU usage"), "{}", told(&output));
    }
    panic!("qemu-img could not measure how fast this host is");
}

#[test]
fn libvirt_encrypted_disks_stay_encrypted() {
    let storage = Storage::new(Kind::Ext4, 200);
    let lab = Lab::new();
    let secret = Secret::new(&lab, "of the old machine");
    let mut machine = Bare::new("encrypted", &storage.path(), &[("vda", "qcow2", 8), ("vdb", "raw", 8)]);
    let disk = machine.disk_path("vda");
    encrypt(&disk, "of the old machine");
    let source = format!("<source file='{}'>", text(&disk));
    let encrypted = disk_xml("vda", "raw", &disk, "").replace(
        &format!("<source file='{}'/>", text(&disk)),
        &format!(
            "{source}<encryption format='luks'><secret type='passphrase' uuid='{}'/></encryption></source>",
            secret.0
        ),
    );
    let plain = disk_xml("vdb", "raw", &machine.disk_path("vdb"), "");
    virsh(&["undefine", &machine.name]);
    define(&domain_xml(&machine.name, "", &(encrypted + &plain)));
    machine.start();
    machine.write("vda", 0, 8 * MIB, 0);
    machine.write("vda", MIB, MIB, 0x5a);
    machine.write("vdb", 0, MIB, 0x33);
    let backup = lab.back_up(&machine.name);
    let point = backup.point().to_owned();
    machine.stop();
    let shown = lab.ok(&lab_args(&lab, &["rescue", "point", "show", &point]));
    let record = |name: &str| {
        let disks = shown["disks"].as_array().unwrap();
        disks.iter().find(|d| d["name"] == name).unwrap()["attributes"]["encrypted"].clone()
    };
    assert!(record("vda") == true && record("vdb").is_null(), "{shown}");

    // Disks alone would be unencrypted.
    let file = lab.path().join("vda.raw");
    let alone = ["image", "restore", &point, "--disk", "vda", "--to", text(&file), "--no-sync"];
    lab.fails(&lab_args(&lab, &alone), "unsupported", &["vda", "encrypted by libvirt", "--unencrypted"]);
    assert!(!file.exists());
    let output = lab.try_it(&lab_args(&lab, &[&alone[..], &["--unencrypted"]].concat()));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("UNENCRYPTED"), "{output:?}");
    same(&std::fs::read(&file).unwrap(), &machine.model["vda"], "vda");

    // A new machine's disk is encrypted, with a key of its own.
    let to = directory_in(&storage.path());
    let name = unique("encrypted-new");
    let raw =
        ["rescue", "vm", "restore", &point, "--as", &name, "--storage", text(to.path()), "--format", "raw"];
    lab.fails(&lab_args(&lab, &raw), "unsupported", &["vda", "qcow2", "--unencrypted"]);
    let before = virsh(&["secret-list"]);
    let restored = lab.restore(&point, &name, to.path(), &[]);
    let xml = restored.xml();
    let new_secret =
        xml.split("<secret type='passphrase' uuid='").nth(1).unwrap().split('\'').next().unwrap();
    assert_ne!(new_secret, secret.0);
    let new_secret = Secret(new_secret.to_owned());
    assert!(virsh(&["secret-list"]).contains(&new_secret.0) && !before.contains(&new_secret.0));
    assert!(restored.document["warnings"].to_string().contains(&new_secret.0), "{}", restored.document);
    let bytes = std::fs::read(restored.disk("vda")).unwrap();
    assert!(!bytes.windows(16).any(|w| w == [0x5a; 16]), "the restored disk is not encrypted");
    virsh(&["start", &name]);
    let again = lab.back_up(&name);
    virsh(&["destroy", "--graceful", &name]);
    let model: BTreeMap<String, Vec<u8>> = machine.model.clone();
    for (disk, bytes) in &model {
        let file = lab.path().join(format!("again-{disk}"));
        let arguments = [
            "image",
            "restore",
            again.point(),
            "--disk",
            disk,
            "--to",
            text(&file),
            "--no-sync",
            "--unencrypted",
        ];
        lab.ok(&lab_args(&lab, &arguments));
        same(&std::fs::read(&file).unwrap(), bytes, disk);
    }

    // Without encryption where that is said, and told.
    let name = unique("unencrypted-new");
    let restored = lab.restore(&point, &name, to.path(), &["--unencrypted"]);
    assert!(!restored.xml().contains("<encryption"));
    assert!(restored.document["warnings"].to_string().contains("UNENCRYPTED"), "{}", restored.document);
}

fn lab_args<'a>(lab: &'a Lab, arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--vault", text(&lab.vault)]].concat()
}
