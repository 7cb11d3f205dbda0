//! `strongroom point`: the recovery points of protected machines.

use super::common::{
    InVault, Item, Vault, find_item, find_vault, literal_filter, or_dash, some_text, some_time, text,
};
use super::vm::drill::ResultDocument;
use crate::client::{Client, segment};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, size, table, time};
use crate::when;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_engine::Error;

#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// List a machine's recovery points, the newest first.
    List(ListArgs),
    /// Show all that is known of a point.
    Show(ShowArgs),
    /// Adopt a point that is in a vault and that the catalog does not know.
    Adopt(AdoptArgs),
    /// Forget a point that the catalog does not know, or the row of one that is missing.
    Forget(ForgetArgs),
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
A point is kept until EXPIRES by the longest rule that is for it. The last point of a machine
(`the last`) stays beyond that until there is a newer one; of a machine whose protection was
stopped, all points are kept for ever.

Points that are in the vault and that the catalog does not know (put there by `image backup` or
`rescue vm backup`) are listed with --unmanaged; those of a vault that no service knows by
`strongroom rescue point list`.

Examples:
  strongroom point list web01
  strongroom point list --unmanaged --vault main
  strongroom point list web01 --from 2026-01-01 --to 2026-06-30 --consistency file-system
  strongroom point list web01 --from 52w --json | jq -r '.points[0].point'")]
pub struct ListArgs {
    /// The machine; GROUP/NAME where two groups have one of that name.
    #[arg(required_unless_present = "unmanaged")]
    machine: Option<String>,
    /// The vault's points that the catalog does not know, instead of a machine's.
    #[arg(long, conflicts_with_all = ["machine", "from", "to", "consistency"])]
    unmanaged: bool,
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

#[derive(Debug, Args)]
#[command(after_help = "\
It comes to the item of its machine; where there is none, a new one is made whose protection is
stopped. A point that a schedule made is kept by the item's policy from then on. One that was made with
a date, as by --keep-until, is kept until that. Any other was promised nothing, and never goes by itself:
those of `rescue vm backup` without --keep-until, too. Points of images cannot be adopted.

Example:
  strongroom point adopt 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --vault main")]
pub struct AdoptArgs {
    /// The point's id, as `strongroom point list --unmanaged` shows it.
    point: String,
    #[command(flatten)]
    vault: InVault,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["unmanaged", "missing"]))]
#[command(after_help = "\
Nothing is asked. With --unmanaged the point is gone at once, and its space is given back later. With
--missing the vault has lost the point already (see `strongroom vault show`): the loss is accepted.

Examples:
  strongroom point forget 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --unmanaged --vault main
  strongroom point forget 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --missing")]
