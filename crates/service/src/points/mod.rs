//! Recovery points: finding them, how long each is kept, the snapshot tier.

pub(crate) mod lookup;
pub(crate) mod missing;
pub mod retention;
pub(crate) mod row;
pub mod snapshots;

pub use lookup::{get, list, not_found};
