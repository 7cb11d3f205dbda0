//! Packs: building one in memory, and reading what one says it holds.
//!
//! Layout in `docs/vault-format.md`, section 4. A pack is immutable from the moment it exists; its
//! directory repeats its frames' heads and ids, so that an index is rebuilt from packs alone.

use crate::crypto::{Id, SealKey, hash16};
use crate::error::{Result, StoreError};
use crate::frame::{FRAME_HEAD_BYTES, FrameContent, FrameHead, PackId, append_frame, ids_of};
use crate::limits::PACK_MAX_BYTES;
use crate::objects::BlobStore;
use strongroom_domain::VaultId;

pub const PACK_MAGIC: [u8; 8] = *b"SRPACK\x01\x00";
pub const TRAILER_MAGIC: [u8; 8] = *b"SRPKEND\x01";
pub const PACK_HEADER_BYTES: usize = 64;
pub const TRAILER_BYTES: usize = 40;

/// A frame as a pack's directory lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    pub offset: u32,
    pub head: FrameHead,
    pub ids: Vec<Id>,
}

/// A pack under construction.
pub struct PackBuilder {
    pub id: PackId,
    vault: VaultId,
    key: SealKey,
    bytes: Vec<u8>,
    directory: Vec<u8>,
    frames: u32,
}

impl PackBuilder {
    /// `buffer` is reused memory; its content is dropped.
    pub fn new(id: PackId, vault: VaultId, key: SealKey, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&pack_header(&id, &vault));
        Self { id, vault, key, bytes: buffer, directory: Vec::new(), frames: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes so far, with the directory.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.directory.len() + TRAILER_BYTES
    }

    pub fn append(&mut self, content: &FrameContent<'_>) {
        let offset = self.bytes.len();
        append_frame(&mut self.bytes, content, self.frames, &self.id, &self.vault, &self.key);
        let told = FRAME_HEAD_BYTES + content.ids.len() * 32;
        self.directory.extend_from_slice(&(offset as u32).to_le_bytes());
        self.directory.extend_from_slice(&self.bytes[offset..offset + told]);
        self.frames += 1;
    }

    /// The finished object.
    pub fn finish(mut self) -> (PackId, Vec<u8>) {
        let directory_at = self.bytes.len() as u32;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(&TRAILER_MAGIC);
        trailer.extend_from_slice(&directory_at.to_le_bytes());
        trailer.extend_from_slice(&(self.directory.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&self.frames.to_le_bytes());
        trailer.extend_from_slice(&[0; 4]);
        let hash = hash16(&[&self.directory, &trailer]);
        trailer.extend_from_slice(&hash);
        self.bytes.extend_from_slice(&self.directory);
        self.bytes.extend_from_slice(&trailer);
        (self.id, self.bytes)
    }
}

fn pack_header(id: &PackId, vault: &VaultId) -> [u8; PACK_HEADER_BYTES] {
    let mut out = [0; PACK_HEADER_BYTES];
    out[..8].copy_from_slice(&PACK_MAGIC);
    out[8..24].copy_from_slice(vault.as_bytes());
    out[24..40].copy_from_slice(id.session.as_bytes());
    out[40..44].copy_from_slice(&id.sequence.to_le_bytes());
    let hash = hash16(&[&out[..48]]);
    out[48..].copy_from_slice(&hash);
    out
}

/// Whether `bytes` begin with the header that pack `id` of `vault` must have.
pub fn check_header(bytes: &[u8], id: &PackId, vault: &VaultId) -> Result<(), &'static str> {
    match bytes.get(..PACK_HEADER_BYTES) {
        None => Err("cut short in the header"),
        Some(found) if found == pack_header(id, vault) => Ok(()),
        Some(_) => Err("the header is not that of this pack"),
    }
}

/// Where the directory is: `(offset, length, frames)` by the last 40 bytes of a pack of `size` bytes.
pub fn parse_trailer(trailer: &[u8], size: u64) -> Result<(u64, usize, usize), &'static str> {
    if trailer.len() != TRAILER_BYTES || trailer[..8] != TRAILER_MAGIC {
        return Err("no trailer at the end");
    }
    let u32_at =
        |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let (offset, len, frames) = (u64::from(u32_at(8)), u32_at(12) as usize, u32_at(16) as usize);
    if offset < PACK_HEADER_BYTES as u64 || offset + len as u64 + TRAILER_BYTES as u64 != size {
        return Err("the trailer does not fit the pack's size");
    }
    if frames > len / (4 + FRAME_HEAD_BYTES) {
        return Err("the trailer counts more frames than its directory can hold");
    }
    Ok((offset, len, frames))
}

