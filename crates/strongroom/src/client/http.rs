//! Requests over HTTP/1.1: through a service's Unix socket, or to a server over TLS. A connection for each request.

use super::address;
use super::limits::{ANSWER_MAX_BYTES, CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, PEM_MAX_BYTES};
use crate::failure::{ApiError, Failure, Result};
use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, header};
use parking_lot::Mutex;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use strongroom_api as api;
use strongroom_engine::{Error, ErrorKind};
use tokio::runtime::Runtime;

pub struct Http {
    client: Client,
    runtime: Runtime,
    /// What every target stands behind: `https://host:port`.
    base: String,
    /// For people: "the server host:port".
    what: String,
    /// None of a service's socket: the kernel tells it who asks.
    sign_in: Option<SignIn>,
}

struct SignIn {
    /// `host:port`, as it was given.
    authority: String,
    credentials: Credentials,
    token: Mutex<Option<String>>,
}

/// A service principal's.
pub struct Credentials {
    pub client_id: String,
    pub secret: String,
}

impl Http {
    /// Through the Unix socket of a running service; the kernel tells it who asks.
    pub fn socket(path: &Path) -> Result<Self> {
        // Nothing goes over TLS there: it trusts nobody.
        let client = builder(RootCertStore::empty())?.unix_socket(path);
        Ok(Self {
            client: built(client)?,
            runtime: runtime()?,
            base: "http://localhost".into(),
            what: format!("the service at {}", path.display()),
            sign_in: None,
        })
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
        let base = format!("https://{authority}");
        if ServerName::try_from(host).is_err() || Url::parse(&base).is_err() {
            return Err(wrong("its host is not a name or address").into());
        }
        Ok(Self {
            client: built(builder(roots(authorities)?)?)?,
            runtime: runtime()?,
            base,
            what: format!("the server {authority}"),
            sign_in: Some(SignIn { authority, credentials, token: Mutex::new(None) }),
        })
    }

    /// Sends a request and takes the answer, whatever its status.
    pub fn send(&self, method: &Method, target: &str, body: Option<&Value>) -> Result<Response<Bytes>> {
        let url = self.url(target)?;
        let send = |token: Option<&str>| {
            let mut request =
                self.client.request(method.clone(), url.clone()).header(header::ACCEPT, "application/json");
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
            }
            self.exchange(request)
        };
        let Some(sign_in) = &self.sign_in else { return send(None) };
        let known = sign_in.token.lock().clone();
        let token = match known.clone() {
            Some(token) => token,
            None => self.sign_in(sign_in)?,
        };
        let answer = send(Some(&token))?;
        // A token is good for an hour: jobs may take longer.
        if answer.status() == StatusCode::UNAUTHORIZED && known.is_some() {
            return send(Some(&self.sign_in(sign_in)?));
        }
        Ok(answer)
    }

    /// Gets a token for the client's id and secret.
    fn sign_in(&self, with: &SignIn) -> Result<String> {
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            address::query(&with.credentials.client_id),
            address::query(&with.credentials.secret)
        );
        let request = self
            .client
            .post(self.url("/adfs/oauth2/token")?)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let answer = self.exchange(request)?;
        let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if let Some(token) = document["access_token"].as_str().filter(|_| answer.status().is_success()) {
            *with.token.lock() = Some(token.to_owned());
            return Ok(token.to_owned());
        }
        let status = answer.status().as_u16();
        let code = document["error"].as_str().unwrap_or("SignInFailed");
        let words = document["error_description"].as_str().unwrap_or("the server gave no token");
        Err(ApiError::new(status, code, format!("signing in at {}: {words}", with.authority)).into())
    }

    /// A URL has no dot segments and no backslashes: what the service would refuse as it is must not become another path.
    fn url(&self, target: &str) -> Result<Url> {
        api::Request::new(Method::GET, target, api::Client::Process)
            .map_err(|e| ApiError::new(e.status.as_u16(), e.code, e.message))?;
        Url::parse(&format!("{}{target}", self.base))
            .map_err(|e| Error::invalid(format!("the request cannot be sent: {e}")).into())
    }

    fn exchange(&self, request: RequestBuilder) -> Result<Response<Bytes>> {
        self.runtime.block_on(exchange(request)).map_err(|cause| unreachable(&self.what, &cause))
    }
}

/// The whole answer, if it is no longer than it may be.
async fn exchange(request: RequestBuilder) -> io::Result<Response<Bytes>> {
    let mut answer = request.send().await.map_err(cause)?;
    let mut body = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(cause)? {
        if body.len() + part.len() > ANSWER_MAX_BYTES {
            return Err(io::Error::other("length limit exceeded"));
        }
        body.extend_from_slice(&part);
    }
    let mut whole = Response::new(body.freeze());
    *whole.status_mut() = answer.status();
    *whole.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(whole)
}

/// What really happened, without the words of the layers above it.
fn cause(error: reqwest::Error) -> io::Error {
    if error.is_timeout() {
        return io::ErrorKind::TimedOut.into();
    }
    let mut deepest: &(dyn std::error::Error + 'static) = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let kind = deepest.downcast_ref::<io::Error>().map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, deepest.to_string())
}

fn builder(roots: RootCertStore) -> Result<ClientBuilder> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Failed, format!("TLS cannot be used: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        // Nobody stands between us and the service whom nobody named to us: tokens go this way.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        // Between two requests nobody sees to a connection, and the server may have closed it.
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CONNECT_TIMEOUT + EXCHANGE_TIMEOUT))
}

fn built(builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|e| Error::io("starting the client", cause(e)).into())
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

fn unreachable(what: &str, cause: &io::Error) -> Failure {
    if cause.to_string().contains("UnknownIssuer") {
        let message = format!(
            "the certificate of {} is of an authority that is not trusted here: name it with --ca (the service's own is DATA/tls/authority.pem)",
            what.strip_prefix("the server ").unwrap_or(what)
        );
        return Error::new(ErrorKind::Denied, message).into();
    }
    match cause.kind() {
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Denied,
            format!("{what}: {cause}; run it as root or the service's user, or use --server"),
        )
        .into(),
        _ => Error::new(ErrorKind::Unavailable, format!("{what} cannot be reached: {cause}")).into(),
    }
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
