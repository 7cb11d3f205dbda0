//! Whether a vault and whoever keeps a list of its points agree on them: what confirms a roll that was made from a listing.

use super::run::hold;
use super::stock::sessions_of_packs;
use crate::error::Result;
use crate::lease::{self, Lease};
use crate::limits::AGREEMENTS_APART;
use crate::missing::OutOfSight;
use crate::points::Survey;
use crate::roll::{self, Roll, RollState};
use crate::vault::Vault;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashSet};
use strongroom_domain::{PointId, SessionId};

/// Whether a vault and whoever keeps a list of its points agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreement {
    /// They do, and the vault's roll is confirmed.
    Confirmed,
    /// They do, since then; the roll is confirmed when they still do a day later.
    First {
        /// When they agreed first.
        since: Timestamp,
    },
    /// They do, and that says nothing of points that neither has seen: the list was taken from the vault itself.
    AsListed,
    /// They do not.
    Differs {
        /// Points that should be there, are not, and were not forgotten.
        missing: Vec<PointId>,
        /// Points that are there and that were not named.
        unknown: Vec<PointId>,
    },
}

impl Vault {
    /// Compares the vault's points with `known`, all points it should have. Two agreements at least a day apart confirm
    /// a roll that was made from a listing; until then nothing is freed.
    pub fn agree(&self, known: &[PointId]) -> Result<Agreement> {
        self.agree_with(known, true)
    }

    /// Whether the vault has a list of its points that is known to be whole.
    pub fn knows_its_points(&self) -> Result<bool> {
        Ok(matches!(roll::load(self)?, RollState::Known { roll: Roll { confirmed: true, .. }, .. }))
    }

    /// The same with a list that was taken from what the vault showed: it confirms nothing, however often they agree.
    pub fn agree_as_listed(&self, known: &[PointId]) -> Result<Agreement> {
        self.agree_with(known, false)
    }

    fn agree_with(&self, known: &[PointId], is_independent: bool) -> Result<Agreement> {
        if self.is_marked()
            && let RollState::Known { roll: Roll { confirmed: true, .. }, .. } = roll::load(self)?
        {
            return Ok(self.compare(known)?.2.unwrap_or(Agreement::Confirmed));
        }
        // By it, space is freed.
        let freeing = self.freeing();
        let held = hold(&freeing)?;
        let agreed = freeing.agree_unconfirmed(known, is_independent, &held.lease);
        held.lease.release()?;
        agreed
    }

    /// The points that are there, what is out of sight, and what differs, if anything does.
    fn compare(&self, known: &[PointId]) -> Result<(Survey, OutOfSight, Option<Agreement>)> {
        let (survey, out) = self.survey_and_out_of_sight()?;
        let present: HashSet<PointId> = survey.present().collect();
        let known: BTreeSet<PointId> = known.iter().copied().collect();
        let mut missing = Vec::new();
        for point in known.iter().filter(|point| !present.contains(point)) {
            if survey.tombstones.covering(self, point, None)?.is_none() {
                missing.push(*point);
            }
        }
        // And those that the vault knows of.
        let others = out.points.iter().filter(|missing| missing.was_there).map(|missing| missing.point);
        missing.extend(others.filter(|point| !known.contains(point)));
        missing.sort_unstable();
        let mut unknown: Vec<PointId> = present.into_iter().filter(|point| !known.contains(point)).collect();
        unknown.sort_unstable();
        let differs = !missing.is_empty() || !unknown.is_empty();
        Ok((survey, out, differs.then_some(Agreement::Differs { missing, unknown })))
    }

    fn agree_unconfirmed(&self, known: &[PointId], is_independent: bool, lease: &Lease) -> Result<Agreement> {
        let before = match roll::load(self)? {
            RollState::Known { roll, .. } => roll,
            RollState::Unknown { .. } => roll::anew(self)?,
        };
        let leased: HashSet<SessionId> = lease::list(self)?.into_iter().map(|found| found.session).collect();
        let (survey, out, differs) = self.compare(known)?;
        let now = self.environment().now();
        // One in the future is of a clock that was wrong.
        let misses = matches!(&differs, Some(Agreement::Differs { missing, .. }) if !missing.is_empty());
        let since = before.first_agreed_at.filter(|since| *since <= now && !misses && is_independent);
        let mut roll = Roll { points: survey.roll_points(self), ..before.clone() };
        // A point that the other does not know yet, or not any more, frees nothing: it is no agreement, and no reason to begin
        // anew.
        roll.first_agreed_at =
            if differs.is_none() && is_independent { Some(since.unwrap_or(now)) } else { since };
        // Nor is one from the vault's own listing, so none of an earlier look counts with it.
        let is_old = since.is_some_and(|since| now.duration_since(since) >= AGREEMENTS_APART);
        // A point that a session was about to commit, and that is not to be seen, may be there.
        if is_old && differs.is_none() && out.is_nothing() {
            self.reload();
            let mut settled: BTreeSet<SessionId> = roll.settled.into_iter().collect();
            settled.extend(sessions_of_packs(self, &*self.index()?)?.difference(&leased));
            roll.settled = settled.into_iter().collect();
            (roll.confirmed, roll.first_agreed_at) = (true, None);
        } else if differs.is_some() {
            // What an earlier look showed stays known.
            roll.points = before.points.clone();
        }
        if roll != before || before.generation == 0 {
            roll.generation += 1;
            lease.check()?;
            roll::save(self, &roll)?;
        }
        Ok(match (differs, roll.first_agreed_at) {
            (Some(differs), _) => differs,
            (None, Some(since)) => Agreement::First { since },
            (None, None) if roll.confirmed => Agreement::Confirmed,
            (None, None) => Agreement::AsListed,
        })
    }
}
