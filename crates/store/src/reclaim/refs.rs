//! How often each id is referred to: by nodes, each stored node counting its children once however many points share
//! it, and by points for their roots. An id whose count falls to nothing is dead.
//!
//! A local, disposable database: it knows which points it has counted, so that catching up costs what was written
//! and forgotten since, not what is stored. Lost or unusable, it is counted anew from the points.

use crate::crypto::{Id, VaultKeys};
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::Index;
use crate::limits::COUNTS_PENDING_MAX;
use crate::manifest::Manifest;
use crate::objects::{Kind, classify_io};
use crate::progress::Progress;
use crate::tree::NodeSource as _;
use crate::vault::Vault;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use strongroom_domain::{PointId, SessionId};

const POINTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("points");
const COUNTS: TableDefinition<&[u8], u32> = TableDefinition::new("counts");
/// Dead ids a pack, since it was last looked at.
const DEAD: TableDefinition<&[u8], u64> = TableDefinition::new("dead");
/// `generation`: the roll's when counting last caught up.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CACHE_BYTES: usize = 48 << 20;

const DOING: &str = "counting references";

fn failed(error: impl Into<redb::Error>) -> StoreError {
    let cause = match error.into() {
        redb::Error::Io(cause) => cause,
        other => std::io::Error::other(other.to_string()),
    };
    StoreError::io(DOING, cause)
}

/// Whether this is that the disk of the counts is full.
pub fn has_no_space(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { doing, cause } if doing == DOING && classify_io(cause) == Kind::NoSpace)
}

fn pack_key(pack: &PackId) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(pack.session.as_bytes());
    key[16..].copy_from_slice(&pack.sequence.to_be_bytes());
    key
}

fn pack_of(key: &[u8]) -> Option<PackId> {
    let (session, sequence) = key.split_at_checked(16)?;
    Some(PackId {
        session: SessionId::from_bytes(session.try_into().ok()?),
        sequence: u32::from_be_bytes(sequence.try_into().ok()?),
    })
}

/// What there is, to be counted.
pub struct Points<'a> {
    pub points: &'a [Manifest],
    /// Points that are there, and whose manifests cannot be read.
    pub unreadable: &'a [PointId],
    /// Points that are known to be forgotten.
    pub forgotten: &'a [PointId],
    /// The roll's.
    pub generation: u64,
}

/// The counts.
pub struct Refs {
    database: Database,
    /// Made just now: dead ids must be found by looking at everything once.
    pub is_new: bool,
}

