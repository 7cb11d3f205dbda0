//! Leases: how a run that reads or writes tells everyone that it is there, and how others tell that
//! it no longer is. See `docs/vault-format.md`, section 7.

use crate::commits::Commit;
use crate::environment::ProcessIdentity;
use crate::error::{Result, StoreError};
use crate::limits::{LEASE_HELD, LEASE_RENEW_SECONDS, LEASE_SECONDS};
use crate::objects::{Kind, Questions};
use crate::record;
use crate::vault::Vault;
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use strongroom_domain::SessionId;

pub const SESSIONS_PREFIX: &str = "sessions/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// At work. Whether it came to commit a point the commit log tells.
    Active,
    /// Over: its point is there, and reclaim has not taken it down yet.
    Committed,
    /// Over: it has not committed, or took back what it had. Its packs need looking after.
    Ended,
}

/// What a lease's object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub session: SessionId,
    pub purpose: String,
    #[serde(flatten)]
    pub process: ProcessIdentity,
    pub started_at: Timestamp,
    /// Counts renewals.
    pub renewed: u64,
    pub lease_seconds: u64,
    /// It reads, and writes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
    pub state: LeaseState,
    /// What it committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

pub fn object_name(session: &SessionId) -> String {
    format!("{SESSIONS_PREFIX}{session}")
}

struct Shared {
    vault: Vault,
    record: Mutex<LeaseRecord>,
    /// When it was last renewed, by [`crate::Environment::elapsed`]; none once lost.
    renewed: Mutex<Option<Duration>>,
    stop: Mutex<bool>,
    wake: Condvar,
}

impl Shared {
    fn write(&self) -> Result<()> {
        self.write_by(&self.vault)
    }

    /// `vault`: which may have been asked for its marker just now.
    fn write_by(&self, vault: &Vault) -> Result<()> {
        // Its file system may have gone since: then it is not written beside it.
        vault.check_there()?;
        let record = self.record.lock();
        let name = object_name(&record.session);
        let bytes = record::encode(vault.keys(), &name, &*record)?;
        Ok(vault.objects().put(&name, bytes)?)
    }

    fn renew(&self) {
        let before = self.vault.environment().elapsed();
        match self.try_renew() {
            Ok(true) => {
                let mut renewed = self.renewed.lock();
                if renewed.is_some() {
                    *renewed = Some(before);
                }
            }
            Ok(false) => *self.renewed.lock() = None,
            Err(e) => tracing::warn!("the lease of this session could not be renewed: {e}"),
        }
    }

    /// False where somebody may have taken this session for over: its lease is gone, or had run out. That is for the store's
    /// own clock to say, which went on while this process, or its machine, stood still.
    fn try_renew(&self) -> Result<bool> {
        let name = object_name(&self.record.lock().session);
        let written_at = || self.vault.objects().head(&name).map(|info| info.map(|info| info.last_modified));
        let Some(before) = written_at()? else { return Ok(false) };
        self.record.lock().renewed += 1;
        self.write()?;
        Ok(written_at()?.is_some_and(|now| !has_run_out(before, now)))
    }
}

/// Whether a lease written at one time may be held for over at another; both by the store's clock.
fn has_run_out(written: SystemTime, at: SystemTime) -> bool {
    at.duration_since(written).unwrap_or_default() > LEASE_HELD
}

fn lost(detail: impl Into<String>) -> Result<()> {
    Err(StoreError::LeaseLost { detail: detail.into() })
}

/// A lease that is held. Ends itself when dropped.
pub struct Lease {
    shared: Arc<Shared>,
    renewer: Option<JoinHandle<()>>,
    finished: bool,
}

