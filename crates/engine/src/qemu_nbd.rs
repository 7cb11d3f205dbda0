//! QEMU's tools as children: `qemu-img` to look at and make images, `qemu-nbd` to read and write them through
//! our NBD client. A `qemu-nbd` ends with the value that started it, and with this process, however that ends.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{QEMU_IMG, QEMU_IMG_TRIES, QEMU_NBD_CONNECTIONS, QEMU_NBD_START, TOOL_OUTPUT_MAX_BYTES};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strongroom_domain::{Extent, TypedExtent};
use strongroom_hypervisor::image::{Layer, node_name};
use strongroom_nbd::{BASE_ALLOCATION, Client, ConnectOptions, Endpoint, STATE_ZERO};
use strongroom_store::Progress;
use tempfile::TempDir;

const EXPORT: &str = "disk";

/// How an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    /// Nobody else reads it before it is complete, so nothing is made durable on the way.
    Scratch,
    /// It must be whole as an image after every crash, also one of the host.
    InPlace,
}

/// An image opened by a `qemu-nbd` of our own. Reads and writes may come from many threads.
pub struct QemuImage {
    clients: Vec<Client>,
    next: AtomicUsize,
    // After the clients, which say goodbye first.
    server: Server,
}

struct Server {
    child: Child,
    messages: File,
    image: PathBuf,
    directory: TempDir,
    _key: Option<KeyFile>,
}

/// A passphrase as QEMU's tools take it: in a file that nobody else can read, and not among their arguments.
pub struct KeyFile(tempfile::NamedTempFile);

impl KeyFile {
    const ID: &'static str = "key";
    /// Keys are random: they need no stretching.
    pub const IMAGE_OPTIONS: &'static str =
        "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=100";

    pub fn new(passphrase: &str) -> Result<Self> {
        let failed = |e| Error::io("writing a key for QEMU's tools", e);
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        file.write_all(passphrase.as_bytes()).map_err(failed)?;
        Ok(Self(file))
    }

    /// The option that hands it over.
    pub fn object(&self) -> Result<String> {
        let path = self.0.path().to_str().ok_or_else(|| {
            Error::unsupported("the directory for temporary files has a name that is not valid UTF-8")
        })?;
        // A comma is doubled; nothing else is special.
        Ok(format!("secret,id={},format=raw,file={}", Self::ID, path.replace(',', ",,")))
    }
}

impl QemuImage {
    /// Opens `image` as `format`, and no other file. Refuses one that names others.
    pub fn open(image: &Path, format: &str, access: Access) -> Result<Self> {
        Self::open_with(image, format, access, None)
    }

    /// One that is encrypted, with its key.
    pub fn open_with(image: &Path, format: &str, access: Access, key: Option<KeyFile>) -> Result<Self> {
        let mut server = Server::start(image, format, access, key)?;
        let mut clients = Vec::with_capacity(QEMU_NBD_CONNECTIONS);
        for index in 0..QEMU_NBD_CONNECTIONS {
            let options = ConnectOptions {
                export_name: EXPORT.into(),
                meta_contexts: if index == 0 { vec![BASE_ALLOCATION.into()] } else { Vec::new() },
                ..ConnectOptions::default()
            };
            clients.push(server.connect(&options)?);
        }
        Ok(Self { clients, next: AtomicUsize::new(0), server })
    }

    pub fn size_bytes(&self) -> u64 {
        self.clients[0].size_bytes()
    }

    fn client(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()]
    }

    pub fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.client().read_at(offset_bytes, buffer).map_err(|e| self.io_error(e))
    }

    pub fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        self.client().write_at(offset_bytes, data).map_err(|e| self.io_error(e))
    }

    /// Makes a range read as zeroes; the image gives the space back where it can.
    pub fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        self.client().write_zeroes(offset_bytes, length_bytes).map_err(|e| self.io_error(e))
    }

    fn io_error(&self, error: strongroom_nbd::Error) -> io::Error {
        let no_space = error.kind() == strongroom_nbd::ErrorKind::NoSpace;
        let explained = self.server.explain(error.into()).message;
        if no_space {
            io::Error::new(io::ErrorKind::StorageFull, explained)
        } else {
            io::Error::other(explained)
        }
    }

    /// What these sorted, disjoint ranges hold: data, or zeroes that need no reading.
    pub fn kinds(&self, ranges: &[Extent]) -> Result<Vec<TypedExtent>> {
        let client = &self.clients[0];
        let mut kinds = Vec::new();
        let known = client.contexts().iter().any(|name| name == BASE_ALLOCATION);
        for range in ranges.iter().filter(|r| !r.is_empty()) {
            if !known {
                kinds.push(TypedExtent::data(range.offset_bytes, range.length_bytes));
                continue;
            }
            client
                .map(BASE_ALLOCATION, range.offset_bytes, range.length_bytes, |e| {
                    kinds.push(match e.flags & STATE_ZERO {
                        0 => TypedExtent::data(e.offset_bytes, e.length_bytes),
                        _ => TypedExtent::zero(e.offset_bytes, e.length_bytes),
                    });
                })
                .map_err(|e| self.server.explain(e.into()))?;
        }
        Ok(kinds)
    }

    /// Returns when everything written is with the file's owner, the kernel, and the image is closed well.
    pub fn close(mut self) -> Result<()> {
        for client in &self.clients {
            client.flush().map_err(|e| self.server.explain(e.into()))?;
        }
        // The server ends by itself, properly, when its last client has left.
        self.clients.clear();
        let status = wait(&mut self.server.child, QEMU_NBD_START)
            .map_err(|e| Error::io(format!("closing {}", self.server.image.display()), e))?;
        match status {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.server.explain(Error::new(
                ErrorKind::Failed,
                format!("closing {}: qemu-nbd did not end as it should", self.server.image.display()),
            ))),
        }
    }
}

