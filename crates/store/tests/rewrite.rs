//! Making a disk that is there equal to a point's: always right, whatever was there, and no more written than differs.

mod common;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use common::*;
use proptest::prelude::*;
use soak::number;
use std::sync::atomic::{AtomicU64, Ordering};
use strongroom_domain::{Extent, TypedExtent};
use strongroom_store::*;

/// An image that counts, and refuses to be read where it said that it holds nothing.
struct Present {
    image: Image,
    holds: Vec<Extent>,
    written: AtomicU64,
    fail_after: u64,
}

impl Present {
    fn new(bytes: Vec<u8>) -> Self {
        let mut holds: Vec<Extent> = Vec::new();
        for (i, unit) in bytes.chunks(UNIT).enumerate() {
            if unit.iter().any(|b| *b != 0) {
                let (at, len) = ((i * UNIT) as u64, unit.len() as u64);
                match holds.last_mut() {
                    Some(last) if last.end_bytes() == at => last.length_bytes += len,
                    _ => holds.push(Extent::new(at, len)),
                }
            }
        }
        Self { image: Image::new(bytes), holds, written: AtomicU64::new(0), fail_after: u64::MAX }
    }
}

impl RewriteTarget for Present {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let end = offset + buffer.len() as u64;
        assert!(
            self.holds.iter().any(|e| e.offset_bytes < end && e.end_bytes() > offset),
            "read where nothing is: {offset}"
        );
        BlockSource::read_at(&self.image, offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let before = self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        if before >= self.fail_after {
            return Err(std::io::Error::other("no more"));
        }
        BlockTarget::write_at(&self.image, offset, data)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> std::io::Result<()> {
        BlockTarget::write_at(&self.image, offset, &vec![0; length as usize])
    }
}

const UNIT: usize = 512;

/// Runs of units: none, or noise of a seed.
fn disk() -> impl Strategy<Value = Vec<(usize, u64)>> {
    proptest::collection::vec((1usize..900, 0u64..4), 1..12)
}

fn bytes(runs: &[(usize, u64)], size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    let mut at = 0;
    for (units, seed) in runs {
        let end = (at + units * UNIT).min(size);
        if *seed > 0 {
            // The same bytes in the same place for the same seed: disks have much in common.
            let noise = noise(*seed, size);
            out[at..end].copy_from_slice(&noise[at..end]);
        }
        at = end;
    }
    out
}

fn point(bytes: &[u8]) -> (tempfile::TempDir, Vault, Manifest) {
    let directory = tempfile::tempdir().unwrap();
    let (vault, _) = init(objects_at(directory.path()));
    let session = Session::begin(&vault, "test").unwrap();
    let written = session
        .write_disk(DiskRequest {
            source: std::sync::Arc::new(Image::new(bytes.to_vec())),
            name: "disk".into(),
            size_bytes: bytes.len() as u64,
            extents: vec![TypedExtent::data(0, bytes.len() as u64)],
            parent: None,
            progress: Default::default(),
        })
        .unwrap();
    let manifest = session.commit(draft("disk", &vault, vec![Disk::new("disk", &written)], None)).unwrap();
    (directory, vault, manifest)
}

/// Pieces that differ, as `REWRITE_PIECE_BYTES` cuts them.
fn differing(a: &[u8], b: &[u8]) -> u64 {
    let pieces = a.chunks(limits::REWRITE_PIECE_BYTES).zip(b.chunks(limits::REWRITE_PIECE_BYTES));
    pieces.filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: number(40, 400), ..ProptestConfig::default() })]

    #[test]
    fn a_disk_becomes_the_points(before in disk(), wanted in disk(), units in 1usize..6000) {
        let size = units * UNIT;
        let (before, wanted) = (bytes(&before, size), bytes(&wanted, size));
        let (_directory, vault, manifest) = point(&wanted);
        let reader = ReadSession::begin(&vault, "test").unwrap().open_disk(manifest.disks[0].tree());
        let present = Present::new(before.clone());
        let progress = Progress::default();
        let done = reader.rewrite(&present, &present.holds, &progress).unwrap();
        prop_assert!(present.image.bytes() == wanted, "it is not the point's disk");
        prop_assert_eq!(done.written_bytes, present.written.load(Ordering::Relaxed));
        prop_assert!(done.written_bytes <= differing(&before, &wanted), "{:?}", done);
        prop_assert_eq!(progress.done_bytes(), progress.total_bytes());
        // Done again, there is nothing to do.
        let present = Present::new(wanted.clone());
        let again = reader.rewrite(&present, &present.holds, &Progress::default()).unwrap();
        prop_assert_eq!((again.written_bytes, again.zeroed_bytes), (0, 0));
        prop_assert_eq!(reader.differing_bytes(&reader).unwrap(), 0);
    }
}

#[test]
fn what_was_broken_off_is_made_whole() {
    let size = 3 << 20;
    let (before, wanted) = (noise(1, size), noise(2, size));
    let (_directory, vault, manifest) = point(&wanted);
    let reader = ReadSession::begin(&vault, "test").unwrap().open_disk(manifest.disks[0].tree());
    let mut present = Present::new(before);
    present.fail_after = 1 << 20;
    let error = reader.rewrite(&present, &present.holds, &Progress::default()).unwrap_err();
    assert!(error.to_string().contains("offset"), "{error}");
    assert!(present.image.bytes() != wanted);
    let present = Present::new(present.image.bytes());
    let done = reader.rewrite(&present, &present.holds, &Progress::default()).unwrap();
    assert!(done.written_bytes < size as u64, "what was there already is not written again: {done:?}");
    assert!(present.image.bytes() == wanted);
    let cancelled = Progress::default();
    cancelled.cancel();
    let present = Present::new(noise(3, size));
    assert!(matches!(reader.rewrite(&present, &present.holds, &cancelled), Err(StoreError::Cancelled)));
}
