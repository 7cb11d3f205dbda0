//! One index run: a sorted, immutable list of where ids are. See `docs/vault-format.md`, section 5.
//!
//! A small run is held in memory; of a large one only packs and fences are, and a look-up reads one
//! group of 64 records from a local file. Nothing read from a run is trusted: a wrong place is found
//! when the frame there does not hold the id.

use crate::crypto::{Id, VaultKeys};
use crate::frame::PackId;
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use strongroom_domain::{SessionId, VaultId};

pub const RUN_MAGIC: [u8; 8] = *b"SRINDEX\x01";
pub const RUN_HEADER_BYTES: usize = 40;
pub const PACK_ROW_BYTES: usize = 24;
pub const RECORD_BYTES: usize = 48;
pub const MAC_BYTES: usize = 32;
/// Records between two fences.
const FENCE_RECORDS: u64 = 64;

/// Where an id is, with its pack as a number in the run's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub id: Id,
    pub pack: u32,
    pub offset: u32,
    pub frame_len: u32,
    pub slot: u16,
    pub kind: u8,
}

impl Record {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.pack.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.frame_len.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&[self.kind, 0]);
    }

    fn parse(bytes: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[..32]);
        Self {
            id: Id(id),
            pack: u32_at(32),
            offset: u32_at(36),
            frame_len: u32_at(40),
            slot: u16::from_le_bytes([bytes[44], bytes[45]]),
            kind: bytes[46],
        }
    }
}

/// A pack as a run lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRow {
    pub id: PackId,
    pub size_bytes: u32,
}

/// Encodes a run. `records` must be sorted by id and their packs numbers of `packs`.
pub fn encode(
    keys: &VaultKeys,
    packs: &[PackRow],
    record_count: u64,
    records: impl Iterator<Item = Record>,
) -> Vec<u8> {
    let fences = record_count.div_ceil(FENCE_RECORDS);
    let fence_at = RUN_HEADER_BYTES + packs.len() * PACK_ROW_BYTES;
    let records_at = fence_at + fences as usize * 8;
    let mut out = Vec::with_capacity(records_at + record_count as usize * RECORD_BYTES + MAC_BYTES);
    out.extend_from_slice(&RUN_MAGIC);
    out.extend_from_slice(keys.vault.as_bytes());
    out.extend_from_slice(&record_count.to_le_bytes());
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    out.extend_from_slice(&(fences as u32).to_le_bytes());
    for pack in packs {
        out.extend_from_slice(pack.id.session.as_bytes());
        out.extend_from_slice(&pack.id.sequence.to_le_bytes());
        out.extend_from_slice(&pack.size_bytes.to_le_bytes());
    }
    out.resize(records_at, 0);
    let mut written = 0u64;
    for record in records.take(record_count as usize) {
        if written.is_multiple_of(FENCE_RECORDS) {
            let at = fence_at + (written / FENCE_RECORDS) as usize * 8;
            out[at..at + 8].copy_from_slice(&record.id.prefix().to_le_bytes());
        }
        record.write(&mut out);
        written += 1;
    }
    debug_assert_eq!(written, record_count);
    let mac = *keys.index_hasher().update(&out).finalize().as_bytes();
    out.extend_from_slice(&mac);
    out
}

