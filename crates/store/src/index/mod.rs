//! The index: where every id is. Truth lies in the object store: immutable runs, rebuilt from packs
//! where one is missing. Memory is bounded: see [`run`].
//!
//! An id may be in several places. Writers take only good ones (not condemned, not damaged); readers
//! try the others too, as long as they exist.

pub mod kept;
pub mod merge;
pub mod run;

use crate::crypto::{Id, VaultKeys};
use crate::error::{Result, StoreError};
use crate::frame::{FrameKind, PackId};
use crate::limits::{
    INDEX_IN_MEMORY_MAX_BYTES, INDEX_IN_MEMORY_TOTAL_BYTES, INDEX_PIECE_BYTES, INDEX_READ_MAX_BYTES,
};
use crate::objects::{BlobStore, Kind, ObjectInfo, try_all_at_once};
use crate::pack::read_directory;
use bytes::Bytes;
use kept::KeptRuns;
use parking_lot::{Mutex, RwLock};
use run::{PackRow, Record, Run};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

pub const INDEX_PREFIX: &str = "index/";

/// A place where an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    pub pack: PackId,
    pub offset: u32,
    pub frame_len: u32,
    pub slot: u16,
    pub kind: FrameKind,
}

/// Places that no longer count: packs that are condemned or deleted, frames and packs found damaged.
#[derive(Default, Clone)]
pub struct Excluded {
    pub condemned: HashSet<PackId>,
    pub damaged_packs: HashSet<PackId>,
    pub damaged_frames: HashSet<(PackId, u32)>,
    /// A condemned list could not be read: any pack may be about to go, so nothing new may rely on what is there.
    pub distrust: bool,
    /// Some condemned packs are still there, waiting for sessions to end. A point of such a session may need them.
    pub awaits_deletion: bool,
}

impl Excluded {
    pub fn is_good(&self, pack: &PackId, offset: u32) -> bool {
        !self.condemned.contains(pack) && !self.is_damaged(pack, offset)
    }

    pub fn is_damaged(&self, pack: &PackId, offset: u32) -> bool {
        self.damaged_packs.contains(pack) || self.damaged_frames.contains(&(*pack, offset))
    }

    pub fn has_damage(&self) -> bool {
        !self.damaged_packs.is_empty() || !self.damaged_frames.is_empty()
    }
}

/// The runs of a vault, opened.
pub struct Index {
    runs: RwLock<Vec<Arc<Run>>>,
    /// Where runs of a store that is far away are kept.
    kept: Option<KeptRuns>,
    excluded: RwLock<Excluded>,
    /// Directories of packs that no run covers, read when an id was not found anywhere else.
    rescued: Mutex<Option<HashMap<Id, Vec<Location>>>>,
    /// Runs that could not be opened, and why.
    faults: Mutex<Vec<(String, String)>>,
    /// Runs that were opened, and found damaged since.
    dropped: Mutex<HashSet<String>>,
    /// Runs whose kept copy was found damaged since.
    fetched_again: Mutex<HashSet<String>>,
    /// Held while runs are opened or dropped: who lists them anew must not bring back what another has just dropped.
    changing: Mutex<()>,
}

impl Index {
    pub fn load(
        store: &BlobStore,
        keys: &VaultKeys,
        excluded: Excluded,
        kept: Option<KeptRuns>,
    ) -> Result<Self> {
        let index = Self {
            runs: RwLock::default(),
            kept,
            excluded: RwLock::new(excluded),
            rescued: Mutex::default(),
            faults: Mutex::default(),
            dropped: Mutex::default(),
            fetched_again: Mutex::default(),
            changing: Mutex::default(),
        };
        index.refresh(store, keys)?;
        Ok(index)
    }

