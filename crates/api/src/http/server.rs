//! The server: HTTPS on TCP addresses, plain HTTP on a Unix socket, until it is told to stop.
//!
//! Waiting is async, on two threads; handlers run on others ([`super::pool`]). Nobody can hold a connection by doing nothing:
//! handshakes, heads, bodies and the taking of answers have their times, quiet connections are closed, one address gets only
//! a part of all connections, and where there are too many, those that wait for their client give way ([`super::connections`]).
//! What comes over the Unix socket has connections, handlers and room of its own.

use super::bodies::Bodies;
use super::connections::{Connections, Place};
use super::exchange::{Channel, Exchange, Lane};
use super::io::{Activity, Watched};
use super::pool::Pool;
use super::source::Source;
use crate::http::Client;
use crate::tls::Certificates;
use crate::{Dispatch, limits};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Where to listen.
#[derive(Clone)]
pub struct ServerConfig {
    /// Addresses for HTTPS; port 0: a free one. Empty: the socket alone.
    pub listen: Vec<SocketAddr>,
    /// A Unix socket, for this host's administrators.
    pub socket: Option<PathBuf>,
    /// What HTTPS is served with.
    pub certificates: Arc<Certificates>,
    /// What URLs begin with where a client does not say how it addressed the server; default: the first address.
    pub public_url: Option<String>,
    /// How much is taken on.
    pub bounds: ServerBounds,
}

/// What a server takes on, from `limits.rs`; tests take less.
#[derive(Debug, Clone)]
pub struct ServerBounds {
    /// Over HTTPS, at the same time.
    pub connections: usize,
    /// Of one IPv4 address, or one IPv6 /64.
    pub connections_per_address: usize,
    /// Over the Unix socket, beside those above.
    pub local_connections: usize,
    /// Running at the same time, of requests over HTTPS.
    pub handlers: usize,
    /// Requests that may wait for a handler, over HTTPS and over the socket each; further ones are answered with 503.
    pub handlers_waiting: usize,
    /// Of those over HTTPS, from one IPv4 address, or one IPv6 /64.
    pub handlers_waiting_per_address: usize,
    /// Running at the same time, of requests over the Unix socket.
    pub local_handlers: usize,
    /// For TLS.
    pub handshake_timeout: Duration,
    /// From a request's first byte to the end of its headers (HTTP/1).
    pub head_timeout: Duration,
    /// From there to the last byte of its body.
    pub body_timeout: Duration,
    /// The same of a body that anybody may send.
    pub small_body_timeout: Duration,
    /// From a request's headers to the head of its answer.
    pub request_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_stall_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long running requests may go on when the server stops.
    pub shutdown_timeout: Duration,
}

impl Default for ServerBounds {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_MAX,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS_MAX,
            local_connections: limits::LOCAL_CONNECTIONS_MAX,
            handlers: limits::HANDLERS_MAX,
            handlers_waiting: limits::HANDLERS_WAITING_MAX,
            handlers_waiting_per_address: limits::HANDLERS_WAITING_PER_ADDRESS_MAX,
            local_handlers: limits::LOCAL_HANDLERS_MAX,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            head_timeout: limits::HEAD_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            small_body_timeout: limits::SMALL_BODY_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            write_stall_timeout: limits::WRITE_STALL_TIMEOUT,
            idle_timeout: limits::IDLE_TIMEOUT,
            shutdown_timeout: limits::SHUTDOWN_TIMEOUT,
        }
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Stop the other one, or listen elsewhere.
    #[error("{what} is in use by another process")]
    InUse {
        /// The address, or the path of the socket.
        what: String,
    },
    /// It cannot be done here: the cause says why.
    #[error("listening on {what}: {cause}")]
    Listen {
        /// The address, or the path of the socket.
        what: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The system gives it no threads, or nothing else that it needs; the cause says what.
    #[error("starting the server: {0}")]
    Start(io::Error),
}

