//! The client: one connection to one export, used by any number of threads at once.

mod link;
mod map;
mod negotiate;
mod reply;

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use map::{DirtyExtent, JoinedExtent};
pub use negotiate::{ExportInfo, ListedExport};
pub use reply::StatusExtent;

#[doc(hidden)]
pub use negotiate::{Handshake, Negotiated};
#[doc(hidden)]
pub use reply::{Refusal, Reply, Sink};

use crate::endpoint::{Endpoint, NbdUri};
use crate::error::{Error, Result};
use crate::limits::{CLIENT_MAX_BLOCK_BYTES, MAX_TIMEOUT};
use crate::net::{Deadline, Stream};
use crate::wire::{Request, cflag, cmd};
use link::Link;

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Which export; empty is the server's default.
    pub export_name: String,
    /// Metadata contexts to ask for, such as `base:allocation` or `qemu:dirty-bitmap:NAME`. Those the
    /// server lacks are left out: see [`Client::contexts`].
    pub meta_contexts: Vec<String>,
    /// Time to connect. Default 10 s.
    pub connect_timeout: Duration,
    /// Time for the whole negotiation. Default 10 s.
    pub negotiation_timeout: Duration,
    /// Longest silence of the server while a request waits, and longest refusal to take a request's
    /// bytes. Default 120 s.
    pub io_timeout: Duration,
    /// Requests in flight on the connection; further callers wait. Default 64.
    pub max_in_flight: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            export_name: String::new(),
            meta_contexts: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            negotiation_timeout: Duration::from_secs(10),
            io_timeout: Duration::from_secs(120),
            max_in_flight: 64,
        }
    }
}

impl ConnectOptions {
    /// With time-outs the system can count.
    fn clamped(&self) -> ConnectOptions {
        let mut options = self.clone();
        for timeout in
            [&mut options.connect_timeout, &mut options.negotiation_timeout, &mut options.io_timeout]
        {
            *timeout = (*timeout).min(MAX_TIMEOUT);
        }
        options
    }
}

