//! What the service leaves in each vault, so that the vault explains itself: its settings, its policies, its items with
//! their states, and what the manifests of older points do not say of them.
//!
//! The catalog is the truth, and its transaction the commit point of any change; the notes follow it, soon. They are compared
//! with what the catalog says when the service starts and after each change, so one that could not be written, or was
//! damaged, is written again. No backup waits for them and none fails for them. Expiry waits for one: see [`ensure_points`].
//!
//! A catalog can be older than the notes: it was put back from a copy. Both count how often the notes were written, and a
//! vault whose count is the higher one knows better: see [`super::older_catalog`].

use super::{Service, import, older_catalog, policies, vaults};
use crate::error::{Error, Result};
use crate::limits::{NOTE_ITEMS, RETENTION_INTERVAL};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;
use strongroom_catalog::{DiskChoice, Immutability, Item, Point, Query, Transfer, Vault};
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::retention::PointReason;
use strongroom_domain::{ItemName, PointId};
use strongroom_store::Vault as Store;
use uuid::Uuid;

/// The notes' names, and their forms: see `docs/vault-format.md`, section 8.
const POLICIES: &str = "policies";
const SETTINGS: &str = "settings";
const ITEMS: &str = "items";
const POINTS: &str = "points-";

/// A policy as a vault says it.
#[derive(Serialize, Deserialize)]
pub(super) struct NotedPolicy {
    pub name: String,
    pub rules: Rules,
    #[serde(default)]
    pub wire: Value,
    pub changed_at: Timestamp,
}

/// An item as a vault says it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct NotedItem {
    pub item: ItemName,
    pub machine: String,
    pub group: String,
    pub machine_uuid: String,
    pub state: ItemState,
    /// By name.
    pub policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rules: Option<Rules>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<DiskChoice>,
    pub protected_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_at: Option<Timestamp>,
    pub data_id: String,
}

/// Why a point was made and until when it is kept, where its manifest does not say so. All may be missing: nobody knows, and
/// somebody gave its item a policy that it goes by.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct NotedPoint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PointReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
}

impl NotedPoint {
    pub(super) fn says_something(&self) -> bool {
        self.reason.is_some() || self.scheduled_for.is_some() || self.keep_until.is_some()
    }
}

/// What was written of each vault.
#[derive(Default)]
pub struct Notes(Mutex<HashMap<Uuid, Noted>>);

#[derive(Default)]
struct Noted {
    /// What is in the vault, by the notes' names.
    there: HashMap<String, Value>,
    /// What could not be written the last time, and when that was.
    failed: Option<(Vec<(String, Value)>, Instant)>,
    /// All of the vault's points were looked at once.
    whole: bool,
    /// The catalog is not older than the notes.
    is_current: bool,
    /// When that could not be found out the last time.
    not_compared: Option<Instant>,
    /// Points that are noted.
    points: HashSet<PointId>,
}

/// Leaves in all vaults what is new to say of them.
pub(super) fn keep(service: &Service) -> Result<()> {
    for vault in vaults::list(service, None)? {
        if service.runner.is_stopping() {
            return Ok(());
        }
        if let Err(error) = keep_one(service, &vault) {
            tracing::warn!(vault = vault.name, %error, "the vault's notes of itself could not be written; they will be later");
        }
    }
    Ok(())
}

/// After a change, where nobody does it by itself.
pub(super) fn changed(service: &Service, vault: &Vault) {
    if service.runner.is_started() {
        return service.runner.wake();
    }
    if let Err(error) = keep_one(service, vault) {
        tracing::warn!(vault = vault.name, %error, "the vault's notes of itself could not be written; the service will");
    }
}

/// Whether it is known that the catalog is not older than the vault's notes.
pub(super) fn is_current(service: &Service, vault: Uuid) -> bool {
    service.notes.0.lock().get(&vault).is_some_and(|noted| noted.is_current)
}

pub(super) fn set_current(service: &Service, vault: Uuid) {
    service.notes.0.lock().entry(vault).or_default().is_current = true;
}

