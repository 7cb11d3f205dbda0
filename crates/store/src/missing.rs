//! Points that a vault is known to have had, that are not to be seen, and that nobody forgot. What is not found is not
//! gone: whoever tells of a vault's points, or would remove it, asks for these too.

use crate::commits::{self, Commit};
use crate::error::Result;
use crate::frame::PackId;
use crate::lease::{self, LeaseRecord, LeaseState};
use crate::points::Survey;
use crate::roll::{self, Roll, RollPoint, RollState};
use crate::tombstone::TOMBSTONES_PREFIX;
use crate::vault::Vault;
use crate::{manifest, objects};
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use strongroom_domain::{PointId, SessionId};

/// A point that is not to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPoint {
    /// Which.
    pub point: PointId,
    /// The object of its manifest.
    pub object: String,
    /// That it was there is known; else its session was about to commit it, and died then, or what it wrote is out of sight.
    pub was_there: bool,
}

/// What of a vault's points is out of sight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutOfSight {
    /// Points that are not to be seen.
    pub points: Vec<MissingPoint>,
    /// Objects of the commit log that are not there though later ones are.
    pub log: Vec<String>,
    /// There are packs, and neither a point nor anything else that tells whose they are.
    pub unexplained_packs: bool,
}

impl OutOfSight {
    /// Whether all that is known of is to be seen.
    pub fn is_nothing(&self) -> bool {
        self.points.is_empty() && self.log.is_empty() && !self.unexplained_packs
    }

    /// In words, for an error or a warning: what is out of sight.
    pub fn told(&self) -> String {
        const SHOWN: usize = 10;
        let mut parts = Vec::new();
        if !self.points.is_empty() {
            let mut names: Vec<String> =
                self.points.iter().take(SHOWN).map(|missing| missing.point.to_string()).collect();
            if self.points.len() > SHOWN {
                names.push(format!("{} more", self.points.len() - SHOWN));
            }
            let noun = if self.points.len() == 1 { "recovery point" } else { "recovery points" };
            parts.push(format!(
                "{} {noun} that it is known to have, and that nobody forgot ({})",
                self.points.len(),
                names.join(", ")
            ));
        }
        if !self.log.is_empty() {
            parts.push(format!("entries of its commit log ({})", self.log.join(", ")));
        }
        if self.unexplained_packs {
            parts.push("the points of packs that are there".into());
        }
        parts.join("; ")
    }
}

/// A point's item key and session, and whether it is known to have been there.
type Known = (String, Option<SessionId>, bool);

impl Vault {
    /// What of its points is known to be there and is not to be seen. A vault whose roll cannot be read knows nothing of
    /// that but what its commit log and its packs tell.
    pub fn out_of_sight(&self) -> Result<OutOfSight> {
        Ok(self.survey_and_out_of_sight()?.1)
    }

    /// What is to be seen, and what is not.
    pub(crate) fn survey_and_out_of_sight(&self) -> Result<(Survey, OutOfSight)> {
        if !self.is_marked() {
            return Ok((self.survey(None)?, OutOfSight::default()));
        }
        // What is known before the points: one that is forgotten meanwhile has its tombstone.
        let roll = match roll::load(self)? {
            RollState::Known { roll, .. } => roll,
            RollState::Unknown { .. } => roll::anew(self)?,
        };
        let (known, gaps) = self.known_points(&roll)?;
        let survey = self.survey(None)?;
        let mut out = OutOfSight {
            log: gaps.into_iter().map(commits::object_name).collect(),
            // Asked for in this order: a session that begins now writes its lease first.
            unexplained_packs: self.has_packs_of_nobody(&survey, &roll)?
                && lease::list(self)?
                    .iter()
                    .all(|found| found.record.as_ref().is_some_and(|record| record.reads)),
            ..OutOfSight::default()
        };
        let present: HashSet<PointId> = survey.present().collect();
        for (point, (item_key, session, was_there)) in known {
            if present.contains(&point)
                || survey.tombstones.covering(self, &point, session)?.is_some()
                || self.covering(&item_key, &point, session)?.is_some()
            {
                continue;
            }
            let object = manifest::object_name(&item_key, &point);
            // One that was listed was there, whatever its object's reading says.
            let was_there = was_there || survey.vanished.contains(&point);
            let is_at_work = || -> Result<bool> {
                Ok(lease::list(self)?.iter().any(|found| Some(found.session) == session))
            };
            // Committed since they were listed, or about to be by a session that began since.
            if was_there || (self.objects().head(&object)?.is_none() && !is_at_work()?) {
                out.points.push(MissingPoint { point, object, was_there });
            }
        }
        for point in &survey.vanished {
            if !out.points.iter().any(|missing| missing.point == *point) {
                let damaged = survey.list.damaged.iter().find(|damaged| damaged.point == Some(*point));
                let object = damaged.map(|damaged| damaged.object.clone()).unwrap_or_default();
                out.points.push(MissingPoint { point: *point, object, was_there: true });
            }
        }
        Ok((survey, out))
    }

    /// Points that the roll, leases and the commit log name, and numbers of the log that are not there.
    fn known_points(&self, roll: &Roll) -> Result<(BTreeMap<PointId, Known>, Vec<u64>)> {
        let mut known = BTreeMap::new();
        for RollPoint { point, item_key, session } in &roll.points {
            known.insert(*point, (item_key.clone(), *session, true));
        }
        let mut leased = HashSet::new();
        for found in lease::list(self)? {
            leased.insert(found.session);
            // Reclaim has not taken it down yet.
            if let Some(LeaseRecord {
                state: LeaseState::Committed,
                commit: Some(Commit { point, item_key }),
                session,
                ..
            }) = found.record
            {
                known.entry(point).or_insert((item_key, Some(session), true));
            }
        }
        let mut log = commits::known(self, roll.accounted)?;
        if !log.missing.is_empty()
            && let RollState::Known { roll, .. } = roll::load(self)?
        {
            // Accounted for, and pruned, since the roll was read.
            log.missing.retain(|number| *number > roll.accounted);
        }
        for (session, Commit { point, item_key }) in log.commits {
            // Of those at work, and of those that are settled, more is known.
            if !leased.contains(&session) && roll.settled.binary_search(&session).is_err() {
                known.entry(point).or_insert((item_key, Some(session), false));
            }
        }
        Ok((known, log.missing))
    }

    /// Whether there are packs of sessions that are not settled, and no point nor tombstone at all.
    pub(crate) fn has_packs_of_nobody(&self, survey: &Survey, roll: &Roll) -> Result<bool> {
        if survey.present().next().is_some() {
            return Ok(false);
        }
        let is_unsettled = |name: &str| {
            let session = PackId::from_object_name(name).map(|pack| pack.session);
            session.is_some_and(|session| roll.settled.binary_search(&session).is_err())
        };
        Ok(!self.has_any(TOMBSTONES_PREFIX, |_| true)? && self.has_any("packs/", is_unsettled)?)
    }

    fn has_any(&self, prefix: &str, is_one: impl Fn(&str) -> bool) -> Result<bool> {
        let mut found = false;
        self.objects().for_each(prefix, |object: objects::ObjectInfo| {
            found = is_one(&object.name);
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }
}
