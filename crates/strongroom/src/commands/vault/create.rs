//! Making vaults, and taking in those that are there.

use super::document::{document, entries};
use crate::client::{Client, ServiceArgs};
use crate::commands::common::{Vault, home, text, vault_path};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::options::parse_location;
use crate::text::list;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use strongroom_engine::{Error, ErrorKind};
use strongroom_store::objects::Location;

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

pub(super) fn create(arguments: &CreateArgs, context: &Context) -> Result<Outcome> {
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

pub(super) fn import(arguments: &ImportArgs, context: &Context) -> Result<Outcome> {
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
