//! Fetching ahead from a store that is far away: frames that will be wanted are on their way, side by side and in few requests,
//! before anybody waits for them.
//!
//! A matter of speed alone: what could not be fetched is not there, and whoever wants it reads it and learns why.
//!
//! How many requests are under way follows from who waits: each time somebody had to wait for a frame there may be one more,
//! and half as many when the store asked for less. Memory is bounded by [`wait_for_room`](Ahead::wait_for_room).

use crate::frame::PackId;
use crate::index::Location;
use crate::limits::{
    AHEAD_GAP_MAX_BYTES, AHEAD_MAX_BYTES, AHEAD_RANGE_MAX_BYTES, AHEAD_REQUESTS_FIRST, AHEAD_REQUESTS_MAX,
    AHEAD_REQUESTS_MIN,
};
use crate::objects::BlobStore;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Who waits for room looks so often whether he waits in vain.
const ROOM_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A frame: its pack, and its offset there.
type Key = (PackId, u32);

/// What is fetched ahead for some who read together. Ends what it has not begun when it is dropped.
pub struct Ahead(Arc<Shared>);

struct Shared {
    store: BlobStore,
    state: Mutex<State>,
    /// A frame has come, or one was let go of.
    changed: Condvar,
    /// There is something to fetch, or nothing will ever be again.
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Stretch>,
    frames: HashMap<Key, Fetched>,
    /// Of frames that were planned and not let go of yet.
    held_bytes: u64,
    threads: usize,
    idle: usize,
    /// Requests that may be under way.
    most: usize,
    closed: bool,
}

struct Fetched {
    /// How many will let go of it.
    wanted: u32,
    length: u32,
    bytes: Slot,
}

enum Slot {
    OnItsWay,
    Here(Bytes),
    Failed,
}

/// What one request fetches.
struct Stretch {
    pack: PackId,
    start: u64,
    end: u64,
    frames: Vec<(u32, u32)>,
}

