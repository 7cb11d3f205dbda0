//! What every command works with: how it prints, how it shows progress, and how it is stopped.

use crate::options::{GlobalArgs, KeyArgs, ReachArgs, VaultArgs};
use crate::progress::Watch;
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Deref;
use std::sync::Arc;
use strongroom_engine::vaults::Stores;
use strongroom_engine::{Error, Result};
use strongroom_store::objects::{Location, Stop};
use strongroom_store::{Progress, Vault};

/// How a command came out, apart from errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What was asked for was done, and something is wrong: exit status 1.
    Damage,
}

pub struct Context {
    pub json: bool,
    pub quiet: bool,
    /// Cancelled by SIGINT and SIGTERM. One command uses one.
    pub progress: Arc<Progress>,
}

/// A vault that points are written to. Whoever lets go of it waits until nothing is left of what its store was probed with.
pub struct VaultToWrite(Vault);

impl Deref for VaultToWrite {
    type Target = Vault;

    fn deref(&self) -> &Vault {
        &self.0
    }
}

impl Drop for VaultToWrite {
    fn drop(&mut self) {
        self.0.end_probe();
    }
}

impl Context {
    pub fn new(global: &GlobalArgs, progress: Arc<Progress>) -> Self {
        Self { json: global.json, quiet: global.quiet, progress }
    }

    /// Opens the vault that the command line names.
    pub fn open_vault(&self, args: &VaultArgs) -> Result<Vault> {
        self.open(&args.vault, &args.key, &args.reach)
    }

    /// The same, for points to be written to it: its store must create only what is not there, which is found out meanwhile.
    pub fn open_vault_to_write(&self, args: &VaultArgs) -> Result<VaultToWrite> {
        let vault = self.open_vault(args)?;
        vault.check_exclusive_meanwhile();
        Ok(VaultToWrite(vault))
    }

    pub fn open(&self, location: &Location, key: &KeyArgs, reach: &ReachArgs) -> Result<Vault> {
        self.stores(reach).open(location, key.key_file.as_deref())
    }

    /// Opens stores that are waited for no longer once the command is to stop.
    pub fn stores(&self, reach: &ReachArgs) -> Stores {
        let progress = self.progress.clone();
        Stores {
            reach: reach.into(),
            stop: Stop::when(move || progress.is_cancelled()),
            ..Default::default()
        }
    }

    /// The command's result: `value` with --json, else the text.
    pub fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let text = match self.json {
            true => {
                let mut text = serde_json::to_string_pretty(value)
                    .map_err(|e| Error::invalid(format!("the result cannot be written as JSON: {e}")))?;
                text.push('\n');
                text
            }
            false => text(),
        };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has had enough, as `head` does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::io("writing to stdout", e)),
        }
    }

    /// Something good to know, on stderr.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            to_stderr(&text);
        }
    }

    /// Something the user should act on, on stderr.
    pub fn warn(&self, text: impl std::fmt::Display) {
        to_stderr(&format_args!("warning: {text}"));
    }

    /// Runs `work` and shows how far [`Context::progress`] is meanwhile: a bar on a terminal, else lines.
    pub fn watch<T>(&self, doing: &str, work: impl FnOnce() -> T) -> T {
        let _watch = (!self.quiet).then(|| Watch::start(doing, &self.progress, io::stderr().is_terminal()));
        work()
    }
}

/// Never fails: there is nobody left to tell.
pub fn to_stderr(text: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
