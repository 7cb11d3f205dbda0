//! `strongroom rescue vm`: machines under libvirt and a vault's location, without the service.

use crate::commands::vm::untrack::UntrackedDocument;
use crate::context::{Context, Outcome};
use crate::options::{KeyArgs, ReachArgs, VaultArgs, local_path, parse_location};
use crate::text::{count, duration, list, rate, shell_word, size, table, time};
use crate::when;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use strongroom_domain::{Consistency, ItemName, PointId};
use strongroom_engine::machine::record::TimingsRecord;
use strongroom_engine::machine::{self, DiskBackup, ListedMachine, MachineBackup, MachineRestore};
use strongroom_engine::{Result, points};
use strongroom_hypervisor::{
    AgentState, DiskFormat, Hypervisor as _, Libvirt, LibvirtOptions, NetworkChoice, Road,
};
use strongroom_store::Kept;
use strongroom_store::objects::Location;

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List the machines that are found, and when each was backed up last.
    List(ListArgs),
    /// Back up a machine, running or not.
    Backup(BackupArgs),
    /// Restore a point of a machine as a new machine.
    Restore(RestoreArgs),
    /// Take away what backups leave in a machine to follow its changes.
    Untrack(UntrackArgs),
}

/// Which libvirt.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    /// The libvirt to talk to.
    #[arg(long, value_name = "URI", env = "LIBVIRT_DEFAULT_URI", default_value = "qemu:///system")]
    connect: String,
}

