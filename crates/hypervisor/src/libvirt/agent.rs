//! The guest agent: waiting for it, asking it, running programs through it. Its answers are a guest's: bounded and not believed.

use super::conn::VirtError;
use super::dom::Dom;
use crate::error::{Error, Result};
use crate::limits::{AGENT_PING_TIMEOUT_SECONDS, GUEST_OUTPUT_BYTES_MAX, GUEST_WRITE_BYTES};
use crate::model::GuestOutput;
use crate::text::machine;
use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::time::{Duration, Instant};

pub fn wait(dom: &Dom, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        match dom.agent_command(r#"{"execute":"guest-ping"}"#, AGENT_PING_TIMEOUT_SECONDS) {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > deadline => {
                return Err(Error::Busy {
                    what: machine(&dom.name()),
                    why: format!("its guest agent did not answer within {timeout:?}: {e}"),
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Why the agent did not do something.
#[derive(Debug)]
pub enum AgentError {
    /// It has no such command, or it is switched off.
    Disabled,
    /// No answer, or a refusal.
    Failed(VirtError),
    /// An answer that is none.
    Strange(serde_json::Error),
    TooLong(Duration),
    /// Whoever asked for it does not want to wait any longer.
    Unwanted,
}

impl std::fmt::Display for AgentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disabled => {
                f.write_str("the guest agent does not do that: it is switched off in its configuration")
            }
            Self::Failed(error) => f.write_str(&crate::text::shorten(&error.message)),
            Self::Strange(error) => write!(f, "the guest agent's answer is not understood: {error}"),
            Self::TooLong(time) => write!(f, "it did not end within {:.0} s", time.as_secs_f64()),
            Self::Unwanted => f.write_str("it was not waited for any longer"),
        }
    }
}

impl AgentError {
    fn about(self, doing: &'static str, what: &str) -> Error {
        match self {
            Self::Disabled => Error::unsupported(what, self.to_string()),
            Self::Failed(error) => error.about(doing, what),
            Self::Strange(error) => Error::failed("understanding the guest agent about", what, error),
            Self::TooLong(_) | Self::Unwanted => Error::Busy { what: what.to_owned(), why: self.to_string() },
        }
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

/// One command.
pub fn ask<T: DeserializeOwned>(
    dom: &Dom,
    command: &str,
    arguments: serde_json::Value,
) -> Result<T, AgentError> {
    let command = match arguments.is_null() {
        true => json!({ "execute": command }),
        false => json!({ "execute": command, "arguments": arguments }),
    };
    let answer =
        dom.agent_command(&command.to_string(), AGENT_PING_TIMEOUT_SECONDS.max(10)).map_err(|e| {
            match e.message.contains("disabled") || e.message.contains("has not been found") {
                true => AgentError::Disabled,
                false => AgentError::Failed(e),
            }
        })?;
    serde_json::from_str::<Answer<T>>(&answer).map(|a| a.value).map_err(AgentError::Strange)
}

/// What the guest says of its operating system: its id, such as `debian` or `mswindows`.
pub fn os_id(dom: &Dom) -> Option<String> {
    #[derive(Deserialize)]
    struct Os {
        #[serde(default)]
        id: String,
    }
    let os: Os = ask(dom, "guest-get-osinfo", serde_json::Value::Null).ok()?;
    Some(crate::text::shorten(&os.id))
}

/// Whether the agent says that it has frozen. `None`: it does not say.
pub fn is_frozen(dom: &Dom) -> Option<bool> {
    let status: String = ask(dom, "guest-fsfreeze-status", serde_json::Value::Null).ok()?;
    Some(status == "frozen")
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    #[serde(default)]
    out_data: String,
    #[serde(default)]
    err_data: String,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

pub fn exec(
    dom: &Dom,
    program: &str,
    arguments: &[&str],
    timeout: Duration,
    is_wanted: &dyn Fn() -> bool,
) -> Result<GuestOutput> {
    let what = format!("`{}` in {}", crate::text::shorten(program), machine(&dom.name()));
    run_while(dom, program, arguments, timeout, is_wanted).map_err(|e| e.about("running", &what))
}

/// Runs a program and waits for its end.
pub fn run(
    dom: &Dom,
    program: &str,
    arguments: &[&str],
    timeout: Duration,
) -> Result<GuestOutput, AgentError> {
    run_while(dom, program, arguments, timeout, &|| true)
}

fn run_while(
    dom: &Dom,
    program: &str,
    arguments: &[&str],
    timeout: Duration,
    is_wanted: &dyn Fn() -> bool,
) -> Result<GuestOutput, AgentError> {
    let command = json!({ "path": program, "arg": arguments, "capture-output": true });
    let pid = ask::<Started>(dom, "guest-exec", command)?.pid;
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(10);
    loop {
        let status: Status = ask(dom, "guest-exec-status", json!({ "pid": pid }))?;
        if status.exited {
            let (stdout, out_cut) = decode(&status.out_data);
            let (stderr, err_cut) = decode(&status.err_data);
            return Ok(GuestOutput {
                exit_code: status.exitcode,
                stdout,
                stderr,
                truncated: status.out_truncated || status.err_truncated || out_cut || err_cut,
            });
        }
        if Instant::now() > deadline {
            return Err(AgentError::TooLong(timeout));
        }
        if !is_wanted() {
            return Err(AgentError::Unwanted);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

fn decode(text: &str) -> (Vec<u8>, bool) {
    let mut bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let cut = bytes.len() > GUEST_OUTPUT_BYTES_MAX || (bytes.is_empty() && !text.is_empty());
    bytes.truncate(GUEST_OUTPUT_BYTES_MAX);
    (bytes, cut)
}

/// Writes a new file in the guest.
pub fn write_file(dom: &Dom, path: &str, bytes: &[u8]) -> Result<(), AgentError> {
    #[derive(Deserialize)]
    struct Written {
        count: i64,
    }
    let handle: i64 = ask(dom, "guest-file-open", json!({ "path": path, "mode": "wb" }))?;
    let mut rest = bytes;
    let mut written = Ok(());
    // One that never gets on is given up.
    let mut calls_left = bytes.len() / GUEST_WRITE_BYTES * 2 + 16;
    while !rest.is_empty() {
        let part = &rest[..rest.len().min(GUEST_WRITE_BYTES)];
        let text = base64::engine::general_purpose::STANDARD.encode(part);
        let call = ask::<Written>(dom, "guest-file-write", json!({ "handle": handle, "buf-b64": text }));
        calls_left = calls_left.saturating_sub(1);
        match call {
            Ok(done) if calls_left > 0 && (1..=part.len() as i64).contains(&done.count) => {
                rest = &rest[done.count as usize..];
            }
            Ok(_) => {
                written = Err(AgentError::Failed(VirtError::own(
                    "the guest agent did not write what it was given",
                )));
                break;
            }
            Err(error) => {
                written = Err(error);
                break;
            }
        }
    }
    let closed = ask::<serde_json::Value>(dom, "guest-file-close", json!({ "handle": handle }));
    written.and(closed.map(drop))
}
