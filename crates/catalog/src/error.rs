//! What can go wrong with the service's state.

use crate::table::Table;
use std::path::PathBuf;
use thiserror::Error;

pub type Result<T, E = ServiceError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum ServiceError {
    /// Read again, and decide again.
    #[error("{} {id} was changed, or removed, by somebody else meanwhile", table.name())]
    Conflict { table: Table, id: String },
    /// Another row has the name. The detail is the database's own word, for who looks for a fault in us.
    #[error("there is another one of that name among {}", table.name())]
    Taken { table: Table, detail: String },
    #[error("the catalog {} is damaged: {detail}. Restore it from a backup of the data directory, or move it away and run `strongroom vault import` for each vault", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the catalog {} was written by a newer version of strongroom", path.display())]
    Newer { path: PathBuf },
    #[error("the catalog {} is in use by another process: {detail}", path.display())]
    Busy { path: PathBuf, detail: String },
    #[error("there is no room left for the catalog {}: {detail}", path.display())]
    NoSpace { path: PathBuf, detail: String },
    #[error("the catalog {} failed: {detail}", path.display())]
    Failed { path: PathBuf, detail: String },
}
