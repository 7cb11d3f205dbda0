//! SIGINT and SIGTERM: the first asks the command to stop cleanly, a second ends the process at once.

use crate::context::to_stderr;
use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use strongroom_engine::target::remove_partials;
use strongroom_store::Progress;

/// Whether, and by what, this process was asked to stop.
#[derive(Default)]
pub struct Interrupt {
    signal: Mutex<Option<i32>>,
    came: Condvar,
}

impl Interrupt {
    /// Handles signals from now on, on a thread of its own.
    pub fn install(progress: Arc<Progress>) -> io::Result<Arc<Self>> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let interrupt = Arc::new(Self::default());
        let shared = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let mut first = shared.signal.lock();
                if first.is_some() {
                    remove_partials();
                    std::process::exit(128 + signal);
                }
                *first = Some(signal);
                drop(first);
                progress.cancel();
                if io::stderr().is_terminal() {
                    to_stderr(&"stopping (once more to stop at once)");
                }
                shared.came.notify_all();
            }
        })?;
        Ok(interrupt)
    }

    /// The signal that came, if any.
    pub fn signal(&self) -> Option<i32> {
        *self.signal.lock()
    }

    /// Returns when a signal has come.
    pub fn wait(&self) {
        let mut signal = self.signal.lock();
        while signal.is_none() {
            self.came.wait(&mut signal);
        }
    }
}
