//! The process that a preparation leaves behind. It ends with the session; if nobody ends that in time, it thaws what the
//! guest agent has frozen, and runs the post-script.
//!
//! It needs nothing from disk any more, is in no service's control group, and ignores requests to end.

use crate::hold;
use crate::limits::WARDEN_TICK;
use crate::mounts::{self, Mount};
use crate::pid;
use crate::session::{State, finish_overdue};
use crate::sys;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the warden is to look after.
#[derive(Debug, Clone)]
pub struct Watch {
    /// From its arming on, and of any freeze.
    pub limit: Duration,
    /// These file systems instead of all.
    pub only: Vec<PathBuf>,
    /// Where the guest agent keeps its state; found out where it is not said.
    pub agent_state: Option<PathBuf>,
}

/// A warden that waits for the preparation to be over.
pub struct Warden {
    /// Its number.
    pub pid: libc::pid_t,
    arm: OwnedFd,
}

impl Warden {
    /// Forks it. `output`: the scripts' output, which it reads on so that what a script left behind can print.
    pub fn start(state: &State, watch: &Watch, output: &OwnedFd) -> std::io::Result<Self> {
        let (armed, arm) = sys::pipe()?;
        match sys::fork()? {
            Some(pid) => {
                pid::set_warden(pid);
                Ok(Self { pid, arm })
            }
            None => {
                drop(arm);
                sys::stand_alone();
                sys::close_standard_streams();
                sys::close_all_but(&[armed.as_raw_fd(), output.as_raw_fd()]);
                keep(state, watch, &armed, output);
                sys::exit_now(0);
            }
        }
    }

    /// Its time begins. (So it does when this process is killed.)
    pub fn arm(self) {
        drop(self.arm);
    }
}

/// Whether the guest agent says that it has frozen.
enum Agent {
    /// The file that is there while it has.
    Says(PathBuf),
    Unknown,
}

impl Agent {
    fn find(watch: &Watch) -> Self {
        let mut places: Vec<PathBuf> = watch.agent_state.clone().into_iter().collect();
        if places.is_empty() {
            places = directories_named_by_agents();
            places.extend(["/run", "/var/run", "/var/lib/qemu-ga"].map(PathBuf::from));
        }
        let found = places.into_iter().find(|p| p.join("qga.state").exists());
        found.map_or(Self::Unknown, |p| Self::Says(p.join("qga.state.isfrozen")))
    }

    /// `None`: that cannot be known.
    fn is_frozen(&self) -> Option<bool> {
        match self {
            Self::Says(file) => Some(file.exists()),
            Self::Unknown => None,
        }
    }
}

/// `qemu-ga -t DIR`
fn directories_named_by_agents() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(crate::limits::PROCESSES_MAX) {
        let is_agent = std::fs::read(entry.path().join("comm")).is_ok_and(|name| name == b"qemu-ga\n");
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        if !is_agent {
            continue;
        }
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into()).collect();
        for (index, word) in words.iter().enumerate() {
            let value = match word.as_str() {
                "-t" | "--statedir" => words.get(index + 1).cloned(),
                word => word.strip_prefix("--statedir=").or(word.strip_prefix("-t")).map(str::to_owned),
            };
            found.extend(value.filter(|v| v.starts_with('/')).map(PathBuf::from));
        }
    }
    found
}

fn keep(state: &State, watch: &Watch, armed: &OwnedFd, output: &OwnedFd) {
    let mut deadline: Option<Instant> = None;
    let mut frozen_since: Option<Instant> = None;
    let agent = Agent::find(watch);
    let mut scrap = [0; 64 << 10];
    loop {
        let Some(until) = deadline else {
            // The preparation reads the output itself until then.
            let [over] = sys::wait([armed.as_raw_fd()], Duration::from_secs(60));
            if over != 0 {
                if !state.is_current() {
                    return;
                }
                deadline = Some(Instant::now() + watch.limit);
            }
            continue;
        };
        let [printed] = sys::wait([output.as_raw_fd()], WARDEN_TICK);
        if printed & libc::POLLIN != 0 {
            let _ = sys::read(output, &mut scrap);
        } else if printed != 0 {
            std::thread::sleep(WARDEN_TICK);
        }
        if !state.is_current() {
            return;
        }
        let now = Instant::now();
        match agent.is_frozen() {
            Some(true) => drop(frozen_since.get_or_insert(now)),
            _ => frozen_since = None,
        }
        if now < until && frozen_since.is_none_or(|since| now < since + watch.limit) {
            continue;
        }
        // What somebody else has frozen is none of ours, where that can be known.
        if agent.is_frozen() != Some(false) {
            hold::thaw_all(&file_systems(&watch.only));
        }
        finish_overdue(state);
        return;
    }
}

/// The file systems to look after: these, or all that can be frozen.
pub fn file_systems(only: &[PathBuf]) -> Vec<Mount> {
    if only.is_empty() {
        return mounts::now().unwrap_or_default();
    }
    only.iter().map(|path| Mount { device: String::new(), path: path.clone() }).collect()
}
