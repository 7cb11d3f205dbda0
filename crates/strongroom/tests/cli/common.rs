//! A home of its own for each test, and the binary run in it.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A directory with a keyring; nothing of the user's is seen.
pub struct Home {
    dir: TempDir,
    pub environment: Vec<(String, String)>,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    /// With a vault at `vault()`, its key in the ring.
    pub fn with_vault() -> Self {
        let home = Self::new();
        home.ok(["rescue", "vault", "init", &home.vault()]);
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn vault(&self) -> String {
        self.text("vault")
    }

    pub fn keys(&self) -> PathBuf {
        self.path("config/strongroom/keys")
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("TZ", "Europe/Berlin")
            .envs(self.environment.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; its stdout.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let arguments: Vec<_> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with --json.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let arguments: Vec<_> =
            arguments.into_iter().map(|a| a.as_ref().to_owned()).chain(["--json".into()]).collect();
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Runs a command that must fail with `status`; its stderr, in which each of `words` must be.
    pub fn fails<S: AsRef<OsStr>>(
        &self,
        status: i32,
        words: &[&str],
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        let arguments: Vec<_> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.run(&arguments);
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        text
    }

    /// All files below the vault, with what is in them: to see that nothing changed.
    /// Leases of runs that are at work, or left something to look after; those of committed points stay until a reclaim.
    pub fn open_leases(&self) -> Vec<PathBuf> {
        let leases = self.contents("vault/sessions").into_iter();
        let is_open = |bytes: &[u8]| !String::from_utf8_lossy(bytes).contains(r#""state":"committed""#);
        leases.filter(|(_, bytes)| is_open(bytes)).map(|(path, _)| path).collect()
    }

    pub fn contents(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![self.path(name)];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.exists() {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
        found.sort();
        found
    }

    /// Makes an image: data of `seed` at each of these places, holes elsewhere.
    pub fn image(&self, name: &str, size_bytes: u64, data: &[(u64, u64)], seed: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(size_bytes).unwrap();
        for &(offset, length) in data {
            write_random(&file, offset, length, seed ^ offset);
        }
        path
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn random(length_bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length_bytes as usize + 8);
    while (bytes.len() as u64) < length_bytes {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length_bytes as usize);
    bytes
}

pub fn write_random(file: &File, offset_bytes: u64, length_bytes: u64, seed: u64) {
    file.write_all_at(&random(length_bytes, seed), offset_bytes).unwrap();
}

pub fn change(image: &Path, offset_bytes: u64, length_bytes: u64, seed: u64) {
    let file = File::options().write(true).open(image).unwrap();
    write_random(&file, offset_bytes, length_bytes, seed);
}

/// Runs a tool that must succeed.
pub fn tool<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn same(a: &Path, b: &Path) {
    let (a_bytes, b_bytes) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    assert_eq!(a_bytes.len(), b_bytes.len());
    let differs = a_bytes.iter().zip(&b_bytes).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{} and {} differ", a.display(), b.display());
}

/// Bytes a file occupies.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).unwrap().blocks() * 512
}

pub fn send(child: &Child, signal: i32) {
    // SAFETY: a plain system call on a child we started and have not waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Holds a child still; false if it has ended.
pub fn hold(child: &Child) -> bool {
    send(child, libc::SIGSTOP);
    // SAFETY: `info` is plain data that the call fills. WNOWAIT leaves the child's end to be waited for.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        libc::waitid(libc::P_PID, child.id(), &mut info, options) == 0 && info.si_code == libc::CLD_STOPPED
    }
}
