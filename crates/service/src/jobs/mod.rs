//! Jobs: what is being done. The ledger keeps them, the runner leases and runs them, chores do what nobody asks for. No kind of job
//! is known here by name: kinds and chores come from the rooms that have them, through `open.rs`.

pub(crate) mod cancel;
pub(crate) mod chore;
pub(crate) mod chores;
pub(crate) mod errors;
pub(crate) mod kind;
pub(crate) mod lease;
pub(crate) mod ledger;
pub mod operations;
pub(crate) mod runner;
pub(crate) mod running;
pub(crate) mod settle;

#[cfg(test)]
mod tests;

pub use cancel::cancel;
pub use ledger::{JobFilter, get, list, open_of};
