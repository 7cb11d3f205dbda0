//! Index runs of a store that is far away, kept in a directory of the user's. They never change, so one that was fetched is not
//! fetched again; processes share them.
//!
//! `DIRECTORY/VAULT/index/RUN`: the object's bytes. One comes there whole, once its mac was found right; what has not been used
//! for longest goes when there is too much. Nothing is lost with any of it, nor with all.

use crate::limits::INDEX_KEPT_MAX_BYTES;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use strongroom_domain::VaultId;

/// Where a vault's runs are kept.
#[derive(Debug, Clone)]
pub struct KeptRuns {
    directory: PathBuf,
    /// Where all vaults' are.
    all: PathBuf,
}

impl KeptRuns {
    pub fn of(vault: &VaultId, directory: &Path) -> Self {
        Self { directory: directory.join(vault.to_string()).join("index"), all: directory.to_owned() }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let file = name.rsplit('/').next().filter(|file| !file.is_empty() && !file.starts_with('.'))?;
        Some(self.directory.join(file))
    }

    /// A run that is kept, if it is as long as it should be. From now on it counts as used.
    pub fn open(&self, name: &str, size: u64) -> Option<File> {
        let path = self.path(name)?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).ok()?;
        if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == size) {
            self.forget(name);
            return None;
        }
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// It is not what it should be: the next who needs it fetches it.
    pub fn forget(&self, name: &str) {
        if let Some(path) = self.path(name) {
            let _ = fs::remove_file(path);
        }
    }

    /// A file to fetch a run into; nobody sees it before it is [kept](Self::keep).
    pub fn new_file(&self) -> io::Result<tempfile::NamedTempFile> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // Whoever may write there says what this user reads of the vault.
        if fs::metadata(&self.directory)?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("its directory is another user's"));
        }
        tempfile::Builder::new().prefix(".").tempfile_in(&self.directory)
    }

    /// Keeps a run whose mac was found right.
    pub fn keep(&self, name: &str, file: tempfile::NamedTempFile) {
        let Some(path) = self.path(name) else { return };
        // A file that came to be before its bytes did would be taken for whole.
        let done = file.as_file().sync_data().and_then(|()| Ok(file.persist(&path)?));
        if let Err(error) = done {
            tracing::debug!(%error, "an index run is not kept");
            return;
        }
        self.make_room(INDEX_KEPT_MAX_BYTES);
    }

    /// The same, of a run that is in memory.
    pub fn keep_bytes(&self, name: &str, bytes: &[u8]) {
        match self.new_file().and_then(|mut file| file.write_all(bytes).map(|()| file)) {
            Ok(file) => self.keep(name, file),
            Err(error) => tracing::debug!(%error, "an index run is not kept"),
        }
    }

    /// Lets go of what has not been used for longest, until all vaults' runs take no more than `most` bytes.
    fn make_room(&self, most: u64) {
        let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for vault in fs::read_dir(&self.all).into_iter().flatten().flatten() {
            let is_vaults = vault.file_name().to_str().is_some_and(|name| name.parse::<VaultId>().is_ok());
            let directory = vault.path().join("index");
            // No link is followed: it may lead anywhere.
            let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            if !is_vaults || !is_directory(&vault.path()) || !is_directory(&directory) {
                continue;
            }
            for run in fs::read_dir(directory).into_iter().flatten().flatten() {
                let Ok(found) = run.metadata() else { continue };
                if !found.is_file() {
                    continue;
                }
                let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                kept.push((used, found.len(), run.path()));
            }
        }
        let mut total: u64 = kept.iter().map(|(_, size, _)| size).sum();
        kept.sort();
        for (_, size, path) in kept {
            if total <= most {
                return;
            }
            // Who has it open reads on.
            if fs::remove_file(&path).is_ok() {
                total -= size;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn put(kept: &KeptRuns, name: &str, bytes: &[u8], age_seconds: u64) {
        let mut file = kept.new_file().unwrap();
        file.write_all(bytes).unwrap();
        file.as_file().set_modified(SystemTime::now() - Duration::from_secs(age_seconds)).unwrap();
        kept.keep(name, file);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let one = KeptRuns::of(&VaultId::from_bytes([1; 16]), directory.path());
        let other = KeptRuns::of(&VaultId::from_bytes([2; 16]), directory.path());
        put(&one, "index/a", &[0; 100], 500);
        put(&one, "index/b", &[0; 100], 400);
        put(&other, "index/c", &[0; 100], 300);
        assert!(one.open("index/a", 100).is_some(), "used now");
        one.make_room(200);
        assert!(one.open("index/a", 100).is_some());
        assert!(one.open("index/b", 100).is_none());
        assert!(other.open("index/c", 100).is_some());
    }

    #[test]
    fn one_of_another_length_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptRuns::of(&VaultId::from_bytes([1; 16]), directory.path());
        put(&kept, "index/a", b"whole", 0);
        assert!(kept.open("index/a", 6).is_none());
        assert!(kept.open("index/a", 5).is_none(), "it was let go");
        for name in ["", "index/", "index/..", "index/.a"] {
            assert!(kept.path(name).is_none(), "{name}");
        }
    }
}
