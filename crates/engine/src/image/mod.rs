//! Backing up disk images and block devices.

mod backup;
mod extents;
mod signature;
mod source;

pub use backup::{BackupOptions, ImageBackup, backup};
pub use source::SourceFormat;
