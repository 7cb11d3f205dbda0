//! The store that follows a plan.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::plan::{Crash, Fault, FaultPlan, OpKind, leaves_out};
use crate::objects::kind::Kind;

/// An error made on purpose. [`classify`](crate::objects::classify) finds its kind.
#[derive(Debug, Clone, thiserror::Error)]
#[error("injected: {text} (operation {operation})")]
pub struct FaultError {
    /// The kind the error is to be taken for.
    pub kind: Kind,
    /// The number of the operation.
    pub operation: u64,
    text: &'static str,
}

/// One operation as it was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it was.
    pub op: OpKind,
    /// On which object or prefix.
    pub name: String,
}

/// Operations that are remembered by name; later ones are only counted.
const LOG_OPERATIONS: usize = 100_000;

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    /// How often each rule has matched.
    matched: Vec<u64>,
    operations: u64,
    log: Vec<Operation>,
    written_bytes: u64,
    dead: bool,
    torn_temps: u64,
    /// What was there when the plan was set, for late listings.
    before: Vec<ObjectMeta>,
    /// How much older than it is everything looks that was there at a time.
    aged: Vec<(SystemTime, Duration)>,
}

/// An object store that follows a [`FaultPlan`]. Cheap to clone; clones share plan and counters.
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    temp_dir: Option<PathBuf>,
    state: Arc<Mutex<State>>,
}

