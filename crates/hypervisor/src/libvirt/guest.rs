//! The extension inside a machine, as the host uses it: installed where it is missing, asked to prepare before the
//! instant and to finish after it, and what both make of the snapshot's consistency.
//!
//! What comes from the guest is bounded and not believed. Whatever it answers, a preparation that was begun is finished,
//! also when the snapshot fails in between: by [`GuestSession`]'s drop.

use super::agent::{self, AgentError};
use super::dom::Dom;
use super::guest_port::Port;
use crate::error::{Error, Result, said};
use crate::guest::{GuestReport, GuestVia};
use crate::limits::*;
use crate::text::shorten;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use strongroom_guest::wire::{Code, Finished, Prepared, Problem, Verb};

/// The extension: a static binary for this processor.
static EXTENSION: &[u8] = include_bytes!(env!("STRONGROOM_GUEST_BINARY_PATH"));
/// Where it is put in the guest: root's alone.
const DIRECTORY: &str = "/var/lib/strongroom-guest";

fn extension_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| digest(&SHA256, EXTENSION).as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// Its file is named by what it is: an older one has another name, and one with this name and other bytes was changed.
fn extension_name() -> String {
    format!("strongroom-guest-{}", &extension_hash()[..16])
}

/// How the extension is spoken to.
#[derive(Clone)]
pub enum Way {
    Agent,
    Port(Arc<Mutex<Port>>),
}

/// What is to be known of the machine.
pub struct Guest<'a> {
    pub dom: &'a Arc<Dom>,
    pub what: &'a str,
    /// Of the snapshot.
    pub id: &'a str,
    /// The host's end of the extension's own port, where its other end is open.
    pub port: Option<&'a Path>,
    /// Whether the guest agent answers.
    pub agent: bool,
}

/// A preparation that was begun. Finished by its drop, if nobody has done so before.
pub struct GuestSession {
    dom: Arc<Dom>,
    way: Way,
    id: String,
    pub prepared: Prepared,
    pub report: GuestReport,
    is_over: bool,
}

/// Prepares the guest. `Err` is one sentence: why there is no extension to do it.
pub fn prepare(guest: &Guest<'_>, warnings: &mut Vec<String>) -> Result<GuestSession, String> {
    let mut session = match guest.port.map(Port::open) {
        Some(Ok(port)) => GuestSession::new(guest, Way::Port(Arc::new(Mutex::new(port)))),
        Some(Err(why)) if !guest.agent => return Err(why),
        _ if guest.agent => GuestSession::new(guest, Way::Agent),
        _ => return Err("no extension answers in it".into()),
    };
    // From here on the drop finishes, also what was begun and had no answer.
    match session.way.clone() {
        Way::Port(port) => {
            let mut port = port.lock().unwrap_or_else(|p| p.into_inner());
            session.prepared = port.call(Verb::Prepare, guest.id, GUEST_PREPARE_TIMEOUT)?;
        }
        Way::Agent => session.prepare_through_agent(guest, warnings).inspect_err(|_| {
            tracing::debug!(machine = guest.what, "no extension through the agent");
        })?,
    }
    if session.prepared.session != guest.id {
        return Err("the extension answered for somebody else".into());
    }
    let prepared = &session.prepared;
    session.report.version = shorten(&prepared.version);
    session.report.configured = prepared.configured;
    session.report.pre.clone_from(&prepared.pre);
    session.report.problems.extend(prepared.problem.as_ref().map(|p| p.code));
    let told = prepared.warnings.iter().take(GUEST_WARNINGS_MAX);
    warnings.extend(told.map(|w| format!("the guest's scripts: {}", shorten(w))));
    Ok(session)
}

impl GuestSession {
    fn new(guest: &Guest<'_>, way: Way) -> Self {
        let via = if matches!(way, Way::Agent) { GuestVia::Agent } else { GuestVia::Port };
        Self {
            dom: guest.dom.clone(),
            way,
            id: guest.id.to_owned(),
            prepared: Prepared::default(),
            report: GuestReport {
                via,
                version: String::new(),
                installed: false,
                was_tampered_with: false,
                configured: false,
                pre: None,
                post: None,
                problems: Vec::new(),
            },
            is_over: false,
        }
    }

    /// The port, where the extension is spoken to over it: it can freeze too.
    pub fn port(&self) -> Option<Arc<Mutex<Port>>> {
        match &self.way {
            Way::Port(port) => Some(port.clone()),
            Way::Agent => None,
        }
    }

