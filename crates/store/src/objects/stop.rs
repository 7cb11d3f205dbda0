//! What ends waiting for a store that does not answer.

use super::limits::{STOP_CLEANUP_GRACE, STOP_GRACE, STOP_LOOK_INTERVAL};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The wish of whoever opened a store to wait for it no longer; cheap to clone, the clones are one.
///
/// From then on nothing is tried again. What is under way may still come to its end for a moment; what is begun after that, to
/// clean up, a little longer, until the store once did not answer to it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: OnceLock<Instant>,
    hangs: AtomicBool,
    ask: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Stop {
    /// Asked for by [`stop`](Self::stop).
    pub fn new() -> Self {
        Self::default()
    }

    /// Asked for from the moment on that `ask` answers true.
    pub fn when(ask: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { ask: Some(Box::new(ask)), ..Inner::default() }))
    }

    /// Asks for it; there is no way back.
    pub fn stop(&self) {
        self.0.asked.get_or_init(Instant::now);
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked().is_some()
    }

    fn asked(&self) -> Option<Instant> {
        if let Some(at) = self.0.asked.get() {
            return Some(*at);
        }
        let is_asked = self.0.ask.as_ref().is_some_and(|ask| ask());
        is_asked.then(|| *self.0.asked.get_or_init(Instant::now))
    }

    /// Until when something is waited for that began at this time; none: as long as it takes.
    pub(super) fn deadline(&self, began: Instant) -> Option<Instant> {
        let asked = self.asked()?;
        Some(match began > asked {
            true if self.0.hangs.load(Ordering::Relaxed) => began,
            true => began + STOP_CLEANUP_GRACE,
            false => asked + STOP_GRACE,
        })
    }

    /// Something that began at this time was given up.
    pub(super) fn gave_up(&self, began: Instant) {
        if self.asked().is_some_and(|asked| began > asked) {
            self.0.hangs.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.is_asked())
    }
}

/// Why an operation has no outcome that is known.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("stopped on request, before the store answered")]
pub(super) struct Stopped;

/// Sleeps before something is tried again; false if it is not to be, since somebody was told to stop.
pub(super) fn sleep_unless(is_asked: impl Fn() -> bool, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    while !is_asked() {
        match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return true,
            left => std::thread::sleep(left.min(STOP_LOOK_INTERVAL)),
        }
    }
    false
}
