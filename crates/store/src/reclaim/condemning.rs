//! Condemning packs, and deleting them when nobody can need them any more.

use super::condemned::{self, CondemnedRecord, CondemnedState};
use super::run::{CommittedOrNot, Run, in_doubt};
use crate::crypto::Id;
use crate::damage::{self, DamageRecord};
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::merge;
use crate::lease::FoundLease;
use crate::lists::{self, CONDEMNED_PREFIX};
use crate::objects::Kind;
use crate::{marker, record};
use std::collections::{BTreeSet, HashSet};
use strongroom_domain::SessionId;

impl Run<'_> {
    /// Everyone else's leases that hold, and those of sessions that may have committed a point which is not to be seen.
    pub(super) fn at_work(&self) -> Result<Vec<FoundLease>> {
        let mut at_work = Vec::new();
        for found in self.sessions()? {
            if !found.is_over(self.vault, self.store_now) || self.is_in_doubt(&found) {
                at_work.push(found);
            }
        }
        Ok(at_work)
    }

    pub(super) fn save_lists(&self, lists: &lists::Lists) -> Result<()> {
        // Another reclaim may be at it where this one stood still for long.
        self.lease.check()?;
        lists::save(self.vault, lists)
    }

    /// A condemned list that cannot be read hides which packs are gone: write that down anew.
    pub(super) fn mend_lists(&mut self) -> Result<()> {
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
    pub(super) fn put_in_force(&self, name: &str) -> Result<()> {
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

    /// Moves what is live in these packs, condemns them, and deletes them at once if nobody else is at work.
    pub(super) fn condemn(&mut self, batch: &[(PackId, u64)]) -> Result<()> {
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

    /// Deletes the packs of a condemned list, if every session that could need them is over.
    pub(super) fn delete_condemned(&mut self, name: &str, mut record: CondemnedRecord) -> Result<()> {
        let at_work = self.at_work()?;
        let listed = self.sessions_of_list(name, &mut record, &at_work)?;
        let packs: Vec<PackId> = record.packs.iter().map(|pack| (*pack).into()).collect();
        let sizes = self.sizes_of(&packs)?;
        let bytes = sizes.iter().map(|(_, size)| size).sum::<u64>();
        let waiting: Vec<&FoundLease> =
            at_work.iter().filter(|found| listed.contains(&found.session)).collect();
        if !waiting.is_empty() {
            self.report.waiting_bytes += bytes;
            waiting.into_iter().for_each(|found| self.wait_for_session(found));
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
        let keep = self.rescue_packs(&packs, &sizes)?;
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

    /// The sessions that a condemned list waits for: as it says, or, where they have not been listed yet, all that are at work,
    /// which it says from here on.
    fn sessions_of_list(
        &self,
        name: &str,
        record: &mut CondemnedRecord,
        at_work: &[FoundLease],
    ) -> Result<Vec<SessionId>> {
        if let Some(listed) = &record.sessions {
            return Ok(listed.clone());
        }
        // The list was written before these sessions were listed: any that is not among them has seen it.
        let listed: Vec<SessionId> = at_work.iter().map(|found| found.session).collect();
        record.sessions = Some(listed.clone());
        condemned::save(self.vault, name, record)?;
        Ok(listed)
    }

    /// Those of the packs that are there, with their sizes.
    fn sizes_of(&self, packs: &[PackId]) -> Result<Vec<(PackId, u64)>> {
        let mut sizes: Vec<(PackId, u64)> = Vec::new();
        for pack in packs {
            if let Some(info) = self.vault.objects().head(&pack.object_name())? {
                sizes.push((*pack, info.size_bytes));
            }
        }
        Ok(sizes)
    }

    /// Reports a session that packs wait for.
    fn wait_for_session(&mut self, found: &FoundLease) {
        let who = match (&found.record, self.outcomes.get(&found.session)) {
            (_, Some((commit, CommittedOrNot::InDoubt))) if found.is_over(self.vault, self.store_now) => {
                in_doubt(&found.session, commit)
            }
            (Some(record), _) => {
                format!("{} (process {}, since {})", record.purpose, record.process.pid, record.started_at)
            }
            (None, _) => format!("session {} whose lease is damaged", found.session),
        };
        self.wait_for(who);
    }

    /// Moves what is needed out of packs that are about to go. Answers which of them must stay.
    fn rescue_packs(&mut self, packs: &[PackId], sizes: &[(PackId, u64)]) -> Result<HashSet<PackId>> {
        let live = self.refs.live()?;
        let together: HashSet<PackId> = packs.iter().copied().collect();
        let mut moved = HashSet::new();
        let mut keep: HashSet<PackId> = HashSet::new();
        for (pack, size) in sizes {
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
        Ok(keep)
    }

    /// Index runs full of packs that are gone are merged without them; lists nobody needs any more go.
    pub(super) fn tidy(&mut self) -> Result<()> {
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
    pub(super) fn packs_named_for_certain(&mut self) -> Result<HashSet<PackId>> {
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
    pub(super) fn tidy_damage(&self, gone: &HashSet<PackId>) -> Result<()> {
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
