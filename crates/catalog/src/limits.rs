//! Every bound of this crate in one place.

use std::time::Duration;

/// How long to wait for another process that is writing.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to the service's state that are kept open.
pub const CONNECTIONS_MAX: usize = 4;
/// How often a change is made anew because somebody else was faster.
pub const UPDATE_ATTEMPTS: usize = 256;
