//! UEFI machines as virt-install and virt-manager make them (`<os firmware='efi'>`): their variables come back in every kind of restore.

mod machines;

use machines::bare::{define, disk_xml};
use machines::guest::Guest;
use machines::office::{Made, Office};
use machines::*;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_hypervisor::{
    DiskFormat, Firmware, Hypervisor as _, Libvirt, NetworkChoice, RestoreMachineRequest, RestoredDisk,
};

/// Where firmware writes nothing by itself: variables stay what they are, with their keys.
const MARK_AT: u64 = 540_000;

fn uefi_xml(name: &str, disk: &Path) -> String {
    let disk = disk_xml("vda", "qcow2", disk, "");
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
         <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
         <devices>{disk}</devices></domain>"
    )
}

/// The variables' file by the running machine's definition.
fn variables_of(name: &str) -> PathBuf {
    let xml = virsh(&["dumpxml", name]);
    let node = xml.split("<nvram").nth(1).unwrap_or_else(|| panic!("{xml}"));
    node.split(['>', '<']).nth(1).unwrap().into()
}

fn mark(file: &Path, text: &str) {
    use std::os::unix::fs::FileExt as _;
    std::fs::File::options().write(true).open(file).unwrap().write_all_at(text.as_bytes(), MARK_AT).unwrap();
}

fn has_mark(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes[MARK_AT as usize..].starts_with(text.as_bytes())
}

struct Uefi {
    name: String,
    /// Known once it was started.
    variables: PathBuf,
}

