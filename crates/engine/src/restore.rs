//! Restoring one disk of a recovery point.

use crate::error::{Error, ErrorKind, Result};
use crate::source::{DiskSource, PointSource};
use crate::stream::{self, Image};
use crate::target::{self, Device, DiskFormat, NewImage, NewImageOptions};
use bytes::Bytes;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strongroom_domain::ExtentKind;
use strongroom_store::{Disk, Progress};

/// Holes are looked up this much at a time when a device is filled.
const MAP_STEP_BYTES: u64 = 4 << 30;
/// What holes become in a stream.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// A file that does not exist, or a block device.
    pub to: PathBuf,
    /// What is written; a block device takes raw alone.
    pub format: DiskFormat,
    /// Overwrite a block device.
    pub force: bool,
    /// Survive power loss when done. Costs the time the device takes to write everything.
    pub durable: bool,
}

/// A finished restore.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Of the disk, as the guest sees it.
    pub size_bytes: u64,
    /// Bytes that are not holes.
    pub data_bytes: u64,
    /// Nothing was copied: the file shares its data with a snapshot.
    pub is_clone: bool,
    /// From the beginning until it was complete.
    pub elapsed: Duration,
}

/// Restores one disk. Until it is complete nothing has the file's name; a device is written in place.
pub fn restore_disk(
    source: &PointSource,
    disk: &Disk,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Restored> {
    let started = Instant::now();
    let reader = source.open(disk)?;
    let mut is_clone = false;
    let data_bytes = if target::is_block_device(&options.to) {
        let data_bytes = restore_to_device(&reader, options, progress)?;
        source.check()?;
        data_bytes
    } else {
        target::check_absent(&options.to)?;
        let data_bytes = reader.data_bytes()?;
        let new = NewImageOptions {
            path: options.to.clone(),
            format: options.format,
            size_bytes: reader.size_bytes(),
            data_bytes,
            durable: options.durable,
            tag: None,
            passphrase: None,
        };
        progress.add_total(data_bytes);
        let image = write_image(&reader, new, progress)?;
        progress.check()?;
        source.check()?;
        is_clone = image.is_clone();
        image.finish()?;
        data_bytes
    };
    Ok(Restored { size_bytes: reader.size_bytes(), data_bytes, is_clone, elapsed: started.elapsed() })
}

/// Restores one disk to a stream, as a file of a format, holes as zeroes. What was written of one that failed is no whole file.
pub fn restore_to_stream(
    source: &PointSource,
    disk: &Disk,
    format: DiskFormat,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<Restored> {
    let started = Instant::now();
    let reader = source.open(disk)?;
    let data_bytes = reader.data_bytes()?;
    progress.add_total(data_bytes);
    let mut out = Out { out, progress };
    Image::plan(&reader, format, progress)?.write(&mut out, progress)?;
    out.out.flush().map_err(stream_failed)?;
    source.check()?;
    Ok(Restored { size_bytes: reader.size_bytes(), data_bytes, is_clone: false, elapsed: started.elapsed() })
}

struct Out<'a> {
    out: &'a mut dyn Write,
    progress: &'a Progress,
}

fn stream_failed(cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::BrokenPipe => {
            Error::new(ErrorKind::Failed, "whoever read the restored disk went away before its end")
        }
        _ => Error::io("writing the restored disk to standard output", cause),
    }
}

impl stream::Sink for Out<'_> {
    fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.out.write_all(&bytes).map_err(stream_failed)?;
        self.progress.add_done(bytes.len() as u64);
        Ok(())
    }

    fn write_zeroes(&mut self, length_bytes: u64) -> Result<()> {
        let mut left = length_bytes;
        while left > 0 {
            self.progress.check()?;
            let piece = left.min(ZEROES.len() as u64);
            self.out.write_all(&ZEROES[..piece as usize]).map_err(stream_failed)?;
            left -= piece;
        }
        Ok(())
    }
}

/// A new image with all of a disk in it, not finished yet. Where the disk is a file of that format on the same storage, and
/// that clones files, it takes an instant, and no space.
pub(crate) fn write_image(
    reader: &DiskSource,
    options: NewImageOptions,
    progress: &Progress,
) -> Result<NewImage> {
    if let Some((file, format)) = reader.file().filter(|_| options.passphrase.is_none())
        && DiskFormat::from(format) == options.format
        && let Some(image) = NewImage::clone_of(file, options.clone())?
    {
        progress.add_done(options.data_bytes);
        return Ok(image);
    }
    let image = NewImage::create(options)?;
    reader.export(&image, progress)?;
    Ok(image)
}

fn restore_to_device(reader: &DiskSource, options: &RestoreOptions, progress: &Progress) -> Result<u64> {
    let shown = options.to.display();
    if !options.force {
        return Err(Error::invalid(format!(
            "{shown} is a block device: everything on it would be overwritten. Say --force if that is what you want"
        )));
    }
    if options.format != DiskFormat::Raw {
        return Err(Error::unsupported(format!("{shown} is a block device, which only takes --format raw")));
    }
    let device = Device::open(&options.to, reader.size_bytes())?;
    let data_bytes = reader.data_bytes()?;
    progress.add_total(data_bytes);
    let size_bytes = reader.size_bytes();
    let mut at = 0;
    while at < size_bytes {
        progress.check()?;
        let step = MAP_STEP_BYTES.min(size_bytes - at);
        for e in reader.extents(at, step)?.iter().filter(|e| e.kind == ExtentKind::Zero) {
            device.write_zeroes(e.extent.offset_bytes, e.extent.length_bytes)?;
        }
        at += step;
    }
    reader.export(&device, progress)?;
    device.finish()?;
    Ok(data_bytes)
}
