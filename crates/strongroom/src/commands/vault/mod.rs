//! `strongroom vault`: Recovery Services vaults of the service.

mod create;
mod delete;
mod document;
mod show;
mod strays;

use crate::context::{Context, Outcome};
use crate::failure::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault, with its default policies.
    Create(create::CreateArgs),
    /// List vaults.
    List(show::ListArgs),
    /// Show a vault, its settings and what it holds.
    Show(show::ShowArgs),
    /// Delete a vault that protects nothing.
    Delete(delete::DeleteArgs),
    /// Compare a vault with the catalog now, both ways.
    Reconcile(show::ReconcileArgs),
    /// Bring back a deleted vault, with what it held.
    Undelete(delete::UndeleteArgs),
    /// Take in a vault that is there, from its location and key, with all its points.
    Import(create::ImportArgs),
    /// Delete the key of a vault that is gone.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Delete the key of a vault that is gone: what was in it can never be read again.
    Delete(strays::KeyDeleteArgs),
}

pub fn run(command: VaultCommand, context: &Context) -> Result<Outcome> {
    match command {
        VaultCommand::Create(arguments) => create::create(&arguments, context),
        VaultCommand::List(arguments) => show::list_vaults(&arguments, context),
        VaultCommand::Show(arguments) => show::show(&arguments, context),
        VaultCommand::Delete(arguments) => delete::delete(&arguments, context),
        VaultCommand::Undelete(arguments) => delete::undelete(&arguments, context),
        VaultCommand::Import(arguments) => create::import(&arguments, context),
        VaultCommand::Reconcile(arguments) => show::reconcile(&arguments, context),
        VaultCommand::Key(KeyCommand::Delete(arguments)) => strays::key_delete(&arguments, context),
    }
}
