//! Machines on a host: list, inspect, snapshot at one instant with what changed, make anew.
//!
//! [`Hypervisor`] is the one trait; [`Libvirt`] implements it for QEMU machines under stock libvirt
//! (9.0 with QEMU 7.2 and newer). All calls block: put them on threads.
//!
//! What the crate promises about machines that are not its own business to change:
//!
//! - whatever fails in between, a machine is resumed and thawed, within [`limits::WINDOW_LIMIT`],
//!   even when this process is killed;
//! - a machine can always be started, stopped and written to while its snapshot is read; where that
//!   makes the snapshot useless, reading fails and the machine goes on;
//! - checkpoints, bitmaps, jobs and snapshots of others are left alone.
//!
//! Names, definitions and guests' answers are untrusted input everywhere.

mod error;
mod export;
mod extents;
mod files;
mod libvirt;
pub mod limits;
mod model;
mod snapshot;
mod text;
mod tools;

pub use error::{Error, Result};
pub use libvirt::{Libvirt, LibvirtOptions, new_definition};
pub use model::*;
pub use snapshot::{
    Changes, DiskParent, DiskSnapshot, MachineSnapshot, Outcome, Quiesce, ReadDisk, Road, SnapshotRequest,
    Timings, UseClones,
};

use std::time::Duration;

/// A host of virtual machines. Blocking; callers put it on threads.
pub trait Hypervisor: Send + Sync {
    /// All machines, by name.
    fn list(&self) -> Result<Vec<MachineSummary>>;

    fn inspect(&self, name: &str) -> Result<Machine>;

    /// Takes all supported disks of a machine at one instant.
    fn snapshot(&self, name: &str, request: &SnapshotRequest) -> Result<MachineSnapshot>;

    fn networks(&self) -> Result<Vec<Network>>;

    fn storage_pools(&self) -> Result<Vec<StoragePool>>;

    /// Lets a storage pool see what was put into it behind its back.
    fn refresh_pool(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Fails with [`Error::AlreadyExists`] when a machine has this name.
    fn name_is_free(&self, name: &str) -> Result<()>;

    /// Defines a machine from a saved definition. Never replaces one; does not start it.
    fn create(&self, request: &RestoreMachineRequest) -> Result<CreatedMachine>;

    fn start(&self, name: &str) -> Result<()>;

    /// Asks the guest to shut down and waits; [`Error::Busy`] when it did not in time.
    fn shutdown(&self, name: &str, timeout: Duration) -> Result<()>;

    /// Pulls the plug. Nothing happens to one that is off.
    fn power_off(&self, name: &str) -> Result<()>;

    /// Removes a machine that is shut off, with its checkpoint and snapshot metadata and UEFI
    /// variables; its disks stay.
    fn undefine(&self, name: &str) -> Result<()>;

    /// Waits until the guest agent answers; [`Error::Busy`] when it did not in time.
    fn wait_for_agent(&self, name: &str, timeout: Duration) -> Result<()>;

    /// Runs a program in the guest through its agent and waits for its end.
    fn guest_exec(
        &self,
        name: &str,
        program: &str,
        arguments: &[&str],
        timeout: Duration,
    ) -> Result<GuestOutput>;
}
