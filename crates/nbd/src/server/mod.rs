//! The server: named exports on a Unix socket or loopback TCP, many clients, bounded in all of them.

mod export;
mod listener;
mod negotiate;
mod session;

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags};

pub use export::{Export, Extent, ExtentKind};

#[doc(hidden)]
pub use negotiate::{ExportTable, Negotiation};
#[doc(hidden)]
pub use session::{Incoming, Session};

use crate::endpoint::{Endpoint, NbdUri};
use crate::error::{Error, Result};
use crate::limits::{SERVER_PIECE_BYTES, ServerLimits};
use crate::net::{Deadline, Stream};
use listener::Listener;

/// A server in preparation: exports are added, then it listens.
#[derive(Clone, Default)]
pub struct Server {
    table: ExportTable,
    limits: ServerLimits,
    socket_mode: Option<u32>,
    tcp_anywhere: bool,
}

impl Server {
    /// A server without exports, with default limits.
    pub fn new() -> Server {
        Server::default()
    }

    /// Adds an export. The only one, or the one named "", is also the default.
    pub fn export(mut self, name: &str, export: impl Export + 'static) -> Result<Server> {
        self.table.add(name, Arc::new(export))?;
        Ok(self)
    }

    /// As [`Server::export`] for one that is shared.
    pub fn export_shared(mut self, name: &str, export: Arc<dyn Export>) -> Result<Server> {
        self.table.add(name, export)?;
        Ok(self)
    }

    /// Makes an export added before the one that clients get who name none.
    pub fn default_export(mut self, name: &str) -> Result<Server> {
        self.table.set_default(name)?;
        Ok(self)
    }

    /// Replaces the limits.
    pub fn limits(mut self, limits: ServerLimits) -> Server {
        self.limits = limits;
        self
    }

    /// Who may use the Unix socket; by default only its owner (`0o600`). The process's umask applies too.
    pub fn socket_mode(mut self, mode: u32) -> Server {
        self.socket_mode = Some(mode);
        self
    }

    /// Allows TCP addresses other than loopback. Whoever reaches them reads the exports, and everything
    /// passes in the clear.
    pub fn allow_any_tcp_address(mut self) -> Server {
        self.tcp_anywhere = true;
        self
    }

    /// Listens on a Unix socket. A stale socket file is replaced; a live one, or a file that is no
    /// socket, is an error.
    pub fn listen_unix(self, path: impl AsRef<Path>) -> Result<ServerHandle> {
        let listener = Listener::unix(path.as_ref(), self.socket_mode.unwrap_or(0o600))?;
        self.listen(listener)
    }

    /// Listens on a TCP address; port 0 takes a free one, see [`ServerHandle::endpoint`].
    pub fn listen_tcp(self, address: SocketAddr) -> Result<ServerHandle> {
        let listener = Listener::tcp(address, self.tcp_anywhere)?;
        self.listen(listener)
    }

    fn listen(self, listener: Listener) -> Result<ServerHandle> {
        let limits = self.limits.clamped();
        let size = limits.max_request_bytes;
        if !size.is_power_of_two() || size < 64 * 1024 || limits.max_connections == 0 {
            return Err(Error::Invalid(format!("server limits: {limits:?}")));
        }
        if self.table.is_empty() {
            return Err(Error::Invalid("a server without exports".into()));
        }
        let endpoint = listener.endpoint()?;
        let (wake, woken) =
            UnixStream::pair().map_err(|error| Error::io("making a wake-up socket", error))?;
        let shared = Arc::new(Shared {
            table: self.table,
            limits,
            clients: Mutex::new(Clients::default()),
            changed: Condvar::new(),
        });
        let accepting = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("nbd-accept".into())
                .spawn(move || accept_loop(&shared, &listener, &woken))
                .map_err(|error| Error::io("starting the accepting thread", error))?
        };
        tracing::info!(%endpoint, "NBD server listens");
        Ok(ServerHandle { shared, endpoint, wake, accepting: Some(accepting) })
    }
}

struct Shared {
    table: ExportTable,
    limits: ServerLimits,
    clients: Mutex<Clients>,
    changed: Condvar,
}

#[derive(Default)]
struct Clients {
    stopping: bool,
    next_id: u64,
    streams: HashMap<u64, Stream>,
}

/// A running server. Dropping it stops it.
pub struct ServerHandle {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    wake: UnixStream,
    accepting: Option<JoinHandle<()>>,
}

