//! The data directory: where the service keeps what is its own.

use super::error::{Error, ErrorKind, Result};
use crate::limits::DATA_LOCK_WAIT;
use rustix::fs::FlockOperation;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The data directory's parts.
#[derive(Debug, Clone)]
pub struct DataDirectory(pub PathBuf);

impl DataDirectory {
    /// Makes it, for its owner only, if it is missing.
    pub fn make(&self) -> Result<()> {
        for directory in [self.0.clone(), self.vaults(), self.keys(), self.tls(), self.screenshots()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|e| Error::io(format!("making directory {}", directory.display()), e))?;
        }
        Ok(())
    }

    /// The catalog's database, a file.
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog.db")
    }

    /// The directory of vaults that are kept nowhere else.
    pub fn vaults(&self) -> PathBuf {
        self.0.join("vaults")
    }

    /// The directory of the vaults' keys.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Where the key of a vault of this id in the catalog is.
    pub fn key(&self, vault: Uuid) -> PathBuf {
        self.keys().join(format!("{vault}.key"))
    }

    /// The directory of the server's certificate and its authority.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// The Unix socket over which this host's administrators reach the service.
    pub fn socket(&self) -> PathBuf {
        self.0.join("strongroom.sock")
    }

    /// What the audit no longer keeps in the catalog.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// The directory of what can be found out again, and is faster when it need not be.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Pictures of machines' screens that drills took.
    pub fn screenshots(&self) -> PathBuf {
        self.0.join("screenshots")
    }

    /// One process at a time.
    pub fn lock(&self) -> Result<File> {
        let path = self.0.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        let until = Instant::now() + DATA_LOCK_WAIT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        format!("another strongroom is using {}: stop it, or talk to it", self.0.display()),
                    ));
                }
                Err(e) => return Err(Error::io(format!("locking {}", path.display()), e.into())),
            }
        }
    }
}
