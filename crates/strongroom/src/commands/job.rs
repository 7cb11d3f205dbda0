//! `strongroom job`: what the service does and did.

use super::common::{InVault, Vault, chosen_vaults, find_vault, literal_filter, or_dash, shown_time};
use super::jobs::{JobDocument, JobRef, outcome, wait};
use crate::client::Client;
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{duration, list, table};
use crate::when;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use std::time::Duration;
use strongroom_engine::Error;

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs, the newest first.
    List(ListArgs),
    /// Show a job with its tasks, progress and errors.
    Show(ShowArgs),
    /// Wait for a job, and show how far it is.
    Watch(WatchArgs),
    /// Stop a backup or restore.
    Cancel(CancelArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Status {
    InProgress,
    Completed,
    CompletedWithWarnings,
    Failed,
    Cancelling,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    Backup,
    Restore,
    ConfigureBackup,
    DisableBackup,
    DeleteBackupData,
    Undelete,
    Drill,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --vault those of all vaults.

Examples:
  strongroom job list
  strongroom job list --status failed --since 30d
  strongroom job list --vault main --operation backup --machine web01 --json")]
pub struct ListArgs {
    #[command(flatten)]
    vault: InVault,
    /// With this status alone.
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Of this operation alone.
    #[arg(long, value_enum)]
    operation: Option<Operation>,
    /// Of this machine alone.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Begun since: a date, a time, or so long ago (12h, 30d) [default: 7d].
    #[arg(long, value_name = "TIME", value_parser = when::parse_from)]
    since: Option<Timestamp>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 200)]
    last: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom job show 6f2b8c54-6e0e-4d28-a2d7-8f6f9f3a5a10 --json")]
pub struct ShowArgs {
    #[command(flatten)]
    job: Named,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The exit status is 1 unless the job succeeds. Where no service runs, the job is done here.

Example:
  strongroom job watch 6f2b8c54-6e0e-4d28-a2d7-8f6f9f3a5a10")]
pub struct WatchArgs {
    #[command(flatten)]
    job: Named,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A backup or restore that is cancelled leaves nothing behind. The command returns when it has
stopped.

Example:
  strongroom job cancel 6f2b8c54-6e0e-4d28-a2d7-8f6f9f3a5a10")]
pub struct CancelArgs {
    #[command(flatten)]
    job: Named,
}

#[derive(Debug, Args)]
struct Named {
    /// The job's id.
    #[arg(value_name = "JOB")]
    id: String,
    #[command(flatten)]
    vault: InVault,
}

impl Named {
    /// In the vault that is named, or whichever has it.
    fn find(&self, client: &Client) -> Result<(JobRef, JobDocument)> {
        let vaults: Vec<Vault> = match &self.vault.vault {
            Some(_) => vec![find_vault(client, &self.vault)?],
            None => chosen_vaults(client, &self.vault)?,
        };
        for vault in vaults {
            let job = JobRef { vault: vault.path, id: self.id.clone() };
            match job.look(client) {
                Ok(document) => return Ok((job, document)),
                Err(error) if error.has_status(404) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::not_found(format!("there is no job `{}`; see `strongroom job list`", self.id)).into())
    }
}

pub fn run(command: JobCommand, context: &Context) -> Result<Outcome> {
    match command {
        JobCommand::List(arguments) => run_list(&arguments, context),
        JobCommand::Show(arguments) => show(&arguments, context),
        JobCommand::Watch(arguments) => watch(&arguments, context),
        JobCommand::Cancel(arguments) => cancel(&arguments, context),
    }
}

fn filter(arguments: &ListArgs, since: Timestamp) -> String {
    let mut terms = vec![format!("startTime eq '{}'", since.strftime("%Y-%m-%dT%H:%M:%SZ"))];
    if let Some(status) = arguments.status {
        let name = match status {
            Status::InProgress => "InProgress",
            Status::Completed => "Completed",
            Status::CompletedWithWarnings => "CompletedWithWarnings",
            Status::Failed => "Failed",
            Status::Cancelling => "Cancelling",
            Status::Cancelled => "Cancelled",
        };
        terms.push(literal_filter("status", name));
    }
    if let Some(operation) = arguments.operation {
        let name = match operation {
            Operation::Backup => "Backup",
            Operation::Restore => "Restore",
            Operation::ConfigureBackup => "ConfigureBackup",
            Operation::DisableBackup => "DisableBackup",
            Operation::DeleteBackupData => "DeleteBackupData",
            Operation::Undelete => "Undelete",
            Operation::Drill => "Drill",
        };
        terms.push(literal_filter("operation", name));
    }
    terms.join(" and ")
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let since = match arguments.since {
        Some(since) => since,
        None => when::parse_from("7d").map_err(Error::invalid)?,
    };
    let filter = filter(arguments, since);
    let is_wanted = |job: &JobDocument| {
        arguments.machine.as_ref().is_none_or(|machine| job.machine.eq_ignore_ascii_case(machine))
    };
    let mut found: Vec<JobDocument> = Vec::new();
    for vault in chosen_vaults(&client, &arguments.vault)? {
        let mut of_vault = Vec::new();
        client.pages(&vault.at("/backupJobs"), Some(&filter), |page| {
            of_vault.extend(page.iter().map(JobDocument::of).filter(is_wanted));
            // One more tells that there are more.
            of_vault.len() <= arguments.last
        })?;
        found.extend(of_vault);
    }
    found.sort_by_key(|job| std::cmp::Reverse(job.started_at));
    let are_more = found.len() > arguments.last;
    found.truncate(arguments.last);
    context.print(&json!({ "jobs": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|j| {
                vec![
                    j.job.clone(),
                    j.operation.clone(),
                    j.status.clone(),
                    j.machine.clone(),
                    j.vault.clone(),
                    shown_time(j.started_at),
                    duration(Duration::from_secs_f64(j.seconds.clamp(0.0, 1e12))),
                    or_dash(j.errors.first().map_or(String::new(), |e| e.name.clone())),
                ]
            })
            .collect();
        table(&["JOB", "OPERATION", "STATUS", "MACHINE", "VAULT", "STARTED", ">TIME", "ERROR"], &rows)
    })?;
    if !context.json {
        if arguments.since.is_none() {
            context.note("of the last 7 days; --since looks further back");
        }
        if are_more {
            context.note(format_args!("the newest {}; --last shows more", arguments.last));
        }
    }
    Ok(Outcome::Done)
}

fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.job.vault.service, context)?;
    let (_, document) = arguments.job.find(&client)?;
    context.print(&document, || document.shown())?;
    Ok(Outcome::Done)
}

fn watch(arguments: &WatchArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.job.vault.service, context)?;
    let (job, _) = arguments.job.find(&client)?;
    let done = wait(&client, context, &[job])?;
    for document in &done {
        context.print(document, || document.shown_without_problems())?;
    }
    Ok(outcome(&done, context))
}

fn cancel(arguments: &CancelArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.job.vault.service, context)?;
    let (job, _) = arguments.job.find(&client)?;
    client.follow(&client.post(&format!("{}/cancel", job.path()), None)?)?;
    let done = wait(&client, context, &[job])?;
    for document in &done {
        context.print(document, || list(&document.entries()))?;
    }
    Ok(Outcome::Done)
}