impl Server {
    fn start(image: &Path, format: &str, access: Access, key: Option<KeyFile>) -> Result<Self> {
        let failed = |e| Error::io("making a temporary directory for qemu-nbd's socket", e);
        let directory = tempfile::Builder::new().prefix("strongroom-").tempdir().map_err(failed)?;
        let messages = tempfile::tempfile().map_err(failed)?;
        let mut node = Layer::alone(&absolute(image)?, format)?.node()?;
        let mut command = Command::new("qemu-nbd");
        if let Some(key) = &key {
            command.arg("--object").arg(key.object()?);
            node["encrypt"] = serde_json::json!({ "format": "luks", "key-secret": KeyFile::ID });
        }
        command
            .args(["--aio=threads", "--shared"])
            .arg((QEMU_NBD_CONNECTIONS + 1).to_string())
            .arg("--socket")
            .arg(directory.path().join("nbd"))
            .args(["--export-name", EXPORT]);
        match access {
            Access::ReadOnly => command.arg("--read-only"),
            // Whoever writes the image makes it durable at the end, all at once.
            Access::Scratch => command.args(["--cache=unsafe", "--discard=unmap"]),
            Access::InPlace => command.args(["--cache=writeback", "--discard=unmap"]),
        };
        command.arg("--").arg(node_name(&node));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages.try_clone().map_err(failed)?);
        end_with_us(&mut command);
        let child = command.spawn().map_err(|e| missing("qemu-nbd", e))?;
        Ok(Self { child, messages, image: image.to_owned(), directory, _key: key })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd")
    }

    /// Connects, as soon as it listens. (Trying is no harm, a connection that ends would be: it takes its leave then.)
    fn connect(&mut self, options: &ConnectOptions) -> Result<Client> {
        let endpoint = Endpoint::Unix(self.socket());
        let deadline = Instant::now() + QEMU_NBD_START;
        let mut pause = Duration::from_micros(500);
        loop {
            // Its file is there a little before anybody listens.
            let refused = match self.socket().exists() {
                false => None,
                true => match Client::connect(&endpoint, options) {
                    Ok(client) => return Ok(client),
                    Err(e @ strongroom_nbd::Error::Connect { .. }) => Some(Error::from(e)),
                    Err(e) => return Err(self.explain(e.into())),
                },
            };
            let failed = |detail: &str| {
                Error::new(ErrorKind::Failed, format!("opening {}: {detail}", self.image.display()))
            };
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) => {
                    let error = refused.unwrap_or_else(|| failed("qemu-nbd did not begin to listen in time"));
                    return Err(self.explain(error));
                }
                _ => return Err(self.explain(failed("qemu-nbd could not open it"))),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Adds what `qemu-nbd` said.
    fn explain(&self, error: Error) -> Error {
        let said = self.messages.try_clone().and_then(|mut file| {
            let mut text = Vec::new();
            file.rewind()?;
            file.take(TOOL_OUTPUT_MAX_BYTES).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        });
        match said.as_deref().map(str::trim) {
            Ok("") | Err(_) => error,
            Ok(said) => explain_tool(said, &self.image, error),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Turns the words of a tool into an error that says what to do.
fn explain_tool(said: &str, image: &Path, error: Error) -> Error {
    let shown = image.display();
    let one_line = said.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let one_line: String = one_line.chars().take(600).collect();
    if said.contains("lock") && said.contains("Failed to get") {
        return Error::new(
            ErrorKind::Busy,
            format!(
                "{shown} is in use by another process, so it cannot be read as one instant: shut that down, or back the machine up with `strongroom vm backup` ({one_line})"
            ),
        );
    }
    let kind = match said {
        said if said.contains("Permission denied") => ErrorKind::Denied,
        said if said.contains("No space left") => ErrorKind::NoSpace,
        _ => error.kind,
    };
    Error::new(kind, format!("{error} ({one_line})"))
}

/// The child gets SIGKILL when the thread that starts it ends, so start it from one that lives as long as it should.
fn end_with_us(command: &mut Command) {
    // Ctrl-C is ours to answer, in our order.
    command.process_group(0);
    let signal = rustix::process::Signal::KILL;
    // SAFETY: between fork and exec only prctl is called, which is safe there and allocates nothing.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || Ok(rustix::process::set_parent_process_death_signal(Some(signal))?));
    }
}

/// A path that cannot be taken for an option or a protocol (`nbd:…`).
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(format!("finding {}", path.display()), e))
}

