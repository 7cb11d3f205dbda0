//! Driving an asynchronous object store from plain threads, with bounded retries.
//!
//! Each attempt runs as a task on the runtime while the calling thread waits for it, until its [`Stop`] ends that; pauses are
//! slept on the calling thread. Only failures of kind `Transient` are tried again. After one, a create may have
//! happened unseen: a later "already exists" then counts as success if the bytes there are ours.

use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;

use super::ObjectInfo;
use super::error::{ObjectError, classify, refusal_in};
use super::hedge::Pulse;
use super::kind::{Kind, Op};
use super::limits::{
    DEADLINE_BASE, DEADLINE_BYTES_A_SECOND, DELETES_AT_ONCE, LIST_PAGE_NAMES, RETRY_AFTER_MAX,
    RETRY_ATTEMPTS, RETRY_FIRST_DELAY, RETRY_MAX_DELAY, RETRY_TOTAL, RUNTIME_THREADS, STOP_LOOK_INTERVAL,
};
use super::refusal::Refusal;
use super::stop::{Stop, Stopped, sleep_unless};

type Result<T> = std::result::Result<T, ObjectError>;

/// How long a failing operation is tried again.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Pause before the second attempt; doubles, with jitter.
    pub first_delay: Duration,
    /// Longest pause.
    pub max_delay: Duration,
    /// No attempt starts later than this after the first.
    pub total: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        RetryLimits {
            attempts: RETRY_ATTEMPTS,
            first_delay: RETRY_FIRST_DELAY,
            max_delay: RETRY_MAX_DELAY,
            total: RETRY_TOTAL,
        }
    }
}

impl RetryLimits {
    /// No second attempt.
    pub const NONE: RetryLimits = RetryLimits {
        attempts: 1,
        first_delay: Duration::ZERO,
        max_delay: Duration::ZERO,
        total: Duration::ZERO,
    };

    /// The pause after attempt number `attempt` (from 0), between half and all of the doubled delay.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let full = self.first_delay.saturating_mul(1 << attempt.min(20)).min(self.max_delay);
        // Jitter needs no quality: the clock's low bits keep writers from marching in step.
        let noise = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos());
        full.mul_f64(0.5 + f64::from(noise % 1000) / 2000.0)
    }
}

/// The runtime that attempts run on: one of our own, or the caller's.
#[derive(Debug)]
pub(super) enum Executor {
    Own(Option<Runtime>),
    Given(Handle),
}

impl Executor {
    pub(super) fn own() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("objects")
            .enable_all()
            .build()?;
        Ok(Executor::Own(Some(runtime)))
    }

    /// Runs `future` there; what it comes to is received here, or nothing if its task died or the runtime is gone.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> mpsc::Receiver<T> {
        self.spawn(future).0
    }

    fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> (mpsc::Receiver<T>, Option<AbortHandle>) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = async move {
            let _ = sender.send(future.await);
        };
        let spawned = match self {
            Executor::Own(Some(runtime)) => Some(runtime.spawn(task)),
            Executor::Own(None) => None,
            Executor::Given(handle) => Some(handle.spawn(task)),
        };
        (receiver, spawned.map(|task| task.abort_handle()))
    }

    /// Runs `future` there and waits for it here, until told to stop.
    fn wait<T: Send + 'static>(
        &self,
        stop: &Stop,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Waited<T> {
        let began = Instant::now();
        let (receiver, task) = self.spawn(future);
        loop {
            match receiver.recv_timeout(STOP_LOOK_INTERVAL) {
                Ok(value) => return Waited::For(value),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Waited::InVain,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if stop.deadline(began).is_some_and(|until| until <= Instant::now()) {
                if let Some(task) = task {
                    task.abort();
                }
                stop.gave_up(began);
                return Waited::NoLonger;
            }
        }
    }
}

/// What waiting came to.
enum Waited<T> {
    For(T),
    /// The task died or the runtime is gone.
    InVain,
    /// Told to stop.
    NoLonger,
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Waiting for the workers is not allowed on an async thread, where the last clone may go.
        if let Executor::Own(runtime) = self
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

/// An object store on a runtime.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) executor: Executor,
    pub(super) retry: RetryLimits,
    pub(super) location: String,
    pub(super) stop: Stop,
    /// Attempts that failed and were, or could have been, made again.
    pub(super) hardships: AtomicU64,
    /// How long ranges take.
    pub(super) pulse: Arc<Pulse>,
}

/// Attempts of one operation, or since it last came forward.
struct Tries {
    made: u32,
    /// Those that count against the limit.
    counted: u32,
    since: Instant,
}

