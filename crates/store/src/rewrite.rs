//! Making a disk that is there equal to one of a recovery point, by writing only what differs.
//!
//! What is there is read and its blocks' ids are compared with those of the point, so that the result is the point's disk
//! whatever was there before, and whatever was believed about it. Blocks that differ are compared once more in pieces of
//! [`REWRITE_PIECE_BYTES`], so that a small change costs a small write.

use crate::compress::is_zero;
use crate::disk::DiskReader;
use crate::error::{Result, StoreError};
use crate::leaf_workers::work_on;
use crate::limits::{NODE_FANOUT, REWRITE_PIECE_BYTES};
use crate::node::{Node, block_count};
use crate::progress::Progress;
use crate::write::plan::{bits, runs};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strongroom_domain::Extent;

/// A disk that is there. Called from several threads at once, never for the same bytes.
pub trait RewriteTarget: Send + Sync {
    /// Fills `buffer` with what is there at `offset_bytes`.
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`. An error ends the rewrite.
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zeroes, if possible without writing them.
    fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()>;
}

/// What a rewrite did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Read of what was there.
    pub compared_bytes: u64,
    /// Written because they differed; without what was made zero.
    pub written_bytes: u64,
    /// Made to read as zeroes.
    pub zeroed_bytes: u64,
}

#[derive(Default)]
struct Counters {
    compared: AtomicU64,
    written: AtomicU64,
    zeroed: AtomicU64,
}

/// What is there: the disk, and where it may hold anything but zeroes.
struct Present<'a> {
    disk: &'a dyn RewriteTarget,
    holds: &'a [Extent],
}

impl Present<'_> {
    /// Whether any of a range may be other than zero.
    fn may_hold(&self, from: u64, to: u64) -> bool {
        let next = self.holds.partition_point(|e| e.end_bytes() <= from);
        self.holds.get(next).is_some_and(|e| e.offset_bytes < to)
    }
}

impl DiskReader {
    /// How many bytes of this disk's blocks `other` does not have in the same place.
    pub fn differing_bytes(&self, other: &DiskReader) -> Result<u64> {
        let theirs = other.reader();
        let mut blocks = 0u64;
        self.reader().for_each_leaf(0, &mut |index, leaf| {
            let other = theirs.node(0, index)?;
            let same = |i: usize, id| other.as_ref().is_some_and(|o| o.get(i) == Some(id));
            blocks += leaf.present().filter(|(i, id)| !same(*i, *id)).count() as u64;
            Ok(true)
        })?;
        Ok(blocks * self.block_size())
    }

    /// Makes `disk`, which has this disk's size, equal to this disk. `holds` says, sorted and disjoint, where it may hold
    /// anything but zeroes. Not atomic: stopped on the way, it is a mixture, which another call makes whole.
    pub fn rewrite(
        &self,
        disk: &dyn RewriteTarget,
        holds: &[Extent],
        progress: &Progress,
    ) -> Result<Rewritten> {
        progress.add_total(self.data_bytes()?);
        let present = Present { disk, holds };
        let counters = Counters::default();
        work_on(
            7,
            0,
            || vec![0; self.block_size() as usize],
            |buffer, (index, leaf): (u64, Option<Arc<Node>>)| {
                self.rewrite_leaf(index, leaf.as_deref(), &present, buffer, &counters, progress)
            },
            |send| {
                let mut held = HeldLeaves::new(holds, self.leaf_bytes(), self.size_bytes());
                self.reader().for_each_leaf(0, &mut |index, leaf| {
                    // Leaves that the point has not, and the disk may.
                    while let Some(before) = held.next_below(index) {
                        if !send((before, None)) {
                            return Ok(false);
                        }
                    }
                    held.skip(index);
                    Ok(send((index, Some(leaf))))
                })?;
                while held.next_below(u64::MAX).is_some_and(|index| send((index, None))) {}
                Ok(())
            },
        )?;
        Ok(Rewritten {
            compared_bytes: counters.compared.into_inner(),
            written_bytes: counters.written.into_inner(),
            zeroed_bytes: counters.zeroed.into_inner(),
        })
    }

    fn rewrite_leaf(
        &self,
        index: u64,
        leaf: Option<&Node>,
        present: &Present<'_>,
        buffer: &mut [u8],
        counters: &Counters,
        progress: &Progress,
    ) -> Result<()> {
        let leaf_start = index * self.leaf_bytes();
        let block_size = self.block_size();
        let blocks_here = block_count(self.size_bytes(), block_size as u32) - index * NODE_FANOUT as u64;
        let (mut write, mut zero) = (0u128, 0u128);
        for block in 0..blocks_here.min(NODE_FANOUT as u64) {
            progress.check()?;
            let offset = leaf_start + block * block_size;
            let wanted = leaf.and_then(|leaf| leaf.get(block as usize));
            let differs = if present.may_hold(offset, offset + block_size) {
                self.read_present(present, offset, buffer, counters)?;
                match wanted {
                    Some(id) => is_zero(buffer) || self.vault().keys().block_id(buffer) != id,
                    None => !is_zero(buffer),
                }
            } else {
                wanted.is_some()
            };
            match (differs, wanted) {
                (true, Some(_)) => write |= bits(block, block + 1),
                (true, None) => zero |= bits(block, block + 1),
                (false, Some(_)) => progress.add_done(self.kept(offset, block_size)),
                (false, None) => {}
            }
        }
        for (first, count) in runs(zero) {
            let offset = leaf_start + first as u64 * block_size;
            let length = self.kept(offset, count as u64 * block_size);
            present.disk.write_zeroes(offset, length).map_err(|e| failed_at(offset, e))?;
            counters.zeroed.fetch_add(length, Ordering::Relaxed);
        }
        let Some(leaf) = leaf.filter(|_| write != 0) else { return Ok(()) };
        let wanted = self.vault().wanted(leaf, write)?;
        self.vault().read_blocks(&wanted, None, &mut |first, data| {
            for (block, data) in (first as u64..).zip(data.chunks(block_size as usize)) {
                progress.check()?;
                let offset = leaf_start + block * block_size;
                let data = &data[..self.kept(offset, data.len() as u64) as usize];
                if present.may_hold(offset, offset + block_size) {
                    self.read_present(present, offset, buffer, counters)?;
                } else {
                    buffer.fill(0);
                }
                write_differing(present.disk, offset, data, buffer, counters)?;
                progress.add_done(data.len() as u64);
            }
            Ok(())
        })
    }

    /// How much of a range lies within the disk.
    fn kept(&self, offset: u64, length: u64) -> u64 {
        self.size_bytes().saturating_sub(offset).min(length)
    }

    /// Reads a block, padded with zeroes as it would be in the vault.
    fn read_present(
        &self,
        present: &Present<'_>,
        offset: u64,
        buffer: &mut [u8],
        counters: &Counters,
    ) -> Result<()> {
        let kept = self.kept(offset, buffer.len() as u64) as usize;
        let (inside, beyond) = buffer.split_at_mut(kept);
        beyond.fill(0);
        counters.compared.fetch_add(kept as u64, Ordering::Relaxed);
        present
            .disk
            .read_at(offset, inside)
            .map_err(|e| StoreError::io(format!("reading the present disk at offset {offset}"), e))
    }
}

fn failed_at(offset: u64, error: io::Error) -> StoreError {
    StoreError::io(format!("writing the restored disk at offset {offset}"), error)
}

/// Writes the pieces of `data` that are not as in `there`, neighbours at once.
fn write_differing(
    disk: &dyn RewriteTarget,
    offset: u64,
    data: &[u8],
    there: &[u8],
    counters: &Counters,
) -> Result<()> {
    let mut begin = None;
    let mut at = 0;
    while at <= data.len() {
        let end = (at + REWRITE_PIECE_BYTES).min(data.len());
        let differs = at < data.len() && data[at..end] != there[at..end];
        match (differs, begin) {
            (true, None) => begin = Some(at),
            (false, Some(from)) => {
                let run = &data[from..at];
                disk.write_at(offset + from as u64, run).map_err(|e| failed_at(offset, e))?;
                counters.written.fetch_add(run.len() as u64, Ordering::Relaxed);
                begin = None;
            }
            _ => {}
        }
        if at == data.len() {
            break;
        }
        at = end;
    }
    Ok(())
}

/// The leaves that hold anything, in order, each once.
struct HeldLeaves<'a> {
    holds: &'a [Extent],
    leaf_bytes: u64,
    size_bytes: u64,
    /// No leaf below this one comes any more.
    next: u64,
}

impl<'a> HeldLeaves<'a> {
    fn new(holds: &'a [Extent], leaf_bytes: u64, size_bytes: u64) -> Self {
        Self { holds, leaf_bytes, size_bytes, next: 0 }
    }

    fn skip(&mut self, leaf: u64) {
        self.next = self.next.max(leaf.saturating_add(1));
    }

    fn next_below(&mut self, limit: u64) -> Option<u64> {
        let from = self.next.saturating_mul(self.leaf_bytes);
        while self.holds.first().is_some_and(|e| e.end_bytes() <= from || e.is_empty()) {
            self.holds = &self.holds[1..];
        }
        let first = self.holds.first()?;
        let leaf = first.offset_bytes.max(from) / self.leaf_bytes;
        if leaf >= limit || leaf.saturating_mul(self.leaf_bytes) >= self.size_bytes {
            return None;
        }
        self.next = leaf + 1;
        Some(leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_that_hold_something_come_once_and_in_order() {
        let holds = [Extent::new(0, 5), Extent::new(8, 1), Extent::new(25, 30), Extent::new(95, 10)];
        let mut held = HeldLeaves::new(&holds, 10, 100);
        let mut found = Vec::new();
        while let Some(leaf) = held.next_below(4) {
            found.push(leaf);
        }
        held.skip(4);
        while let Some(leaf) = held.next_below(u64::MAX) {
            found.push(leaf);
        }
        assert_eq!(found, [0, 2, 3, 5, 9]);
    }
}