impl Lease {
    /// Writes the lease. `None` if the location cannot be written and `reading_only` allows that.
    pub fn acquire(
        vault: &Vault,
        session: SessionId,
        purpose: &str,
        reading_only: bool,
    ) -> Result<Option<Self>> {
        match vault.check_there() {
            Err(StoreError::Unmarked { .. }) if reading_only => {
                tracing::warn!("reading without a lease: the marker of the vault is missing or damaged");
                return Ok(None);
            }
            other => other?,
        }
        let is_single_writer = !reading_only && vault.is_single_writer()?;
        let environment = vault.environment();
        let shared = Arc::new(Shared {
            record: Mutex::new(LeaseRecord {
                session,
                purpose: purpose.into(),
                process: environment.process(),
                started_at: environment.now(),
                renewed: 0,
                lease_seconds: LEASE_SECONDS,
                reads: reading_only,
                state: LeaseState::Active,
                commit: None,
            }),
            renewed: Mutex::new(Some(environment.elapsed())),
            stop: Mutex::new(false),
            wake: Condvar::new(),
            vault: vault.plain(),
        });
        match shared.write_by(vault) {
            Ok(()) => {}
            Err(StoreError::Object(e))
                if reading_only && matches!(e.kind, Kind::Denied | Kind::ReadOnly | Kind::NoSpace) =>
            {
                tracing::warn!("reading without a lease: {e}");
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        if is_single_writer && let Err(error) = check_alone(vault, session) {
            if let Err(e) = vault.objects().delete(&object_name(&session)) {
                tracing::warn!("the lease of this session could not be removed; it runs out by itself: {e}");
            }
            return Err(error);
        }
        let for_renewer = shared.clone();
        let renewer = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || {
                let mut stop = for_renewer.stop.lock();
                while !*stop {
                    if for_renewer
                        .wake
                        .wait_for(&mut stop, Duration::from_secs(LEASE_RENEW_SECONDS))
                        .timed_out()
                    {
                        parking_lot::MutexGuard::unlocked(&mut stop, || for_renewer.renew());
                    }
                }
            })
            .map_err(|e| StoreError::io("starting a thread", e))?;
        Ok(Some(Self { shared, renewer: Some(renewer), finished: false }))
    }

    /// Whether nobody can have taken this session for over yet, as far as can be told without asking the store.
    fn check_age(&self) -> Result<()> {
        let Some(renewed) = *self.shared.renewed.lock() else {
            return lost("another run took it for over");
        };
        let age = self.shared.vault.environment().elapsed().saturating_sub(renewed);
        if age > LEASE_HELD {
            return lost(format!("it could not be renewed for {} seconds", age.as_secs()));
        }
        Ok(())
    }

    /// Whether nobody can have taken this session for over yet. Asked before anything is deleted under it.
    pub fn check(&self) -> Result<()> {
        self.check_age()?;
        let name = object_name(&self.shared.record.lock().session);
        match self.shared.vault.objects().head(&name)? {
            Some(_) => Ok(()),
            None => lost("another run took it for over"),
        }
    }

    /// Whether it was held when this object was written. Asked before a commit and right after it: each may have taken as long
    /// as it liked.
    pub fn covers(&self, vault: &Vault, object: &str) -> Result<()> {
        let Some(committed) = vault.objects().head(object)? else {
            return lost("what was written under it is gone");
        };
        self.check_age()?;
        let Some(own) = vault.objects().head(&self.object_name())? else {
            return lost("another run took it for over");
        };
        if self.shared.renewed.lock().is_none() || has_run_out(own.last_modified, committed.last_modified) {
            return lost("it had run out by then");
        }
        Ok(())
    }

    /// What [`covers`](Self::covers) asks.
    pub fn questions(&self, object: &str) -> Questions {
        Questions::default().head(object).head(self.object_name())
    }

    fn object_name(&self) -> String {
        object_name(&self.shared.record.lock().session)
    }

    /// Nothing is left behind that needs looking after: the lease goes. Where it may not be deleted it is ended instead.
    pub fn release(self) -> Result<()> {
        if let Some(left) = self.release_or_end()? {
            tracing::warn!("{left} is over and stays: it may not be deleted; reclaim does it");
        }
        Ok(())
    }

    /// The same; answers the lease's name if it stays.
    pub fn release_or_end(mut self) -> Result<Option<String>> {
        self.stop_renewing();
        self.finished = true;
        let name = object_name(&self.shared.record.lock().session);
        let refused = match self.shared.vault.objects().delete(&name) {
            Err(e) if matches!(e.kind, Kind::Denied | Kind::ReadOnly) => e,
            done => return Ok(done.map(|()| None)?),
        };
        tracing::debug!(error = %refused, "a lease stays");
        self.shared.record.lock().state = LeaseState::Ended;
        if let Err(e) = self.shared.write() {
            tracing::warn!("the lease could not be ended; it runs out by itself: {e}");
        }
        Ok(Some(name))
    }

    /// The session is over without a point, but left packs that reclaim must look at.
    pub fn end(self) -> Result<()> {
        let vault = self.shared.vault.clone();
        self.finish(&vault, LeaseState::Ended, None)
    }

    /// The session is over, and its point there. Reclaim takes it down, and removes the lease.
    /// `vault`: which may have been asked for its marker just now.
    pub fn committed(self, vault: &Vault, commit: Commit) -> Result<()> {
        self.finish(vault, LeaseState::Committed, Some(commit))
    }

    fn finish(mut self, vault: &Vault, state: LeaseState, commit: Option<Commit>) -> Result<()> {
        self.stop_renewing();
        self.finished = true;
        {
            let mut record = self.shared.record.lock();
            record.state = state;
            record.commit = commit;
        }
        self.shared.write_by(vault)
    }

    /// The session is over, and whether it committed is for others to find out.
    pub fn leave(mut self) {
        self.stop_renewing();
        self.finished = true;
    }

    fn stop_renewing(&mut self) {
        *self.shared.stop.lock() = true;
        self.shared.wake.notify_all();
        if let Some(renewer) = self.renewer.take() {
            let _ = renewer.join();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.stop_renewing();
        self.shared.record.lock().state = LeaseState::Ended;
        if let Err(e) = self.shared.write() {
            tracing::warn!("the lease could not be ended; it runs out by itself: {e}");
        }
    }
}

/// Another's lease, as it was found.
#[derive(Debug, Clone)]
pub struct FoundLease {
    pub session: SessionId,
    /// None if its record is damaged.
    pub record: Option<LeaseRecord>,
    pub last_modified: SystemTime,
}

/// Lists all leases.
pub fn list(vault: &Vault) -> Result<Vec<FoundLease>> {
    let mut out = Vec::new();
    for object in vault.objects().list(SESSIONS_PREFIX)? {
        let Some(session) = object.name.strip_prefix(SESSIONS_PREFIX).and_then(|s| s.parse().ok()) else {
            continue;
        };
        let record = match record::load::<LeaseRecord>(vault.objects(), vault.keys(), &object.name) {
            Ok(record) => Some(record),
            // Ended since it was listed.
            Err(StoreError::Object(e)) if e.kind == Kind::NotFound => continue,
            Err(e) if e.is_damage() => None,
            Err(e) => return Err(e),
        };
        out.push(FoundLease { session, record, last_modified: object.last_modified });
    }
    Ok(out)
}

/// Fails where another run writes. To be asked by one whose lease is there.
fn check_alone(vault: &Vault, own: SessionId) -> Result<()> {
    let found = list(vault)?;
    let me = found.iter().find(|f| f.session == own);
    // Its own lease was written just now: the store's clock.
    let now = me.map_or_else(SystemTime::now, |f| f.last_modified);
    let other = found.iter().find(|f| {
        f.session != own && f.record.as_ref().is_none_or(|record| !record.reads) && !f.is_over(vault, now)
    });
    match other {
        None => Ok(()),
        Some(other) => {
            let by = match &other.record {
                Some(r) => {
                    format!("`{}`, which process {} began at {}", r.purpose, r.process.pid, r.started_at)
                }
                None => format!("session {}", other.session),
            };
            Err(StoreError::Busy {
                what: format!("the vault at {}, which takes one writer at a time,", vault.location()),
                by: format!("{by}; run again when it has ended"),
            })
        }
    }
}

impl FoundLease {
    /// Whether this session is over for certain. `store_now`: the present by the clock that set `last_modified`.
    pub fn is_over(&self, vault: &Vault, store_now: SystemTime) -> bool {
        let age = store_now.duration_since(self.last_modified).unwrap_or_default();
        let Some(record) = &self.record else {
            return age > Duration::from_secs(LEASE_SECONDS);
        };
        matches!(record.state, LeaseState::Ended | LeaseState::Committed)
            || vault.environment().is_gone(&record.process)
            || age > Duration::from_secs(record.lease_seconds.max(LEASE_SECONDS))
    }
}
