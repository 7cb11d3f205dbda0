//! Backing machines up now.

use crate::client::Client;
use crate::commands::common::{
    InVault, Item, Vault, each, find_item, find_vault, needs_service, or_dash, shown_time,
};
use crate::commands::jobs::{JobDocument, JobRef, outcome, wait};
use crate::commands::point::{PointDocument, consistency};
use crate::context::{Context, Outcome};
use crate::failure::{Failure, Result};
use crate::text::{list, table};
use crate::when;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use strongroom_engine::{Error, ErrorKind};

#[derive(Debug, Args)]
#[command(after_help = "\
All machines are backed up at once, as far as the service's limits allow. The command waits
until all are done; where no service runs it does the work itself, and Ctrl-C cancels it. Else
the jobs go on without it.

Examples:
  strongroom vm backup web01
  strongroom vm backup web01 web02 --vault main --keep-until 2026-12-31
  strongroom vm backup db01 --keep-until 30d --no-wait --json")]
pub struct BackupArgs {
    /// The machines; GROUP/NAME where two groups have one of a name.
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    #[command(flatten)]
    vault: InVault,
    /// Keep the point until: a date (the end of it), a time, or so long from now (30d) [default: as the policy says, or
    /// 30 days].
    #[arg(long, value_name = "TIME", value_parser = when::parse_keep)]
    keep_until: Option<Timestamp>,
    /// Do not wait: the jobs' ids are printed.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct BackupDocument {
    machine: String,
    resource_group: String,
    vault: String,
    job: JobDocument,
    /// Null while it is not there, or if there is none.
    point: Option<PointDocument>,
}

/// A backup that has begun.
struct Begun {
    item: Item,
    job: JobRef,
}

pub fn backup(arguments: &BackupArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    if arguments.no_wait && client.is_in_process() {
        return Err(needs_service("--no-wait"));
    }
    let vault = find_vault(&client, &arguments.vault)?;
    // What an earlier run left is put right first.
    client.run_jobs()?;
    let mut properties = json!({ "objectType": "IaasVMBackupRequest" });
    if let Some(until) = arguments.keep_until {
        properties["recoveryPointExpiryTimeInUTC"] = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    let body = json!({ "properties": properties });
    let (begun, is_whole) = each(context, &arguments.names, |name| {
        let item = find_item(&client, &vault, name)?;
        let answer = client.post(&format!("{}/backup", item.path), Some(&body))?;
        let id = client.follow(&answer)?.ok_or_else(no_job)?;
        Ok(Begun { item, job: JobRef { vault: vault.path.clone(), id } })
    })?;
    let jobs: Vec<JobRef> = begun.iter().map(|b| b.job.clone()).collect();
    let done = match arguments.no_wait {
        true => jobs.iter().map(|job| job.look(&client)).collect::<Result<Vec<_>>>()?,
        false => wait(&client, context, &jobs)?,
    };
    let mut documents = Vec::new();
    for (begun, job) in begun.into_iter().zip(&done) {
        let point = match job.has_succeeded() {
            true => point_of(&client, &vault, &begun.item, job)?,
            false => None,
        };
        documents.push(BackupDocument {
            machine: begun.item.name,
            resource_group: begun.item.group,
            vault: vault.name.clone(),
            job: job.clone(),
            point,
        });
    }
    context.print(&json!({ "backups": documents }), || shown(&documents))?;
    let outcome = outcome(&done, context);
    Ok(if is_whole { outcome } else { Outcome::Damage })
}

pub fn no_job() -> Failure {
    Error::new(ErrorKind::Failed, "the service accepted it and named no job").into()
}

/// The point that a job made: the newest since it began.
fn point_of(client: &Client, vault: &Vault, item: &Item, job: &JobDocument) -> Result<Option<PointDocument>> {
    let filter = job.started_at.map(|at| format!("startDate eq '{at}'"));
    let mut newest = None;
    client.pages(&format!("{}/recoveryPoints", item.path), filter.as_deref(), |page| {
        newest = page.first().map(|p| PointDocument::of(p, vault, &item.name));
        false
    })?;
    Ok(newest)
}

fn shown(documents: &[BackupDocument]) -> String {
    if let [one] = documents {
        let mut entries = one.job.entries();
        if let Some(point) = &one.point {
            entries.push(("point", point.point.clone()));
            entries.push(("taken", shown_time(point.taken_at)));
            entries.push(("consistency", consistency(point)));
            entries.push(("expires", shown_time(point.expires_at)));
        }
        return list(&entries);
    }
    if documents.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = documents
        .iter()
        .map(|d| {
            let of_point =
                |text: fn(&PointDocument) -> String| or_dash(d.point.as_ref().map(text).unwrap_or_default());
            vec![
                d.machine.clone(),
                d.job.status.clone(),
                of_point(|p| p.point.clone()),
                of_point(|p| p.consistency.clone()),
                d.job.job.clone(),
            ]
        })
        .collect();
    table(&["MACHINE", "STATUS", "POINT", "CONSISTENCY", "JOB"], &rows)
}
