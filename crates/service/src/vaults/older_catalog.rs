//! A catalog that is older than what its vaults say of themselves: it was put back from a copy.
//!
//! Both count how often a vault's notes were written, the catalog first. Where the vault's number is the higher one, the catalog may
//! have forgotten what protects data. Then the stricter of both holds: settings, policies, and by which rules an item's points were
//! promised; an item that would let points go that the vault keeps has its protection stopped, so that all of them stay until
//! somebody resumes it.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::vaults::noted::{self, NotedItem};
use crate::vaults::{deleted, held, notes_state, policy_rows};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use strongroom_catalog::{Change, Item, Policy, Query, ServiceError, Setting, Vault, actor, key};
use strongroom_domain::ItemName;
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::retention::{RetentionMode, keeps_less};
use strongroom_store::Vault as Store;
use uuid::Uuid;

/// The note that says how often the others were written: see `docs/vault-format.md`, section 8.
const GENERATION: &str = "generation";

/// Each vault is compared by one thread at a time.
#[derive(Default)]
pub(crate) struct Comparisons(Mutex<HashMap<Uuid, Arc<Mutex<()>>>>);

pub(crate) fn setting(vault: Uuid) -> String {
    format!("notes/{vault}")
}

/// How often this catalog wrote the notes, or took them in.
fn known(service: &Service, vault: Uuid) -> Result<u64> {
    let known = service.catalog.get::<Setting>(setting(vault))?;
    Ok(known.and_then(|known| known.value.as_u64()).unwrap_or_default())
}

/// What an import knows from then on, which took in all that the notes said after this number was read.
pub(crate) fn known_from_now(vault: Uuid, generation: u64) -> Setting {
    Setting { id: setting(vault), version: 0, value: generation.into() }
}