/// For what is asked again and again: a vault that could not be looked at is left in peace for a while.
fn compare_now_and_then(service: &Service, vault: &Vault) -> Result<bool> {
    let tried = service.notes.0.lock().get(&vault.id).and_then(|noted| noted.not_compared);
    if tried.is_some_and(|at| at.elapsed() < RETENTION_INTERVAL) {
        return Ok(is_current(service, vault.id));
    }
    let compared = older_catalog::ensure_current(service, vault);
    let not_compared = compared.is_err().then(Instant::now);
    service.notes.0.lock().entry(vault.id).or_default().not_compared = not_compared;
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
        let mut all = service.notes.0.lock();
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
            let mut all = service.notes.0.lock();
            all.entry(vault.id).or_default().there.insert(name.clone(), value.clone());
        }
        ensure_points(service, vault, None)
    };
    let done = write();
    let failed = done.is_err().then(|| (wanted, Instant::now()));
    service.notes.0.lock().entry(vault.id).or_default().failed = failed;
    done
}

/// What the notes of a vault are to say, but for those of its points.
fn wanted(service: &Service, vault: &Vault) -> Result<Vec<(String, Value)>> {
    let all = policies::list(service, vault)?;
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
        wanted.push((items_name(part), json!({ "parts": parts, "items": items })));
    }
    Ok(wanted)
}

/// A note has a largest size: many items are in several.
fn items_name(part: usize) -> String {
    if part == 1 { ITEMS.to_owned() } else { format!("{ITEMS}-{part}") }
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
pub(super) fn ensure_points(service: &Service, vault: &Vault, item: Option<&Item>) -> Result<()> {
    older_catalog::ensure_current(service, vault)?;
    let is_whole = service.notes.0.lock().get(&vault.id).is_some_and(|noted| noted.whole);
    let items: Vec<Item> = match (is_whole, item) {
        (false, _) => service.catalog.find(&Query::all().eq("vault", vault.id))?,
        (true, Some(item)) => vec![item.clone()],
        (true, None) => return Ok(()),
    };
    for item in &items {
        note_points(service, vault, item)?;
    }
    service.notes.0.lock().entry(vault.id).or_default().whole = true;
    Ok(())
}

/// A point came that its manifest does not say enough of.
pub(super) fn look_again(service: &Service, vault: Uuid) {
    service.notes.0.lock().entry(vault).or_default().whole = false;
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
        let all = service.notes.0.lock();
        let noted = all.get(&vault.id).map(|noted| &noted.points);
        if old.iter().all(|p| noted.is_some_and(|noted| noted.contains(&p.id))) {
            return Ok(());
        }
    }
    let store = service.store(vault)?;
    let name = points_name(&store, &item.store_item);
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
    service.notes.0.lock().entry(vault.id).or_default().points.extend(old.iter().map(|p| p.id));
    Ok(())
}

fn points_name(store: &Store, item: &ItemName) -> String {
    format!("{POINTS}{}", store.item_key(item))
}

/// A note as it is read: missing, or not to be read, are two things.
enum Read {
    Missing,
    Damaged,
    There(Value),
}

fn read(store: &Store, name: &str, what: &str, passed_over: &mut Vec<String>) -> Result<Read> {
    match store.read_note(name) {
        Ok(Some(note)) => Ok(Read::There(note)),
        Ok(None) => Ok(Read::Missing),
        Err(error) if error.is_damage() => {
            passed_over.push(format!("{what}: {error}"));
            Ok(Read::Damaged)
        }
        Err(error) => Err(error.into()),
    }
}

/// The list under `field` of a note.
fn list_of(note: Value, field: &str, what: &str, passed_over: &mut Vec<String>) -> Option<Vec<Value>> {
    match note {
        Value::Object(mut note) => match note.remove(field) {
            Some(Value::Array(list)) => Some(list),
            _ => {
                passed_over.push(format!("{what}: the vault's note of them has no list `{field}`"));
                None
            }
        },
        _ => {
            passed_over.push(format!("{what}: the vault's note of them is not understood"));
            None
        }
    }
}

