//! Merging index runs, so that their number grows with the logarithm of the vault.
//!
//! Safe beside anyone and at any moment: the merged run is written before its sources go, two
//! merges of the same runs make the same records twice, and a reader that misses a run lists anew.

use super::run::{PackRow, Record, Run, encode};
use super::{INDEX_PREFIX, Index};
use crate::crypto::VaultKeys;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::limits::{INDEX_RUN_MAX_BYTES, INDEX_RUNS_PER_TIER};
use crate::objects::BlobStore;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Picks the runs to merge, if any: the smallest ones, once there are enough of similar size.
pub fn choose(keys: &VaultKeys, runs: &[Arc<Run>]) -> Vec<Arc<Run>> {
    let mut tiers: HashMap<u32, Vec<Arc<Run>>> = HashMap::new();
    for run in runs.iter().filter(|run| run.size_bytes < INDEX_RUN_MAX_BYTES / 2) {
        // A tier is a factor of eight in size.
        tiers.entry(run.size_bytes.max(1).ilog2() / 3).or_default().push(run.clone());
    }
    let Some(tier) = tiers.iter().filter(|(_, t)| t.len() >= INDEX_RUNS_PER_TIER).map(|(k, _)| *k).min()
    else {
        return Vec::new();
    };
    let mut chosen: Vec<Arc<Run>> = Vec::new();
    let mut size = 0;
    let mut candidates: Vec<Arc<Run>> =
        tiers.into_iter().filter(|(k, _)| *k <= tier).flat_map(|(_, t)| t).collect();
    candidates.sort_by_key(|run| run.size_bytes);
    for run in candidates {
        if size + run.size_bytes > INDEX_RUN_MAX_BYTES {
            break;
        }
        size += run.size_bytes;
        chosen.push(run);
    }
    // Damaged ones stay for a check to find.
    chosen.retain(|run| run.is_trusted(keys));
    if chosen.len() < 2 { Vec::new() } else { chosen }
}

/// Merges `sources` into one run called `index/NAME`, leaving out records of packs in `gone`, and
/// deletes the sources.
pub fn merge(
    store: &BlobStore,
    keys: &VaultKeys,
    index: &Index,
    sources: &[Arc<Run>],
    gone: &HashSet<PackId>,
    name: &str,
) -> Result<()> {
    // What is merged carries a new mac: damage would never be found again.
    if let Some(run) = sources.iter().find(|run| !run.is_trusted(keys)) {
        return Err(StoreError::corrupt(run.name.clone(), "its mac is wrong"));
    }
    let mut packs: Vec<PackRow> = Vec::new();
    let mut numbers: HashMap<PackId, u32> = HashMap::new();
    let mut records: Vec<Record> = Vec::new();
    for run in sources {
        run.for_each(|row, record| {
            if gone.contains(&row.id) {
                return;
            }
            let pack = *numbers.entry(row.id).or_insert_with(|| {
                packs.push(*row);
                packs.len() as u32 - 1
            });
            records.push(Record { pack, ..record });
        })
        .map_err(|detail| StoreError::corrupt(run.name.clone(), detail))?;
    }
    records.sort_unstable_by_key(|r| (r.id, r.pack, r.offset, r.slot));
    records.dedup();
    if !records.is_empty() {
        let count = records.len() as u64;
        let bytes = encode(keys, &packs, count, records.into_iter());
        let (name, bytes) = (format!("{INDEX_PREFIX}{name}"), Bytes::from(bytes));
        store.put_new(&name, bytes.clone())?;
        index.keep(store, &name, &bytes);
    }
    for run in sources {
        store.delete(&run.name)?;
    }
    index.refresh(store, keys)
}
