//! Byte ranges of a disk, and the rules for lists of them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A range of bytes of a disk: `offset` and `length` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Where it begins.
    #[serde(rename = "offset")]
    pub offset_bytes: u64,
    /// How long it is.
    #[serde(rename = "length")]
    pub length_bytes: u64,
}

impl Extent {
    /// From an offset on, so long.
    pub fn new(offset_bytes: u64, length_bytes: u64) -> Self {
        Self { offset_bytes, length_bytes }
    }

    /// One past the last byte. Saturates, so that a hostile extent cannot wrap around.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes.saturating_add(self.length_bytes)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }
}

/// What is known of an extent's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// Must be read.
    Data,
    /// Reads as zeroes (a hole, a discarded or zeroed range): becomes a hole, without reading.
    Zero,
}

/// An extent with its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TypedExtent {
    /// Where.
    #[serde(flatten)]
    pub extent: Extent,
    /// What is there.
    pub kind: ExtentKind,
}

impl TypedExtent {
    /// Bytes that must be read.
    pub fn data(offset_bytes: u64, length_bytes: u64) -> Self {
        Self { extent: Extent::new(offset_bytes, length_bytes), kind: ExtentKind::Data }
    }

    /// Bytes that are zero.
    pub fn zero(offset_bytes: u64, length_bytes: u64) -> Self {
        Self { extent: Extent::new(offset_bytes, length_bytes), kind: ExtentKind::Zero }
    }
}

/// Why a list of extents was refused. `index` counts from 0 in the list as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExtentError {
    /// It ends behind what it is to lie in.
    #[error("extent {index} (offset {offset}, length {length}) ends beyond the disk's size of {size} bytes")]
    OutOfRange {
        /// Which of the list.
        index: usize,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// Of what it is to lie in.
        size: u64,
    },
    /// It begins before the one ahead of it ends.
    #[error("extent {index} (offset {offset}) overlaps the one before it, which ends at {previous_end}")]
    Overlap {
        /// Which of the list.
        index: usize,
        /// Where it begins.
        offset: u64,
        /// Where the one before ends.
        previous_end: u64,
    },
}

/// Checks that every extent lies within `size_bytes` and none overlaps another, whatever their
/// order, and returns them sorted, without empty ones, neighbours joined.
///
/// ```
/// use strongroom_domain::extent::{normalize, Extent};
/// let joined = normalize(&[Extent::new(4096, 4096), Extent::new(0, 4096)], 8192).unwrap();
/// assert_eq!(joined, vec![Extent::new(0, 8192)]);
/// assert!(normalize(&[Extent::new(0, 8193)], 8192).is_err());
/// ```
pub fn normalize(extents: &[Extent], size_bytes: u64) -> Result<Vec<Extent>, ExtentError> {
    let mut order: Vec<usize> = (0..extents.len()).collect();
    order.sort_by_key(|&i| extents[i]);
    let mut out: Vec<Extent> = Vec::with_capacity(extents.len());
    let mut previous_end = 0;
    for index in order {
        let e = extents[index];
        let in_range = e.offset_bytes.checked_add(e.length_bytes).is_some_and(|end| end <= size_bytes);
        if !in_range {
            return Err(ExtentError::OutOfRange {
                index,
                offset: e.offset_bytes,
                length: e.length_bytes,
                size: size_bytes,
            });
        }
        if e.is_empty() {
            continue;
        }
        if e.offset_bytes < previous_end {
            return Err(ExtentError::Overlap { index, offset: e.offset_bytes, previous_end });
        }
        previous_end = e.end_bytes();
        match out.last_mut() {
            Some(last) if last.end_bytes() == e.offset_bytes => last.length_bytes += e.length_bytes,
            _ => out.push(e),
        }
    }
    Ok(out)
}

/// The sum of the lengths, in bytes.
pub fn total_bytes<'a>(extents: impl IntoIterator<Item = &'a Extent>) -> u64 {
    extents.into_iter().fold(0u64, |sum, e| sum.saturating_add(e.length_bytes))
}

/// Cuts `kinds` (sorted, not overlapping: a disk's allocation map) down to what lies inside
/// `changed` (sorted, not overlapping). Parts of `changed` the map says nothing of count as data:
/// what is not known to be zero must be read.
pub fn intersect(changed: &[Extent], kinds: &[TypedExtent]) -> Vec<TypedExtent> {
    let mut out: Vec<TypedExtent> = Vec::new();
    let mut push = |offset: u64, end: u64, kind: ExtentKind| {
        if end <= offset {
            return;
        }
        match out.last_mut() {
            Some(last) if last.kind == kind && last.extent.end_bytes() == offset => {
                last.extent.length_bytes += end - offset;
            }
            _ => out.push(TypedExtent { extent: Extent::new(offset, end - offset), kind }),
        }
    };
    let mut next = 0;
    for c in changed {
        let mut at = c.offset_bytes;
        while next < kinds.len() && kinds[next].extent.end_bytes() <= at {
            next += 1;
        }
        let mut i = next;
        while at < c.end_bytes() {
            match kinds.get(i) {
                Some(k) if k.extent.offset_bytes < c.end_bytes() => {
                    push(at, k.extent.offset_bytes.max(at), ExtentKind::Data);
                    let from = k.extent.offset_bytes.max(at);
                    let to = k.extent.end_bytes().min(c.end_bytes());
                    push(from, to, k.kind);
                    at = to.max(at);
                    i += 1;
                }
                _ => {
                    push(at, c.end_bytes(), ExtentKind::Data);
                    at = c.end_bytes();
                }
            }
        }
    }
    out
}

