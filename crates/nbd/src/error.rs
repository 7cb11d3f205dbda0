//! What can go wrong, named by what the caller can do about it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the client or of setting up the server. Cheap to clone: when a connection dies,
/// every caller waiting on it gets the reason.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers at that address. Check that the server runs, then try again.
    #[error("cannot connect to NBD server at {endpoint}: {source}")]
    Connect {
        /// Where the connection was attempted.
        endpoint: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The peer said nothing for too long; the connection is closed.
    #[error("NBD peer was silent for {after:?} while {during}; the connection is closed")]
    TimedOut {
        /// What was being done.
        during: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The peer went away. Connect again.
    #[error("NBD connection lost while {during}: {reason}")]
    Disconnected {
        /// What was being done.
        during: &'static str,
        /// How it was noticed.
        reason: String,
    },
    /// The peer broke the protocol; the connection is closed, nothing it said can be relied on.
    #[error("NBD peer sent a malformed message: {0}; the connection is closed")]
    Malformed(String),
    /// The server has no export of that name.
    #[error("NBD server has no export named {export:?}{}", suffix(.message))]
    NotFound {
        /// The name asked for.
        export: String,
        /// The server's words, may be empty.
        message: String,
    },
    /// The server, or a read-only export, does not permit it.
    #[error("NBD server refuses {what}{}", suffix(.message))]
    Denied {
        /// What was asked for.
        what: String,
        /// The server's words, may be empty.
        message: String,
    },
    /// The peer, or this library, cannot do that.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The arguments make no sense for this export: out of range, not aligned, or badly formed.
    #[error("invalid argument: {0}")]
    Invalid(String),
    /// The server could not carry out one request; the connection lives on.
    #[error(
        "NBD {command} of {length_bytes} bytes at offset {offset_bytes} failed: {errno}{}",
        suffix(.message)
    )]
    Command {
        /// Which command.
        command: &'static str,
        /// Where it began.
        offset_bytes: u64,
        /// How much it was about.
        length_bytes: u64,
        /// The server's error number.
        errno: Errno,
        /// The server's words, may be empty.
        message: String,
    },
    /// A live server already listens there. Choose another address or stop that one.
    #[error("{0} is in use by a running server; choose another address or stop it")]
    Busy(String),
    /// The system failed us.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

fn suffix(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Connect again; the request may or may not have been carried out.
    Disconnected,
    /// As [`ErrorKind::Disconnected`], the peer hung.
    TimedOut,
    /// Do not trust this peer.
    Malformed,
    /// Use another name.
    NotFound,
    /// Get permission.
    Denied,
    /// Do it another way.
    Unsupported,
    /// Correct the arguments.
    Invalid,
    /// Make room at the server.
    NoSpace,
    /// Use another address or wait.
    Busy,
    /// One request failed at the server, or the local system did; retrying may help.
    Failed,
}

impl Error {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Connect { .. } | Error::Disconnected { .. } => ErrorKind::Disconnected,
            Error::TimedOut { .. } => ErrorKind::TimedOut,
            Error::Malformed(_) => ErrorKind::Malformed,
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Denied { .. } => ErrorKind::Denied,
            Error::Unsupported(_) => ErrorKind::Unsupported,
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Busy(_) => ErrorKind::Busy,
            Error::Io { .. } => ErrorKind::Failed,
            Error::Command { errno, .. } => match *errno {
                Errno::PERM => ErrorKind::Denied,
                Errno::INVAL | Errno::OVERFLOW => ErrorKind::Invalid,
                Errno::NOSPC => ErrorKind::NoSpace,
                Errno::NOTSUP => ErrorKind::Unsupported,
                Errno::SHUTDOWN => ErrorKind::Disconnected,
                _ => ErrorKind::Failed,
            },
        }
    }

    pub(crate) fn malformed(what: impl Into<String>) -> Error {
        Error::Malformed(what.into())
    }

    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Io { what: what.into(), source: Arc::new(source.into()) }
    }

    /// Names a failure of the socket itself.
    pub(crate) fn socket(during: &'static str, after: Duration, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut { during, after },
            io::ErrorKind::UnexpectedEof => {
                Error::Disconnected { during, reason: "the peer closed the connection".into() }
            }
            _ => Error::Disconnected { during, reason: error.to_string() },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::Disconnected => io::ErrorKind::ConnectionAborted,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Busy => io::ErrorKind::AddrInUse,
            ErrorKind::Failed => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// An error number of the NBD protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// Not permitted, for example a write to a read-only export.
    pub const PERM: Errno = Errno(1);
    /// Input or output failed at the server.
    pub const IO: Errno = Errno(5);
    /// The server has no memory for it.
    pub const NOMEM: Errno = Errno(12);
    /// The request makes no sense.
    pub const INVAL: Errno = Errno(22);
    /// No room.
    pub const NOSPC: Errno = Errno(28);
    /// Too large.
    pub const OVERFLOW: Errno = Errno(75);
    /// Not supported.
    pub const NOTSUP: Errno = Errno(95);
    /// The server is stopping.
    pub const SHUTDOWN: Errno = Errno(108);

    /// The number that says best what an export's error means to a client.
    pub(crate) fn of(error: &io::Error) -> Errno {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Errno::PERM,
            io::ErrorKind::OutOfMemory => Errno::NOMEM,
            io::ErrorKind::InvalidInput => Errno::INVAL,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Errno::NOSPC,
            io::ErrorKind::FileTooLarge => Errno::OVERFLOW,
            io::ErrorKind::Unsupported => Errno::NOTSUP,
            _ => Errno::IO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match *self {
            Errno::PERM => "operation not permitted (EPERM)",
            Errno::IO => "input/output error (EIO)",
            Errno::NOMEM => "out of memory (ENOMEM)",
            Errno::INVAL => "invalid request (EINVAL)",
            Errno::NOSPC => "no space left (ENOSPC)",
            Errno::OVERFLOW => "too large (EOVERFLOW)",
            Errno::NOTSUP => "not supported (ENOTSUP)",
            Errno::SHUTDOWN => "server is stopping (ESHUTDOWN)",
            Errno(other) => return write!(f, "error {other}"),
        };
        f.write_str(words)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({self})")
    }
}