    /// Opens runs that have come since, and lets go of those that went.
    pub fn refresh(&self, store: &BlobStore, keys: &VaultKeys) -> Result<()> {
        let _changing = self.changing.lock();
        let listed = store.list(INDEX_PREFIX)?;
        let known: HashMap<String, Arc<Run>> =
            self.runs.read().iter().map(|run| (run.name.clone(), run.clone())).collect();
        let mut in_memory: u64 = 0;
        let mut runs = Vec::with_capacity(listed.len());
        let mut faults = Vec::new();
        let mut new = Vec::new();
        let dropped = self.dropped.lock().clone();
        for object in listed.into_iter().filter(|object| !dropped.contains(&object.name)) {
            if let Some(run) = known.get(&object.name) {
                runs.push(run.clone());
                continue;
            }
            let small = object.size_bytes <= INDEX_IN_MEMORY_MAX_BYTES
                && in_memory + object.size_bytes <= INDEX_IN_MEMORY_TOTAL_BYTES;
            if small {
                in_memory += object.size_bytes;
            }
            new.push((object, small));
        }
        let kept = self.kept.as_ref().filter(|_| store.is_remote());
        let open = |(object, small): &(ObjectInfo, bool)| {
            open_run(store, keys, kept, &object.name, object.size_bytes, *small)
        };
        // Of the large ones each is fetched in pieces, at once.
        let (small, large): (Vec<_>, Vec<_>) = new.into_iter().partition(|(_, small)| *small);
        let is_end = |e: &StoreError| !is_gone(e) && !matches!(e, StoreError::Corrupt { .. });
        let opened = try_all_at_once(store.is_remote(), &small, open, is_end)?;
        let opened = opened.into_iter().chain(large.iter().map(open));
        for ((object, _), opened) in small.iter().chain(&large).zip(opened) {
            match opened {
                Ok(run) => runs.push(Arc::new(run)),
                // Merged away since it was listed: its records are in the run that replaced it.
                Err(e) if is_gone(&e) => {}
                Err(StoreError::Corrupt { detail, .. }) => {
                    tracing::warn!(run = %object.name, "index run is damaged ({detail}); doing without it");
                    faults.push((object.name.clone(), detail));
                }
                Err(other) => return Err(other),
            }
        }
        *self.runs.write() = runs;
        *self.faults.lock() = faults;
        Ok(())
    }

    /// Does without runs whose mac is wrong from now on. It reads them all: for when one is in doubt. One that was kept may be
    /// wrong in the copy alone: it is fetched once more.
    pub fn drop_damaged(&self, store: &BlobStore, keys: &VaultKeys) -> Result<()> {
        let fetched_again = {
            let _changing = self.changing.lock();
            let damaged: HashSet<String> =
                self.runs().iter().filter(|run| !run.is_trusted(keys)).map(|run| run.name.clone()).collect();
            if damaged.is_empty() {
                return Ok(());
            }
            self.runs.write().retain(|run| !damaged.contains(&run.name));
            let kept = self.kept.as_ref().filter(|_| store.is_remote());
            let mut again = self.fetched_again.lock();
            let (copies, lost): (Vec<_>, Vec<_>) =
                damaged.into_iter().partition(|name| kept.is_some() && !again.contains(name));
            copies.iter().for_each(|name| kept.into_iter().for_each(|kept| kept.forget(name)));
            let fetched_again = !copies.is_empty();
            again.extend(copies);
            self.dropped.lock().extend(lost);
            // What only they named is to be found in its packs.
            *self.rescued.lock() = None;
            fetched_again
        };
        if fetched_again { self.refresh(store, keys) } else { Ok(()) }
    }

