//! The two calls around a snapshot.

use crate::config::{self, Places};
use crate::limits::*;
use crate::script::{self, Output, Phase};
use crate::session::{Record, State, end_warden, run_post};
use crate::sys;
use crate::warden::{Warden, Watch};
use crate::wire::{Finished, Prepared, VERSION};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a session is kept, on memory.
pub const RUN_DIRECTORY: &str = "/run/strongroom-guest";

/// How to prepare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the configuration is.
    pub places: Places,
    /// Where the session is kept.
    pub run_directory: PathBuf,
    /// What the warden looks after.
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
