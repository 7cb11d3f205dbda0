//! What the service leaves in each vault, so that the vault explains itself: its settings, its policies, its items with
//! their states, and what the manifests of older points do not say of them.
//!
//! The catalog is the truth, and its transaction the commit point of any change; the notes follow it, soon. They are compared
//! with what the catalog says when the service starts and after each change, so one that could not be written, or was
//! damaged, is written again. No backup waits for them and none fails for them. Expiry waits for one: see [`ensure_points`].
//!
//! A catalog can be older than the notes: it was put back from a copy. Both count how often the notes were written, and a
//! vault whose count is the higher one knows better: see [`super::older_catalog`].

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::limits::{NOTE_ITEMS, RETENTION_INTERVAL};
use crate::vaults::noted::{self, NotedItem, NotedPoint, NotedPolicy, POLICIES, SETTINGS};
use crate::vaults::notes_state::{self, Notes};
use crate::vaults::{lookup as vaults, older_catalog, policy_rows};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Instant;
use strongroom_catalog::{Item, Point, Query, Transfer, Vault};
use strongroom_domain::retention::PointReason;
use strongroom_store::Vault as Store;
use uuid::Uuid;

/// Leaves in all vaults what is new to say of them.
pub(crate) fn keep(service: &Service) -> Result<()> {
    for vault in vaults::list(service, None)? {
        if service.life.is_stopping() {
            return Ok(());
        }
        if let Err(error) = keep_one(service, &vault) {
            tracing::warn!(vault = vault.name, %error, "the vault's notes of itself could not be written; they will be later");
        }
    }
    Ok(())
}

/// After a change, where nobody does it by itself.
pub(crate) fn changed(service: &Service, vault: &Vault) {
    if service.life.is_started() {
        return service.life.wake();
    }
    if let Err(error) = keep_one(service, vault) {
        tracing::warn!(vault = vault.name, %error, "the vault's notes of itself could not be written; the service will");
    }
}

/// For what is asked again and again: a vault that could not be looked at is left in peace for a while.
fn compare_now_and_then(service: &Service, vault: &Vault) -> Result<bool> {
    let tried = service.part::<Notes>().0.lock().get(&vault.id).and_then(|noted| noted.not_compared);
    if tried.is_some_and(|at| at.elapsed() < RETENTION_INTERVAL) {
        return Ok(notes_state::is_current(service, vault.id));
    }
    let compared = older_catalog::ensure_current(service, vault);
    let not_compared = compared.is_err().then(Instant::now);
    service.part::<Notes>().0.lock().entry(vault.id).or_default().not_compared = not_compared;
    compared.map(|()| true)
}

fn keep_one(service: &Service, vault: &Vault) -> Result<()> {
    if !compare_now_and_then(service, vault)? {
        return Ok(());
    }
    // As it is now.
    let Some(vault) = &service.catalog.get::<Vault>(vault.id)? else { return Ok(()) };
    let wanted = wanted(service, vault)?;
    let (new, waits) = {
        let mut all = service.part::<Notes>().0.lock();
        let noted = all.entry(vault.id).or_default();
        let new: Vec<(String, Value)> =
            wanted.iter().filter(|(name, value)| noted.there.get(name) != Some(value)).cloned().collect();
        let waits = noted
            .failed
            .as_ref()
            .is_some_and(|(tried, at)| *tried == wanted && at.elapsed() < RETENTION_INTERVAL);
        (new, waits)
    };
    if waits {
        return Ok(());
    }
    let write = || -> Result<()> {
        let mut is_counted = false;
        for (name, value) in &new {
            let store = service.store(vault)?;
            if !is_there(&store, name, value)? {
                if !is_counted {
                    older_catalog::count(service, vault, &store)?;
                    is_counted = true;
                }
                store.write_note(name, value)?;
            }
            let mut all = service.part::<Notes>().0.lock();
            all.entry(vault.id).or_default().there.insert(name.clone(), value.clone());
        }
        ensure_points(service, vault, None)
    };
    let done = write();
    let failed = done.is_err().then(|| (wanted, Instant::now()));
    service.part::<Notes>().0.lock().entry(vault.id).or_default().failed = failed;
    done
}

/// What the notes of a vault are to say, but for those of its points.
fn wanted(service: &Service, vault: &Vault) -> Result<Vec<(String, Value)>> {
    let all = policy_rows::list(service, vault)?;
    let names: HashMap<Uuid, &str> = all.iter().map(|p| (p.id, p.name.as_str())).collect();
    let mut items: Vec<Item> = service.catalog.find(&Query::all().eq("vault", vault.id))?;
    items.sort_by_key(|i| (i.protected_at, i.id));
    let noted: Vec<Value> =
        items.iter().map(|item| to_value(&noted_item(item, &names))).collect::<Result<_>>()?;
    let policies = all
        .iter()
        .map(|p| {
            to_value(&NotedPolicy {
                name: p.name.clone(),
                datasource: p.datasource,
                rules: p.rules.clone(),
                wire: p.wire.clone(),
                changed_at: p.changed_at,
            })
        })
        .collect::<Result<Vec<Value>>>()?;
    let mut wanted =
        vec![(POLICIES.to_owned(), json!({ "policies": policies })), (SETTINGS.to_owned(), settings(vault)?)];
    let parts = noted.len().div_ceil(NOTE_ITEMS).max(1);
    let mut chunks = noted.chunks(NOTE_ITEMS);
    for part in 1..=parts {
        let items = chunks.next().unwrap_or_default();
        wanted.push((noted::items_name(part), json!({ "parts": parts, "items": items })));
    }
    Ok(wanted)
}

