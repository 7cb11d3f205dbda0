//! The warden's number: nobody is to take it for what a script left behind.

use std::sync::atomic::{AtomicI32, Ordering};

static WARDEN: AtomicI32 = AtomicI32::new(0);

/// Of the warden that this process started.
pub fn set_warden(pid: libc::pid_t) {
    WARDEN.store(pid, Ordering::Relaxed);
}

/// Whether a process is this one's warden.
pub fn is_warden(pid: libc::pid_t) -> bool {
    WARDEN.load(Ordering::Relaxed) == pid
}
