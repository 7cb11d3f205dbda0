//! `strongroom vault`: Recovery Services vaults of the service.

use super::common::{self, Vault, find_vault, home, shown_time, some_text, some_time, text, vault_path};
use crate::cli::parse_location;
use crate::client::{Client, ServiceArgs, of_id, part_of_id, segment};
use crate::context::{Context, Outcome};
use crate::failure::{Failure, Result};
use crate::text::{list, size, table, time};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use strongroom_engine::{Error, ErrorKind};
use strongroom_store::objects::Location;

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
    /// Compare a vault with the catalog now, both ways.
    Reconcile(ReconcileArgs),
    /// Bring back a deleted vault, with what it held.
    Undelete(UndeleteArgs),
    /// Take in a vault that is there, from its location and key, with all its points.
    Import(ImportArgs),
    /// Delete the key of a vault that is gone.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Delete the key of a vault that is gone: what was in it can never be read again.
    Delete(KeyDeleteArgs),
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
read. The place that vaults are kept in has a marker; where that is missing (its file system is not
mounted, or the place is new) no vault is made, unless --init-storage says that it is right.

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
    /// At most one backup at a time writes to the vault, others wait; needed where its store does not honour
    /// `If-None-Match`. For good.
    #[arg(long)]
    single_writer: bool,
    /// The place for vaults is a new one, and mounted: give it its marker.
    #[arg(long)]
    init_storage: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault list
  strongroom vault list -g office --json | jq -r '.vaults[].name'
  strongroom vault list --strays")]
