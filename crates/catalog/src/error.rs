//! What can go wrong with the service's state.

use crate::table::Table;
use std::path::PathBuf;
use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = ServiceError> = std::result::Result<T, E>;

/// Named by what the caller can do.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// Read again, and decide again.
    #[error("{} {id} was changed, or removed, by somebody else meanwhile", table.name())]
    Conflict {
        /// Where the row is, or was.
        table: Table,
        /// Which row.
        id: String,
    },
    /// Another row has the name. The detail is the database's own word, for who looks for a fault in us.
    #[error("there is another one of that name among {}", table.name())]
    Taken {
        /// Whose row has it.
        table: Table,
        /// What the database says.
        detail: String,
    },
    /// Nothing is repaired or begun anew by itself.
    #[error("the catalog {} is damaged: {detail}. Restore it from a backup of the data directory, or move it away and run `strongroom vault import` for each vault", path.display())]
    Damaged {
        /// The catalog's file.
        path: PathBuf,
        /// What the database or the system says.
        detail: String,
    },
    /// Use the newer program.
    #[error("the catalog {} was written by a newer version of strongroom", path.display())]
    Newer {
        /// The catalog's file.
        path: PathBuf,
    },
    /// Try again: it was waited for as long as [`BUSY_TIMEOUT`](crate::limits::BUSY_TIMEOUT) says.
    #[error("the catalog {} is in use by another process: {detail}", path.display())]
    Busy {
        /// The catalog's file.
        path: PathBuf,
        /// What the database or the system says.
        detail: String,
    },
    /// Make room; nothing of the change was done.
    #[error("there is no room left for the catalog {}: {detail}", path.display())]
    NoSpace {
        /// The catalog's file.
        path: PathBuf,
        /// What the database or the system says.
        detail: String,
    },
    /// Anything else: the detail says what.
    #[error("the catalog {} failed: {detail}", path.display())]
    Failed {
        /// The catalog's file.
        path: PathBuf,
        /// What the database or the system says.
        detail: String,
    },
}