    fn prepare_through_agent(&mut self, guest: &Guest<'_>, warnings: &mut Vec<String>) -> Result<(), String> {
        match self.run_extension("prepare", GUEST_PREPARE_TIMEOUT)? {
            Found::Answer(prepared) => {
                self.prepared = prepared;
                return Ok(());
            }
            Found::Changed => {
                self.report.was_tampered_with = true;
                warnings.push(format!(
                    "the extension in {} was not the one that had been installed, and was replaced: somebody changed {DIRECTORY}/{}",
                    guest.what,
                    extension_name()
                ));
            }
            Found::Absent => {}
        }
        install(&self.dom, guest.id)?;
        self.report.installed = true;
        match self.run_extension("prepare", GUEST_PREPARE_TIMEOUT)? {
            Found::Answer(prepared) => {
                self.prepared = prepared;
                Ok(())
            }
            _ => Err("the extension was installed, and is not there".into()),
        }
    }

    /// Runs the extension, if it is there and the one that it has to be.
    fn run_extension<T: DeserializeOwned>(&self, verb: &str, timeout: Duration) -> Result<Found<T>, String> {
        // The hash is taken by the guest's own tool: a changed extension could say what it likes.
        const SCRIPT: &str = r#"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
            f=$1; h=$2; shift 2
            if [ ! -e "$f" ]; then echo strongroom: absent; exit 0; fi
            s=$(sha256sum "$f") || exit 97
            if [ "${s%% *}" != "$h" ] || [ -L "$f" ]; then echo strongroom: changed; exit 0; fi
            exec "$f" "$@""#;
        let file = format!("{DIRECTORY}/{}", extension_name());
        let arguments =
            ["-c", SCRIPT, "strongroom", &file, extension_hash(), verb, "--session", self.id.as_str()];
        let output = agent::run(&self.dom, "/bin/sh", &arguments, timeout).map_err(told)?;
        if output.stdout.starts_with(b"strongroom: absent\n") {
            return Ok(Found::Absent);
        }
        if output.stdout.starts_with(b"strongroom: changed\n") {
            return Ok(Found::Changed);
        }
        if output.stdout.len() > GUEST_ANSWER_BYTES_MAX {
            return Err("the extension says more than is listened to".into());
        }
        if output.exit_code != Some(0) {
            let why = shorten(&String::from_utf8_lossy(&output.stderr));
            return Err(match output.exit_code {
                Some(97) => "the guest has no sha256sum, by which the extension is known".into(),
                Some(code) => format!("the extension could not be run (exit code {code}): {why}"),
                None => "the extension was killed".into(),
            });
        }
        serde_json::from_slice(&output.stdout)
            .map(Found::Answer)
            .map_err(|e| format!("the extension's answer is not understood: {e}"))
    }

    /// Ends the preparation: the post-script runs. To be called when the guest is thawed.
    pub fn finish(&mut self) -> Result<Finished, String> {
        self.is_over = true;
        let finished: Finished = match self.way.clone() {
            Way::Port(port) => {
                let mut port = port.lock().unwrap_or_else(|p| p.into_inner());
                port.call(Verb::Finish, &self.id, GUEST_FINISH_TIMEOUT)?
            }
            Way::Agent => match self.run_extension("finish", GUEST_FINISH_TIMEOUT)? {
                Found::Answer(finished) => finished,
                _ => return Err("the extension is gone".into()),
            },
        };
        if finished.session != self.id {
            return Err("the extension answered for somebody else".into());
        }
        self.report.post.clone_from(&finished.post);
        self.report.problems.extend(finished.problem.as_ref().map(|p| p.code));
        Ok(finished)
    }
}

impl Drop for GuestSession {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(why) = self.finish()
        {
            // The extension does it by itself when its time is over.
            tracing::debug!(
                machine = self.dom.name(),
                why,
                "the guest was not told that the snapshot is over"
            );
        }
    }
}

enum Found<T> {
    Answer(T),
    Absent,
    Changed,
}

fn told(error: AgentError) -> String {
    match error {
        AgentError::Disabled => "its guest agent runs no programs (guest-exec is switched off)".into(),
        error => format!("its guest agent could not run it: {error}"),
    }
}

