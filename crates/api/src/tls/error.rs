//! Why there is no certificate.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum TlsError {
    /// See to what the cause says.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// Such as `reading`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// Replace the file, or move it away.
    #[error("{} cannot be used: {detail}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, for people.
        detail: String,
    },
    /// Give names that certificates can hold.
    #[error("no certificate can be made: {0}")]
    Make(String),
}