fn missing(program: &str, cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorKind::Unavailable,
            format!(
                "`{program}` is not installed, and this image format needs it (Debian: apt install qemu-utils)"
            ),
        ),
        _ => Error::io(format!("starting {program}"), cause),
    }
}

/// Whether `qemu-img` could not measure how fast this host stretches a key. QEMU of many releases since 2024 (Debian 12's too)
/// takes a measurement that its clock was too coarse for as a fault; on fast hosts that is every second one.
fn is_unmeasured(error: &Error) -> bool {
    error.message.contains("Unable to get accurate CPU usage")
}

/// Makes an encrypted image, as often as it takes: see [`is_unmeasured`]. What fails takes some hundredths of a second.
pub fn retry_unmeasured(mut make: impl FnMut() -> Result<()>) -> Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match make() {
            Err(error) if is_unmeasured(&error) && tries < QEMU_IMG_TRIES => {}
            done => return done,
        }
    }
}

/// Moves everything that a qcow2 image has from its backing store into it, and cuts it loose. Takes as long as it takes;
/// cancelled, what was moved stays. What its header names as that store is what the caller made it name.
pub fn flatten(image: &Path, progress: &Progress) -> Result<()> {
    let failed = |e| Error::io("running qemu-img", e);
    let mut messages = tempfile::tempfile().map_err(failed)?;
    let mut command = Command::new("qemu-img");
    command.args(["rebase", "-q", "-f", "qcow2", "-b", ""]).arg("--").arg(absolute(image)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages.try_clone().map_err(failed)?);
    end_with_us(&mut command);
    let mut child = command.spawn().map_err(|e| missing("qemu-img", e))?;
    let ended = progress.wait(Duration::from_millis(20), || child.try_wait().map_err(failed));
    let status = ended.inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = messages
        .rewind()
        .and_then(|()| (&mut messages).take(TOOL_OUTPUT_MAX_BYTES).read_to_string(&mut said));
    let error = Error::new(ErrorKind::Failed, format!("moving data into {} failed", image.display()));
    Err(explain_tool(said.trim(), image, error))
}

/// Waits for a child's end, at most `time`.
fn wait(child: &mut Child, time: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + time;
    let mut pause = Duration::from_micros(500);
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() > deadline => return Ok(None),
            None => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Runs `qemu-img` on an image and returns what it printed.
pub fn qemu_img<S: AsRef<OsStr>>(arguments: &[S], image: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io("running qemu-img", e);
    let (mut out, mut messages) =
        (tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?);
    let mut command = Command::new("qemu-img");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(messages.try_clone().map_err(failed)?);
    end_with_us(&mut command);
    let mut child = command.spawn().map_err(|e| missing("qemu-img", e))?;
    let status = wait(&mut child, QEMU_IMG).map_err(failed)?;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let read = |file: &mut File| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(TOOL_OUTPUT_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match status {
        Some(status) if status.success() => read(&mut out).map_err(failed),
        Some(_) => {
            let said = String::from_utf8_lossy(&read(&mut messages).unwrap_or_default()).into_owned();
            let error = Error::new(ErrorKind::Failed, format!("qemu-img on {} failed", image.display()));
            Err(explain_tool(said.trim(), image, error))
        }
        None => {
            Err(Error::new(ErrorKind::Failed, format!("qemu-img on {} did not end in time", image.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_measured_is_tried_again_and_nothing_else_is() {
        let unmeasured = || Error::new(ErrorKind::Failed, "qemu-img: disk: Unable to get accurate CPU usage");
        let mut tries = 0;
        let made = retry_unmeasured(|| {
            tries += 1;
            if tries < 7 { Err(unmeasured()) } else { Ok(()) }
        });
        assert!(made.is_ok() && tries == 7, "{made:?} after {tries}");
        tries = 0;
        let made = retry_unmeasured(|| {
            tries += 1;
            Err(unmeasured())
        });
        assert!(made.is_err_and(|e| is_unmeasured(&e)) && tries == QEMU_IMG_TRIES);
        tries = 0;
        let made = retry_unmeasured(|| {
            tries += 1;
            Err(Error::new(ErrorKind::NoSpace, "No space left on device"))
        });
        assert!(made.is_err() && tries == 1);
    }
}
