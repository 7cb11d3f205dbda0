//! Giving space back: what no point needs any more is first condemned, and deleted when every session that could
//! have come to need it is over. Backups go on meanwhile. Costs follow what was written and forgotten since the last
//! run ([`refs`]), not what is stored.
//!
//! What is freed was forgotten, or never committed: a tombstone says so, or the lease of a session that is over. That
//! something is not found says nothing ([`stock`]).
//!
//! Order, and what a crash between the steps leaves:
//! 0. The points that sessions committed are taken down in the roll, then those sessions' leases go. (Leaves leases.)
//! 1. Live parts of packs that are mostly dead are written to new packs, durable and indexed. (Leaves doubles.)
//! 2. The old packs are condemned: written down, *then* the sessions at work are listed. (Leaves a list whose
//!    sessions are not known; the next run lists them.)
//! 3. When those sessions are over: points are counted once more, parts that somebody came to need are moved. (As 1.)
//! 4. Packs are deleted, the list says so. (Leaves a list of packs that are gone; deleting again does nothing.)

pub mod condemned;
mod lock;
mod refs;
mod stock;

use crate::commits::{Commit, Log};
use crate::compress::Level;
use crate::crypto::Id;
use crate::damage::{self, DamageRecord};
use crate::error::{Result, StoreError};
use crate::frame::{FrameKind, PackId};
use crate::index::run::Run as IndexRun;
use crate::index::{Index, Location, merge};
use crate::lease::{self, FoundLease, Lease};
use crate::limits::REWRITE_DEAD_PERCENT;
use crate::objects::Kind;
use crate::pack::read_directory;
use crate::progress::Progress;
use crate::record;
use crate::roll::Roll;
use crate::vault::Vault;
use crate::write::sink::{Sink, WorkerSink};
use crate::{lists, marker};
use condemned::{CONDEMNED_PREFIX, CondemnedRecord, CondemnedState};
use refs::{Live, Refs};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
pub use stock::Agreement;
use stock::in_doubt;
use strongroom_domain::{PointId, SessionId};

/// Packs condemned together: bounds memory, and the space that moving takes in between.
const PACKS_PER_BATCH: usize = 32;

/// How to reclaim.
#[derive(Debug, Clone, Default)]
pub struct ReclaimOptions {
    /// Where to keep counts between runs; a directory. None: count anew each time.
    pub cache_dir: Option<PathBuf>,
    /// Look at everything, also at what the counts know nothing of (doubles, left by crashes).
    pub thorough: bool,
    /// Points that somebody else, a catalog say, knows the vault to have: if one is gone and was not forgotten, nothing is
    /// freed. One that is about to be made is not among them.
    pub expected: Vec<PointId>,
    /// Points that are gone and that nobody forgot, to be written off.
    pub accept_loss: Vec<PointId>,
    /// Take what is listed for all that the vault has, where that is not known: for somebody who looked.
    pub as_listed: bool,
}

/// What a reclaim did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReclaimReport {
    /// Bytes of packs that are gone, less what was written anew.
    pub freed_bytes: u64,
    pub packs_deleted: u64,
    pub packs_rewritten: u64,
    pub rewritten_bytes: u64,
    /// Bytes of packs that are condemned, but wait for sessions to end.
    pub waiting_bytes: u64,
    /// Those sessions, and what else freeing waits for.
    pub waiting_for: Vec<String>,
    /// Whether it is known that the vault has all its points. Else nothing was freed.
    pub confirmed: bool,
    pub seconds: f64,
}

/// Gives space back.
pub fn reclaim(vault: &Vault, options: &ReclaimOptions, progress: &Progress) -> Result<ReclaimReport> {
    let vault = vault.freeing();
    let mut result = reclaim_once(&vault, options, progress);
    // The counts are often on the same disk. They can do without it.
    if let Err(error) = &result
        && refs::has_no_space(error)
    {
        tracing::warn!("{error}; counting in memory instead");
        let options = ReclaimOptions { cache_dir: None, ..options.clone() };
        result = reclaim_once(&vault, &options, progress);
    }
    if marker::check(&vault).is_ok() {
        vault.objects().keep_reserve();
    }
    result
}

