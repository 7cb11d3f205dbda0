//! The lock that sees to it that one reclaim runs at a time: `locks/reclaim/N`. Whoever finds the holder of the
//! highest N gone creates N + 1; of two who try, one succeeds.

use crate::environment::ProcessIdentity;
use crate::error::{Result, StoreError};
use crate::lease;
use crate::marker;
use crate::objects::Kind;
use crate::record;
use crate::vault::Vault;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::SystemTime;
use strongroom_domain::SessionId;

const PREFIX: &str = "locks/reclaim/";
/// What the leases of reclaims say of themselves.
pub const PURPOSE: &str = "reclaim";

#[derive(Debug, Serialize, Deserialize)]
struct LockRecord {
    session: SessionId,
    #[serde(flatten)]
    process: ProcessIdentity,
    taken_at: Timestamp,
}

/// The lock, held. Released when dropped.
pub struct Lock {
    vault: Vault,
    name: String,
}

/// Takes the lock for `session`, which must hold a lease already; [`StoreError::Busy`] if another reclaim runs.
pub fn acquire(vault: &Vault, session: SessionId, store_now: SystemTime) -> Result<Lock> {
    let busy = |by: String| StoreError::Busy { what: format!("reclaim on {}", vault.location()), by };
    let mut held: Vec<(u64, String)> = vault
        .objects()
        .list(PREFIX)?
        .into_iter()
        .filter_map(|o| Some((o.name.strip_prefix(PREFIX)?.parse().ok()?, o.name)))
        .collect();
    held.sort();
    let next = match held.last() {
        None => 0,
        Some((number, name)) => {
            let holder = match record::load::<LockRecord>(vault.objects(), vault.keys(), name) {
                Ok(record) => Some(record),
                // Released since it was listed, or not to be seen: that it is free is not known.
                Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {
                    return Err(busy("a reclaim that ends just now; run it again".into()));
                }
                // Damaged: who holds it is told by the leases alone.
                Err(e) if e.is_damage() => None,
                Err(e) => return Err(e),
            };
            if holder.is_none() {
                let another = lease::list(vault)?.into_iter().find(|found| {
                    let reclaims = found.record.as_ref().is_none_or(|record| record.purpose == PURPOSE);
                    found.session != session && reclaims && !found.is_over(vault, store_now)
                });
                if let Some(found) = another {
                    return Err(busy(format!(
                        "session {}, which may be a reclaim; wait for it to end",
                        found.session
                    )));
                }
            }
            if let Some(holder) = holder {
                let at_work = lease::list(vault)?
                    .into_iter()
                    .any(|found| found.session == holder.session && !found.is_over(vault, store_now));
                if at_work {
                    return Err(busy(format!(
                        "a reclaim that process {} began at {}; wait for it to end",
                        holder.process.pid, holder.taken_at
                    )));
                }
            }
            number + 1
        }
    };
    let name = format!("{PREFIX}{next}");
    let record =
        LockRecord { session, process: vault.environment().process(), taken_at: vault.environment().now() };
    match vault.objects().put_new(&name, record::encode(vault.keys(), &name, &record)?) {
        Err(e) if e.kind == Kind::AlreadyExists => {
            return Err(busy("another reclaim that began just now; wait for it to end".into()));
        }
        other => other?,
    }
    marker::check(vault)?;
    vault.objects().delete_many(held.iter().map(|(_, name)| name.as_str()))?;
    Ok(Lock { vault: vault.clone(), name })
}

impl Drop for Lock {
    fn drop(&mut self) {
        let removed = marker::check(&self.vault);
        if let Err(e) = removed.and_then(|()| Ok(self.vault.objects().delete(&self.name)?)) {
            tracing::warn!("the reclaim lock could not be removed; the next reclaim takes it over: {e}");
        }
    }
}
