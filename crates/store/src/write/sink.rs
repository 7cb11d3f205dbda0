//! Where new blocks and nodes go: deduplication within the session, frames, packs, uploads, index
//! runs. Shared by all workers of a session; memory is bounded whatever a session writes.

use super::aside::step_aside;
use crate::compress::{Compressor, Level, looks_random};
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::frame::{Codec, FrameContent, FrameKind, PackId};
use crate::index::run::{PackRow, Run};
use crate::index::{INDEX_PREFIX, Index, Pending};
use crate::limits::{
    FRAME_COUNT_MAX, FRAME_TARGET_BYTES, INDEX_PENDING_MAX_RECORDS, PACK_TARGET_BYTES,
    PACK_TARGET_REMOTE_BYTES, PACKS_BESIDE, PACKS_IN_FLIGHT, PACKS_IN_FLIGHT_REMOTE,
};
use crate::memory::large_buffer;
use crate::pack::{PackBuilder, TRAILER_BYTES, parse_directory, parse_trailer};
use crate::vault::Vault;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use strongroom_domain::SessionId;

const CLAIM_SHARDS: usize = 16;
/// Who waits for memory looks so often whether somebody failed.
const POOL_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Blocks or nodes gathered for one frame.
#[derive(Default)]
pub struct Draft {
    ids: Vec<Id>,
    plain: Vec<u8>,
}

impl Draft {
    fn push(&mut self, id: Id, bytes: &[u8]) {
        self.ids.push(id);
        self.plain.extend_from_slice(bytes);
    }

    fn is_full(&self) -> bool {
        self.plain.len() >= FRAME_TARGET_BYTES || self.ids.len() >= FRAME_COUNT_MAX
    }
}

/// A worker's own part: what it gathers, and its compressor.
pub struct WorkerSink {
    compressible: Draft,
    random: Draft,
    compressor: Compressor,
}

impl WorkerSink {
    pub fn new(level: Level) -> Self {
        Self { compressible: Draft::default(), random: Draft::default(), compressor: Compressor::new(level) }
    }
}

/// How large packs become, and how many go side by side.
#[derive(Clone, Copy)]
struct PackSizes {
    target_bytes: usize,
    in_flight: usize,
}

impl PackSizes {
    fn of(vault: &Vault) -> Self {
        match vault.objects().is_remote() {
            true => Self { target_bytes: PACK_TARGET_REMOTE_BYTES, in_flight: PACKS_IN_FLIGHT_REMOTE },
            false => Self { target_bytes: PACK_TARGET_BYTES, in_flight: PACKS_IN_FLIGHT },
        }
    }
}

/// Memory of packs: of so many at once, whoever fills one more waits.
struct Pool {
    state: Mutex<PoolState>,
    one_done: Condvar,
}

struct PoolState {
    spare: Vec<Vec<u8>>,
    /// How many packs there may be besides.
    left: usize,
}

impl Pool {
    fn new(most: usize) -> Self {
        Self { state: Mutex::new(PoolState { spare: Vec::new(), left: most }), one_done: Condvar::new() }
    }

    /// Memory for a pack, once there is some; none if `in_vain` says so meanwhile.
    fn take(&self, size: usize, in_vain: impl Fn() -> bool) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        while state.left == 0 {
            if in_vain() {
                return None;
            }
            self.one_done.wait_for(&mut state, POOL_LOOK_INTERVAL);
        }
        state.left -= 1;
        Some(state.spare.pop().unwrap_or_else(|| large_buffer(size)))
    }

    /// A pack that memory was [taken](Self::take) for is done with.
    fn done(&self) {
        self.state.lock().left += 1;
        self.one_done.notify_one();
    }
}

/// Memory of a finished pack, given back when its upload is done.
struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.state.lock().spare.push(std::mem::take(&mut self.bytes));
    }
}

/// The shared part.
pub struct Sink {
    vault: Vault,
    session: SessionId,
    sizes: PackSizes,
    index: Arc<Index>,
    builder: Mutex<Option<PackBuilder>>,
    nodes: Mutex<Draft>,
    next_pack: AtomicU32,
    next_run: AtomicU32,
    /// Ids this session stores that no run names yet.
    claims: [Mutex<HashSet<Id>>; CLAIM_SHARDS],
    pending: Mutex<Pending>,
    pool: Arc<Pool>,
    uploads: Mutex<Option<Sender<(PackId, Bytes)>>>,
    failure: Mutex<Option<StoreError>>,
    failed: AtomicBool,
    stored_bytes: AtomicU64,
}

