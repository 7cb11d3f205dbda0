//! What the service knows: its vaults, policies, machines, protected items, recovery points, jobs and principals, in a
//! database. See [`service`].
//!
//! Vaults explain themselves without it: a catalog that was lost is rebuilt by importing each of them.

#![forbid(unsafe_code)]

pub mod limits;
pub mod service;
