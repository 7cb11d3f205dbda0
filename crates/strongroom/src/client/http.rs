//! Requests over HTTP/1.1: through a service's Unix socket, or to a server over TLS. A connection for each request.

use super::address;
use super::limits::{ANSWER_MAX_BYTES, CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, PEM_MAX_BYTES};
use crate::failure::{ApiError, Failure, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::future::Future;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_engine::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// Where the server is.
enum Place {
    Socket(PathBuf),
    Server(Server),
}

struct Server {
    /// `host:port`, as it was given.
    authority: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    credentials: Credentials,
    token: Mutex<Option<String>>,
}

/// A service principal's.
pub struct Credentials {
    pub client_id: String,
    pub secret: String,
}

pub struct Http {
    place: Place,
    runtime: Runtime,
}

impl Http {
    /// Through the Unix socket of a running service; the kernel tells it who asks.
    pub fn socket(path: &Path) -> Result<Self> {
        Ok(Self { place: Place::Socket(path.to_owned()), runtime: runtime()? })
    }

    /// To a server, `https://host[:port]`. `authorities`: certificates in PEM to trust, else those of the system.
    pub fn server(url: &str, authorities: Option<&Path>, credentials: Credentials) -> Result<Self> {
        let wrong =
            |why: &str| Error::invalid(format!("`{url}` is no server: {why}; give https://HOST:PORT"));
        let rest = url.strip_prefix("https://").ok_or_else(|| wrong("it does not begin with https://"))?;
        let rest = rest.trim_end_matches('/');
        if rest.is_empty() || rest.contains(['/', '?', '#', '@']) {
            return Err(wrong("it has more than a host and a port").into());
        }
        let (host, authority) = host_and_port(rest).ok_or_else(|| wrong("its port is not a number"))?;
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| wrong("its host is not a name or address"))?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| Error::new(ErrorKind::Failed, format!("TLS cannot be used: {e}")))?
                .with_root_certificates(roots(authorities)?)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        let server = Server { authority, name, tls, credentials, token: Mutex::new(None) };
        Ok(Self { place: Place::Server(server), runtime: runtime()? })
    }

    /// Sends a request and takes the answer, whatever its status.
    pub fn send(&self, method: &Method, target: &str, body: Option<&Value>) -> Result<Response<Bytes>> {
        let build = |authority: &str, token: Option<&str>| {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(target)
                .header(header::HOST, authority)
                .header(header::ACCEPT, "application/json");
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if body.is_some() {
                request = request.header(header::CONTENT_TYPE, "application/json");
            }
            request
                .body(Full::new(body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()))))
                .map_err(|e| Error::invalid(format!("the request cannot be sent: {e}")))
        };
        match &self.place {
            Place::Socket(path) => {
                let request = build("localhost", None)?;
                self.runtime.block_on(over_socket(path, request))
            }
            Place::Server(server) => {
                let known = server.token.lock().clone();
                let token = match known.clone() {
                    Some(token) => token,
                    None => self.sign_in(server)?,
                };
                let answer =
                    self.runtime.block_on(over_tls(server, build(&server.authority, Some(&token))?))?;
                // A token is good for an hour: jobs may take longer.
                if answer.status() == StatusCode::UNAUTHORIZED && known.is_some() {
                    let token = self.sign_in(server)?;
                    return self.runtime.block_on(over_tls(server, build(&server.authority, Some(&token))?));
                }
                Ok(answer)
            }
        }
    }

    /// Gets a token for the client's id and secret.
    fn sign_in(&self, server: &Server) -> Result<String> {
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            address::query(&server.credentials.client_id),
            address::query(&server.credentials.secret)
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri("/adfs/oauth2/token")
            .header(header::HOST, &server.authority)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))
            .map_err(|e| Error::invalid(format!("signing in cannot be sent: {e}")))?;
        let answer = self.runtime.block_on(over_tls(server, request))?;
        let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if let Some(token) = document["access_token"].as_str().filter(|_| answer.status().is_success()) {
            *server.token.lock() = Some(token.to_owned());
            return Ok(token.to_owned());
        }
        let status = answer.status().as_u16();
        let code = document["error"].as_str().unwrap_or("SignInFailed");
        let words = document["error_description"].as_str().unwrap_or("the server gave no token");
        Err(ApiError::new(status, code, format!("signing in at {}: {words}", server.authority)).into())
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the client", e).into())
}

