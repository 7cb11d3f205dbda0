//! What is done inside a machine around its snapshot, and what came of it.

use serde::{Deserialize, Serialize};
pub use strongroom_guest::wire::{Code as ScriptCode, ScriptRun};

/// Whether the guest's own scripts are run around the instant, by the extension inside, which is installed where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestWork {
    /// Where the machine runs and lets in.
    #[default]
    Auto,
    /// Nothing is run in it.
    Never,
}

/// How the extension was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestVia {
    /// Run through the guest agent.
    Agent,
    /// Over its own virtio-serial port.
    Port,
}

/// What the extension in the guest did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// How it was spoken to.
    pub via: GuestVia,
    /// Of the extension.
    pub version: String,
    /// It was installed, upgraded or replaced for this snapshot.
    pub installed: bool,
    /// The binary in the guest was not the one that had been put there, and was replaced.
    pub was_tampered_with: bool,
    /// Whether the guest has a configuration of scripts.
    pub configured: bool,
    /// How the pre-script ran.
    pub pre: Option<ScriptRun>,
    /// How the post-script ran.
    pub post: Option<ScriptRun>,
    /// What was wrong, in the order in which it happened.
    pub problems: Vec<ScriptCode>,
}
