//! The few system calls that the standard library does not offer. No decisions are taken here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Repeats a call that a signal interrupted.
pub fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        let answer = call();
        if answer >= 0 {
            return Ok(answer);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What is known of an open file.
pub fn fstat(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: zeroes are a valid stat, the pointer is to it.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        retry(|| libc::fstat(fd, &mut stat))?;
        Ok(stat)
    }
}

/// A pipe whose ends are not inherited; its reading end does not block.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, each owned once.
    unsafe {
        retry(|| libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        let (reader, writer) = (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]));
        let flags = retry(|| libc::fcntl(ends[0], libc::F_GETFL))?;
        retry(|| libc::fcntl(ends[0], libc::F_SETFL, flags | libc::O_NONBLOCK))?;
        Ok((reader, writer))
    }
}

/// Reads what is there. `Ok(None)`: nothing now. `Ok(Some(0))`: the end.
pub fn read(fd: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: the buffer is valid for its length.
        let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if count >= 0 {
            return Ok(Some(count as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Waits until one of the descriptors can be read, or has hung up; answers what each has to say.
pub fn wait<const N: usize>(fds: [RawFd; N], at_most: Duration) -> [i16; N] {
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let milliseconds = i32::try_from(at_most.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the array lives during the call. A signal only makes it shorter.
    unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
    polls.map(|p| p.revents)
}

/// A second process of this program. `Ok(None)` in the child.
///
/// Sound because the program has one thread.
pub fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: no other thread holds a lock that the child would miss.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// Whether a child has ended.
pub fn has_ended(pid: libc::pid_t) -> bool {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// Takes note of every child that has ended.
pub fn reap_all() {
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Sends a signal.
pub fn kill(pid: libc::pid_t, signal: libc::c_int) {
    if pid != 0 && pid != -1 {
        // SAFETY: a plain call; that the process has ended is no matter.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Orphans among our descendants become our children.
pub fn become_subreaper() {
    // SAFETY: a plain call; without it orphans go to init and are missed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Makes this process one of its own: no terminal, no group, no memory that can be paged out, nobody's first choice when memory
/// runs out, and not in the control group of the service that started it, with which it would be killed.
pub fn stand_alone() {
    // SAFETY: plain calls; each is a help, none a must.
    unsafe {
        libc::setsid();
        libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    for groups in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        let _ = std::fs::write(format!("{groups}/cgroup.procs"), "0");
    }
}

/// Lets go of the standard streams, on which somebody may wait for the end.
pub fn close_standard_streams() {
    let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else { return };
    for stream in 0..3 {
        // SAFETY: valid descriptors.
        let _ = retry(|| unsafe { libc::dup2(null.as_raw_fd(), stream) });
    }
}

/// Lets go of every descriptor but the standard streams and these. For a process that only ends by [`exit_now`]: whatever owned
/// the descriptors must not be dropped after it.
pub fn close_all_but(kept: &[RawFd]) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: by the function's contract. One of them was the listing's, and is closed already.
        unsafe { libc::close(fd) };
    }
}

/// Writes what file systems have cached to their disks.
pub fn sync() {
    // SAFETY: a plain call.
    unsafe { libc::sync() };
}

/// The limit of descriptors as high as it may be: one a file system is needed.
pub fn raise_descriptor_limit() {
    // SAFETY: valid pointers to a plain structure.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// Stops writing to a file system; blocks until what is under way is on its disk.
pub fn freeze(fd: RawFd) -> io::Result<()> {
    let mut zero: libc::c_int = 0;
    // SAFETY: the kernel takes a pointer it does not follow.
    retry(|| unsafe { libc::ioctl(fd, FIFREEZE as _, &mut zero) }).map(drop)
}

/// Lets writing go on. EINVAL: it was not frozen.
pub fn thaw(fd: RawFd) -> io::Result<()> {
    let mut zero: libc::c_int = 0;
    // SAFETY: as above.
    retry(|| unsafe { libc::ioctl(fd, FITHAW as _, &mut zero) }).map(drop)
}

/// Memory that this process shares with those it forks.
pub struct SharedFlags {
    bytes: *const std::sync::atomic::AtomicU8,
    length: usize,
}

impl SharedFlags {
    /// All zero.
    pub fn new(length: usize) -> io::Result<Self> {
        let length = length.max(1);
        // SAFETY: a fresh mapping, which is never unmapped while it is used.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { bytes: at.cast(), length })
    }

    fn flag(&self, index: usize) -> &std::sync::atomic::AtomicU8 {
        assert!(index < self.length);
        // SAFETY: inside the mapping; an atomic byte is valid at any address and for any value.
        unsafe { &*self.bytes.add(index) }
    }

    /// Writes one.
    pub fn set(&self, index: usize, value: u8) {
        self.flag(index).store(value, std::sync::atomic::Ordering::SeqCst);
    }

    /// Reads one.
    pub fn get(&self, index: usize) -> u8 {
        self.flag(index).load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Drop for SharedFlags {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; nobody refers to it any more.
        unsafe { libc::munmap(self.bytes.cast_mut().cast(), self.length) };
    }
}

/// A moment in the life of the system that no clock change moves, and that stands still while the machine is paused.
pub fn start_time(pid: libc::pid_t) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; behind its closing bracket comes the state, field 3.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The parent of a process.
pub fn parent_of(pid: libc::pid_t) -> Option<libc::pid_t> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
