//! `strongroom rescue point`: recovery points of a vault at a location.

use crate::context::{Context, Outcome};
use crate::options::VaultArgs;
use crate::signals::Interrupt;
use crate::text::{list, shell_word, size, table, time};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use strongroom_domain::{ItemName, PointId, PointSelector};
use strongroom_engine::serve::{Listen, serve};
use strongroom_engine::{Result, points, vaults};
use strongroom_store::{Manifest, OutOfSight, PointList};

#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// List the recovery points of a vault.
    List(ListArgs),
    /// Show all that is known of a point.
    Show(ShowArgs),
    /// Forget a point. It is gone at once; `strongroom rescue vault reclaim` gives its space back.
    Forget(ForgetArgs),
    /// Export a point's disks over NBD, read-only, without restoring them.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Points are listed oldest first. Exit status 1 if any cannot be read (those are listed too), or if the vault is known to have
more than is to be seen.

Examples:
  strongroom rescue point list --vault /srv/backup/vault
  strongroom rescue point list --vault s3://backups/host1 --item web01 --json")]
pub struct ListArgs {
    #[command(flatten)]
    vault: VaultArgs,
    /// Only this item's.
    #[arg(long, value_name = "NAME")]
    item: Option<ItemName>,
}

/// A point by id, `ITEM@latest` or `ITEM@TIME`.
#[derive(Debug, Args)]
pub struct PointArg {
    /// The point: its id, ITEM@latest, or ITEM@TIME (the last one taken at or before that time).
    point: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom rescue point show web01@latest --vault /srv/backup/vault
  strongroom rescue point show web01@2026-11-21T20:30 --vault /srv/backup/vault --json")]
pub struct ShowArgs {
    #[command(flatten)]
    point: PointArg,
    #[command(flatten)]
    vault: VaultArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is asked. Other points lose nothing: what they share stays. Refused where the vault says that it is immutable.

Example:
  strongroom rescue point forget 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --vault /srv/backup/vault")]
pub struct ForgetArgs {
    #[command(flatten)]
    point: PointArg,
    #[command(flatten)]
    vault: VaultArgs,
    /// Also where the vault is immutable.
    #[arg(long)]
    although_immutable: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("listen").required(true).args(["socket", "tcp"]))]
#[command(after_help = "\
Every disk is an export of its own name; the only one, or --disk, is also what clients get that name none.
Runs until it is stopped with Ctrl-C or SIGTERM.

Examples:
  strongroom rescue point serve web01@latest --vault /srv/backup/vault --socket /run/web01.sock
  nbdinfo --list 'nbd+unix:///?socket=/run/web01.sock'
  qemu-img convert 'nbd+unix:///vda?socket=/run/web01.sock' vda.raw
  guestfish --ro --format=raw -a 'nbd://?socket=/run/web01.sock' -i")]
pub struct ServeArgs {
    #[command(flatten)]
    point: PointArg,
    #[command(flatten)]
    vault: VaultArgs,
    /// The disk that clients get who name none.
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,
    /// Listen on a Unix socket, for its owner only.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Listen on a loopback address, as in 127.0.0.1:10809; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Option<SocketAddr>,
}

pub fn run(command: PointCommand, context: &Context, interrupt: &Interrupt) -> Result<Outcome> {
    match command {
        PointCommand::List(arguments) => run_list(&arguments, context),
        PointCommand::Show(arguments) => run_show(&arguments, context),
        PointCommand::Forget(arguments) => run_forget(&arguments, context),
        PointCommand::Serve(arguments) => run_serve(&arguments, context, interrupt),
    }
}

#[derive(Serialize)]
struct ListDocument<'a> {
    points: &'a [Manifest],
    damaged: Vec<DamagedDocument>,
    /// What the vault is known to have and is not to be seen, in words; of all its items.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_sight: Option<String>,
}

#[derive(Serialize)]
struct DamagedDocument {
    object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<PointId>,
    error: String,
}

