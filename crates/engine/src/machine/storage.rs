//! Where the disks of a restored machine go.

use super::record::DiskRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MACHINE_NAME_MAX_BYTES;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use strongroom_hypervisor::{DiskFormat, Hypervisor};
use strongroom_store::Disk;

/// Where libvirt keeps images by default.
const LIBVIRT_IMAGES: &str = "/var/lib/libvirt/images";

/// A directory for restored disks. One that was made for it goes again unless it is kept.
pub struct Storage {
    pub directory: PathBuf,
    made: bool,
}

impl Storage {
    /// The directory that was asked for, made if only it itself is missing; else [`choose`]'s.
    pub fn open(wanted: Option<&Path>, hypervisor: &dyn Hypervisor, disks: &[&Disk]) -> Result<Self> {
        let Some(wanted) = wanted else {
            return Ok(Self { directory: choose(hypervisor, disks)?, made: false });
        };
        let shown = wanted.display();
        let failed = |e| Error::io(format!("looking at directory {shown}"), e);
        let directory = std::path::absolute(wanted).map_err(failed)?;
        if directory.to_str().is_none() {
            return Err(Error::invalid(format!("{shown}: libvirt only takes paths that are valid UTF-8")));
        }
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { directory, made: false }),
            Ok(_) => Err(Error::invalid(format!(
                "{shown} is not a directory; give the directory for the restored disks"
            ))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // The hypervisor's user passes through, and sees nothing else.
                DirBuilder::new().mode(0o711).create(&directory).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => Error::not_found(format!(
                        "directory {shown} does not exist, nor does the one it would be made in; make it first"
                    )),
                    _ => Error::io(format!("making directory {shown}"), e),
                })?;
                Ok(Self { directory, made: true })
            }
            Err(e) => Err(failed(e)),
        }
    }

    pub fn keep(mut self) {
        self.made = false;
    }

    pub fn disk_path(&self, machine: &str, target: &str, format: DiskFormat) -> PathBuf {
        self.directory.join(format!("{machine}-{target}.{}", format.name()))
    }

    pub fn nvram_path(&self, machine: &str) -> PathBuf {
        self.directory.join(format!("{machine}-uefi-variables.fd"))
    }

    /// What would keep the hypervisor's own user from reaching files here.
    pub fn barriers(&self) -> Option<String> {
        let real = fs::canonicalize(&self.directory).ok()?;
        let barred =
            real.ancestors().find(|d| fs::metadata(d).is_ok_and(|m| m.permissions().mode() & 0o001 == 0))?;
        Some(format!(
            "directory {0} lets no other user through: where QEMU runs as its own user, the machine will not start until `chmod o+x {0}`",
            barred.display()
        ))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if self.made {
            // Only ever an empty one.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// Where the machine's first disk was, if that directory is there; else libvirt's pool `default`; else libvirt's own directory.
fn choose(hypervisor: &dyn Hypervisor, disks: &[&Disk]) -> Result<PathBuf> {
    let before = disks.iter().find_map(|disk| {
        let record = DiskRecord::of(disk);
        let directory = PathBuf::from(record.source?).parent()?.to_owned();
        // Block devices come without a file system to put files on.
        (!record.source_is_block && directory.is_absolute() && directory.is_dir()).then_some(directory)
    });
    if let Some(directory) = before {
        return Ok(directory);
    }
    let pools = hypervisor.storage_pools().unwrap_or_default();
    let pool = pools.into_iter().find(|p| p.name == "default" && p.active).and_then(|p| p.path);
    let candidates = [pool, Some(LIBVIRT_IMAGES.into())];
    candidates.into_iter().flatten().find(|directory| directory.is_dir()).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "there is no directory to restore to: neither the machine's old one nor libvirt's; give one with --storage",
        )
    })
}

/// Names become file names, and libvirt's.
pub fn check_machine_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MACHINE_NAME_MAX_BYTES {
        "it is too long"
    } else if name.contains('/') || name.starts_with('.') {
        "it has a `/`, or a dot at its beginning"
    } else if name.chars().any(char::is_control) || name.trim() != name {
        "it has control characters, or a blank at an end"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Error::invalid(format!("`{shown}` cannot be a machine's name: {reason}; choose another")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["web01-restored", "Büro PC", "a.b"] {
            check_machine_name(good).unwrap();
        }
        for bad in ["", "../x", "a/b", ".hidden", "a\nb", " a", &"x".repeat(201)] {
            assert!(check_machine_name(bad).is_err(), "{bad:?}");
        }
    }
}
