//! What is known of vaults and their recovery points without opening any of them.
//!
//! A vault explains itself; the catalog only remembers. It is written after the fact (a recovery point is committed by
//! its manifest in the vault, then gets its row here), it may lag behind, and it can be thrown away at any time:
//! [`Catalog::sync`] brings it in line with what a vault says. So nothing ever fails because of it, and callers turn its
//! errors into warnings.
//!
//! What the crate promises:
//!
//! - every change is one transaction: a crash leaves all of it or nothing;
//! - a database that is damaged, or that no migration brings up to date, is moved aside and begun anew, and
//!   [`Catalog::take_warnings`] says so; one written by a newer program is left alone;
//! - several processes use one catalog at the same time.
//!
//! Calls block: make them from threads, never from within an async runtime's workers.
//!
//! ```
//! use strongroom_catalog::{Catalog, SqliteCatalog, VaultSeen};
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("catalog.db");
//! let catalog = SqliteCatalog::open(&path)?;
//! let vault = VaultSeen { id: "0190a1b2-c3d4-4e5f-8a9b-0c1d2e3f4a5b".parse().unwrap(), location: "/backup".into() };
//! catalog.sync(&vault, None, &[])?;
//! assert_eq!(catalog.vaults()?[0].location, "/backup");
//! # Ok::<(), strongroom_catalog::CatalogError>(())
//! ```

#![forbid(unsafe_code)]

mod error;
pub mod limits;
mod location;
mod model;
pub mod service;
mod sqlite;

pub use error::{CatalogError, Result};
pub use location::default_path;
pub use model::{DiskRow, ItemKind, PointRow, StoredPoint, Synced, VaultRow, VaultSeen};
pub use sqlite::SqliteCatalog;

use strongroom_domain::{ItemName, PointId, VaultId};

/// What is known. One implementation for one host, others for several servers; all pass one suite of tests.
pub trait Catalog: Send + Sync {
    /// Notes that a recovery point was committed. The same point again replaces its row.
    fn record(&self, vault: &VaultSeen, point: &PointRow) -> Result<()>;

    /// Takes points out that are no longer in the vault. Unknown ones are fine. Returns how many there were.
    fn remove(&self, vault: VaultId, points: &[PointId]) -> Result<u64>;

    /// Makes what is known of a vault, or of one of its items, what was just read from it: `points` are all there are.
    fn sync(&self, vault: &VaultSeen, item: Option<&ItemName>, points: &[PointRow]) -> Result<Synced>;

    /// The newest point of each source of each item of a kind, over all vaults, by item.
    fn last_points(&self, kind: ItemKind) -> Result<Vec<StoredPoint>>;

    /// All points of an item, over all vaults, oldest first.
    fn points(&self, item: &ItemName) -> Result<Vec<StoredPoint>>;

    /// Vaults that were seen, by location.
    fn vaults(&self) -> Result<Vec<VaultRow>>;

    /// Forgets a vault and its points. Returns whether it was known.
    fn forget_vault(&self, vault: VaultId) -> Result<bool>;

    /// What happened that the user should know, a sentence each. Each is told once.
    fn take_warnings(&self) -> Vec<String>;
}
