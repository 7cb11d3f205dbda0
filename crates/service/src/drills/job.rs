//! Drills: a recovery point proves that it can be restored. It is booted in isolation, looked at, and thrown away.
//!
//! The machine lies over the vault with overlays that are hidden files, has no network, and is not defined: libvirt ends it
//! when this process ends, however that comes. What it leaves in files is in the job's row before it is made; the next start
//! removes it. The commit is the transaction that writes the result to the point and ends the job.
//!
//! A point has passed when the guest agent answered, or, where the machine had none, when a screen has settled after
//! the guest has read what a booted system has read; and when the check, if there is one, ended with 0. A machine whose
//! file systems were frozen through its agent must answer by its agent.

use crate::core::committed;
use crate::core::drills::{self, DrillOptions};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::jobs::kind::{Again, Claims, Hold, JobKind, Recovery};
use crate::jobs::ledger as jobs;
use crate::limits::*;
use crate::points::snapshots;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Drill as DrillResult, DrillCheck, Item, Job, Machine, Point, Vault};
use strongroom_domain::job::{JobError, JobOperation, JobStatus, JobTask, task as tasks};
use strongroom_domain::{PointId, fact};
use strongroom_engine::machine::definition;
use strongroom_engine::machine::instant::{self, Exports, Network, Plan, Wanted};
use strongroom_engine::machine::record::MachineRecord;
use strongroom_hypervisor::{AgentState, Hypervisor, MachineState, Screenshot};
use strongroom_store::{Manifest, Progress, ReadSession};
use uuid::Uuid;

/// The job that boots a point in isolation, looks at it, and throws it away.
pub(crate) struct Drill;

impl JobKind for Drill {
    fn name(&self) -> &'static str {
        KIND
    }

    fn run(&self, service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
        run(service, job, progress)
    }

    fn recover(&self, service: &Service, job: &Job) -> Result<Recovery> {
        recover(service, job)?;
        Ok(Recovery::Nothing(Again::Never))
    }

    fn claims(&self, service: &Service, job: &Job) -> Result<Claims> {
        Claims::of_machine(service, job)
    }

    fn item(&self) -> Hold {
        Hold::Shared
    }

    fn reads(&self, job: &Job) -> Vec<PointId> {
        let point = job.request["point"].as_str().and_then(|id| id.parse().ok());
        point.map(PointId::from_uuid).into_iter().collect()
    }
}

/// What rows name this kind of job by.
pub(super) const KIND: &str = "drill";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DrillRequest {
    point: Uuid,
    host: String,
    check: Option<String>,
    timeout_seconds: u64,
    #[serde(default)]
    unencrypted: bool,
    /// What is being made; from here on something may have to be removed.
    #[serde(default)]
    plan: Option<Plan>,
}

/// Checks a request and writes its job.
pub fn begin(
    service: &Service,
    vault: &Vault,
    item: &Item,
    point: &Point,
    options: &DrillOptions,
    asked_by: &str,
) -> Result<Job> {
    drills::check_boots(item)?;
    let timeout = drills::check_options(options)?;
    snapshots::check_vaulted(point)?;
    let known = service.catalog.get::<Machine>(item.machine)?.map(|m| m.host);
    let host = known.filter(|name| service.host(name).is_ok());
    let host = host.or_else(|| service.hosts.first().map(|h| h.name.clone())).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "There is no host to boot it on: add one to the configuration.")
            .coded("UserErrorNoHost")
    })?;
    let mut job = jobs::draft(service, item, KIND, JobOperation::Drill, asked_by);
    job.tasks = vec![JobTask::new(tasks::START_MACHINE), JobTask::new(tasks::CHECK_MACHINE)];
    let time = point.taken_at.to_string();
    job.properties.push((fact::POINT.into(), point.name.clone()));
    job.properties.push((fact::POINT_TIME.into(), time));
    job.vault = vault.id;
    let request = DrillRequest {
        point: Uuid::from_bytes(*point.id.as_bytes()),
        host,
        check: options.check.clone(),
        timeout_seconds: timeout.as_secs(),
        unencrypted: options.unencrypted,
        plan: None,
    };
    job.request = serde_json::to_value(&request).unwrap_or_default();
    jobs::put_reading(service, &job, point)?;
    service.life.wake();
    Ok(job)
}

