//! Why a drive is not in a snapshot.

/// It was not to be: see [`MachineSnapshot::skipped`](crate::MachineSnapshot::skipped).
pub const EXCLUDED: &str = "it is excluded";
/// Drives whose media never were the machine's data.
pub const CDROM: &str = "it is a CD-ROM drive";
pub const FLOPPY: &str = "it is a floppy drive";
pub const NO_MEDIUM: &str = "it has no medium";

/// Whether a disk that was left out for this reason holds data that a user would look for in a backup.
pub fn is_missed(reason: &str) -> bool {
    ![EXCLUDED, CDROM, FLOPPY, NO_MEDIUM].contains(&reason)
}