/// A connection to one export.
///
/// All methods take `&self` and may be called from many threads; their requests are in flight
/// together. After an error of kind `Disconnected`, `TimedOut` or `Malformed` every further call
/// returns that same error: connect again. Dropping it says goodbye to the server.
///
/// What a write did when its connection died is unknown: it may have happened in part.
/// After a failed read the buffer's contents are unspecified.
pub struct Client {
    link: Link,
    endpoint: Endpoint,
    info: ExportInfo,
    structured: bool,
    context_names: Vec<String>,
    context_ids: Vec<u32>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("info", &self.info)
            .field("contexts", &self.context_names)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and negotiates.
    pub fn connect(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Client> {
        let options = &options.clamped();
        let stream = open(endpoint, options)?;
        let deadline = Deadline::new(stream.clone(), options.negotiation_timeout);
        let mut handshake = Handshake::begin(deadline, options.negotiation_timeout)?;
        let negotiated = handshake.go(&options.export_name, &options.meta_contexts)?;
        let Negotiated { info, structured, contexts } = negotiated;
        let link = Link::new(stream, structured, options.max_in_flight, options.io_timeout)?;
        let (context_names, context_ids) = contexts.into_iter().unzip();
        tracing::debug!(%endpoint, export = options.export_name, ?info, structured, ?context_names, "NBD connected");
        Ok(Client { link, endpoint: endpoint.clone(), info, structured, context_names, context_ids })
    }

    /// As [`Client::connect`], taking server and export from a URI; `options.export_name` is ignored.
    pub fn connect_uri(uri: &str, options: &ConnectOptions) -> Result<Client> {
        let uri: NbdUri = uri.parse()?;
        let options = ConnectOptions { export_name: uri.export_name, ..options.clone() };
        Client::connect(&uri.endpoint, &options)
    }

    /// Names the exports a server lists.
    pub fn list_exports(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Vec<ListedExport>> {
        let options = &options.clamped();
        let deadline = Deadline::new(open(endpoint, options)?, options.negotiation_timeout);
        let mut handshake = Handshake::begin(deadline, options.negotiation_timeout)?;
        let found = handshake.list()?;
        handshake.abort();
        Ok(found)
    }

    /// Names the metadata contexts of export `options.export_name` that match `options.meta_contexts`
    /// (for example `qemu:` for all of QEMU's; none: all of them).
    pub fn list_contexts(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Vec<String>> {
        let options = &options.clamped();
        let deadline = Deadline::new(open(endpoint, options)?, options.negotiation_timeout);
        let mut handshake = Handshake::begin(deadline, options.negotiation_timeout)?;
        let found = handshake.list_contexts(&options.export_name, &options.meta_contexts)?;
        handshake.abort();
        Ok(found)
    }

    /// What the server says of the export.
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// Size of the export, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.info.size_bytes
    }

    /// The server connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the server sends structured replies (holes are not transferred).
    pub fn has_structured_replies(&self) -> bool {
        self.structured
    }

    /// The metadata contexts in use: those asked for that the server has.
    pub fn contexts(&self) -> &[String] {
        &self.context_names
    }

    /// Ends the connection at once; callers waiting in other threads get an error.
    pub fn abort(&self) {
        self.link.kill(Error::Disconnected {
            during: "waiting for a reply",
            reason: "this side aborted the connection".into(),
        });
    }

    /// Why the connection cannot be used any more, if so.
    pub fn failure(&self) -> Option<Error> {
        self.link.dead()
    }

    /// Fills `buf` from `offset_bytes` on. Any alignment, any length within the export.
    pub fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range("read", offset_bytes, buf.len() as u64)?;
        let min = u64::from(self.info.min_block_bytes);
        let mut at = offset_bytes;
        let mut rest = buf;
        let mut bounce = Vec::new();
        while !rest.is_empty() {
            let within = at % min;
            let now = if within != 0 || (rest.len() as u64) < min {
                // The server only reads whole blocks: take one and keep the part wanted.
                let start = at - within;
                let block = min.min(self.info.size_bytes - start) as usize;
                bounce.resize(block, 0);
                self.read_block(start, &mut bounce)?;
                let now = (block - within as usize).min(rest.len());
                rest[..now].copy_from_slice(&bounce[within as usize..][..now]);
                now
            } else {
                let whole = rest.len() - rest.len() % min as usize;
                let now = whole.min(self.max_payload());
                self.read_block(at, &mut rest[..now])?;
                now
            };
            at += now as u64;
            rest = &mut rest[now..];
        }
        Ok(())
    }

    /// Writes `data` at `offset_bytes`; both ends must be multiples of the server's minimum block.
    pub fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.check_write("write", offset_bytes, data.len() as u64)?;
        let mut at = offset_bytes;
        for piece in data.chunks(self.max_payload()) {
            self.simple(cmd::WRITE, 0, at, piece.len() as u32, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes a range read as zeroes, without sending them; the server may make it a hole.
    pub fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.check_write("write zeroes", offset_bytes, length_bytes)?;
        self.need(self.info.can_write_zeroes(), "writing zeroes")?;
        self.in_steps(offset_bytes, length_bytes, |at, now| self.simple(cmd::WRITE_ZEROES, 0, at, now, &[]))
    }

    /// As [`Client::write_zeroes`], but the range stays allocated.
    pub fn write_zeroes_allocated(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.check_write("write zeroes", offset_bytes, length_bytes)?;
        self.need(self.info.can_write_zeroes(), "writing zeroes")?;
        self.in_steps(offset_bytes, length_bytes, |at, now| {
            self.simple(cmd::WRITE_ZEROES, cflag::NO_HOLE, at, now, &[])
        })
    }

    /// Tells the server that a range's contents do not matter any more.
    pub fn trim(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.check_write("trim", offset_bytes, length_bytes)?;
        self.need(self.info.can_trim(), "trimming")?;
        self.in_steps(offset_bytes, length_bytes, |at, now| self.simple(cmd::TRIM, 0, at, now, &[]))
    }

    /// Returns when every write that has returned before is durable. Without effect when the server
    /// has nothing to flush.
    pub fn flush(&self) -> Result<()> {
        if self.info.can_flush() {
            self.simple(cmd::FLUSH, 0, 0, 0, &[])?;
        }
        Ok(())
    }

    /// Asks once for the state of a range in every context in use. The answers begin at
    /// `offset_bytes`, have at least one extent each, and may end early, each elsewhere: see
    /// [`Client::map`] for whole ranges.
    pub fn block_status(
        &self,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<(String, Vec<StatusExtent>)>> {
        let found = self.status(offset_bytes, length_bytes)?;
        Ok(self.context_names.iter().cloned().zip(found).collect())
    }

    fn status(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<Vec<StatusExtent>>> {
        self.check_range("block status", offset_bytes, length_bytes)?;
        self.need(!self.context_ids.is_empty(), "block status (no metadata context in use)")?;
        if length_bytes == 0 {
            return Err(Error::Invalid("block status of 0 bytes".into()));
        }
        // Ask for whole blocks, and cut the answer to what was wanted.
        let min = u64::from(self.info.min_block_bytes);
        let start = offset_bytes - offset_bytes % min;
        let most = u64::from(u32::MAX) - u64::from(u32::MAX) % min;
        let wanted = offset_bytes + length_bytes;
        let end = wanted.div_ceil(min).saturating_mul(min).min(self.info.size_bytes);
        let length = (end - start).min(most);
        let extents = vec![None; self.context_ids.len()];
        let sink = Sink::Status { ids: &self.context_ids, extents };
        let mut reply = self.reply(cmd::BLOCK_STATUS, start, length, sink);
        self.call(cmd::BLOCK_STATUS, 0, start, length as u32, &[], &mut reply)?;
        let Sink::Status { extents, .. } = reply.sink else { unreachable!("made above") };
        let found: Vec<_> =
            extents.into_iter().map(|list| clip(list.unwrap_or_default(), offset_bytes, wanted)).collect();
        if found.iter().any(Vec::is_empty) {
            return Err(Error::malformed("block status that ends within the first block"));
        }
        Ok(found)
    }

    fn read_block(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let length = buf.len() as u32;
        let mut reply = self.reply(cmd::READ, offset_bytes, u64::from(length), Sink::Data(buf));
        self.call(cmd::READ, 0, offset_bytes, length, &[], &mut reply)
    }

    fn simple(&self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Result<()> {
        let mut reply = self.reply(command, offset, u64::from(length), Sink::Nothing);
        self.call(command, flags, offset, length, payload, &mut reply)
    }

    fn reply<'a>(&self, command: u16, offset: u64, length: u64, sink: Sink<'a>) -> Reply<'a> {
        Reply::new(command, offset, length, self.structured, self.link.io_timeout(), sink)
    }

    fn call(
        &self,
        command: u16,
        flags: u16,
        offset_bytes: u64,
        length_bytes: u32,
        payload: &[u8],
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let request = Request { flags, command, cookie: 0, offset_bytes, length_bytes };
        match self.link.call(request, payload, reply)? {
            Ok(()) => Ok(()),
            Err(Refusal { errno, message }) => Err(Error::Command {
                command: cmd::name(command),
                offset_bytes,
                length_bytes: u64::from(length_bytes),
                errno,
                message,
            }),
        }
    }

    /// Most bytes of one read or write, a multiple of the minimum block.
    fn max_payload(&self) -> usize {
        let min = self.info.min_block_bytes;
        let max = self.info.max_block_bytes.min(CLIENT_MAX_BLOCK_BYTES);
        (max - max % min).max(min) as usize
    }

    fn in_steps(&self, offset: u64, length: u64, mut step: impl FnMut(u64, u32) -> Result<()>) -> Result<()> {
        // Below 4 GiB, aligned to any block size there is.
        const STEP_BYTES: u64 = 1 << 31;
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let now = (end - at).min(STEP_BYTES);
            step(at, now as u32)?;
            at += now;
        }
        Ok(())
    }

    fn check_range(&self, what: &str, offset: u64, length: u64) -> Result<()> {
        let size = self.info.size_bytes;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Error::Invalid(format!(
                "{what} of {length} bytes at offset {offset}: the export has {size} bytes"
            )));
        }
        Ok(())
    }

