//! Errors of the use cases, named by what the caller can do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use strongroom_domain::{ExtentError, InvalidName, SelectorError};
use strongroom_store::objects::{Kind, LocationError, ObjectError};
use strongroom_store::{StoreError, objects};

/// What the use cases return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Name something that is there.
    NotFound,
    /// Choose another name.
    AlreadyExists,
    /// Wait, or end what uses it.
    Busy,
    /// Do it another way.
    Unsupported,
    /// Run it again without relying on what was there before: everything must be read.
    NeedsFull,
    /// Stored bytes are wrong or missing.
    Corrupt,
    /// Get permission, or the right key.
    Denied,
    /// Correct the arguments.
    Invalid,
    /// Make room.
    NoSpace,
    /// Start or repair what does not answer, then run it again.
    Unavailable,
    /// It was asked to stop.
    Cancelled,
    /// Something else failed; the message says what.
    Failed,
}

impl ErrorKind {
    /// Its name for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::NeedsFull => "needs-full",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::NoSpace => "no-space",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Why a use case did not succeed: what happened, to what, and what to do, in one message.
#[derive(Debug)]
pub struct Error {
    /// By which a caller decides what to do.
    pub kind: ErrorKind,
    /// For people: one sentence or more, with what to do about it. Without the cause, which `source` gives.
    pub message: String,
    /// Azure's name for it, where it has one.
    pub code: Option<&'static str>,
    /// Azure's number for it, and what to do, where they are not those of its kind.
    pub number: Option<(i64, &'static str)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// Whether what it was about was committed all the same is not known.
    is_unsettled: bool,
}

impl Error {
    /// One without a cause, and without Azure's name and number; whether it was committed is known.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, number: None, source: None, is_unsettled: false }
    }

    /// With Azure's name for it.
    pub fn coded(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// With Azure's number for it, and what to do about it.
    pub fn numbered(mut self, number: i64, advice: &'static str) -> Self {
        self.number = Some((number, advice));
        self
    }

    /// Keeps the cause, which is shown after the message.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// What it was about may be committed: it must not be told as a failure before somebody has looked.
    pub fn unsettled(mut self) -> Self {
        self.is_unsettled = true;
        self
    }

    /// Something else writes to the vault, which may take one writer at a time: it is over by and by.
    pub fn is_vault_busy(&self) -> bool {
        matches!(self.cause::<StoreError>(), Some(StoreError::Busy { .. }))
    }

    /// What it came of, if there is one of this kind among its causes.
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        let mut next = self.source();
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref::<T>() {
                return Some(found);
            }
            next = cause.source();
        }
        None
    }

    /// See [`unsettled`](Self::unsettled).
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Cancelled`], in the same words wherever it was noticed.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request")
    }

    /// A system call that failed: `doing` names the action and the thing, as in `reading /dev/vg/web`.
    pub fn io(doing: impl fmt::Display, cause: io::Error) -> Self {
        let kind = kind_of_io(&cause);
        let advice = match kind {
            ErrorKind::NoSpace => "; free space there, then run it again",
            ErrorKind::Denied => "; check its owner and permissions, or run it as root",
            _ => "",
        };
        Self::new(kind, format!("{doing}: {cause}{advice}")).caused_by(cause)
    }
}

/// The kind of a system error.
pub fn kind_of_io(error: &io::Error) -> ErrorKind {
    kind_of_object(objects::classify_io(error))
}

fn kind_of_object(kind: Kind) -> ErrorKind {
    match kind {
        Kind::NotFound => ErrorKind::NotFound,
        Kind::AlreadyExists => ErrorKind::AlreadyExists,
        Kind::NoSpace => ErrorKind::NoSpace,
        Kind::Denied | Kind::ReadOnly => ErrorKind::Denied,
        Kind::Invalid | Kind::TooLarge => ErrorKind::Invalid,
        Kind::Short => ErrorKind::Corrupt,
        Kind::Transient => ErrorKind::Unavailable,
        Kind::NotExclusive => ErrorKind::Unsupported,
        Kind::Cancelled => ErrorKind::Cancelled,
        Kind::Other => ErrorKind::Failed,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NotAVault { .. } | StoreError::NotFound { .. } | StoreError::Unmarked { .. } => {
                ErrorKind::NotFound
            }
            StoreError::NewerFormat { .. } | StoreError::UnknownRequirement { .. } => ErrorKind::Unsupported,
            StoreError::WrongKey { .. } | StoreError::KeyMissing { .. } => ErrorKind::Denied,
            StoreError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            StoreError::Busy { .. } | StoreError::LeaseLost { .. } => ErrorKind::Busy,
            StoreError::Corrupt { .. }
            | StoreError::PointsMissing { .. }
            | StoreError::RollUnknown { .. } => ErrorKind::Corrupt,
            StoreError::Invalid { .. } => ErrorKind::Invalid,
            StoreError::Cancelled => return Self::cancelled(),
            StoreError::Object(e) => kind_of_object(e.kind),
            StoreError::Io { cause, .. } => kind_of_io(cause),
        };
        let advice = match &error {
            StoreError::Corrupt { .. } => {
                "; run `strongroom rescue vault check --read-data` to see what is affected"
            }
            _ => "",
        };
        Self::new(kind, format!("{error}{advice}")).caused_by(error)
    }
}

impl From<ObjectError> for Error {
    fn from(error: ObjectError) -> Self {
        Self::new(kind_of_object(error.kind), error.to_string()).caused_by(error)
    }
}

impl From<strongroom_nbd::Error> for Error {
    fn from(error: strongroom_nbd::Error) -> Self {
        use strongroom_nbd::ErrorKind as Nbd;
        let kind = match error.kind() {
            Nbd::Disconnected | Nbd::TimedOut => ErrorKind::Unavailable,
            Nbd::NotFound => ErrorKind::NotFound,
            Nbd::Denied => ErrorKind::Denied,
            Nbd::Unsupported => ErrorKind::Unsupported,
            Nbd::Invalid => ErrorKind::Invalid,
            Nbd::NoSpace => ErrorKind::NoSpace,
            Nbd::Busy => ErrorKind::Busy,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string()).caused_by(error)
    }
}

macro_rules! invalid_from {
    ($($type:ty),*) => { $(
        impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Self::new(ErrorKind::Invalid, error.to_string()).caused_by(error)
            }
        }
    )* };
}

/// Times beyond what a calendar holds.
impl From<jiff::Error> for Error {
    fn from(error: jiff::Error) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string()).caused_by(error)
    }
}

invalid_from!(LocationError, SelectorError, InvalidName, ExtentError);