    /// How often a run was dropped so far, or fetched once more.
    pub fn dropped(&self) -> usize {
        self.dropped.lock().len() + self.fetched_again.lock().len()
    }

    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.runs.read().clone()
    }

    /// Runs that could not be opened, with the reason.
    pub fn faults(&self) -> Vec<(String, String)> {
        self.faults.lock().clone()
    }

    /// A run that was written just now need not be fetched to be read, nor be in memory: its file, if it is kept.
    pub fn keep(&self, store: &BlobStore, name: &str, bytes: &[u8]) -> Option<File> {
        let kept = self.kept.as_ref().filter(|_| store.is_remote())?;
        kept.keep_bytes(name, bytes);
        kept.open(name, bytes.len() as u64)
    }

    pub fn add(&self, run: Arc<Run>) {
        self.runs.write().push(run);
    }

    pub fn excluded(&self) -> Excluded {
        self.excluded.read().clone()
    }

    pub fn has_damage(&self) -> bool {
        self.excluded.read().has_damage()
    }

    pub fn awaits_deletion(&self) -> bool {
        self.excluded.read().awaits_deletion
    }

    /// Whether anything may be about to go: see [`Excluded::distrust`].
    pub fn is_distrusted(&self) -> bool {
        self.excluded.read().distrust
    }

    pub fn exclude(&self, change: impl FnOnce(&mut Excluded)) {
        change(&mut self.excluded.write());
    }

    /// Every place of an id, good ones first.
    pub fn places(&self, id: &Id) -> Vec<Location> {
        let excluded = self.excluded.read();
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for run in self.runs.read().iter() {
            run.lookup(id, |row, record| {
                if let Some(place) = location(row, &record) {
                    let list = if excluded.is_good(&place.pack, place.offset) { &mut good } else { &mut bad };
                    if !list.contains(&place) {
                        list.push(place);
                    }
                }
            });
        }
        good.append(&mut bad);
        good
    }

    pub fn is_damaged(&self, pack: &PackId) -> bool {
        let excluded = self.excluded.read();
        excluded.damaged_packs.contains(pack) || excluded.damaged_frames.iter().any(|(p, _)| p == pack)
    }

    /// Whether a good place of this id is in a pack that `accept` takes, for certain: another is about to be deleted. Only runs
    /// whose mac is right are believed, which costs reading one when it first matters.
    pub fn has_good_place(&self, keys: &VaultKeys, id: &Id, accept: impl Fn(&PackId) -> bool) -> bool {
        let excluded = self.excluded.read();
        self.runs.read().iter().any(|run| {
            let mut found = false;
            run.lookup(id, |row, record| {
                found |= excluded.is_good(&row.id, record.offset) && accept(&row.id);
            });
            found && run.is_trusted(keys)
        })
    }

    /// Whether a writer may refer to what the vault has of this id, instead of storing it.
    pub fn may_share(&self, id: &Id) -> bool {
        !self.excluded.read().distrust && self.good_place(id).is_some()
    }

    /// A good place of an id: neither condemned nor damaged.
    pub fn good_place(&self, id: &Id) -> Option<Location> {
        let excluded = self.excluded.read();
        let mut good = None;
        for run in self.runs.read().iter() {
            run.lookup(id, |row, record| {
                if good.is_none() && excluded.is_good(&row.id, record.offset) {
                    good = location(row, &record);
                }
            });
            if good.is_some() {
                break;
            }
        }
        good
    }

    /// Where an id is that no run names: in packs that no run covers, because a run was lost or its
    /// writer died before writing one. Reads directories once and remembers.
    pub fn rescue(&self, store: &BlobStore, id: &Id) -> Result<Vec<Location>> {
        let mut rescued = self.rescued.lock();
        if rescued.is_none() {
            let mut found: HashMap<Id, Vec<Location>> = HashMap::new();
            for (pack, size) in self.uncovered_packs(store)? {
                match read_directory(store, &pack, size) {
                    Ok(frames) => {
                        for frame in frames {
                            for (slot, id) in frame.ids.iter().enumerate() {
                                found.entry(*id).or_default().push(Location {
                                    pack,
                                    offset: frame.offset,
                                    frame_len: frame.head.frame_len() as u32,
                                    slot: slot as u16,
                                    kind: frame.head.kind,
                                });
                            }
                        }
                    }
                    Err(e) => tracing::warn!(%pack, "its directory cannot be read: {e}"),
                }
            }
            *rescued = Some(found);
        }
        Ok(rescued.as_ref().and_then(|found| found.get(id)).cloned().unwrap_or_default())
    }

    /// Packs that some run lists.
    pub fn named_packs(&self) -> HashSet<PackId> {
        self.runs.read().iter().flat_map(|run| run.packs.iter().map(|row| row.id)).collect()
    }

    /// Packs in the store that no run lists, with their sizes.
    pub fn uncovered_packs(&self, store: &BlobStore) -> Result<Vec<(PackId, u64)>> {
        let covered = self.named_packs();
        let listed = store.list("packs/")?;
        Ok(listed
            .into_iter()
            .filter_map(|object| Some((PackId::from_object_name(&object.name)?, object.size_bytes)))
            .filter(|(pack, _)| !covered.contains(pack))
            .collect())
    }
}

fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Object(e) if e.kind == Kind::NotFound)
}

