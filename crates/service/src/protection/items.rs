//! Protected items: machines that a vault protects.
//!
//! Each change is one transaction with the job that tells of it. What runs long (backups, restores) is in jobs of its own.

use super::lookup;
pub use super::lookup::{find, get, list, of_machine};
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::estate::machines;
use crate::jobs::{cancel, kind, ledger as jobs, operations};
use crate::points::row::OS_DISK_LUN;
use crate::points::{lookup as points, retention};
use crate::protection::untrack;
use crate::vaults::{groups, lookup as vaults, notes, older_catalog, policy_rows};
use strongroom_catalog::{
    Change, DiskChoice, Immutability, Item, Job, Machine, Operation, Point, Policy, Query, ServiceError,
    SoftDelete, Vault, key,
};
use strongroom_domain::item::{ItemEvent, ItemState, purge_at};
use strongroom_domain::job::{JobOperation, JobStatus};
use strongroom_domain::retention::keeps_less;
use strongroom_domain::{Datasource, ItemName, arm_names, fact};
use uuid::Uuid;

/// A change that was made, and the job and operation that tell of it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// As it is now.
    pub item: Item,
    /// Of which client lists tell.
    pub job: Job,
    /// What the client that asked follows.
    pub operation: Operation,
}

/// Machines of the vault's location that no vault protects.
pub fn protectable(service: &Service, vault: &Vault) -> Result<Vec<Machine>> {
    let items: Vec<Item> = service.catalog.find(&Query::all())?;
    let taken: std::collections::HashSet<Uuid> =
        items.iter().filter(|i| holds_machine(i, vault)).map(|i| i.machine).collect();
    let machines = machines::list(service, None)?;
    Ok(machines
        .into_iter()
        .filter(|m| vaults::same_location(&m.location, &vault.location) && !taken.contains(&m.id))
        .collect())
}

/// Whether an item keeps its machine from being protected in `vault`: one that was stopped elsewhere doesn't.
pub(crate) fn holds_machine(item: &Item, vault: &Vault) -> bool {
    item.vault == vault.id || !matches!(item.state, ItemState::ProtectionStopped | ItemState::SoftDeleted)
}

/// Protects a machine, gives its item another policy or other disks, or resumes its protection.
pub fn protect(
    service: &Service,
    vault: &Vault,
    machine: &Machine,
    policy: &Policy,
    disks: Option<Option<DiskChoice>>,
    asked_by: &str,
) -> Result<Changed> {
    check_machine(service, vault, machine)?;
    if let Some(Some(choice)) = &disks {
        check_choice(machine, choice)?;
    }
    let mut item = match of_name(service, vault, machine)? {
        Some(item) => taken_up(service, item, machine)?,
        None => new_item(service, vault, machine)?,
    };
    check_immutable(service, vault, &item, policy)?;
    let event = match item.state {
        ItemState::NotProtected => ItemEvent::Protect,
        ItemState::ProtectionStopped | ItemState::BackupsSuspended => {
            ItemEvent::Resume { has_points: points::count(service, &item)? > 0 }
        }
        _ => ItemEvent::ChangePolicy,
    };
    item.state = next(&item, event)?;
    item.policy = Some(policy.id);
    item.last_rules = None;
    item.untracked = false;
    // Runs that would have been due while it was not protected, or by the policy before, are not made up for.
    item.considered_until = item.considered_until.max(service.now());
    if let Some(choice) = disks {
        item.disks = choice;
    }
    let mut job = jobs::draft(service, &item, "", JobOperation::ConfigureBackup, asked_by);
    job.properties.push((fact::POLICY.into(), policy.name.clone()));
    // The policy as it was looked at: one that is deleted at this moment is noticed.
    let mut changes = vec![Change::unchanged(policy)];
    if vault.version > 0 {
        changes.push(Change::unchanged(vault));
    }
    commit(service, item, job, changes)
}

/// What [`protect`] looks at of vault and machine: whether it would be refused.
pub fn check_protect(service: &Service, vault: &Vault, machine: &Machine) -> Result<()> {
    check_machine(service, vault, machine)?;
    of_name(service, vault, machine)?.map(|item| taken_up(service, item, machine)).transpose()?;
    Ok(())
}

