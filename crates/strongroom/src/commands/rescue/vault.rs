//! `strongroom rescue vault`: making vaults, keys, figures, checking and giving space back.

use super::location::LocationArg;
use super::log;
use crate::context::{Context, Outcome};
use crate::options::KeyArgs;
use crate::text::{count, duration, list, size};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strongroom_domain::PointId;
use strongroom_engine::{Error, Result, vaults};
use strongroom_store::check::{CheckOptions, CheckReport};
use strongroom_store::reclaim::{ReclaimOptions, ReclaimReport};
use strongroom_store::{KeyFile, Stats, Vault};

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault.
    Init(InitArgs),
    /// Look for damage.
    Check(CheckArgs),
    /// Give the space of forgotten points back.
    Reclaim(ReclaimArgs),
    /// Show what a vault holds and how well it does.
    Stats(StatsArgs),
    /// Show what was changed in a vault without a service.
    Log(log::LogArgs),
    /// Move a vault's key.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --key-file the key is kept under $XDG_CONFIG_HOME/strongroom/keys, named by the vault's id.
Whoever loses the key loses the vault: keep a copy elsewhere (strongroom rescue vault key export).

Examples:
  strongroom rescue vault init /srv/backup/vault
  strongroom rescue vault init s3://backups/host1 --key-file /root/host1.key")]
pub struct InitArgs {
    #[command(flatten)]
    at: LocationArg,
    /// Write the new key to this file, which must not exist, instead of the user's keyring.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The unit of change and deduplication: bytes, or with K or M; a power of two from 4K to 4M [default: 64K].
    #[arg(long, value_name = "N", value_parser = parse_block_size)]
    block_size: Option<u32>,
    /// At most one run at a time writes to the vault, others are told that it is busy: for S3 servers that ignore
    /// conditional writes. It stays so.
    #[arg(long)]
    single_writer: bool,
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no size: give bytes, or a number with K or M, as in 64K");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => return Err(wrong()),
    };
    digits.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the vault is sound, 1 damage was found, 2 the vault could not be looked at.
Damaged data is read again and replaced by the next backup that still finds it at its source.

Examples:
  strongroom rescue vault check /srv/backup/vault
  strongroom rescue vault check s3://backups/host1 --read-data --json")]