pub(crate) fn run(service: &Service, job: &Job, progress: &Arc<Progress>) -> Result<()> {
    let (vault, _, mut request) = jobs::parts::<DrillRequest>(service, job)?;
    let hypervisor = service.host(&request.host)?.hypervisor.clone();
    // Of a run that was stopped.
    if let Some(plan) = request.plan.take() {
        instant::abandon(&*hypervisor, &plan)?;
    }
    let store = service.store(&vault)?;
    let session = ReadSession::begin(&store, &format!("drill job {}", job.id))?;
    let point = store.point(&PointId::from_uuid(request.point))?;
    jobs::task(service, job, tasks::START_MACHINE)?;
    let name = format!("strongroom-drill-{}", &job.id.simple().to_string()[..12]);
    let wanted = Wanted {
        name: &name,
        uuid: job.id,
        directory: None,
        network: Network::None,
        disks: &[],
        is_thrown_away: true,
        unencrypted: request.unencrypted,
    };
    let plan = instant::plan(&*hypervisor, &session, &point, &wanted)?;
    let mut warnings = strongroom_engine::machine::encryption::check(&point, &[], request.unencrypted)?;
    warnings.extend(instant::warnings(&point, &plan));
    request.plan = Some(plan.clone());
    let value = serde_json::to_value(&request).unwrap_or_default();
    jobs::update(service, job, |job| {
        job.request = value.clone();
        job.warnings.extend(warnings.clone());
        Ok(Vec::new())
    })?;
    let seen = boot(service, job, &*hypervisor, &session, &point, &plan, &request, progress);
    if let Err(error) = instant::abandon(&*hypervisor, &plan) {
        // Its files are removed before the job is over, however long that takes.
        return Err(seen.err().unwrap_or_else(|| error.into()).unsettled());
    }
    let seen = seen?;
    let mut warning = None;
    let has_screenshot = match seen.screen.as_ref().map(|screen| keep(service, job.id, screen)) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            warning = Some(format!("the screenshot could not be kept: {error}"));
            false
        }
    };
    record(service, job, &request, seen, has_screenshot, warning)
}

/// What came of it.
struct Seen {
    answered: Option<&'static str>,
    seconds: f64,
    check: Option<DrillCheck>,
    screen: Option<Screenshot>,
    /// Why it has not passed; empty: it has.
    problem: String,
}

#[allow(clippy::too_many_arguments)]
fn boot(
    service: &Service,
    job: &Job,
    hypervisor: &dyn Hypervisor,
    session: &Arc<ReadSession>,
    point: &Manifest,
    plan: &Plan,
    request: &DrillRequest,
    progress: &Progress,
) -> Result<Seen> {
    let exports = instant::serve(hypervisor, session, point, plan)?;
    instant::make_files(point, plan)?;
    progress.check()?;
    // Ends before its exports, in whatever way this is left.
    let machine = instant::start_throw_away(hypervisor, point, plan)?;
    if !machine.notes.is_empty() {
        jobs::update(service, job, |job| {
            job.properties.push((fact::NOTES.into(), machine.notes.join("; ")));
            Ok(Vec::new())
        })?;
    }
    jobs::task(service, job, tasks::CHECK_MACHINE)?;
    let deadline = Instant::now() + Duration::from_secs(request.timeout_seconds);
    let must_answer = MachineRecord::of(point).timings.frozen_ms.is_some();
    let mut seen = watch(hypervisor, &machine.name, &exports, must_answer, deadline, progress)?;
    if seen.problem.is_empty()
        && let Some(command) = &request.check
    {
        check(hypervisor, &machine.name, point, command, deadline, progress, &mut seen)?;
    }
    take_picture(hypervisor, &machine.name, deadline, progress, &mut seen)?;
    drop(machine);
    drop(exports);
    Ok(seen)
}

/// The picture that is kept. An agent may answer before anything is shown, a login for example: that is waited for a little.
fn take_picture(
    hypervisor: &dyn Hypervisor,
    name: &str,
    deadline: Instant,
    progress: &Progress,
    seen: &mut Seen,
) -> Result<()> {
    let until = deadline.min(Instant::now() + DRILL_PICTURE_WAIT);
    loop {
        // What had already been seen is kept where there is no machine any more.
        let Ok(screen) = hypervisor.screenshot(name) else { return Ok(()) };
        let is_blank = screen.is_blank();
        seen.screen = Some(screen);
        if !is_blank || seen.answered.is_none() || Instant::now() >= until {
            return Ok(());
        }
        progress.pause(DRILL_PICTURE_INTERVAL)?;
    }
}