fn reclaim_once(vault: &Vault, options: &ReclaimOptions, progress: &Progress) -> Result<ReclaimReport> {
    let started = vault.environment().elapsed();
    let Held { session, lease, store_now, lock: _lock } = hold(vault)?;
    vault.reload();
    let path = options.cache_dir.as_ref().map(|dir| dir.join(vault.id().to_string()).join("references.redb"));
    let mut run = Run {
        vault,
        session,
        lease: &lease,
        covered: HashSet::new(),
        index: vault.index()?,
        refs: Refs::open(path.as_deref())?,
        progress,
        store_now,
        report: ReclaimReport::default(),
        mover: None,
        next_numbers: (0, 0),
        lists: 0,
        over: HashSet::new(),
        rewritten: 0,
        options,
        roll: Roll::default(),
        loaded_generation: 0,
        confirmed_now: false,
        seen_runs: HashMap::new(),
        log: Log::default(),
        outcomes: HashMap::new(),
    };
    let result = run.all();
    let finished = run.finish_mover().and_then(|()| run.finish_roll());
    let (wrote, rewritten) = (run.rewritten > 0, run.rewritten);
    let mut report = run.report;
    // Whatever went wrong, packs already written must be looked after.
    match (&result, &finished) {
        (Ok(()), Ok(())) => lease.release()?,
        _ if wrote => lease.end()?,
        _ => lease.release()?,
    }
    match (result, finished) {
        // The mover's failure is why the rest was stopped.
        (Err(StoreError::Cancelled), Err(failure)) => return Err(failure),
        (result, finished) => result.and(finished)?,
    }
    report.rewritten_bytes = rewritten;
    report.freed_bytes = report.freed_bytes.saturating_sub(rewritten);
    report.seconds = vault.environment().elapsed().saturating_sub(started).as_secs_f64();
    Ok(report)
}

/// What became of a session that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommittedOrNot {
    Committed,
    Not,
    /// It may have, and its point is not to be seen.
    InDoubt,
}

/// What a reclaim, or whoever else writes the roll, holds meanwhile.
pub(crate) struct Held {
    session: SessionId,
    lease: Lease,
    store_now: SystemTime,
    lock: lock::Lock,
}

pub(crate) fn hold(vault: &Vault) -> Result<Held> {
    vault.begin_writing()?;
    // And that it is as this program knows it still: a newer one may have been at it.
    vault.heal()?;
    let session = vault.environment().new_session_id();
    let Some(lease) = Lease::acquire(vault, session, lock::PURPOSE, false)? else {
        return Err(StoreError::LeaseLost { detail: "it could not be written".into() });
    };
    let locked = store_now(vault, &session)
        .and_then(|store_now| lock::acquire(vault, session, store_now).map(|lock| (store_now, lock)));
    match locked {
        Ok((store_now, lock)) => Ok(Held { session, lease, store_now, lock }),
        Err(e) => {
            lease.release()?;
            Err(e)
        }
    }
}

/// The present by the clock of whoever stores the objects: our own lease was written just now.
fn store_now(vault: &Vault, session: &SessionId) -> Result<SystemTime> {
    let own = vault.objects().head(&lease::object_name(session))?;
    own.map(|info| info.last_modified)
        .ok_or_else(|| StoreError::LeaseLost { detail: "another run took it for over".into() })
}

