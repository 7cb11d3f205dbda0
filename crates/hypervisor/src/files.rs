//! Files of disks: clones, extent maps, plain readers.

use crate::error::{Error, Result};
use crate::extents::Collector;
use crate::reader::ReadDisk;
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use strongroom_domain::{Extent, TypedExtent};

/// Extents of a file that are compared at most; a more fragmented file is read fully.
const FIEMAP_EXTENTS_MAX: usize = 1 << 21;

/// Removes its file when dropped, unless kept.
#[derive(Debug)]
pub struct OwnedFile {
    path: Option<PathBuf>,
}

impl OwnedFile {
    /// Makes an empty file, readable by nobody else.
    pub fn create(path: &Path) -> Result<Self> {
        create_new(path).map(|_| Self { path: Some(path.to_owned()) })
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    pub fn keep(&mut self) {
        self.path = None;
    }

    pub fn remove(&mut self) -> Result<()> {
        match self.path.take() {
            Some(path) => std::fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e)),
            None => Ok(()),
        }
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "a clone could not be removed");
        }
    }
}

/// A clone about to be made: everything slow is done before the machine is held.
pub struct PreparedClone {
    source: File,
    target: File,
    pub file: OwnedFile,
}

impl PreparedClone {
    /// Opens the disk and makes the empty clone beside it, readable by nobody else.
    pub fn new(source: &Path, target: &Path) -> Result<Self> {
        let source_file = open_read(source)?;
        let target_file = create_new(target)?;
        Ok(Self {
            source: source_file,
            target: target_file,
            file: OwnedFile { path: Some(target.to_owned()) },
        })
    }

    /// Writes back what the host has cached, so that little is left to do while the machine is held.
    pub fn flush_source(&self) {
        let _ = rustix::fs::fdatasync(&self.source);
    }

    /// The clone itself: takes milliseconds whatever the size.
    pub fn run(&self) -> std::io::Result<()> {
        rustix::fs::ioctl_ficlone(&self.target, &self.source).map_err(Into::into)
    }

    pub fn into_file(self) -> OwnedFile {
        self.file
    }
}

fn create_new(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("creating", path, e))
}

fn open_read(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("opening", path, e))
}

/// Whether files in `directory` can be cloned: found out by doing it.
pub fn can_clone(directory: &Path) -> bool {
    // An unnamed file: nothing is left behind, whatever happens.
    let open = || {
        rustix::fs::openat(
            rustix::fs::CWD,
            directory,
            OFlags::TMPFILE | OFlags::RDWR,
            Mode::RUSR | Mode::WUSR,
        )
    };
    let attempt = || -> std::io::Result<()> {
        let source = File::from(open()?);
        source.write_all_at(&[1; 4096], 0)?;
        let target = File::from(open()?);
        rustix::fs::ioctl_ficlone(&target, &source).map_err(Into::into)
    };
    attempt().is_ok()
}

/// Free bytes of the file system that holds `path`.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes a file takes on storage; 0 when it is not there.
pub fn allocated_bytes(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512)
}

/// What changes when anything is written to a file or block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Fingerprint {
    File {
        inode: u64,
        size: u64,
        mtime: (i64, i64),
    },
    /// Writes and discards which the kernel counted for the device.
    Block {
        writes: Vec<u64>,
    },
}

pub fn fingerprint(path: &Path) -> Result<Fingerprint> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("looking at", path, e))?;
    if meta.mode() & libc::S_IFMT != libc::S_IFBLK {
        return Ok(Fingerprint::File {
            inode: meta.ino(),
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
        });
    }
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let stat_path = format!("/sys/dev/block/{major}:{minor}/stat");
    let stat =
        std::fs::read_to_string(&stat_path).map_err(|e| Error::io("reading", Path::new(&stat_path), e))?;
    // Fields 5 and 7: writes done and sectors written; 12 and 14: the same for discards.
    let fields: Vec<u64> = stat.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    Ok(Fingerprint::Block { writes: [4, 6, 11, 13].iter().filter_map(|&i| fields.get(i).copied()).collect() })
}

/// A raw file or block device.
pub struct RawFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl RawFile {
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(open_read(path)?, path)
    }

    /// One that is open.
    pub fn of(file: File, path: &Path) -> Result<Self> {
        // A block device's length is found by seeking.
        let size_bytes =
            rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| Error::io("looking at", path, e.into()))?;
        Ok(Self { file, path: path.to_owned(), size_bytes })
    }

    /// As a guest sees it: whole sectors.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(512)
    }

    /// Data and holes of the whole file.
    pub fn map(&self) -> Vec<TypedExtent> {
        let size = self.size_bytes();
        let mut list = Collector::default();
        let mut at = 0;
        while at < self.size_bytes {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                // Devices and file systems that do not know of holes.
                Err(_) => at,
            };
            let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).unwrap_or(size).max(data + 1);
            list.push(TypedExtent::zero(at, data - at));
            list.push(TypedExtent::data(data, hole.min(size) - data));
            at = hole;
        }
        list.push(TypedExtent::zero(at.min(size), size - at.min(size)));
        list.finish()
    }
}

