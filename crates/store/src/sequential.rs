//! Who reads a disk from its beginning to its end, a piece at a time, has the next pieces fetched ahead.
//!
//! Readings that go on where others ended, or nearly so, are taken for one that goes through the disk; what is fetched ahead
//! doubles with each of them. One that jumps begins anew, with nothing.

use crate::ahead::Ahead;
use crate::index::Location;
use crate::limits::{
    SEQUENTIAL_FIRST_BYTES, SEQUENTIAL_HELD_BYTES, SEQUENTIAL_MAX_BYTES, SEQUENTIAL_SLACK_BYTES,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a disk's frames are.
pub(crate) trait Leaves: Send + 'static {
    /// The frames of a leaf; none where it is a hole. None: it cannot be found out, or nobody reads any more.
    fn frames(&self, leaf_index: u64) -> Option<Vec<Location>>;
}

/// Where a reader of a disk is, and what was sent for.
pub(crate) struct Sequential {
    ahead: Arc<Ahead>,
    disk_bytes: u64,
    leaf_bytes: u64,
    state: Mutex<State>,
    /// Somebody is sending for more.
    sending: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Where the last reading ended.
    end: u64,
    /// Up to where it was sent for.
    sent: u64,
    /// How much is to be ahead of the reader.
    window: u64,
    /// Frames by the end of the leaf that they were sent for.
    sent_for: VecDeque<(u64, Vec<Location>)>,
    /// Of those.
    held_bytes: u64,
    /// Counts the jumps: what was planned before one is of no use after it.
    jumps: u64,
}

impl Sequential {
    pub fn new(ahead: Arc<Ahead>, disk_bytes: u64, leaf_bytes: u64) -> Arc<Self> {
        let (state, sending) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { ahead, disk_bytes, leaf_bytes, state, sending })
    }

    pub fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    /// Somebody is about to read this range of a disk.
    pub fn reads<L: Leaves>(self: &Arc<Self>, leaves: impl Fn() -> L, range: Range<u64>) {
        let mut state = self.state.lock();
        let goes_on = range.start <= state.sent.max(state.end) + SEQUENTIAL_SLACK_BYTES
            && range.start + SEQUENTIAL_SLACK_BYTES >= state.end;
        if !goes_on {
            let gone: Vec<Location> = state.sent_for.drain(..).flat_map(|(_, frames)| frames).collect();
            *state = State { end: range.end, sent: range.end, jumps: state.jumps + 1, ..State::default() };
            drop(state);
            self.ahead.let_go(gone);
            return;
        }
        state.end = state.end.max(range.end);
        state.window = (state.window * 2).clamp(SEQUENTIAL_FIRST_BYTES, SEQUENTIAL_MAX_BYTES);
        state.sent = state.sent.max(state.end);
        let passed = state.end.saturating_sub(SEQUENTIAL_SLACK_BYTES);
        let mut gone = Vec::new();
        while state.sent_for.front().is_some_and(|(leaf_end, _)| *leaf_end <= passed) {
            gone.extend(state.sent_for.pop_front().into_iter().flat_map(|(_, frames)| frames));
        }
        state.held_bytes -= stored_bytes(&gone);
        let wanted = state.sent..(state.end + state.window).min(self.disk_bytes);
        let jumps = state.jumps;
        let is_due = wanted.end.saturating_sub(wanted.start) >= state.window / 2
            && state.held_bytes < SEQUENTIAL_HELD_BYTES;
        drop(state);
        self.ahead.let_go(gone);
        if is_due && self.ahead.has_room(0) && !self.sending.swap(true, Ordering::AcqRel) {
            let (this, leaves) = (self.clone(), leaves());
            let sender = std::thread::Builder::new().name("ahead".into()).spawn(move || {
                this.send_for(&leaves, wanted, jumps);
                this.sending.store(false, Ordering::Release);
            });
            if sender.is_err() {
                self.sending.store(false, Ordering::Release);
            }
        }
    }

    /// Sends for what a range holds. What cannot be found out is left to whoever reads it.
    fn send_for(&self, leaves: &impl Leaves, range: Range<u64>, jumps: u64) {
        let mut at = range.start;
        while at < range.end {
            let leaf_index = at / self.leaf_bytes;
            let leaf_end = (leaf_index + 1) * self.leaf_bytes;
            let Some(frames) = leaves.frames(leaf_index) else { return };
            let bytes = stored_bytes(&frames);
            let mut state = self.state.lock();
            let has_room = state.held_bytes + bytes <= SEQUENTIAL_HELD_BYTES && self.ahead.has_room(bytes);
            if state.jumps != jumps || !has_room {
                return;
            }
            state.sent = state.sent.max(leaf_end);
            if !frames.is_empty() {
                self.ahead.send_for(frames.iter().copied());
                state.held_bytes += bytes;
                state.sent_for.push_back((leaf_end, frames));
            }
            at = leaf_end;
        }
    }
}

impl Drop for Sequential {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.ahead.let_go(state.sent_for.drain(..).flat_map(|(_, frames)| frames));
    }
}

fn stored_bytes(frames: &[Location]) -> u64 {
    frames.iter().map(|frame| u64::from(frame.frame_len)).sum()
}
