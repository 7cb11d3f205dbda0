//! A disk as the bytes of an image file, from its beginning to its end, made while it is read: for places that take
//! files but cannot be written at random. No scratch file, and memory that hardly grows with the disk (4 bytes for each 512 MiB).
//!
//! - raw: the disk.
//! - VHD, fixed: the disk, zeroes up to a whole MiB, a footer ([`crate::vhd`]).
//! - qcow2, version 3, clusters of 64 KiB: header, L1 table, reference counts, L2 tables, data, in this order; what is a hole takes
//!   nothing. Where everything goes is known beforehand, from the map of holes, so that all of it can be written in one go.

use crate::error::{Error, Result};
use crate::limits::STREAM_PIECE_BYTES;
use crate::source::DiskSource;
use crate::target::DiskFormat;
use crate::vhd;
use bytes::Bytes;
use strongroom_domain::{ExtentKind, TypedExtent};
use strongroom_store::Progress;
use uuid::Uuid;

/// What is read.
pub trait Source {
    /// As the guest sees it.
    fn size_bytes(&self) -> u64;
    /// Everything in a range, in order.
    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>>;
    /// Fills `buffer` with the bytes at `offset_bytes`, which must lie within the disk.
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Source for DiskSource {
    fn size_bytes(&self) -> u64 {
        DiskSource::size_bytes(self)
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>> {
        DiskSource::extents(self, offset_bytes, length_bytes)
    }

    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        DiskSource::read_at(self, offset_bytes, buffer)
    }
}

/// What is written to, in order.
pub trait Sink {
    /// The next bytes.
    fn write(&mut self, bytes: Bytes) -> Result<()>;
    /// The next `length_bytes` bytes are zeroes.
    fn write_zeroes(&mut self, length_bytes: u64) -> Result<()>;
}

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const ENTRIES: u64 = CLUSTER / 8;
/// What one L2 table covers. Disks of every format are looked at in windows of this size.
const WINDOW: u64 = CLUSTER * ENTRIES;
/// Reference counts of 16 bits.
const COUNTS: u64 = CLUSTER / 2;
const COUNT_ORDER: u32 = 4;
const HEADER_BYTES: u32 = 104;
/// Nothing else refers to that cluster.
const COPIED: u64 = 1 << 63;

/// What an image of a disk will be.
pub struct Image<'s> {
    source: &'s dyn Source,
    format: DiskFormat,
    /// Of qcow2: how many clusters each window has.
    windows: Vec<u32>,
}

impl<'s> Image<'s> {
    /// Looks through the disk's map.
    pub fn plan(source: &'s dyn Source, format: DiskFormat, progress: &Progress) -> Result<Self> {
        let mut image = Self { source, format, windows: Vec::new() };
        if format == DiskFormat::Vhd {
            vhd::check_size(source.size_bytes())?;
        }
        if format == DiskFormat::Qcow2 {
            for window in 0..source.size_bytes().div_ceil(WINDOW) {
                progress.check()?;
                let clusters = image.clusters(window)?.iter().map(|(from, to)| to - from).sum::<u64>();
                image.windows.push(clusters as u32);
            }
        }
        Ok(image)
    }

    /// How long the file is.
    pub fn file_bytes(&self) -> u64 {
        match self.format {
            DiskFormat::Raw => self.source.size_bytes(),
            DiskFormat::Vhd => vhd::padded(self.source.size_bytes()) + vhd::FOOTER_BYTES as u64,
            DiskFormat::Qcow2 => Layout::of(self).total * CLUSTER,
        }
    }

    /// Writes all of it.
    pub fn write(&self, sink: &mut dyn Sink, progress: &Progress) -> Result<()> {
        match self.format {
            DiskFormat::Raw => self.write_disk(sink, progress),
            DiskFormat::Vhd => {
                self.write_disk(sink, progress)?;
                let size_bytes = vhd::padded(self.source.size_bytes());
                sink.write_zeroes(size_bytes - self.source.size_bytes())?;
                let made_at = jiff::Timestamp::now().as_second();
                sink.write(Bytes::copy_from_slice(&vhd::footer(size_bytes, Uuid::new_v4(), made_at)))
            }
            DiskFormat::Qcow2 => self.write_qcow2(sink, progress),
        }
    }

