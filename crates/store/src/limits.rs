//! Every bound of this crate in one place, with the reason for its size.

use std::time::Duration;

/// Smallest block size a vault may have, in bytes.
pub const BLOCK_SIZE_MIN_BYTES: u32 = 4 << 10;
/// Largest block size a vault may have, in bytes: several fit into a frame that a reader accepts.
pub const BLOCK_SIZE_MAX_BYTES: u32 = 4 << 20;
/// 64 KiB: a small change costs little, and frames give back the ratio and speed of large blocks.
pub const BLOCK_SIZE_DEFAULT_BYTES: u32 = 64 << 10;

/// Largest disk, in bytes. Keeps every block number and offset far from overflow.
pub const DISK_SIZE_MAX_BYTES: u64 = 1 << 55;

/// Children of a tree node.
pub const NODE_FANOUT: usize = 128;

/// A frame is closed when it holds this many plain bytes (or one block, if that is larger).
pub const FRAME_TARGET_BYTES: usize = 1 << 20;
/// What a reader accepts as a frame, decompressed.
pub const FRAME_PLAIN_MAX_BYTES: usize = 16 << 20;
/// Blocks or nodes that a reader accepts in one frame.
pub const FRAME_COUNT_MAX: usize = 4096;

/// A pack is closed when it holds this many bytes. Large enough for HDDs, small enough to keep several in memory.
pub const PACK_TARGET_BYTES: usize = 32 << 20;
/// The same where packs go to a store that is far away: what one connection carries is little, so many carry.
pub const PACK_TARGET_REMOTE_BYTES: usize = 16 << 20;
/// What a reader accepts as a pack.
pub const PACK_MAX_BYTES: u64 = 128 << 20;

/// Packs waiting for or being written to the object store, a session.
pub const PACKS_IN_FLIGHT: usize = 2;
/// The same where it is far away.
pub const PACKS_IN_FLIGHT_REMOTE: usize = 8;
/// Packs of a session that are being filled, wait or are under way may be so many more than those in flight.
pub const PACKS_BESIDE: usize = 2;

/// New ids are written out as an index run when there are this many: bounds a session's memory.
pub const INDEX_PENDING_MAX_RECORDS: usize = 384 << 10;
/// Runs up to this size are held in memory; larger ones are read from a local file, fence by fence.
pub const INDEX_IN_MEMORY_MAX_BYTES: u64 = 4 << 20;
/// Several small runs together may take this much memory.
pub const INDEX_IN_MEMORY_TOTAL_BYTES: u64 = 24 << 20;
/// What a merge may produce: a million records.
pub const INDEX_RUN_MAX_BYTES: u64 = 48 << 20;
/// Runs of similar size are merged when there are this many of them.
pub const INDEX_RUNS_PER_TIER: usize = 8;
/// Of a run in a store that is far away so much is fetched by one request.
pub const INDEX_PIECE_BYTES: u64 = 4 << 20;
/// Runs of such stores that are kept for the next time, of all vaults together.
pub const INDEX_KEPT_MAX_BYTES: u64 = 4 << 30;
/// What a reader accepts as one run.
pub const INDEX_READ_MAX_BYTES: u64 = 4 << 30;

/// Blocks whose references are counted before the counts are written down.
pub const COUNTS_PENDING_MAX: usize = 256 << 10;

/// Decoded frames kept for reading, in bytes.
pub const FRAME_CACHE_BYTES: usize = 48 << 20;
/// Frames of one pack no further apart than this are fetched in one read.
pub const FETCH_GAP_MAX_BYTES: u64 = 128 << 10;
/// Such a read grows to this at most.
pub const FETCH_RANGE_MAX_BYTES: u64 = 8 << 20;

