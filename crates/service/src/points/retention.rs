//! Expired recovery points go.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::jobs::ledger as jobs;
use crate::points::{lookup as points, missing, snapshots};
use crate::vaults::held::{self, Absence};
use crate::vaults::{lookup as vaults, notes, older_catalog};
use jiff::Timestamp;
use strongroom_catalog::{Change, Item, Point, Policy, Query, ServiceError, Transfer, Vault, actor};
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
pub(crate) fn facts(points: &[Point]) -> Vec<PointFacts> {
    // One that is missing keeps no other from being the last.
    let in_vault = points.iter().filter(|p| points::is_there(p));
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
        Transfer::Done if points::is_there(point) => match by_rules.next() {
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
    let may_expire = service.guard.lock().may_expire();
    let Some(item) = service.catalog.get::<Item>(item)? else { return Ok(0) };
    let points: Vec<Point> = service.catalog.find(&Query::all().eq("item", item.id).ascending("taken_us"))?;
    // What was decided is carried through, whatever holds by now: nothing can be restored from these any more. One that is missing
    // goes because somebody writes it off, who does it himself.
    let (mut expired, mut points): (Vec<Point>, Vec<Point>) = points
        .into_iter()
        .filter(|point| point.going_at.is_none() || point.missing_since.is_none())
        .partition(|point| point.going_at.is_some());
    let Some(vault) = service.catalog.get::<Vault>(item.vault)? else { return Ok(0) };
    if may_expire && item.state.retention_mode() != RetentionMode::KeepAll {
        let mut due = self::due(service, &item, &points, now)?;
        if !due.is_empty() {
            older_catalog::ensure_current(service, &vault)?;
            // The rules count points: what they count is there now, whatever was known at the last look.
            let store = held::present(service, &vault)?;
            mark_absent(service, &store, &item, &points)?;
            // As it is after both.
            let Some(item) = service.catalog.get::<Item>(item.id)? else { return Ok(0) };
            points = service.catalog.find(&Query::all().eq("item", item.id).ascending("taken_us"))?;
            points.retain(|point| point.going_at.is_none());
            due = due_beside_sound(service, &store, &item, points, now)?;
        }
        expired.extend(due);
    }
    if expired.is_empty() {
        return Ok(0);
    }
    // What the vault's manifests do not say of its points must be there before any of them goes.
    notes::ensure_points(service, &vault, Some(&item))?;
    let store = service.store(&vault)?;
    let mut gone = 0;
    for point in &expired {
        if actor::named("service: retention", || forget(service, &store, point))? {
            tracing::info!(item = item.machine_name, point = %point.id, taken_at = %point.taken_at, "expired");
            gone += 1;
        }
    }
    if gone > 0 {
        vaults::reclaim_later(service, vault.id)?;
    }
    Ok(gone)
}

/// Those of an item's points that have had their time.
fn due(service: &Service, item: &Item, points: &[Point], now: Timestamp) -> Result<Vec<Point>> {
    let keepings = keepings(service, item, points)?;
    let of_each = points.iter().zip(keepings);
    let due = of_each.filter(|(point, keeping)| keeping.is_expired(now) && points::is_there(point));
    Ok(due.map(|(point, _)| point.clone()).collect())
}

/// Those of an item's points that are not in the vault do not count any more from here on.
fn mark_absent(
    service: &Service,
    store: &strongroom_store::Vault,
    item: &Item,
    points: &[Point],
) -> Result<()> {
    let listed = store.listed_points(&item.store_item)?;
    for point in points.iter().filter(|point| points::is_there(point) && !listed.contains(&point.id)) {
        match absent(service, store, point)? {
            Absence::Present => {}
            Absence::Forgotten => drop(forget(service, store, point)?),
            Absence::Missing => {
                tracing::warn!(
                    item = item.machine_name,
                    point = %point.id,
                    "the vault does not have it: no other goes on its account"
                );
                missing::mark_missing(service, &point.id)?;
            }
        }
    }
    Ok(())
}

/// Points go because later ones stay: the newest of those that stay must be one that can be read. Others stay, and do not count.
fn due_beside_sound(
    service: &Service,
    store: &strongroom_store::Vault,
    item: &Item,
    mut points: Vec<Point>,
    now: Timestamp,
) -> Result<Vec<Point>> {
    loop {
        let due = due(service, item, &points, now)?;
        let stays = |point: &Point| points::is_there(point) && !due.iter().any(|of| of.id == point.id);
        let Some(newest) = points.iter().rposition(stays).filter(|_| !due.is_empty()) else { return Ok(due) };
        let id = points[newest].id;
        match store.point_of(&item.store_item, &id) {
            Ok(Some(_)) => return Ok(due),
            Err(error) if error.is_damage() => {
                tracing::warn!(
                    item = item.machine_name,
                    point = %id,
                    %error,
                    "a point that cannot be read keeps no other from being the last (`strongroom rescue point forget` removes it)"
                );
                points.remove(newest);
            }
            Ok(None) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("point {id} went while the points of {} were looked at", item.machine_name),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is known of a point that the vault did not find, from a store that shows that it is the vault's.
fn absent(service: &Service, store: &strongroom_store::Vault, point: &Point) -> Result<Absence> {
    let found = strongroom_store::Vault::identify(store.objects())?;
    if found != store.id() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("another vault is at {} ({found}): nothing of it was removed", store.location()),
        ));
    }
    held::absence(service, store, point)
}

/// First the row is marked, in a transaction that no job which needs the point gets past; then the point goes out of the vault,
/// then out of the catalog: cut short in between, it is done again. One that the vault
/// does not have, and does not say to have forgotten, is missing: its row stays, `false`.
///
/// One whose transfer goes on is its job's; one that is being restored from its snapshot, or that a job reads or is going to, goes
/// the next time: `false`.
pub(crate) fn forget(service: &Service, store: &strongroom_store::Vault, point: &Point) -> Result<bool> {
    let Some(mut point) = service.catalog.get::<Point>(point.id)? else { return Ok(true) };
    let claim = match (&point.transfer, &point.snapshot) {
        (Transfer::Pending, _) => return Ok(false),
        (_, Some(_)) => match service.snapshots().claim(point.id) {
            Some(claim) => Some(claim),
            None => return Ok(false),
        },
        (_, None) => None,
    };
    if point.going_at.is_none() {
        if let Some(job) = jobs::needing(service, &point)? {
            tracing::info!(point = %point.id, job = %job.id, "stays, since a job needs it");
            return Ok(false);
        }
        point.going_at = Some(service.now());
        match service.catalog.apply(&[Change::put(&point)]) {
            Ok(()) => point.version += 1,
            // A job was made that needs it, perhaps.
            Err(ServiceError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    match store.forget(&point.id, "its time was over, or it was deleted") {
        Ok(()) => {}
        // Of a snapshot that never came into the vault, there is nothing to be found.
        Err(StoreError::NotFound { .. }) if point.transfer != Transfer::Done => {}
        Err(StoreError::NotFound { .. }) => match absent(service, store, &point)? {
            Absence::Forgotten => {}
            Absence::Present => return Ok(false),
            Absence::Missing => {
                if point.missing_since.is_none() {
                    tracing::warn!(point = %point.id, "it is to go, and the vault does not have it: it stays known as missing");
                }
                missing::mark_missing(service, &point.id)?;
                return Ok(false);
            }
        },
        Err(error) => return Err(error.into()),
    }
    match service.catalog.apply(&[Change::delete(&point)]) {
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
