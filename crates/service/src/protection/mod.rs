//! What is protected, and by which policy.

pub mod items;
pub(crate) mod lookup;
pub mod policies;
pub mod untrack;
