//! Real machines under a real libvirt, driven by the real command. Everything made here is unmade when it is dropped, and
//! nothing of anybody else's is touched.
#![allow(dead_code)]

pub mod bare;
pub mod guest;
pub mod office;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
pub const KIB: u64 = 1 << 10;

pub fn try_run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program and returns its stdout; panics with all it said when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = try_run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn virsh(arguments: &[&str]) -> String {
    run("virsh", &[&["-q", "-c", "qemu:///system"], arguments].concat())
}

pub fn virsh_quietly(arguments: &[&str]) -> bool {
    try_run("virsh", &[&["-q", "-c", "qemu:///system"], arguments].concat()).status.success()
}

/// Starts libvirt where it is not running; it counts this process as a user.
pub fn start_libvirt() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let script = repository().join("tests/lib/libvirt-up");
        run(text(&script), &["--for", &std::process::id().to_string()]);
    });
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A name no other test uses, by which its machine is also told from the user's.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("srtest-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Memory, which keeps the tests from waiting for a disk.
fn fast_directory() -> &'static str {
    if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/var/tmp" }
}

/// A directory through which QEMU's own user can pass.
pub fn directory_in(parent: &Path) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("srtest-").tempdir_in(parent).unwrap();
    open_up(directory.path());
    directory
}

pub fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cannot clone.
    Ext4,
    Xfs,
    Btrfs,
}

/// A file system of its own, in a file.
pub struct Storage {
    pub kind: Kind,
    directory: tempfile::TempDir,
}

impl Storage {
    pub fn new(kind: Kind, mib: u64) -> Self {
        let directory = directory_in(Path::new(fast_directory()));
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        let make = match kind {
            Kind::Ext4 => ["mkfs.ext4", "-q", "-m", "0"].as_slice(),
            Kind::Xfs => &["mkfs.xfs", "-q", "-m", "reflink=1"],
            Kind::Btrfs => &["mkfs.btrfs", "-q"],
        };
        run(make[0], &[&make[1..], &[text(&image)]].concat());
        let storage = Self { kind, directory };
        std::fs::create_dir(storage.path()).unwrap();
        run("mount", &["-o", "loop", text(&image), text(&storage.path())]);
        open_up(&storage.path());
        storage
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    /// How running machines on it are read.
    pub fn road(&self) -> &'static str {
        if self.kind == Kind::Ext4 { "pull-job" } else { "clone" }
    }

    /// Processes that have files of it open, by their command lines.
    pub fn users(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
        let has_some = |process: &Path| {
            let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            files.filter_map(|f| std::fs::read_link(f.path()).ok()).any(|f| f.starts_with(self.path()))
        };
        let command_line = |process: &Path| {
            let bytes = std::fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        processes.filter(|p| has_some(p)).map(|p| command_line(&p)).collect()
    }

    /// Hidden files: ours, all of them.
    pub fn hidden_files(&self) -> Vec<String> {
        hidden_files(&self.path())
    }
}

pub fn hidden_files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().flatten();
    let mut hidden: Vec<_> =
        names.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with('.')).collect();
    hidden.sort();
    hidden
}

