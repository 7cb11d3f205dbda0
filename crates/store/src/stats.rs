//! How full a vault is, and how well it does.

use crate::error::Result;
use crate::frame::{FrameKind, PackId};
use crate::vault::Vault;
use serde::Serialize;
use std::collections::HashSet;

/// Figures of a vault, in bytes where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Points whose manifest can be read.
    pub points: u64,
    /// Items that such points are of.
    pub items: u64,
    /// Points whose manifest cannot be read.
    pub damaged_points: u64,
    /// The sizes of all disks of all points: what restoring everything would make.
    pub logical_bytes: u64,
    /// Different blocks held, before compression: what is left of it after deduplication and holes.
    pub deduplicated_bytes: u64,
    /// The packs that hold them, after compression and encryption.
    pub compressed_bytes: u64,
    /// Everything the vault occupies.
    pub stored_bytes: u64,
    /// How many there are, also of those that are condemned.
    pub packs: u64,
    /// How many the index is made of.
    pub index_runs: u64,
    /// Of the stored bytes, those in packs that a reclaim has condemned but not deleted yet.
    pub condemned_bytes: u64,
}

impl Vault {
    /// Gathers the figures. Reads manifests, lists and the index, no data.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let list = self.points(None)?;
        stats.points = list.points.len() as u64;
        stats.damaged_points = list.damaged.len() as u64;
        stats.items = list.points.iter().map(|p| &p.item).collect::<HashSet<_>>().len() as u64;
        stats.logical_bytes = list.points.iter().flat_map(|p| &p.disks).map(|d| d.size_bytes).sum();
        let index = self.index()?;
        let condemned = index.excluded().condemned;
        self.objects().for_each("", |object| {
            stats.stored_bytes += object.size_bytes;
            if let Some(pack) = PackId::from_object_name(&object.name) {
                stats.packs += 1;
                stats.compressed_bytes += object.size_bytes;
                if condemned.contains(&pack) {
                    stats.condemned_bytes += object.size_bytes;
                }
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let mut blocks = 0u64;
        for run in index.runs() {
            stats.index_runs += 1;
            run.for_each(|row, record| {
                blocks += u64::from(record.kind == FrameKind::Blocks as u8 && !condemned.contains(&row.id));
            })
            .map_err(|detail| crate::StoreError::corrupt(run.name.clone(), detail))?;
        }
        stats.deduplicated_bytes = blocks * u64::from(self.block_size_bytes());
        Ok(stats)
    }
}
