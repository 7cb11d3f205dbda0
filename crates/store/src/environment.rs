//! What a vault needs from the world besides storage: clocks, randomness, and who else is alive.
//! It comes in from outside, so that a test can run years of leases in a second.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strongroom_domain::{PointId, SessionId, VaultId};
use uuid::Uuid;

/// Clocks, identifiers and processes.
pub trait Environment: Send + Sync {
    /// Civil time: for what people read, and for comparing with the object store's own times.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment, going on while the machine sleeps.
    fn elapsed(&self) -> Duration;
    /// One that nobody has.
    fn new_session_id(&self) -> SessionId;
    /// One that nobody has. Those of the real world order by time.
    fn new_point_id(&self) -> PointId;
    /// One that nobody has.
    fn new_vault_id(&self) -> VaultId;
    /// This process, as others on the same host can recognise it.
    fn process(&self) -> ProcessIdentity;
    /// Whether a process is known to be gone: `Some(true)` only if it ran on this very host and boot.
    fn is_gone(&self, process: &ProcessIdentity) -> bool;
}

/// A process on a host. Two with equal `host` share a process namespace and a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Machine, boot and process namespace, joined.
    pub host: String,
    /// Its number, in its process namespace.
    pub pid: u32,
    /// When the process began, in clock ticks since boot: tells it from a later one with its number.
    pub process_start: u64,
}

/// The real world.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl Environment for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    }

    fn new_session_id(&self) -> SessionId {
        SessionId::from_uuid(Uuid::new_v4())
    }

    fn new_point_id(&self) -> PointId {
        PointId::from_uuid(Uuid::now_v7())
    }

    fn new_vault_id(&self) -> VaultId {
        VaultId::from_uuid(Uuid::new_v4())
    }

    fn process(&self) -> ProcessIdentity {
        let pid = std::process::id();
        ProcessIdentity {
            host: host_identity(),
            pid,
            process_start: stat(pid).and_then(|s| start_in(&s)).unwrap_or(0),
        }
    }

    fn is_gone(&self, process: &ProcessIdentity) -> bool {
        !process.host.is_empty()
            && process.host == host_identity()
            && match stat(process.pid) {
                Some(stat) => start_in(&stat) != Some(process.process_start),
                // /proc may hide the processes of others: nothing there does not mean that there is none.
                None => !exists(process.pid),
            }
    }
}

/// Empty if any part is not to be had: then no process is ever taken for gone.
fn host_identity() -> String {
    let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok().map(|p| p.display().to_string());
    match (read("/proc/sys/kernel/random/boot_id"), namespace) {
        (Some(boot), Some(namespace)) if !boot.is_empty() => {
            let machine = read("/etc/machine-id").unwrap_or_default();
            format!("{machine}/{boot}/{namespace}")
        }
        _ => String::new(),
    }
}

/// Whether a process has this number, whoever's it is.
fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

fn stat(pid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// Field 22 of /proc/PID/stat; the process's name before it may hold anything, so count from its end.
fn start_in(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A zombie no longer does anything.
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_living_from_the_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = System.process();
        let start = start_in(&stat(child.id()).unwrap()).unwrap();
        let other = ProcessIdentity { pid: child.id(), process_start: start, ..me.clone() };
        assert!(!System.is_gone(&me) && !System.is_gone(&other));
        assert!(System.is_gone(&ProcessIdentity { process_start: start + 1, ..other.clone() }));
        assert!(exists(1) && exists(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(System.is_gone(&other) && !exists(other.pid));
        assert!(!System.is_gone(&ProcessIdentity { host: "elsewhere".into(), ..other }));
    }
}
