//! The two calls around a snapshot.
//!
//! A session lies in one file, `session`, in a directory on memory. Whoever renames it ends the session and runs the
//! post-script: `finish`, the warden, or the next `prepare`. So the post-script runs once for every pre-check that passed,
//! whatever is killed.

use crate::config::{self, Config, Places};
use crate::limits::*;
use crate::script::{self, Output, Phase};
use crate::sys;
use crate::warden::{Warden, Watch};
use crate::wire::{Finished, Prepared, VERSION, is_session};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const RUN_DIRECTORY: &str = "/run/strongroom-guest";

/// What the file of a session holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    session: String,
    /// The scripts, if the pre-check passed.
    config: Option<Config>,
    warden: libc::pid_t,
    /// Tells it from a later process of the same number.
    warden_start: u64,
}

/// Where a session is kept.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
    session: String,
}

impl State {
    pub fn new(directory: &Path, session: &str) -> Result<Self, String> {
        if !is_session(session) {
            return Err("a session is named by 1 to 64 letters, digits and hyphens".into());
        }
        Ok(Self { directory: directory.into(), session: session.into() })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("session")
    }

    /// What the warden's end of a session left.
    fn expired_file(&self) -> PathBuf {
        self.directory.join("expired")
    }

    fn make_directory(&self) -> Result<(), String> {
        let shown = self.directory.display();
        let wrong = |why: String| format!("`{shown}` cannot hold the session: {why}");
        match std::fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(wrong(e.to_string())),
            _ => {}
        }
        let meta = std::fs::symlink_metadata(&self.directory).map_err(|e| wrong(e.to_string()))?;
        if !meta.is_dir() || meta.uid() != 0 || meta.permissions().mode() & 0o077 != 0 {
            return Err(wrong("it is not a directory that is root's alone".into()));
        }
        Ok(())
    }

    fn read(&self) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(self.file()).ok()?).ok()
    }

    /// Whether this session goes on.
    pub fn is_current(&self) -> bool {
        self.read().is_some_and(|record| record.session == self.session)
    }

    fn write(&self, path: &Path, document: &impl Serialize) -> Result<(), String> {
        let new = self.directory.join(format!("new-{}", std::process::id()));
        let text = serde_json::to_vec(document).map_err(|e| e.to_string())?;
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| format!("`{}` cannot be written: {e}", path.display()))
    }

    /// Ends the session for everybody else. The commit point: one caller alone gets the record.
    fn claim(&self) -> Option<Record> {
        let claimed = self.directory.join(format!("ended-{}", std::process::id()));
        std::fs::rename(self.file(), &claimed).ok()?;
        let record = std::fs::read(&claimed).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let _ = std::fs::remove_file(&claimed);
        record
    }
}

/// How to prepare.
#[derive(Debug, Clone)]
pub struct Options {
    pub places: Places,
    pub run_directory: PathBuf,
    pub watch: Watch,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            places: Places::default(),
            run_directory: RUN_DIRECTORY.into(),
            watch: Watch {
                limit: Duration::from_secs(HOLD_LIMIT_SECONDS.into()),
                only: Vec::new(),
                agent_state: None,
            },
        }
    }
}