impl Sink {
    /// Starts the uploaders too; [`finish`](Self::finish) joins them.
    /// `numbers`: those of the first pack and index run, past what the session has written already.
    pub fn start(
        vault: &Vault,
        session: SessionId,
        numbers: (u32, u32),
    ) -> Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = bounded(1);
        let sizes = PackSizes::of(vault);
        let sink = Arc::new(Self {
            index: vault.index()?,
            vault: vault.clone(),
            session,
            sizes,
            builder: Mutex::default(),
            nodes: Mutex::default(),
            next_pack: AtomicU32::new(numbers.0),
            next_run: AtomicU32::new(numbers.1),
            claims: Default::default(),
            pending: Mutex::default(),
            pool: Arc::new(Pool::new(sizes.in_flight + PACKS_BESIDE)),
            uploads: Mutex::new(Some(sender)),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
            stored_bytes: AtomicU64::new(0),
        });
        let mut uploaders = Vec::new();
        for _ in 0..sink.sizes.in_flight {
            let (sink, receiver) = (sink.clone(), receiver.clone());
            let uploader = std::thread::Builder::new()
                .name("upload".into())
                .spawn(move || {
                    step_aside();
                    sink.upload(&receiver);
                })
                .map_err(|e| StoreError::io("starting a thread", e))?;
            uploaders.push(uploader);
        }
        Ok((sink, uploaders))
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Compressed bytes written so far, packs only.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Remembers the first failure and makes everyone stop.
    pub fn fail(&self, error: StoreError) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    pub fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().take()
    }

    /// An error if somebody failed; the failure itself is told once, by [`take_failure`](Self::take_failure).
    pub fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
    }

    /// Whether the vault has this id for certain, or this session is storing it. Else the caller must
    /// store it now, having claimed it.
    fn claim(&self, id: &Id) -> bool {
        if self.index.may_share(id) {
            return false;
        }
        self.claims[id.0[31] as usize % CLAIM_SHARDS].lock().insert(*id)
    }

    /// Sees to it that a block is stored. Whether it is new to the vault.
    pub fn put_block(&self, worker: &mut WorkerSink, id: Id, block: &[u8]) -> Result<bool> {
        if !self.claim(&id) {
            return Ok(false);
        }
        self.store_block(worker, id, block)?;
        Ok(true)
    }

    /// Stores a block, whether the vault has it or not.
    pub fn store_block(&self, worker: &mut WorkerSink, id: Id, block: &[u8]) -> Result<()> {
        let draft = if looks_random(block) { &mut worker.random } else { &mut worker.compressible };
        draft.push(id, block);
        if draft.is_full() { self.flush_worker(worker, false) } else { Ok(()) }
    }

    /// Writes a worker's drafts out: full ones, or all.
    pub fn flush_worker(&self, worker: &mut WorkerSink, all: bool) -> Result<()> {
        self.check()?;
        if worker.random.is_full() || (all && !worker.random.ids.is_empty()) {
            self.append(
                FrameKind::Blocks,
                Codec::None,
                &worker.random.ids,
                worker.random.plain.len(),
                &worker.random.plain,
            )?;
            worker.random.ids.clear();
            worker.random.plain.clear();
        }
        if worker.compressible.is_full() || (all && !worker.compressible.ids.is_empty()) {
            let plain = &worker.compressible.plain;
            let (codec, payload) = worker.compressor.compress(plain);
            self.append(FrameKind::Blocks, codec, &worker.compressible.ids, plain.len(), payload)?;
            worker.compressible.ids.clear();
            worker.compressible.plain.clear();
        }
        Ok(())
    }

    /// Sees to it that a node is stored.
    pub fn put_node(&self, encoding: &[u8]) -> Result<Id> {
        let id = self.vault.keys().node_id(encoding);
        if self.claim(&id) {
            self.store_node(id, encoding)?;
        }
        Ok(id)
    }

    /// Stores a node, whether the vault has it or not.
    pub fn store_node(&self, id: Id, encoding: &[u8]) -> Result<()> {
        let mut nodes = self.nodes.lock();
        nodes.push(id, encoding);
        if nodes.is_full() { self.flush_nodes(&mut nodes) } else { Ok(()) }
    }

    /// The numbers that the next pack and index run would get.
    pub fn next_numbers(&self) -> (u32, u32) {
        (self.next_pack.load(Ordering::Relaxed), self.next_run.load(Ordering::Relaxed))
    }

    fn flush_nodes(&self, nodes: &mut Draft) -> Result<()> {
        if !nodes.ids.is_empty() {
            // Nodes are ids, and ids are random: nothing to compress.
            self.append(FrameKind::Nodes, Codec::None, &nodes.ids, nodes.plain.len(), &nodes.plain)?;
            nodes.ids.clear();
            nodes.plain.clear();
        }
        Ok(())
    }

    /// Adds a frame to the current pack; sends the pack off when it is full.
    pub fn append(
        &self,
        kind: FrameKind,
        codec: Codec,
        ids: &[Id],
        plain_len: usize,
        payload: &[u8],
    ) -> Result<()> {
        let full = {
            let mut slot = self.builder.lock();
            let builder = match &mut *slot {
                Some(builder) => builder,
                empty => empty.insert(self.new_builder()?),
            };
            builder.append(&FrameContent { kind, codec, ids, plain_len, payload });
            if builder.len() >= self.sizes.target_bytes { slot.take() } else { None }
        };
        match full {
            Some(builder) => self.send(builder),
            None => Ok(()),
        }
    }

    fn new_builder(&self) -> Result<PackBuilder> {
        let size = self.sizes.target_bytes + 2 * FRAME_TARGET_BYTES;
        let Some(buffer) = self.pool.take(size, || self.check().is_err()) else {
            return Err(StoreError::Cancelled);
        };
        let id = PackId { session: self.session, sequence: self.next_pack.fetch_add(1, Ordering::Relaxed) };
        let key = self.vault.keys().pack_key(&id.session, id.sequence);
        Ok(PackBuilder::new(id, self.vault.id(), key, buffer))
    }

    fn send(&self, builder: PackBuilder) -> Result<()> {
        self.check()?;
        let (id, bytes) = builder.finish();
        let bytes = Bytes::from_owner(PooledBuffer { bytes, pool: self.pool.clone() });
        // Cloned, so that nobody waits for a free place while holding the lock.
        let sender = self.uploads.lock().clone();
        match sender.map(|sender| sender.send((id, bytes))) {
            Some(Ok(())) => Ok(()),
            _ => {
                self.pool.done();
                Err(StoreError::Cancelled)
            }
        }
    }

    fn upload(&self, packs: &Receiver<(PackId, Bytes)>) {
        while let Ok((id, bytes)) = packs.recv() {
            if self.check().is_ok()
                && let Err(error) = self.upload_one(id, bytes)
            {
                self.fail(error);
            }
            self.pool.done();
        }
    }

    fn upload_one(&self, id: PackId, bytes: Bytes) -> Result<()> {
        self.vault.objects().put_new(&id.object_name(), bytes.clone())?;
        // The pack is durable from here on: now it may become known.
        self.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let own = |detail| StoreError::corrupt(id.object_name(), detail);
        let trailer = &bytes[bytes.len() - TRAILER_BYTES..];
        let (at, len, count) = parse_trailer(trailer, bytes.len() as u64).map_err(own)?;
        let frames = parse_directory(&bytes[at as usize..at as usize + len], trailer, count).map_err(own)?;
        let row = PackRow { id, size_bytes: bytes.len() as u32 };
        drop(bytes);
        let ready = {
            let mut pending = self.pending.lock();
            pending.add(
                row,
                frames.into_iter().map(|f| (f.offset, f.head.frame_len() as u32, f.head.kind, f.ids)),
            );
            if pending.records.len() >= INDEX_PENDING_MAX_RECORDS {
                Some(std::mem::take(&mut *pending))
            } else {
                None
            }
        };
        match ready {
            Some(pending) => self.write_run(pending),
            None => Ok(()),
        }
    }

    /// Makes packs known to everyone; their claims are no longer needed.
    fn write_run(&self, pending: Pending) -> Result<()> {
        let mut ids: Vec<Id> = pending.records.iter().map(|record| record.id).collect();
        let number = self.next_run.fetch_add(1, Ordering::Relaxed);
        let name = format!("{INDEX_PREFIX}{}-{number:08x}", self.session);
        let bytes = pending.encode(self.vault.keys());
        self.vault.objects().put_new(&name, bytes.clone())?;
        let objects = self.vault.objects();
        let kept = self.index.keep(objects, &name, &bytes);
        let there = || objects.local_path(&name).and_then(|path| std::fs::File::open(path).ok());
        let run = match kept.or_else(there) {
            Some(file) => Run::from_file(&name, &self.vault.id(), file),
            None => Run::from_memory(&name, &self.vault.id(), bytes),
        };
        self.index.add(Arc::new(run.map_err(|detail| StoreError::corrupt(name, detail))?));
        // By shard, so that each lock is taken once.
        ids.sort_unstable_by_key(|id| id.0[31] as usize % CLAIM_SHARDS);
        for group in ids.chunk_by(|a, b| a.0[31] as usize % CLAIM_SHARDS == b.0[31] as usize % CLAIM_SHARDS) {
            let mut claims = self.claims[group[0].0[31] as usize % CLAIM_SHARDS].lock();
            for id in group {
                claims.remove(id);
            }
        }
        Ok(())
    }

    /// Flushes what is left, waits until every pack is durable, and writes the last index run.
    pub fn finish(&self, uploaders: Vec<JoinHandle<()>>) -> Result<()> {
        let flushed = (|| {
            self.check()?;
            let mut nodes = self.nodes.lock();
            self.flush_nodes(&mut nodes)?;
            let last = self.builder.lock().take();
            match last {
                Some(builder) if !builder.is_empty() => self.send(builder),
                _ => Ok(()),
            }
        })();
        drop(self.uploads.lock().take());
        for uploader in uploaders {
            if uploader.join().is_err() {
                self.fail(StoreError::io("writing a pack", std::io::Error::other("the thread panicked")));
            }
        }
        if let Some(failure) = self.take_failure() {
            return Err(failure);
        }
        flushed?;
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.records.is_empty() { Ok(()) } else { self.write_run(pending) }
    }
}
