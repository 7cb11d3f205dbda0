//! [`BlobStore`]: objects from plain threads, on a local directory or any object store.
//!
//! Local directories are read and written straight from the calling thread. Other stores run on a small tokio
//! runtime while the calling thread waits. Call it from threads that may block, never from async code.

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, PutMode};
use tokio::runtime::Handle;

use super::durable_local::DurableLocal;
use super::error::{LocalIo, ObjectError};
use super::kind::{Kind, Op};
use super::limits::{DELETE_BATCH_NAMES, MAX_OBJECT_BYTES, PROBE_RACERS};
use super::local_fs::Existing;
use super::location::{Location, s3_client};
use super::name::check_prefix;
use super::reach::Reach;
use super::refusal::Refusal;
use super::remote::{Executor, Remote, RetryLimits};
use super::stop::Stop;
use super::together::{Answer, Answers, Question, Questions};
use super::{ObjectInfo, PROBES_PREFIX, VOLATILE_PREFIXES};

type Result<T> = std::result::Result<T, ObjectError>;

/// How to open a [`Location`].
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Make a local directory that is missing. Buckets are never made.
    pub create: bool,
    /// Runtime for remote stores; a small one of its own if `None`. Must not be a single-threaded
    /// runtime whose thread calls the store.
    pub runtime: Option<Handle>,
    /// Bounds on trying again; remote stores only.
    pub retry: RetryLimits,
    /// `AWS_*` settings for S3 instead of the process's environment.
    pub variables: Option<Vec<(String, String)>>,
    /// Whose certificates are trusted, and how fast requests may go; remote stores only.
    pub reach: Reach,
    /// Ends waiting for a store that does not answer; remote stores only.
    pub stop: Stop,
}

/// A store of named objects; cheap to clone, safe to share.
///
/// ```
/// # use strongroom_store::objects::{BlobStore, Kind, Location, OpenOptions};
/// # let dir = tempfile::tempdir()?;
/// let location = Location::parse(dir.path().to_str().unwrap())?;
/// let store = BlobStore::open(&location, OpenOptions::default())?;
/// store.put_new("points/1", "hello".into())?;
/// assert_eq!(store.put_new("points/1", "again".into()).unwrap_err().kind, Kind::AlreadyExists);
/// assert_eq!(store.get_range("points/1", 1..3)?, "el");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
    /// What is done by it frees space: it may use the reserve of a local store.
    frees: bool,
    /// What was asked of a remote store before, for this handle alone.
    answers: Option<Arc<Answers>>,
}

struct Inner {
    backend: Backend,
    location: String,
    /// The server's address, where there is one and it is known.
    server: Option<String>,
    /// Creating looks first whether there is one.
    looks_first: AtomicBool,
}

enum Backend {
    Local(DurableLocal),
    Remote(Remote),
}

/// The object of a probe that several create at once.
fn raced(probe: &str) -> String {
    format!("{probe}-raced")
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.inner.location)
    }
}

impl BlobStore {
    /// Opens a location. A missing directory is made only if the options say so; a bucket must be there and
    /// answer, which one small request makes sure of.
    pub fn open(location: &Location, options: OpenOptions) -> Result<Self> {
        Self::open_asking(location, options, Questions::default())
    }

    /// The same. What is asked at once with that request, this handle knows.
    pub(crate) fn open_asking(
        location: &Location,
        options: OpenOptions,
        questions: Questions,
    ) -> Result<Self> {
        let shown = location.to_string();
        match location {
            Location::Directory(path) => {
                let store = DurableLocal::open(path, VOLATILE_PREFIXES, options.create)
                    .map_err(|e| ObjectError::from_local(Op::Open, "", &shown, e))?;
                Ok(BlobStore::local(store))
            }
            Location::S3 { bucket, prefix } => {
                let vars = options.variables.clone().unwrap_or_else(|| {
                    std::env::vars_os()
                        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                        .collect()
                });
                let named = |wanted: &str| vars.iter().find(|(name, v)| name == wanted && !v.is_empty());
                let server =
                    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(named);
                let server = server.map(|(_, url)| url.clone());
                let client = s3_client(location, bucket, vars, &options.reach)
                    .map_err(|e| ObjectError::new(Kind::Invalid, Op::Open, "", &shown, e))?;
                let store: Arc<dyn ObjectStore> = match prefix.as_str() {
                    "" => Arc::new(client),
                    _ => Arc::new(PrefixStore::new(client, prefix.as_str())),
                };
                let store = BlobStore::remote(store, shown, server, options)?;
                let Backend::Remote(remote) = &store.inner.backend else { return Ok(store) };
                if questions.is_empty() {
                    remote.probe()?;
                    return Ok(store.clone());
                }
                std::thread::scope(|scope| {
                    let asked = scope.spawn(|| store.asking(questions));
                    remote.probe()?;
                    Ok(asked.join().unwrap_or_else(|_| store.clone()))
                })
            }
        }
    }

