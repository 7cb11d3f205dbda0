//! Real machines under a real libvirt for the tests: made, written to, killed and removed by them.
//! A machine here needs no system inside: its disks are written through QEMU's monitor.
#![allow(dead_code)]

pub mod tiny;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use strongroom_domain::ExtentKind;
use strongroom_hypervisor::*;

pub const MIB: u64 = 1 << 20;
pub const DISK_BYTES: u64 = 32 * MIB;

/// Runs a program and returns its stdout; panics with its stderr when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn try_run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

pub fn virsh(arguments: &[&str]) -> String {
    run("virsh", &[&VIRSH[..], arguments].concat())
}

pub fn try_virsh(arguments: &[&str]) -> Output {
    try_run("virsh", &[&VIRSH[..], arguments].concat())
}

/// What every call begins with.
const VIRSH: [&str; 3] = ["-q", "-c", "qemu:///system"];

/// Starts libvirt where it is not running.
pub fn libvirt() -> Libvirt {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if std::env::var_os("HYPERVISOR_TEST_LOG").is_some() {
            tracing_subscriber::fmt().with_env_filter("debug").with_test_writer().init();
        }
        let is_up = || try_run("virsh", &["-q", "-c", "qemu:///system", "version"]).status.success();
        if !is_up() {
            // Two tests at once: the second daemon finds the first's pid file and ends.
            let _ = try_run("virtlogd", &["-d"]);
            let _ = try_run("libvirtd", &["-d"]);
            let deadline = Instant::now() + Duration::from_secs(20);
            while !is_up() {
                assert!(
                    Instant::now() < deadline,
                    "libvirt does not start: these tests need libvirt and root"
                );
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    Libvirt::default()
}

/// Names the directory that a test's child keeps its locks and records in.
pub const RUN_DIRECTORY: &str = "HYPERVISOR_TEST_RUN_DIRECTORY";

/// libvirt, with locks and records in a directory of this test's own. Who uses the common one ends whatever a killed process has
/// left behind in any machine, and would be faster than the test that killed it.
pub fn apart(run_dir: PathBuf) -> Libvirt {
    libvirt();
    Libvirt::new(LibvirtOptions { run_dir, ..LibvirtOptions::default() })
}

pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("srtest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Memory, which keeps the tests from waiting for a disk.
fn root() -> &'static str {
    if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/var/tmp" }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cannot clone.
    Ext4,
    Xfs,
    Btrfs,
}

/// A file system of its own for disks, in memory where there is room.
pub struct Storage {
    pub kind: Kind,
    directory: tempfile::TempDir,
}

impl Storage {
    pub fn new(kind: Kind) -> Self {
        Self::sized(kind, 600)
    }

    pub fn sized(kind: Kind, mib: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("srtest-").tempdir_in(root()).unwrap();
        let storage = Self { kind, directory };
        let open = |path: &Path| run("chmod", &["0711", path.to_str().unwrap()]);
        open(storage.directory.path());
        let make = match kind {
            Kind::Ext4 => vec!["mkfs.ext4", "-q"],
            Kind::Xfs => vec!["mkfs.xfs", "-q", "-m", "reflink=1"],
            Kind::Btrfs => vec!["mkfs.btrfs", "-q"],
        };
        let image = storage.directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        let mut arguments = make[1..].to_vec();
        arguments.push(image.to_str().unwrap());
        run(make[0], &arguments);
        std::fs::create_dir(storage.path()).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), storage.path().to_str().unwrap()]);
        open(&storage.path());
        storage
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    /// For [`apart`].
    pub fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn clones(&self) -> bool {
        self.kind != Kind::Ext4
    }

    /// Files in it whose names begin with a dot: ours.
    pub fn own_files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path()).unwrap().flatten();
        let mut own: Vec<_> = names
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with('.') || n.contains("scratch"))
            .collect();
        own.sort();
        own
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        for _ in 0..50 {
            if try_run("umount", &[self.path().to_str().unwrap()]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A machine without a system, and what its disks must hold.
pub struct TestMachine<'s> {
    pub name: String,
    pub storage: &'s Storage,
    pub hypervisor: Libvirt,
    pub model: BTreeMap<String, Vec<u8>>,
    /// What a vault would hold: the last committed point's bytes and parents.
    pub vault: BTreeMap<String, Vec<u8>>,
    pub parents: BTreeMap<String, DiskParent>,
    count: u32,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

pub fn disk_xml(target: &str, format: &str, path: &Path, extra: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/><source file='{}'/><target dev='{target}' bus='virtio'/>{extra}</disk>",
        escape(&path.display().to_string())
    )
}

impl<'s> TestMachine<'s> {
    /// `disks`: target and format. Not started.
    pub fn new(storage: &'s Storage, disks: &[(&str, &str)]) -> Self {
        Self::with(storage, disks, "")
    }

    pub fn with(storage: &'s Storage, disks: &[(&str, &str)], devices: &str) -> Self {
        Self::named(storage, disks, devices, "")
    }

    /// `suffix` is added to its name, and to those of its disks' files.
    pub fn named(storage: &'s Storage, disks: &[(&str, &str)], devices: &str, suffix: &str) -> Self {
        Self::called(storage, disks, devices, unique() + suffix)
    }

    /// Under a name that is its own.
    pub fn called(storage: &'s Storage, disks: &[(&str, &str)], devices: &str, name: String) -> Self {
        let hypervisor = libvirt();
        let mut machine = Self {
            name: name.clone(),
            storage,
            hypervisor,
            model: BTreeMap::new(),
            vault: BTreeMap::new(),
            parents: BTreeMap::new(),
            count: 0,
        };
        let mut xml = String::new();
        for (target, format) in disks {
            let path = machine.create_disk(target, format);
            xml += &disk_xml(target, format, &path, "");
        }
        let name = escape(&name);
        let definition = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><on_crash>preserve</on_crash>
             <devices>{xml}{devices}</devices></domain>"
        );
        machine.define(&definition);
        machine
    }

    pub fn define(&self, definition: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), definition).unwrap();
        virsh(&["define", file.path().to_str().unwrap()]);
    }

    pub fn create_disk(&mut self, target: &str, format: &str) -> PathBuf {
        let path = self.disk_path(target);
        run("qemu-img", &["create", "-q", "-f", format, path.to_str().unwrap(), &DISK_BYTES.to_string()]);
        self.model.insert(target.to_owned(), vec![0; DISK_BYTES as usize]);
        path
    }

    pub fn disk_path(&self, target: &str) -> PathBuf {
        self.storage.path().join(format!("{}-{target}.img", self.name))
    }

    pub fn start(&self) {
        // libvirt may still be busy with the end of a QEMU that was killed, and end the new one with it.
        for _ in 0..10 {
            if self.hypervisor.start(&self.name).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        self.hypervisor.start(&self.name).unwrap();
    }

    /// Ends QEMU so that it closes its images.
    pub fn stop(&self) {
        let ended = try_virsh(&["destroy", "--graceful", &self.name]);
        // libvirt may take its end for QEMU's own, and then says that there is nothing to destroy.
        assert!(ended.status.success() || self.state() == MachineState::ShutOff, "{ended:?}");
    }

    pub fn state(&self) -> MachineState {
        self.hypervisor.inspect(&self.name).unwrap().summary.state
    }

    /// SIGKILL for this machine's QEMU alone.
    pub fn kill_qemu(&self) {
        // What a guest had not flushed is lost, as on real hardware.
        for index in 0..self.model.len() {
            let target = format!("vd{}", (b'a' + index as u8) as char);
            self.qemu_io(&target, "flush");
        }
        let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", self.name)).unwrap();
        run("kill", &["-9", pid.trim()]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state() != MachineState::ShutOff {
            assert!(Instant::now() < deadline, "libvirt does not notice");
            std::thread::sleep(Duration::from_millis(20));
        }
        // libvirt hears of the end in more than one way, and can end a QEMU with it that is started meanwhile.
        std::thread::sleep(Duration::from_secs(1));
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

    fn qemu_io_offline(&self, target: &str, format: &str, command: &str) {
        run("qemu-io", &["-f", format, "-c", command, self.disk_path(target).to_str().unwrap()]);
    }

    pub fn write(&mut self, target: &str, offset: u64, length: u64, pattern: u8) {
        self.qemu_io(target, &format!("write -P {pattern} {offset} {length}"));
        self.fill(target, offset, length, pattern);
    }

    pub fn write_offline(&mut self, target: &str, format: &str, offset: u64, length: u64, pattern: u8) {
        self.qemu_io_offline(target, format, &format!("write -P {pattern} {offset} {length}"));
        self.fill(target, offset, length, pattern);
    }

    pub fn write_zeroes(&mut self, target: &str, offset: u64, length: u64) {
        self.qemu_io(target, &format!("write -z {offset} {length}"));
        self.fill(target, offset, length, 0);
    }

    pub fn discard(&mut self, target: &str, offset: u64, length: u64) {
        self.qemu_io(target, &format!("discard {offset} {length}"));
        self.fill(target, offset, length, 0);
    }

    fn fill(&mut self, target: &str, offset: u64, length: u64, pattern: u8) {
        self.model.get_mut(target).unwrap()[offset as usize..(offset + length) as usize].fill(pattern);
    }

    pub fn request(&mut self) -> SnapshotRequest {
        self.count += 1;
        SnapshotRequest {
            id: format!("{:04}-{}", self.count, std::process::id()),
            parents: self.parents.clone(),
            clones: if self.storage.clones() { UseClones::Auto } else { UseClones::Never },
            ..SnapshotRequest::default()
        }
    }

    pub fn snapshot(&mut self) -> MachineSnapshot {
        let request = self.request();
        self.hypervisor.snapshot(&self.name, &request).unwrap()
    }

    /// Takes over a snapshot as a vault would, and compares with what the disks held at its instant.
    pub fn verify(
        &self,
        snapshot: &MachineSnapshot,
        expected: &BTreeMap<String, Vec<u8>>,
    ) -> BTreeMap<String, Vec<u8>> {
        let mut taken = BTreeMap::new();
        let names: Vec<_> = snapshot.disks.iter().map(|d| d.target.clone()).collect();
        assert_eq!(names, expected.keys().cloned().collect::<Vec<_>>());
        for disk in &snapshot.disks {
            let wanted = &expected[&disk.target];
            assert_eq!(disk.size_bytes, wanted.len() as u64, "{}", disk.target);
            let mut bytes = match &disk.changes {
                Changes::Full { .. } => {
                    let covered: u64 = disk.extents.iter().map(|e| e.extent.length_bytes).sum();
                    assert_eq!(covered, disk.size_bytes, "a full disk is covered");
                    vec![0xEE; wanted.len()]
                }
                Changes::Since { checkpoint } => {
                    assert_eq!(*checkpoint, self.parents[&disk.target].checkpoint);
                    let mut parent = self.vault[&disk.target].clone();
                    // What the parent did not have must be named.
                    parent.resize(wanted.len(), 0xEE);
                    parent
                }
            };
            let mut end = 0;
            for typed in &disk.extents {
                let extent = typed.extent;
                assert!(extent.offset_bytes >= end, "sorted and disjoint");
                end = extent.end_bytes();
                let part = &mut bytes[extent.offset_bytes as usize..end as usize];
                match typed.kind {
                    ExtentKind::Zero => part.fill(0),
                    ExtentKind::Data => {
                        // Two threads share the reader.
                        let half = part.len() / 2;
                        let (first, second) = part.split_at_mut(half);
                        std::thread::scope(|scope| {
                            scope.spawn(|| disk.read_at(extent.offset_bytes, first).unwrap());
                            disk.read_at(extent.offset_bytes + half as u64, second).unwrap();
                        });
                    }
                }
            }
            if bytes != *wanted {
                let at = bytes.iter().zip(wanted).position(|(a, b)| a != b);
                panic!(
                    "{} differs from the disk at {at:?}: {:?} {:?}",
                    disk.target, disk.changes, disk.extents
                );
            }
            taken.insert(disk.target.clone(), bytes);
        }
        taken
    }

    /// Commits a verified snapshot; returns the warnings of its end.
    pub fn commit(&mut self, snapshot: MachineSnapshot, taken: BTreeMap<String, Vec<u8>>) -> Vec<String> {
        snapshot.check().unwrap();
        self.vault = taken;
        self.parents = snapshot
            .disks
            .iter()
            .filter_map(|d| {
                let parent = DiskParent { checkpoint: d.checkpoint.clone()?, size_bytes: d.size_bytes };
                Some((d.target.clone(), parent))
            })
            .collect();
        snapshot.finish(Outcome::Committed).unwrap()
    }

    /// Snapshot, verify, commit; returns each disk's changes and extents, and the warnings.
    pub fn back_up(&mut self) -> BackedUp {
        let snapshot = self.snapshot();
        let expected = self.model.clone();
        let taken = self.verify(&snapshot, &expected);
        let disks = snapshot.disks.iter().map(|d| (d.target.clone(), d.clone())).collect();
        let warnings = snapshot.warnings.clone();
        let consistency = snapshot.consistency.clone();
        let end_warnings = self.commit(snapshot, taken);
        assert!(end_warnings.is_empty(), "{end_warnings:?}");
        BackedUp { disks, warnings, consistency }
    }

    pub fn checkpoints(&self) -> Vec<String> {
        virsh(&["checkpoint-list", &self.name, "--name"]).split_whitespace().map(str::to_owned).collect()
    }

    /// Bitmaps in the image on disk; right when the machine is off.
    pub fn bitmaps(&self, target: &str) -> Vec<String> {
        let out = run("qemu-img", &["info", "-U", "--output=json", self.disk_path(target).to_str().unwrap()]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let list = value.pointer("/format-specific/data/bitmaps").and_then(|b| b.as_array()).cloned();
        list.unwrap_or_default().iter().map(|b| b["name"].as_str().unwrap().to_owned()).collect()
    }
}

pub struct BackedUp {
    pub disks: BTreeMap<String, DiskSnapshot>,
    pub warnings: Vec<String>,
    pub consistency: strongroom_domain::Consistency,
}

impl BackedUp {
    pub fn is_full(&self, target: &str) -> bool {
        matches!(self.disks[target].changes, Changes::Full { .. })
    }

    pub fn data_bytes(&self, target: &str) -> u64 {
        let data = self.disks[target].extents.iter().filter(|e| e.kind == ExtentKind::Data);
        data.map(|e| e.extent.length_bytes).sum()
    }

    pub fn total_bytes(&self, target: &str) -> u64 {
        self.disks[target].extents.iter().map(|e| e.extent.length_bytes).sum()
    }
}

impl Drop for TestMachine<'_> {
    fn drop(&mut self) {
        let quiet = |arguments: &[&str]| {
            let mut all = vec!["-q", "-c", "qemu:///system"];
            all.extend_from_slice(arguments);
            try_run("virsh", &all);
        };
        quiet(&["destroy", &self.name]);
        quiet(&["undefine", &self.name, "--checkpoints-metadata", "--snapshots-metadata", "--managed-save"]);
    }
}
