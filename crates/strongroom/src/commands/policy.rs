//! `strongroom policy`: when backups are made, and how long they are kept.

use super::common::{InVault, Vault, find_vault, text};
use super::policy_options::{PolicyOptions, run_times};
use crate::client::{Client, segment};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, table};
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use strongroom_engine::Error;

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List a vault's policies.
    List(ListArgs),
    /// Show a policy; with --json in Azure's form.
    Show(ShowArgs),
    /// Make a policy.
    Create(CreateArgs),
    /// Change a policy, for all machines that it protects.
    Set(SetArgs),
    /// Delete a policy that protects no machine.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom policy list --vault main")]
pub struct ListArgs {
    #[command(flatten)]
    vault: InVault,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy show DefaultPolicy
  strongroom policy show DefaultPolicy --json > policy.json")]
pub struct ShowArgs {
    /// The policy's name.
    name: String,
    #[command(flatten)]
    vault: InVault,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A point is kept by the longest rule that it falls under. Without --keep-days those of daily
and hourly policies are kept 30 days.

Examples:
  strongroom policy create Nightly --daily 20:30 --keep-days 180 --zone Europe/Berlin
  strongroom policy create Long --daily 20:30 --weekly sun:12 --yearly jan/first-sunday:10
  strongroom policy create Months --daily 20:30 --keep-days 14 --monthly first-sunday:12
  strongroom policy create Weekly --on sat@23:00 --weekly sat:26
  strongroom policy create Busy --hourly 4 --window 08:00+12 --keep-days 30
  strongroom policy create Copied --file policy.json")]
pub struct CreateArgs {
    /// The policy's name: 3 to 150 letters, digits and hyphens, beginning with a letter.
    name: String,
    #[command(flatten)]
    vault: InVault,
    #[command(flatten)]
    options: PolicyOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is not named stays as it is. New rules hold for the points that are there, too: what they
keep no longer expires.

Examples:
  strongroom policy set Nightly --keep-days 365
  strongroom policy set Nightly --weekly none --daily 22:00
  strongroom policy set Nightly --file policy.json")]
pub struct SetArgs {
    /// The policy's name.
    name: String,
    #[command(flatten)]
    vault: InVault,
    #[command(flatten)]
    options: PolicyOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom policy delete Nightly")]
pub struct DeleteArgs {
    /// The policy's name.
    name: String,
    #[command(flatten)]
    vault: InVault,
}

pub fn run(command: PolicyCommand, context: &Context) -> Result<Outcome> {
    match command {
        PolicyCommand::List(arguments) => run_list(&arguments, context),
        PolicyCommand::Show(arguments) => show(&arguments, context),
        PolicyCommand::Create(arguments) => create(&arguments, context),
        PolicyCommand::Set(arguments) => set(&arguments, context),
        PolicyCommand::Delete(arguments) => delete(&arguments, context),
    }
}

fn path(vault: &Vault, name: &str) -> String {
    vault.at(&format!("/backupPolicies/{}", segment(name)))
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let found = client.list(&vault.at("/backupPolicies"), None)?;
    context.print(&json!({ "policies": found }), || {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|p| {
                vec![
                    text(p, "/name"),
                    schedule(&p["properties"]),
                    retention(&p["properties"]).join(", "),
                    text(p, "/properties/protectedItemsCount"),
                ]
            })
            .collect();
        table(&["NAME", "BACKUPS", "KEPT", ">MACHINES"], &rows)
    })?;
    Ok(Outcome::Done)
}

fn print(context: &Context, vault: &Vault, policy: &Value) -> Result<()> {
    context.print(policy, || {
        let p = &policy["properties"];
        let tier = if p["policyType"] == "V2" { "enhanced" } else { "standard" };
        let mut entries = vec![
            ("policy", text(policy, "/name")),
            ("vault", format!("{} (group {})", vault.name, vault.group)),
            ("kind", tier.to_owned()),
            ("backups", schedule(p)),
            ("time zone", text(p, "/timeZone")),
        ];
        for (at, rule) in retention(p).into_iter().enumerate() {
            entries.push((if at == 0 { "kept" } else { "" }, rule));
        }
        entries.push(("snapshots", format!("{} days", text(p, "/instantRpRetentionRangeInDays"))));
        if let Some(kind) = p["snapshotConsistencyType"].as_str() {
            entries.push(("", format!("{kind}: machines are not frozen")));
        }
        if p["tieringPolicy"].is_object() {
            entries.push(("archive tier", text(p, "/strongroomTiering")));
        }
        let required = p["strongroomRequireAllDisks"] == true;
        entries.push(("all disks", if required { "required" } else { "not required" }.to_owned()));
        entries.push(("machines", text(p, "/protectedItemsCount")));
        // A list has no colon where a line goes on.
        list(&entries).replace("\n: ", "\n  ")
    })?;
    Ok(())
}

fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let policy = client.get(&path(&vault, &arguments.name))?;
    print(context, &vault, &policy)?;
    Ok(Outcome::Done)
}

fn create(arguments: &CreateArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let path = path(&vault, &arguments.name);
    match client.get(&path) {
        Ok(_) => {
            let message =
                format!("there is a policy `{}` already: `strongroom policy set` changes it", arguments.name);
            return Err(Error::already_exists(message).into());
        }
        Err(error) if error.has_status(404) => {}
        Err(error) => return Err(error),
    }
    let properties = match &arguments.options.file {
        Some(file) => read(file)?,
        None => {
            let zone = TimeZone::system();
            let now = jiff::Timestamp::now().to_zoned(TimeZone::UTC);
            arguments.options.new_properties(zone.iana_name().unwrap_or("UTC"), now.date())?
        }
    };
    put(&client, context, &vault, &path, properties)
}

fn set(arguments: &SetArgs, context: &Context) -> Result<Outcome> {
    if arguments.options.is_empty() {
        return Err(Error::invalid("nothing is to be changed: see `strongroom policy set --help`").into());
    }
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let path = path(&vault, &arguments.name);
    let mut before = client.get(&path)?;
    let properties = match &arguments.options.file {
        Some(file) => read(file)?,
        None => {
            let mut properties = before["properties"].take();
            let now = jiff::Timestamp::now().to_zoned(TimeZone::UTC);
            arguments.options.change(&mut properties, now.date())?;
            properties
        }
    };
    put(&client, context, &vault, &path, properties)
}

fn put(client: &Client, context: &Context, vault: &Vault, path: &str, properties: Value) -> Result<Outcome> {
    let answer = client.put(path, &json!({ "properties": properties }))?;
    client.follow(&answer)?;
    let policy = client.get(path)?;
    print(context, vault, &policy)?;
    Ok(Outcome::Done)
}

fn delete(arguments: &DeleteArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let path = path(&vault, &arguments.name);
    // Azure deletes what is not there without a word.
    client.get(&path)?;
    client.follow(&client.delete(&path)?)?;
    let shown = json!({ "deleted": arguments.name, "vault": vault.name });
    context.print(&shown, || format!("deleted: policy {} of vault {}\n", arguments.name, vault.name))?;
    Ok(Outcome::Done)
}

/// A policy has a few KiB.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The properties in a file: a whole policy, or they alone.
fn read(path: &Path) -> Result<Value> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().take(FILE_MAX_BYTES).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_string(&mut text)),
    };
    read.map_err(|e| Error::io(format!("reading the policy in {}", path.display()), e))?;
    let wrong = |why: String| Error::invalid(format!("{} holds no policy: {why}", path.display()));
    let mut document: Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("it is not JSON: {e}")))?;
    let properties = match document.get_mut("properties") {
        Some(properties) => properties.take(),
        None => document,
    };
    match properties.get("schedulePolicy") {
        Some(_) => Ok(properties),
        None => Err(wrong("it has no schedulePolicy".into()).into()),
    }
}

