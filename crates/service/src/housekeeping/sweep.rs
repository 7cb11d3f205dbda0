//! What has had its time goes: expired points, deleted items and vaults, unused space, old operations.

use crate::audit;
use crate::core::clock;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::housekeeping::vault_purge;
use crate::jobs::chore::{Chore, Rest};
use crate::jobs::ledger as jobs;
use crate::limits::{OPERATIONS_KEPT, RECLAIM_INTERVAL, RETENTION_INTERVAL, SCHEDULE_INTERVAL};
use crate::points::{retention, snapshots};
use crate::protection::{items, untrack};
use crate::vaults::{held, lookup as vaults, notes, report, storage, stores};
use std::collections::BTreeMap;
use std::time::Instant;
use strongroom_catalog::{Change, Item, Job, Operation, Query, Vault, actor};
use strongroom_domain::item::ItemState;
use strongroom_store::Progress;
use strongroom_store::reclaim::{ReclaimOptions, reclaim};
use uuid::Uuid;

/// What has had its time goes.
#[derive(Default)]
pub(crate) struct Housekeeping {
    /// When points were last looked at that may have expired.
    swept: Option<Instant>,
}

impl Chore for Housekeeping {
    fn name(&self) -> &'static str {
        "housekeeping"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        tell(untrack::keep(service), "machines that are not backed up any more");
        tell(purge(service), "what was deleted could not be purged");
        tell(notes::keep(service), "the vaults' notes could not be looked at");
        tell(snapshots::keep_reserve(service), "the space that is to stay free of snapshots");
        if self.swept.is_none_or(|at| at.elapsed() >= RETENTION_INTERVAL) {
            self.swept = Some(Instant::now());
            // One that was mounted since the start.
            storage::mark_known(service);
            tell(sweep(service), "housekeeping");
            tell(stores::check_exclusive(service), "the vaults' stores could not be looked at");
            tell(snapshots::remove_orphans(service), "snapshots that no point has");
        }
        // What is deleted without a grace goes as soon as the bell rings.
        Rest::UntilBell(SCHEDULE_INTERVAL)
    }
}

fn tell(done: Result<()>, what: &str) {
    if let Err(error) = done {
        tracing::error!(%error, "{what}");
    }
}

/// Expired points of all items, then space, then old operations. On a disk that is full to its last block, and has vaults as well as
/// the catalog, nothing of that could begin: then with room from the vaults' reserves.
pub fn sweep(service: &Service) -> Result<()> {
    match sweep_once(service) {
        Err(error) if error.kind == ErrorKind::NoSpace && stores::give_up_reserves(service) => {
            tracing::warn!(%error, "the disk of the catalog is full: vaults on it give up some of their reserves");
            sweep_once(service)
        }
        done => done,
    }
}

fn sweep_once(service: &Service) -> Result<()> {
    let seen = service.watch_clock();
    let may_expire = service.guard.lock().may_expire();
    clock::save_guard(&*service.catalog, &seen)?;
    if !may_expire {
        tracing::info!("points do not expire for now: the clock jumped, or the service was away for long");
        return Ok(());
    }
    for item in service.catalog.find::<Item>(&Query::all())? {
        if service.life.is_stopping() {
            return Ok(());
        }
        if let Err(error) = retention::expire_item(service, item.id) {
            if error.kind == ErrorKind::NoSpace {
                return Err(error);
            }
            tracing::error!(item = item.machine_name, %error, "expired points could not be removed");
        }
    }
    actor::named("service: retention", || snapshots::expire(service))?;
    reclaim_space(service)?;
    forget_operations(service)
}

