//! A vault, by its location.

use crate::options::{ReachArgs, parse_location};
use clap::Args;
use strongroom_store::objects::Location;

/// The vault a command is about.
#[derive(Debug, Args)]
pub struct LocationArg {
    /// A directory or s3://bucket/prefix (credentials and endpoint come from AWS_* variables).
    #[arg(value_name = "LOCATION", value_parser = parse_location)]
    pub(super) location: Location,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
}