impl ServerHandle {
    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The URI other programs open an export with.
    pub fn uri(&self, export_name: &str) -> NbdUri {
        self.endpoint.uri(export_name)
    }

    /// Clients connected now.
    pub fn connections(&self) -> usize {
        self.shared.clients.lock().streams.len()
    }

    /// Stops listening, removes the socket file, lets requests in progress finish for at most
    /// [`ServerLimits::stop_grace`], and returns when all threads that do not hang in an export have ended.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.clients.lock().stopping = true;
        // Ends the accepting thread, which owns the listener and its file.
        self.wake.shutdown(Shutdown::Both).ok();
        if accepting.join().is_err() {
            tracing::error!("NBD accepting thread panicked");
        }
        let mut clients = self.shared.clients.lock();
        clients.streams.values().for_each(|stream| stream.shutdown(Shutdown::Read));
        let grace = self.shared.limits.stop_grace;
        self.wait_for_none(&mut clients, grace);
        clients.streams.values().for_each(|stream| stream.shutdown(Shutdown::Both));
        // Threads now only wait for the export, if at all.
        self.wait_for_none(&mut clients, grace);
        if !clients.streams.is_empty() {
            tracing::warn!(count = clients.streams.len(), "NBD clients left in requests that do not end");
        }
        tracing::info!(endpoint = %self.endpoint, "NBD server stopped");
    }

    fn wait_for_none(&self, clients: &mut parking_lot::MutexGuard<'_, Clients>, time: Duration) {
        let until = Instant::now() + time;
        while !clients.streams.is_empty() {
            if self.shared.changed.wait_until(clients, until).timed_out() {
                return;
            }
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop_now();
    }
}

fn accept_loop(shared: &Arc<Shared>, listener: &Listener, woken: &UnixStream) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "NBD server cannot wait for clients");
                return;
            }
        }
        if shared.clients.lock().stopping || !fds[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok(stream) => admit(shared, stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of file descriptors, most likely: it gets better when clients leave.
                tracing::warn!(%error, "NBD server cannot accept a client");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: Stream) {
    let mut clients = shared.clients.lock();
    if clients.stopping || clients.streams.len() >= shared.limits.max_connections {
        tracing::warn!(limit = shared.limits.max_connections, "NBD client turned away: too many connections");
        return;
    }
    let id = clients.next_id;
    clients.next_id += 1;
    clients.streams.insert(id, stream.clone());
    drop(clients);
    let place = Place { shared: shared.clone(), id };
    let started = std::thread::Builder::new().name("nbd-client".into()).spawn(move || {
        if let Err(error) = serve(&place.shared, &stream) {
            tracing::debug!(%error, "NBD client ended");
        }
        stream.shutdown(Shutdown::Both);
        drop(place);
    });
    if let Err(error) = started {
        tracing::warn!(%error, "NBD client turned away: no thread");
    }
}

/// A client's place among those counted; given back on drop, also by a panic.
struct Place {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.clients.lock().streams.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

fn serve(shared: &Shared, stream: &Stream) -> Result<()> {
    let limits = &shared.limits;
    let deadline = Deadline::new(stream.clone(), limits.negotiation_timeout);
    let Some(accepted) = Negotiation::new(deadline, &shared.table, limits).run()? else {
        return Ok(());
    };
    tracing::debug!(export = accepted.name, structured = accepted.structured, "NBD client chose");
    stream
        .set_write_timeout(Some(limits.io_timeout))
        .map_err(|error| Error::io("setting a socket timeout", error))?;
    let session = Session::new(accepted, stream.clone(), limits);
    let mut incoming = Requests { stream: stream.clone(), until: None, hurried: true };
    session.run(&mut incoming, || stream.shutdown(Shutdown::Both))
}

/// The receiving half of a client's socket.
struct Requests {
    stream: Stream,
    until: Option<Instant>,
    /// The socket has a timeout set.
    hurried: bool,
}

impl Incoming for Requests {
    fn must_arrive_within(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.until = time.map(|time| Instant::now() + time);
        if time.is_none() && self.hurried {
            self.stream.set_read_timeout(None)?;
            self.hurried = false;
        }
        Ok(())
    }
}

impl Read for Requests {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.hurried = true;
        }
        self.stream.read(buf)
    }
}

// A piece must fit what `Export` promises its implementers.
const _: () = assert!(SERVER_PIECE_BYTES == 1024 * 1024);
