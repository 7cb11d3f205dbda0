//! Points that the catalog does not know get their rows.

use crate::backup::record::BackupRequest;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::points::row::{self, free_name, point_row};
use crate::vaults::{noted, policy_rows};
use strongroom_catalog::{Change, Item, Job, Machine, Point, Query, Vault};
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::retention::{PointReason, keeps_less};
use strongroom_domain::{Datasource, ItemName, arm_names};
use strongroom_engine::machine::record::MachineRecord;
use strongroom_store::{Manifest, Promise};
use uuid::Uuid;

pub(crate) fn item_of(
    service: &Service,
    vault: &Vault,
    store_item: &ItemName,
    manifests: &[&Manifest],
) -> Result<Item> {
    let newest = manifests
        .last()
        .ok_or_else(|| Error::new(ErrorKind::Failed, "an item without points; this is a bug"))?;
    let uuid = MachineRecord::of(newest).machine_uuid.unwrap_or_default();
    let machine: Option<Machine> =
        service.catalog.first(Query::all().eq("host_uuid", uuid.as_str()).eq("gone", false))?;
    let now = service.now();
    let id = Uuid::new_v4();
    let name = store_item.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Item {
        id,
        version: 0,
        vault: vault.id,
        datasource: Datasource::Machine,
        machine: machine.as_ref().map_or_else(Uuid::new_v4, |m| m.id),
        machine_uuid: uuid,
        group: machine.as_ref().map_or_else(|| vault.group.clone(), |m| m.group.clone()),
        machine_name: machine.map_or(name, |m| m.name),
        store_item: store_item.clone(),
        state: ItemState::ProtectionStopped,
        policy: None,
        last_rules: promised_by(manifests),
        disks: None,
        protected_at: now,
        considered_until: now,
        last_backup: None,
        last_point_at: Some(newest.taken_at),
        deleted_at: None,
        purge_at: None,
        untracked: false,
        data_id: arm_names::numeric_name(id.as_bytes(), 0),
    })
}

/// By which rules the newest point that says so was promised.
pub(crate) fn promised_by(manifests: &[&Manifest]) -> Option<Rules> {
    manifests.iter().rev().find_map(|m| match &m.kept {
        Some(Promise::Known(kept)) => kept.policy.as_ref().map(|p| p.rules.clone()),
        _ => None,
    })
}

pub(crate) fn item_named(service: &Service, vault: &Vault, manifest: &Manifest) -> Result<Option<Item>> {
    let items: Vec<Item> = service.catalog.find(&Query::all().eq("vault", vault.id))?;
    Ok(items.into_iter().find(|i| i.store_item == manifest.item))
}

/// Whether a point would be kept for less long as one of the item's than it was promised: by rules that the item does not go by.
pub(crate) fn was_promised_more(service: &Service, item: &Item, manifest: &Manifest) -> Result<bool> {
    let policy = item.policy.map(|id| policy_rows::by_id(service, id)).transpose()?.flatten();
    Ok(match (promised_by(&[manifest]), policy) {
        (Some(promised), Some(policy)) => keeps_less(&promised, &policy.rules),
        // Of a stopped one all are kept, and without a promise there is nothing to break.
        _ => false,
    })
}

/// Writes the row of a point that is in the vault.
pub(crate) fn adopt_into(
    service: &Service,
    vault: &Vault,
    item: &Item,
    manifest: &Manifest,
) -> Result<Point> {
    let machine: Option<Machine> = service.catalog.get(item.machine)?;
    let luns = machine.as_ref().map(|m| row::luns(&m.disks)).unwrap_or_default();
    let mut point = point_row(vault, item, manifest, &luns);
    if let Some(machine) = &machine {
        point.os.clone_from(&machine.os);
    }
    // What its job was asked for, where that is known.
    let job = job_of(manifest).map(|id| service.catalog.get::<Job>(id)).transpose()?.flatten();
    let asked =
        job.as_ref().and_then(|job| serde_json::from_value::<BackupRequest>(job.request.clone()).ok());
    point.job = asked.as_ref().and(job.as_ref()).map(|job| job.id);
    if manifest.kept.is_none() {
        let noted = noted::points_in(&service.store(vault)?, &item.store_item, &mut Vec::new())?;
        (point.reason, point.scheduled_for, point.keep_until) = match (asked, noted.get(&manifest.point)) {
            (_, Some(said)) if said.says_something() => (said.reason, said.scheduled_for, said.keep_until),
            (Some(asked), _) => (asked.reason, asked.scheduled_for, asked.keep_until),
            // Nobody knows what it was promised: nothing lets it go by itself.
            (None, _) => (Some(PointReason::OnDemand), None, None),
        };
    }
    point.name = free_name(service, &point)?;
    let done = service.catalog.update::<Item, Error>(item.id, |row| {
        row.last_point_at = row.last_point_at.max(Some(point.taken_at));
        Ok(vec![Change::put(&point)])
    })?;
    if done.is_none() {
        return Err(Error::not_found("The protected item is gone.").coded("UserErrorItemNotFound"));
    }
    tracing::info!(vault = vault.name, machine = item.machine_name, point = %point.id, "a point that the catalog did not know was adopted");
    Ok(point)
}

/// The job that made a point, as the manifest says.
pub(crate) fn job_of(manifest: &Manifest) -> Option<Uuid> {
    MachineRecord::of(manifest).job?.parse().ok()
}
