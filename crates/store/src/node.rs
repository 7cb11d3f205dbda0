//! Tree nodes: their encoding, and the arithmetic of which node covers which blocks.
//! See `docs/vault-format.md`, section 2.

use crate::crypto::Id;
use crate::limits::NODE_FANOUT;

const HEAD_BYTES: usize = 20;
const VERSION: u8 = 1;
/// 128^9 blocks is beyond any disk this crate takes.
pub const LEVEL_MAX: u8 = 8;

/// A node: up to 128 children, absent ones being holes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub level: u8,
    children: Box<[Option<Id>; NODE_FANOUT]>,
}

impl Node {
    pub fn empty(level: u8) -> Self {
        Self { level, children: Box::new([None; NODE_FANOUT]) }
    }

    pub fn get(&self, child: usize) -> Option<Id> {
        self.children[child]
    }

    pub fn set(&mut self, child: usize, id: Option<Id>) {
        self.children[child] = id;
    }

    pub fn is_empty(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }

    /// Present children with their positions, in order.
    pub fn present(&self) -> impl Iterator<Item = (usize, Id)> + '_ {
        self.children.iter().enumerate().filter_map(|(i, id)| id.map(|id| (i, id)))
    }

    pub fn encode(&self) -> Vec<u8> {
        let count = self.children.iter().flatten().count();
        let mut out = Vec::with_capacity(HEAD_BYTES + count * 32);
        out.extend_from_slice(&[VERSION, self.level]);
        out.extend_from_slice(&(count as u16).to_le_bytes());
        let mut bitmap = [0u8; NODE_FANOUT / 8];
        for (i, _) in self.present() {
            bitmap[i / 8] |= 1 << (i % 8);
        }
        out.extend_from_slice(&bitmap);
        for (_, id) in self.present() {
            out.extend_from_slice(&id.0);
        }
        out
    }

    /// Decodes the node that begins `bytes`; it and its length, or the reason why it is none.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        let head: &[u8; HEAD_BYTES] =
            bytes.get(..HEAD_BYTES).and_then(|h| h.try_into().ok()).ok_or("node cut short")?;
        if head[0] != VERSION {
            return Err("unknown version of a node");
        }
        let level = head[1];
        if level > LEVEL_MAX {
            return Err("node of an impossible level");
        }
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let bitmap = &head[4..];
        let present: u32 = bitmap.iter().map(|b| b.count_ones()).sum();
        if count == 0 || count != present as usize {
            return Err("node whose count and bitmap differ");
        }
        let len = HEAD_BYTES + count * 32;
        let mut ids = crate::frame::ids_of(bytes.get(HEAD_BYTES..len).ok_or("node cut short")?);
        let mut node = Self::empty(level);
        for i in 0..NODE_FANOUT {
            if bitmap[i / 8] >> (i % 8) & 1 == 1 {
                node.children[i] = ids.next();
            }
        }
        Ok((node, len))
    }
}

/// How many blocks a disk has.
pub fn block_count(size_bytes: u64, block_size: u32) -> u64 {
    size_bytes.div_ceil(u64::from(block_size))
}

/// How many blocks one child of a node of this level covers.
pub fn child_span(level: u8) -> u64 {
    (NODE_FANOUT as u64).pow(u32::from(level))
}

/// How many blocks a node of this level covers.
pub fn node_span(level: u8) -> u64 {
    (NODE_FANOUT as u64).saturating_pow(u32::from(level) + 1)
}

/// The level of the root of a disk with this many blocks.
pub fn root_level(blocks: u64) -> u8 {
    (0..=LEVEL_MAX).find(|&level| node_span(level) >= blocks).unwrap_or(LEVEL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_follow_the_size() {
        assert_eq!(root_level(0), 0);
        assert_eq!(root_level(128), 0);
        assert_eq!(root_level(129), 1);
        assert_eq!(root_level(128 * 128 + 1), 2);
        assert_eq!(block_count(1, 4096), 1);
        assert!(root_level(u64::MAX >> 9) <= LEVEL_MAX);
    }

    proptest! {
        #[test]
        fn nodes_come_back_as_they_were(
            level in 0..=LEVEL_MAX,
            ids in proptest::collection::btree_map(0..NODE_FANOUT, any::<[u8; 32]>(), 1..NODE_FANOUT),
            behind in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut node = Node::empty(level);
            for (i, id) in ids {
                node.set(i, Some(Id(id)));
            }
            let mut bytes = node.encode();
            let len = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(Node::decode(&bytes), Ok((node, len)));
            prop_assert!(Node::decode(&bytes[..len - 1]).is_err());
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Node::decode(&bytes);
        }
    }
}