    fn check_write(&self, what: &str, offset: u64, length: u64) -> Result<()> {
        self.check_range(what, offset, length)?;
        if self.info.is_read_only() {
            return Err(Error::Denied { what: what.to_owned(), message: "the export is read-only".into() });
        }
        let min = u64::from(self.info.min_block_bytes);
        if !offset.is_multiple_of(min) || !length.is_multiple_of(min) {
            return Err(Error::Invalid(format!(
                "{what} of {length} bytes at offset {offset}: the server's blocks have {min} bytes"
            )));
        }
        Ok(())
    }

    fn need(&self, can: bool, what: &str) -> Result<()> {
        if can { Ok(()) } else { Err(Error::Unsupported(format!("{what}, by this export"))) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.disconnect();
    }
}

fn clip(mut extents: Vec<StatusExtent>, start: u64, end: u64) -> Vec<StatusExtent> {
    extents.retain_mut(|extent| {
        let from = extent.offset_bytes.max(start);
        let to = extent.end_bytes().min(end);
        extent.offset_bytes = from;
        extent.length_bytes = to.saturating_sub(from);
        extent.length_bytes > 0
    });
    extents
}

fn open(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Stream> {
    let failed =
        |source: std::io::Error| Error::Connect { endpoint: endpoint.to_string(), source: Arc::new(source) };
    let stream = match endpoint {
        Endpoint::Unix(path) => Stream::connect_unix(path, options.connect_timeout).map_err(failed)?,
        Endpoint::Tcp(host, port) => {
            let until = Instant::now() + options.connect_timeout;
            let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
            let mut connected = None;
            for address in (host.as_str(), *port).to_socket_addrs().map_err(failed)? {
                let left = until.saturating_duration_since(Instant::now());
                match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1))) {
                    Ok(stream) => {
                        connected = Some(stream);
                        break;
                    }
                    Err(error) => last = error,
                }
            }
            connected.ok_or_else(|| failed(last))?.into()
        }
    };
    stream.tune();
    Ok(stream)
}