impl Ahead {
    pub fn new(store: &BlobStore) -> Self {
        let state = State { most: AHEAD_REQUESTS_FIRST, ..State::default() };
        Self(Arc::new(Shared {
            store: store.clone(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            work: Condvar::new(),
        }))
    }

    /// Sends for frames. Each that is named must be [let go of](Self::let_go) as often.
    pub fn send_for(&self, frames: impl IntoIterator<Item = Location>) {
        let mut state = self.0.state.lock();
        let mut new: Vec<Location> = Vec::new();
        for place in frames {
            match state.frames.get_mut(&(place.pack, place.offset)) {
                Some(fetched) => fetched.wanted += 1,
                None => {
                    let fetched = Fetched { wanted: 1, length: place.frame_len, bytes: Slot::OnItsWay };
                    state.frames.insert((place.pack, place.offset), fetched);
                    state.held_bytes += u64::from(place.frame_len);
                    new.push(place);
                }
            }
        }
        state.queue.extend(stretches(new));
        self.0.begin_requests(&mut state);
    }

    /// A frame's bytes, as they are in the vault, once they have come. None: it was not sent for, or could not be had.
    pub fn take(&self, place: &Location) -> Option<Bytes> {
        let mut state = self.0.state.lock();
        let mut waited = false;
        loop {
            match &state.frames.get(&(place.pack, place.offset))?.bytes {
                Slot::Here(bytes) => return Some(bytes.clone()),
                Slot::Failed => return None,
                Slot::OnItsWay if state.closed => return None,
                Slot::OnItsWay => {}
            }
            if !waited {
                waited = true;
                state.most = (state.most + 1).min(AHEAD_REQUESTS_MAX);
                self.0.begin_requests(&mut state);
            }
            self.0.changed.wait(&mut state);
        }
    }

    /// These frames are not wanted any more by one who was to want them.
    pub fn let_go(&self, frames: impl IntoIterator<Item = Location>) {
        let mut state = self.0.state.lock();
        for place in frames {
            let key = (place.pack, place.offset);
            let Some(fetched) = state.frames.get_mut(&key) else { continue };
            fetched.wanted -= 1;
            if fetched.wanted == 0 {
                state.held_bytes -= u64::from(fetched.length);
                state.frames.remove(&key);
            }
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Whether so much more may be sent for.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.0.state.lock().has_room(bytes)
    }

    /// Waits until so much more may be sent for, or `in_vain` says that nobody will want it.
    pub fn wait_for_room(&self, bytes: u64, in_vain: impl Fn() -> bool) {
        let mut state = self.0.state.lock();
        while !state.has_room(bytes) && !in_vain() {
            self.0.changed.wait_for(&mut state, ROOM_LOOK_INTERVAL);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.0.work.notify_all();
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Threads for what waits, as far as there may be more.
    fn begin_requests(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) {
        let wanted = state.queue.len();
        let new = wanted.saturating_sub(state.idle).min(state.most.saturating_sub(state.threads));
        for _ in 0..new {
            let shared = self.clone();
            // Without a thread whoever wants the frame reads it.
            match std::thread::Builder::new().name("ahead".into()).spawn(move || shared.fetch_all()) {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads > 0 => break,
                Err(_) => {
                    while let Some(stretch) = state.queue.pop_front() {
                        state.came(&stretch, None);
                    }
                }
            }
        }
        if wanted > 0 {
            self.work.notify_all();
        }
    }

    fn fetch_all(&self) {
        let mut state = self.state.lock();
        loop {
            if state.closed || state.threads > state.most {
                state.threads -= 1;
                return;
            }
            let Some(stretch) = state.queue.pop_front() else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            if !stretch.frames.iter().any(|(offset, _)| state.frames.contains_key(&(stretch.pack, *offset))) {
                continue;
            }
            let (fetched, hardships) = MutexGuard::unlocked(&mut state, || {
                let before = self.store.hardships();
                let fetched = self.store.get_range(&stretch.pack.object_name(), stretch.start..stretch.end);
                (fetched.ok(), self.store.hardships() - before)
            });
            if hardships > 0 {
                state.most = (state.most / 2).max(AHEAD_REQUESTS_MIN);
            }
            state.came(&stretch, fetched.as_ref());
            self.changed.notify_all();
        }
    }
}

impl State {
    fn has_room(&self, bytes: u64) -> bool {
        self.held_bytes == 0 || self.held_bytes + bytes <= AHEAD_MAX_BYTES
    }

    fn came(&mut self, stretch: &Stretch, fetched: Option<&Bytes>) {
        let wanted: u64 = stretch.frames.iter().map(|(_, length)| u64::from(*length)).sum();
        // What came along with them is not to stay as long as they do.
        let is_sparse = wanted + wanted / 8 < stretch.end - stretch.start;
        for (offset, length) in &stretch.frames {
            if let Some(frame) = self.frames.get_mut(&(stretch.pack, *offset)) {
                let at = (u64::from(*offset) - stretch.start) as usize;
                frame.bytes = match fetched {
                    Some(bytes) if is_sparse => {
                        Slot::Here(Bytes::copy_from_slice(&bytes[at..at + *length as usize]))
                    }
                    Some(bytes) => Slot::Here(bytes.slice(at..at + *length as usize)),
                    None => Slot::Failed,
                };
            }
        }
    }
}

/// Requests for these frames, the first wanted first: of neighbours one, and what little is between them comes along.
fn stretches(mut frames: Vec<Location>) -> Vec<Stretch> {
    let rank: HashMap<Key, usize> =
        frames.iter().enumerate().map(|(rank, place)| ((place.pack, place.offset), rank)).collect();
    frames.sort_unstable_by_key(|place| (place.pack, place.offset));
    let mut stretches: Vec<(usize, Stretch)> = Vec::new();
    for place in frames {
        let (start, length) = (u64::from(place.offset), place.frame_len);
        let end = start + u64::from(length);
        let first = rank[&(place.pack, place.offset)];
        match stretches.last_mut() {
            Some((rank, last))
                if last.pack == place.pack
                    && start <= last.end + AHEAD_GAP_MAX_BYTES
                    && end <= last.start + AHEAD_RANGE_MAX_BYTES =>
            {
                last.end = last.end.max(end);
                last.frames.push((place.offset, length));
                *rank = first.min(*rank);
            }
            _ => stretches.push((
                first,
                Stretch { pack: place.pack, start, end, frames: vec![(place.offset, length)] },
            )),
        }
    }
    stretches.sort_by_key(|(rank, _)| *rank);
    stretches.into_iter().map(|(_, stretch)| stretch).collect()
}
