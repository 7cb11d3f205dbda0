//! Walks over whole ranges of an export by block status, joining several contexts.

use super::{Client, StatusExtent};
use crate::error::{Error, Result};
use crate::wire::{BASE_ALLOCATION, STATE_ZERO};

/// A range in which every one of several contexts has one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedExtent {
    /// Where it begins in the export, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes; never 0.
    pub length_bytes: u64,
    /// Each context's bits, in the order the contexts were named.
    pub flags: Vec<u32>,
}

/// A range that changed, by a dirty bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyExtent {
    /// Where it begins in the export, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes; never 0.
    pub length_bytes: u64,
    /// Known to read as zeroes, so that it need not be read.
    pub zero: bool,
}

impl Client {
    /// Walks `length_bytes` from `offset_bytes` in one context, which must be among
    /// [`Client::contexts`], asking as often as needed. Extents come in order, cover the range
    /// exactly, and neighbours differ in their bits.
    pub fn map(
        &self,
        context: &str,
        offset_bytes: u64,
        length_bytes: u64,
        mut each: impl FnMut(StatusExtent),
    ) -> Result<()> {
        self.map_joined(&[context], offset_bytes, length_bytes, |joined| {
            let JoinedExtent { offset_bytes, length_bytes, flags } = joined;
            each(StatusExtent { offset_bytes, length_bytes, flags: flags[0] });
        })
    }

    /// As [`Client::map`] for several contexts at once: an extent ends where any of them changes.
    pub fn map_joined(
        &self,
        contexts: &[&str],
        offset_bytes: u64,
        length_bytes: u64,
        mut each: impl FnMut(JoinedExtent),
    ) -> Result<()> {
        let indexes = contexts
            .iter()
            .map(|context| {
                self.contexts().iter().position(|known| known == context).ok_or_else(|| {
                    Error::Unsupported(format!("metadata context {context:?}, by this export"))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        self.check_range("map", offset_bytes, length_bytes)?;
        let end = offset_bytes + length_bytes;
        let mut at = offset_bytes;
        let mut open: Option<JoinedExtent> = None;
        while at < end && !indexes.is_empty() {
            let found = self.status(at, end - at)?;
            let lists: Vec<&[StatusExtent]> = indexes.iter().map(|index| found[*index].as_slice()).collect();
            at = join(&lists, at, |extent| match &mut open {
                Some(last) if last.flags == extent.flags => last.length_bytes += extent.length_bytes,
                _ => {
                    if let Some(done) = open.replace(extent) {
                        each(done);
                    }
                }
            });
        }
        if let Some(done) = open {
            each(done);
        }
        Ok(())
    }

    /// The ranges marked in `bitmap_context` (such as `qemu:dirty-bitmap:NAME`), with those known to
    /// be zero told apart when `base:allocation` is in use too. Sorted, disjoint.
    pub fn dirty_extents(
        &self,
        bitmap_context: &str,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<DirtyExtent>> {
        let mut found: Vec<DirtyExtent> = Vec::new();
        let with_base = self.contexts().iter().any(|name| name == BASE_ALLOCATION);
        let contexts = [bitmap_context, BASE_ALLOCATION];
        let contexts = if with_base { &contexts[..] } else { &contexts[..1] };
        self.map_joined(contexts, offset_bytes, length_bytes, |extent| {
            if extent.flags[0] & 1 == 0 {
                return;
            }
            let zero = extent.flags.get(1).is_some_and(|flags| flags & STATE_ZERO != 0);
            match found.last_mut() {
                Some(last)
                    if last.zero == zero && last.offset_bytes + last.length_bytes == extent.offset_bytes =>
                {
                    last.length_bytes += extent.length_bytes;
                }
                _ => found.push(DirtyExtent {
                    offset_bytes: extent.offset_bytes,
                    length_bytes: extent.length_bytes,
                    zero,
                }),
            }
        })?;
        Ok(found)
    }
}

/// Joins lists that all begin at `start` without gaps, as far as the shortest reaches; returns how
/// far that is.
fn join(lists: &[&[StatusExtent]], start: u64, mut each: impl FnMut(JoinedExtent)) -> u64 {
    let mut places = vec![0; lists.len()];
    let mut at = start;
    loop {
        let mut flags = Vec::with_capacity(lists.len());
        let mut until = u64::MAX;
        for (list, place) in lists.iter().zip(&places) {
            let Some(extent) = list.get(*place) else { return at };
            flags.push(extent.flags);
            until = until.min(extent.end_bytes());
        }
        each(JoinedExtent { offset_bytes: at, length_bytes: until - at, flags });
        at = until;
        for (list, place) in lists.iter().zip(&mut places) {
            if list[*place].end_bytes() == until {
                *place += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(start: u64, pieces: &[(u64, u32)]) -> Vec<StatusExtent> {
        let mut at = start;
        pieces
            .iter()
            .map(|&(length_bytes, flags)| {
                let extent = StatusExtent { offset_bytes: at, length_bytes, flags };
                at += length_bytes;
                extent
            })
            .collect()
    }

    fn value(list: &[StatusExtent], at: u64) -> Option<u32> {
        list.iter().find(|e| (e.offset_bytes..e.end_bytes()).contains(&at)).map(|e| e.flags)
    }

    proptest! {
        #[test]
        fn joining_agrees_with_looking_up_each_byte(
            a in prop::collection::vec((1u64..9, 0u32..3), 1..12),
            b in prop::collection::vec((1u64..9, 0u32..3), 1..12),
        ) {
            let (a, b) = (list(100, &a), list(100, &b));
            let mut at = 100;
            let mut wrong = Vec::new();
            let end = join(&[&a, &b], 100, |extent| {
                if extent.offset_bytes != at || extent.length_bytes == 0 {
                    wrong.push(at);
                }
                for byte in at..at + extent.length_bytes {
                    if vec![value(&a, byte), value(&b, byte)] != extent.flags.iter().copied().map(Some).collect::<Vec<_>>() {
                        wrong.push(byte);
                    }
                }
                at += extent.length_bytes;
            });
            prop_assert!(wrong.is_empty());
            prop_assert_eq!(end, at);
            prop_assert_eq!(end, a.last().unwrap().end_bytes().min(b.last().unwrap().end_bytes()));
        }
    }
}
