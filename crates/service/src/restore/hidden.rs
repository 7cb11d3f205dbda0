//! Files beside a machine's disks that are not its disks yet.

use crate::core::error::{Error, Result};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use strongroom_catalog::Job;

pub(crate) fn hidden_name(disk: &Path, job: &Job) -> Result<PathBuf> {
    let name = disk.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", disk.display())))?;
    Ok(disk.with_file_name(format!(".{}.strongroom-new-{}", name.to_string_lossy(), job.id.simple())))
}

/// Owner and permissions of the one whose place it takes.
pub(crate) fn like(new: &Path, old: &Path) -> Result<()> {
    let failed =
        |e| Error::io(format!("giving {} the owner and permissions of {}", new.display(), old.display()), e);
    let before = fs::metadata(old).map_err(failed)?;
    // By the file itself: its name may be another's by then.
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = fs::File::options().read(true).write(true).custom_flags(flags).open(new).map_err(failed)?;
    fchown(&file, Some(before.uid()), Some(before.gid())).map_err(failed)?;
    file.set_permissions(before.permissions()).map_err(failed)
}
