//! What can go wrong with machines, named by what the caller can do about it.

use std::fmt::Display;
use thiserror::Error;

/// What calls of this crate answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of this crate. The texts are complete sentences' worth of help: what it was about,
/// why, and where one is known, what to do.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The named thing does not exist: choose another.
    #[error("{what} was not found")]
    NotFound {
        /// Of what.
        what: String,
    },
    /// The named thing exists and is never overwritten: choose another name.
    #[error("{what} exists already; choose another name")]
    AlreadyExists {
        /// Of what.
        what: String,
    },
    /// Somebody else is at it: try again later.
    #[error("{what} is busy: {why}")]
    Busy {
        /// Of what.
        what: String,
        /// One sentence.
        why: String,
    },
    /// This cannot be done with this machine, disk or host.
    #[error("{what} cannot be used: {why}")]
    Unsupported {
        /// Of what.
        what: String,
        /// One sentence.
        why: String,
    },
    /// Permission is missing.
    #[error("access to {what} was denied: {hint}")]
    Denied {
        /// Of what.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The virtualisation service cannot be reached.
    #[error("{what} is not available: {hint}")]
    Unavailable {
        /// Of what.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A script in the guest failed, and the guest's configuration says that the backup then fails too.
    /// What to do is [`advice`](strongroom_guest::wire::Code::advice) of the code.
    #[error("{what}: {why} ({}, {}){}", code.name(), code.number(), said(output))]
    Script {
        /// Of what.
        what: String,
        /// The extension's code.
        code: strongroom_guest::wire::Code,
        /// One sentence.
        why: String,
        /// The end of what it printed.
        output: String,
    },
    /// A snapshot that was kept can no longer be read: do without it.
    #[error("{what} can no longer be used: {why}")]
    Spoiled {
        /// Of what.
        what: String,
        /// One sentence.
        why: String,
    },
    /// Anything else: what was being done, to what, and the cause.
    #[error("{doing} {what} failed: {cause}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// To what.
        what: String,
        /// What came of it.
        cause: String,
    },
}

impl Error {
    pub(crate) fn failed(doing: &'static str, what: impl Into<String>, cause: impl Display) -> Self {
        Self::Failed { doing, what: what.into(), cause: cause.to_string() }
    }

    /// An I/O error on a path, as the kind of error a caller can act on.
    pub(crate) fn io(doing: &'static str, path: &std::path::Path, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let what = path.display().to_string();
        match cause.kind() {
            K::NotFound => Self::NotFound { what },
            K::AlreadyExists => Self::AlreadyExists { what },
            K::PermissionDenied => {
                Self::Denied { what, hint: "run as root, or as a user who may read and write it".into() }
            }
            _ => Self::Failed { doing, what, cause: cause.to_string() },
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }
}

/// A script's output as messages have it: in quotes, so that one sees where it ends.
pub(crate) fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(". It said: \"{output}\"") }
}
