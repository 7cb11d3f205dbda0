//! Vault and catalog are compared, both ways: at each start, and daily.
//!
//! - A row whose point is not in the vault: the row goes if the vault says that the point was forgotten; else it stays, and is
//!   shown as missing until the point is there again or somebody accepts the loss.
//! - A point that the catalog does not know: where it was made by a job, of a machine whose item is here, the job was cut short
//!   between the point and its row, and the row is made up for. Others are unmanaged: shown, and left alone.
//! - A vault that cannot be looked at: nothing is known, and nothing changes.
//!
//! What was found is kept for each vault, shown by `strongroom vault show`, and logged where it is not as it should be.

use super::held::{self, Absence};
use super::{Inner, Service, jobs, retention, storage, unmanaged};
use crate::error::{Error, Result};
use crate::limits::{RECONCILIATION_INTERVAL, RETENTION_INTERVAL, SCHEDULE_INTERVAL};
use crate::machine::record::MachineRecord;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Point, Query, ServiceError, Setting, Transfer, Vault};
use strongroom_domain::PointId;
use strongroom_domain::item::ItemState;
use strongroom_store::{Agreement, Manifest, PointKind};
use uuid::Uuid;

/// How a vault and the catalog compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// They name the same points.
    Agreed,
    Differs,
    /// The vault could not be looked at.
    #[default]
    Unknown,
}

/// What a reconciliation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub at: Timestamp,
    pub state: State,
    /// Why nothing is known.
    pub problem: Option<String>,
    /// Points that are in the vault.
    pub points: u64,
    /// Points that the catalog has and the vault does not, without a word of the vault that they may go.
    pub missing: Vec<PointId>,
    /// Points that are there, and that the vault's list did not have.
    pub unlisted: Vec<PointId>,
    /// Points that the catalog does not know.
    pub unmanaged: u64,
    /// Points that the catalog was told of now.
    pub adopted: Vec<PointId>,
    /// Rows that went, as their points were forgotten.
    pub forgotten: Vec<PointId>,
    /// Points that were missing, and are there again.
    pub returned: Vec<PointId>,
    /// The vault could not write down that it agrees.
    pub is_unnoted: bool,
    /// Why space was not given back at last.
    pub reclaim_problem: Option<String>,
    /// Why the deleted vault could not be purged.
    pub purge_problem: Option<String>,
    /// Why nothing is written to its store.
    pub store_problem: Option<String>,
}

/// When what is looked at next.
#[derive(Default)]
pub struct Reconciliation(Mutex<HashMap<Uuid, Instant>>);

pub(super) fn setting(vault: Uuid) -> String {
    format!("reconciliation/{vault}")
}

/// What was found last, if it was looked at.
pub fn report(service: &Inner, vault: &Vault) -> Result<Option<Report>> {
    let setting = service.catalog.get::<Setting>(setting(vault.id))?;
    Ok(setting.and_then(|s| serde_json::from_value(s.value).ok()))
}

/// Changes what is kept of a vault.
fn keep(service: &Inner, vault: Uuid, change: impl Fn(&mut Report)) -> Result<Report> {
    let id = setting(vault);
    for _ in 0..10 {
        let before = service.catalog.get::<Setting>(&id)?;
        let mut report: Report =
            before.as_ref().and_then(|s| serde_json::from_value(s.value.clone()).ok()).unwrap_or_default();
        change(&mut report);
        let value = serde_json::to_value(&report)
            .map_err(|e| Error::invalid(format!("a reconciliation's report cannot be written down: {e}")))?;
        let version = before.map_or(0, |s| s.version);
        match service.catalog.apply(&[Change::put(&Setting { id: id.clone(), version, value })]) {
            Ok(()) => return Ok(report),
            Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::new(crate::error::ErrorKind::Busy, "the reconciliation's report is being written by others"))
}

/// Notes how giving space back went; the same again is not written.
pub(super) fn note_reclaim(service: &Service, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.reclaim_problem);
}

/// Notes why a deleted vault is still there.
pub(super) fn note_purge(service: &Service, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.purge_problem);
}

/// Notes why nothing may be written to a vault's store.
pub(super) fn note_store(service: &Inner, vault: &Vault, problem: Option<String>) {
    note(service, vault, problem, |report| &mut report.store_problem);
}