/// Whether a machine may be in this vault: it is of its location, and no other vault protects it.
fn check_machine(service: &Service, vault: &Vault, machine: &Machine) -> Result<()> {
    if !vaults::same_location(&machine.location, &vault.location) {
        return Err(Error::invalid(format!(
            "The virtual machine '{}' is in location '{}', the vault '{}' in '{}': a vault protects machines of its own location only. Use a vault in '{}'.",
            machine.name, machine.location, vault.name, vault.location, machine.location
        ))
        .coded("BMSUserErrorInvalidSourceResourceLocation"));
    }
    for other in lookup::of_machine(service, machine.id)?.iter().filter(|i| i.vault != vault.id) {
        if holds_machine(other, vault) {
            let name = service.catalog.get::<Vault>(other.vault)?.map(|v| v.name).unwrap_or_default();
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "The virtual machine '{}' is protected in vault '{name}' already. A machine has one vault at a time: stop its protection there first.",
                    machine.name
                ),
            )
            .coded("UserErrorVmAlreadyProtected"));
        }
    }
    Ok(())
}

/// The item under a machine's name, which may be another machine's.
fn of_name(service: &Service, vault: &Vault, machine: &Machine) -> Result<Option<Item>> {
    lookup::find(service, vault, &arm_names::item_name(&machine.group, &machine.name))
}

/// A machine that was restored under its own name and group goes on with the item of the one before.
fn taken_up(service: &Service, mut item: Item, machine: &Machine) -> Result<Item> {
    if item.state == ItemState::SoftDeleted {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "'{}' was deleted from this vault and its data is still kept: undelete it first (`az backup protection undelete`), then resume its protection.",
                machine.name
            ),
        )
        .coded("UserErrorItemInSoftDeletedState"));
    }
    if item.machine != machine.id {
        if service.catalog.get::<Machine>(item.machine)?.is_some_and(|m| m.gone_at.is_none()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("Another machine of the name '{}' is protected in this vault already.", machine.name),
            )
            .coded("UserErrorVmAlreadyProtected"));
        }
        item.machine = machine.id;
        item.machine_uuid.clone_from(&machine.host_uuid);
    }
    Ok(item)
}

/// A machine that appears under the name and group of one that is gone goes on being protected in its place, with its
/// history.
pub(crate) fn adopt(service: &Service, machine: &Machine) -> Result<()> {
    let name = arm_names::item_name(&machine.group, &machine.name);
    let items: Vec<Item> = service.catalog.find(&Query::all().eq("name_key", key(&name)))?;
    for item in items {
        if item.machine == machine.id || item.state == ItemState::SoftDeleted {
            continue;
        }
        if service.catalog.get::<Machine>(item.machine)?.is_some_and(|m| m.gone_at.is_none()) {
            continue;
        }
        tracing::info!(machine = machine.name, group = machine.group, "goes on being protected");
        service.catalog.update::<Item, Error>(item.id, |row| {
            row.machine = machine.id;
            row.machine_uuid.clone_from(&machine.host_uuid);
            Ok(Vec::new())
        })?;
    }
    Ok(())
}

fn new_item(service: &Service, vault: &Vault, machine: &Machine) -> Result<Item> {
    let now = service.now();
    let id = Uuid::new_v4();
    Ok(Item {
        id,
        version: 0,
        vault: vault.id,
        datasource: Datasource::Machine,
        machine: machine.id,
        machine_uuid: machine.host_uuid.clone(),
        group: machine.group.clone(),
        machine_name: machine.name.clone(),
        store_item: store_item(service, vault, machine)?,
        state: ItemState::NotProtected,
        policy: None,
        last_rules: None,
        disks: None,
        protected_at: now,
        considered_until: now,
        last_backup: None,
        last_point_at: None,
        deleted_at: None,
        purge_at: None,
        untracked: false,
        data_id: arm_names::numeric_name(id.as_bytes(), 0),
    })
}

/// What the item is called in the vault's store: the machine's name where that is free and can be one.
fn store_item(service: &Service, vault: &Vault, machine: &Machine) -> Result<ItemName> {
    let others = lookup::list(service, vault)?;
    let candidates = [
        machine.name.clone(),
        format!("{}/{}", machine.group, machine.name),
        format!("machine {}", machine.host_uuid),
    ];
    candidates
        .iter()
        .filter_map(|name| name.parse::<ItemName>().ok())
        .find(|name| others.iter().all(|other| other.store_item != *name))
        .ok_or_else(|| {
            Error::invalid(format!("'{}' cannot be backed up under its name; rename it.", machine.name))
        })
}

