//! Whether the service runs by itself, and the bell that wakes whoever waits for work.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From the service's start to its end.
#[derive(Default)]
pub struct Life {
    /// Counts what happened that may give somebody here work.
    rung: Mutex<u64>,
    bell: Condvar,
    started: AtomicBool,
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Life {
    /// There may be something to do: jobs to begin, or something deleted to purge.
    pub fn wake(&self) {
        *self.rung.lock() += 1;
        self.bell.notify_all();
    }

    /// Sleeps until the bell has rung since `heard`, which is how often the caller knows that it has.
    pub fn wait(&self, heard: &mut u64, at_most: Duration) {
        let mut rung = self.rung.lock();
        if *rung == *heard && !self.is_stopping() {
            self.bell.wait_for(&mut rung, at_most);
        }
        *heard = *rung;
    }

    /// Sleeps, but not past the end of the service.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut rung = self.rung.lock();
        while !self.is_stopping() && !self.bell.wait_until(&mut rung, until).timed_out() {}
    }

    /// Whether anything runs by itself here.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    /// From here on things run by themselves.
    pub fn start(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// Whether whatever runs here is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A thread that the service's end waits for.
    pub fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.retain(|other| !other.is_finished());
        threads.push(thread);
    }

    /// Waits for the threads that were kept.
    pub fn join(&self) {
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    /// Whatever runs here is to end.
    pub fn stop(&self) {
        let _waiting = self.rung.lock();
        self.stopping.store(true, Ordering::SeqCst);
        self.bell.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_pause_ends_with_the_service() {
        let life = Arc::new(Life::default());
        let sleeper = {
            let life = life.clone();
            std::thread::spawn(move || life.pause(Duration::from_secs(3600)))
        };
        // A bell is no end of a pause.
        life.wake();
        assert!(!sleeper.is_finished());
        life.stop();
        sleeper.join().unwrap();
    }

    #[test]
    fn a_bell_that_rang_before_the_wait_is_heard() {
        let life = Life::default();
        let mut heard = 0;
        life.wake();
        life.wait(&mut heard, Duration::from_secs(3600));
        assert_eq!(heard, 1);
    }
}