fn note(
    service: &Inner,
    vault: &Vault,
    problem: Option<String>,
    field: impl Fn(&mut Report) -> &mut Option<String>,
) {
    let done = || -> Result<bool> {
        let mut before = report(service, vault)?.unwrap_or_default();
        if *field(&mut before) == problem {
            return Ok(false);
        }
        keep(service, vault.id, |report| field(report).clone_from(&problem))?;
        Ok(true)
    };
    match (done(), &problem) {
        // Said once; it is tried again and again.
        (Ok(true), Some(problem)) => tracing::warn!(vault = vault.name, "{problem}"),
        (Ok(_), _) => {}
        (Err(error), _) => {
            tracing::warn!(vault = vault.name, %error, "what was found could not be written down")
        }
    }
}

/// Compares a vault with the catalog.
pub fn one(service: &Service, vault: &Vault) -> Result<Report> {
    let mut found = Report { at: service.now(), ..Report::default() };
    if let Err(error) = compare(service, vault, &mut found) {
        found = Report { at: found.at, problem: Some(error.to_string()), ..Report::default() };
    }
    let report = keep(service, vault.id, |report| {
        let (reclaim_problem, purge_problem) = (report.reclaim_problem.take(), report.purge_problem.take());
        let store_problem = report.store_problem.take();
        *report = Report { reclaim_problem, purge_problem, store_problem, ..found.clone() };
    })?;
    match report.state {
        State::Agreed => {
            tracing::info!(vault = vault.name, points = report.points, "vault and catalog agree")
        }
        State::Differs => tracing::warn!(
            vault = vault.name,
            missing = ?report.missing,
            unlisted = ?report.unlisted,
            unmanaged = report.unmanaged,
            "vault and catalog differ (see `strongroom vault show`)"
        ),
        State::Unknown => tracing::warn!(
            vault = vault.name,
            problem = report.problem.as_deref().unwrap_or_default(),
            "vault and catalog could not be compared; nothing changes"
        ),
    }
    for point in &report.adopted {
        tracing::warn!(vault = vault.name, %point, "a point whose row was not written has it now");
    }
    Ok(report)
}

fn compare(service: &Service, vault: &Vault, found: &mut Report) -> Result<()> {
    // First the vault, then the catalog: what came into both meanwhile is no stranger.
    let held = held::look(service, vault)?;
    let ids = held.ids();
    found.points = (held.points.len() + held.damaged.len()) as u64;
    let rows: Vec<Point> = service.catalog.find(&Query::all().eq("vault", vault.id).ascending("taken_us"))?;
    for row in rows {
        match (&row.transfer, ids.contains(&row.id)) {
            (Transfer::Done, true) => {
                if row.missing_since.is_some() {
                    seen_again(service, &row.id, None)?;
                    found.returned.push(row.id);
                }
            }
            // Its job had ended without knowing that it came into the vault.
            (Transfer::Failed { .. }, true) => {
                let manifest = held.points.iter().find(|m| m.point == row.id);
                seen_again(service, &row.id, manifest)?;
                found.returned.push(row.id);
            }
            (Transfer::Pending | Transfer::Failed { .. }, _) => {}
            (Transfer::Done, false) => match held::absence(service, &held.store, &row)? {
                Absence::Present => found.unlisted.push(row.id),
                Absence::Forgotten => {
                    if retention::forget(service, &held.store, &row)? {
                        found.forgotten.push(row.id);
                    }
                }
                Absence::Missing => {
                    if mark_missing(service, &row.id)? {
                        found.missing.push(row.id);
                    }
                }
            },
        }
    }
    let strangers = held::strangers(service, vault, &held)?;
    for manifest in &strangers.points {
        match belongs(service, vault, &held, manifest)? {
            Some(item) => match unmanaged::adopt_into(service, vault, &item, manifest) {
                Ok(point) => found.adopted.push(point.id),
                Err(error) => {
                    tracing::warn!(vault = vault.name, point = %manifest.point, %error, "a point could not be adopted");
                    found.unmanaged += 1;
                }
            },
            None => found.unmanaged += 1,
        }
    }
    found.unmanaged += strangers.damaged.len() as u64;
    // The vault compares too, with all that it remembers. What the catalog does not know is there, and was looked at.
    let known: Vec<PointId> = ids.iter().chain(&found.missing).chain(&found.unlisted).copied().collect();
    let agreed =
        if vault.is_as_listed { held.store.agree_as_listed(&known) } else { held.store.agree(&known) };
    match agreed {
        Ok(Agreement::Differs { missing, .. }) => {
            for point in missing {
                if !found.missing.contains(&point) {
                    found.missing.push(point);
                }
            }
        }
        Ok(Agreement::Confirmed | Agreement::First { .. } | Agreement::AsListed) => {}
        Err(error) => {
            tracing::warn!(vault = vault.name, %error, "the vault could not note what it has; it is tried again");
            found.is_unnoted = true;
        }
    }
    let agrees = found.missing.is_empty() && found.unlisted.is_empty() && found.unmanaged == 0;
    found.state = if agrees { State::Agreed } else { State::Differs };
    let out = held.store.out_of_sight()?;
    if !out.log.is_empty() || out.unexplained_packs {
        found.state = State::Unknown;
        found.problem = Some(format!("of what it holds, this is not to be seen: {}", out.told()));
    }
    Ok(())
}

