//! Backing machines up: the job, its transfer into the vault, its schedule.

pub(crate) mod job;
pub(crate) mod record;
pub mod schedule;
pub(crate) mod transfer;

pub use job::backup_now;
pub use record::BackupRequest;