/// The policies that a vault names, if it names any; what of them is not understood is told.
pub(super) fn policies_in(store: &Store, passed_over: &mut Vec<String>) -> Result<Option<Vec<NotedPolicy>>> {
    let Read::There(note) = read(store, POLICIES, "the policies", passed_over)? else { return Ok(None) };
    let Some(entries) = list_of(note, "policies", "the policies", passed_over) else { return Ok(None) };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry["name"].as_str().unwrap_or("without a name").to_owned();
        match serde_json::from_value::<NotedPolicy>(entry) {
            Ok(policy) => found.push(policy),
            Err(error) => passed_over.push(format!("policy {}: {error}", name.escape_debug())),
        }
    }
    Ok(Some(found))
}

/// What a vault says of its settings.
pub(super) enum NotedSettings {
    /// It is from before they were noted.
    Missing,
    /// They are there, and cannot be read.
    Damaged,
    There(Map<String, Value>),
}

pub(super) fn settings_in(store: &Store, passed_over: &mut Vec<String>) -> Result<NotedSettings> {
    Ok(match read(store, SETTINGS, "the settings", passed_over)? {
        Read::Missing => NotedSettings::Missing,
        Read::Damaged => NotedSettings::Damaged,
        Read::There(Value::Object(settings)) => NotedSettings::There(settings),
        Read::There(_) => {
            passed_over.push("the settings: the vault's note of them is not understood".into());
            NotedSettings::Damaged
        }
    })
}

/// Whether a vault says of itself that its points are not to go before their time. One that says it in words that cannot be
/// read does.
pub(crate) fn says_immutable(store: &Store) -> Result<bool> {
    let mut passed_over = Vec::new();
    Ok(match settings_in(store, &mut passed_over)? {
        NotedSettings::Missing => false,
        NotedSettings::Damaged => true,
        NotedSettings::There(settings) => {
            settings.contains_key("immutability")
                && import::setting::<Immutability>(&settings, "immutability", &mut passed_over)
                    != Some(Immutability::Disabled)
        }
    })
}

/// The items that a vault names, by their names in it. None: it is from before they were noted, or the note is damaged.
pub(super) fn items_in(
    store: &Store,
    passed_over: &mut Vec<String>,
) -> Result<Option<BTreeMap<ItemName, NotedItem>>> {
    let mut found: Option<BTreeMap<ItemName, NotedItem>> = None;
    let mut part = 1;
    loop {
        let what = "the machines";
        let Read::There(note) = read(store, &items_name(part), what, passed_over)? else { break };
        let parts = note["parts"].as_u64().unwrap_or(1) as usize;
        let Some(entries) = list_of(note, "items", what, passed_over) else { break };
        let found = found.get_or_insert_default();
        for entry in entries {
            let name = entry["machine"].as_str().unwrap_or("without a name").to_owned();
            match serde_json::from_value::<NotedItem>(entry) {
                Ok(item) => {
                    found.entry(item.item.clone()).or_insert(item);
                }
                Err(error) => passed_over.push(format!("machine {}: {error}", name.escape_debug())),
            }
        }
        if part >= parts {
            break;
        }
        part += 1;
    }
    Ok(found)
}

/// What a vault says of an item's points beside their manifests.
pub(super) fn points_in(
    store: &Store,
    item: &ItemName,
    passed_over: &mut Vec<String>,
) -> Result<HashMap<PointId, NotedPoint>> {
    let what = format!("how long older points of {item} are kept");
    let Read::There(note) = read(store, &points_name(store, item), &what, passed_over)? else {
        return Ok(HashMap::new());
    };
    let mut found = HashMap::new();
    for (id, entry) in note["points"].as_object().cloned().unwrap_or_default() {
        match (id.parse::<PointId>(), serde_json::from_value::<NotedPoint>(entry)) {
            (Ok(id), Ok(noted)) => drop(found.insert(id, noted)),
            (_, Err(error)) => {
                passed_over.push(format!("how long point {} is kept: {error}", id.escape_debug()))
            }
            (Err(error), _) => {
                passed_over.push(format!("how long point {} is kept: {error}", id.escape_debug()))
            }
        }
    }
    Ok(found)
}
