//! Jobs, and operations that clients follow.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::Datasource;
use strongroom_domain::job::{JobError, JobOperation, JobStatus, JobTask};
use uuid::Uuid;

/// Who runs a job, so that nobody else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run of the service that has it.
    pub owner: Uuid,
    /// It ends then unless it is renewed: somebody else may take the job over.
    pub until: Timestamp,
}

/// How far a job is. All zero and none where nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Read or written so far.
    pub done_bytes: u64,
    /// 0: not known yet.
    pub total_bytes: u64,
    /// None: nothing to measure yet.
    pub percent: Option<u32>,
    /// Estimated. None: too early to tell.
    pub remaining_seconds: Option<u64>,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What Azure's clients know it by.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`](crate::Vault::id) of what it is about. The row goes with the vault.
    pub vault: Uuid,
    /// The [`Item::id`](crate::Item::id) of what it is about. None: it is about the vault.
    pub item: Option<Uuid>,
    /// What it is about, which is known when its item is gone.
    #[serde(default)]
    pub datasource: Datasource,
    /// What it does, in Azure's terms.
    pub operation: JobOperation,
    /// Which part of the service does it, by name; empty: it was over when it was written.
    #[serde(default)]
    pub kind: String,
    /// Where it is.
    pub status: JobStatus,
    /// When it was written, also of one that waits.
    pub started_at: Timestamp,
    /// None: it is not over.
    pub ended_at: Option<Timestamp>,
    /// What it is about: the machine's name.
    pub entity: String,
    /// Azure's short name of the item's container: `iaasvmcontainerv2;{group};{machine}`.
    pub container: String,
    /// Its steps, in the order in which they are done.
    pub tasks: Vec<JobTask>,
    /// In the order in which they are shown.
    pub properties: Vec<(String, String)>,
    /// Facts like those of `properties` that only Azure's own clients read.
    #[serde(default)]
    pub internal: Vec<(String, String)>,
    /// As its runner wrote it last.
    #[serde(default)]
    pub progress: JobProgress,
    /// Why it failed, or was skipped. Empty: neither.
    #[serde(default)]
    pub errors: Vec<JobError>,
    /// What whoever asked for it is to know, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What is to be done, in the engine's words.
    pub request: serde_json::Value,
    /// None: it waits for a runner.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// How often it was leased: who had it before writes to it no more.
    #[serde(default)]
    pub fence: u64,
    /// Somebody asked for its end; its runner sees to it.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Times it was begun.
    #[serde(default)]
    pub attempts: u32,
    /// It was cut short, and whether it had been committed could not be seen yet: that comes before anything else.
    #[serde(default)]
    pub unsettled: bool,
    /// It waits until then.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// Azure's `activityId`: chosen at random, nothing here follows from it.
    pub activity_id: Uuid,
    /// Who asked for it; empty: the schedule.
    #[serde(default)]
    pub asked_by: String,
}

/// A long-running operation that a client follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    /// The client asks by this. Of a restore it is the job's.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Vault::id`](crate::Vault::id) of what it is about. None: it is about no vault.
    pub vault: Option<Uuid>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// None: it goes on.
    pub ended_at: Option<Timestamp>,
    /// The job that does it.
    pub job: Option<Uuid>,
    /// Over with the job, not with its beginning.
    #[serde(default)]
    pub follows_job: bool,
    /// Azure's code and message.
    #[serde(default)]
    pub error: Option<(String, String)>,
    /// It asked whether something could be done; the error is what it found.
    #[serde(default)]
    pub validates: bool,
}
