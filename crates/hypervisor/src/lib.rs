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

#![warn(missing_docs)]

mod error;
mod export;
mod extents;
mod files;
mod guest;
pub mod image;
mod instant;
mod kept;
mod libvirt;
pub mod limits;
mod model;
mod reader;
mod skipped;
mod snapshot;
mod text;
mod tools;
pub mod whole;

pub use error::{Error, Result};
pub use guest::{GuestReport, GuestVia, GuestWork, ScriptCode, ScriptRun};
pub use instant::{OverlayMachine, PullState, Screenshot, ThrowAway};
pub use kept::{KeptDisk, KeptSnapshot};
pub use libvirt::{Libvirt, LibvirtOptions, new_definition};
pub use model::*;
pub use reader::ReadDisk;
pub use skipped::{EXCLUDED, is_missed};
pub use snapshot::{
    Changes, DiskParent, DiskSnapshot, MachineSnapshot, Outcome, Quiesce, Road, SnapshotRequest, Timings,
    UseClones,
};

use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// A host of virtual machines. Blocking; callers put it on threads.
pub trait Hypervisor: Send + Sync {
    /// All machines, by name.
    fn list(&self) -> Result<Vec<MachineSummary>>;

    /// One machine, with its disks.
    fn inspect(&self, name: &str) -> Result<Machine>;

    /// [`inspect`](Self::inspect) for many that were just listed, at less cost for each: each is given to `each` as soon as
    /// it was looked at, with its place among `machines`. `each` answers whether to go on.
    fn inspect_each(
        &self,
        machines: &[MachineSummary],
        each: &mut dyn FnMut(usize, Result<Machine>) -> bool,
    ) -> Result<()> {
        for (at, machine) in machines.iter().enumerate() {
            if !each(at, self.inspect(&machine.name)) {
                break;
            }
        }
        Ok(())
    }

    /// Takes all supported disks of a machine at one instant.
    fn snapshot(&self, name: &str, request: &SnapshotRequest) -> Result<MachineSnapshot>;

    /// Opens a snapshot that was kept, whatever became of the machine meanwhile. Dropping it changes nothing.
    /// [`Error::Spoiled`]: it can never be read again.
    fn open_kept(&self, record: &Path) -> Result<(MachineSnapshot, KeptSnapshot)>;

    /// Does to the machine what [`MachineSnapshot::finish`] would have done: its change tracking goes on from here, or
    /// from the parent. The kept files stay. Returns warnings.
    fn conclude_kept(&self, record: &Path, outcome: Outcome) -> Result<Vec<String>>;

    /// Removes a kept snapshot's files. One that is gone is no error.
    fn remove_kept(&self, record: &Path) -> Result<()>;

    /// Kept snapshots in a directory, anybody's, the oldest first.
    fn kept_in(&self, directory: &Path) -> Result<Vec<KeptSnapshot>>;

    /// All networks.
    fn networks(&self) -> Result<Vec<Network>>;

    /// All storage pools.
    fn storage_pools(&self) -> Result<Vec<StoragePool>>;

    /// Lets a storage pool see what was put into it behind its back.
    fn refresh_pool(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Fails with [`Error::AlreadyExists`] when a machine has this name.
    fn name_is_free(&self, name: &str) -> Result<()>;

    /// Defines a machine from a saved definition. Never replaces one; does not start it.
    fn create(&self, request: &RestoreMachineRequest) -> Result<CreatedMachine>;

    /// Keeps a key where machines that are made here can use it. Never replaces one.
    fn make_secret(&self, _secret: &NewSecret) -> Result<()> {
        Err(Error::unsupported("this hypervisor", "it keeps no keys for encrypted disks"))
    }

    /// Removes a key that was kept.
    fn remove_secret(&self, _uuid: Uuid) -> Result<()> {
        Err(Error::unsupported("this hypervisor", "it keeps no keys for encrypted disks"))
    }

    /// Takes away all that snapshots left in a machine to follow its changes. The next one reads everything.
    fn untrack(&self, _name: &str) -> Result<Untracked> {
        Ok(Untracked::default())
    }

    /// What a machine that is shut off still has under way.
    fn unfinished(&self, _name: &str) -> Result<Option<Unfinished>> {
        Ok(None)
    }

    /// Throws the saved memory of a machine away: its next start is a boot.
    fn discard_saved_state(&self, _name: &str) -> Result<()> {
        Err(Error::unsupported("this hypervisor", "it saves no machine's memory"))
    }

    /// Starts a machine that is off.
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
    ) -> Result<GuestOutput> {
        self.guest_exec_while(name, program, arguments, timeout, &|| true)
    }

    /// The same, as long as `is_wanted` says so; then [`Error::Busy`], and the program goes on.
    fn guest_exec_while(
        &self,
        name: &str,
        program: &str,
        arguments: &[&str],
        timeout: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<GuestOutput>;

    /// Where exports that machines are to run from listen: a path that their hypervisor's user can reach, the same for
    /// the same `id` (letters, digits, hyphens).
    fn export_socket(&self, _id: &str) -> Result<PathBuf> {
        Err(no_instant())
    }

    /// Gives a socket, and nothing else, to the hypervisor's user.
    fn hand_over_socket(&self, _path: &Path) -> Result<()> {
        Err(no_instant())
    }

    /// Defines a machine over exports, and starts it. Never replaces one.
    fn start_over_exports(&self, _wanted: &OverlayMachine) -> Result<CreatedMachine> {
        Err(no_instant())
    }

    /// Starts such a machine again that is defined and off.
    fn start_over_exports_again(&self, _wanted: &OverlayMachine) -> Result<()> {
        Err(no_instant())
    }

    /// Starts a machine over exports that ends when the answer is dropped or this process ends. It is isolated: without
    /// networks, host devices, shared directories. [`list`](Self::list) does not show it.
    fn start_throw_away(&self, _wanted: &OverlayMachine) -> Result<ThrowAway> {
        Err(no_instant())
    }

    /// Whether a running machine's disk still needs its export.
    fn pull_state(&self, _name: &str, _target: &str) -> Result<PullState> {
        Err(no_instant())
    }

    /// Begins to move all of a disk's data into its own image; it ends by itself.
    fn begin_pull(&self, _name: &str, _target: &str) -> Result<()> {
        Err(no_instant())
    }

    /// Lets a machine go on that was paused because its disks could not be read or written; says whether it was.
    fn resume_after_io_error(&self, _name: &str) -> Result<bool> {
        Err(no_instant())
    }

    /// A picture of a running machine's screen.
    fn screenshot(&self, _name: &str) -> Result<Screenshot> {
        Err(no_instant())
    }
}

fn no_instant() -> Error {
    Error::unsupported("this hypervisor", "it cannot run machines before their disks are there")
}