/// Tells a server to stop; clones tell the same one.
#[derive(Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// No new connections; what runs ends.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server that holds its addresses and does not answer yet.
pub struct Server {
    runtime: Runtime,
    config: ServerConfig,
    tcp: Vec<TcpListener>,
    unix: Option<UnixListener>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Takes the addresses. From here on clients can connect; they wait.
    pub fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(config.bounds.handlers + config.bounds.local_handlers + 4)
            .thread_name("api")
            .enable_all()
            .build()
            .map_err(ServerError::Start)?;
        let failed = |what: String, cause: io::Error| match cause.kind() {
            io::ErrorKind::AddrInUse => ServerError::InUse { what },
            _ => ServerError::Listen { what, cause },
        };
        let _context = runtime.enter();
        let (mut tcp, mut addresses) = (Vec::new(), Vec::new());
        for address in &config.listen {
            // The standard library's sets SO_REUSEADDR: a restart does not wait for old connections to fade.
            let bound = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                addresses.push(listener.local_addr()?);
                TcpListener::from_std(listener)
            });
            tcp.push(bound.map_err(|e| failed(address.to_string(), e))?);
        }
        let unix = match &config.socket {
            Some(path) => Some(bind_unix(path).map_err(|e| failed(path.display().to_string(), e))?),
            None => None,
        };
        drop(_context);
        Ok(Self { runtime, config, tcp, unix, addresses })
    }

    /// The addresses, with the ports that the system chose where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// `https://…`: the address that URLs begin with where a client does not say one.
    pub fn url(&self) -> String {
        match (&self.config.public_url, self.addresses.first()) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(address)) if address.ip().is_unspecified() || address.ip().is_loopback() => {
                format!("https://localhost:{}", address.port())
            }
            (None, Some(address)) => format!("https://{address}"),
            (None, None) => String::from("https://localhost"),
        }
    }

    /// Answers until `stop`, then lets what runs end. Blocks.
    pub fn run(self, api: Arc<dyn Dispatch>, stop: &Stop) {
        let bounds = self.config.bounds.clone();
        let exchange = Exchange {
            api,
            network: Lane {
                pool: Pool::new(
                    bounds.handlers,
                    bounds.handlers_waiting,
                    bounds.handlers_waiting_per_address,
                ),
                bodies: Bodies::new(limits::BODIES_TOTAL_MAX_BYTES, limits::BODIES_PER_CALLER_MAX_BYTES),
            },
            local: Lane {
                pool: Pool::new(bounds.local_handlers, bounds.handlers_waiting, bounds.handlers_waiting),
                bodies: Bodies::new(limits::LOCAL_BODIES_MAX_BYTES, limits::LOCAL_BODIES_MAX_BYTES),
            },
            public_url: self.url(),
            body_timeout: bounds.body_timeout,
            small_body_timeout: bounds.small_body_timeout.min(bounds.body_timeout),
            request_timeout: bounds.request_timeout,
        };
        let shared = Arc::new(Shared {
            exchange,
            network: Connections::new(bounds.connections, bounds.connections_per_address),
            local: Connections::new(bounds.local_connections, bounds.local_connections),
            tls: TlsAcceptor::from(self.config.certificates.server_config()),
            bounds,
            stop: stop.0.subscribe(),
        });
        let Self { runtime, config, tcp, unix, .. } = self;
        runtime.block_on(async {
            let mut listeners = JoinSet::new();
            for listener in tcp {
                listeners.spawn(accept_tcp(listener, shared.clone()));
            }
            if let Some(listener) = unix {
                listeners.spawn(accept_unix(listener, shared.clone()));
            }
            listeners.spawn(renew(config.certificates.clone(), shared.clone()));
            listeners.spawn(tick(shared.clone()));
            while listeners.join_next().await.is_some() {}
        });
        if let Some(path) = &config.socket {
            let _ = std::fs::remove_file(path);
        }
        // Connections are over; a handler whose client was given up may still run, and has had its time.
        runtime.shutdown_background();
    }
}

