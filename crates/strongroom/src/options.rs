//! What several commands take.

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use std::num::NonZeroU32;
use std::path::PathBuf;
use strongroom_store::objects::{Location, Reach, check_local};

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
