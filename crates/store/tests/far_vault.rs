//! A vault that is far away: what is asked of it at once, and what is fetched ahead.

mod common;

use async_trait::async_trait;
use bytes::Bytes;
use common::*;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::{PointSelector, TypedExtent};
use strongroom_store::objects::fault::{Fault, FaultPlan, FaultStore, Matches, Nth, OpKind};
use strongroom_store::objects::{BlobStore, Kind, OpenOptions, RetryLimits};
use strongroom_store::*;
use tokio::sync::watch;

/// A line on which everything that is on its way arrives together, once nothing more sets out: so a round trip is one however long
/// it takes, and how many there were is a number that no busy machine changes.
#[derive(Clone)]
struct Line(Arc<Trips>);

struct Trips {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    arrivals: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    under_way: Vec<String>,
    last: Option<Instant>,
    trips: Vec<Vec<String>>,
}

/// Nothing more sets out once nothing has for so long.
const QUIET: Duration = Duration::from_millis(150);

impl Line {
    fn to(inner: Arc<dyn ObjectStore>) -> Self {
        let line = Self(Arc::new(Trips { inner, state: Mutex::default(), arrivals: watch::channel(0).0 }));
        let trips = Arc::downgrade(&line.0);
        std::thread::spawn(move || {
            while let Some(trips) = trips.upgrade() {
                let mut state = trips.state.lock();
                if state.last.is_some_and(|last| last.elapsed() >= QUIET) {
                    state.last = None;
                    let arrived = std::mem::take(&mut state.under_way);
                    state.trips.push(arrived);
                    trips.arrivals.send_modify(|count| *count += 1);
                }
                drop(state);
                drop(trips);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        line
    }

    /// What went on each round trip since this was last asked.
    fn take_trips(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.0.state.lock().trips)
    }

    fn open(&self) -> BlobStore {
        BlobStore::from_object_store(Arc::new(self.clone()), "far", OpenOptions::default()).unwrap()
    }

    async fn travel(&self, what: String) {
        let mut arrivals = self.0.arrivals.subscribe();
        let before = {
            let mut state = self.0.state.lock();
            state.under_way.push(what);
            state.last = Some(Instant::now());
            *self.0.arrivals.borrow()
        };
        let _ = arrivals.wait_for(|count| *count > before).await;
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

#[async_trait]
impl ObjectStore for Line {
    async fn put_opts(&self, to: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        self.travel(format!("put {to}")).await;
        self.0.inner.put_opts(to, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let what = if options.head { "head" } else { "get" };
        self.travel(format!("{what} {from}")).await;
        self.0.inner.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.travel(format!("get {from}")).await;
        self.0.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        let line = self.clone();
        stream::once(async move {
            line.travel("delete".into()).await;
            line.0.inner.delete_stream(locations)
        })
        .flatten()
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (line, prefix) = (self.clone(), prefix.cloned());
        stream::once(async move {
            line.travel(format!("list {prefix:?}")).await;
            line.0.inner.list(prefix.as_ref())
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.travel(format!("list {prefix:?}")).await;
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.travel(format!("copy {from}")).await;
        self.0.inner.copy_opts(from, to, options).await
    }
}

fn in_memory(memory: &Arc<object_store::memory::InMemory>) -> BlobStore {
    BlobStore::from_object_store(memory.clone(), "memory", OpenOptions::default()).unwrap()
}

/// Text and noise: frames of both kinds, several packs' worth of neither.
fn mixed(seed: u64, mebibytes: usize) -> Vec<u8> {
    (0..mebibytes as u64)
        .flat_map(|n| match n % 2 {
            0 => text(seed + n, 1 << 20),
            _ => noise(seed + n, 1 << 20),
        })
        .collect()
}

#[test]
fn what_waits_for_nothing_goes_together() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(in_memory(&memory));
    let image = Image::new(mixed(1, 6));
    // Some points, as an item has that is backed up daily.
    for _ in 0..5 {
        backup(&vault, "a", &image, None).unwrap();
    }
    let line = Line::to(memory);
    let item = "a".parse().unwrap();

    // A backup that finds nothing changed.
    let vault = Vault::open_in(Vault::ask_place(&line.open()), &key, Arc::new(Incarnation(1))).unwrap();
    vault.check_exclusive_meanwhile();
    let (session, mut points) = Session::begin_point(&vault, "test", &item).unwrap();
    let parent = points.take_last().unwrap();
    let written = session
        .write_disk(DiskRequest {
            source: Arc::new(image.clone()),
            name: "disk".into(),
            size_bytes: parent.disks[0].size_bytes,
            extents: vec![],
            parent: Some(parent.disks[0].tree()),
            progress: Arc::default(),
        })
        .unwrap();
    session.commit(draft("a", &vault, vec![Disk::new("disk", &written)], Some(&parent))).unwrap();
    let trips = line.take_trips();
    vault.end_probe();
    // One more is for the command's own entry in the vault's log.
    assert!(trips.len() <= 9, "{} round trips: {trips:#?}", trips.len());
    // The probe is among them, and what it made is gone.
    assert!(trips.iter().flatten().any(|what| what.starts_with("put probes/")), "{trips:#?}");
    assert!(vault.objects().list("probes/").unwrap().is_empty());
    line.take_trips();

    // The first mebibyte of a point.
    let vault = Vault::open_in(Vault::ask_place(&line.open()), &key, Arc::new(Incarnation(1))).unwrap();
    let session = ReadSession::begin(&vault, "test").unwrap();
    let point = vault.find_point(&PointSelector::Latest(item)).unwrap();
    let mut first = vec![0; 1 << 20];
    session.open_disk(point.disks[0].tree()).read_at(0, &mut first).unwrap();
    assert!(first == image.bytes()[..1 << 20]);
    let trips = line.take_trips();
    assert!(trips.len() <= 12, "{} round trips: {trips:#?}", trips.len());

    // The rest in few: what lies side by side comes together, and not one piece after the other.
    let target = Image::new(vec![0; image.bytes().len()]);
    session.open_disk(point.disks[0].tree()).export(&target, &Progress::default()).unwrap();
    assert!(target.bytes() == image.bytes());
    let trips = line.take_trips();
    assert!(trips.len() <= 4, "{} round trips: {trips:#?}", trips.len());
}

/// A target that takes something, and then nothing more.
struct Full(std::sync::atomic::AtomicU32);

impl BlockTarget for Full {
    fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
        match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..4 => Ok(()),
            _ => Err(std::io::ErrorKind::StorageFull.into()),
        }
    }
}

/// More was sent for by then than may be held at once: whoever waits for room must not wait for ever.
#[test]
fn a_restore_that_fails_ends() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, _) = init(in_memory(&memory));
    let point = backup(&vault, "a", &Image::new(noise(6, 200 << 20)), None).unwrap();
    let session = ReadSession::begin(&vault, "test").unwrap();
    let disk = session.open_disk(point.disks[0].tree());
    let error = disk.export(&Full(0.into()), &Progress::default()).unwrap_err();
    assert!(error.to_string().contains("writing the restored disk"), "{error}");
    // Nothing is held on to: the next has all the room there is.
    let target = Image::new(vec![0; 200 << 20]);
    disk.export(&target, &Progress::default()).unwrap();
    assert!(target.bytes() == noise(6, 200 << 20));
}

/// Two sessions of one program, which share what was read of the vault. What was condemned before the second began it must not
/// build on, whatever the first knew when that began.
#[test]
fn a_session_knows_what_was_condemned_before_it_began() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(in_memory(&memory));
    let image = Image::new(noise(7, 2 << 20));
    let gone = backup(&vault, "a", &image, None).unwrap();
    backup(&vault, "a", &Image::new(noise(8, 1 << 20)), None).unwrap();
    let request = |image: &Image| DiskRequest {
        source: Arc::new(image.clone()),
        name: "disk".into(),
        size_bytes: image.bytes().len() as u64,
        extents: vec![TypedExtent::data(0, image.bytes().len() as u64)],
        parent: None,
        progress: Arc::default(),
    };
    let (first, _) = Session::begin_point(&vault, "first", &"b".parse().unwrap()).unwrap();
    // Elsewhere a point is forgotten, and what it alone had condemned: that goes once the first session is over.
    let elsewhere = Vault::open_in(in_memory(&memory), &key, Arc::new(Incarnation(1))).unwrap();
    elsewhere.forget(&gone.point, "a test").unwrap();
    let report = reclaim_all(&elsewhere, None);
    assert!(report.waiting_bytes > 0, "{report:?}");
    let (second, _) = Session::begin_point(&vault, "second", &"c".parse().unwrap()).unwrap();
    first.write_disk(request(&Image::new(noise(9, 1 << 20)))).unwrap();
    let written = second.write_disk(request(&image)).unwrap();
    assert_eq!(written.new_bytes, 2 << 20, "it shares what is about to go");
}

/// Who goes through a disk a piece at a time finds the next pieces there.
#[test]
fn a_reader_that_goes_on_finds_what_comes_next() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(in_memory(&memory));
    let image = Image::new(mixed(2, 12));
    let point = backup(&vault, "a", &image, None).unwrap();
    let fault = FaultStore::new(memory, FaultPlan::none());
    let store = BlobStore::from_object_store(Arc::new(fault.clone()), "far", OpenOptions::default()).unwrap();
    let vault = Vault::open_in(store, &key, Arc::new(Incarnation(1))).unwrap();
    let session = ReadSession::begin(&vault, "test").unwrap();
    let disk = session.open_disk(point.disks[0].tree());
    let bytes = image.bytes();
    let mut piece = vec![0; 64 << 10];
    let gets = || fault.log().iter().filter(|o| o.op == OpKind::Get && o.name.starts_with("packs/")).count();
    for (n, expected) in bytes.chunks(piece.len()).enumerate() {
        disk.read_at((n * expected.len()) as u64, &mut piece[..expected.len()]).unwrap();
        assert!(piece[..expected.len()] == *expected, "piece {n}");
    }
    let pieces = bytes.len() / piece.len();
    assert!(gets() < pieces / 4, "{} requests for {pieces} pieces", gets());
    // One that jumps about gets what it asks for.
    for n in [150, 3, 77, 4, 191, 0, 78, 79, 80, 5] {
        disk.read_at((n * piece.len()) as u64, &mut piece).unwrap();
        assert!(piece == bytes[n * piece.len()..][..piece.len()], "piece {n}");
    }
}

