//! `strongroom image`: disk images and block devices.

use crate::context::{Context, Outcome};
use crate::options::{VaultArgs, local_path};
use crate::text::{duration, list, rate, size};
use crate::when;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;
use strongroom_domain::{Consistency, ItemName, PointId};
use strongroom_engine::image::{BackupOptions, ImageBackup, SourceFormat, StreamOptions};
use strongroom_engine::restore::{RestoreOptions, Restored};
use strongroom_engine::target::DiskFormat;
use strongroom_engine::{Error, Result, image, machine, points, restore};
use strongroom_store::{Manifest, ReadSession};

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Back up a disk image or block device.
    Backup(BackupArgs),
    /// Restore a disk of a point to a new file, or to a block device.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
The first backup of an item reads everything. Later ones read everything too and store what changed, unless
--changed-extents says what to look at: a JSON list of {\"offset\": bytes, \"length\": bytes} relative to the item's
last point ([] if nothing changed).

A file that begins as a qcow2 image is read as one if it refers to no other file; everything else is read raw unless
--source-format says otherwise, with a warning if it looks like another format. An image that its format's own check finds
damaged, one that was cut short say, is refused. Disks of running machines are better backed up with `strongroom vm backup`.

With - standard input is read to its end, of whatever length, and stored as it is. A program that fails half way looks
like one that has come to its end: where the length is known beforehand, --size makes no point of another; else look
at the program's status (`set -o pipefail`) and forget the point if it failed.

Examples:
  strongroom image backup appliance.qcow2 --vault /srv/backup/vault --item appliance
  lvcreate -s -n data-snap -L 5G vg0/data
  strongroom image backup /dev/vg0/data-snap --vault s3://backups/host1 --item data
  strongroom image backup disk.raw --vault /srv/backup/vault --item web --changed-extents changed.json --json
  pg_dump app | strongroom image backup - --vault /srv/backup/vault --name app.sql")]
pub struct BackupArgs {
    /// A disk image (raw or qcow2; vmdk, vhdx, vpc, vdi with --source-format), a block device, or - for standard input.
    #[arg(value_name = "FILE|BLOCKDEV|-")]
    source: PathBuf,
    #[command(flatten)]
    vault: VaultArgs,
    /// What this image is called in the vault: ITEM@latest later names its last point.
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    item: ItemName,
    /// What changed since the item's last point; nothing else is read. - is standard input.
    #[arg(long, value_name = "FILE.json")]
    changed_extents: Option<PathBuf>,
    /// What to read the image as.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    source_format: Format,
    /// How many bytes are to come from standard input; of fewer or more there is no point.
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Back up an image that its format's own check finds damaged; the point has the warning.
    #[arg(long)]
    force: bool,
    /// Write down that the point is to be kept until then: a date, a time, or so long from now (90d). Nothing removes it by itself.
    #[arg(long, value_name = "TIME", value_parser = when::parse_keep)]
    keep_until: Option<jiff::Timestamp>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Auto,
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
    Vpc,
    Vdi,
}

impl From<Format> for SourceFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Auto => Self::Auto,
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
            Format::Vmdk => Self::Vmdk,
            Format::Vhdx => Self::Vhdx,
            Format::Vpc => Self::Vpc,
            Format::Vdi => Self::Vdi,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
The file appears under its name when it is complete and on stable storage, holes as holes; until then it has a hidden
name beside it, which is removed when the restore fails or is stopped. With --to - the file goes to standard output, holes as
zeroes, and what there is to say to stderr; what was written before a failure is no whole file.

Examples:
  strongroom image restore data@latest --vault /srv/backup/vault --to data.raw
  strongroom image restore web01@2026-11-21 --disk vda --vault s3://backups/host1 --to vda.qcow2 --format qcow2
  strongroom image restore data@latest --vault /srv/backup/vault --to /dev/vg0/data --force
  strongroom image restore app.sql@latest --vault /srv/backup/vault --to - | psql app")]
pub struct RestoreArgs {
    /// The point: its id, ITEM@latest, or ITEM@TIME (the last one taken at or before that time).
    point: String,
    #[command(flatten)]
    vault: VaultArgs,
    /// A file that does not exist, with --force a block device, or - for standard output.
    #[arg(long, value_name = "FILE", value_parser = local_path())]
    to: PathBuf,
    /// The format of the file; vhd is a fixed one, padded to a whole MiB.
    #[arg(long, value_enum, default_value_t = ToFormat::Raw)]
    format: ToFormat,
    /// Which disk, where the point has several.
    #[arg(long, value_name = "NAME")]
    disk: Option<String>,
    /// Overwrite the block device.
    #[arg(long)]
    force: bool,
    /// The disk of a machine that libvirt encrypted may be restored without encryption; otherwise that is refused.
    #[arg(long)]
    unencrypted: bool,
    /// Do not wait until the file is on stable storage: for uses that do not survive a power cut anyway.
    #[arg(long)]
    no_sync: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ToFormat {
    Raw,
    Qcow2,
    /// Fixed, padded to a whole MiB.
    Vhd,
}

impl ToFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
        }
    }
}

