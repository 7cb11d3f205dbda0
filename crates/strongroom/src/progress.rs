//! Showing how far a long operation is: a bar on a terminal, a line now and then elsewhere.

use crate::text::{duration, rate, size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strongroom_store::Progress;

/// Short work shows nothing.
const BAR_AFTER: Duration = Duration::from_millis(300);
const BAR_EVERY: Duration = Duration::from_millis(100);
const FIRST_LINE_AFTER: Duration = Duration::from_secs(2);
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The rate is that of this long before now.
const RATE_OVER: Duration = Duration::from_secs(15);

/// Shows progress until it is dropped.
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(doing: &str, progress: &Arc<Progress>, terminal: bool) -> Self {
        let (stop, stopped) = channel();
        let (doing, progress) = (doing.to_owned(), progress.clone());
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            let mut shown = Shown::new(doing, progress, terminal);
            let mut wait = if terminal { BAR_AFTER } else { FIRST_LINE_AFTER };
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                shown.show();
                wait = if terminal { BAR_EVERY } else { LINE_EVERY };
            }
            shown.finish();
        });
        // Without a thread the work goes on unseen.
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Shown {
    doing: String,
    progress: Arc<Progress>,
    started: Instant,
    /// Earlier looks: when, and how much was done.
    looks: Vec<(Instant, u64)>,
    terminal: bool,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new(doing: String, progress: Arc<Progress>, terminal: bool) -> Self {
        let now = Instant::now();
        Self { doing, progress, started: now, looks: vec![(now, 0)], terminal, bar: None }
    }

    fn show(&mut self) {
        let now = Instant::now();
        let (done, total) = (self.progress.done_bytes(), self.progress.total_bytes());
        while self.looks.len() > 1 && now - self.looks[1].0 >= RATE_OVER {
            self.looks.remove(0);
        }
        let (before, before_done) = self.looks[0];
        self.looks.push((now, done));
        let seconds = (now - before).as_secs_f64();
        let bytes_per_second =
            if seconds > 0.0 { (done.saturating_sub(before_done)) as f64 / seconds } else { 0.0 };
        let figures = figures(done, total, bytes_per_second);
        if !self.terminal {
            let line = format!("{}: {figures}, {} elapsed", self.doing, duration(now - self.started));
            let _ = writeln!(io::stderr().lock(), "{line}");
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(self.doing.clone());
            bar
        });
        bar.set_message(figures);
        bar.set_length(total.max(done).max(1));
        bar.set_position(done);
    }

    fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn figures(done: u64, total: u64, bytes_per_second: f64) -> String {
    let speed = rate(bytes_per_second);
    if total == 0 {
        return match done {
            0 => "starting".into(),
            _ => format!("{}, {speed}", size(done)),
        };
    }
    let percent = (done.min(total) as f64 / total as f64 * 100.0).floor();
    let left = match total.saturating_sub(done) {
        0 => "finishing".into(),
        rest if bytes_per_second >= 1.0 => {
            format!("{} left", duration(Duration::from_secs_f64((rest as f64 / bytes_per_second).min(1e9))))
        }
        _ => "waiting".into(),
    };
    format!("{percent}% of {}, {speed}, {left}", size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_share_rate_and_time_left() {
        assert_eq!(figures(0, 0, 0.0), "starting");
        assert_eq!(figures(512 << 20, 2 << 30, 256.0 * 1048576.0), "25% of 2.00 GiB, 256 MiB/s, 6 s left");
        assert_eq!(figures(2 << 30, 2 << 30, 1.0), "100% of 2.00 GiB, 1 B/s, finishing");
        assert_eq!(figures(1, 2 << 30, 0.0), "0% of 2.00 GiB, 0 B/s, waiting");
    }
}