struct Run<'a> {
    vault: &'a Vault,
    session: SessionId,
    lease: &'a Lease,
    /// Packs that the index named when this began.
    covered: HashSet<PackId>,
    index: Arc<Index>,
    refs: Refs,
    progress: &'a Progress,
    store_now: SystemTime,
    report: ReclaimReport,
    mover: Option<Mover>,
    /// Where the next mover goes on numbering packs and index runs.
    next_numbers: (u32, u32),
    /// Condemned lists written so far.
    lists: u32,
    /// Sessions that ended without cleaning up after themselves.
    over: HashSet<SessionId>,
    rewritten: u64,
    options: &'a ReclaimOptions,
    /// As it is in the vault.
    roll: Roll,
    /// Its generation when this began.
    loaded_generation: u64,
    /// Whether this confirmed it.
    confirmed_now: bool,
    /// Index runs that any listing of this reclaim showed, and that it did not merge away itself.
    seen_runs: HashMap<String, Arc<IndexRun>>,
    /// The commit log, as far as it is not accounted for in the roll that this began with.
    log: Log,
    /// What became of its sessions, at the last look.
    outcomes: HashMap<SessionId, (Commit, CommittedOrNot)>,
}

/// A frame of a pack that is being emptied. `place.slot` means nothing.
struct Part {
    place: Location,
    ids: Vec<Id>,
}

