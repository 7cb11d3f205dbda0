//! Room for bodies that are being read, or wait for their answer: so much in all, and so much for one caller.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// What is counted: small enough to waste little, large enough not to count every byte.
const UNIT_BYTES: usize = 4 << 10;

pub(super) struct Bodies {
    max_bytes: usize,
    max_per_caller_bytes: usize,
    held: Mutex<HashMap<Uuid, usize>>,
}

/// Room that is held until this goes.
pub(super) struct Held {
    bodies: Arc<Bodies>,
    caller: Uuid,
    bytes: usize,
}

impl Bodies {
    pub(super) fn new(max_bytes: usize, max_per_caller_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, max_per_caller_bytes, held: Mutex::default() })
    }

    pub(super) fn hold(self: &Arc<Self>, caller: Uuid) -> Held {
        Held { bodies: self.clone(), caller, bytes: 0 }
    }
}

impl Held {
    /// Takes room for a body of so many bytes in all; whether there is any. There is no waiting for what others hold: all of
    /// them could wait for each other.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let wanted = bytes.next_multiple_of(UNIT_BYTES);
        let Some(more) = wanted.checked_sub(self.bytes).filter(|more| *more > 0) else { return true };
        let mut held = self.bodies.held.lock();
        let all: usize = held.values().sum();
        let own = held.get(&self.caller).copied().unwrap_or_default();
        if all + more > self.bodies.max_bytes || own + more > self.bodies.max_per_caller_bytes {
            return false;
        }
        held.insert(self.caller, own + more);
        self.bytes = wanted;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.bodies.held.lock();
        if let Some(own) = held.get_mut(&self.caller) {
            *own -= self.bytes;
            if *own == 0 {
                held.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_part() {
        let bodies = Bodies::new(64 << 10, 32 << 10);
        let mut first = bodies.hold(Uuid::from_u128(1));
        assert!(first.grow_to(1) && first.grow_to(28 << 10));
        let mut again = bodies.hold(Uuid::from_u128(1));
        assert!(again.grow_to(4 << 10) && !again.grow_to((4 << 10) + 1));
        let mut other = bodies.hold(Uuid::from_u128(2));
        assert!(other.grow_to(32 << 10));
        assert!(!bodies.hold(Uuid::from_u128(3)).grow_to(1), "all is full");
        drop(first);
        assert!(bodies.hold(Uuid::from_u128(3)).grow_to(28 << 10));
        drop((again, other));
        assert!(bodies.held.lock().is_empty());
    }
}
