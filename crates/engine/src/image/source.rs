//! Images as they are read: raw files and block devices directly, other formats through `qemu-nbd`.

use super::signature::{self, Signature};
use crate::error::{Error, ErrorKind, Result};
use crate::qemu_nbd::{Access, QemuImage};
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_domain::{Extent, TypedExtent};
use strongroom_hypervisor::image::Qcow2Header;
use strongroom_hypervisor::whole::{self, Condition};
use strongroom_store::{BlockSource, Progress};

/// What an image is read as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SourceFormat {
    /// qcow2 if a regular file begins as one and refers to no other file, else raw.
    ///
    /// Whoever may write to a raw disk decides how it begins. Taken at its word, it could name any file of this
    /// host as its backing file and have that backed up: so no image that names other files is read, whatever is said of it.
    #[default]
    Auto,
    /// The bytes as they are: a file, or a block device.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// VHD, under QEMU's name for it (`vpc`, after Virtual PC).
    Vpc,
    /// VirtualBox's.
    Vdi,
}

impl SourceFormat {
    /// QEMU's name of it; none for [`Auto`](Self::Auto).
    fn qemu_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Auto => return None,
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Vdi => "vdi",
        })
    }
}

/// An image opened for reading.
pub struct Source {
    path: PathBuf,
    /// Kept open also where a `qemu-nbd` reads: to see whether it changes meanwhile.
    file: File,
    format: &'static str,
    is_device: bool,
    size_bytes: u64,
    opened: Stamp,
    qemu: Option<Arc<QemuImage>>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length_bytes: u64,
    modified: (i64, i64),
}

struct RawFile(File);

impl BlockSource for RawFile {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset_bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "it became shorter while it was read"),
            _ => e,
        })
    }
}

struct Qemu(Arc<QemuImage>);

impl BlockSource for Qemu {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset_bytes, buffer)
    }
}

impl Source {
    /// Opens an image or block device. `is_forced`: also one that is damaged, with a warning.
    pub fn open(path: &Path, format: SourceFormat, is_forced: bool, progress: &Progress) -> Result<Self> {
        let doing = || format!("opening {}", path.display());
        let failed = |e| Error::io(doing(), e);
        // A FIFO would block here, and nothing but files and block devices has a size.
        let kind = std::fs::metadata(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => Error::not_found(format!(
                    "{} does not exist: give a disk image or a block device",
                    path.display()
                )),
                _ => failed(e),
            })?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::unsupported(format!(
                "{} is neither a file nor a block device: give a disk image or a block device",
                path.display()
            )));
        }
        let file = OpenOptions::new().read(true).open(path).map_err(failed)?;
        let opened = stamp(&file).map_err(failed)?;
        let mut warnings = Vec::new();
        let format = match format.qemu_name() {
            Some(format) => format,
            None => probe(path, &file, kind.is_file(), opened.length_bytes, &mut warnings)?,
        };
        let qemu = match format {
            "raw" => None,
            _ => {
                check_whole(path, format, is_forced, progress, &mut warnings)?;
                Some(Arc::new(QemuImage::open(path, format, Access::ReadOnly)?))
            }
        };
        let size_bytes = qemu.as_ref().map_or(opened.length_bytes, |image| image.size_bytes());
        // Twice the readahead; the kernel may know better.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let is_device = kind.is_block_device();
        Ok(Self { path: path.to_owned(), file, format, is_device, size_bytes, opened, qemu, warnings })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn format(&self) -> &'static str {
        self.format
    }

    pub fn reader(&self) -> Result<Arc<dyn BlockSource>> {
        Ok(match &self.qemu {
            Some(image) => Arc::new(Qemu(image.clone())),
            None => Arc::new(RawFile(
                self.file
                    .try_clone()
                    .map_err(|e| Error::io(format!("opening {}", self.path.display()), e))?,
            )),
        })
    }

    /// What these sorted, disjoint ranges hold: data, or holes that need no reading.
    pub fn kinds(&self, ranges: &[Extent]) -> Result<Vec<TypedExtent>> {
        match &self.qemu {
            Some(image) => image.kinds(ranges),
            None if self.is_device => {
                Ok(ranges.iter().map(|r| TypedExtent::data(r.offset_bytes, r.length_bytes)).collect())
            }
            None => file_kinds(&self.file, ranges)
                .map_err(|e| Error::io(format!("mapping the holes of {}", self.path.display()), e)),
        }
    }

    /// Fails if the image has another size by now; warns if it was written to.
    pub fn check_unchanged(&mut self) -> Result<()> {
        let now =
            stamp(&self.file).map_err(|e| Error::io(format!("looking at {}", self.path.display()), e))?;
        if now.length_bytes != self.opened.length_bytes && self.format == "raw" {
            return Err(Error::invalid(format!(
                "{} changed its size from {} to {} bytes while it was read; no point was made. Back it up while nobody resizes it",
                self.path.display(),
                self.opened.length_bytes,
                now.length_bytes
            )));
        }
        if now != self.opened && !self.is_device {
            self.warnings.push(format!(
                "{} was written to while it was read: parts of this point may be of different instants",
                self.path.display()
            ));
        }
        Ok(())
    }
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    // A device has no length of its own; its end can be sought.
    let length_bytes = seek(file, SeekFrom::End(0))?;
    Ok(Stamp { length_bytes, modified: (metadata.mtime(), metadata.mtime_nsec()) })
}

