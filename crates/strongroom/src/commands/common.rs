//! What the commands on the service share: which vault, which machine, and reading Azure's documents.

use crate::client::{Client, ServiceArgs, literal, of_id, part_of_id, segment};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::text::time;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use strongroom_domain::arm_names;
use strongroom_engine::{Error, ErrorKind};
use strongroom_service::config::{default_group, default_location};

/// Which vault.
#[derive(Debug, Clone, Args)]
pub struct InVault {
    /// The vault's name; may be left out where there is one.
    #[arg(long, value_name = "NAME")]
    pub vault: Option<String>,
    /// The vault's resource group, where two have vaults of one name.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    pub group: Option<String>,
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// A vault, by its document.
#[derive(Debug, Clone)]
pub struct Vault {
    /// The path of the resource, encoded.
    pub path: String,
    pub name: String,
    pub group: String,
    pub document: Value,
}

impl Vault {
    pub fn of(document: Value) -> Self {
        let id = text(&document, "/id");
        Self {
            path: of_id(&id),
            name: text(&document, "/name"),
            group: part_of_id(&id, "resourceGroups").unwrap_or_default().to_owned(),
            document,
        }
    }

    /// A path below the vault; `rest` is encoded.
    pub fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.path)
    }
}

/// All vaults, or those of a group.
pub fn vaults(client: &Client, group: Option<&str>) -> Result<Vec<Vault>> {
    const VAULTS: &str = "/providers/Microsoft.RecoveryServices/vaults";
    let path = match group {
        Some(group) => client.group_path(group, VAULTS),
        None => client.path(VAULTS),
    };
    Ok(client.list(&path, None)?.into_iter().map(Vault::of).collect())
}

/// The vault that the command line names, or the only one.
pub fn find_vault(client: &Client, args: &InVault) -> Result<Vault> {
    if let (Some(name), Some(group)) = (&args.vault, &args.group) {
        return vault(client, group, name);
    }
    let mut found = vaults(client, args.group.as_deref())?;
    if let Some(name) = &args.vault {
        found.retain(|v| v.name.eq_ignore_ascii_case(name));
    }
    let listed = |found: &[Vault]| {
        found.iter().map(|v| format!("{} (group {})", v.name, v.group)).collect::<Vec<_>>().join(", ")
    };
    match (found.len(), &args.vault) {
        (1, _) => Ok(found.remove(0)),
        (0, Some(name)) => {
            Err(Error::not_found(format!("there is no vault `{name}`; see `strongroom vault list`")).into())
        }
        (0, None) => {
            Err(Error::not_found("there is no vault; make one with `strongroom vault create NAME`").into())
        }
        (_, Some(name)) => Err(Error::invalid(format!(
            "there are several vaults `{name}`: choose a group with -g ({})",
            listed(&found)
        ))
        .into()),
        (_, None) => Err(Error::invalid(format!(
            "there are several vaults: choose one with --vault ({})",
            listed(&found)
        ))
        .into()),
    }
}

/// The vaults a list is about: the one that is named, else all.
pub fn chosen_vaults(client: &Client, args: &InVault) -> Result<Vec<Vault>> {
    match &args.vault {
        Some(_) => Ok(vec![find_vault(client, args)?]),
        None => vaults(client, args.group.as_deref()),
    }
}

pub fn vault_path(client: &Client, group: &str, name: &str) -> String {
    client.group_path(group, &format!("/providers/Microsoft.RecoveryServices/vaults/{}", segment(name)))
}

pub fn vault(client: &Client, group: &str, name: &str) -> Result<Vault> {
    Ok(Vault::of(client.get(&vault_path(client, group, name))?))
}

/// The group and location of the first host, where new things go unless somebody chose otherwise.
pub fn home(client: &Client) -> Result<(String, String)> {
    let hosts = match client.list(&client.path("/providers/Strongroom.Backup/hosts"), None) {
        Ok(hosts) => hosts,
        // Who may not see hosts can still name group and location.
        Err(error) if error.has_status(403) => Vec::new(),
        Err(error) => return Err(error),
    };
    let of = |pointer: &str| hosts.first().map(|h| text(h, pointer)).filter(|t| !t.is_empty());
    Ok((
        of("/properties/resourceGroup").unwrap_or_else(default_group),
        of("/location").unwrap_or_else(default_location),
    ))
}

/// A machine, or an item's machine: `NAME`, or `GROUP/NAME` where two groups have one of a name.
fn split(named: &str) -> (Option<&str>, &str) {
    match named.split_once('/') {
        Some((group, name)) if !group.is_empty() && !name.is_empty() => (Some(group), name),
        _ => (None, named),
    }
}

