//! What host and extension say to each other: JSON documents, one a call.
//!
//! Through the guest agent a call is a run of the binary, and its answer is what it prints; over the extension's own port
//! it is a line each way ([`Request`], [`Answer`]). Fields that are not known are passed over, so that either side may be newer.

use serde::{Deserialize, Serialize};

/// The name of the extension's own virtio-serial port.
pub const PORT_NAME: &str = "org.strongroom.guest.0";
/// Of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Azure's codes of what can be wrong with scripts and their configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The pre-script ended with an error.
    PreScriptFailed,
    /// The post-script ended with an error.
    PostScriptFailed,
    /// The pre-script is not there.
    PreScriptNotFound,
    /// The post-script is not there.
    PostScriptNotFound,
    /// The second configuration file cannot be read.
    HostConfigUnreadable,
    /// The configuration cannot be read.
    ConfigUnreadable,
    /// It does not say where a script is.
    LocationMissing,
    /// The pre-script could be changed by others than root.
    PreScriptPermissions,
    /// The post-script could be.
    PostScriptPermissions,
    /// The pre-script took too long.
    PreScriptTimeout,
    /// The post-script took too long.
    PostScriptTimeout,
    /// The second configuration file could be changed by others than root.
    HostConfigPermissions,
    /// The configuration could be.
    ConfigPermissions,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::PreScriptFailed,
        Self::PostScriptFailed,
        Self::PreScriptNotFound,
        Self::PostScriptNotFound,
        Self::HostConfigUnreadable,
        Self::ConfigUnreadable,
        Self::LocationMissing,
        Self::PreScriptPermissions,
        Self::PostScriptPermissions,
        Self::PreScriptTimeout,
        Self::PostScriptTimeout,
        Self::HostConfigPermissions,
        Self::ConfigPermissions,
    ];

    /// The number Azure's script runner reports.
    pub fn number(self) -> u32 {
        match self {
            Self::PreScriptFailed => 300,
            Self::PostScriptFailed => 301,
            Self::PreScriptNotFound => 302,
            Self::PostScriptNotFound => 303,
            Self::HostConfigUnreadable | Self::ConfigUnreadable => 304,
            Self::LocationMissing => 305,
            Self::PreScriptPermissions => 306,
            Self::PostScriptPermissions => 307,
            Self::PreScriptTimeout => 308,
            Self::PostScriptTimeout => 309,
            Self::HostConfigPermissions => 314,
            Self::ConfigPermissions => 317,
        }
    }

    /// The name Azure's service shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreScriptFailed => "Pre-ScriptExecutionFailed",
            Self::PostScriptFailed => "Post-ScriptExecutionFailed",
            Self::PreScriptNotFound => "Pre-ScriptNotFound",
            Self::PostScriptNotFound => "Post-ScriptNotFound",
            Self::HostConfigUnreadable | Self::HostConfigPermissions => "IncorrectPluginhostFile",
            Self::ConfigUnreadable | Self::LocationMissing | Self::ConfigPermissions => {
                "IncorrectJSONConfigFile"
            }
            Self::PreScriptPermissions => "InsufficientPermissionforPre-Script",
            Self::PostScriptPermissions => "InsufficientPermissionforPost-Script",
            Self::PreScriptTimeout => "Pre-ScriptTimeout",
            Self::PostScriptTimeout => "Post-ScriptTimeout",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::PreScriptFailed | Self::PostScriptFailed => "look at what the script printed, and mend it",
            Self::PreScriptNotFound | Self::PostScriptNotFound => {
                "put the script where the configuration says, or correct the configuration"
            }
            Self::HostConfigUnreadable => "correct VMSnapshotPluginHost.conf, or remove it",
            Self::ConfigUnreadable | Self::LocationMissing => {
                "correct VMSnapshotScriptPluginConfig.json, or remove it where no scripts are wanted"
            }
            Self::PreScriptPermissions | Self::PostScriptPermissions => {
                "the script must belong to root with mode 700, under directories that only root can change"
            }
            Self::PreScriptTimeout | Self::PostScriptTimeout => {
                "make the script faster, or raise timeoutInSeconds in its configuration"
            }
            Self::HostConfigPermissions | Self::ConfigPermissions => {
                "the file must belong to root with mode 600, under directories that only root can change"
            }
        }
    }

    /// Whether it is about the configuration: no script is run then, and nothing depends on `continueBackupOnFailure`.
    pub fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::HostConfigUnreadable
                | Self::ConfigUnreadable
                | Self::LocationMissing
                | Self::HostConfigPermissions
                | Self::ConfigPermissions
        )
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// The end of what the script printed.
    #[serde(default)]
    pub output: String,
}

