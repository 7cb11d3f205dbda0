//! Jobs: what they are called, the statuses they go through, their tasks and errors, and how far they have come.

use crate::arm_enum::arm_enum;
use crate::limits::{ESTIMATE_AFTER, ESTIMATE_AFTER_SHARE};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

arm_enum!(
    /// What a job does.
    JobOperation {
        Register,
        ConfigureBackup,
        Backup,
        Restore,
        DisableBackup,
        DeleteBackupData,
        Undelete,
        /// Proving that a point can be restored. Ours; Azure has no such thing.
        Drill,
    }
);

arm_enum!(
    /// Where a job is.
    JobStatus {
        /// Running, or waiting for a runner.
        InProgress,
        Completed,
        CompletedWithWarnings,
        Failed,
        /// It was asked to end, and has not yet.
        Cancelling,
        Cancelled,
    }
);

arm_enum!(
    /// Where a task of a job is.
    TaskStatus { NotStarted, InProgress, Completed, CompletedWithWarnings, Failed, Cancelled }
);

/// The tasks' names, as Azure shows them.
pub mod task {
    /// A machine is taken at one instant.
    pub const TAKE_SNAPSHOT: &str = "Take Snapshot";
    /// Data goes into the vault.
    pub const TRANSFER_TO_VAULT: &str = "Transfer data to vault";
    /// Data comes out of the vault.
    pub const TRANSFER_FROM_VAULT: &str = "Transfer data from vault";
    /// A machine is started.
    pub const START_MACHINE: &str = "Start machine";
    /// A drill looks at the machine.
    pub const CHECK_MACHINE: &str = "Check machine";
    /// A new machine is made of what was restored.
    pub const CREATE_MACHINE: &str = "Create the restored virtual machine";
    /// A machine's own disks are replaced.
    pub const UPDATE_MACHINE: &str = "Update the virtual machine";
}

impl JobOperation {
    /// Whether a running one can be cancelled.
    pub fn is_cancellable(self) -> bool {
        matches!(self, Self::Backup | Self::Restore | Self::Drill)
    }
}

impl JobStatus {
    /// Whether nothing of it is to come any more.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::InProgress | Self::Cancelling)
    }
}

/// A step of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTask {
    /// Its name, which is all the identity it has: see [`task`].
    pub id: String,
    /// How far it is.
    pub status: TaskStatus,
    /// When it began first.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

impl JobTask {
    /// One that has not begun.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), status: TaskStatus::NotStarted, started_at: None, ended_at: None }
    }

    /// It begins. One that begins again, after a restart, keeps its first beginning.
    pub fn begin(&mut self, now: Timestamp) {
        self.status = TaskStatus::InProgress;
        self.started_at.get_or_insert(now);
        self.ended_at = None;
    }

    /// It is over. One that had not begun has no time, and keeps its status: NotStarted.
    pub fn finish(&mut self, status: TaskStatus, now: Timestamp) {
        if self.status == TaskStatus::InProgress {
            self.status = status;
            self.ended_at = Some(now);
        }
    }

    /// How long it took, or has taken so far; zero before it began, and where the clock was put back.
    pub fn duration(&self, now: Timestamp) -> SignedDuration {
        let Some(start) = self.started_at else { return SignedDuration::ZERO };
        self.ended_at.unwrap_or(now).duration_since(start).max(SignedDuration::ZERO)
    }
}

/// Why a job failed, or what it warns of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Azure's number for it; 0 where it has none.
    #[serde(default)]
    pub code: i64,
    /// Azure's code: `UserErrorVmNotShutDown`.
    pub name: String,
    /// What happened.
    pub message: String,
    /// What to do.
    #[serde(default)]
    pub recommendation: String,
}

impl JobError {
    /// From Azure's number and code, what happened, and what to do.
    pub fn new(
        code: i64,
        name: impl Into<String>,
        message: impl Into<String>,
        recommendation: impl Into<String>,
    ) -> Self {
        Self { code, name: name.into(), message: message.into(), recommendation: recommendation.into() }
    }

    /// What a cancelled job carries.
    pub fn cancelled() -> Self {
        Self::new(400_158, "UserErrorJobSuccessfullyCancelled", "Job is cancelled.", "")
    }
}

