//! Room kept for making room. Deleting from a vault begins with writing: a lease, a lock, tombstones, lists. On a disk that is full to
//! its last block none of that could be written, and nothing could ever be freed. So a local vault keeps a file that
//! occupies some MiB. Whoever frees space, and nobody else, gives it up, a piece at a time, and it grows again when there is room.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::header::HEADER_NAME;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use super::durable_local::DurableLocal;
use super::error::{LocalIo, classify_io};
use super::kind::Kind;
use super::limits::{
    RESERVE_BYTES, RESERVE_DISK_SHARE, RESERVE_FOR_RECORDS_BYTES, RESERVE_PIECE_BYTES, RESERVE_WRITE_BYTES,
};

/// The file, directly under the root. It is no object.
pub const RESERVE_NAME: &str = ".reserve";

/// Packs that reclaim moves leave some of it for the records by which it frees.
pub(super) fn floor_for(name: &str) -> u64 {
    if name.starts_with("packs/") { RESERVE_FOR_RECORDS_BYTES } else { 0 }
}

impl DurableLocal {
    /// Makes the reserve, or what is missing of it, where there is room: at most half of what is free goes into it. That it
    /// could not be made is no failure.
    pub(super) fn keep_reserve(&self) {
        let path = self.root().join(RESERVE_NAME);
        if let Err(error) = self.grow(&path) {
            tracing::debug!(path = %path.display(), %error, "the reserve could not be made");
        }
    }

    fn grow(&self, path: &Path) -> io::Result<()> {
        let disk = statvfs(self.root())?;
        let whole_pieces = |bytes: u64| bytes / RESERVE_PIECE_BYTES * RESERVE_PIECE_BYTES;
        let wanted =
            RESERVE_BYTES.min(whole_pieces(disk.f_blocks.saturating_mul(disk.f_frsize) / RESERVE_DISK_SHARE));
        let was = std::fs::symlink_metadata(path).map_or(0, |found| found.len());
        // A copy of a vault may have a hole for it. Not every file system tells what a file occupies.
        let occupies = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.blocks() > 0);
        let is_hole = was > 0 && !occupies(path) && occupies(&self.root().join(HEADER_NAME));
        let there = if is_hole { 0 } else { was };
        if there >= wanted {
            return Ok(());
        }
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let grown = wanted.min(there + whole_pieces(free / 2));
        if grown <= there {
            return Ok(());
        }
        let mut file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        // Another is at it.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || file.metadata()?.len() != was {
            return Ok(());
        }
        file.set_len(there)?;
        let done = occupy(&mut file, there, grown);
        if done.is_err() {
            // Not even half of what is said to be free was to be had: a quota, say.
            file.set_len(there)?;
        }
        done
    }

    /// Gives up enough of the reserve for `bytes` more to be written, as far as more than `floor_bytes` of it is there. False if
    /// nothing was given up.
    pub(super) fn give_up_reserve(&self, bytes: u64, floor_bytes: u64) -> bool {
        let path = self.root().join(RESERVE_NAME);
        let given_up = (|| -> io::Result<bool> {
            let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            let there = file.metadata()?.len();
            if there <= floor_bytes {
                return Ok(false);
            }
            // The file system needs some for itself.
            let piece = bytes.saturating_add(RESERVE_PIECE_BYTES);
            let left = there.saturating_sub(piece).max(floor_bytes);
            tracing::info!(path = %path.display(), bytes = there - left, "the disk is full: some of the reserve is given up to free space");
            if left == 0 {
                // Its inode may be what is wanted.
                std::fs::remove_file(&path)?;
            }
            file.set_len(left)?;
            // Some file systems give it back only with their next commit.
            file.sync_all()?;
            Ok(true)
        })();
        given_up.unwrap_or(false)
    }

    /// Bytes that whoever frees space could write now, as packs: what is free, and the reserve's part for it.
    pub(super) fn room_to_move(&self) -> Option<u64> {
        let disk = statvfs(self.root()).ok()?;
        let there = std::fs::metadata(self.root().join(RESERVE_NAME)).map_or(0, |found| found.len());
        let reserve = there.saturating_sub(RESERVE_FOR_RECORDS_BYTES);
        Some(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(reserve))
    }

    /// Does what frees space; where that fails because the disk is full, again with room from the reserve.
    pub(super) fn with_reserve<T>(
        &self,
        name: &str,
        bytes: u64,
        mut what: impl FnMut() -> Result<T, LocalIo>,
    ) -> Result<T, LocalIo> {
        loop {
            match what() {
                // An object that could not be synced may be in its place already.
                Err(e) if classify_io(&e.source) == Kind::NoSpace && e.step != "sync directory" => {
                    if !self.give_up_reserve(bytes, floor_for(name)) {
                        return Err(e);
                    }
                }
                other => return other,
            }
        }
    }
}

/// Makes a file occupy what lies between two lengths.
fn occupy(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    let _ = fallocate(&*file, FallocateFlags::empty(), from, to - from);
    // Not every file system that takes the call sets blocks aside; then bytes do that, such as do not compress.
    if file.metadata()?.blocks() * 512 >= to {
        return Ok(());
    }
    file.set_len(from)?;
    let mut piece = vec![0; RESERVE_WRITE_BYTES];
    let mut left = to - from;
    while left > 0 {
        crate::crypto::random(&mut piece).map_err(io::Error::other)?;
        let length = left.min(piece.len() as u64);
        file.write_all(&piece[..length as usize])?;
        left -= length;
    }
    file.sync_all()
}
