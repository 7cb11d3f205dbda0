//! Every bound of the extension, in one place.

use std::time::Duration;

/// File systems are thawed after this time at the latest (seconds), whatever happens: below the 60 that are promised, so
/// that thawing itself has time.
pub const HOLD_LIMIT_SECONDS: u32 = 50;
/// How often the warden looks around.
pub const WARDEN_TICK: Duration = Duration::from_millis(200);

/// Azure's configuration files, at most (bytes).
pub const CONFIG_BYTES_MAX: u64 = 64 << 10;
/// A script's location, at most (bytes).
pub const PATH_BYTES_MAX: usize = 4096;
/// A script's time with all its retries (seconds): what is the default, and what is the most.
pub const SCRIPT_SECONDS_DEFAULT: u64 = 10;
/// How long a script may run, whatever its configuration says.
pub const SCRIPT_SECONDS_MAX: u64 = 1800;
/// Retries of a script, at most.
pub const RETRIES_MAX: u64 = 100;
/// Parameters of a script, at most, and each one's length (bytes).
pub const PARAMETERS_MAX: usize = 256;
/// Of one parameter of a script.
pub const PARAMETER_BYTES_MAX: usize = 4096;
/// The pause before a retry (seconds).
pub const POLL_SECONDS_DEFAULT: u64 = 3;
/// The shortest time between two looks at a running script.
pub const POLL_SECONDS_MIN: u64 = 1;
/// The longest.
pub const POLL_SECONDS_MAX: u64 = 5;
/// What is kept of a script's output: its end (bytes). The rest is read and let go.
pub const OUTPUT_TAIL_BYTES: usize = 8 << 10;
/// How long a script that is out of time has between being asked to end and being killed.
pub const TERMINATE_GRACE: Duration = Duration::from_secs(2);
/// How long its last words are waited for after its end.
pub const LAST_WORDS: Duration = Duration::from_millis(200);
/// Processes looked through for descendants of a script, at most.
pub const PROCESSES_MAX: usize = 1 << 17;

/// Mounts looked at, at most.
pub const MOUNTS_MAX: usize = 4096;
/// A request over the port, at most (bytes).
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// An answer, at most (bytes): two script outputs, escaped, and some words.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Warnings in an answer, at most.
pub const WARNINGS_MAX: usize = 32;