/// A machine on a host.
#[derive(Debug, Clone)]
pub struct Machine {
    pub id: String,
    pub name: String,
    pub group: String,
    pub document: Value,
}

impl Machine {
    pub fn of(document: Value) -> Self {
        let id = text(&document, "/id");
        Self {
            name: text(&document, "/name"),
            group: part_of_id(&id, "resourceGroups").unwrap_or_default().to_owned(),
            id,
            document,
        }
    }

    /// LUN and name of its disks; the first is -1, as Azure counts.
    pub fn disks(&self) -> Vec<(i64, String)> {
        let name = |disk: &Value| {
            let name = text(disk, "/name");
            name.strip_prefix(&format!("{}_", self.name)).map_or_else(|| name.clone(), str::to_owned)
        };
        let storage = &self.document["properties"]["storageProfile"];
        let first = storage.get("osDisk").map(|disk| (-1, name(disk)));
        let others = storage["dataDisks"].as_array().into_iter().flatten();
        first.into_iter().chain(others.map(|d| (d["lun"].as_i64().unwrap_or(0), name(d)))).collect()
    }

    /// Size of a disk in GiB, rounded up, as Azure tells it.
    pub fn disk_gib(&self, lun: i64) -> u64 {
        let storage = &self.document["properties"]["storageProfile"];
        let others = storage["dataDisks"].as_array().into_iter().flatten();
        let found = match lun {
            -1 => storage.get("osDisk"),
            lun => others.into_iter().find(|d| d["lun"].as_i64() == Some(lun)),
        };
        found.and_then(|d| d["diskSizeGB"].as_u64()).unwrap_or(0)
    }

    /// Disks that backups take.
    pub fn backed_up(&self, item: &Value) -> Vec<String> {
        let missed = self.not_backed_up(Some(item));
        let is_taken = |(lun, name): &(i64, String)| {
            !is_excluded(Some(item), *lun) && missed.iter().all(|(disk, _)| disk != name)
        };
        self.disks().into_iter().filter(is_taken).map(|(_, name)| name).collect()
    }

    /// Disks that backups lack, and why, but for those that the item's choice leaves out.
    pub fn not_backed_up(&self, item: Option<&Value>) -> Vec<(String, String)> {
        let storage = &self.document["properties"]["storageProfile"];
        let first = storage.get("osDisk").into_iter();
        let why = first.chain(storage["dataDisks"].as_array().into_iter().flatten());
        let disks = self.disks().into_iter().zip(why);
        disks
            .filter(|((lun, _), _)| !is_excluded(item, *lun))
            .filter_map(|((_, name), disk)| Some((name, disk["strongroomNotBackedUp"].as_str()?.to_owned())))
            .collect()
    }

    /// As the backup plane names it below a vault.
    pub fn item_path(&self) -> String {
        item_path(&self.group, &self.name)
    }
}

/// Whether an item's choice of disks leaves one out.
fn is_excluded(item: Option<&Value>, lun: i64) -> bool {
    let choice = item.and_then(|i| i.pointer("/properties/extendedProperties/diskExclusionProperties"));
    let Some(choice) = choice.filter(|c| c.is_object()).filter(|_| lun >= 0) else { return false };
    let luns = choice["diskLunList"].as_array();
    let is_named = luns.into_iter().flatten().any(|l| l.as_i64() == Some(lun));
    is_named != choice["isInclusionList"].as_bool().unwrap_or(true)
}

pub fn item_path(group: &str, machine: &str) -> String {
    format!(
        "/backupFabrics/Azure/protectionContainers/{}/protectedItems/{}",
        segment(&arm_names::container_name(group, machine)),
        segment(&arm_names::item_name(group, machine))
    )
}

pub fn machines(client: &Client) -> Result<Vec<Machine>> {
    let path = client.path("/providers/Microsoft.Compute/virtualMachines?$expand=instanceView");
    Ok(client.list(&path, None)?.into_iter().map(Machine::of).collect())
}

/// The one of these that is named.
pub fn choose_machine<'a>(all: &'a [Machine], named: &str) -> Result<&'a Machine> {
    let (group, name) = split(named);
    let is_it = |m: &&Machine| {
        m.name.eq_ignore_ascii_case(name) && group.is_none_or(|group| m.group.eq_ignore_ascii_case(group))
    };
    let found: Vec<&Machine> = all.iter().filter(is_it).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            Err(Error::not_found(format!("there is no machine `{named}`; see `strongroom vm list`")).into())
        }
        _ => Err(ambiguous(named, found.iter().map(|m| (&m.group, &m.name)))),
    }
}

