//! Where libvirt is, and where things of ours are beside it.

use crate::limits::LIBVIRT_RETURN_TIMEOUT;
use std::path::PathBuf;
use std::time::Duration;

/// Where libvirt is, and where this crate keeps what lives as long as a snapshot.
#[derive(Debug, Clone)]
pub struct LibvirtOptions {
    /// libvirt's own name of where it is.
    pub uri: String,
    /// Locks and sockets. Made when missing; root's alone.
    pub run_dir: PathBuf,
    /// Where libvirt's QEMU driver keeps running machines' own directories.
    pub qemu_dir: PathBuf,
    /// How long a backup that is under way waits for a libvirt that went away.
    pub return_timeout: Duration,
}

impl Default for LibvirtOptions {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".into(),
            run_dir: "/run/strongroom".into(),
            qemu_dir: "/var/lib/libvirt/qemu".into(),
            return_timeout: LIBVIRT_RETURN_TIMEOUT,
        }
    }
}
