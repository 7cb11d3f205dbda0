//! Backing up disk images, block devices, and streams.

mod backup;
mod extents;
mod signature;
mod source;
mod stream;

pub use backup::{BackupOptions, ImageBackup, backup};
pub use source::SourceFormat;
pub use stream::{StreamOptions, backup_stream};
