//! A vault whose catalog was lost, or that another service made, is brought back: with its location and its key alone.

use super::backup::{free_name, point_row};
use super::{Service, groups, notes, policies, vaults};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::record::MachineRecord;
use crate::vaults as stores;
use std::collections::BTreeMap;
use std::path::Path;
use strongroom_catalog::service::{Change, Item, Machine, Point, Policy, Query, Redundancy, Vault, key};
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::{ItemName, arm_names};
use strongroom_store::objects::Location;
use strongroom_store::{Manifest, PointKind};
use uuid::Uuid;

/// What an import found.
#[derive(Debug)]
pub struct Imported {
    pub vault: Vault,
    pub items: usize,
    pub points: usize,
    /// Policies that the vault named; without any it has the two default ones.
    pub policies: usize,
    /// Points that cannot be read, or are not of machines.
    pub passed_over: Vec<String>,
}

/// Makes a vault of the store at `location`, with all its machines' points and its policies. Protection is stopped: nothing
/// expires until somebody says by which policy.
pub fn import(
    service: &Service,
    location: &str,
    key_file: Option<&Path>,
    group: &str,
    name: &str,
    vault_location: &str,
) -> Result<Imported> {
    arm_names::check_vault_name(name)
        .map_err(|e| Error::invalid(e.to_string()).coded("InvalidResourceName"))?;
    if vaults::find(service, group, name)?.is_some() {
        return Err(Error::already_exists(format!(
            "there is a vault '{name}' in resource group '{group}' already; give another --name"
        )));
    }
    let group = groups::ensure(service, group, vault_location)?.name;
    let store = stores::open(&Location::parse(location)?, key_file)?;
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    if let Some(other) = known.iter().find(|v| v.store_id == store.id()) {
        return Err(Error::already_exists(format!(
            "this store is that of the vault '{}' already",
            other.name
        )));
    }
    let mut vault = vaults::draft(service, group, name, vault_location);
    let id = vault.id;
    let key_file = match key_file {
        Some(path) => Some(
            std::path::absolute(path)
                .map_err(|e| Error::io(format!("looking at {}", path.display()), e))?
                .display()
                .to_string(),
        ),
        // The user's keyring has it: a copy stays with the service.
        None => {
            let key = stores::export_key(&Location::parse(location)?, None)?;
            let path = service.data().keys().join(format!("{id}.key"));
            key.save_new(&path)?;
            Some(path.display().to_string())
        }
    };
    vault.redundancy = Redundancy::Local;
    vault.store_location = location.into();
    vault.store_id = store.id();
    vault.key_file = key_file;
    let list = store.points(None)?;
    let mut passed_over: Vec<String> =
        list.damaged.iter().map(|d| format!("{}: {}", d.object, d.error)).collect();
    let mut by_item: BTreeMap<ItemName, Vec<&Manifest>> = BTreeMap::new();
    for point in &list.points {
        match point.kind {
            PointKind::Machine => by_item.entry(point.item.clone()).or_default().push(point),
            PointKind::Image => passed_over.push(format!("{} of image {}", point.point, point.item)),
        }
    }
    let (drafts, named) = policies_of(service, id, &store, &mut passed_over)?;
    let mut changes = vec![Change::put(&vault)];
    changes.extend(drafts.iter().map(Change::put));
    let (items, mut points) = (by_item.len(), 0);
    for (store_item, manifests) in by_item {
        let item = item_of(service, &vault, &store_item, &manifests)?;
        changes.push(Change::put(&item));
        let mut names = std::collections::HashSet::new();
        for manifest in manifests {
            let mut point: Point = point_row(&vault, &item, manifest, &[]);
            point.name = free_name(service, &point)?;
            let mut attempt = 0;
            while !names.insert(point.name.clone()) {
                attempt += 1;
                point.name = arm_names::recovery_point_name(&point.id, attempt);
            }
            points += 1;
            changes.push(Change::put(&point));
        }
    }
    // The commit: all of it, or nothing.
    service.catalog.apply(&changes)?;
    Ok(Imported { vault, items, points, policies: named, passed_over })
}

/// The policies that a store names, or where it names none, the default ones; and how many it named.
fn policies_of(
    service: &Service,
    vault: Uuid,
    store: &strongroom_store::Vault,
    passed_over: &mut Vec<String>,
) -> Result<(Vec<Policy>, usize)> {
    let (found, problems) = notes::policies_in(store)?;
    passed_over.extend(problems);
    let mut drafts: BTreeMap<String, Policy> = BTreeMap::new();
    for noted in found.into_iter().flatten() {
        if let Err(error) = arm_names::check_policy_name(&noted.name) {
            passed_over.push(format!("policy {}: {error}", noted.name.escape_debug()));
            continue;
        }
        let mut policy = policies::draft(service, vault, &noted.name, noted.rules);
        policy.wire = noted.wire;
        policy.changed_at = noted.changed_at;
        drafts.entry(key(&noted.name)).or_insert(policy);
    }
    let named = drafts.len();
    if named == 0 {
        let defaults =
            [(policies::DEFAULT, Rules::default_standard()), (policies::ENHANCED, Rules::default_enhanced())];
        drafts
            .extend(defaults.map(|(name, rules)| (key(name), policies::draft(service, vault, name, rules))));
    }
    Ok((drafts.into_values().collect(), named))
}

pub(super) fn item_of(
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
        machine: machine.as_ref().map_or_else(Uuid::new_v4, |m| m.id),
        machine_uuid: uuid,
        group: machine.as_ref().map_or_else(|| vault.group.clone(), |m| m.group.clone()),
        machine_name: machine.map_or(name, |m| m.name),
        store_item: store_item.clone(),
        state: ItemState::ProtectionStopped,
        policy: None,
        last_rules: None,
        disks: None,
        protected_at: now,
        considered_until: now,
        last_backup: None,
        last_point_at: Some(newest.taken_at),
        deleted_at: None,
        purge_at: None,
        data_id: arm_names::numeric_name(id.as_bytes(), 0),
    })
}
