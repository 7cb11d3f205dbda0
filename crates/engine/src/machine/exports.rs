//! A point's disks as exports that a machine runs from, on a socket of its hypervisor's.
//!
//! What is read in a row is read ahead: the vault's frames are decoded while QEMU writes the piece before. How much was read
//! is counted, by which a machine that boots is told from one that shows an error.

use crate::error::{Error, Result};
use crate::limits::{EXPORT_CONNECTIONS, READ_AHEAD_BYTES, READ_AHEAD_QUEUE, READ_AHEAD_STREAMS};
use crate::serve::nbd_extents;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use strongroom_hypervisor::Hypervisor;
use strongroom_nbd::{Export, Extent, Server, ServerHandle, ServerLimits};
use strongroom_store::{DiskReader, Manifest, ReadSession, StoreError};

/// Served until this is dropped.
pub struct Exports {
    server: Option<ServerHandle>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    read_bytes: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Exports {
    /// Serves these disks of a point, each under its name. A socket that a dead process left is replaced.
    pub fn serve(
        hypervisor: &dyn Hypervisor,
        session: &Arc<ReadSession>,
        point: &Manifest,
        disks: &[&str],
        socket: &Path,
    ) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let limits = ServerLimits { max_connections: EXPORT_CONNECTIONS, ..ServerLimits::default() };
        let mut server = Server::new().limits(limits);
        for name in disks {
            let disk = point.disks.iter().find(|d| d.name == *name).ok_or_else(|| {
                Error::not_found(format!("recovery point {} has no disk `{name}`", point.point))
            })?;
            let export = LiveExport::new(session.open_disk(disk.tree()), counts.clone())?;
            server = server.export(name, export)?;
        }
        let server = server.listen_unix(socket)?;
        hypervisor.hand_over_socket(socket)?;
        Ok(Self { server: Some(server), counts })
    }

    /// Bytes that were read by now.
    pub fn read_bytes(&self) -> u64 {
        self.counts.read_bytes.load(Ordering::Relaxed)
    }

    /// What was wrong with the last read that failed.
    pub fn last_failure(&self) -> Option<String> {
        self.counts.last_failure.lock().clone()
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

struct LiveExport {
    reader: DiskReader,
    counts: Arc<Counts>,
    streams: Mutex<Streams>,
    ahead: SyncSender<u64>,
}

/// Where recent reads ended: one that begins there goes on with it.
#[derive(Default)]
struct Streams {
    ends: [u64; READ_AHEAD_STREAMS],
    next: usize,
    hinted: u64,
}

impl Streams {
    /// Notes a read; where the next piece of its stream begins, if it is to be read ahead.
    fn note(&mut self, offset_bytes: u64, length_bytes: u64) -> Option<u64> {
        let end = offset_bytes + length_bytes;
        match self.ends.iter().position(|e| *e == offset_bytes && offset_bytes > 0) {
            Some(at) => {
                self.ends[at] = end;
                let next = end.next_multiple_of(READ_AHEAD_BYTES);
                (next != self.hinted).then(|| {
                    self.hinted = next;
                    next
                })
            }
            None => {
                self.ends[self.next] = end;
                self.next = (self.next + 1) % READ_AHEAD_STREAMS;
                None
            }
        }
    }
}

impl LiveExport {
    fn new(reader: DiskReader, counts: Arc<Counts>) -> Result<Self> {
        let (ahead, offsets) = sync_channel::<u64>(READ_AHEAD_QUEUE);
        let warmer = reader.clone();
        // Ends with the export, which has the other end of the queue.
        std::thread::Builder::new()
            .name("read-ahead".into())
            .spawn(move || {
                let mut buffer = vec![0; READ_AHEAD_BYTES as usize];
                for offset in offsets {
                    let length = warmer.size_bytes().saturating_sub(offset).min(READ_AHEAD_BYTES) as usize;
                    // What cannot be read says so when it is asked for.
                    let _ = warmer.read_at(offset, &mut buffer[..length]);
                }
            })
            .map_err(|e| Error::io("starting a thread that reads ahead", e))?;
        Ok(Self { reader, counts, streams: Mutex::default(), ahead })
    }

    fn failed(&self, error: StoreError) -> io::Error {
        tracing::error!(%error, "a machine could not read its disk from the vault");
        *self.counts.last_failure.lock() = Some(error.to_string());
        io::Error::other("the vault cannot be read here")
    }
}

impl Export for LiveExport {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> io::Result<()> {
        let next = self.streams.lock().note(offset_bytes, buf.len() as u64);
        if let Some(next) = next.filter(|n| *n < self.reader.size_bytes()) {
            // Full: it is behind anyway.
            let _ = self.ahead.try_send(next);
        }
        self.reader.read_at(offset_bytes, buf).map_err(|e| self.failed(e))?;
        self.counts.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> io::Result<Vec<Extent>> {
        nbd_extents(&self.reader, offset_bytes, length_bytes).map_err(|e| self.failed(e))
    }

    fn preferred_block_bytes(&self) -> u32 {
        64 << 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_a_row_is_read_ahead_once() {
        let mut streams = Streams::default();
        let half = READ_AHEAD_BYTES / 2;
        assert_eq!(streams.note(0, half), None);
        assert_eq!(streams.note(half, half), Some(READ_AHEAD_BYTES));
        // Somebody else reads elsewhere: the stream goes on.
        assert_eq!(streams.note(99 * READ_AHEAD_BYTES, 4096), None);
        assert_eq!(streams.note(READ_AHEAD_BYTES, half), Some(2 * READ_AHEAD_BYTES));
        assert_eq!(streams.note(READ_AHEAD_BYTES + half, half), None);
        assert_eq!(streams.note(2 * READ_AHEAD_BYTES, half), Some(3 * READ_AHEAD_BYTES));
        // At random: never.
        for at in [7, 3, 5, 1].map(|n| n * 1_000_003) {
            assert_eq!(streams.note(at, 512), None);
        }
    }
}
