//! Fetching frames for readers: coalesced reads, decoding, verification, and a bounded cache in
//! which concurrent readers of one frame wait for a single fetch.
//!
//! What comes out has been verified to the last byte: hash, authentication, length, and the id of
//! every block or node in it.

use crate::ahead::Ahead;
use crate::crypto::{Id, VaultKeys};
use crate::error::{Result, StoreError};
use crate::frame::{Frame, FrameKind, PackId};
use crate::index::Location;
use crate::limits::{FETCH_GAP_MAX_BYTES, FETCH_RANGE_MAX_BYTES, FRAME_CACHE_BYTES};
use crate::node::Node;
use crate::objects::{BlobStore, Kind};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// A frame's content, verified.
pub struct Decoded {
    pub ids: Vec<Id>,
    plain: Vec<u8>,
    /// Where each part begins, and the end of the last one.
    starts: Vec<u32>,
}

impl Decoded {
    pub fn part(&self, slot: usize) -> &[u8] {
        &self.plain[self.starts[slot] as usize..self.starts[slot + 1] as usize]
    }

    /// Several parts in a row.
    pub fn parts(&self, first: usize, count: usize) -> &[u8] {
        &self.plain[self.starts[first] as usize..self.starts[first + count] as usize]
    }
}

/// Decodes and verifies a frame that was read from `pack`.
pub fn decode(
    bytes: &[u8],
    pack: &PackId,
    offset: u32,
    keys: &VaultKeys,
    block_size: usize,
) -> Result<Decoded> {
    let damaged =
        |detail: &str| StoreError::corrupt(pack.object_name(), format!("frame at offset {offset}: {detail}"));
    let frame = Frame::parse(bytes).map_err(damaged)?;
    let key = keys.pack_key(&pack.session, pack.sequence);
    let plain = DECODER.with(|decoder| {
        let mut decoder = decoder.borrow_mut();
        let decoder = decoder.get_or_insert_with(zstd_safe::DCtx::create);
        frame.open(pack, &keys.vault, &key, decoder)
    })?;
    let ids: Vec<Id> = frame.ids().collect();
    let mut starts = Vec::with_capacity(ids.len() + 1);
    starts.push(0);
    match frame.head.kind {
        FrameKind::Blocks => {
            if plain.len() != ids.len() * block_size {
                return Err(damaged("its length is not that of its blocks"));
            }
            for (slot, id) in ids.iter().enumerate() {
                let end = (slot + 1) * block_size;
                if keys.block_id(&plain[end - block_size..end]) != *id {
                    return Err(damaged("a block is not what its id says"));
                }
                starts.push(end as u32);
            }
        }
        FrameKind::Nodes => {
            let mut at = 0;
            for id in &ids {
                let (_, len) = Node::decode(&plain[at..]).map_err(damaged)?;
                if keys.node_id(&plain[at..at + len]) != *id {
                    return Err(damaged("a node is not what its id says"));
                }
                at += len;
                starts.push(at as u32);
            }
            if at != plain.len() {
                return Err(damaged("bytes are left over behind its nodes"));
            }
        }
    }
    Ok(Decoded { ids, plain, starts })
}

thread_local! {
    static DECODER: RefCell<Option<zstd_safe::DCtx<'static>>> = const { RefCell::new(None) };
}

type Key = (PackId, u32);
/// Empty while its first reader fetches; `None` if that failed.
type Cell = Arc<OnceLock<Option<Arc<Decoded>>>>;

#[derive(Default)]
struct Cache {
    cells: HashMap<Key, (Cell, u64)>,
    bytes: usize,
    tick: u64,
}

/// The readers' cache.
#[derive(Default)]
pub struct Frames {
    cache: Mutex<Cache>,
}

