//! What disks are restored to: new files, which appear under their name only when they are complete, and block
//! devices.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    DIRECT_ALIGNMENT_BYTES, DIRECT_PIECE_BYTES, SPARE_ROOM_BYTES, WRITEBACK_STEP_BYTES, ZEROES_AT_ONCE_BYTES,
};
use crate::qemu_nbd::{Access, KeyFile, QemuImage, qemu_img, retry_unmeasured};
use crate::vhd;
use parking_lot::Mutex;
use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, fallocate, renameat_with, statvfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use strongroom_hypervisor::image;
use strongroom_store::BlockTarget;
use uuid::Uuid;

/// The format of a restored image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes, holes in the file where it has some.
    #[default]
    Raw,
    /// QEMU's, version 3.
    Qcow2,
    /// Fixed: as raw, padded to a whole MiB, with a footer.
    Vhd,
}

impl DiskFormat {
    /// As QEMU and libvirt call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vpc",
        }
    }

    /// What names of its files end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
        }
    }
}

impl std::str::FromStr for DiskFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vhd" => Ok(Self::Vhd),
            _ => Err(Error::invalid(format!(
                "`{}` is not a format that disks are restored in: give qcow2, raw or vhd",
                text.chars().take(40).collect::<String>().escape_debug()
            ))),
        }
    }
}

impl From<strongroom_hypervisor::DiskFormat> for DiskFormat {
    fn from(format: strongroom_hypervisor::DiskFormat) -> Self {
        match format {
            strongroom_hypervisor::DiskFormat::Raw => Self::Raw,
            strongroom_hypervisor::DiskFormat::Qcow2 => Self::Qcow2,
        }
    }
}

/// A new image file to make.
#[derive(Debug, Clone)]
pub(crate) struct NewImageOptions {
    /// Must not exist; its directory must.
    pub path: PathBuf,
    /// What it is written as.
    pub format: DiskFormat,
    /// Of the disk.
    pub size_bytes: u64,
    /// How much will be written: whether that fits is checked first.
    pub data_bytes: u64,
    /// Whether it must survive power loss when [`NewImage::finish`] returns.
    pub durable: bool,
    /// What its hidden name ends with, for whoever removes it after a crash; default: something new.
    pub tag: Option<String>,
    /// It is encrypted with it (LUKS); qcow2 only.
    pub passphrase: Option<String>,
}

/// An image being written, next to where it will be, as `.NAME.strongroom-partial-ID`. Removed again unless finished.
pub(crate) struct NewImage {
    partial: Partial,
    options: NewImageOptions,
    body: Body,
}

enum Body {
    Raw(RawWriter),
    Qcow2(QemuImage),
    /// Of another file, to be left as it is.
    Clone,
}

impl NewImage {
    /// Begins a new image. Holes are what is not written.
    pub fn create(options: NewImageOptions) -> Result<Self> {
        let path = &options.path;
        if options.format == DiskFormat::Vhd {
            vhd::check_size(options.size_bytes)?;
        }
        check_absent(path)?;
        check_room(path, options.format, options.data_bytes)?;
        let failed = |e| Error::io(format!("making {}", path.display()), e);
        let (partial, file) = Partial::create(path, options.tag.as_deref())?;
        let file_bytes = match options.format {
            DiskFormat::Vhd => vhd::padded(options.size_bytes) + vhd::FOOTER_BYTES as u64,
            _ => options.size_bytes,
        };
        let body = match options.format {
            DiskFormat::Raw | DiskFormat::Vhd => {
                file.set_len(file_bytes).map_err(|e| match e.raw_os_error() {
                    Some(libc::EFBIG) => Error::new(
                        ErrorKind::NoSpace,
                        format!(
                            "{}: the file system takes no file of {} bytes; restore as --format qcow2, or elsewhere",
                            path.display(),
                            options.size_bytes
                        ),
                    ),
                    _ => failed(e),
                })?;
                Body::Raw(RawWriter::new(file, options.durable))
            }
            DiskFormat::Qcow2 => {
                drop(file);
                let size = options.size_bytes.to_string();
                let key = options.passphrase.as_deref().map(KeyFile::new).transpose()?;
                let object = key.as_ref().map(KeyFile::object).transpose()?;
                let mut arguments: Vec<&OsStr> = vec!["create".as_ref(), "-q".as_ref()];
                if let Some(object) = &object {
                    arguments.extend(["--object".as_ref(), OsStr::new(object)]);
                    arguments.extend(["-o", KeyFile::IMAGE_OPTIONS].map(OsStr::new));
                }
                arguments.extend(["-f".as_ref(), "qcow2".as_ref(), partial.path.as_os_str(), size.as_ref()]);
                retry_unmeasured(|| {
                    // One that failed took the file with it, and would make it anew for everybody to read.
                    if !partial.path.exists() {
                        private_file(&partial.path).map_err(failed)?;
                    }
                    qemu_img(&arguments, path).map(drop)
                })?;
                Body::Qcow2(QemuImage::open_with(&partial.path, "qcow2", Access::Scratch, key)?)
            }
        };
        Ok(Self { partial, options, body })
    }

