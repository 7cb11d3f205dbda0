//! What every room stands on: the service itself, its configuration, its clock, its data directory, its errors.

pub mod clock;
pub(crate) mod committed;
pub mod config;
pub(crate) mod data;
pub(crate) mod drills;
pub(crate) mod error;
pub(crate) mod life;
pub(crate) mod parts;
pub(crate) mod refusals;
pub(crate) mod service;
