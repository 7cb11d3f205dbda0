//! Lists of extents that stay bounded, however fragmented a disk is.

use crate::limits::EXTENTS_MAX;
use strongroom_domain::{Extent, ExtentKind, TypedExtent};

/// Collects a disk's extents in order and keeps their number under a limit, by taking small gaps
/// and small zero ranges for data. What is added may therefore come out larger, never smaller.
pub struct Collector {
    list: Vec<TypedExtent>,
    limit: usize,
    /// Gaps and zero ranges up to this length are taken for data.
    grain_bytes: u64,
}

impl Default for Collector {
    fn default() -> Self {
        Self::with_limit(EXTENTS_MAX)
    }
}

impl Collector {
    pub fn with_limit(limit: usize) -> Self {
        Self { list: Vec::new(), limit: limit.max(2), grain_bytes: 0 }
    }

    /// Adds an extent that begins at or after the last one's end.
    pub fn push(&mut self, next: TypedExtent) {
        if next.extent.is_empty() {
            return;
        }
        self.append(next);
        if self.list.len() > self.limit {
            // Coarser until half is free again, so that this happens rarely.
            while self.list.len() > self.limit / 2 {
                self.grain_bytes = (self.grain_bytes * 2).max(64 << 10);
                for extent in std::mem::take(&mut self.list) {
                    self.append(extent);
                }
            }
        }
    }

    fn append(&mut self, mut next: TypedExtent) {
        if next.kind == ExtentKind::Zero && next.extent.length_bytes <= self.grain_bytes {
            next.kind = ExtentKind::Data;
        }
        if let Some(last) = self.list.last_mut() {
            let gap = next.extent.offset_bytes.saturating_sub(last.extent.end_bytes());
            let same = last.kind == next.kind;
            if same && (gap == 0 || (gap <= self.grain_bytes && next.kind == ExtentKind::Data)) {
                last.extent.length_bytes = next.extent.end_bytes() - last.extent.offset_bytes;
                return;
            }
        }
        self.list.push(next);
    }

    pub fn finish(self) -> Vec<TypedExtent> {
        self.list
    }

    /// The ranges alone.
    pub fn finish_ranges(self) -> Vec<Extent> {
        self.list.into_iter().map(|t| t.extent).collect()
    }
}

/// Cuts a list down to what lies before `end_bytes`.
pub fn clip(extents: &mut Vec<Extent>, end_bytes: u64) {
    extents.retain_mut(|e| {
        e.length_bytes = e.end_bytes().min(end_bytes).saturating_sub(e.offset_bytes);
        e.length_bytes > 0
    });
}

/// Adds everything from `from_bytes` to `to_bytes` to a sorted list, replacing what it says of that range.
pub fn add_tail(extents: &mut Vec<Extent>, from_bytes: u64, to_bytes: u64) {
    clip(extents, from_bytes);
    match extents.last_mut() {
        Some(last) if last.end_bytes() == from_bytes => last.length_bytes += to_bytes - from_bytes,
        _ => extents.push(Extent::new(from_bytes, to_bytes - from_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_covers_everything() {
        let mut collector = Collector::with_limit(100);
        for i in 0..100_000u64 {
            let at = i * (192 << 10);
            collector.push(if i % 3 == 0 {
                TypedExtent::zero(at, 4096)
            } else {
                TypedExtent::data(at, 4096)
            });
        }
        let list = collector.finish();
        assert!(list.len() <= 100 && !list.is_empty());
        assert!(list.windows(2).all(|w| w[0].extent.end_bytes() <= w[1].extent.offset_bytes));
        for i in 0..100_000u64 {
            let at = i * (192 << 10);
            let found =
                list.iter().find(|t| t.extent.offset_bytes <= at && at + 4096 <= t.extent.end_bytes());
            assert!(found.is_some_and(|t| i % 3 == 0 || t.kind == ExtentKind::Data), "{at}");
        }
    }

    #[test]
    fn a_grown_disk_has_its_tail() {
        let mut list = vec![Extent::new(0, 10), Extent::new(50, 100)];
        add_tail(&mut list, 100, 200);
        assert_eq!(list, [Extent::new(0, 10), Extent::new(50, 150)]);
    }
}