    /// Device and inode of its file, which it keeps under its final name.
    pub fn identity(&self) -> Result<FileIdentity> {
        FileIdentity::of(&self.partial.path)
            .map_err(|e| Error::io(format!("looking at {}", self.partial.path.display()), e))
    }

    /// A new image that shares its data with another file, complete already. None: the storage cannot do that with the two.
    pub fn clone_of(file: &Path, options: NewImageOptions) -> Result<Option<Self>> {
        check_absent(&options.path)?;
        let source = File::open(file).map_err(|e| Error::io(format!("opening {}", file.display()), e))?;
        let (partial, clone) = Partial::create(&options.path, options.tag.as_deref())?;
        if rustix::fs::ioctl_ficlone(&clone, &source).is_err() {
            return Ok(None);
        }
        drop(clone);
        if options.format == DiskFormat::Qcow2 {
            remove_bitmaps(&partial.path, &options.path)?;
        }
        Ok(Some(Self { partial, options, body: Body::Clone }))
    }

    /// Whether nothing was, or can be, written to it.
    pub fn is_clone(&self) -> bool {
        matches!(self.body, Body::Clone)
    }

    /// Makes the image complete, durable if that was asked for, and gives it its name: the commit.
    pub fn finish(self) -> Result<()> {
        let Self { partial, options, body } = self;
        let failed = |e| Error::io(format!("writing {}", options.path.display()), e);
        if let (Body::Raw(writer), DiskFormat::Vhd) = (&body, options.format) {
            let size_bytes = vhd::padded(options.size_bytes);
            let made_at = jiff::Timestamp::now().as_second();
            let footer = vhd::footer(size_bytes, Uuid::new_v4(), made_at);
            writer.file.write_all_at(&footer, size_bytes).map_err(failed)?;
        }
        match body {
            Body::Raw(writer) if options.durable => writer.file.sync_all().map_err(failed)?,
            Body::Clone if options.durable => {
                File::open(&partial.path).and_then(|file| file.sync_all()).map_err(failed)?;
            }
            Body::Raw(_) | Body::Clone => {}
            Body::Qcow2(image) => {
                image.close()?;
                if options.durable {
                    File::open(&partial.path).and_then(|file| file.sync_all()).map_err(failed)?;
                }
            }
        }
        partial.publish(&options.path, options.durable)
    }
}

/// What a file is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// Of what is at that path, links not followed. Fails if nothing is.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = path.symlink_metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl BlockTarget for NewImage {
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        match &self.body {
            Body::Raw(writer) => writer.write_at(offset_bytes, data),
            Body::Qcow2(image) => image.write_at(offset_bytes, data),
            Body::Clone => Err(io::Error::other("a cloned image is complete")),
        }
    }
}

/// Writes a file, past the page cache where the file system can: a restored disk is written once, and copying it
/// through fresh pages would cost more processor time than all the rest. What is left for the page cache the kernel
/// begins writing out early, so that making it durable at the end is short.
struct RawWriter {
    file: File,
    /// The same file, opened past the page cache. None where that is not to be had.
    direct: Option<File>,
    early: bool,
    since: AtomicU64,
}

