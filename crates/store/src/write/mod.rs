//! Writing disks: a pool of workers reads changed blocks, compares, deduplicates, compresses and
//! hands frames to the [`sink`]; the tree is built from their leaves in order.
//!
//! All disks of a session share the pool, so that they go side by side within one bound of memory.

mod aside;
pub mod plan;
pub mod sink;
pub mod stream;

use crate::compress::{Level, is_zero};
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::limits::{DISK_SIZE_MAX_BYTES, FRAME_TARGET_BYTES, NODE_FANOUT};
use crate::node::{Node, block_count};
use crate::progress::Progress;
use crate::tree::{DiskTree, NodeSource as _, TreeBuilder, TreeReader};
use crate::vault::Vault;
use aside::step_aside;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use plan::{LeafWork, Planner, runs};
use sink::{Sink, WorkerSink};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use strongroom_domain::extent::overlay;
use strongroom_domain::{Extent, ExtentKind, SessionId, TypedExtent};

/// Leaves of one disk that may be under way at a time.
const LEAVES_IN_FLIGHT: usize = 64;

/// A disk to be read, from several threads at once.
pub trait BlockSource: Send + Sync {
    /// Fills `buffer` with the bytes at `offset_bytes`.
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What to write of a disk.
pub struct DiskRequest {
    /// Where its bytes come from.
    pub source: Arc<dyn BlockSource>,
    /// How errors call it.
    pub name: String,
    /// Its length; it may differ from the parent's.
    pub size_bytes: u64,
    /// What to look at, sorted and not overlapping: everything else is as in the parent (or a hole, without one).
    pub extents: Vec<TypedExtent>,
    /// The same disk at an earlier point. None: everything else is holes.
    pub parent: Option<DiskTree>,
    /// Counts what is read, and can stop it.
    pub progress: Arc<Progress>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskWritten {
    /// What a point names: [`Disk::new`](crate::Disk::new).
    pub tree: DiskTree,
    /// Read from the source.
    pub read_bytes: u64,
    /// Whole blocks that differ from the parent's.
    pub changed_bytes: u64,
    /// Whole blocks that the vault had nowhere.
    pub new_bytes: u64,
}

struct DiskContext {
    request: DiskRequest,
    parent: Option<DiskTree>,
    /// After a resize, the leaf in which the shorter disk ends: put in any case, so that all nodes above are cut to size.
    edge_leaf: Option<u64>,
    read_bytes: AtomicU64,
    changed_bytes: AtomicU64,
    new_bytes: AtomicU64,
}

impl DiskContext {
    /// Fills the buffer with so many bytes of the disk; with zeroes behind its end.
    fn read(&self, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let wanted = length.min((self.request.size_bytes - offset) as usize);
        buffer.clear();
        buffer.resize(length, 0);
        self.request
            .source
            .read_at(offset, &mut buffer[..wanted])
            .map_err(|e| StoreError::io(format!("reading {} at offset {offset}", self.request.name), e))?;
        self.read_bytes.fetch_add(wanted as u64, Ordering::Relaxed);
        self.request.progress.add_done(wanted as u64);
        Ok(())
    }
}

enum LeafResult {
    Same,
    Changed(Option<Id>),
}

struct Job {
    disk: Arc<DiskContext>,
    sequence: u64,
    work: LeafWork,
    done: Sender<(u64, u64, Result<LeafResult>)>,
}

/// A session's workers.
pub struct Writers {
    vault: Vault,
    sink: Arc<Sink>,
    /// None once they are told to end.
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
    uploaders: Vec<JoinHandle<()>>,
}

/// How many workers: enough to keep every core busy while some wait for reads.
fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 14) + 1
}

impl Writers {
    pub fn start(vault: &Vault, session: SessionId, level: Level) -> Result<Self> {
        let (sink, uploaders) = Sink::start(vault, session, (0, 0))?;
        let (jobs, receiver) = bounded::<Job>(8);
        let mut workers = Vec::new();
        for _ in 0..worker_count() {
            let (vault, sink, receiver) = (vault.clone(), sink.clone(), receiver.clone());
            let worker = std::thread::Builder::new()
                .name("write".into())
                .spawn(move || {
                    step_aside();
                    work(&vault, &sink, &receiver, level);
                })
                .map_err(|e| StoreError::io("starting a thread", e))?;
            workers.push(worker);
        }
        Ok(Self { vault: vault.clone(), sink, jobs: Some(jobs), workers, uploaders })
    }