impl ReadDisk for RawFile {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset_bytes + done as u64) {
                // Beyond the end of a file whose last sector is cut short.
                Ok(0) if offset_bytes + buffer.len() as u64 <= self.size_bytes() => {
                    buffer[done..].fill(0);
                    return Ok(());
                }
                Ok(0) => {
                    return Err(Error::failed("reading", self.path.display().to_string(), "beyond its end"));
                }
                Ok(count) => done += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("reading", &self.path, e)),
            }
        }
        Ok(())
    }

    fn kinds(&self) -> Result<Vec<TypedExtent>> {
        Ok(self.map())
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const FIEMAP_BATCH: usize = 512;

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; FIEMAP_BATCH],
}

const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// Only these flags leave no doubt about what an extent's physical address means.
const FIEMAP_PLAIN: u32 = 0x1 /* last */ | 0x1000 /* merged */ | 0x2000 /* shared */;

/// Where a file's bytes are on storage. What is not listed is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    pub extent: Extent,
    /// `None`: not known for certain.
    pub physical: Option<u64>,
}

/// The physical map of a file; `None` when the file system does not tell or it is too fragmented.
pub fn physical_map(path: &Path) -> Option<Vec<Mapped>> {
    let file = File::open(path).ok()?;
    let mut found: Vec<Mapped> = Vec::new();
    let mut start = 0u64;
    loop {
        let mut request = Box::new(Fiemap {
            start,
            length: u64::MAX - start,
            flags: FIEMAP_FLAG_SYNC,
            mapped_extents: 0,
            extent_count: FIEMAP_BATCH as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); FIEMAP_BATCH],
        });
        // SAFETY: the structure is laid out as the kernel's, with room for the extents it announces.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut *request) };
        if answer < 0 {
            return None;
        }
        let count = (request.mapped_extents as usize).min(FIEMAP_BATCH);
        if count == 0 {
            return Some(found);
        }
        for extent in &request.extents[..count] {
            let certain = extent.flags & !FIEMAP_PLAIN == 0;
            found.push(Mapped {
                extent: Extent::new(extent.logical, extent.length),
                physical: certain.then_some(extent.physical),
            });
        }
        if found.len() > FIEMAP_EXTENTS_MAX {
            return None;
        }
        let last = &request.extents[count - 1];
        if last.flags & FIEMAP_EXTENT_LAST != 0 {
            return Some(found);
        }
        let next = last.logical.checked_add(last.length)?;
        if next <= start {
            return None;
        }
        start = next;
    }
}

/// The ranges below `size_bytes` in which two clones of a file do not surely share the same storage.
/// Both must still exist: as long as they do, none of their storage is given to other data.
pub fn differing(old: &[Mapped], new: &[Mapped], size_bytes: u64) -> Vec<Extent> {
    let mut list = Collector::default();
    let (mut i, mut j, mut at) = (0, 0, 0u64);
    while at < size_bytes {
        while old.get(i).is_some_and(|m| m.extent.end_bytes() <= at) {
            i += 1;
        }
        while new.get(j).is_some_and(|m| m.extent.end_bytes() <= at) {
            j += 1;
        }
        let (old_here, old_end) = here(old.get(i), at, size_bytes);
        let (new_here, new_end) = here(new.get(j), at, size_bytes);
        let end = old_end.min(new_end).min(size_bytes);
        let same = match (old_here, new_here) {
            (None, None) => true,
            (Some(Some(a)), Some(Some(b))) => a == b,
            _ => false,
        };
        if !same {
            list.push(TypedExtent::data(at, end - at));
        }
        at = end;
    }
    list.finish_ranges()
}

/// State at `at` (hole; mapped, perhaps with the physical address of just this byte) and where it ends.
fn here(next: Option<&Mapped>, at: u64, size: u64) -> (Option<Option<u64>>, u64) {
    match next {
        Some(m) if m.extent.offset_bytes <= at => {
            (Some(m.physical.map(|p| p.wrapping_add(at - m.extent.offset_bytes))), m.extent.end_bytes())
        }
        Some(m) => (None, m.extent.offset_bytes),
        None => (None, size),
    }
}