/// Whether the vault lets the item go over to this policy: not to one that keeps less than what its points were made under.
/// One that was imported without a word of its rules has none.
fn check_immutable(service: &Service, vault: &Vault, item: &Item, policy: &Policy) -> Result<()> {
    if vault.immutability == Immutability::Disabled {
        return Ok(());
    }
    let before = item.policy.map(|id| policy_rows::by_id(service, id)).transpose()?.flatten();
    let rules = before.as_ref().map(|p| &p.rules).or(item.last_rules.as_ref());
    if rules.is_some_and(|rules| keeps_less(rules, &policy.rules)) {
        return Err(vaults::immutable(
            vault,
            format!(
                "policy '{}' keeps recovery points for less long than '{}' was promised. Choose one that keeps them as long, or longer.",
                policy.name, item.machine_name
            ),
        ));
    }
    Ok(())
}

fn check_choice(machine: &Machine, choice: &DiskChoice) -> Result<()> {
    let refused = |why: String| Err(Error::invalid(why).coded("UserErrorInvalidDiskLun"));
    if !choice.inclusion && choice.luns.contains(&OS_DISK_LUN) {
        return refused(format!(
            "LUN {OS_DISK_LUN} is the OS disk of '{}', which is always backed up: it cannot be excluded.",
            machine.name
        ));
    }
    let known = |lun: &&i32| machine.disks.iter().any(|d| d.lun == **lun);
    let Some(lun) = choice.luns.iter().find(|lun| !known(lun)) else { return Ok(()) };
    let data: Vec<String> =
        machine.disks.iter().filter(|d| d.lun >= 0).map(|d| format!("{} ({})", d.lun, d.target)).collect();
    let there = match data.is_empty() {
        true => "it has no data disks".to_owned(),
        false => format!("it has: {}", data.join(", ")),
    };
    refused(format!("The virtual machine '{}' has no disk with LUN {lun}; {there}.", machine.name))
}

fn next(item: &Item, event: ItemEvent) -> Result<ItemState> {
    item.state
        .after(&event)
        .map_err(|e| Error::new(ErrorKind::Busy, format!("'{}': {e}", item.machine_name)).coded(e.code()))
}

/// Stops protection and keeps the data; suspended, backups can go on by themselves later.
pub fn stop(service: &Service, item: &Item, suspend: bool, asked_by: &str) -> Result<Changed> {
    let mut item = item.clone();
    item.state = next(&item, if suspend { ItemEvent::Suspend } else { ItemEvent::Stop })?;
    let policy = item.policy.map(|id| policy_rows::by_id(service, id)).transpose()?.flatten();
    let mut job = jobs::draft(service, &item, "", JobOperation::DisableBackup, asked_by);
    let shown = policy.as_ref().filter(|_| suspend).map(|p| p.name.clone()).unwrap_or_default();
    job.properties.push((fact::POLICY.into(), shown));
    if !suspend {
        // Nothing expires any more; what was promised is remembered, for the policy that it may get again.
        item.last_rules = policy.map(|p| p.rules).or(item.last_rules);
        item.policy = None;
    }
    stop_running(service, &item)?;
    let mut changed = commit(service, item, job, Vec::new())?;
    untrack::now(service, &mut changed.item);
    Ok(changed)
}

/// A backup that runs is cancelled: nobody wants its point any more.
fn stop_running(service: &Service, item: &Item) -> Result<()> {
    let Some(job) = jobs::open_of(service, item.id)? else { return Ok(()) };
    if !kind::known(service, &job).is_some_and(|kind| kind.ends_with_protection()) {
        return Ok(());
    }
    let vault: Option<Vault> = service.catalog.get(job.vault)?;
    match vault.map(|vault| cancel::cancel(service, &vault, job.id)) {
        Some(Err(error)) if error.code != Some("UserErrorJobAlreadyCompleted") => Err(error),
        _ => Ok(()),
    }
}

