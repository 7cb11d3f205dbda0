//! What is known of each vault's notes while the service lives.

use crate::core::service::Service;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::time::Instant;
use strongroom_domain::PointId;
use uuid::Uuid;

/// What was written of each vault.
#[derive(Default)]
pub(crate) struct Notes(pub(super) Mutex<HashMap<Uuid, Noted>>);

#[derive(Default)]
pub(super) struct Noted {
    /// What is in the vault, by the notes' names.
    pub there: HashMap<String, Value>,
    /// What could not be written the last time, and when that was.
    pub failed: Option<(Vec<(String, Value)>, Instant)>,
    /// All of the vault's points were looked at once.
    pub whole: bool,
    /// The catalog is not older than the notes.
    pub is_current: bool,
    /// When that could not be found out the last time.
    pub not_compared: Option<Instant>,
    /// Points that are noted.
    pub points: HashSet<PointId>,
}

/// Whether it is known that the catalog is not older than the vault's notes.
pub(crate) fn is_current(service: &Service, vault: Uuid) -> bool {
    service.part::<Notes>().0.lock().get(&vault).is_some_and(|noted| noted.is_current)
}

pub(crate) fn set_current(service: &Service, vault: Uuid) {
    service.part::<Notes>().0.lock().entry(vault).or_default().is_current = true;
}

/// A point came that its manifest does not say enough of.
pub(crate) fn look_again(service: &Service, vault: Uuid) {
    service.part::<Notes>().0.lock().entry(vault).or_default().whole = false;
}