/// Until it answers, or it is clear that it does not.
fn watch(
    hypervisor: &dyn Hypervisor,
    name: &str,
    exports: &Exports,
    must_answer: bool,
    deadline: Instant,
    progress: &Progress,
) -> Result<Seen> {
    let began = Instant::now();
    let mut seen = Seen { answered: None, seconds: 0.0, check: None, screen: None, problem: String::new() };
    let mut settled_since = began;
    let mut looked: Option<Instant> = None;
    loop {
        progress.check()?;
        seen.seconds = began.elapsed().as_secs_f64();
        let machine = match hypervisor.inspect(name) {
            Ok(machine) if machine.summary.state == MachineState::Crashed => {
                seen.problem = format!("The machine crashed after {:.0} s.", seen.seconds);
                return Ok(seen);
            }
            Ok(machine) if machine.summary.state.is_active() => machine,
            Ok(_) | Err(strongroom_hypervisor::Error::NotFound { .. }) => {
                seen.problem = format!("The machine ended by itself after {:.0} s.", seen.seconds);
                return Ok(seen);
            }
            Err(error) => return Err(error.into()),
        };
        if machine.agent == AgentState::Connected
            && hypervisor.wait_for_agent(name, Duration::from_millis(500)).is_ok()
        {
            seen.seconds = began.elapsed().as_secs_f64();
            seen.answered = Some("agent");
            return Ok(seen);
        }
        if looked.is_none_or(|at| at.elapsed() >= DRILL_SCREEN_INTERVAL) {
            looked = Some(Instant::now());
            if let Ok(screen) = hypervisor.screenshot(name) {
                if !seen.screen.as_ref().is_some_and(|before| before.is_like(&screen)) {
                    settled_since = Instant::now();
                }
                seen.screen = Some(screen);
            }
        }
        let shows = seen.screen.as_ref().is_some_and(|s| !s.is_blank());
        let has_booted = exports.read_bytes() >= DRILL_READ_MIN_BYTES;
        if !must_answer && shows && has_booted && settled_since.elapsed() >= DRILL_SETTLED {
            seen.answered = Some("screen");
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            let read = format!("it read {} KiB of its disks", exports.read_bytes() >> 10);
            let damaged = exports
                .last_failure()
                .map(|f| format!(" The vault could not be read: {f}."))
                .unwrap_or_default();
            seen.problem = match must_answer {
                true => format!(
                    "The guest agent, which the machine had, did not answer within {:.0} s ({read}).{damaged}",
                    seen.seconds
                ),
                false => format!(
                    "Neither did a guest agent answer nor did the screen of a booted system appear within {:.0} s ({read}).{damaged}",
                    seen.seconds
                ),
            };
            return Ok(seen);
        }
        progress.pause(Duration::from_millis(300))?;
    }
}

fn check(
    hypervisor: &dyn Hypervisor,
    name: &str,
    point: &Manifest,
    command: &str,
    deadline: Instant,
    progress: &Progress,
    seen: &mut Seen,
) -> Result<()> {
    if seen.answered != Some("agent") {
        seen.problem = "The check could not be run: no guest agent answered.".into();
        return Ok(());
    }
    let is_windows = point.definition.as_ref().is_some_and(|d| definition::facts(&d.text).os == "Windows");
    let (shell, option) = if is_windows { ("cmd.exe", "/c") } else { ("/bin/sh", "-c") };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let is_wanted = || progress.check().is_ok();
    match hypervisor.guest_exec_while(name, shell, &[option, command], left, &is_wanted) {
        Ok(output) => {
            if output.exit_code != Some(0) {
                seen.problem = match output.exit_code {
                    Some(code) => format!("The check ended with exit status {code}."),
                    None => "The check was ended by a signal.".into(),
                };
            }
            seen.check = Some(DrillCheck {
                command: command.to_owned(),
                exit_code: output.exit_code,
                stdout: tail(&output.stdout),
                stderr: tail(&output.stderr),
            });
        }
        Err(error) => seen.problem = format!("The check could not be run to its end: {error}."),
    }
    // What was left running ends with the machine.
    Ok(progress.check()?)
}

