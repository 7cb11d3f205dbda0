//! From a list of extents to work: for each leaf of the tree, which of its blocks to read and which
//! became holes.

use crate::limits::NODE_FANOUT;
use strongroom_domain::{ExtentKind, TypedExtent};

/// Work on one leaf. Bit `i` stands for its block `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafWork {
    pub leaf: u64,
    pub read: u128,
    pub zero: u128,
}

/// Turns sorted extents into leaf works, in order. Holds no list: its memory does not grow.
pub struct Planner {
    extents: Vec<TypedExtent>,
    next: usize,
    leaf: u64,
    block_size: u64,
    disk_size: u64,
}

impl Planner {
    /// `extents` must be sorted and not overlap; what lies beyond `disk_size` is cut off.
    pub fn new(extents: Vec<TypedExtent>, block_size: u32, disk_size: u64) -> Self {
        Self { extents, next: 0, leaf: 0, block_size: block_size.into(), disk_size }
    }
}

impl Iterator for Planner {
    type Item = LeafWork;

    fn next(&mut self) -> Option<LeafWork> {
        let leaf_bytes = self.block_size * NODE_FANOUT as u64;
        loop {
            let mut leaf_start = self.leaf * leaf_bytes;
            while self.extents.get(self.next).is_some_and(|e| e.extent.end_bytes() <= leaf_start) {
                self.next += 1;
            }
            let first = self.extents.get(self.next)?;
            if first.extent.offset_bytes >= self.disk_size {
                return None;
            }
            if first.extent.offset_bytes >= leaf_start + leaf_bytes {
                self.leaf = first.extent.offset_bytes / leaf_bytes;
                leaf_start = self.leaf * leaf_bytes;
            }
            let mut work = LeafWork { leaf: self.leaf, read: 0, zero: 0 };
            for e in &self.extents[self.next..] {
                if e.extent.offset_bytes >= leaf_start + leaf_bytes {
                    break;
                }
                let end = e.extent.end_bytes().min(self.disk_size);
                let from = e.extent.offset_bytes.max(leaf_start) - leaf_start;
                let to = end.min(leaf_start + leaf_bytes).saturating_sub(leaf_start);
                if to <= from {
                    continue;
                }
                let touched = bits(from / self.block_size, to.div_ceil(self.block_size));
                match e.kind {
                    ExtentKind::Data => work.read |= touched,
                    ExtentKind::Zero => {
                        // Up to the end of the disk counts as up to the end of its last block.
                        let whole_to = if leaf_start + to == self.disk_size {
                            to.div_ceil(self.block_size)
                        } else {
                            to / self.block_size
                        };
                        let whole = bits(from.div_ceil(self.block_size), whole_to);
                        work.zero |= whole;
                        work.read |= touched & !whole;
                    }
                }
            }
            work.zero &= !work.read;
            self.leaf += 1;
            if work.read | work.zero != 0 {
                return Some(work);
            }
        }
    }
}

/// Bits `from` up to, not including, `to`.
pub fn bits(from: u64, to: u64) -> u128 {
    if to <= from {
        return 0;
    }
    (u128::MAX >> (128 - (to - from))) << from
}

/// Runs of set bits: (first, count).
pub fn runs(mut mask: u128) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let skip = mask.trailing_zeros();
        mask >>= skip;
        at += skip;
        let count = mask.trailing_ones();
        let run = (at as usize, count as usize);
        mask = if count == 128 { 0 } else { mask >> count };
        at += count;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plans_equal_a_painted_model(
            cuts in proptest::collection::btree_set(0u64..2000, 0..20), flip in any::<u32>(), size in 1u64..2000)
        {
            // Units of 1 KiB, blocks of 4 KiB.
            let points: Vec<u64> = cuts.into_iter().collect();
            let extents: Vec<TypedExtent> = points.chunks_exact(2).enumerate().map(|(i, p)| {
                let (at, len) = (p[0] * 1024, (p[1] - p[0]) * 1024);
                if flip >> (i % 32) & 1 == 1 { TypedExtent::zero(at, len) } else { TypedExtent::data(at, len) }
            }).collect();
            let size = size * 1024;
            let blocks = size.div_ceil(4096);
            let mut read = vec![false; blocks as usize];
            let mut zero = vec![false; blocks as usize];
            let mut previous = None;
            for work in Planner::new(extents.clone(), 4096, size) {
                prop_assert!(previous < Some(work.leaf));
                previous = Some(work.leaf);
                for i in 0..128u64 {
                    let block = (work.leaf * 128 + i) as usize;
                    if work.read >> i & 1 == 1 { read[block] = true; }
                    if work.zero >> i & 1 == 1 { zero[block] = true; }
                }
            }
            for block in 0..blocks {
                let bytes = block * 4096..((block + 1) * 4096).min(size);
                let covered = |kind: ExtentKind| extents.iter().filter(|e| e.kind == kind).map(|e| {
                    e.extent.end_bytes().min(bytes.end).saturating_sub(e.extent.offset_bytes.max(bytes.start))
                }).sum::<u64>();
                let (data, hole) = (covered(ExtentKind::Data), covered(ExtentKind::Zero));
                let whole_hole = extents.iter().any(|e| e.kind == ExtentKind::Zero
                    && e.extent.offset_bytes <= bytes.start && e.extent.end_bytes() >= bytes.end);
                let want_zero = whole_hole;
                let want_read = !whole_hole && (data > 0 || hole > 0);
                prop_assert_eq!((read[block as usize], zero[block as usize]), (want_read, want_zero), "block {}", block);
            }
        }

        #[test]
        fn runs_cover_the_mask(mask in any::<u128>()) {
            let mut again = 0;
            for (first, count) in runs(mask) {
                again |= bits(first as u64, (first + count) as u64);
            }
            prop_assert_eq!(again, mask);
        }
    }
}
