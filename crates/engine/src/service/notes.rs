//! What the service leaves in each vault, so that the vault explains itself: its policies, as they are now.
//!
//! The catalog is the truth, and its transaction the commit point of any change; the note follows it, soon. It is compared
//! with what the catalog says when the service starts and after each change, so one that could not be written, or was
//! damaged, is written again. Nothing waits for it, and no backup fails for it.

use super::{Service, policies, vaults};
use crate::error::{Error, Result};
use crate::limits::RETENTION_INTERVAL;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Instant;
use strongroom_catalog::service::{Policy, Vault};
use strongroom_domain::policy::Policy as Rules;
use strongroom_store::Vault as Store;
use uuid::Uuid;

/// The note's name, and its form: see `docs/vault-format.md`, section 8.
const POLICIES: &str = "policies";

#[derive(Serialize, Deserialize)]
struct PoliciesNote<P> {
    policies: Vec<P>,
}

/// A policy as a vault says it.
#[derive(Serialize, Deserialize)]
pub(super) struct NotedPolicy {
    pub name: String,
    pub rules: Rules,
    #[serde(default)]
    pub wire: Value,
    pub changed_at: Timestamp,
}

/// What was written of each vault.
#[derive(Default)]
pub struct Notes(Mutex<HashMap<Uuid, Noted>>);

struct Noted {
    /// Which versions of which policies.
    what: Vec<(Uuid, i64)>,
    tried_at: Instant,
    is_there: bool,
}

/// Leaves in all vaults what is new to say of them.
pub(super) fn keep(service: &Service) -> Result<()> {
    for vault in vaults::list(service, None)? {
        if service.runner.is_stopping() {
            return Ok(());
        }
        if let Err(error) = keep_one(service, &vault) {
            tracing::warn!(vault = vault.name, %error, "the vault's note of its policies could not be written; it will be later");
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
        tracing::warn!(vault = vault.name, %error, "the vault's note of its policies could not be written; the service will");
    }
}

fn keep_one(service: &Service, vault: &Vault) -> Result<()> {
    let all = policies::list(service, vault)?;
    let what: Vec<(Uuid, i64)> = all.iter().map(|p| (p.id, p.version)).collect();
    if let Some(noted) = service.notes.0.lock().get(&vault.id) {
        let waits = !noted.is_there && noted.tried_at.elapsed() < RETENTION_INTERVAL;
        if noted.what == what && (noted.is_there || waits) {
            return Ok(());
        }
    }
    let done = service.store(vault).and_then(|store| write(&store, &all));
    let noted = Noted { what, tried_at: Instant::now(), is_there: done.is_ok() };
    service.notes.0.lock().insert(vault.id, noted);
    done
}

fn write(store: &Store, all: &[Policy]) -> Result<()> {
    let policies = all
        .iter()
        .map(|p| NotedPolicy {
            name: p.name.clone(),
            rules: p.rules.clone(),
            wire: p.wire.clone(),
            changed_at: p.changed_at,
        })
        .collect();
    let note = serde_json::to_value(PoliciesNote::<NotedPolicy> { policies })
        .map_err(|e| Error::invalid(format!("a policy cannot be written down: {e}")))?;
    match store.read_note(POLICIES) {
        Ok(Some(there)) if there == note => return Ok(()),
        Ok(_) => {}
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "writing the vault's note of its policies anew")
        }
        Err(error) => return Err(error.into()),
    }
    Ok(store.write_note(POLICIES, &note)?)
}

/// The policies that a vault names, if it names any, and what of them is not understood.
pub(super) fn policies_in(store: &Store) -> Result<(Option<Vec<NotedPolicy>>, Vec<String>)> {
    let note = match store.read_note(POLICIES) {
        Ok(Some(note)) => note,
        Ok(None) => return Ok((None, Vec::new())),
        Err(error) if error.is_damage() => return Ok((None, vec![format!("the policies: {error}")])),
        Err(error) => return Err(error.into()),
    };
    let entries: PoliciesNote<Value> = match serde_json::from_value(note) {
        Ok(note) => note,
        Err(error) => return Ok((None, vec![format!("the policies: {error}")])),
    };
    let (mut found, mut passed_over) = (Vec::new(), Vec::new());
    for entry in entries.policies {
        let name = entry["name"].as_str().unwrap_or("without a name").to_owned();
        match serde_json::from_value::<NotedPolicy>(entry) {
            Ok(policy) => found.push(policy),
            Err(error) => passed_over.push(format!("policy {}: {error}", name.escape_debug())),
        }
    }
    Ok((Some(found), passed_over))
}
