//! Where a point's disks are read from: its tree in the vault, or the clones of its snapshot while there are any.
//!
//! Whoever restores asks a [`PointSource`] for each disk and reads it without regard to where it is. What is read of a
//! snapshot counts only after [`PointSource::check`] said that it had not been spoiled meanwhile; what is read of a vault is
//! verified by itself.

use crate::error::{Error, Result};
use crate::limits::SNAPSHOT_PIECE_BYTES;
use parking_lot::Mutex;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strongroom_domain::{Extent, ExtentKind, TypedExtent};
use strongroom_hypervisor::{DiskFormat, DiskSnapshot, KeptDisk, KeptSnapshot, MachineSnapshot};
use strongroom_store::{BlockTarget, Disk, DiskReader, Progress, ReadSession};

/// A point that is open for reading.
pub enum PointSource {
    /// Its trees in the vault.
    Vault(Arc<ReadSession>),
    /// The clones of its snapshot, beside the machine's disks.
    Snapshot(Box<OpenSnapshot>),
}

/// A kept snapshot that is open.
pub struct OpenSnapshot {
    snapshot: MachineSnapshot,
    kept: KeptSnapshot,
    /// What keeps it from being removed meanwhile.
    _hold: Box<dyn Any + Send + Sync>,
}

impl From<Arc<ReadSession>> for PointSource {
    fn from(session: Arc<ReadSession>) -> Self {
        Self::Vault(session)
    }
}

impl PointSource {
    /// `hold`: whatever keeps the snapshot from being removed while it is read.
    pub fn snapshot(snapshot: MachineSnapshot, kept: KeptSnapshot, hold: Box<dyn Any + Send + Sync>) -> Self {
        Self::Snapshot(Box::new(OpenSnapshot { snapshot, kept, _hold: hold }))
    }

    /// One disk of the point.
    pub fn open(&self, disk: &Disk) -> Result<DiskSource> {
        match self {
            Self::Vault(session) => Ok(DiskSource::Vault(session.open_disk(disk.tree()))),
            Self::Snapshot(open) => {
                let found = open.snapshot.disks.iter().find(|d| d.target == disk.name);
                let kept = open.kept.disks.iter().find(|d| d.target == disk.name);
                let (Some(found), Some(kept)) = (found, kept) else {
                    return Err(Error::not_found(format!(
                        "the snapshot of machine `{}` has no disk `{}`",
                        open.kept.machine, disk.name
                    )));
                };
                let map = found.kinds()?;
                Ok(DiskSource::Snapshot { disk: found.clone(), kept: kept.clone(), map: map.into() })
            }
        }
    }

    /// Fails when what was read cannot be relied upon. To be asked after the last read, before anything is made true.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Vault(_) => Ok(()),
            Self::Snapshot(open) => Ok(open.snapshot.check()?),
        }
    }

    /// For people: `the vault`, `the snapshot`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vault(_) => "the vault",
            Self::Snapshot(_) => "the snapshot",
        }
    }
}

/// A disk of a point. May be read from many threads at once.
#[derive(Clone)]
pub enum DiskSource {
    /// By its tree in the vault.
    Vault(DiskReader),
    /// By its clone, or what else the snapshot has of it.
    Snapshot {
        /// What its bytes are read from.
        disk: DiskSnapshot,
        /// Where its file is.
        kept: KeptDisk,
        /// Of the whole disk.
        map: Arc<[TypedExtent]>,
    },
}

impl DiskSource {
    /// As the guest sees it.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Vault(reader) => reader.size_bytes(),
            Self::Snapshot { disk, .. } => disk.size_bytes,
        }
    }

    /// Bytes that are not holes, about: what [`export`](Self::export) writes at most.
    pub fn data_bytes(&self) -> Result<u64> {
        match self {
            Self::Vault(reader) => Ok(reader.data_bytes()?),
            Self::Snapshot { map, .. } => {
                Ok(map.iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.extent.length_bytes).sum())
            }
        }
    }

    /// Which parts of a range hold data and which are holes: everything in it, in order.
    pub fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<TypedExtent>> {
        match self {
            Self::Vault(reader) => Ok(reader.extents(offset_bytes, length_bytes)?),
            Self::Snapshot { map, disk, .. } => {
                let length_bytes = length_bytes.min(disk.size_bytes.saturating_sub(offset_bytes));
                Ok(strongroom_domain::extent::intersect(&[Extent::new(offset_bytes, length_bytes)], map))
            }
        }
    }

    /// Fills `buffer` with the bytes at `offset_bytes`, which must lie within the disk.
    pub fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Vault(reader) => Ok(reader.read_at(offset_bytes, buffer)?),
            Self::Snapshot { disk, .. } => Ok(disk.read_at(offset_bytes, buffer)?),
        }
    }

    /// The file that is the whole disk, in this format, and can be cloned on its own file system. Never to be written to.
    pub fn file(&self) -> Option<(&Path, DiskFormat)> {
        match self {
            Self::Snapshot { kept, .. } if !kept.has_backing => Some((&kept.path, kept.format)),
            _ => None,
        }
    }

    /// Writes all data to `target`, holes left out; it must read as zeroes where nothing is written.
    pub fn export(&self, target: &dyn BlockTarget, progress: &Progress) -> Result<()> {
        match self {
            Self::Vault(reader) => Ok(reader.export(target, progress)?),
            Self::Snapshot { disk, map, .. } => copy(disk, map, target, progress),
        }
    }
}

/// Copies a snapshot's data, several pieces at a time.
fn copy(
    disk: &DiskSnapshot,
    map: &[TypedExtent],
    target: &dyn BlockTarget,
    progress: &Progress,
) -> Result<()> {
    let pieces = map.iter().filter(|e| e.kind == ExtentKind::Data).flat_map(|e| {
        let (from, to) = (e.extent.offset_bytes, e.extent.end_bytes());
        let first = from / SNAPSHOT_PIECE_BYTES;
        (first..to.div_ceil(SNAPSHOT_PIECE_BYTES)).map(move |piece| {
            let at = (piece * SNAPSHOT_PIECE_BYTES).max(from);
            Extent::new(at, ((piece + 1) * SNAPSHOT_PIECE_BYTES).min(to) - at)
        })
    });
    let pieces = Mutex::new(pieces);
    let next = || pieces.lock().next();
    let failed = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let one = |buffer: &mut Vec<u8>, piece: &Extent| -> Result<()> {
        progress.check()?;
        buffer.resize(piece.length_bytes as usize, 0);
        disk.read_at(piece.offset_bytes, buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            target.write_at(piece.offset_bytes, buffer).map_err(|e| {
                Error::io(format!("writing the restored disk at offset {}", piece.offset_bytes), e)
            })?;
        }
        progress.add_done(piece.length_bytes);
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                while let Some(piece) = next() {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = one(&mut buffer, &piece) {
                        failure.lock().get_or_insert(error);
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