/// What is to happen to an operation about to start.
struct Verdict {
    operation: u64,
    delay: Option<Duration>,
    fault: Option<(Fault, &'static str)>,
}

impl FaultStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan) -> Self {
        let store = FaultStore { inner, temp_dir: None, state: Arc::default() };
        store.set_plan(plan);
        store
    }

    /// Torn temporaries leave a file here: a local store's root joined with [`TEMP_DIR`](crate::objects::TEMP_DIR).
    #[must_use]
    pub fn with_temp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_dir = Some(dir.into());
        self
    }

    /// Replaces the plan; counts start again, a crashed store lives again.
    pub fn set_plan(&self, plan: FaultPlan) {
        let mut state = self.state.lock();
        *state = State {
            matched: vec![0; plan.rules.len()],
            plan,
            torn_temps: state.torn_temps,
            aged: std::mem::take(&mut state.aged),
            ..State::default()
        };
    }

    /// Remembers what is there now: it is what late listings show.
    pub async fn remember(&self) -> Result<()> {
        use futures::TryStreamExt;
        let before = self.inner.list(None).try_collect().await?;
        self.state.lock().before = before;
        Ok(())
    }

    /// Everything that was written until now looks so much older from now on.
    pub fn age(&self, by: Duration) {
        self.state.lock().aged.push((SystemTime::now(), by));
    }

    fn with_age(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = SystemTime::from(meta.last_modified);
        for (until, by) in &self.state.lock().aged {
            if written <= *until {
                meta.last_modified -= *by;
            }
        }
        meta
    }

    /// Operations started since the plan was set.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The operations since the plan was set, in order (the first hundred thousand).
    pub fn log(&self) -> Vec<Operation> {
        self.state.lock().log.clone()
    }

    /// Whether the planned crash has happened.
    pub fn crashed(&self) -> bool {
        self.state.lock().dead
    }

    fn begin(&self, op: OpKind, name: &str, put_bytes: usize) -> Result<Verdict> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let operation = state.operations;
        state.operations += 1;
        if state.log.len() < LOG_OPERATIONS {
            let name = name.to_owned();
            state.log.push(Operation { op, name });
        }
        if state.dead {
            return Err(fault_error(Kind::Other, operation, "the process is dead"));
        }
        let mut verdict = Verdict { operation, delay: None, fault: None };
        if let Some((k, how)) = state.plan.crash
            && operation >= k
        {
            state.dead = true;
            let kind = Kind::Other;
            let keep_bytes = put_bytes / 2;
            let fault = match how {
                Crash::Before => Fault::ErrorBefore(kind),
                Crash::After => Fault::ErrorAfter(kind),
                Crash::TornTemp => Fault::TornTemp { keep_bytes, kind },
                Crash::TornObject => Fault::TornObject { keep_bytes, kind },
            };
            verdict.fault = Some((fault, "the process died here"));
            return Ok(verdict);
        }
        for (i, (matches, fault)) in state.plan.rules.iter().enumerate() {
            if matches.op.is_some_and(|wanted| wanted != op)
                || matches.name_prefix.as_ref().is_some_and(|p| !name.starts_with(p))
            {
                continue;
            }
            let n = state.matched[i];
            state.matched[i] += 1;
            if !matches.nth.has(n) {
                continue;
            }
            match fault {
                Fault::Delay(delay) => verdict.delay = verdict.delay.or(Some(*delay)),
                _ => verdict.fault = verdict.fault.or(Some((*fault, "failed as planned"))),
            }
        }
        if op == OpKind::Put && verdict.fault.is_none() {
            let after = state.written_bytes.saturating_add(put_bytes as u64);
            match state.plan.full_after_bytes {
                Some(limit) if after > limit => {
                    let fault = Fault::TornTemp {
                        keep_bytes: limit.saturating_sub(state.written_bytes) as usize,
                        kind: Kind::NoSpace,
                    };
                    verdict.fault = Some((fault, "no space left"));
                }
                _ => state.written_bytes = after,
            }
        }
        Ok(verdict)
    }

    /// Runs an operation other than a put as the plan says.
    async fn run<T>(&self, op: OpKind, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let verdict = self.begin(op, name, 0)?;
        if let Some(delay) = verdict.delay {
            tokio::time::sleep(delay).await;
        }
        match verdict.fault {
            None => work.await,
            Some((Fault::SayNotFound, text)) if matches!(op, OpKind::Get | OpKind::Head) => {
                Err(fault_error(Kind::NotFound, verdict.operation, text))
            }
            Some((
                Fault::Delay(_)
                | Fault::LoseDelete
                | Fault::ShortList { .. }
                | Fault::EmptyList
                | Fault::LateList
                | Fault::SayNotFound,
                _,
            )) => work.await,
            Some((Fault::ErrorAfter(kind), text)) => {
                work.await?;
                Err(fault_error(kind, verdict.operation, text))
            }
            Some((
                Fault::ErrorBefore(kind) | Fault::TornObject { kind, .. } | Fault::TornTemp { kind, .. },
                text,
            )) => Err(fault_error(kind, verdict.operation, text)),
        }
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let name = location.to_string();
        let verdict = self.begin(OpKind::Delete, &name, 0)?;
        if let Some(delay) = verdict.delay {
            tokio::time::sleep(delay).await;
        }
        match verdict.fault {
            None
            | Some((
                Fault::Delay(_)
                | Fault::ShortList { .. }
                | Fault::EmptyList
                | Fault::LateList
                | Fault::SayNotFound,
                _,
            )) => self.inner.delete(&location).await?,
            Some((Fault::LoseDelete, _)) => {}
            Some((Fault::ErrorAfter(kind), text)) => {
                self.inner.delete(&location).await?;
                return Err(fault_error(kind, verdict.operation, text));
            }
            Some((
                Fault::ErrorBefore(kind) | Fault::TornObject { kind, .. } | Fault::TornTemp { kind, .. },
                text,
            )) => {
                return Err(fault_error(kind, verdict.operation, text));
            }
        }
        Ok(location)
    }

    /// Leaves what a writer killed in the middle leaves: a part, not under any name.
    fn leave_temp(&self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(dir) = &self.temp_dir else { return Ok(()) };
        let count = {
            let mut state = self.state.lock();
            state.torn_temps += 1;
            state.torn_temps
        };
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(format!("torn-{:x}-{count}", std::process::id())), bytes)
    }
}

fn fault_error(kind: Kind, operation: u64, text: &'static str) -> Error {
    let source = FaultError { kind, operation, text }.into();
    let path = String::new();
    match kind {
        Kind::NotFound => Error::NotFound { path, source },
        Kind::AlreadyExists => Error::AlreadyExists { path, source },
        Kind::Denied => Error::PermissionDenied { path, source },
        _ => Error::Generic { store: "fault injection", source },
    }
}