pub struct ListArgs {
    /// Of this resource group alone.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    /// Stores and keys on the service's host that no vault has, instead: left by a purged vault, a lost catalog, or a
    /// start that was cut short. Nothing ever removes them by itself.
    #[arg(long, conflicts_with = "group")]
    strays: bool,
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
vm delete`. Neither is one that holds points which the catalog does not know (`strongroom point
list --unmanaged`), nor one that cannot be asked what it holds. A deleted vault can be brought
back (`strongroom vault undelete`) for the days of its soft delete; one without soft delete that
holds nothing is gone at once. Its key stays when it is purged (`strongroom vault key delete`).

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
The service does so by itself, at its start and daily; `strongroom vault show` shows what it found. Exit
status 1 if anything differs, or the vault cannot be looked at.

Example:
  strongroom vault reconcile main")]
pub struct ReconcileArgs {
    #[command(flatten)]
    vault: Named,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing else deletes a key, ever. Refused while a vault of the catalog has it, while its store is there, and
where that cannot be known: where the vault was not purged here, unless you say that it is gone
(--vault-is-gone). The vault's id is asked for where --id does not give it. Needs the
administrator of the service's host.

Example:
  strongroom vault key delete main --id 0190a1b2-c3d4-4e5f-8a9b-0c1d2e3f4a5b")]
pub struct KeyDeleteArgs {
    /// The vault that is gone: its name or id, or the key's file, as `strongroom vault list --strays` shows them.
    #[arg(value_name = "VAULT")]
    vault: String,
    /// The vault's id, in full.
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// The places for vaults are mounted, or new ones: give them their markers.
    #[arg(long)]
    init_storage: bool,
    /// The vault is gone, also where nothing says where it was.
    #[arg(long)]
    vault_is_gone: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom vault undelete main")]
pub struct UndeleteArgs {
    /// The vault's name; where several of it were deleted, the name that an error tells: its group's and its id.
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
    #[arg(value_name = "LOCATION", value_parser = parse_location)]
    store: Location,
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
        VaultCommand::Reconcile(arguments) => reconcile(&arguments, context),
        VaultCommand::Key(KeyCommand::Delete(arguments)) => key_delete(&arguments, context),
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
    let client = Client::connect_or_make(&arguments.service, context)?;
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
    if arguments.init_storage {
        client.post(&client.path("/providers/Strongroom.Backup/initStorage"), None)?;
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
    if arguments.single_writer {
        properties["strongroomSingleWriter"] = true.into();
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
    if arguments.strays {
        return strays(&client, context);
    }
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
    /// Points in it that the catalog does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    unmanaged_points: Option<usize>,
    reconciliation: ReconciliationDocument,
}

/// How vault and catalog compared.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct ReconciliationDocument {
    /// `Agreed`, `Differs` or `Unknown`.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    recovery_points: u64,
    missing_points: Vec<String>,
    unlisted_points: Vec<String>,
    unmanaged_points: u64,
    adopted_points: Vec<String>,
    forgotten_points: Vec<String>,
    returned_points: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaim_problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_problem: Option<String>,
}

impl ReconciliationDocument {
    fn of(document: Value) -> Self {
        serde_json::from_value(document).unwrap_or_default()
    }

    fn entries(&self) -> Vec<(&'static str, String)> {
        let state = match (self.state.as_str(), &self.problem) {
            ("Agreed", _) => "it agrees".to_owned(),
            ("Differs", _) => "it differs".to_owned(),
            (_, Some(problem)) => problem.clone(),
            _ => "not known".to_owned(),
        };
        let at = self.time.map(|at| format!(" ({})", time(at))).unwrap_or_default();
        let mut entries = vec![("catalog", format!("{state}{at}"))];
        let named = [
            ("missing", &self.missing_points),
            ("not listed", &self.unlisted_points),
            ("adopted", &self.adopted_points),
            ("forgotten", &self.forgotten_points),
            ("found again", &self.returned_points),
        ];
        entries.extend(named.into_iter().filter(|(_, p)| !p.is_empty()).map(|(n, p)| (n, p.join(", "))));
        let problems = [
            ("reclaim", &self.reclaim_problem),
            ("purge", &self.purge_problem),
            ("store", &self.store_problem),
        ];
        entries.extend(problems.into_iter().filter_map(|(n, p)| Some((n, p.clone()?))));
        entries
    }
}

#[derive(Serialize)]
struct StoreDocument {
    location: String,
    id: String,
    stored_bytes: u64,
    recovery_points: u64,
    second_copy: String,
    single_writer: bool,
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
            single_writer: store["singleWriter"] == true,
            reclaimed_at: some_text(&store, "/reclaimedAt"),
        }),
        Err(error @ Failure::Api(_)) => {
            let Failure::Api(error) = error else { return Err(error) };
            context.warn(format_args!("where its bytes are could not be looked at: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let unmanaged_points = match &store {
        Some(_) => Some(client.list(&vault.at("/providers/Strongroom.Backup/unmanagedPoints"), None)?.len()),
        None => None,
    };
    let reconciliation =
        ReconciliationDocument::of(client.get(&vault.at("/providers/Strongroom.Backup/reconciliation"))?);
    let shown = ShowDocument {
        vault: document(&vault),
        items: items.len() - deleted,
        deleted_items: deleted,
        store,
        unmanaged_points,
        reconciliation,
    };
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
            if store.single_writer {
                entries.push(("writers", "one at a time".into()));
            }
        }
        if let Some(unmanaged) = shown.unmanaged_points.filter(|n| *n > 0) {
            entries.push((
                "unmanaged",
                format!("{unmanaged} of the points, see `strongroom point list --unmanaged`"),
            ));
        }
        entries.extend(shown.reconciliation.entries());
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
    let mut shown = json!({ "deleted": vault.name, "resource_group": vault.group });
    let mut advice = String::new();
    // The latest of the name; none where it is gone, or the caller may not look.
    let location = text(&vault.document, "/location");
    let found = client.list(&client.path(&deleted_vaults(&location)), None).unwrap_or_default();
    let own = text(&vault.document, "/id");
    let last = found
        .iter()
        .filter(|d| text(d, "/properties/vaultId").eq_ignore_ascii_case(&own))
        .max_by_key(|d| some_time(d, "/properties/vaultDeletionTime"));
    let until = last.and_then(|d| some_time(d, "/properties/purgeAt"));
    if until.is_some() && until != last.and_then(|d| some_time(d, "/properties/vaultDeletionTime")) {
        shown["kept_until"] = json!(until);
        let until = shown_time(until);
        advice = format!("; `strongroom vault undelete {}` brings it back until {until}", vault.name);
    }
    context.print(&shown, || format!("deleted: vault {} of group {}{advice}\n", vault.name, vault.group))?;
    Ok(Outcome::Done)
}

fn deleted_vaults(location: &str) -> String {
    format!("/providers/Microsoft.RecoveryServices/locations/{}/deletedVaults", segment(location))
}

fn undelete(arguments: &UndeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let location = match &arguments.location {
        Some(location) => location.clone(),
        None => home(&client)?.1,
    };
    let mut found = client.list(&client.path(&deleted_vaults(&location)), None)?;
    found.retain(|deleted| {
        let id = text(deleted, "/properties/vaultId");
        let is = |part: &str, wanted: &str| {
            part_of_id(&id, part).is_some_and(|found| found.eq_ignore_ascii_case(wanted))
        };
        (is("vaults", &arguments.name) || text(deleted, "/name").eq_ignore_ascii_case(&arguments.name))
            && arguments.group.as_ref().is_none_or(|group| is("resourceGroups", group))
    });
    let deleted = match found.as_slice() {
        [one] => one,
        [] => {
            let message = format!("there is no deleted vault `{}` in location {location}", arguments.name);
            return Err(Error::not_found(message).into());
        }
        _ => {
            let each = |d: &Value| {
                let at = shown_time(some_time(d, "/properties/vaultDeletionTime"));
                format!("{} (deleted {at})", text(d, "/name"))
            };
            let message = format!(
                "there are several deleted vaults `{}`: name one of them as {}",
                arguments.name,
                found.iter().map(each).collect::<Vec<_>>().join(", ")
            );
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
    let client = Client::connect_or_make(&arguments.service, context)?;
    let (group, location) = place(&client, arguments.group.as_deref(), arguments.location.as_deref())?;
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path).map_err(|e| Error::io(format!("looking at {}", path.display()), e))
    };
    // The service is somewhere else on this host.
    let store = match &arguments.store {
        Location::Directory(path) => {
            path.to_str().ok_or_else(|| Error::invalid("the location is not UTF-8"))?.to_owned()
        }
        bucket => bucket.to_string(),
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
        let found = if answer["settings"] == true {
            "as they were"
        } else {
            "not known (see above and `strongroom vault show`)"
        };
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

fn reconcile(arguments: &ReconcileArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = arguments.vault.find(&client)?;
    let answer = client.post(&vault.at("/providers/Strongroom.Backup/reconcile"), None)?;
    let shown = ReconciliationDocument::of(answer.body);
    context.print(&shown, || {
        let mut entries = vec![("vault", vault.name.clone()), ("points", shown.recovery_points.to_string())];
        if shown.unmanaged_points > 0 {
            entries.push(("unmanaged", shown.unmanaged_points.to_string()));
        }
        entries.extend(shown.entries());
        list(&entries)
    })?;
    Ok(if shown.state == "Agreed" { Outcome::Done } else { Outcome::Damage })
}

/// Stores and keys that no vault has, as the API says them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StraysDocument {
    stores: Vec<StrayStoreDocument>,
    keys: Vec<StrayKeyDocument>,
    problems: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StrayStoreDocument {
    path: String,
    vault_id: Option<String>,
    key_file: Option<String>,
    recovery_points: Option<u64>,
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"), default)]
struct StrayKeyDocument {
    path: String,
    vault_id: Option<String>,
    vault_name: Option<String>,
    problem: Option<String>,
}

impl StraysDocument {
    fn get(client: &Client) -> Result<Self> {
        let found = client.get(&client.path("/providers/Strongroom.Backup/strays"))?;
        serde_json::from_value(found)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("the answer is not understood: {e}")).into())
    }
}

fn strays(client: &Client, context: &Context) -> Result<Outcome> {
    let found = StraysDocument::get(client)?;
    context.print(&found, || {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let stores = found.stores.iter().map(|s| {
            let points = s.recovery_points.map_or_else(|| "-".into(), |n| n.to_string());
            vec!["store".into(), or_dash(&s.vault_id), "-".into(), points, s.path.clone()]
        });
        let keys = found.keys.iter().map(|k| {
            vec!["key".into(), or_dash(&k.vault_id), or_dash(&k.vault_name), "-".into(), k.path.clone()]
        });
        let rows: Vec<Vec<String>> = stores.chain(keys).collect();
        if rows.is_empty() {
            return String::new();
        }
        table(&["WHAT", "VAULT ID", "NAME", ">POINTS", "PATH"], &rows)
    })?;
    for problem in &found.problems {
        context.warn(problem);
    }
    let told = found.stores.iter().map(|s| (&s.path, &s.problem));
    for (path, problem) in told.chain(found.keys.iter().map(|k| (&k.path, &k.problem))) {
        if let Some(problem) = problem {
            context.warn(format_args!("{path}: {problem}"));
        }
    }
    if !context.json {
        context.note(match (found.stores.is_empty(), found.keys.is_empty()) {
            (true, true) => "no stores and no keys without a vault",
            (false, _) => {
                "`strongroom vault import PATH --key-file KEY` brings a store back; nothing removes what is listed here by itself"
            }
            (true, false) => "`strongroom vault key delete` deletes the key of a vault that is gone; nothing else does",
        });
    }
    Ok(Outcome::Done)
}

fn key_delete(arguments: &KeyDeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let found = StraysDocument::get(&client)?.keys;
    let named: Vec<&StrayKeyDocument> = found
        .iter()
        .filter(|k| {
            let path = std::path::Path::new(&k.path);
            // The file is called by the id that the catalog had for the vault.
            let file = [path.file_name(), path.file_stem()].map(|n| n.and_then(|n| n.to_str()));
            [k.vault_name.as_deref(), k.vault_id.as_deref(), Some(&k.path)]
                .into_iter()
                .chain(file)
                .flatten()
                .any(|known| known.eq_ignore_ascii_case(&arguments.vault))
        })
        .collect();
    let id = match &arguments.id {
        Some(id) => id.trim().to_lowercase(),
        None if io::stdin().is_terminal() => {
            crate::context::to_stderr(
                &"What the vault held can never be read again. Type the vault's id in full:",
            );
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(|e| Error::io("reading the vault's id", e))?;
            line.trim().to_lowercase()
        }
        None => {
            return Err(Error::invalid(
                "deleting a key needs the vault's id in full, with --id; nothing was deleted",
            )
            .into());
        }
    };
    let is_it =
        |k: &&StrayKeyDocument| k.vault_id.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(&id));
    if !named.is_empty() && !named.iter().any(is_it) {
        return Err(Error::invalid(format!(
            "`{id}` is not the id of vault `{}`; nothing was deleted. See `strongroom vault list --strays`",
            arguments.vault
        ))
        .into());
    }
    if named.is_empty() {
        // One that the catalog still has, perhaps: the service says why its key stays.
        let is_known =
            common::vaults(&client, None)?.iter().any(|v| v.name.eq_ignore_ascii_case(&arguments.vault));
        if !is_known && !arguments.vault.eq_ignore_ascii_case(&id) {
            return Err(Error::not_found(format!(
                "there is no key of a vault `{}` that is gone; see `strongroom vault list --strays`",
                arguments.vault
            ))
            .into());
        }
    }
    if arguments.init_storage {
        client.post(&client.path("/providers/Strongroom.Backup/initStorage"), None)?;
    }
    let is_gone = if arguments.vault_is_gone { "?vaultIsGone=true" } else { "" };
    let path = format!("/providers/Strongroom.Backup/keys/{}{is_gone}", segment(&id));
    let answer = client.delete(&client.path(&path))?;
    let path = text(&answer.body, "/deleted");
    context.print(&json!({ "deleted": path, "vault_id": id }), || format!("deleted: {path}\n"))?;
    Ok(Outcome::Done)
}
