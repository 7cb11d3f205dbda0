//! An open vault: its store, its keys, what was read of it.

use crate::ahead::Ahead;
use crate::crypto::{Id, VaultKeys};
use crate::environment::{Environment, System};
use crate::error::Result;
use crate::frames::{Decoded, Frames};
use crate::header::{Header, SINGLE_WRITER};
use crate::index::kept::KeptRuns;
use crate::index::{Index, Location};
use crate::keys::KeyProvider;
use crate::limits::{BLOCK_SIZE_DEFAULT_BYTES, OPENING_KNOWN};
use crate::node::Node;
use crate::objects::{BlobStore, Questions};
use crate::probe::Probe;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use strongroom_domain::VaultId;

/// An open vault. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>, BlobStore);

struct Inner {
    keys: VaultKeys,
    header: RwLock<Header>,
    block_size_bytes: u32,
    environment: Arc<dyn Environment>,
    index: Mutex<Option<Arc<Index>>>,
    frames: Frames,
    nodes: Mutex<HashMap<Id, Arc<Node>>>,
    /// Whether its note says that at most one run at a time may write; once it is known.
    single_writer: OnceLock<bool>,
    /// Where index runs are kept, if they are far away.
    kept_runs: OnceLock<KeptRuns>,
    /// Whether its store creates only what is not there.
    probe: Mutex<Probe>,
    /// What was asked when it was opened, for who comes first.
    opening: Mutex<Option<(Instant, BlobStore)>>,
    /// The highest number of the commit log that this program knows of; 0 until it knows one.
    last_commit: AtomicU64,
}

/// What to make a vault with.
#[derive(Clone)]
pub struct InitOptions {
    /// The id that it gets: that of its key.
    pub vault: VaultId,
    /// For ever; a power of two within the bounds of [`limits`](crate::limits).
    pub block_size_bytes: u32,
    /// At most one run at a time is to write to it; its store need not honour create-if-absent then. There is no way back.
    pub single_writer: bool,
    /// What it takes time and ids from, the vault that is made included.
    pub environment: Arc<dyn Environment>,
}

impl InitOptions {
    /// Defaults, with a fresh vault id.
    pub fn new() -> Self {
        Self {
            vault: System.new_vault_id(),
            block_size_bytes: BLOCK_SIZE_DEFAULT_BYTES,
            single_writer: false,
            environment: Arc::new(System),
        }
    }
}

impl Default for InitOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Vault {
    /// Which vault is at a location; needs no key.
    pub fn identify(objects: &BlobStore) -> Result<VaultId> {
        Ok(Header::load(objects)?.0.id)
    }

    /// Opens a vault.
    pub fn open(objects: BlobStore, provider: &dyn KeyProvider) -> Result<Self> {
        Self::open_in(objects, provider, Arc::new(System))
    }

    /// As [`open`](Self::open), with clocks and ids from elsewhere.
    pub fn open_in(
        objects: BlobStore,
        provider: &dyn KeyProvider,
        environment: Arc<dyn Environment>,
    ) -> Result<Self> {
        let (header, fault) = Header::load(&objects)?;
        if let Some(fault) = fault {
            tracing::warn!("the vault's header was read from its copy: {fault}");
        }
        let keys = header.unwrap_keys(provider)?;
        let vault = Self::assemble(objects.plain(), header, keys, environment);
        if objects.has_answers() {
            *vault.0.opening.lock() = Some((Instant::now(), objects));
        }
        Ok(vault)
    }

    pub(crate) fn assemble(
        objects: BlobStore,
        header: Header,
        keys: VaultKeys,
        environment: Arc<dyn Environment>,
    ) -> Self {
        if header.requires(SINGLE_WRITER) {
            objects.look_before_creating();
        }
        let inner = Inner {
            keys,
            block_size_bytes: header.block_size_bytes,
            header: RwLock::new(header),
            environment,
            index: Mutex::default(),
            frames: Frames::default(),
            nodes: Mutex::default(),
            single_writer: OnceLock::new(),
            kept_runs: OnceLock::new(),
            probe: Mutex::default(),
            opening: Mutex::default(),
            last_commit: AtomicU64::new(0),
        };
        Self(Arc::new(inner), objects)
    }

