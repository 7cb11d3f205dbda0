//! An image that is there and is made equal to a recovery point's disk.
//!
//! Raw files are read and written directly, qcow2 through `qemu-nbd`. Whoever rewrites one sees to it that no machine can
//! have it open: by giving it a name that none knows.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::ZEROES_AT_ONCE_BYTES;
use crate::qemu_nbd::{Access, QemuImage, qemu_img};
use crate::target::DiskFormat;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use strongroom_domain::{Extent, ExtentKind};
use strongroom_hypervisor::image::{self, Qcow2Header};
use strongroom_store::{DiskReader, Progress, RewriteTarget, Rewritten};

/// What must be known of an image before it is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentInfo {
    /// As the guest sees it.
    pub size_bytes: u64,
    /// What it takes on storage.
    pub allocated_bytes: u64,
    /// All that it holds is in the one file. Of another the size is not known.
    pub is_self_contained: bool,
}

/// Looks at an image that no machine writes to.
pub fn look(path: &Path, format: DiskFormat) -> Result<PresentInfo> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).map_err(|e| Error::io(format!("looking at {}", path.display()), e))?;
    let allocated_bytes = metadata.blocks() * 512;
    match format {
        DiskFormat::Qcow2 => {
            let header = Qcow2Header::read(path)?
                .ok_or_else(|| Error::unsupported(format!("{} is no qcow2 image", path.display())))?;
            if header.backing.is_some() || header.data_file.is_some() || header.is_encrypted {
                // It is not rewritten, and so not opened.
                return Ok(PresentInfo { size_bytes: 0, allocated_bytes, is_self_contained: false });
            }
            let name = image::alone(path, "qcow2")?;
            let arguments: [&OsStr; 4] =
                ["info".as_ref(), "--output=json".as_ref(), "--".as_ref(), name.as_ref()];
            let text = qemu_img(&arguments, path)?;
            let info: serde_json::Value = serde_json::from_slice(&text).map_err(|e| {
                Error::new(ErrorKind::Failed, format!("qemu-img's words on {}: {e}", path.display()))
            })?;
            let size_bytes = info["virtual-size"].as_u64().ok_or_else(|| {
                Error::new(ErrorKind::Failed, format!("qemu-img tells no size of {}", path.display()))
            })?;
            Ok(PresentInfo { size_bytes, allocated_bytes, is_self_contained: true })
        }
        _ => Ok(PresentInfo {
            size_bytes: metadata.len().next_multiple_of(512),
            allocated_bytes,
            is_self_contained: metadata.is_file(),
        }),
    }
}

/// Clones a file under a new name, readable by nobody else. `false`, and nothing there, where the storage cannot.
pub fn clone_file(from: &Path, to: &Path) -> Result<bool> {
    let source = File::open(from).map_err(|e| Error::io(format!("opening {}", from.display()), e))?;
    let target = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|e| Error::io(format!("making {}", to.display()), e))?;
    match ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(error) => {
            drop(target);
            fs::remove_file(to).map_err(|e| Error::io(format!("removing {}", to.display()), e))?;
            match error {
                Errno::OPNOTSUPP
                | Errno::NOTTY
                | Errno::INVAL
                | Errno::XDEV
                | Errno::NOSYS
                | Errno::TXTBSY => Ok(false),
                e => Err(Error::io(format!("cloning {}", from.display()), e.into())),
            }
        }
    }
}

/// Makes an image equal to a point's disk, durably. Stopped on the way it is a mixture, which doing it again makes whole.
/// `scratch`: it is not anybody's only copy, so that it need not survive a crash on the way.
pub fn rewrite(
    disk: &DiskReader,
    path: &Path,
    format: DiskFormat,
    scratch: bool,
    progress: &Progress,
) -> Result<Rewritten> {
    let image = match format {
        DiskFormat::Qcow2 => {
            let access = if scratch { Access::Scratch } else { Access::InPlace };
            Body::Qcow2(QemuImage::open(path, "qcow2", access)?)
        }
        _ => Body::Raw(RawImage::open(path, disk.size_bytes())?),
    };
    let size_bytes = image.size_bytes();
    if size_bytes != disk.size_bytes() {
        return Err(Error::new(
            ErrorKind::Failed,
            format!(
                "{} has {size_bytes} bytes and the point's disk {}: it was changed meanwhile",
                path.display(),
                disk.size_bytes()
            ),
        ));
    }
    let holds = image.holds()?;
    let done = disk.rewrite(&image, &holds, progress)?;
    progress.check()?;
    image.close()?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
    Ok(done)
}

enum Body {
    Raw(RawImage),
    Qcow2(QemuImage),
}

impl Body {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.size_bytes,
            Self::Qcow2(image) => image.size_bytes(),
        }
    }

    /// Where it may hold anything but zeroes.
    fn holds(&self) -> Result<Vec<Extent>> {
        match self {
            Self::Raw(raw) => Ok(raw.holds()),
            Self::Qcow2(image) => {
                let kinds = image.kinds(&[Extent::new(0, image.size_bytes())])?;
                Ok(kinds.into_iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.extent).collect())
            }
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Raw(raw) => {
                raw.file.sync_all().map_err(|e| Error::io(format!("writing {}", raw.path.display()), e))
            }
            Self::Qcow2(image) => image.close(),
        }
    }
}

impl RewriteTarget for Body {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.file.read_exact_at(buffer, offset_bytes),
            Self::Qcow2(image) => image.read_at(offset_bytes, buffer),
        }
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.file.write_all_at(data, offset_bytes),
            Self::Qcow2(image) => image.write_at(offset_bytes, data),
        }
    }

    fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.write_zeroes(offset_bytes, length_bytes),
            Self::Qcow2(image) => image.write_zeroes(offset_bytes, length_bytes),
        }
    }
}

struct RawImage {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl RawImage {
    fn open(path: &Path, wanted_bytes: u64) -> Result<Self> {
        let failed = |e| Error::io(format!("opening {}", path.display()), e);
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let mut size_bytes = file.metadata().map_err(failed)?.len();
        // A last sector that is cut short reads as a whole one.
        if size_bytes.next_multiple_of(512) == wanted_bytes && size_bytes != wanted_bytes {
            file.set_len(wanted_bytes).map_err(failed)?;
            size_bytes = wanted_bytes;
        }
        Ok(Self { file, path: path.to_owned(), size_bytes })
    }

    fn holds(&self) -> Vec<Extent> {
        let mut holds = Vec::new();
        let mut at = 0;
        while at < self.size_bytes {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                // A file system that does not know of holes.
                Err(_) => at,
            };
            let hole = seek(&self.file, SeekFrom::Hole(data)).unwrap_or(self.size_bytes).max(data + 1);
            holds.push(Extent::new(data, hole.min(self.size_bytes) - data));
            at = hole;
        }
        holds
    }

    fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<()> {
        let way = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, way, offset_bytes, length_bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        let zeroes = vec![0; ZEROES_AT_ONCE_BYTES.min(length_bytes as usize)];
        let (mut at, end) = (offset_bytes, offset_bytes + length_bytes);
        while at < end {
            let now = (end - at).min(zeroes.len() as u64) as usize;
            self.file.write_all_at(&zeroes[..now], at)?;
            at += now as u64;
        }
        Ok(())
    }
}
