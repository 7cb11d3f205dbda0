//! Vaults: their rows, their stores, their keys, and what they say of themselves.

pub(crate) mod deleted;
pub mod exclusive;
pub mod groups;
pub(crate) mod held;
pub mod keys;
pub(crate) mod lookup;
pub(crate) mod noted;
pub(crate) mod notes;
pub(crate) mod notes_state;
pub(crate) mod older_catalog;
pub(crate) mod policy_rows;
pub(crate) mod purged;
pub(crate) mod report;
pub(crate) mod settings;
pub mod storage;
pub(crate) mod stores;
pub(crate) mod turns;

pub use deleted::{delete, list_all_deleted, list_deleted, undelete};
pub use lookup::{
    PUBLIC_NETWORK_ACCESS, RESTORE_SETTINGS, find, get, is_closed_to_public_networks, item_count, list,
    plain_location, same_location,
};
pub use settings::{VaultSettings, put, update};
pub use stores::{check_exclusive, is_single_writer, stats};
