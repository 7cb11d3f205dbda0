//! The commands on the service: a data directory of its own, and a service over it.

use super::*;

/// A data directory with the local libvirt, a place to restore to, and a vault.
pub struct Office {
    directory: tempfile::TempDir,
}

impl Office {
    pub fn new(place: &Path) -> Self {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
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

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn ok(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "strongroom {arguments:?}: {}", told(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn fails(&self, arguments: &[&str], words: &[&str]) {
        let output = self.run(arguments);
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
        assert!(words.iter().all(|w| shown.contains(w)), "{arguments:?}: {words:?}: {shown}");
    }

    pub fn state(&self, machine: &str) -> Value {
        let list = self.ok(&["vm", "list", &format!("--name={machine}")]);
        list["machines"][0].clone()
    }

    pub fn packs(&self) -> usize {
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

    /// Begins to restore a point as a machine that is started at once, and does not wait for its data.
    pub fn begin_instant(&self, machine: &str, point: &str, new_name: &str) -> Child {
        let restore =
            ["vm", "restore", machine, "--point", point, "--instant", "--as", new_name, "--place", "place"];
        self.command(&restore).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Begins a backup and sends SIGINT once data has been written.
    pub fn interrupt_backup(&self, machine: &str) -> Output {
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
pub struct Service(Child);

impl Service {
    pub fn start(office: &Office) -> Self {
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

impl Service {
    /// SIGKILL.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that has ended is another's process by now.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = try_run("kill", &[&self.0.id().to_string()]);
            let _ = self.0.wait();
        }
    }
}

/// Removes the restored machine, also when the test fails.
pub struct Made(pub String);

impl Drop for Made {
    fn drop(&mut self) {
        remove_machine(&self.0);
    }
}