    /// As its header says.
    pub fn id(&self) -> VaultId {
        self.0.keys.vault
    }

    /// What was read of the index, if it was.
    pub(crate) fn index_read(&self) -> &Mutex<Option<Arc<Index>>> {
        &self.0.index
    }

    /// Nodes kept decoded.
    pub(crate) fn nodes(&self) -> &Mutex<HashMap<Id, Arc<Node>>> {
        &self.0.nodes
    }

    pub(crate) fn header(&self) -> Header {
        self.0.header.read().clone()
    }

    /// It was read anew, or written.
    pub(crate) fn set_header(&self, header: Header) {
        *self.0.header.write() = header;
    }

    /// The header says it from here on, once its copies are written.
    pub(crate) fn require(&self, name: &str) {
        self.0.header.write().require(name);
    }

    /// Whether it has what version 2 brought.
    pub(crate) fn is_marked(&self) -> bool {
        self.version() > 1
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.header.read().version
    }

    /// What disks are cut into; the same for all of them, for ever.
    pub fn block_size_bytes(&self) -> u32 {
        self.0.block_size_bytes
    }

    /// Where it is, to be shown: without secrets.
    pub fn location(&self) -> &str {
        self.1.location()
    }

    /// Its bytes, as objects.
    pub fn objects(&self) -> &BlobStore {
        &self.1
    }

    /// The same vault, whose store was asked this at once if it is far away: see [`BlobStore::asking`].
    pub(crate) fn asking(&self, questions: Questions) -> Self {
        Self(self.0.clone(), self.1.asking(questions))
    }

    /// The same vault, which knows what was asked when it was opened, if that was just now. For one alone.
    pub(crate) fn just_opened(&self) -> Option<Self> {
        let (asked_at, objects) = self.0.opening.lock().take()?;
        (asked_at.elapsed() < OPENING_KNOWN).then(|| Self(self.0.clone(), objects))
    }

    /// The same vault without what was asked before.
    pub(crate) fn plain(&self) -> Self {
        Self(self.0.clone(), self.1.plain())
    }

    /// The same vault for whoever frees space of it: on a disk that is full, what that takes is written all the same.
    pub(crate) fn freeing(&self) -> Self {
        Self(self.0.clone(), self.1.freeing())
    }

    /// Gives up some of the reserve, for somebody else who has to write to the same disk before space can be freed. False if there is
    /// none left.
    pub fn give_up_reserve(&self, bytes: u64) -> bool {
        self.1.give_up_reserve(bytes)
    }

    pub(crate) fn single_writer(&self) -> &OnceLock<bool> {
        &self.0.single_writer
    }

    /// Keeps what was read of its index in a directory, for the next time, if its store is far away. Safe to delete.
    pub fn keep_index_in(&self, directory: &Path) {
        let _ = self.0.kept_runs.set(KeptRuns::of(&self.id(), directory));
    }

    pub(crate) fn kept_runs(&self) -> Option<KeptRuns> {
        self.0.kept_runs.get().cloned()
    }

    pub(crate) fn probe(&self) -> &Mutex<Probe> {
        &self.0.probe
    }

    pub(crate) fn last_commit(&self) -> &AtomicU64 {
        &self.0.last_commit
    }

    pub(crate) fn keys(&self) -> &VaultKeys {
        &self.0.keys
    }

    /// What it takes time and ids from.
    pub fn environment(&self) -> &dyn Environment {
        &*self.0.environment
    }

    /// Forgets what was read, so that the next use sees what others did meanwhile.
    pub(crate) fn reload(&self) {
        *self.0.index.lock() = None;
    }

    /// Fetches the frames at these places, concurrently wanted ones once.
    pub(crate) fn frames_at(&self, places: &[Location], ahead: Option<&Ahead>) -> Vec<Result<Arc<Decoded>>> {
        self.0.frames.get_many(&self.1, &self.0.keys, self.block_size_bytes() as usize, places, ahead)
    }
}
