//! How far a long operation is, and the wish to stop it: shared between whoever runs it and whoever watches.

use crate::error::{Result, StoreError};
use crate::limits::CANCEL_LOOK_INTERVAL;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters that only grow. Cheap to update from many threads.
#[derive(Debug, Default)]
pub struct Progress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// So much more is done.
    pub fn add_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much more there is to do; it may come to be known bit by bit.
    pub fn add_total(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much is done.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// How much there is to do, as far as is known. 0: nothing is known yet.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Asks the operation to stop soon; it then fails with [`crate::StoreError::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Fails once somebody asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(StoreError::Cancelled) } else { Ok(()) }
    }

    /// Looks again and again, so far apart, until there is an answer. Once somebody asked to stop it fails with
    /// [`StoreError::Cancelled`], within [`CANCEL_LOOK_INTERVAL`]: what is waited for goes on, and is the caller's to end.
    pub fn wait<T, E: From<StoreError>>(
        &self,
        apart: Duration,
        mut look: impl FnMut() -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            self.pause(apart)?;
        }
    }

    /// Sleeps; fails as [`wait`](Self::wait) does.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            self.check()?;
            match time.saturating_sub(began.elapsed()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(CANCEL_LOOK_INTERVAL)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_an_answer_an_error_or_a_wish() {
        let progress = Progress::default();
        let mut looks = 0;
        let found = progress.wait(Duration::ZERO, || {
            looks += 1;
            Ok::<_, StoreError>((looks == 3).then_some("there"))
        });
        assert_eq!((found.unwrap(), looks), ("there", 3));
        let failed = progress.wait(Duration::ZERO, || Err::<Option<()>, _>(StoreError::Cancelled));
        assert!(matches!(failed, Err(StoreError::Cancelled)));
        // An answer that is there counts, whatever was asked meanwhile.
        progress.cancel();
        assert!(progress.wait(Duration::MAX, || Ok::<_, StoreError>(Some(()))).is_ok());
        let waited = progress.wait(Duration::from_secs(3600), || Ok::<Option<()>, StoreError>(None));
        assert!(matches!(waited, Err(StoreError::Cancelled)));
    }
}
