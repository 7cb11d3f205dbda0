//! What `rescue` and `image` change in a vault is noted in the vault itself: no catalog's audit sees it.
//!
//! The note is best effort: what was asked for is done whether or not it can be written. Of two commands at the same moment one
//! may overwrite the other's entry.

use super::location::LocationArg;
use crate::context::{Context, Outcome};
use crate::options::KeyArgs;
use crate::text::{table, time};
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strongroom_engine::Result;
use strongroom_store::Vault;

/// See `docs/vault-format.md`, section 8.
const NOTE: &str = "rescue-log";
/// The newest stay.
const ENTRIES_MAX: usize = 500;
/// What an entry says of one thing, in characters.
const TEXT_MAX_CHARS: usize = 300;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    pub host: String,
    pub user: String,
    pub command: String,
    pub what: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Commands of a running service are in its audit instead: `strongroom access audit`.

Example:
  strongroom rescue vault log /srv/backup/vault --json")]
pub struct LogArgs {
    #[command(flatten)]
    at: LocationArg,
    #[command(flatten)]
    key: KeyArgs,
}

pub fn run(arguments: &LogArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open(&arguments.at.location, &arguments.key, &arguments.at.reach)?;
    let entries: Vec<Value> = match vault.read_note(NOTE)? {
        Some(note) => entries_of(&note),
        None => Vec::new(),
    };
    context.print(&json!({ "entries": entries }), || {
        let rows = entries.iter().map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let at = text("at").parse::<Timestamp>().map_or_else(|_| text("at"), time);
            vec![at, text("user"), text("host"), text("command"), text("what")]
        });
        table(&["TIME", "WHO", "HOST", "COMMAND", "WHAT"], &rows.collect::<Vec<_>>())
    })?;
    if entries.is_empty() && !context.json {
        context.note("nothing was changed here by rescue or image, or nothing was noted of it");
    }
    Ok(Outcome::Done)
}

fn entries_of(note: &Value) -> Vec<Value> {
    note["entries"].as_array().cloned().unwrap_or_default()
}

/// Notes a change, before it is made or after; what cannot be noted is said.
pub fn note(vault: &Vault, context: &Context, command: &str, what: impl Into<String>) {
    if let Err(error) = try_note(vault, command, &what.into()) {
        context.note(format_args!("that {command} was run could not be noted in the vault: {error}"));
    }
}

/// The same where it is no matter to whoever asks: what only reads works where nothing can be written.
pub fn note_quietly(vault: &Vault, command: &str, what: impl Into<String>) {
    if let Err(error) = try_note(vault, command, &what.into()) {
        tracing::debug!(%error, command, "the vault's log was not written");
    }
}

/// What this host's own users are called: others are known by their number.
fn name_of(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn try_note(vault: &Vault, command: &str, what: &str) -> Result<()> {
    let short = |text: &str| text.chars().take(TEXT_MAX_CHARS).collect::<String>();
    let uid = rustix::process::getuid().as_raw();
    // Who became root, where that is known.
    let name = ["SUDO_USER", "LOGNAME", "USER"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|name| !name.is_empty()))
        .or_else(|| name_of(uid))
        .unwrap_or_else(|| "user".into());
    let entry = Entry {
        at: Timestamp::now(),
        host: short(&rustix::system::uname().nodename().to_string_lossy()),
        user: short(format!("{name} ({uid})").trim()),
        command: command.to_owned(),
        what: short(what),
    };
    // One that is damaged is begun anew: it is of use to those who come.
    Ok(vault.change_note(NOTE, |before| {
        let mut entries = before.as_ref().map(entries_of).unwrap_or_default();
        entries.push(json!(entry));
        let surplus = entries.len().saturating_sub(ENTRIES_MAX);
        entries.drain(..surplus);
        json!({ "entries": entries })
    })?)
}
