//! The short time in which a machine is held still. Whatever happens, it ends: normally, by the
//! guard's drop, by a timer in this process, or by a helper process when this one is killed.

use super::conn::{Conn, VirtResult};
use super::dom::Dom;
use super::guest_port::Port;
use super::session::Session;
use super::state;
use crate::limits::{AGENT_FREEZE_TIMEOUT_SECONDS, AGENT_PING_TIMEOUT_SECONDS, THAW_RETRY, WINDOW_LIMIT};
use crate::model::MachineState;
use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use strongroom_guest::wire::{Frozen, Verb};

/// How long the extension may take to freeze or thaw.
const PORT_TIMEOUT: Duration = Duration::from_secs(AGENT_FREEZE_TIMEOUT_SECONDS as u64);

/// libvirt's default: agent commands wait as long as it takes.
const AGENT_TIMEOUT_BLOCK: i32 = -2;

/// What ended a window before it was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its time limit.
    ByLimit,
    /// Somebody else let the machine run on: it has written since.
    Resumed,
    /// Somebody else, or the guest itself, thawed it.
    Thawed,
    /// Thawing failed, so that it may have been thawed before.
    Unknown,
}

impl Ended {
    /// As a reason for a lower consistency.
    pub fn why(self) -> &'static str {
        match self {
            Self::ByLimit => "the guest was thawed by its time limit before the instant was over",
            Self::Resumed => "the machine was resumed by somebody else before the instant was over",
            Self::Thawed => {
                "the guest was thawed by somebody else, or by itself, before the instant was over"
            }
            Self::Unknown => "whether the guest was frozen until the instant was over is not known",
        }
    }
}

#[derive(Default)]
struct Held {
    frozen_at: Option<Instant>,
    /// How many file systems.
    frozen_count: u32,
    suspended_at: Option<Instant>,
    frozen_for: Option<Duration>,
    freezing: Option<Duration>,
    suspended_for: Option<Duration>,
    ended: Option<Ended>,
    closed: bool,
    problems: Vec<String>,
}

/// Who freezes and thaws.
#[derive(Clone)]
pub enum Freezer {
    Nobody,
    Agent {
        /// Windows' shadow copies freeze: for ten seconds at most.
        vss: bool,
    },
    /// The extension, over its own port. It thaws by itself when the port is closed.
    Port(Arc<Mutex<Port>>),
}

struct Shared {
    dom: Arc<Dom>,
    uri: String,
    freezer: Freezer,
    /// There while the guest may be frozen by us: the next snapshot may thaw it then.
    mark: PathBuf,
    held: Mutex<Held>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // The state is plain data: a panic elsewhere does not make it wrong.
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Resumes and thaws what is held. Each is tried a few times: leaving a machine held is the worst outcome.
    fn release(&self, held: &mut Held) {
        if let Some(since) = held.suspended_at.take() {
            match self.resume() {
                Ok(true) => {}
                Ok(false) => held.ended = held.ended.or(Some(Ended::Resumed)),
                Err(e) => {
                    held.problems.push(format!("the machine could not be resumed: {e}; run `virsh resume`"));
                }
            }
            held.suspended_for = Some(since.elapsed());
        }
        if let Some(since) = held.frozen_at.take() {
            match self.thaw(held.frozen_count) {
                Ok(ended) => {
                    held.ended = held.ended.or(ended);
                    let _ = std::fs::remove_file(&self.mark);
                }
                Err(why) => {
                    held.ended = held.ended.or(Some(Ended::Unknown));
                    held.problems.push(format!(
                        "the guest's file systems could not be thawed: {why}; run `virsh domfsthaw`"
                    ));
                }
            }
            held.frozen_for = Some(since.elapsed());
        }
    }

    /// Asks libvirt, over a new connection where it was restarted since.
    fn once_more<T>(&self, ask: impl Fn(&Dom) -> VirtResult<T>) -> VirtResult<T> {
        let mut done = ask(&self.dom);
        let until = Instant::now() + THAW_RETRY;
        while done.as_ref().is_err_and(|e| e.is_away()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            let Ok(conn) = Conn::open(&self.uri) else { continue };
            done = self.dom.uuid().and_then(|uuid| conn.domain_by_uuid(&uuid)).and_then(|dom| ask(&dom));
        }
        done
    }

    fn is_running(&self) -> VirtResult<bool> {
        self.once_more(state::now).map(|(state, _)| state == MachineState::Running)
    }

