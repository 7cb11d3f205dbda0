//! Taking stock, before anything is freed: which points the vault is known to have, which are there, and whether each one
//! that is not was forgotten. Not found is not forgotten: a point that is gone without a tombstone stops everything.
//!
//! Known is what the roll names, what the commit log and leases say was committed, and what the caller expects. Each is read
//! before the points are listed, and the points before the tombstones: what happens meanwhile is then taken for neither
//! missing nor forgotten.

use super::condemned;
use super::refs::Points;
use super::run::{CommittedOrNot, ReclaimOptions, Run, in_doubt};
use crate::commits::{self, Commit};
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::Index;
use crate::lease::{self, FoundLease, LeaseRecord, LeaseState};
use crate::limits::{COMMIT_DOUBT, COMMIT_LOG_LAG, TOMBSTONE_KEPT};
use crate::lists;
use crate::manifest;
use crate::objects::{Kind, ObjectInfo};
use crate::points::{DamagedPoint, Survey};
use crate::roll::{self, Roll, RollPoint, RollState};
use crate::tombstone;
use crate::vault::Vault;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;
use strongroom_domain::{PointId, SessionId};

/// What a look at everything showed.
pub struct Stock {
    pub survey: Survey,
    /// Sessions that committed, and whose leases are still there.
    pub committed: Vec<SessionId>,
    /// Sessions that ended without cleaning up after themselves, and never committed.
    pub over: Vec<SessionId>,
    /// All sessions that have a lease.
    leased: HashSet<SessionId>,
    /// Points known to have been in the vault, with the session that made them where that is known.
    known: HashMap<PointId, Option<SessionId>>,
    /// Up to which number the commit log is decided.
    accounted: u64,
}

impl Stock {
    fn present(&self) -> HashSet<PointId> {
        self.survey.present().collect()
    }

    /// Known points that are not there and that nobody forgot.
    fn missing(&self, vault: &Vault) -> Result<Vec<PointId>> {
        let present = self.present();
        let mut missing: BTreeSet<PointId> = self.survey.vanished.iter().copied().collect();
        for (point, session) in self.known.iter().filter(|(point, _)| !present.contains(point)) {
            if self.survey.tombstones.covering(vault, point, *session)?.is_none() {
                missing.insert(*point);
            }
        }
        Ok(missing.into_iter().collect())
    }
}

fn refuse_missing(points: Vec<PointId>) -> Result<()> {
    if points.is_empty() { Ok(()) } else { Err(StoreError::PointsMissing { points }) }
}

