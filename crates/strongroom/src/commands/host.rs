//! `strongroom host`: the hosts whose machines are protected, and where can be restored to.

use super::common::{shown_time, some_time, text};
use crate::client::{Client, ServiceArgs, part_of_id};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::table;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List the hosts, and how they were when last looked at.
    List(HostArgs),
    /// List the places that disks can be restored to.
    Places(HostArgs),
    /// List the networks that restored machines can be connected to.
    Networks(HostArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host list
  strongroom host places --json
  strongroom host networks")]
pub struct HostArgs {
    #[command(flatten)]
    service: ServiceArgs,
}

pub fn run(command: HostCommand, context: &Context) -> Result<Outcome> {
    match command {
        HostCommand::List(arguments) => hosts(&arguments, context),
        HostCommand::Places(arguments) => places(&arguments, context),
        HostCommand::Networks(arguments) => networks(&arguments, context),
    }
}

fn hosts(arguments: &HostArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    client.discover_if_alone()?;
    let found = client.list(&client.path("/providers/Strongroom.Backup/hosts"), None)?;
    let shown: Vec<Value> = found
        .iter()
        .map(|h| {
            json!({
                "name": h["name"], "location": h["location"],
                "resource_group": h["properties"]["resourceGroup"],
                "machines": h["properties"]["machines"],
                "last_seen": some_time(h, "/properties/lastSeen"),
                "problem": h["properties"]["problem"],
            })
        })
        .collect();
    context.print(&json!({ "hosts": shown }), || {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|h| {
                vec![
                    text(h, "/name"),
                    text(h, "/resource_group"),
                    text(h, "/location"),
                    h["machines"].as_u64().map_or_else(|| "?".into(), |n| n.to_string()),
                    shown_time(some_time(h, "/last_seen")),
                    text(h, "/problem"),
                ]
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        table(&["NAME", "GROUP", "LOCATION", ">MACHINES", "LAST SEEN", "PROBLEM"], &rows)
    })?;
    if shown.is_empty() && !context.json {
        context.note("no hosts in the configuration");
    }
    Ok(Outcome::Done)
}

fn group_of(document: &Value) -> String {
    part_of_id(&text(document, "/id"), "resourceGroups").unwrap_or_default().to_owned()
}

fn places(arguments: &HostArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let found = client.list(&client.path("/providers/Microsoft.Storage/storageAccounts"), None)?;
    let shown: Vec<Value> = found
        .iter()
        .map(|p| {
            json!({
                "name": p["name"], "resource_group": group_of(p), "location": p["location"],
                "path": p["tags"]["path"], "kind": p["tags"]["kind"],
            })
        })
        .collect();
    context.print(&json!({ "places": shown }), || {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|p| {
                ["name", "resource_group", "location", "kind", "path"]
                    .map(|n| text(p, &format!("/{n}")))
                    .into()
            })
            .collect();
        if rows.is_empty() {
            String::new()
        } else {
            table(&["NAME", "GROUP", "LOCATION", "KIND", "PATH"], &rows)
        }
    })?;
    if shown.is_empty() && !context.json {
        context.note("no places: add restore_directories or storage_accounts to the configuration, or a storage pool to libvirt");
    }
    Ok(Outcome::Done)
}

fn networks(arguments: &HostArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let found = client.list(&client.path("/providers/Microsoft.Network/virtualNetworks"), None)?;
    let shown: Vec<Value> = found
        .iter()
        .map(|n| {
            json!({
                "name": n["name"], "resource_group": group_of(n), "location": n["location"],
                "host": n["tags"]["host"], "active": text(n, "/tags/active") == "true",
            })
        })
        .collect();
    context.print(&json!({ "networks": shown }), || {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|n| {
                let active = if n["active"] == true { "yes" } else { "no" };
                vec![text(n, "/name"), text(n, "/resource_group"), text(n, "/host"), active.into()]
            })
            .collect();
        if rows.is_empty() { String::new() } else { table(&["NAME", "GROUP", "HOST", "ACTIVE"], &rows) }
    })?;
    if shown.is_empty() && !context.json {
        context.note("no networks");
    }
    Ok(Outcome::Done)
}
