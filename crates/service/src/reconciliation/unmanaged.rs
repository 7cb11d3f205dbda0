//! Points that are in a vault and that the catalog does not know: put there without the service, or by a job that was cut short. They
//! can be adopted or forgotten, and keep the vault from being deleted. And the other way round: rows whose points are missing.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::jobs::{errors as job_errors, ledger as jobs};
use crate::points::missing;
use crate::reconciliation::{adopt, reconcile};
use crate::vaults::held::{self, Absence};
use crate::vaults::{lookup as vaults, older_catalog, turns};
use jiff::Timestamp;
use strongroom_catalog::{Change, Immutability, Item, Point, ServiceError, Vault};
use strongroom_domain::PointId;
use strongroom_domain::item::ItemState;
use strongroom_engine::machine::record::MachineRecord;
use strongroom_store::{Manifest, PointKind};

/// A point that the catalog does not know.
#[derive(Debug, Clone)]
pub struct Unmanaged {
    /// None where it cannot be read, and its name says nothing either.
    pub point: Option<PointId>,
    /// As the vault calls the item; empty where the point cannot be read.
    pub item: String,
    /// None where it cannot be read.
    pub kind: Option<PointKind>,
    /// None where it cannot be read.
    pub taken_at: Option<Timestamp>,
    /// Its disks as the guest saw them, all together; 0 where it cannot be read.
    pub size_bytes: u64,
    /// What it added to the vault, compressed; 0 where it cannot be read.
    pub stored_bytes: u64,
    /// It can be adopted, into this machine's item or a new one.
    pub can_be_adopted: bool,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// The vault's unmanaged points, the newest first.
pub fn list(service: &Service, vault: &Vault) -> Result<Vec<Unmanaged>> {
    let held = held::look(service, vault)?;
    let strangers = held::strangers(service, vault, &held)?;
    let mut found: Vec<Unmanaged> = strangers
        .points
        .iter()
        .map(|m| Unmanaged {
            point: Some(m.point),
            item: m.item.to_string(),
            kind: Some(m.kind),
            taken_at: Some(m.taken_at),
            size_bytes: m.disks.iter().map(|d| d.size_bytes).sum(),
            stored_bytes: m.stored_bytes,
            can_be_adopted: m.kind == PointKind::Machine,
            problem: None,
        })
        .chain(strangers.damaged.iter().map(|d| Unmanaged {
            point: d.point,
            item: String::new(),
            kind: None,
            taken_at: None,
            size_bytes: 0,
            stored_bytes: 0,
            can_be_adopted: false,
            problem: Some(format!("{}: {}", d.object, d.error)),
        }))
        .collect();
    found.sort_by_key(|p| std::cmp::Reverse((p.taken_at, p.point)));
    Ok(found)
}

fn not_found(vault: &Vault, point: &PointId) -> Error {
    Error::not_found(format!(
        "Vault '{}' has no unmanaged recovery point {point}; see `strongroom point list --unmanaged`.",
        vault.name
    ))
    .coded("ResourceNotFound")
}

/// The point's manifest, if it is there and the catalog does not know it.
fn find(service: &Service, vault: &Vault, point: &PointId) -> Result<Manifest> {
    if service.catalog.get::<Point>(point)?.is_some() {
        return Err(not_found(vault, point));
    }
    let store = held::present(service, vault)?;
    let manifest = store.point(point).map_err(|error| match error {
        strongroom_store::StoreError::NotFound { .. } => not_found(vault, point),
        other => other.into(),
    })?;
    check_idle(service, vault, &manifest)?;
    Ok(manifest)
}

/// A job that is at the machine may be about to tell the catalog of the point.
fn check_idle(service: &Service, vault: &Vault, manifest: &Manifest) -> Result<()> {
    let Some(item) = adopt::item_named(service, vault, manifest)? else { return Ok(()) };
    match jobs::open_of(service, item.id)? {
        Some(open) => Err(job_errors::in_progress(&item, &open)),
        None => Ok(()),
    }
}

/// Tells the catalog of a point: of a machine, for its item, or for a new one whose protection is stopped.
pub fn adopt(service: &Service, vault: &Vault, point: &PointId) -> Result<(Item, Point)> {
    let manifest = find(service, vault, point)?;
    if manifest.kind != PointKind::Machine {
        return Err(Error::unsupported(format!(
            "Recovery point {point} is of the image '{}', not of a machine: no machine can be restored from it. Restore it with `strongroom image restore`, or forget it with `strongroom point forget {point} --unmanaged`.",
            manifest.item
        ))
        .coded("UserErrorPointNotOfAMachine"));
    }
    let item = match adopt::item_named(service, vault, &manifest)? {
        Some(item) if item.state == ItemState::SoftDeleted => {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "'{}' was deleted from this vault: undelete it first, then adopt the point.",
                    item.machine_name
                ),
            )
            .coded("UserErrorItemInSoftDeletedState"));
        }
        Some(item) => {
            let made_of = MachineRecord::of(&manifest).machine_uuid.unwrap_or_default();
            if !made_of.is_empty() && !item.machine_uuid.is_empty() && made_of != item.machine_uuid {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "Recovery point {point} is of another machine that was called '{}' (UUID {made_of}; this one is {}): among its points it would be taken for one of this machine. Restore it with `strongroom rescue vm restore`, or forget it.",
                        item.machine_name, item.machine_uuid
                    ),
                )
                .coded("UserErrorPointOfAnotherItem"));
            }
            if vault.immutability != Immutability::Disabled
                && adopt::was_promised_more(service, &item, &manifest)?
            {
                return Err(vaults::immutable(
                    vault,
                    format!(
                        "recovery point {point} was promised to be kept for longer than the policy of '{}' keeps it. Give that a policy that keeps as much, then adopt the point.",
                        item.machine_name
                    ),
                ));
            }
            item
        }
        None => {
            let item = adopt::item_of(service, vault, &manifest.item, &[&manifest])?;
            match service.catalog.apply(&[Change::put(&item)]) {
                Ok(()) => {}
                Err(ServiceError::Taken { .. }) => {
                    return Err(Error::already_exists(format!(
                        "Vault '{}' has an item of machine '{}' already, whose points are called otherwise: recovery point {point} of '{}' cannot be adopted beside it. Restore it with `strongroom rescue vm restore`, or forget it.",
                        vault.name, item.machine_name, manifest.item
                    ))
                    .coded("UserErrorPointOfAnotherItem"));
                }
                Err(error) => return Err(error.into()),
            }
            service
                .catalog
                .get(item.id)?
                .ok_or_else(|| Error::new(ErrorKind::Busy, "The new item is gone already; run it again."))?
        }
    };
    let point = adopt::adopt_into(service, vault, &item, &manifest)?;
    turns::soon(service);
    Ok((item, point))
}