/// A guest's words: the last of them, as text.
fn tail(bytes: &[u8]) -> String {
    let text =
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(DRILL_OUTPUT_MAX_BYTES)..]).into_owned();
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The commit.
fn record(
    service: &Service,
    job: &Job,
    request: &DrillRequest,
    seen: Seen,
    screenshot: bool,
    warning: Option<String>,
) -> Result<()> {
    let passed = seen.problem.is_empty();
    let at = service.now();
    let drill = DrillResult {
        job: job.id,
        at,
        passed,
        answered: seen.answered.map(str::to_owned),
        seconds: (seen.seconds * 10.0).round() / 10.0,
        check: seen.check,
        screenshot,
        message: seen.problem,
    };
    let point = PointId::from_uuid(request.point);
    let told = || {
        jobs::update(service, job, |job| {
            if job.status.is_over() {
                return Ok(Vec::new());
            }
            if let Some(by) = &drill.answered {
                job.properties.push((fact::ANSWERED_BY.into(), by.clone()));
                job.properties.push((fact::ANSWERED_AFTER.into(), format!("{:.1} s", drill.seconds)));
            }
            if let Some(check) = &drill.check {
                let code = check.exit_code.map_or_else(|| "a signal".into(), |c| c.to_string());
                job.properties.push((fact::CHECK_ENDED_WITH.into(), code));
                for (name, text) in
                    [fact::CHECK_OUTPUT, fact::CHECK_ERRORS].into_iter().zip([&check.stdout, &check.stderr])
                {
                    if !text.is_empty() {
                        job.properties.push((name.into(), text.clone()));
                    }
                }
            }
            job.warnings.extend(warning.clone());
            let status = match passed {
                true if !job.warnings.is_empty() => JobStatus::CompletedWithWarnings,
                true => JobStatus::Completed,
                false => {
                    job.errors = vec![JobError::new(
                        400_400,
                        "UserErrorDrillFailed",
                        drill.message.clone(),
                        "Look at the screenshot (`strongroom vm drill --show NAME --screenshot FILE`), try an older point, and back the machine up again.",
                    )];
                    JobStatus::Failed
                }
            };
            jobs::end(job, status, at);
            // A point that expired meanwhile has no row to write to.
            let row = service.catalog.get::<Point>(point)?;
            Ok(row
                .map(|mut row| {
                    row.drill = Some(drill.clone());
                    Change::put(&row)
                })
                .into_iter()
                .collect())
        })
    };
    // Nobody is to wait for all of it again because of this.
    committed::record(service, "a drill's result", told)?;
    Ok(())
}

fn path_of(service: &Service, job: Uuid) -> PathBuf {
    service.data().screenshots().join(format!("{job}.png"))
}

/// Writes a screenshot down; of too many the oldest go.
fn keep(service: &Service, job: Uuid, screen: &Screenshot) -> Result<()> {
    let directory = service.data().screenshots();
    let png =
        screen.png().map_err(|e| Error::new(ErrorKind::Failed, format!("making a PNG picture: {e}")))?;
    let path = path_of(service, job);
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.write_all(&png).map_err(failed)?;
    let mut all: Vec<_> = fs::read_dir(&directory)
        .map_err(|e| Error::io(format!("reading {}", directory.display()), e))?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    for (_, old) in &all[..all.len().saturating_sub(SCREENSHOTS_KEPT)] {
        let _ = fs::remove_file(old);
    }
    Ok(())
}

/// The picture of a point's last drill, a PNG file.
pub fn screenshot(service: &Service, point: &Point) -> Result<Vec<u8>> {
    let none = |why: &str| {
        Error::not_found(format!("There is no screenshot of recovery point '{}': {why}.", point.name))
            .coded("UserErrorScreenshotNotFound")
    };
    let Some(drill) = &point.drill else { return Err(none("it had no drill")) };
    if !drill.screenshot {
        return Err(none("none could be taken at its last drill"));
    }
    let path = path_of(service, drill.job);
    match fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(none("newer ones have taken its place")),
        Err(e) => Err(Error::io(format!("reading {}", path.display()), e)),
    }
}

/// After a crash: whatever there may be is removed. The job is not begun anew: that is for whoever wants it to decide.
fn recover(service: &Service, job: &Job) -> Result<()> {
    let (_, _, request) = jobs::parts::<DrillRequest>(service, job)?;
    if let Some(plan) = &request.plan {
        instant::abandon(&*service.host(&request.host)?.hypervisor, plan)?;
    }
    Ok(())
}