    /// A store on an opened directory.
    pub fn local(store: DurableLocal) -> Self {
        BlobStore {
            frees: false,
            answers: None,
            inner: Arc::new(Inner {
                location: store.root().display().to_string(),
                backend: Backend::Local(store),
                server: None,
                looks_first: AtomicBool::new(false),
            }),
        }
    }

    /// A store on any [`ObjectStore`], shown as `location` in messages. Used with [`fault`](super::fault) in tests.
    pub fn from_object_store(
        store: Arc<dyn ObjectStore>,
        location: impl Into<String>,
        options: OpenOptions,
    ) -> Result<Self> {
        Self::remote(store, location.into(), None, options)
    }

    fn remote(
        store: Arc<dyn ObjectStore>,
        location: String,
        server: Option<String>,
        options: OpenOptions,
    ) -> Result<Self> {
        let executor = match options.runtime {
            Some(handle) => Executor::Given(handle),
            None => Executor::own().map_err(|e| ObjectError::new(Kind::Other, Op::Open, "", &location, e))?,
        };
        Ok(BlobStore {
            frees: false,
            answers: None,
            inner: Arc::new(Inner {
                backend: Backend::Remote(Remote {
                    store,
                    executor,
                    retry: options.retry,
                    location: location.clone(),
                    stop: options.stop,
                    hardships: AtomicU64::new(0),
                    pulse: Arc::default(),
                }),
                location,
                server,
                looks_first: AtomicBool::new(false),
            }),
        })
    }

    /// The location, as shown to users: without secrets.
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// Creates an object, in one step and durably. `AlreadyExists` if the name is taken.
    ///
    /// After a failure of kind `Transient` or a failed sync the object may or may not be there.
    pub fn put_new(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.forget(name);
        match &self.inner.backend {
            Backend::Local(store) => self.put_local(store, Op::PutNew, name, bytes, Existing::Keep),
            Backend::Remote(remote) => {
                let looks_first = self.inner.looks_first.load(Ordering::Relaxed);
                if looks_first && remote.head(name)?.is_some() {
                    let why = "there is one already";
                    return Err(ObjectError::new(
                        Kind::AlreadyExists,
                        Op::PutNew,
                        name,
                        &self.inner.location,
                        why,
                    ));
                }
                match remote.put(name, &bytes, Op::PutNew) {
                    // Some stores do not ignore what they do not know.
                    Err(e) if looks_first && e.refusal().is_some_and(Refusal::is_not_implemented) => {
                        remote.put_as(name, &bytes, Op::PutNew, PutMode::Overwrite)
                    }
                    done => done,
                }
            }
        }
    }

    /// From here on [`put_new`](Self::put_new) looks whether there is such an object before it creates one: for stores that replace
    /// it, and callers that are alone.
    pub(crate) fn look_before_creating(&self) {
        self.inner.looks_first.store(true, Ordering::Relaxed);
    }

    /// Fails where [`put_new`](Self::put_new) replaces what is there instead of refusing it: on a server that does not know, or
    /// ignores, conditional writes. Two that write at once would then both believe to have won. Found out by doing it, with
    /// an object below `probes/` that is removed again.
    pub fn check_exclusive(&self) -> Result<()> {
        self.check_exclusive_telling(|_| ())
    }

