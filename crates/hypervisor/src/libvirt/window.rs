//! The short time in which a machine is held still. Whatever happens, it ends: normally, by the
//! guard's drop, by a timer in this process, or by a helper process when this one is killed.

use super::conn::Dom;
use crate::limits::{AGENT_FREEZE_TIMEOUT_SECONDS, AGENT_PING_TIMEOUT_SECONDS, WINDOW_LIMIT};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// libvirt's default: agent commands wait as long as it takes.
const AGENT_TIMEOUT_BLOCK: i32 = -2;

#[derive(Default)]
struct Held {
    frozen_at: Option<Instant>,
    suspended_at: Option<Instant>,
    frozen_for: Option<Duration>,
    freezing: Option<Duration>,
    suspended_for: Option<Duration>,
    expired: bool,
    closed: bool,
    problems: Vec<String>,
}

struct Shared {
    dom: Arc<Dom>,
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
            if let Err(e) = retry(|| self.dom.resume().map(drop)) {
                held.problems.push(format!("the machine could not be resumed: {e}; run `virsh resume`"));
            }
            held.suspended_for = Some(since.elapsed());
        }
        if let Some(since) = held.frozen_at.take() {
            if let Err(e) = retry(|| self.dom.thaw().map(drop)) {
                held.problems.push(format!(
                    "the guest's file systems could not be thawed: {e}; run `virsh domfsthaw`"
                ));
            }
            held.frozen_for = Some(since.elapsed());
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
    /// It ended by its time limit: the instant may not have been held.
    pub expired: bool,
    pub problems: Vec<String>,
}

impl Window {
    /// Prepares to hold a machine; nothing is held yet.
    pub fn new(dom: Arc<Dom>, uri: &str, freezes: bool, suspends: bool) -> Self {
        let helper = if freezes || suspends { helper(&dom, uri, freezes, suspends) } else { None };
        let shared = Arc::new(Shared { dom, held: Mutex::new(Held::default()), changed: Condvar::new() });
        if freezes || suspends {
            let timer = shared.clone();
            std::thread::spawn(move || {
                let held = timer.lock();
                let (mut held, waited) = timer
                    .changed
                    .wait_timeout_while(held, WINDOW_LIMIT, |held| !held.closed)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                if waited.timed_out() && !held.closed {
                    held.expired = true;
                    timer.release(&mut held);
                }
            });
        }
        Self { shared, helper }
    }

    /// Freezes the guest's file systems; returns how many.
    pub fn freeze(&self) -> Result<u32, String> {
        let _ = self.shared.dom.set_agent_timeout(AGENT_FREEZE_TIMEOUT_SECONDS);
        self.shared.lock().frozen_at = Some(Instant::now());
        match self.shared.dom.freeze() {
            Ok(count) => {
                let mut held = self.shared.lock();
                held.freezing = held.frozen_at.map(|since| since.elapsed());
                Ok(count)
            }
            Err(e) => {
                let mut held = self.shared.lock();
                // An agent that did not answer may still do it. One that refused did not: then what
                // is frozen is somebody else's (it undoes a freeze that fails half way itself).
                if e.is_agent_silence() {
                    let _ = self.shared.dom.thaw();
                }
                held.frozen_at = None;
                let _ = self.shared.dom.set_agent_timeout(AGENT_TIMEOUT_BLOCK);
                Err(e.message)
            }
        }
    }

    pub fn suspend(&self) -> Result<(), super::conn::VirtError> {
        self.shared.lock().suspended_at = Some(Instant::now());
        let done = self.shared.dom.suspend();
        if done.is_err() && self.shared.dom.state().is_ok_and(|(state, _)| state == 1) {
            // Still running: there is nothing to resume.
            self.shared.lock().suspended_at = None;
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
            expired: held.expired,
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

/// Ends the window when this process cannot: waits for a word on its input, and when the input ends
/// without one, resumes and thaws. Without `virsh` on the host there is no such helper.
fn helper(dom: &Dom, uri: &str, freezes: bool, suspends: bool) -> Option<Child> {
    const SCRIPT: &str = r#"
        trap '' HUP INT TERM
        read -r word && exit 0
        # More than once: what the killed process had asked for may take effect after the first.
        for try in 1 2 3; do
            [ "$3" = true ] && virsh -q -c "$1" resume "$2"
            [ "$4" = true ] && virsh -q -c "$1" domfsthaw "$2"
            sleep 0.5
        done"#;
    let uuid = dom.uuid().ok()?;
    Command::new("/bin/sh")
        .args(["-c", SCRIPT, "strongroom-window", uri, &uuid, &suspends.to_string(), &freezes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .inspect_err(|error| tracing::warn!(%error, "no helper process for the time a machine is held"))
        .ok()
}
