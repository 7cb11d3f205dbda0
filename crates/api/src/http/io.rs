//! A connection that is watched: when it was last heard of, whether its other side takes what we write, and whether it is
//! still sending what nobody will read.
//!
//! A connection that is closed over unread bytes is reset, and takes the answer with it that lay ready. So one that
//! ends with something unread is shut for writing first, and then read for a while, into nothing, until the client has
//! sent its all and sees what it was told.

use crate::limits;
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    times: Mutex<Times>,
    /// How much goes on for which the connection must stay, and since when there is nothing.
    kept: Mutex<(usize, Instant)>,
    /// The rest of a request was left unread.
    unread: AtomicBool,
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
        Arc::new(Self {
            in_flight: AtomicUsize::new(0),
            times: Mutex::new(times),
            kept: Mutex::new((0, Instant::now())),
            unread: AtomicBool::new(false),
        })
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

    /// The connection must not end for another's sake until the guard goes.
    pub(super) fn keep(self: &Arc<Self>) -> Kept {
        self.kept.lock().0 += 1;
        Kept(self.clone())
    }

    /// Since when the server waits for the client, if it does: while nobody known is heard, and nothing is answered.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let (kept, since) = *self.kept.lock();
        (kept == 0).then_some(since)
    }

    /// A request was refused before all of it was read.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// Whether the client may be sending still: what was refused, or a head that was none.
    fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire) || self.unfinished_for().is_some()
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

/// A reason for a connection to stay.
pub(super) struct Kept(Arc<Activity>);

impl Drop for Kept {
    fn drop(&mut self) {
        let mut kept = self.0.kept.lock();
        kept.0 -= 1;
        kept.1 = Instant::now();
    }
}

/// A stream whose reads are noted, and whose writes fail when the other side takes nothing for too long.
pub(super) struct Watched<T> {
    inner: T,
    activity: Arc<Activity>,
    stall_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    ending: Ending,
}

/// How far the end of a connection has come.
enum Ending {
    Open,
    /// Shut for writing; what still comes is read into nothing.
    Lingering {
        until: Pin<Box<Sleep>>,
        left_bytes: usize,
    },
    Over,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>, stall_timeout: Duration) -> Self {
        Self { inner, activity, stall_timeout, stalled: None, ending: Ending::Open }
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

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
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
        if matches!(self.ending, Ending::Open) {
            let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
            ready!(self.watch(context, outcome))?;
            self.ending = match self.activity.is_unread() {
                true => Ending::Lingering {
                    until: Box::pin(tokio::time::sleep(limits::LINGER_TIMEOUT)),
                    left_bytes: limits::LINGER_MAX_BYTES,
                },
                false => Ending::Over,
            };
        }
        let this = &mut *self;
        if let Ending::Lingering { until, left_bytes } = &mut this.ending {
            let mut nowhere = [0; 8 << 10];
            while *left_bytes > 0 && until.as_mut().poll(context).is_pending() {
                let mut buffer = ReadBuf::new(&mut nowhere);
                match ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => {
                        *left_bytes = left_bytes.saturating_sub(buffer.filled().len());
                    }
                    // All is read, or the client is gone.
                    Ok(()) | Err(_) => break,
                }
            }
            this.ending = Ending::Over;
        }
        Poll::Ready(Ok(()))
    }
}
