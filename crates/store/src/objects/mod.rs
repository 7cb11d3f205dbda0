//! Objects: named, immutable-by-convention byte strings in a local directory or an S3-compatible store.
//!
//! - [`Location`]: what the user types, a directory or `s3://bucket/prefix`.
//! - [`BlobStore`]: the blocking façade that the rest of the store uses from plain threads.
//! - [`Container`]: Azure Blob Storage or S3, given whole files such as restored disks.
//! - [`DurableLocal`]: a directory in which a finished put survives power loss.
//! - [`fault`]: an object store that fails on purpose, for tests.
//! - `testing` (feature `test-support`): the conformance suite and a real S3 server.
//!
//! Names follow [`check_name`] everywhere. Limits are in [`limits`].

mod blob;
mod container;
mod direct;
mod durable_local;
mod error;
pub mod fault;
mod hedge;
mod kind;
pub mod limits;
mod local_fs;
mod local_object_store;
mod location;
mod name;
mod reach;
mod refusal;
mod remote;
mod reserve;
mod stop;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
mod together;
mod transport;
mod upload;

use std::time::SystemTime;

pub use blob::{BlobStore, OpenOptions};
pub use container::{Container, ContainerAddress, ContainerSettings, Secret};
pub use durable_local::{DurableLocal, TEMP_DIR};
pub use error::{LocalIo, ObjectError, classify, classify_io};
pub use kind::{Kind, Op};
pub use local_fs::Existing;
pub use location::{Location, LocationError, check_local};
pub use name::{NameError, check_name, check_prefix};
pub use reach::Reach;
pub use refusal::Refusal;
pub use remote::RetryLimits;
pub use reserve::RESERVE_NAME;
pub use stop::Stop;
pub use together::Questions;
pub(crate) use together::try_all_at_once;
pub use upload::Upload;

/// Name prefixes whose objects need to be atomic but not to survive power loss: leases of sessions.
pub const VOLATILE_PREFIXES: &[&str] = &["sessions/"];

/// Objects by which it is found out what a server can do. They are removed again at once, and mean nothing.
pub const PROBES_PREFIX: &str = "probes/";

/// What listing and looking up tell about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Full name within the store.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// When it was last written, by the clock of whoever stores it.
    pub last_modified: SystemTime,
}