/// Opens a plain file that belongs to this process's user. Links are not followed; what is found of its kind and owner is
/// of the very file that was opened, whatever has its name by then.
pub fn open_own(path: &Path) -> Result<File> {
    let foreign = |why: &str| Error::Spoiled { what: path.display().to_string(), why: why.into() };
    // One that would wait for its other end is no plain file.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = file.map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => foreign("it is a link, and was a file"),
        _ => Error::io("opening", path, e),
    })?;
    let meta = file.metadata().map_err(|e| Error::io("looking at", path, e))?;
    if !meta.is_file() {
        return Err(foreign("it is no plain file"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(foreign("it belongs to somebody else"));
    }
    Ok(file)
}

/// Why others than this process's user and root could put their own files in the place of ours in a directory, if so.
pub fn why_not_private(directory: &Path) -> Option<String> {
    let real = match std::fs::canonicalize(directory) {
        Ok(real) => real,
        Err(e) => return Some(format!("the directory {} cannot be looked at: {e}", directory.display())),
    };
    let own = rustix::process::geteuid().as_raw();
    real.ancestors().find_map(|directory| {
        let shown = directory.display();
        let meta = match std::fs::metadata(directory) {
            Ok(meta) => meta,
            Err(e) => return Some(format!("the directory {shown} cannot be looked at: {e}")),
        };
        if meta.uid() != 0 && meta.uid() != own {
            return Some(format!(
                "the directory {shown} belongs to user {}, who could put other files in the place of those kept there; give it to root",
                meta.uid()
            ));
        }
        let by_group = meta.mode() & 0o020 != 0 && meta.gid() != 0;
        let by_others = by_group || meta.mode() & 0o002 != 0;
        // Where it is sticky, others leave alone what is not theirs.
        (by_others && meta.mode() & 0o1000 == 0).then(|| {
            format!(
                "others may write into the directory {shown}, and could put other files in the place of those kept there; take that right from them (chmod go-w)"
            )
        })
    })
}

/// Whether `path` is a plain file (not a link) that belongs to this process's user.
pub fn is_own_file(path: &Path) -> bool {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| {
        s.st_mode & libc::S_IFMT == libc::S_IFREG && s.st_uid == rustix::process::geteuid().as_raw()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(offset: u64, length: u64, physical: Option<u64>) -> Mapped {
        Mapped { extent: Extent::new(offset, length), physical }
    }

    #[test]
    fn only_certainly_shared_storage_counts_as_unchanged() {
        let old = [mapped(0, 100, Some(1000)), mapped(200, 100, Some(5000)), mapped(400, 50, None)];
        let new = [
            mapped(0, 50, Some(1000)),
            mapped(50, 50, Some(9000)),
            mapped(210, 90, Some(5010)),
            mapped(400, 50, None),
        ];
        let changed = differing(&old, &new, 600);
        assert_eq!(changed, [Extent::new(50, 50), Extent::new(200, 10), Extent::new(400, 50)]);
        assert_eq!(differing(&old[..2], &old[..2], 600), []);
        // Data cut away is a change, data beyond the size is none.
        assert_eq!(differing(&old[..1], &[], 60), [Extent::new(0, 60)]);
    }

    #[test]
    fn raw_files_read_and_map_their_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let file = File::create(&path).unwrap();
        file.write_all_at(&[7; 4096], 1 << 20).unwrap();
        file.set_len((4 << 20) + 100).unwrap();
        let raw = RawFile::open(&path).unwrap();
        assert_eq!(raw.size_bytes(), (4 << 20) + 512);
        let map = raw.map();
        assert_eq!(map.iter().map(|t| t.extent.length_bytes).sum::<u64>(), raw.size_bytes());
        assert!(map.contains(&TypedExtent::data(1 << 20, 4096)), "{map:?}");
        let mut buffer = [1; 512];
        raw.read_at(4 << 20, &mut buffer).unwrap();
        assert_eq!(buffer, [0; 512]);
        assert!(raw.read_at((4 << 20) + 512, &mut buffer).is_err());
    }

    #[test]
    fn what_is_kept_is_kept_where_nobody_else_can_write() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(why_not_private(&inner), None);
        for (path, bad) in [(&inner, 0o777), (&directory.path().to_owned(), 0o707)] {
            mode(path, bad);
            let why = why_not_private(&inner).unwrap();
            assert!(why.contains(path.to_str().unwrap()) && why.contains("others may write"), "{why}");
            mode(path, 0o1777);
            assert_eq!(why_not_private(&inner), None);
            mode(path, 0o755);
        }
        assert!(why_not_private(&directory.path().join("nowhere")).is_some());
        let file = inner.join("file");
        std::fs::write(&file, "ours").unwrap();
        assert!(open_own(&file).is_ok());
        let link = inner.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(open_own(&link), Err(Error::Spoiled { .. })));
        assert!(matches!(open_own(&inner), Err(Error::Spoiled { .. })));
        assert!(matches!(open_own(&inner.join("none")), Err(Error::NotFound { .. })));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert!(matches!(open_own(&file), Err(Error::Spoiled { .. })));
            std::os::unix::fs::chown(&inner, Some(65534), None).unwrap();
            assert!(why_not_private(&inner).unwrap().contains("65534"));
        }
    }

    #[test]
    fn any_write_changes_the_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 4096]).unwrap();
        let before = fingerprint(&path).unwrap();
        assert_eq!(before, fingerprint(&path).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
        File::options().write(true).open(&path).unwrap().write_all_at(&[1], 5).unwrap();
        assert_ne!(before, fingerprint(&path).unwrap());
    }
}
