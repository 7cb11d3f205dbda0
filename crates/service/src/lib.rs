//! The service: vaults, policies, discovered machines, protected items, jobs, and what runs by itself.
//!
//! Each use case decides from what the catalog says and writes what follows in one transaction; that transaction is its
//! commit point. Long work is a job: it is written first, done by a runner, and made true by one last transaction.
//! Killed at any moment, the next start finds each job either done (its recovery point is in the vault, its machine is
//! defined) or not, and says so or does it again.
//!
//! A room a capability; each uses only rooms above it in this list:
//!
//! - `core`: what every room stands on. `audit`: what is remembered of all that was done, by whoever did it.
//! - `jobs`: what is being done, and following it.
//! - `vaults`: resource groups, vaults, their stores and keys, what they say of themselves.
//! - `estate`: machines and places on the hosts.
//! - `points`: recovery points, retention, the snapshot tier.
//! - `protection`: policies and protected items.
//! - `backup`, `restore`, `drills`: the jobs.
//! - `reconciliation`: whether vaults say the same as the catalog; importing, adopting.
//! - `housekeeping`: what has had its time goes.
//! - `open`: the only file that knows all rooms.
//!
//! All calls block.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod audit;
pub mod backup;
pub(crate) mod core;
pub mod drills;
pub mod estate;
pub mod housekeeping;
pub mod jobs;
pub mod limits;
mod open;
pub mod points;
pub mod protection;
pub mod reconciliation;
pub mod restore;
pub mod vaults;

pub use crate::core::clock::{self, Clock, SystemClock};
pub use crate::core::config::{self, AuditConfig, HostConfig, Limits, ServiceConfig, SnapshotConfig};
pub use crate::core::data::DataDirectory;
pub use crate::core::error::{Error, ErrorKind, Result};
pub use crate::core::service::{Host, Service};
pub use backup::schedule;
pub use drills as drill;
pub use estate::{machines, places};
pub use jobs::operations;
pub use points::{retention, snapshots};
pub use protection::{items, policies, untrack};
pub use reconciliation::{import, reconcile, unmanaged};
pub use restore::instant;
pub use vaults::{exclusive, groups, keys, storage};
