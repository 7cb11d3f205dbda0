//! What has had its time goes: expired points, deleted items and vaults, unused space, old operations.

pub(crate) mod sweep;
pub(crate) mod vault_purge;

pub use sweep::{purge, sweep};
