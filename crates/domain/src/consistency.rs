//! The consistency ladder: what a recovery point promises about the data it holds.
//!
//! A point always carries its level and, where it is not the best, the reason. It never claims
//! more than was seen to happen.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How consistent a recovery point is. Ordered: a later variant promises more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsistencyLevel {
    /// What was on disk at one instant, as after a power cut.
    Crash,
    /// File systems were frozen or cleanly shut off: no corruption, no loss; applications do their own fix-up.
    FileSystem,
    /// The applications took part.
    Application,
}

impl fmt::Display for ConsistencyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash-consistent",
            Self::FileSystem => "file-system-consistent",
            Self::Application => "application-consistent",
        })
    }
}

/// A level together with how it was earned, or why it is not better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// How consistent.
    pub level: ConsistencyLevel,
    /// One sentence for the user: what was seen to happen.
    pub reason: String,
}

impl Consistency {
    /// Of a level, for a reason.
    pub fn new(level: ConsistencyLevel, reason: impl Into<String>) -> Self {
        Self { level, reason: reason.into() }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.level, self.reason)
    }
}
