//! What a vault says of itself, as it is read: the forms of its notes, and what becomes of one that is not understood.

use crate::core::error::Result;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use strongroom_catalog::{DiskChoice, Immutability, SoftDelete, Vault};
use strongroom_domain::item::ItemState;
use strongroom_domain::limits::SOFT_DELETE_DAYS;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::retention::PointReason;
use strongroom_domain::{Datasource, ItemName, PointId};
use strongroom_store::Vault as Store;

/// The notes' names, and their forms: see `docs/vault-format.md`, section 8.
pub(super) const POLICIES: &str = "policies";

pub(super) const SETTINGS: &str = "settings";

pub(super) const ITEMS: &str = "items";

pub(super) const POINTS: &str = "points-";

/// A policy as a vault says it.
#[derive(Serialize, Deserialize)]
pub(crate) struct NotedPolicy {
    pub name: String,
    #[serde(default)]
    pub datasource: Datasource,
    pub rules: Rules,
    #[serde(default)]
    pub wire: Value,
    pub changed_at: Timestamp,
}

/// An item as a vault says it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NotedItem {
    pub item: ItemName,
    #[serde(default)]
    pub datasource: Datasource,
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
pub(crate) struct NotedPoint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PointReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
}

impl NotedPoint {
    pub(crate) fn says_something(&self) -> bool {
        self.reason.is_some() || self.scheduled_for.is_some() || self.keep_until.is_some()
    }
}

/// A note has a largest size: many items are in several.
pub(super) fn items_name(part: usize) -> String {
    if part == 1 { ITEMS.to_owned() } else { format!("{ITEMS}-{part}") }
}

pub(super) fn points_name(store: &Store, item: &ItemName) -> String {
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
pub(crate) fn policies_in(store: &Store, passed_over: &mut Vec<String>) -> Result<Option<Vec<NotedPolicy>>> {
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
pub(crate) enum NotedSettings {
    /// It is from before they were noted.
    Missing,
    /// They are there, and cannot be read.
    Damaged,
    There(Map<String, Value>),
}

pub(crate) fn settings_in(store: &Store, passed_over: &mut Vec<String>) -> Result<NotedSettings> {
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

/// The items that a vault names, by their names in it. None: it is from before they were noted, or the note is damaged.
pub(crate) fn items_in(
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
pub(crate) fn points_in(
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

/// One setting, if it is there and understood; what is there and is not is told.
pub(crate) fn setting<T: DeserializeOwned>(
    settings: &Map<String, Value>,
    name: &str,
    passed_over: &mut Vec<String>,
) -> Option<T> {
    let value = settings.get(name)?.clone();
    serde_json::from_value(value)
        .map_err(|error| passed_over.push(format!("the vault's setting `{name}`: {error}")))
        .ok()
}

/// Takes in what the vault says of its settings. Whether it does. What protects data, and cannot be read, is as strict as what
/// can be taken back. So is what is not there, although it should be: a service that noted the vault's items noted its settings too.
pub(crate) fn take_settings(
    vault: &mut Vault,
    store: &strongroom_store::Vault,
    has_noted_items: bool,
    passed_over: &mut Vec<String>,
) -> Result<bool> {
    let (settings, is_there) = match settings_in(store, passed_over)? {
        NotedSettings::Missing if !has_noted_items => return Ok(false),
        NotedSettings::Missing | NotedSettings::Damaged => (Map::new(), false),
        NotedSettings::There(settings) => (settings, true),
    };
    let mut strict = Vec::new();
    macro_rules! take {
        ($field:ident) => {
            if let Some(value) = setting(&settings, stringify!($field), passed_over) {
                vault.$field = value;
            }
        };
        ($field:ident or $strict:expr) => {
            vault.$field = match setting(&settings, stringify!($field), passed_over) {
                Some(value) => value,
                None => {
                    strict.push(stringify!($field));
                    $strict
                }
            };
        };
    }
    take!(tags);
    take!(sku);
    take!(identity);
    take!(redundancy);
    take!(cross_region_restore);
    take!(kept);
    take!(created_at);
    take!(soft_delete or SoftDelete::Enabled);
    take!(enhanced_security or SoftDelete::Enabled);
    take!(soft_delete_days or SOFT_DELETE_DAYS.1);
    take!(immutability or Immutability::Unlocked);
    if !strict.is_empty() {
        passed_over.push(format!(
            "what the vault had as {} is not known: soft delete is on, for {} days, and the vault immutable, but not locked, where that was not read; look at them with `strongroom vault show`, and set them through the API, as `az backup vault update --immutability-state` and `az backup vault backup-properties set --soft-delete-feature-state … --soft-delete-duration …` do",
            strict.join(", "),
            vault.soft_delete_days,
        ));
    }
    Ok(is_there)
}
