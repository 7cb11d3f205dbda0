//! Every bound of this crate in one place, with the reason for its size.

use std::time::Duration;

/// Longest request target (path and query), in bytes. Azure's own ids stay under 2 KiB; filters are short.
pub const TARGET_MAX_BYTES: usize = 8 << 10;
/// Path segments: the deepest resource of the backup plane has 17.
pub const PATH_SEGMENTS_MAX: usize = 40;
/// One decoded path segment, in bytes. Azure's longest names have 260 characters.
pub const PATH_SEGMENT_MAX_BYTES: usize = 1024;
/// Query parameters of one request.
pub const QUERY_PARAMETERS_MAX: usize = 32;
/// Longest api-version; real ones have 10 to 18 characters.
pub const API_VERSION_MAX_BYTES: usize = 64;
/// Longest Host header: a DNS name and a port.
pub const HOST_MAX_BYTES: usize = 261;
/// What of a caller's own words is repeated in an error message.
pub const ECHO_MAX_CHARS: usize = 200;

/// A request's body, in bytes. The largest real one, a policy, has a few KiB.
pub const BODY_MAX_BYTES: usize = 4 << 20;
/// The same where anybody may send one (signing in), or where nothing is changed by it. One connection holds no more than this
/// of such bodies, so all together are bounded by the connections, and none is refused for others'.
pub const SMALL_BODY_MAX_BYTES: usize = 64 << 10;
/// All larger bodies being read or waiting for a handler, in bytes: memory stays bounded however many clients send. They are
/// read of callers alone who may do what they ask for.
pub const BODIES_TOTAL_MAX_BYTES: usize = 64 << 20;
/// Of which one caller gets so much.
pub const BODIES_PER_CALLER_MAX_BYTES: usize = 16 << 20;
/// The same over the Unix socket, beside all others.
pub const LOCAL_BODIES_MAX_BYTES: usize = 32 << 20;
/// What is read into nothing of a request that is refused already, so that the connection can go on, and for how long.
pub const DRAIN_MAX_BYTES: usize = 256 << 10;
/// See [`DRAIN_MAX_BYTES`].
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read into nothing after an answer that came before the request's end, and for how long: a connection closed
/// over unread bytes would take the answer with it.
pub const LINGER_MAX_BYTES: usize = 32 << 20;
/// See [`LINGER_MAX_BYTES`].
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Headers of one request.
pub const HEADERS_MAX: usize = 64;
/// Headers of one request, all together, in bytes. A bearer token takes up to two KiB.
pub const HEADERS_MAX_BYTES: usize = 16 << 10;

/// Connections at the same time, and of one remote address (IPv4) or network (IPv6, /64): one client cannot take all. Beyond
/// it the connection gives way that has waited for its client the longest, of whoever has most.
pub const CONNECTIONS_MAX: usize = 512;
/// See [`CONNECTIONS_MAX`].
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
/// Connections over the Unix socket, which nobody else's can take.
pub const LOCAL_CONNECTIONS_MAX: usize = 64;
/// Requests at the same time on one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 32;
/// Handlers running at the same time. They wait for the database more than they compute.
pub const HANDLERS_MAX: usize = 16;
/// Requests waiting for a handler; beyond this the answer is 503 with `Retry-After`.
pub const HANDLERS_WAITING_MAX: usize = 256;
/// Of these, from one remote address or network.
pub const HANDLERS_WAITING_PER_ADDRESS_MAX: usize = 64;
/// Handlers for the Unix socket, which nobody else's requests can take.
pub const LOCAL_HANDLERS_MAX: usize = 4;
/// What `Retry-After` says then, in seconds.
pub const BUSY_RETRY_AFTER_SECONDS: u32 = 2;

/// A TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's head, from its first byte (HTTP/1).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A request's body, from its head to its last byte.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of one that anybody may send.
pub const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// From a request's head to the head of its answer. A handler is not stopped by it (it ends by itself): the client is.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A client that takes nothing of an answer for this long is cut off.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request is closed after this long: more than the 30 s between a client's polls.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// When the service stops, running requests get this long to end.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// A `$filter`'s length in bytes, its nesting, and its comparisons.
pub const FILTER_MAX_BYTES: usize = 4 << 10;
/// See [`FILTER_MAX_BYTES`]: parentheses and `not` in one another.
pub const FILTER_DEPTH_MAX: usize = 16;
/// See [`FILTER_MAX_BYTES`]: comparisons and functions, all together.
pub const FILTER_TERMS_MAX: usize = 64;
/// Arguments of a function in a filter.
pub const FILTER_ARGUMENTS_MAX: usize = 8;
/// What a page of a list holds at most; also what it holds when `$top` is absent and the handler names no other.
pub const PAGE_MAX_ITEMS: usize = 1000;
/// A page's cursor, in bytes: a machine's name of 255 bytes and a group's of 90 letters fit, whatever their alphabet.
pub const CURSOR_MAX_BYTES: usize = 1024;

