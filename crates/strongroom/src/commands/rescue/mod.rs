//! `strongroom rescue`: what works on a vault's location with its key alone, without the service and its catalog.

mod location;
pub mod log;
pub mod point;
pub mod vault;
pub mod vm;

use crate::context::{Context, Outcome};
use crate::signals::Interrupt;
use clap::Subcommand;
use strongroom_engine::Result;

#[derive(Debug, Subcommand)]
pub enum RescueCommand {
    /// Make, check and look after vaults, and their keys.
    #[command(subcommand)]
    Vault(vault::VaultCommand),
    /// Back up and restore virtual machines under libvirt.
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// List, show, forget and serve recovery points.
    #[command(subcommand)]
    Point(point::PointCommand),
}

impl RescueCommand {
    /// Whether its exit status says more than success and failure.
    pub fn is_check(&self) -> bool {
        matches!(self, Self::Vault(vault::VaultCommand::Check(_)))
    }
}

pub fn run(command: RescueCommand, context: &Context, interrupt: &Interrupt) -> Result<Outcome> {
    match command {
        RescueCommand::Vault(command) => vault::run(command, context),
        RescueCommand::Vm(command) => vm::run(command, context),
        RescueCommand::Point(command) => point::run(command, context, interrupt),
    }
}
