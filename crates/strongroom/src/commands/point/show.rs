//! What points a machine has, and all that is known of one.

use super::document::{DiskDocument, PointDocument, consistency, kept_by, made, tier};
use super::find::{find_point, quoted};
use super::unmanaged::list_unmanaged;
use crate::client::Client;
use crate::commands::common::{InVault, find_item, find_vault, literal_filter};
use crate::context::{Context, Outcome};
use crate::failure::Result;
use crate::text::{list, size, table, time};
use crate::when;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use strongroom_engine::Error;

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

pub(super) fn list_points(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
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
                    crate::commands::common::shown_time(p.taken_at),
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

pub(super) fn show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
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
            ("taken", crate::commands::common::shown_time(shown.taken_at)),
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