    /// The same; `tell` is called as soon as it is known, before the object is removed.
    pub(crate) fn check_exclusive_telling(&self, tell: impl FnOnce(&Result<()>)) -> Result<()> {
        // Directories create by means of the file system's own.
        let Backend::Remote(remote) = &self.inner.backend else {
            tell(&Ok(()));
            return Ok(());
        };
        let name = format!("{PROBES_PREFIX}{}", uuid::Uuid::new_v4().simple());
        let outcome = self.find_exclusive(remote, &name);
        tell(&outcome);
        match self.delete_many([name.as_str(), raced(&name).as_str()]) {
            Ok(()) => outcome,
            // Those who may write need not be allowed to delete.
            Err(error) if error.kind == Kind::Denied => {
                tracing::warn!(%error, "the object of a probe is left");
                outcome
            }
            Err(error) => {
                tracing::warn!(%error, "the object of a probe is left");
                outcome.and(Err(error))
            }
        }
    }

    fn find_exclusive(&self, remote: &Remote, name: &str) -> Result<()> {
        let not_exclusive = |what: &str| {
            let server = self.inner.server.as_deref().map(|s| format!(" ({s})")).unwrap_or_default();
            let why = format!("this server{server} {what} (`If-None-Match: *`)");
            Err(ObjectError::new(Kind::NotExclusive, Op::PutNew, name, &self.inner.location, why))
        };
        let one_after_the_other = || {
            match remote.put(name, &Bytes::from_static(b"first"), Op::PutNew) {
                Err(e) if e.refusal().is_some_and(Refusal::is_not_implemented) => {
                    return not_exclusive("does not know how to create an object only if there is none");
                }
                done => done?,
            }
            let second = remote.put(name, &Bytes::from_static(b"second"), Op::PutNew);
            let there = self.get_bounded(name, 16)?;
            match second {
                Err(e) if e.kind == Kind::AlreadyExists && there == "first" => Ok(()),
                Ok(()) | Err(ObjectError { kind: Kind::AlreadyExists, .. }) => {
                    not_exclusive("replaced an object that it was told to create only if there is none")
                }
                Err(e) => Err(e),
            }
        };
        // Some look first and write then: they are right as long as nobody else comes in between.
        let raced = &raced(name);
        let create = |own: u8| remote.put(raced, &Bytes::from(vec![own; 16]), Op::PutNew);
        let created = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..PROBE_RACERS).map(|own| scope.spawn(move || create(own))).collect();
            let done = one_after_the_other();
            let ended = racers.into_iter().map(|racer| racer.join());
            done.map(|()| ended.filter(|ended| matches!(ended, Ok(Ok(())))).count())
        })?;
        match created {
            0 | 1 => Ok(()),
            _ => not_exclusive(
                "let several at once create an object that it was told to create only if there is none",
            ),
        }
    }

    /// Creates or replaces an object, in one step and durably.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.forget(name);
        match &self.inner.backend {
            Backend::Local(store) => self.put_local(store, Op::Put, name, bytes, Existing::Replace),
            Backend::Remote(remote) => remote.put(name, &bytes, Op::Put),
        }
    }

    /// Reads a whole object of at most [`MAX_OBJECT_BYTES`].
    pub fn get(&self, name: &str) -> Result<Bytes> {
        self.get_bounded(name, MAX_OBJECT_BYTES)
    }

    /// Reads a whole object; `TooLarge`, before reading it, if it has more than `max_bytes`.
    pub fn get_bounded(&self, name: &str, max_bytes: u64) -> Result<Bytes> {
        if let Some(answer) = self.answers.as_ref().and_then(|known| known.get(name, max_bytes)) {
            return answer;
        }
        match &self.inner.backend {
            Backend::Local(store) => self.lift(Op::Get, name, store.get(name, max_bytes)),
            Backend::Remote(remote) => remote.get(name, max_bytes),
        }
    }

    /// Reads exactly the bytes of `range`; `Short` if the object ends before.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.check_ranges(name, std::slice::from_ref(&range))?;
        match &self.inner.backend {
            Backend::Local(store) => self.lift(Op::GetRange, name, store.get_range(name, range)),
            Backend::Remote(remote) => {
                let mut read = remote.get_ranges(name, &[range])?;
                Ok(read.pop().unwrap_or_default())
            }
        }
    }

    /// Reads several ranges of one object, answers in the order asked. Near ones are read together, remote ones
    /// side by side. Any that can't be read in full fails the call, as in [`get_range`](Self::get_range).
    pub fn get_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check_ranges(name, ranges)?;
        match &self.inner.backend {
            Backend::Local(store) => self.lift(Op::GetRange, name, store.get_ranges(name, ranges)),
            Backend::Remote(remote) => remote.get_ranges(name, ranges),
        }
    }

    /// Size and time of an object; `None` if there is none.
    pub fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        if let Some(answer) = self.answers.as_ref().and_then(|known| known.head(name)) {
            return answer;
        }
        match &self.inner.backend {
            Backend::Local(store) => match self.lift(Op::Head, name, store.head(name)) {
                Ok(info) => Ok(Some(info)),
                Err(e) if e.kind == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            },
            Backend::Remote(remote) => remote.head(name),
        }
    }

    /// All objects below `prefix`, in the byte order of their names. The prefix is of whole segments (`packs`,
    /// `packs/ab`; a trailing slash is ignored), empty for all; one that isn't there has no objects.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut all = Vec::new();
        self.for_each(prefix, |info| {
            all.push(info);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// Like [`list`](Self::list) without holding all of them; `Break` ends it early.
    pub fn for_each(&self, prefix: &str, mut visit: impl FnMut(ObjectInfo) -> ControlFlow<()>) -> Result<()> {
        let prefix = check_prefix(prefix)
            .map_err(|e| ObjectError::new(Kind::Invalid, Op::List, prefix, &self.inner.location, e))?;
        if let Some(answer) = self.answers.as_ref().and_then(|known| known.list(prefix)) {
            let _ = answer?.into_iter().try_for_each(visit);
            return Ok(());
        }
        match &self.inner.backend {
            Backend::Local(store) => self.lift(Op::List, prefix, store.for_each(prefix, &mut visit)),
            Backend::Remote(remote) => remote.for_each(prefix, &mut visit),
        }
    }

    /// Deletes an object durably. One that isn't there is fine.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.forget(name);
        match &self.inner.backend {
            Backend::Local(store) => match self.lift(Op::Delete, name, self.delete_local(store, name)) {
                Err(e) if e.kind == Kind::NotFound => Ok(()),
                other => other,
            },
            Backend::Remote(remote) => remote.delete_many(&[name]),
        }
    }

    /// Deletes many objects, durable when it returns. Those that aren't there are fine. After an error any of them may
    /// be left: call it again.
    pub fn delete_many<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        match &self.inner.backend {
            Backend::Local(store) => {
                if self.frees {
                    let names: Vec<&str> = names.into_iter().collect();
                    let first = names.first().copied().unwrap_or_default();
                    let deleted = store.with_reserve(first, 0, || store.delete_many(names.iter().copied()));
                    return self.lift(Op::Delete, first, deleted);
                }
                let mut current = "";
                let deleted = store.delete_many(names.into_iter().inspect(|name| current = name));
                self.lift(Op::Delete, current, deleted)
            }
            Backend::Remote(remote) => {
                let mut names = names.into_iter();
                loop {
                    let batch: Vec<&str> = names.by_ref().take(DELETE_BATCH_NAMES).collect();
                    batch.iter().for_each(|name| self.forget(name));
                    if batch.is_empty() {
                        return Ok(());
                    }
                    remote.delete_many(&batch)?;
                }
            }
        }
    }

    /// Whether objects are somewhere else, behind a line of some length.
    pub fn is_remote(&self) -> bool {
        matches!(self.inner.backend, Backend::Remote(_))
    }

    /// How often a request has had to be made again since the store was opened: it asked for less, or the line failed.
    pub(crate) fn hardships(&self) -> u64 {
        match &self.inner.backend {
            Backend::Local(_) => 0,
            Backend::Remote(remote) => remote.hardships.load(Ordering::Relaxed),
        }
    }

    /// The file that holds the object, if objects are files here: for mapping or reading it directly.
    /// It may not exist.
    pub fn local_path(&self, name: &str) -> Option<PathBuf> {
        match &self.inner.backend {
            Backend::Local(store) => store.path_of(name).ok(),
            Backend::Remote(_) => None,
        }
    }

    /// The same store for whoever frees space: on a disk that is full, what that takes is written into the room of the reserve.
    pub(crate) fn freeing(&self) -> Self {
        Self { frees: true, ..self.plain() }
    }

    /// The same store, asked now, at once if it is far away: what it answered, this handle knows. In a directory nothing is asked
    /// before somebody wants it.
    pub(crate) fn asking(&self, questions: Questions) -> Self {
        match self.inner.backend {
            Backend::Local(_) => self.clone(),
            Backend::Remote(_) => {
                let store = self.plain();
                let answers = Answers::to(questions, self.answers.as_deref(), |question| match question {
                    Question::Get(name, max) => Answer::Get(store.get_bounded(name, *max)),
                    Question::Head(name) => Answer::Head(store.head(name)),
                    Question::List(prefix) => Answer::List(store.list(prefix)),
                });
                Self { answers: Some(Arc::new(answers)), ..self.plain() }
            }
        }
    }

    /// Whether it knows anything that was asked before.
    pub(crate) fn has_answers(&self) -> bool {
        self.answers.is_some()
    }

    /// The same store; what was asked before is asked anew.
    pub(crate) fn plain(&self) -> Self {
        Self { answers: None, ..self.clone() }
    }

    fn forget(&self, name: &str) {
        if let Some(answers) = &self.answers {
            answers.forget(name);
        }
    }

    /// Makes the reserve of a local store, or what is missing of it, where there is room. To be called of a vault's place only.
    pub(crate) fn keep_reserve(&self) {
        if let Backend::Local(store) = &self.inner.backend {
            store.keep_reserve();
        }
    }

    /// Gives up some of the reserve of a local store.
    pub(crate) fn give_up_reserve(&self, bytes: u64) -> bool {
        match &self.inner.backend {
            Backend::Local(store) => store.give_up_reserve(bytes, 0),
            Backend::Remote(_) => false,
        }
    }

    /// Bytes that reclaim could write now, where that is known.
    pub(crate) fn room_to_move(&self) -> Option<u64> {
        match &self.inner.backend {
            Backend::Local(store) => store.room_to_move(),
            Backend::Remote(_) => None,
        }
    }

    fn put_local(
        &self,
        store: &DurableLocal,
        op: Op,
        name: &str,
        bytes: Bytes,
        existing: Existing,
    ) -> Result<()> {
        let length = bytes.len() as u64;
        let parts = [bytes];
        let put = || store.put(name, &parts, existing);
        self.lift(op, name, if self.frees { store.with_reserve(name, length, put) } else { put() })
    }

    fn delete_local(&self, store: &DurableLocal, name: &str) -> std::result::Result<(), LocalIo> {
        match self.frees {
            true => store.with_reserve(name, 0, || store.delete(name)),
            false => store.delete(name),
        }
    }

    fn lift<T>(&self, op: Op, name: &str, result: std::result::Result<T, LocalIo>) -> Result<T> {
        result.map_err(|e| ObjectError::from_local(op, name, &self.inner.location, e))
    }

    fn check_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<()> {
        let too_much = || {
            let mut total: u64 = 0;
            for range in ranges {
                if range.start > range.end {
                    return Some((Kind::Invalid, format!("bytes {range:?} are no range")));
                }
                total = total.saturating_add(range.end - range.start);
            }
            (total > MAX_OBJECT_BYTES).then(|| {
                let why = format!("{total} bytes at once are more than the {MAX_OBJECT_BYTES} allowed");
                (Kind::TooLarge, why)
            })
        };
        match too_much() {
            Some((kind, why)) => Err(ObjectError::new(kind, Op::GetRange, name, &self.inner.location, why)),
            None => Ok(()),
        }
    }
}
