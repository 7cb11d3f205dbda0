//! Beginning, changing and ending the protection of machines.

use super::protection::ProtectionDocument;
use crate::client::Client;
use crate::commands::common::{
    InVault, Item, Machine, Vault, choose_machine, each, find_item, find_vault, is_unknown, machines,
    or_dash, text,
};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{table, time};
use clap::Args;
use serde_json::{Value, json};
use strongroom_engine::Error;

#[derive(Debug, Args)]
#[command(after_help = "\
The first backup is made at the policy's next time, or now with `strongroom vm backup`. A
machine that is protected already gets the policy and the disks that are named. Its first disk
is always backed up.

Examples:
  strongroom vm protect web01 web02
  strongroom vm protect db01 --policy Nightly --vault main --exclude vdb")]
pub struct ProtectArgs {
    /// The machines; GROUP/NAME where two groups have one of a name.
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// The policy.
    #[arg(long, value_name = "NAME", default_value = "DefaultPolicy")]
    policy: String,
    #[command(flatten)]
    vault: InVault,
    /// Back up this disk beside the first, and no others; may be given several times.
    #[arg(long = "disk", value_name = "DISK", conflicts_with_all = ["exclude", "all_disks"])]
    disks: Vec<String>,
    /// Leave out this disk; may be given several times.
    #[arg(long, value_name = "DISK", conflicts_with = "all_disks")]
    exclude: Vec<String>,
    /// Back up all disks again, those that come later too.
    #[arg(long)]
    all_disks: bool,
}

