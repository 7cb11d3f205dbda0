//! Deleting vaults, and bringing them back.

use super::document::{document, entries};
use crate::client::{Client, ServiceArgs, of_id, part_of_id, segment};
use crate::commands::common::{InVault, Vault, find_vault, home, shown_time, some_time, text};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::list;
use clap::Args;
use serde_json::{Value, json};
use strongroom_engine::Error;

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

pub(super) fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.service, context)?;
    let args = InVault {
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

pub(super) fn undelete(arguments: &UndeleteArgs, context: &Context) -> Result<Outcome> {
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