/// Items and vaults whose soft deletion is over.
pub fn purge(service: &Service) -> Result<()> {
    let now = service.now();
    service.watch_clock();
    let may_expire = service.guard.lock().may_expire();
    // One that cannot be purged now keeps no other from it; it is tried again.
    let mut problems: BTreeMap<Uuid, (Vault, Option<String>)> = BTreeMap::new();
    let mut note = |vault: Vault, done: Result<()>| {
        let (_, problem) = problems.entry(vault.id).or_insert((vault, None));
        if let Err(error) = done {
            *problem = Some(error.to_string());
        }
    };
    let deleted: Vec<Item> =
        service.catalog.find(&Query::all().eq("state", ItemState::SoftDeleted.arm_name()))?;
    for item in deleted {
        // One that is deleted without a grace is not kept for the clock's sake.
        let at_once = item.purge_at == item.deleted_at;
        if item.purge_at.is_some_and(|at| at <= now)
            && (may_expire || at_once)
            // A backup that is being cancelled may commit its point yet; a machine may run from one.
            && !jobs::has_open(service, item.id)?
            && let Some(vault) = service.catalog.get::<Vault>(item.vault)?
        {
            let done = actor::named("service: purge", || items::purge(service, &vault, &item));
            note(vault, done);
        }
    }
    for vault in service.catalog.find::<Vault>(&Query::all().eq("deleted", true))? {
        let at_once = vault.purge_at == vault.deleted_at;
        let is_idle = || -> Result<bool> {
            Ok(service.catalog.first::<Job>(Query::all().eq("vault", vault.id).eq("open", true))?.is_none())
        };
        if vault.purge_at.is_some_and(|at| at <= now) && (may_expire || at_once) && is_idle()? {
            let done = actor::named("service: purge", || vault_purge::purge(service, &vault));
            note(vault, done);
        }
    }
    for (vault, problem) in problems.into_values() {
        report::note_purge(service, &vault, problem);
    }
    Ok(())
}

fn reclaim_space(service: &Service) -> Result<()> {
    let now = service.now();
    for vault in vaults::list(service, None)?.into_iter().filter(|v| v.reclaim_due) {
        let waited =
            vault.reclaimed_at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= RECLAIM_INTERVAL);
        if !waited || service.life.is_stopping() {
            continue;
        }
        // From here on what is forgotten is due again.
        service.catalog.update::<Vault, Error>(vault.id, |row| {
            row.reclaim_due = false;
            row.reclaimed_at = Some(now);
            Ok(Vec::new())
        })?;
        let store = match held::present(service, &vault) {
            Ok(store) => store,
            Err(error) => {
                report::note_reclaim(service, &vault, Some(format!("space could not be reclaimed: {error}")));
                vaults::reclaim_later(service, vault.id)?;
                continue;
            }
        };
        // What the catalog has and the vault does not, and was not forgotten, frees nothing.
        let expected = held::expected(service, &vault)?.iter().map(|p| p.id).collect();
        let options =
            ReclaimOptions { cache_dir: Some(service.data().cache()), expected, ..ReclaimOptions::default() };
        match reclaim(&store, &options, &Progress::default()) {
            Ok(report) => {
                tracing::info!(vault = vault.name, freed_bytes = report.freed_bytes, "space reclaimed");
                if report.freed_bytes > 0 {
                    let detail = format!("{} bytes of vault {} given back", report.freed_bytes, vault.name);
                    let (by, action) = ("service: retention", "Strongroom.Backup/vaults/reclaim/action");
                    audit::note(service, by, action, &format!("/vaults/{}", vault.id), detail);
                }
                // What waits for the user; the rest passes by itself.
                let waits =
                    (vault.is_as_listed && !report.confirmed && !report.waiting_for.is_empty()).then(|| {
                        format!("no space is given back; it waits for {}", report.waiting_for.join("; "))
                    });
                report::note_reclaim(service, &vault, waits);
                if report.waiting_bytes == 0 && report.waiting_for.is_empty() {
                    continue;
                }
            }
            Err(error) => {
                let problem = format!("space could not be reclaimed: {error}");
                report::note_reclaim(service, &vault, Some(problem));
            }
        }
        vaults::reclaim_later(service, vault.id)?;
    }
    Ok(())
}

fn forget_operations(service: &Service) -> Result<()> {
    let before = service.now().saturating_sub(OPERATIONS_KEPT)?;
    let old: Vec<Operation> = service.catalog.find(&Query::all().less("started_us", before).limit(1000))?;
    let changes: Vec<Change> =
        old.iter().filter(|o| o.ended_at.is_some() || o.follows_job).map(Change::delete).collect();
    Ok(service.catalog.apply(&changes)?)
}
