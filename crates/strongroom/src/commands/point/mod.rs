//! `strongroom point`: the recovery points of protected machines.

mod document;
mod drill;
mod find;
mod show;
mod unmanaged;

pub use document::{PointDocument, consistency};
pub use drill::ResultDocument;
pub use find::find_point;

use crate::context::{Context, Outcome};
use crate::failure::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum PointCommand {
    /// List a machine's recovery points, the newest first.
    List(show::ListArgs),
    /// Show all that is known of a point.
    Show(show::ShowArgs),
    /// Adopt a point that is in a vault and that the catalog does not know.
    Adopt(unmanaged::AdoptArgs),
    /// Forget a point that the catalog does not know, or the row of one that is missing.
    Forget(unmanaged::ForgetArgs),
}

pub fn run(command: PointCommand, context: &Context) -> Result<Outcome> {
    match command {
        PointCommand::List(arguments) => show::list_points(&arguments, context),
        PointCommand::Show(arguments) => show::show(&arguments, context),
        PointCommand::Adopt(arguments) => unmanaged::adopt(&arguments, context),
        PointCommand::Forget(arguments) => unmanaged::forget(&arguments, context),
    }
}