    /// Writes one disk. May be called from several threads at once.
    pub fn write_disk(&self, mut request: DiskRequest) -> Result<DiskWritten> {
        let block_size = self.vault.block_size_bytes();
        check_size(&request.name, request.size_bytes)?;
        check_order(&request.extents)?;
        if request.size_bytes == 0 {
            let tree = DiskTree { root: None, size_bytes: 0 };
            return Ok(DiskWritten { tree, read_bytes: 0, changed_bytes: 0, new_bytes: 0 });
        }
        let (parent, extents) = self.what_to_read(&mut request)?;
        let edge_leaf = parent
            .filter(|p| p.size_bytes != request.size_bytes)
            .map(|p| edge_leaf(p.size_bytes, request.size_bytes, block_size));
        let extents = with_resize(extents, edge_leaf, request.size_bytes, block_size);
        let total: u64 =
            extents.iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.extent.length_bytes).sum();
        request.progress.add_total(total);
        let planned = self.without_old_holes(extents, parent, edge_leaf)?;
        let mut planner = Planner::new(planned, block_size, request.size_bytes);
        let disk = Arc::new(DiskContext {
            parent,
            edge_leaf,
            request,
            read_bytes: AtomicU64::new(0),
            changed_bytes: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
        });
        let tree = self.run(&disk, &mut planner)?;
        Ok(DiskWritten {
            tree,
            read_bytes: disk.read_bytes.load(Ordering::Relaxed),
            changed_bytes: disk.changed_bytes.load(Ordering::Relaxed),
            new_bytes: disk.new_bytes.load(Ordering::Relaxed),
        })
    }

    /// The extents without what is a hole and was one: that needs no work, however much of it there is.
    fn without_old_holes(
        &self,
        extents: Vec<TypedExtent>,
        parent: Option<DiskTree>,
        edge_leaf: Option<u64>,
    ) -> Result<Vec<TypedExtent>> {
        let block_size = self.vault.block_size_bytes();
        let leaf_bytes = u64::from(block_size) * NODE_FANOUT as u64;
        let old = parent.filter(|tree| tree.root.is_some());
        let old = old.map(|tree| TreeReader::new(&self.vault, tree, block_size));
        let mut planned: Vec<TypedExtent> = Vec::with_capacity(extents.len());
        for extent in extents {
            let (start, end) = (extent.extent.offset_bytes, extent.extent.end_bytes());
            // A few leaves are looked at sooner than it is found out whether they are there.
            let is_short = end - start <= 2 * leaf_bytes;
            match (extent.kind, &old) {
                (ExtentKind::Data, _) => planned.push(extent),
                (ExtentKind::Zero, None) => {}
                (ExtentKind::Zero, Some(_)) if is_short => planned.push(extent),
                (ExtentKind::Zero, Some(old)) => {
                    let leaves = start / leaf_bytes..end.div_ceil(leaf_bytes);
                    let mut add = |leaf: u64| {
                        let from = start.max(leaf * leaf_bytes);
                        let to = end.min((leaf + 1) * leaf_bytes);
                        match planned.last_mut() {
                            Some(last)
                                if last.kind == ExtentKind::Zero && last.extent.end_bytes() == from =>
                            {
                                last.extent.length_bytes += to - from;
                            }
                            _ => planned.push(TypedExtent::zero(from, to - from)),
                        }
                    };
                    // That one is put in any case, also where it was no leaf.
                    let mut edge = edge_leaf.filter(|leaf| leaves.contains(leaf));
                    old.for_each_leaf_number(leaves, &mut |leaf| {
                        if let Some(edge) = edge.take_if(|edge| *edge < leaf) {
                            add(edge);
                        }
                        edge.take_if(|edge| *edge == leaf);
                        add(leaf);
                    })?;
                    edge.into_iter().for_each(add);
                }
            }
        }
        Ok(planned)
    }

    /// What the disk can be built on, and what of it is to be looked at then: as was asked for, or, where the parent does not stand,
    /// everything.
    fn what_to_read(&self, request: &mut DiskRequest) -> Result<(Option<DiskTree>, Vec<TypedExtent>)> {
        let mut parent = request.parent;
        let mut extents = std::mem::take(&mut request.extents);
        if self.sink.index().has_damage()
            && let Some(tree) = parent
        {
            match self.damaged_blocks(tree) {
                Ok(damaged) => extents = overlay(&extents, &damaged),
                // Nothing can be built on a tree that cannot be read: everything is read and written anew.
                Err(e) if e.is_damage() => {
                    tracing::warn!("{}: the last point is damaged ({e}); reading everything", request.name);
                    parent = None;
                    extents = whole(request.size_bytes);
                }
                Err(e) => return Err(e),
            }
        }
        if self.sink.index().is_distrusted() && parent.is_some() {
            tracing::warn!("{}: which packs are about to go is not known; reading everything", request.name);
            parent = None;
            extents = whole(request.size_bytes);
        }
        if self.sink.index().awaits_deletion()
            && let Some(tree) = parent
            && !self.stands_without_condemned(tree, &request.progress)?
        {
            // Reclaim waits for the sessions that were there when it condemned those packs: not for this one.
            tracing::info!(
                "{}: the last point needs packs that are about to go; reading everything",
                request.name
            );
            parent = None;
            extents = whole(request.size_bytes);
        }
        Ok((parent, extents))
    }

    /// Whether everything of a tree is somewhere where it stays. A point of a session that was at work when packs were condemned
    /// may need them, and is kept whole as long as it is a point; it may be forgotten while this session builds on it.
    fn stands_without_condemned(&self, tree: DiskTree, progress: &Progress) -> Result<bool> {
        let index = self.sink.index();
        let mut stack: Vec<Id> = tree.root.into_iter().collect();
        while let Some(id) = stack.pop() {
            progress.check()?;
            if index.good_place(&id).is_none() {
                return Ok(false);
            }
            let node = match self.vault.node(&id) {
                Ok(node) => node,
                Err(e) if e.is_damage() => return Ok(false),
                Err(e) => return Err(e),
            };
            if node.level > 0 {
                stack.extend(node.present().map(|(_, child)| child));
            } else if node.present().any(|(_, block)| index.good_place(&block).is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Blocks of a tree that no good place holds: they are read again, which heals every point that has them.
    fn damaged_blocks(&self, tree: DiskTree) -> Result<Vec<Extent>> {
        let block_size = u64::from(self.vault.block_size_bytes());
        let reader = TreeReader::new(&self.vault, tree, block_size as u32);
        let mut damaged: Vec<Extent> = Vec::new();
        reader.for_each_leaf(0, &mut |leaf, node| {
            for (i, id) in node.present() {
                if self.sink.index().good_place(&id).is_none() {
                    let offset = (leaf * NODE_FANOUT as u64 + i as u64) * block_size;
                    damaged.push(Extent::new(offset, block_size.min(tree.size_bytes - offset)));
                }
            }
            Ok(true)
        })?;
        Ok(damaged)
    }

    fn run(&self, disk: &Arc<DiskContext>, planner: &mut Planner) -> Result<DiskTree> {
        let block_size = self.vault.block_size_bytes();
        let size_bytes = disk.request.size_bytes;
        let reader = disk.parent.map(|tree| TreeReader::new(&self.vault, tree, block_size));
        let mut builder = TreeBuilder::new(block_count(size_bytes, block_size), reader);
        let mut store = |encoding: Vec<u8>| self.sink.put_node(&encoding);
        let (done, results) = bounded(LEAVES_IN_FLIGHT);
        let mut next = planner.next();
        let (mut sent, mut received, mut placed) = (0u64, 0u64, 0u64);
        // Leaves that came back before one sent earlier did.
        let mut waiting: BTreeMap<u64, (u64, LeafResult)> = BTreeMap::new();
        while next.is_some() || received < sent {
            disk.request.progress.check()?;
            self.sink.check().map_err(|e| self.why(e))?;
            // A leaf waits in `waiting` until all before it are in: those count as under way.
            let may_send = next.is_some() && sent - placed < LEAVES_IN_FLIGHT as u64;
            let job = next.filter(|_| may_send).map(|work| Job {
                disk: disk.clone(),
                sequence: sent,
                work,
                done: done.clone(),
            });
            let received_one = match job {
                Some(job) => match self.send_or_receive(job, &results)? {
                    Some(result) => Some(result),
                    None => {
                        sent += 1;
                        next = planner.next();
                        None
                    }
                },
                None => Some(results.recv().map_err(|_| self.why(StoreError::Cancelled))?),
            };
            if let Some((sequence, leaf, result)) = received_one {
                received += 1;
                waiting.insert(sequence, (leaf, result.map_err(|e| self.why(e))?));
                while let Some((leaf, result)) = waiting.remove(&placed) {
                    placed += 1;
                    if let LeafResult::Changed(id) = result {
                        builder.put_leaf(leaf, id, &mut store).map_err(|e| self.why(e))?;
                    }
                }
            }
        }
        Ok(DiskTree { root: builder.finish(&mut store).map_err(|e| self.why(e))?, size_bytes })
    }

    /// Workers only say that they were stopped where something else has failed: that is what it is about.
    fn why(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Cancelled => self.sink.take_failure().unwrap_or(error),
            other => other,
        }
    }

    /// Sends a job, unless a result comes first: then the job was not sent.
    #[allow(clippy::type_complexity)]
    fn send_or_receive(
        &self,
        job: Job,
        results: &Receiver<(u64, u64, Result<LeafResult>)>,
    ) -> Result<Option<(u64, u64, Result<LeafResult>)>> {
        // Results first, so that workers never wait for this thread.
        if let Ok(result) = results.try_recv() {
            return Ok(Some(result));
        }
        let Some(jobs) = &self.jobs else { return Err(StoreError::Cancelled) };
        select! {
            recv(results) -> result => result.map(Some).map_err(|_| StoreError::Cancelled),
            send(jobs, job) -> sent => match sent {
                Ok(()) => Ok(None),
                Err(_) => Err(self.why(StoreError::Cancelled)),
            },
        }
    }

    pub fn shared_sink(&self) -> Arc<Sink> {
        self.sink.clone()
    }

    /// Writes everything out, durably, and ends all threads. Returns the bytes that were stored.
    pub fn finish(mut self) -> Result<u64> {
        self.join_workers();
        self.sink.finish(std::mem::take(&mut self.uploaders))?;
        Ok(self.sink.stored_bytes())
    }

    fn join_workers(&mut self) {
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                self.sink.fail(StoreError::io("writing a disk", io::Error::other("a worker panicked")));
            }
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        if self.jobs.is_some() {
            // Not finished: what is under way is not worth writing any more.
            self.sink.fail(StoreError::Cancelled);
            self.join_workers();
            let _ = self.sink.finish(std::mem::take(&mut self.uploaders));
        }
    }
}

