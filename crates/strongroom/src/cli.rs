//! The command line as a whole: the list of commands.

use crate::commands::{access, az, completions, host, image, job, point, policy, rescue, serve, vault, vm};
use crate::options::GlobalArgs;
use clap::{Parser, Subcommand};

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