    /// Resumes; answers whether the machine stood still until then.
    fn resume(&self) -> VirtResult<bool> {
        // Before anything is asked: an answer may get lost that was followed.
        if self.is_running().is_ok_and(|runs| runs) {
            return Ok(false);
        }
        match retry(|| self.once_more(|dom| dom.resume())) {
            Err(_) if self.is_running().is_ok_and(|runs| runs) => Ok(true),
            done => done.map(|()| true),
        }
    }

    /// Thaws so many file systems; answers what had ended the freeze before, as far as that is known. An agent that is gone is
    /// waited for: it may be starting anew.
    fn thaw(&self, count: u32) -> Result<Option<Ended>, String> {
        match &self.freezer {
            Freezer::Nobody => Ok(None),
            Freezer::Agent { vss } => {
                let until = Instant::now() + THAW_RETRY;
                // Whether an earlier call may have thawed what it found frozen.
                let may_be_done = Cell::new(false);
                loop {
                    let done = self.once_more(|dom| {
                        dom.thaw().inspect_err(|e| {
                            // VSS refuses when it had given up before; other agents may do it and report a failed hook.
                            let is_refused = *vss && !e.is_away() && !e.is_agent_silence();
                            may_be_done.set(may_be_done.get() || !is_refused);
                        })
                    });
                    match done {
                        // Agents count what they thawed.
                        Ok(0) if count > 0 && !may_be_done.get() => return Ok(Some(Ended::Thawed)),
                        Ok(_) => return Ok(None),
                        Err(e) if Instant::now() > until || !self.dom.is_active().unwrap_or(true) => {
                            return Err(e.message);
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(300)),
                    }
                }
            }
            Freezer::Port(port) => {
                let mut port = port.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let thawed: Frozen = port.call(Verb::Thaw, "", PORT_TIMEOUT)?;
                Ok(thawed.expired.then_some(Ended::ByLimit))
            }
        }
    }
}

fn retry<E>(mut action: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let mut last = action();
    for _ in 0..2 {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        last = action();
    }
    last
}

/// Asks the guest agent something harmless, so that one that hangs is found out before the machine
/// is held.
pub fn agent_answers(dom: &Dom) -> Result<(), String> {
    let _ = dom.set_agent_timeout(AGENT_PING_TIMEOUT_SECONDS);
    let answer = dom.guest_time();
    let _ = dom.set_agent_timeout(AGENT_TIMEOUT_BLOCK);
    match answer {
        Err(e) if e.is_agent_silence() => Err(e.message),
        // An agent that refuses this question is alive.
        _ => Ok(()),
    }
}

/// Holds a machine from the first freeze or suspend until [`Window::close`] or its drop.
pub struct Window {
    shared: Arc<Shared>,
    helper: Option<Child>,
}

/// What a window did.
pub struct Closed {
    pub frozen: Option<Duration>,
    pub freezing: Option<Duration>,
    pub suspended: Option<Duration>,
    /// What ended it before: the instant may not have been held.
    pub ended: Option<Ended>,
    pub problems: Vec<String>,
}

impl Window {
    /// Prepares to hold a machine; nothing is held yet.
    pub fn new(session: &Session, freezer: Freezer, suspends: bool) -> Self {
        let (dom, uri, mark) = (session.dom(), session.uri.clone(), session.frozen_mark());
        let freezes = !matches!(freezer, Freezer::Nobody);
        let through_agent = matches!(freezer, Freezer::Agent { .. });
        let helper = if through_agent || suspends { helper(session, through_agent, suspends) } else { None };
        let held = Mutex::new(Held::default());
        let shared = Arc::new(Shared { dom, uri, freezer, mark, held, changed: Condvar::new() });
        if freezes || suspends {
            let timer = shared.clone();
            std::thread::spawn(move || {
                let held = timer.lock();
                let (mut held, waited) = timer
                    .changed
                    .wait_timeout_while(held, WINDOW_LIMIT, |held| !held.closed)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                if waited.timed_out() && !held.closed {
                    held.ended = Some(Ended::ByLimit);
                    timer.release(&mut held);
                }
            });
        }
        Self { shared, helper }
    }

