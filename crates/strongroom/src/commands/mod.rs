//! The commands, one module for each group.

pub mod completions;
pub mod image;
pub mod point;
pub mod vault;
pub mod vm;
