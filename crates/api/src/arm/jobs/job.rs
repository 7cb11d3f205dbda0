//! Jobs, and operations as clients follow them.

use super::following::parse_id;
use super::labels;
use crate::arm::shared::{
    Answer, App, format, kinds, page, resource, sees_drills, vault_id, vault_of, vault_path,
};
use crate::route::LIST;
use crate::{ArmError, Params, Request, Response, Route};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use strongroom_catalog::{Job, Vault};
use strongroom_domain::Datasource;
use strongroom_domain::job::{JobOperation, JobStatus, JobTask};
use strongroom_service::ErrorKind;
use strongroom_service::jobs::{self, JobFilter};
use strongroom_service::operations::{self};
use uuid::Uuid;

/// What Azure's jobs do beside what ours do.
const OTHER_OPERATIONS: &[&str] = &[
    "UnRegister",
    "CrossRegionRestore",
    "DiscoverProtectableItems",
    "ReconfigureBackup",
    "UpdateCustomerManagedKey",
];

/// Jobs of one page, unless asked for fewer.
const PAGE: usize = 200;

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Jobs";
    vec![
        Route::get(vault_path!("/backupJobs"), "BackupJobs_List", list)
            .action("Microsoft.RecoveryServices/Vaults/backupJobs/read")
            .query(LIST)
            .summary("The vault's jobs, the newest first.")
            .tag(TAG),
        Route::get(vault_path!("/backupJobs/{job}"), "JobDetails_Get", get)
            .answers("Resource")
            .action("Microsoft.RecoveryServices/Vaults/backupJobs/read")
            .summary("A job with its tasks and progress.")
            .tag(TAG),
        Route::post(vault_path!("/backupJobs/{job}/cancel"), "JobCancellations_Trigger", cancel)
            .action("Microsoft.RecoveryServices/Vaults/backupJobs/cancel/action")
            .success(&[202])
            .summary("Asks a backup or restore to stop.")
            .tag(TAG),
    ]
}

fn parse_job(params: &Params) -> Result<Uuid, ArmError> {
    parse_id(&params["job"], "JobNotFound", "job")
}

fn show_task(task: &JobTask, now: Timestamp, with_times: bool) -> Value {
    let mut shown = json!({
        "taskId": task.id,
        "status": task.status.arm_name(),
        "taskType": "Normal",
        "duration": format::duration(if with_times { task.duration(now) } else { SignedDuration::ZERO }),
    });
    if with_times {
        let time = |at: Option<Timestamp>| at.map_or_else(|| format::no_time().to_owned(), format::time);
        shown["startTime"] = time(task.started_at).into();
        shown["endTime"] = time(task.ended_at).into();
    }
    shown
}

fn show(app: &App, vault: &Vault, job: &Job, now: Timestamp, with_details: bool) -> Value {
    let mut p = Map::new();
    let mut set = |name: &str, value: Value| {
        p.insert(name.to_owned(), value);
    };
    let labels = kinds::labels(job.datasource);
    set("jobType", labels.job.into());
    if job.operation.is_cancellable() {
        set("actionsInfo", json!(["Cancellable"]));
    }
    set("containerName", job.container.clone().into());
    let until = job.ended_at.unwrap_or(now);
    set("duration", format::duration(until.duration_since(job.started_at)).into());
    set("virtualMachineVersion", "Compute".into());
    if with_details {
        set("extendedInfo", extended(job, now));
    }
    set("isUserTriggered", (!job.asked_by.is_empty()).into());
    set("entityFriendlyName", job.entity.clone().into());
    set("backupManagementType", labels.management.into());
    set("operation", job.operation.arm_name().into());
    set("status", job.status.arm_name().into());
    set("startTime", format::time(job.started_at).into());
    if let Some(ended_at) = job.ended_at {
        set("endTime", format::time(ended_at).into());
    }
    if !job.errors.is_empty() || !job.warnings.is_empty() {
        let errors = job.errors.iter().map(|e| {
            json!({
                "errorCode": e.code, "errorTitle": e.name, "errorString": e.message,
                "recommendations": if e.recommendation.is_empty() { json!([]) } else { json!([e.recommendation]) },
            })
        });
        let warnings = job.warnings.iter().map(
            |w| json!({"errorCode": 0, "errorTitle": "Warning", "errorString": w, "recommendations": []}),
        );
        set("errorDetails", errors.chain(warnings).collect());
    }
    set("activityId", job.activity_id.to_string().into());
    resource(
        format!("{}/backupJobs/{}", vault_id(app, vault), job.id),
        job.id.to_string(),
        "Microsoft.RecoveryServices/vaults/backupJobs",
        p,
    )
}

fn extended(job: &Job, now: Timestamp) -> Value {
    let bag = |pairs: &[(String, String)]| -> Value {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.clone())))
            .collect::<Map<_, _>>()
            .into()
    };
    let with_times = job.operation != JobOperation::Restore;
    let mut info = json!({
        "tasksList": job.tasks.iter().map(|t| show_task(t, now, with_times)).collect::<Vec<_>>(),
        "propertyBag": bag(&labels::bag(job)),
    });
    let internal = labels::internal_bag(job);
    if !internal.is_empty() {
        info["internalPropertyBag"] = bag(&internal);
    }
    // Of a restore from its first moment, as Azure does.
    let at_least = (job.operation == JobOperation::Restore && !job.status.is_over()).then_some(1);
    if let Some(percent) = job.progress.percent.max(at_least) {
        info["progressPercentage"] = f64::from(percent).into();
    }
    if let Some(seconds) = job.progress.remaining_seconds {
        let left = i64::try_from(seconds).unwrap_or(i64::MAX);
        info["estimatedRemainingDuration"] = format::duration(SignedDuration::from_secs(left)).into();
    }
    if job.progress.total_bytes > 0 && !job.status.is_over() {
        info["dynamicErrorMessage"] = "".into();
        info["propertyBag"]["Transferred"] =
            format!("{} of {} MB", job.progress.done_bytes >> 20, job.progress.total_bytes >> 20).into();
    }
    info
}

