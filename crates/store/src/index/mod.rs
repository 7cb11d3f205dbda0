//! The index: where every id is. Truth lies in the object store: immutable runs, rebuilt from packs
//! where one is missing. Memory is bounded: see [`run`].
//!
//! An id may be in several places. Writers take only good ones (not condemned, not damaged); readers
//! try the others too, as long as they exist.

pub mod merge;
pub mod run;

use crate::crypto::{Id, VaultKeys};
use crate::error::{Result, StoreError};
use crate::frame::{FrameKind, PackId};
use crate::limits::{INDEX_IN_MEMORY_MAX_BYTES, INDEX_IN_MEMORY_TOTAL_BYTES, INDEX_READ_MAX_BYTES};
use crate::objects::{BlobStore, Kind};
use crate::pack::read_directory;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use run::{PackRow, Record, Run};
use std::collections::{HashMap, HashSet};
use std::io::Write as _;
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
    excluded: RwLock<Excluded>,
    /// Directories of packs that no run covers, read when an id was not found anywhere else.
    rescued: Mutex<Option<HashMap<Id, Vec<Location>>>>,
    /// Runs that could not be opened, and why.
    faults: Mutex<Vec<(String, String)>>,
    /// Runs that were opened, and found damaged since.
    dropped: Mutex<HashSet<String>>,
}

impl Index {
    pub fn load(store: &BlobStore, keys: &VaultKeys, excluded: Excluded) -> Result<Self> {
        let index = Self {
            runs: RwLock::default(),
            excluded: RwLock::new(excluded),
            rescued: Mutex::default(),
            faults: Mutex::default(),
            dropped: Mutex::default(),
        };
        index.refresh(store, keys)?;
        Ok(index)
    }

    /// Opens runs that have come since, and lets go of those that went.
    pub fn refresh(&self, store: &BlobStore, keys: &VaultKeys) -> Result<()> {
        let listed = store.list(INDEX_PREFIX)?;
        let known: HashMap<String, Arc<Run>> =
            self.runs.read().iter().map(|run| (run.name.clone(), run.clone())).collect();
        let mut in_memory: u64 = 0;
        let mut runs = Vec::with_capacity(listed.len());
        let mut faults = Vec::new();
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
            match open_run(store, keys, &object.name, object.size_bytes, small) {
                Ok(run) => runs.push(Arc::new(run)),
                // Merged away since it was listed: its records are in the run that replaced it.
                Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {}
                Err(StoreError::Corrupt { detail, .. }) => {
                    tracing::warn!(run = %object.name, "index run is damaged ({detail}); doing without it");
                    faults.push((object.name, detail));
                }
                Err(other) => return Err(other),
            }
        }
        *self.runs.write() = runs;
        *self.faults.lock() = faults;
        Ok(())
    }

    /// Does without runs whose mac is wrong from now on; whether there were any. It reads them all: for when one is in doubt.
    pub fn drop_damaged(&self, keys: &VaultKeys) -> bool {
        let damaged: HashSet<String> =
            self.runs().iter().filter(|run| !run.is_trusted(keys)).map(|run| run.name.clone()).collect();
        self.runs.write().retain(|run| !damaged.contains(&run.name));
        let any = !damaged.is_empty();
        if any {
            self.dropped.lock().extend(damaged);
            // What only they named is to be found in its packs.
            *self.rescued.lock() = None;
        }
        any
    }

    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.runs.read().clone()
    }

    /// Runs that could not be opened, with the reason.
    pub fn faults(&self) -> Vec<(String, String)> {
        self.faults.lock().clone()
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
fn open_run(store: &BlobStore, keys: &VaultKeys, name: &str, size: u64, small: bool) -> Result<Run> {
    let damaged = |detail: String| StoreError::corrupt(name, detail);
    if size > INDEX_READ_MAX_BYTES {
        return Err(damaged("it is larger than an index run can be".into()));
    }
    if small {
        let bytes = store.get_bounded(name, INDEX_IN_MEMORY_MAX_BYTES)?;
        if !run::mac_is_right(keys, &bytes) {
            return Err(damaged("its mac is wrong".into()));
        }
        return Run::from_memory(name, &keys.vault, bytes).map_err(damaged);
    }
    if let Some(path) = store.local_path(name) {
        return match std::fs::File::open(&path) {
            Ok(file) => Run::from_file(name, &keys.vault, file).map_err(damaged),
            // Asked of the store, so that the error is like all others.
            Err(_) => store.get_range(name, 0..1).map_err(StoreError::from).and_then(|_| {
                Err(StoreError::io(format!("opening {}", path.display()), std::io::Error::last_os_error()))
            }),
        };
    }
    let copy_failed = |e| StoreError::io(format!("keeping a local copy of {name}"), e);
    let mut file = tempfile::tempfile().map_err(copy_failed)?;
    let mut at = 0;
    while at < size {
        let end = size.min(at + (8 << 20));
        file.write_all(&store.get_range(name, at..end)?).map_err(copy_failed)?;
        at = end;
    }
    let run = Run::from_file(name, &keys.vault, file).map_err(damaged)?;
    match run.is_sound(keys) {
        Ok(true) => Ok(run),
        Ok(false) => Err(damaged("its mac is wrong".into())),
        Err(e) => Err(damaged(e)),
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
