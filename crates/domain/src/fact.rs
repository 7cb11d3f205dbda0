//! What a job's row tells of it: facts by name, in the order in which they are told. How they are called and written for a client
//! is for whoever talks to clients to say.

/// The machine it is about.
pub const MACHINE: &str = "machine";
/// The machine that a point was taken of.
pub const ORIGINAL_MACHINE: &str = "original_machine";
/// The machine that a restore makes, or changes.
pub const TARGET_MACHINE: &str = "target_machine";
/// What a restore makes of a point: one of [`RESTORED_DISKS`], [`NEW_MACHINE`], [`REPLACED_DISKS`], [`INSTANT_MACHINE`].
pub const RESTORE_AS: &str = "restore_as";
/// The place that disks are restored to.
pub const TARGET_PLACE: &str = "target_place";
/// The resource group of what a restore makes.
pub const TARGET_GROUP: &str = "target_group";
/// The network of a restored machine.
pub const TARGET_NETWORK: &str = "target_network";
/// The name of the recovery point.
pub const POINT: &str = "point";
/// When the recovery point was taken (RFC 3339).
pub const POINT_TIME: &str = "point_time";
/// Until when the recovery point is kept (RFC 3339).
pub const POINT_KEPT_UNTIL: &str = "point_kept_until";
/// How many recovery points it is about.
pub const POINTS: &str = "points";
/// The name of the policy.
pub const POLICY: &str = "policy";
/// It brought back what was deleted: `true`.
pub const UNDELETED: &str = "undeleted";
/// The subscription of the machine.
pub const SUBSCRIPTION: &str = "subscription";
/// What changed since the point before (MiB).
pub const BACKUP_SIZE_MIB: &str = "backup_size_mib";
/// Where a point was read: from the vault or from its snapshot.
pub const RESTORED_FROM: &str = "restored_from";
/// What whoever asked for it is to know, or to do.
pub const NOTES: &str = "notes";
/// The file that tells what was restored.
pub const CONFIGURATION: &str = "configuration";
/// The directory that it is in.
pub const CONFIGURATION_DIRECTORY: &str = "configuration_directory";
/// Where it is.
pub const CONFIGURATION_URI: &str = "configuration_uri";
/// Where the template of a machine is that has the restored disks.
pub const TEMPLATE_URI: &str = "template_uri";
/// The disks that were restored.
pub const RESTORED_DISKS_NAMED: &str = "restored_disks";
/// The disks that the point has.
pub const POINT_DISKS: &str = "point_disks";
/// Bytes of disks that were compared with the point.
pub const COMPARED_BYTES: &str = "compared_bytes";
/// Bytes that differed, and were written.
pub const WRITTEN_BYTES: &str = "written_bytes";
/// A machine that runs, and is somebody's.
pub const STARTED_MACHINE: &str = "started_machine";
/// How long the guest agent took to answer.
pub const AGENT_ANSWERED_AFTER: &str = "agent_answered_after";
/// How long moving the data in took.
pub const MOVED_IN: &str = "moved_in";
/// By what a drill saw that the machine had booted.
pub const ANSWERED_BY: &str = "answered_by";
/// How long that took.
pub const ANSWERED_AFTER: &str = "answered_after";
/// What a drill's check ended with.
pub const CHECK_ENDED_WITH: &str = "check_ended_with";
/// What it printed inside the machine: not for everybody who sees the job.
pub const CHECK_OUTPUT: &str = "check_output";
/// And to its error output: neither.
pub const CHECK_ERRORS: &str = "check_errors";
/// Whether the point is there as soon as its snapshot is: `true` or `false`.
pub const SNAPSHOT_IS_POINT: &str = "snapshot_is_point";

/// Of [`RESTORE_AS`]: disks, in a place.
pub const RESTORED_DISKS: &str = "disks";
/// A new machine.
pub const NEW_MACHINE: &str = "new_machine";
/// The disks of the machine itself.
pub const REPLACED_DISKS: &str = "replaced_disks";
/// A new machine that runs from the vault at once.
pub const INSTANT_MACHINE: &str = "instant_machine";
