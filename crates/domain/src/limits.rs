//! The limits of the rules, in one place. Those of Azure Backup where it has one; where ours is wider, the comment says so.

use jiff::SignedDuration;
use std::time::Duration;

/// Days that snapshots are kept under a Standard policy.
pub const STANDARD_SNAPSHOT_DAYS: (u32, u32) = (1, 5);
/// Days that snapshots are kept under an Enhanced policy.
pub const ENHANCED_SNAPSHOT_DAYS: (u32, u32) = (1, 30);
/// Days of daily retention. Azure's begin at 7.
pub const DAILY_RETENTION_DAYS: (u32, u32) = (1, 9999);
/// Weeks of weekly retention: up to 99 years, as Azure counts them.
pub const WEEKLY_RETENTION_WEEKS: (u32, u32) = (1, 5163);
/// Months of monthly retention: up to 99 years.
pub const MONTHLY_RETENTION_MONTHS: (u32, u32) = (1, 1188);
/// Years of yearly retention.
pub const YEARLY_RETENTION_YEARS: (u32, u32) = (1, 99);

/// Hours between the runs of an hourly schedule.
pub const HOURLY_INTERVALS: [u32; 4] = [4, 6, 8, 12];
/// The longest window of an hourly schedule, in hours.
pub const HOURLY_WINDOW_MAX_HOURS: u32 = 24;

/// Days that a backup made on demand is kept when nothing else was asked for.
pub const ON_DEMAND_DAYS: u32 = 30;
/// Days that an on-demand backup can be kept: 99 years.
pub const ON_DEMAND_MAX_DAYS: u32 = 36_159;

/// Days that deleted items and vaults can be brought back: at least, and at most.
pub const SOFT_DELETE_DAYS: (u32, u32) = (14, 180);
/// The same when nothing was chosen.
pub const SOFT_DELETE_DEFAULT_DAYS: u32 = 14;

/// How far wall time may come apart from monotonic time within [`CLOCK_WINDOW`] before it counts as a jump. More than any
/// time service slews in a day; less than what would matter to retention.
pub const CLOCK_DRIFT_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How long one comparison of the clocks goes on before the next begins.
pub const CLOCK_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// A start this long after the last sign of life waits as after a jump: the clock could have been set meanwhile.
pub const CLOCK_START_GAP_MAX: SignedDuration = SignedDuration::from_hours(24);
/// How long a clock that jumped must run evenly before it may expire anything.
pub const CLOCK_GRACE: Duration = Duration::from_secs(24 * 3600);
/// How far in the future an item's schedule may have been considered before a clock that runs evenly is believed instead.
pub const SCHEDULE_AHEAD_MAX: SignedDuration = SignedDuration::from_hours(25);

/// The longest name of a time zone, in bytes.
pub const ZONE_NAME_MAX_BYTES: usize = 64;

/// Characters of a vault's name.
pub const VAULT_NAME_CHARS: (usize, usize) = (2, 50);
/// Characters of a policy's name.
pub const POLICY_NAME_CHARS: (usize, usize) = (3, 150);
/// Characters of a resource group's name.
pub const GROUP_NAME_CHARS: (usize, usize) = (1, 90);
/// Characters of a tag's name.
pub const TAG_NAME_MAX_CHARS: usize = 512;
/// Characters of a machine's name in ARM names.
pub const MACHINE_NAME_MAX_CHARS: usize = 255;

/// Before so much time has passed nothing is said about what remains.
pub const ESTIMATE_AFTER: Duration = Duration::from_secs(5);
/// Before this share of the bytes (one in so many) is done nothing is said about what remains.
pub const ESTIMATE_AFTER_SHARE: u64 = 100;
