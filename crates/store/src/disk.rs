//! Reading a disk of a recovery point: at random, as a map of holes, or whole and in parallel.

use crate::ahead::Ahead;
use crate::error::{Result, StoreError};
use crate::index::Location;
use crate::leaf_blocks::Wanted;
use crate::leaf_workers::{Sending, work_on};
use crate::lease::Lease;
use crate::limits::{AHEAD_BATCH_BYTES, AHEAD_RANGE_MAX_BYTES, LEAVES_AHEAD, NODE_FANOUT};
use crate::marker;
use crate::node::block_count;
use crate::progress::Progress;
use crate::sequential::{Leaves, Sequential};
use crate::tree::{DiskTree, TreeReader};
use crate::vault::Vault;
use crate::write::plan::bits;
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, Weak};
use strongroom_domain::{Extent, TypedExtent};

/// Where a disk is restored to. Called from several threads at once, never twice for the same bytes.
pub trait BlockTarget: Send + Sync {
    /// Writes all of `data`. An error ends the restore.
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()>;
}

/// Holds a reader's lease, so that reclaim leaves alone what it may still read. Shared by the disks it opens.
pub struct ReadSession {
    vault: Vault,
    /// From a store that is far away: what its disks' readers are about to want, together.
    ahead: Option<Arc<Ahead>>,
    lease: Mutex<Option<Lease>>,
}

impl ReadSession {
    /// Begins reading. Works without a lease where the location cannot be written.
    pub fn begin(vault: &Vault, purpose: &str) -> Result<Arc<Self>> {
        let session = vault.environment().new_session_id();
        let asked = vault.just_opened().unwrap_or_else(|| vault.plain()).asking(marker::question());
        let lease = Lease::acquire(&asked, session, purpose, true)?;
        vault.reload();
        let objects = vault.objects();
        let ahead = objects.is_remote().then(|| Arc::new(Ahead::new(objects)));
        if ahead.is_some() {
            // Whoever reads wants it; meanwhile it is looked for the point. What goes wrong here is told to who wants it.
            let vault = vault.plain();
            let _ = std::thread::Builder::new().name("index".into()).spawn(move || drop(vault.index()));
        }
        Ok(Arc::new(Self { vault: vault.plain(), ahead, lease: Mutex::new(lease) }))
    }

    /// The vault that is read.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Opens a disk of a point: [`Disk::tree`](crate::Disk::tree). Nothing is read yet.
    pub fn open_disk(self: &Arc<Self>, tree: DiskTree) -> DiskReader {
        let sequential = self.ahead.clone().map(|ahead| {
            let leaf_bytes = u64::from(self.vault.block_size_bytes()) * NODE_FANOUT as u64;
            Sequential::new(ahead, tree.size_bytes, leaf_bytes)
        });
        DiskReader { session: self.clone(), tree, sequential }
    }

    /// Ends it now, whoever still holds a reader: what they read from now on may be reclaimed. Else it ends with the
    /// last of them.
    pub fn end(&self) {
        if let Some(lease) = self.lease.lock().take()
            && let Err(e) = lease.release()
        {
            tracing::warn!("the lease of this reader could not be removed; it runs out by itself: {e}");
        }
        if let Err(e) = self.vault.record_damage() {
            tracing::warn!(
                "damage that was found could not be recorded; run `strongroom rescue vault check`: {e}"
            );
        }
    }
}

impl Drop for ReadSession {
    fn drop(&mut self) {
        self.end();
    }
}

/// One disk of a recovery point.
#[derive(Clone)]
pub struct DiskReader {
    session: Arc<ReadSession>,
    tree: DiskTree,
    /// From a store that is far away: what is read next is fetched ahead.
    sequential: Option<Arc<Sequential>>,
}

/// A reader that keeps no lease alive.
struct WeakReader {
    session: Weak<ReadSession>,
    tree: DiskTree,
}

impl Leaves for WeakReader {
    fn frames(&self, leaf_index: u64) -> Option<Vec<Location>> {
        let disk = DiskReader { session: self.session.upgrade()?, tree: self.tree, sequential: None };
        match disk.reader().node(0, leaf_index).ok()? {
            Some(leaf) => disk.vault().wanted(&leaf, u128::MAX).ok().map(|wanted| wanted.frames),
            None => Some(Vec::new()),
        }
    }
}

