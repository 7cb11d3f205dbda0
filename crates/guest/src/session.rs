//! A session between the two calls, and its end.
//!
//! It lies in one file, `session`, in a directory on memory. Whoever renames it ends the session and runs the
//! post-script: `finish`, the warden, or the next `prepare`. So the post-script runs once for every pre-check that passed,
//! whatever is killed.

use crate::config::Config;
use crate::script::{self, Output, Phase};
use crate::sys;
use crate::wire::{Code, Finished, Problem, VERSION, is_session};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the file of a session holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub session: String,
    /// The scripts, if the pre-check passed.
    pub config: Option<Config>,
    /// The warden's number.
    pub warden: libc::pid_t,
    /// Tells it from a later process of the same number.
    pub warden_start: u64,
}

/// Where a session is kept.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
    session: String,
}

impl State {
    /// Of a name, in a directory.
    pub fn new(directory: &Path, session: &str) -> Result<Self, String> {
        if !is_session(session) {
            return Err("a session is named by 1 to 64 letters, digits and hyphens".into());
        }
        Ok(Self { directory: directory.into(), session: session.into() })
    }

    /// Where the session lies.
    pub fn file(&self) -> PathBuf {
        self.directory.join("session")
    }

    /// What the warden's end of a session left.
    pub fn expired_file(&self) -> PathBuf {
        self.directory.join("expired")
    }

    /// Makes the directory, root's alone.
    pub fn make_directory(&self) -> Result<(), String> {
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

    /// Writes a file of the session, in one step.
    pub fn write(&self, path: &Path, document: &impl Serialize) -> Result<(), String> {
        let new = self.directory.join(format!("new-{}", std::process::id()));
        let text = serde_json::to_vec(document).map_err(|e| e.to_string())?;
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| format!("`{}` cannot be written: {e}", path.display()))
    }

    /// Ends the session for everybody else. The commit point: one caller alone gets the record.
    pub fn claim(&self) -> Option<Record> {
        let claimed = self.directory.join(format!("ended-{}", std::process::id()));
        std::fs::rename(self.file(), &claimed).ok()?;
        let record = std::fs::read(&claimed).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let _ = std::fs::remove_file(&claimed);
        record
    }
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

/// Lets the warden of a session go.
pub fn end_warden(record: &Record) {
    if record.warden > 1 && sys::start_time(record.warden) == Some(record.warden_start) {
        sys::kill(record.warden, libc::SIGKILL);
        let until = Instant::now() + Duration::from_millis(500);
        while sys::start_time(record.warden) == Some(record.warden_start) && Instant::now() < until {
            sys::reap_all();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The post-script, if the pre-check had passed.
pub fn run_post(record: &Record) -> Finished {
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
            answer.problem = Some(Problem::new(Code::PostScriptFailed, message));
        }
    }
    answer
}
