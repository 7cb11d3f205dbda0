//! `strongroom access`: who may sign in, and what they may do. Works on the service's catalog directly, for root.

mod assignments;
mod audit;
mod catalog;
mod principals;

use crate::context::{Context, Outcome};
use crate::failure;
use clap::Subcommand;
use strongroom_catalog::actor;

#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Make, list and delete those who may sign in.
    #[command(subcommand)]
    Principal(PrincipalCommand),
    /// Give a principal a role.
    Assign(assignments::AssignArgs),
    /// Take a role away.
    #[command(after_help = "Example:\n  strongroom access unassign nightly \"Backup Operator\"")]
    Unassign(assignments::UnassignArgs),
    /// List who has which role where.
    #[command(after_help = "Example:\n  strongroom access list --json")]
    List(catalog::DataArgs),
    /// Show what was changed and refused.
    Audit(audit::AuditArgs),
}

#[derive(Debug, Subcommand)]
pub enum PrincipalCommand {
    /// Make a service principal, or a user; the secret is shown once.
    Create(principals::CreateArgs),
    /// List principals.
    #[command(after_help = "Example:\n  strongroom access principal list --json")]
    List(catalog::DataArgs),
    /// Delete a principal with its roles: its tokens are refused from then on.
    Delete(principals::DeleteArgs),
}

pub fn run(command: AccessCommand, context: &Context) -> failure::Result<Outcome> {
    // Whatever is changed here has a row, with whose it was.
    actor::named(catalog::local_administrator(), || run_named(command, context))
}

fn run_named(command: AccessCommand, context: &Context) -> failure::Result<Outcome> {
    Ok(match command {
        AccessCommand::Principal(PrincipalCommand::Create(arguments)) => {
            principals::create(&arguments, context)
        }
        AccessCommand::Principal(PrincipalCommand::List(arguments)) => {
            principals::list_principals(&arguments, context)
        }
        AccessCommand::Principal(PrincipalCommand::Delete(arguments)) => {
            principals::delete(&arguments, context)
        }
        AccessCommand::Assign(arguments) => assignments::assign(&arguments, context),
        AccessCommand::Unassign(arguments) => assignments::unassign(&arguments, context),
        AccessCommand::List(arguments) => assignments::list_assignments(&arguments, context),
        AccessCommand::Audit(arguments) => return audit::audit(&arguments, context),
    }?)
}