impl Refs {
    /// Opens the database at `path`; in memory if there is no path or it cannot be used.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let on_disk = path.and_then(|path| {
            let parent = path.parent()?;
            std::fs::create_dir_all(parent).ok()?;
            match builder.create(path) {
                Ok(database) => Some(database),
                Err(redb::DatabaseError::DatabaseAlreadyOpen) => None,
                Err(e) => {
                    tracing::info!("{} cannot be used ({e}); counting anew", path.display());
                    std::fs::remove_file(path).ok()?;
                    builder.create(path).ok()
                }
            }
        });
        let database = match on_disk {
            Some(database) => database,
            None => builder.create_with_backend(redb::backends::InMemoryBackend::new()).map_err(failed)?,
        };
        let write = database.begin_write().map_err(failed)?;
        let is_new = {
            write.open_table(COUNTS).map_err(failed)?;
            write.open_table(DEAD).map_err(failed)?;
            write.open_table(META).map_err(failed)?;
            let points = write.open_table(POINTS).map_err(failed)?;
            points.first().map_err(failed)?.is_none()
        };
        write.commit().map_err(failed)?;
        Ok(Self { database, is_new })
    }

    fn clear(&mut self) -> Result<()> {
        let write = self.database.begin_write().map_err(failed)?;
        write.delete_table(COUNTS).map_err(failed)?;
        write.open_table(COUNTS).map_err(failed)?;
        write.delete_table(DEAD).map_err(failed)?;
        write.open_table(DEAD).map_err(failed)?;
        write.delete_table(POINTS).map_err(failed)?;
        write.open_table(POINTS).map_err(failed)?;
        write.commit().map_err(failed)?;
        self.is_new = true;
        Ok(())
    }

    /// Points that were counted and are not among these.
    pub fn counted_but_not(&self, present: &HashSet<PointId>) -> Result<Vec<PointId>> {
        let read = self.database.begin_read().map_err(failed)?;
        let known = read.open_table(POINTS).map_err(failed)?;
        let mut absent = Vec::new();
        for row in known.iter().map_err(failed)? {
            let (key, _) = row.map_err(failed)?;
            let point = <[u8; 16]>::try_from(key.value()).ok().map(PointId::from_bytes);
            absent.extend(point.filter(|point| !present.contains(point)));
        }
        Ok(absent)
    }

    /// The roll's generation when counting last caught up.
    pub fn generation(&self) -> Result<u64> {
        let read = self.database.begin_read().map_err(failed)?;
        let meta = read.open_table(META).map_err(failed)?;
        Ok(meta.get("generation").map_err(failed)?.map_or(0, |value| value.value()))
    }

    pub fn set_generation(&self, generation: u64) -> Result<()> {
        let write = self.database.begin_write().map_err(failed)?;
        write.open_table(META).map_err(failed)?.insert("generation", generation).map_err(failed)?;
        write.commit().map_err(failed)
    }

    /// Brings the counts up to what there is now. Adds before it removes, so that what both share is never dead in
    /// between. Nothing is removed for not being there: only what `stock.forgotten` names.
    pub fn catch_up(
        &mut self,
        vault: &Vault,
        index: &Index,
        stock: &Points,
        progress: &Progress,
    ) -> Result<()> {
        match self.try_catch_up(vault, index, stock, progress) {
            // A tree that was forgotten cannot be walked any more: another host's reclaim was here. Count anew.
            Err(e) if e.is_damage() && !self.is_new => {
                tracing::info!("counting references anew: {e}");
                self.clear()?;
                self.try_catch_up(vault, index, stock, progress)
            }
            other => other,
        }
    }

    fn try_catch_up(&self, vault: &Vault, index: &Index, stock: &Points, progress: &Progress) -> Result<()> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut known = write.open_table(POINTS).map_err(failed)?;
            let mut tally = Tally {
                index,
                counts: write.open_table(COUNTS).map_err(failed)?,
                blocks: HashMap::new(),
                dead: HashMap::new(),
            };
            for point in stock.unreadable {
                if known.get(&point.as_bytes()[..]).map_err(failed)?.is_none() {
                    return Err(StoreError::Invalid {
                        what: "state for reclaim",
                        detail: format!(
                            "the manifest of point {point} is damaged, so what it needs is not known; \
                             remove it with `strongroom rescue point forget {point}` first"
                        ),
                    });
                }
            }
            let mut gone: Vec<Vec<u8>> = Vec::new();
            for manifest in stock.points {
                let key = *manifest.point.as_bytes();
                let roots: Vec<Id> =
                    manifest.disks.iter().filter_map(|disk| disk.root).map(|root| root.0).collect();
                let row: Vec<u8> = roots.iter().flat_map(|root| root.0).collect();
                let counted = known.get(&key[..]).map_err(failed)?.map(|counted| counted.value().to_vec());
                match counted {
                    Some(counted) if counted == row => continue,
                    // Taken back by the session that made it first, and made anew by another.
                    Some(counted) => gone.push(counted),
                    None => {}
                }
                for root in roots {
                    tally.add(vault, root, progress)?;
                }
                known.insert(&key[..], &row[..]).map_err(failed)?;
            }
            for point in stock.forgotten {
                if let Some(roots) = known.remove(&point.as_bytes()[..]).map_err(failed)? {
                    gone.push(roots.value().to_vec());
                }
            }
            for roots in gone {
                for root in crate::frame::ids_of(&roots) {
                    tally.remove(vault, root, progress)?;
                }
            }
            tally.settle_blocks()?;
            let mut dead = write.open_table(DEAD).map_err(failed)?;
            for (pack, more) in tally.dead {
                let key = pack_key(&pack);
                let so_far = dead.get(&key[..]).map_err(failed)?.map_or(0, |n| n.value());
                dead.insert(&key[..], so_far + more).map_err(failed)?;
            }
            let mut meta = write.open_table(META).map_err(failed)?;
            meta.insert("generation", stock.generation).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// After counting anew: finds dead ids by looking at the whole index once.
    pub fn find_dead(&mut self, keys: &VaultKeys, index: &Index) -> Result<()> {
        let read = self.database.begin_read().map_err(failed)?;
        let counts = read.open_table(COUNTS).map_err(failed)?;
        let mut dead: HashMap<PackId, u64> = HashMap::new();
        for run in index.runs() {
            let mut error = None;
            let read = run.for_each(|row, record| match counts.get(&record.id.0[..]) {
                Ok(None) => *dead.entry(row.id).or_default() += 1,
                Ok(Some(_)) => {}
                Err(e) => error = Some(e),
            });
            if let Some(e) = error {
                return Err(failed(e));
            }
            match read {
                Ok(()) => {}
                // Less is found then, until a check has made the run anew; whether a pack is dead, its own directory says.
                Err(_) if !run.is_trusted(keys) => {}
                Err(detail) => return Err(StoreError::corrupt(run.name.clone(), detail)),
            }
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(DEAD).map_err(failed)?;
            for (pack, count) in dead {
                table.insert(&pack_key(&pack)[..], count).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)?;
        self.is_new = false;
        Ok(())
    }

    /// Packs with dead ids, and how many.
    pub fn dead(&self) -> Result<Vec<(PackId, u64)>> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(DEAD).map_err(failed)?;
        let mut out = Vec::new();
        for row in table.iter().map_err(failed)? {
            let (key, count) = row.map_err(failed)?;
            out.extend(pack_of(key.value()).map(|pack| (pack, count.value())));
        }
        Ok(out)
    }

    pub fn drop_dead(&self, packs: &[PackId]) -> Result<()> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(DEAD).map_err(failed)?;
            for pack in packs {
                table.remove(&pack_key(pack)[..]).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// A view for many look-ups.
    pub fn live(&self) -> Result<Live> {
        let read = self.database.begin_read().map_err(failed)?;
        Ok(Live { counts: read.open_table(COUNTS).map_err(failed)? })
    }
}