pub struct ForgetArgs {
    /// The point's id.
    point: String,
    /// It is in the vault, and the catalog does not know it.
    #[arg(long)]
    unmanaged: bool,
    /// It is in the catalog, and missing in the vault.
    #[arg(long)]
    missing: bool,
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
    /// When it goes. None: not by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// By which rule: `Daily`, `Weekly`, `Monthly`, `Yearly`, `OnDemand`; or what keeps it beyond them, as in `held_by`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Of this policy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule_of_policy: String,
    /// `LastRecoveryPoint` (it goes when there is a newer one, at the earliest), `ProtectionStopped`, `SoftDeleted`, `NoPolicy`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub held_by: String,
    /// Why it was made: `scheduled`, `on-demand`, `before-restore` or `unknown`.
    pub made: String,
    /// The time of the schedule that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// `snapshot`, `snapshot+vault`, `vault`, or `missing` in the vault.
    pub tier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
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
    /// Those of them that nobody excluded, and why they are not in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub missed_disks: BTreeMap<String, String>,
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
        let missing_since = some_time(document, "/properties/strongroomTier/missingSince");
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
            rule: text(document, "/properties/recoveryPointProperties/ruleName"),
            rule_of_policy: text(document, "/properties/strongroomRetention/policyName"),
            held_by: text(document, "/properties/strongroomRetention/heldBy"),
            made: text(document, "/properties/strongroomRetention/reason"),
            scheduled_for: some_time(document, "/properties/strongroomRetention/scheduledTime"),
            tier: match (is_in("InstantRP"), is_in("HardenedRP")) {
                (true, true) => "snapshot+vault",
                (true, false) => "snapshot",
                // In the catalog, and not found in the vault.
                (false, false) if missing_since.is_some() => "missing",
                _ => "vault",
            }
            .into(),
            missing_since,
            snapshot_expires_at: some_time(document, "/properties/strongroomTier/snapshotExpiryTime"),
            no_snapshot: text(document, "/properties/strongroomTier/noSnapshotReason"),
            transfer_error: text(document, "/properties/strongroomTier/transferError"),
            disks: serde_json::from_value(document["properties"]["strongroomDisks"].clone())
                .unwrap_or_default(),
            excluded_disks: excluded.into_iter().flatten().map(|d| text(d, "/name")).collect(),
            missed_disks: document["properties"]["strongroomMissedDisks"]
                .as_array()
                .map(|disks| disks.iter().map(|d| (text(d, "/name"), text(d, "/reason"))).collect())
                .unwrap_or_default(),
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
        PointCommand::Adopt(arguments) => adopt(&arguments, context),
        PointCommand::Forget(arguments) => forget(&arguments, context),
    }
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let Some(machine) = &arguments.machine else { return list_unmanaged(&client, &vault, context) };
    let item = find_item(&client, &vault, machine)?;
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
                    p.expires_at.map_or_else(|| "never".into(), time),
                    kept_by(p),
                    p.drill.as_ref().map_or("-", |d| if d.passed { "passed" } else { "failed" }).into(),
                ]
            })
            .collect();
        table(&["POINT", "TAKEN", "CONSISTENCY", "TIER", "EXPIRES", "KEPT BY", "DRILL"], &rows)
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
            ("made", made(&shown)),
            ("expires", shown.expires_at.map_or_else(|| "never by itself".into(), time)),
            ("kept by", kept_by(&shown)),
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
            let disk = |name: &String| match shown.missed_disks.get(name) {
                Some(why) => format!("{name} ({why})"),
                None => name.clone(),
            };
            entries.push(("left out", shown.excluded_disks.iter().map(disk).collect::<Vec<_>>().join(", ")));
        }
        list(&entries)
    })?;
    Ok(Outcome::Done)
}

fn made(point: &PointDocument) -> String {
    match (point.made.as_str(), point.scheduled_for) {
        ("scheduled", Some(run)) => format!("by the schedule, for {}", time(run)),
        ("scheduled", None) => "by the schedule".into(),
        ("on-demand", _) => "on demand".into(),
        ("before-restore", _) => "before a restore replaced the disks".into(),
        _ => "unknown".into(),
    }
}

/// What keeps it: a rule of a policy, its own date, or what holds it beyond both.
fn kept_by(point: &PointDocument) -> String {
    let rule = match point.rule.as_str() {
        "Daily" => "daily",
        "Weekly" => "weekly",
        "Monthly" => "monthly",
        "Yearly" => "yearly",
        "OnDemand" => "on demand",
        "ProtectionStopped" => "stopped protection",
        "SoftDeleted" => "soft delete",
        "NoPolicy" => "no policy yet",
        // Nothing of it is there: neither in the vault nor as a snapshot.
        "" if point.missing_since.is_some() => "-",
        "" => "its snapshot",
        other => other,
    };
    let mut told = rule.to_owned();
    if !point.rule_of_policy.is_empty() {
        told += &format!(" of {}", point.rule_of_policy);
    }
    if point.held_by == "LastRecoveryPoint" {
        told += ", the last";
    }
    told
}

