//! Every bound of this crate in one place.

use std::time::Duration;

/// How long to wait for another process that is writing.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Databases that were moved aside, at most.
pub const DAMAGED_KEPT: usize = 2;
/// Rows of one answer, at most.
pub const ANSWER_ROWS_MAX: i64 = 1_000_000;
