//! Jobs as commands show them, and waiting for them.

use super::common::{some_duration, some_time, text};
use crate::client::{Client, part_of_id, segment};
use crate::context::{Context, Outcome};
use crate::failure::{ApiError, Failure, Result};
use crate::text::{duration, list, table};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A job over which nobody needs to know more is shown so late.
const BAR_AFTER: Duration = Duration::from_millis(300);
const FIRST_LINE_AFTER: Duration = Duration::from_secs(2);
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize)]
pub struct JobDocument {
    pub job: String,
    pub vault: String,
    pub resource_group: String,
    pub machine: String,
    /// As Azure spells them, as the filters of `job list` take them.
    pub operation: String,
    pub status: String,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub seconds: f64,
    pub asked_for: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskDocument>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    pub errors: Vec<ErrorDocument>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TaskDocument {
    pub name: String,
    pub status: String,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ErrorDocument {
    pub code: i64,
    pub name: String,
    pub message: String,
    pub recommendation: String,
}

fn seconds(document: &Value, pointer: &str) -> f64 {
    some_duration(document, pointer).map_or(0.0, |d| d.as_secs_f64())
}

impl JobDocument {
    pub fn of(document: &Value) -> Self {
        let id = text(document, "/id");
        let part = |name: &str| part_of_id(&id, name).unwrap_or_default().to_owned();
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        for detail in document["properties"]["errorDetails"].as_array().into_iter().flatten() {
            let message = text(detail, "/errorString");
            if text(detail, "/errorTitle") == "Warning" {
                warnings.push(message);
                continue;
            }
            errors.push(ErrorDocument {
                code: detail["errorCode"].as_i64().unwrap_or(0),
                name: text(detail, "/errorTitle"),
                message,
                recommendation: text(detail, "/recommendations/0"),
            });
        }
        let extended = &document["properties"]["extendedInfo"];
        let tasks = extended["tasksList"].as_array().into_iter().flatten().map(|task| TaskDocument {
            name: text(task, "/taskId"),
            status: text(task, "/status"),
            seconds: seconds(task, "/duration"),
        });
        Self {
            job: text(document, "/name"),
            vault: part("vaults"),
            resource_group: part("resourceGroups"),
            machine: text(document, "/properties/entityFriendlyName"),
            operation: text(document, "/properties/operation"),
            status: text(document, "/properties/status"),
            started_at: some_time(document, "/properties/startTime"),
            ended_at: some_time(document, "/properties/endTime"),
            seconds: seconds(document, "/properties/duration"),
            asked_for: document["properties"]["isUserTriggered"].as_bool().unwrap_or(false),
            percent: extended["progressPercentage"].as_f64(),
            remaining_seconds: some_duration(extended, "/estimatedRemainingDuration")
                .map(|d| d.as_secs_f64()),
            tasks: tasks.collect(),
            details: extended["propertyBag"].as_object().cloned().unwrap_or_default(),
            errors,
            warnings,
        }
    }

    pub fn is_over(&self) -> bool {
        !matches!(self.status.as_str(), "InProgress" | "Cancelling")
    }

    pub fn has_succeeded(&self) -> bool {
        self.status.starts_with("Completed")
    }

    /// What a job that did not succeed is told as.
    pub fn failure(&self) -> Option<Failure> {
        if !self.is_over() || self.has_succeeded() {
            return None;
        }
        let (code, message, recommendation) = match self.errors.first() {
            Some(error) => {
                (error.name.clone(), error.message.trim().to_owned(), error.recommendation.as_str())
            }
            None => (format!("Job{}", self.status), format!("the job ended as {}", self.status), ""),
        };
        let what = match self.status.as_str() {
            "Cancelled" => "was cancelled",
            _ => "failed",
        };
        let message = format!("{} of {} {what}: {message}", self.operation.to_lowercase(), self.machine);
        Some(ApiError::new(0, code, message).recommending(recommendation).into())
    }

    /// How far it is, in a line.
    pub fn figures(&self) -> String {
        let task = self.tasks.iter().find(|t| t.status == "InProgress");
        let mut parts = vec![match task {
            Some(task) => task.name.to_lowercase(),
            None if self.tasks.iter().any(|t| t.status != "NotStarted") => "going on".into(),
            None => "waiting".into(),
        }];
        if let Some(percent) = self.percent {
            let of = self.details.get("Transferred").and_then(Value::as_str);
            parts.push(match of {
                Some(of) => format!("{percent:.0}% ({of})"),
                None => format!("{percent:.0}%"),
            });
        }
        if let Some(left) = self.remaining_seconds {
            parts.push(format!("{} left", duration(Duration::from_secs_f64(left.clamp(0.0, 1e9)))));
        }
        parts.join(", ")
    }

    pub fn entries(&self) -> Vec<(&str, String)> {
        let mut entries = vec![
            ("job", self.job.clone()),
            ("operation", self.operation.clone()),
            ("machine", self.machine.clone()),
            ("vault", format!("{} (group {})", self.vault, self.resource_group)),
            ("status", self.status.clone()),
            ("started", super::common::shown_time(self.started_at)),
        ];
        if let Some(ended_at) = self.ended_at {
            entries.push(("ended", crate::text::time(ended_at)));
        }
        entries.push(("time", duration(Duration::from_secs_f64(self.seconds.clamp(0.0, 1e12)))));
        if !self.is_over() {
            entries.push(("progress", self.figures()));
        }
        entries
    }

    /// [`Self::shown`] without what went wrong, for whoever tells that apart ([`outcome`]).
    pub fn shown_without_problems(&self) -> String {
        Self { errors: Vec::new(), warnings: Vec::new(), ..self.clone() }.shown()
    }

    /// All that there is to say, for people.
    pub fn shown(&self) -> String {
        let mut entries = self.entries();
        for error in &self.errors {
            entries.push(("error", format!("{} ({})", error.message, error.name)));
            if !error.recommendation.is_empty() && !error.message.contains(&error.recommendation) {
                entries.push(("what to do", error.recommendation.clone()));
            }
        }
        entries.extend(self.warnings.iter().map(|w| ("warning", w.clone())));
        let mut out = list(&entries);
        if !self.tasks.is_empty() {
            let rows: Vec<Vec<String>> = self
                .tasks
                .iter()
                .map(|t| {
                    let time = duration(Duration::from_secs_f64(t.seconds.clamp(0.0, 1e12)));
                    vec![t.name.clone(), t.status.clone(), time]
                })
                .collect();
            out.push('\n');
            out.push_str(&table(&["TASK", "STATUS", ">TIME"], &rows));
        }
        if !self.details.is_empty() {
            out.push('\n');
            let details: Vec<(&str, String)> =
                self.details.iter().map(|(name, value)| (name.trim(), text(value, ""))).collect();
            out.push_str(&list(&details));
        }
        out
    }
}

/// A job, as the vault's path and its id name it.
#[derive(Debug, Clone)]
pub struct JobRef {
    /// The vault's path, encoded.
    pub vault: String,
    pub id: String,
}

impl JobRef {
    pub fn path(&self) -> String {
        format!("{}/backupJobs/{}", self.vault, segment(&self.id))
    }

    pub fn look(&self, client: &Client) -> Result<JobDocument> {
        Ok(JobDocument::of(&client.get(&self.path())?))
    }
}

/// Waits until all are over, and shows how far they are. Stopped meanwhile, what this process does is cancelled; what a
/// service does goes on.
pub fn wait(client: &Client, context: &Context, jobs: &[JobRef]) -> Result<Vec<JobDocument>> {
    client.run_jobs()?;
    let mut shown = Shown::new(!context.quiet, jobs.len());
    let mut done: Vec<Option<JobDocument>> = vec![None; jobs.len()];
    loop {
        for (at, job) in jobs.iter().enumerate() {
            if done[at].is_some() {
                continue;
            }
            let document = job.look(client)?;
            shown.show(at, &document);
            if document.is_over() {
                done[at] = Some(document);
            }
        }
        if done.iter().all(Option::is_some) {
            return Ok(done.into_iter().flatten().collect());
        }
        if let Err(stopped) = client.pause() {
            drop(shown);
            let open: Vec<&JobRef> =
                jobs.iter().zip(&done).filter(|(_, d)| d.is_none()).map(|(j, _)| j).collect();
            leave(client, context, &open);
            return Err(stopped);
        }
    }
}

/// The user does not want to wait any longer.
fn leave(client: &Client, context: &Context, open: &[&JobRef]) {
    if !client.is_in_process() {
        for job in open {
            context.note(format_args!(
                "the job goes on: `strongroom job watch {0}` shows it, `strongroom job cancel {0}` stops it",
                job.id
            ));
        }
        return;
    }
    // Nobody else would do them: they end here, and leave nothing behind. Only a machine that runs already is somebody's.
    let is_running = |job: &&JobRef| job.look(client).is_ok_and(|j| j.details.contains_key("Started VM"));
    let (running, open): (Vec<&JobRef>, Vec<&JobRef>) = open.iter().copied().partition(is_running);
    for job in running {
        context.note(format_args!(
            "the machine needs the vault still, and will wait: `strongroom job watch {0}` goes on, `strongroom job cancel {0}` throws it away",
            job.id
        ));
    }
    for job in &open {
        if let Err(Failure::Api(error)) = client.post(&format!("{}/cancel", job.path()), None) {
            context.warn(format_args!("job {} could not be cancelled: {error}", job.id));
        }
    }
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let is_over = |job: &&JobRef| job.look(client).map_or(true, |j| j.is_over());
        if open.iter().all(is_over) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Tells what went wrong with each of these, if anything did.
pub fn outcome(jobs: &[JobDocument], context: &Context) -> Outcome {
    for warning in jobs.iter().flat_map(|j| &j.warnings) {
        context.warn(warning);
    }
    let failures: Vec<Failure> = jobs.iter().filter_map(JobDocument::failure).collect();
    for failure in &failures {
        crate::report::error(failure, context.json);
    }
    if failures.is_empty() { Outcome::Done } else { Outcome::Damage }
}

/// How far jobs are: bars on a terminal, else a line now and then.
struct Shown {
    is_on: bool,
    terminal: bool,
    began: Instant,
    bars: MultiProgress,
    each: Vec<One>,
}

#[derive(Clone, Default)]
struct One {
    bar: Option<ProgressBar>,
    line_at: Option<Instant>,
}

impl Shown {
    fn new(is_on: bool, jobs: usize) -> Self {
        Self {
            is_on,
            terminal: io::stderr().is_terminal(),
            began: Instant::now(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            each: vec![One::default(); jobs],
        }
    }

    fn show(&mut self, at: usize, job: &JobDocument) {
        if !self.is_on {
            return;
        }
        let one = &mut self.each[at];
        let doing = format!("{} of {}", job.operation.to_lowercase(), job.machine);
        if !self.terminal {
            let due = one.line_at.map_or(self.began + FIRST_LINE_AFTER, |line_at| line_at + LINE_EVERY);
            let now = Instant::now();
            if now >= due && !job.is_over() {
                one.line_at = Some(now);
                let line = format!("{doing}: {}, {} elapsed", job.figures(), duration(now - self.began));
                let _ = writeln!(io::stderr().lock(), "{line}");
            }
            return;
        }
        if job.is_over() {
            if let Some(bar) = one.bar.take() {
                bar.finish_and_clear();
            }
            return;
        }
        if self.began.elapsed() < BAR_AFTER {
            return;
        }
        let bars = &self.bars;
        let bar = one.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(100));
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(doing);
            bar
        });
        bar.set_position(job.percent.map_or(0, |p| p.clamp(0.0, 100.0) as u64));
        bar.set_message(job.figures());
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        for bar in self.each.iter_mut().filter_map(|one| one.bar.take()) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(status: &str, percent: Option<f64>, details: Value) -> JobDocument {
        let mut extended = json!({
            "tasksList": [
                {"taskId": "Take Snapshot", "status": "Completed", "duration": "PT2S"},
                {"taskId": "Transfer data to vault", "status": "InProgress", "duration": "PT1M0.5S"},
            ],
            "propertyBag": {"Transferred": "512 of 2048 MB"},
            "estimatedRemainingDuration": "PT3M20S",
        });
        if let Some(percent) = percent {
            extended["progressPercentage"] = percent.into();
        }
        JobDocument::of(&json!({
            "id": "/subscriptions/S/resourceGroups/g/providers/Microsoft.RecoveryServices/vaults/v/backupJobs/j",
            "name": "j",
            "properties": {
                "operation": "Backup", "status": status, "entityFriendlyName": "web01",
                "duration": "PT1H2S", "startTime": "2026-11-21T20:30:00Z", "errorDetails": details,
                "extendedInfo": extended,
            },
        }))
    }

    #[test]
    fn a_job_says_how_far_it_is() {
        let running = job("InProgress", Some(25.0), Value::Null);
        assert_eq!(running.figures(), "transfer data to vault, 25% (512 of 2048 MB), 3 min 20 s left");
        assert_eq!((running.vault.as_str(), running.resource_group.as_str()), ("v", "g"));
        assert_eq!((running.seconds, running.tasks[1].seconds), (3602.0, 60.5));
        assert!(!running.is_over() && running.failure().is_none());
        assert!(running.shown().contains("Take Snapshot") && running.shown().contains("progress:"));
    }

    #[test]
    fn warnings_are_no_errors() {
        let details = json!([
            {"errorCode": 400310, "errorTitle": "UserErrorAccessDenied", "errorString": "No key.",
             "recommendations": ["Give it."]},
            {"errorCode": 0, "errorTitle": "Warning", "errorString": "slow", "recommendations": []},
        ]);
        let failed = job("Failed", None, details);
        assert_eq!((failed.errors.len(), failed.warnings.as_slice()), (1, ["slow".to_owned()].as_slice()));
        let told = failed.failure().unwrap();
        assert_eq!(told.code(), "UserErrorAccessDenied");
        let Failure::Api(error) = told else { panic!() };
        assert_eq!(error.message, "backup of web01 failed: No key.");
        assert_eq!(error.recommendation, "Give it.");
        let shown = failed.shown();
        assert!(shown.contains("what to do: Give it.\n") && shown.contains("warning:    slow\n"), "{shown}");
        let shown = failed.shown_without_problems();
        assert!(
            !shown.contains("Give it.") && !shown.contains("slow") && shown.contains("status:"),
            "{shown}"
        );
        assert!(job("CompletedWithWarnings", None, Value::Null).failure().is_none());
        assert!(job("Cancelled", None, Value::Null).failure().is_some());
    }
}
