//! Exporting a recovery point over NBD, read-only, without restoring it.

use crate::error::{Error, Result};
use crate::points::choose_disk;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use strongroom_domain::{ExtentKind as Kind, PointSelector};
use strongroom_nbd::{Endpoint, Export, Extent, ExtentKind, Server, ServerHandle};
use strongroom_store::{DiskReader, Manifest, ReadSession, StoreError, Vault};

/// Where to listen.
#[derive(Debug, Clone)]
pub enum Listen {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// Loopback only.
    Tcp(SocketAddr),
}

/// A point that is served until this is dropped or stopped.
pub struct Serving {
    server: ServerHandle,
    session: Arc<ReadSession>,
    /// The one that is served.
    pub point: Manifest,
    /// All its disks.
    pub exports: Vec<Served>,
    /// The disk that clients get who name none.
    pub default_disk: Option<String>,
}

/// An exported disk.
#[derive(Debug, Clone)]
pub struct Served {
    /// The disk's name, which is the export's.
    pub disk: String,
    /// As clients see it.
    pub size_bytes: u64,
    /// `nbd://…` or `nbd+unix://…`, as QEMU and libnbd take it.
    pub uri: String,
}

impl Serving {
    /// Where it listens; of TCP with the port that was chosen, where 0 was asked for.
    pub fn endpoint(&self) -> &Endpoint {
        self.server.endpoint()
    }

    /// Stops, letting requests in progress finish.
    pub fn stop(self) {
        self.server.stop();
        // Threads of the last connections may be about to end: the process may be too, so the lease does not wait.
        self.session.end();
    }
}

/// A disk's data and holes in a range, as NBD says them.
pub(crate) fn nbd_extents(
    reader: &DiskReader,
    offset_bytes: u64,
    length_bytes: u64,
) -> Result<Vec<Extent>, StoreError> {
    let kind = |kind| match kind {
        Kind::Data => ExtentKind::Data,
        Kind::Zero => ExtentKind::Hole,
    };
    let extents = reader.extents(offset_bytes, length_bytes)?.into_iter();
    Ok(extents
        .map(|e| Extent {
            offset_bytes: e.extent.offset_bytes,
            length_bytes: e.extent.length_bytes,
            kind: kind(e.kind),
        })
        .collect())
}

struct DiskExport {
    reader: DiskReader,
    block_size_bytes: u32,
    description: String,
}

impl Export for DiskExport {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reader.read_at(offset_bytes, buf).map_err(|e| self.failed(e))
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<Vec<Extent>> {
        nbd_extents(&self.reader, offset_bytes, length_bytes).map_err(|e| self.failed(e))
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn preferred_block_bytes(&self) -> u32 {
        self.block_size_bytes
    }
}

impl DiskExport {
    fn failed(&self, error: StoreError) -> io::Error {
        tracing::error!("serving {}: {error}", self.description);
        // The client may be anybody: it learns what happened, not where.
        io::Error::other(if error.is_damage() {
            "the vault is damaged here"
        } else {
            "the vault cannot be read"
        })
    }
}

/// Serves all disks of a point under their names; `disk`, or the only one, also as the default.
pub fn serve(vault: &Vault, point: &PointSelector, disk: Option<&str>, listen: &Listen) -> Result<Serving> {
    // The lease before the point is chosen: from then on nothing it has is reclaimed.
    let session = ReadSession::begin(vault, &format!("serving {point}"))?;
    let point = vault.find_point(point)?;
    if point.disks.is_empty() {
        return Err(Error::not_found(format!("recovery point {} has no disks", point.point)));
    }
    let default_disk = match disk {
        None if point.disks.len() > 1 => None,
        name => Some(choose_disk(&point, name)?.name.clone()),
    };
    let mut server = Server::new();
    for disk in &point.disks {
        let description = format!("{} of {} at {}", disk.name, point.item, point.taken_at);
        server = server.export(
            &disk.name,
            DiskExport {
                reader: session.open_disk(disk.tree()),
                block_size_bytes: vault.block_size_bytes(),
                description,
            },
        )?;
    }
    if let Some(name) = &default_disk {
        server = server.default_export(name)?;
    }
    let server = match listen {
        Listen::Unix(path) => server.listen_unix(path)?,
        Listen::Tcp(address) => server.listen_tcp(*address)?,
    };
    let exports = point
        .disks
        .iter()
        .map(|disk| Served {
            disk: disk.name.clone(),
            size_bytes: disk.size_bytes,
            uri: server.uri(&disk.name).to_string(),
        })
        .collect();
    Ok(Serving { server, session, point, exports, default_disk })
}