pub struct CheckArgs {
    #[command(flatten)]
    at: LocationArg,
    #[command(flatten)]
    key: KeyArgs,
    /// Read and verify every stored byte, not only what holds the vault together.
    #[arg(long)]
    read_data: bool,
    /// First mark the location as this vault's anew, where its marker was lost. Make sure that the location is right.
    #[arg(long)]
    renew_marker: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Backups and restores may go on meanwhile. What running ones may still need is kept until a later reclaim.
Only what was forgotten is freed. If a point that the vault is known to have is gone, nothing is:
mount or restore what is missing, or, after a look, write the point off with --accept-loss.
In a vault that an earlier release made nothing is freed until it is known which points it has: a
service that keeps the vault finds that out within two days; without one, look at the points
(strongroom rescue point list) and say --as-listed once.

Examples:
  strongroom rescue vault reclaim /srv/backup/vault
  strongroom rescue vault reclaim /srv/backup/vault --as-listed --json
  strongroom rescue vault reclaim VAULT --accept-loss 0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")]
pub struct ReclaimArgs {
    #[command(flatten)]
    at: LocationArg,
    #[command(flatten)]
    key: KeyArgs,
    /// Look at everything again, also at what earlier runs have counted: slower, finds what crashes left behind.
    #[arg(long)]
    thorough: bool,
    /// Write off a point that is gone and that nobody forgot; may be given several times.
    #[arg(long, value_name = "POINT")]
    accept_loss: Vec<PointId>,
    /// Write off also where the vault is immutable.
    #[arg(long, requires = "accept_loss")]
    although_immutable: bool,
    /// Take the points that are listed for all that the vault has, where that is not known. They are counted first.
    #[arg(long)]
    as_listed: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom rescue vault stats /srv/backup/vault --json")]
pub struct StatsArgs {
    #[command(flatten)]
    at: LocationArg,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print a vault's key, or write it to a file.
    Export(ExportArgs),
    /// Take a key into the user's keyring, where commands find it by themselves.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
The text can be printed on paper and typed in again: it has a checksum.

Examples:
  strongroom rescue vault key export /srv/backup/vault
  strongroom rescue vault key export /srv/backup/vault --to /media/stick/vault.key")]
pub struct ExportArgs {
    #[command(flatten)]
    at: LocationArg,
    #[command(flatten)]
    key: KeyArgs,
    /// Write it to this file, which must not exist, readable for its owner only.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom rescue vault key import /media/stick/vault.key
  strongroom rescue vault key import -          (type or paste it, then Ctrl-D)")]
pub struct ImportArgs {
    /// The file with the key, or - for standard input.
    #[arg(value_name = "FILE")]
    from: PathBuf,
}

pub fn run(command: VaultCommand, context: &Context) -> Result<Outcome> {
    match command {
        VaultCommand::Init(arguments) => init(&arguments, context),
        VaultCommand::Check(arguments) => check(&arguments, context),
        VaultCommand::Reclaim(arguments) => reclaim(&arguments, context),
        VaultCommand::Stats(arguments) => stats(&arguments, context),
        VaultCommand::Log(arguments) => log::run(&arguments, context),
        VaultCommand::Key(KeyCommand::Export(arguments)) => export(&arguments, context),
        VaultCommand::Key(KeyCommand::Import(arguments)) => import(&arguments, context),
    }
}

#[derive(Serialize)]
struct InitDocument {
    vault: String,
    location: String,
    block_size_bytes: u32,
    key_file: String,
    key_id: String,
}

fn init(arguments: &InitArgs, context: &Context) -> Result<Outcome> {
    let made = context.stores(&arguments.at.reach).init(
        &arguments.at.location,
        arguments.key_file.as_deref(),
        arguments.block_size,
        arguments.single_writer,
    )?;
    let key = KeyFile::load(&made.key_path)?;
    log::note(&made.vault, context, "vault init", "made the vault");
    let document = InitDocument {
        vault: made.vault.id().to_string(),
        location: made.vault.location().to_owned(),
        block_size_bytes: made.vault.block_size_bytes(),
        key_file: made.key_path.display().to_string(),
        key_id: key.key_id(),
    };
    context.print(&document, || {
        list(&[
            ("vault", document.vault.clone()),
            ("location", document.location.clone()),
            ("block size", size(document.block_size_bytes.into())),
            ("key", document.key_file.clone()),
        ])
    })?;
    let (found, option) = match made.key_in_ring {
        true => ("Commands of this user find it by themselves.", String::new()),
        false => ("Name it with --key-file.", format!(" --key-file {}", document.key_file)),
    };
    context.note(format_args!(
        "The key of this vault is in {}. {found}\nKeep a copy elsewhere: without the key nothing in the vault can ever be read. To print it:\n  strongroom rescue vault key export {}{option}",
        document.key_file, document.location
    ));
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct StatsDocument {
    vault: String,
    location: String,
    #[serde(flatten)]
    stats: Stats,
    /// What the vault is known to have and is not to be seen, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_sight: Option<String>,
}

fn stats(arguments: &StatsArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open(&arguments.at.location, &arguments.key, &arguments.at.reach)?;
    let stats = vault.stats()?;
    let out_of_sight = super::point::out_of_sight(&vault.out_of_sight()?);
    let document = StatsDocument {
        vault: vault.id().to_string(),
        location: vault.location().to_owned(),
        stats,
        out_of_sight,
    };
    context.print(&document, || {
        let s = &document.stats;
        let ratio = |of: u64, by: u64| match by {
            0 => String::new(),
            _ => format!("  ({:.1} : 1)", of as f64 / by as f64),
        };
        let mut entries = vec![
            ("vault", document.vault.clone()),
            ("location", document.location.clone()),
            ("points", format!("{} of {}", s.points, count(s.items, "item"))),
        ];
        if s.damaged_points > 0 {
            entries.push(("damaged points", s.damaged_points.to_string()));
        }
        entries.extend([
            ("logical", size(s.logical_bytes)),
            ("deduplicated", size(s.deduplicated_bytes) + &ratio(s.logical_bytes, s.deduplicated_bytes)),
            ("compressed", size(s.compressed_bytes) + &ratio(s.deduplicated_bytes, s.compressed_bytes)),
            ("stored", size(s.stored_bytes) + &ratio(s.logical_bytes, s.stored_bytes)),
        ]);
        if s.condemned_bytes > 0 {
            entries.push(("to be freed", format!("{} by the next reclaim", size(s.condemned_bytes))));
        }
        list(&entries)
    })?;
    match &document.out_of_sight {
        Some(told) => {
            super::point::warn_out_of_sight(context, told);
            Ok(Outcome::Damage)
        }
        None => Ok(Outcome::Done),
    }
}

#[derive(Serialize)]
struct KeyDocument {
    vault: String,
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

fn export(arguments: &ExportArgs, context: &Context) -> Result<Outcome> {
    let stores = context.stores(&arguments.at.reach);
    let key = stores.export_key(&arguments.at.location, arguments.key.key_file.as_deref())?;
    // Who took the key away is worth knowing; a vault that cannot be written gives it all the same.
    if let Ok(vault) = context.open(&arguments.at.location, &arguments.key, &arguments.at.reach) {
        let to = arguments.to.as_ref().map_or_else(|| "printed".into(), |to| format!("to {}", to.display()));
        log::note_quietly(&vault, "vault key export", to);
    }
    let mut document =
        KeyDocument { vault: key.vault.to_string(), key_id: key.key_id(), key_file: None, key: None };
    match &arguments.to {
        Some(path) => {
            key.save_new(path)?;
            document.key_file = Some(path.display().to_string());
            context.print(&document, || {
                format!("The key of vault {} is in {}.\n", document.vault, path.display())
            })?;
        }
        None => {
            document.key = Some(key.to_text());
            context.print(&document, || key.to_text())?;
        }
    }
    Ok(Outcome::Done)
}

/// A key is a few lines.
const KEY_MAX_BYTES: u64 = 64 << 10;

fn import(arguments: &ImportArgs, context: &Context) -> Result<Outcome> {
    let (key, path) = vaults::import_key(&read_text(&arguments.from)?)?;
    let document = KeyDocument {
        vault: key.vault.to_string(),
        key_id: key.key_id(),
        key_file: Some(path.display().to_string()),
        key: None,
    };
    context.print(&document, || {
        format!("The key of vault {} is kept in {}.\n", document.vault, path.display())
    })?;
    Ok(Outcome::Done)
}

fn read_text(from: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match from.as_os_str() == "-" {
        true => io::stdin().lock().take(KEY_MAX_BYTES).read_to_string(&mut text),
        false => File::open(from).and_then(|file| file.take(KEY_MAX_BYTES).read_to_string(&mut text)),
    };
    match read {
        Ok(_) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            Err(Error::invalid(format!("{} holds no Strongroom key: it is not text", from.display())))
        }
        Err(e) => Err(Error::io(format!("reading the key in {}", from.display()), e)),
    }
}

#[derive(Serialize)]
struct CheckDocument {
    vault: String,
    location: String,
    sound: bool,
    #[serde(flatten)]
    report: CheckReport,
}

fn check(arguments: &CheckArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open(&arguments.at.location, &arguments.key, &arguments.at.reach)?;
    if arguments.renew_marker {
        vault.renew_marker()?;
    }
    let options = CheckOptions { read_data: arguments.read_data };
    let report =
        context.watch("checking", || strongroom_store::check::check(&vault, &options, &context.progress))?;
    let document = CheckDocument {
        vault: vault.id().to_string(),
        location: vault.location().to_owned(),
        sound: report.is_sound(),
        report,
    };
    context.print(&document, || check_text(&document, arguments.read_data))?;
    for left in &document.report.left_behind {
        context.warn(format_args!(
            "{left} stays behind in {}: the credentials in use may not delete it. It is over and holds nothing up; the next reclaim, by \
             who may delete, removes it",
            document.location
        ));
    }
    Ok(if document.sound { Outcome::Done } else { Outcome::Damage })
}

fn check_text(document: &CheckDocument, read_data: bool) -> String {
    let report = &document.report;
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("damaged: {}: {}\n", finding.object, finding.detail));
        for touched in &finding.points {
            let item = touched.item.as_ref().map_or_else(String::new, |item| format!(" of {item}"));
            text.push_str(&format!("  touches point {}{item}\n", touched.point));
        }
        if finding.points.is_empty() {
            text.push_str("  touches no point\n");
        }
    }
    let read = match read_data {
        true => format!("{} of data read", size(report.read_bytes)),
        false => "data not read (--read-data does)".into(),
    };
    let looked_at = format!(
        "{}, {}, {}, {}; {read}; {}",
        count(report.points, "point"),
        count(report.objects, "object"),
        count(report.packs, "pack"),
        count(report.nodes, "tree node"),
        duration(Duration::from_secs_f64(report.seconds.max(0.0)))
    );
    if document.sound {
        text.push_str(&format!("sound: {looked_at}\n"));
    } else {
        let findings = count(report.findings.len() as u64, "damaged object");
        text.push_str(&format!(
            "{findings}: {looked_at}\nData that its source still has is healed by the next backup; points that stay \
             damaged can be forgotten.\n"
        ));
    }
    text
}

#[derive(Serialize)]
struct ReclaimDocument {
    vault: String,
    location: String,
    /// With --as-listed: points an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    listed: Option<BTreeMap<String, u64>>,
    #[serde(flatten)]
    report: ReclaimReport,
}

/// How many points of each item the vault lists; said before they are taken for all there are.
fn listed(vault: &Vault, context: &Context) -> Result<BTreeMap<String, u64>> {
    let mut items: BTreeMap<String, u64> = BTreeMap::new();
    for point in vault.points(None)?.points {
        *items.entry(point.item.to_string()).or_default() += 1;
    }
    let shown: Vec<String> =
        items.iter().map(|(item, points)| format!("{} of {item}", count(*points, "point"))).collect();
    context.note(format_args!(
        "listed, and taken for all that the vault has: {}",
        if shown.is_empty() { "no points".to_owned() } else { shown.join(", ") }
    ));
    Ok(items)
}

fn reclaim(arguments: &ReclaimArgs, context: &Context) -> Result<Outcome> {
    let vault = context.open(&arguments.at.location, &arguments.key, &arguments.at.reach)?;
    if !arguments.accept_loss.is_empty() {
        vaults::refuse_immutable(&vault, arguments.although_immutable)?;
    }
    log::note(
        &vault,
        context,
        "vault reclaim",
        match (&arguments.accept_loss[..], arguments.thorough) {
            ([], false) => "began".to_owned(),
            ([], true) => "began, thoroughly".to_owned(),
            (lost, _) => {
                let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
                format!("began, asked to write off {}", lost.join(", "))
            }
        },
    );
    let options = ReclaimOptions {
        cache_dir: vaults::cache_directory(),
        thorough: arguments.thorough,
        accept_loss: arguments.accept_loss.clone(),
        as_listed: arguments.as_listed,
        ..ReclaimOptions::default()
    };
    let listed = arguments.as_listed.then(|| listed(&vault, context)).transpose()?;
    let report = context
        .watch("reclaiming", || strongroom_store::reclaim::reclaim(&vault, &options, &context.progress))?;
    let freed = format!("{} bytes freed, {} packs deleted", report.freed_bytes, report.packs_deleted);
    log::note(&vault, context, "vault reclaim", freed);
    let document = ReclaimDocument {
        vault: vault.id().to_string(),
        location: vault.location().to_owned(),
        listed,
        report,
    };
    context.print(&document, || {
        let r = &document.report;
        let mut entries = vec![
            ("freed", size(r.freed_bytes)),
            (
                "packs",
                format!(
                    "{} deleted, {} rewritten ({} moved)",
                    r.packs_deleted,
                    r.packs_rewritten,
                    size(r.rewritten_bytes)
                ),
            ),
            ("time", duration(Duration::from_secs_f64(r.seconds.max(0.0)))),
        ];
        if r.waiting_bytes > 0 || !r.waiting_for.is_empty() {
            entries.push(("waiting", format!("{}; reclaim again then", size(r.waiting_bytes))));
            entries.extend(r.waiting_for.iter().map(|what| ("  for", what.clone())));
        }
        list(&entries)
    })?;
    Ok(Outcome::Done)
}
