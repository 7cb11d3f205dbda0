//! Drills: recovery points prove that they can be restored.

pub(crate) mod job;
pub(crate) mod schedule;

pub use crate::core::drills::{DrillOptions, DrillSchedule};
pub use job::{begin, screenshot};
pub use schedule::tick;