/// The number only goes up.
fn raise(service: &Service, vault: Uuid, at_least: impl Fn(u64) -> u64) -> Result<u64> {
    let id = setting(vault);
    loop {
        let row = service.catalog.get::<Setting>(&id)?;
        let known = row.as_ref().and_then(|row| row.value.as_u64()).unwrap_or_default();
        let new = at_least(known).max(known);
        let version = row.map_or(0, |row| row.version);
        match service.catalog.apply(&[Change::put(&Setting { id: id.clone(), version, value: new.into() })]) {
            Ok(()) => return Ok(new),
            Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// How often the notes that are there were written. One that cannot be read says nothing.
pub(crate) fn noted(store: &Store) -> Result<u64> {
    match store.read_note(GENERATION) {
        Ok(note) => Ok(note.and_then(|note| note["number"].as_u64()).unwrap_or_default()),
        Err(error) if error.is_damage() => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The notes are about to be written once more. First the catalog knows it: cut short, it is not the older one.
pub(crate) fn count(service: &Service, vault: &Vault, store: &Store) -> Result<()> {
    let noted = noted(store)?;
    let generation = raise(service, vault.id, |known| known.max(noted) + 1)?;
    Ok(store.write_note(GENERATION, &json!({ "number": generation }))?)
}

/// To be asked before anything of the vault goes; looks once in a service's life.
pub(crate) fn ensure_current(service: &Service, vault: &Vault) -> Result<()> {
    if notes_state::is_current(service, vault.id) {
        return Ok(());
    }
    // Two at once would each take half of the other's work for news.
    let of_vault = service.part::<Comparisons>().0.lock().entry(vault.id).or_default().clone();
    let _one = of_vault.lock();
    if notes_state::is_current(service, vault.id) {
        return Ok(());
    }
    let store = held::present(service, vault)?;
    // In this order: whoever writes the notes meanwhile tells the catalog first.
    let noted = noted(&store)?;
    let known = known(service, vault.id)?;
    if noted > known {
        tracing::warn!(
            vault = vault.name,
            known,
            noted,
            "the catalog is older than what the vault says of itself: the stricter of both holds from here on"
        );
        actor::named("service: notes", || take_stricter(service, vault, &store))?;
        raise(service, vault.id, |_| noted)?;
    }
    notes_state::set_current(service, vault.id);
    Ok(())
}

fn take_stricter(service: &Service, vault: &Vault, store: &Store) -> Result<()> {
    let mut passed_over = Vec::new();
    if vault.deleted_at.is_some() && !vault.is_being_removed {
        // Something was noted since, and nothing is of a deleted one.
        deleted::undelete(service, vault.id)?;
    }
    take_settings(service, vault, store, &mut passed_over)?;
    let noted_policies = take_policies(service, vault, store, &mut passed_over)?;
    let noted = noted::items_in(store, &mut passed_over)?.unwrap_or_default();
    take_items(service, vault, &noted, &noted_policies)?;
    for what in passed_over {
        tracing::warn!(vault = vault.name, "passed over: {what}");
    }
    Ok(())
}

/// What protects data is as strict as the stricter one; what the vault says and cannot be read is as strict as at an import.
fn take_settings(
    service: &Service,
    vault: &Vault,
    store: &Store,
    passed_over: &mut Vec<String>,
) -> Result<()> {
    let mut noted = vault.clone();
    noted::take_settings(&mut noted, store, true, passed_over)?;
    service.catalog.update::<Vault, Error>(vault.id, |row| {
        row.immutability = row.immutability.max(noted.immutability);
        row.soft_delete = row.soft_delete.stricter(noted.soft_delete);
        row.enhanced_security = row.enhanced_security.stricter(noted.enhanced_security);
        row.soft_delete_days = row.soft_delete_days.max(noted.soft_delete_days);
        for (name, value) in &noted.kept {
            // What nobody can take back.
            if value.to_string().to_lowercase().contains("permanentlydisabled") {
                row.kept.insert(name.clone(), value.clone());
            }
        }
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Policies that only the vault has, and those that keep more there. All that it names, by their names.
fn take_policies(
    service: &Service,
    vault: &Vault,
    store: &Store,
    passed_over: &mut Vec<String>,
) -> Result<HashMap<String, Rules>> {
    let mut found = HashMap::new();
    for noted in noted::policies_in(store, passed_over)?.unwrap_or_default() {
        if noted.rules.validate().is_err() {
            passed_over.push(format!("policy {}", noted.name.escape_debug()));
            continue;
        }
        found.insert(key(&noted.name), noted.rules.clone());
        let mut policy = match policy_rows::find(service, vault, &noted.name)? {
            Some(known) if !keeps_less(&noted.rules, &known.rules) => continue,
            Some(known) => known,
            None => policy_rows::draft(service, vault.id, &noted.name, noted.rules.clone()),
        };
        policy.rules = noted.rules;
        policy.wire = noted.wire;
        policy.changed_at = noted.changed_at;
        service.catalog.apply(&[Change::put(&policy)])?;
    }
    Ok(found)
}

fn take_items(
    service: &Service,
    vault: &Vault,
    noted: &BTreeMap<ItemName, NotedItem>,
    noted_policies: &HashMap<String, Rules>,
) -> Result<()> {
    let items: Vec<Item> = service.catalog.find(&Query::all().eq("vault", vault.id))?;
    for (name, noted) in noted {
        if !items.iter().any(|item| item.store_item == *name) {
            tracing::warn!(
                vault = vault.name,
                machine = noted.machine,
                "the vault alone knows of it: its points are unmanaged (`strongroom point list --unmanaged`), and stay until they are adopted or forgotten"
            );
        }
    }
    let policies: HashMap<Uuid, Policy> =
        policy_rows::list(service, vault)?.into_iter().map(|policy| (policy.id, policy)).collect();
    for item in items {
        let noted = noted.get(&item.store_item);
        let noted_policy = noted.and_then(|noted| noted.policy.as_deref());
        let by_noted = noted_policy.and_then(|name| noted_policies.get(&key(name)));
        let promised = by_noted.or_else(|| noted.and_then(|noted| noted.last_rules.as_ref()));
        // It goes by a policy that cannot be read.
        let is_unknown = noted_policy.is_some() && by_noted.is_none();
        let mut is_stopped = false;
        service.catalog.update::<Item, Error>(item.id, |row| {
            let by_policy = row.policy.and_then(|id| policies.get(&id)).map(|policy| &policy.rules);
            let rules = by_policy.or(row.last_rules.as_ref());
            let keeps_as_much = match (promised, rules) {
                (Some(promised), Some(rules)) => !keeps_less(promised, rules),
                (Some(_), None) => false,
                (None, _) => !is_unknown,
            };
            let stricter = if keeps_as_much { rules } else { promised.or(rules) }.cloned();
            let goes_as_noted = noted.is_some_and(|noted| match (noted.state, row.state) {
                (ItemState::SoftDeleted, ItemState::SoftDeleted) => noted.purge_at <= row.purge_at,
                (_, ItemState::SoftDeleted) => false,
                (noted, known) => noted.retention_mode() == known.retention_mode(),
            });
            let keeps_all =
                row.state.retention_mode() == RetentionMode::KeepAll && row.state != ItemState::SoftDeleted;
            if row.policy.is_none() {
                row.last_rules.clone_from(&stricter);
            }
            is_stopped = !(keeps_all || goes_as_noted && keeps_as_much);
            if is_stopped {
                row.state = ItemState::ProtectionStopped;
                row.policy = None;
                row.last_rules = stricter;
                (row.deleted_at, row.purge_at) = (None, None);
            }
            Ok(Vec::new())
        })?;
        if is_stopped {
            tracing::warn!(
                vault = vault.name,
                machine = item.machine_name,
                "the vault keeps more of it than the catalog would: its protection is stopped, and all its points are kept until it is resumed"
            );
        }
    }
    Ok(())
}