/// A socket file that nobody listens on any more is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match path.symlink_metadata() {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is another file of that name"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // Its peers are checked one by one; nobody else even needs to get there.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

struct Shared {
    exchange: Exchange,
    network: Arc<Connections>,
    local: Arc<Connections>,
    tls: TlsAcceptor,
    bounds: ServerBounds,
    stop: watch::Receiver<bool>,
}

impl Shared {
    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // Nobody left who could say so: stop too.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

async fn accept_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let begin = |stream: TcpStream, peer: SocketAddr| {
        let address = peer.ip().to_canonical();
        let place = shared.network.take(Source::of_address(address))?;
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        Some(async move {
            let handshake = tokio::time::timeout(shared.bounds.handshake_timeout, shared.tls.accept(stream));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = place.gives_way() => return,
            };
            match shaken {
                Ok(Ok(stream)) => {
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(&shared, stream, Client::Address(address), h2, &place).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
        })
    };
    let connections = accept(&shared, || listener.accept(), begin).await;
    // Who connects from now on is refused, instead of waiting for nobody.
    drop(listener);
    finish(&shared, connections).await;
}

async fn accept_unix(listener: UnixListener, shared: Arc<Shared>) {
    let begin = |stream: UnixStream, _| {
        let uid = stream.peer_cred().ok()?.uid();
        let place = shared.local.take(Source::LocalUser(uid))?;
        let shared = shared.clone();
        Some(async move {
            serve(&shared, stream, Client::LocalUser { uid }, false, &place).await;
        })
    };
    let connections = accept(&shared, || listener.accept(), begin).await;
    drop(listener);
    finish(&shared, connections).await;
}

/// Accepts until it is told to stop; what is still open then.
async fn accept<T, P, A, F>(
    shared: &Arc<Shared>,
    next: impl Fn() -> A,
    begin: impl Fn(T, P) -> Option<F>,
) -> JoinSet<()>
where
    A: Future<Output = io::Result<(T, P)>>,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut stopped = pin!(shared.stopped());
    loop {
        tokio::select! {
            () = &mut stopped => return connections,
            accepted = next() => match accepted {
                Ok((stream, peer)) => match begin(stream, peer) {
                    Some(connection) => {
                        connections.spawn(connection);
                    }
                    None => tracing::debug!("a connection too many was closed"),
                },
                Err(error) => {
                    // Out of file descriptors, usually: others have to end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits for connections to end; they have been told to.
async fn finish(shared: &Shared, mut connections: JoinSet<()>) {
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.bounds.shutdown_timeout, all).await.is_err() {
        tracing::warn!("connections were cut off at shutdown");
    }
}

/// Serves one connection to its end.
async fn serve<T>(shared: &Arc<Shared>, stream: T, client: Client, h2: bool, place: &Place)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = place.activity.clone();
    let channel = Arc::new(Channel::new(client, activity.clone()));
    let stream = TokioIo::new(Watched::new(stream, activity.clone(), shared.bounds.write_stall_timeout));
    let service = service_fn(|request: http::Request<Incoming>| {
        let (shared, channel, in_flight) = (shared.clone(), channel.clone(), activity.request());
        async move {
            let (response, left_unread): (http::Response<Full<Bytes>>, bool) =
                shared.exchange.answer(&channel, request).await;
            // Of several requests on one connection (HTTP/2), the library sees to each by itself.
            if left_unread && !h2 {
                channel.activity.leave_unread();
            }
            drop(in_flight);
            Ok::<_, Infallible>(response)
        }
    });
    let outcome = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
            .max_header_list_size(limits::HEADERS_MAX_BYTES as u32)
            // Half a mebibyte in all of bodies that nobody has read yet.
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(512 << 10)
            .max_send_buf_size(64 << 10)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        watch_over(shared, place, h2, builder.serve_connection(stream, service)).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            // The watch below tells a slow head from a quiet connection; hyper does not.
            .header_read_timeout(None)
            .timer(TokioTimer::new())
            .max_headers(limits::HEADERS_MAX)
            .max_header_size(limits::HEADERS_MAX_BYTES + limits::TARGET_MAX_BYTES)
            .max_buf_size(64 << 10);
        watch_over(shared, place, h2, builder.serve_connection(stream, service)).await
    };
    if let Err(error) = outcome {
        tracing::debug!(%client, %error, "a connection failed");
    }
}

/// Both of hyper's kinds.
trait Connection: Future<Output = hyper::Result<()>> {
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, S> Connection for hyper::server::conn::http1::Connection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> Connection for hyper::server::conn::http2::Connection<I, S, E>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, Full<Bytes>>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Drives a connection; ends it when it has been quiet for too long, when a head takes too long, when it gives way to
/// another, and when the server stops.
async fn watch_over(
    shared: &Arc<Shared>,
    place: &Place,
    h2: bool,
    connection: impl Connection,
) -> hyper::Result<()> {
    let (bounds, activity): (_, &Activity) = (&shared.bounds, &place.activity);
    let mut gives_way = pin!(place.gives_way());
    let mut connection = pin!(connection);
    let mut stopped = pin!(shared.stopped());
    let mut ending: Option<Instant> = None;
    let mut is_given_up = false;
    let tick = (bounds.head_timeout.min(bounds.idle_timeout) / 4).max(Duration::from_millis(10));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            outcome = connection.as_mut() => return outcome,
            () = &mut stopped, if ending.is_none() => {
                ending = Some(Instant::now());
                connection.as_mut().shut_down();
            }
            () = &mut gives_way, if !is_given_up => {
                // A request that came at this very moment is answered; the connection ends after it.
                if activity.waits_since().is_some() {
                    return Ok(());
                }
                is_given_up = true;
                ending.get_or_insert_with(Instant::now);
                connection.as_mut().shut_down();
            }
            _ = ticks.tick() => {}
        }
        // Any byte may be a ping in HTTP/2; its heads arrive whole or are the library's to refuse.
        if !h2 && activity.unfinished_for().is_some_and(|t| t >= bounds.head_timeout) {
            return Ok(());
        }
        match ending {
            // A client that lets its answers lie keeps nothing open for ever.
            Some(since) if since.elapsed() >= bounds.shutdown_timeout => return Ok(()),
            Some(_) => {}
            None if activity.quiet_for().is_some_and(|t| t >= bounds.idle_timeout) => {
                ending = Some(Instant::now());
                connection.as_mut().shut_down();
            }
            None => {}
        }
    }
}

/// Looks at the certificate now and then.
async fn renew(certificates: Arc<Certificates>, shared: Arc<Shared>) {
    let mut stopped = pin!(shared.stopped());
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(limits::CERTIFICATE_CHECK_INTERVAL) => {}
        }
        let certificates = certificates.clone();
        let renewed = tokio::task::spawn_blocking(move || certificates.refresh(jiff::Timestamp::now())).await;
        match renewed {
            Ok(Ok(true)) => tracing::info!("the server's certificate was renewed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the server's certificate could not be renewed"),
            Err(_) => tracing::error!("renewing the server's certificate panicked"),
        }
    }
}

/// What the API does by itself now and then.
async fn tick(shared: Arc<Shared>) {
    let mut stopped = pin!(shared.stopped());
    loop {
        let is_stopping = tokio::select! {
            () = &mut stopped => true,
            () = tokio::time::sleep(limits::TICK_INTERVAL) => false,
        };
        let api = shared.exchange.api.clone();
        if tokio::task::spawn_blocking(move || api.tick(is_stopping)).await.is_err() {
            tracing::error!("what is done now and then panicked");
        }
        if is_stopping {
            return;
        }
    }
}
