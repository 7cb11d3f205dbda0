//! Every bound of the client in one place.

use std::time::Duration;

/// Reaching a server, its TLS handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A request and its answer: longer than the server gives itself.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(150);
/// One answer. A page of a thousand machines has some two MiB.
pub const ANSWER_MAX_BYTES: usize = 64 << 20;
/// A file with certificates.
pub const PEM_MAX_BYTES: u64 = 4 << 20;
/// Pages of one list: more means that a list has no end.
pub const PAGES_MAX: usize = 10_000;
/// How long to wait for another command, or a service that is just starting, to let go of the data directory.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);
pub const LOCK_RETRY: Duration = Duration::from_millis(100);
/// How often operations and jobs are looked at: of a service; in this process always the least.
pub const POLL_INTERVAL_MAX: Duration = Duration::from_secs(1);
pub const POLL_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long an operation that only makes a job may take.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(600);