impl Run<'_> {
    /// What became of a session whose lease does not hold any more, as far as the last look tells.
    fn outcome(&self, found: &FoundLease) -> CommittedOrNot {
        if let Some((_, outcome)) = self.outcomes.get(&found.session) {
            return *outcome;
        }
        // Its entry in the log is accounted for.
        if self.roll.points.iter().any(|known| known.session == Some(found.session)) {
            return CommittedOrNot::Committed;
        }
        match &found.record {
            Some(LeaseRecord { state: LeaseState::Committed, .. }) => CommittedOrNot::Committed,
            // It never came to commit.
            Some(_) => CommittedOrNot::Not,
            None if self.is_doubtful(found.last_modified) => CommittedOrNot::InDoubt,
            None => CommittedOrNot::Not,
        }
    }

    fn is_doubtful(&self, written: SystemTime) -> bool {
        self.store_now.duration_since(written).unwrap_or_default() < COMMIT_DOUBT
    }

    /// Whether it is over, and it cannot be told yet whether it committed.
    pub(super) fn is_in_doubt(&self, found: &FoundLease) -> bool {
        self.outcome(found) == CommittedOrNot::InDoubt
    }

    /// What became of an entry of the commit log. A point that it leads to, and that a listing left out, is added to what
    /// there is.
    fn decide(
        &self,
        (number, session, commit): (u64, SessionId, &Commit),
        lease: Option<&FoundLease>,
        listed: &HashMap<PointId, SessionId>,
        survey: &mut Survey,
    ) -> Result<CommittedOrNot> {
        let Commit { point, item_key } = commit;
        if listed.get(point) == Some(&session) {
            return Ok(CommittedOrNot::Committed);
        }
        let object = manifest::object_name(item_key, point);
        // By its name too: the listing may have left out the tombstone, or the point.
        let covering = match survey.tombstones.covering(self.vault, point, Some(session))? {
            Some(tombstone) => Some(tombstone),
            None => self.vault.covering(item_key, point, Some(session))?,
        };
        if let Some(tombstone) = covering {
            // What was forgotten had been committed.
            return Ok(if tombstone.is_final() { CommittedOrNot::Committed } else { CommittedOrNot::Not });
        }
        match self.vault.load_manifest(&object) {
            Ok(Some(manifest)) if manifest.session == session => {
                survey.list.points.push(manifest);
                return Ok(CommittedOrNot::Committed);
            }
            Ok(Some(_)) => return Ok(CommittedOrNot::Not),
            Err(error) if error.is_damage() => {
                if !survey.list.damaged.iter().any(|damaged| damaged.object == object) {
                    survey.list.damaged.push(DamagedPoint { object, point: Some(*point), error });
                }
                return Ok(CommittedOrNot::Committed);
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        match lease {
            Some(found) if !found.is_over(self.vault, self.store_now) => return Ok(CommittedOrNot::InDoubt),
            Some(FoundLease { record: Some(LeaseRecord { state: LeaseState::Ended, .. }), .. }) => {
                return Ok(CommittedOrNot::Not);
            }
            Some(FoundLease { record: Some(LeaseRecord { state: LeaseState::Committed, .. }), .. }) => {
                return Ok(CommittedOrNot::Committed);
            }
            _ => {}
        }
        // What was committed of sessions that are settled the roll names.
        if self.roll.settled.binary_search(&session).is_ok() {
            return Ok(CommittedOrNot::Not);
        }
        match commits::written_at(self.vault, number)? {
            Some(written) if !self.is_doubtful(written) => Ok(CommittedOrNot::Not),
            _ => Ok(CommittedOrNot::InDoubt),
        }
    }

    fn gather(&mut self) -> Result<Stock> {
        let mut known: HashMap<PointId, Option<SessionId>> =
            self.options.expected.iter().map(|point| (*point, None)).collect();
        known.extend(self.roll.points.iter().map(|known| (known.point, known.session)));
        let leases = self.sessions()?;
        self.log.read_to_end(self.vault, self.session, self.roll.accounted, self.options.as_listed)?;
        let mut survey = self.vault.survey(None)?;
        let listed = survey.list.points.iter().map(|there| (there.point, there.session)).collect();
        self.outcomes.clear();
        let mut accounted = None;
        for (number, entry) in &self.log.entries {
            let Some(commit) = &entry.commit else { continue };
            let lease = leases.iter().find(|found| found.session == entry.session);
            let outcome = self.decide((*number, entry.session, commit), lease, &listed, &mut survey)?;
            match outcome {
                CommittedOrNot::Committed => {
                    known.insert(commit.point, Some(entry.session));
                }
                CommittedOrNot::Not => {}
                CommittedOrNot::InDoubt => {
                    accounted.get_or_insert(number - 1);
                }
            }
            self.outcomes.insert(entry.session, (commit.clone(), outcome));
        }
        let last = self.log.entries.last_key_value().map_or(0, |(number, _)| *number);
        let (mut committed, mut over) = (Vec::new(), Vec::new());
        let mut leased = HashSet::from([self.session]);
        for found in leases {
            leased.insert(found.session);
            if !found.is_over(self.vault, self.store_now) {
                continue;
            }
            match self.outcome(&found) {
                CommittedOrNot::Committed => {
                    committed.push(found.session);
                    if let Some(commit) = found.record.and_then(|record| record.commit) {
                        known.insert(commit.point, Some(found.session));
                    }
                }
                CommittedOrNot::Not => over.push(found.session),
                CommittedOrNot::InDoubt => {}
            }
        }
        survey.list.points.sort_by_key(|manifest| (manifest.taken_at, manifest.point));
        let accounted = accounted.unwrap_or(last);
        Ok(Stock { survey, committed, over, leased, known, accounted })
    }

    /// Sessions that may be committing a point, whether a listing of leases showed them or not.
    pub(super) fn committing(&self) -> Vec<String> {
        self.undecided().map(|(session, commit)| in_doubt(session, commit)).collect()
    }

    /// Sessions of the log of which it is not known what became of their points.
    fn undecided(&self) -> impl Iterator<Item = (&SessionId, &Commit)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(|(session, (commit, outcome))| {
            (*outcome == CommittedOrNot::InDoubt).then_some((session, commit))
        })
    }

    /// A look in between: points may have been forgotten and committed meanwhile, none may have gone.
    pub(super) fn look(&mut self) -> Result<Stock> {
        let stock = self.gather()?;
        refuse_missing(stock.missing(self.vault)?)?;
        Ok(stock)
    }

    /// The first look, which brings the roll up to date.
    pub(super) fn take_stock(&mut self) -> Result<Stock> {
        let ReclaimOptions { accept_loss, as_listed, .. } = self.options;
        let (before, whole) = match roll::load(self.vault)? {
            RollState::Known { roll, whole } => (roll, whole),
            RollState::Unknown { detail } if !as_listed => return Err(roll::unknown(self.vault, &detail)),
            RollState::Unknown { .. } => (roll::anew(self.vault)?, false),
        };
        self.roll = before.clone();
        self.loaded_generation = before.generation;
        let confirms = *as_listed && !before.confirmed;
        if confirms {
            // What was taken from an earlier listing counts as little as that one did.
            self.roll.points.clear();
        }
        let mut stock = self.gather()?;
        if *as_listed
            && stock.leased.len() == 1
            && self.vault.has_packs_of_nobody(&stock.survey, &self.roll)?
        {
            return Err(StoreError::Invalid {
                what: "listing",
                detail: "there are packs, and neither a point nor a tombstone: that is not all that the vault has. Mount or \
                         restore what is missing"
                    .into(),
            });
        }
        if !accept_loss.is_empty() {
            self.write_off(&stock)?;
            stock = self.gather()?;
        }
        refuse_missing(stock.missing(self.vault)?)?;
        let points = self.roll_points(&stock);
        let settled = self.settled(&stock, &points)?;
        self.confirmed_now = confirms;
        let mut roll = Roll {
            confirmed: before.confirmed || *as_listed,
            points,
            settled: settled.into_iter().collect(),
            ..before.clone()
        };
        let much = stock.accounted >= before.accounted + COMMIT_LOG_LAG;
        let is_harmed = self.log.has_gaps || !self.log.damaged.is_empty();
        if roll != before || !whole || much || is_harmed {
            roll.accounted = stock.accounted;
            self.roll = roll;
            self.save_roll()?;
            self.tell_accounted()?;
        }
        self.report.confirmed = self.roll.confirmed;
        Ok(stock)
    }

    /// Writes off what was accepted as lost.
    fn write_off(&self, stock: &Stock) -> Result<()> {
        let accept_loss = &self.options.accept_loss;
        let missing = stock.missing(self.vault)?;
        // All is looked at before anything is written off: a reclaim that is refused changes nothing.
        let counted = self.refs.counted_but_not(&stock.present())?;
        let is_missed = |point: &PointId| missing.contains(point) || counted.contains(point);
        for point in accept_loss {
            if !is_missed(point) && self.vault.tombstone(point)?.is_none() {
                return Err(StoreError::Invalid {
                    what: "point to write off",
                    detail: format!("point {point} is not missing"),
                });
            }
        }
        refuse_missing(missing.iter().filter(|point| !accept_loss.contains(point)).copied().collect())?;
        for point in accept_loss.iter().filter(|point| is_missed(point)) {
            self.vault.accept_loss(point, "accepted loss")?;
        }
        Ok(())
    }

    /// The points that are there, with the sessions that made them where that is known.
    fn roll_points(&self, stock: &Stock) -> Vec<RollPoint> {
        let mut points = stock.survey.roll_points(self.vault);
        for point in points.iter_mut().filter(|point| point.session.is_none()) {
            point.session = stock.known.get(&point.point).copied().flatten();
        }
        points
    }

    /// Sessions of whose packs it is known what became of them, once these points are in the roll.
    fn settled(&self, stock: &Stock, points: &[RollPoint]) -> Result<BTreeSet<SessionId>> {
        let named: HashSet<SessionId> =
            self.index.named_packs().into_iter().map(|pack| pack.session).collect();
        let mut settled: BTreeSet<SessionId> = self.roll.settled.iter().copied().collect();
        settled.extend(points.iter().filter_map(|point| point.session).filter(|of| named.contains(of)));
        // Their leases go later. Whether they wrote packs the index need not show: it was read before, and runs are merged meanwhile.
        settled.extend(stock.committed.iter().copied());
        settled.extend(stock.over.iter().copied());
        // Of those whose lease is not to be seen, or gone, the log tells.
        let mut told: HashSet<SessionId> = self.outcomes.keys().copied().collect();
        if self.options.as_listed {
            told.extend(sessions_of_packs(self.vault, &self.index)?);
        }
        for (session, _) in self.undecided() {
            told.remove(session);
        }
        settled.extend(told.difference(&stock.leased).copied());
        Ok(settled)
    }

    fn save_roll(&mut self) -> Result<()> {
        // Another reclaim may be at it where this one stood still for long.
        self.lease.check()?;
        self.roll.generation += 1;
        roll::save(self.vault, &self.roll)
    }

    /// Tells sessions up to where the log is accounted for in the roll. Whether that could be said.
    fn tell_accounted(&self) -> Result<bool> {
        let Some(mut in_force) = lists::load(self.vault)? else { return Ok(false) };
        if in_force.accounted < self.roll.accounted {
            in_force.accounted = self.roll.accounted;
            self.save_lists(&in_force)?;
        }
        Ok(true)
    }

    /// Removes entries of the log that are accounted for, and older than any session goes by.
    pub(super) fn prune_log(&self) -> Result<()> {
        if !self.tell_accounted()? {
            return Ok(());
        }
        let mut old = commits::list_up_to(self.vault, self.roll.accounted)?;
        old.retain(|(name, written)| !self.is_doubtful(*written) || self.log.damaged.contains(name));
        self.delete_many(old.iter().map(|(name, _)| name.as_str()))
    }

    /// At the end: what this reclaim wrote itself is accounted for, and sessions of which nothing is left are not any more.
    pub(super) fn finish_roll(&mut self) -> Result<()> {
        if self.roll.generation == 0 || (self.rewritten == 0 && self.report.packs_deleted == 0) {
            return Ok(());
        }
        let named: HashSet<SessionId> =
            self.index.named_packs().into_iter().map(|pack| pack.session).collect();
        let mut settled: BTreeSet<SessionId> = self.roll.settled.iter().copied().collect();
        if self.rewritten > 0 {
            settled.insert(self.session);
        }
        let unnamed: Vec<SessionId> = settled.iter().filter(|of| !named.contains(of)).copied().collect();
        if !unnamed.is_empty() {
            let there = sessions_of_packs(self.vault, &self.index)?;
            for session in unnamed.iter().filter(|session| !there.contains(session)) {
                settled.remove(session);
            }
        }
        let settled: Vec<SessionId> = settled.into_iter().collect();
        if settled != self.roll.settled {
            self.roll.settled = settled;
            self.save_roll()?;
            self.refs.set_generation(self.roll.generation)?;
        }
        Ok(())
    }

    /// Counts references. What was counted goes only with a tombstone, or when a later roll does not name it any more.
    pub(super) fn count(&mut self, stock: &Stock) -> Result<()> {
        let later = self.confirmed_now || self.loaded_generation > self.refs.generation()?;
        let (mut forgotten, mut missing) = (Vec::new(), Vec::new());
        for point in self.refs.counted_but_not(&stock.present())? {
            let known = stock.known.get(&point).copied();
            let session = known.flatten();
            let dropped = known.is_none()
                && self.roll.confirmed
                && (later || stock.survey.tombstones.any(self.vault, &point)?);
            if dropped || stock.survey.tombstones.covering(self.vault, &point, session)?.is_some() {
                forgotten.push(point);
            } else if self.roll.confirmed {
                missing.push(point);
            }
        }
        refuse_missing(missing)?;
        let unreadable: Vec<PointId> =
            stock.survey.list.damaged.iter().filter_map(|damaged| damaged.point).collect();
        let points = Points {
            points: &stock.survey.list.points,
            unreadable: &unreadable,
            forgotten: &forgotten,
            generation: self.roll.generation,
        };
        self.refs.catch_up(self.vault, &self.index, &points, self.progress)?;
        if self.refs.is_new {
            self.refs.find_dead(self.vault.keys(), &self.index)?;
        }
        Ok(())
    }

    /// Sessions of which there are packs, and of which nothing tells whether they committed: their leases, or their points,
    /// are not to be seen. As long as there are any, nothing can be freed: their points may need it.
    pub(super) fn unsettled(&self, stock: &Stock) -> Result<BTreeSet<SessionId>> {
        // Packs that were deleted, as their lists say, may be named still: a session merges the runs that it has open.
        let gone = condemned::list(self.vault)?.deleted_packs();
        let named = self.covered.iter().filter(|pack| !gone.contains(pack));
        let mut sessions: BTreeSet<SessionId> = named.map(|pack| pack.session).collect();
        if self.options.thorough {
            add_listed_sessions(self.vault, &mut sessions)?;
        }
        // A session that began after the leases were listed.
        let later: HashSet<SessionId> =
            lease::list(self.vault)?.into_iter().map(|found| found.session).collect();
        sessions.retain(|session| {
            self.roll.settled.binary_search(session).is_err()
                && !stock.leased.contains(session)
                && !later.contains(session)
        });
        Ok(sessions)
    }

    /// Nothing is freed: how much waits, and for what.
    pub(super) fn report_waiting(&mut self, unsettled: &BTreeSet<SessionId>) -> Result<()> {
        let live = self.refs.live()?;
        for (pack, size) in self.candidates(&[], false)? {
            self.progress.check()?;
            if self.is_dead(&pack, size, &live)? {
                self.report.waiting_bytes += size;
            }
        }
        if !self.roll.confirmed {
            self.report.waiting_for.push(
                "it to be known which points the vault has: its catalog must agree twice, a day apart (without a catalog, or with \
                 one that was imported from the vault: look at `strongroom rescue point list`, and if all are there, \
                 `strongroom rescue vault reclaim --as-listed`)"
                    .into(),
            );
            return Ok(());
        }
        self.report.waiting_for.extend(unsettled.iter().map(|session| {
            format!(
                "session {session}, which wrote packs, and of which neither lease nor point is to be seen (if all points \
                 are there: `strongroom rescue vault reclaim --as-listed`)"
            )
        }));
        Ok(())
    }

    /// Tombstones that nobody needs any more: the roll does not name the point, its manifest is gone, and whoever counts
    /// references elsewhere has had the time to see them.
    pub(super) fn prune_tombstones(&self, stock: &Stock) -> Result<()> {
        let present = stock.present();
        for (point, object, written) in stock.survey.tombstones.iter() {
            let Some((item_key, _)) = tombstone::parse_object_name(object) else { continue };
            let is_old = self.store_now.duration_since(written).unwrap_or_default() > TOMBSTONE_KEPT;
            let is_useless = || match tombstone::load(self.vault, object) {
                Err(e) if e.is_damage() => Ok(true),
                Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(false),
                Err(e) => Err(e),
                Ok(_) => Ok(false),
            };
            let is_named = present.contains(point) || self.roll.points.iter().any(|p| p.point == *point);
            if is_named || !(is_old || is_useless()?) {
                continue;
            }
            if self.vault.objects().head(&manifest::object_name(item_key, point))?.is_none() {
                self.delete(object)?;
            }
        }
        Ok(())
    }
}

/// All sessions of which there are packs, as far as index and listing show.
pub(super) fn sessions_of_packs(vault: &Vault, index: &Index) -> Result<HashSet<SessionId>> {
    let mut sessions: HashSet<SessionId> = index.named_packs().into_iter().map(|pack| pack.session).collect();
    add_listed_sessions(vault, &mut sessions)?;
    Ok(sessions)
}

fn add_listed_sessions(vault: &Vault, sessions: &mut impl Extend<SessionId>) -> Result<()> {
    let add = |object: ObjectInfo| {
        sessions.extend(PackId::from_object_name(&object.name).map(|pack| pack.session));
        std::ops::ControlFlow::Continue(())
    };
    Ok(vault.objects().for_each("packs/", add)?)
}