fn location(row: &PackRow, record: &Record) -> Option<Location> {
    Some(Location {
        pack: row.id,
        offset: record.offset,
        frame_len: record.frame_len,
        slot: record.slot,
        kind: FrameKind::from_byte(record.kind)?,
    })
}

/// Opens one run: in memory if it is small, else as a file, directly in a local vault or as an
/// unlinked copy of a remote one.
fn open_run(
    store: &BlobStore,
    keys: &VaultKeys,
    kept: Option<&KeptRuns>,
    name: &str,
    size: u64,
    small: bool,
) -> Result<Run> {
    let damaged = |detail: String| StoreError::corrupt(name, detail);
    if size > INDEX_READ_MAX_BYTES {
        return Err(damaged("it is larger than an index run can be".into()));
    }
    if small {
        let bytes = small_run(store, keys, kept, name, size)?;
        return Run::from_memory(name, &keys.vault, bytes).map_err(damaged);
    }
    if let Some(path) = store.local_path(name) {
        return match File::open(&path) {
            Ok(file) => Run::from_file(name, &keys.vault, file).map_err(damaged),
            // Asked of the store, so that the error is like all others.
            Err(_) => store.get_range(name, 0..1).map_err(StoreError::from).and_then(|_| {
                Err(StoreError::io(format!("opening {}", path.display()), io::Error::last_os_error()))
            }),
        };
    }
    if let Some(run) = open_kept(kept, keys, name, size) {
        return Ok(run);
    }
    fetch_large(store, keys, kept, name, size)
}

/// A large run that is kept. Its mac was right when it was fetched; what it says is found out to be wrong as that of any other.
fn open_kept(kept: Option<&KeptRuns>, keys: &VaultKeys, name: &str, size: u64) -> Option<Run> {
    let (kept, file) = (kept?, kept?.open(name, size)?);
    let run = Run::from_file(name, &keys.vault, file);
    if run.is_err() {
        kept.forget(name);
    }
    run.ok()
}

/// A small run: as it is kept, or fetched and kept.
fn small_run(
    store: &BlobStore,
    keys: &VaultKeys,
    kept: Option<&KeptRuns>,
    name: &str,
    size: u64,
) -> Result<Bytes> {
    if let Some(mut file) = kept.and_then(|kept| kept.open(name, size)) {
        let mut bytes = Vec::with_capacity(size as usize);
        if file.read_to_end(&mut bytes).is_ok() && run::mac_is_right(keys, &bytes) {
            return Ok(bytes.into());
        }
    }
    let bytes = store.get_bounded(name, INDEX_IN_MEMORY_MAX_BYTES)?;
    if !run::mac_is_right(keys, &bytes) {
        return Err(StoreError::corrupt(name, "its mac is wrong"));
    }
    if let Some(kept) = kept {
        kept.keep_bytes(name, &bytes);
    }
    Ok(bytes)
}

/// Fetches a large run into a file: one to keep, or, where none can be kept, one without a name.
fn fetch_large(
    store: &BlobStore,
    keys: &VaultKeys,
    kept: Option<&KeptRuns>,
    name: &str,
    size: u64,
) -> Result<Run> {
    let mut named = None;
    if let Some(kept) = kept {
        let not_kept = |error: io::Error| tracing::debug!(%error, "an index run is not kept");
        match kept.new_file().and_then(|file| file.reopen().map(|open| (file, open))) {
            Err(error) => not_kept(error),
            Ok((file, open)) => match fetch_into(store, name, size, &open)? {
                Ok(()) => named = Some((kept, file, open)),
                // No room there, perhaps.
                Err(error) => not_kept(error),
            },
        }
    }
    let copy_failed = |e| StoreError::io(format!("keeping a local copy of {name}"), e);
    let file = match &named {
        Some((_, _, open)) => open.try_clone().map_err(copy_failed)?,
        None => {
            let file = tempfile::tempfile().map_err(copy_failed)?;
            fetch_into(store, name, size, &file)?.map_err(copy_failed)?;
            file
        }
    };
    let damaged = |detail: String| StoreError::corrupt(name, detail);
    let run = Run::from_file(name, &keys.vault, file).map_err(damaged)?;
    match run.is_sound(keys) {
        Ok(true) => {}
        Ok(false) => return Err(damaged("its mac is wrong".into())),
        Err(e) => return Err(damaged(e)),
    }
    if let Some((kept, file, _)) = named {
        kept.keep(name, file);
    }
    Ok(run)
}

