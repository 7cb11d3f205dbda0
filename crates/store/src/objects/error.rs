//! Errors of the object layer, named by what the caller can do about them.
//!
//! [`classify`] sorts an [`object_store::Error`] into a [`Kind`]; [`ObjectError`] is what the
//! [`BlobStore`](super::BlobStore) returns: operation, object, location, cause and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use object_store::client::{HttpError, HttpErrorKind};

use super::fault::FaultError;
use super::kind::{Kind, Op};
use super::refusal::Refusal;
use super::stop::Stopped;
use super::transport::Unreachable;

/// A failed operation on an object: which, on what, where, why, and what to do.
#[derive(Clone, Debug)]
pub struct ObjectError {
    /// What it means for the caller.
    pub kind: Kind,
    /// What was being done.
    pub op: Op,
    /// Object name or listed prefix; empty when opening.
    pub name: String,
    /// Display form of the location, without secrets.
    pub location: String,
    /// The cause; `io::Error`s stay reachable through `source()`.
    pub source: Arc<dyn StdError + Send + Sync + 'static>,
}

impl ObjectError {
    pub(crate) fn new(
        kind: Kind,
        op: Op,
        name: &str,
        location: &str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        ObjectError {
            kind,
            op,
            name: name.to_owned(),
            location: location.to_owned(),
            source: Arc::from(source.into()),
        }
    }

    pub(crate) fn from_store(op: Op, name: &str, location: &str, error: object_store::Error) -> Self {
        let kind = classify(&error);
        // What the store said is what is worth telling, and nothing around it.
        if let Some(refusal) = find::<Refusal>(&error) {
            return ObjectError::new(kind, op, name, location, refusal.clone());
        }
        if let Some(unreachable) = find::<Unreachable>(&error) {
            return ObjectError::new(kind, op, name, location, unreachable.clone());
        }
        if let Some(stopped) = find::<Stopped>(&error) {
            return ObjectError::new(kind, op, name, location, *stopped);
        }
        ObjectError::new(kind, op, name, location, error)
    }

    /// What the store answered, if it did.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.source.downcast_ref()
    }

    fn advice(&self) -> String {
        let told = match (self.refusal(), self.source.downcast_ref::<Unreachable>()) {
            (Some(refusal), _) => refusal.advice(self.op),
            (None, Some(unreachable)) => unreachable.advice().to_owned(),
            (None, None) => String::new(),
        };
        if told.is_empty() { self.kind.advice(self.op).to_owned() } else { told }
    }

    pub(crate) fn from_local(op: Op, name: &str, location: &str, error: LocalIo) -> Self {
        ObjectError::new(classify_io(&error.source), op, name, location, error)
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_advice())?;
        match self.advice().as_str() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}

impl ObjectError {
    /// What failed and why, for whoever can say better what to do.
    pub fn without_advice(&self) -> String {
        let what = match (self.op, self.name.as_str()) {
            (Op::Open, _) => self.location.clone(),
            (_, "") => format!("objects at {}", self.location),
            (_, name) => format!("object {name} at {}", self.location),
        };
        format!("cannot {} {what}: {}", self.op.verb(), self.source)
    }
}

impl StdError for ObjectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// A system call on a path that failed.
#[derive(Debug)]
pub struct LocalIo {
    /// What was being done, as in "cannot {step} {path}".
    pub step: &'static str,
    /// On which path.
    pub path: std::path::PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl LocalIo {
    pub(crate) fn new(step: &'static str, path: &std::path::Path, source: impl Into<io::Error>) -> Self {
        LocalIo { step, path: path.to_owned(), source: source.into() }
    }
}

impl fmt::Display for LocalIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.step, self.path.display(), self.source)
    }
}

impl StdError for LocalIo {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

impl From<LocalIo> for object_store::Error {
    fn from(error: LocalIo) -> Self {
        let path = error.path.display().to_string();
        match classify_io(&error.source) {
            Kind::NotFound => object_store::Error::NotFound { path, source: error.into() },
            Kind::AlreadyExists => object_store::Error::AlreadyExists { path, source: error.into() },
            Kind::Denied => object_store::Error::PermissionDenied { path, source: error.into() },
            _ => object_store::Error::Generic { store: "local directory", source: error.into() },
        }
    }
}

/// Sorts an object store's error by what the caller can do.
pub fn classify(error: &object_store::Error) -> Kind {
    match error {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        // S3 answers 409 when two conditional writes race: nobody has won yet, so ask again.
        object_store::Error::AlreadyExists { source, .. } => match classify_chain(&**source) {
            Some(Kind::Transient) => Kind::Transient,
            _ => Kind::AlreadyExists,
        },
        // Some servers say "forbidden" for a full quota.
        object_store::Error::PermissionDenied { source, .. } => match classify_chain(&**source) {
            Some(Kind::NoSpace) => Kind::NoSpace,
            _ => Kind::Denied,
        },
        object_store::Error::Unauthenticated { .. } => Kind::Denied,
        object_store::Error::InvalidPath { .. } | object_store::Error::UnknownConfigurationKey { .. } => {
            Kind::Invalid
        }
        object_store::Error::Generic { source, .. } => classify_chain(&**source).unwrap_or(Kind::Other),
        _ => Kind::Other,
    }
}

/// What the store answered, if this is that it did not carry something out.
pub(super) fn refusal_in(error: &object_store::Error) -> Option<&Refusal> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return find::<Refusal>(http);
        }
        next = error.source();
    }
    None
}

/// Sorts a system error.
pub fn classify_io(error: &io::Error) -> Kind {
    if let Some(kind) = error.get_ref().and_then(|inner| classify_chain(inner)) {
        return kind;
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => return Kind::NoSpace,
        Some(libc::EROFS) => return Kind::ReadOnly,
        Some(libc::EACCES | libc::EPERM) => return Kind::Denied,
        Some(libc::ESTALE | libc::EAGAIN | libc::ETIMEDOUT | libc::EINTR) => return Kind::Transient,
        // A file where a directory of the name should be: no such object either way.
        Some(libc::ENOTDIR) => return Kind::NotFound,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        io::ErrorKind::InvalidInput => Kind::Invalid,
        io::ErrorKind::FileTooLarge => Kind::TooLarge,
        io::ErrorKind::UnexpectedEof => Kind::Short,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::TimedOut => Kind::Transient,
        _ => Kind::Other,
    }
}

/// The first error of the chain that says something.
fn classify_chain(error: &(dyn StdError + 'static)) -> Option<Kind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<FaultError>() {
            return Some(fault.kind);
        }
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal.kind());
        }
        if error.is::<Stopped>() {
            return Some(Kind::Cancelled);
        }
        if let Some(http) = error.downcast_ref::<HttpError>() {
            if let Some(refusal) = find::<Refusal>(http) {
                return Some(refusal.kind());
            }
            if find::<Unreachable>(http).is_some_and(Unreachable::is_distrusted) {
                return Some(Kind::Invalid);
            }
            return Some(match http.kind() {
                HttpErrorKind::Connect
                | HttpErrorKind::Request
                | HttpErrorKind::Timeout
                | HttpErrorKind::Interrupted
                | HttpErrorKind::Decode => Kind::Transient,
                _ => Kind::Other,
            });
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(classify_io(io));
        }
        if let Some(store) = error.downcast_ref::<object_store::Error>() {
            return Some(classify(store));
        }
        next = error.source();
        // A success whose body says InternalError or SlowDown, at the end of the chain: only its text tells.
        if next.is_none() && error.to_string().starts_with("Server returned error response") {
            return Some(Kind::Transient);
        }
    }
    None
}

/// The first error of this type in a chain.
fn find<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
