//! A vault's bytes: incremental, deduplicated, compressed, encrypted storage of disks, on a local
//! directory or an S3-compatible store.
//!
//! The format is described in `docs/vault-format.md`. What this crate promises:
//!
//! - A crash at any byte of any write loses no committed point and needs no repair.
//! - Every flipped bit is found by [`check`], named with the points it touches, and never restored silently.
//! - Reclaim costs what was freed and needs no pause in backups.
//! - Several sessions write at once and deduplicate against each other.
//! - Memory does not grow with the size of a disk or a vault: [`limits`].
//!
//! ```
//! use std::sync::Arc;
//! use strongroom_domain::{Consistency, ConsistencyLevel, TypedExtent, VaultId};
//! use strongroom_store::objects::{BlobStore, Location, OpenOptions};
//! use strongroom_store::*;
//!
//! struct Image(Vec<u8>);
//! impl BlockSource for Image {
//!     fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
//!         buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
//!         Ok(())
//!     }
//! }
//!
//! # let dir = tempfile::tempdir()?;
//! let location = Location::parse(dir.path().to_str().unwrap())?;
//! let objects = BlobStore::open(&location, OpenOptions { create: true, ..Default::default() })?;
//! let options = InitOptions::default();
//! let key = KeyFile::generate(options.vault)?;
//! let vault = Vault::init(objects, &key, options)?;
//!
//! let session = Session::begin(&vault, "example")?;
//! let image = Image(b"what matters".repeat(10_000));
//! let size_bytes = image.0.len() as u64;
//! let written = session.write_disk(DiskRequest {
//!     source: Arc::new(image),
//!     name: "disk".into(),
//!     size_bytes,
//!     extents: vec![TypedExtent::data(0, size_bytes)],
//!     parent: None,
//!     progress: Arc::default(),
//! })?;
//! let point = session.commit(PointDraft {
//!     item: "web01".parse()?,
//!     kind: PointKind::Image,
//!     taken_at: vault.environment().now(),
//!     parent: None,
//!     consistency: Consistency::new(ConsistencyLevel::Crash, "an example"),
//!     disks: vec![Disk::new("disk", &written)],
//!     definition: None,
//!     kept: None,
//!     warnings: vec![],
//!     attributes: Default::default(),
//! })?;
//!
//! let disk = ReadSession::begin(&vault, "example")?.open_disk(point.disks[0].tree());
//! let mut buffer = [0; 12];
//! disk.read_at(12, &mut buffer)?;
//! assert_eq!(&buffer, b"what matters");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod ahead;
pub mod check;
mod commits;
mod compress;
mod crypto;
mod damage;
mod disk;
mod environment;
mod error;
mod forget;
pub mod frame;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod index;
mod keys;
mod leaf_blocks;
mod leaf_workers;
mod lease;
pub mod limits;
mod lists;
mod manifest;
mod marker;
mod memory;
mod missing;
mod node;
mod note;
pub mod objects;
mod pack;
mod points;
mod probe;
mod progress;
mod reading;
pub mod reclaim;
mod record;
mod rewrite;
mod roll;
mod sealed;
mod sequential;
mod session;
mod single_writer;
mod stats;
mod tombstone;
mod tree;
mod upkeep;
mod vault;
mod write;

pub use compress::Level;
pub use crypto::Id;
pub use disk::{BlockTarget, DiskReader, ReadSession};
pub use environment::{Environment, ProcessIdentity, System};
pub use error::{Result, StoreError};
pub use header::check_block_size;
pub use keys::{KeyFile, KeyProvider, Keyring, WrappedKey};
pub use manifest::{Definition, Disk, HexId, Kept, KeptPolicy, Manifest, PointKind, Promise};
pub use missing::{MissingPoint, OutOfSight};
pub use points::{DamagedPoint, PointList};
pub use progress::Progress;
pub use reclaim::Agreement;
pub use rewrite::{RewriteTarget, Rewritten};
pub use session::{PointDraft, Session};
pub use stats::Stats;
pub use tombstone::{DamagedTombstone, Tombstone, TombstoneList};
pub use tree::DiskTree;
pub use vault::{InitOptions, Vault};
pub use write::stream::StreamRequest;
pub use write::{BlockSource, DiskRequest, DiskWritten};
