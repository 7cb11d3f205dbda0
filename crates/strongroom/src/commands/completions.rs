//! `strongroom completions`.

use crate::context::Outcome;
use clap::{Args, Command};
use clap_complete::Shell;
use std::io::{self, Write as _};
use strongroom_engine::Result;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom completions bash > /etc/bash_completion.d/strongroom
  source <(strongroom completions bash)")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

/// For the whole command line, which knows this command.
pub fn run(arguments: &CompletionsArgs, mut whole: Command) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut whole, "strongroom", &mut script);
    // A reader that has gone away is none of our business.
    let _ = io::stdout().write_all(&script);
    Ok(Outcome::Done)
}
