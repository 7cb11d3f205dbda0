//! Packs: their directories, or every byte of them.

use super::run::Run;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::frames::decode;
use crate::index::Index;
use crate::limits::PACK_MAX_BYTES;
use crate::objects::Kind;
use crate::pack::{read_directory, walk};
use crate::progress::Progress;
use crate::vault::Vault;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

impl Run<'_> {
    /// Packs: their directories, or every byte of them.
    pub(super) fn packs(&mut self, index: &Index, read_data: bool, progress: &Progress) -> Result<()> {
        let packs: Vec<(PackId, u64)> = self.sizes.iter().map(|(p, s)| (*p, *s)).collect();
        if read_data {
            progress.add_total(packs.iter().map(|(_, size)| size).sum());
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8);
        let next = AtomicUsize::new(0);
        let read_bytes = AtomicU64::new(0);
        type Faults = Vec<(PackId, Option<u32>, String)>;
        let faults: Mutex<Faults> = Mutex::default();
        let failure: Mutex<Option<StoreError>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((pack, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if failure.lock().is_some() {
                            return;
                        }
                        match check_pack(self.vault, pack, *size, read_data, progress) {
                            Ok(found) => {
                                faults
                                    .lock()
                                    .extend(found.into_iter().map(|(at, detail)| (*pack, at, detail)));
                                if read_data {
                                    read_bytes.fetch_add(*size, Ordering::Relaxed);
                                    progress.add_done(*size);
                                }
                            }
                            Err(e) => {
                                failure.lock().get_or_insert(e);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        self.report.read_bytes = read_bytes.into_inner();
        let condemned = index.excluded().condemned;
        for (pack, offset, detail) in faults.into_inner() {
            if condemned.contains(&pack) {
                continue;
            }
            index.exclude(|excluded| {
                match offset {
                    Some(offset) => excluded.damaged_frames.insert((pack, offset)),
                    None => excluded.damaged_packs.insert(pack),
                };
            });
            let at = offset.map_or(String::new(), |offset| format!("frame at offset {offset}: "));
            self.fault(pack.object_name(), format!("{at}{detail}"));
        }
        Ok(())
    }
}

/// Faults of one pack: with the offset of a frame, or of the pack as a whole.
fn check_pack(
    vault: &Vault,
    pack: &PackId,
    size: u64,
    read_data: bool,
    progress: &Progress,
) -> Result<Vec<(Option<u32>, String)>> {
    progress.check()?;
    let name = pack.object_name();
    let gone = |kind: Kind| match kind {
        Kind::NotFound => Some("it is missing"),
        Kind::Short => Some("it is cut short"),
        Kind::TooLarge => Some("it is larger than a pack can be"),
        _ => None,
    };
    if !read_data {
        return match read_directory(vault.objects(), pack, size) {
            Ok(_) => Ok(Vec::new()),
            Err(StoreError::Corrupt { detail, .. }) => Ok(vec![(None, detail)]),
            Err(StoreError::Object(e)) => match gone(e.kind) {
                Some(detail) => Ok(vec![(None, detail.into())]),
                None => Err(e.into()),
            },
            Err(e) => Err(e),
        };
    }
    let bytes = match vault.objects().get_bounded(&name, PACK_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) => {
            return match gone(e.kind) {
                Some(detail) => Ok(vec![(None, detail.into())]),
                None => Err(e.into()),
            };
        }
    };
    let walked = walk(&bytes, pack, &vault.id());
    let mut faults: Vec<(Option<u32>, String)> =
        walked.faults.into_iter().map(|(at, detail)| (at, detail.to_owned())).collect();
    for entry in walked.frames {
        if faults.iter().any(|(at, _)| *at == Some(entry.offset)) {
            continue;
        }
        progress.check()?;
        let frame = bytes.get(entry.offset as usize..).unwrap_or_default();
        match decode(frame, pack, entry.offset, vault.keys(), vault.block_size_bytes() as usize) {
            Ok(_) => {}
            Err(StoreError::Corrupt { detail, .. }) => faults.push((Some(entry.offset), detail)),
            Err(e) => return Err(e),
        }
    }
    Ok(faults)
}