    /// Freezes the guest's file systems; returns how many.
    pub fn freeze(&self) -> Result<u32, String> {
        let port = match &self.shared.freezer {
            Freezer::Nobody => return Ok(0),
            Freezer::Agent { .. } => None,
            Freezer::Port(port) => Some(port.clone()),
        };
        self.shared.lock().frozen_at = Some(Instant::now());
        if let Some(port) = port {
            let mut port = port.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let frozen: Result<Frozen, String> = port.call(Verb::Freeze, "", PORT_TIMEOUT);
            let mut held = self.shared.lock();
            held.freezing = held.frozen_at.map(|since| since.elapsed());
            if frozen.is_err() {
                held.frozen_at = None;
                // It may still do it.
                let _ = port.call::<Frozen>(Verb::Thaw, "", PORT_TIMEOUT);
            }
            return frozen.map(|f| f.count);
        }
        let _ = self.shared.dom.set_agent_timeout(AGENT_FREEZE_TIMEOUT_SECONDS);
        let _ = std::fs::write(&self.shared.mark, "");
        match self.shared.dom.freeze() {
            Ok(count) => {
                let mut held = self.shared.lock();
                held.freezing = held.frozen_at.map(|since| since.elapsed());
                held.frozen_count = count;
                Ok(count)
            }
            Err(e) => {
                let mut held = self.shared.lock();
                // An agent that did not answer may still do it, or have been killed in the middle. One that refused did
                // not: then what is frozen is somebody else's (it undoes a freeze that fails half way itself).
                let undone = if e.is_agent_silence() { self.shared.thaw(0).map(drop) } else { Ok(()) };
                held.frozen_at = None;
                match undone {
                    Ok(()) => drop(std::fs::remove_file(&self.shared.mark)),
                    Err(why) => held.problems.push(format!(
                        "whether the guest's file systems are frozen is not known, and they could not be thawed: {why}; run `virsh domfsthaw`"
                    )),
                }
                let _ = self.shared.dom.set_agent_timeout(AGENT_TIMEOUT_BLOCK);
                Err(e.message)
            }
        }
    }

    pub fn suspend(&self) -> Result<(), super::conn::VirtError> {
        self.shared.lock().suspended_at = Some(Instant::now());
        let done = self.shared.dom.suspend();
        // Asked once: a guest that is frozen does not wait for a libvirt that is away.
        let runs = |(state, _)| state == MachineState::Running;
        if done.is_err() && state::now(&self.shared.dom).is_ok_and(runs) {
            // Still running: there is nothing to resume.
            self.shared.lock().suspended_at = None;
        }
        if done.is_ok() {
            // It may have taken longer than the time limit, which found it running.
            self.shared.lock().suspended_at.get_or_insert_with(Instant::now);
        }
        done
    }

    /// Lets the machine go on.
    pub fn close(mut self) -> Closed {
        self.end();
        let mut held = self.shared.lock();
        Closed {
            frozen: held.frozen_for,
            freezing: held.freezing,
            suspended: held.suspended_for,
            ended: held.ended,
            problems: std::mem::take(&mut held.problems),
        }
    }

    fn end(&mut self) {
        {
            let mut held = self.shared.lock();
            if held.closed {
                return;
            }
            let froze = held.frozen_at.is_some();
            self.shared.release(&mut held);
            held.closed = true;
            if froze {
                let _ = self.shared.dom.set_agent_timeout(AGENT_TIMEOUT_BLOCK);
            }
        }
        self.shared.changed.notify_all();
        if let Some(mut helper) = self.helper.take() {
            if let Some(mut stdin) = helper.stdin.take() {
                let _ = stdin.write_all(b"done\n");
            }
            // Waits for nothing but its own end; not while anything is held.
            let _ = helper.wait();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.end();
        for problem in std::mem::take(&mut self.shared.lock().problems) {
            tracing::error!(machine = self.shared.dom.name(), "{problem}");
        }
    }
}

/// Ends the window when this process cannot: waits for a word on its input, and when the input ends without one, resumes and
/// thaws. Its output is the session's lock of the window, which is taken as long as it runs: the next snapshot waits for it, and
/// is not let go by it. Without `virsh` on the host there is no such helper.
fn helper(session: &Session, freezes: bool, suspends: bool) -> Option<Child> {
    const SCRIPT: &str = r#"
        trap '' HUP INT TERM
        # Out of the control group of the service that started it, with which it would be killed.
        for groups in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
            [ ! -w "$groups/cgroup.procs" ] || echo 0 2> /dev/null > "$groups/cgroup.procs"
        done
        read -r word && exit 0
        # More than once: what the killed process had asked for may take effect after the first.
        for try in 1 2 3; do
            [ "$3" = true ] && virsh -q -c "$1" resume "$2" > /dev/null
            [ "$4" = true ] && virsh -q -c "$1" domfsthaw "$2" > /dev/null
            sleep 0.5
        done"#;
    let start = |lock: File| {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "strongroom-window", &session.uri, &session.uuid])
            .args([suspends.to_string(), freezes.to_string()])
            .stdin(Stdio::piped())
            .stdout(lock)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
    };
    let helper = session.window_lock.try_clone().and_then(start);
    helper
        .inspect_err(|error| tracing::warn!(%error, "no helper process for the time a machine is held"))
        .ok()
}
