//! Walking and building disk trees. See `docs/vault-format.md`, section 2.

use crate::crypto::Id;
use crate::error::Result;
use crate::limits::NODE_FANOUT;
use crate::node::{Node, block_count, child_span, node_span, root_level};
use std::ops::Range;
use std::sync::Arc;

/// A disk at a recovery point: its size and the root of its tree (none if it is all holes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskTree {
    /// The root's id. None: all of the disk is a hole.
    pub root: Option<Id>,
    /// The disk's length, which says how high the tree is.
    pub size_bytes: u64,
}

/// Where nodes come from.
pub trait NodeSource: Sync {
    fn node(&self, id: &Id) -> Result<Arc<Node>>;
}

/// Looks nodes of one tree up by their place.
pub struct TreeReader<'a> {
    nodes: &'a dyn NodeSource,
    tree: DiskTree,
    level: u8,
}

impl<'a> TreeReader<'a> {
    pub fn new(nodes: &'a dyn NodeSource, tree: DiskTree, block_size: u32) -> Self {
        Self { nodes, tree, level: root_level(block_count(tree.size_bytes, block_size)) }
    }

    /// The id of node `index` of `level`, if the tree has it.
    pub fn node_id(&self, level: u8, index: u64) -> Result<Option<Id>> {
        if level > self.level {
            return Ok(None);
        }
        let mut id = self.tree.root;
        for at in (level..self.level).rev() {
            let Some(current) = id else { return Ok(None) };
            // The child of level `at` on the way to the one wanted.
            let child = index / (NODE_FANOUT as u64).pow(u32::from(at - level));
            if at + 1 == self.level && child >= NODE_FANOUT as u64 {
                return Ok(None);
            }
            id = self.nodes.node(&current)?.get((child % NODE_FANOUT as u64) as usize);
        }
        if level == self.level && index > 0 {
            return Ok(None);
        }
        Ok(id)
    }

    pub fn node(&self, level: u8, index: u64) -> Result<Option<Arc<Node>>> {
        match self.node_id(level, index)? {
            Some(id) => self.nodes.node(&id).map(Some),
            None => Ok(None),
        }
    }

    /// What a taller tree has in the place of node `index` of `level`, to build upon.
    fn node_or_lift(&self, level: u8, index: u64) -> Result<Node> {
        if level == self.level + 1 && index == 0 {
            let mut lifted = Node::empty(level);
            lifted.set(0, self.tree.root);
            return Ok(lifted);
        }
        Ok(self.node(level, index)?.map_or_else(|| Node::empty(level), |node| (*node).clone()))
    }

    /// Calls `leaf` with the number and content of every leaf from `first` on, in order, until it says to stop.
    /// Returns whether it went through to the end.
    pub fn for_each_leaf(
        &self,
        first: u64,
        leaf: &mut dyn FnMut(u64, Arc<Node>) -> Result<bool>,
    ) -> Result<bool> {
        match self.tree.root {
            Some(root) => self.descend(&root, self.level, 0, first, leaf),
            None => Ok(true),
        }
    }

    /// Calls `each` with the number of every leaf in `leaves`, in order. No leaf is read for that.
    pub fn for_each_leaf_number(&self, leaves: Range<u64>, each: &mut dyn FnMut(u64)) -> Result<()> {
        match self.tree.root {
            Some(root) => self.number(&root, self.level, 0, &leaves, each),
            None => Ok(()),
        }
    }

    fn number(
        &self,
        id: &Id,
        level: u8,
        index: u64,
        leaves: &Range<u64>,
        each: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let span = child_span(level);
        if level > 0 && (index * span >= leaves.end || (index + 1) * span <= leaves.start) {
            return Ok(());
        }
        if level == 0 {
            if leaves.contains(&index) {
                each(index);
            }
            return Ok(());
        }
        for (i, child) in self.nodes.node(id)?.present() {
            self.number(&child, level - 1, index * NODE_FANOUT as u64 + i as u64, leaves, each)?;
        }
        Ok(())
    }