/// Forgets a point that the catalog does not know.
pub fn forget(service: &Service, vault: &Vault, point: &PointId, asked_by: &str) -> Result<()> {
    if service.catalog.get::<Point>(point)?.is_some() {
        return Err(not_found(vault, point));
    }
    let vault = &current(service, vault)?;
    if vault.immutability != Immutability::Disabled {
        return Err(vaults::immutable(vault, "nobody forgets recovery points of it."));
    }
    let store = held::present(service, vault)?;
    match store.point(point) {
        Ok(manifest) => check_idle(service, vault, &manifest)?,
        // One that cannot be read can be forgotten all the same.
        Err(error) if error.is_damage() => {}
        Err(strongroom_store::StoreError::NotFound { .. }) => return Err(not_found(vault, point)),
        Err(error) => return Err(error.into()),
    }
    store.forget(point, &format!("unmanaged, forgotten by {asked_by}"))?;
    tracing::info!(vault = vault.name, %point, asked_by, "an unmanaged point was forgotten");
    vaults::reclaim_later(service, vault.id)?;
    turns::soon(service);
    Ok(())
}

/// Takes the row of a point away that is missing in the vault: somebody looked, and accepts that it is lost. What is out of
/// sight may come back: in a vault that is immutable, and while a job needs it, it stays known.
pub fn accept_loss(service: &Service, vault: &Vault, point: &PointId, asked_by: &str) -> Result<()> {
    let row =
        service.catalog.get::<Point>(point)?.filter(|p| p.vault == vault.id && p.missing_since.is_some());
    let vault = &current(service, vault)?;
    let store = held::present(service, vault)?;
    let why = format!("lost, accepted by {asked_by}");
    let Some(row) = row else {
        // One that the vault alone knows of, after an import say.
        let is_known = service.catalog.get::<Point>(point)?.is_some();
        if !is_known && store.out_of_sight()?.points.iter().any(|missing| missing.point == *point) {
            refuse_if_immutable(vault)?;
            store.accept_loss(point, &why)?;
            return loss_accepted(service, vault, point, asked_by);
        }
        return Err(Error::not_found(format!(
            "No recovery point {point} is missing in vault '{}'; see `strongroom vault show`.",
            vault.name
        ))
        .coded("ResourceNotFound"));
    };
    if held::absence(service, &store, &row)? == Absence::Present {
        reconcile::one(service, vault)?;
        return Err(Error::new(
            ErrorKind::Busy,
            format!("Recovery point {point} is in vault '{}' again: it is not lost.", vault.name),
        ));
    }
    // Somebody forgot it in the vault itself: then it is its row alone that goes.
    let is_forgotten = held::is_forgotten(&store, point)?;
    if !is_forgotten {
        refuse_if_immutable(vault)?;
    }
    let changed = || Error::new(ErrorKind::Busy, "The point was changed meanwhile; run it again.");
    // Marked first, in a transaction that no job which needs the point gets past. Cut short after it, it is said again.
    let marked = service.catalog.update::<Point, Error>(point, |row| {
        if row.missing_since.is_none() {
            return Err(changed());
        }
        if let Some(job) = jobs::needing(service, row)? {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "Recovery point {point} is needed by job {} ({}): wait for its end, or end it, and run this again.",
                    job.id,
                    job.operation.arm_name(),
                ),
            )
            .coded("UserErrorRecoveryPointInUse"));
        }
        row.going_at.get_or_insert(service.now());
        Ok(Vec::new())
    })?;
    let row = marked.ok_or_else(changed)?;
    if !is_forgotten && let Err(error) = store.accept_loss(point, &why) {
        // It is there again, or the vault cannot be written to: it does not go.
        missing::mark_missing(service, point)?;
        turns::soon(service);
        return Err(error.into());
    }
    // The row as it was marked: who changed it since may need the point.
    match service.catalog.apply(&[Change::delete(&row)]) {
        Ok(()) => {}
        Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => return Err(changed()),
        Err(error) => return Err(error.into()),
    }
    loss_accepted(service, vault, point, asked_by)
}

/// The vault with all that it says of itself.
fn current(service: &Service, vault: &Vault) -> Result<Vault> {
    older_catalog::ensure_current(service, vault)?;
    service
        .catalog
        .get::<Vault>(vault.id)?
        .ok_or_else(|| Error::not_found(format!("Vault '{}' is gone.", vault.name)).coded("ResourceNotFound"))
}

fn refuse_if_immutable(vault: &Vault) -> Result<()> {
    if vault.immutability == Immutability::Disabled {
        return Ok(());
    }
    Err(vaults::immutable(
        vault,
        "nobody writes a recovery point of it off that is only out of sight. Mount or restore what is missing; if it is lost for good, whoever has the vault's key can say so: `strongroom rescue vault reclaim --accept-loss POINT --although-immutable`.",
    ))
}

fn loss_accepted(service: &Service, vault: &Vault, point: &PointId, asked_by: &str) -> Result<()> {
    tracing::warn!(vault = vault.name, %point, asked_by, "the loss of a missing point was accepted");
    vaults::reclaim_later(service, vault.id)?;
    turns::soon(service);
    Ok(())
}
