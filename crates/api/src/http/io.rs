//! A connection that is watched: when it was last heard of, and whether its other side takes what we write.

use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    /// When a request last ended, or the connection began.
    quiet_since: Instant,
    /// The first byte that came after that.
    heard_at: Option<Instant>,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let times = Times { quiet_since: Instant::now(), heard_at: None };
        Arc::new(Self { in_flight: AtomicUsize::new(0), times: Mutex::new(times) })
    }

    /// A request is being answered until the guard goes.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// How long there has been no request, if there is none now.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        let quiet = self.in_flight.load(Ordering::Acquire) == 0;
        quiet.then(|| self.times.lock().quiet_since.elapsed())
    }

    /// How long ago a request began to arrive whose head is not there yet.
    pub(super) fn unfinished_for(&self) -> Option<Duration> {
        let quiet = self.in_flight.load(Ordering::Acquire) == 0;
        self.times.lock().heard_at.filter(|_| quiet).map(|at| at.elapsed())
    }

    fn heard(&self) {
        if self.in_flight.load(Ordering::Acquire) == 0 {
            self.times.lock().heard_at.get_or_insert_with(Instant::now);
        }
    }
}

/// A request in flight.
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.times.lock() = Times { quiet_since: Instant::now(), heard_at: None };
        }
    }
}

/// A stream whose reads are noted, and whose writes fail when the other side takes nothing for too long.
pub(super) struct Watched<T> {
    inner: T,
    activity: Arc<Activity>,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>, stall_timeout: Duration) -> Self {
        Self { inner, activity, stall_timeout, stalled: None }
    }

    /// What a write said, unless the time for it is up.
    fn watch<R>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let timeout = self.stall_timeout;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.heard();
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, data);
        self.watch(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, data);
        self.watch(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, outcome)
    }
}