fn tier(point: &PointDocument) -> String {
    let mut told = point.tier.clone();
    if let Some(until) = point.snapshot_expires_at {
        told += &format!(" (the snapshot until {})", time(until));
    } else if !point.no_snapshot.is_empty() {
        told += &format!(" (no snapshot: {})", point.no_snapshot);
    }
    if let Some(since) = point.missing_since {
        told += &format!(", not found in the vault since {}", time(since));
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

/// A point that the catalog does not know.
#[derive(Debug, Serialize)]
struct UnmanagedDocument {
    point: String,
    vault: String,
    item: String,
    /// `machine` or `image`; empty where it cannot be read.
    kind: String,
    taken_at: Option<Timestamp>,
    size_bytes: u64,
    stored_bytes: u64,
    can_be_adopted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl UnmanagedDocument {
    fn of(document: &Value, vault: &Vault) -> Self {
        let number = |name: &str| document["properties"][name].as_u64().unwrap_or(0);
        Self {
            point: text(document, "/name"),
            vault: vault.name.clone(),
            item: text(document, "/properties/item"),
            kind: text(document, "/properties/kind"),
            taken_at: some_time(document, "/properties/recoveryPointTime"),
            size_bytes: number("sizeBytes"),
            stored_bytes: number("storedBytes"),
            can_be_adopted: document["properties"]["canBeAdopted"].as_bool().unwrap_or(false),
            problem: some_text(document, "/properties/problem"),
        }
    }
}

const UNMANAGED: &str = "/providers/Strongroom.Backup/unmanagedPoints";

fn list_unmanaged(client: &Client, vault: &Vault, context: &Context) -> Result<Outcome> {
    let found: Vec<UnmanagedDocument> =
        client.list(&vault.at(UNMANAGED), None)?.iter().map(|p| UnmanagedDocument::of(p, vault)).collect();
    context.print(&json!({ "unmanaged": found }), || {
        if found.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|p| {
                vec![
                    or_dash(&p.point),
                    or_dash(&p.item),
                    or_dash(&p.kind),
                    super::common::shown_time(p.taken_at),
                    size(p.size_bytes),
                    size(p.stored_bytes),
                ]
            })
            .collect();
        table(&["POINT", "ITEM", "KIND", "TAKEN", ">SIZE", ">STORED"], &rows)
    })?;
    for point in &found {
        if let Some(problem) = &point.problem {
            context.warn(format_args!("a point cannot be read: {problem}"));
        }
    }
    if !context.json {
        context.note(match found.is_empty() {
            true => format!("vault {} has no points that the catalog does not know", vault.name),
            false => "`strongroom point adopt` tells the catalog of one; `strongroom point forget --unmanaged` removes it".into(),
        });
    }
    Ok(Outcome::Done)
}

fn adopt(arguments: &AdoptArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let path = vault.at(&format!("{UNMANAGED}/{}/adopt", segment(&arguments.point)));
    let answer = client.post(&path, None)?.body;
    let (machine, point) = (text(&answer, "/machine"), text(&answer, "/recoveryPoint"));
    let shown =
        json!({ "machine": machine, "point": point, "vault": vault.name, "id": text(&answer, "/id") });
    context.print(&shown, || {
        list(&[("adopted", point.clone()), ("machine", machine.clone()), ("vault", vault.name.clone())])
    })?;
    Ok(Outcome::Done)
}

fn forget(arguments: &ForgetArgs, context: &Context) -> Result<Outcome> {
    let client = Client::connect(&arguments.vault.service, context)?;
    let vault = find_vault(&client, &arguments.vault)?;
    let kind = if arguments.missing { "/providers/Strongroom.Backup/missingPoints" } else { UNMANAGED };
    client.delete(&vault.at(&format!("{kind}/{}", segment(&arguments.point))))?;
    let shown = json!({ "forgotten": arguments.point, "vault": vault.name });
    context.print(&shown, || format!("forgotten: {} of vault {}\n", arguments.point, vault.name))?;
    Ok(Outcome::Done)
}