fn to_value<T: Serialize>(what: &T) -> Result<Value> {
    serde_json::to_value(what).map_err(|e| Error::invalid(format!("a note cannot be written down: {e}")))
}

fn settings(vault: &Vault) -> Result<Value> {
    Ok(json!({
        "name": vault.name,
        "group": vault.group,
        "location": vault.location,
        "tags": vault.tags,
        "sku": vault.sku,
        "identity": vault.identity,
        "redundancy": to_value(&vault.redundancy)?,
        "cross_region_restore": vault.cross_region_restore,
        "soft_delete": to_value(&vault.soft_delete)?,
        "soft_delete_days": vault.soft_delete_days,
        "enhanced_security": to_value(&vault.enhanced_security)?,
        "immutability": to_value(&vault.immutability)?,
        "kept": vault.kept,
        "created_at": vault.created_at,
    }))
}

fn noted_item(item: &Item, policies: &HashMap<Uuid, &str>) -> NotedItem {
    NotedItem {
        item: item.store_item.clone(),
        datasource: item.datasource,
        machine: item.machine_name.clone(),
        group: item.group.clone(),
        machine_uuid: item.machine_uuid.clone(),
        state: item.state,
        policy: item.policy.and_then(|id| policies.get(&id)).map(|name| (*name).to_owned()),
        last_rules: item.last_rules.clone(),
        disks: item.disks.clone(),
        protected_at: item.protected_at,
        deleted_at: item.deleted_at,
        purge_at: item.purge_at,
        data_id: item.data_id.clone(),
    }
}

/// Whether a note is there as it should be.
fn is_there(store: &Store, name: &str, note: &Value) -> Result<bool> {
    match store.read_note(name) {
        Ok(there) => Ok(there.as_ref() == Some(note)),
        Err(error) if error.is_damage() => {
            tracing::warn!(name, %error, "writing the vault's note anew");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Notes what the manifests of a vault's older points do not say, once for the whole vault, and then of `item`. An error:
/// it is not there, and nothing of the vault may expire; it is tried again the next time.
pub(crate) fn ensure_points(service: &Service, vault: &Vault, item: Option<&Item>) -> Result<()> {
    older_catalog::ensure_current(service, vault)?;
    let is_whole = service.part::<Notes>().0.lock().get(&vault.id).is_some_and(|noted| noted.whole);
    let items: Vec<Item> = match (is_whole, item) {
        (false, _) => service.catalog.find(&Query::all().eq("vault", vault.id))?,
        (true, Some(item)) => vec![item.clone()],
        (true, None) => return Ok(()),
    };
    for item in &items {
        note_points(service, vault, item)?;
    }
    service.part::<Notes>().0.lock().entry(vault.id).or_default().whole = true;
    Ok(())
}

fn note_points(service: &Service, vault: &Vault, item: &Item) -> Result<()> {
    let points: Vec<Point> = service.catalog.find(&Query::all().eq("item", item.id))?;
    // Of some nothing is known, and nobody gave a policy yet: there is nothing to say of them.
    let is_known = |p: &Point| {
        item.policy.is_some() || p.reason.is_some() || p.scheduled_for.is_some() || p.keep_until.is_some()
    };
    let old: Vec<&Point> = points
        .iter()
        .filter(|p| !p.kept_in_manifest && p.transfer == Transfer::Done && is_known(p))
        .collect();
    {
        let all = service.part::<Notes>().0.lock();
        let noted = all.get(&vault.id).map(|noted| &noted.points);
        if old.iter().all(|p| noted.is_some_and(|noted| noted.contains(&p.id))) {
            return Ok(());
        }
    }
    let store = service.store(vault)?;
    let name = noted::points_name(&store, &item.store_item);
    // What is said of points that are not known here stays.
    let mut said: Map<String, Value> = match store.read_note(&name) {
        Ok(Some(note)) => note["points"].as_object().cloned().unwrap_or_default(),
        Ok(None) => Map::new(),
        Err(error) if error.is_damage() => Map::new(),
        Err(error) => return Err(error.into()),
    };
    for point in &old {
        let reason = point.reason.or(match (point.scheduled_for, point.keep_until) {
            (Some(_), _) => Some(PointReason::Scheduled),
            (None, Some(_)) => Some(PointReason::OnDemand),
            (None, None) => None,
        });
        let noted = NotedPoint { reason, scheduled_for: point.scheduled_for, keep_until: point.keep_until };
        // What was known once is not taken back by who knows nothing.
        if noted.says_something() || !said.contains_key(&point.id.to_string()) {
            said.insert(point.id.to_string(), to_value(&noted)?);
        }
    }
    let note = json!({ "points": said });
    if !is_there(&store, &name, &note)? {
        store.write_note(&name, &note)?;
    }
    service.part::<Notes>().0.lock().entry(vault.id).or_default().points.extend(old.iter().map(|p| p.id));
    Ok(())
}
