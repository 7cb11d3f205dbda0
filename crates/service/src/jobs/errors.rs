//! What failures are called in jobs.

use crate::core::error::{Error, ErrorKind};
use crate::limits::JOB_DURATION_MAX;
use strongroom_catalog::{Item, Job};
use strongroom_domain::job::JobError;
use strongroom_store::StoreError;
use uuid::Uuid;

/// What a failure is called in jobs.
pub(crate) fn job_error(error: &Error) -> JobError {
    let (code, name, recommendation) = match error.kind {
        ErrorKind::NotFound => not_found(error),
        ErrorKind::AlreadyExists => {
            (400203, "UserErrorTargetAlreadyExists", "Choose another name or place, then run the job again.")
        }
        ErrorKind::Busy => (
            400101,
            "UserErrorOperationInProgress",
            "Wait until what uses it is over, then run the job again.",
        ),
        ErrorKind::Unsupported => (
            400110,
            "UserErrorUnsupportedConfiguration",
            "Change what the message names, then run the job again.",
        ),
        ErrorKind::NeedsFull => {
            (400111, "UserErrorFullBackupNeeded", "Run the backup again: all will be read.")
        }
        ErrorKind::Corrupt => (
            400300,
            "VaultDataDamaged",
            "Check the vault with `strongroom rescue vault check --read-data`; the next backup heals what it still can.",
        ),
        ErrorKind::Denied => (
            400310,
            "UserErrorAccessDenied",
            "Give the service the permission, or the key, that the message names.",
        ),
        ErrorKind::Invalid => (400001, "UserErrorInvalidRequest", "Correct the request, then run it again."),
        ErrorKind::NoSpace => (400320, "UserErrorNotEnoughSpace", "Make room, then run the job again."),
        ErrorKind::Unavailable => (
            400330,
            "UserErrorHostUnavailable",
            "Start or repair what does not answer; the next scheduled run tries again.",
        ),
        ErrorKind::Cancelled => {
            (400158, "UserErrorJobSuccessfullyCancelled", "Run it again when you want it done.")
        }
        ErrorKind::Failed => {
            (400999, "InternalError", "Run the job again; if it fails again, look at the service's log.")
        }
    };
    let (code, recommendation) = error.number.unwrap_or((code, recommendation));
    JobError {
        code,
        name: error.code.unwrap_or(name).into(),
        message: error.message.clone(),
        recommendation: recommendation.into(),
    }
}

/// What was not found, and what to do about it.
fn not_found(error: &Error) -> (i64, &'static str, &'static str) {
    match error.cause::<StoreError>() {
        Some(StoreError::NotFound { .. }) => (
            400004,
            "UserErrorRecoveryPointNotFound",
            "Choose another recovery point. If this one ought to be there, look with `strongroom vault reconcile`.",
        ),
        Some(StoreError::NotAVault { .. } | StoreError::Unmarked { .. }) => (
            400005,
            "UserErrorVaultStoreNotFound",
            "Mount the file system that the vault is on, or put the vault back where it was, then run the job again.",
        ),
        Some(_) => (
            400005,
            "UserErrorVaultStoreNotFound",
            "Make sure that the vault's place is mounted and can be read, then run the job again; `strongroom rescue vault check` says what is missing.",
        ),
        None if error.code == Some(MISSING_POINT) => (
            400004,
            MISSING_POINT,
            "Choose another recovery point. If this one ought to be there, look with `strongroom vault reconcile`.",
        ),
        None if is_machines(error) => (
            400002,
            "UserErrorVmNotFound",
            "Make sure that the machine and its disks are there, then run the job again.",
        ),
        None => (
            400006,
            "UserErrorResourceNotFound",
            "Make sure that what the message names is there, then run the job again.",
        ),
    }
}

/// A recovery point that is named and is not there.
const MISSING_POINT: &str = "UserErrorRecoveryPointNotFound";

/// Whether the machine, or something of it, is what was not found.
fn is_machines(error: &Error) -> bool {
    use strongroom_hypervisor::Error as Hypervisor;
    let is_it = |what: &str| what.starts_with("machine ") || what.starts_with("disk ");
    error.code == Some("UserErrorVmNotFound")
        || matches!(error.cause(), Some(Hypervisor::NotFound { what }) if is_it(what))
}

/// Of a job that nobody can say anything of, ever.
pub(crate) const NOT_UNDERSTOOD: &str = "UserErrorJobNotUnderstood";

pub(crate) fn in_progress(item: &Item, job: &Job) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!(
            "Unable to initiate backup as another backup operation is currently in progress: '{}' has the job {} ({}). Wait until it is over, or cancel it.",
            item.machine_name,
            job.id,
            job.operation.arm_name()
        ),
    )
    .coded("UserErrorBackupOperationInProgress")
}

/// Of a write to a job that somebody else took over.
pub(crate) const LEASE_LOST: &str = "UserErrorJobTakenOver";

/// It took as long as a job may.
pub(super) fn took_too_long() -> Error {
    Error::new(
        ErrorKind::Failed,
        format!(
            "It took longer than {} hours, which is the most a job may.",
            JOB_DURATION_MAX.as_secs() / 3600
        ),
    )
    .coded("UserErrorBackupTookTooLong")
}

/// A job is somebody else's by now.
pub(super) fn lease_lost(job: Uuid) -> Error {
    Error::new(ErrorKind::Busy, format!("Job {job} was taken over: its lease had run out.")).coded(LEASE_LOST)
}
