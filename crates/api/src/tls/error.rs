//! Why there is no certificate.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{doing} {}: {cause}", path.display())]
    Io { doing: &'static str, path: PathBuf, cause: io::Error },
    /// Replace the file, or move it away.
    #[error("{} cannot be used: {detail}", path.display())]
    Unusable { path: PathBuf, detail: String },
    /// Give names that certificates can hold.
    #[error("no certificate can be made: {0}")]
    Make(String),
}
