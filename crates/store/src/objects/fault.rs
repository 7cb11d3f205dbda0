//! An object store that fails on purpose: [`FaultStore`] around any other, following a [`FaultPlan`].
//!
//! Faults, and which layer must survive them:
//!
//! | fault | what happens | who must survive it |
//! |---|---|---|
//! | error before | nothing is done, an error is returned | façade retries `Transient`; every other kind ends the session, the next one just works |
//! | error after | all is done, an error is returned | façade: a create tried again must take its own object for success; store: a manifest may be committed unseen |
//! | torn object | a prefix of the bytes lands under the name, then an error | store: readers call the object damaged, never use it; only stores that break the promise of atomic puts do this |
//! | torn temporary | a prefix of the bytes lands in `.tmp/`, then an error | local store: never listed, removed at a later open |
//! | delay | the operation takes longer | sessions: leases, reclaim beside writers |
//! | disk full | from a number of bytes on every put fails with `NoSpace`, leaving a torn temporary | engine: a clear error, no committed point lost |
//! | crash | one operation fails before, after or torn; every one from then on fails, reads too | store: committed points are there, uncommitted ones not, no repair needed |
//! | short list | a listing leaves out names, chosen by the rule's seed | store: what is not listed is not taken for gone |
//! | empty list | a listing shows nothing | as above |
//! | late list | a listing leaves out what was written since the plan was set | as above |
//! | not found | get and head say that what is there is not | as above |
//! | lost delete | the delete says it worked, the object stays | reclaim: an object that comes back does no harm and is taken again |
//!
//! Operations are counted from 0 in the order they start, so that a test can run once without faults and then again
//! with operation `k` failing, for every `k` below [`FaultStore::operations`].
//! The bytes of a crashed store are looked at by opening the inner store anew.

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

use super::kind::Kind;

/// The operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Any put.
    Put,
    /// Reading an object or part of it; several ranges at once count as one.
    Get,
    /// Asking for size and time.
    Head,
    /// A listing, counted when it is first read from.
    List,
    /// Deleting one object.
    Delete,
    /// Copying.
    Copy,
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; an error of this kind.
    ErrorBefore(Kind),
    /// All is done; then an error of this kind.
    ErrorAfter(Kind),
    /// A put leaves its first bytes under the name, then an error of this kind. Other operations: as `ErrorBefore`.
    TornObject {
        /// Bytes that land, at most all but one.
        keep_bytes: usize,
        /// The error.
        kind: Kind,
    },
    /// A put leaves its first bytes in the temporary directory (see [`FaultStore::with_temp_dir`]), then an error of
    /// this kind. Other operations: as `ErrorBefore`.
    TornTemp {
        /// Bytes that land.
        keep_bytes: usize,
        /// The error.
        kind: Kind,
    },
    /// The operation starts this much later.
    Delay(Duration),
    /// A delete says it worked and does nothing. Other operations go through.
    LoseDelete,
    /// A listing leaves out about half of the names, which ones by this seed. Other operations go through.
    ShortList {
        /// Chooses the names.
        seed: u64,
    },
    /// A listing shows nothing. Other operations go through.
    EmptyList,
    /// A listing leaves out what was written since the plan was set, and shows what was deleted since. Other operations
    /// go through.
    LateList,
    /// A get or head says that the object is not there. Other operations go through.
    SayNotFound,
}

/// Which operations a rule is about.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Only this kind of operation.
    pub op: Option<OpKind>,
    /// Only names (or listed prefixes) that start so.
    pub name_prefix: Option<String>,
    /// Of those, which.
    pub nth: Nth,
}

/// Which of the matching operations, counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub enum Nth {
    /// All.
    #[default]
    Every,
    /// Only this one.
    Only(u64),
    /// This and all later ones.
    From(u64),
    /// Those before this one.
    Before(u64),
    /// From the first of these up to before the second.
    Between(u64, u64),
    /// About one in so many, which ones by a seed.
    OneIn {
        /// One in so many.
        of: u64,
        /// Chooses them.
        seed: u64,
    },
}

impl Nth {
    fn has(self, n: u64) -> bool {
        match self {
            Nth::Every => true,
            Nth::Only(k) => n == k,
            Nth::From(k) => n >= k,
            Nth::Before(k) => n < k,
            Nth::Between(from, to) => (from..to).contains(&n),
            Nth::OneIn { of, seed } => mixed(seed ^ n.wrapping_mul(0x9e37_79b9)).is_multiple_of(of),
        }
    }
}

/// A number that looks random.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Whether a short listing leaves a name out.
fn leaves_out(seed: u64, name: &str) -> bool {
    name.bytes().fold(mixed(seed), |hash, byte| mixed(hash ^ u64::from(byte))) & 1 == 1
}

/// How the operation at which a simulated crash strikes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of it is done.
    Before,
    /// All of it is done, but nobody hears.
    After,
    /// A put leaves half its bytes in the temporary directory. Others: as `Before`.
    TornTemp,
    /// A put leaves half its bytes under the name: a store that breaks its promise. Others: as `Before`.
    TornObject,
}

/// What will go wrong, and when. Of several rules that match an operation, the first counts.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    rules: Vec<(Matches, Fault)>,
    crash: Option<(u64, Crash)>,
    full_after_bytes: Option<u64>,
}

impl FaultPlan {
    /// Nothing goes wrong; operations are counted.
    pub fn none() -> Self {
        FaultPlan::default()
    }

    /// Adds a fault for matching operations.
    #[must_use]
    pub fn rule(mut self, matches: Matches, fault: Fault) -> Self {
        self.rules.push((matches, fault));
        self
    }

    /// Only operation `k` of all fails.
    pub fn fail_operation(k: u64, fault: Fault) -> Self {
        FaultPlan::none().rule(Matches { nth: Nth::Only(k), ..Matches::default() }, fault)
    }

    /// The process dies at operation `k`: that one ends as `how` says, all later ones fail.
    pub fn crash_at(k: u64, how: Crash) -> Self {
        FaultPlan { crash: Some((k, how)), ..FaultPlan::default() }
    }

    /// Puts fail with `NoSpace` once they would bring the bytes written in all above this.
    pub fn full_after(bytes: u64) -> Self {
        FaultPlan { full_after_bytes: Some(bytes), ..FaultPlan::default() }
    }
}

/// An error made on purpose. [`classify`](super::classify) finds its kind.
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

    /// Torn temporaries leave a file here: a local store's root joined with [`TEMP_DIR`](super::TEMP_DIR).
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
