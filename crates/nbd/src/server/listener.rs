//! Sockets to listen on: a Unix socket's file is made and removed with care, TCP stays on loopback.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::net::Stream;

/// How long another server may hold the directory while it sets itself up.
const DIRECTORY_LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 64;

pub(crate) enum Listener {
    Unix { listener: UnixListener, file: SocketFile },
    Tcp(TcpListener),
}

/// A socket's name in the file system; removed on drop if it is still the one we made.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens on a Unix socket, accessible as `mode` says from the first instant.
    pub fn unix(path: &Path, mode: u32) -> Result<Listener> {
        let failed =
            |what: &str, error: io::Error| Error::io(format!("{what} NBD socket {}", path.display()), error);
        let address = SocketAddrUnix::new(path).map_err(|e| failed("naming", e.into()))?;
        let _lock = lock_directory(path)?;
        remove_stale(path)?;
        let socket = new_socket(AddressFamily::UNIX).map_err(|e| failed("making", e))?;
        // The mode of an unbound socket becomes that of its file: there is no moment of a wider one.
        let wide = Mode::from_raw_mode(mode & 0o777);
        rustix::fs::fchmod(&socket, wide).map_err(|e| failed("setting the mode of", e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| match error {
            rustix::io::Errno::ADDRINUSE => Error::Busy(path.display().to_string()),
            other => failed("making", other.into()),
        })?;
        let made = std::fs::symlink_metadata(path).map_err(|e| failed("examining", e))?;
        let file = SocketFile { path: path.to_owned(), identity: (made.dev(), made.ino()) };
        rustix::net::listen(&socket, BACKLOG).map_err(|e| failed("listening on", e.into()))?;
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(|e| failed("preparing", e))?;
        Ok(Listener::Unix { listener, file })
    }

    /// Listens on a TCP address, on loopback unless `anywhere`.
    pub fn tcp(address: SocketAddr, anywhere: bool) -> Result<Listener> {
        if !anywhere && !address.ip().to_canonical().is_loopback() {
            return Err(Error::Denied {
                what: format!("listening on {address}"),
                message: "NBD has neither encryption nor passwords here: only loopback addresses \
                          are served unless others are allowed explicitly"
                    .into(),
            });
        }
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Error::Busy(address.to_string()),
            _ => Error::io(format!("listening on {address}"), error),
        })?;
        listener.set_nonblocking(true).map_err(|error| Error::io(format!("preparing {address}"), error))?;
        Ok(Listener::Tcp(listener))
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> Result<Endpoint> {
        match self {
            Listener::Unix { file, .. } => Ok(Endpoint::Unix(file.path.clone())),
            Listener::Tcp(listener) => listener
                .local_addr()
                .map(Endpoint::from)
                .map_err(|error| Error::io("asking for the listening address", error)),
        }
    }

    /// The next client; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<Stream> {
        let stream = match self {
            Listener::Unix { listener, .. } => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(false)?;
                Stream::from(stream)
            }
            Listener::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(false)?;
                Stream::from(stream)
            }
        };
        stream.tune();
        Ok(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix { listener, .. } => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove NBD socket");
        }
    }
}

/// Two servers that start at once must not both find the same stale file and then remove each
/// other's: whoever sets up a socket holds a lock on its directory.
fn lock_directory(path: &Path) -> Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed =
        |error: rustix::io::Errno| Error::io(format!("opening {} for a socket", directory.display()), error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
    let until = Instant::now() + DIRECTORY_LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(opened),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Busy(format!("directory {}", directory.display())));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Removes a socket file nobody listens on; anything else that is there stays.
fn remove_stale(path: &Path) -> Result<()> {
    let name = || path.display().to_string();
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| Error::io(format!("examining {}", name()), error))?,
    };
    if !there.file_type().is_socket() {
        return Err(Error::Invalid(format!("{} exists and is not a socket", name())));
    }
    match Stream::connect_unix(path, Duration::from_secs(1)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::debug!(path = %path.display(), "replacing a stale NBD socket");
            std::fs::remove_file(path)
                .map_err(|error| Error::io(format!("removing stale socket {}", name()), error))
        }
        // Answered, or too busy to answer, or not for us to know: someone lives there.
        _ => Err(Error::Busy(name())),
    }
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}
