//! Handlers block; this is where they run: some at a time, a queue of bounded length before them, of which nobody who asks from
//! one place gets more than a part.

use super::source::Source;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The queue is full.
    Busy,
    /// The thread died, which dispatch is made not to let happen.
    Died,
}

pub(super) struct Pool {
    running: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    waiting_max: usize,
    waiting_per_source_max: usize,
}

#[derive(Default)]
struct Waiting {
    all: usize,
    by_source: HashMap<Source, usize>,
}

impl Pool {
    pub(super) fn new(running_max: usize, waiting_max: usize, waiting_per_source_max: usize) -> Self {
        let running = Arc::new(Semaphore::new(running_max));
        Self { running, waiting: Mutex::default(), waiting_max, waiting_per_source_max }
    }

    /// Works on a thread that may block. If the caller goes away meanwhile, work that waits is dropped; what runs goes on
    /// to its end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        source: Source,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let permit = match self.running.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(self, source).ok_or(NoAnswer::Busy)?;
                self.running.clone().acquire_owned().await.map_err(|_| NoAnswer::Busy)?
            }
        };
        let run = move || {
            // Held by the thread, not by who waits for it: what is bounded is what runs.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| NoAnswer::Died)
    }
}

/// A place in the queue.
struct Place<'a> {
    pool: &'a Pool,
    source: Source,
}

impl<'a> Place<'a> {
    fn take(pool: &'a Pool, source: Source) -> Option<Self> {
        let mut waiting = pool.waiting.lock();
        let of_source = waiting.by_source.get(&source).copied().unwrap_or_default();
        if waiting.all >= pool.waiting_max || of_source >= pool.waiting_per_source_max {
            return None;
        }
        waiting.all += 1;
        waiting.by_source.insert(source, of_source + 1);
        Some(Self { pool, source })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.pool.waiting.lock();
        waiting.all -= 1;
        if let Some(count) = waiting.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                waiting.by_source.remove(&self.source);
            }
        }
    }
}