/// `extents` with `data` laid over it as data. Both sorted and not overlapping.
pub fn overlay(extents: &[TypedExtent], data: &[Extent]) -> Vec<TypedExtent> {
    let mut out: Vec<TypedExtent> = data
        .iter()
        .filter(|e| !e.is_empty())
        .map(|e| TypedExtent { extent: *e, kind: ExtentKind::Data })
        .collect();
    let mut next = 0;
    for e in extents {
        let mut at = e.extent.offset_bytes;
        while next < data.len() && data[next].end_bytes() <= at {
            next += 1;
        }
        for over in &data[next..] {
            if over.offset_bytes >= e.extent.end_bytes() {
                break;
            }
            if over.offset_bytes > at {
                out.push(TypedExtent { extent: Extent::new(at, over.offset_bytes - at), kind: e.kind });
            }
            at = at.max(over.end_bytes());
        }
        if at < e.extent.end_bytes() {
            out.push(TypedExtent { extent: Extent::new(at, e.extent.end_bytes() - at), kind: e.kind });
        }
    }
    out.sort_by_key(|e| e.extent);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_overlap_and_overflow_with_their_place() {
        let overlap = normalize(&[Extent::new(0, 10), Extent::new(9, 1)], 100).unwrap_err();
        assert_eq!(overlap, ExtentError::Overlap { index: 1, offset: 9, previous_end: 10 });
        assert!(matches!(
            normalize(&[Extent::new(u64::MAX, 2)], 100),
            Err(ExtentError::OutOfRange { index: 0, .. })
        ));
        assert_eq!(normalize(&[Extent::new(100, 0)], 100).unwrap(), vec![]);
    }

    fn paint(list: &[TypedExtent], size: usize) -> Vec<Option<ExtentKind>> {
        let mut map = vec![None; size];
        for t in list {
            for slot in &mut map[t.extent.offset_bytes as usize..t.extent.end_bytes() as usize] {
                assert!(slot.is_none(), "painted twice");
                *slot = Some(t.kind);
            }
        }
        map
    }

    fn cuts(size: u64) -> impl Strategy<Value = Vec<Extent>> {
        proptest::collection::btree_set(0..size, 0..12).prop_map(|set| {
            let points: Vec<u64> = set.into_iter().collect();
            points.chunks_exact(2).map(|p| Extent::new(p[0], p[1] - p[0])).collect()
        })
    }

    proptest! {
        #[test]
        fn intersection_equals_a_painted_model(changed in cuts(60), map in cuts(60), flip in any::<u16>()) {
            let kinds: Vec<TypedExtent> = map.iter().enumerate().map(|(i, e)| TypedExtent {
                extent: *e,
                kind: if flip >> (i % 16) & 1 == 1 { ExtentKind::Zero } else { ExtentKind::Data },
            }).collect();
            let got = paint(&intersect(&changed, &kinds), 60);
            let known = paint(&kinds, 60);
            for at in 0..60u64 {
                let inside = changed.iter().any(|c| c.offset_bytes <= at && at < c.end_bytes());
                let want = inside.then(|| known[at as usize].unwrap_or(ExtentKind::Data));
                prop_assert_eq!(got[at as usize], want, "at {}", at);
            }
        }

        #[test]
        fn overlay_equals_a_painted_model(under in cuts(60), over in cuts(60)) {
            let extents: Vec<TypedExtent> =
                under.iter().map(|e| TypedExtent { extent: *e, kind: ExtentKind::Zero }).collect();
            let got = paint(&overlay(&extents, &over), 60);
            for at in 0..60u64 {
                let inside = |list: &[Extent]| list.iter().any(|e| e.offset_bytes <= at && at < e.end_bytes());
                let want = if inside(&over) { Some(ExtentKind::Data) }
                    else if inside(&under) { Some(ExtentKind::Zero) } else { None };
                prop_assert_eq!(got[at as usize], want, "at {}", at);
            }
        }

        #[test]
        fn normalized_lists_cover_the_same_bytes(list in cuts(100)) {
            let mut shuffled = list.clone();
            shuffled.reverse();
            let joined = normalize(&shuffled, 100).unwrap();
            prop_assert_eq!(total_bytes(&joined), total_bytes(&list));
            prop_assert!(joined.windows(2).all(|w| w[0].end_bytes() < w[1].offset_bytes));
        }
    }
}