/// Rows about refused requests of one principal, or of nobody known from one address, that go to the audit at once, and how
/// many a second after that. What is left out is counted, and told in one row a minute: who has no rights must not fill the disk.
pub const REFUSALS_BURST: u32 = 50;
/// See [`REFUSALS_BURST`].
pub const REFUSALS_PER_SECOND: f64 = 1.0 / 60.0;
/// The same of all who are not known, wherever they come from.
pub const ANONYMOUS_REFUSALS_BURST: u32 = 100;
/// See [`ANONYMOUS_REFUSALS_BURST`].
pub const ANONYMOUS_REFUSALS_PER_SECOND: f64 = 1.0;
/// The same of one principal's sign-ins that succeed.
pub const SIGN_INS_BURST: u32 = 50;
/// See [`SIGN_INS_BURST`].
pub const SIGN_INS_PER_SECOND: f64 = 0.1;
/// Whose refusals are counted one by one; what others do beyond this is counted together.
pub const REFUSED_REMEMBERED_MAX: usize = 1024;
/// What the audit keeps of the resource that a refused request named, in bytes.
pub const AUDIT_SCOPE_MAX_BYTES: usize = 2 << 10;
/// How often what was left out is told.
pub const TICK_INTERVAL: Duration = Duration::from_secs(60);

/// How long an access token is good for, in seconds: as Azure's.
pub const ACCESS_TOKEN_SECONDS: i64 = 3600;
/// How long a refresh token is good for, in seconds. It also ends when its principal's secret changes.
pub const REFRESH_TOKEN_SECONDS: i64 = 24 * 3600;
/// How far apart two clocks may be, in seconds.
pub const TOKEN_LEEWAY_SECONDS: i64 = 60;
/// Longest token that is looked at, in bytes: ours have about one KiB.
pub const TOKEN_MAX_BYTES: usize = 8 << 10;
/// A new signing key is made when the newest is this old, in seconds.
pub const SIGNING_KEY_ROTATION_SECONDS: i64 = 30 * 24 * 3600;
/// Keys published and accepted at the same time: more means that something makes them in a loop.
pub const SIGNING_KEYS_MAX: usize = 16;
/// An unknown key id makes the keys be read again, at most this often.
pub const SIGNING_KEYS_REREAD_SECONDS: i64 = 5;

/// argon2id as OWASP's password storage cheat sheet has it: 19 MiB, two passes, one lane (some 30 ms).
pub const ARGON2_MEMORY_KIB: u32 = 19 << 10;
/// See [`ARGON2_MEMORY_KIB`].
pub const ARGON2_PASSES: u32 = 2;
/// See [`ARGON2_MEMORY_KIB`].
pub const ARGON2_LANES: u32 = 1;
/// Secrets being verified at the same time (each takes the memory above), and waiting for it; and how many of both one remote
/// address or network may have. Guessing from many addresses goes no faster than all of them together: some 60 a second.
pub const SECRET_CHECKS_MAX: usize = 2;
/// See [`SECRET_CHECKS_MAX`].
pub const SECRET_CHECKS_WAITING_MAX: usize = 8;
/// See [`SECRET_CHECKS_MAX`].
pub const SECRET_CHECKS_PER_ADDRESS_MAX: usize = 4;
/// A sign-in's name and secret, in bytes.
pub const SIGN_IN_NAME_MAX_BYTES: usize = 256;
/// See [`SIGN_IN_NAME_MAX_BYTES`].
pub const SIGN_IN_SECRET_MAX_BYTES: usize = 1024;
/// Failed sign-ins that are forgiven, and how many seconds it takes until one more is: for one name from one address or
/// network, and for one address or network. There is none for a name from anywhere: it would let anybody who knows a name keep
/// its owner out.
pub const FAILURES_NAME_AND_CLIENT: (u32, f64) = (5, 30.0);
/// See [`FAILURES_NAME_AND_CLIENT`].
pub const FAILURES_CLIENT: (u32, f64) = (60, 2.0);
/// Names and addresses whose failures are remembered.
pub const FAILURES_REMEMBERED_MAX: usize = 4096;

/// The certificate authority of a new installation is valid this long, and is renewed (with the same key) when this
/// much remains.
pub const AUTHORITY_DAYS: i64 = 3652;
/// See [`AUTHORITY_DAYS`].
pub const AUTHORITY_RENEW_DAYS: i64 = 400;
/// The server's certificate likewise.
pub const CERTIFICATE_DAYS: i64 = 365;
/// See [`CERTIFICATE_DAYS`].
pub const CERTIFICATE_RENEW_DAYS: i64 = 30;
/// How often a running server looks at its certificate.
pub const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// A PEM file that is read, in bytes.
pub const PEM_MAX_BYTES: u64 = 1 << 20;
