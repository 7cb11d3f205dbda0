//! A server on loopback and a client that says exactly what a test wants it to say.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use strongroom_api::http::{Server, ServerBounds, ServerConfig, Stop};
use strongroom_api::tls::{Certificates, TlsSource};
use strongroom_api::{Admission, Dispatch, Request, Response};
use tempfile::TempDir;
use uuid::Uuid;

/// Answers with what a function says.
pub struct Answers<F>(pub F);

impl<F: Fn(Request) -> Response + Send + Sync + 'static> Dispatch for Answers<F> {
    /// Each request is of another caller, who may do everything.
    fn admit(&self, _: &mut Request) -> Admission {
        Admission::Authorised { caller: Uuid::new_v4() }
    }

    fn dispatch(&self, request: Request) -> Response {
        (self.0)(request)
    }
}

pub struct Running {
    pub address: SocketAddr,
    pub directory: TempDir,
    pub stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// Bounds that tests need not wait long for.
pub fn quick() -> ServerBounds {
    ServerBounds {
        handshake_timeout: Duration::from_millis(400),
        head_timeout: Duration::from_millis(400),
        body_timeout: Duration::from_millis(400),
        write_stall_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(1500),
        shutdown_timeout: Duration::from_secs(5),
        ..ServerBounds::default()
    }
}

pub fn start(api: impl Dispatch, bounds: ServerBounds) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let source = TlsSource::Own { directory: directory.path().to_owned(), names: vec![] };
    let certificates = Arc::new(Certificates::open(source, jiff::Timestamp::now()).unwrap());
    let config = ServerConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        socket: Some(directory.path().join("sock")),
        certificates,
        public_url: None,
        bounds,
    };
    let server = Server::bind(config).unwrap();
    let (address, stop) = (server.addresses()[0], Stop::new());
    let told = stop.clone();
    let thread = std::thread::spawn(move || server.run(Arc::new(api), &told));
    Running { address, directory, stop, thread: Some(thread) }
}

impl Running {
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    pub fn connect(&self) -> Tls {
        connect(self.address, &self.authority(), "localhost").unwrap()
    }

    /// One request on a connection of its own.
    pub fn ask(&self, raw: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(raw.as_bytes()).unwrap();
        read_answer(&mut stream, false).unwrap()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
            self.address.port()
        ))
    }

    /// Stops it and waits for it.
    pub fn end(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

pub fn client_config(authority: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub fn connect(address: SocketAddr, authority: &Path, name: &str) -> io::Result<Tls> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(client_config(authority)), name).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Reads one HTTP/1.1 answer.
pub fn read_answer(stream: &mut impl Read, head_only: bool) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        let mut some = [0; 4096];
        match stream.read(&mut some)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("ended after {bytes:?}"))),
            n => bytes.extend_from_slice(&some[..n]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HashMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = bytes[end + 4..].to_vec();
    if head_only {
        return Ok(Answer { status, headers, body });
    }
    while body.len() < length {
        let mut some = [0; 65536];
        match stream.read(&mut some)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{} of {length} bytes", body.len()),
                ));
            }
            n => body.extend_from_slice(&some[..n]),
        }
    }
    Ok(Answer { status, headers, body })
}

/// Whether the server has closed the connection, or does so before the client's patience ends.
pub fn is_closed(stream: &mut impl Read) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}