    /// The disk's bytes, holes as zeroes.
    fn write_disk(&self, sink: &mut dyn Sink, progress: &Progress) -> Result<()> {
        let size_bytes = self.source.size_bytes();
        let mut at = 0;
        while at < size_bytes {
            for e in self.source.extents(at, WINDOW.min(size_bytes - at))? {
                match e.kind {
                    ExtentKind::Zero => sink.write_zeroes(e.extent.length_bytes)?,
                    ExtentKind::Data => {
                        self.write_data(e.extent.offset_bytes, e.extent.end_bytes(), sink, progress)?
                    }
                }
            }
            at += WINDOW;
        }
        Ok(())
    }

    /// A range that may end behind the disk's end: zeroes follow there.
    fn write_data(&self, from: u64, to: u64, sink: &mut dyn Sink, progress: &Progress) -> Result<()> {
        let end = to.min(self.source.size_bytes());
        let mut at = from;
        while at < end {
            progress.check()?;
            let mut piece = vec![0; (end - at).min(STREAM_PIECE_BYTES) as usize];
            self.source.read_at(at, &mut piece)?;
            at += piece.len() as u64;
            sink.write(piece.into())?;
        }
        sink.write_zeroes(to - end)
    }

    /// The clusters of a window that are no holes, as ranges of their numbers within it.
    fn clusters(&self, window: u64) -> Result<Vec<(u64, u64)>> {
        let start = window * WINDOW;
        let length = WINDOW.min(self.source.size_bytes().saturating_sub(start));
        let mut found: Vec<(u64, u64)> = Vec::new();
        for e in self.source.extents(start, length)?.iter().filter(|e| e.kind == ExtentKind::Data) {
            let from = (e.extent.offset_bytes - start) / CLUSTER;
            let to = (e.extent.end_bytes() - start).div_ceil(CLUSTER);
            match found.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => found.push((from, to)),
            }
        }
        Ok(found)
    }

    fn write_qcow2(&self, sink: &mut dyn Sink, progress: &Progress) -> Result<()> {
        let layout = Layout::of(self);
        sink.write(self.header(&layout).into())?;
        sink.write_zeroes(CLUSTER - u64::from(HEADER_BYTES))?;
        let mut table = 0;
        let l1 = self.windows.iter().map(|&clusters| match clusters {
            0 => 0,
            _ => {
                table += 1;
                ((layout.l2_at + table - 1) * CLUSTER) | COPIED
            }
        });
        write_numbers(sink, l1, layout.l1 * ENTRIES)?;
        let blocks = (0..layout.count_blocks).map(|block| (layout.count_blocks_at + block) * CLUSTER);
        write_numbers(sink, blocks, layout.count_table * ENTRIES)?;
        // Everything is used once; behind the end there is nothing.
        for block in 0..layout.count_blocks {
            let used = (layout.total - block * COUNTS).min(COUNTS);
            sink.write([0, 1].repeat(used as usize).into())?;
            sink.write_zeroes((COUNTS - used) * 2)?;
        }
        let mut cluster = layout.data_at;
        for (window, _) in self.windows.iter().enumerate().filter(|(_, clusters)| **clusters > 0) {
            progress.check()?;
            let mut entries = vec![0u64; ENTRIES as usize];
            for (from, to) in self.clusters(window as u64)? {
                for entry in &mut entries[from as usize..to as usize] {
                    *entry = (cluster * CLUSTER) | COPIED;
                    cluster += 1;
                }
            }
            write_numbers(sink, entries.into_iter(), ENTRIES)?;
        }
        for (window, &planned) in self.windows.iter().enumerate().filter(|(_, clusters)| **clusters > 0) {
            let start = window as u64 * WINDOW;
            let ranges = self.clusters(window as u64)?;
            let there: u64 = ranges.iter().map(|(from, to)| to - from).sum();
            if there != u64::from(planned) {
                return Err(Error::new(
                    crate::ErrorKind::Corrupt,
                    "the map of a disk changed while it was read; this is a bug",
                ));
            }
            for (from, to) in ranges {
                self.write_data(start + from * CLUSTER, start + to * CLUSTER, sink, progress)?;
            }
        }
        Ok(())
    }

    fn header(&self, layout: &Layout) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(b"QFI\xfb");
        header.extend(3u32.to_be_bytes());
        // No backing file.
        header.extend([0; 12]);
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.source.size_bytes().next_multiple_of(512).to_be_bytes());
        // Not encrypted.
        header.extend([0; 4]);
        header.extend((self.windows.len() as u32).to_be_bytes());
        header.extend(CLUSTER.to_be_bytes());
        header.extend(((1 + layout.l1) * CLUSTER).to_be_bytes());
        header.extend((layout.count_table as u32).to_be_bytes());
        // No snapshots; no features.
        header.extend([0; 4 + 8 + 3 * 8]);
        header.extend(COUNT_ORDER.to_be_bytes());
        header.extend(HEADER_BYTES.to_be_bytes());
        header
    }
}

