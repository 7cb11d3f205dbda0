//! PEM files: read with a bound, written whole or not at all.

use super::error::TlsError;
use crate::limits;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |cause| TlsError::Io { doing: "reading", path: path.to_owned(), cause };
    let mut out = Vec::new();
    File::open(path).map_err(failed)?.take(limits::PEM_MAX_BYTES).read_to_end(&mut out).map_err(failed)?;
    Ok(out)
}

/// Writes a file under a name of its own, durably, then gives it its final one.
pub(super) fn write(path: &Path, content: &str, mode: u32) -> Result<(), TlsError> {
    let failed = |cause| TlsError::Io { doing: "writing", path: path.to_owned(), cause };
    let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|cause| {
        let _ = fs::remove_file(&temporary);
        failed(cause)
    })
}

/// Where an authority of our own in `directory` has its certificate.
pub fn authority_path(directory: &Path) -> PathBuf {
    directory.join("authority.pem")
}
