//! What was changed and refused.

use super::catalog::{Catalog, DataArgs};
use crate::client::{Client, ServiceArgs};
use crate::context::{Context, Outcome};
use crate::failure::{Failure, Result};
use crate::text::{table, time};
use clap::Args;
use std::io::{self, Write as _};
use strongroom_catalog::{AuditEntry, Query};
use strongroom_service::{Error, ErrorKind};

#[derive(Debug, Args)]
#[command(after_help = "\
With --follow --json each entry is a document of its own, in a line of its own, until it is stopped. It follows a service that
runs, on this host or at --server (who may read all of the subscription may read this).

Examples:
  strongroom access audit --last 50 --refused
  strongroom access audit --follow --json
  strongroom access audit --follow --last 0 --server https://backup.example.org:8443")]
pub struct AuditArgs {
    /// How many of the newest entries.
    #[arg(long, value_name = "N", default_value_t = 100)]
    last: u32,
    /// Refusals alone.
    #[arg(long)]
    refused: bool,
    /// Go on with what comes, until this is stopped (Ctrl-C).
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

fn cells(e: &AuditEntry) -> Vec<String> {
    let more = if e.left_out > 0 { format!(" (and {} more)", e.left_out) } else { String::new() };
    let what = if e.detail.is_empty() { e.scope.clone() } else { format!("{} ({})", e.scope, e.detail) };
    vec![time(e.at), format!("{}{more}", e.principal), e.action.clone(), e.status.to_string(), what]
}

pub(super) fn audit(arguments: &AuditArgs, context: &Context) -> Result<Outcome> {
    if arguments.follow || arguments.service.server.is_some() {
        return audit_of_service(arguments, context);
    }
    let catalog = Catalog::open(&DataArgs { data: arguments.service.data.clone() })?;
    let wanted = if arguments.refused { u32::MAX } else { arguments.last };
    let mut all: Vec<AuditEntry> = catalog
        .rows()
        .find(&Query::all().last_written_first().limit(wanted.min(1_000_000)))
        .map_err(Error::from)?;
    all.retain(|e| !arguments.refused || e.status >= 400);
    all.truncate(arguments.last as usize);
    context.print(&all, || {
        table(&["TIME", "WHO", "ACTION", "STATUS", "SCOPE"], &all.iter().map(cells).collect::<Vec<_>>())
    })?;
    Ok(Outcome::Done)
}

/// A page of the API, at most so many rows as it gives.
const PAGE_MAX: u32 = 1000;

struct Page {
    rows: Vec<AuditEntry>,
    cursor: Option<String>,
}

fn page(client: &Client, after: Option<&str>, most: u32) -> Result<Page> {
    let after = after.map_or_else(String::new, |cursor| format!("&after={cursor}"));
    let path = client.path(&format!("/providers/Strongroom.Backup/auditEvents?$top={most}{after}"));
    let mut answer = client.get(&path)?;
    let rows = serde_json::from_value(answer["value"].take())
        .map_err(|e| Error::new(ErrorKind::Failed, format!("the answer is no part of an audit: {e}")))?;
    Ok(Page { rows, cursor: answer["cursor"].as_str().map(str::to_owned) })
}

/// Through the API: page by page, in the order in which rows were written.
fn audit_of_service(arguments: &AuditArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    if arguments.follow && client.is_in_process() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "no service runs on the data directory: there is nothing to follow; leave --follow out to see what there is",
        )
        .into());
    }
    let is_wanted = |e: &AuditEntry| !arguments.refused || e.status >= 400;
    let Page { mut rows, mut cursor } = page(&client, None, arguments.last.min(PAGE_MAX))?;
    rows.retain(is_wanted);
    if !arguments.follow {
        rows.reverse();
        context.print(&rows, || {
            let rows: Vec<_> = rows.iter().map(cells).collect();
            table(&["TIME", "WHO", "ACTION", "STATUS", "SCOPE"], &rows)
        })?;
        return Ok(Outcome::Done);
    }
    loop {
        if !tell(&rows, context)? {
            return Ok(Outcome::Done);
        }
        let is_behind = rows.len() as u32 == PAGE_MAX;
        if !is_behind {
            client.pause()?;
        }
        // The very first row of an audit that was empty is after nothing.
        let found = page(&client, Some(cursor.as_deref().unwrap_or("oldest")), PAGE_MAX);
        let found = match found {
            Err(Failure::Api(error)) if error.code == "AuditCursorExpired" => {
                context.warn("some entries have gone to files meanwhile; going on with the oldest there is");
                page(&client, Some("oldest"), PAGE_MAX)?
            }
            found => found?,
        };
        rows = found.rows;
        rows.retain(is_wanted);
        cursor = found.cursor.or(cursor);
    }
}

/// Lines, as they come; whether anybody still reads them.
fn tell(rows: &[AuditEntry], context: &Context) -> Result<bool> {
    let mut text = String::new();
    for row in rows {
        match context.json {
            true => text += &serde_json::to_string(row).unwrap_or_default(),
            false => text += &cells(row).join("  "),
        }
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("writing to stdout", e).into()),
    }
}