/// Parses directory and trailer, which are the last bytes of a pack.
pub fn parse_directory(
    directory: &[u8],
    trailer: &[u8],
    frames: usize,
) -> Result<Vec<FrameEntry>, &'static str> {
    if trailer.len() != TRAILER_BYTES || hash16(&[directory, &trailer[..24]]) != trailer[24..] {
        return Err("the directory does not match its hash");
    }
    let mut out = Vec::with_capacity(frames.min(directory.len() / (4 + FRAME_HEAD_BYTES)));
    let mut rest = directory;
    let mut expected_offset = PACK_HEADER_BYTES as u64;
    for ordinal in 0..frames {
        let (offset, after) = rest.split_first_chunk::<4>().ok_or("the directory is cut short")?;
        let offset = u32::from_le_bytes(*offset);
        let head = FrameHead::parse(after)?;
        let told = FRAME_HEAD_BYTES + head.ids_len();
        let ids = after.get(FRAME_HEAD_BYTES..told).ok_or("the directory is cut short")?;
        if u64::from(offset) != expected_offset || head.ordinal as usize != ordinal {
            return Err("the directory's frames are not in a row");
        }
        expected_offset += head.frame_len() as u64;
        out.push(FrameEntry { offset, head, ids: ids_of(ids).collect() });
        rest = &after[told..];
    }
    if !rest.is_empty() {
        return Err("the directory has bytes left over");
    }
    Ok(out)
}

/// Reads the directory of a pack, from its end alone.
pub fn read_directory(store: &BlobStore, pack: &PackId, size: u64) -> Result<Vec<FrameEntry>> {
    let name = pack.object_name();
    let damaged = |detail: &str| StoreError::corrupt(name.clone(), detail);
    if size < (PACK_HEADER_BYTES + TRAILER_BYTES) as u64 || size > PACK_MAX_BYTES {
        return Err(damaged("a pack cannot have this size"));
    }
    let trailer = store.get_range(&name, size - TRAILER_BYTES as u64..size)?;
    let (offset, len, frames) = parse_trailer(&trailer, size).map_err(damaged)?;
    let directory = store.get_range(&name, offset..offset + len as u64)?;
    parse_directory(&directory, &trailer, frames).map_err(damaged)
}

/// What a walk over a whole pack found.
#[derive(Default)]
pub struct Walk {
    pub frames: Vec<FrameEntry>,
    /// Where the walk could not go on or something did not match, and why.
    pub faults: Vec<(Option<u32>, &'static str)>,
}

/// Walks a whole pack in memory: header, every frame with its hash, directory, trailer. Goes on
/// behind a damaged frame where the directory tells the way. Needs no key.
pub fn walk(bytes: &[u8], id: &PackId, vault: &VaultId) -> Walk {
    let mut out = Walk::default();
    if let Err(fault) = check_header(bytes, id, vault) {
        out.faults.push((None, fault));
    }
    let size = bytes.len();
    let listed = size
        .checked_sub(TRAILER_BYTES)
        .ok_or("cut short")
        .and_then(|at| {
            let trailer = &bytes[at..];
            let (offset, len, frames) = parse_trailer(trailer, size as u64)?;
            parse_directory(&bytes[offset as usize..offset as usize + len], trailer, frames)
        })
        .map_err(|fault| out.faults.push((None, fault)))
        .ok();
    match listed {
        Some(frames) => {
            for entry in frames {
                let at = entry.offset as usize;
                match crate::frame::Frame::parse(bytes.get(at..).unwrap_or_default()) {
                    Ok(frame) if frame.head == entry.head => {
                        if !frame.ids().eq(entry.ids.iter().copied()) {
                            out.faults.push((Some(entry.offset), "frame and directory name different ids"));
                        }
                    }
                    Ok(_) => out.faults.push((Some(entry.offset), "frame and directory differ")),
                    Err(fault) => out.faults.push((Some(entry.offset), fault)),
                }
                out.frames.push(entry);
            }
        }
        None => {
            let mut at = PACK_HEADER_BYTES;
            while let Some(rest) = bytes.get(at..) {
                let Ok(frame) = crate::frame::Frame::parse(rest) else { break };
                out.frames.push(FrameEntry {
                    offset: at as u32,
                    head: frame.head,
                    ids: frame.ids().collect(),
                });
                at += frame.head.frame_len();
            }
        }
    }
    out
}
