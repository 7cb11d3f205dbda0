//! Pure types and rules of Strongroom: what the field calls things, and what follows from what.
//!
//! Nothing here does I/O, reads a clock or draws a random number: times and identifiers come in as
//! arguments, so every rule can be tested in microseconds.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod access;
mod arm_enum;
pub mod arm_names;
pub mod calendar;
pub mod clock;
pub mod consistency;
pub mod datasource;
pub mod decide;
pub mod extent;
pub mod fact;
pub mod item;
pub mod job;
pub mod limits;
pub mod names;
pub mod policy;
pub mod retention;
pub mod schedule;
pub mod selector;
pub mod zone;

pub use consistency::{Consistency, ConsistencyLevel};
pub use datasource::Datasource;
pub use extent::{Extent, ExtentError, ExtentKind, TypedExtent};
pub use names::{InvalidName, ItemName, PointId, SessionId, VaultId};
pub use selector::{PointSelector, SelectorError};
