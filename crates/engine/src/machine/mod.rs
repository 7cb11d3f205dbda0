//! Machines: listing them, backing them up, restoring them as new ones.
//!
//! - [`backup`]: all disks of a machine at one instant become a recovery point; only what changed since the last
//!   one is read where that is known.
//! - [`restore`]: a point becomes a new machine, or nothing at all.
//! - [`list`]: what machines there are, and when each was backed up last.
//!
//! A point of a machine can be restored without the host, the machine or the service it was made with: everything that
//! is needed is in its manifest ([`record`]).

mod backup;
pub mod definition;
pub mod encryption;
mod exports;
mod facts;
pub mod instant;
mod kept;
mod list;
mod parent;
pub mod record;
mod restore;
mod storage;
mod transfer;

pub use backup::not_tidied;
pub use backup::{BackupOptions, MachineBackup, SnapshotTaken, TakenMachine, backup, take, transfer_kept};
pub use facts::{Facts, SPOILED};
pub use kept::manifest_of_kept;
pub use list::{ListedMachine, list};
pub use restore::{
    DiskRestore, MachineRestore, Planned, PlannedFile, RestoreOptions, RestorePlan, remove_unfinished,
    restore, restore_from,
};
pub use restore::{firmware_of, missed_disks, nvram_of};
pub use storage::check_machine_name as check_name;
pub use transfer::DiskBackup;

use crate::error::{Error, ErrorKind};

impl From<strongroom_hypervisor::Error> for Error {
    fn from(error: strongroom_hypervisor::Error) -> Self {
        use strongroom_hypervisor::Error as Hypervisor;
        let kind = match &error {
            Hypervisor::NotFound { .. } => ErrorKind::NotFound,
            Hypervisor::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Hypervisor::Busy { .. } => ErrorKind::Busy,
            Hypervisor::Unsupported { .. } => ErrorKind::Unsupported,
            Hypervisor::Denied { .. } => ErrorKind::Denied,
            Hypervisor::Unavailable { .. } => ErrorKind::Unavailable,
            Hypervisor::Spoiled { .. } => ErrorKind::Corrupt,
            Hypervisor::Failed { .. } => ErrorKind::Failed,
            // Azure's number and name, and what to do, as they are.
            Hypervisor::Script { code, .. } => {
                let code = *code;
                return Self::new(ErrorKind::Failed, error.to_string())
                    .coded(code.name())
                    .numbered(code.number().into(), code.advice())
                    .caused_by(error);
            }
        };
        let mut message = error.to_string();
        if matches!(&error, Hypervisor::NotFound { what } if what.starts_with("machine ")) {
            message.push_str("; `strongroom vm list` shows the machines that are there");
        }
        let is_spoiled = matches!(error, Hypervisor::Spoiled { .. });
        let made = Self::new(kind, message).caused_by(error);
        if is_spoiled { made.coded(SPOILED) } else { made }
    }
}