    fn descend(
        &self,
        id: &Id,
        level: u8,
        index: u64,
        first: u64,
        leaf: &mut dyn FnMut(u64, Arc<Node>) -> Result<bool>,
    ) -> Result<bool> {
        let node = self.nodes.node(id)?;
        if level == 0 {
            return leaf(index, node);
        }
        let leaves_per_child = child_span(level - 1);
        for (i, child) in node.present() {
            let child_index = index * NODE_FANOUT as u64 + i as u64;
            if (child_index + 1) * leaves_per_child <= first {
                continue;
            }
            if !self.descend(&child, level - 1, child_index, first, leaf)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Builds a tree from changed leaves, sharing everything else with a parent tree. Holds one open
/// node a level, whatever the disk's size.
pub struct TreeBuilder<'a> {
    parent: Option<TreeReader<'a>>,
    blocks: u64,
    root_level: u8,
    /// By level; level 0 is never used: leaves come in finished.
    open: Vec<Option<(u64, Node)>>,
    root: Option<Option<Id>>,
}

impl<'a> TreeBuilder<'a> {
    /// For a disk of this many blocks.
    pub fn new(blocks: u64, parent: Option<TreeReader<'a>>) -> Self {
        let root_level = root_level(blocks);
        Self { parent, blocks, root_level, open: (0..=root_level).map(|_| None).collect(), root: None }
    }

    /// Sets leaf `index`. Leaves come in increasing order; `store` takes a node's encoding and returns its id.
    pub fn put_leaf(
        &mut self,
        index: u64,
        id: Option<Id>,
        store: &mut dyn FnMut(Vec<u8>) -> Result<Id>,
    ) -> Result<()> {
        self.put(0, index, id, store)
    }

    fn put(
        &mut self,
        level: u8,
        index: u64,
        id: Option<Id>,
        store: &mut dyn FnMut(Vec<u8>) -> Result<Id>,
    ) -> Result<()> {
        if level == self.root_level {
            self.root = Some(id);
            return Ok(());
        }
        let above = level + 1;
        let wanted = index / NODE_FANOUT as u64;
        if self.open[above as usize].as_ref().is_some_and(|(open, _)| *open != wanted) {
            self.close(above, store)?;
        }
        if self.open[above as usize].is_none() {
            self.open[above as usize] = Some((wanted, self.inherited(above, wanted)?));
        }
        if let Some((_, node)) = &mut self.open[above as usize] {
            node.set((index % NODE_FANOUT as u64) as usize, id);
        }
        Ok(())
    }

    /// The parent's node, without children beyond the end of this disk.
    fn inherited(&self, level: u8, index: u64) -> Result<Node> {
        let Some(parent) = &self.parent else { return Ok(Node::empty(level)) };
        let mut node = parent.node_or_lift(level, index)?;
        let first_block = index * node_span(level);
        for child in 0..NODE_FANOUT {
            if first_block + child as u64 * child_span(level) >= self.blocks {
                node.set(child, None);
            }
        }
        Ok(node)
    }

    fn close(&mut self, level: u8, store: &mut dyn FnMut(Vec<u8>) -> Result<Id>) -> Result<()> {
        if let Some((index, node)) = self.open[level as usize].take() {
            let id = if node.is_empty() { None } else { Some(store(node.encode())?) };
            self.put(level, index, id, store)?;
        }
        Ok(())
    }

    /// Closes everything and returns the root.
    pub fn finish(mut self, store: &mut dyn FnMut(Vec<u8>) -> Result<Id>) -> Result<Option<Id>> {
        for level in 1..=self.root_level {
            self.close(level, store)?;
        }
        match (self.root, &self.parent) {
            (Some(root), _) => Ok(root),
            // Nothing was put: the parent's tree as it is.
            (None, Some(parent)) => parent.node_id(self.root_level, 0),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    #[derive(Default)]
    struct Memory(Mutex<HashMap<Id, Arc<Node>>>);

    impl Memory {
        fn store(&self, encoding: Vec<u8>) -> Result<Id> {
            let id = Id(*blake3::hash(&encoding).as_bytes());
            self.0.lock().insert(id, Arc::new(Node::decode(&encoding).unwrap().0));
            Ok(id)
        }
    }

    impl NodeSource for Memory {
        fn node(&self, id: &Id) -> Result<Arc<Node>> {
            Ok(self.0.lock()[id].clone())
        }
    }

    const BLOCK: u32 = 4096;

    /// Has no leaves to give.
    struct Above<'a>(&'a Memory);

    impl NodeSource for Above<'_> {
        fn node(&self, id: &Id) -> Result<Arc<Node>> {
            let node = self.0.node(id)?;
            assert!(node.level > 0, "a leaf was read");
            Ok(node)
        }
    }

    fn leaves(memory: &Memory, tree: DiskTree) -> BTreeMap<u64, Node> {
        let mut out = BTreeMap::new();
        TreeReader::new(memory, tree, BLOCK)
            .for_each_leaf(0, &mut |i, node| {
                out.insert(i, (*node).clone());
                Ok(true)
            })
            .unwrap();
        out
    }

    fn leaf(seed: u8) -> Node {
        let mut node = Node::empty(0);
        node.set(seed as usize % NODE_FANOUT, Some(Id([seed; 32])));
        node
    }

    proptest! {
        /// Any sequence of changes and resizes equals a map of leaves.
        #[test]
        fn trees_equal_a_map(steps in proptest::collection::vec(
            (1u64..40_000, proptest::collection::btree_map(0u64..40_000, proptest::option::of(any::<u8>()), 0..8)), 1..5))
        {
            let memory = Memory::default();
            let mut model: BTreeMap<u64, Node> = BTreeMap::new();
            let mut tree: Option<DiskTree> = None;
            for (leaf_count, mut changes) in steps {
                let blocks = leaf_count * NODE_FANOUT as u64;
                let size_bytes = blocks * u64::from(BLOCK);
                changes.retain(|i, _| *i < leaf_count);
                if let Some(old) = tree && old.size_bytes != size_bytes {
                    // A writer rewrites the leaf at the end of the shorter of both disks.
                    let old_leaves = old.size_bytes / u64::from(BLOCK) / NODE_FANOUT as u64;
                    let edge = old_leaves.min(leaf_count) - 1;
                    changes.entry(edge).or_insert(Some(1));
                }
                model.retain(|i, _| *i < leaf_count);
                let mut store = |bytes| memory.store(bytes);
                let parent = tree.map(|t| TreeReader::new(&memory, t, BLOCK));
                let mut builder = TreeBuilder::new(blocks, parent);
                for (i, seed) in &changes {
                    let id = seed.map(|seed| store(leaf(seed).encode()).unwrap());
                    builder.put_leaf(*i, id, &mut store).unwrap();
                    match seed {
                        Some(seed) => model.insert(*i, leaf(*seed)),
                        None => model.remove(i),
                    };
                }
                let root = builder.finish(&mut store).unwrap();
                tree = Some(DiskTree { root, size_bytes });
                prop_assert_eq!(leaves(&memory, tree.unwrap()), model.clone());
                let part = leaf_count / 3..leaf_count / 2 + 1;
                let mut numbers = Vec::new();
                let above = Above(&memory);
                let reader = TreeReader::new(&above, tree.unwrap(), BLOCK);
                reader.for_each_leaf_number(part.clone(), &mut |leaf| numbers.push(leaf)).unwrap();
                prop_assert_eq!(numbers, model.range(part).map(|(leaf, _)| *leaf).collect::<Vec<_>>());
                // The same tree built at once has the same root: the encoding is canonical.
                let mut fresh = TreeBuilder::new(blocks, None);
                for (i, node) in &model {
                    let id = store(node.encode()).unwrap();
                    fresh.put_leaf(*i, Some(id), &mut store).unwrap();
                }
                prop_assert_eq!(fresh.finish(&mut store).unwrap(), root);
            }
        }
    }
}