fn sum(point: &Manifest, of: fn(&strongroom_store::Disk) -> u64) -> u64 {
    point.disks.iter().map(of).sum()
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open_vault(&arguments.vault)?;
    let PointList { points, damaged } = vault.points(arguments.item.as_ref())?;
    let damaged: Vec<DamagedDocument> = damaged
        .into_iter()
        .map(|d| DamagedDocument { object: d.object, point: d.point, error: d.error.to_string() })
        .collect();
    let out = vault.out_of_sight()?;
    let document = ListDocument { points: &points, damaged, out_of_sight: out_of_sight(&out) };
    context.print(&document, || {
        if points.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = points
            .iter()
            .map(|p| {
                vec![
                    p.point.to_string(),
                    p.item.to_string(),
                    time(p.taken_at),
                    points::kind_name(p.kind).to_owned(),
                    p.consistency.level.to_string(),
                    p.disks.len().to_string(),
                    size(sum(p, |d| d.size_bytes)),
                    size(sum(p, |d| d.changed_bytes)),
                    size(p.stored_bytes),
                ]
            })
            .collect();
        let headings =
            ["POINT", "ITEM", "TAKEN", "KIND", "CONSISTENCY", ">DISKS", ">SIZE", ">CHANGED", ">STORED"];
        table(&headings, &rows)
    })?;
    if points.is_empty() && document.damaged.is_empty() && !context.json {
        context.note(match &arguments.item {
            Some(item) => format!("no points of item {item}"),
            None => "no points".into(),
        });
    }
    for damaged in &document.damaged {
        let which = damaged.point.map_or_else(|| damaged.object.clone(), |id| format!("point {id}"));
        let what_to_do = match damaged.point {
            Some(_) => "`strongroom rescue point forget` removes it",
            None => "its name is of no point: if it is none of the vault's, take it out by hand",
        };
        context.warn(format_args!("{which} cannot be read: {}. {what_to_do}", damaged.error));
    }
    if let Some(told) = &document.out_of_sight {
        warn_out_of_sight(context, told);
    }
    let is_whole = document.damaged.is_empty() && document.out_of_sight.is_none();
    Ok(if is_whole { Outcome::Done } else { Outcome::Damage })
}

/// In words what is out of sight, if anything is.
pub(super) fn out_of_sight(out: &OutOfSight) -> Option<String> {
    (!out.is_nothing()).then(|| out.told())
}

pub(super) fn warn_out_of_sight(context: &Context, told: &str) {
    context.warn(format_args!(
        "of what the vault holds, this is not to be seen: {told}. Mount or restore it; `strongroom rescue vault check` says more"
    ));
}

