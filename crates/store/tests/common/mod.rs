//! What the vault tests share: vaults in temporary directories, disks in memory, points of them.

#![allow(dead_code)]

use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use strongroom_domain::{Consistency, ConsistencyLevel, TypedExtent};
use strongroom_store::objects::{BlobStore, Location, OpenOptions};
use strongroom_store::reclaim::{ReclaimOptions, ReclaimReport, reclaim};
use strongroom_store::*;

/// A disk in memory.
#[derive(Clone, Default)]
pub struct Image(pub Arc<Mutex<Vec<u8>>>);

impl Image {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}

impl BlockSource for Image {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let image = self.0.lock();
        let from = offset as usize;
        let part = image
            .get(from..from + buffer.len())
            .ok_or_else(|| std::io::Error::other("read beyond the end"))?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

impl BlockTarget for Image {
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut image = self.0.lock();
        let from = offset as usize;
        image
            .get_mut(from..from + data.len())
            .ok_or_else(|| std::io::Error::other("write beyond the end"))?
            .copy_from_slice(data);
        Ok(())
    }
}

/// Bytes that look random but follow from the seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Bytes that compress, following from the seed.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, 64);
    (0..len).map(|i| b'a' + words[(i / 7 + i / 1024) % 64] % 26).collect()
}

pub const BLOCK: u32 = 4096;

pub fn objects_at(dir: &Path) -> BlobStore {
    let location = Location::parse(dir.to_str().unwrap()).unwrap();
    BlobStore::open(&location, OpenOptions { create: true, ..Default::default() }).unwrap()
}

/// The real world, in which this process can be a new one: leases of the ones before it are seen to be over.
pub struct Incarnation(pub u64);

impl Environment for Incarnation {
    fn now(&self) -> jiff::Timestamp {
        System.now()
    }
    fn elapsed(&self) -> std::time::Duration {
        System.elapsed()
    }
    fn new_session_id(&self) -> strongroom_domain::SessionId {
        System.new_session_id()
    }
    fn new_point_id(&self) -> strongroom_domain::PointId {
        System.new_point_id()
    }
    fn new_vault_id(&self) -> strongroom_domain::VaultId {
        System.new_vault_id()
    }
    fn process(&self) -> ProcessIdentity {
        ProcessIdentity { process_start: self.0, ..System.process() }
    }
    fn is_gone(&self, process: &ProcessIdentity) -> bool {
        process.process_start < self.0
    }
}

/// A new vault with small blocks, and its key.
pub fn init(objects: BlobStore) -> (Vault, KeyFile) {
    let environment = Arc::new(Incarnation(1));
    let options = InitOptions { block_size_bytes: BLOCK, environment, ..InitOptions::default() };
    let key = KeyFile::generate(options.vault).unwrap();
    (Vault::init(objects, &key, options).unwrap(), key)
}

pub fn draft(item: &str, vault: &Vault, disks: Vec<Disk>, parent: Option<&Manifest>) -> PointDraft {
    PointDraft {
        item: item.parse().unwrap(),
        kind: PointKind::Image,
        taken_at: vault.environment().now(),
        parent: parent.map(|p| p.point),
        consistency: Consistency::new(ConsistencyLevel::Crash, "a test"),
        disks,
        definition: None,
        kept: None,
        warnings: vec![],
        attributes: Default::default(),
    }
}

/// A backup of an item that is written, and not committed.
pub struct UnderWay {
    pub session: Session,
    pub parent: Option<Manifest>,
    pub written: DiskWritten,
}

impl UnderWay {
    pub fn commit(self, vault: &Vault, item: &str) -> Result<Manifest> {
        let disks = vec![Disk::new("disk", &self.written)];
        self.session.commit(draft(item, vault, disks, self.parent.as_ref()))
    }
}

/// Backs `image` up as a point of `item`. Without extents, everything is read.
pub fn backup(
    vault: &Vault,
    item: &str,
    image: &Image,
    extents: Option<Vec<TypedExtent>>,
) -> Result<Manifest> {
    begin(vault, item, image, extents)?.commit(vault, item)
}

/// The same, up to the commit.
pub fn begin(
    vault: &Vault,
    item: &str,
    image: &Image,
    extents: Option<Vec<TypedExtent>>,
) -> Result<UnderWay> {
    let session = Session::begin(vault, "test")?;
    let parent = vault.points(Some(&item.parse().unwrap()))?.take_last();
    let size_bytes = image.0.lock().len() as u64;
    let extents = extents.unwrap_or_else(|| match size_bytes {
        0 => vec![],
        _ => vec![TypedExtent::data(0, size_bytes)],
    });
    let written = session.write_disk(DiskRequest {
        source: Arc::new(image.clone()),
        name: "disk".into(),
        size_bytes,
        extents,
        parent: parent.as_ref().map(|p| p.disks[0].tree()),
        progress: Arc::default(),
    })?;
    Ok(UnderWay { session, parent, written })
}

/// Restores the point's only disk.
pub fn restore(vault: &Vault, point: &Manifest) -> Result<Vec<u8>> {
    let target = Image::new(vec![0; point.disks[0].size_bytes as usize]);
    let disk = ReadSession::begin(vault, "test")?.open_disk(point.disks[0].tree());
    disk.export(&target, &Progress::default())?;
    Ok(target.bytes())
}

pub fn reclaim_all(vault: &Vault, cache: Option<&Path>) -> ReclaimReport {
    let options = ReclaimOptions { cache_dir: cache.map(Path::to_owned), ..Default::default() };
    reclaim(vault, &options, &Progress::default()).unwrap()
}

/// Sizes of all objects below a name prefix.
pub fn stored(vault: &Vault, prefix: &str) -> u64 {
    vault.objects().list(prefix).unwrap().iter().map(|o| o.size_bytes).sum()
}

pub fn check(vault: &Vault, read_data: bool) -> strongroom_store::check::CheckReport {
    strongroom_store::check::check(
        vault,
        &strongroom_store::check::CheckOptions { read_data },
        &Progress::default(),
    )
    .unwrap()
}
