//! Vault and catalog are compared, both ways: at each start, and daily.
//!
//! - A row whose point is not in the vault: the row goes if the vault says that the point was forgotten; else it stays, and is
//!   shown as missing until the point is there again or somebody accepts the loss.
//! - A point that the catalog does not know: where it was made by a job, of a machine whose item is here, the job was cut short
//!   between the point and its row, and the row is made up for. Others are unmanaged: shown, and left alone.
//! - A vault that cannot be looked at: nothing is known, and nothing changes.
//!
//! What was found is kept for each vault, shown by `strongroom vault show`, and logged where it is not as it should be.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::jobs::chore::{Chore, Rest};
use crate::jobs::ledger as jobs;
use crate::limits::{RECONCILIATION_INTERVAL, RETENTION_INTERVAL, SCHEDULE_INTERVAL};
use crate::points::{missing, retention};
use crate::reconciliation::adopt;
use crate::vaults::held::{self, Absence};
pub use crate::vaults::report::{Report, State, report};
use crate::vaults::turns::{self, Turns};
use crate::vaults::{report, storage};
use std::time::{Duration, Instant};
use strongroom_catalog::{Item, Point, Query, Transfer, Vault};
use strongroom_domain::PointId;
use strongroom_domain::item::ItemState;
use strongroom_engine::machine::record::MachineRecord;
use strongroom_store::{Agreement, Manifest, PointKind};

/// Compares a vault with the catalog.
pub fn one(service: &Service, vault: &Vault) -> Result<Report> {
    let mut found = Report { at: service.now(), ..Report::default() };
    if let Err(error) = compare(service, vault, &mut found) {
        found = Report { at: found.at, problem: Some(error.to_string()), ..Report::default() };
    }
    let report = report::keep(service, vault.id, |report| {
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
                    if missing::mark_missing(service, &row.id)? {
                        found.missing.push(row.id);
                    }
                }
            },
        }
    }
    let strangers = held::strangers(service, vault, &held)?;
    for manifest in &strangers.points {
        match belongs(service, vault, &held, manifest)? {
            Some(item) => match adopt::adopt_into(service, vault, &item, manifest) {
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
    if manifest.kind != PointKind::Machine || adopt::job_of(manifest).is_none() {
        return Ok(None);
    }
    let Some(item) = adopt::item_named(service, vault, manifest)? else { return Ok(None) };
    let is_its = MachineRecord::of(manifest).machine_uuid.as_deref() == Some(&*item.machine_uuid);
    if !is_its || item.state == ItemState::SoftDeleted || adopt::was_promised_more(service, &item, manifest)?
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

/// All vaults, also deleted ones.
pub fn all(service: &Service) -> Result<()> {
    for vault in service.catalog.find::<Vault>(&Query::all())? {
        if service.life.is_stopping() {
            return Ok(());
        }
        if turns::is_due(service, vault.id) {
            let report = one(service, &vault)?;
            // What is not known is asked for again before a day is over.
            let is_open = report.state == State::Unknown || report.is_unnoted;
            let wait = if is_open { RETENTION_INTERVAL } else { RECONCILIATION_INTERVAL };
            service.part::<Turns>().0.lock().insert(vault.id, Instant::now() + wait);
        }
    }
    Ok(())
}

/// Compares vaults and catalog by itself.
#[derive(Default)]
pub(crate) struct Reconcile {
    has_begun: bool,
}

impl Chore for Reconcile {
    fn name(&self) -> &'static str {
        "reconciliation"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if !self.has_begun {
            self.has_begun = true;
            // The start itself is not held up by it.
            service.life.pause(Duration::from_secs(1));
            storage::tell_strays(service);
        }
        if let Err(error) = all(service) {
            tracing::error!(%error, "vaults and catalog could not be compared");
        }
        Rest::For(SCHEDULE_INTERVAL)
    }
}
