//! Taking what backups leave in a machine out of it.

use crate::client::{Client, ServiceArgs, segment};
use crate::commands::common::{choose_machine, each, machines};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::table;
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
#[command(after_help = "\
To read only what changed, backups leave checkpoints in libvirt, bitmaps in qcow2 images and clones
beside raw disks. While they are there `virsh undefine` wants --checkpoints-metadata, and snapshots
within the images cannot be reverted to. This takes them away, of a machine that runs or is off; its
points stay, and its next backup reads everything once (only what changed is stored). `vm stop` and
`vm delete` do it by themselves.

Examples:
  strongroom vm untrack web01
  strongroom vm untrack web01 && virsh undefine web01")]
pub struct UntrackArgs {
    /// The machines; GROUP/NAME where two groups have one of a name.
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

/// What was taken out of a machine.
#[derive(Debug, Serialize)]
pub struct UntrackedDocument {
    pub machine: String,
    pub checkpoints: u64,
    pub warnings: Vec<String>,
}

pub fn untrack(arguments: &UntrackArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    client.discover_if_alone()?;
    let known = machines(&client)?;
    let (done, is_whole) = each(context, &arguments.names, |name| {
        let machine = choose_machine(&known, name)?;
        let path = format!(
            "{}/providers/Microsoft.Compute/virtualMachines/{}/providers/Strongroom.Backup/untrack",
            client.group_id(&machine.group),
            segment(&machine.name)
        );
        let answer = client.post(&path, None)?;
        Ok(UntrackedDocument {
            machine: machine.name.clone(),
            checkpoints: answer.body["checkpoints"].as_u64().unwrap_or_default(),
            warnings: serde_json::from_value(answer.body["warnings"].clone()).unwrap_or_default(),
        })
    })?;
    Ok(show(context, &done, is_whole)?)
}

pub fn show(
    context: &Context,
    done: &[UntrackedDocument],
    is_whole: bool,
) -> strongroom_engine::Result<Outcome> {
    for warning in done.iter().flat_map(|d| &d.warnings) {
        context.warn(format_args!("{warning}"));
    }
    context.print(&serde_json::json!({ "machines": done }), || {
        if done.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> =
            done.iter().map(|d| vec![d.machine.clone(), d.checkpoints.to_string()]).collect();
        table(&["MACHINE", "CHECKPOINTS REMOVED"], &rows)
    })?;
    let has_warnings = done.iter().any(|d| !d.warnings.is_empty());
    Ok(if is_whole && !has_warnings { Outcome::Done } else { Outcome::Damage })
}
