//! How the bytes of a disk are read.

use crate::error::Result;
use strongroom_domain::TypedExtent;

/// Reads a disk as it was at the snapshot's instant. May be used from many threads at once.
pub trait ReadDisk: Send + Sync {
    /// Fills `buffer` from `offset_bytes` on. The range lies within the disk's size.
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()>;

    /// Data and zeroes of the whole disk, sorted, from 0 to its size.
    fn kinds(&self) -> Result<Vec<TypedExtent>>;
}