fn work(vault: &Vault, sink: &Sink, jobs: &Receiver<Job>, level: Level) {
    let mut own = WorkerSink::new(level);
    let mut buffer = Vec::new();
    while let Ok(job) = jobs.recv() {
        let result = leaf(vault, sink, &mut own, &mut buffer, &job);
        // Nobody listens if the disk failed meanwhile.
        let _ = job.done.send((job.sequence, job.work.leaf, result));
    }
    if let Err(error) = sink.flush_worker(&mut own, true) {
        sink.fail(error);
    }
}

/// Works on one leaf: reads, compares, stores what is new, and makes the new leaf.
fn leaf(
    vault: &Vault,
    sink: &Sink,
    own: &mut WorkerSink,
    buffer: &mut Vec<u8>,
    job: &Job,
) -> Result<LeafResult> {
    let disk = &job.disk;
    let LeafWork { leaf, read, zero } = job.work;
    disk.request.progress.check()?;
    sink.check()?;
    let block_size = vault.block_size_bytes() as usize;
    let reader = disk.parent.map(|tree| TreeReader::new(vault, tree, block_size as u32));
    let is_edge = disk.edge_leaf == Some(leaf);
    let old_id = reader.as_ref().map_or(Ok(None), |reader| reader.node_id(0, leaf))?;
    let old = match &old_id {
        Some(id) => (*vault.node(id)?).clone(),
        None if read == 0 && !is_edge => return Ok(LeafResult::Same),
        None => Node::empty(0),
    };
    let mut new = old.clone();
    let blocks_here = block_count(disk.request.size_bytes, block_size as u32) - leaf * NODE_FANOUT as u64;
    for beyond in (blocks_here as usize).min(NODE_FANOUT)..NODE_FANOUT {
        new.set(beyond, None);
    }
    let mut changed_blocks = 0u64;
    let mut new_blocks = 0u64;
    let check_damage = sink.index().has_damage();
    for (first, count) in runs(zero) {
        for i in first..first + count {
            changed_blocks += u64::from(new.get(i).is_some());
            new.set(i, None);
        }
    }
    // Small reads: what is hashed and compressed next is still in the processor's cache.
    let blocks_per_read = (FRAME_TARGET_BYTES / block_size).max(1);
    let leaf_start = leaf * (NODE_FANOUT * block_size) as u64;
    for (run_first, run_count) in runs(read) {
        for first in (run_first..run_first + run_count).step_by(blocks_per_read) {
            let count = blocks_per_read.min(run_first + run_count - first);
            disk.read(leaf_start + (first * block_size) as u64, count * block_size, buffer)?;
            for (i, block) in (first..).zip(buffer.chunks_exact(block_size)) {
                if is_zero(block) {
                    changed_blocks += u64::from(new.get(i).is_some());
                    new.set(i, None);
                    continue;
                }
                let id = vault.keys().block_id(block);
                if new.get(i) == Some(id) && !check_damage {
                    continue;
                }
                changed_blocks += u64::from(new.get(i) != Some(id));
                new_blocks += u64::from(sink.put_block(own, id, block)?);
                new.set(i, Some(id));
            }
        }
    }
    disk.changed_bytes.fetch_add(changed_blocks * block_size as u64, Ordering::Relaxed);
    disk.new_bytes.fetch_add(new_blocks * block_size as u64, Ordering::Relaxed);
    if new == old && !check_damage && !is_edge {
        return Ok(LeafResult::Same);
    }
    let id = if new.is_empty() { None } else { Some(sink.put_node(&new.encode())?) };
    Ok(if id == old_id && !is_edge { LeafResult::Same } else { LeafResult::Changed(id) })
}

