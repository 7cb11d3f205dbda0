//! The `strongroom` command.

mod cli;
mod commands;
mod context;
mod progress;
mod report;
mod signals;
mod text;

use clap::Parser as _;
use cli::{Cli, Command};
use context::{Context, Outcome, to_stderr};
use signals::Interrupt;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use strongroom_engine::{Error, ErrorKind, Result};
use strongroom_store::Progress;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Before the command line is understood, whether JSON is wanted can only be guessed from it.
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                report::usage(&error.to_string());
                return ExitCode::from(2);
            }
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    log_to_stderr(cli.global.verbose);
    let progress = Arc::<Progress>::default();
    let interrupt = match Interrupt::install(progress.clone()) {
        Ok(interrupt) => interrupt,
        Err(e) => {
            to_stderr(&format_args!("error: signals cannot be handled: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let context = Context::new(&cli.global, progress);
    let is_check = matches!(cli.command, Command::Vault(commands::vault::VaultCommand::Check(_)));
    match run(cli.command, &context, &interrupt) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Damage) => ExitCode::from(1),
        Err(error) => {
            report::error(&error, context.json);
            match (error.kind, interrupt.signal()) {
                (ErrorKind::Cancelled, Some(signal)) => ExitCode::from(128 + signal as u8),
                // It could not look.
                _ if is_check => ExitCode::from(2),
                _ => ExitCode::from(1),
            }
        }
    }
}

fn run(command: Command, context: &Context, interrupt: &Interrupt) -> Result<Outcome, Error> {
    match command {
        Command::Vault(command) => commands::vault::run(command, context),
        Command::Vm(command) => commands::vm::run(command, context),
        Command::Image(command) => commands::image::run(command, context),
        Command::Point(command) => commands::point::run(command, context, interrupt),
        Command::Completions(arguments) => commands::completions::run(&arguments),
    }
}

/// Warnings of all parts, and with -v what they do. `STRONGROOM_LOG` says it in more detail.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("STRONGROOM_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,strongroom={level},strongroom_engine={level},strongroom_store={level},strongroom_nbd={level},strongroom_hypervisor={level}")));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(verbose > 1);
    match verbose {
        0 => subscriber.without_time().init(),
        _ => subscriber.init(),
    }
}