/// Counts that are being changed. Of blocks, which are almost all there is, the changes are gathered first: those of an
/// item's points cancel out or fall together, and the database takes them much faster in order.
struct Tally<'a, 'txn> {
    index: &'a Index,
    counts: redb::Table<'txn, &'static [u8], u32>,
    /// What the counts of blocks are to change by.
    blocks: HashMap<Id, i64>,
    /// Ids that came to nothing, by the packs that hold them.
    dead: HashMap<PackId, u64>,
}

impl Tally<'_, '_> {
    /// One more reference to a node.
    fn add(&mut self, vault: &Vault, root: Id, progress: &Progress) -> Result<()> {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if self.change(&id, 1)? == 0 {
                self.enter(vault, &id, 1, &mut stack, progress)?;
            }
        }
        Ok(())
    }

    /// One reference to a node less.
    fn remove(&mut self, vault: &Vault, root: Id, progress: &Progress) -> Result<()> {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if self.change(&id, -1)? <= 1 {
                self.enter(vault, &id, -1, &mut stack, progress)?;
            }
        }
        Ok(())
    }

    /// Below a node that nobody referred to before, or nobody does now: its nodes are to be visited, its blocks are noted.
    fn enter(
        &mut self,
        vault: &Vault,
        id: &Id,
        change: i64,
        stack: &mut Vec<Id>,
        progress: &Progress,
    ) -> Result<()> {
        progress.check()?;
        let node = vault.node(id)?;
        if node.level > 0 {
            stack.extend(node.present().map(|(_, child)| child));
            return Ok(());
        }
        for (_, block) in node.present() {
            *self.blocks.entry(block).or_default() += change;
        }
        if self.blocks.len() >= COUNTS_PENDING_MAX { self.settle_blocks() } else { Ok(()) }
    }

    /// Writes down what was noted of blocks. What is to be added was noted before what is to be removed, so that no count
    /// falls to nothing in between.
    fn settle_blocks(&mut self) -> Result<()> {
        let mut changes: Vec<(Id, i64)> = self.blocks.drain().filter(|(_, change)| *change != 0).collect();
        changes.sort_unstable();
        changes.into_iter().try_for_each(|(id, change)| self.change(&id, change).map(drop))
    }

    /// Changes a count and answers what it was.
    fn change(&mut self, id: &Id, change: i64) -> Result<u32> {
        let before = self.counts.get(&id.0[..]).map_err(failed)?.map_or(0, |count| count.value());
        let after = i64::from(before).saturating_add(change);
        if after > 0 {
            let after = u32::try_from(after).unwrap_or(u32::MAX);
            self.counts.insert(&id.0[..], after).map_err(failed)?;
            return Ok(before);
        }
        self.counts.remove(&id.0[..]).map_err(failed)?;
        for place in self.index.places(id) {
            *self.dead.entry(place.pack).or_default() += 1;
        }
        Ok(before)
    }
}

/// Which ids some point needs.
pub struct Live {
    counts: redb::ReadOnlyTable<&'static [u8], u32>,
}

impl Live {
    pub fn contains(&self, id: &Id) -> Result<bool> {
        Ok(self.counts.get(&id.0[..]).map_err(failed)?.is_some())
    }
}