impl From<ToFormat> for DiskFormat {
    fn from(format: ToFormat) -> Self {
        match format {
            ToFormat::Raw => Self::Raw,
            ToFormat::Qcow2 => Self::Qcow2,
            ToFormat::Vhd => Self::Vhd,
        }
    }
}

pub fn run(command: ImageCommand, context: &Context) -> Result<Outcome> {
    match command {
        ImageCommand::Backup(arguments) => run_backup(arguments, context),
        ImageCommand::Restore(arguments) => run_restore(arguments, context),
    }
}

/// Rates of nothing are not worth showing.
fn bytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 }
}

#[derive(Serialize)]
struct BackupDocument {
    point: PointId,
    item: ItemName,
    taken_at: jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<PointId>,
    consistency: Consistency,
    source_format: &'static str,
    size_bytes: u64,
    read_bytes: u64,
    changed_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    read_bytes_per_second: f64,
    warnings: Vec<String>,
}

impl BackupDocument {
    fn new(backup: ImageBackup) -> Self {
        let ImageBackup { point, format, elapsed } = backup;
        let sum = |of: fn(&strongroom_store::Disk) -> u64| point.disks.iter().map(of).sum();
        let read_bytes = sum(|d| d.read_bytes);
        Self {
            size_bytes: sum(|d| d.size_bytes),
            read_bytes,
            changed_bytes: sum(|d| d.changed_bytes),
            new_bytes: sum(|d| d.new_bytes),
            stored_bytes: point.stored_bytes,
            seconds: elapsed.as_secs_f64(),
            read_bytes_per_second: bytes_per_second(read_bytes, elapsed),
            source_format: format,
            point: point.point,
            item: point.item,
            taken_at: point.taken_at,
            parent: point.parent,
            consistency: point.consistency,
            warnings: point.warnings,
        }
    }
}

/// What a stream has not, and what only streams have.
fn check_stream(arguments: &BackupArgs, is_stream: bool) -> Result<()> {
    let invalid = |why: &str| Err(Error::invalid(why));
    match is_stream {
        false if arguments.size.is_some() => invalid("--size is of standard input (-); files have a size"),
        false => Ok(()),
        true if arguments.changed_extents.is_some() => {
            invalid("standard input is read to its end: --changed-extents is of files and block devices")
        }
        true if !matches!(arguments.source_format, Format::Auto | Format::Raw) => invalid(
            "standard input is stored as it comes; to back up the disk in an image, give the image's file with --source-format",
        ),
        true if io::stdin().is_terminal() => invalid(
            "standard input is a terminal: let a program write to it, as in `pg_dump app | strongroom image backup - …`",
        ),
        true => Ok(()),
    }
}

