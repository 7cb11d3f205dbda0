//! Every bound of this crate in one place.

use std::time::Duration;

/// A list of changed extents: several hundred thousand entries fit.
pub const EXTENTS_FILE_MAX_BYTES: u64 = 256 << 20;
/// How long `qemu-nbd` may take to open an image and listen.
pub const QEMU_NBD_START: Duration = Duration::from_secs(30);
/// How long `qemu-img` may take to look at or make an image.
pub const QEMU_IMG: Duration = Duration::from_secs(120);
/// How often `qemu-img` is asked to make an encrypted image, where it cannot measure how fast this host stretches a key.
pub const QEMU_IMG_TRIES: u32 = 60;
/// What is kept of the messages of QEMU's tools.
pub const TOOL_OUTPUT_MAX_BYTES: u64 = 1 << 20;
/// Connections to a `qemu-nbd`.
pub const QEMU_NBD_CONNECTIONS: usize = 2;
/// Restored data handed to the kernel before it is asked to begin writing it out.
pub const WRITEBACK_STEP_BYTES: u64 = 32 << 20;
/// Restored data written at once past the page cache; each writing thread keeps a buffer of this size.
pub const DIRECT_PIECE_BYTES: usize = 1 << 20;
/// Memory, offset and length of such writes are multiples of this; no disk asks for more.
pub const DIRECT_ALIGNMENT_BYTES: usize = 4096;
/// A snapshot's data is copied in pieces of this size, each by a thread of its own.
pub const SNAPSHOT_PIECE_BYTES: u64 = 1 << 20;
/// Zeroes written at once to a device that cannot make holes.
pub const ZEROES_AT_ONCE_BYTES: usize = 1 << 20;
/// Room that must remain free beside what a restore writes.
pub const SPARE_ROOM_BYTES: u64 = 1 << 20;
/// UEFI variables of a machine, and what its TPM remembers, each; they are kept in its points' manifests.
pub const FIRMWARE_STATE_MAX_BYTES: u64 = 2 << 20;
/// The longest name of a restored machine, which becomes part of file names.
pub const MACHINE_NAME_MAX_BYTES: usize = 200;
/// How often whoever waits for a stream looks whether it is to stop.
pub const STREAM_LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Read at once of a disk that is sent somewhere.
pub const STREAM_PIECE_BYTES: u64 = 4 << 20;
/// Connections to the exports that a machine runs from: QEMU has one for each disk, and a new one after each interruption.
pub const EXPORT_CONNECTIONS: usize = 64;
/// How long a machine that runs from the vault waits for exports that went away before it is paused.
pub const EXPORT_RECONNECT: Duration = Duration::from_secs(120);
/// Read ahead at once of what is read in a row; a frame of the vault is as large.
pub const READ_AHEAD_BYTES: u64 = 1 << 20;
/// Pieces that wait to be read ahead.
pub const READ_AHEAD_QUEUE: usize = 4;
/// Reads in a row that are followed side by side in a disk.
pub const READ_AHEAD_STREAMS: usize = 4;
/// A transfer that ended early is begun again after this.
pub const PULL_AGAIN_AFTER: Duration = Duration::from_secs(2);
