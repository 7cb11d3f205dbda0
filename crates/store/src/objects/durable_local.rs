//! A directory as an object store in which a finished put stays.
//!
//! Promises:
//! - A put that returned `Ok` survives power loss: the file is synced, then put into place under its
//!   name in one step, then its directory is synced, and so is every directory made for it.
//! - An object is never seen half written. A crash leaves at most a file in `.tmp/`, removed at a later open.
//! - `Create` is atomic among threads, processes and (as far as the file system has it) hosts.
//! - `delete` is synced like a put, and takes directories that became empty along. It races safely
//!   with puts into them: the put makes them again.
//! - Names can't leave the directory ([`check_name`](super::check_name)). Files that are no object names
//!   (`.anything`, `lost+found`'s odd entries) are not listed.
//!
//! Objects under the *volatile* prefixes (leases, say) are atomic in the same way but never synced: after power loss
//! they may be absent, old, or empty, so their readers must take that for "not there".

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::ObjectInfo;
use super::direct::{read_range, write_parts};
use super::error::LocalIo;
use super::limits::{
    KNOWN_DIRS, LOCAL_COALESCE_GAP_BYTES, LOCAL_COALESCE_MAX_BYTES, PUBLISH_ATTEMPTS, STALE_TEMP_AGE,
};
use super::local_fs::{
    DirId, Existing, Temp, dir_id, make_dirs_beside_removals, make_dirs_durably, open_dir, place, sync_dir,
};
use super::name::check_name;

type Result<T> = std::result::Result<T, LocalIo>;

/// Where unfinished puts live, directly under the root.
pub const TEMP_DIR: &str = ".tmp";

/// A durable object store in a local directory; cheap to clone.
///
/// The methods here block on file I/O. The [`object_store::ObjectStore`] implementation runs the same
/// methods on tokio's blocking threads.
///
/// ```
/// # use strongroom_store::objects::{DurableLocal, Existing};
/// # let dir = tempfile::tempdir()?;
/// let store = DurableLocal::open(dir.path(), &["leases/"], false)?;
/// store.put("points/1", &["hello".into()], Existing::Keep)?;
/// assert_eq!(store.get("points/1", 100)?, "hello");
/// assert!(store.put("points/1", &["again".into()], Existing::Keep).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DurableLocal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    volatile_prefixes: Vec<String>,
    /// Directories whose own entry, up to the root, this process has synced. Identified by inode and
    /// birth time, so that one removed and made again by somebody else is synced again.
    durable_dirs: Mutex<HashSet<DirId>>,
    temp_counter: AtomicU64,
}

