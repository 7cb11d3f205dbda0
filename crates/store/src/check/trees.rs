//! Trees: whether every node and every block of every point is somewhere, and which points miss what is not.

use super::report::TouchedPoint;
use super::run::Run;
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::{Index, Location};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::tree::NodeSource as _;
use std::collections::{BTreeSet, HashMap, HashSet};

const NO_PLACE: &str = "no sound place of the vault holds it";

/// What walking the trees found.
#[derive(Default)]
pub struct TreeFaults {
    /// Ids that no place of the vault holds in a readable way.
    pub lost: HashMap<Id, String>,
}

impl Run<'_> {
    /// Walks every tree once, shared parts once for all, and looks every block up.
    pub(super) fn trees(
        &mut self,
        points: &[Manifest],
        index: &Index,
        progress: &Progress,
    ) -> Result<TreeFaults> {
        let mut faults = TreeFaults::default();
        let mut seen: HashSet<Id> = HashSet::new();
        for manifest in points {
            for disk in &manifest.disks {
                let mut stack: Vec<Id> = disk.root.iter().map(|root| root.0).collect();
                while let Some(id) = stack.pop() {
                    if !seen.insert(id) {
                        continue;
                    }
                    progress.check()?;
                    self.place(&id, index, &mut faults)?;
                    match self.vault.node(&id) {
                        Ok(node) => {
                            self.report.nodes += 1;
                            for (_, child) in node.present() {
                                if node.level > 0 {
                                    stack.push(child);
                                } else {
                                    self.place(&child, index, &mut faults)?;
                                }
                            }
                        }
                        Err(StoreError::Corrupt { object, detail }) => {
                            faults.lost.insert(id, format!("{object}: {detail}"));
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(faults)
    }

    /// Notes an id that no sound place holds.
    fn place(&self, id: &Id, index: &Index, faults: &mut TreeFaults) -> Result<()> {
        if !self.has_place(id, index)? {
            faults.lost.insert(*id, NO_PLACE.into());
        }
        Ok(())
    }

    /// A condemned pack that is still there counts: reclaim moves what points need before it deletes it.
    fn has_place(&self, id: &Id, index: &Index) -> Result<bool> {
        if index.good_place(id).is_some() {
            return Ok(true);
        }
        let excluded = index.excluded();
        let is_waiting = |place: &Location| {
            excluded.condemned.contains(&place.pack)
                && self.sizes.contains_key(&place.pack)
                && !excluded.is_damaged(&place.pack, place.offset)
        };
        Ok(index.places(id).iter().any(is_waiting) || !index.rescue(self.vault.objects(), id)?.is_empty())
    }

    /// What had no place may have been moved by a reclaim meanwhile.
    pub(super) fn look_again(&self, index: &Index, faults: &mut TreeFaults) -> Result<()> {
        if faults.lost.is_empty() {
            return Ok(());
        }
        index.refresh(self.vault.objects(), self.vault.keys())?;
        faults.lost.retain(|id, detail| detail != NO_PLACE || index.good_place(id).is_none());
        Ok(())
    }

    /// Says which points each damaged object touches; drops faults of frames that have been stored again.
    pub(super) fn attribute(
        &mut self,
        points: &[Manifest],
        index: &Index,
        trees: TreeFaults,
        progress: &Progress,
    ) -> Result<()> {
        let excluded = index.excluded();
        // Which lost ids each damaged object was to hold.
        let mut objects_of: HashMap<Id, BTreeSet<String>> = HashMap::new();
        let mut unhealed: HashSet<PackId> = HashSet::new();
        if excluded.has_damage() || !trees.lost.is_empty() {
            for run in index.runs() {
                let walked = run.for_each(|row, record| {
                    if excluded.condemned.contains(&row.id) || excluded.is_good(&row.id, record.offset) {
                        return;
                    }
                    if trees.lost.contains_key(&record.id) {
                        objects_of.entry(record.id).or_default().insert(row.id.object_name());
                    }
                    if index.good_place(&record.id).is_none() {
                        unhealed.insert(row.id);
                    }
                });
                if let Err(detail) = walked {
                    self.fault(&run.name, detail);
                }
            }
        }
        for (id, detail) in &trees.lost {
            if !objects_of.contains_key(id) {
                let object = format!("block or node {id}");
                self.fault(&object, detail.clone());
                objects_of.entry(*id).or_default().insert(object);
            }
        }
        // Everything in it has been stored again elsewhere since: no longer damage.
        let indexed = index.named_packs();
        let before = self.faults.len();
        self.faults.retain(|object, fault| match PackId::from_object_name(object) {
            Some(pack) if indexed.contains(&pack) => {
                unhealed.contains(&pack)
                    || fault.details.iter().any(|detail| detail.starts_with("no index run"))
            }
            _ => true,
        });
        self.report.healed_packs = (before - self.faults.len()) as u64;
        if trees.lost.is_empty() {
            return Ok(());
        }
        // Nodes known to lead to nothing lost.
        let mut clean: HashSet<Id> = HashSet::new();
        for manifest in points {
            let touched = TouchedPoint { point: manifest.point, item: Some(manifest.item.clone()) };
            let mut hit: BTreeSet<String> = BTreeSet::new();
            for disk in &manifest.disks {
                if let Some(root) = &disk.root {
                    self.lost_below(&root.0, &trees.lost, &objects_of, &mut clean, &mut hit, progress)?;
                }
            }
            for object in hit {
                self.faults.entry(object).or_default().points.insert(touched.clone());
            }
        }
        Ok(())
    }

    /// Adds to `hit` the objects that anything below `id` is missing from. Whether nothing was missing.
    fn lost_below(
        &self,
        id: &Id,
        lost: &HashMap<Id, String>,
        objects_of: &HashMap<Id, BTreeSet<String>>,
        clean: &mut HashSet<Id>,
        hit: &mut BTreeSet<String>,
        progress: &Progress,
    ) -> Result<bool> {
        if clean.contains(id) {
            return Ok(true);
        }
        progress.check()?;
        let mut all = !lost.contains_key(id);
        if !all {
            hit.extend(objects_of.get(id).into_iter().flatten().cloned());
        }
        let node = match self.vault.node(id) {
            Ok(node) => node,
            Err(e) if e.is_damage() && !all => return Ok(false),
            Err(e) => return Err(e),
        };
        for (_, child) in node.present() {
            if node.level > 0 {
                all &= self.lost_below(&child, lost, objects_of, clean, hit, progress)?;
            } else if lost.contains_key(&child) {
                hit.extend(objects_of.get(&child).into_iter().flatten().cloned());
                all = false;
            }
        }
        if all {
            clean.insert(*id);
        }
        Ok(all)
    }
}