/// Data and holes by the file system's own map.
fn file_kinds(file: &File, ranges: &[Extent]) -> io::Result<Vec<TypedExtent>> {
    let mut kinds = Vec::new();
    for range in ranges {
        let end = range.end_bytes();
        let mut at = range.offset_bytes;
        while at < end {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                // Nothing but a hole up to the file's end.
                Err(Errno::NXIO) => end,
                // The file system has no map: then everything may be data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(e) => return Err(e.into()),
            };
            if data > at {
                kinds.push(TypedExtent::zero(at, data - at));
                at = data;
                continue;
            }
            let hole = match seek(file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => hole.min(end),
                _ => end,
            };
            kinds.push(TypedExtent::data(at, hole - at));
            at = hole;
        }
    }
    Ok(kinds)
}

/// What an image is read as where nobody says.
fn probe(
    path: &Path,
    file: &File,
    is_file: bool,
    length_bytes: u64,
    warnings: &mut Vec<String>,
) -> Result<&'static str> {
    let Some(signature) = signature::of(path, file, length_bytes)? else { return Ok("raw") };
    if !is_file || signature != Signature::Read("qcow2") {
        // A device that is encrypted as a whole is as usual as one that is not.
        if is_file || signature != Signature::Luks {
            warnings.push(signature.warning(path));
        }
        return Ok("raw");
    }
    let Some(header) = Qcow2Header::read(path)? else {
        warnings.push(format!(
            "{} begins like a qcow2 image, but its header is not all there; it was read as raw bytes",
            path.display()
        ));
        return Ok("raw");
    };
    let refers_to = header.backing.or(header.data_file);
    if let Some(other) = refers_to {
        return Err(Error::invalid(format!(
            "{} begins like a qcow2 image that takes data from another file ({other}), which is not followed: whoever wrote it may \
             have chosen any file of this host. If it is a raw disk, use --source-format raw; if it is based on that file, make one \
             file of them first (`qemu-img convert -O qcow2`)",
            path.display()
        )));
    }
    Ok("qcow2")
}

/// Refuses what its format's own check finds damaged, unless that is wanted: QEMU reads zeroes where something is missing.
fn check_whole(
    path: &Path,
    format: &str,
    is_forced: bool,
    progress: &Progress,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let is_cancelled = || progress.check().is_err();
    let condition = whole::check(path, format, &is_cancelled);
    progress.check()?;
    let shown = path.display();
    match condition? {
        Condition::Sound => {}
        Condition::Leaks(words) => warnings.push(format!(
            "{shown} takes more room than it needs ({words}, says the check of {format}); what was read of it is right, and `qemu-img \
             check -r leaks` puts it right"
        )),
        Condition::Damaged(words) if is_forced => warnings.push(format!(
            "{shown} was damaged and was backed up all the same, as was asked for; what is missing in it reads as zeroes. The check of \
             {format} said: {words}"
        )),
        Condition::Damaged(words) => {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{shown} is damaged, and no point was made of it. The check of {format} says: {words}. Copy it anew if it was cut \
                     short, or repair it (`qemu-img check -r all`); to back it up as it is, with zeroes where something is missing, \
                     use --force"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_of_files_are_known_without_reading() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        let kinds = file_kinds(&file, &[Extent::new(0, 8 << 20)]).unwrap();
        let total: u64 = kinds.iter().map(|k| k.extent.length_bytes).sum();
        assert_eq!(total, 8 << 20);
        let data: Vec<_> = kinds.iter().filter(|k| k.kind == strongroom_domain::ExtentKind::Data).collect();
        assert_eq!(data.len(), 1, "{kinds:?}");
        assert!(data[0].extent.offset_bytes <= 4 << 20 && data[0].extent.length_bytes < 1 << 20, "{kinds:?}");
        // Only what was asked for.
        assert_eq!(file_kinds(&file, &[Extent::new(10, 5)]).unwrap(), [TypedExtent::zero(10, 5)]);
        assert_eq!(file_kinds(&file, &[]).unwrap(), []);
    }
}
