//! Machines without a system inside: their disks are written through QEMU's monitor, and a model knows every byte.

use super::*;
use std::collections::BTreeMap;

/// A machine, and what its disks must hold.
pub struct Bare {
    pub name: String,
    pub directory: PathBuf,
    pub model: BTreeMap<String, Vec<u8>>,
    formats: BTreeMap<String, String>,
}

pub fn disk_xml(target: &str, format: &str, path: &Path, extra: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/><source file='{}'/><target dev='{target}' bus='virtio'/>{extra}</disk>",
        path.display()
    )
}

pub fn define(xml: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), xml).unwrap();
    virsh(&["define", text(file.path())]);
}

/// A definition with these devices.
pub fn domain_xml(name: &str, os: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='pc'>hvm</type>{os}</os><features><acpi/></features><on_crash>preserve</on_crash>
         <devices>{devices}</devices></domain>"
    )
}

impl Bare {
    /// `disks`: target, format, size in MiB. Not started.
    pub fn new(what: &str, directory: &Path, disks: &[(&str, &str, u64)]) -> Self {
        start_libvirt();
        let mut bare = Self {
            name: unique(what),
            directory: directory.to_owned(),
            model: BTreeMap::new(),
            formats: BTreeMap::new(),
        };
        let mut devices = String::new();
        for (target, format, mib) in disks {
            let path = bare.make_disk(target, format, *mib);
            devices += &disk_xml(target, format, &path, "");
        }
        define(&domain_xml(&bare.name, "", &devices));
        bare
    }

    pub fn disk_path(&self, target: &str) -> PathBuf {
        self.directory.join(format!("{}-{target}.img", self.name))
    }

    pub fn make_disk(&mut self, target: &str, format: &str, mib: u64) -> PathBuf {
        let path = self.disk_path(target);
        run("qemu-img", &["create", "-q", "-f", format, text(&path), &format!("{mib}M")]);
        self.model.insert(target.to_owned(), vec![0; (mib * MIB) as usize]);
        self.formats.insert(target.to_owned(), format.to_owned());
        path
    }

    /// A new disk for the running machine.
    pub fn attach_disk(&mut self, target: &str, format: &str, mib: u64) {
        let path = self.make_disk(target, format, mib);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), disk_xml(target, format, &path, "")).unwrap();
        virsh(&["attach-device", &self.name, text(file.path()), "--live", "--config"]);
    }

    pub fn grow_disk(&mut self, target: &str, mib: u64) {
        virsh(&["blockresize", &self.name, target, &format!("{mib}M")]);
        self.model.get_mut(target).unwrap().resize((mib * MIB) as usize, 0);
    }

    pub fn start(&self) {
        virsh(&["start", &self.name]);
    }

    /// Ends QEMU so that it closes its images.
    pub fn stop(&self) {
        let ended = try_run("virsh", &["-q", "-c", "qemu:///system", "destroy", "--graceful", &self.name]);
        // libvirt may take its end for QEMU's own, and then says that there is nothing to destroy.
        assert!(ended.status.success() || self.state() == "shut off", "{}", told(&ended));
    }

    pub fn state(&self) -> String {
        virsh(&["domstate", &self.name]).trim().to_owned()
    }

    /// SIGKILL for this machine's QEMU alone.
    pub fn kill_qemu(&self) {
        let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", self.name)).unwrap();
        run("kill", &["-9", pid.trim()]);
        wait_until("libvirt notices", Duration::from_secs(30), || self.state() == "shut off");
    }

    fn qemu_io(&self, target: &str, command: &str) {
        let index = target.as_bytes()[2] - b'a';
        let line = format!("qemu-io -d /machine/peripheral/virtio-disk{index}/virtio-backend \"{command}\"");
        let answer = virsh(&["qemu-monitor-command", &self.name, "--hmp", &line]);
        assert!(
            !answer.to_lowercase().contains("error") && !answer.contains("failed"),
            "{command}: {answer}"
        );
    }

    pub fn write(&mut self, target: &str, offset: u64, length: u64, pattern: u8) {
        self.qemu_io(target, &format!("write -P {pattern} {offset} {length}"));
        self.fill(target, offset, length, pattern);
    }

    pub fn discard(&mut self, target: &str, offset: u64, length: u64) {
        self.qemu_io(target, &format!("discard {offset} {length}"));
        self.fill(target, offset, length, 0);
    }

    pub fn write_zeroes(&mut self, target: &str, offset: u64, length: u64) {
        self.qemu_io(target, &format!("write -z {offset} {length}"));
        self.fill(target, offset, length, 0);
    }

    fn fill(&mut self, target: &str, offset: u64, length: u64, pattern: u8) {
        self.model.get_mut(target).unwrap()[offset as usize..(offset + length) as usize].fill(pattern);
    }

    /// Fills the beginning of a disk with what does not compress; the machine is off.
    pub fn fill_with_noise(&mut self, target: &str, mib: u64, seed: u64) {
        let noise = noise((mib * MIB) as usize, seed);
        self.model.get_mut(target).unwrap()[..noise.len()].copy_from_slice(&noise);
        let raw = tempfile::NamedTempFile::new_in(&self.directory).unwrap();
        std::fs::write(raw.path(), &self.model[target]).unwrap();
        let format = &self.formats[target];
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, text(raw.path()), text(&self.disk_path(target))],
        );
    }

    pub fn checkpoints(&self) -> Vec<String> {
        virsh(&["checkpoint-list", &self.name, "--name"]).split_whitespace().map(str::to_owned).collect()
    }

    pub fn has_job(&self) -> bool {
        virsh_quietly(&["backup-dumpxml", &self.name])
    }

    /// A point's disks are, byte by byte, what `expected` says.
    pub fn verify(lab: &Lab, point: &str, expected: &BTreeMap<String, Vec<u8>>) {
        for (target, bytes) in expected {
            let restored = lab.restore_disk(point, target);
            same(&std::fs::read(restored.path()).unwrap(), bytes, &format!("{target} of {point}"));
        }
    }

    /// Backs up, and compares with the model.
    pub fn back_up(&self, lab: &Lab) -> Backup {
        let backup = lab.back_up(&self.name);
        Self::verify(lab, backup.point(), &self.model);
        backup
    }
}

pub fn same(found: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    if found != wanted {
        panic!("{what} differs from byte {:?} on", found.iter().zip(wanted).position(|(a, b)| a != b));
    }
}

/// Bytes that look random, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

impl Drop for Bare {
    fn drop(&mut self) {
        remove_machine(&self.name);
    }
}
