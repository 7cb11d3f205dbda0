//! Threads of a backup leave the processor to others.

use crate::limits::BACKUP_NICENESS;

/// Machines that run on this host go first: a backup takes what processor time they leave. (The kernel keeps this for
/// each thread.)
pub fn step_aside() {
    let _ = rustix::process::nice(BACKUP_NICENESS);
}
