//! The commit log: which session was about to commit which point. Its entries are numbered without a gap and created if
//! absent, so that a listing that comes back short, or a store that denies what it has, hides none of them. See
//! `docs/vault-format.md`, section 9.

use crate::error::{Result, StoreError};
use crate::limits::RECORD_MAX_BYTES;
use crate::lists;
use crate::objects::{Kind, Questions};
use crate::record;
use crate::roll::{self, RollState};
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use strongroom_domain::{PointId, SessionId};

pub const COMMITS_PREFIX: &str = "commits/";

/// The point that a session commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub point: PointId,
    pub item_key: String,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub session: SessionId,
    /// None: it only says how far the log went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

pub fn object_name(number: u64) -> String {
    format!("{COMMITS_PREFIX}{number:016x}")
}

fn parse_object_name(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_prefix(COMMITS_PREFIX)?, 16).ok()?;
    (object_name(number) == name).then_some(number)
}

/// What [`add`] asks before it adds.
pub fn questions() -> Questions {
    Questions::default().get(lists::LISTS_NAME, RECORD_MAX_BYTES).list(COMMITS_PREFIX)
}

/// What [`add`] asks after these: the last entry there is, by a listing that was asked for.
pub fn end_question(asked: &Vault) -> Questions {
    let listed = asked.objects().list(COMMITS_PREFIX).unwrap_or_default();
    match listed.iter().filter_map(|object| parse_object_name(&object.name)).max() {
        Some(last) => Questions::default().get(object_name(last), RECORD_MAX_BYTES),
        None => Questions::default(),
    }
}

/// Adds an entry; its number. When it returns there is no entry with a higher number, and there was none with this one.
pub fn add(vault: &Vault, entry: &Entry) -> Result<u64> {
    let mut number = last_known(vault)? + 1;
    loop {
        let name = object_name(number);
        match vault.objects().put_new(&name, record::encode(vault.keys(), &name, entry)?) {
            Ok(()) => {
                vault.last_commit().store(number, Ordering::Relaxed);
                return Ok(number);
            }
            Err(e) if e.kind == Kind::AlreadyExists => number += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// A number up to which there are, or were, entries; as high a one as can be had cheaply.
fn last_known(vault: &Vault) -> Result<u64> {
    let accounted = match lists::load(vault)? {
        Some(lists) => lists.accounted,
        None => match roll::load(vault)? {
            RollState::Known { roll, .. } => roll.accounted,
            RollState::Unknown { .. } => 0,
        },
    };
    let seen = vault.last_commit().load(Ordering::Relaxed);
    if seen > 0 && seen <= accounted {
        return Ok(accounted);
    }
    // It may be gone with a file system that was put back to an earlier state.
    if seen > 0 && matches!(load(vault, seen), Ok(Some(_))) {
        return Ok(seen);
    }
    // A listing that leaves some out costs more attempts, nothing else.
    last_listed(vault, accounted)
}

/// The highest number that a listing shows; `accounted` if there is none above it.
fn last_listed(vault: &Vault, accounted: u64) -> Result<u64> {
    let mut listed = BTreeSet::new();
    for object in vault.objects().list(COMMITS_PREFIX)? {
        listed.extend(parse_object_name(&object.name));
    }
    for number in listed.range(accounted + 1..).rev() {
        // Only one that was written with the vault's key stands for all before it.
        if matches!(load(vault, *number), Ok(Some(_))) {
            return Ok(*number);
        }
    }
    Ok(accounted)
}

/// None if the store says that it is not there.
fn load(vault: &Vault, number: u64) -> Result<Option<Entry>> {
    match record::load(vault.objects(), vault.keys(), &object_name(number)) {
        Ok(entry) => Ok(Some(entry)),
        Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The entries after a number, as far as they were read.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub entries: BTreeMap<u64, Entry>,
    /// Objects of entries that cannot be read: they say nothing.
    pub damaged: Vec<String>,
    /// Whether any was passed over that is not there.
    pub has_gaps: bool,
}

impl Log {
    /// Reads on, to an entry that is added for that: what is not in the log then was not in it when this was called.
    /// `accounted`: entries up to it do not matter. `as_listed`: those that cannot be had do not either.
    pub fn read_to_end(
        &mut self,
        vault: &Vault,
        session: SessionId,
        accounted: u64,
        as_listed: bool,
    ) -> Result<()> {
        let end = Entry { session, commit: None };
        let number = add(vault, &end)?;
        let first = self.entries.last_key_value().map_or(accounted, |(last, _)| *last) + 1;
        for number in first..number {
            match load(vault, number) {
                Ok(Some(entry)) => {
                    self.entries.insert(number, entry);
                }
                Ok(None) if as_listed => self.has_gaps = true,
                Ok(None) => {
                    let detail =
                        format!("{} is said not to be there, and a later entry is", object_name(number));
                    return Err(roll::unknown(vault, &detail));
                }
                // Cut short while it was written, or damaged since: then its point is known as long as it is listed.
                Err(e) if e.is_damage() => {
                    tracing::warn!("{e}; passing it over");
                    self.damaged.push(object_name(number));
                }
                Err(e) => return Err(e),
            }
        }
        self.entries.insert(number, end);
        Ok(())
    }
}

/// What the log says without a claim on its end: for somebody who frees nothing by it.
#[derive(Debug, Default)]
pub struct Known {
    pub commits: Vec<(SessionId, Commit)>,
    /// Numbers of entries that are not there though later ones are.
    pub missing: Vec<u64>,
}

/// The entries that are not accounted for, as far as a listing and reading on show any.
pub fn known(vault: &Vault, accounted: u64) -> Result<Known> {
    let last = last_listed(vault, accounted)?;
    let mut known = Known::default();
    for number in accounted + 1.. {
        match load(vault, number) {
            Ok(Some(Entry { session, commit })) => {
                known.commits.extend(commit.map(|commit| (session, commit)));
            }
            Ok(None) if number > last => break,
            Ok(None) => known.missing.push(number),
            Err(e) if e.is_damage() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(known)
}

/// When an entry was written, by the store's clock; none if the store says that it is not there.
pub fn written_at(vault: &Vault, number: u64) -> Result<Option<SystemTime>> {
    Ok(vault.objects().head(&object_name(number))?.map(|info| info.last_modified))
}

/// Objects of entries up to a number, with when they were written.
pub fn list_up_to(vault: &Vault, number: u64) -> Result<Vec<(String, SystemTime)>> {
    let listed = vault.objects().list(COMMITS_PREFIX)?.into_iter();
    let old = listed.filter(|object| parse_object_name(&object.name).is_some_and(|of| of <= number));
    Ok(old.map(|object| (object.name, object.last_modified)).collect())
}