/// A leaf whose frames were sent for.
struct Sent<'a> {
    leaf_index: u64,
    wanted: Wanted,
    ahead: &'a Ahead,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.ahead.let_go(std::mem::take(&mut self.wanted.frames));
    }
}

impl DiskReader {
    /// The disk's length, as the machine sees it.
    pub fn size_bytes(&self) -> u64 {
        self.tree.size_bytes
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.session.vault
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.vault().block_size_bytes().into()
    }

    pub(crate) fn leaf_bytes(&self) -> u64 {
        self.block_size() * NODE_FANOUT as u64
    }

    pub(crate) fn reader(&self) -> TreeReader<'_> {
        TreeReader::new(self.vault(), self.tree, self.vault().block_size_bytes())
    }

    /// Fills `buffer` with the bytes at `offset_bytes`, which must lie within the disk. Every byte is verified.
    pub fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset_bytes.checked_add(buffer.len() as u64).filter(|&end| end <= self.tree.size_bytes);
        let Some(end) = end else {
            return Err(StoreError::Invalid {
                what: "range",
                detail: format!("{} bytes at {offset_bytes} do not lie within the disk", buffer.len()),
            });
        };
        let (block_size, leaf_bytes) = (self.block_size(), self.leaf_bytes());
        if let Some(sequential) = &self.sequential {
            let leaves = || WeakReader { session: Arc::downgrade(&self.session), tree: self.tree };
            sequential.reads(leaves, offset_bytes..end);
        }
        let ahead = self.sequential.as_deref().map(Sequential::ahead);
        let mut at = offset_bytes;
        while at < end {
            let leaf_index = at / leaf_bytes;
            let leaf_end = ((leaf_index + 1) * leaf_bytes).min(end);
            let out = &mut buffer[(at - offset_bytes) as usize..(leaf_end - offset_bytes) as usize];
            match self.reader().node(0, leaf_index)? {
                None => out.fill(0),
                Some(leaf) => {
                    let leaf_start = leaf_index * leaf_bytes;
                    let first = ((at - leaf_start) / block_size) as usize;
                    let last = ((leaf_end - leaf_start - 1) / block_size) as usize;
                    let mut filled = at;
                    let wanted = self.vault().wanted(&leaf, bits(first as u64, last as u64 + 1))?;
                    self.vault().read_blocks(&wanted, ahead, &mut |block, data| {
                        let block_start = leaf_start + block as u64 * block_size;
                        let from = block_start.max(at);
                        let to = (block_start + data.len() as u64).min(leaf_end);
                        out[(filled - at) as usize..(from - at) as usize].fill(0);
                        out[(from - at) as usize..(to - at) as usize].copy_from_slice(
                            &data[(from - block_start) as usize..(to - block_start) as usize],
                        );
                        filled = to;
                        Ok(())
                    })?;
                    out[(filled - at) as usize..].fill(0);
                }
            }
            at = leaf_end;
        }
        Ok(())
    }

    /// Which parts of a range hold data and which are holes: everything in it, in order.
    pub fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>> {
        let end = offset_bytes.saturating_add(length_bytes).min(self.tree.size_bytes);
        let mut data: Vec<Extent> = Vec::new();
        let (block_size, leaf_bytes) = (self.block_size(), self.leaf_bytes());
        self.reader().for_each_leaf(offset_bytes / leaf_bytes, &mut |index, leaf| {
            let leaf_start = index * leaf_bytes;
            if leaf_start >= end {
                return Ok(false);
            }
            for (i, _) in leaf.present() {
                let start = leaf_start + i as u64 * block_size;
                let from = start.max(offset_bytes);
                let to = (start + block_size).min(end);
                if from >= to {
                    continue;
                }
                match data.last_mut() {
                    Some(last) if last.end_bytes() == from => last.length_bytes += to - from,
                    _ => data.push(Extent::new(from, to - from)),
                }
            }
            Ok(true)
        })?;
        let mut out = Vec::with_capacity(data.len() * 2 + 1);
        let mut at = offset_bytes;
        for e in data {
            if e.offset_bytes > at {
                out.push(TypedExtent::zero(at, e.offset_bytes - at));
            }
            out.push(TypedExtent::data(e.offset_bytes, e.length_bytes));
            at = e.end_bytes();
        }
        if at < end {
            out.push(TypedExtent::zero(at, end - at));
        }
        Ok(out)
    }

    /// Bytes that are not holes: what an [`export`](Self::export) writes.
    pub fn data_bytes(&self) -> Result<u64> {
        let mut blocks = 0u64;
        let last_block = block_count(self.tree.size_bytes, self.vault().block_size_bytes()).saturating_sub(1);
        let mut has_last = false;
        self.reader().for_each_leaf(0, &mut |index, leaf| {
            for (i, _) in leaf.present() {
                blocks += 1;
                has_last |= index * NODE_FANOUT as u64 + i as u64 == last_block;
            }
            Ok(true)
        })?;
        let padding = (last_block + 1) * self.block_size()
            - self.tree.size_bytes.min((last_block + 1) * self.block_size());
        Ok(blocks * self.block_size() - if has_last { padding } else { 0 })
    }

    /// Writes all data to `target`, in the disk's order as far as several threads can, holes left out. The target must
    /// read as zeroes where nothing is written.
    pub fn export(&self, target: &dyn BlockTarget, progress: &Progress) -> Result<()> {
        let Some(ahead) = &self.session.ahead else {
            return work_on(
                15,
                0,
                || (),
                |(), (index, wanted): (u64, Wanted)| self.export_leaf(index, &wanted, None, target, progress),
                |send| {
                    let reader = self.reader();
                    let done = reader.for_each_leaf(0, &mut |index, leaf| {
                        Ok(send((index, self.vault().wanted(&leaf, u128::MAX)?)))
                    });
                    done.map(drop)
                },
            );
        };
        work_on(
            15,
            LEAVES_AHEAD,
            || (),
            |(), sent: Sent<'_>| {
                self.export_leaf(sent.leaf_index, &sent.wanted, Some(ahead), target, progress)
            },
            |send| self.send_ahead(ahead, progress, send),
        )
    }

    /// Sends all leaves, and for their frames before: so many leaves together that what lies side by side in packs comes
    /// together.
    fn send_ahead<'a>(
        &self,
        ahead: &'a Ahead,
        progress: &Progress,
        send: Sending<'_, Sent<'a>>,
    ) -> Result<()> {
        let mut batch: Vec<(u64, Wanted)> = Vec::new();
        let (mut bytes, mut enough) = (0, AHEAD_RANGE_MAX_BYTES);
        let send_batch = |batch: &mut Vec<(u64, Wanted)>, bytes| {
            ahead.wait_for_room(bytes, || progress.check().is_err());
            ahead.send_for(batch.iter().flat_map(|(_, wanted)| wanted.frames.iter().copied()));
            // All of them, at once: those that nobody takes any more are let go of.
            let sent: Vec<_> =
                batch.drain(..).map(|(leaf_index, wanted)| Sent { leaf_index, wanted, ahead }).collect();
            sent.into_iter().all(send)
        };
        let whole = self.reader().for_each_leaf(0, &mut |index, leaf| {
            let wanted = self.vault().wanted(&leaf, u128::MAX)?;
            bytes += wanted.stored_bytes();
            batch.push((index, wanted));
            if bytes < enough && batch.len() < LEAVES_AHEAD {
                return Ok(true);
            }
            let goes_on = send_batch(&mut batch, bytes);
            // The first are few, so that somebody has something to do.
            (bytes, enough) = (0, (enough * 2).min(AHEAD_BATCH_BYTES));
            Ok(goes_on)
        })?;
        if whole {
            send_batch(&mut batch, bytes);
        }
        Ok(())
    }

    fn export_leaf(
        &self,
        index: u64,
        wanted: &Wanted,
        ahead: Option<&Ahead>,
        target: &dyn BlockTarget,
        progress: &Progress,
    ) -> Result<()> {
        let leaf_start = index * self.leaf_bytes();
        self.vault().read_blocks(wanted, ahead, &mut |block, data| {
            progress.check()?;
            let offset = leaf_start + block as u64 * self.block_size();
            let keep = (self.tree.size_bytes.saturating_sub(offset)).min(data.len() as u64) as usize;
            target
                .write_at(offset, &data[..keep])
                .map_err(|e| StoreError::io(format!("writing the restored disk at offset {offset}"), e))?;
            progress.add_done(keep as u64);
            Ok(())
        })
    }
}
