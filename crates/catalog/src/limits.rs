//! Every bound of this crate in one place.

use std::time::Duration;

/// How long to wait for another process that is writing.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Databases that were moved aside, at most.
pub const DAMAGED_KEPT: usize = 2;
/// Rows of one answer, at most.
pub const ANSWER_ROWS_MAX: i64 = 1_000_000;
/// Connections to the service's state that are kept open.
pub const CONNECTIONS_MAX: usize = 4;
/// How often a change is made anew because somebody else was faster.
pub const UPDATE_ATTEMPTS: usize = 64;
