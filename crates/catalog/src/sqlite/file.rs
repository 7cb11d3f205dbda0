//! The database's file: its directory, its lock, and moving a damaged one aside.

use crate::error::{CatalogError, Result};
use crate::limits::{BUSY_TIMEOUT, DAMAGED_KEPT};
use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn make_directory(path: &Path) -> Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| CatalogError::io(path, "making its directory", &e)),
        _ => Ok(()),
    }
}

/// Makes an empty file, which counts as an empty database, if there is none: for its owner only.
pub fn make(path: &Path) -> Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(CatalogError::io(path, "making it", &e))
        }
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Held while the database is opened or replaced. Ends with the process, however that ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn take(path: &Path) -> Result<Self> {
        let lock_path = with_suffix(path, ".lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| CatalogError::io(path, "making its lock file", &e))?;
        let deadline = Instant::now() + BUSY_TIMEOUT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(e) => {
                    return Err(CatalogError::Busy { path: path.to_owned(), detail: e.to_string() });
                }
            }
        }
    }
}

/// Renames a database and what belongs to it; under its lock. Returns its new name.
pub fn move_aside(path: &Path) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let aside = with_suffix(path, &format!(".damaged-{now}"));
    // The log first: a new database must never meet an old one's.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(CatalogError::io(path, "moving it aside", &e));
            }
            _ => {}
        }
    }
    remove_old(path);
    Ok(aside)
}

/// Keeps the newest of those that were moved aside.
fn remove_old(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    let mut prefix = name.to_owned();
    prefix.push(".damaged-");
    let Some(prefix) = prefix.to_str() else { return };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut found: Vec<u128> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix(prefix)?.parse().ok())
        .collect();
    found.sort_unstable();
    let excess = found.len().saturating_sub(DAMAGED_KEPT);
    for time in &found[..excess] {
        for suffix in ["-wal", "-shm", ""] {
            let _ = std::fs::remove_file(directory.join(format!("{prefix}{time}{suffix}")));
        }
    }
}
