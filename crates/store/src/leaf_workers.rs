//! Leaves of a disk's tree, walked by one thread and worked on by several.

use crate::error::{Result, StoreError};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes what is to be worked on; false: no more is wanted.
pub(crate) type Sending<'a, T> = &'a dyn Fn(T) -> bool;

/// Calls `walk`, and `work` for everything that it sends: on as many threads as there are processors (at most `most`) and one, each
/// with a state of its own. What was sent and is not worked on yet: `waiting`, or a few. After the first error nothing is begun any more; that error is the answer.
pub(crate) fn work_on<T: Send, S>(
    most: usize,
    waiting: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<()> + Sync,
    walk: impl FnOnce(Sending<'_, T>) -> Result<()>,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, most) + 1;
    let (sender, leaves) = crossbeam_channel::bounded::<T>(waiting.max(threads * 2));
    let failure: Mutex<Option<StoreError>> = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let fail = |error: StoreError| {
        failure.lock().get_or_insert(error);
        failed.store(true, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let leaves = leaves.clone();
            let (state, work, fail, failed) = (&state, &work, &fail, &failed);
            scope.spawn(move || {
                let mut state = state();
                while let Ok(leaf) = leaves.recv() {
                    if failed.load(Ordering::Relaxed) {
                        continue;
                    }
                    if let Err(error) = work(&mut state, leaf) {
                        fail(error);
                    }
                }
            });
        }
        drop(leaves);
        if let Err(error) = walk(&|leaf| !failed.load(Ordering::Relaxed) && sender.send(leaf).is_ok()) {
            fail(error);
        }
        drop(sender);
    });
    failure.into_inner().map_or(Ok(()), Err)
}
