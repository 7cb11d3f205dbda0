//! Which condemned lists are in force, under a name that can be asked for: a listing of them may come back short, and
//! whoever builds on packs that are about to go would lose what it stores. See `docs/vault-format.md`, section 7.

use crate::error::{Result, StoreError};
use crate::marker;
use crate::objects::Kind;
use crate::record;
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const LISTS_NAME: &str = "lists";
/// Where condemned lists are.
pub const CONDEMNED_PREFIX: &str = "condemned/";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// How many lists there have been: tells whether one came since one looked.
    pub written: u64,
    /// Objects of the lists in force.
    pub names: BTreeSet<String>,
    /// Entries of the commit log up to this number are accounted for in the roll. Here for sessions, which need not
    /// read all of that.
    #[serde(default)]
    pub accounted: u64,
}

/// Up to where the commit log is accounted for, where the roll does not say it: 0 if this does not either.
pub fn accounted(vault: &Vault) -> Result<u64> {
    Ok(load(vault)?.map_or(0, |lists| lists.accounted))
}

/// None if it cannot be told: the object is missing or damaged.
pub fn load(vault: &Vault) -> Result<Option<Lists>> {
    match record::load(vault.objects(), vault.keys(), LISTS_NAME) {
        Ok(lists) => Ok(Some(lists)),
        Err(StoreError::Object(e)) if matches!(e.kind, Kind::NotFound | Kind::TooLarge) => Ok(None),
        Err(e) if e.is_damage() => Ok(None),
        Err(e) => Err(e),
    }
}

pub fn save(vault: &Vault, lists: &Lists) -> Result<()> {
    marker::check(vault)?;
    Ok(vault.objects().put(LISTS_NAME, record::encode(vault.keys(), LISTS_NAME, lists)?)?)
}

/// For a vault that may have none yet: what a listing shows, too. `accounted`: as the roll says.
pub fn begin(vault: &Vault, accounted: u64) -> Result<()> {
    let listed = vault.objects().list(CONDEMNED_PREFIX)?;
    let mut lists = load(vault)?.unwrap_or_default();
    lists.names.extend(listed.into_iter().map(|object| object.name));
    lists.written = lists.written.max(lists.names.len() as u64);
    lists.accounted = lists.accounted.max(accounted);
    Ok(vault.objects().put(LISTS_NAME, record::encode(vault.keys(), LISTS_NAME, &lists)?)?)
}