/// Outside: what the store said; inside: what the file did.
fn fetch_into(store: &BlobStore, name: &str, size: u64, file: &File) -> Result<io::Result<()>> {
    let pieces: Vec<u64> =
        (0..size.div_ceil(INDEX_PIECE_BYTES)).map(|piece| piece * INDEX_PIECE_BYTES).collect();
    let fetched = try_all_at_once(
        true,
        &pieces,
        |&at| {
            let bytes = store.get_range(name, at..size.min(at + INDEX_PIECE_BYTES)).map_err(Ok)?;
            file.write_all_at(&bytes, at).map_err(Err)
        },
        |_| true,
    );
    match fetched {
        Ok(_) => Ok(Ok(())),
        Err(Ok(error)) => Err(error.into()),
        Err(Err(error)) => Ok(Err(error)),
    }
}

/// Records of a writer not yet in any run.
#[derive(Default)]
pub struct Pending {
    pub packs: Vec<PackRow>,
    pub records: Vec<Record>,
}

impl Pending {
    /// Adds a pack with its frames: (offset, whole length, kind, ids).
    pub fn add(&mut self, row: PackRow, frames: impl Iterator<Item = (u32, u32, FrameKind, Vec<Id>)>) {
        let pack = self.packs.len() as u32;
        self.packs.push(row);
        for (offset, frame_len, kind, ids) in frames {
            self.records.extend(ids.into_iter().enumerate().map(|(slot, id)| Record {
                id,
                pack,
                offset,
                frame_len,
                slot: slot as u16,
                kind: kind as u8,
            }));
        }
    }

    pub fn encode(mut self, keys: &VaultKeys) -> Bytes {
        self.records.sort_unstable_by_key(|record| record.id);
        run::encode(keys, &self.packs, self.records.len() as u64, self.records.into_iter()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::OpenOptions;
    use strongroom_domain::{SessionId, VaultId};

    /// A copy that went bad costs fetching it again; what it led to, or hid, is found.
    #[test]
    fn a_kept_copy_of_a_large_run_that_is_damaged_is_fetched_again() {
        let keys = VaultKeys::new(VaultId::from_bytes([1; 16]), [2; 32]);
        let memory = Arc::new(object_store::memory::InMemory::new());
        let store = BlobStore::from_object_store(memory, "far", OpenOptions::default()).unwrap();
        let id = |number: u32| Id(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let pack = PackId { session: SessionId::from_bytes([3; 16]), sequence: 0 };
        let frame = |number: u32| (number, 7, FrameKind::Blocks, vec![id(number)]);
        let mut pending = Pending::default();
        pending.add(PackRow { id: pack, size_bytes: 1 << 20 }, (0..100_000).map(frame));
        let bytes = pending.encode(&keys);
        assert!(bytes.len() as u64 > INDEX_IN_MEMORY_MAX_BYTES);
        store.put_new("index/a", bytes.clone()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptRuns::of(&keys.vault, directory.path());
        let load = || Index::load(&store, &keys, Excluded::default(), Some(kept.clone())).unwrap();
        let found = |index: &Index| (0..100_000).filter(|n| index.good_place(&id(*n)).is_some()).count();
        assert_eq!(found(&load()), 100_000);
        let path = directory.path().join(keys.vault.to_string()).join("index").join("a");
        let mut copy = std::fs::read(&path).unwrap();
        let middle = copy.len() / 2;
        copy[middle..middle + 4800].fill(0);
        std::fs::write(&path, copy).unwrap();
        let index = load();
        assert!(found(&index) < 100_000);
        index.drop_damaged(&store, &keys).unwrap();
        assert_eq!((found(&index), index.dropped()), (100_000, 1));
        assert!(std::fs::read(&path).unwrap() == bytes, "the good one is kept");
        // Where nothing can be kept, it is read all the same.
        std::fs::remove_dir_all(directory.path()).unwrap();
        std::fs::write(directory.path(), "in the way").unwrap();
        assert_eq!(found(&load()), 100_000);
        std::fs::remove_file(directory.path()).unwrap();
        std::fs::create_dir(directory.path()).unwrap();
    }
}