/// Puts the extension into the guest; others of its versions go. The commit point is the move to its name.
fn install(dom: &Dom, id: &str) -> Result<(), String> {
    const BEFORE: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin
        umask 077; d=$1
        if [ -L "$d" ]; then echo "$d is a symbolic link" >&2; exit 1; fi
        mkdir -p "$d" && chown 0:0 "$d" && chmod 700 "$d" && rm -f "$d"/upload-*"#;
    const AFTER: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin
        d=$1; u=$d/$2; f=$d/$3
        s=$(sha256sum "$u") || exit 1
        if [ "${s%% *}" != "$4" ]; then echo "it did not arrive whole" >&2; rm -f "$u"; exit 1; fi
        chown 0:0 "$u" && chmod 700 "$u" && rm -rf "$f" && mv -f "$u" "$f" || exit 1
        for o in "$d"/strongroom-guest-*; do [ "$o" = "$f" ] || rm -f "$o"; done"#;
    let upload = format!("upload-{id}");
    let name = extension_name();
    let step = |script: &str, arguments: &[&str]| -> Result<(), String> {
        let all = [&["-c", script, "strongroom", DIRECTORY], arguments].concat();
        let output = agent::run(dom, "/bin/sh", &all, GUEST_INSTALL_STEP_TIMEOUT).map_err(told)?;
        match output.exit_code {
            Some(0) => Ok(()),
            _ => {
                let why = shorten(&String::from_utf8_lossy(&output.stderr));
                Err(format!("the extension could not be installed in {DIRECTORY}: {why}"))
            }
        }
    };
    step(BEFORE, &[])?;
    agent::write_file(dom, &format!("{DIRECTORY}/{upload}"), EXTENSION)
        .map_err(|e| format!("the extension could not be installed: {e}"))?;
    step(AFTER, &[&upload, &name, extension_hash()])
}

/// A script's problem as an error that ends the backup.
pub fn error(what: &str, problem: &Problem) -> Error {
    Error::Script {
        what: what.to_owned(),
        code: problem.code,
        why: shorten(&problem.message),
        output: output_of(problem),
    }
}

/// As a warning.
pub fn warning(problem: &Problem) -> String {
    let Problem { code, message, .. } = problem;
    let said = said(&output_of(problem));
    format!("{} ({}): {}; {}{said}", code.name(), code.number(), shorten(message), code.advice())
}

/// The end of what a script printed, fit for a message.
fn output_of(problem: &Problem) -> String {
    let text = strongroom_guest::text::plain(&problem.output, GUEST_TOLD_BYTES_MAX);
    text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Whether a failure of this kind ends the backup, and how the others are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The backup goes on at the level of file systems.
    FileSystem,
    /// It goes on without freezing.
    Crash,
    Fail,
}

/// What Azure does when a script has failed, or the configuration is wrong.
pub fn consequence(code: Code, prepared: &Prepared, disks: usize) -> Consequence {
    if code.is_configuration() {
        Consequence::FileSystem
    } else if !prepared.freeze {
        Consequence::Fail
    } else if prepared.continue_on_failure {
        Consequence::FileSystem
    } else if disks == 1 {
        Consequence::Crash
    } else {
        Consequence::Fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_needs_nothing_of_the_guest() {
        assert_eq!(&EXTENSION[..4], b"\x7fELF");
        // No program interpreter: PT_INTERP is 3. 64 bit, little endian.
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([EXTENSION[at], EXTENSION[at + 1]]));
        let headers = u64::from_le_bytes(EXTENSION[32..40].try_into().unwrap()) as usize;
        let (size, count) = (u16_at(54), u16_at(56));
        for index in 0..count {
            let at = headers + index * size;
            let kind = u32::from_le_bytes(EXTENSION[at..at + 4].try_into().unwrap());
            assert_ne!(kind, 3, "it is linked dynamically");
        }
        assert!(EXTENSION.len() < 3 << 20, "{} bytes are too many to be sent", EXTENSION.len());
        assert_eq!(extension_hash().len(), 64);
    }

    #[test]
    fn azures_fallbacks() {
        let prepared =
            |continue_on_failure, freeze| Prepared { continue_on_failure, freeze, ..Prepared::default() };
        for disks in [1, 2] {
            for (go_on, freeze) in [(true, true), (false, true), (false, false), (true, false)] {
                let config = consequence(Code::ConfigPermissions, &prepared(go_on, freeze), disks);
                assert_eq!(config, Consequence::FileSystem);
            }
            let of = |p| consequence(Code::PreScriptFailed, &p, disks);
            assert_eq!(of(prepared(true, true)), Consequence::FileSystem);
            assert_eq!(of(prepared(true, false)), Consequence::Fail);
            assert_eq!(of(prepared(false, false)), Consequence::Fail);
        }
        assert_eq!(consequence(Code::PreScriptTimeout, &prepared(false, true), 1), Consequence::Crash);
        assert_eq!(consequence(Code::PostScriptFailed, &prepared(false, true), 2), Consequence::Fail);
    }

    #[test]
    fn messages_carry_the_code_and_the_end_of_the_output() {
        let problem = Problem {
            code: Code::PreScriptFailed,
            message: "the pre-script `/a` exited with 3".into(),
            output: "line\n\u{7}\nlast\n".into(),
        };
        let told = warning(&problem);
        assert!(
            told.starts_with("Pre-ScriptExecutionFailed (300): the pre-script `/a` exited with 3;"),
            "{told}"
        );
        assert!(told.ends_with("It said: \"line\nlast\""), "{told:?}");
        let error = error("machine `a`", &problem).to_string();
        assert!(error.contains("machine `a`") && error.contains("last"), "{error}");
    }
}
