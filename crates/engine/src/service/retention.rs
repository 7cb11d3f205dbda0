//! Expired recovery points go.

use super::{Service, notes, snapshots};
use crate::error::Result;
use jiff::Timestamp;
use strongroom_catalog::service::{Change, Item, Point, Policy, Query, ServiceError, Transfer, Vault};
use strongroom_domain::item::ItemState;
use strongroom_domain::retention::{PointFacts, RetentionMode, Rule, retain};
use strongroom_store::StoreError;
use uuid::Uuid;

/// What keeps a point, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// When the policy, or its own date, lets it go. None: never by itself.
    pub until: Option<Timestamp>,
    /// What `until` is by. None: there is nothing that it could be by.
    pub rule: Option<Rule>,
    /// What holds it beyond that.
    pub hold: Option<Hold>,
}

/// Why a point stays whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is its item's last one.
    LastPoint,
    /// Protection was stopped: all points are kept.
    ProtectionStopped,
    /// The item was deleted, and can be brought back until it is purged.
    SoftDeleted,
    /// Nobody said yet by which policy it is to go.
    NoPolicy,
}

impl Keeping {
    /// Whether it is to go now.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.hold.is_none() && self.until.is_some_and(|at| at <= now)
    }
}

/// What retention has to know of the points that are in the vault, which alone count.
pub(super) fn facts(points: &[Point]) -> Vec<PointFacts> {
    let in_vault = points.iter().filter(|p| p.transfer == Transfer::Done);
    in_vault
        .map(|p| PointFacts {
            taken_at: p.taken_at,
            reason: p.reason,
            scheduled_for: p.scheduled_for,
            keep_until: p.keep_until,
        })
        .collect()
}

/// What keeps each of an item's points, and until when. The rules are for points in the vault; one that is not there is kept
/// as long as its snapshot.
pub fn keepings(service: &Service, item: &Item, points: &[Point]) -> Result<Vec<Keeping>> {
    let policy: Option<Policy> = item.policy.map(|id| service.catalog.get(id)).transpose()?.flatten();
    let rules = policy.map(|p| p.rules).or_else(|| item.last_rules.clone());
    let mode = item.state.retention_mode();
    let all_held = match (item.state, &rules) {
        (ItemState::SoftDeleted, _) => Some(Hold::SoftDeleted),
        _ if mode == RetentionMode::KeepAll => Some(Hold::ProtectionStopped),
        (_, None) => Some(Hold::NoPolicy),
        (_, Some(_)) => None,
    };
    let facts = facts(points);
    let mut by_rules = rules.map(|rules| retain(&rules, mode, &facts)).unwrap_or_default().into_iter();
    let keeping = |point: &Point| match point.transfer {
        Transfer::Done => match by_rules.next() {
            Some(verdict) => Keeping {
                until: verdict.rules_until,
                rule: verdict.rule,
                hold: all_held.or(verdict.held.then_some(Hold::LastPoint)),
            },
            None => Keeping { until: None, rule: None, hold: Some(all_held.unwrap_or(Hold::NoPolicy)) },
        },
        _ => Keeping {
            until: point.snapshot.as_ref().map(|s| s.expires_at),
            rule: None,
            hold: all_held.filter(|hold| *hold != Hold::NoPolicy),
        },
    };
    Ok(points.iter().map(keeping).collect())
}

/// Removes the expired points of an item, unless the clock cannot be trusted for it. Returns how many.
pub fn expire_item(service: &Service, item: Uuid) -> Result<usize> {
    // The very time that was looked at: one that jumps after this expires nothing.
    let now = service.watch_clock().wall;
    if !service.guard.lock().may_expire() {
        return Ok(0);
    }
    let Some(item) = service.catalog.get::<Item>(item)? else { return Ok(0) };
    if item.state.retention_mode() == RetentionMode::KeepAll {
        return Ok(0);
    }
    let points: Vec<Point> = service.catalog.find(&Query::all().eq("item", item.id).ascending("taken_us"))?;
    let keepings = keepings(service, &item, &points)?;
    let expired: Vec<&Point> = points
        .iter()
        .zip(&keepings)
        .filter(|(point, keeping)| keeping.is_expired(now) && point.transfer == Transfer::Done)
        .map(|(point, _)| point)
        .collect();
    if expired.is_empty() {
        return Ok(0);
    }
    let Some(vault) = service.catalog.get::<Vault>(item.vault)? else { return Ok(0) };
    // What the vault's manifests do not say of its points must be there before any of them goes.
    notes::ensure_points(service, &vault, Some(&item))?;
    let store = service.store(&vault)?;
    for point in &expired {
        if super::instant::needs(service, point)? {
            // A machine runs from it: it expires when that is over.
            continue;
        }
        tracing::info!(item = item.machine_name, point = %point.id, taken_at = %point.taken_at, "expired");
        forget(service, &store, point)?;
    }
    super::vaults::reclaim_later(service, vault.id)?;
    Ok(expired.len())
}

/// First out of the vault, then out of the catalog: cut short in between, it is done again.
///
/// One whose transfer goes on is its job's; one that is being restored from its snapshot goes the next time: `false`.
pub(super) fn forget(service: &Service, store: &strongroom_store::Vault, point: &Point) -> Result<bool> {
    let claim = match (&point.transfer, &point.snapshot) {
        (Transfer::Pending, _) => return Ok(false),
        (_, Some(_)) => match service.snapshots.claim(point.id) {
            Some(claim) => Some(claim),
            None => return Ok(false),
        },
        (_, None) => None,
    };
    match store.forget(&point.id) {
        Ok(()) | Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match service.catalog.apply(&[Change::delete(point)]) {
        Ok(()) => {}
        Err(ServiceError::Conflict { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Files that stay are removed later, as nobody's.
    if let Some(snapshot) = &point.snapshot
        && let Err(error) = snapshots::remove_files(service, point.id, point.item, snapshot)
    {
        tracing::warn!(point = %point.id, %error, "a snapshot's files will be removed later");
    }
    drop(claim);
    Ok(true)
}
