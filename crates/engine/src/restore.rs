//! Restoring one disk of a recovery point.

use crate::error::{Error, Result};
use crate::source::{DiskSource, PointSource};
use crate::target::{self, Device, DiskFormat, NewImage, NewImageOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strongroom_domain::ExtentKind;
use strongroom_store::{Disk, Progress};

/// Holes are looked up this much at a time when a device is filled.
const MAP_STEP_BYTES: u64 = 4 << 30;

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// A file that does not exist, or a block device.
    pub to: PathBuf,
    pub format: DiskFormat,
    /// Overwrite a block device.
    pub force: bool,
    /// Survive power loss when done. Costs the time the device takes to write everything.
    pub durable: bool,
}

/// A finished restore.
#[derive(Debug, Clone)]
pub struct Restored {
    pub size_bytes: u64,
    /// Bytes that are not holes.
    pub data_bytes: u64,
    /// Nothing was copied: the file shares its data with a snapshot.
    pub is_clone: bool,
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

/// A new image with all of a disk in it, not finished yet. Where the disk is a file of that format on the same storage, and
/// that clones files, it takes an instant, and no space.
pub fn write_image(reader: &DiskSource, options: NewImageOptions, progress: &Progress) -> Result<NewImage> {
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