fn joined(payload: &PutPayload) -> Vec<u8> {
    let mut all = Vec::with_capacity(payload.content_length());
    for part in payload.iter() {
        all.extend_from_slice(part);
    }
    all
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let verdict = self.begin(OpKind::Put, location.as_ref(), payload.content_length())?;
        if let Some(delay) = verdict.delay {
            tokio::time::sleep(delay).await;
        }
        let Some((fault, text)) = verdict.fault else {
            return self.inner.put_opts(location, payload, opts).await;
        };
        let failed = |kind| Err(fault_error(kind, verdict.operation, text));
        match fault {
            Fault::Delay(_)
            | Fault::LoseDelete
            | Fault::ShortList { .. }
            | Fault::EmptyList
            | Fault::LateList
            | Fault::SayNotFound => self.inner.put_opts(location, payload, opts).await,
            Fault::ErrorBefore(kind) => failed(kind),
            Fault::ErrorAfter(kind) => {
                self.inner.put_opts(location, payload, opts).await?;
                failed(kind)
            }
            Fault::TornObject { keep_bytes, kind } => {
                let mut bytes = joined(&payload);
                bytes.truncate(keep_bytes.min(bytes.len().saturating_sub(1)));
                self.inner.put_opts(location, bytes.into(), opts).await?;
                failed(kind)
            }
            Fault::TornTemp { keep_bytes, kind } => {
                let mut bytes = joined(&payload);
                bytes.truncate(keep_bytes);
                self.leave_temp(&bytes)
                    .map_err(|e| Error::Generic { store: "fault injection", source: e.into() })?;
                failed(kind)
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        // Its parts would go by uncounted.
        Err(Error::NotImplemented { operation: "multipart upload".into(), implementer: "FaultStore".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = match options.head {
            true => OpKind::Head,
            false => OpKind::Get,
        };
        let work = self.inner.get_opts(location, options);
        let mut result = self.run(op, location.as_ref(), work).await?;
        result.meta = self.with_age(result.meta);
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let work = self.inner.get_ranges(location, ranges);
        self.run(OpKind::Get, location.as_ref(), work).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move { store.delete_one(location?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.map(ToString::to_string).unwrap_or_default();
        let work = self.inner.list_with_delimiter(prefix);
        self.run(OpKind::List, &name, work).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = self.inner.copy_opts(from, to, options);
        self.run(OpKind::Copy, to.as_ref(), work).await
    }
}

impl FaultStore {
    /// Counts a listing; what it is to lie about, if anything.
    async fn begin_listing(&self, name: &str) -> Result<Option<Fault>> {
        let verdict = self.begin(OpKind::List, name, 0)?;
        if let Some(delay) = verdict.delay {
            tokio::time::sleep(delay).await;
        }
        match verdict.fault {
            Some((
                Fault::ErrorBefore(kind)
                | Fault::ErrorAfter(kind)
                | Fault::TornObject { kind, .. }
                | Fault::TornTemp { kind, .. },
                text,
            )) => Err(fault_error(kind, verdict.operation, text)),
            other => Ok(other.map(|(fault, _)| fault)),
        }
    }

    fn listing(&self, prefix: Option<&Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned();
        stream::once(async move {
            let name = prefix.as_ref().map(ToString::to_string).unwrap_or_default();
            let inner = store.inner.clone();
            // A listing has no effect, so after is as good as before.
            let begun = store.begin_listing(&name).await;
            let lie = match begun {
                Err(e) => return stream::once(async { Err(e) }).boxed(),
                Ok(lie) => lie,
            };
            let listed = match (&lie, &offset) {
                (Some(Fault::EmptyList), _) => stream::empty().boxed(),
                (Some(Fault::LateList), _) => {
                    let mut before = store.state.lock().before.clone();
                    before.retain(|meta| {
                        prefix.as_ref().is_none_or(|prefix| meta.location.prefix_matches(prefix))
                            && offset.as_ref().is_none_or(|offset| meta.location > *offset)
                    });
                    stream::iter(before.into_iter().map(Ok)).boxed()
                }
                (_, Some(offset)) => inner.list_with_offset(prefix.as_ref(), offset),
                (_, None) => inner.list(prefix.as_ref()),
            };
            listed
                .filter_map(move |meta| {
                    let shown = match (&meta, &lie) {
                        (Ok(meta), Some(Fault::ShortList { seed })) => {
                            !leaves_out(*seed, meta.location.as_ref())
                        }
                        _ => true,
                    };
                    let meta = meta.map(|meta| store.with_age(meta));
                    std::future::ready(shown.then_some(meta))
                })
                .boxed()
        })
        .flatten()
        .boxed()
    }
}
