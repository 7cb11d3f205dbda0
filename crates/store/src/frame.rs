//! Frames: the unit of compression, encryption and reading. See `docs/vault-format.md`, section 4.
//!
//! Parsing trusts nothing: every count and length is checked against the limits before use, and
//! `hash16` before anything is decrypted.

use crate::crypto::{Id, SealKey, TAG_BYTES, hash16};
use crate::error::{Result, StoreError};
use crate::limits::{FRAME_COUNT_MAX, FRAME_PLAIN_MAX_BYTES};
use strongroom_domain::{SessionId, VaultId};

/// What every frame begins with.
pub const FRAME_MAGIC: [u8; 4] = *b"SRFR";
/// Bytes of a frame before its ids.
pub const FRAME_HEAD_BYTES: usize = 40;
/// The part of the head that the hash and the additional data cover.
const HEAD_BOUND_BYTES: usize = 24;

/// Which pack of a vault: its object's name, and what its key is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// The session that wrote it.
    pub session: SessionId,
    /// Its number among the session's packs.
    pub sequence: u32,
}

impl PackId {
    /// `packs/SESSION/SEQUENCE`, the sequence as eight hexadecimal digits.
    pub fn object_name(&self) -> String {
        format!("packs/{}/{:08x}", self.session, self.sequence)
    }

    /// Reads such a name. None: it is none of a pack.
    pub fn from_object_name(name: &str) -> Option<Self> {
        let (session, sequence) = name.strip_prefix("packs/")?.split_once('/')?;
        let pack = Self { session: session.parse().ok()?, sequence: u32::from_str_radix(sequence, 16).ok()? };
        (pack.object_name() == name).then_some(pack)
    }

    /// What binds a frame to its vault and pack.
    fn additional_data(&self, vault: &VaultId, head: &[u8], ids: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(36 + HEAD_BOUND_BYTES + ids.len());
        out.extend_from_slice(vault.as_bytes());
        out.extend_from_slice(self.session.as_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&head[..HEAD_BOUND_BYTES]);
        out.extend_from_slice(ids);
        out
    }
}

impl std::fmt::Display for PackId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.object_name())
    }
}

/// What a frame holds. The numbers are the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Blocks of disks.
    Blocks = 1,
    /// Nodes of trees.
    Nodes = 2,
}

impl FrameKind {
    /// None: no kind that this program knows.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Blocks),
            2 => Some(Self::Nodes),
            _ => None,
        }
    }
}

/// How a frame's content is compressed. The numbers are the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None = 0,
    /// As one zstd frame, without its content's size.
    Zstd = 1,
}

/// What a frame says of itself, without its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// What it holds.
    pub kind: FrameKind,
    /// How that is compressed.
    pub codec: Codec,
    /// How many blocks or nodes: at least 1, at most [`FRAME_COUNT_MAX`].
    pub count: usize,
    /// Bytes of the content, decompressed: at most [`FRAME_PLAIN_MAX_BYTES`].
    pub plain_len: usize,
    /// Bytes of the content as it is stored: compressed, sealed, with its tag.
    pub stored_len: usize,
    /// Its number in the pack, which its nonce is made of.
    pub ordinal: u32,
    /// Of the whole frame but this hash itself: told without a key.
    pub hash: [u8; 16],
}

impl FrameHead {
    /// Parses the first 40 bytes of a frame; the reason if they cannot be one.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; FRAME_HEAD_BYTES] = bytes
            .get(..FRAME_HEAD_BYTES)
            .and_then(|b| b.try_into().ok())
            .ok_or("cut short in a frame's head")?;
        if bytes[..4] != FRAME_MAGIC {
            return Err("no frame begins there");
        }
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = FrameKind::from_byte(bytes[4]).ok_or("unknown kind of frame")?;
        let codec = match bytes[5] {
            0 => Codec::None,
            1 => Codec::Zstd,
            _ => return Err("unknown codec"),
        };
        let count = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let plain_len = u32_at(8) as usize;
        let stored_len = u32_at(12) as usize;
        if count == 0 || count > FRAME_COUNT_MAX {
            return Err("frame with an impossible count");
        }
        if plain_len == 0 || plain_len > FRAME_PLAIN_MAX_BYTES {
            return Err("frame with an impossible plain length");
        }
        // Compression is only kept where it helps, so a frame is never stored larger than plain.
        if stored_len < TAG_BYTES || stored_len > plain_len + TAG_BYTES {
            return Err("frame with an impossible stored length");
        }
        if codec == Codec::None && stored_len != plain_len + TAG_BYTES {
            return Err("uncompressed frame whose lengths differ");
        }
        if u32_at(20) != 0 {
            return Err("frame with reserved bytes set");
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&bytes[24..40]);
        Ok(Self { kind, codec, count, plain_len, stored_len, ordinal: u32_at(16), hash })
    }

    /// Bytes of the whole frame in its pack: head, ids, stored bytes.
    pub fn frame_len(&self) -> usize {
        self.ids_len() + FRAME_HEAD_BYTES + self.stored_len
    }

    /// Bytes of the ids between head and content.
    pub fn ids_len(&self) -> usize {
        self.count * 32
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FRAME_MAGIC);
        out.push(self.kind as u8);
        out.push(self.codec as u8);
        out.extend_from_slice(&(self.count as u16).to_le_bytes());
        out.extend_from_slice(&(self.plain_len as u32).to_le_bytes());
        out.extend_from_slice(&(self.stored_len as u32).to_le_bytes());
        out.extend_from_slice(&self.ordinal.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.hash);
    }
}

