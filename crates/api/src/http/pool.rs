//! Handlers block; this is where they run: some at a time, a queue of bounded length before them.

use crate::{Dispatch, Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    api: Arc<dyn Dispatch>,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Pool {
    pub(super) fn new(api: Arc<dyn Dispatch>, running_max: usize, waiting_max: usize) -> Self {
        let running = Arc::new(Semaphore::new(running_max));
        Self { api, running, waiting: AtomicUsize::new(0), waiting_max }
    }

    /// Answers on a thread that may block. If the caller goes away meanwhile, a request that waits is dropped; one that runs
    /// runs to its end.
    pub(super) async fn answer(&self, request: Request) -> Result<Response, NoAnswer> {
        let permit = match self.running.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&self.waiting, self.waiting_max).ok_or(NoAnswer::Busy)?;
                self.running.clone().acquire_owned().await.map_err(|_| NoAnswer::Busy)?
            }
        };
        let api = self.api.clone();
        let run = move || {
            // Held by the thread, not by who waits for it: what is bounded is what runs.
            let _permit = permit;
            api.dispatch(request)
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| NoAnswer::Died)
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let more = |n: usize| (n < max).then_some(n + 1);
        waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