fn clock(stamp: &str) -> &str {
    stamp.split('T').nth(1).and_then(|t| t.get(..5)).unwrap_or(stamp)
}

fn names(list: &Value) -> String {
    let short = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        name.get(..3).unwrap_or(name).to_owned()
    };
    list.as_array().into_iter().flatten().map(short).collect::<Vec<_>>().join(", ")
}

/// When backups are made, in words.
fn schedule(properties: &Value) -> String {
    let schedule = &properties["schedulePolicy"];
    let times = run_times(schedule);
    let at = clock(times[0].as_str().unwrap_or_default());
    match schedule["scheduleRunFrequency"].as_str().unwrap_or_default() {
        "Hourly" => {
            let hourly = &schedule["hourlySchedule"];
            format!(
                "every {} h from {at} for {} h",
                text(hourly, "/interval"),
                text(hourly, "/scheduleWindowDuration")
            )
        }
        "Weekly" => {
            let days =
                schedule.pointer("/weeklySchedule/scheduleRunDays").unwrap_or(&schedule["scheduleRunDays"]);
            format!("{} at {at}", names(days))
        }
        _ => format!("daily at {at}"),
    }
}

/// How long they are kept, in words, a rule each.
fn retention(properties: &Value) -> Vec<String> {
    let policy = &properties["retentionPolicy"];
    let count = |part: &Value| text(part, "/retentionDuration/count");
    let which = |part: &Value| match part["retentionScheduleFormatType"].as_str() {
        Some("Daily") => {
            let days = part.pointer("/retentionScheduleDaily/daysOfTheMonth").and_then(Value::as_array);
            let day = |d: &Value| match d["isLast"].as_bool() {
                Some(true) => "last day".to_owned(),
                _ => format!("{}.", text(d, "/date")),
            };
            days.into_iter().flatten().map(day).collect::<Vec<_>>().join(", ")
        }
        _ => {
            let weekly = &part["retentionScheduleWeekly"];
            let weeks = weekly["weeksOfTheMonth"].as_array().into_iter().flatten();
            let weeks: Vec<String> = weeks.map(|w| text(w, "").to_lowercase()).collect();
            format!("{} {}", weeks.join(", "), names(&weekly["daysOfTheWeek"]))
        }
    };
    let mut rules = Vec::new();
    let part = |name: &str| policy.get(name).filter(|p| p.is_object());
    if let Some(daily) = part("dailySchedule") {
        rules.push(format!("{} days", count(daily)));
    }
    if let Some(weekly) = part("weeklySchedule") {
        rules.push(format!("{} weeks ({})", count(weekly), names(&weekly["daysOfTheWeek"])));
    }
    if let Some(monthly) = part("monthlySchedule") {
        rules.push(format!("{} months ({})", count(monthly), which(monthly)));
    }
    if let Some(yearly) = part("yearlySchedule") {
        rules.push(format!(
            "{} years ({}: {})",
            count(yearly),
            names(&yearly["monthsOfYear"]),
            which(yearly)
        ));
    }
    rules
}
