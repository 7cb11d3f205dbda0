//! Every bound of this crate in one place.

use std::time::Duration;

/// A job that takes longer has failed, unless a machine depends on it.
pub const JOB_DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a job's lease holds without being renewed.
pub const LEASE_DURATION: Duration = Duration::from_secs(120);
/// How often leases are renewed and progress is written down.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// How long the catalog is left alone before what was committed is written down again, at first and at most.
pub const COMMITTED_RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`COMMITTED_RETRY_FIRST`].
pub const COMMITTED_RETRY_MAX: Duration = Duration::from_secs(15);
/// How long a job waits of which it could not be seen whether it was committed, until that is looked at again.
pub const UNSETTLED_RETRY: Duration = Duration::from_secs(10);
/// How long a replacement of disks that cannot go on waits before it tries again, at first and at most.
pub const REPLACE_RETRY_FIRST: Duration = Duration::from_secs(2);
/// See [`REPLACE_RETRY_FIRST`].
pub const REPLACE_RETRY_MAX: Duration = Duration::from_secs(120);
/// How long a backup waits that found something else writing to its vault, which takes one writer at a time.
pub const VAULT_BUSY_RETRY: Duration = Duration::from_secs(20);
/// How long the transfer of a kept snapshot waits after it failed once; twice as long after each further failure.
pub const TRANSFER_RETRY_FIRST: Duration = Duration::from_secs(30);
/// And at most.
pub const TRANSFER_RETRY_MAX: Duration = Duration::from_secs(30 * 60);
/// Snapshots are kept this long where no policy says (days).
pub const SNAPSHOT_DAYS_DEFAULT: u32 = 2;
/// No policy keeps them longer (days).
pub const SNAPSHOT_DAYS_MAX: u32 = 30;
/// What of a file system stays free of snapshots unless the configuration says otherwise (per cent).
pub const SNAPSHOT_RESERVE_PERCENT: u32 = 10;
/// Free space that has not changed for so long has settled, and it is not waited for longer than the second; how often it is
/// looked at.
pub const FREE_SETTLED: Duration = Duration::from_secs(1);
/// See [`FREE_SETTLED`].
pub const FREE_SETTLED_MAX: Duration = Duration::from_secs(10);
/// See [`FREE_SETTLED`].
pub const FREE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often files of snapshots that nobody knows are looked for; and once after each start.
pub const ORPHANS_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How often schedules are looked at.
pub const SCHEDULE_INTERVAL: Duration = Duration::from_secs(15);
/// How long running jobs may take to let go when the service stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often expired points are looked for.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(600);
/// How often vaults and catalog are compared; and once after each start.
pub const RECONCILIATION_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Items in one of a vault's notes, which has a largest size.
pub const NOTE_ITEMS: usize = 2000;
/// How long points may be gone before their space is reclaimed.
pub const RECLAIM_INTERVAL: Duration = Duration::from_secs(3600);
/// How often vaults' stores are asked whether they create only what is not there.
pub const EXCLUSIVE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How long ended operations and jobs can be looked at.
pub const OPERATIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Machines that are asked for and not known are looked for again when this many times as long has passed as the last look
/// took: whoever asks for names that are not there has the hosts busy for a fifth of the time at most.
pub const DISCOVERY_ON_DEMAND_REST: u32 = 4;
/// But no longer than this.
pub const DISCOVERY_ON_DEMAND_REST_MAX: Duration = Duration::from_secs(3);
/// Machines that discovery writes down in one transaction.
pub const MACHINES_AT_ONCE: usize = 64;
/// How long what is known of a machine's disks counts, unless somebody asks for a close look.
pub const INSPECTION_INTERVAL: Duration = Duration::from_secs(600);
/// How long a start waits for the data directory's lock: a process that a killed service was just forking has it for an
/// instant more, until it is another program.
pub const DATA_LOCK_WAIT: Duration = Duration::from_secs(1);
/// A key in a file of its own, such as a storage account's.
pub const KEY_FILE_MAX_BYTES: u64 = 16 << 10;
/// What a vault's reserve gives up for the catalog on a disk that is full.
pub const CATALOG_ROOM_BYTES: u64 = 1 << 20;
/// How long a container may not answer before a restore into it is begun.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(15);
/// How long taking away what a restore had sent to a container is tried.
pub const CLEANING_PATIENCE: Duration = Duration::from_secs(30);
/// The same of a job that the service's end interrupted, and that has nothing else to do.
pub const SETTLING_PATIENCE: Duration = Duration::from_secs(180);
/// How long a machine may boot by itself before its data is moved in behind it.
pub const INSTANT_BOOT: Duration = Duration::from_secs(90);
/// The same of one without a guest agent.
pub const INSTANT_BOOT_BLIND: Duration = Duration::from_secs(30);
/// How often a machine whose data is being moved is looked at.
pub const INSTANT_LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How long to wait before something is tried again for a machine that runs from the vault, at most.
pub const INSTANT_RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a drill may take until the machine has answered and its check is over, unless somebody says otherwise.
pub const DRILL_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest and the shortest that can be asked for.
pub const DRILL_TIMEOUT_MAX: Duration = Duration::from_secs(6 * 3600);
/// See [`DRILL_TIMEOUT_MAX`].
pub const DRILL_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// A screen that shows the same for so long has settled.
pub const DRILL_SETTLED: Duration = Duration::from_secs(15);
/// How often the screen is looked at.
pub const DRILL_SCREEN_INTERVAL: Duration = Duration::from_secs(3);
/// How long the picture of a machine that answers waits while its screen is blank.
pub const DRILL_PICTURE_WAIT: Duration = Duration::from_secs(20);
/// And how often it is looked at then.
pub const DRILL_PICTURE_INTERVAL: Duration = Duration::from_secs(1);
/// A system that has booted has read so much of its disks; a firmware or loader that shows an error has not.
pub const DRILL_READ_MIN_BYTES: u64 = 8 << 20;
/// What is kept of a check's output, each of both.
pub const DRILL_OUTPUT_MAX_BYTES: usize = 4096;
/// A check's command, at most.
pub const DRILL_CHECK_MAX_BYTES: usize = 4096;
/// Screenshots that are kept; the oldest go first.
pub const SCREENSHOTS_KEPT: usize = 100;
/// Rows of the audit that are moved to a file, or told, at once.
pub const AUDIT_BATCH_ROWS: u32 = 500;
/// What a row of the audit has at most: its scope and detail have 2 KiB each, and names a few hundred bytes.
pub const AUDIT_ROW_MAX_BYTES: u64 = 8 << 10;
/// A month's file of the audit that is as large as this is followed by another one.
pub const AUDIT_FILE_MAX_BYTES: u64 = 64 << 20;
/// How soon syslog is told what the audit says.
pub const SYSLOG_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to take it.
pub const SYSLOG_SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether a job waits, unless the bell rings.
pub const JOBS_INTERVAL: Duration = Duration::from_secs(2);
/// A lease is renewed when so much of it is gone.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(30);
/// The longest that a job waits between two tries.
pub const JOB_PAUSE_MAX: Duration = Duration::from_secs(30 * 60);
/// A backup that is interrupted this often by the service's end has failed.
pub const JOB_ATTEMPTS_MAX: u32 = 3;
/// How often hosts are looked at by themselves.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);
/// Read at once of a disk that is sent somewhere.
pub const STREAM_PIECE_BYTES: u64 = 4 << 20;
