//! Reads the workspace's own source and says which rules of its architecture are broken: floors (which crate may use which), rooms
//! (which part of a crate), and circles of files. The rules stand in [`rules`]; `make lint` runs it.
//!
//! It reads `use` lines and paths, not types: what one file does with another's type through methods alone it does not see.

#![forbid(unsafe_code)]

pub mod checks;
pub mod facts;
pub mod graph;
pub mod rules;
pub mod tokens;
pub mod workspace;
