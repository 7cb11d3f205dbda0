//! A directory that is root's, the binary, a file system to be frozen, and a port.
#![allow(dead_code)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_strongroom-guest");

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Alive, and not only waiting to be noted as ended.
pub fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

pub fn children_of(pid: u32) -> Vec<String> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A place whose parents are root's alone; these tests need root.
fn directory() -> tempfile::TempDir {
    let directory =
        tempfile::Builder::new().prefix("srguest-").tempdir_in("/var/lib").expect("these tests need root");
    chmod(directory.path(), 0o755);
    directory
}

pub struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self { directory: directory() }
    }

    /// With scripts that write down that they ran, configured with these keys.
    pub fn logging(keys: &str) -> Self {
        let lab = Self::new();
        lab.script("pre.sh", "echo pre >> log");
        lab.script("post.sh", "echo post >> log");
        lab.configure(keys);
        lab
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn run(&self) -> PathBuf {
        self.path().join("run")
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("config.json")
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        chmod(&path, mode);
    }

    pub fn script(&self, name: &str, text: &str) {
        self.write(name, &format!("#!/bin/sh\n{text}\n"), 0o700);
    }

    /// With these keys beside the scripts' locations.
    pub fn configure(&self, keys: &str) {
        self.configure_with("pre.sh", "post.sh", keys);
    }

    pub fn configure_with(&self, pre: &str, post: &str, keys: &str) {
        let shown = self.path().display();
        let comma = if keys.is_empty() { "" } else { "," };
        let text = format!(
            r#"{{"preScriptLocation":"{shown}/{pre}","postScriptLocation":"{shown}/{post}"{comma}{keys}}}"#
        );
        self.write("config.json", &text, 0o600);
    }

    pub fn sh(&self, script: &str) {
        assert!(
            Command::new("sh").args(["-ec", script]).current_dir(self.path()).status().unwrap().success()
        );
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    pub fn agent_says_frozen(&self, frozen: bool) {
        let state = self.path().join("agent");
        let _ = std::fs::create_dir(&state);
        std::fs::write(state.join("qga.state"), "").unwrap();
        match frozen {
            true => std::fs::write(state.join("qga.state.isfrozen"), "").unwrap(),
            false => drop(std::fs::remove_file(state.join("qga.state.isfrozen"))),
        }
    }

    pub fn with(&self, mut command: Command, verb: &str, session: &str) -> Command {
        let run = self.run();
        command.args([verb, "--session", session, "--run", run.to_str().unwrap()]);
        let (config, host) = (self.config(), self.path().join("host.conf"));
        command.arg("--config").arg(config).arg("--host-config").arg(host);
        command.arg("--agent-state").arg(self.path().join("agent"));
        command
    }

    pub fn command(&self, verb: &str, session: &str) -> Command {
        self.with(Command::new(BINARY), verb, session)
    }

    pub fn prepare(&self, session: &str) -> Value {
        self.prepare_with(session, &[])
    }

    pub fn prepare_with(&self, session: &str, more: &[&str]) -> Value {
        answer(self.command("prepare", session).args(more))
    }

    pub fn finish(&self, session: &str) -> Value {
        answer(&mut self.command("finish", session))
    }
}

fn answer(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An ext4 of its own.
pub struct Disk {
    directory: tempfile::TempDir,
    mount: String,
}

impl Disk {
    pub fn new() -> Self {
        Self::sized(16)
    }

    pub fn sized(mib: u64) -> Self {
        let directory = directory();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        Self::mounted(directory, &image)
    }

    /// Of an image that is there.
    pub fn of(image: &Path) -> Self {
        Self::mounted(directory(), image)
    }

    fn mounted(directory: tempfile::TempDir, image: &Path) -> Self {
        let mount = directory.path().join("fs");
        std::fs::create_dir(&mount).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), mount.to_str().unwrap()]);
        Self { mount: mount.to_str().unwrap().into(), directory }
    }

    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub fn mount(&self) -> &str {
        &self.mount
    }

    /// Whether a write waits, for at least this long. The writer that waits ends when it is thawed, and is nobody's then.
    pub fn is_frozen(&self) -> bool {
        self.write_waits(Duration::from_millis(400))
    }

    /// Whether a write goes through; on a busy machine that may take a while.
    pub fn is_thawed(&self) -> bool {
        !self.write_waits(Duration::from_secs(15))
    }

    fn write_waits(&self, at_least: Duration) -> bool {
        let write = format!("(touch {}/x; echo > \"$0\") & :", self.mount);
        let done = self.directory.path().join(format!("done-{:?}", Instant::now()));
        assert!(Command::new("sh").args(["-c", &write]).arg(&done).status().unwrap().success());
        let deadline = Instant::now() + at_least;
        while Instant::now() < deadline {
            if done.exists() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").args(["-u", &self.mount]).stderr(Stdio::null()).status();
        for _ in 0..50 {
            if Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status().unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} is still mounted", self.directory.path().display());
    }
}

/// `strongroom-guest hold`
pub struct Holding {
    pub child: Child,
    pub frozen: Value,
    out: BufReader<std::process::ChildStdout>,
}

impl Holding {
    pub fn new(mount: &str, limit_seconds: u32) -> Self {
        let mut child = Command::new(BINARY)
            .args(["hold", "--only", mount, "--limit", &limit_seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        Self { child, frozen: serde_json::from_str(&line).unwrap(), out }
    }

    pub fn end(&mut self) -> Value {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// A terminal whose one end stands for the machine's port; this is the host's.
pub struct Port {
    pub path: PathBuf,
    host: BufReader<std::fs::File>,
    _slave: std::fs::File,
}

impl Port {
    pub fn new() -> Self {
        let (mut master, mut slave) = (0, 0);
        // SAFETY: room for two descriptors, which are owned once; a valid termios is changed.
        let (host, slave) = unsafe {
            let null = std::ptr::null_mut();
            assert_eq!(libc::openpty(&mut master, &mut slave, null, null as _, null as _), 0);
            let mut settings: libc::termios = std::mem::zeroed();
            libc::tcgetattr(slave, &mut settings);
            libc::cfmakeraw(&mut settings);
            libc::tcsetattr(slave, libc::TCSANOW, &settings);
            for fd in [master, slave] {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
            (std::fs::File::from_raw_fd(master), std::fs::File::from_raw_fd(slave))
        };
        let path = std::fs::read_link(format!("/proc/self/fd/{}", slave.as_raw_fd())).unwrap();
        Self { path, host: BufReader::new(host), _slave: slave }
    }

    pub fn send(&mut self, text: &str) {
        self.host.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the answer with the request's id.
    pub fn call(&mut self, request: &str) -> Value {
        self.send(&format!("{request}\n"));
        let asked: Value = serde_json::from_str(request).unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.host.read_exact(&mut byte).unwrap();
            if byte[0] != b'\n' {
                line.push(byte[0]);
                continue;
            }
            let answer: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(answer["id"], asked["id"]);
            return answer;
        }
    }
}

/// `strongroom-guest serve`, killed by its drop.
pub struct Server(Child);

impl Server {
    pub fn start(lab: &Lab, disk: &Disk, port: &Port) -> Self {
        let mut command = lab.command("serve", "unused");
        command.args(["--only", disk.mount(), "--port"]).arg(&port.path);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
