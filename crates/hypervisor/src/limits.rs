//! Every bound of this crate, in one place.

use std::time::Duration;

/// Names of everything Strongroom leaves in libvirt, in images and beside them start with this.
pub const OWN_PREFIX: &str = "strongroom-";
/// Clone files beside disks start with this.
pub const CLONE_PREFIX: &str = ".strongroom-";

/// Names of machines that are thrown away start with this.
pub const DRILL_PREFIX: &str = "strongroom-drill-";

/// A frozen guest is thawed, and a suspended one resumed, at the latest after this time.
pub const WINDOW_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for another backup of the same machine to end.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait until a machine has been let go that a killed backup held.
pub const LET_GO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the guest agent may take to freeze or thaw.
pub const AGENT_FREEZE_TIMEOUT_SECONDS: i32 = 20;
/// How long the guest agent may take to answer a ping.
pub const AGENT_PING_TIMEOUT_SECONDS: i32 = 5;
/// Checkpoints of ours which a machine keeps after a committed snapshot.
pub const OWN_CHECKPOINTS_KEPT: usize = 2;

/// Connections to each disk's NBD export.
pub const NBD_CONNECTIONS_PER_DISK: usize = 2;
/// How long an NBD server of ours may take to listen.
pub const NBD_START_TIMEOUT: Duration = Duration::from_secs(20);
/// Block status is asked for in pieces of this size (bytes).
pub const MAP_CHUNK_BYTES: u64 = 8 << 30;
/// A disk's list of extents is joined (unchanged gaps are read too) until it is no longer than this.
pub const EXTENTS_MAX: usize = 1 << 18;
/// Text taken from programs, the agent or libvirt for an error message, at most (bytes).
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Answers of `qemu-img`, at most (bytes).
pub const TOOL_OUTPUT_BYTES_MAX: usize = 16 << 20;
/// How long `qemu-img` may take for what is asked of it here.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the check of an image may take: it reads all tables of the largest.
pub const IMAGE_CHECK_TIMEOUT: Duration = Duration::from_secs(1800);
/// Domain definitions, at most (bytes).
pub const DEFINITION_BYTES_MAX: usize = 8 << 20;
/// Nesting of definitions, at most.
pub const DEFINITION_DEPTH_MAX: usize = 64;

/// A kept snapshot's record, at most (bytes).
pub const KEPT_RECORD_BYTES_MAX: u64 = 256 << 20;
/// How long to wait for others that begin to read kept snapshots.
pub const KEPT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// UEFI variables kept with a snapshot, at most (bytes).
pub const KEPT_NVRAM_BYTES_MAX: u64 = 64 << 20;

/// How often scratch files and the job are looked at during a pull-mode transfer.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How long a read that failed waits for the watch to say why.
pub const WATCH_FINDS_OUT: Duration = Duration::from_secs(3);
/// Pull-mode scratch files: the file system keeps at least this much free (bytes).
pub const SCRATCH_RESERVE_BYTES: u64 = 1 << 30;
/// How long to wait for libvirt to complete the beginning of a job that was left behind.
pub const JOB_BEGIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a backup waits for a libvirt that went away, to hear whether its job is still there, and to end it.
pub const LIBVIRT_RETURN_TIMEOUT: Duration = Duration::from_secs(60);
/// A job that was left behind and could not be ended is tried again after this time.
pub const LEFT_JOB_RETRY: Duration = Duration::from_secs(60);
/// How long to wait for a cancelled job to be gone.
pub const JOB_END_TIMEOUT: Duration = Duration::from_secs(30);

/// What was put in place of a TPM for a machine that does not exist is removed after this: machines are defined moments later.
pub const TPM_ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// A picture of a screen, at most (bytes), and its sides (pixels).
pub const SCREEN_BYTES_MAX: usize = 128 << 20;
/// Of a picture of a screen, in pixels.
pub const SCREEN_SIDE_MAX: u32 = 8192;

/// Output of a program run in a guest, each of stdout and stderr, at most (bytes).
pub const GUEST_OUTPUT_BYTES_MAX: usize = 8 << 20;

/// What the guest agent is given of a file in one call (bytes). With much more an emulated guest's agent does not answer in time.
pub const GUEST_WRITE_BYTES: usize = 64 << 10;
/// An answer of the extension in the guest, at most (bytes).
pub const GUEST_ANSWER_BYTES_MAX: usize = 1 << 20;
/// All that is read from its port while one answer is waited for, at most (bytes).
pub const GUEST_PORT_BYTES_MAX: usize = 4 << 20;
/// How long the extension may take to prepare: two scripts' longest time (the second is of a session that was left), and some.
pub const GUEST_PREPARE_TIMEOUT: Duration = Duration::from_secs(2 * 1800 + 120);
/// How long the extension may take to finish: a script's longest time, and some.
pub const GUEST_FINISH_TIMEOUT: Duration = Duration::from_secs(1800 + 60);
/// How long installing the extension may take, step by step.
pub const GUEST_INSTALL_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long thawing is tried again while the agent does not answer: it may be starting anew.
pub const THAW_RETRY: Duration = Duration::from_secs(12);
/// Warnings taken over from the extension, at most.
pub const GUEST_WARNINGS_MAX: usize = 16;
/// What is passed on of a script's output: its end (bytes).
pub const GUEST_TOLD_BYTES_MAX: usize = 2048;
