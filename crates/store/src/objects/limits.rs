//! Every bound of the object layer, in one place.

use std::time::Duration;

/// Longest object name, in bytes, slashes included.
pub const MAX_NAME_BYTES: usize = 512;
/// Longest single segment of an object name, in bytes.
pub const MAX_SEGMENT_BYTES: usize = 128;
/// Largest object `get` reads whole; use `get_bounded` or `get_range` for less.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;
/// Two ranges of one local object closer than this are read with one call.
pub const LOCAL_COALESCE_GAP_BYTES: u64 = 64 << 10;
/// Longest stretch that coalescing may build from several local ranges.
pub const LOCAL_COALESCE_MAX_BYTES: u64 = 16 << 20;
/// Local objects from this size on are written past the page cache.
pub const DIRECT_MIN_BYTES: usize = 1 << 20;
/// Ranges from this size on, if not cached, are read past the page cache: more than anyone reads at random.
pub const DIRECT_READ_MIN_BYTES: usize = 2 << 20;
/// Written at once past the page cache; each writing thread keeps a buffer of this size.
pub const DIRECT_PIECE_BYTES: usize = 2 << 20;
/// Names handed over at once while listing a remote store.
pub const LIST_PAGE_NAMES: usize = 1000;
/// Names of objects to delete that are held at a time.
pub const DELETE_BATCH_NAMES: usize = 1000;
/// Requests for deleting that are under way at a time.
pub const DELETES_AT_ONCE: usize = 20;

/// How many create an object at once to find out whether a store lets but one.
pub const PROBE_RACERS: u8 = 4;
/// A put into a local directory that is being removed and made again tries this often.
pub const PUBLISH_ATTEMPTS: u32 = 32;
/// Directories whose durability a local store remembers before it starts over.
pub const KNOWN_DIRS: usize = 16_384;
/// A temporary file that nobody can be asked about (no file locks) is stale after this.
pub const STALE_TEMP_AGE: Duration = Duration::from_secs(24 * 3600);

/// The reserve of a local vault, at most. With what is for records left, it takes one pack and its index run.
pub const RESERVE_BYTES: u64 = 48 << 20;
/// Nor is it more than one in so many of the file system's bytes.
pub const RESERVE_DISK_SHARE: u64 = 8;
/// What of it is for leases, locks, tombstones and lists alone.
pub const RESERVE_FOR_RECORDS_BYTES: u64 = 4 << 20;
/// It grows and shrinks by at least this.
pub const RESERVE_PIECE_BYTES: u64 = 1 << 20;
/// Written at once where the file system cannot set blocks aside.
pub const RESERVE_WRITE_BYTES: usize = 1 << 20;

/// Attempts of one operation on a remote store, the first included.
pub const RETRY_ATTEMPTS: u32 = 7;
/// Pause before the second attempt; doubles from there.
pub const RETRY_FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
pub const RETRY_MAX_DELAY: Duration = Duration::from_secs(10);
/// No attempt starts later than this after the first.
pub const RETRY_TOTAL: Duration = Duration::from_secs(180);

/// Longest pause that a store may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How long a request may take that moves nothing.
pub const DEADLINE_BASE: Duration = Duration::from_secs(60);
/// And so much longer for what it moves.
pub const DEADLINE_BYTES_A_SECOND: u64 = 64 << 10;
/// A range that takes so many times as long as most is asked for a second time.
pub const HEDGE_FACTOR: f64 = 4.0;
/// But never before this.
pub const HEDGE_MIN: Duration = Duration::from_millis(500);
/// Nor before so many were read.
pub const HEDGE_KNOWN: u64 = 16;
/// One in so many may be.
pub const HEDGE_ONE_IN: u64 = 32;

/// Establishing a connection to an S3 endpoint.
pub const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole S3 request: a pack of tens of MiB must get through a slow uplink.
pub const S3_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// Silence from an S3 endpoint in the middle of an answer.
pub const S3_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A part of a file sent to a container is at least this long.
pub const PART_MIN_BYTES: u64 = 8 << 20;
/// And at most this long.
pub const PART_MAX_BYTES: u64 = 512 << 20;
/// Parts of one file, at most: stores take 10 000 or more.
pub const PARTS_MAX: u64 = 9000;
/// Parts on their way at a time, if they fit into the buffer.
pub const PARTS_AT_ONCE: usize = 4;
/// What parts on their way may take of memory; one is, however long it is. So at most two of the longest are.
pub const PART_BUFFER_BYTES: u64 = 128 << 20;
/// How long parts on their way are waited for before what was sent is taken back.
pub const PARTS_END_PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to put an object together after whoever wanted that has gone.
pub const LATE_OBJECT_WAIT: Duration = Duration::from_secs(10);
/// How often that is looked at.
pub const LATE_OBJECT_INTERVAL: Duration = Duration::from_millis(500);
/// When told to stop: how much longer what is under way is waited for.
pub const STOP_GRACE: Duration = Duration::from_millis(500);
/// And what is begun after that, to clean up.
pub const STOP_CLEANUP_GRACE: Duration = Duration::from_secs(2);
/// How often whoever waits for a store looks whether it is to stop.
pub const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Worker threads of the runtime a store starts when it is given none.
pub const RUNTIME_THREADS: usize = 2;
