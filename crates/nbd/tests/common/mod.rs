//! What the tests share: real servers and tools run as children, and a disk in memory.
//! A missing tool fails the test that needs it.
#![allow(dead_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use strongroom_nbd::{Client, ConnectOptions, Endpoint, Error, Export, Extent, ExtentKind};

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A server program on a Unix socket, stopped by its process id at the end.
pub struct Peer {
    child: Child,
    pub socket: PathBuf,
}

impl Peer {
    /// Starts `program`, which is told to listen on `socket`, and waits until it does.
    pub fn start(mut command: Command, socket: PathBuf) -> Peer {
        let name = format!("{command:?}");
        let mut child =
            command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended at once: {status}");
            }
            assert!(Instant::now() < until, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Peer { child, socket }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }

    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `qemu-nbd` exporting an image to any number of clients, one after the other or together.
pub fn qemu_nbd(dir: &Path, image: &Path, arguments: &[&str]) -> Peer {
    let socket = dir.join("qemu-nbd.sock");
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--shared=32", "--socket"]).arg(&socket).args(arguments).arg(image);
    Peer::start(command, socket)
}

/// `nbdkit` in the foreground.
pub fn nbdkit(dir: &Path, arguments: &[&str]) -> Peer {
    let socket = dir.join("nbdkit.sock");
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket).args(arguments);
    Peer::start(command, socket)
}

pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

/// Runs a tool that must succeed, and returns what it printed.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn options(contexts: &[&str]) -> ConnectOptions {
    ConnectOptions {
        meta_contexts: contexts.iter().map(|c| (*c).to_owned()).collect(),
        negotiation_timeout: Duration::from_secs(20),
        ..ConnectOptions::default()
    }
}

pub fn connect(endpoint: &Endpoint, contexts: &[&str]) -> Client {
    Client::connect(endpoint, &options(contexts)).unwrap()
}

/// A small generator with a fixed seed: the same run each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn fill(&mut self, buf: &mut [u8]) {
        for piece in buf.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

/// Bytes with runs of data and of zeroes, of odd and even lengths.
pub fn patchy(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        let length = (random.below(300 * KIB) as usize + 1).min(size - at);
        if random.below(2) == 0 {
            random.fill(&mut bytes[at..at + length]);
        }
        at += length;
    }
    bytes
}

/// A disk in memory. Blocks of 4 KiB that are all zero are holes.
pub struct MemoryDisk {
    pub bytes: RwLock<Vec<u8>>,
    pub writable: bool,
}

impl MemoryDisk {
    pub fn read_only(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk { bytes: RwLock::new(bytes), writable: false }
    }

    pub fn writable(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk { bytes: RwLock::new(bytes), writable: true }
    }
}

impl Export for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.bytes.read().unwrap().len() as u64
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset_bytes as usize;
        buf.copy_from_slice(&self.bytes.read().unwrap()[start..start + buf.len()]);
        Ok(())
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<Vec<Extent>> {
        let bytes = self.bytes.read().unwrap();
        let end = offset_bytes + length_bytes;
        let mut found: Vec<Extent> = Vec::new();
        let mut at = offset_bytes;
        // End early now and then: the server must ask again.
        while at < end && found.len() < 5 {
            let until = (at / 4096 + 1) * 4096;
            let until = until.min(end);
            let zero = bytes[at as usize..until as usize].iter().all(|byte| *byte == 0);
            let kind = if zero { ExtentKind::Hole } else { ExtentKind::Data };
            match found.last_mut() {
                Some(last) if last.kind == kind => last.length_bytes += until - at,
                _ => found.push(Extent { offset_bytes: at, length_bytes: until - at, kind }),
            }
            at = until;
        }
        Ok(found)
    }

    fn read_only(&self) -> bool {
        !self.writable
    }

    fn can_multi_conn(&self) -> bool {
        true
    }

    fn description(&self) -> String {
        "a disk in memory".into()
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        let start = offset_bytes as usize;
        self.bytes.write().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_punch: bool) -> io::Result<()> {
        let start = offset_bytes as usize;
        self.bytes.write().unwrap()[start..start + length_bytes as usize].fill(0);
        Ok(())
    }

    fn trim(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        self.write_zeroes(offset_bytes, length_bytes, true)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// All of an export, as the client reads it.
pub fn read_all(client: &Client) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0xaa; client.size_bytes() as usize];
    client.read_at(0, &mut bytes)?;
    Ok(bytes)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
