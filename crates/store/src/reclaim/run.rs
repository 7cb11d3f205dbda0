//! One reclaim under way: what it was asked, what it holds, what it knows, what it did.

use super::lock;
use super::refs::Refs;
use crate::commits::{Commit, Log};
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::Index;
use crate::index::run::Run as IndexRun;
use crate::lease::{self, FoundLease, Lease};
use crate::marker;
use crate::progress::Progress;
use crate::roll::Roll;
use crate::vault::Vault;
use crate::write::sink::{Sink, WorkerSink};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use strongroom_domain::{PointId, SessionId};

/// Packs condemned together: bounds memory, and the space that moving takes in between.
pub const PACKS_PER_BATCH: usize = 32;

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
    /// Those that are gone.
    pub packs_deleted: u64,
    /// Those whose live parts were written anew.
    pub packs_rewritten: u64,
    /// Bytes of packs that were written anew for them.
    pub rewritten_bytes: u64,
    /// Bytes of packs that are condemned, but wait for sessions to end.
    pub waiting_bytes: u64,
    /// Those sessions, and what else freeing waits for.
    pub waiting_for: Vec<String>,
    /// Whether it is known that the vault has all its points. Else nothing was freed.
    pub confirmed: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What became of a session that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommittedOrNot {
    Committed,
    Not,
    /// It may have, and its point is not to be seen.
    InDoubt,
}

/// What a reclaim, or whoever else writes the roll, holds meanwhile.
pub struct Held {
    pub session: SessionId,
    pub lease: Lease,
    pub store_now: SystemTime,
    pub lock: lock::Lock,
}

pub fn hold(vault: &Vault) -> Result<Held> {
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

pub struct Run<'a> {
    pub vault: &'a Vault,
    pub session: SessionId,
    pub lease: &'a Lease,
    /// Packs that the index named when this began.
    pub covered: HashSet<PackId>,
    pub index: Arc<Index>,
    pub refs: Refs,
    pub progress: &'a Progress,
    pub store_now: SystemTime,
    pub report: ReclaimReport,
    pub mover: Option<Mover>,
    /// Where the next mover goes on numbering packs and index runs.
    pub next_numbers: (u32, u32),
    /// Condemned lists written so far.
    pub lists: u32,
    /// Sessions that ended without cleaning up after themselves.
    pub over: HashSet<SessionId>,
    pub rewritten: u64,
    pub options: &'a ReclaimOptions,
    /// As it is in the vault.
    pub roll: Roll,
    /// Its generation when this began.
    pub loaded_generation: u64,
    /// Whether this confirmed it.
    pub confirmed_now: bool,
    /// Index runs that any listing of this reclaim showed, and that it did not merge away itself.
    pub seen_runs: HashMap<String, Arc<IndexRun>>,
    /// The commit log, as far as it is not accounted for in the roll that this began with.
    pub log: Log,
    /// What became of its sessions, at the last look.
    pub outcomes: HashMap<SessionId, (Commit, CommittedOrNot)>,
}

/// How it is said that something waits for such a session.
pub fn in_doubt(session: &SessionId, commit: &Commit) -> String {
    format!(
        "session {session}, which ended while it committed point {} and whose point is not to be seen; a day later it is \
         taken for not committed",
        commit.point
    )
}

/// Where live parts are moved to.
pub struct Mover {
    pub sink: Arc<Sink>,
    pub worker: WorkerSink,
    pub uploaders: Vec<std::thread::JoinHandle<()>>,
}

impl Run<'_> {
    /// Deletes, where the location is still the vault's.
    pub(super) fn delete_many<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<()> {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        marker::check(self.vault)?;
        Ok(self.vault.objects().delete_many(names)?)
    }

    pub(super) fn delete(&self, name: &str) -> Result<()> {
        self.delete_many([name])
    }

    pub(super) fn remove_leases(&self, sessions: &[SessionId]) -> Result<()> {
        let names: Vec<String> = sessions.iter().map(lease::object_name).collect();
        self.delete_many(names.iter().map(String::as_str))
    }

    pub(super) fn note_runs(&mut self) {
        for run in self.index.runs() {
            self.seen_runs.entry(run.name.clone()).or_insert(run);
        }
    }

    /// Everyone else's leases.
    pub(super) fn sessions(&self) -> Result<Vec<FoundLease>> {
        let mut list = lease::list(self.vault)?;
        list.retain(|found| found.session != self.session);
        Ok(list)
    }

    pub(super) fn wait_for(&mut self, who: String) {
        if !self.report.waiting_for.contains(&who) {
            self.report.waiting_for.push(who);
        }
    }
}