/// Splits joined ids.
pub fn ids_of(bytes: &[u8]) -> impl Iterator<Item = Id> + '_ {
    bytes.chunks_exact(32).map(|chunk| {
        let mut id = [0; 32];
        id.copy_from_slice(chunk);
        Id(id)
    })
}

/// Content of a frame to be written: `payload` is compressed already where `codec` says so.
pub struct FrameContent<'a> {
    /// What it holds.
    pub kind: FrameKind,
    /// How `payload` is compressed.
    pub codec: Codec,
    /// The blocks' or nodes' ids, in the order of the content: at least 1, at most [`FRAME_COUNT_MAX`].
    pub ids: &'a [Id],
    /// Bytes of the content, decompressed.
    pub plain_len: usize,
    /// The content.
    pub payload: &'a [u8],
}

/// Seals a frame and appends it to `out`.
pub fn append_frame(
    out: &mut Vec<u8>,
    content: &FrameContent<'_>,
    ordinal: u32,
    pack: &PackId,
    vault: &VaultId,
    key: &SealKey,
) {
    debug_assert!(!content.ids.is_empty() && content.ids.len() <= FRAME_COUNT_MAX);
    let start = out.len();
    let head = FrameHead {
        kind: content.kind,
        codec: content.codec,
        count: content.ids.len(),
        plain_len: content.plain_len,
        stored_len: content.payload.len() + TAG_BYTES,
        ordinal,
        hash: [0; 16],
    };
    out.reserve(head.frame_len());
    head.write(out);
    for id in content.ids {
        out.extend_from_slice(&id.0);
    }
    let sealed_at = out.len();
    out.extend_from_slice(content.payload);
    let (before, payload) = out[start..].split_at_mut(sealed_at - start);
    let additional = pack.additional_data(vault, before, &before[FRAME_HEAD_BYTES..]);
    let tag = key.seal(frame_nonce(ordinal), &additional, payload);
    out.extend_from_slice(&tag);
    let hash = frame_hash(&out[start..]);
    out[start + HEAD_BOUND_BYTES..start + FRAME_HEAD_BYTES].copy_from_slice(&hash);
}

fn frame_nonce(ordinal: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&ordinal.to_le_bytes());
    nonce
}

fn frame_hash(frame: &[u8]) -> [u8; 16] {
    hash16(&[&frame[..HEAD_BOUND_BYTES], &frame[FRAME_HEAD_BYTES..]])
}

/// A whole frame as it was read, its hash found right.
#[derive(Debug)]
pub struct Frame<'a> {
    /// What it says of itself.
    pub head: FrameHead,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the frame that begins at `bytes[0]`; `bytes` may go on behind it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let head = FrameHead::parse(bytes)?;
        let bytes = bytes.get(..head.frame_len()).ok_or("cut short in a frame")?;
        if frame_hash(bytes) != head.hash {
            return Err("a frame's bytes do not match their hash");
        }
        Ok(Self { head, bytes })
    }

    /// The ids of what it holds, in the order of its content.
    pub fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        ids_of(self.ids_bytes())
    }

    fn ids_bytes(&self) -> &'a [u8] {
        &self.bytes[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + self.head.ids_len()]
    }

    /// Decrypts and decompresses. `keys`: the pack's key.
    pub fn open(
        &self,
        pack: &PackId,
        vault: &VaultId,
        key: &SealKey,
        decoder: &mut zstd_safe::DCtx<'_>,
    ) -> Result<Vec<u8>> {
        let damaged = |detail: &str| {
            StoreError::corrupt(pack.object_name(), format!("frame {}: {detail}", self.head.ordinal))
        };
        let mut sealed = self.bytes[FRAME_HEAD_BYTES + self.head.ids_len()..].to_vec();
        let additional = pack.additional_data(vault, self.bytes, self.ids_bytes());
        let plain_len = match key.open(frame_nonce(self.head.ordinal), &additional, &mut sealed) {
            Some(opened) => opened.len(),
            None => return Err(damaged("it does not decrypt: changed, moved, or of another vault")),
        };
        sealed.truncate(plain_len);
        let plain = match self.head.codec {
            Codec::None => sealed,
            Codec::Zstd => {
                let mut plain = Vec::with_capacity(self.head.plain_len);
                decoder
                    .decompress(&mut plain, &sealed)
                    .map_err(|code| damaged(zstd_safe::get_error_name(code)))?;
                plain
            }
        };
        if plain.len() != self.head.plain_len {
            return Err(damaged("it decompresses to another length than it says"));
        }
        Ok(plain)
    }
}