/// The host without brackets, and `host:port` with 443 where no port is given.
fn host_and_port(text: &str) -> Option<(&str, String)> {
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_brackets..].rfind(':') {
        Some(at) => {
            let (host, port) = (&text[..after_brackets + at], &text[after_brackets + at + 1..]);
            port.parse::<u16>().ok()?;
            Some((bare(host), text.to_owned()))
        }
        None => Some((bare(text), format!("{text}:443"))),
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let failed = |e| Error::io(format!("reading the certificates in {}", path.display()), e);
            let mut text = Vec::new();
            std::fs::File::open(path)
                .map_err(failed)?
                .take(PEM_MAX_BYTES)
                .read_to_end(&mut text)
                .map_err(failed)?;
            let unusable = |why: String| Error::invalid(format!("{}: {why}", path.display()));
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|e| unusable(format!("it is no PEM file: {e}")))?;
                roots.add(certificate).map_err(|e| unusable(format!("a certificate cannot be used: {e}")))?;
            }
            if roots.is_empty() {
                return Err(unusable("it has no certificate in PEM".into()).into());
            }
        }
        None => {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if added == 0 {
                return Err(Error::not_found(
                    "this system has no certificate authorities to trust: name the server's with --ca",
                )
                .into());
            }
        }
    }
    Ok(roots)
}

async fn timely<T>(
    what: &str,
    time: std::time::Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(time, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(unreachable(what, &e)),
        Err(_) => Err(unreachable(what, &io::Error::from(io::ErrorKind::TimedOut))),
    }
}

fn unreachable(what: &str, cause: &io::Error) -> Failure {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            format!("{what}: {cause}; run it as root or the service's user, or use --server"),
        )
        .into(),
        _ => Error::new(ErrorKind::Unavailable, format!("{what} cannot be reached: {cause}")).into(),
    }
}

async fn over_socket(path: &Path, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
    let what = format!("the service at {}", path.display());
    let stream = timely(&what, CONNECT_TIMEOUT, UnixStream::connect(path)).await?;
    exchange(&what, stream, request).await
}

async fn over_tls(server: &Server, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
    let what = format!("the server {}", server.authority);
    let connect = async {
        let stream = TcpStream::connect(&server.authority).await?;
        stream.set_nodelay(true)?;
        server.tls.connect(server.name.clone(), stream).await
    };
    let stream = match timely(&what, CONNECT_TIMEOUT, connect).await {
        Err(Failure::Here(error)) if error.to_string().contains("UnknownIssuer") => {
            let message = format!(
                "the certificate of {} is of an authority that is not trusted here: name it with --ca (the service's own is DATA/tls/authority.pem)",
                server.authority
            );
            return Err(Error::new(ErrorKind::Denied, message).into());
        }
        other => other?,
    };
    exchange(&what, stream, request).await
}

async fn exchange<S>(what: &str, stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| io::Error::other(e);
    let work = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let driver = tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(io::Error::other)?.to_bytes();
        driver.abort();
        Ok(Response::from_parts(parts, body))
    };
    timely(what, EXCHANGE_TIMEOUT, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_and_without_a_port() {
        for (given, host, authority) in [
            ("backup.example.org", "backup.example.org", "backup.example.org:443"),
            ("localhost:8443", "localhost", "localhost:8443"),
            ("[::1]:8443", "::1", "[::1]:8443"),
            ("[::1]", "::1", "[::1]:443"),
        ] {
            assert_eq!(host_and_port(given), Some((host, authority.to_owned())), "{given}");
        }
        assert_eq!(host_and_port("host:port"), None);
        let credentials = || Credentials { client_id: String::new(), secret: String::new() };
        for wrong in ["http://h", "h:1", "https://", "https://h/path", "https://u@h"] {
            assert!(Http::server(wrong, None, credentials()).is_err(), "{wrong}");
        }
    }
}
