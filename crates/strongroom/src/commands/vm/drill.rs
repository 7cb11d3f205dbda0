//! Drills: a machine's point is booted in isolation, looked at, and thrown away.

use super::backup::no_job;
use crate::client::{Client, segment};
use crate::commands::common::{InVault, find_item, find_vault, needs_service, shown_time, text};
use crate::commands::jobs::{JobDocument, JobRef, outcome, wait};
use crate::commands::point::{PointDocument, ResultDocument, find_point};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::list;
use base64::Engine as _;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use strongroom_engine::{Error, ErrorKind};

#[derive(Debug, Args)]
#[command(after_help = "\
The point is started from the vault, over images that are thrown away, without networks, devices
or directories of the host. It has passed when its guest agent answered, or, if the machine had
none, when the screen of a booted system has settled; and when the check ended with 0. The
result is kept with the point (`strongroom point show`), with a picture of the screen.

Drills can happen by themselves: [[drills]] in the configuration.

Examples:
  strongroom vm drill web01
  strongroom vm drill db01 --check 'systemctl is-active postgresql' --screenshot db01.png
  strongroom vm drill web01 --point 2026-11-01 --timeout 300 --json
  strongroom vm drill web01 --show --screenshot web01.png")]
pub struct DrillArgs {
    /// The machine; GROUP/NAME where two groups have one of that name.
    machine: String,
    #[command(flatten)]
    vault: InVault,
    /// `latest`, a point's name, or a time: the last point taken at or before it.
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Run this in the guest, by its shell, through its agent; it has to end with 0.
    #[arg(long, value_name = "COMMAND", conflicts_with = "show")]
    check: Option<String>,
    /// How many seconds it may take until the machine has answered and its check is over [default: 600].
    #[arg(long, value_name = "SECONDS", conflicts_with = "show")]
    timeout: Option<u64>,
    /// Of a machine whose disks libvirt encrypted: what it writes in the drill may lie on them unencrypted until it is over.
    #[arg(long)]
    unencrypted: bool,
    /// Write the picture of the screen to this file (PNG), which must not exist.
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// Only show how the point's last drill came out.
    #[arg(long)]
    show: bool,
    /// Do not wait: the job's id is printed.
    #[arg(long, conflicts_with_all = ["screenshot", "show"])]
    no_wait: bool,
}

#[derive(Serialize)]
struct DrillDocument {
    point: PointDocument,
    /// Null with --show.
    job: Option<JobDocument>,
    /// Null while there is none.
    drill: Option<ResultDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    screenshot: Option<PathBuf>,
}

pub fn drill(arguments: &DrillArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    if arguments.no_wait && client.is_in_process() {
        return Err(needs_service("--no-wait"));
    }
    // Before it takes minutes.
    let picture = arguments.screenshot.as_deref().map(NewFile::create).transpose()?;
    let vault = find_vault(&client, &arguments.vault)?;
    let item = find_item(&client, &vault, &arguments.machine)?;
    let point = find_point(&client, &item, &arguments.point)?;
    let name = text(&point, "/name");
    let path = format!("{}/recoveryPoints/{}/providers/Strongroom.Backup/drill", item.path, segment(&name));
    let mut done = Vec::new();
    if !arguments.show {
        client.run_jobs()?;
        let mut properties = json!({});
        if let Some(check) = &arguments.check {
            properties["check"] = check.as_str().into();
        }
        if let Some(timeout) = arguments.timeout {
            properties["timeoutSeconds"] = timeout.into();
        }
        if arguments.unencrypted {
            properties["unencrypted"] = true.into();
        }
        let answer = client.post(&path, Some(&json!({ "properties": properties })))?;
        let id = client.follow(&answer)?.ok_or_else(no_job)?;
        let job = JobRef { vault: vault.path.clone(), id };
        done = match arguments.no_wait {
            true => vec![job.look(&client)?],
            false => wait(&client, context, &[job])?,
        };
    }
    let job = done.first().cloned();
    let wants_result = arguments.show || job.as_ref().is_some_and(JobDocument::is_over);
    let found = match wants_result {
        false => Value::Null,
        // The picture shows what is inside the machine: who may not see that still sees how it came out.
        true => match client.get(&if picture.is_some() { path + "?$expand=screenshot" } else { path }) {
            Ok(found) => found,
            // Of a job that failed before there was anything to see.
            Err(error) if error.has_status(404) && !arguments.show => Value::Null,
            Err(error) => return Err(error),
        },
    };
    // That of this job, not of one before.
    let result = ResultDocument::of(&found).filter(|r| job.as_ref().is_none_or(|j| j.job == r.job));
    let screenshot = match (picture, result.as_ref().is_some_and(|r| r.has_screenshot)) {
        (Some(file), true) => Some(file.write(&found)?),
        (Some(_), false) => {
            context.warn("there is no picture of the screen");
            None
        }
        (None, _) => None,
    };
    let point = PointDocument::of(&point, &vault, &item.name);
    let document = DrillDocument { point, job, drill: result, screenshot };
    context.print(&document, || shown(&document))?;
    Ok(outcome(&done, context))
}

fn shown(document: &DrillDocument) -> String {
    let mut entries = document.job.as_ref().map(JobDocument::entries).unwrap_or_default();
    entries.push(("point", document.point.point.clone()));
    entries.push(("taken", shown_time(document.point.taken_at)));
    if let Some(drill) = &document.drill {
        entries.push(("drill", drill.shown()));
        if let Some(check) = &drill.check {
            let code = check["exitCode"].as_i64().map_or_else(|| "by a signal".to_owned(), |c| c.to_string());
            entries.push(("check ended", code));
            for (name, pointer) in [("check output", "/stdout"), ("check errors", "/stderr")] {
                let said = text(check, pointer);
                if !said.trim().is_empty() {
                    entries.push((name, said.trim_end().to_owned()));
                }
            }
        }
    }
    if let Some(path) = &document.screenshot {
        entries.push(("screenshot", path.display().to_string()));
    }
    list(&entries)
}

/// A file that is made first and filled later; it goes again if it stays empty.
struct NewFile {
    path: PathBuf,
    file: File,
    is_filled: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Error::io(format!("making {}", path.display()), e))?;
        Ok(Self { path: path.to_owned(), file, is_filled: false })
    }

    fn write(mut self, found: &Value) -> Result<PathBuf> {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text(found, "/screenshot"))
            .map_err(|e| Error::new(ErrorKind::Failed, format!("the picture is not understood: {e}")))?;
        self.file.write_all(&bytes).map_err(|e| Error::io(format!("writing {}", self.path.display()), e))?;
        self.is_filled = true;
        Ok(self.path.clone())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_filled {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
