//! Freezing file systems without the guest agent, and thawing only what was frozen here.
//!
//! Two processes look after it: this one, and a guardian that is forked before the first file system is frozen. Each thaws when
//! the other is gone; the guardian also when the time is over. What is frozen is written down in memory that both see.

use crate::mounts::Mount;
use crate::sys::{self, SharedFlags};
use crate::wire::Frozen;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

const UNTOUCHED: u8 = 0;
/// Being frozen; or frozen, and whoever did it was killed in this moment.
const BEGUN: u8 = 1;
const FROZEN: u8 = 2;
const THAWED_BY_GUARDIAN: u8 = 3;

/// Frozen file systems, until [`Hold::end`] or drop.
pub struct Hold {
    files: Vec<File>,
    flags: SharedFlags,
    guardian: libc::pid_t,
    line: Option<OwnedFd>,
}

impl Hold {
    /// Freezes, in this order. Nothing is left frozen when it fails.
    pub fn begin(mounts: &[Mount], limit: Duration) -> Result<(Self, Frozen), String> {
        sys::raise_descriptor_limit();
        let mut named = Vec::new();
        for mount in mounts {
            // One that cannot be opened (unmounted meanwhile) is none to freeze.
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            if let Ok(file) = options.open(&mount.path) {
                named.push((file, mount));
            }
        }
        let flags = SharedFlags::new(named.len()).map_err(|e| format!("no memory to be shared: {e}"))?;
        let (end, line) = sys::pipe().map_err(|e| format!("no pipe: {e}"))?;
        let files: Vec<File> = named
            .iter()
            .map(|(file, _)| file.try_clone())
            .collect::<Result<_, _>>()
            .map_err(|e| format!("too many file systems: {e}"))?;
        let guardian = match sys::fork().map_err(|e| format!("no guardian process: {e}"))? {
            Some(pid) => pid,
            None => {
                drop(line);
                guard(&files, &flags, &end, limit);
                sys::exit_now(0);
            }
        };
        drop(end);
        let hold = Self { files, flags, guardian, line: Some(line) };
        let mut frozen = Frozen::default();
        for (index, (file, mount)) in named.iter().enumerate() {
            hold.flags.set(index, BEGUN);
            match sys::freeze(file.as_raw_fd()) {
                Ok(()) => {
                    hold.flags.set(index, FROZEN);
                    frozen.count += 1;
                }
                Err(e) => {
                    hold.flags.set(index, UNTOUCHED);
                    match e.raw_os_error() {
                        Some(libc::EBUSY) => frozen.already += 1,
                        Some(libc::EOPNOTSUPP | libc::ENOTTY) => {}
                        // Those frozen so far are thawed by the drop.
                        _ => return Err(format!("`{}` could not be frozen: {e}", mount.path.display())),
                    }
                }
            }
        }
        if !hold.is_held() {
            return Err("freezing took longer than it may".into());
        }
        Ok((hold, frozen))
    }

    /// Whether everything is still frozen and looked after.
    pub fn is_held(&self) -> bool {
        !sys::has_ended(self.guardian)
            && !(0..self.files.len()).any(|i| self.flags.get(i) == THAWED_BY_GUARDIAN)
    }

    /// Thaws what was frozen here, and nothing else.
    pub fn end(mut self) -> Frozen {
        self.release()
    }

    fn release(&mut self) -> Frozen {
        let mut thawed = Frozen::default();
        for (index, file) in self.files.iter().enumerate().rev() {
            match self.flags.get(index) {
                FROZEN => {
                    self.flags.set(index, UNTOUCHED);
                    if sys::thaw(file.as_raw_fd()).is_ok() {
                        thawed.count += 1;
                    } else {
                        thawed.expired = true;
                    }
                }
                THAWED_BY_GUARDIAN => thawed.expired = true,
                _ => {}
            }
        }
        // The guardian ends with the line.
        drop(self.line.take());
        let until = Instant::now() + Duration::from_secs(2);
        while !sys::has_ended(self.guardian) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        thawed
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.line.is_some() {
            self.release();
        }
    }
}

/// The guardian: waits for the end of the line, or of the time.
fn guard(files: &[File], flags: &SharedFlags, line: &OwnedFd, limit: Duration) {
    sys::stand_alone();
    sys::close_standard_streams();
    let kept: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).chain([line.as_raw_fd()]).collect();
    sys::close_all_but(&kept);
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let [happened] = sys::wait([line.as_raw_fd()], left);
        if happened != 0 || left.is_zero() {
            break;
        }
    }
    // A freeze that was under way when its process was killed takes effect a moment later. One that goes on is waited for: it is
    // thawed when it is done.
    for _ in 0..3000 {
        let mut open = false;
        for (index, file) in files.iter().enumerate().rev() {
            match flags.get(index) {
                FROZEN => {
                    flags.set(index, THAWED_BY_GUARDIAN);
                    let _ = sys::thaw(file.as_raw_fd());
                }
                BEGUN => {
                    if sys::thaw(file.as_raw_fd()).is_ok() {
                        flags.set(index, THAWED_BY_GUARDIAN);
                    } else {
                        open = true;
                    }
                }
                _ => {}
            }
        }
        if !open {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Thaws file systems whoever froze them, the outermost first; answers how many were frozen.
pub fn thaw_all(mounts: &[Mount]) -> u32 {
    let mut count = 0;
    for mount in mounts.iter().rev() {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let Ok(file) = options.open(&mount.path) else { continue };
        if sys::thaw(file.as_raw_fd()).is_ok() {
            count += 1;
        }
    }
    count
}