/// Protected machines.
#[derive(Debug, Args)]
struct Names {
    /// The machines; GROUP/NAME where two groups have one of a name.
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    #[command(flatten)]
    vault: InVault,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A backup that runs is cancelled. All recovery points are kept for ever, or until protection is
resumed or the machine deleted. With --retain-recovery-points-as-per-policy they go on expiring
by the policy, all but the last one.

Examples:
  strongroom vm stop web01
  strongroom vm stop web01 web02 --retain-recovery-points-as-per-policy")]
pub struct StopArgs {
    #[command(flatten)]
    machines: Names,
    /// Let points go on expiring by the policy, but for the last; resuming then needs none.
    #[arg(long, alias = "retain-as-per-policy")]
    retain_recovery_points_as_per_policy: bool,
    /// What the option was called.
    #[arg(long, hide = true)]
    let_expire: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vm resume web01
  strongroom vm resume web01 web02 --policy Nightly")]
pub struct ResumeArgs {
    #[command(flatten)]
    machines: Names,
    /// The policy; default: the one it still has, else DefaultPolicy.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With soft delete, which vaults have unless it was switched off, they can be brought back for
some days.

Example:
  strongroom vm delete web01 --yes")]
pub struct DeleteArgs {
    #[command(flatten)]
    machines: Names,
    /// All recovery points of these machines are to be deleted.
    #[arg(long, required = true)]
    yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Their protection is stopped afterwards: `strongroom vm resume` begins it again.

Example:
  strongroom vm undelete web01")]
pub struct UndeleteArgs {
    #[command(flatten)]
    machines: Names,
}

fn policy_id(vault: &Vault, policy: &str) -> String {
    format!("{}/backupPolicies/{policy}", text(&vault.document, "/id"))
}

/// What the item is to be, with the disks that were chosen.
fn body(machine_id: &str, policy_id: &str, disks: Option<Value>) -> Value {
    let mut properties = json!({
        "protectedItemType": "Microsoft.Compute/virtualMachines",
        "policyId": policy_id,
        "sourceResourceId": machine_id,
    });
    if let Some(disks) = disks {
        properties["extendedProperties"] = json!({ "diskExclusionProperties": disks });
    }
    json!({ "properties": properties })
}

/// The choice of disks, as Azure has it: by LUN, without the first.
fn disk_choice(arguments: &ProtectArgs, machine: &Machine) -> Result<Option<Value>> {
    if arguments.all_disks {
        return Ok(Some(Value::Null));
    }
    let (names, is_inclusion) = match (arguments.disks.is_empty(), arguments.exclude.is_empty()) {
        (true, true) => return Ok(None),
        (false, _) => (&arguments.disks, true),
        (true, false) => (&arguments.exclude, false),
    };
    let known = machine.disks();
    let mut luns = Vec::new();
    for name in names {
        match known.iter().find(|(_, known)| known == name) {
            Some((lun, _)) if *lun >= 0 => luns.push(*lun),
            Some(_) if is_inclusion => {}
            Some(_) => {
                let message =
                    format!("`{name}` is the first disk of `{}`, which is always backed up", machine.name);
                return Err(Error::invalid(message).into());
            }
            None => {
                let there: Vec<&str> = known.iter().map(|(_, name)| name.as_str()).collect();
                let message =
                    format!("machine `{}` has no disk `{name}`; it has: {}", machine.name, there.join(", "));
                return Err(Error::not_found(message).into());
            }
        }
    }
    Ok(Some(json!({ "diskLunList": luns, "isInclusionList": is_inclusion })))
}

/// The item as it is now.
fn look(client: &Client, vault: &Vault, path: &str) -> Result<ProtectionDocument> {
    Ok(ProtectionDocument::of(&Item::of(client.get(path)?), vault))
}

fn show(context: &Context, done: &[ProtectionDocument], is_whole: bool) -> Result<Outcome> {
    context.print(&json!({ "machines": done }), || {
        if done.is_empty() {
            return String::new();
        }
        let has_disks = done.iter().any(|p| p.disks.is_some());
        let mut head = vec!["MACHINE", "GROUP", "VAULT", "STATE", "POLICY", "LAST POINT"];
        head.extend(has_disks.then_some("DISKS"));
        let rows: Vec<Vec<String>> = done
            .iter()
            .map(|p| {
                let mut row = vec![
                    p.machine.clone(),
                    p.resource_group.clone(),
                    p.vault.clone(),
                    p.state.clone(),
                    or_dash(p.policy.clone().unwrap_or_default()),
                    p.last_point.map_or_else(|| "never".into(), time),
                ];
                row.extend(has_disks.then(|| p.disks.as_deref().unwrap_or_default().join(", ")));
                row
            })
            .collect();
        table(&head, &rows)
    })?;
    Ok(if is_whole { Outcome::Done } else { Outcome::Damage })
}

pub fn protect(arguments: &ProtectArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    client.discover_if_alone()?;
    let mut known = machines(&client)?;
    // One that was made just now is looked for, once.
    if !client.is_in_process() && arguments.names.iter().any(|name| is_unknown(&known, name)) {
        match client.post(&vault.at("/backupFabrics/Azure/refreshContainers"), None) {
            Ok(answer) => {
                client.follow(&answer)?;
                known = machines(&client)?;
            }
            // Who may not look is told what is known.
            Err(error) if error.has_status(403) => {}
            Err(error) => return Err(error),
        }
    }
    let policy = policy_id(&vault, &arguments.policy);
    let (done, is_whole) = each(context, &arguments.names, |name| {
        let machine = choose_machine(&known, name)?;
        let path = vault.at(&machine.item_path());
        let body = body(&machine.id, &policy, disk_choice(arguments, machine)?);
        client.follow(&client.put(&path, &body)?)?;
        let item = Item::of(client.get(&path)?);
        for (disk, why) in machine.not_backed_up(Some(&item.document)) {
            context.warn(not_backed_up(&machine.name, &disk, &why));
        }
        let disks = Some(machine.backed_up(&item.document));
        Ok(ProtectionDocument { disks, ..ProtectionDocument::of(&item, &vault) })
    })?;
    show(context, &done, is_whole)
}

/// What is said of a disk that backups of a protected machine lack.
pub(super) fn not_backed_up(machine: &str, disk: &str, why: &str) -> String {
    format!(
        "disk {disk} of {machine} will not be backed up: {why}. If that is as it should be: `strongroom vm protect {} --exclude {disk}`",
        crate::text::shell_word(machine)
    )
}

/// Does something to each item; those that are gone afterwards are told of as deleted.
fn change(
    names: &Names,
    context: &Context,
    work: impl Fn(&Client, &Vault, &Item) -> Result<()>,
) -> Result<Outcome> {
    let client = Client::connect(&names.vault.service, context)?;
    let vault = find_vault(&client, &names.vault)?;
    let (done, is_whole) = each(context, &names.names, |name| {
        let item = find_item(&client, &vault, name)?;
        work(&client, &vault, &item)?;
        match look(&client, &vault, &item.path) {
            Err(error) if error.has_status(404) => {
                let mut gone = ProtectionDocument::of(&item, &vault);
                (gone.state, gone.policy, gone.last_point) = ("NotProtected".into(), None, None);
                Ok(gone)
            }
            other => other,
        }
    })?;
    show(context, &done, is_whole)
}

fn machine_id(item: &Item) -> String {
    text(&item.document, "/properties/virtualMachineId")
}

pub fn stop(arguments: &StopArgs, context: &Context) -> Result<Outcome> {
    if arguments.let_expire {
        let message = "--let-expire is called --retain-recovery-points-as-per-policy, as in Azure";
        return Err(Error::invalid(message).into());
    }
    let state =
        if arguments.retain_recovery_points_as_per_policy { "BackupsSuspended" } else { "ProtectionStopped" };
    change(&arguments.machines, context, |client, _, item| {
        let mut body = body(&machine_id(item), "", None);
        body["properties"]["protectionState"] = state.into();
        client.follow(&client.put(&item.path, &body)?).map(|_| ())
    })
}

pub fn resume(arguments: &ResumeArgs, context: &Context) -> Result<Outcome> {
    change(&arguments.machines, context, |client, vault, item| {
        let kept = text(&item.document, "/properties/policyName");
        let policy = match &arguments.policy {
            Some(policy) => policy,
            None if !kept.is_empty() => &kept,
            None => "DefaultPolicy",
        };
        let state = text(&item.document, "/properties/protectionState");
        if !item.is_deleted() && matches!(state.as_str(), "Protected" | "IRPending") {
            let message = format!("protection of `{}` is not stopped", item.name);
            return Err(Error::invalid(message).into());
        }
        let body = body(&machine_id(item), &policy_id(vault, policy), None);
        client.follow(&client.put(&item.path, &body)?).map(|_| ())
    })
}

pub fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
    // Asked for by the command line's rules.
    debug_assert!(arguments.yes);
    change(&arguments.machines, context, |client, _, item| {
        client.follow(&client.delete(&item.path)?).map(|_| ())
    })
}

pub fn undelete(arguments: &UndeleteArgs, context: &Context) -> Result<Outcome> {
    change(&arguments.machines, context, |client, _, item| {
        if !item.is_deleted() {
            let message = format!("`{}` is not deleted", item.name);
            return Err(Error::invalid(message).into());
        }
        let mut body = body(&machine_id(item), "", None);
        body["properties"]["protectionState"] = "ProtectionStopped".into();
        body["properties"]["isRehydrate"] = true.into();
        client.follow(&client.put(&item.path, &body)?).map(|_| ())
    })
}
