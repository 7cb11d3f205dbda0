//! Keys derived from a vault's data key, and sealing with AES-256-GCM.
//!
//! Contexts and materials are part of the format: see `docs/vault-format.md`, section 3.

use crate::error::{Result, StoreError};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use strongroom_domain::{ItemName, PointId, SessionId, VaultId};

/// Bytes of the authentication tag behind every ciphertext.
pub const TAG_BYTES: usize = 16;

/// An id of a block or a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub [u8; 32]);

// Ids are uniformly distributed: eight bytes of one make as good a hash as any.
impl std::hash::Hash for Id {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from_le_bytes(first8(&self.0)));
    }
}

impl Id {
    /// The first eight bytes as a number that orders as ids do.
    pub fn prefix(&self) -> u64 {
        u64::from_be_bytes(first8(&self.0))
    }

    /// Reads 64 hexadecimal digits. None: it is something else.
    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(Self)
    }
}

fn first8(bytes: &[u8; 32]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    out
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Id({}…)", &hex(&self.0[..6]))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[(b >> 4) as usize] as char);
        out.push(DIGITS[(b & 15) as usize] as char);
    }
    out
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

/// The first 16 bytes of BLAKE3 over `parts` joined.
pub fn hash16(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// Fills `out` from the operating system's generator.
pub fn random(out: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(out).map_err(|_| {
        StoreError::io("reading random bytes", std::io::Error::other("the operating system has none"))
    })
}

/// A vault's data key and what is derived from it.
pub struct VaultKeys {
    pub vault: VaultId,
    data_key: [u8; 32],
    block_id_key: [u8; 32],
    node_id_key: [u8; 32],
    item_name_key: [u8; 32],
    record_key: [u8; 32],
    index_key: [u8; 32],
}

impl VaultKeys {
    pub fn new(vault: VaultId, data_key: [u8; 32]) -> Self {
        let derive = |context| blake3::derive_key(context, &data_key);
        Self {
            vault,
            block_id_key: derive("strongroom v1 block id"),
            node_id_key: derive("strongroom v1 node id"),
            item_name_key: derive("strongroom v1 item name"),
            record_key: derive("strongroom v1 record"),
            index_key: derive("strongroom v1 index"),
            data_key,
        }
    }

    pub fn block_id(&self, padded_block: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.block_id_key, padded_block).as_bytes())
    }

    pub fn node_id(&self, encoding: &[u8]) -> Id {
        Id(*blake3::keyed_hash(&self.node_id_key, encoding).as_bytes())
    }

    /// How an item is called in object names: 16 hexadecimal digits that tell nothing of its name.
    pub fn item_key(&self, item: &ItemName) -> String {
        hex(&blake3::keyed_hash(&self.item_name_key, item.as_str().as_bytes()).as_bytes()[..8])
    }

    pub fn record_mac(&self, name: &str, line: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.record_key);
        hasher.update(name.as_bytes()).update(&[0]).update(line);
        *hasher.finalize().as_bytes()
    }

    pub fn index_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.index_key)
    }

    pub fn pack_key(&self, session: &SessionId, sequence: u32) -> SealKey {
        self.seal_key("strongroom v1 pack", &[session.as_bytes(), &sequence.to_le_bytes()])
    }

    pub fn manifest_key(&self, point: &PointId) -> SealKey {
        self.seal_key("strongroom v1 manifest", &[point.as_bytes()])
    }

    /// A key to seal with; the context says what for.
    pub fn seal_key(&self, context: &str, material: &[&[u8]]) -> SealKey {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.data_key);
        for part in material {
            hasher.update(part);
        }
        SealKey::new(hasher.finalize().as_bytes())
    }
}

/// An AES-256-GCM key. The caller sees to it that no nonce is used twice.
pub struct SealKey(LessSafeKey);

impl SealKey {
    pub fn new(bytes: &[u8; 32]) -> Self {
        // A key of 32 bytes is what the algorithm takes: this cannot fail.
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256-GCM takes a 32-byte key");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `plain` in place and returns the tag that belongs behind it.
    pub fn seal(&self, nonce: [u8; 12], additional: &[u8], plain: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(additional), plain)
            .expect("a frame is far below AES-GCM's 64 GiB limit");
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Decrypts ciphertext and tag in place; the plain bytes, or nothing if anything was changed.
    pub fn open<'a>(&self, nonce: [u8; 12], additional: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(additional), sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_purpose_and_place() {
        let keys = VaultKeys::new(VaultId::from_bytes([1; 16]), [7; 32]);
        assert_ne!(keys.block_id(b"x"), keys.node_id(b"x"));
        let s = SessionId::from_bytes([2; 16]);
        let mut a = *b"same plain bytes";
        let mut b = a;
        keys.pack_key(&s, 0).seal([0; 12], b"", &mut a);
        keys.pack_key(&s, 1).seal([0; 12], b"", &mut b);
        assert_ne!(a, b);
    }

    #[test]
    fn sealed_bytes_open_only_as_they_were() {
        let key = SealKey::new(&[3; 32]);
        let mut sealed = b"plain".to_vec();
        let tag = key.seal([9; 12], b"place", &mut sealed);
        sealed.extend_from_slice(&tag);
        assert_eq!(key.open([9; 12], b"place", &mut sealed.clone()).unwrap(), b"plain");
        assert!(key.open([9; 12], b"other place", &mut sealed.clone()).is_none());
        sealed[0] ^= 1;
        assert!(key.open([9; 12], b"place", &mut sealed).is_none());
    }

    #[test]
    fn hex_round_trip() {
        assert_eq!(unhex(&hex(&[0, 1, 254, 255])).unwrap(), vec![0, 1, 254, 255]);
        assert!(unhex("0").is_none() && unhex("zz").is_none() && unhex("é0").is_none());
    }
}
