//! placeholder

pub mod objects;
