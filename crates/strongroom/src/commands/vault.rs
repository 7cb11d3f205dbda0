//! `strongroom vault`: Recovery Services vaults of the service.

use super::common::{self, Vault, find_vault, home, some_text, text, vault_path};
use crate::client::{Client, ServiceArgs, of_id, part_of_id, segment};
use crate::context::{Context, Outcome};
use crate::failure::{Failure, Result};
use crate::text::{list, size, table};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use strongroom_engine::{Error, ErrorKind};

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault, with its default policies.
    Create(CreateArgs),
    /// List vaults.
    List(ListArgs),
    /// Show a vault, its settings and what it holds.
    Show(ShowArgs),
    /// Delete a vault that protects nothing.
    Delete(DeleteArgs),
    /// Bring back a deleted vault that held deleted machines' points.
    Undelete(UndeleteArgs),
    /// Take in a vault that is there, from its location and key, with all its points.
    Import(ImportArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Redundancy {
    /// One copy.
    Local,
    /// Recorded only: no second copy is made yet.
    Zone,
    /// Recorded only: no second copy is made yet.
    Geo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SoftDelete {
    On,
    Off,
    /// On, for good.
    AlwaysOn,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Its bytes go where the configuration says, else into the data directory; the key is kept by
the service, in DATA/keys. Keep a copy of it elsewhere: without it nothing in the vault can be
read.

Examples:
  strongroom vault create main
  strongroom vault create archive -g office --redundancy local --soft-delete always-on")]
pub struct CreateArgs {
    /// The vault's name: 2 to 50 letters, digits and hyphens, beginning with a letter.
    name: String,
    /// Its resource group, made if it is missing; default: the first host's.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// Its location: it protects machines of the same one; default: the first host's.
    #[arg(long, value_name = "LOCATION")]
    location: Option<String>,
    /// How many copies there should be.
    #[arg(long, value_enum)]
    redundancy: Option<Redundancy>,
    /// Whether what is deleted can be brought back for some days [default: on].
    #[arg(long, value_enum)]
    soft_delete: Option<SoftDelete>,
    /// For how many days, from 14 to 180 [default: 14].
    #[arg(long, value_name = "DAYS")]
    soft_delete_days: Option<u32>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault list
  strongroom vault list -g office --json | jq -r '.vaults[].name'")]
pub struct ListArgs {
    /// Of this resource group alone.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

/// A vault by its name.
#[derive(Debug, Args)]
struct Named {
    /// The vault's name; may be left out where there is one.
    name: Option<String>,
    /// Its resource group, where two have vaults of one name.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

impl Named {
    fn find(&self, client: &Client) -> Result<Vault> {
        let args = common::InVault {
            vault: self.name.clone(),
            group: self.group.clone(),
            service: self.service.clone(),
        };
        find_vault(client, &args)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault show
  strongroom vault show main --json")]
pub struct ShowArgs {
    #[command(flatten)]
    vault: Named,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A vault that still protects machines, or keeps points of them, is not deleted: see `strongroom
vm delete`. One that holds only what was deleted can be brought back as long as that could be.

Example:
  strongroom vault delete main")]
pub struct DeleteArgs {
    /// The vault's name.
    name: String,
    /// Its resource group, where two have vaults of one name.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom vault undelete main")]
pub struct UndeleteArgs {
    /// The vault's name.
    name: String,
    /// The resource group that it was of, where two had vaults of one name.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// Its location; default: the first host's.
    #[arg(long, value_name = "LOCATION")]
    location: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
For a vault whose catalog was lost, or that another service made. It comes back with its
settings and policies, and all machines that it holds, protected, stopped or deleted as they
were, with their points, each for as long as it was promised. Where the vault does not say by
what a machine's points are to go, all of them are kept until somebody resumes its protection
(`strongroom vm resume`). What could not be read is told.

Examples:
  strongroom vault import /srv/backup/vault --name main
  strongroom vault import s3://backups/host1 --name host1 --key-file /root/host1.key")]
pub struct ImportArgs {
    /// Where its bytes are: a directory or s3://bucket/prefix, as the service's host sees it.
    #[arg(value_name = "LOCATION")]
    store: String,
    /// What the vault is called here.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The vault's key; without it the key is looked for in the service's own keyring.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Its resource group, made if it is missing; default: the first host's.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// Its location: it protects machines of the same one; default: the first host's.
    #[arg(long, value_name = "LOCATION")]
    location: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

pub fn run(command: VaultCommand, context: &Context) -> Result<Outcome> {
    match command {
        VaultCommand::Create(arguments) => create(&arguments, context),
        VaultCommand::List(arguments) => run_list(&arguments, context),
        VaultCommand::Show(arguments) => show(&arguments, context),
        VaultCommand::Delete(arguments) => delete(&arguments, context),
        VaultCommand::Undelete(arguments) => undelete(&arguments, context),
        VaultCommand::Import(arguments) => import(&arguments, context),
    }
}

#[derive(Serialize)]
struct VaultDocument {
    name: String,
    resource_group: String,
    location: String,
    redundancy: String,
    soft_delete: String,
    soft_delete_days: u64,
    immutability: String,
    id: String,
}

fn document(vault: &Vault) -> VaultDocument {
    let security = |rest: &str| text(&vault.document, &format!("/properties/securitySettings/{rest}"));
    VaultDocument {
        name: vault.name.clone(),
        resource_group: vault.group.clone(),
        location: text(&vault.document, "/location"),
        redundancy: text(&vault.document, "/properties/redundancySettings/standardTierStorageRedundancy"),
        soft_delete: security("softDeleteSettings/softDeleteState"),
        soft_delete_days: vault
            .document
            .pointer("/properties/securitySettings/softDeleteSettings/softDeleteRetentionPeriodInDays")
            .and_then(Value::as_u64)
            .unwrap_or(0),
        immutability: security("immutabilitySettings/state"),
        id: text(&vault.document, "/id"),
    }
}

fn entries(document: &VaultDocument) -> Vec<(&'static str, String)> {
    vec![
        ("vault", document.name.clone()),
        ("group", document.resource_group.clone()),
        ("location", document.location.clone()),
        ("redundancy", document.redundancy.clone()),
        (
            "soft delete",
            match document.soft_delete.as_str() {
                "Disabled" => "off".into(),
                state => format!("{}, {} days", state.to_lowercase(), document.soft_delete_days),
            },
        ),
        ("immutability", document.immutability.to_lowercase()),
    ]
}

/// The group that is named, or the default one, made if it is missing; and the location.
fn place(client: &Client, group: Option<&str>, location: Option<&str>) -> Result<(String, String)> {
    let (default_group, default_location) = home(client)?;
    let group = group.map_or(default_group, str::to_owned);
    let location = location.map_or(default_location, str::to_owned);
    match client.get(&client.group_path(&group, "")) {
        Ok(_) => {}
        Err(error) if error.has_status(404) => {
            client.put(&client.group_path(&group, ""), &json!({ "location": location }))?;
        }
        Err(error) => return Err(error),
    }
    Ok((group, location))
}

fn create(arguments: &CreateArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let (group, location) = place(&client, arguments.group.as_deref(), arguments.location.as_deref())?;
    let path = vault_path(&client, &group, &arguments.name);
    match client.get(&path) {
        Ok(_) => {
            let message = format!("there is a vault `{}` in group {group} already", arguments.name);
            return Err(Error::already_exists(message).into());
        }
        Err(error) if error.has_status(404) => {}
        Err(error) => return Err(error),
    }
    let mut properties = json!({});
    if let Some(redundancy) = arguments.redundancy {
        properties["redundancySettings"]["standardTierStorageRedundancy"] = match redundancy {
            Redundancy::Local => "LocallyRedundant",
            Redundancy::Zone => "ZoneRedundant",
            Redundancy::Geo => "GeoRedundant",
        }
        .into();
    }
    let soft = &mut properties["securitySettings"]["softDeleteSettings"];
    if let Some(state) = arguments.soft_delete {
        soft["softDeleteState"] = match state {
            SoftDelete::On => "Enabled",
            SoftDelete::Off => "Disabled",
            SoftDelete::AlwaysOn => "AlwaysON",
        }
        .into();
    }
    if let Some(days) = arguments.soft_delete_days {
        soft["softDeleteRetentionPeriodInDays"] = days.into();
    }
    if soft.is_null() {
        properties.as_object_mut().map(|p| p.remove("securitySettings"));
    }
    let answer = client.put(
        &path,
        &json!({ "location": location, "sku": { "name": "Standard" }, "properties": properties }),
    )?;
    client.follow(&answer)?;
    let made = Vault::of(client.get(&path)?);
    let shown = document(&made);
    context.print(&shown, || list(&entries(&shown)))?;
    if shown.redundancy != "LocallyRedundant" {
        context.note("no second copy is made yet: the redundancy is recorded only");
    }
    Ok(Outcome::Done)
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let found: Vec<VaultDocument> =
        common::vaults(&client, arguments.group.as_deref())?.iter().map(document).collect();
    context.print(&json!({ "vaults": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|v| {
                vec![
                    v.name.clone(),
                    v.resource_group.clone(),
                    v.location.clone(),
                    v.redundancy.clone(),
                    v.soft_delete.to_lowercase(),
                ]
            })
            .collect();
        table(&["NAME", "GROUP", "LOCATION", "REDUNDANCY", "SOFT DELETE"], &rows)
    })?;
    if found.is_empty() && !context.json {
        context.note("no vaults; make one with `strongroom vault create NAME`");
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct ShowDocument {
    #[serde(flatten)]
    vault: VaultDocument,
    items: usize,
    deleted_items: usize,
    store: Option<StoreDocument>,
}

#[derive(Serialize)]
struct StoreDocument {
    location: String,
    id: String,
    stored_bytes: u64,
    recovery_points: u64,
    second_copy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaimed_at: Option<String>,
}

fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = arguments.vault.find(&client)?;
    let items = common::items(&client, &vault)?;
    let deleted = items.iter().filter(|i| i.is_deleted()).count();
    // A store that cannot be reached hides nothing else.
    let store = match client.get(&vault.at("/providers/Strongroom.Backup/store")) {
        Ok(store) => Some(StoreDocument {
            location: text(&store, "/location"),
            id: text(&store, "/storeId"),
            stored_bytes: store["storedBytes"].as_u64().unwrap_or(0),
            recovery_points: store["recoveryPoints"].as_u64().unwrap_or(0),
            second_copy: text(&store, "/secondCopy"),
            reclaimed_at: some_text(&store, "/reclaimedAt"),
        }),
        Err(error @ Failure::Api(_)) => {
            let Failure::Api(error) = error else { return Err(error) };
            context.warn(format_args!("where its bytes are could not be looked at: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let shown =
        ShowDocument { vault: document(&vault), items: items.len() - deleted, deleted_items: deleted, store };
    context.print(&shown, || {
        let mut entries = entries(&shown.vault);
        entries.push(("machines", shown.items.to_string()));
        if shown.deleted_items > 0 {
            entries.push(("deleted", format!("{} can be brought back", shown.deleted_items)));
        }
        if let Some(store) = &shown.store {
            entries.extend([
                ("points", store.recovery_points.to_string()),
                ("stored", size(store.stored_bytes)),
                ("bytes at", store.location.clone()),
                ("second copy", store.second_copy.clone()),
            ]);
        }
        list(&entries)
    })?;
    Ok(Outcome::Done)
}

fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let args = common::InVault {
        vault: Some(arguments.name.clone()),
        group: arguments.group.clone(),
        service: arguments.service.clone(),
    };
    let vault = find_vault(&client, &args)?;
    client.follow(&client.delete(&vault.path)?)?;
    let shown = json!({ "deleted": vault.name, "resource_group": vault.group });
    context.print(&shown, || format!("deleted: vault {} of group {}\n", vault.name, vault.group))?;
    Ok(Outcome::Done)
}

fn undelete(arguments: &UndeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let location = match &arguments.location {
        Some(location) => location.clone(),
        None => home(&client)?.1,
    };
    let of_location =
        format!("/providers/Microsoft.RecoveryServices/locations/{}/deletedVaults", segment(&location));
    let mut found = client.list(&client.path(&of_location), None)?;
    found.retain(|deleted| {
        let id = text(deleted, "/properties/vaultId");
        let is = |part: &str, wanted: &str| {
            part_of_id(&id, part).is_some_and(|found| found.eq_ignore_ascii_case(wanted))
        };
        is("vaults", &arguments.name)
            && arguments.group.as_ref().is_none_or(|group| is("resourceGroups", group))
    });
    let deleted = match found.as_slice() {
        [one] => one,
        [] => {
            let message = format!("there is no deleted vault `{}` in location {location}", arguments.name);
            return Err(Error::not_found(message).into());
        }
        _ => {
            let message =
                format!("there are several deleted vaults `{}`: choose a group with -g", arguments.name);
            return Err(Error::invalid(message).into());
        }
    };
    let path = format!("{}/undelete", of_id(&text(deleted, "/id")));
    client.follow(&client.post(&path, Some(&json!({})))?)?;
    let back = Vault::of(client.get(&of_id(&text(deleted, "/properties/vaultId")))?);
    let shown = document(&back);
    context.print(&shown, || list(&entries(&shown)))?;
    Ok(Outcome::Done)
}

fn import(arguments: &ImportArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let (group, location) = place(&client, arguments.group.as_deref(), arguments.location.as_deref())?;
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path).map_err(|e| Error::io(format!("looking at {}", path.display()), e))
    };
    // The service is somewhere else on this host.
    let store = match arguments.store.contains("://") {
        true => arguments.store.clone(),
        false => absolute(arguments.store.as_ref())?
            .to_str()
            .ok_or_else(|| Error::invalid("the location is not UTF-8"))?
            .to_owned(),
    };
    let mut body = json!({ "name": arguments.name, "store": store, "location": location });
    if let Some(path) = &arguments.key_file {
        let path = absolute(path)?;
        let path = path.to_str().ok_or_else(|| Error::invalid("the key file's path is not UTF-8"))?;
        body["keyFile"] = path.into();
    }
    let answer =
        client.post(&client.group_path(&group, "/providers/Strongroom.Backup/importVault"), Some(&body))?;
    let answer = answer.body;
    let vault = Vault::of(answer["vault"].clone());
    if vault.name.is_empty() {
        return Err(Error::new(ErrorKind::Failed, "the service did not say what it took in").into());
    }
    let passed_over: Vec<String> =
        answer["passedOver"].as_array().into_iter().flatten().map(|p| text(p, "")).collect();
    for one in &passed_over {
        context.warn(format_args!("passed over: {one}"));
    }
    let count = |name: &str| answer[name].as_u64().unwrap_or(0);
    let shown = json!({
        "vault": document(&vault),
        "machines": count("items"),
        "recovery_points": count("recoveryPoints"),
        "policies": count("policies"),
        "settings": answer["settings"] == true,
        "stopped": count("stopped"),
        "passed_over": passed_over,
    });
    context.print(&shown, || {
        let mut entries = entries(&document(&vault));
        entries.push(("machines", count("items").to_string()));
        entries.push(("points", count("recoveryPoints").to_string()));
        entries.push(("policies", count("policies").to_string()));
        let found = if answer["settings"] == true { "as they were" } else { "the default ones" };
        entries.push(("settings", found.into()));
        list(&entries)
    })?;
    if count("stopped") > 0 {
        context.note(format_args!(
            "protection of {} of its machines is stopped, and all their points are kept: `strongroom vm resume` begins it again",
            count("stopped")
        ));
    }
    Ok(Outcome::Done)
}
