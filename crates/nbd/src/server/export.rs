//! What a server exports: the trait its users implement.

use std::io;

/// What is known of a range without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Must be read to know.
    Data,
    /// Allocated, reads as zeroes.
    Zero,
    /// Not allocated, reads as zeroes.
    Hole,
}

/// A range of an export of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes; never 0.
    pub length_bytes: u64,
    /// What it is.
    pub kind: ExtentKind,
}

/// Something that can be read, perhaps written, like a disk. Called from many threads at once.
///
/// The server checks ranges before it calls: they lie within `size_bytes` as it was when the client
/// connected. An error's kind becomes the protocol's number, and its text the client's message, so
/// it should name nothing a client must not know. A panic in here becomes an I/O error for that one
/// request.
pub trait Export: Send + Sync {
    /// Size in bytes; must not shrink while exported. At most `i64::MAX`.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` (at most 1 MiB) from `offset_bytes`; holes as zeroes.
    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()>;

    /// What the range consists of: extents from `offset_bytes` on, without gaps, of at least one
    /// byte. They may end before the range does (to bound the work: the server asks again) or after.
    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { offset_bytes, length_bytes, kind: ExtentKind::Data }])
    }

    /// Whether writing is refused. If not, at least `write_at` must be implemented.
    fn read_only(&self) -> bool {
        true
    }

    /// Whether a write through one connection is seen by reads through all, and a flush on one
    /// concerns all. True for what never changes.
    fn can_multi_conn(&self) -> bool {
        self.read_only()
    }

    /// What it is, for people. At most 4096 bytes.
    fn description(&self) -> String {
        String::new()
    }

    /// The size of requests that suits it best, in bytes: a power of two, 512 or more.
    fn preferred_block_bytes(&self) -> u32 {
        4096
    }

    /// Writes `data` (at most 1 MiB) at `offset_bytes`.
    fn write_at(&self, _offset_bytes: u64, _data: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    /// Makes the range read as zeroes, as a hole if `may_punch`.
    fn write_zeroes(&self, _offset_bytes: u64, _length_bytes: u64, _may_punch: bool) -> io::Result<()> {
        Err(refused())
    }

    /// The range's contents do not matter any more.
    fn trim(&self, _offset_bytes: u64, _length_bytes: u64) -> io::Result<()> {
        Err(refused())
    }

    /// Returns when everything written before is durable.
    fn flush(&self) -> io::Result<()> {
        if self.read_only() { Ok(()) } else { Err(refused()) }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the export does not permit it")
}

/// Cuts an export's answer to the range asked for, and checks its promises.
pub(crate) fn checked_extents(
    export: &dyn Export,
    offset_bytes: u64,
    length_bytes: u64,
) -> io::Result<Vec<Extent>> {
    let end = offset_bytes + length_bytes;
    let mut extents = export.extents(offset_bytes, length_bytes)?;
    let mut at = offset_bytes;
    let mut kept = 0;
    for extent in &mut extents {
        if at >= end {
            break;
        }
        let until = extent.offset_bytes.checked_add(extent.length_bytes);
        match until {
            Some(until) if extent.offset_bytes == at && until > at => {
                extent.length_bytes = until.min(end) - at;
                at = until.min(end);
                kept += 1;
            }
            _ => return Err(io::Error::other("the export's extents are not contiguous")),
        }
    }
    extents.truncate(kept);
    if kept == 0 {
        return Err(io::Error::other("the export reported no extents"));
    }
    Ok(extents)
}
