//! The extension's own virtio-serial port, for machines whose guest agent runs no programs, or that have none: a line of
//! JSON a request, a line an answer, one after the other. What the host says is bounded and not believed either.
//!
//! Freezing is here as well ([`crate::hold`]): it ends when the host says so, when it is gone, or with the time limit.

use crate::hold::Hold;
use crate::limits::*;
use crate::phases::{self, Options};
use crate::sys;
use crate::warden;
use crate::wire::{Answer, Frozen, PORT_NAME, Request, VERSION, Verb};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the port is looked at while no host is there.
const IDLE: Duration = Duration::from_millis(500);
/// How long the host may take to fetch an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the port is in a guest.
pub fn default_path() -> PathBuf {
    Path::new("/dev/virtio-ports").join(PORT_NAME)
}

/// Answers requests for as long as the port is there.
pub fn serve(path: &Path, options: &Options) -> Result<(), String> {
    let port = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| format!("the port `{}` cannot be opened: {e}", path.display()))?;
    let mut server = Server { port, options: options.clone(), hold: None, expired: false };
    let mut line: Vec<u8> = Vec::new();
    let mut too_long = false;
    loop {
        let [happened] = sys::wait([server.port.as_raw_fd()], IDLE);
        server.look_after_hold();
        if happened & libc::POLLHUP != 0 {
            // The host is gone: what it had frozen is thawed, what it had begun to say is nothing.
            server.host_is_gone();
            line.clear();
            too_long = false;
            std::thread::sleep(IDLE);
            continue;
        }
        let mut buffer = [0; 4096];
        match sys::read(&server.port, &mut buffer) {
            Ok(None) => {}
            Ok(Some(0)) => {
                server.host_is_gone();
                std::thread::sleep(IDLE);
            }
            Ok(Some(count)) => {
                for byte in &buffer[..count] {
                    if *byte != b'\n' {
                        match line.len() < REQUEST_BYTES_MAX {
                            true => line.push(*byte),
                            false => too_long = true,
                        }
                        continue;
                    }
                    if !too_long {
                        server.take(&line);
                    }
                    line.clear();
                    too_long = false;
                }
            }
            Err(e) => return Err(format!("the port `{}` is gone: {e}", path.display())),
        }
    }
}

struct Server {
    port: File,
    options: Options,
    hold: Option<Hold>,
    /// The last hold ended by itself.
    expired: bool,
}

impl Server {
    fn look_after_hold(&mut self) {
        if self.hold.as_ref().is_some_and(|hold| !hold.is_held()) {
            self.hold = None;
            self.expired = true;
        }
    }

    fn host_is_gone(&mut self) {
        if self.hold.take().is_some() {
            self.expired = true;
        }
    }

    fn take(&mut self, line: &[u8]) {
        // What is no request has no answer: there is nobody to know it by.
        let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
        let done = self.perform(&request);
        let answer = match done {
            Ok(value) => Answer { id: request.id, value: Some(value), error: None },
            Err(error) => Answer { id: request.id, value: None, error: Some(error) },
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return };
        if text.len() > ANSWER_BYTES_MAX {
            let error = Some("the answer is too long".into());
            text = serde_json::to_vec(&Answer { id: request.id, value: None, error }).unwrap_or_default();
        }
        text.push(b'\n');
        self.send(&text);
    }

    fn send(&mut self, mut text: &[u8]) {
        let until = Instant::now() + ANSWER_TIMEOUT;
        while !text.is_empty() && Instant::now() < until {
            match self.port.write(text) {
                Ok(0) => return,
                Ok(count) => text = &text[count..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                    self.look_after_hold();
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn perform(&mut self, request: &Request) -> Result<serde_json::Value, String> {
        let value =
            |document: Result<serde_json::Value, serde_json::Error>| document.map_err(|e| e.to_string());
        match request.verb {
            Verb::Version => Ok(serde_json::json!({ "version": VERSION })),
            Verb::Prepare => {
                let (session, options) = (request.session.clone(), self.options.clone());
                apart(move || phases::prepare(&session, &options).map(|p| serde_json::to_vec(&p)))
            }
            Verb::Finish => {
                let (session, run) = (request.session.clone(), self.options.run_directory.clone());
                apart(move || phases::finish(&session, &run).map(|f| serde_json::to_vec(&f)))
            }
            Verb::Freeze => {
                if self.hold.is_some() {
                    return Err("the file systems are frozen already".into());
                }
                self.expired = false;
                let watch = &self.options.watch;
                let (hold, frozen) = Hold::begin(&warden::file_systems(&watch.only), watch.limit)?;
                self.hold = Some(hold);
                value(serde_json::to_value(frozen))
            }
            Verb::Thaw => {
                let mut thawed = match self.hold.take() {
                    Some(hold) => hold.end(),
                    None => Frozen::default(),
                };
                thawed.expired |= std::mem::take(&mut self.expired);
                value(serde_json::to_value(thawed))
            }
        }
    }
}

/// Does it in a process of its own, so that what scripts leave behind is never this one's.
fn apart(
    work: impl FnOnce() -> Result<Result<Vec<u8>, serde_json::Error>, String>,
) -> Result<serde_json::Value, String> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, each owned once.
    let (reader, writer) = unsafe {
        sys::retry(|| libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC)).map_err(|e| e.to_string())?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    match sys::fork().map_err(|e| e.to_string())? {
        None => {
            drop(reader);
            let text = match work() {
                Ok(Ok(text)) => [b"+", text.as_slice()].concat(),
                Ok(Err(error)) => format!("-{error}").into_bytes(),
                Err(error) => format!("-{error}").into_bytes(),
            };
            let _ = File::from(writer).write_all(&text);
            sys::exit_now(0);
        }
        Some(pid) => {
            drop(writer);
            let mut text = Vec::new();
            // The warden has closed its end with the standard streams' place taken: see `wait_for`.
            let read = wait_for(pid, reader, &mut text);
            read.map_err(|e| format!("the work's end could not be read: {e}"))?;
            match text.split_first() {
                Some((b'+', document)) => serde_json::from_slice(document).map_err(|e| e.to_string()),
                Some((_, error)) => Err(String::from_utf8_lossy(error).into_owned()),
                None => Err("the process that did it was killed".into()),
            }
        }
    }
}

/// Reads until the process has ended and nothing is left: its warden holds the pipe open beyond that.
fn wait_for(pid: libc::pid_t, reader: OwnedFd, text: &mut Vec<u8>) -> std::io::Result<()> {
    let flags = sys::retry(|| unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_GETFL) })?;
    sys::retry(|| unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    let mut file = File::from(reader);
    let mut buffer = [0; 4096];
    loop {
        let ended = sys::has_ended(pid);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) if text.len() + count <= ANSWER_BYTES_MAX => text.extend(&buffer[..count]),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        if ended {
            return Ok(());
        }
        sys::wait([file.as_raw_fd()], Duration::from_millis(20));
    }
}