impl DurableLocal {
    /// Opens the directory `root`. With `create`, makes it (and its parents) durably if it is missing;
    /// without, changes nothing except that temporary files of dead writers are removed.
    ///
    /// `volatile_prefixes` are name prefixes (`"sessions/"`) whose objects are never synced.
    pub fn open(root: &Path, volatile_prefixes: &[&str], create: bool) -> Result<Self> {
        if create {
            make_dirs_durably(root)?;
        }
        let root = fs::canonicalize(root).map_err(|e| LocalIo::new("open directory", root, e))?;
        let meta = fs::metadata(&root).map_err(|e| LocalIo::new("open directory", &root, e))?;
        if !meta.is_dir() {
            return Err(LocalIo::new("open directory", &root, io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let store = DurableLocal {
            inner: Arc::new(Inner {
                root,
                volatile_prefixes: volatile_prefixes.iter().map(|p| (*p).to_owned()).collect(),
                durable_dirs: Mutex::new(HashSet::new()),
                temp_counter: AtomicU64::new(0),
            }),
        };
        store.remove_stale_temps();
        Ok(store)
    }

    /// The directory, made absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The file that holds (or would hold) the object. Objects are immutable unless overwritten by
    /// name, so an opened file may be mapped or read at will.
    pub fn path_of(&self, name: &str) -> Result<PathBuf> {
        check_name(name).map_err(|e| {
            LocalIo::new("use name", Path::new(name), io::Error::new(io::ErrorKind::InvalidInput, e))
        })?;
        Ok(self.inner.root.join(name))
    }

    /// Writes an object from its parts, in order.
    pub fn put(&self, name: &str, parts: &[Bytes], existing: Existing) -> Result<()> {
        let target = self.path_of(name)?;
        let (Some(dir), Some(file_name)) = (target.parent(), target.file_name()) else {
            return Err(LocalIo::new("use name", &target, io::ErrorKind::InvalidInput));
        };
        let taken = || LocalIo::new("create", &target, io::Error::from_raw_os_error(libc::EEXIST));
        // Saves writing what can't be placed; the placing itself decides.
        if existing == Existing::Keep && target.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let durable = !self.is_volatile(name);
        let mut temp: Option<Temp> = None;
        for _ in 0..PUBLISH_ATTEMPTS {
            let dir_fd = match self.ready_dir(dir, durable) {
                Ok(fd) => fd,
                // Removed as empty between the making and the opening.
                Err(e) if e.source.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            // Gone if somebody took this writer for dead: write again.
            let written = match temp.take().filter(|t| t.path.exists()) {
                Some(temp) => temp,
                None => self.write_temp(parts, durable)?,
            };
            match place(&written, &dir_fd, Path::new(file_name), existing) {
                Ok(()) => {
                    written.keep();
                    if durable {
                        sync_dir(&dir_fd, dir)?;
                    }
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => temp = Some(written),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
                Err(e) => return Err(LocalIo::new("put into place", &target, e)),
            }
        }
        Err(LocalIo::new("put into place", &target, io::Error::from_raw_os_error(libc::EAGAIN)))
    }

    /// Reads a whole object of at most `max_bytes`; larger fails with `FileTooLarge`.
    pub fn get(&self, name: &str, max_bytes: u64) -> Result<Bytes> {
        let (file, size_bytes, path) = self.open_object(name)?;
        if size_bytes > max_bytes {
            return Err(LocalIo::new(
                "read",
                &path,
                io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("it has {size_bytes} bytes, more than the {max_bytes} expected"),
                ),
            ));
        }
        read_exactly(&file, &path, 0..size_bytes)
    }

    /// Reads `range`; an object that ends before it fails with `UnexpectedEof`.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let (file, size_bytes, path) = self.open_object(name)?;
        check_range(&range, size_bytes, &path)?;
        read_exactly(&file, &path, range)
    }

    /// Reads several ranges, near ones with one call; answers in the order asked.
    pub fn get_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (file, size_bytes, path) = self.open_object(name)?;
        for range in ranges {
            check_range(range, size_bytes, &path)?;
        }
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_unstable_by_key(|&i| ranges[i].start);
        let mut answer = vec![Bytes::new(); ranges.len()];
        let mut next = 0;
        while next < order.len() {
            let start = ranges[order[next]].start;
            let mut end = ranges[order[next]].end;
            let mut last = next + 1;
            while let Some(range) = order.get(last).map(|&i| &ranges[i]) {
                let far = range.start > end.saturating_add(LOCAL_COALESCE_GAP_BYTES);
                if far || range.end.max(end) - start > LOCAL_COALESCE_MAX_BYTES {
                    break;
                }
                end = end.max(range.end);
                last += 1;
            }
            let stretch = read_exactly(&file, &path, start..end)?;
            for &i in &order[next..last] {
                let from = (ranges[i].start - start) as usize;
                let to = (ranges[i].end - start) as usize;
                answer[i] = stretch.slice(from..to);
            }
            next = last;
        }
        Ok(answer)
    }

    /// Opens an object for reading; also returns its size in bytes and its path.
    pub(crate) fn open_object(&self, name: &str) -> Result<(File, u64, PathBuf)> {
        let path = self.path_of(name)?;
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK) // a pipe somebody left there must not hang the reader
            .open(&path)
            .map_err(|e| LocalIo::new("open", &path, e))?;
        let meta = file.metadata().map_err(|e| LocalIo::new("look up", &path, e))?;
        if !meta.is_file() {
            return Err(LocalIo::new("open", &path, io::ErrorKind::NotFound));
        }
        Ok((file, meta.len(), path))
    }

    /// Size and time of an object.
    pub fn head(&self, name: &str) -> Result<ObjectInfo> {
        let path = self.path_of(name)?;
        let meta = fs::metadata(&path).map_err(|e| LocalIo::new("look up", &path, e))?;
        if !meta.is_file() {
            return Err(LocalIo::new("look up", &path, io::ErrorKind::NotFound));
        }
        Ok(info(name.to_owned(), &meta))
    }

    /// Visits every object below `prefix` (whole segments, empty for all) in the byte order of full names.
    /// Holds the names of one directory a level at a time. Objects that come and go meanwhile may or may not be seen.
    pub fn for_each(&self, prefix: &str, visit: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>) -> Result<()> {
        let dir = if prefix.is_empty() { self.inner.root.clone() } else { self.path_of(prefix)? };
        walk(&dir, prefix, visit).map(|_| ())
    }

    /// Deletes an object durably. `NotFound` if it isn't there.
    pub fn delete(&self, name: &str) -> Result<()> {
        let dir = self.unlink(name)?;
        if self.is_volatile(name) {
            return Ok(());
        }
        self.sync_nearest(&dir)
    }

    /// Deletes objects, syncing each directory once at the end; names that aren't there are fine.
    /// On an error some may be deleted.
    pub fn delete_many<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut dirs = HashSet::new();
        let mut outcome = Ok(());
        for name in names {
            match self.unlink(name) {
                Ok(dir) if self.is_volatile(name) => drop(dir),
                Ok(dir) => {
                    dirs.insert(dir);
                }
                Err(e) if e.source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
        }
        for dir in dirs {
            self.sync_nearest(&dir)?;
        }
        outcome
    }

    fn is_volatile(&self, name: &str) -> bool {
        self.inner.volatile_prefixes.iter().any(|p| name.starts_with(p))
    }

    /// Removes the file and the directories that became empty; returns the file's directory.
    fn unlink(&self, name: &str) -> Result<PathBuf> {
        let path = self.path_of(name)?;
        fs::remove_file(&path).map_err(|e| match e.raw_os_error() {
            // A directory is no object.
            Some(libc::EISDIR) => LocalIo::new("delete", &path, io::ErrorKind::NotFound),
            _ => LocalIo::new("delete", &path, e),
        })?;
        let dir = path.parent().unwrap_or(&self.inner.root).to_owned();
        let mut empty = dir.as_path();
        // rmdir refuses a directory with anything in it, so a put that got there first wins.
        while empty != self.inner.root && fs::remove_dir(empty).is_ok() {
            match empty.parent() {
                Some(parent) => empty = parent,
                None => break,
            }
        }
        Ok(dir)
    }

    /// Syncs `dir`, or the nearest directory above it that still exists.
    fn sync_nearest(&self, dir: &Path) -> Result<()> {
        let mut dir = dir;
        loop {
            match open_dir(dir) {
                Ok(fd) => return sync_dir(&fd, dir),
                Err(e) if e.source.kind() == io::ErrorKind::NotFound && dir != self.inner.root => {
                    dir = dir.parent().unwrap_or(&self.inner.root);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens `dir` for putting a file into it, making it if needed. With `durable`, its entry and those above are synced.
    fn ready_dir(&self, dir: &Path, durable: bool) -> Result<OwnedFd> {
        let fd = match open_dir(dir) {
            Ok(fd) => fd,
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {
                make_dirs_beside_removals(dir)?;
                open_dir(dir)?
            }
            Err(e) => return Err(e),
        };
        if !durable || dir == self.inner.root {
            return Ok(fd);
        }
        let id = dir_id(&fd);
        if id.is_some_and(|id| self.inner.durable_dirs.lock().contains(&id)) {
            return Ok(fd);
        }
        let mut above = dir;
        while above != self.inner.root {
            let Some(parent) = above.parent() else { break };
            sync_dir(&open_dir(parent)?, parent)?;
            above = parent;
        }
        if let Some(id) = id {
            let mut known = self.inner.durable_dirs.lock();
            if known.len() >= KNOWN_DIRS {
                known.clear();
            }
            known.insert(id);
        }
        Ok(fd)
    }

    /// Writes the parts to a temporary file, locked as a sign of life.
    fn write_temp(&self, parts: &[Bytes], durable: bool) -> Result<Temp> {
        let dir = self.inner.root.join(TEMP_DIR);
        let count = self.inner.temp_counter.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
        let path = dir.join(format!("{:x}-{:x}-{count:x}", std::process::id(), nanos));
        let create = || File::options().write(true).create_new(true).open(&path);
        let file = match create() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_dirs_beside_removals(&dir)?;
                create()
            }
            other => other,
        }
        .map_err(|e| LocalIo::new("create temporary file", &path, e))?;
        // Where locks don't work, staleness is judged by age alone.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut temp = Temp { path, file, kept: false };
        write_parts(&mut temp.file, parts).map_err(|e| LocalIo::new("write", &temp.path, e))?;
        if durable {
            temp.file.sync_all().map_err(|e| LocalIo::new("sync", &temp.path, e))?;
        }
        Ok(temp)
    }

    /// Removes temporary files that no living writer holds. Best effort: they do no harm but take room.
    fn remove_stale_temps(&self) {
        let Ok(entries) = fs::read_dir(self.inner.root.join(TEMP_DIR)) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            let stale = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => true,
                Err(rustix::io::Errno::WOULDBLOCK) => false,
                Err(_) => entry
                    .metadata()
                    .and_then(|m| m.modified())
                    .is_ok_and(|t| t.elapsed().is_ok_and(|age| age > STALE_TEMP_AGE)),
            };
            if stale {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn info(name: String, meta: &fs::Metadata) -> ObjectInfo {
    ObjectInfo {
        name,
        size_bytes: meta.len(),
        last_modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// Visits the objects below a directory; a directory that vanishes meanwhile is an empty one.
fn walk(
    dir: &Path,
    prefix: &str,
    visit: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(ControlFlow::Continue(()));
        }
        Err(e) => return Err(LocalIo::new("list", dir, e)),
    };
    // A directory sorts as its name with the slash that follows it in full names.
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| LocalIo::new("list", dir, e))?;
        let Some(mut name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        if check_name(&name).is_err() {
            continue;
        }
        let kind = entry.file_type().map_err(|e| LocalIo::new("list", dir, e))?;
        let is_dir = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
        if is_dir {
            name.push('/');
        }
        names.push(name);
    }
    names.sort_unstable();
    for name in names {
        let path = dir.join(&name);
        let full = |name: &str| match prefix {
            "" => name.to_owned(),
            _ => format!("{prefix}/{name}"),
        };
        if let Some(name) = name.strip_suffix('/') {
            if walk(&path, &full(name), visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            continue;
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                if visit(info(full(&name), &meta)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(LocalIo::new("look up", &path, e)),
        }
    }
    Ok(ControlFlow::Continue(()))
}

pub(crate) fn check_range(range: &Range<u64>, size_bytes: u64, path: &Path) -> Result<()> {
    if range.start > range.end {
        return Err(LocalIo::new(
            "read",
            path,
            io::Error::new(io::ErrorKind::InvalidInput, format!("bytes {range:?} are no range")),
        ));
    }
    if range.end > size_bytes {
        return Err(LocalIo::new(
            "read",
            path,
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it has {size_bytes} bytes, bytes {range:?} were asked for"),
            ),
        ));
    }
    Ok(())
}

/// Reads a checked range; the file can still be cut short under the reader.
pub(crate) fn read_exactly(file: &File, path: &Path, range: Range<u64>) -> Result<Bytes> {
    if let Some(bytes) = read_range(file, &range).map_err(|e| LocalIo::new("read", path, e))? {
        return Ok(bytes);
    }
    let length_bytes = range.end - range.start;
    let mut buffer = Vec::new();
    usize::try_from(length_bytes)
        .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
        .and_then(|capacity| Ok(buffer.try_reserve_exact(capacity)?))
        .map_err(|e| LocalIo::new("read", path, e))?;
    while (buffer.len() as u64) < length_bytes {
        let at = range.start + buffer.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at) {
            Ok(0) => {
                return Err(LocalIo::new(
                    "read",
                    path,
                    io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut short while being read"),
                ));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LocalIo::new("read", path, e)),
        }
    }
    // The allocator may have given more room than was asked for.
    buffer.truncate(length_bytes as usize);
    Ok(Bytes::from(buffer))
}