impl Problem {
    /// Of a code, with what happened.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), output: String::new() }
    }
}

/// How a script ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptRun {
    /// How often it was run.
    pub tries: u32,
    /// All tries together, in milliseconds.
    pub elapsed_ms: u64,
    /// Of the last try. `None`: a signal ended it, or it could not be run.
    pub exit_code: Option<i32>,
    /// What it printed in all (bytes).
    pub output_bytes: u64,
}

/// What `prepare` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prepared {
    /// Of the extension.
    pub version: String,
    /// As in the request.
    pub session: String,
    /// Whether there is a configuration of scripts.
    pub configured: bool,
    /// The pre-script ran, and ended well.
    pub ready: bool,
    /// `continueBackupOnFailure`.
    pub continue_on_failure: bool,
    /// `fsFreezeEnabled`.
    pub freeze: bool,
    /// How the pre-script ran.
    pub pre: Option<ScriptRun>,
    /// What went wrong.
    pub problem: Option<Problem>,
    /// A sentence each.
    pub warnings: Vec<String>,
}

/// What `finish` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finished {
    /// Of the extension.
    pub version: String,
    /// As in the request.
    pub session: String,
    /// Whether this session was there to be finished.
    pub known: bool,
    /// The time limit had ended it before: it was thawed, and the post-script was run, by the warden.
    pub expired: bool,
    /// How the post-script ran.
    pub post: Option<ScriptRun>,
    /// What went wrong.
    pub problem: Option<Problem>,
}

/// What freezing over the extension's own port answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frozen {
    /// How many file systems this call froze; of `thaw`: how many were thawed.
    pub count: u32,
    /// Those that somebody else had frozen: they are left so.
    pub already: u32,
    /// Of `thaw`: the time limit, or the loss of the host, had thawed them before.
    pub expired: bool,
}

/// A call over the extension's own port: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    /// What is asked for.
    #[serde(rename = "do")]
    pub verb: Verb,
    /// Of `prepare` and `finish`: 1 to 64 of `A-Z a-z 0-9 -`.
    #[serde(default)]
    pub session: String,
}

/// What a host can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Which version this is.
    Version,
    /// To prepare.
    Prepare,
    /// To finish.
    Finish,
    /// To freeze.
    Freeze,
    /// To thaw.
    Thaw,
}

/// The answer: one line of JSON. Exactly one of `value` and `error`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Of the request.
    pub id: u64,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Why it came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether text can name a session.
pub fn is_session(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_azures() {
        let numbers: Vec<u32> = Code::ALL.iter().map(|c| c.number()).collect();
        assert_eq!(numbers, [300, 301, 302, 303, 304, 304, 305, 306, 307, 308, 309, 314, 317]);
        assert_eq!(serde_json::to_string(&Code::PreScriptTimeout).unwrap(), "\"pre-script-timeout\"");
        assert!(Code::ALL.iter().all(|c| !c.name().is_empty() && !c.advice().is_empty()));
    }

    #[test]
    fn answers_of_other_versions_are_understood() {
        let newer = r#"{"version":"9","session":"a","configured":true,"news":1}"#;
        let read: Prepared = serde_json::from_str(newer).unwrap();
        assert!(read.configured && !read.ready);
        let line =
            serde_json::to_string(&Request { id: 7, verb: Verb::Freeze, session: String::new() }).unwrap();
        assert_eq!(line, r#"{"id":7,"do":"freeze","session":""}"#);
    }

    #[test]
    fn sessions_are_plain() {
        assert!(
            is_session("0190a1b2-c3")
                && !is_session("")
                && !is_session("../x")
                && !is_session(&"a".repeat(65))
        );
    }
}