/// From a store that is far away: requests under way at first, while it asks for less, and at most.
pub const AHEAD_REQUESTS_FIRST: usize = 24;
/// See [`AHEAD_REQUESTS_FIRST`].
pub const AHEAD_REQUESTS_MIN: usize = 2;
/// See [`AHEAD_REQUESTS_FIRST`].
pub const AHEAD_REQUESTS_MAX: usize = 48;
/// Frames that are fetched ahead and not used yet, in bytes.
pub const AHEAD_MAX_BYTES: u64 = 96 << 20;
/// Planned together, so that what lies side by side in packs comes with one request.
pub const AHEAD_BATCH_BYTES: u64 = 16 << 20;
/// Frames no further apart than this come with one request.
pub const AHEAD_GAP_MAX_BYTES: u64 = 256 << 10;
/// Such a request grows to this at most: several share what a connection cannot carry alone.
pub const AHEAD_RANGE_MAX_BYTES: u64 = 4 << 20;

/// For so long a session goes by where the commit log ended when it began; each entry that came since costs an attempt.
pub const LOG_END_KNOWN: Duration = Duration::from_secs(20);

/// For so long what was asked when a vault was opened is good enough for who begins to read or to write.
pub const OPENING_KNOWN: Duration = Duration::from_secs(5);

/// Leaves whose frames are sent for and that nobody works on yet.
pub const LEAVES_AHEAD: usize = 256;
/// What is fetched ahead of who reads a disk from beginning to end: this much at first, in bytes of the disk.
pub const SEQUENTIAL_FIRST_BYTES: u64 = 1 << 20;
/// And this much at most.
pub const SEQUENTIAL_MAX_BYTES: u64 = 128 << 20;
/// Of one disk's frames no more than this is held for such a reader.
pub const SEQUENTIAL_HELD_BYTES: u64 = 24 << 20;
/// Readings that begin so far from where others ended belong to them: several are often under way at once.
pub const SEQUENTIAL_SLACK_BYTES: u64 = 4 << 20;

/// A note.
pub const NOTE_MAX_BYTES: u64 = 16 << 20;
/// A note's name.
pub const NOTE_NAME_MAX_BYTES: usize = 64;
/// A tombstone says a sentence.
pub const TOMBSTONE_MAX_BYTES: u64 = 1 << 20;
/// A roll names every point, in some hundred bytes.
pub const ROLL_MAX_BYTES: u64 = MANIFEST_MAX_BYTES;
/// How long a tombstone is kept at least: whoever counts references elsewhere looks at the vault within that time.
pub const TOMBSTONE_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long it is waited for a point that a session may have committed, and that is not to be seen.
pub const COMMIT_DOUBT: Duration = Duration::from_secs(24 * 3600);
/// A reclaim that finds nothing else to take down in the roll does not write it for fewer entries of the commit log.
pub const COMMIT_LOG_LAG: u64 = 32;
/// How far apart two agreements must be to confirm a roll.
pub const AGREEMENTS_APART: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A manifest: a machine's definition and its lists fit many times over.
pub const MANIFEST_MAX_BYTES: u64 = 64 << 20;
/// A record that carries a mac, like a lease or a condemned list: likewise.
pub const RECORD_MAX_BYTES: u64 = 256 << 20;
/// The vault's header, which is one line of JSON and its hash.
pub const HEADER_MAX_BYTES: u64 = 64 << 10;
/// Disks that a reader accepts in one manifest.
pub const DISKS_MAX: usize = 1024;

/// How long a lease holds after its last renewal.
pub const LEASE_SECONDS: u64 = 300;
/// How often it is renewed.
pub const LEASE_RENEW_SECONDS: u64 = 60;
/// How long a session trusts its own: it stops well before others may take it as over.
pub const LEASE_HELD: Duration = Duration::from_secs(LEASE_SECONDS - 90);

/// A pack is rewritten when this share of it, in per cent, is no longer needed.
pub const REWRITE_DEAD_PERCENT: u64 = 25;

/// How far the threads of a backup step back behind the machines of the host.
pub const BACKUP_NICENESS: i32 = 10;

/// Leaves of a stream that are read and not yet stored: this much at most, or two leaves where those are larger.
pub const STREAM_MEMORY_BYTES: usize = 64 << 20;

/// A restore over a disk that is there writes pieces of this size that differ.
pub const REWRITE_PIECE_BYTES: usize = 4096;

/// Who waits looks this often whether somebody asked to stop.
pub const CANCEL_LOOK_INTERVAL: Duration = Duration::from_millis(100);
