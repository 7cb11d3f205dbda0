//! Reads that take much longer than others are asked for a second time: whichever answer comes first is taken. A server, or a
//! connection, that stands still then costs a moment and not its time-out.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use parking_lot::Mutex;

use super::limits::{HEDGE_FACTOR, HEDGE_KNOWN, HEDGE_MIN, HEDGE_ONE_IN};

/// How long reads take.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Reads that came to an end.
    done: u64,
    /// Reads that were asked for a second time.
    hedged: u64,
    /// Of late, on average.
    seconds: f64,
}

impl Pulse {
    /// When a read that has not come is asked for again. None: too little is known.
    fn patience(&self) -> Option<Duration> {
        let state = self.0.lock();
        let most = Duration::from_secs_f64(state.seconds * HEDGE_FACTOR);
        (state.done >= HEDGE_KNOWN).then_some(most.max(HEDGE_MIN))
    }

    /// Whether one more may be: were all slow, a second of each would make them slower.
    fn may_hedge(&self) -> bool {
        let mut state = self.0.lock();
        let may = (state.hedged + 1) * HEDGE_ONE_IN <= state.done + HEDGE_ONE_IN;
        state.hedged += u64::from(may);
        may
    }

    fn took(&self, time: Duration) {
        let mut state = self.0.lock();
        // Of the first it is the mean.
        let weight = (1.0 / (state.done + 1) as f64).max(1.0 / 32.0);
        state.seconds += (time.as_secs_f64() - state.seconds) * weight;
        state.done += 1;
    }

    /// Reads, and if that takes long, once more beside it. An error of one waits for the other.
    pub async fn hedged<T, E, F: Future<Output = Result<T, E>>>(&self, read: impl Fn() -> F) -> Result<T, E> {
        let began = Instant::now();
        let first = Box::pin(read());
        let result = match self.patience() {
            None => first.await,
            Some(patience) => match select(first, Box::pin(tokio::time::sleep(patience))).await {
                Either::Left((result, _)) => result,
                Either::Right((_, first)) if !self.may_hedge() => first.await,
                Either::Right((_, first)) => match select(first, Box::pin(read())).await {
                    Either::Left((Ok(value), _)) | Either::Right((Ok(value), _)) => Ok(value),
                    Either::Left((Err(_), second)) => second.await,
                    Either::Right((Err(_), first)) => first.await,
                },
            },
        };
        if result.is_ok() {
            self.took(began.elapsed());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn known() -> Pulse {
        Pulse(Mutex::new(State { done: HEDGE_KNOWN, hedged: 0, seconds: 0.01 }))
    }

    #[tokio::test]
    async fn one_that_stands_still_is_asked_for_again() {
        let asked = AtomicU32::new(0);
        let read = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, ()>(number)
            }
        };
        assert_eq!(known().hedged(read).await, Ok(1));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_error_of_one_waits_for_the_other() {
        let asked = AtomicU32::new(0);
        let read = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(if number == 0 { 1 } else { 0 })).await;
                if number == 0 { Ok(number) } else { Err(()) }
            }
        };
        assert_eq!(known().hedged(read).await, Ok(0));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn where_all_are_slow_few_are_asked_for_again() {
        let pulse = Pulse::default();
        assert_eq!(pulse.patience(), None, "nothing is known yet");
        let mut hedged = 0;
        for _ in 0..1000 {
            hedged += u64::from(pulse.may_hedge());
            pulse.took(Duration::from_secs(2));
        }
        assert_eq!(hedged, 1 + 999 / HEDGE_ONE_IN);
        assert_eq!(pulse.patience(), Some(Duration::from_secs_f64(2.0 * HEDGE_FACTOR)));
    }
}
