//! The command line as a whole: what every command takes, and the list of commands.

use crate::commands::{access, az, completions, host, image, job, point, policy, rescue, serve, vault, vm};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::num::NonZeroU32;
use std::path::PathBuf;
use strongroom_store::objects::{Location, Reach, check_local};

/// Backups of virtual machines and disk images into encrypted, deduplicated vaults.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Commands find the service of this host by themselves; where none runs they do its work.
`rescue` and `image` need neither service nor catalog: a vault's location and its key are
enough. A location where a vault's name is expected means `rescue`, and so do `vault init`,
`check`, `reclaim`, `stats`, `log` and `key`.

Examples:
  strongroom vault create main
  strongroom vm protect web01 --policy DefaultPolicy
  strongroom vm backup web01
  strongroom vm restore web01 --as web01-restored
  strongroom serve
  strongroom rescue vault check /srv/backup/vault
  strongroom image backup /dev/vg0/data --vault /srv/backup/vault --item data

Exit status: 0 on success, 1 on failure, 2 for a wrong command line, 130 or 143 when stopped
by a signal.
`rescue vault check` has its own: see `strongroom rescue vault check --help`."
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
    /// Make and look after vaults.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// List, protect, back up and restore virtual machines.
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Say when backups are made, and how long they are kept.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// See what is done and was done, and stop it.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// List and show the recovery points of protected machines.
    #[command(subcommand)]
    Point(point::PointCommand),
    /// See hosts, and where can be restored to.
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Run the service.
    Serve(serve::ServeArgs),
    /// Point Azure's command line at the service.
    #[command(subcommand)]
    Az(az::AzCommand),
    /// Say who may sign in, and what they may do.
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// Back up and restore disk images and block devices, in a vault at a location.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Work on a vault with its location and key alone, without service and catalog.
    #[command(subcommand)]
    Rescue(rescue::RescueCommand),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// Which vault, by its location, for commands that are not about the vault itself.
#[derive(Debug, Clone, Args)]
pub struct VaultArgs {
    /// Where the vault is: a directory or s3://bucket/prefix.
    #[arg(long, value_name = "LOCATION", env = "STRONGROOM_VAULT", hide_env_values = true, value_parser = parse_location)]
    pub vault: Location,
    #[command(flatten)]
    pub key: KeyArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// How a vault in S3 is reached, beside the `AWS_*` variables.
#[derive(Debug, Clone, Default, Args)]
pub struct ReachArgs {
    /// Of a vault in S3: trust the authorities whose certificates (PEM) are in this file, and no others [default:
    /// AWS_CA_BUNDLE, else the system's].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Of a vault in S3: begin at most so many requests a second.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<NonZeroU32>,
}

impl From<&ReachArgs> for Reach {
    fn from(args: &ReachArgs) -> Self {
        Self { ca_file: args.ca.clone(), requests_per_second: args.requests_per_second }
    }
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

/// Paths that something is restored to: what reads as a place elsewhere is none.
pub fn local_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| check_local(&path).map(|()| path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// As a shell splits it, up to what it gives to another command.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some(_), c) => words.last_mut().unwrap().push(c),
                (None, '\'' | '"') => quote = Some(c),
                (None, ' ') => words.push(String::new()),
                (None, '|' | '>' | '(' | '&') => break,
                (None, c) => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|w| !w.is_empty());
        words
    }

    /// Every command that does something, by its path.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        if !command.has_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((path.to_owned(), help));
        }
        for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
            leaves(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_are_of_their_command_and_parse() {
        let mut found = vec![("strongroom".to_owned(), Cli::command().get_after_help().unwrap().to_string())];
        leaves(&Cli::command(), "strongroom", &mut found);
        assert!(found.len() > 40, "{found:?}");
        for (path, help) in found {
            let examples: Vec<&str> = help.lines().filter_map(|l| l.strip_prefix("  ")).collect();
            let mut own = 0;
            for example in examples.iter().filter(|e| e.starts_with("strongroom ")) {
                own += usize::from(example.starts_with(&path));
                if let Err(error) = Cli::try_parse_from(words(example)) {
                    panic!("{path}: `{example}`: {error}");
                }
            }
            let is_shown = own > 0 || examples.iter().any(|e| e.contains(&path));
            assert!(is_shown, "{path} has no example of itself: {help}");
        }
    }
}