fn whole(size_bytes: u64) -> Vec<TypedExtent> {
    if size_bytes == 0 { Vec::new() } else { vec![TypedExtent::data(0, size_bytes)] }
}

fn check_size(name: &str, size_bytes: u64) -> Result<()> {
    if size_bytes <= DISK_SIZE_MAX_BYTES {
        return Ok(());
    }
    let detail = format!("{name} of {size_bytes} bytes is larger than a vault takes");
    Err(StoreError::Invalid { what: "disk", detail })
}

fn check_order(extents: &[TypedExtent]) -> Result<()> {
    let mut end = 0;
    for e in extents {
        if e.extent.offset_bytes < end {
            return Err(StoreError::Invalid {
                what: "extents",
                detail: format!("the one at offset {} is out of order or overlaps", e.extent.offset_bytes),
            });
        }
        end = e.extent.end_bytes();
    }
    Ok(())
}

/// The leaf in which the shorter of two disks ends.
fn edge_leaf(old_size_bytes: u64, new_size_bytes: u64, block_size: u32) -> u64 {
    let leaf_bytes = u64::from(block_size) * NODE_FANOUT as u64;
    old_size_bytes.min(new_size_bytes).saturating_sub(1) / leaf_bytes
}

/// After a resize, everything from the edge leaf on counts as changed: the last block of the shorter disk was padded
/// or cut. What is known to be zero there stays known, so that a disk grown by terabytes is not read.
fn with_resize(
    mut extents: Vec<TypedExtent>,
    edge_leaf: Option<u64>,
    size_bytes: u64,
    block_size: u32,
) -> Vec<TypedExtent> {
    let Some(edge_leaf) = edge_leaf else { return extents };
    let edge = edge_leaf * u64::from(block_size) * NODE_FANOUT as u64;
    let mut gaps = Vec::new();
    let mut at = edge;
    for e in extents.iter().filter(|e| e.extent.end_bytes() > edge) {
        if e.extent.offset_bytes > at {
            gaps.push(Extent::new(at, e.extent.offset_bytes - at));
        }
        at = at.max(e.extent.end_bytes());
    }
    if at < size_bytes {
        gaps.push(Extent::new(at, size_bytes - at));
    }
    extents = overlay(&extents, &gaps);
    extents
}