/// The item that a point was made for, by a job that did not come to tell the catalog of it.
fn belongs(service: &Service, vault: &Vault, held: &held::Held, manifest: &Manifest) -> Result<Option<Item>> {
    if manifest.kind != PointKind::Machine || unmanaged::job_of(manifest).is_none() {
        return Ok(None);
    }
    let Some(item) = unmanaged::item_named(service, vault, manifest)? else { return Ok(None) };
    let is_its = MachineRecord::of(manifest).machine_uuid.as_deref() == Some(&*item.machine_uuid);
    if !is_its
        || item.state == ItemState::SoftDeleted
        || unmanaged::was_promised_more(service, &item, manifest)?
    {
        return Ok(None);
    }
    // A job that is at it tells the catalog by itself.
    if jobs::open_of(service, item.id)?.is_some() {
        return Ok(None);
    }
    // One that expired since the vault was listed is no stranger, it is gone.
    let is_there = held.store.point_of(&manifest.item, &manifest.point)?.is_some()
        && !held::is_forgotten(&held.store, &manifest.point)?;
    let is_known = service.catalog.get::<Point>(manifest.point)?.is_some();
    Ok((is_there && !is_known).then_some(item))
}

fn seen_again(service: &Service, point: &PointId, manifest: Option<&Manifest>) -> Result<()> {
    service.catalog.update::<Point, Error>(point, |row| {
        // Somebody was about to write it off.
        if row.missing_since.take().is_some() {
            row.going_at = None;
        }
        if let (Transfer::Failed { .. }, Some(manifest)) = (&row.transfer, manifest) {
            row.transfer = Transfer::Done;
            row.vaulted_at = Some(manifest.committed_at);
            row.stored_bytes = manifest.stored_bytes;
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

/// The row stays. False: it went meanwhile.
pub(super) fn mark_missing(service: &Service, point: &PointId) -> Result<bool> {
    if service
        .catalog
        .get::<Point>(point)?
        .is_some_and(|row| row.missing_since.is_some() && row.going_at.is_none())
    {
        return Ok(true);
    }
    let marked = service.catalog.update::<Point, Error>(point, |row| {
        row.missing_since.get_or_insert(service.now());
        // It does not go: it is shown as missing, until it is found, or somebody accepts that it is lost.
        row.going_at = None;
        Ok(Vec::new())
    })?;
    Ok(marked.is_some())
}

/// Looks at all vaults soon, where something runs by itself.
pub(super) fn soon(service: &Service) {
    service.reconciliation.0.lock().clear();
}

/// All vaults, also deleted ones.
pub fn all(service: &Service) -> Result<()> {
    for vault in service.catalog.find::<Vault>(&Query::all())? {
        if service.runner.is_stopping() {
            return Ok(());
        }
        if is_due(service, vault.id) {
            let report = one(service, &vault)?;
            // What is not known is asked for again before a day is over.
            let is_open = report.state == State::Unknown || report.is_unnoted;
            let wait = if is_open { RETENTION_INTERVAL } else { RECONCILIATION_INTERVAL };
            service.reconciliation.0.lock().insert(vault.id, Instant::now() + wait);
        }
    }
    Ok(())
}

fn is_due(service: &Service, vault: Uuid) -> bool {
    service.reconciliation.0.lock().get(&vault).is_none_or(|at| *at <= Instant::now())
}

pub(super) fn run(service: &Service) {
    // The start itself is not held up by it.
    service.runner.pause(Duration::from_secs(1));
    storage::tell_strays(service);
    while !service.runner.is_stopping() {
        if let Err(error) = all(service) {
            tracing::error!(%error, "vaults and catalog could not be compared");
        }
        service.runner.pause(SCHEDULE_INTERVAL);
    }
}