/// Where everything of a qcow2 file is, in clusters.
struct Layout {
    l1: u64,
    count_table: u64,
    count_blocks: u64,
    count_blocks_at: u64,
    l2_at: u64,
    data_at: u64,
    total: u64,
}

impl Layout {
    fn of(image: &Image<'_>) -> Self {
        let l1 = (image.windows.len() as u64).div_ceil(ENTRIES).max(1);
        let l2 = image.windows.iter().filter(|clusters| **clusters > 0).count() as u64;
        let data: u64 = image.windows.iter().map(|&clusters| u64::from(clusters)).sum();
        // The counts count themselves, too: grown until they suffice.
        let (mut count_table, mut count_blocks) = (1, 1);
        loop {
            let total = 1 + l1 + count_table + count_blocks + l2 + data;
            let blocks = total.div_ceil(COUNTS);
            let table = blocks.div_ceil(ENTRIES);
            if blocks <= count_blocks && table <= count_table {
                let count_blocks_at = 1 + l1 + count_table;
                let l2_at = count_blocks_at + count_blocks;
                let data_at = l2_at + l2;
                return Self { l1, count_table, count_blocks, count_blocks_at, l2_at, data_at, total };
            }
            (count_table, count_blocks) = (table.max(count_table), blocks.max(count_blocks));
        }
    }
}

