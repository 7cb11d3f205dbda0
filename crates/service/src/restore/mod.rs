//! Restoring recovery points: as disks, as a new machine, in place of a machine's disks, at once from the vault.

pub(crate) mod container;
pub(crate) mod disks;
pub(crate) mod hidden;
pub mod instant;
pub(crate) mod job;
pub(crate) mod open;
pub(crate) mod replace;
pub(crate) mod request;
pub(crate) mod swap;
pub(crate) mod swap_plan;
pub(crate) mod variables;

pub use job::{Asked, check, restore};
pub use request::{Allowed, CREATE, CREATE_REPLACE, RestoreRequest, TRANSFER, Target, check_replace};