impl Default for Tries {
    fn default() -> Self {
        Tries { made: 0, counted: 0, since: Instant::now() }
    }
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "objects", source: source.into() }
}

impl Remote {
    /// One attempt; a dead task becomes an error.
    pub(super) fn attempt<T, F>(&self, future: F) -> std::result::Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        match self.executor.wait(&self.stop, future) {
            Waited::For(outcome) => outcome,
            Waited::InVain => Err(generic("the task that carried out the request died")),
            Waited::NoLonger => Err(generic(Stopped)),
        }
    }

    /// The same, of a request that moves so many bytes: one that takes longer than a line at all worth the name is given up.
    fn attempt_moving<T, F>(&self, bytes: u64, future: F) -> std::result::Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        let deadline = DEADLINE_BASE + Duration::from_secs(bytes / DEADLINE_BYTES_A_SECOND);
        self.attempt(async move {
            tokio::time::timeout(deadline, future).await.unwrap_or_else(|_| {
                let why = format!("no answer within {} seconds", deadline.as_secs());
                Err(generic(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
            })
        })
    }

    /// Sleeps before the next attempt; false if there is to be none, since somebody was told to stop.
    fn pause(&self, pause: Duration) -> bool {
        sleep_unless(|| self.stop.is_asked(), pause)
    }

    /// Attempts until success, a lasting failure, or the limits; `work` learns whether an earlier attempt
    /// had an unknown outcome.
    fn retrying<T>(
        &self,
        op: Op,
        name: &str,
        mut work: impl FnMut(bool) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        let mut tries = Tries::default();
        loop {
            match work(tries.made > 0) {
                Ok(value) => return Ok(value),
                Err(error) => self.pause_after(&mut tries, op, name, error)?,
            }
        }
    }

    /// Sleeps before the next attempt. Fails if there is to be none: the failure lasts, the limits are reached, or somebody
    /// was told to stop.
    fn pause_after(&self, tries: &mut Tries, op: Op, name: &str, error: Error) -> Result<()> {
        let refusal = refusal_in(&error);
        let asked = refusal.and_then(|refusal| refusal.retry_after).unwrap_or_default();
        let pause = self.retry.pause(tries.made).max(asked.min(RETRY_AFTER_MAX));
        // One that has too much to do is waited for, as long as the time in all allows.
        let is_patient = refusal.is_some_and(Refusal::is_throttled) && self.retry.attempts > 1;
        tries.made += 1;
        tries.counted += u32::from(!is_patient);
        let may_pass = classify(&error) == Kind::Transient;
        self.hardships.fetch_add(may_pass.into(), Ordering::Relaxed);
        if !may_pass
            || tries.counted >= self.retry.attempts
            || tries.since.elapsed() + pause > self.retry.total
        {
            return Err(ObjectError::from_store(op, name, &self.location, error));
        }
        tracing::debug!(location = %self.location, ?op, name, attempt = tries.made, %error, "trying again");
        if !self.pause(pause) {
            return Err(ObjectError::from_store(op, name, &self.location, generic(Stopped)));
        }
        Ok(())
    }

    fn path(&self, op: Op, name: &str) -> Result<Path> {
        super::name::check_name(name)
            .map_err(|e| ObjectError::new(Kind::Invalid, op, name, &self.location, e))?;
        Ok(Path::from(name))
    }

    pub(super) fn put(&self, name: &str, bytes: &Bytes, op: Op) -> Result<()> {
        let mode = match op {
            Op::PutNew => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        self.put_as(name, bytes, op, mode)
    }

    pub(super) fn put_as(&self, name: &str, bytes: &Bytes, op: Op, mode: PutMode) -> Result<()> {
        let path = self.path(op, name)?;
        self.retrying(op, name, |unclear| {
            let (store, path_, payload) = (self.store.clone(), path.clone(), PutPayload::from(bytes.clone()));
            let options = PutOptions::from(mode.clone());
            let putting = async move { store.put_opts(&path_, payload, options).await };
            match self.attempt_moving(bytes.len() as u64, putting) {
                Ok(_) => Ok(()),
                Err(e) if unclear && classify(&e) == Kind::AlreadyExists => {
                    let (store, path) = (self.store.clone(), path.clone());
                    let wanted = bytes.len() as u64;
                    let there = self.attempt(async move { get_bounded(&*store, &path, wanted).await })?;
                    match there {
                        Some(there) if there == *bytes => Ok(()),
                        _ => Err(e),
                    }
                }
                Err(e) => Err(e),
            }
        })
    }

    pub(super) fn get(&self, name: &str, max_bytes: u64) -> Result<Bytes> {
        let path = self.path(Op::Get, name)?;
        let read = self.retrying(Op::Get, name, |_| {
            let (store, path) = (self.store.clone(), path.clone());
            self.attempt(async move { get_bounded(&*store, &path, max_bytes).await })
        })?;
        read.ok_or_else(|| {
            let why = format!("it is larger than the {max_bytes} bytes expected");
            ObjectError::new(Kind::TooLarge, Op::Get, name, &self.location, why)
        })
    }

    pub(super) fn get_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.path(Op::GetRange, name)?;
        // S3 can't be asked for nothing.
        let wanted: Vec<_> = ranges.iter().filter(|r| r.start < r.end).cloned().collect();
        let read = if wanted.is_empty() {
            Vec::new()
        } else {
            self.retrying(Op::GetRange, name, |_| {
                let (store, path, wanted) = (self.store.clone(), path.clone(), wanted.clone());
                let pulse = self.pulse.clone();
                let bytes = wanted.iter().map(|range| range.end - range.start).sum();
                self.attempt_moving(bytes, async move {
                    match wanted.as_slice() {
                        [one] => {
                            let read = || {
                                let (store, path, one) = (store.clone(), path.clone(), one.clone());
                                async move { store.get_range(&path, one).await }
                            };
                            Ok(vec![pulse.hedged(read).await?])
                        }
                        _ => store.get_ranges(&path, &wanted).await,
                    }
                })
            })
            .or_else(|e| self.explain_short(e, name, &wanted))?
        };
        let mut read = read.into_iter();
        let mut answer = Vec::with_capacity(ranges.len());
        for range in ranges {
            let bytes = match range.start < range.end {
                true => read.next().unwrap_or_default(),
                false => Bytes::new(),
            };
            if bytes.len() as u64 != range.end.saturating_sub(range.start) {
                return Err(self.short(name, range, bytes.len() as u64));
            }
            answer.push(bytes);
        }
        Ok(answer)
    }

    /// Stores refuse a range behind the end each in their own words: look at the size instead.
    fn explain_short(&self, error: ObjectError, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if matches!(error.kind, Kind::Other | Kind::Invalid | Kind::Short)
            && let Ok(Some(info)) = self.head(name)
            && let Some(range) = ranges.iter().find(|r| r.end > info.size_bytes)
        {
            let there = info.size_bytes.saturating_sub(range.start);
            return Err(self.short(name, range, there));
        }
        Err(error)
    }

    fn short(&self, name: &str, range: &Range<u64>, got_bytes: u64) -> ObjectError {
        let why = format!("bytes {range:?} were asked for, only {got_bytes} of them are there");
        ObjectError::new(Kind::Short, Op::GetRange, name, &self.location, why)
    }

    pub(super) fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let path = self.path(Op::Head, name)?;
        let found = self.retrying(Op::Head, name, |_| {
            let (store, path) = (self.store.clone(), path.clone());
            self.attempt_moving(0, async move { store.head(&path).await })
        });
        match found {
            Ok(meta) => Ok(Some(info(meta))),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            // An answer to HEAD has no body that says why: the same, asked in another way, has.
            Err(e) if e.kind == Kind::Denied && e.refusal().is_some_and(|r| r.code.is_empty()) => {
                let asked = self.retrying(Op::Head, name, |_| {
                    let (store, path) = (self.store.clone(), path.clone());
                    let first = GetOptions { range: Some((0..1).into()), ..GetOptions::default() };
                    self.attempt(async move { store.get_opts(&path, first).await.map(|answer| answer.meta) })
                });
                match asked {
                    Ok(meta) => Ok(Some(info(meta))),
                    Err(e) if e.kind == Kind::NotFound => Ok(None),
                    // It is there, and empty; HEAD is what is refused.
                    Err(told) if told.kind == Kind::Short => Err(e),
                    Err(told) => Err(told),
                }
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn for_each(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<()> {
        let path = match prefix {
            "" => None,
            _ => Some(self.path(Op::List, prefix)?),
        };
        let mut last: Option<Path> = None;
        let mut stream: Option<BoxStream<'static, std::result::Result<ObjectMeta, Error>>> = None;
        loop {
            let page = self.retrying(Op::List, prefix, |_| {
                // After a failure the listing goes on behind the last name seen.
                let mut current = match stream.take() {
                    Some(stream) => stream,
                    None => {
                        // The stream may need the runtime's context from its making on.
                        let (store, path, last) = (self.store.clone(), path.clone(), last.clone());
                        self.attempt(async move {
                            Ok(match &last {
                                Some(last) => store.list_with_offset(path.as_ref(), last),
                                None => store.list(path.as_ref()),
                            })
                        })?
                    }
                };
                let (page, rest) = self.attempt_moving(0, async move {
                    let mut page = Vec::new();
                    while page.len() < LIST_PAGE_NAMES {
                        match current.try_next().await {
                            Ok(Some(meta)) => page.push(meta),
                            Ok(None) => return Ok((page, None)),
                            // What was read before the failure is good; the failure comes again if it lasts.
                            Err(_) if !page.is_empty() => return Ok((page, Some(None))),
                            Err(e) => return Err(e),
                        }
                    }
                    Ok((page, Some(Some(current))))
                })?;
                Ok((page, rest))
            })?;
            let (page, rest) = page;
            if let Some(meta) = page.last() {
                last = Some(meta.location.clone());
            }
            for meta in page {
                // Whatever else lies in the bucket is none of ours.
                if super::name::check_name(meta.location.as_ref()).is_err() {
                    continue;
                }
                if visit(info(meta)).is_break() {
                    return Ok(());
                }
            }
            match rest {
                None => return Ok(()),
                Some(next) => stream = next,
            }
        }
    }

    /// Deletes all of `names`; those that aren't there are fine. Each by a request of its own: some stores know no other. The
    /// limits of trying again count from the last that went.
    pub(super) fn delete_many(&self, names: &[&str]) -> Result<()> {
        let mut left = names.iter().map(|name| self.path(Op::Delete, name)).collect::<Result<Vec<_>>>()?;
        let mut tries = Tries::default();
        while let Some(first) = left.first() {
            let (before, label) = (left.len(), first.to_string());
            let (store, paths) = (self.store.clone(), std::mem::take(&mut left));
            let (rest, failure) = self
                .attempt(async move { Ok(delete_all(&*store, paths).await) })
                .map_err(|e| ObjectError::from_store(Op::Delete, &label, &self.location, e))?;
            left = rest;
            if left.len() < before {
                tries = Tries::default();
            }
            if let Some((path, error)) = failure {
                self.pause_after(&mut tries, Op::Delete, path.as_ref(), error)?;
            }
        }
        Ok(())
    }

    /// One cheap request that fails if the bucket, the credentials or the endpoint are wrong.
    pub(super) fn probe(&self) -> Result<()> {
        self.retrying(Op::Open, "", |_| {
            let store = self.store.clone();
            self.attempt(async move { store.list(None).try_next().await.map(|_| ()) })
        })
    }
}

/// Deletes side by side, and begins no more after a failure. What is left, and the failure; one that lasts rather than one that
/// may pass.
async fn delete_all(store: &dyn ObjectStore, paths: Vec<Path>) -> (Vec<Path>, Option<(Path, Error)>) {
    let mut waiting = paths.into_iter();
    let mut under_way = FuturesUnordered::new();
    let (mut left, mut failure) = (Vec::new(), None::<(Path, Error)>);
    loop {
        while failure.is_none()
            && under_way.len() < DELETES_AT_ONCE
            && let Some(path) = waiting.next()
        {
            under_way.push(async move {
                let deleted = absent_is_fine(store.delete(&path).await);
                (path, deleted)
            });
        }
        let Some((path, deleted)) = under_way.next().await else { break };
        if let Err(error) = deleted {
            left.push(path.clone());
            if failure.as_ref().is_none_or(|(_, known)| classify(known) == Kind::Transient) {
                failure = Some((path, error));
            }
        }
    }
    left.extend(waiting);
    (left, failure)
}

fn absent_is_fine(deleted: std::result::Result<(), Error>) -> std::result::Result<(), Error> {
    match deleted {
        Err(e) if classify(&e) == Kind::NotFound => Ok(()),
        other => other,
    }
}

/// The whole object, or `None` if it is larger than `max_bytes`. Never holds more than that.
async fn get_bounded(
    store: &dyn ObjectStore,
    path: &Path,
    max_bytes: u64,
) -> std::result::Result<Option<Bytes>, Error> {
    let answer = store.get_opts(path, GetOptions::default()).await?;
    if answer.meta.size > max_bytes {
        return Ok(None);
    }
    let expected = answer.meta.size;
    let bytes = answer.bytes().await?;
    if bytes.len() as u64 != expected {
        return Err(Error::Generic {
            store: "objects",
            source: std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the answer was cut short")
                .into(),
        });
    }
    Ok(Some(bytes))
}

fn info(meta: ObjectMeta) -> ObjectInfo {
    ObjectInfo {
        name: meta.location.to_string(),
        size_bytes: meta.size,
        last_modified: meta.last_modified.into(),
    }
}
