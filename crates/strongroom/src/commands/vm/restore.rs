//! Restoring a machine's point: as a new machine, its disks alone, or in place of the machine's disks.

use super::backup::no_job;
use crate::client::{Client, part_of_id};
use crate::commands::common::{InVault, Item, find_item, find_vault, needs_service, shown_time, text};
use crate::commands::image::ToFormat;
use crate::commands::jobs::{JobDocument, JobRef, outcome, wait};
use crate::commands::point::{PointDocument, find_point};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, shell_word};
use clap::{ArgGroup, Args};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom_engine::{Error, machine};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["new_name", "disks_to", "replace"]))]
#[command(after_help = "\
The new machine has a UUID and MAC addresses of its own, and is not started. Its disks go to
--place, else to where the machine's disks were. What exists is never overwritten. With
--to the disks become files of a new directory in that place, with the machine's definition
beside them; in a storage pool of libvirt they become its volumes, in a container of a storage
account (Azure Blob Storage, S3) objects, qcow2 unless something else is said. With --replace they take the
place of the machine's own disks, which must be stopped: what it has now is backed up first, and only
what differs is written.

With --instant the new machine is started at once: it runs from the vault, over disks that hold
what it writes, while all its data is moved in behind it, until it needs the vault no longer. Its
disks are qcow2. If the service stops meanwhile the machine waits for it, two minutes by itself,
then paused, and nothing is lost. `strongroom job cancel` throws it away, with all that was
written in it. Where no service runs this command moves the data: Ctrl-C lets go of the machine,
and `strongroom job watch` goes on.

Without the service a point is restored by `strongroom rescue vm restore`.

Examples:
  strongroom vm restore web01 --as web01-restored
  strongroom vm restore web01 --point 2026-11-21T20:30 --as test --place default --network lan
  strongroom vm restore web01 --instant --as web01-now
  strongroom vm restore web01 --point latest --to restores --disk vdb
  strongroom vm restore web01 --to default --format vhd
  strongroom vm restore web01 --to offsite
  strongroom vm restore web01 --point 2026-11-21T20:30 --replace")]
pub struct RestoreArgs {
    /// The machine; GROUP/NAME where two groups have one of that name.
    machine: String,
    #[command(flatten)]
    vault: InVault,
    /// `latest`, a point's name, or a time: the last point taken at or before it.
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Make a new machine of this name.
    #[arg(long = "as", value_name = "NEW_NAME")]
    new_name: Option<String>,
    /// Restore the disks alone, to this place (see `strongroom host places`).
    #[arg(long, visible_alias = "to", value_name = "PLACE")]
    disks_to: Option<String>,
    /// What restored disks are: qcow2, raw or vhd (fixed); default: the place's, else as each disk was, in a container qcow2.
    #[arg(long, value_enum, requires = "disks_to", conflicts_with_all = ["new_name", "replace", "instant"])]
    format: Option<ToFormat>,
    /// Put the point's disks in the place of the machine's own, which must be off.
    #[arg(long)]
    replace: bool,
    /// Where the machine's memory is saved (`virsh managedsave`): throw it away. Otherwise its disks are not replaced.
    #[arg(long, requires = "replace")]
    discard_saved_state: bool,
    /// The place the new machine's disks go to (see `strongroom host places`).
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["disks_to", "replace"])]
    place: Option<String>,
    /// Connect all its interfaces to this network (see `strongroom host networks`); default: as they were.
    #[arg(long, value_name = "NETWORK", conflicts_with_all = ["disks_to", "replace"])]
    network: Option<String>,
    /// The new machine's resource group; default: the machine's own.
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["disks_to", "replace"])]
    to_group: Option<String>,
    /// Start the new machine from the vault at once, and move its data in behind it.
    #[arg(long, requires = "new_name", conflicts_with_all = ["disks_to", "replace"])]
    instant: bool,
    /// Only this disk; may be given several times.
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<String>,
    /// Disks that libvirt encrypted may be restored without encryption. Otherwise a new machine's are encrypted
    /// with a new key, and other restores are refused.
    #[arg(long)]
    unencrypted: bool,
    /// Do not wait: the job's id is printed.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct RestoreDocument {
    point: PointDocument,
    job: JobDocument,
}

pub fn restore(arguments: &RestoreArgs, context: &Context) -> Result<Outcome> {
    if let Some(name) = &arguments.new_name {
        machine::check_name(name)?;
    }
    let client = Client::connect(&arguments.vault.service, context)?;
    if arguments.no_wait && client.is_in_process() {
        return Err(needs_service("--no-wait"));
    }
    let vault = find_vault(&client, &arguments.vault)?;
    let item = find_item(&client, &vault, &arguments.machine)?;
    let point = find_point(&client, &item, &arguments.point)?;
    client.run_jobs()?;
    let point = PointDocument::of(&point, &vault, &item.name);
    let properties = request(&client, arguments, &item, &vault.document, &point)?;
    let verb = if arguments.instant { "providers/Strongroom.Backup/instantRestore" } else { "restore" };
    let path = format!("{}/recoveryPoints/{}/{verb}", item.path, crate::client::segment(&point.point));
    let answer = client.post(&path, Some(&json!({ "properties": properties })))?;
    let id = client.follow(&answer)?.ok_or_else(no_job)?;
    let job = JobRef { vault: vault.path.clone(), id };
    let done = match arguments.no_wait {
        true => vec![job.look(&client)?],
        false => wait(&client, context, &[job])?,
    };
    for job in &done {
        let document = RestoreDocument { point: point.clone(), job: job.clone() };
        context.print(&document, || shown(&document))?;
    }
    let outcome = outcome(&done, context);
    if let (Some(name), true, Outcome::Done) =
        (&arguments.new_name, !arguments.no_wait && !arguments.instant, outcome)
    {
        context.note(format_args!("`virsh start {}` starts it", shell_word(name)));
    }
    Ok(outcome)
}