/// Deletes an item with its data: softly, where the vault says so, and it can be brought back for a while.
pub fn delete(service: &Service, vault: &Vault, item: &Item, asked_by: &str) -> Result<Changed> {
    let mut item = item.clone();
    let now = service.now();
    let soft = vault.soft_delete != SoftDelete::Disabled;
    let points = points::count(service, &item)?;
    if vault.immutability != Immutability::Disabled && points > 0 {
        return Err(vaults::immutable(
            vault,
            format!("'{}' has {points} recovery point(s), which stay until they expire.", item.machine_name),
        ));
    }
    let is_deleted = item.state == ItemState::SoftDeleted;
    if !is_deleted {
        item.state = next(&item, ItemEvent::Delete)?;
        let policy = item.policy.map(|id| policy_rows::by_id(service, id)).transpose()?.flatten();
        item.last_rules = policy.map(|p| p.rules).or(item.last_rules);
        item.policy = None;
        item.deleted_at = Some(now);
        item.purge_at = Some(purge_at(now, soft.then_some(vault.soft_delete_days)));
    }
    let mut job = jobs::draft(service, &item, "", JobOperation::DeleteBackupData, asked_by);
    job.properties.push((fact::POINTS.into(), points.to_string()));
    stop_running(service, &item)?;
    let mut changed = commit(service, item, job, Vec::new())?;
    untrack::now(service, &mut changed.item);
    if !soft {
        service.life.wake();
    }
    Ok(changed)
}

/// Brings a softly deleted item back: stopped, with its data.
pub fn undelete(service: &Service, item: &Item, asked_by: &str) -> Result<Changed> {
    let mut item = item.clone();
    item.state = next(&item, ItemEvent::Undelete)?;
    item.deleted_at = None;
    item.purge_at = None;
    let mut job = jobs::draft(service, &item, "", JobOperation::Undelete, asked_by);
    job.properties.push((fact::UNDELETED.into(), "true".into()));
    commit(service, item, job, Vec::new())
}

/// The commit: the item, its job, which is over with it, and the operation.
fn commit(service: &Service, mut item: Item, mut job: Job, mut changes: Vec<Change>) -> Result<Changed> {
    jobs::end(&mut job, JobStatus::Completed, service.now());
    let operation = operations::of_job(service, Uuid::new_v4(), &job, true);
    changes.extend([Change::put(&item), Change::put(&job), Change::put(&operation)]);
    match service.catalog.apply(&changes) {
        Ok(()) => {}
        Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {
            return Err(Error::new(
                ErrorKind::Busy,
                "Another configure protection operation is in progress for this item. Run it again.",
            )
            .coded("BMSUserErrorConflictingProtectionOperation"));
        }
        Err(error) => return Err(error.into()),
    }
    item.version += 1;
    match service.catalog.get::<Vault>(item.vault) {
        Ok(Some(vault)) => notes::changed(service, &vault),
        _ => service.life.wake(),
    }
    Ok(Changed { item, job, operation })
}

/// Removes what an item had, for good: its points, then its row.
pub(crate) fn purge(service: &Service, vault: &Vault, item: &Item) -> Result<()> {
    older_catalog::ensure_current(service, vault)?;
    let store = service.store(vault)?;
    let points: Vec<Point> = service.catalog.find(&Query::all().eq("item", item.id))?;
    let (mut all_gone, mut missing) = (true, Vec::new());
    for point in &points {
        // Brought back meanwhile: what is left stays.
        let is_deleted = |row: Item| row.state == ItemState::SoftDeleted;
        if !service.catalog.get::<Item>(item.id)?.is_some_and(is_deleted) {
            return Ok(());
        }
        if retention::forget(service, &store, point)? {
            continue;
        }
        all_gone = false;
        if service.catalog.get::<Point>(point.id)?.is_some_and(|row| row.missing_since.is_some()) {
            missing.push(point.id.to_string());
        }
    }
    vaults::reclaim_later(service, vault.id)?;
    if !missing.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "the deleted machine '{}' cannot be purged: of its recovery points these are not found in the vault, which does not say that they were forgotten: {}. Put them back, or accept the loss with `strongroom point forget POINT --missing`",
                item.machine_name,
                missing.join(", ")
            ),
        ));
    }
    if !all_gone {
        // Looked at again.
        return Ok(());
    }
    match service.catalog.apply(&[Change::delete(item)]) {
        Ok(()) => Ok(()),
        // Brought back at this moment, or changed otherwise: it is looked at again, at once.
        Err(ServiceError::Conflict { .. }) => {
            service.life.wake();
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The machine a client named by its ARM id.
pub fn machine_by_id(service: &Service, id: &str) -> Result<Machine> {
    let (group, name) = arm_names::parse_machine_id(id).ok_or_else(|| {
        Error::invalid(format!(
            "'{}' is not the id of a virtual machine.",
            id.chars().take(200).flat_map(char::escape_debug).collect::<String>()
        ))
        .coded("BMSUserErrorInvalidConfigureProtectionRequest")
    })?;
    groups::get(service, &group)?;
    machines::get(service, &group, &name)
}