/// Where live parts are moved to.
struct Mover {
    sink: Arc<Sink>,
    worker: WorkerSink,
    uploaders: Vec<std::thread::JoinHandle<()>>,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let thorough = self.options.thorough;
        self.note_runs();
        let stock = self.take_stock()?;
        self.count(&stock)?;
        self.covered = self.index.named_packs();
        let unsettled = self.unsettled(&stock)?;
        if !self.roll.confirmed || !unsettled.is_empty() {
            return self.report_waiting(&unsettled);
        }
        // Their points are in the roll now.
        self.remove_leases(&stock.committed)?;
        // What a forget that was cut short left.
        for object in &stock.survey.forgotten {
            // Counting takes its time: the id of a point that was taken back may be that of a new one by now.
            if self.vault.is_forgotten(object)? {
                self.delete(object)?;
            }
        }
        self.mend_lists()?;
        // What earlier runs condemned.
        for (name, record) in condemned::list(self.vault)?.records {
            if record.state == CondemnedState::Condemned {
                self.delete_condemned(&name, record)?;
            }
        }
        let over = stock.over.clone();
        self.over = over.iter().copied().collect();
        // What needs no moving goes first: that gives the room which moving the rest takes.
        let live = self.refs.live()?;
        let (mut dead, mut mixed) = (Vec::new(), Vec::new());
        for (pack, size) in self.candidates(&over, thorough)? {
            self.progress.check()?;
            if self.is_dead(&pack, size, &live)? { dead.push((pack, size)) } else { mixed.push((pack, size)) }
        }
        for batch in dead.chunks(PACKS_PER_BATCH) {
            self.condemn(batch)?;
        }
        let mut mixed = &mixed[..];
        while !mixed.is_empty() {
            let (batch, rest) = mixed.split_at(self.movable(mixed));
            self.condemn(batch)?;
            mixed = rest;
        }
        // Their packs are looked after now.
        self.remove_leases(&over)?;
        self.prune_tombstones(&stock)?;
        self.prune_log()?;
        self.tidy()
    }

    /// Deletes, where the location is still the vault's.
    fn delete_many<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<()> {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        marker::check(self.vault)?;
        Ok(self.vault.objects().delete_many(names)?)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.delete_many([name])
    }

    fn remove_leases(&self, sessions: &[SessionId]) -> Result<()> {
        let names: Vec<String> = sessions.iter().map(lease::object_name).collect();
        self.delete_many(names.iter().map(String::as_str))
    }

    fn note_runs(&mut self) {
        for run in self.index.runs() {
            self.seen_runs.entry(run.name.clone()).or_insert(run);
        }
    }

    /// Everyone else's leases.
    fn sessions(&self) -> Result<Vec<FoundLease>> {
        let mut list = lease::list(self.vault)?;
        list.retain(|found| found.session != self.session);
        Ok(list)
    }

    /// Everyone else's leases that hold, and those of sessions that may have committed a point which is not to be seen.
    fn at_work(&self) -> Result<Vec<FoundLease>> {
        let mut at_work = Vec::new();
        for found in self.sessions()? {
            if !found.is_over(self.vault, self.store_now) || self.is_in_doubt(&found) {
                at_work.push(found);
            }
        }
        Ok(at_work)
    }

    fn save_lists(&self, lists: &lists::Lists) -> Result<()> {
        // Another reclaim may be at it where this one stood still for long.
        self.lease.check()?;
        lists::save(self.vault, lists)
    }

    /// A condemned list that cannot be read hides which packs are gone: write that down anew.
    fn mend_lists(&mut self) -> Result<()> {
        let found = condemned::list(self.vault)?;
        let in_force = lists::load(self.vault)?;
        if !found.are_doubtful() {
            // Written anew where it is missing or damaged.
            return if in_force.is_none() { lists::begin(self.vault, self.roll.accounted) } else { Ok(()) };
        }
        let there: HashSet<PackId> =
            self.packs_with_prefix("packs/")?.into_iter().map(|(pack, _)| pack).collect();
        let mut gone: Vec<PackId> = Vec::new();
        let named: BTreeSet<PackId> = self.index.named_packs().into_iter().collect();
        for pack in named.into_iter().filter(|pack| !there.contains(pack)) {
            // Asked for one by one: a listing may leave out what is there.
            if self.vault.objects().head(&pack.object_name())?.is_none() {
                gone.push(pack);
            }
        }
        let name = format!("{CONDEMNED_PREFIX}{}-m", self.session);
        let record = CondemnedRecord {
            packs: gone.into_iter().map(Into::into).collect(),
            sessions: Some(Vec::new()),
            state: CondemnedState::Deleted,
        };
        condemned::save(self.vault, &name, &record)?;
        let mut in_force = in_force.unwrap_or_default();
        in_force.accounted = in_force.accounted.max(self.roll.accounted);
        in_force.names.insert(name);
        for name in found.damaged.iter().chain(&found.missing) {
            in_force.names.remove(name);
        }
        self.save_lists(&in_force)?;
        self.delete_many(found.damaged.iter().map(String::as_str))
    }

    /// Says under its own name that a list is in force; before the sessions are listed that it waits for.
    fn put_in_force(&self, name: &str) -> Result<()> {
        let mut lists = match lists::load(self.vault)? {
            Some(lists) => lists,
            None => {
                lists::begin(self.vault, self.roll.accounted)?;
                lists::load(self.vault)?.unwrap_or_default()
            }
        };
        lists.names.insert(name.to_owned());
        lists.written += 1;
        self.save_lists(&lists)
    }

    fn packs_with_prefix(&self, prefix: &str) -> Result<Vec<(PackId, u64)>> {
        let listed = self.vault.objects().list(prefix)?;
        Ok(listed
            .into_iter()
            .filter_map(|object| Some((PackId::from_object_name(&object.name)?, object.size_bytes)))
            .collect())
    }

    /// Packs worth looking at, with their sizes: those with enough dead in them, those with damage, and all that
    /// sessions left behind which ended without a commit.
    fn candidates(&self, over: &[SessionId], thorough: bool) -> Result<Vec<(PackId, u64)>> {
        let excluded = self.index.excluded();
        let mut sizes: HashMap<PackId, u64> = self
            .index
            .runs()
            .iter()
            .flat_map(|run| run.packs.iter().map(|row| (row.id, u64::from(row.size_bytes))))
            .collect();
        let mut chosen: HashMap<PackId, u64> = HashMap::new();
        for session in over {
            chosen.extend(self.packs_with_prefix(&format!("packs/{session}/"))?);
        }
        if thorough {
            let listed = self.packs_with_prefix("packs/")?;
            let at_work: HashSet<SessionId> =
                self.sessions()?.into_iter().map(|found| found.session).collect();
            chosen.extend(listed.iter().copied().filter(|(pack, _)| {
                pack.session != self.session
                    && (over.contains(&pack.session) || !at_work.contains(&pack.session))
            }));
            sizes.extend(listed);
        }
        let block_size = u64::from(self.vault.block_size_bytes());
        for (pack, dead) in self.refs.dead()? {
            let Some(&size) = sizes.get(&pack) else { continue };
            // A block is never stored larger than it is, so fewer dead ones than this cannot be enough.
            if dead * block_size * 100 >= size * REWRITE_DEAD_PERCENT {
                chosen.insert(pack, size);
            }
        }
        let damaged =
            excluded.damaged_packs.iter().chain(excluded.damaged_frames.iter().map(|(pack, _)| pack));
        for pack in damaged {
            if let Some(&size) = sizes.get(pack) {
                chosen.insert(*pack, size);
            }
        }
        let mut chosen: Vec<(PackId, u64)> =
            chosen.into_iter().filter(|(pack, _)| !excluded.condemned.contains(pack)).collect();
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// How many of these packs are emptied together: what is moved out of them is written before any of them goes. One at least,
    /// which the reserve has room for.
    fn movable(&self, packs: &[(PackId, u64)]) -> usize {
        let room = self.vault.objects().room_to_move().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let fits = |(_, size): &&(PackId, u64)| {
            bytes = bytes.saturating_add(*size);
            bytes <= room
        };
        packs.iter().take(PACKS_PER_BATCH).take_while(fits).count().max(1)
    }

    /// Whether no point needs anything that a pack holds.
    fn is_dead(&self, pack: &PackId, size: u64, live: &Live) -> Result<bool> {
        for part in self.parts_of(pack, size)?.unwrap_or_default() {
            for id in &part.ids {
                if live.contains(id)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Moves what is live in these packs, condemns them, and deletes them at once if nobody else is at work.
    fn condemn(&mut self, batch: &[(PackId, u64)]) -> Result<()> {
        let live = self.refs.live()?;
        let mut packs: Vec<PackId> = Vec::new();
        let mut together: HashSet<PackId> = batch.iter().map(|(pack, _)| *pack).collect();
        let mut moved: HashSet<Id> = HashSet::new();
        for (pack, size) in batch {
            self.progress.check()?;
            if self.empty_pack(pack, *size, &live, &together, &mut moved)? {
                packs.push(*pack);
            } else {
                // It stays: what it holds, the others need not.
                together.remove(pack);
            }
        }
        self.finish_mover()?;
        if packs.is_empty() {
            return Ok(());
        }
        let name = format!("{CONDEMNED_PREFIX}{}-{:08x}", self.session, self.lists);
        self.lists += 1;
        let record = CondemnedRecord {
            packs: packs.iter().map(|pack| (*pack).into()).collect(),
            sessions: None,
            state: CondemnedState::Condemned,
        };
        condemned::save(self.vault, &name, &record)?;
        self.put_in_force(&name)?;
        self.index.exclude(|excluded| excluded.condemned.extend(packs.iter().copied()));
        self.delete_condemned(&name, record)
    }

    /// Sees to it that nothing live is in `pack` alone; whether that is so now, or was not worth it. `together`: packs
    /// that are being emptied too, so that their copies do not count.
    fn empty_pack(
        &mut self,
        pack: &PackId,
        size: u64,
        live: &Live,
        together: &HashSet<PackId>,
        moved: &mut HashSet<Id>,
    ) -> Result<bool> {
        let Some(parts) = self.parts_of(pack, size)? else { return Ok(true) };
        if parts.is_empty() && self.over.contains(&pack.session) {
            // Nothing can be read of it, nothing names it, and whoever wrote it never committed.
            return Ok(true);
        }
        let mut needed: Vec<(Part, Vec<usize>)> = Vec::new();
        let mut dead_bytes = 0u64;
        for part in parts {
            let slots = self.needed_slots(&part, live, together, moved)?;
            let dead = part.ids.len() - slots.len();
            dead_bytes += u64::from(part.place.frame_len) * dead as u64 / part.ids.len() as u64;
            if !slots.is_empty() {
                needed.push((part, slots));
            }
        }
        // One that nobody indexed, and whose session is over, is only ever found by that session's lease, which goes now.
        let would_be_lost = self.over.contains(&pack.session) && !self.covered.contains(pack);
        if !would_be_lost && !self.index.is_damaged(pack) && dead_bytes * 100 < size * REWRITE_DEAD_PERCENT {
            return Ok(false);
        }
        let rewritten = !needed.is_empty();
        for (part, slots) in needed {
            match self.move_parts(&part, &slots, moved) {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    tracing::warn!("{error}; the pack stays, for what of it can still be read");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.report.packs_rewritten += u64::from(rewritten);
        Ok(true)
    }

    /// Moves what is live in a condemned pack and nowhere else, before it is deleted; `false` if it is not known what it holds.
    fn rescue_pack(
        &mut self,
        pack: &PackId,
        size: u64,
        live: &Live,
        together: &HashSet<PackId>,
        moved: &mut HashSet<Id>,
    ) -> Result<bool> {
        let Some(parts) = self.parts_of(pack, size)? else { return Ok(false) };
        for part in parts {
            let slots = self.needed_slots(&part, live, together, moved)?;
            if !slots.is_empty() {
                self.move_parts(&part, &slots, moved)?;
            }
        }
        Ok(true)
    }

    /// What a pack holds; None if the store says that it is not there.
    fn parts_of(&self, pack: &PackId, size: u64) -> Result<Option<Vec<Part>>> {
        match read_directory(self.vault.objects(), pack, size) {
            Ok(frames) => Ok(Some(
                frames
                    .into_iter()
                    .map(|frame| Part {
                        place: Location {
                            pack: *pack,
                            offset: frame.offset,
                            frame_len: frame.head.frame_len() as u32,
                            slot: 0,
                            kind: frame.head.kind,
                        },
                        ids: frame.ids,
                    })
                    .collect(),
            )),
            Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(None),
            Err(StoreError::Object(e)) if e.kind == Kind::Short => self.parts_by_index(pack).map(Some),
            Err(e) if e.is_damage() => self.parts_by_index(pack).map(Some),
            Err(e) => Err(e),
        }
    }

    /// The same by what the index says, where the directory is damaged.
    fn parts_by_index(&self, pack: &PackId) -> Result<Vec<Part>> {
        let mut found: HashMap<u32, (Location, Vec<(u16, Id)>)> = HashMap::new();
        for run in self.index.runs() {
            run.for_each(|row, record| {
                if row.id == *pack
                    && let Some(kind) = FrameKind::from_byte(record.kind)
                {
                    let (offset, frame_len) = (record.offset, record.frame_len);
                    let place = Location { pack: *pack, offset, frame_len, slot: 0, kind };
                    found.entry(offset).or_insert((place, Vec::new())).1.push((record.slot, record.id));
                }
            })
            .map_err(|detail| StoreError::corrupt(run.name.clone(), detail))?;
        }
        Ok(found
            .into_values()
            .map(|(place, mut ids)| {
                ids.sort_unstable();
                ids.dedup();
                Part { place, ids: ids.into_iter().map(|(_, id)| id).collect() }
            })
            .collect())
    }

    /// Positions of the ids that some point needs, and that no other good place will have.
    fn needed_slots(
        &self,
        part: &Part,
        live: &Live,
        together: &HashSet<PackId>,
        moved: &HashSet<Id>,
    ) -> Result<Vec<usize>> {
        let mut slots = Vec::new();
        for (slot, id) in part.ids.iter().enumerate() {
            if live.contains(id)?
                && !moved.contains(id)
                && !self.index.has_good_place(self.vault.keys(), id, |pack| !together.contains(pack))
            {
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    fn move_parts(&mut self, part: &Part, slots: &[usize], moved: &mut HashSet<Id>) -> Result<()> {
        let decoded = match self.vault.frames_at(&[part.place]).pop() {
            Some(result) => result?,
            None => return Ok(()),
        };
        if self.mover.is_none() {
            let (sink, uploaders) = Sink::start(self.vault, self.session, self.next_numbers)?;
            self.mover = Some(Mover { sink, worker: WorkerSink::new(Level::default()), uploaders });
        }
        let Some(mover) = &mut self.mover else { return Ok(()) };
        for &slot in slots {
            let id = part.ids[slot];
            if decoded.ids.get(slot) != Some(&id) {
                return Err(StoreError::corrupt(
                    part.place.pack.object_name(),
                    "frame and directory name different ids",
                ));
            }
            match part.place.kind {
                FrameKind::Blocks => mover.sink.store_block(&mut mover.worker, id, decoded.part(slot))?,
                FrameKind::Nodes => mover.sink.store_node(id, decoded.part(slot))?,
            }
            moved.insert(id);
        }
        Ok(())
    }

    /// Makes what was moved durable and known.
    fn finish_mover(&mut self) -> Result<()> {
        let Some(mut mover) = self.mover.take() else { return Ok(()) };
        let flushed = mover.sink.flush_worker(&mut mover.worker, true);
        let finished = mover.sink.finish(mover.uploaders);
        self.rewritten += mover.sink.stored_bytes();
        self.next_numbers = mover.sink.next_numbers();
        finished.and(flushed)
    }

    /// Deletes the packs of a condemned list, if every session that could need them is over.
    fn delete_condemned(&mut self, name: &str, mut record: CondemnedRecord) -> Result<()> {
        let at_work = self.at_work()?;
        let listed = match &record.sessions {
            Some(listed) => listed.clone(),
            None => {
                // The list was written before these sessions were listed: any that is not among them has seen it.
                let listed: Vec<SessionId> = at_work.iter().map(|found| found.session).collect();
                record.sessions = Some(listed.clone());
                condemned::save(self.vault, name, &record)?;
                listed
            }
        };
        let packs: Vec<PackId> = record.packs.iter().map(|pack| (*pack).into()).collect();
        let mut sizes: Vec<(PackId, u64)> = Vec::new();
        for pack in &packs {
            if let Some(info) = self.vault.objects().head(&pack.object_name())? {
                sizes.push((*pack, info.size_bytes));
            }
        }
        let bytes = sizes.iter().map(|(_, size)| size).sum::<u64>();
        let waiting: Vec<&FoundLease> =
            at_work.iter().filter(|found| listed.contains(&found.session)).collect();
        if !waiting.is_empty() {
            self.report.waiting_bytes += bytes;
            for found in waiting {
                let who = match (&found.record, self.outcomes.get(&found.session)) {
                    (_, Some((commit, CommittedOrNot::InDoubt)))
                        if found.is_over(self.vault, self.store_now) =>
                    {
                        in_doubt(&found.session, commit)
                    }
                    (Some(record), _) => format!(
                        "{} (process {}, since {})",
                        record.purpose, record.process.pid, record.started_at
                    ),
                    (None, _) => format!("session {} whose lease is damaged", found.session),
                };
                self.wait_for(who);
            }
            return Ok(());
        }
        // A session may have committed since the counting: what it came to need must not go.
        self.index.refresh(self.vault.objects(), self.vault.keys())?;
        self.note_runs();
        let stock = self.look()?;
        let committing = self.committing();
        if !committing.is_empty() {
            self.report.waiting_bytes += bytes;
            committing.into_iter().for_each(|who| self.wait_for(who));
            return Ok(());
        }
        self.count(&stock)?;
        let live = self.refs.live()?;
        let together: HashSet<PackId> = packs.iter().copied().collect();
        let mut moved = HashSet::new();
        let mut keep: HashSet<PackId> = HashSet::new();
        for (pack, size) in &sizes {
            match self.rescue_pack(pack, *size, &live, &together, &mut moved) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!("{pack}: it is there, and cannot be read; it stays");
                    keep.insert(*pack);
                }
                Err(e) if e.is_damage() => {
                    tracing::warn!("{e}; the pack stays");
                    keep.insert(*pack);
                }
                Err(e) => return Err(e),
            }
        }
        self.finish_mover()?;
        // Another reclaim may be at it where this one stood still for long.
        self.lease.check()?;
        marker::check(self.vault)?;
        for (pack, size) in &sizes {
            if !keep.contains(pack) {
                self.vault.objects().delete(&pack.object_name())?;
                self.report.packs_deleted += 1;
                self.report.freed_bytes += size;
            }
        }
        record.packs.retain(|pack| !keep.contains(&(*pack).into()));
        record.state = CondemnedState::Deleted;
        condemned::save(self.vault, name, &record)?;
        self.refs.drop_dead(&packs)
    }

    fn wait_for(&mut self, who: String) {
        if !self.report.waiting_for.contains(&who) {
            self.report.waiting_for.push(who);
        }
    }

    /// Index runs full of packs that are gone are merged without them; lists nobody needs any more go.
    fn tidy(&mut self) -> Result<()> {
        let lists = condemned::list(self.vault)?;
        let gone = lists.deleted_packs();
        if gone.is_empty() {
            return Ok(());
        }
        let sources: Vec<_> = self
            .index
            .runs()
            .into_iter()
            .filter(|run| {
                let dead = run.packs.iter().filter(|row| gone.contains(&row.id)).count();
                dead > 0 && dead * 4 >= run.packs.len() && run.is_trusted(self.vault.keys())
            })
            .collect();
        self.lease.check()?;
        marker::check(self.vault)?;
        for (number, run) in sources.iter().enumerate() {
            let name = format!("{}-{:08x}", self.session, 0xf000_0000 + number);
            merge::merge(
                self.vault.objects(),
                self.vault.keys(),
                &self.index,
                std::slice::from_ref(run),
                &gone,
                &name,
            )?;
            self.seen_runs.remove(&run.name);
        }
        // A session at work may hold runs open that still name these packs, and merge them into new ones. So the runs
        // are listed while nobody is at work, and nobody has come until the list goes.
        if self.at_work()?.is_empty() {
            let named = self.packs_named_for_certain()?;
            let mut in_force = lists::load(self.vault)?.unwrap_or_default();
            for (name, record) in lists.records {
                let unnamed = record.state == CondemnedState::Deleted
                    && !record.packs.iter().any(|pack| named.contains(&(*pack).into()));
                if unnamed && self.at_work()?.is_empty() {
                    in_force.names.remove(&name);
                    self.save_lists(&in_force)?;
                    self.delete(&name)?;
                }
            }
        }
        self.tidy_damage(&gone)
    }

    /// Packs that any index run names: those of now, and those that an earlier listing showed and that are still there. A
    /// run that one listing leaves out would lead sessions to packs that are gone, once no list says so any more.
    fn packs_named_for_certain(&mut self) -> Result<HashSet<PackId>> {
        self.index.refresh(self.vault.objects(), self.vault.keys())?;
        let mut named = self.index.named_packs();
        let now: HashSet<String> = self.index.runs().iter().map(|run| run.name.clone()).collect();
        for run in self.seen_runs.values().filter(|run| !now.contains(&run.name)) {
            if self.vault.objects().head(&run.name)?.is_some() {
                named.extend(run.packs.iter().map(|row| row.id));
            }
        }
        Ok(named)
    }

    /// Damage lists whose packs are all gone go too; damaged ones are of no use.
    fn tidy_damage(&self, gone: &HashSet<PackId>) -> Result<()> {
        for object in self.vault.objects().list(damage::DAMAGED_PREFIX)? {
            let useless =
                match record::load::<DamageRecord>(self.vault.objects(), self.vault.keys(), &object.name) {
                    Ok(list) => list
                        .frames
                        .iter()
                        .map(|frame| frame.pack)
                        .chain(list.packs)
                        .all(|pack| gone.contains(&pack.into())),
                    Err(e) if e.is_damage() => true,
                    Err(StoreError::Object(e)) if e.kind == Kind::NotFound => false,
                    Err(e) => return Err(e),
                };
            if useless {
                self.delete(&object.name)?;
            }
        }
        Ok(())
    }
}
