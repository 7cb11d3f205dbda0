//! Restoring one disk of a recovery point.

use crate::error::{Error, Result};
use crate::target::{self, Device, DiskFormat, NewImage, NewImageOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::ExtentKind;
use strongroom_store::{Disk, DiskReader, Progress, ReadSession};

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
    pub elapsed: Duration,
}

/// Restores one disk. Until it is complete nothing has the file's name; a device is written in place.
pub fn restore_disk(
    session: &Arc<ReadSession>,
    disk: &Disk,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Restored> {
    let started = Instant::now();
    let reader = session.open_disk(disk.tree());
    let data_bytes = if target::is_block_device(&options.to) {
        restore_to_device(&reader, options, progress)?
    } else {
        target::check_absent(&options.to)?;
        let data_bytes = reader.data_bytes()?;
        let image = NewImage::create(NewImageOptions {
            path: options.to.clone(),
            format: options.format,
            size_bytes: reader.size_bytes(),
            data_bytes,
            durable: options.durable,
            tag: None,
        })?;
        progress.add_total(data_bytes);
        reader.export(&image, progress)?;
        progress.check()?;
        image.finish()?;
        data_bytes
    };
    Ok(Restored { size_bytes: reader.size_bytes(), data_bytes, elapsed: started.elapsed() })
}

fn restore_to_device(reader: &DiskReader, options: &RestoreOptions, progress: &Progress) -> Result<u64> {
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