/// How far a transfer has come, from what was measured of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// 0 to 100, and 100 only when all is done. None while the total is not known.
    pub percent: Option<u32>,
    /// None while there is too little to tell from.
    pub remaining: Option<Duration>,
}

impl Estimate {
    /// Per cent are of bytes. What remains is told from the mean speed so far, and only when enough has been seen of it:
    /// some seconds, and a hundredth of the bytes. `elapsed`: since the transfer began, by a clock that can't jump;
    /// `total_bytes`: 0 while it is not known.
    ///
    /// ```
    /// use std::time::Duration;
    /// use strongroom_domain::job::Estimate;
    /// let estimate = Estimate::measured(Duration::from_secs(60), 250, 1000);
    /// assert_eq!(estimate.percent, Some(25));
    /// assert_eq!(estimate.remaining, Some(Duration::from_secs(180)));
    /// ```
    pub fn measured(elapsed: Duration, done_bytes: u64, total_bytes: u64) -> Self {
        if total_bytes == 0 {
            return Self::default();
        }
        if done_bytes >= total_bytes {
            return Self { percent: Some(100), remaining: Some(Duration::ZERO) };
        }
        let (done, total) = (u128::from(done_bytes), u128::from(total_bytes));
        let percent = u32::try_from(done * 100 / total).ok();
        let seen = elapsed >= ESTIMATE_AFTER && done_bytes >= total_bytes.div_ceil(ESTIMATE_AFTER_SHARE);
        let remaining = seen
            .then(|| elapsed.as_millis().saturating_mul(total - done).div_ceil(done))
            .and_then(|millis| u64::try_from(millis).ok())
            .map(Duration::from_millis);
        Self { percent, remaining }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_azures() {
        assert_eq!(JobOperation::DeleteBackupData.arm_name(), "DeleteBackupData");
        assert_eq!(JobStatus::from_arm("completedwithwarnings"), Some(JobStatus::CompletedWithWarnings));
        assert_eq!(
            serde_json::to_string(&JobStatus::CompletedWithWarnings).unwrap(),
            "\"completed_with_warnings\""
        );
    }

    #[test]
    fn tasks_keep_their_first_beginning() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut task = JobTask::new(task::TAKE_SNAPSHOT);
        task.finish(TaskStatus::Failed, at(5));
        assert_eq!((task.status, task.duration(at(9))), (TaskStatus::NotStarted, SignedDuration::ZERO));
        task.begin(at(10));
        task.begin(at(20));
        assert_eq!(task.duration(at(25)).as_secs(), 15);
        assert_eq!(task.duration(at(5)), SignedDuration::ZERO);
        task.finish(TaskStatus::Completed, at(30));
        assert_eq!((task.status, task.duration(at(99)).as_secs()), (TaskStatus::Completed, 20));
        let read: JobTask = serde_json::from_str(r#"{"id":"Take Snapshot","status":"not_started"}"#).unwrap();
        assert_eq!(read, JobTask::new("Take Snapshot"));
    }

    fn estimate(seconds: u64, done_bytes: u64, total_bytes: u64) -> Estimate {
        Estimate::measured(Duration::from_secs(seconds), done_bytes, total_bytes)
    }

    #[test]
    fn nothing_is_said_before_enough_was_seen() {
        assert_eq!(estimate(100, 10, 0), Estimate::default());
        assert_eq!(estimate(4, 500, 1000), Estimate { percent: Some(50), remaining: None });
        assert_eq!(estimate(3600, 9, 1000), Estimate { percent: Some(0), remaining: None });
        assert_eq!(estimate(100, 10, 1000).remaining, Some(Duration::from_secs(9900)));
        assert_eq!(estimate(0, 1000, 1000), Estimate { percent: Some(100), remaining: Some(Duration::ZERO) });
        // More was read than was announced.
        assert_eq!(estimate(9, 1001, 1000).percent, Some(100));
    }

    proptest! {
        #[test]
        fn a_hundred_per_cent_is_all_of_it(seconds: u64, done: u64, total: u64) {
            let estimate = estimate(seconds, done, total);
            prop_assert_eq!(estimate.percent == Some(100), total > 0 && done >= total);
            prop_assert!(estimate.percent.is_none_or(|percent| percent <= 100));
        }
    }
}
