//! Whether vaults and the catalog say the same, and what is done where they do not.

pub(crate) mod adopt;
pub mod import;
pub mod reconcile;
pub mod unmanaged;
