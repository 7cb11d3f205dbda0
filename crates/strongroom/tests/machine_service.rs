//! The commands on the service with real machines: protected, backed up, restored, stopped; alone and through a service.

mod machines;

use machines::bare::{Bare, same};
use machines::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A data directory with the local libvirt, a place to restore to, and a vault.
struct Office {
    directory: tempfile::TempDir,
}

impl Office {
    fn new(place: &Path) -> Self {
        start_libvirt();
        let office = Self { directory: directory_in(Path::new("/var/tmp")) };
        let configuration = format!(
            "[[hosts]]\nname = \"local\"\n\n[[restore_directories]]\nname = \"place\"\npath = \"{}\"\n",
            place.display()
        );
        std::fs::write(office.path("strongroom.toml"), configuration).unwrap();
        office.ok(&["vault", "create", "main"]);
        office
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        for name in ["STRONGROOM_SERVER", "STRONGROOM_VAULT", "STRONGROOM_KEY_FILE"] {
            command.env_remove(name);
        }
        command
            .env("STRONGROOM_DATA", self.path("data"))
            .env("STRONGROOM_CONFIG", self.path("strongroom.toml"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "strongroom {arguments:?}: {}", told(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str], words: &[&str]) {
        let output = self.run(arguments);
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
        assert!(words.iter().all(|w| shown.contains(w)), "{arguments:?}: {words:?}: {shown}");
    }

    fn state(&self, machine: &str) -> Value {
        let list = self.ok(&["vm", "list", "--name", machine]);
        list["machines"][0].clone()
    }

    fn packs(&self) -> usize {
        let mut open = vec![self.path("data/vaults")];
        let mut found = 0;
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => open.push(entry.path()),
                    false => found += usize::from(entry.path().to_string_lossy().contains("/packs/")),
                }
            }
        }
        found
    }

    /// Begins a backup and sends SIGINT once data has been written.
    fn interrupt_backup(&self, machine: &str) -> Output {
        let before = self.packs();
        let mut child = self
            .command(&["vm", "backup", machine])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("data is written", Duration::from_secs(60), || {
            self.packs() > before || child.try_wait().unwrap().is_some()
        });
        run("kill", &["-INT", &child.id().to_string()]);
        child.wait_with_output().unwrap()
    }
}

/// Ended when it is dropped.
struct Service(Child);

impl Service {
    fn start(office: &Office) -> Self {
        let log = std::fs::File::create(office.path("serve.log")).unwrap();
        let child = office
            .command(&["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let service = Self(child);
        let socket = office.path("data/strongroom.sock");
        wait_until("the service listens", Duration::from_secs(30), || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = try_run("kill", &[&self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

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

/// Removes the restored machine, also when the test fails.
struct Made(String);

impl Drop for Made {
    fn drop(&mut self) {
        remove_machine(&self.0);
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
    // The last one is held; the one before expires as it was asked for.
    assert!(points["points"][0].get("expires_at").is_none(), "{points}");
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