fn run_show(arguments: &ShowArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open_vault(&arguments.vault)?;
    let point = points::find(&vault, &arguments.point.point)?;
    context.print(&point, || {
        let mut entries = vec![
            ("point", point.point.to_string()),
            ("item", point.item.to_string()),
            ("kind", points::kind_name(point.kind).to_owned()),
            ("taken", time(point.taken_at)),
            ("committed", time(point.committed_at)),
            ("consistency", point.consistency.to_string()),
            ("parent", point.parent.map_or_else(|| "none".into(), |p| p.to_string())),
            ("stored", size(point.stored_bytes)),
        ];
        for (name, value) in &point.attributes {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            entries.push((name, shown));
        }
        if let Some(definition) = &point.definition {
            entries.push(("definition", format!("{}, with --json", definition.kind)));
        }
        let encrypted = strongroom_engine::machine::encryption::encrypted_disks(&point);
        if !encrypted.is_empty() {
            let names: Vec<String> = encrypted.into_iter().collect();
            entries.push(("encrypted by libvirt", names.join(", ")));
        }
        entries.extend(point.warnings.iter().map(|warning| ("warning", warning.clone())));
        let mut text = list(&entries);
        let rows: Vec<Vec<String>> = point
            .disks
            .iter()
            .map(|d| {
                vec![
                    d.name.clone(),
                    size(d.size_bytes),
                    size(d.read_bytes),
                    size(d.changed_bytes),
                    size(d.new_bytes),
                    d.full_reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["DISK", ">SIZE", ">READ", ">CHANGED", ">NEW", "WHY READ FULLY"], &rows));
        text
    })?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct ForgetDocument {
    forgotten: PointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<ItemName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_at: Option<jiff::Timestamp>,
}

fn run_forget(arguments: &ForgetArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open_vault(&arguments.vault)?;
    vaults::refuse_immutable(&vault, arguments.although_immutable)?;
    let selector = points::parse_selector(&arguments.point.point)?;
    let document = match (vault.find_point(&selector), &selector) {
        (Ok(point), _) => {
            ForgetDocument { forgotten: point.point, item: Some(point.item), taken_at: Some(point.taken_at) }
        }
        // By its id even a damaged one can go.
        (Err(error), PointSelector::Id(id)) if error.is_damage() => {
            ForgetDocument { forgotten: *id, item: None, taken_at: None }
        }
        (Err(error), _) => return Err(error.into()),
    };
    let whose = document.item.as_ref().map_or_else(|| "damaged".into(), |item| format!("of {item}"));
    super::log::note(
        &vault,
        context,
        "point forget",
        format!("forgets point {}, {whose}", document.forgotten),
    );
    vault.forget(&document.forgotten, "`rescue point forget`")?;
    context.print(&document, || match (&document.item, document.taken_at) {
        (Some(item), Some(taken_at)) => {
            format!("forgotten: point {} of {item}, taken {}\n", document.forgotten, time(taken_at))
        }
        _ => format!("forgotten: point {}, which was damaged\n", document.forgotten),
    })?;
    context.note(format_args!(
        "`strongroom rescue vault reclaim {}` gives its space back",
        shell_word(vault.location())
    ));
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct ServeDocument {
    point: PointId,
    item: ItemName,
    /// What clients get who name no disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    exports: Vec<ExportDocument>,
}

#[derive(Serialize)]
struct ExportDocument {
    disk: String,
    size_bytes: u64,
    uri: String,
}

fn run_serve(arguments: &ServeArgs, context: &Context, interrupt: &Interrupt) -> Result<Outcome> {
    let listen = match (&arguments.socket, arguments.tcp) {
        (Some(path), _) => Listen::Unix(path.clone()),
        (None, Some(address)) => Listen::Tcp(address),
        (None, None) => return Err(strongroom_engine::Error::invalid("give --socket or --tcp")),
    };
    let vault = context.open_vault(&arguments.vault)?;
    let selector = points::parse_selector(&arguments.point.point)?;
    let serving = serve(&vault, &selector, arguments.disk.as_deref(), &listen)?;
    let document = ServeDocument {
        point: serving.point.point,
        item: serving.point.item.clone(),
        default: serving.default_disk.clone(),
        exports: serving
            .exports
            .iter()
            .map(|e| ExportDocument { disk: e.disk.clone(), size_bytes: e.size_bytes, uri: e.uri.clone() })
            .collect(),
    };
    context.print(&document, || {
        let rows: Vec<Vec<String>> = document
            .exports
            .iter()
            .map(|e| vec![e.disk.clone(), size(e.size_bytes), e.uri.clone()])
            .collect();
        table(&["DISK", ">SIZE", "URI"], &rows)
    })?;
    if let (false, Some(first)) = (context.json, document.exports.first()) {
        let uri = &first.uri;
        context.note(format_args!(
            "Point {} of {} is served read-only until this is stopped (Ctrl-C). For example:\n  \
             nbdinfo '{uri}'\n  nbdcopy '{uri}' disk.raw\n  qemu-img convert -f raw '{uri}' disk.raw",
            document.point, document.item
        ));
    }
    interrupt.wait();
    serving.stop();
    Ok(Outcome::Done)
}
