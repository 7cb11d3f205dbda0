//! The `strongroom` command.

mod cli;
mod client;
mod commands;
mod context;
mod failure;
mod options;
mod progress;
mod report;
mod serve;
mod shorthand;
mod signals;
mod text;
mod when;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use context::{Context, Outcome, to_stderr};
use failure::Result;
use signals::Interrupt;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use strongroom_store::Progress;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let line = shorthand::expand(std::env::args_os(), std::env::var_os("STRONGROOM_VAULT").as_deref());
    let cli = match Cli::try_parse_from(line) {
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
    log_to_stderr(cli.global.verbose, matches!(&cli.command, Command::Serve(_)));
    let progress = Arc::<Progress>::default();
    let interrupt = match Interrupt::install(progress.clone()) {
        Ok(interrupt) => interrupt,
        Err(e) => {
            to_stderr(&format_args!("error: signals cannot be handled: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let context = Context::new(&cli.global, progress);
    let is_check = matches!(&cli.command, Command::Rescue(command) if command.is_check());
    match run(cli.command, &context, &interrupt) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Damage) => ExitCode::from(1),
        Err(error) => {
            report::error(&error, context.json);
            match (error.is_cancelled(), interrupt.signal()) {
                (true, Some(signal)) => ExitCode::from(128 + signal as u8),
                // It could not look.
                _ if is_check => ExitCode::from(2),
                _ => ExitCode::from(1),
            }
        }
    }
}

fn run(command: Command, context: &Context, interrupt: &Interrupt) -> Result<Outcome> {
    use commands::*;
    match command {
        Command::Vault(command) => vault::run(command, context),
        Command::Vm(command) => vm::run(command, context),
        Command::Policy(command) => policy::run(command, context),
        Command::Job(command) => job::run(command, context),
        Command::Point(command) => point::run(command, context),
        Command::Host(command) => host::run(command, context),
        Command::Serve(arguments) => Ok(serve::run(&arguments, context)?),
        Command::Az(command) => Ok(az::run(command, context)?),
        Command::Access(command) => access::run(command, context),
        Command::Image(command) => Ok(image::run(command, context)?),
        Command::Rescue(command) => Ok(rescue::run(command, context, interrupt)?),
        Command::Completions(arguments) => Ok(completions::run(&arguments, Cli::command())?),
    }
}

/// Warnings of all parts, and with -v what they do. `STRONGROOM_LOG` says it in more detail. What a request was answered is for a
/// service's log: without one the command tells it itself.
fn log_to_stderr(verbose: u8, is_service: bool) {
    let answers = if is_service || verbose > 0 { "warn" } else { "off" };
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("STRONGROOM_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,{}={answers},strongroom={level},strongroom_engine={level},strongroom_service={level},strongroom_store={level},strongroom_nbd={level},strongroom_hypervisor={level}", strongroom_api::ANSWERS)));
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
