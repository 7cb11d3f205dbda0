//! What can go wrong with a catalog, named by what the caller can do.

use std::path::{Path, PathBuf};
use thiserror::Error;

pub type Result<T, E = CatalogError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum CatalogError {
    /// Try again later.
    #[error("the catalog {} is in use by another process: {detail}", path.display())]
    Busy { path: PathBuf, detail: String },
    /// Get permission, or put the catalog elsewhere.
    #[error("the catalog {} cannot be used: {detail}. Check its owner and permissions, or name another with STRONGROOM_CATALOG", path.display())]
    Denied { path: PathBuf, detail: String },
    #[error("no room for the catalog {}: {detail}", path.display())]
    NoSpace { path: PathBuf, detail: String },
    /// Use the newer program.
    #[error("the catalog {} was written by a newer Strongroom; it was left as it is", path.display())]
    Newer { path: PathBuf },
    /// It was damaged, and could not be begun anew either.
    #[error("the catalog {} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the catalog {}: {detail}", path.display())]
    Failed { path: PathBuf, detail: String },
}

impl CatalogError {
    pub(crate) fn io(path: &Path, doing: &str, cause: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let (path, detail) = (path.to_owned(), format!("{doing}: {cause}"));
        match cause.kind() {
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::Denied { path, detail },
            K::StorageFull | K::QuotaExceeded => Self::NoSpace { path, detail },
            _ => Self::Failed { path, detail },
        }
    }

    pub(crate) fn sqlite(path: &Path, cause: &sqlx::Error) -> Self {
        let (owned, detail) = (path.to_owned(), cause.to_string());
        let code = cause.as_database_error().and_then(|e| e.code()).and_then(|c| c.parse::<i32>().ok());
        // Primary result codes; extended ones carry them in the low byte.
        match code.map(|c| c & 0xff) {
            Some(5 | 6) => Self::Busy { path: owned, detail },
            // A file that cannot be opened or written to, or a directory in its place.
            Some(3 | 8 | 14 | 23) => Self::Denied { path: owned, detail },
            Some(13) => Self::NoSpace { path: owned, detail },
            // Corrupt, not a database, a schema other than ours, a value of a type other than ours.
            Some(1 | 11 | 20 | 26) => Self::Damaged { path: owned, detail },
            Some(_) => Self::Failed { path: owned, detail },
            None => match cause {
                sqlx::Error::Io(e) => Self::io(path, "using it", e),
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnIndexOutOfBounds { .. }
                | sqlx::Error::Decode(_) => Self::Damaged { path: owned, detail },
                _ => Self::Failed { path: owned, detail },
            },
        }
    }
}
