//! Reading by id: the index, the frames it leads to, and what is done where they are damaged.

use crate::crypto::Id;
use crate::damage;
use crate::error::{Result, StoreError};
use crate::frame::FrameKind;
use crate::frames::Decoded;
use crate::index::kept::KeptRuns;
use crate::index::{Excluded, INDEX_PREFIX, Index};
use crate::node::Node;
use crate::reclaim::condemned;
use crate::tree::NodeSource;
use crate::vault::Vault;
use std::sync::Arc;

/// Interior and leaf nodes kept decoded.
const NODE_CACHE_MAX: usize = 2048;

impl Vault {
    /// The index, read at first use: a run that finds nothing changed never needs it.
    pub(crate) fn index(&self) -> Result<Arc<Index>> {
        let mut index = self.index_read().lock();
        if let Some(index) = &*index {
            return Ok(index.clone());
        }
        let loaded = self.load_index(self.kept_runs())?;
        *index = Some(loaded.clone());
        Ok(loaded)
    }

    /// The index as the store has it now, whatever was kept of it.
    pub(crate) fn index_of_store(&self) -> Result<Arc<Index>> {
        let mut index = self.index_read().lock();
        let loaded = self.load_index(None)?;
        *index = Some(loaded.clone());
        Ok(loaded)
    }

    fn load_index(&self, kept: Option<KeptRuns>) -> Result<Arc<Index>> {
        let questions = condemned::questions().list(damage::DAMAGED_PREFIX).list(INDEX_PREFIX);
        let asked = self.asking(questions);
        let index = Index::load(asked.objects(), self.keys(), asked.read_excluded()?, kept)?;
        Ok(Arc::new(index))
    }

    fn read_excluded(&self) -> Result<Excluded> {
        let mut excluded = Excluded::default();
        damage::load_into(self, &mut excluded)?;
        condemned::load_into(self, &mut excluded)?;
        Ok(excluded)
    }

    /// Makes damage that this vault's readers came across known to all later runs.
    pub fn record_damage(&self) -> Result<()> {
        let index = self.index_read().lock().clone();
        match index {
            Some(index) => damage::save_new(self, &index),
            None => Ok(()),
        }
    }

    /// The frame that holds `id`, and where in it: from any place that still has it.
    pub(crate) fn find_frame(&self, id: &Id, kind: FrameKind) -> Result<(Arc<Decoded>, usize)> {
        let index = self.index()?;
        let dropped = index.dropped();
        let mut error = None;
        let mut marked = Vec::new();
        for attempt in 0..3 {
            let places = match attempt {
                0 => index.places(id),
                1 => {
                    // Moved by reclaim since the index was read.
                    index.refresh(self.objects(), self.keys())?;
                    index.places(id)
                }
                _ => {
                    let mut places = Vec::new();
                    // Found in no place, or in a wrong one: a damaged run may be why, and hides its packs from the rescue.
                    index.drop_damaged(self.objects(), self.keys())?;
                    // Another reader may have been the one to drop it.
                    if index.dropped() > dropped {
                        // The index was wrong, not what it named.
                        index.exclude(|excluded| {
                            marked.iter().for_each(|place| {
                                excluded.damaged_frames.remove(place);
                            });
                        });
                        places = index.places(id);
                    }
                    places.extend(index.rescue(self.objects(), id)?);
                    places
                }
            };
            for place in places.into_iter().filter(|place| place.kind == kind) {
                let mut results = self.frames_at(&[place], None);
                match results.pop() {
                    Some(Ok(frame)) if frame.ids.get(place.slot as usize) == Some(id) => {
                        return Ok((frame, place.slot as usize));
                    }
                    Some(Ok(_)) => {
                        error = Some(StoreError::corrupt(
                            place.pack.object_name(),
                            format!("the frame at offset {} does not hold what the index says", place.offset),
                        ));
                    }
                    Some(Err(e)) if e.is_damage() => {
                        let frame = (place.pack, place.offset);
                        index.exclude(|excluded| {
                            if excluded.damaged_frames.insert(frame) {
                                marked.push(frame);
                            }
                        });
                        error = Some(e);
                    }
                    Some(Err(e)) => return Err(e),
                    None => {}
                }
            }
        }
        Err(error.unwrap_or_else(|| {
            let kind = if kind == FrameKind::Nodes { "tree node" } else { "block" };
            StoreError::corrupt(format!("{kind} {id}"), "no pack of the vault holds it")
        }))
    }

    /// Whether any damage is on record, or packs are about to go; cheaper than reading the index.
    pub(crate) fn has_doubtful_packs(&self) -> Result<bool> {
        if let Some(index) = &*self.index_read().lock() {
            return Ok(index.has_damage() || index.awaits_deletion() || index.is_distrusted());
        }
        let asked = self.asking(condemned::questions().list(damage::DAMAGED_PREFIX));
        let lists = condemned::list(&asked)?;
        if lists.awaits_deletion() || lists.are_doubtful() || lists.incomplete {
            return Ok(true);
        }
        let mut found = false;
        asked.objects().for_each(damage::DAMAGED_PREFIX, |_| {
            found = true;
            std::ops::ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

impl NodeSource for Vault {
    fn node(&self, id: &Id) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes().lock().get(id) {
            return Ok(node.clone());
        }
        let (frame, slot) = self.find_frame(id, FrameKind::Nodes)?;
        let (node, _) = Node::decode(frame.part(slot))
            .map_err(|detail| StoreError::corrupt(format!("tree node {id}"), detail))?;
        let node = Arc::new(node);
        let mut nodes = self.nodes().lock();
        if nodes.len() >= NODE_CACHE_MAX {
            // Whatever is in there is likely passed: trees are walked from left to right.
            nodes.clear();
        }
        nodes.insert(*id, node.clone());
        Ok(node)
    }
}