thread_local! {
    /// Aligned memory to write from; kept, because fresh memory costs as much as the copying into it.
    static ALIGNED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl RawWriter {
    fn new(file: File, early: bool) -> Self {
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .ok();
        Self { file, direct, early, since: AtomicU64::new(0) }
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        let done = self.write_directly(offset_bytes, data);
        let (offset_bytes, data) = (offset_bytes + done as u64, &data[done..]);
        if data.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(data, offset_bytes)?;
        if self.early {
            let length = data.len() as u64;
            let before = self.since.fetch_add(length, Ordering::Relaxed);
            if before / WRITEBACK_STEP_BYTES != (before + length) / WRITEBACK_STEP_BYTES {
                // SAFETY: a plain system call on a file we hold open. It only starts writing; errors show at fsync.
                #[allow(unsafe_code)]
                unsafe {
                    libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
                }
            }
        }
        Ok(())
    }

    /// Writes as much as goes past the page cache; returns how much of `data` that was. The rest, or all of it if the
    /// file system refuses, is for the usual way, which also tells any error.
    fn write_directly(&self, offset_bytes: u64, data: &[u8]) -> usize {
        let Some(direct) = &self.direct else { return 0 };
        if !offset_bytes.is_multiple_of(DIRECT_ALIGNMENT_BYTES as u64) {
            return 0;
        }
        let whole = data.len() / DIRECT_ALIGNMENT_BYTES * DIRECT_ALIGNMENT_BYTES;
        ALIGNED.with_borrow_mut(|buffer| {
            buffer.resize(DIRECT_PIECE_BYTES + DIRECT_ALIGNMENT_BYTES, 0);
            let start = buffer.as_ptr().align_offset(DIRECT_ALIGNMENT_BYTES);
            let Some(aligned) = buffer.get_mut(start..start + DIRECT_PIECE_BYTES) else { return 0 };
            let mut done = 0;
            for piece in data[..whole].chunks(DIRECT_PIECE_BYTES) {
                aligned[..piece.len()].copy_from_slice(piece);
                if direct.write_all_at(&aligned[..piece.len()], offset_bytes + done as u64).is_err() {
                    break;
                }
                done += piece.len();
            }
            done
        })
    }
}

/// Fails if something has that name: a restore never overwrites.
pub fn check_absent(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(Error::already_exists(format!(
            "{} already exists, and a restore overwrites nothing: give another name, or remove it first",
            path.display()
        ))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("looking for {}", path.display()), e)),
    }
}

/// Fails if the file system of `path`, which need not exist, has no room for that much data.
pub fn check_room(path: &Path, format: DiskFormat, data_bytes: u64) -> Result<()> {
    let directory = directory_of(path);
    let room = statvfs(directory).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR => Error::not_found(format!(
            "directory {} does not exist: make it first, or restore elsewhere",
            directory.display()
        )),
        _ => Error::io(format!("looking at directory {}", directory.display()), e.into()),
    })?;
    // What is reserved is root's to use.
    let free_blocks = if rustix::process::geteuid().is_root() { room.f_bfree } else { room.f_bavail };
    let free_bytes = free_blocks.saturating_mul(room.f_frsize);
    let overhead_bytes = match format {
        DiskFormat::Raw | DiskFormat::Vhd => 0,
        // Tables of 8 bytes and counts of 2 for each 64 KiB.
        DiskFormat::Qcow2 => data_bytes / 4096,
    };
    let needed_bytes = data_bytes.saturating_add(overhead_bytes).saturating_add(SPARE_ROOM_BYTES);
    if free_bytes < needed_bytes {
        return Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "no room for {} in {}: {needed_bytes} bytes are needed and {free_bytes} are free; free space there or restore elsewhere",
                path.display(),
                directory.display()
            ),
        ));
    }
    Ok(())
}

/// What tracked the changes of the disk it was cloned from means nothing in the clone.
fn remove_bitmaps(path: &Path, shown: &Path) -> Result<()> {
    let image = image::alone(path, "qcow2")?;
    let arguments: [&OsStr; 3] = ["info".as_ref(), "--output=json".as_ref(), image.as_ref()];
    let told: serde_json::Value = serde_json::from_slice(&qemu_img(&arguments, shown)?)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("looking at {}: {e}", shown.display())))?;
    let bitmaps = told.pointer("/format-specific/data/bitmaps").and_then(|b| b.as_array());
    for name in bitmaps.into_iter().flatten().filter_map(|b| b.get("name")?.as_str()) {
        qemu_img(&["bitmap", "--remove", &image, name], shown)?;
    }
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Files that are not complete: what a process that must end at once has to remove.
static PARTIALS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all incomplete files of this process. For the moment before it ends without unwinding.
pub fn remove_partials() {
    for path in PARTIALS.lock().drain(..) {
        let _ = fs::remove_file(path);
    }
}