/// Reads the configuration, checks both scripts, runs the pre-script, and leaves a warden behind.
pub fn prepare(session: &str, options: &Options) -> Result<Prepared, String> {
    let state = State::new(&options.run_directory, session)?;
    state.make_directory()?;
    let mut answer = Prepared {
        version: VERSION.into(),
        session: session.into(),
        continue_on_failure: true,
        freeze: true,
        ..Prepared::default()
    };
    if let Some(left) = state.claim() {
        end_warden(&left);
        answer.warnings.push("an earlier backup was not finished; its post-script was run now".into());
        run_post(&left);
    }
    let _ = std::fs::remove_file(state.expired_file());

    let mut files = None;
    match config::load(&options.places, &mut answer.warnings) {
        Ok(None) => {}
        Ok(Some(config)) => {
            answer.configured = true;
            answer.continue_on_failure = config.continue_on_failure;
            answer.freeze = config.freeze;
            // The pre-check: both scripts, before either is run.
            let checked = script::open(Phase::Pre, &config.pre)
                .and_then(|pre| script::open(Phase::Post, &config.post).map(|_| pre));
            match checked {
                Ok(pre) => files = Some((config, pre)),
                Err(problem) => answer.problem = Some(problem),
            }
        }
        Err(problem) => {
            answer.configured = true;
            answer.problem = Some(problem);
        }
    }
    answer.warnings.truncate(WARNINGS_MAX);

    let output = Output::new().map_err(|e| format!("no pipe: {e}"))?;
    let warden = Warden::start(&state, &options.watch, &output.reader)
        .map_err(|e| format!("the process that would thaw the machine could not be started: {e}"))?;
    let record = Record {
        session: session.into(),
        config: files.as_ref().map(|(config, _)| config.clone()),
        warden: warden.pid,
        warden_start: sys::start_time(warden.pid).unwrap_or(0),
    };
    state.write(&state.file(), &record)?;
    if let Some((config, pre)) = &files {
        let (run, problem) = script::run(
            Phase::Pre,
            &config.pre,
            pre,
            Duration::from_secs(config.timeout_seconds),
            Duration::from_secs(config.poll_seconds),
            &output,
        );
        answer.pre = Some(run);
        answer.ready = problem.is_none();
        answer.problem = problem;
        if answer.ready && !config.freeze {
            // Nothing else brings to the disk what is cached.
            sys::sync();
        }
    }
    warden.arm();
    Ok(answer)
}

/// Ends the session: lets the warden go, and runs the post-script if the pre-check had passed.
pub fn finish(session: &str, run_directory: &Path) -> Result<Finished, String> {
    let state = State::new(run_directory, session)?;
    let nothing = Finished { version: VERSION.into(), session: session.into(), ..Finished::default() };
    if state.is_current()
        && let Some(record) = state.claim()
        && record.session == session
    {
        end_warden(&record);
        return Ok(Finished { known: true, ..run_post(&record) });
    }
    // The warden was faster. Its script may still run; that is not waited for.
    let left = std::fs::read(state.expired_file()).ok();
    let left: Option<Finished> = left.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(left.filter(|f| f.session == session).unwrap_or(nothing))
}

/// What the warden does when nobody has finished the session in time.
pub fn finish_overdue(state: &State) {
    let Some(record) = state.claim() else { return };
    let begun = Finished {
        version: VERSION.into(),
        session: record.session.clone(),
        known: true,
        expired: true,
        ..Finished::default()
    };
    // Known before the script has run, since that may take its time.
    let _ = state.write(&state.expired_file(), &begun);
    let done = Finished { known: true, expired: true, ..run_post(&record) };
    let _ = state.write(&state.expired_file(), &done);
}

fn end_warden(record: &Record) {
    if record.warden > 1 && sys::start_time(record.warden) == Some(record.warden_start) {
        sys::kill(record.warden, libc::SIGKILL);
        let until = Instant::now() + Duration::from_millis(500);
        while sys::start_time(record.warden) == Some(record.warden_start) && Instant::now() < until {
            sys::reap_all();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn run_post(record: &Record) -> Finished {
    let mut answer =
        Finished { version: VERSION.into(), session: record.session.clone(), ..Finished::default() };
    let Some(config) = &record.config else { return answer };
    match (script::open(Phase::Post, &config.post), Output::new()) {
        (Ok(file), Ok(output)) => {
            let (run, problem) = script::run(
                Phase::Post,
                &config.post,
                &file,
                Duration::from_secs(config.timeout_seconds),
                Duration::from_secs(config.poll_seconds),
                &output,
            );
            answer.post = Some(run);
            answer.problem = problem;
        }
        (Err(problem), _) => answer.problem = Some(problem),
        (_, Err(error)) => {
            let message = format!("the post-script could not be run: no pipe: {error}");
            answer.problem = Some(crate::wire::Problem::new(crate::wire::Code::PostScriptFailed, message));
        }
    }
    answer
}
