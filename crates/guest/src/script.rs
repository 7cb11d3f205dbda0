//! Runs a script: the open file that was checked, in a process group of its own, with an end to its time and to what is
//! kept of its output.
//!
//! One that succeeds may leave processes behind (a database session that holds it still until the post-script): they
//! go on, and can go on printing. One that fails, or is out of time, is ended with all it has started.

use crate::config::Script;
use crate::limits::*;
use crate::pid;
use crate::sys;
use crate::text::plain;
use crate::trusted::{self, Refusal, Use};
use crate::wire::{Code, Problem, ScriptRun};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Which of the two scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the snapshot.
    Pre,
    /// After it.
    Post,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre-script",
            Self::Post => "post-script",
        }
    }

    fn code(self, pre: Code, post: Code) -> Code {
        match self {
            Self::Pre => pre,
            Self::Post => post,
        }
    }
}

/// Opens a script that may be run.
pub fn open(phase: Phase, script: &Script) -> Result<File, Problem> {
    trusted::open(&script.location, Use::Run).map_err(|refusal| {
        let code = match &refusal {
            Refusal::NotFound(_) => phase.code(Code::PreScriptNotFound, Code::PostScriptNotFound),
            Refusal::Untrusted(_) => phase.code(Code::PreScriptPermissions, Code::PostScriptPermissions),
            Refusal::Other(_) => phase.code(Code::PreScriptFailed, Code::PostScriptFailed),
        };
        Problem::new(code, format!("the {} is not run: {refusal}", phase.name()))
    })
}

/// Where a script's output goes. Who else keeps the reading end can read on when this process is gone.
pub struct Output {
    /// The end that is read.
    pub reader: OwnedFd,
    writer: OwnedFd,
}

impl Output {
    /// An empty one.
    pub fn new() -> std::io::Result<Self> {
        let (reader, writer) = sys::pipe()?;
        Ok(Self { reader, writer })
    }
}

/// The end of what was printed.
#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    count: u64,
}

impl Tail {
    /// Takes over what is there; answers whether there was anything.
    fn drain(&mut self, output: &Output) -> bool {
        let mut buffer = [0; 64 << 10];
        match sys::read(&output.reader, &mut buffer) {
            Ok(Some(count)) if count > 0 => {
                self.count += count as u64;
                self.bytes.extend(&buffer[..count]);
                let excess = self.bytes.len().saturating_sub(OUTPUT_TAIL_BYTES);
                self.bytes.drain(..excess);
                true
            }
            _ => false,
        }
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        plain(&String::from_utf8_lossy(&bytes), OUTPUT_TAIL_BYTES)
    }
}

enum End {
    Exited(ExitStatus),
    OutOfTime,
    CannotRun(std::io::Error),
}