/// Numbers of 64 bits, with zeroes up to `length` of them.
fn write_numbers(sink: &mut dyn Sink, numbers: impl Iterator<Item = u64>, length: u64) -> Result<()> {
    let mut bytes = Vec::new();
    let mut count = 0;
    for number in numbers {
        bytes.extend(number.to_be_bytes());
        count += 1;
        if bytes.len() as u64 >= CLUSTER {
            sink.write(std::mem::take(&mut bytes).into())?;
        }
    }
    sink.write(bytes.into())?;
    sink.write_zeroes(length.saturating_sub(count) * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::process::Command;

    /// A disk of noise at some places.
    struct Noise {
        size_bytes: u64,
        /// In order, not touching.
        data: Vec<(u64, u64)>,
    }

    fn byte(at: u64) -> u8 {
        (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
    }

    impl Source for Noise {
        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>> {
            let end = offset_bytes + length_bytes;
            let (mut at, mut found) = (offset_bytes, Vec::new());
            for &(from, to) in &self.data {
                let (from, to) = (from.max(offset_bytes), to.min(end));
                if from < to {
                    if from > at {
                        found.push(TypedExtent::zero(at, from - at));
                    }
                    found.push(TypedExtent::data(from, to - from));
                    at = to;
                }
            }
            if at < end {
                found.push(TypedExtent::zero(at, end - at));
            }
            Ok(found)
        }

        fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
            assert!(offset_bytes + buffer.len() as u64 <= self.size_bytes);
            for (n, out) in buffer.iter_mut().enumerate() {
                let at = offset_bytes + n as u64;
                *out =
                    if self.data.iter().any(|&(from, to)| (from..to).contains(&at)) { byte(at) } else { 0 };
            }
            Ok(())
        }
    }

    struct SparseFile(fs::File, u64);

    impl Sink for SparseFile {
        fn write(&mut self, bytes: Bytes) -> Result<()> {
            use std::os::unix::fs::FileExt as _;
            self.0.write_all_at(&bytes, self.1).unwrap();
            self.1 += bytes.len() as u64;
            Ok(())
        }

        fn write_zeroes(&mut self, length_bytes: u64) -> Result<()> {
            self.1 += length_bytes;
            self.0.set_len(self.1).unwrap();
            Ok(())
        }
    }

    fn qemu_img(arguments: &[&str]) {
        let done = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Writes it in all formats and has QEMU compare them.
    fn check(disk: &Noise) {
        let directory = tempfile::tempdir().unwrap();
        let progress = Progress::default();
        let path = |name: &str| directory.path().join(name).display().to_string();
        for (format, name) in
            [(DiskFormat::Raw, "raw"), (DiskFormat::Qcow2, "qcow2"), (DiskFormat::Vhd, "vhd")]
        {
            if format == DiskFormat::Vhd && disk.size_bytes > vhd::SIZE_MAX_BYTES {
                assert!(Image::plan(disk, format, &progress).is_err());
                continue;
            }
            let file = fs::File::create(path(name)).unwrap();
            let image = Image::plan(disk, format, &progress).unwrap();
            let mut sink = SparseFile(file, 0);
            image.write(&mut sink, &progress).unwrap();
            assert_eq!(sink.1, image.file_bytes(), "{format:?}");
        }
        let raw = fs::File::options().write(true).open(path("raw")).unwrap();
        assert_eq!(raw.metadata().unwrap().len(), disk.size_bytes);
        let padded = disk.size_bytes.next_multiple_of(512);
        raw.set_len(padded).unwrap();
        qemu_img(&["check", "-q", "-f", "qcow2", &path("qcow2")]);
        // Sizes that differ by zeroes are equal to QEMU.
        let header = fs::read(path("qcow2")).unwrap();
        assert_eq!(header[24..32], padded.to_be_bytes());
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "qcow2", &path("raw"), &path("qcow2")]);
        if disk.size_bytes <= vhd::SIZE_MAX_BYTES {
            raw.set_len(vhd::padded(disk.size_bytes)).unwrap();
            qemu_img(&["compare", "-q", "-f", "raw", "-F", "vpc", &path("raw"), &path("vhd")]);
        }
        // And the raw one against where the noise is, at the edges.
        raw.set_len(disk.size_bytes).unwrap();
        let raw = fs::File::open(path("raw")).unwrap();
        use std::os::unix::fs::FileExt as _;
        for &(from, to) in &disk.data {
            for at in [from, to - 1] {
                let mut found = [0];
                raw.read_exact_at(&mut found, at).unwrap();
                assert_eq!(found[0], byte(at));
            }
        }
    }

    #[test]
    fn edges() {
        let mib = 1 << 20;
        for (size_bytes, data) in [
            (mib, vec![]),
            (mib, vec![(0, mib)]),
            (65 * mib + 512, vec![(64 * mib, 65 * mib + 512)]),
            (CLUSTER, vec![(1, 2)]),
            (512, vec![(0, 512)]),
            // Two windows, and one between that has nothing.
            (3 * WINDOW, vec![(WINDOW - 10, WINDOW + 10), (3 * WINDOW - 5, 3 * WINDOW)]),
            // One table of counts is not enough.
            (5 << 40, vec![(1 << 40, (1 << 40) + 7), ((5 << 40) - 512, 5 << 40)]),
        ] {
            check(&Noise { size_bytes, data });
        }
    }

    /// More clusters than one block of counts has.
    #[test]
    fn counts_of_several_blocks() {
        struct Full(u64);
        impl Source for Full {
            fn size_bytes(&self) -> u64 {
                self.0
            }
            fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>> {
                Ok(vec![TypedExtent::data(offset_bytes, length_bytes)])
            }
            // All zeroes, so that the file stays small; to the image they are data.
            fn read_at(&self, _: u64, buffer: &mut [u8]) -> Result<()> {
                buffer.fill(0);
                Ok(())
            }
        }
        /// Leaves zeroes out.
        struct Thin(SparseFile);
        impl Sink for Thin {
            fn write(&mut self, bytes: Bytes) -> Result<()> {
                match bytes.iter().all(|b| *b == 0) {
                    true => self.0.write_zeroes(bytes.len() as u64),
                    false => self.0.write(bytes),
                }
            }
            fn write_zeroes(&mut self, length_bytes: u64) -> Result<()> {
                self.0.write_zeroes(length_bytes)
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        // 32768 clusters have counts in a block: this is a few more than that, with the tables.
        let disk = Full(32768 * CLUSTER);
        let image = Image::plan(&disk, DiskFormat::Qcow2, &Progress::default()).unwrap();
        assert_eq!(Layout::of(&image).count_blocks, 2);
        let mut sink = Thin(SparseFile(fs::File::create(&path).unwrap(), 0));
        image.write(&mut sink, &Progress::default()).unwrap();
        qemu_img(&["check", "-q", "-f", "qcow2", &path.display().to_string()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        #[test]
        fn any_disk(sectors in 1u64..40_000, places in proptest::collection::vec((0u64..20_000_000, 1u64..300_000), 0..12)) {
            let size_bytes = sectors * 512;
            let mut data: Vec<(u64, u64)> = Vec::new();
            let mut places = places;
            places.sort_unstable();
            for (from, length) in places {
                let from = from.max(data.last().map_or(0, |last| last.1 + 1));
                let to = (from + length).min(size_bytes);
                if from < to {
                    data.push((from, to));
                }
            }
            check(&Noise { size_bytes, data });
        }
    }
}
