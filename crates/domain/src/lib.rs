//! Pure types and rules of Strongroom: what the field calls things, and what follows from what.
//!
//! Nothing here does I/O, reads a clock or draws a random number: times and identifiers come in as
//! arguments, so every rule can be tested in microseconds.

#![forbid(unsafe_code)]

pub mod consistency;
pub mod extent;
pub mod names;
pub mod selector;

pub use consistency::{Consistency, ConsistencyLevel};
pub use extent::{Extent, ExtentError, ExtentKind, TypedExtent};
pub use names::{InvalidName, ItemName, PointId, SessionId, VaultId};
pub use selector::{PointSelector, SelectorError};
