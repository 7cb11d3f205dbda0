//! Every bound of this crate, in one place.
//!
//! The constants bound what a peer may make us allocate or wait for, whatever it says.
//! [`ServerLimits`] are those an operator may want to change.

use std::time::Duration;

/// Longest export name, context name or description, in bytes (the protocol's own limit).
pub const MAX_STRING_BYTES: usize = 4096;
/// Longest payload of one negotiation option or of one reply to it, in bytes.
pub const MAX_OPTION_BYTES: usize = 64 * 1024;
/// Most replies a server may give to one option (exports listed, infos, contexts).
pub const MAX_OPTION_REPLIES: usize = 16 * 1024;
/// Most options one client may send before it has chosen an export.
pub const MAX_OPTIONS_PER_CLIENT: usize = 256;
/// Most metadata contexts in use on one connection.
pub const MAX_CONTEXTS: usize = 64;
/// Largest read or write when the server states no maximum, in bytes.
pub const DEFAULT_MAX_BLOCK_BYTES: u32 = 32 * 1024 * 1024;
/// Largest read or write we send, even when a server would take more, in bytes.
pub const CLIENT_MAX_BLOCK_BYTES: u32 = 32 * 1024 * 1024;
/// Most extents a server may report for one context in one reply.
pub const MAX_STATUS_EXTENTS: usize = 1024 * 1024;
/// Most extents our server puts into one reply; the client asks again for the rest.
pub const SERVER_STATUS_EXTENTS: usize = 16 * 1024;
/// Most separate ranges of one read that may have arrived out of order.
pub const MAX_READ_GAPS: usize = 64 * 1024;
/// Most error chunks in one reply.
pub const MAX_ERROR_CHUNKS: usize = 64;
/// Largest piece of a read or write our server holds in memory at once, in bytes.
pub const SERVER_PIECE_BYTES: usize = 1024 * 1024;
/// Size asked for socket buffers, in bytes (the kernel may give less).
pub const SOCKET_BUFFER_BYTES: usize = 2 * 1024 * 1024;
/// Slowest transfer of a payload that is tolerated, on top of the timeouts, in bytes per second.
pub const MIN_PAYLOAD_BYTES_PER_SECOND: u64 = 32 * 1024;
/// A request unanswered for this many times the timeout of silence is given up, even though the
/// server goes on answering others.
pub const MAX_REQUEST_AGE_IN_TIMEOUTS: u32 = 10;

/// Longest time-out that is taken literally; beyond it the system's clocks overflow.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a server grants its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at the same time; further ones are closed at once. Default 16.
    pub max_connections: usize,
    /// Requests of one connection worked on at the same time. Default 4.
    pub workers_per_connection: usize,
    /// Largest read or write, in bytes, a power of two from 64 KiB up. Default 32 MiB.
    pub max_request_bytes: u32,
    /// Time in which a client must have finished negotiating. Default 10 s.
    pub negotiation_timeout: Duration,
    /// Time in which a message, once begun, must arrive, and in which a client that is sent a reply
    /// must take some of it. Default 60 s. A client may be idle between requests for ever.
    pub io_timeout: Duration,
    /// Time requests in progress are given when the server stops. Default 5 s.
    pub stop_grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            max_connections: 16,
            workers_per_connection: 4,
            max_request_bytes: 32 * 1024 * 1024,
            negotiation_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(5),
        }
    }
}

impl ServerLimits {
    /// With time-outs the system can count.
    pub(crate) fn clamped(mut self) -> ServerLimits {
        for timeout in [&mut self.negotiation_timeout, &mut self.io_timeout, &mut self.stop_grace] {
            *timeout = (*timeout).min(MAX_TIMEOUT);
        }
        self
    }

    /// The most payload memory the server can hold whatever its clients do, in bytes: a piece for
    /// each worker, one for each place in a connection's queue, and one for its reader.
    pub fn memory_bound_bytes(&self) -> u64 {
        (self.max_connections as u64)
            .saturating_mul(2 * self.workers_per_connection as u64 + 1)
            .saturating_mul(SERVER_PIECE_BYTES as u64)
    }
}