fn shown(document: &RestoreDocument) -> String {
    let mut entries = document.job.entries();
    entries.push(("point", document.point.point.clone()));
    entries.push(("taken", shown_time(document.point.taken_at)));
    for (name, value) in &document.job.details {
        entries.push((name.trim(), text(value, "")));
    }
    list(&entries)
}

/// The body, as Azure has it.
fn request(
    client: &Client,
    arguments: &RestoreArgs,
    item: &Item,
    vault: &Value,
    point: &PointDocument,
) -> Result<Value> {
    let mut p = json!({
        "objectType": "IaasVMRestoreRequest",
        "recoveryPointId": point.point,
        "sourceResourceId": text(&item.document, "/properties/virtualMachineId"),
        "region": text(vault, "/location"),
    });
    if arguments.unencrypted {
        p["unencrypted"] = true.into();
    }
    if !arguments.disks.is_empty() {
        p["restoreDiskLunList"] = luns(&arguments.disks, point)?.into();
    }
    if let Some(place) = &arguments.disks_to {
        p["recoveryType"] = "RestoreDisks".into();
        p["storageAccountId"] =
            find(client, place, "Microsoft.Storage/storageAccounts", "place", "places")?.into();
        if let Some(format) = arguments.format {
            p["diskFormat"] = format.name().into();
        }
        return Ok(p);
    }
    if arguments.replace {
        p["recoveryType"] = "OriginalLocation".into();
        if arguments.discard_saved_state {
            p["discardSavedState"] = true.into();
        }
        return Ok(p);
    }
    let name = arguments.new_name.as_deref().unwrap_or_default();
    let group = arguments.to_group.as_deref().unwrap_or(&item.group);
    p["recoveryType"] = "AlternateLocation".into();
    p["targetResourceGroupId"] = client.group_id(group).into();
    p["targetVirtualMachineId"] =
        format!("{}/providers/Microsoft.Compute/virtualMachines/{name}", client.group_id(group)).into();
    if let Some(place) = &arguments.place {
        p["storageAccountId"] =
            find(client, place, "Microsoft.Storage/storageAccounts", "place", "places")?.into();
    }
    if let Some(network) = &arguments.network {
        p["virtualNetworkId"] =
            find(client, network, "Microsoft.Network/virtualNetworks", "network", "networks")?.into();
    }
    Ok(p)
}

/// The id of a place or network by its name, or `GROUP/NAME`.
fn find(client: &Client, named: &str, kind: &str, what: &str, command: &str) -> Result<String> {
    let (group, name) = match named.split_once('/') {
        Some((group, name)) => (Some(group), name),
        None => (None, named),
    };
    let all = client.list(&client.path(&format!("/providers/{kind}")), None)?;
    let group_of = |id: &str| part_of_id(id, "resourceGroups").unwrap_or_default().to_owned();
    let found: Vec<String> = all
        .iter()
        .filter(|d| text(d, "/name").eq_ignore_ascii_case(name))
        .map(|d| text(d, "/id"))
        .filter(|id| group.is_none_or(|group| group_of(id).eq_ignore_ascii_case(group)))
        .collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let message = format!("there is no {what} `{named}`; see `strongroom host {command}`");
            Err(Error::not_found(message).into())
        }
        _ => {
            let groups: Vec<String> = found.iter().map(|id| format!("{}/{name}", group_of(id))).collect();
            let message = format!("there are several {command} `{named}`: say which ({})", groups.join(", "));
            Err(Error::invalid(message).into())
        }
    }
}

/// Disks by name, as the LUNs that the point itself gives them: the machine's of today may be others.
fn luns(wanted: &[String], point: &PointDocument) -> Result<Vec<i64>> {
    wanted
        .iter()
        .map(|named| {
            let by_name = point.disks.iter().find(|d| d.name == *named);
            let by_lun = || point.disks.iter().find(|d| named.parse() == Ok(d.lun));
            by_name.or_else(by_lun).map(|d| d.lun).ok_or_else(|| {
                let there: Vec<&str> = point.disks.iter().map(|d| d.name.as_str()).collect();
                let message = format!("the point has no disk `{named}`; it has: {}", there.join(", "));
                Error::not_found(message).into()
            })
        })
        .collect()
}
