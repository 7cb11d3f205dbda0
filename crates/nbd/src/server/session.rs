//! One client after its negotiation: takes requests in, answers them out of order.
//!
//! A reading loop takes requests off the socket and queues them; a few workers carry them out.
//! Payloads pass in pieces of at most [`SERVER_PIECE_BYTES`], so memory is bounded by workers and
//! queue, not by what clients ask for. A client that does not take its replies only holds up itself.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;

use super::export::{Extent, ExtentKind, checked_extents};
use super::negotiate::{ALLOCATION_CONTEXT_ID, Accepted, shortened};
use crate::error::{Errno, Error, Result};
use crate::limits::*;
use crate::wire::{self, REQUEST_BYTES, ReplyHeader, Request, STATE_HOLE, STATE_ZERO, cflag, chunk, cmd};

/// A client's end of a session: bytes, and how long they may take.
#[doc(hidden)]
pub trait Incoming: Read {
    /// From now on all must arrive within this time; `None`: no hurry.
    fn must_arrive_within(&mut self, time: Option<Duration>) -> io::Result<()>;
}

impl Incoming for io::Cursor<&[u8]> {
    fn must_arrive_within(&mut self, _time: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

struct Job {
    request: Request,
    payload: Vec<u8>,
}

/// What ends a request's handling: a refusal to report, or a connection that is gone.
enum Failure {
    Refused { errno: Errno, message: String, at_bytes: Option<u64> },
    Gone(io::Error),
}

impl Failure {
    fn refused(errno: Errno, message: impl Into<String>) -> Failure {
        Failure::Refused { errno, message: message.into(), at_bytes: None }
    }

    fn export(error: io::Error) -> Failure {
        Failure::refused(Errno::of(&error), error.to_string())
    }

    fn export_at(at: u64) -> impl Fn(io::Error) -> Failure {
        move |error| Failure::Refused {
            errno: Errno::of(&error),
            message: error.to_string(),
            at_bytes: Some(at),
        }
    }
}

type Handled = std::result::Result<(), Failure>;

/// One client's session; `W` is where replies go.
#[doc(hidden)]
pub struct Session<W> {
    chosen: Accepted,
    out: Mutex<W>,
    workers: usize,
    max_request_bytes: u32,
    io_timeout: Duration,
}

impl<W: Write + Send> Session<W> {
    pub fn new(chosen: Accepted, out: W, limits: &ServerLimits) -> Session<W> {
        Session {
            chosen,
            out: Mutex::new(out),
            workers: limits.workers_per_connection.max(1),
            max_request_bytes: limits.max_request_bytes,
            io_timeout: limits.io_timeout,
        }
    }

    /// Serves until the client leaves. `hang_up` must make `incoming` end.
    pub fn run(&self, incoming: &mut impl Incoming, hang_up: impl Fn() + Sync) -> Result<()> {
        let (queue, jobs) = mpsc::sync_channel::<Job>(self.workers);
        let jobs = Mutex::new(jobs);
        let hang_up = &hang_up;
        std::thread::scope(|scope| {
            // Ends the workers when it goes out of scope, however that happens.
            let queue = queue;
            for number in 0..self.workers {
                let (jobs, this) = (&jobs, &self);
                let work = move || {
                    let mut scratch = Vec::new();
                    loop {
                        let job = jobs.lock().recv();
                        let Ok(job) = job else { return };
                        if let Err(error) = this.carry_out(&job, &mut scratch) {
                            tracing::debug!(%error, "NBD client does not take its replies");
                            hang_up();
                            // Let the queue run dry, so that the reader is not held up.
                            while jobs.lock().recv().is_ok() {}
                            return;
                        }
                    }
                };
                let spawned = std::thread::Builder::new()
                    .name(format!("nbd-worker-{number}"))
                    .spawn_scoped(scope, work);
                match spawned {
                    Ok(_) => {}
                    // Fewer will do; none will not.
                    Err(error) if number == 0 => return Err(Error::io("starting a worker thread", error)),
                    Err(_) => break,
                }
            }
            let mut scratch = Vec::new();
            loop {
                match self.next_job(incoming, &mut scratch) {
                    Ok(Some(job)) => {
                        if queue.send(job).is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        // Workers may be waiting for this client to take replies: it no longer counts.
                        hang_up();
                        return Err(error);
                    }
                }
            }
        })
    }

    /// As [`Session::run`] without threads, for tests of hostile input.
    pub fn run_inline(&self, incoming: &mut impl Incoming) -> Result<()> {
        let mut scratch = Vec::new();
        while let Some(job) = self.next_job(incoming, &mut scratch)? {
            self.carry_out(&job, &mut scratch).map_err(|e| self.lost(e))?;
        }
        Ok(())
    }

    fn lost(&self, error: io::Error) -> Error {
        Error::socket("serving", self.io_timeout, error)
    }

    /// Reads the next request that a worker can carry out; `None` when the client has left.
    fn next_job(&self, incoming: &mut impl Incoming, scratch: &mut Vec<u8>) -> Result<Option<Job>> {
        loop {
            let mut head = [0; REQUEST_BYTES];
            incoming.must_arrive_within(None).map_err(|e| self.lost(e))?;
            let first = loop {
                match incoming.read(&mut head) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.map_err(|e| self.lost(e))?,
                }
            };
            if first == 0 {
                return Ok(None);
            }
            if first < REQUEST_BYTES {
                incoming.must_arrive_within(Some(self.io_timeout)).map_err(|e| self.lost(e))?;
                incoming.read_exact(&mut head[first..]).map_err(|e| self.lost(e))?;
            }
            let request = Request::decode(&head)?;
            match request.command {
                cmd::DISC => return Ok(None),
                cmd::WRITE => {
                    let length = u64::from(request.length_bytes);
                    let time = self.io_timeout + Duration::from_secs(length / MIN_PAYLOAD_BYTES_PER_SECOND);
                    incoming.must_arrive_within(Some(time)).map_err(|e| self.lost(e))?;
                    if let Some(job) = self.take_write(request, incoming, scratch)? {
                        return Ok(Some(job));
                    }
                }
                _ => return Ok(Some(Job { request, payload: Vec::new() })),
            }
        }
    }

    /// Takes in a write's payload. Small ones become a job; large ones are written piece by piece
    /// right here, and bad ones are read to their end so that the next request can be found.
    fn take_write(
        &self,
        request: Request,
        incoming: &mut impl Incoming,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<Job>> {
        let length = request.length_bytes as usize;
        let mut outcome = self.check_write(&request);
        if length > self.max_request_bytes as usize && length > DEFAULT_MAX_BLOCK_BYTES as usize {
            // It was told the maximum; reading it all to say no would only serve mischief.
            return Err(Error::malformed(format!("write of {length} bytes")));
        }
        if outcome.is_ok() && length <= SERVER_PIECE_BYTES {
            let mut payload = vec![0; length];
            incoming.read_exact(&mut payload).map_err(|e| self.lost(e))?;
            return Ok(Some(Job { request, payload }));
        }
        scratch.resize(SERVER_PIECE_BYTES, 0);
        let mut done = 0;
        while done < length {
            let piece = &mut scratch[..SERVER_PIECE_BYTES.min(length - done)];
            incoming.read_exact(piece).map_err(|e| self.lost(e))?;
            if outcome.is_ok() {
                let at = request.offset_bytes + done as u64;
                outcome = guarded(|| self.chosen.export.write_at(at, piece)).map_err(Failure::export_at(at));
            }
            done += piece.len();
        }
        if outcome.is_ok() {
            outcome = self.flush_if_asked(&request);
        }
        self.conclude(&request, outcome.and_then(|()| self.done(&request))).map_err(|e| self.lost(e))?;
        Ok(None)
    }

    /// Carries out one request and answers it. `Err`: the client is gone.
    fn carry_out(&self, job: &Job, scratch: &mut Vec<u8>) -> io::Result<()> {
        let Job { request, payload } = job;
        let handled = match request.command {
            cmd::READ => self.read(request, scratch),
            cmd::WRITE => self.write(request, payload),
            cmd::FLUSH => self.flush(request),
            cmd::TRIM => self.trim(request),
            cmd::WRITE_ZEROES => self.write_zeroes(request),
            cmd::BLOCK_STATUS => self.block_status(request),
            other => Err(Failure::refused(Errno::INVAL, format!("unknown command {other}"))),
        };
        self.conclude(request, handled)
    }

    fn conclude(&self, request: &Request, handled: Handled) -> io::Result<()> {
        match handled {
            Ok(()) => Ok(()),
            Err(Failure::Gone(error)) => Err(error),
            Err(Failure::Refused { errno, message, at_bytes }) => {
                tracing::debug!(?request, ?errno, message, "NBD request refused");
                self.send_error(request, errno, &message, at_bytes)
            }
        }
    }

    fn read(&self, request: &Request, scratch: &mut Vec<u8>) -> Handled {
        self.check_flags(request, if self.chosen.structured { cflag::DF } else { 0 })?;
        self.check_range(request, Errno::INVAL)?;
        if request.length_bytes > self.max_request_bytes {
            let message = format!("at most {} bytes in one read", self.max_request_bytes);
            return Err(Failure::refused(Errno::INVAL, message));
        }
        let (start, length) = (request.offset_bytes, u64::from(request.length_bytes));
        if !self.chosen.structured {
            return self.read_simple(request, scratch);
        }
        if length == 0 {
            return self.done(request);
        }
        let end = start + length;
        if request.flags & cflag::DF != 0 {
            if length > SERVER_PIECE_BYTES as u64 {
                let message = format!("at most {SERVER_PIECE_BYTES} bytes in one unfragmented read");
                return Err(Failure::refused(Errno::OVERFLOW, message));
            }
            return self.send_data(request, start, length, end, scratch);
        }
        let mut at = start;
        while at < end {
            let extents = self.extents(at, end - at)?;
            for extent in extents {
                at = extent.offset_bytes + extent.length_bytes;
                match extent.kind {
                    ExtentKind::Data => {
                        self.send_data(request, extent.offset_bytes, extent.length_bytes, end, scratch)?;
                    }
                    ExtentKind::Zero | ExtentKind::Hole => self.send_hole(request, &extent, at == end)?,
                }
            }
        }
        Ok(())
    }

    fn send_data(
        &self,
        request: &Request,
        start: u64,
        length: u64,
        end: u64,
        scratch: &mut Vec<u8>,
    ) -> Handled {
        let mut at = start;
        let until = start + length;
        while at < until {
            let now = (until - at).min(SERVER_PIECE_BYTES as u64) as usize;
            let piece = grown(scratch, now);
            guarded(|| self.chosen.export.read_at(at, piece)).map_err(Failure::export_at(at))?;
            let last = at + now as u64 == end;
            let mut head = chunk_header(request, chunk::OFFSET_DATA, 8 + now as u32, last);
            head.extend(at.to_be_bytes());
            self.send(&head, piece).map_err(Failure::Gone)?;
            at += now as u64;
        }
        Ok(())
    }

    fn send_hole(&self, request: &Request, extent: &Extent, last: bool) -> Handled {
        let mut message = chunk_header(request, chunk::OFFSET_HOLE, 12, last);
        message.extend(extent.offset_bytes.to_be_bytes());
        message.extend((extent.length_bytes as u32).to_be_bytes());
        self.send(&message, &[]).map_err(Failure::Gone)
    }

    /// Without structured replies a read is one header and all data: once the header is out, an
    /// error can only be told by hanging up. So the first piece is read before it.
    fn read_simple(&self, request: &Request, scratch: &mut Vec<u8>) -> Handled {
        let mut at = request.offset_bytes;
        let end = at + u64::from(request.length_bytes);
        let now = (end - at).min(SERVER_PIECE_BYTES as u64) as usize;
        let piece = grown(scratch, now);
        guarded(|| self.chosen.export.read_at(at, piece)).map_err(Failure::export_at(at))?;
        let head = ReplyHeader::Simple { error: 0, cookie: request.cookie }.encode();
        let mut out = self.out.lock();
        wire::write_both(&mut *out, &head, piece).map_err(Failure::Gone)?;
        at += now as u64;
        while at < end {
            let now = (end - at).min(SERVER_PIECE_BYTES as u64) as usize;
            let piece = grown(scratch, now);
            guarded(|| self.chosen.export.read_at(at, piece)).map_err(Failure::Gone)?;
            out.write_all(piece).map_err(Failure::Gone)?;
            at += now as u64;
        }
        Ok(())
    }

    fn write(&self, request: &Request, payload: &[u8]) -> Handled {
        guarded(|| self.chosen.export.write_at(request.offset_bytes, payload))
            .map_err(Failure::export_at(request.offset_bytes))?;
        self.flush_if_asked(request)?;
        self.done(request)
    }

    fn flush(&self, request: &Request) -> Handled {
        self.check_flags(request, 0)?;
        if request.offset_bytes != 0 || request.length_bytes != 0 {
            return Err(Failure::refused(Errno::INVAL, "a flush has no range"));
        }
        guarded(|| self.chosen.export.flush()).map_err(Failure::export)?;
        self.done(request)
    }

    fn trim(&self, request: &Request) -> Handled {
        self.check_change(request, cflag::FUA)?;
        let length = u64::from(request.length_bytes);
        guarded(|| self.chosen.export.trim(request.offset_bytes, length)).map_err(Failure::export)?;
        self.flush_if_asked(request)?;
        self.done(request)
    }

    fn write_zeroes(&self, request: &Request) -> Handled {
        self.check_change(request, cflag::FUA | cflag::NO_HOLE)?;
        let length = u64::from(request.length_bytes);
        let may_punch = request.flags & cflag::NO_HOLE == 0;
        guarded(|| self.chosen.export.write_zeroes(request.offset_bytes, length, may_punch))
            .map_err(Failure::export)?;
        self.flush_if_asked(request)?;
        self.done(request)
    }

    fn block_status(&self, request: &Request) -> Handled {
        self.check_flags(request, cflag::REQ_ONE)?;
        if !self.chosen.allocation {
            return Err(Failure::refused(Errno::INVAL, "no metadata context was chosen"));
        }
        if request.length_bytes == 0 {
            return Err(Failure::refused(Errno::INVAL, "block status of nothing"));
        }
        self.check_range(request, Errno::INVAL)?;
        let most = if request.flags & cflag::REQ_ONE != 0 { 1 } else { SERVER_STATUS_EXTENTS };
        let mut found: Vec<(u32, u32)> = Vec::new();
        let mut at = request.offset_bytes;
        let end = at + u64::from(request.length_bytes);
        'full: while at < end {
            for extent in self.extents(at, end - at)? {
                let flags = match extent.kind {
                    ExtentKind::Data => 0,
                    ExtentKind::Zero => STATE_ZERO,
                    ExtentKind::Hole => STATE_ZERO | STATE_HOLE,
                };
                let full = found.len() == most;
                match found.last_mut() {
                    Some(last) if last.1 == flags => last.0 += extent.length_bytes as u32,
                    _ if full => break 'full,
                    _ => found.push((extent.length_bytes as u32, flags)),
                }
                at += extent.length_bytes;
            }
        }
        let mut body = ALLOCATION_CONTEXT_ID.to_be_bytes().to_vec();
        for (length, flags) in found {
            body.extend(length.to_be_bytes());
            body.extend(flags.to_be_bytes());
        }
        let head = chunk_header(request, chunk::BLOCK_STATUS, body.len() as u32, true);
        self.send(&head, &body).map_err(Failure::Gone)
    }

    fn extents(&self, start: u64, length: u64) -> std::result::Result<Vec<Extent>, Failure> {
        guarded(|| checked_extents(&*self.chosen.export, start, length)).map_err(Failure::export_at(start))
    }

    fn flush_if_asked(&self, request: &Request) -> Handled {
        if request.flags & cflag::FUA == 0 {
            return Ok(());
        }
        guarded(|| self.chosen.export.flush()).map_err(Failure::export)
    }

    fn check_write(&self, request: &Request) -> Handled {
        self.check_change(request, cflag::FUA)?;
        if request.length_bytes > self.max_request_bytes {
            let message = format!("at most {} bytes in one write", self.max_request_bytes);
            return Err(Failure::refused(Errno::INVAL, message));
        }
        Ok(())
    }

    fn check_change(&self, request: &Request, flags: u16) -> Handled {
        if self.chosen.read_only {
            return Err(Failure::refused(Errno::PERM, "the export is read-only"));
        }
        self.check_flags(request, flags)?;
        self.check_range(request, Errno::NOSPC)
    }

    fn check_flags(&self, request: &Request, allowed: u16) -> Handled {
        // A client may set FUA on anything once it was offered.
        let allowed = if self.chosen.read_only { allowed } else { allowed | cflag::FUA };
        if request.flags & !allowed != 0 {
            return Err(Failure::refused(Errno::INVAL, format!("flags {:#06x}", request.flags)));
        }
        Ok(())
    }

    fn check_range(&self, request: &Request, beyond: Errno) -> Handled {
        let size = self.chosen.size_bytes;
        let end = request.offset_bytes.checked_add(u64::from(request.length_bytes));
        if end.is_none_or(|end| end > size) {
            return Err(Failure::refused(beyond, format!("the export ends at {size} bytes")));
        }
        Ok(())
    }

    /// Tells success where there is nothing else to tell.
    fn done(&self, request: &Request) -> Handled {
        let message = if self.chosen.structured {
            chunk_header(request, chunk::NONE, 0, true)
        } else {
            ReplyHeader::Simple { error: 0, cookie: request.cookie }.encode()
        };
        self.send(&message, &[]).map_err(Failure::Gone)
    }

    fn send_error(&self, request: &Request, errno: Errno, message: &str, at: Option<u64>) -> io::Result<()> {
        if !self.chosen.structured {
            let header = ReplyHeader::Simple { error: errno.0, cookie: request.cookie };
            return self.send(&header.encode(), &[]);
        }
        let text = shortened(message).as_bytes();
        let mut body = errno.0.to_be_bytes().to_vec();
        body.extend((text.len() as u16).to_be_bytes());
        body.extend(text);
        let kind = match at {
            Some(at) => {
                body.extend(at.to_be_bytes());
                chunk::ERROR_OFFSET
            }
            None => chunk::ERROR,
        };
        self.send(&chunk_header(request, kind, body.len() as u32, true), &body)
    }

    fn send(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        wire::write_both(&mut *self.out.lock(), head, body)
    }

    /// Gives the replies' destination back.
    pub fn into_inner(self) -> W {
        self.out.into_inner()
    }
}

fn chunk_header(request: &Request, kind: u16, length_bytes: u32, done: bool) -> Vec<u8> {
    let flags = if done { chunk::FLAG_DONE } else { 0 };
    ReplyHeader::Chunk { flags, kind, cookie: request.cookie, length_bytes }.encode()
}

/// Grows once and is used again: the contents are overwritten by whoever asked.
fn grown(scratch: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
    &mut scratch[..length]
}

/// Calls into the export; a panic there fails one request, not the server.
fn guarded<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        tracing::error!("NBD export panicked");
        Err(io::Error::other("internal error of the export"))
    })
}