fn run_backup(arguments: BackupArgs, context: &Context) -> Result<Outcome> {
    let is_stream = arguments.source.as_os_str() == "-";
    check_stream(&arguments, is_stream)?;
    let vault = context.open_vault_to_write(&arguments.vault)?;
    let keep_until = when::in_future(arguments.keep_until)?;
    let doing = format!("backing up {}", arguments.item);
    let note = |point: &Manifest| {
        let made = format!("made point {} of {}", point.point, point.item);
        super::rescue::log::note(&vault, context, "image backup", made);
    };
    let backup = if is_stream {
        let input = io::stdin().as_fd().try_clone_to_owned();
        let input = input.map_err(|e| Error::io("opening standard input", e))?;
        let options = StreamOptions {
            item: arguments.item,
            size_bytes: arguments.size,
            is_raw: matches!(arguments.source_format, Format::Raw),
            keep_until,
        };
        context.watch(&doing, || {
            image::backup_stream(&vault, input.into(), &options, &context.progress, &note)
        })?
    } else {
        let options = BackupOptions {
            source: arguments.source,
            format: arguments.source_format.into(),
            is_forced: arguments.force,
            item: arguments.item,
            changed_extents: arguments.changed_extents,
            keep_until,
        };
        context.watch(&doing, || image::backup(&vault, &options, &context.progress, &note))?
    };
    let elapsed = backup.elapsed;
    let document = BackupDocument::new(backup);
    for warning in &document.warnings {
        context.warn(warning);
    }
    context.print(&document, || {
        let speed = match document.read_bytes {
            0 => String::new(),
            _ => format!(", {}", rate(document.read_bytes_per_second)),
        };
        list(&[
            ("point", document.point.to_string()),
            ("item", document.item.to_string()),
            ("consistency", document.consistency.to_string()),
            ("size", size(document.size_bytes)),
            ("read", format!("{}{speed}", size(document.read_bytes))),
            ("changed", size(document.changed_bytes)),
            ("new", size(document.new_bytes)),
            ("stored", size(document.stored_bytes)),
            ("time", duration(elapsed)),
        ])
    })?;
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct RestoreDocument {
    point: PointId,
    item: ItemName,
    disk: String,
    to: String,
    format: &'static str,
    size_bytes: u64,
    data_bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
}

fn run_restore(arguments: RestoreArgs, context: &Context) -> Result<Outcome> {
    let is_stream = arguments.to.as_os_str() == "-";
    if is_stream && context.json {
        return Err(Error::invalid("--to - and --json both want standard output; give a file with --to"));
    }
    if is_stream && io::stdout().is_terminal() {
        return Err(Error::invalid(
            "standard output is a terminal; let a program read it, or give a file with --to",
        ));
    }
    let vault = context.open_vault(&arguments.vault)?;
    let selector = points::parse_selector(&arguments.point)?;
    // The lease before the point is chosen: from then on nothing it has is reclaimed.
    let session = ReadSession::begin(&vault, &format!("restore of {selector}"))?;
    let point = vault.find_point(&selector)?;
    let disk = points::choose_disk(&point, arguments.disk.as_deref())?;
    let chosen = [disk.name.clone()];
    for warning in machine::encryption::check(&point, &chosen, arguments.unencrypted)? {
        context.warn(&warning);
    }
    let options = RestoreOptions {
        to: arguments.to,
        format: arguments.format.into(),
        force: arguments.force,
        durable: !arguments.no_sync,
    };
    let source = session.into();
    let doing = format!("restoring {}", point.item);
    let restored = context.watch(&doing, || match is_stream {
        true => {
            let mut out = io::stdout().lock();
            restore::restore_to_stream(&source, disk, options.format, &mut out, &context.progress)
        }
        false => restore::restore_disk(&source, disk, &options, &context.progress),
    })?;
    let Restored { size_bytes, data_bytes, elapsed, .. } = restored;
    let document = RestoreDocument {
        point: point.point,
        item: point.item.clone(),
        disk: disk.name.clone(),
        to: options.to.display().to_string(),
        format: arguments.format.name(),
        size_bytes,
        data_bytes,
        seconds: elapsed.as_secs_f64(),
        bytes_per_second: bytes_per_second(data_bytes, elapsed),
    };
    let told = || {
        list(&[
            ("point", document.point.to_string()),
            ("item", document.item.to_string()),
            ("taken", crate::text::time(point.taken_at)),
            ("restored to", format!("{} ({})", document.to, document.format)),
            ("size", size(size_bytes)),
            ("data", format!("{}, {}", size(data_bytes), rate(document.bytes_per_second))),
            ("time", duration(elapsed)),
        ])
    };
    match is_stream {
        true => context.note(told().trim_end()),
        false => context.print(&document, told)?,
    }
    Ok(Outcome::Done)
}