/// The hidden name that an image with this tag has until it is complete.
pub fn partial_name(target: &Path, tag: &str) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        Error::invalid(format!("{} names no file: give a file that does not exist", target.display()))
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".strongroom-partial-{tag}"));
    Ok(target.with_file_name(hidden))
}

/// A new file for its owner alone: it is to hold somebody's disk.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

struct Partial {
    path: PathBuf,
    published: bool,
}

impl Partial {
    fn create(target: &Path, tag: Option<&str>) -> Result<(Self, File)> {
        let path = match tag {
            Some(tag) => partial_name(target, tag)?,
            None => partial_name(target, &Uuid::new_v4().simple().to_string()[..8])?,
        };
        PARTIALS.lock().push(path.clone());
        let partial = Self { path, published: false };
        let file =
            private_file(&partial.path).map_err(|e| Error::io(format!("making {}", target.display()), e))?;
        Ok((partial, file))
    }

    fn publish(mut self, target: &Path, durable: bool) -> Result<()> {
        let named = renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE);
        let named = match named {
            // A file system that cannot: a hard link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(&self.path, target),
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(e) => Err(e.into()),
        };
        named.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::already_exists(format!(
                "{} appeared while it was being restored; it was left as it is. Give another name",
                target.display()
            )),
            _ => Error::io(format!("naming {}", target.display()), e),
        })?;
        if durable {
            let directory = directory_of(target);
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|e| Error::io(format!("writing directory {}", directory.display()), e))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
        PARTIALS.lock().retain(|path| *path != self.path);
    }
}

/// Whether a path is a block device.
pub fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// A block device that is overwritten.
pub(crate) struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    /// Opens a device for itself: one that is mounted or otherwise in use is refused.
    pub fn open(path: &Path, needed_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::EXCL.bits() as i32)
            .open(path)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::EBUSY) => Error::new(
                    ErrorKind::Busy,
                    format!("{} is in use: unmount it, or end what has it open", path.display()),
                ),
                _ => Error::io(format!("opening {}", path.display()), e),
            })?;
        let size_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(|e| Error::io(format!("looking at {}", path.display()), e.into()))?;
        if size_bytes < needed_bytes {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{} has {size_bytes} bytes and the disk {needed_bytes}: give a device that is at least as large",
                    path.display()
                ),
            ));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Makes a range read as zeroes, by the fastest way the device has.
    pub fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let failed = |e| Error::io(format!("writing zeroes to {}", self.path.display()), e);
        let ways = [
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ];
        for way in ways {
            match fallocate(&self.file, way, offset_bytes, length_bytes) {
                Ok(()) => return Ok(()),
                // Not by this device, or not with these ends.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
        let zeroes = vec![0; ZEROES_AT_ONCE_BYTES];
        let mut at = offset_bytes;
        let end = offset_bytes + length_bytes;
        while at < end {
            let now = (end - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..now as usize], at).map_err(failed)?;
            at += now;
        }
        Ok(())
    }

    /// Returns when everything written is durable.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(format!("writing {}", self.path.display()), e))
    }
}

impl BlockTarget for Device {
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn an_encrypted_image_opens_with_its_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.qcow2");
        let passphrase = "0123456789abcdef0123456789abcdef";
        let image = NewImage::create(NewImageOptions {
            path: path.clone(),
            format: DiskFormat::Qcow2,
            size_bytes: 4 << 20,
            data_bytes: 1 << 20,
            durable: false,
            tag: None,
            passphrase: Some(passphrase.into()),
        })
        .unwrap();
        let marker = b"A MARKER OF THE SOURCE ".repeat(1024);
        image.write_at(1 << 20, &marker).unwrap();
        image.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|w| w == &marker[..16]), "it is not encrypted");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "for its owner alone");
        assert!(QemuImage::open(&path, "qcow2", Access::ReadOnly).is_err());
        let wrong = Some(KeyFile::new("another").unwrap());
        assert!(QemuImage::open_with(&path, "qcow2", Access::ReadOnly, wrong).is_err());
        let key = Some(KeyFile::new(passphrase).unwrap());
        let image = QemuImage::open_with(&path, "qcow2", Access::ReadOnly, key).unwrap();
        let mut read = vec![1; marker.len()];
        image.read_at(1 << 20, &mut read).unwrap();
        assert_eq!(read, marker);
        image.read_at(0, &mut read[..4096]).unwrap();
        assert_eq!(read[..4096], [0; 4096]);
    }
}
