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

mod agreement;
pub mod condemned;
mod condemning;
mod lock;
mod moving;
mod refs;
mod run;
mod stock;

use crate::commits::Log;
use crate::error::{Result, StoreError};
use crate::marker;
use crate::progress::Progress;
use crate::roll::Roll;
use crate::vault::Vault;
pub use agreement::Agreement;
use condemned::CondemnedState;
use refs::Refs;
use run::{Held, PACKS_PER_BATCH, Run, hold};
pub use run::{ReclaimOptions, ReclaimReport};
use std::collections::{HashMap, HashSet};

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
}