/// What is fetched ahead and goes wrong is no error as long as the line works at all, and counts only if it is right.
#[test]
fn a_line_that_fails_now_and_then_costs_time_alone() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(in_memory(&memory));
    let image = Image::new(mixed(3, 20));
    let point = backup(&vault, "a", &image, None).unwrap();
    for seed in 0..4 {
        let fault = FaultStore::new(memory.clone(), FaultPlan::none());
        let retry = RetryLimits {
            attempts: 20,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(4),
            total: Duration::from_secs(60),
        };
        let options = OpenOptions { retry, ..OpenOptions::default() };
        let store = BlobStore::from_object_store(Arc::new(fault.clone()), "far", options).unwrap();
        let vault = Vault::open_in(store, &key, Arc::new(Incarnation(1))).unwrap();
        let some = Matches {
            op: Some(OpKind::Get),
            name_prefix: Some("packs/".into()),
            nth: Nth::OneIn { of: 3, seed },
        };
        fault.set_plan(FaultPlan::none().rule(some, Fault::ErrorBefore(Kind::Transient)));
        assert!(restore(&vault, &point).unwrap() == image.bytes());
    }
}

/// Index runs never change: what one process fetched, the next finds.
#[test]
fn an_index_that_was_read_is_not_fetched_again() {
    let memory = Arc::new(object_store::memory::InMemory::new());
    let (vault, key) = init(in_memory(&memory));
    let image = Image::new(mixed(4, 4));
    let point = backup(&vault, "a", &image, None).unwrap();
    let fault = FaultStore::new(memory.clone(), FaultPlan::none());
    let kept = tempfile::tempdir().unwrap();
    let open = || {
        let far =
            BlobStore::from_object_store(Arc::new(fault.clone()), "far", OpenOptions::default()).unwrap();
        let vault = Vault::open_in(far, &key, Arc::new(Incarnation(1))).unwrap();
        vault.keep_index_in(kept.path());
        vault
    };
    let fetched = |work: &dyn Fn()| {
        let before = fault.log().len();
        work();
        fault.log()[before..].iter().filter(|o| o.op == OpKind::Get && o.name.starts_with("index/")).count()
    };
    let read = || assert!(restore(&open(), &point).unwrap() == image.bytes());
    assert_eq!(fetched(&read), 1);
    assert_eq!(fetched(&read), 0);
    // What this host writes it has.
    let later = Image::new(mixed(5, 4));
    let next = backup(&open(), "a", &later, None).unwrap();
    assert_eq!(fetched(&|| assert!(restore(&open(), &next).unwrap() == later.bytes())), 0);
    // One that was damaged there is fetched again, and one that is gone; nothing is ever wrong for it.
    let files = || -> Vec<std::path::PathBuf> {
        let directory = kept.path().join(vault.id().to_string()).join("index");
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(files().len(), 2);
    for file in files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(fetched(&read), 2);
    assert_eq!(fetched(&read), 0);
    std::fs::remove_dir_all(kept.path()).unwrap();
    assert_eq!(fetched(&read), 2);
    assert!(check(&open(), true).is_sound());
    // A check looks at the vault, not at what is kept of it.
    assert_eq!(fetched(&read), 0);
    let run = in_memory(&memory).list("index/").unwrap().remove(0).name;
    let mut bytes = in_memory(&memory).get(&run).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    in_memory(&memory).put(&run, bytes.into()).unwrap();
    assert!(!check(&open(), false).is_sound());
}
