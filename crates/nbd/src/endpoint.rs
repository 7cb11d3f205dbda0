//! Where a server is: addresses and NBD URIs.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::limits::MAX_STRING_BYTES;

/// The port servers listen on when none is named.
pub const DEFAULT_PORT: u16 = 10809;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host (name or address) and port.
    Tcp(String, u16),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        Endpoint::Tcp(address.ip().to_string(), address.port())
    }
}

impl Endpoint {
    /// The URI of an export of this server, as other NBD programs take it.
    pub fn uri(&self, export_name: &str) -> NbdUri {
        NbdUri { endpoint: self.clone(), export_name: export_name.to_owned() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri("").fmt(f)
    }
}

/// `nbd://host:port/export` or `nbd+unix:///export?socket=/path`.
///
/// ```
/// use strongroom_nbd::{Endpoint, NbdUri};
/// let uri: NbdUri = "nbd+unix:///vda?socket=/run/a%20b.sock".parse()?;
/// assert_eq!(uri.endpoint, Endpoint::Unix("/run/a b.sock".into()));
/// assert_eq!(uri.export_name, "vda");
/// assert_eq!(uri.to_string(), "nbd+unix:///vda?socket=/run/a%20b.sock");
/// # Ok::<(), strongroom_nbd::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NbdUri {
    /// The server.
    pub endpoint: Endpoint,
    /// The export; empty is the server's default.
    pub export_name: String,
}

impl FromStr for NbdUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<NbdUri> {
        let bad = |why: &str| {
            Error::Invalid(format!(
                "NBD URI {text:?}: {why} (expected nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH)"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("no scheme"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(path).ok_or_else(|| bad("bad percent encoding"))?;
        let export_name = String::from_utf8(name).map_err(|_| bad("export name is not UTF-8"))?;
        if export_name.len() > MAX_STRING_BYTES {
            return Err(bad("export name is too long"));
        }
        let mut socket = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("socket", value)) if socket.is_none() => {
                    socket = Some(decode(value).ok_or_else(|| bad("bad percent encoding"))?);
                }
                _ => return Err(bad("unknown parameter")),
            }
        }
        let endpoint = match (scheme, socket) {
            ("nbd+unix", Some(socket)) if authority.is_empty() => {
                if socket.is_empty() || socket.contains(&0) {
                    return Err(bad("unusable socket path"));
                }
                Endpoint::Unix(std::ffi::OsString::from_vec(socket).into())
            }
            ("nbd+unix", Some(_)) => return Err(bad("a host makes no sense with a Unix socket")),
            ("nbd+unix", None) => return Err(bad("socket=PATH is missing")),
            ("nbd", None) => {
                let (host, port) = split_host(authority).ok_or_else(|| bad("bad host or port"))?;
                Endpoint::Tcp(host.to_owned(), port)
            }
            ("nbd", Some(_)) => return Err(bad("socket=PATH needs nbd+unix")),
            ("nbds" | "nbds+unix", _) => {
                return Err(Error::Unsupported("NBD over TLS".into()));
            }
            _ => return Err(bad("unknown scheme")),
        };
        Ok(NbdUri { endpoint, export_name })
    }
}

fn split_host(authority: &str) -> Option<(&str, u16)> {
    if authority.is_empty() {
        return Some(("localhost", DEFAULT_PORT));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            let port = if after.is_empty() { "" } else { after.strip_prefix(':')? };
            (host, port)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    if host.is_empty() || host.contains(['@', '[', ']']) {
        return None;
    }
    let port = if port.is_empty() { DEFAULT_PORT } else { port.parse().ok().filter(|p| *p > 0)? };
    Some((host, port))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = encode(self.export_name.as_bytes());
        match &self.endpoint {
            Endpoint::Unix(path) => {
                write!(f, "nbd+unix:///{name}?socket={}", encode(path.as_os_str().as_bytes()))
            }
            Endpoint::Tcp(host, port) if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/{name}")
            }
            Endpoint::Tcp(host, port) => write!(f, "nbd://{host}:{port}/{name}"),
        }
    }
}