impl HostArgs {
    fn libvirt(&self) -> Libvirt {
        Libvirt::new(LibvirtOptions { uri: self.connect.clone(), ..LibvirtOptions::default() })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --vault the last point is the newest in that vault; without it no vault is opened.

Examples:
  strongroom rescue vm list
  strongroom rescue vm list --vault /srv/backup/vault --json")]
pub struct ListArgs {
    /// Show last points of this vault: a directory or s3://bucket/prefix.
    #[arg(long, value_name = "LOCATION", env = "STRONGROOM_VAULT", hide_env_values = true, value_parser = parse_location)]
    vault: Option<Location>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
All disks are taken at one instant, at the best consistency that can be had: with a guest agent
inside, its file systems are frozen for that instant. The machine goes on running. The first backup
reads what is allocated, later ones what changed since, where that is known; the result says of
each disk which it was, and why.

On storage that can clone files (XFS, btrfs) clones are read, and the machine notices nothing of it.
Elsewhere QEMU keeps what the guest overwrites meanwhile in scratch files beside the disks, or in
--scratch-dir.

Examples:
  strongroom rescue vm backup web01 --vault /srv/backup/vault
  strongroom rescue vm backup web01 --vault s3://backups/host1 --exclude vdb --json
  strongroom rescue vm backup web01 --vault /srv/backup/vault --keep-until 2w")]
pub struct BackupArgs {
    /// The machine's name.
    name: String,
    #[command(flatten)]
    vault: VaultArgs,
    /// Leave out this disk; may be given several times.
    #[arg(long, value_name = "DISK")]
    exclude: Vec<String>,
    /// Fail when a disk that is not excluded cannot be backed up; else that is a warning.
    #[arg(long)]
    require_all_disks: bool,
    /// Where scratch files go; the user QEMU runs as must be able to enter.
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// Promise that the point is kept until then, once a service adopts it: a date, a time, or so long from now (90d).
    #[arg(long, value_name = "TIME", value_parser = when::parse_keep)]
    keep_until: Option<jiff::Timestamp>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Checkpoints in libvirt, bitmaps in qcow2 images, clones beside raw disks: while they are there `virsh
undefine` wants --checkpoints-metadata, and snapshots within the images cannot be reverted to. The
next backup reads everything once (only what changed is stored).

Example:
  strongroom rescue vm untrack web01")]
pub struct UntrackArgs {
    /// The machine's name.
    name: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The new machine has a UUID and MAC addresses of its own, and is not started. Its disks go to
--storage (made if only it is missing), else to the directory the machine's disks were in, else to
libvirt's pool `default`, as NAME-DISK.FORMAT. What exists is never overwritten, and what fails or
is stopped leaves nothing.

Examples:
  strongroom rescue vm restore web01@latest --vault /srv/backup/vault --as web01-restored
  strongroom rescue vm restore web01@2026-11-21 --vault /srv/vault --as test --network lan
  strongroom rescue vm restore web01@latest --vault s3://backups/host1 --as data --disk vdb")]
pub struct RestoreArgs {
    /// The point: its id, ITEM@latest, or ITEM@TIME (the last one taken at or before that time).
    point: String,
    #[command(flatten)]
    vault: VaultArgs,
    /// The new machine's name.
    #[arg(long = "as", value_name = "NEW_NAME")]
    new_name: String,
    /// The directory its disks go to.
    #[arg(long, value_name = "DIR", value_parser = local_path())]
    storage: Option<PathBuf>,
    /// Connect all its interfaces to this virtual network; default: as it was.
    #[arg(long, value_name = "NET", conflicts_with = "no_network")]
    network: Option<String>,
    /// No network interfaces.
    #[arg(long)]
    no_network: bool,
    /// Only this disk; may be given several times.
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<String>,
    /// The format of its disks; default: as each was.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Disks that libvirt encrypted are restored without encryption; default: each is encrypted, with a new key that
    /// libvirt keeps.
    #[arg(long)]
    unencrypted: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
        }
    }
}

pub fn run(command: VmCommand, context: &Context) -> Result<Outcome> {
    match command {
        VmCommand::List(arguments) => run_list(&arguments, context),
        VmCommand::Backup(arguments) => run_backup(arguments, context),
        VmCommand::Restore(arguments) => run_restore(arguments, context),
        VmCommand::Untrack(arguments) => run_untrack(&arguments, context),
    }
}

fn run_untrack(arguments: &UntrackArgs, context: &Context) -> Result<Outcome> {
    let gone = arguments.host.libvirt().untrack(&arguments.name)?;
    let done = UntrackedDocument {
        machine: arguments.name.clone(),
        checkpoints: gone.checkpoints as u64,
        warnings: gone.warnings,
    };
    crate::commands::vm::untrack::show(context, &[done], true)
}

#[derive(Serialize)]
struct ListDocument {
    machines: Vec<MachineDocument>,
}

#[derive(Serialize)]
struct MachineDocument {
    name: String,
    uuid: String,
    state: strongroom_hypervisor::MachineState,
    persistent: bool,
    agent: Option<AgentState>,
    disks: Vec<DiskDocument>,
    last_point: Option<LastPoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct DiskDocument {
    name: String,
    bus: String,
    source: Option<String>,
    format: Option<DiskFormat>,
    size_bytes: Option<u64>,
    allocated_bytes: Option<u64>,
    /// Why it is not backed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Serialize)]
struct LastPoint {
    point: PointId,
    taken_at: jiff::Timestamp,
    consistency: Consistency,
}

fn machine_document(listed: &ListedMachine) -> MachineDocument {
    let disks = listed.machine.iter().flat_map(|m| &m.disks).map(|d| DiskDocument {
        name: d.target.clone(),
        bus: d.bus.clone(),
        source: d.source.path().map(|p| p.display().to_string()),
        format: d.format,
        size_bytes: d.size_bytes,
        allocated_bytes: d.allocated_bytes,
        skipped: d.skipped.clone(),
    });
    MachineDocument {
        name: listed.summary.name.clone(),
        uuid: listed.summary.uuid.clone(),
        state: listed.summary.state,
        persistent: listed.summary.persistent,
        agent: listed.machine.as_ref().map(|m| m.agent),
        disks: disks.collect(),
        last_point: listed.last_point.as_ref().map(|p| LastPoint {
            point: p.point,
            taken_at: p.taken_at,
            consistency: p.consistency.clone(),
        }),
        problem: listed.problem.clone(),
    }
}

fn run_list(arguments: &ListArgs, context: &Context) -> Result<Outcome> {
    let points = match &arguments.vault {
        Some(location) => context.open(location, &arguments.key, &arguments.reach)?.points(None)?.points,
        None => Vec::new(),
    };
    let found = machine::list(&arguments.host.libvirt(), &points)?;
    let document = ListDocument { machines: found.iter().map(machine_document).collect() };
    for machine in &document.machines {
        if let Some(problem) = &machine.problem {
            context.warn(format_args!("machine {} could not be looked at: {problem}", machine.name));
        }
    }
    context.print(&document, || {
        if document.machines.is_empty() {
            return String::new();
        }
        let rows: Vec<Vec<String>> = found.iter().zip(&document.machines).map(list_row).collect();
        table(&["NAME", "STATE", "AGENT", ">DISKS", ">SIZE", "LAST POINT", "CONSISTENCY"], &rows)
    })?;
    if document.machines.is_empty() && !context.json {
        context.note(format_args!("no machines at {}", arguments.host.connect));
    }
    Ok(Outcome::Done)
}

fn list_row((listed, document): (&ListedMachine, &MachineDocument)) -> Vec<String> {
    let taken: Vec<&DiskDocument> = document.disks.iter().filter(|d| d.skipped.is_none()).collect();
    let agent = match document.agent {
        None => "?",
        Some(AgentState::Connected) => "yes",
        Some(AgentState::NotConnected) if listed.summary.state.is_active() => "not running",
        Some(AgentState::NotConnected) => "off",
        Some(AgentState::NoChannel) => "none",
    };
    let last = document.last_point.as_ref();
    vec![
        document.name.clone(),
        document.state.to_string(),
        agent.to_owned(),
        taken.len().to_string(),
        size(taken.iter().filter_map(|d| d.size_bytes).sum()),
        last.map_or_else(|| "-".into(), |p| time(p.taken_at)),
        last.map_or_else(|| "-".into(), |p| p.consistency.level.to_string()),
    ]
}

#[derive(Serialize)]
struct BackupDocument {
    point: PointId,
    item: ItemName,
    taken_at: jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<PointId>,
    consistency: Consistency,
    size_bytes: u64,
    extents_read: u64,
    read_bytes: u64,
    changed_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    timings: TimingsRecord,
    disks: Vec<DiskBackupDocument>,
    skipped: Vec<SkippedDocument>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DiskBackupDocument {
    name: String,
    size_bytes: u64,
    road: Road,
    incremental: bool,
    extents_read: u64,
    read_bytes: u64,
    changed_bytes: u64,
    new_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_reason: Option<String>,
}

#[derive(Serialize)]
struct SkippedDocument {
    name: String,
    reason: String,
}

impl BackupDocument {
    fn new(backup: MachineBackup) -> Self {
        let MachineBackup { point, disks, skipped, warnings, timings, elapsed } = backup;
        let sum = |of: fn(&DiskBackup) -> u64| disks.iter().map(of).sum();
        Self {
            size_bytes: sum(|d| d.size_bytes),
            extents_read: sum(|d| d.extents),
            read_bytes: sum(|d| d.read_bytes),
            changed_bytes: sum(|d| d.changed_bytes),
            new_bytes: sum(|d| d.new_bytes),
            stored_bytes: point.stored_bytes,
            seconds: elapsed.as_secs_f64(),
            timings: timings.into(),
            disks: disks
                .into_iter()
                .map(|d| DiskBackupDocument {
                    name: d.name,
                    size_bytes: d.size_bytes,
                    road: d.road,
                    incremental: d.incremental,
                    extents_read: d.extents,
                    read_bytes: d.read_bytes,
                    changed_bytes: d.changed_bytes,
                    new_bytes: d.new_bytes,
                    full_reason: d.full_reason,
                })
                .collect(),
            skipped: skipped.into_iter().map(|(name, reason)| SkippedDocument { name, reason }).collect(),
            point: point.point,
            item: point.item,
            taken_at: point.taken_at,
            parent: point.parent,
            consistency: point.consistency,
            warnings,
        }
    }
}

fn run_backup(arguments: BackupArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open_vault_to_write(&arguments.vault)?;
    let options = machine::BackupOptions {
        exclude: arguments.exclude.into_iter().collect::<BTreeSet<_>>(),
        require_all_disks: arguments.require_all_disks,
        scratch_dir: arguments.scratch_dir,
        kept: Some(Kept::on_demand(when::in_future(arguments.keep_until)?)),
        ..machine::BackupOptions::default()
    };
    let libvirt = arguments.host.libvirt();
    let name = &arguments.name;
    let backup = context.watch(&format!("backing up {name}"), || {
        machine::backup(&libvirt, &vault, name, &options, &context.progress)
    })?;
    super::log::note(
        &vault,
        context,
        "vm backup",
        format!("made point {} of {}", backup.point.point, backup.point.item),
    );
    let document = BackupDocument::new(backup);
    for warning in &document.warnings {
        context.warn(warning);
    }
    context.print(&document, || backup_text(&document))?;
    Ok(Outcome::Done)
}

fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "no".into(), |ms| format!("{ms:.0} ms"))
}

fn road_name(road: Road) -> &'static str {
    match road {
        Road::Clone => "clone",
        Road::PullJob => "pull job",
        Road::Offline => "disk itself",
    }
}

fn backup_text(document: &BackupDocument) -> String {
    // Of little there is no rate worth showing.
    let speed = match document.seconds {
        s if s > 0.0 && document.read_bytes >= 16 << 20 => {
            format!(", {}", rate(document.read_bytes as f64 / s))
        }
        _ => String::new(),
    };
    let mut text = list(&[
        ("point", document.point.to_string()),
        ("item", document.item.to_string()),
        ("consistency", document.consistency.to_string()),
        (
            "held",
            format!(
                "frozen: {}, suspended: {}",
                milliseconds(document.timings.frozen_ms),
                milliseconds(document.timings.suspended_ms)
            ),
        ),
        ("size", size(document.size_bytes)),
        (
            "read",
            format!("{} in {}{speed}", size(document.read_bytes), count(document.extents_read, "extent")),
        ),
        ("changed", size(document.changed_bytes)),
        ("new", size(document.new_bytes)),
        ("stored", size(document.stored_bytes)),
        ("time", duration(Duration::from_secs_f64(document.seconds))),
    ]);
    let rows: Vec<Vec<String>> = document
        .disks
        .iter()
        .map(|d| {
            let how = match (d.incremental, &d.full_reason) {
                (true, _) => "what changed".to_owned(),
                (false, None) => "everything".into(),
                (false, Some(why)) => format!("everything: {why}"),
            };
            vec![
                d.name.clone(),
                size(d.size_bytes),
                road_name(d.road).to_owned(),
                size(d.read_bytes),
                size(d.changed_bytes),
                size(d.new_bytes),
                how,
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["DISK", ">SIZE", "FROM", ">READ", ">CHANGED", ">NEW", "WHAT WAS READ"], &rows));
    for skipped in &document.skipped {
        text.push_str(&format!("{} was left out: {}\n", skipped.name, skipped.reason));
    }
    text
}

#[derive(Serialize)]
struct RestoreDocument {
    point: PointId,
    item: ItemName,
    taken_at: jiff::Timestamp,
    machine: String,
    uuid: String,
    storage: String,
    size_bytes: u64,
    data_bytes: u64,
    seconds: f64,
    disks: Vec<DiskRestoreDocument>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DiskRestoreDocument {
    name: String,
    path: String,
    format: DiskFormat,
    size_bytes: u64,
    data_bytes: u64,
}

impl RestoreDocument {
    fn new(restored: MachineRestore) -> Self {
        let MachineRestore { point, name, uuid, storage, disks, warnings, elapsed, .. } = restored;
        Self {
            size_bytes: disks.iter().map(|d| d.size_bytes).sum(),
            data_bytes: disks.iter().map(|d| d.data_bytes).sum(),
            seconds: elapsed.as_secs_f64(),
            disks: disks
                .into_iter()
                .map(|d| DiskRestoreDocument {
                    name: d.name,
                    path: d.path.display().to_string(),
                    format: d.format,
                    size_bytes: d.size_bytes,
                    data_bytes: d.data_bytes,
                })
                .collect(),
            point: point.point,
            item: point.item,
            taken_at: point.taken_at,
            machine: name,
            uuid,
            storage: storage.display().to_string(),
            warnings,
        }
    }
}

fn run_restore(arguments: RestoreArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open_vault(&arguments.vault)?;
    let selector = points::parse_selector(&arguments.point)?;
    let options = machine::RestoreOptions {
        new_name: arguments.new_name,
        storage: arguments.storage,
        network: match (arguments.network, arguments.no_network) {
            (Some(network), _) => NetworkChoice::Network(network),
            (None, true) => NetworkChoice::None,
            (None, false) => NetworkChoice::Keep,
        },
        disks: arguments.disks,
        format: arguments.format.map(Into::into),
        unencrypted: arguments.unencrypted,
        planned: None,
    };
    let libvirt = arguments.host.libvirt();
    let restored = context.watch(&format!("restoring {}", options.new_name), || {
        machine::restore(&libvirt, &vault, &selector, &options, &context.progress)
    })?;
    let document = RestoreDocument::new(restored);
    for warning in &document.warnings {
        context.warn(warning);
    }
    context.print(&document, || {
        let speed = document.data_bytes as f64 / document.seconds.max(1e-3);
        let mut text = list(&[
            (
                "machine",
                format!(
                    "{} (shut off; `virsh start {}` starts it)",
                    document.machine,
                    shell_word(&document.machine)
                ),
            ),
            ("uuid", document.uuid.clone()),
            ("point", document.point.to_string()),
            ("item", document.item.to_string()),
            ("taken", time(document.taken_at)),
            ("size", size(document.size_bytes)),
            ("data", format!("{}, {}", size(document.data_bytes), rate(speed))),
            ("time", duration(Duration::from_secs_f64(document.seconds))),
        ]);
        let rows: Vec<Vec<String>> = document
            .disks
            .iter()
            .map(|d| {
                vec![
                    d.name.clone(),
                    size(d.size_bytes),
                    size(d.data_bytes),
                    d.format.name().into(),
                    d.path.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["DISK", ">SIZE", ">DATA", "FORMAT", "FILE"], &rows));
        text
    })?;
    Ok(Outcome::Done)
}