/// Which jobs are asked for.
#[derive(Default)]
struct Wanted {
    filter: JobFilter,
    /// None is of it, whatever there is.
    nothing: bool,
    id: Option<Uuid>,
}

impl Wanted {
    fn of(request: &Request) -> Result<Self, ArmError> {
        let mut wanted = Self::default();
        let Some(given) = request.filter()? else { return Ok(wanted) };
        let refused = |e| ArmError::invalid_filter(given.source(), e);
        let by = given
            .equalities(&[
                "status",
                "operation",
                "backupManagementType",
                "jobId",
                "startTime",
                "endTime",
                "startDate",
                "endDate",
            ])
            .map_err(refused)?;
        let datasources = kinds::Kinds::wanted(&by).map_err(refused)?.datasources();
        wanted.nothing = datasources.is_empty();
        wanted.filter.datasources = (datasources.len() < Datasource::ALL.len()).then_some(datasources);
        let statuses = JobStatus::ALL.map(JobStatus::arm_name);
        let status = by.one_of("status", &statuses).map_err(refused)?;
        wanted.filter.status = status.and_then(JobStatus::from_arm);
        let operations = [&JobOperation::ALL.map(JobOperation::arm_name), OTHER_OPERATIONS].concat();
        if let Some(operation) = by.one_of("operation", &operations).map_err(refused)? {
            wanted.filter.operation = JobOperation::from_arm(operation);
            wanted.nothing |= wanted.filter.operation.is_none();
        }
        for name in ["startTime", "startDate"] {
            if let Some(at) = by.time(name).map_err(refused)? {
                wanted.filter.started_from = Some(at);
            }
        }
        for name in ["endTime", "endDate"] {
            if let Some(at) = by.time(name).map_err(refused)? {
                wanted.filter.started_before = Some(at);
            }
        }
        if let Some(id) = by.get("jobId") {
            wanted.id = Some(Uuid::try_parse(id).map_err(|_| {
                ArmError::invalid_filter(given.source(), "jobId is not the id of a job, a GUID")
            })?);
        }
        Ok(wanted)
    }
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let wanted = Wanted::of(request)?;
    match wanted.id {
        Some(id) => {
            let found = the_one(app, &vault, &wanted, id)?;
            let shown = |j: &Job| show(app, &vault, j, request.now, false);
            page(request, found, PAGE, |j| j.id.to_string(), shown)
        }
        None => list_page(app, request, &vault, wanted),
    }
}

/// The job of this id, if it is one of those that are wanted.
fn the_one(app: &App, vault: &Vault, wanted: &Wanted, id: Uuid) -> Result<Vec<Job>, ArmError> {
    match jobs::get(&app.service, vault, id) {
        Ok(job) if !wanted.nothing && wanted.filter.passes(&job) => Ok(vec![job]),
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        Ok(_) | Err(_) => Ok(Vec::new()),
    }
}

fn list_page(app: &App, request: &Request, vault: &Vault, wanted: Wanted) -> Answer {
    let Wanted { mut filter, nothing, .. } = wanted;
    let page = request.page(PAGE)?;
    // What came before is told by its time and id, so that new jobs shift nothing.
    if let Some(after) = &page.after {
        let before = after
            .parse::<i64>()
            .ok()
            .and_then(|us| Timestamp::from_microsecond(us).ok())
            .ok_or_else(|| ArmError::invalid_parameter("$skipToken", "it is not one of this list's"))?;
        filter.started_before = Some(filter.started_before.map_or(before, |b| b.min(before)));
    }
    let mut found = match nothing {
        true => Vec::new(),
        false => jobs::list(&app.service, vault, &filter, 0, page.limit as u32 + 1)?,
    };
    let mut next = None;
    if found.len() > page.limit {
        found.truncate(page.limit);
        if let Some(at) = found.last().map(|last| last.started_at) {
            add_same_moment(app, vault, &filter, at, &mut found)?;
            next = Some(at.as_microsecond().to_string());
        }
    }
    request.list(found.iter().map(|j| show(app, vault, j, request.now, false)), next.as_deref())
}

/// Jobs of the same microsecond stay together on a page.
fn add_same_moment(
    app: &App,
    vault: &Vault,
    filter: &JobFilter,
    at: Timestamp,
    found: &mut Vec<Job>,
) -> Result<(), ArmError> {
    let same = JobFilter {
        started_from: Some(at),
        started_before: Timestamp::from_microsecond(at.as_microsecond() + 1).ok(),
        ..filter.clone()
    };
    for other in jobs::list(&app.service, vault, &same, 0, 10_000)? {
        if found.iter().all(|j| j.id != other.id) {
            found.push(other);
        }
    }
    Ok(())
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let mut job = jobs::get(&app.service, &vault, parse_job(params)?)?;
    if !sees_drills(app, request, &vault, &request.path_text())? {
        job.properties.retain(|(name, _)| !labels::is_check_output(name));
    }
    Response::ok(show(app, &vault, &job, request.now, true))
}

fn cancel(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let job = jobs::cancel(&app.service, &vault, parse_job(params)?)?;
    let operation = operations::begun(&app.service, &job, false)?;
    let base = format!("{}/backupJobs/{}", vault_id(app, &vault), job.id);
    let status = format!("{base}/operationsStatus/{operation}");
    let result = format!("{base}/operationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}