impl Frames {
    /// Fetches the frames at `places`, each once, in as few reads as make sense, unless they were fetched ahead. The results
    /// are in the order of `places`.
    pub fn get_many(
        &self,
        store: &BlobStore,
        keys: &VaultKeys,
        block_size: usize,
        places: &[Location],
        ahead: Option<&Ahead>,
    ) -> Vec<Result<Arc<Decoded>>> {
        let mut cells: Vec<Cell> = Vec::with_capacity(places.len());
        // Frames that this call is the first to want: it fetches them all before it waits for any other.
        let mut mine: Vec<(Location, Cell)> = Vec::new();
        {
            let mut cache = self.cache.lock();
            for place in places {
                cache.tick += 1;
                let tick = cache.tick;
                let cell = match cache.cells.get_mut(&(place.pack, place.offset)) {
                    Some((cell, used)) => {
                        *used = tick;
                        cell.clone()
                    }
                    None => {
                        let cell = Cell::default();
                        cache.cells.insert((place.pack, place.offset), (cell.clone(), tick));
                        mine.push((*place, cell.clone()));
                        cell
                    }
                };
                cells.push(cell);
            }
        }
        let mut errors: HashMap<Key, StoreError> = HashMap::new();
        if let Some(ahead) = ahead {
            mine.retain(|(place, cell)| {
                let came = ahead.take(place);
                // One that is not right is read again, so that it is known of the vault and not of the line.
                let frame = came.and_then(|b| decode(&b, &place.pack, place.offset, keys, block_size).ok());
                match frame {
                    Some(frame) => {
                        self.keep(cell, frame);
                        false
                    }
                    None => true,
                }
            });
        }
        mine.sort_by_key(|(place, _)| (place.pack, place.offset));
        let mut rest = &mine[..];
        while let Some((first, _)) = rest.first() {
            let mut end = u64::from(first.offset) + u64::from(first.frame_len);
            let mut take = 1;
            for (next, _) in &rest[1..] {
                let next_end = u64::from(next.offset) + u64::from(next.frame_len);
                if next.pack != first.pack
                    || u64::from(next.offset) > end + FETCH_GAP_MAX_BYTES
                    || next_end > u64::from(first.offset) + FETCH_RANGE_MAX_BYTES
                {
                    break;
                }
                end = end.max(next_end);
                take += 1;
            }
            self.fetch(store, keys, block_size, &rest[..take], end, &mut errors);
            rest = &rest[take..];
        }
        places
            .iter()
            .zip(cells)
            .map(|(place, cell)| {
                if let Some(error) = errors.remove(&(place.pack, place.offset)) {
                    return Err(error);
                }
                match cell.wait() {
                    Some(decoded) => Ok(decoded.clone()),
                    // Another reader's fetch failed: find out why.
                    None => read_one(store, keys, block_size, place).map(Arc::new),
                }
            })
            .collect()
    }

    /// Reads one range and fills the cells of the frames in it.
    fn fetch(
        &self,
        store: &BlobStore,
        keys: &VaultKeys,
        block_size: usize,
        group: &[(Location, Cell)],
        end: u64,
        errors: &mut HashMap<Key, StoreError>,
    ) {
        let (first, _) = &group[0];
        let start = u64::from(first.offset);
        // Read together; if that fails, one by one, so that a short pack costs only the frames it lost.
        let together = match group {
            [_] => None,
            _ => store.get_range(&first.pack.object_name(), start..end).ok(),
        };
        for (place, cell) in group {
            let result = match &together {
                Some(bytes) => {
                    let at = (u64::from(place.offset) - start) as usize;
                    let frame = &bytes[at..at + place.frame_len as usize];
                    decode(frame, &place.pack, place.offset, keys, block_size)
                }
                None => read_one(store, keys, block_size, place),
            };
            let key = (place.pack, place.offset);
            match result {
                Ok(decoded) => self.keep(cell, decoded),
                Err(error) => {
                    let _ = cell.set(None);
                    self.cache.lock().cells.remove(&key);
                    errors.insert(key, error);
                }
            }
        }
    }

    fn keep(&self, cell: &Cell, decoded: Decoded) {
        let size = decoded.plain.len() + decoded.ids.len() * 40;
        let _ = cell.set(Some(Arc::new(decoded)));
        self.make_room(size);
    }

    fn make_room(&self, added: usize) {
        let mut cache = self.cache.lock();
        cache.bytes += added;
        while cache.bytes > FRAME_CACHE_BYTES {
            let oldest = cache
                .cells
                .iter()
                .filter(|(_, (cell, _))| cell.get().is_some())
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, (cell, _))| (*key, cell.clone()));
            let Some((key, cell)) = oldest else { break };
            cache.cells.remove(&key);
            if let Some(Some(decoded)) = cell.get() {
                cache.bytes -= decoded.plain.len() + decoded.ids.len() * 40;
            }
        }
    }
}

fn read_one(store: &BlobStore, keys: &VaultKeys, block_size: usize, place: &Location) -> Result<Decoded> {
    let start = u64::from(place.offset);
    let name = place.pack.object_name();
    let bytes =
        store.get_range(&name, start..start + u64::from(place.frame_len)).map_err(|e| match e.kind {
            Kind::NotFound => StoreError::corrupt(&name, "it is missing"),
            Kind::Short => StoreError::corrupt(&name, "it is cut short"),
            _ => StoreError::from(e),
        })?;
    decode(&bytes, &place.pack, place.offset, keys, block_size)
}
