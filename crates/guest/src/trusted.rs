//! Files that root alone can have put there. They are opened once, from the root directory on, one name after the other
//! without following symbolic links; what is checked is the open file, and that open file is what is read or run.

use crate::limits::PATH_BYTES_MAX;
use crate::sys;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// What the file is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Mode 600 at most.
    Read,
    /// Mode 700 at most, and its owner may run it.
    Run,
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    NotFound(String),
    /// Somebody other than root could have a hand in it.
    Untrusted(String),
    /// Why it is not used.
    Other(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::NotFound(why) | Self::Untrusted(why) | Self::Other(why)) = self;
        f.write_str(why)
    }
}

/// Opens `path` for reading, if root owns it and nobody else can change it or what leads to it.
pub fn open(path: &Path, purpose: Use) -> Result<File, Refusal> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Refusal::Other(format!("`{shown}` is not an absolute path")));
    }
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(Refusal::Other(format!("a path of {} bytes is too long", path.as_os_str().len())));
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            _ => return Err(Refusal::Other(format!("`{shown}` has `..` in it: give the plain path"))),
        }
    }
    let Some(last) = names.pop() else {
        return Err(Refusal::Other(format!("`{shown}` is a directory")));
    };
    const WAY: i32 = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut so_far = std::path::PathBuf::from("/");
    let mut directory = open_at(libc::AT_FDCWD, OsStr::new("/"), WAY).map_err(|e| refused(&so_far, &e))?;
    check_directory(&directory, &so_far)?;
    for name in names {
        so_far.push(name);
        directory = match open_at(directory.as_raw_fd(), name, WAY) {
            Ok(next) => next,
            Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) && so_far.is_symlink() => {
                return Err(link(&so_far));
            }
            Err(e) => return Err(refused(&so_far, &e)),
        };
        check_directory(&directory, &so_far)?;
    }
    // Not blocked by a pipe that somebody put there.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let file = match open_at(directory.as_raw_fd(), last, flags) {
        Ok(fd) => File::from(fd),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(link(path)),
        Err(e) => return Err(refused(path, &e)),
    };
    let meta = file.metadata().map_err(|e| refused(path, &e))?;
    if !meta.is_file() {
        return Err(Refusal::Untrusted(format!("`{shown}` is not a plain file")));
    }
    if meta.uid() != 0 {
        return Err(Refusal::Untrusted(format!("`{shown}` belongs to user {}, not to root", meta.uid())));
    }
    let mode = meta.mode() & 0o7777;
    let (wanted, forbidden) = match purpose {
        Use::Read => (0o600, 0o7177),
        Use::Run => (0o700, 0o7077),
    };
    if mode & forbidden != 0 || purpose == Use::Run && mode & 0o500 != 0o500 {
        return Err(Refusal::Untrusted(format!("`{shown}` has mode {mode:o}; it must be {wanted:o}")));
    }
    Ok(file)
}

fn open_at(directory: i32, name: &OsStr, flags: i32) -> std::io::Result<OwnedFd> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: a valid string; the result is checked and owned once.
    let fd = sys::retry(|| unsafe { libc::openat(directory, name.as_ptr(), flags) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check_directory(directory: &OwnedFd, path: &Path) -> Result<(), Refusal> {
    let stat = sys::fstat(directory.as_raw_fd()).map_err(|e| refused(path, &e))?;
    let shown = path.display();
    if stat.st_uid != 0 {
        return Err(Refusal::Untrusted(format!(
            "the directory `{shown}` belongs to user {}, not to root",
            stat.st_uid
        )));
    }
    let by_group = stat.st_mode & 0o020 != 0 && stat.st_gid != 0;
    if stat.st_mode & 0o002 != 0 || by_group {
        return Err(Refusal::Untrusted(format!(
            "the directory `{shown}` can be changed by others than root"
        )));
    }
    Ok(())
}

fn link(path: &Path) -> Refusal {
    Refusal::Untrusted(format!("`{}` is a symbolic link: give the real path", path.display()))
}

fn refused(path: &Path, error: &std::io::Error) -> Refusal {
    let shown = path.display();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Refusal::NotFound(format!("there is no `{shown}`")),
        Some(libc::ELOOP) => link(path),
        _ => Refusal::Other(format!("`{shown}` cannot be opened: {error}")),
    }
}