impl Drop for Storage {
    fn drop(&mut self) {
        for _ in 0..100 {
            if try_run("umount", &[text(&self.path())]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("{} could not be unmounted: {:?}", self.path().display(), self.users());
    }
}

/// A vault, and a user's directories for the command: keys, cache.
pub struct Lab {
    directory: tempfile::TempDir,
    pub vault: PathBuf,
}

impl Lab {
    pub fn new() -> Self {
        start_libvirt();
        let directory = directory_in(Path::new(fast_directory()));
        let lab = Self { vault: directory.path().join("vault"), directory };
        lab.ok(&["rescue", "vault", "init", text(&lab.vault)]);
        lab
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        for (name, directory) in
            [("CONFIG", "config"), ("DATA", "data"), ("CACHE", "cache"), ("STATE", "state")]
        {
            command.env(format!("XDG_{name}_HOME"), self.path().join(directory));
        }
        for name in ["STRONGROOM_DATA", "STRONGROOM_VAULT", "STRONGROOM_KEY_FILE", "LIBVIRT_DEFAULT_URI"] {
            command.env_remove(name);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn with_vault<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, &["--vault", text(&self.vault)]].concat()
    }

    pub fn try_it(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command, which must succeed, and returns its JSON.
    pub fn ok(&self, arguments: &[&str]) -> Value {
        let output = self.try_it(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "strongroom {arguments:?}: {}", told(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("strongroom {arguments:?}: {e}: {}", told(&output)))
    }

    /// Runs the command, which must fail with this code and say all these words.
    pub fn fails(&self, arguments: &[&str], code: &str, words: &[&str]) {
        let output = self.try_it(&[arguments, &["--json"]].concat());
        assert!(!output.status.success(), "strongroom {arguments:?} succeeded: {}", told(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = stderr.lines().last().unwrap_or_default();
        let error: Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", told(&output)));
        assert_eq!(error["error"]["code"], code, "{arguments:?}: {stderr}");
        let message = error["error"]["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{arguments:?}: `{word}` is not in: {message}");
        }
        // And for people: the same words after `error: `.
        let output = self.try_it(arguments);
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
        assert!(shown.contains("error: ") && words.iter().all(|w| shown.contains(w)), "{shown}");
    }

    pub fn back_up(&self, machine: &str) -> Backup {
        Backup(self.ok(&self.with_vault(&["rescue", "vm", "backup", machine])))
    }

    /// Begins a backup and does not wait for it.
    pub fn begin_backup(&self, machine: &str) -> Child {
        self.command(&self.with_vault(&["rescue", "vm", "backup", machine, "--json"]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn restore(&self, point: &str, new_name: &str, storage: &Path, more: &[&str]) -> Restored {
        let arguments = ["rescue", "vm", "restore", point, "--as", new_name, "--storage", text(storage)];
        let document = self.ok(&self.with_vault(&[&arguments, more].concat()));
        Restored { name: new_name.to_owned(), document }
    }

    /// A disk of a point, as a raw file.
    pub fn restore_disk(&self, point: &str, disk: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in(self.path()).unwrap();
        std::fs::remove_file(file.path()).unwrap();
        let to = text(file.path());
        self.ok(&self.with_vault(&["image", "restore", point, "--disk", disk, "--to", to, "--no-sync"]));
        file
    }

    /// The vault is sound, to the last byte.
    pub fn check(&self) {
        self.ok(&["rescue", "vault", "check", text(&self.vault), "--read-data"]);
    }

    pub fn points(&self, item: &str) -> Vec<String> {
        let document = self.ok(&self.with_vault(&["rescue", "point", "list", "--item", item]));
        let points = document["points"].as_array().unwrap();
        points.iter().map(|p| p["point"].as_str().unwrap().to_owned()).collect()
    }

    pub fn vault_args(&self, arguments: &[&str]) -> Vec<String> {
        self.with_vault(arguments).into_iter().map(str::to_owned).collect()
    }

    /// What `vm list` says of a machine.
    pub fn listed(&self, machine: &str) -> Value {
        let list = self.ok(&self.with_vault(&["rescue", "vm", "list"]));
        let found = list["machines"].as_array().unwrap().iter().find(|m| m["name"] == machine).cloned();
        found.unwrap_or_else(|| panic!("{machine} is not listed: {list}"))
    }
}

/// What `vm backup` answered.
#[derive(Debug)]
pub struct Backup(pub Value);

impl Backup {
    pub fn point(&self) -> &str {
        self.0["point"].as_str().unwrap()
    }

    pub fn disk(&self, name: &str) -> &Value {
        let disks = self.0["disks"].as_array().unwrap();
        disks.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("no {name}: {}", self.0))
    }

    pub fn is_incremental(&self, disk: &str) -> bool {
        self.disk(disk)["incremental"].as_bool().unwrap()
    }

    pub fn read_bytes(&self, disk: &str) -> u64 {
        self.disk(disk)["read_bytes"].as_u64().unwrap()
    }

    pub fn new_bytes(&self, disk: &str) -> u64 {
        self.disk(disk)["new_bytes"].as_u64().unwrap()
    }

    pub fn full_reason(&self, disk: &str) -> &str {
        self.disk(disk)["full_reason"].as_str().unwrap_or_default()
    }

    pub fn level(&self) -> &str {
        self.0["consistency"]["level"].as_str().unwrap()
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.0["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect()
    }

    pub fn is_warned(&self, words: &[&str]) -> bool {
        self.warnings().iter().any(|w| words.iter().all(|word| w.contains(word)))
    }
}

/// A machine that was restored; undefined when dropped.
pub struct Restored {
    pub name: String,
    pub document: Value,
}

impl Restored {
    pub fn disk(&self, name: &str) -> PathBuf {
        let disks = self.document["disks"].as_array().unwrap();
        let disk = disks
            .iter()
            .find(|d| d["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {}", self.document));
        disk["path"].as_str().unwrap().into()
    }

    pub fn disks(&self) -> Vec<&str> {
        self.document["disks"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect()
    }

    pub fn xml(&self) -> String {
        virsh(&["dumpxml", &self.name])
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        remove_machine(&self.name);
    }
}

/// Of a test's own machine.
pub fn remove_machine(name: &str) {
    assert!(name.contains("srtest-"));
    virsh_quietly(&["destroy", name]);
    virsh_quietly(&[
        "undefine",
        name,
        "--checkpoints-metadata",
        "--snapshots-metadata",
        "--managed-save",
        "--keep-nvram",
    ]);
}

pub fn machine_exists(name: &str) -> bool {
    virsh_quietly(&["dominfo", name])
}

pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
