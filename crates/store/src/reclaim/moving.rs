//! What packs hold that some point needs, and moving it out of them.

use super::refs::Live;
use super::run::{Mover, PACKS_PER_BATCH, Run};
use crate::compress::Level;
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::frame::{FrameKind, PackId};
use crate::index::Location;
use crate::limits::REWRITE_DEAD_PERCENT;
use crate::objects::Kind;
use crate::pack::read_directory;
use crate::write::sink::{Sink, WorkerSink};
use std::collections::{HashMap, HashSet};
use strongroom_domain::SessionId;

/// A frame of a pack that is being emptied. `place.slot` means nothing.
pub struct Part {
    place: Location,
    ids: Vec<Id>,
}

impl Run<'_> {
    pub(super) fn packs_with_prefix(&self, prefix: &str) -> Result<Vec<(PackId, u64)>> {
        let listed = self.vault.objects().list(prefix)?;
        Ok(listed
            .into_iter()
            .filter_map(|object| Some((PackId::from_object_name(&object.name)?, object.size_bytes)))
            .collect())
    }

    /// Packs worth looking at, with their sizes: those with enough dead in them, those with damage, and all that
    /// sessions left behind which ended without a commit.
    pub(super) fn candidates(&self, over: &[SessionId], thorough: bool) -> Result<Vec<(PackId, u64)>> {
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
    pub(super) fn movable(&self, packs: &[(PackId, u64)]) -> usize {
        let room = self.vault.objects().room_to_move().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let fits = |(_, size): &&(PackId, u64)| {
            bytes = bytes.saturating_add(*size);
            bytes <= room
        };
        packs.iter().take(PACKS_PER_BATCH).take_while(fits).count().max(1)
    }

    /// Whether no point needs anything that a pack holds.
    pub(super) fn is_dead(&self, pack: &PackId, size: u64, live: &Live) -> Result<bool> {
        for part in self.parts_of(pack, size)?.unwrap_or_default() {
            for id in &part.ids {
                if live.contains(id)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Sees to it that nothing live is in `pack` alone; whether that is so now, or was not worth it. `together`: packs
    /// that are being emptied too, so that their copies do not count.
    pub(super) fn empty_pack(
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
    pub(super) fn rescue_pack(
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
    pub(super) fn parts_of(&self, pack: &PackId, size: u64) -> Result<Option<Vec<Part>>> {
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
    pub(super) fn parts_by_index(&self, pack: &PackId) -> Result<Vec<Part>> {
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
    pub(super) fn needed_slots(
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

    pub(super) fn move_parts(&mut self, part: &Part, slots: &[usize], moved: &mut HashSet<Id>) -> Result<()> {
        let decoded = match self.vault.frames_at(&[part.place], None).pop() {
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
    pub(super) fn finish_mover(&mut self) -> Result<()> {
        let Some(mut mover) = self.mover.take() else { return Ok(()) };
        let flushed = mover.sink.flush_worker(&mut mover.worker, true);
        let finished = mover.sink.finish(mover.uploaders);
        self.rewritten += mover.sink.stored_bytes();
        self.next_numbers = mover.sink.next_numbers();
        finished.and(flushed)
    }
}
