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

/// A stream that is being written: how far it was read, what is under way, and what came of it.
struct Stream<'a> {
    source: &'a mut dyn Read,
    name: String,
    parent: Option<DiskTree>,
    progress: Arc<Progress>,
    size_bytes: u64,
    is_over: bool,
    under_way: HashMap<u64, Arc<DiskContext>>,
    leaves: Vec<(u64, Id)>,
    written: DiskWritten,
}

impl<'a> Stream<'a> {
    fn new(request: StreamRequest<'a>, parent: Option<DiskTree>) -> Self {
        let StreamRequest { source, name, progress, .. } = request;
        Self {
            source,
            name,
            parent,
            progress,
            size_bytes: 0,
            is_over: false,
            under_way: HashMap::new(),
            leaves: Vec::new(),
            written: DiskWritten {
                tree: DiskTree { root: None, size_bytes: 0 },
                read_bytes: 0,
                changed_bytes: 0,
                new_bytes: 0,
            },
        }
    }

    /// Reads the next leaf's bytes. None: there are none.
    fn next_piece(&mut self, leaf_bytes: usize) -> Result<Option<Piece>> {
        let Self { name, size_bytes, .. } = self;
        let bytes = read_piece(self.source, leaf_bytes)
            .map_err(|e| StoreError::io(format!("reading {name} at offset {size_bytes}"), e));
        // Stopped is why reading failed, where both are so.
        self.progress.check()?;
        let bytes = bytes?;
        self.is_over = bytes.len() < leaf_bytes;
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset_bytes = self.size_bytes;
        self.size_bytes += bytes.len() as u64;
        check_size(&self.name, self.size_bytes)?;
        Ok(Some(Piece { offset_bytes, bytes }))
    }

    /// What workers are to know of a leaf, which is under way from here on.
    fn begin(&mut self, leaf: u64, piece: Piece) -> Arc<DiskContext> {
        let disk = Arc::new(DiskContext {
            parent: self.parent,
            // It says what its leaf is also where that is as it was.
            edge_leaf: Some(leaf),
            request: DiskRequest {
                source: Arc::new(piece),
                name: self.name.clone(),
                size_bytes: self.size_bytes,
                extents: Vec::new(),
                parent: None,
                progress: self.progress.clone(),
            },
            read_bytes: AtomicU64::new(0),
            changed_bytes: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
        });
        self.under_way.insert(leaf, disk.clone());
        disk
    }

    /// A leaf is done.
    fn take_in(&mut self, leaf: u64, result: LeafResult) {
        if let LeafResult::Changed(Some(id)) = result {
            self.leaves.push((leaf, id));
        }
        if let Some(disk) = self.under_way.remove(&leaf) {
            self.written.read_bytes += disk.read_bytes.load(Ordering::Relaxed);
            self.written.changed_bytes += disk.changed_bytes.load(Ordering::Relaxed);
            self.written.new_bytes += disk.new_bytes.load(Ordering::Relaxed);
        }
    }
}

impl Writers {
    /// Writes a disk to the end of its stream.
    pub fn write_stream(&self, request: StreamRequest<'_>) -> Result<DiskWritten> {
        let parent = self.usable_parent(&request)?;
        let mut stream = Stream::new(request, parent);
        let block_size = self.vault.block_size_bytes();
        let leaf_bytes = block_size as usize * NODE_FANOUT;
        let in_flight = (STREAM_MEMORY_BYTES / leaf_bytes).clamp(1, LEAVES_IN_FLIGHT);
        // As many answers as there can be: workers never wait for this thread.
        let (done, results) = bounded(in_flight);
        for leaf in 0.. {
            stream.progress.check()?;
            self.sink.check().map_err(|e| self.why(e))?;
            if !stream.is_over
                && let Some(piece) = stream.next_piece(leaf_bytes)?
            {
                let blocks = piece.bytes.len().div_ceil(block_size as usize) as u64;
                let disk = stream.begin(leaf, piece);
                let work = LeafWork { leaf, read: bits(0, blocks), zero: 0 };
                let job = Job { disk, sequence: leaf, work, done: done.clone() };
                let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
                if !matches!(sent, Some(Ok(()))) {
                    return Err(self.why(StoreError::Cancelled));
                }
            }
            while stream.under_way.len() >= in_flight || (stream.is_over && !stream.under_way.is_empty()) {
                let (_, leaf, result) = results.recv().map_err(|_| self.why(StoreError::Cancelled))?;
                stream.take_in(leaf, result.map_err(|e| self.why(e))?);
            }
            if stream.is_over {
                break;
            }
        }
        let Stream { leaves, mut written, size_bytes, .. } = stream;
        written.tree = self.tree_of(leaves, size_bytes)?;
        Ok(written)
    }

    /// Builds the tree, of all leaves that are not mere holes.
    fn tree_of(&self, mut leaves: Vec<(u64, Id)>, size_bytes: u64) -> Result<DiskTree> {
        leaves.sort_unstable_by_key(|(leaf, _)| *leaf);
        let mut store = |encoding: Vec<u8>| self.sink.put_node(&encoding);
        // All leaves are known: nothing of the parent's tree is needed above them.
        let mut builder = TreeBuilder::new(block_count(size_bytes, self.vault.block_size_bytes()), None);
        for (leaf, id) in leaves {
            builder.put_leaf(leaf, Some(id), &mut store).map_err(|e| self.why(e))?;
        }
        let root = builder.finish(&mut store).map_err(|e| self.why(e))?;
        Ok(DiskTree { root, size_bytes })
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