/// Whether none of these is of that name.
pub fn is_unknown(all: &[Machine], named: &str) -> bool {
    matches!(choose_machine(all, named), Err(Failure::Here(error)) if error.kind == ErrorKind::NotFound)
}

fn ambiguous<'a>(named: &str, found: impl Iterator<Item = (&'a String, &'a String)>) -> Failure {
    let names: Vec<String> = found.map(|(group, name)| format!("{group}/{name}")).collect();
    Error::invalid(format!("there are several machines `{named}`: say which ({})", names.join(", "))).into()
}

/// A protected item.
#[derive(Debug, Clone)]
pub struct Item {
    /// The path of the resource, encoded.
    pub path: String,
    pub name: String,
    pub group: String,
    pub document: Value,
}

impl Item {
    pub fn of(document: Value) -> Self {
        let machine = text(&document, "/properties/virtualMachineId");
        Self {
            path: of_id(&text(&document, "/id")),
            name: text(&document, "/properties/friendlyName"),
            group: part_of_id(&machine, "resourceGroups").unwrap_or_default().to_owned(),
            document,
        }
    }

    pub fn is_deleted(&self) -> bool {
        self.document["properties"]["isScheduledForDeferredDelete"].as_bool() == Some(true)
    }
}

pub fn items(client: &Client, vault: &Vault) -> Result<Vec<Item>> {
    Ok(client.list(&vault.at("/backupProtectedItems"), None)?.into_iter().map(Item::of).collect())
}

/// The vault's item of the machine that is named.
pub fn find_item(client: &Client, vault: &Vault, named: &str) -> Result<Item> {
    let (group, name) = split(named);
    let filter = format!("backupManagementType eq 'AzureIaasVM' and friendlyName eq {}", literal(name));
    let mut found: Vec<Item> = client
        .list(&vault.at("/backupProtectedItems"), Some(&filter))?
        .into_iter()
        .map(Item::of)
        .filter(|i| group.is_none_or(|group| i.group.eq_ignore_ascii_case(group)))
        .collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::not_found(format!(
            "machine `{named}` is not protected in vault `{}`; see `strongroom vm list`, and protect it with `strongroom vm protect`",
            vault.name
        ))
        .into()),
        _ => Err(ambiguous(named, found.iter().map(|i| (&i.group, &i.name)))),
    }
}

/// A text in a document; empty where there is none.
pub fn text(document: &Value, pointer: &str) -> String {
    match document.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// A text in a document, if it says anything.
pub fn some_text(document: &Value, pointer: &str) -> Option<String> {
    Some(text(document, pointer)).filter(|t| !t.is_empty())
}

/// A time in a document; Azure's stand-ins for none are none.
pub fn some_time(document: &Value, pointer: &str) -> Option<Timestamp> {
    let at: Timestamp = document.pointer(pointer)?.as_str()?.parse().ok()?;
    let year = at.to_zoned(jiff::tz::TimeZone::UTC).year();
    (year > 2001).then_some(at)
}

/// A duration in a document, such as `PT1M11.1S`.
pub fn some_duration(document: &Value, pointer: &str) -> Option<SignedDuration> {
    document.pointer(pointer)?.as_str()?.parse().ok()
}

/// For a table: local time, or a dash.
pub fn shown_time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".into(), time)
}

pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".into() } else { text }
}

/// Does it for each, and tells at once what went wrong with one of several. `Err` where there is one and it failed.
pub fn each<T>(
    context: &Context,
    names: &[String],
    mut work: impl FnMut(&str) -> Result<T>,
) -> Result<(Vec<T>, bool)> {
    let mut done = Vec::new();
    let mut is_whole = true;
    for name in names {
        match work(name) {
            Ok(one) => done.push(one),
            Err(error) if names.len() == 1 || error.is_cancelled() => return Err(error),
            Err(error) => {
                is_whole = false;
                crate::report::error(&of_one(name, error), context.json);
            }
        }
    }
    Ok((done, is_whole))
}

/// Which of several it was.
fn of_one(name: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Here(error) => Error::new(error.kind, format!("{name}: {error}")).into(),
        Failure::Api(mut error) => {
            error.message = format!("{name}: {}", error.message);
            error.into()
        }
    }
}

/// What a refused request names where a command cannot go on without a service.
pub fn needs_service(what: &str) -> Failure {
    Error::new(
        ErrorKind::Unavailable,
        format!("{what} needs a running service: start one with `strongroom serve`, or leave it out"),
    )
    .into()
}

/// `name eq 'value'`.
pub fn literal_filter(name: &str, value: &str) -> String {
    format!("{name} eq {}", literal(value))
}
