//! A machine with a system inside that answers the guest agent.

use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_domain::ExtentKind;
use strongroom_hypervisor::*;

pub fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests")
}

/// Where the guest's kernel and programs are.
pub fn tiny() -> PathBuf {
    match std::env::var_os("STRONGROOM_TEST_TINY") {
        Some(path) => path.into(),
        None => run(guests().join("make-tiny").to_str().unwrap(), &[]).trim().into(),
    }
}

/// A tiny Linux with its disks formatted and mounted at `/mnt/<target>`, or left blank.
pub struct Guest<'s> {
    pub name: String,
    pub storage: &'s Storage,
    pub hypervisor: Libvirt,
    pub parents: BTreeMap<String, DiskParent>,
    pub count: u32,
}

impl<'s> Guest<'s> {
    /// Its agent answers; it has booted, or goes on from where one like it had.
    pub fn start(storage: &'s Storage, disks: &[&str], format: &str) -> Self {
        let hypervisor = libvirt();
        let name =
            format!("srguest-{}-{}", std::process::id(), storage.path().to_str().unwrap().replace('/', "-"));
        let guest = Self { name, storage, hypervisor, parents: BTreeMap::new(), count: 0 };
        let (tiny, directory) = (tiny(), storage.path());
        let mut arguments = vec![
            "tiny",
            &guest.name,
            "--dir",
            directory.to_str().unwrap(),
            "--format",
            format,
            "--tiny",
            tiny.to_str().unwrap(),
        ];
        for disk in disks {
            arguments.extend(["--disk", disk]);
        }
        eprint!("{}", run(guests().join("start").to_str().unwrap(), &arguments));
        guest
    }

    pub fn boot(&self) {
        self.hypervisor.start(&self.name).unwrap();
        self.hypervisor.wait_for_agent(&self.name, Duration::from_secs(120)).unwrap();
    }

    pub fn sh(&self, script: &str) -> String {
        let output = self
            .hypervisor
            .guest_exec(&self.name, "/bin/sh", &["-c", script], Duration::from_secs(120))
            .unwrap();
        assert_eq!(output.exit_code, Some(0), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn request(&mut self) -> SnapshotRequest {
        self.count += 1;
        SnapshotRequest {
            id: format!("{}-{}", self.count, std::process::id()),
            parents: self.parents.clone(),
            clones: if self.storage.clones() { UseClones::Auto } else { UseClones::Never },
            ..SnapshotRequest::default()
        }
    }

    pub fn snapshot(&mut self) -> MachineSnapshot {
        let request = self.request();
        self.hypervisor.snapshot(&self.name, &request).unwrap()
    }

    pub fn is_thawed(&self) -> bool {
        let status = r#"{"execute":"guest-fsfreeze-status"}"#;
        virsh(&["qemu-agent-command", &self.name, status]).contains("thawed")
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.hypervisor.power_off(&self.name);
        let _ = self.hypervisor.undefine(&self.name);
    }
}

/// Writes what a snapshot holds of its disks over files which hold the parent, if there is one.
pub fn materialize(snapshot: &MachineSnapshot, directory: &Path) -> BTreeMap<String, PathBuf> {
    use std::os::unix::fs::FileExt;
    let mut files = BTreeMap::new();
    for disk in &snapshot.disks {
        let path = directory.join(format!("{}.restored", disk.target));
        let file = std::fs::File::options().create(true).write(true).truncate(false).open(&path).unwrap();
        file.set_len(disk.size_bytes).unwrap();
        for typed in &disk.extents {
            let mut buffer = vec![0; typed.extent.length_bytes as usize];
            if typed.kind == ExtentKind::Data {
                disk.read_at(typed.extent.offset_bytes, &mut buffer).unwrap();
            }
            file.write_all_at(&buffer, typed.extent.offset_bytes).unwrap();
        }
        files.insert(disk.target.clone(), path);
    }
    files
}

pub fn commit(guest: &mut Guest<'_>, snapshot: MachineSnapshot) {
    snapshot.check().unwrap();
    for disk in &snapshot.disks {
        match &disk.checkpoint {
            Some(checkpoint) => guest.parents.insert(
                disk.target.clone(),
                DiskParent { checkpoint: checkpoint.clone(), size_bytes: disk.size_bytes },
            ),
            None => guest.parents.remove(&disk.target),
        };
    }
    assert!(snapshot.finish(Outcome::Committed).unwrap().is_empty());
}