impl Uefi {
    fn new(what: &str, directory: &Path) -> Self {
        start_libvirt();
        let name = unique(what);
        let disk = directory.join(format!("{name}-vda.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&disk), "8M"]);
        define(&uefi_xml(&name, &disk));
        Self { name, variables: PathBuf::new() }
    }

    /// Off, with variables that a first start has made, and a mark in them.
    fn started_once(&mut self, text: &str) {
        virsh(&["start", &self.name]);
        self.variables = variables_of(&self.name);
        virsh(&["destroy", &self.name]);
        mark(&self.variables, text);
    }
}

impl Drop for Uefi {
    fn drop(&mut self) {
        virsh_quietly(&["destroy", &self.name]);
        virsh_quietly(&["undefine", &self.name, "--checkpoints-metadata", "--nvram"]);
    }
}

/// It starts with these variables, and with the firmware of the original: Secure Boot, and keys enrolled.
fn starts_with(name: &str, variables: &Path, text: &str) {
    virsh(&["start", name]);
    assert_eq!(variables_of(name), variables);
    assert!(has_mark(variables, text));
    let xml = virsh(&["dumpxml", name]);
    assert!(
        xml.contains("secure='yes'") && xml.contains("<smm state='on'/>") && xml.contains(".ms.fd"),
        "{xml}"
    );
    virsh(&["destroy", name]);
}

#[test]
fn machine_uefi_variables_come_back_in_new_machines() {
    let storage = Storage::new(Kind::Ext4, 200);
    let lab = Lab::new();
    let mut uefi = Uefi::new("uefi", &storage.path());
    // Never started, it has none, and nobody is warned.
    assert_eq!(lab.back_up(&uefi.name).warnings(), [""; 0]);
    let point = format!("{}@latest", uefi.name);
    let never = lab.restore(&point, &unique("never"), &storage.path(), &[]);
    assert_eq!(never.document["warnings"], serde_json::json!([]));

    uefi.started_once("of the user");
    let before = std::fs::read(&uefi.variables).unwrap();
    assert_eq!(lab.back_up(&uefi.name).warnings(), [""; 0]);
    let off = lab.restore(&point, &unique("off"), &storage.path(), &[]);
    let restored = storage.path().join(format!("{}-uefi-variables.fd", off.name));
    assert!(std::fs::read(&restored).unwrap() == before);
    assert!(virsh(&["dumpxml", "--inactive", &off.name]).contains("firmware='efi'"));
    starts_with(&off.name, &restored, "of the user");

    virsh(&["start", &uefi.name]);
    mark(&uefi.variables, "by the running guest");
    assert_eq!(lab.back_up(&uefi.name).warnings(), [""; 0]);
    let running = lab.restore(&point, &unique("running"), &storage.path(), &[]);
    let restored = storage.path().join(format!("{}-uefi-variables.fd", running.name));
    starts_with(&running.name, &restored, "by the running guest");
    lab.check();
}

#[test]
fn machine_uefi_variables_are_replaced_started_and_drilled() {
    let storage = Storage::new(Kind::Ext4, 200);
    let office = Office::new(&storage.path());
    let mut uefi = Uefi::new("uefi", &storage.path());
    uefi.started_once("as it was");
    let name = uefi.name.clone();
    let before = std::fs::read(&uefi.variables).unwrap();
    office.ok(&["vm", "protect", &name]);
    let backup = office.ok(&["vm", "backup", &name])["backups"][0].clone();
    assert_eq!(backup["job"]["status"], "Completed", "{backup}");

    mark(&uefi.variables, "ruined by now");
    let replaced = office.ok(&["vm", "restore", &name, "--replace"]);
    assert_eq!(replaced["job"]["status"], "Completed", "{replaced}");
    assert!(std::fs::read(&uefi.variables).unwrap() == before);
    let beside = std::fs::read_dir(uefi.variables.parent().unwrap()).unwrap().flatten();
    let hidden = beside.filter(|e| e.file_name().to_string_lossy().starts_with(&format!(".{name}")));
    assert_eq!(hidden.count(), 0);
    starts_with(&name, &uefi.variables, "as it was");

    let made = Made(unique("instant"));
    // The point before: that of the replaced disks has the other mark.
    let points = office.ok(&["point", "list", &name]);
    let first = points["points"].as_array().unwrap().last().unwrap()["point"].as_str().unwrap().to_owned();
    let child = office.begin_instant(&name, &first, &made.0);
    wait_until("the machine runs", Duration::from_secs(60), || {
        virsh_quietly(&["domdisplay", &made.0]) || virsh_quietly(&["dommemstat", &made.0])
    });
    let taken = variables_of(&made.0);
    assert!(taken.starts_with(storage.path()) && has_mark(&taken, "as it was"), "{taken:?}");
    virsh(&["destroy", &made.0]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));

    office.fails(&["vm", "drill", &name, "--timeout", "5"], &["UserErrorDrillFailed"]);
    let of_drills = |directory: &Path| {
        let names = std::fs::read_dir(directory).unwrap().flatten();
        names.filter(|e| e.file_name().to_string_lossy().contains("strongroom-drill")).count()
    };
    assert_eq!(of_drills(uefi.variables.parent().unwrap()) + of_drills(&storage.path()), 0);
}

/// Where libvirt would choose firmware of another size, the machine gets what its variables were made for.
#[test]
fn machine_uefi_variables_keep_their_firmware() {
    let storage = Storage::new(Kind::Ext4, 100);
    start_libvirt();
    let made = Made(unique("pinned"));
    let disk = storage.path().join("d.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&disk), "8M"]);
    let variables = storage.path().join("variables.fd");
    std::fs::copy("/usr/share/OVMF/OVMF_VARS.fd", &variables).unwrap();
    let loader = PathBuf::from("/usr/share/OVMF/OVMF_CODE.fd");
    let request = RestoreMachineRequest {
        definition_xml: uefi_xml("old", &disk),
        new_name: made.0.clone(),
        disks: vec![RestoredDisk {
            target: "vda".into(),
            path: disk,
            format: DiskFormat::Qcow2,
            secret: None,
        }],
        network: NetworkChoice::Keep,
        nvram: Some(variables.clone()),
        firmware: Some(Firmware {
            loader_bytes: std::fs::metadata(&loader).unwrap().len(),
            loader,
            is_secure: false,
        }),
        tpm: None,
        unencrypted: false,
    };
    let created = Libvirt::default().create(&request).unwrap();
    assert!(created.warnings.is_empty(), "{:?}", created.warnings);
    virsh(&["start", &made.0]);
    assert_eq!(variables_of(&made.0), variables);
    let xml = virsh(&["dumpxml", &made.0]);
    assert!(xml.contains("/usr/share/OVMF/OVMF_CODE.fd</loader>"), "{xml}");
    virsh(&["destroy", &made.0]);
}

/// What a guest sees of its firmware: Secure Boot, its keys, and a boot entry of its own.
const SEEN: &str =
    "cd /sys/firmware/efi/efivars && for v in SecureBoot-* SetupMode-* PK-* KEK-* db-* dbx-* Boot0042-*; do
    echo $v $(sha256sum < $v); done";

#[test]
fn machine_uefi_guest_keeps_its_keys_and_its_boot_entry() {
    let storage = Storage::new(Kind::Xfs, 400);
    let lab = Lab::new();
    let guest = Guest::start_with(
        "secure",
        &storage.path(),
        &["vda:qcow2:64M"],
        "none",
        &["--uefi", "--memory", "256"],
    );
    let mount = "insmod /lib/modules/efivarfs.ko && mount -t efivarfs efivarfs /sys/firmware/efi/efivars";
    guest.sh(mount);
    assert_eq!(
        guest.sh("od -An -tu1 /sys/firmware/efi/efivars/SecureBoot-*").split_whitespace().last(),
        Some("1")
    );
    // A load option: active, its description, the end of a path.
    guest.sh(
        r"printf '\007\000\000\000\001\000\000\000\004\000M\000i\000n\000e\000\000\000\177\377\004\000' > /sys/firmware/efi/efivars/Boot0042-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    );
    let before = guest.sh(SEEN);
    assert_eq!(before.lines().count(), 7, "{before}");
    assert_eq!(lab.back_up(&guest.name).warnings(), [""; 0]);
    guest.power_off();

    let point = format!("{}@latest", guest.name);
    let restored = lab.restore(&point, &unique("secure-again"), &storage.path(), &[]);
    assert!(!restored.document["warnings"].to_string().contains("UEFI"), "{}", restored.document);
    let again = Guest::of_restored(&restored);
    again.boot();
    again.sh(mount);
    assert_eq!(again.sh(SEEN), before);
}
