//! Errors of the service: those of the engine, and of the catalog.

use std::error::Error as StdError;
use std::ops::{Deref, DerefMut};
use std::{fmt, io};
use strongroom_catalog::ServiceError;
pub use strongroom_engine::ErrorKind;
use strongroom_store::StoreError;

/// What the service answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a use case did not succeed: what happened, to what, and what to do. See [`strongroom_engine::Error`], which this is, of
/// any floor below the service.
#[derive(Debug)]
pub struct Error(strongroom_engine::Error);

impl Deref for Error {
    type Target = strongroom_engine::Error;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(strongroom_engine::Error::new(kind, message))
    }

    /// With Azure's name for it.
    pub fn coded(self, code: &'static str) -> Self {
        Self(self.0.coded(code))
    }

    /// With Azure's number for it, and what to do about it.
    pub fn numbered(self, number: i64, advice: &'static str) -> Self {
        Self(self.0.numbered(number, advice))
    }

    /// Keeps the cause, which is shown after the message.
    pub fn caused_by(self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(self.0.caused_by(cause))
    }

    /// What it was about may be committed: it must not be told as a failure before somebody has looked.
    pub(crate) fn unsettled(self) -> Self {
        Self(self.0.unsettled())
    }

    /// Something that was named is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A name that is taken.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    /// Arguments that are to be corrected.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// What cannot be done this way.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// It was asked to stop.
    pub fn cancelled() -> Self {
        Self(strongroom_engine::Error::cancelled())
    }

    /// A system call that failed: see [`strongroom_engine::Error::io`].
    pub fn io(doing: impl fmt::Display, cause: io::Error) -> Self {
        Self(strongroom_engine::Error::io(doing, cause))
    }

    /// What it came of, if there is one of this kind among its causes.
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.cause()
    }

    /// Its message alone.
    pub fn into_message(self) -> String {
        self.0.message
    }

    /// Something else writes to the vault, which may take one writer at a time: it is over by and by.
    pub(crate) fn is_vault_busy(&self) -> bool {
        matches!(self.0.cause::<StoreError>(), Some(StoreError::Busy { .. }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        let kind = match &error {
            ServiceError::Conflict { .. } | ServiceError::Busy { .. } => ErrorKind::Busy,
            ServiceError::Taken { .. } => ErrorKind::AlreadyExists,
            ServiceError::Damaged { .. } => ErrorKind::Corrupt,
            ServiceError::Newer { .. } => ErrorKind::Unsupported,
            ServiceError::NoSpace { .. } => ErrorKind::NoSpace,
            ServiceError::Failed { .. } => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string()).caused_by(error)
    }
}

impl From<strongroom_engine::Error> for Error {
    fn from(error: strongroom_engine::Error) -> Self {
        Self(error)
    }
}

impl From<Error> for strongroom_engine::Error {
    fn from(error: Error) -> Self {
        error.0
    }
}

macro_rules! from_below {
    ($($type:ty),* $(,)?) => { $(
        impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Self(error.into())
            }
        }
    )* };
}

from_below!(
    StoreError,
    strongroom_store::objects::ObjectError,
    strongroom_store::objects::LocationError,
    strongroom_hypervisor::Error,
    strongroom_domain::InvalidName,
    strongroom_domain::SelectorError,
    jiff::Error,
);
