//! The system calls that make a local put atomic and durable.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, StatxFlags};

use super::error::LocalIo;
use super::limits::PUBLISH_ATTEMPTS;

type Result<T> = std::result::Result<T, LocalIo>;

/// What a put does when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Fail with `AlreadyExists`.
    Keep,
    /// Replace it in one step.
    Replace,
}

/// A directory's identity, which a later one of the same inode number does not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DirId {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

/// A temporary file, removed unless it was put into place. Holding it open keeps its lock.
pub(super) struct Temp {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) kept: bool,
}

impl Temp {
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The one step that makes an object exist.
pub(super) fn place(temp: &Temp, dir: &OwnedFd, file_name: &Path, existing: Existing) -> io::Result<()> {
    if existing == Existing::Replace {
        return Ok(rustix::fs::renameat(CWD, &temp.path, dir, file_name)?);
    }
    match rustix::fs::renameat_with(CWD, &temp.path, dir, file_name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        // NFS and some FUSE file systems don't know the flag; a hard link is as atomic.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::linkat(CWD, &temp.path, dir, file_name, AtFlags::empty()) {
        Ok(()) => {}
        // NFS may answer a repeated request that it has carried out before: is it our own file?
        Err(rustix::io::Errno::EXIST) if is_same_file(&temp.file, dir, file_name) => {}
        Err(e @ (rustix::io::Errno::EXIST | rustix::io::Errno::NOENT)) => return Err(e.into()),
        Err(e @ (rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "this file system can neither rename without replacing nor hard-link ({e}), \
                     so a vault can't be kept safely on it"
                ),
            ));
        }
        Err(e) => return Err(e.into()),
    }
    let _ = fs::remove_file(&temp.path);
    Ok(())
}

fn is_same_file(file: &File, dir: &OwnedFd, file_name: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) =
        (file.metadata(), rustix::fs::statat(dir, file_name, AtFlags::SYMLINK_NOFOLLOW))
    else {
        return false;
    };
    ours.dev() == theirs.st_dev && ours.ino() == theirs.st_ino
}

pub(super) fn open_dir(dir: &Path) -> Result<OwnedFd> {
    rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LocalIo::new("open directory", dir, e))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(fd: &OwnedFd, dir: &Path) -> Result<()> {
    match rustix::fs::fsync(fd) {
        Ok(()) => Ok(()),
        // Some network file systems have no such thing: their servers answer for it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(LocalIo::new("sync directory", dir, e)),
    }
}

/// Who a directory is, if the file system can tell it from a later one with the same inode number.
pub(super) fn dir_id(fd: &OwnedFd) -> Option<DirId> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted).ok()?;
    (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some(DirId {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
    })
}

/// `mkdir -p` whose result survives power loss.
pub(super) fn make_dirs_durably(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir).map_err(|e| LocalIo::new("resolve", dir, e))?;
    let mut missing = Vec::new();
    let mut at = dir.as_path();
    while !at.exists() {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for made in missing.into_iter().rev() {
        match fs::create_dir(made) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(LocalIo::new("make directory", made, e)),
        }
        if let Some(parent) = made.parent() {
            sync_dir(&open_dir(parent)?, parent)?;
        }
    }
    Ok(())
}

/// `mkdir -p` while others remove directories that have become empty: one that is there when it is to be made and
/// gone when it is looked at makes `create_dir_all` fail with `AlreadyExists`.
pub(super) fn make_dirs_beside_removals(dir: &Path) -> Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match fs::create_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempts < PUBLISH_ATTEMPTS => {}
            Err(e) => return Err(LocalIo::new("make directory", dir, e)),
        }
    }
}
