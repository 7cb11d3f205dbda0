//! Driving an asynchronous object store from plain threads, with bounded retries.
//!
//! Each attempt runs as a task on the runtime while the calling thread waits for it; pauses are slept on the
//! calling thread. Only failures of kind `Transient` are tried again. After one, a create may have
//! happened unseen: a later "already exists" then counts as success if the bytes there are ours.

use std::future::Future;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::{Handle, Runtime};

use super::ObjectInfo;
use super::error::{Kind, ObjectError, Op, classify};
use super::limits::{
    LIST_PAGE_NAMES, RETRY_ATTEMPTS, RETRY_FIRST_DELAY, RETRY_MAX_DELAY, RETRY_TOTAL, RUNTIME_THREADS,
};

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
        let (sender, receiver) = mpsc::sync_channel(1);
        let task = async move {
            let _ = sender.send(future.await);
        };
        match self {
            Executor::Own(Some(runtime)) => drop(runtime.spawn(task)),
            Executor::Own(None) => {}
            Executor::Given(handle) => drop(handle.spawn(task)),
        }
        receiver
    }

    /// Runs `future` there and waits for it here. `None` if its task died or the runtime is gone.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.begin(future).recv().ok()
    }
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
}

impl Remote {
    /// One attempt; a dead task becomes an error.
    pub(super) fn attempt<T, F>(&self, future: F) -> std::result::Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        self.executor.wait(future).unwrap_or_else(|| {
            Err(Error::Generic {
                store: "objects",
                source: "the task that carried out the request died".into(),
            })
        })
    }

    /// Attempts until success, a lasting failure, or the limits; `work` learns whether an earlier attempt
    /// had an unknown outcome.
    fn retrying<T>(
        &self,
        op: Op,
        name: &str,
        mut work: impl FnMut(bool) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            let error = match work(attempt > 0) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let pause = self.retry.pause(attempt);
            attempt += 1;
            if classify(&error) != Kind::Transient
                || attempt >= self.retry.attempts
                || start.elapsed() + pause > self.retry.total
            {
                return Err(ObjectError::from_store(op, name, &self.location, error));
            }
            tracing::debug!(location = %self.location, ?op, name, attempt, %error, "trying again");
            std::thread::sleep(pause);
        }
    }

    fn path(&self, op: Op, name: &str) -> Result<Path> {
        super::name::check_name(name)
            .map_err(|e| ObjectError::new(Kind::Invalid, op, name, &self.location, e))?;
        Ok(Path::from(name))
    }

    pub(super) fn put(&self, name: &str, bytes: &Bytes, op: Op) -> Result<()> {
        let path = self.path(op, name)?;
        let mode = match op {
            Op::PutNew => PutMode::Create,
            _ => PutMode::Overwrite,
        };
        self.retrying(op, name, |unclear| {
            let (store, path_, payload) = (self.store.clone(), path.clone(), PutPayload::from(bytes.clone()));
            let options = PutOptions::from(mode.clone());
            match self.attempt(async move { store.put_opts(&path_, payload, options).await }) {
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
                self.attempt(async move {
                    match wanted.as_slice() {
                        [one] => Ok(vec![store.get_range(&path, one.clone()).await?]),
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
            self.attempt(async move { store.head(&path).await })
        });
        match found {
            Ok(meta) => Ok(Some(info(meta))),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
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
                let (page, rest) = self.attempt(async move {
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

    /// Deletes all of `names`; those that aren't there are fine.
    pub(super) fn delete_many(&self, names: &[&str]) -> Result<()> {
        let paths = names.iter().map(|name| self.path(Op::Delete, name)).collect::<Result<Vec<_>>>()?;
        let label = names.first().copied().unwrap_or_default();
        self.retrying(Op::Delete, label, |_| {
            let (store, paths) = (self.store.clone(), paths.clone());
            self.attempt(async move {
                if let [path] = paths.as_slice() {
                    return absent_is_fine(store.delete(path).await);
                }
                let mut left = futures::stream::iter(paths).map(Ok).boxed();
                left = store.delete_stream(left);
                while let Some(deleted) = left.next().await {
                    absent_is_fine(deleted.map(|_| ()))?;
                }
                Ok(())
            })
        })
    }

    /// One cheap request that fails if the bucket, the credentials or the endpoint are wrong.
    pub(super) fn probe(&self) -> Result<()> {
        self.retrying(Op::Open, "", |_| {
            let store = self.store.clone();
            self.attempt(async move { store.list(None).try_next().await.map(|_| ()) })
        })
    }
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
