//! Azure's JSON, where translating it takes more than a few lines.

pub mod policy;