/// Runs a script until it succeeds, has been tried often enough, or is out of time.
pub fn run(
    phase: Phase,
    script: &Script,
    file: &File,
    timeout: Duration,
    pause: Duration,
    output: &Output,
) -> (ScriptRun, Option<Problem>) {
    let began = Instant::now();
    let deadline = began + timeout;
    let mut tail = Tail::default();
    let mut run = ScriptRun::default();
    let name = phase.name();
    let shown = script.location.display();
    let problem = loop {
        run.tries += 1;
        let end = once(phase, script, file, deadline, output, &mut tail);
        let (code, message) = match end {
            End::Exited(status) if status.success() => {
                run.exit_code = Some(0);
                break None;
            }
            End::Exited(status) => {
                run.exit_code = status.code();
                let how = match (status.code(), status.signal()) {
                    (Some(code), _) => format!("exited with {code}"),
                    (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
                };
                let code = phase.code(Code::PreScriptFailed, Code::PostScriptFailed);
                (code, format!("the {name} `{shown}` {how}"))
            }
            End::OutOfTime => {
                run.exit_code = None;
                let code = phase.code(Code::PreScriptTimeout, Code::PostScriptTimeout);
                let message =
                    format!("the {name} `{shown}` did not end within {} s and was killed", timeout.as_secs());
                (code, message)
            }
            End::CannotRun(error) => {
                run.exit_code = None;
                let hint = match error.raw_os_error() {
                    Some(libc::ENOENT) => "; the interpreter that its first line names is not there",
                    _ => "",
                };
                let code = phase.code(Code::PreScriptFailed, Code::PostScriptFailed);
                (code, format!("the {name} `{shown}` cannot be run: {error}{hint}"))
            }
        };
        let tries = if run.tries > 1 { format!(" (tried {} times)", run.tries) } else { String::new() };
        let problem = Problem { code, message: message + &tries, output: tail.text() };
        let is_over = matches!(code, Code::PreScriptTimeout | Code::PostScriptTimeout);
        if is_over || u64::from(run.tries) > script.retries || Instant::now() + pause >= deadline {
            break Some(problem);
        }
        std::thread::sleep(pause);
    };
    run.elapsed_ms = began.elapsed().as_millis() as u64;
    run.output_bytes = tail.count;
    (run, problem)
}

fn once(
    phase: Phase,
    script: &Script,
    file: &File,
    deadline: Instant,
    output: &Output,
    tail: &mut Tail,
) -> End {
    sys::become_subreaper();
    let mut child = match spawn(phase, script, file, output) {
        Ok(child) => child,
        Err(error) => return End::CannotRun(error),
    };
    let mut pause = Duration::from_millis(1);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) => {}
            Err(error) => return End::CannotRun(error),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break None;
        }
        if tail.drain(output) {
            continue;
        }
        sys::wait([output.reader.as_raw_fd()], pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    if !status.is_some_and(|s| s.success()) {
        end_all(&mut child, status.is_none());
    }
    let until = Instant::now() + LAST_WORDS;
    while tail.drain(output) && Instant::now() < until {}
    match status {
        Some(status) => End::Exited(status),
        None => End::OutOfTime,
    }
}

fn spawn(phase: Phase, script: &Script, file: &File, output: &Output) -> std::io::Result<Child> {
    // The interpreter opens this name. A number out of the way of those that scripts use themselves; inherited.
    // SAFETY: a valid descriptor; the new one is owned once.
    let inherited = sys::retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 200) })?;
    let inherited = unsafe { OwnedFd::from_raw_fd(inherited) };
    let directory = script.location.parent().unwrap_or(Path::new("/"));
    let mut command = Command::new(format!("/proc/self/fd/{}", inherited.as_raw_fd()));
    command
        .args(&script.parameters)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("SHELL", "/bin/sh")
        .env("STRONGROOM_SCRIPT", &script.location)
        .env("STRONGROOM_PHASE", if phase == Phase::Pre { "pre" } else { "post" })
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output.writer.try_clone()?)
        .stderr(output.writer.try_clone()?);
    // SAFETY: only calls that are allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            if phase == Phase::Pre {
                // Nobody would end it, or know how it ended. A post-script goes on.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            }
            // The standard library ignores it, and a script would inherit that.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            Ok(())
        });
    }
    command.spawn()
}

/// Ends a script and everything that it has started, also what has left its process group.
fn end_all(child: &mut Child, runs: bool) {
    let group = child.id() as libc::pid_t;
    if runs {
        sys::kill(-group, libc::SIGTERM);
        let until = Instant::now() + TERMINATE_GRACE;
        while Instant::now() < until && !matches!(child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // Orphans come to this process, so that looking again finds those whose parents have just been killed.
    for _ in 0..100 {
        sys::kill(-group, libc::SIGKILL);
        let mine = descendants();
        for pid in &mine {
            sys::kill(*pid, libc::SIGKILL);
        }
        let is_over = matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if is_over {
            sys::reap_all();
            if descendants().is_empty() {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes below this one that are not the warden.
fn descendants() -> Vec<libc::pid_t> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(libc::pid_t, libc::pid_t)> = entries
        .flatten()
        .take(PROCESSES_MAX)
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, sys::parent_of(pid)?)))
        .collect();
    let mut found = vec![std::process::id() as libc::pid_t];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        at += 1;
        for (pid, _) in parents.iter().filter(|(_, p)| *p == parent) {
            if !found.contains(pid) && !pid::is_warden(*pid) {
                found.push(*pid);
            }
        }
    }
    found.remove(0);
    found
}
