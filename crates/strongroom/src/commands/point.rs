//! `strongroom point`: the recovery points of protected machines.

use super::common::{InVault, Item, Vault, find_item, find_vault, literal_filter, some_time, text};
use super::vm::drill::ResultDocument;
use crate::client::{Client, segment};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, size, table, time};
use crate::when;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strongroom_engine::Error;

#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// List a machine's recovery points, the newest first.
    List(ListArgs),
    /// Show all that is known of a point.
    Show(ShowArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Consistency {
    Application,
    FileSystem,
    Crash,
}

impl Consistency {
    fn arm_name(self) -> &'static str {
        match self {
            Self::Application => "AppConsistent",
            Self::FileSystem => "FileSystemConsistent",
            Self::Crash => "CrashConsistent",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Points of a vault that no service knows are listed by `strongroom rescue point list`.

Examples:
  strongroom point list web01
  strongroom point list web01 --from 2026-01-01 --to 2026-06-30 --consistency file-system
  strongroom point list web01 --from 52w --json | jq -r '.points[0].point'")]
pub struct ListArgs {
    /// The machine; GROUP/NAME where two groups have one of that name.
    machine: String,
    #[command(flatten)]
    vault: InVault,
    /// Taken since: a date, a time, or so long ago (30d) [default: 30d].
    #[arg(long, value_name = "TIME", value_parser = when::parse_from)]
    from: Option<Timestamp>,
    /// Taken until: a date (the end of it), a time, or so long ago.
    #[arg(long, value_name = "TIME", value_parser = when::parse_until)]
    to: Option<Timestamp>,
    /// Of this consistency alone.
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom point show web01 latest
  strongroom point show web01 2026-11-21T20:30 --json")]
pub struct ShowArgs {
    /// The machine; GROUP/NAME where two groups have one of that name.
    machine: String,
    /// `latest`, a point's name, or a time: the last point taken at or before it.
    point: String,
    #[command(flatten)]
    vault: InVault,
}

/// What the extension in the guest did, as the API says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct GuestDocument {
    pub extension_version: String,
    /// `agent` or `port`.
    pub reached_by: String,
    pub installed: bool,
    pub was_tampered_with: bool,
    pub scripts_configured: bool,
    pub pre_script: Option<ScriptDocument>,
    pub post_script: Option<ScriptDocument>,
    /// Azure's names.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct ScriptDocument {
    pub tries: u32,
    pub elapsed_milliseconds: u64,
    pub exit_code: Option<i32>,
}

impl ScriptDocument {
    fn shown(&self) -> String {
        let end = self.exit_code.map_or_else(|| "was ended".into(), |code| format!("exit {code}"));
        let tries = if self.tries == 1 { String::new() } else { format!(", {} tries", self.tries) };
        format!("{end} after {} ms{tries}", self.elapsed_milliseconds)
    }
}

impl GuestDocument {
    fn shown(&self) -> String {
        let mut told = format!("extension {}", self.extension_version);
        if self.was_tampered_with {
            told += ", replaced because it had been tampered with";
        } else if self.installed {
            told += ", installed for this point";
        }
        if !self.scripts_configured {
            told += "; no scripts are configured";
        }
        if let Some(script) = &self.pre_script {
            told += &format!("; pre-script: {}", script.shown());
        }
        if let Some(script) = &self.post_script {
            told += &format!("; post-script: {}", script.shown());
        }
        if !self.problems.is_empty() {
            told += &format!("; {}", self.problems.join(", "));
        }
        told
    }
}

/// A disk that a point holds, as the API says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct DiskDocument {
    pub lun: i64,
    pub name: String,
    pub size_bytes: u64,
    /// libvirt encrypted it.
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct PointDocument {
    pub point: String,
    pub machine: String,
    pub vault: String,
    pub resource_group: String,
    pub taken_at: Option<Timestamp>,
    pub consistency: String,
    /// Why it is not better.
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// `snapshot`, `snapshot+vault` or `vault`.
    pub tier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_expires_at: Option<Timestamp>,
    /// Why there is no snapshot, or no more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub no_snapshot: String,
    /// Why it is not in the vault, where it never will be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub transfer_error: String,
    pub disks: Vec<DiskDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_disks: Vec<String>,
    /// What was done inside the machine around its instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestDocument>,
    /// How its last drill came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<ResultDocument>,
    pub id: String,
}

impl PointDocument {
    pub fn of(document: &Value, vault: &Vault, machine: &str) -> Self {
        let excluded =
            document["properties"]["recoveryPointDiskConfiguration"]["excludedDiskList"].as_array();
        let level = text(document, "/properties/recoveryPointType");
        let tiers = document["properties"]["recoveryPointTierDetails"].as_array();
        let is_in =
            |tier: &str| tiers.into_iter().flatten().any(|t| t["type"] == tier && t["status"] == "Valid");
        Self {
            point: text(document, "/name"),
            machine: machine.to_owned(),
            vault: vault.name.clone(),
            resource_group: vault.group.clone(),
            taken_at: some_time(document, "/properties/recoveryPointTime"),
            consistency: match level.as_str() {
                "AppConsistent" => "application".into(),
                "FileSystemConsistent" => "file-system".into(),
                "CrashConsistent" => "crash".into(),
                _ => level,
            },
            reason: text(document, "/properties/recoveryPointAdditionalInfo"),
            expires_at: some_time(document, "/properties/recoveryPointProperties/expiryTime"),
            tier: match (is_in("InstantRP"), is_in("HardenedRP")) {
                (true, true) => "snapshot+vault",
                (true, false) => "snapshot",
                _ => "vault",
            }
            .into(),
            snapshot_expires_at: some_time(document, "/properties/strongroomTier/snapshotExpiryTime"),
            no_snapshot: text(document, "/properties/strongroomTier/noSnapshotReason"),
            transfer_error: text(document, "/properties/strongroomTier/transferError"),
            disks: serde_json::from_value(document["properties"]["strongroomDisks"].clone())
                .unwrap_or_default(),
            excluded_disks: excluded.into_iter().flatten().map(|d| text(d, "/name")).collect(),
            guest: serde_json::from_value(document["properties"]["strongroomGuest"].clone()).ok(),
            drill: ResultDocument::of(&document["properties"]["drill"]),
            id: text(document, "/id"),
        }
    }
}

/// A time as filters have it.
fn quoted(at: Timestamp) -> String {
    format!("'{at}'")
}

/// The point that is named: `latest`, a name, or a time.
pub fn find_point(client: &Client, item: &Item, named: &str) -> Result<Value> {
    let path = format!("{}/recoveryPoints", item.path);
    if named.len() > 10 && named.bytes().all(|b| b.is_ascii_digit()) {
        return client.get(&format!("{path}/{}", segment(named)));
    }
    let filter = match named {
        "latest" => None,
        time => Some(when::parse(time, when::Sense::Until).map_err(|why| {
            Error::invalid(format!(
                "`{named}` names no recovery point: it is `latest`, a point's name (see `strongroom point list`) or a time; {why}"
            ))
        })?),
    };
    // Shown in whole seconds, a time means that second's end.
    let filter =
        filter.map(|until| until.checked_add(jiff::SignedDuration::from_millis(999)).unwrap_or(until));
    let filter = filter.map(|until| format!("endDate eq {}", quoted(until)));
    let mut first = None;
    client.pages(&path, filter.as_deref(), |page| {
        first = page.into_iter().next();
        false
    })?;
    first.ok_or_else(|| {
        let message = match named {
            "latest" => format!("machine `{}` has no recovery points yet", item.name),
            _ => format!(
                "machine `{}` has no recovery point as old as that; see `strongroom point list`",
                item.name
            ),
        };
        Error::not_found(message).into()
    })
}

pub fn run(command: PointCommand, context: &Context) -> Result<Outcome> {
    match command {
        PointCommand::List(arguments) => run_list(&arguments, context),
        PointCommand::Show(arguments) => show(&arguments, context),
    }
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let item = find_item(&client, &vault, &arguments.machine)?;
    let is_default = arguments.from.is_none() && arguments.to.is_none();
    let from = match (arguments.from, is_default) {
        (None, true) => Some(when::parse_from("30d").map_err(Error::invalid)?),
        (from, _) => from,
    };
    let mut terms = Vec::new();
    terms.extend(from.map(|at| format!("startDate eq {}", quoted(at))));
    terms.extend(arguments.to.map(|at| format!("endDate eq {}", quoted(at))));
    terms.extend(arguments.consistency.map(|c| literal_filter("recoveryPointType", c.arm_name())));
    let filter = Some(terms.join(" and ")).filter(|f| !f.is_empty());
    let found: Vec<PointDocument> = client
        .list(&format!("{}/recoveryPoints", item.path), filter.as_deref())?
        .iter()
        .map(|p| PointDocument::of(p, &vault, &item.name))
        .collect();
    context.print(&json!({ "points": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|p| {
                vec![
                    p.point.clone(),
                    super::common::shown_time(p.taken_at),
                    p.consistency.clone(),
                    p.tier.clone(),
                    p.expires_at.map_or_else(|| "-".into(), time),
                    p.drill.as_ref().map_or("-", |d| if d.passed { "passed" } else { "failed" }).into(),
                ]
            })
            .collect();
        table(&["POINT", "TAKEN", "CONSISTENCY", "TIER", "EXPIRES", "DRILL"], &rows)
    })?;
    if !context.json {
        if found.is_empty() {
            context.note(format_args!("no points of {}", item.name));
        }
        if is_default {
            context.note("of the last 30 days; --from looks further back");
        }
    }
    Ok(Outcome::Done)
}

fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let item = find_item(&client, &vault, &arguments.machine)?;
    let found = find_point(&client, &item, &arguments.point)?;
    let shown = PointDocument::of(&found, &vault, &item.name);
    context.print(&shown, || {
        let mut entries = vec![
            ("point", shown.point.clone()),
            ("machine", shown.machine.clone()),
            ("vault", format!("{} (group {})", shown.vault, shown.resource_group)),
            ("taken", super::common::shown_time(shown.taken_at)),
            ("consistency", consistency(&shown)),
            ("expires", shown.expires_at.map_or_else(|| "not by itself".into(), time)),
        ];
        entries.push(("tier", tier(&shown)));
        if let Some(guest) = &shown.guest {
            entries.push(("guest", guest.shown()));
        }
        if let Some(drill) = &shown.drill {
            entries.push(("drill", drill.shown()));
        }
        let disk = |d: &DiskDocument| {
            let encrypted = if d.encrypted { ", encrypted by libvirt" } else { "" };
            format!("{} ({}, LUN {}{encrypted})", d.name, size(d.size_bytes), d.lun)
        };
        entries.push(("disks", shown.disks.iter().map(disk).collect::<Vec<_>>().join(", ")));
        if !shown.excluded_disks.is_empty() {
            entries.push(("left out", shown.excluded_disks.join(", ")));
        }
        list(&entries)
    })?;
    Ok(Outcome::Done)
}

fn tier(point: &PointDocument) -> String {
    let mut told = point.tier.clone();
    if let Some(until) = point.snapshot_expires_at {
        told += &format!(" (the snapshot until {})", time(until));
    } else if !point.no_snapshot.is_empty() {
        told += &format!(" (no snapshot: {})", point.no_snapshot);
    }
    if !point.transfer_error.is_empty() {
        told += &format!("; it never came into the vault: {}", point.transfer_error);
    }
    told
}

pub fn consistency(point: &PointDocument) -> String {
    match point.reason.is_empty() {
        true => point.consistency.clone(),
        false => format!("{} ({})", point.consistency, point.reason),
    }
}
