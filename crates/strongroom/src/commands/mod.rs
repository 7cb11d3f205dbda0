//! The commands, one module for each group.

pub mod access;
pub mod az;
pub mod common;
pub mod completions;
pub mod host;
pub mod image;
pub mod job;
pub mod jobs;
pub mod point;
pub mod policy;
pub mod policy_options;
pub mod rescue;
pub mod serve;
pub mod vault;
pub mod vm;
