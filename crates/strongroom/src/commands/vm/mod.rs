//! `strongroom vm`: machines and their protection by the service.

mod backup;
pub mod drill;
mod protect;
mod protection;
mod restore;
pub mod untrack;
use super::common::{self, Item, Machine, Vault, or_dash, some_text, text};
use crate::client::{Client, ServiceArgs, part_of_id};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{table, time};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use protection::ProtectionDocument;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List machines, how they are protected, and when each was backed up last.
    List(ListArgs),
    /// Protect machines by a policy, or give them another policy or other disks.
    Protect(protect::ProtectArgs),
    /// Back up machines now.
    Backup(backup::BackupArgs),
    /// Restore a machine's point: as a new machine, or its disks alone.
    Restore(restore::RestoreArgs),
    /// Prove that a machine's point can be restored: boot it in isolation, look at it, throw it away.
    Drill(drill::DrillArgs),
    /// Stop protecting machines, and keep their points.
    Stop(protect::StopArgs),
    /// Protect machines again whose protection is stopped.
    Resume(protect::ResumeArgs),
    /// Stop protecting machines, and delete their points.
    Delete(protect::DeleteArgs),
    /// Bring back what was deleted.
    Undelete(protect::UndeleteArgs),
    /// Take away what backups leave in machines to follow their changes.
    Untrack(untrack::UntrackArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Machines of all hosts appear by themselves. A deleted one is listed as long as a vault has
points of it.

Examples:
  strongroom vm list
  strongroom vm list --unprotected
  strongroom vm list --json | jq -r '.machines[] | select(.last_point == null) | .name'")]
pub struct ListArgs {
    /// Protected in this vault alone.
    #[arg(long, value_name = "NAME")]
    vault: Option<String>,
    /// Of this resource group alone.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// With this in their name alone.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Those that no vault protects.
    #[arg(long, conflicts_with = "vault")]
    unprotected: bool,
    /// Look at the hosts first.
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

pub fn run(command: VmCommand, context: &Context) -> Result<Outcome> {
    match command {
        VmCommand::List(arguments) => run_list(&arguments, context),
        VmCommand::Protect(arguments) => protect::protect(&arguments, context),
        VmCommand::Backup(arguments) => backup::backup(&arguments, context),
        VmCommand::Restore(arguments) => restore::restore(&arguments, context),
        VmCommand::Drill(arguments) => drill::drill(&arguments, context),
        VmCommand::Stop(arguments) => protect::stop(&arguments, context),
        VmCommand::Resume(arguments) => protect::resume(&arguments, context),
        VmCommand::Delete(arguments) => protect::delete(&arguments, context),
        VmCommand::Undelete(arguments) => protect::undelete(&arguments, context),
        VmCommand::Untrack(arguments) => untrack::untrack(&arguments, context),
    }
}

#[derive(Serialize)]
struct MachineDocument {
    name: String,
    resource_group: String,
    location: String,
    /// Null of a machine that is gone.
    power: Option<String>,
    /// Azure's words: Ready, Not Ready.
    agent: Option<String>,
    disks: Vec<DiskDocument>,
    vault: Option<String>,
    state: String,
    policy: Option<String>,
    last_backup_status: Option<String>,
    last_backup_at: Option<Timestamp>,
    last_point: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    id: String,
}

#[derive(Serialize)]
struct DiskDocument {
    lun: i64,
    name: String,
    /// Rounded up.
    size_gib: u64,
    /// Why backups lack it, unless it is excluded from them.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_backed_up: Option<String>,
}

fn power(machine: &Machine) -> String {
    let statuses = machine.document["properties"]["instanceView"]["statuses"].as_array();
    let code = |s: &Value| text(s, "/code").strip_prefix("PowerState/").map(str::to_owned);
    let found = statuses.into_iter().flatten().find_map(code);
    match found.as_deref() {
        Some("deallocated") => "off".into(),
        Some(other) => other.to_owned(),
        None => "unknown".into(),
    }
}

fn disks(machine: &Machine, item: Option<&Value>) -> Vec<DiskDocument> {
    let missed: HashMap<String, String> = machine.not_backed_up(item).into_iter().collect();
    let disk = |(lun, name): (i64, String)| DiskDocument {
        lun,
        size_gib: machine.disk_gib(lun),
        not_backed_up: missed.get(&name).cloned(),
        name,
    };
    machine.disks().into_iter().map(disk).collect()
}

fn row(machine: Option<&Machine>, item: Option<(&Item, &Vault)>) -> MachineDocument {
    let protection = item.map(|(item, vault)| ProtectionDocument::of(item, vault));
    let of_item = |pointer: &str| item.map(|(i, _)| text(&i.document, pointer)).unwrap_or_default();
    MachineDocument {
        name: machine
            .map_or_else(|| item.map(|(i, _)| i.name.clone()).unwrap_or_default(), |m| m.name.clone()),
        resource_group: machine
            .map_or_else(|| item.map(|(i, _)| i.group.clone()).unwrap_or_default(), |m| m.group.clone()),
        location: match (machine, item) {
            (Some(machine), _) => text(&machine.document, "/location"),
            (None, Some((_, vault))) => text(&vault.document, "/location"),
            (None, None) => String::new(),
        },
        power: machine.map(power),
        agent: machine.and_then(|m| {
            some_text(&m.document, "/properties/instanceView/vmAgent/statuses/0/displayStatus")
        }),
        disks: machine.map(|m| disks(m, item.map(|(i, _)| &i.document))).unwrap_or_default(),
        id: machine.map_or_else(|| of_item("/properties/virtualMachineId"), |m| m.id.clone()),
        vault: protection.as_ref().map(|p| p.vault.clone()),
        state: protection.as_ref().map_or_else(|| "NotProtected".into(), |p| p.state.clone()),
        policy: protection.as_ref().and_then(|p| p.policy.clone()),
        last_backup_status: protection.as_ref().and_then(|p| p.last_backup_status.clone()),
        last_backup_at: protection.as_ref().and_then(|p| p.last_backup_at),
        last_point: protection.as_ref().and_then(|p| p.last_point),
        problem: protection.and_then(|p| p.problem),
    }
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    match arguments.refresh {
        true => client.discover()?,
        false => client.discover_if_alone()?,
    }
    let found = list(&client, arguments)?;
    let problems = host_problems(&client)?;
    context.print(&json!({ "machines": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|m| {
                vec![
                    m.name.clone(),
                    m.resource_group.clone(),
                    m.power.clone().unwrap_or_else(|| "gone".into()),
                    or_dash(agent(m).to_owned()),
                    format!("{} ({} GiB)", m.disks.len(), m.disks.iter().map(|d| d.size_gib).sum::<u64>()),
                    state(m).to_owned(),
                    or_dash(m.vault.clone().unwrap_or_default()),
                    or_dash(m.policy.clone().unwrap_or_default()),
                    m.last_point.map_or_else(|| "never".into(), time),
                    or_dash(m.last_backup_status.clone().unwrap_or_default()),
                ]
            })
            .collect();
        table(
            &[
                "NAME",
                "GROUP",
                "POWER",
                "AGENT",
                "DISKS",
                "PROTECTION",
                "VAULT",
                "POLICY",
                "LAST POINT",
                "LAST BACKUP",
            ],
            &rows,
        )
    })?;
    for problem in problems {
        context.warn(problem);
    }
    for machine in found.iter().filter(|m| matches!(m.state.as_str(), "Protected" | "IRPending")) {
        for disk in &machine.disks {
            if let Some(why) = &disk.not_backed_up {
                context.warn(protect::not_backed_up(&machine.name, &disk.name, why));
            }
        }
    }
    if found.is_empty() && !context.json {
        context.note("no machines");
    }
    Ok(Outcome::Done)
}

fn agent(machine: &MachineDocument) -> &str {
    match (machine.power.as_deref(), machine.agent.as_deref()) {
        (Some("running"), Some("Ready")) => "on",
        (Some("running"), Some("No channel")) => "no channel",
        (Some("running"), Some("Not Ready")) => "off",
        _ => "",
    }
}

fn state(machine: &MachineDocument) -> &str {
    match machine.state.as_str() {
        "NotProtected" => "none",
        "IRPending" => "first backup pending",
        "Protected" => "protected",
        "ProtectionStopped" => "stopped",
        "BackupsSuspended" => "suspended",
        "Deleted" => "deleted",
        other => other,
    }
}

/// Machines with their items, and items whose machines are gone.
fn list(client: &Client, arguments: &ListArgs) -> Result<Vec<MachineDocument>> {
    let mut vaults = common::vaults(client, None)?;
    let mut items: HashMap<String, Vec<(Item, usize)>> = HashMap::new();
    if let Some(name) = &arguments.vault {
        vaults.retain(|v| v.name.eq_ignore_ascii_case(name));
        if vaults.is_empty() {
            let message = format!("there is no vault `{name}`; see `strongroom vault list`");
            return Err(strongroom_engine::Error::not_found(message).into());
        }
    }
    for (at, vault) in vaults.iter().enumerate() {
        for item in common::items(client, vault)? {
            let machine = text(&item.document, "/properties/virtualMachineId").to_lowercase();
            items.entry(machine).or_default().push((item, at));
        }
    }
    let mut rows = Vec::new();
    for machine in common::machines(client)? {
        match items.remove(&machine.id.to_lowercase()) {
            Some(of_machine) => {
                rows.extend(
                    of_machine.iter().map(|(item, at)| row(Some(&machine), Some((item, &vaults[*at])))),
                );
            }
            None if arguments.vault.is_none() => rows.push(row(Some(&machine), None)),
            None => {}
        }
    }
    for (item, at) in items.into_values().flatten() {
        rows.push(row(None, Some((&item, &vaults[at]))));
    }
    rows.retain(|r| {
        let in_group =
            |g: &String| part_of_id(&r.id, "resourceGroups").unwrap_or_default().eq_ignore_ascii_case(g);
        arguments.group.as_ref().is_none_or(in_group)
            && (!arguments.unprotected || r.vault.is_none())
            && arguments.name.as_ref().is_none_or(|n| r.name.to_lowercase().contains(&n.to_lowercase()))
    });
    rows.sort_by(|a, b| (&a.name, &a.resource_group, &a.vault).cmp(&(&b.name, &b.resource_group, &b.vault)));
    Ok(rows)
}

/// Hosts that could not be looked at: their machines may be missing, or be otherwise by now.
fn host_problems(client: &Client) -> Result<Vec<String>> {
    let hosts = match client.list(&client.path("/providers/Strongroom.Backup/hosts"), None) {
        Ok(hosts) => hosts,
        Err(error) if error.has_status(403) => Vec::new(),
        Err(error) => return Err(error),
    };
    let problem = |h: &Value| {
        some_text(h, "/properties/problem")
            .map(|p| format!("host {} could not be looked at: {p}", text(h, "/name")))
    };
    Ok(hosts.iter().filter_map(problem).collect())
}
