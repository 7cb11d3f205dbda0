//! Writing a disk of which nothing but the next bytes can be had, and whose length is known when they end. Leaves are read one after
//! the other and worked on side by side, a bounded number of bytes of them at a time.

use super::plan::{LeafWork, bits};
use super::{BlockSource, check_size};
use super::{DiskContext, DiskRequest, DiskWritten, Job, LEAVES_IN_FLIGHT, LeafResult, Writers};
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::limits::{NODE_FANOUT, STREAM_MEMORY_BYTES};
use crate::node::block_count;
use crate::progress::Progress;
use crate::tree::{DiskTree, TreeBuilder};
use crossbeam_channel::bounded;
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What to write, from the first byte to the last.
pub struct StreamRequest<'a> {
    /// Read until it says that it is over.
    pub source: &'a mut dyn Read,
    /// How errors call it.
    pub name: String,
    /// What changes are counted against.
    pub parent: Option<DiskTree>,
    /// Counts what is read, and can stop it.
    pub progress: Arc<Progress>,
}

/// One leaf's bytes.
struct Piece {
    offset_bytes: u64,
    bytes: Vec<u8>,
}

impl BlockSource for Piece {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = (offset_bytes - self.offset_bytes) as usize;
        let there = self.bytes.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(there);
        Ok(())
    }
}

impl Writers {
    /// Writes a disk to the end of its stream.
    pub fn write_stream(&self, request: StreamRequest<'_>) -> Result<DiskWritten> {
        let parent = self.usable_parent(&request)?;
        let StreamRequest { source, name, progress, .. } = request;
        let block_size = self.vault.block_size_bytes();
        let leaf_bytes = block_size as usize * NODE_FANOUT;
        let in_flight = (STREAM_MEMORY_BYTES / leaf_bytes).clamp(1, LEAVES_IN_FLIGHT);
        // As many answers as there can be: workers never wait for this thread.
        let (done, results) = bounded(in_flight);
        let mut under_way: HashMap<u64, Arc<DiskContext>> = HashMap::new();
        let mut leaves: Vec<(u64, Id)> = Vec::new();
        let mut written = DiskWritten {
            tree: DiskTree { root: None, size_bytes: 0 },
            read_bytes: 0,
            changed_bytes: 0,
            new_bytes: 0,
        };
        let mut size_bytes = 0u64;
        let mut is_over = false;
        for leaf in 0.. {
            progress.check()?;
            self.sink.check().map_err(|e| self.why(e))?;
            if !is_over {
                let bytes = read_piece(source, leaf_bytes)
                    .map_err(|e| StoreError::io(format!("reading {name} at offset {size_bytes}"), e));
                // Stopped is why reading failed, where both are so.
                progress.check()?;
                let bytes = bytes?;
                is_over = bytes.len() < leaf_bytes;
                if !bytes.is_empty() {
                    let offset_bytes = size_bytes;
                    size_bytes += bytes.len() as u64;
                    check_size(&name, size_bytes)?;
                    let blocks = bytes.len().div_ceil(block_size as usize) as u64;
                    let disk = Arc::new(DiskContext {
                        parent,
                        // It says what its leaf is also where that is as it was.
                        edge_leaf: Some(leaf),
                        request: DiskRequest {
                            source: Arc::new(Piece { offset_bytes, bytes }),
                            name: name.clone(),
                            size_bytes,
                            extents: Vec::new(),
                            parent: None,
                            progress: progress.clone(),
                        },
                        read_bytes: AtomicU64::new(0),
                        changed_bytes: AtomicU64::new(0),
                        new_bytes: AtomicU64::new(0),
                    });
                    under_way.insert(leaf, disk.clone());
                    let work = LeafWork { leaf, read: bits(0, blocks), zero: 0 };
                    let job = Job { disk, sequence: leaf, work, done: done.clone() };
                    let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
                    if !matches!(sent, Some(Ok(()))) {
                        return Err(self.why(StoreError::Cancelled));
                    }
                }
            }
            while under_way.len() >= in_flight || (is_over && !under_way.is_empty()) {
                let (_, leaf, result) = results.recv().map_err(|_| self.why(StoreError::Cancelled))?;
                if let LeafResult::Changed(Some(id)) = result.map_err(|e| self.why(e))? {
                    leaves.push((leaf, id));
                }
                if let Some(disk) = under_way.remove(&leaf) {
                    written.read_bytes += disk.read_bytes.load(Ordering::Relaxed);
                    written.changed_bytes += disk.changed_bytes.load(Ordering::Relaxed);
                    written.new_bytes += disk.new_bytes.load(Ordering::Relaxed);
                }
            }
            if is_over {
                break;
            }
        }
        leaves.sort_unstable_by_key(|(leaf, _)| *leaf);
        let mut store = |encoding: Vec<u8>| self.sink.put_node(&encoding);
        // All leaves are known: nothing of the parent's tree is needed above them.
        let mut builder = TreeBuilder::new(block_count(size_bytes, block_size), None);
        for (leaf, id) in leaves {
            builder.put_leaf(leaf, Some(id), &mut store).map_err(|e| self.why(e))?;
        }
        let root = builder.finish(&mut store).map_err(|e| self.why(e))?;
        written.tree = DiskTree { root, size_bytes };
        Ok(written)
    }

    /// The parent, if it can be read and stays. Without it everything counts as changed, and what the vault has is shared still.
    fn usable_parent(&self, request: &StreamRequest<'_>) -> Result<Option<DiskTree>> {
        let Some(tree) = request.parent else { return Ok(None) };
        let index = self.sink.index();
        if index.has_damage() {
            match self.damaged_blocks(tree) {
                Ok(_) => {}
                Err(e) if e.is_damage() => {
                    tracing::warn!("{}: the last point is damaged ({e})", request.name);
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        let stays = !index.is_distrusted()
            && (!index.awaits_deletion() || self.stands_without_condemned(tree, &request.progress)?);
        Ok(stays.then_some(tree))
    }
}

/// The next bytes: as many as were asked for, or all that there are.
fn read_piece(source: &mut dyn Read, length_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length_bytes)?;
    source.take(length_bytes as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
