//! The command line as a whole: what every command takes, and the list of commands.

use crate::commands::{completions, image, point, vault, vm};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;
use strongroom_store::objects::Location;

/// Backups of virtual machines and disk images into encrypted, deduplicated vaults.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Examples:
  strongroom vault init /srv/backup/vault
  strongroom vm backup web01 --vault /srv/backup/vault
  strongroom image backup /dev/vg0/data --vault /srv/backup/vault --item data
  strongroom point list --vault /srv/backup/vault
  strongroom image restore data@latest --vault /srv/backup/vault --to data.raw

Exit status: 0 on success, 1 on failure, 2 for a wrong command line, 130 or 143 when stopped by a signal.
`vault check` has its own: see `strongroom vault check --help`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Print one JSON document on stdout; progress, messages and errors go to stderr.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// No progress and no notes; warnings and errors stay.
    #[arg(short, long, global = true, help_heading = "Global options", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more about what is done; twice for even more.
    #[arg(short, long, global = true, help_heading = "Global options", action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, check and look after vaults.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Back up and restore virtual machines under libvirt.
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Back up and restore disk images and block devices.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// List, show, forget and serve recovery points.
    #[command(subcommand)]
    Point(point::PointCommand),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// Which vault, for commands that are not about the vault itself.
#[derive(Debug, Clone, Args)]
pub struct VaultArgs {
    /// Where the vault is: a directory or s3://bucket/prefix.
    #[arg(long, value_name = "LOCATION", env = "STRONGROOM_VAULT", hide_env_values = true, value_parser = parse_location)]
    pub vault: Location,
    #[command(flatten)]
    pub key: KeyArgs,
}

/// Which key.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// The vault's key; without it the key is looked for in $XDG_CONFIG_HOME/strongroom/keys.
    #[arg(long, value_name = "FILE", env = "STRONGROOM_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
}

pub fn parse_location(text: &str) -> Result<Location, String> {
    Location::parse(text).map_err(|e| e.to_string())
}
