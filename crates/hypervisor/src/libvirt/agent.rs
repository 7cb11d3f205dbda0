//! The guest agent: waiting for it, running programs through it. Its answers are a guest's: bounded and not believed.

use super::conn::Dom;
use super::machine;
use crate::error::{Error, Result};
use crate::limits::{AGENT_PING_TIMEOUT_SECONDS, GUEST_OUTPUT_BYTES_MAX};
use crate::model::GuestOutput;
use base64::Engine;
use serde::Deserialize;
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

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
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

pub fn exec(dom: &Dom, program: &str, arguments: &[&str], timeout: Duration) -> Result<GuestOutput> {
    let what = format!("`{}` in {}", crate::text::shorten(program), machine(&dom.name()));
    let ask = |command: serde_json::Value| -> Result<String> {
        dom.agent_command(&command.to_string(), AGENT_PING_TIMEOUT_SECONDS.max(10))
            .map_err(|e| e.about("running", &what))
    };
    let strange =
        |e: serde_json::Error| Error::failed("understanding the guest agent about", what.clone(), e);
    let started = ask(serde_json::json!({
        "execute": "guest-exec",
        "arguments": { "path": program, "arg": arguments, "capture-output": true }
    }))?;
    let pid = serde_json::from_str::<Answer<Started>>(&started).map_err(strange)?.value.pid;
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(10);
    loop {
        let answer = ask(serde_json::json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }))?;
        let status = serde_json::from_str::<Answer<Status>>(&answer).map_err(strange)?.value;
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
            return Err(Error::Busy { what, why: format!("it did not end within {timeout:?}") });
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