/// Whether a run's bytes carry the right mac.
pub fn mac_is_right(keys: &VaultKeys, bytes: &[u8]) -> bool {
    bytes.len() > MAC_BYTES && {
        let (body, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        // Constant time, though there is no one to measure: it is the natural comparison of blake3.
        keys.index_hasher().update(body).finalize() == *<&[u8; 32]>::try_from(mac).unwrap_or(&[0; 32])
    }
}

enum Source {
    Memory(Bytes),
    File(File),
}

/// A run that can be searched.
pub struct Run {
    pub name: String,
    pub size_bytes: u64,
    pub record_count: u64,
    pub packs: Vec<PackRow>,
    fences: Vec<u64>,
    records_at: u64,
    source: Source,
    trusted: OnceLock<bool>,
}

impl Run {
    pub fn from_memory(name: &str, vault: &VaultId, bytes: Bytes) -> Result<Self, String> {
        Self::open(name, vault, bytes.len() as u64, Source::Memory(bytes))
    }

    pub fn from_file(name: &str, vault: &VaultId, file: File) -> Result<Self, String> {
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        Self::open(name, vault, size, Source::File(file))
    }

    fn open(name: &str, vault: &VaultId, size: u64, source: Source) -> Result<Self, String> {
        let head = source.read(0, RUN_HEADER_BYTES)?;
        if head[..8] != RUN_MAGIC {
            return Err("it is no index run".into());
        }
        if head[8..24] != vault.as_bytes()[..] {
            return Err("it belongs to another vault".into());
        }
        let mut count = [0; 8];
        count.copy_from_slice(&head[24..32]);
        let record_count = u64::from_le_bytes(count);
        let pack_count = u64::from(u32::from_le_bytes([head[32], head[33], head[34], head[35]]));
        let fence_count = u64::from(u32::from_le_bytes([head[36], head[37], head[38], head[39]]));
        let records_at = RUN_HEADER_BYTES as u64 + pack_count * PACK_ROW_BYTES as u64 + fence_count * 8;
        let expected = record_count
            .checked_mul(RECORD_BYTES as u64)
            .and_then(|records| records.checked_add(records_at + MAC_BYTES as u64));
        if expected != Some(size) || fence_count != record_count.div_ceil(FENCE_RECORDS) {
            return Err("its counts do not fit its size".into());
        }
        // Both tables lie within the object's size, which bounds what is allocated here.
        let table = source.read(RUN_HEADER_BYTES as u64, (records_at - RUN_HEADER_BYTES as u64) as usize)?;
        let (rows, fences) = table.split_at(pack_count as usize * PACK_ROW_BYTES);
        let packs = rows
            .chunks_exact(PACK_ROW_BYTES)
            .map(|row| {
                let mut session = [0; 16];
                session.copy_from_slice(&row[..16]);
                PackRow {
                    id: PackId {
                        session: SessionId::from_bytes(session),
                        sequence: u32::from_le_bytes([row[16], row[17], row[18], row[19]]),
                    },
                    size_bytes: u32::from_le_bytes([row[20], row[21], row[22], row[23]]),
                }
            })
            .collect();
        let fences = fences
            .chunks_exact(8)
            .map(|f| u64::from_le_bytes([f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]]))
            .collect();
        Ok(Self {
            name: name.into(),
            size_bytes: size,
            record_count,
            packs,
            fences,
            records_at,
            source,
            trusted: OnceLock::new(),
        })
    }

    /// Calls `found` with every record of this id. Unreadable groups count as empty: the caller has
    /// other ways to find an id, and `check` finds the damage.
    pub fn lookup(&self, id: &Id, mut found: impl FnMut(&PackRow, Record)) {
        let prefix = id.prefix();
        let first = self.fences.partition_point(|&fence| fence < prefix).saturating_sub(1);
        let end = self.fences.partition_point(|&fence| fence <= prefix);
        for group in first..end {
            let start = group as u64 * FENCE_RECORDS;
            let count = FENCE_RECORDS.min(self.record_count - start) as usize;
            let at = self.records_at + start * RECORD_BYTES as u64;
            let mut on_stack = [0; FENCE_RECORDS as usize * RECORD_BYTES];
            let records: &[u8] = match &self.source {
                Source::Memory(bytes) => {
                    bytes.get(at as usize..at as usize + count * RECORD_BYTES).unwrap_or_default()
                }
                Source::File(file) => {
                    let buffer = &mut on_stack[..count * RECORD_BYTES];
                    if let Err(e) = file.read_exact_at(buffer, at) {
                        tracing::warn!(run = %self.name, "index run cannot be read: {e}");
                        continue;
                    }
                    buffer
                }
            };
            let (mut low, mut high) = (0, records.len() / RECORD_BYTES);
            while low < high {
                let middle = (low + high) / 2;
                if records[middle * RECORD_BYTES..][..32] < id.0[..] {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            for bytes in records[low * RECORD_BYTES..].chunks_exact(RECORD_BYTES) {
                let record = Record::parse(bytes);
                if record.id != *id {
                    break;
                }
                if let Some(pack) = self.packs.get(record.pack as usize) {
                    found(pack, record);
                }
            }
        }
    }

    /// Calls `each` with every record, in order.
    pub fn for_each(&self, mut each: impl FnMut(&PackRow, Record)) -> Result<(), String> {
        let mut at = self.records_at;
        let end = self.records_at + self.record_count * RECORD_BYTES as u64;
        while at < end {
            let take = (end - at).min(RECORD_BYTES as u64 * 8192);
            for bytes in self.source.read(at, take as usize)?.chunks_exact(RECORD_BYTES) {
                let record = Record::parse(bytes);
                let pack =
                    self.packs.get(record.pack as usize).ok_or("a record names a pack it does not list")?;
                each(pack, record);
            }
            at += take;
        }
        Ok(())
    }

    /// Whether its mac is right: looked at once, and said in the log if it is not.
    pub fn is_trusted(&self, keys: &VaultKeys) -> bool {
        *self.trusted.get_or_init(|| match self.is_sound(keys) {
            Ok(true) => true,
            Ok(false) => {
                tracing::warn!(run = %self.name, "index run is damaged; `strongroom rescue vault check` makes it anew");
                false
            }
            Err(error) => {
                tracing::warn!(run = %self.name, "index run cannot be read: {error}");
                false
            }
        })
    }

    /// The whole object, as the store holds it.
    pub fn is_sound(&self, keys: &VaultKeys) -> Result<bool, String> {
        let mut hasher = keys.index_hasher();
        let body = self.size_bytes - MAC_BYTES as u64;
        let mut at = 0;
        while at < body {
            let take = (body - at).min(1 << 20);
            hasher.update(&self.source.read(at, take as usize)?);
            at += take;
        }
        let mac = self.source.read(body, MAC_BYTES)?;
        Ok(hasher.finalize() == *<&[u8; 32]>::try_from(&mac[..]).map_err(|e| e.to_string())?)
    }
}

impl Source {
    fn read(&self, at: u64, len: usize) -> Result<Bytes, String> {
        match self {
            Self::Memory(bytes) => {
                let at = at as usize;
                if bytes.len() < at + len {
                    return Err("it is cut short".into());
                }
                Ok(bytes.slice(at..at + len))
            }
            Self::File(file) => {
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, at).map_err(|e| e.to_string())?;
                Ok(buffer.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn keys() -> VaultKeys {
        VaultKeys::new(VaultId::from_bytes([1; 16]), [2; 32])
    }

    fn pack(n: u8) -> PackRow {
        PackRow {
            id: PackId { session: SessionId::from_bytes([n; 16]), sequence: n.into() },
            size_bytes: 100,
        }
    }

    proptest! {
        #[test]
        fn finds_what_was_put_and_nothing_else(
            ids in proptest::collection::vec(any::<[u8; 2]>(), 0..600),
            asked in any::<[u8; 2]>(),
        ) {
            // Ids with equal beginnings, so that groups and fences meet equal prefixes.
            let full = |short: [u8; 2]| { let mut id = [0; 32]; id[0] = short[0] & 3; id[31] = short[1]; Id(id) };
            let mut records: Vec<Record> = ids.iter().enumerate().map(|(i, id)| Record {
                id: full(*id), pack: (i % 2) as u32, offset: i as u32, frame_len: 7, slot: 3, kind: 1,
            }).collect();
            records.sort_by_key(|r| r.id);
            let bytes = encode(&keys(), &[pack(8), pack(9)], records.len() as u64, records.iter().copied());
            prop_assert!(mac_is_right(&keys(), &bytes));
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let vault = VaultId::from_bytes([1; 16]);
            for run in [Run::from_memory("r", &vault, bytes.into()).unwrap(), Run::from_file("r", &vault, file).unwrap()] {
                let mut got = Vec::new();
                run.lookup(&full(asked), |row, record| got.push((row.id.sequence, record)));
                let want: Vec<_> = records.iter().filter(|r| r.id == full(asked))
                    .map(|r| (8 + r.pack, *r)).collect();
                prop_assert_eq!(&got, &want);
                let mut all = Vec::new();
                run.for_each(|_, record| all.push(record)).unwrap();
                prop_assert_eq!(&all, &records);
                prop_assert!(run.is_sound(&keys()).unwrap());
            }
        }

        #[test]
        fn no_bytes_make_opening_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
            let vault = VaultId::from_bytes([1; 16]);
            if real && bytes.len() > 24 {
                bytes[..8].copy_from_slice(&RUN_MAGIC);
                bytes[8..24].copy_from_slice(vault.as_bytes());
            }
            if let Ok(run) = Run::from_memory("r", &vault, bytes.into()) {
                run.lookup(&Id([0; 32]), |_, _| ());
                let _ = run.for_each(|_, _| ());
            }
        }
    }
}
