//! The server's certificate: one of its own authority's, made at the first start and renewed in time, or files that the
//! administrator provides.
//!
//! A certificate that is renewed takes effect for the next connection; nothing restarts.

mod authority;
mod error;
mod files;
mod pair;

use authority::Authority;
pub use error::TlsError;
pub use files::authority_path;
use jiff::Timestamp;
use pair::{provider, read_pair};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSource {
    /// Our own authority, kept in a directory that must exist: `authority.pem` is what clients are to trust. The certificate
    /// is for `names` (DNS names and addresses) beside those of [`default_names`].
    Own {
        /// Holds the authority's key as well: for its owner alone.
        directory: PathBuf,
        /// As they are to be in the certificate, beside [`default_names`].
        names: Vec<String>,
    },
    /// Files in PEM: the certificate with its chain, and its key. Read again when they change.
    Files {
        /// The server's own certificate comes first.
        certificate: PathBuf,
        /// Of the first certificate; not encrypted.
        key: PathBuf,
    },
}

/// The names that the server's own host goes by: `localhost`, its addresses, and the host's name.
pub fn default_names() -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if !names.contains(&host) && rustls::pki_types::ServerName::try_from(host.as_str()).is_ok() {
        names.push(host);
    }
    names
}

/// The certificate in use.
pub struct Certificates {
    source: TlsSource,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl Certificates {
    /// Makes or reads it.
    pub fn open(source: TlsSource, now: Timestamp) -> Result<Self, TlsError> {
        let current = Arc::new(Current(RwLock::new(Arc::new(obtain(&source, now)?))));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Make(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { source, current, config: Arc::new(config) })
    }

    /// Renews a certificate of our own that will soon expire, and reads provided ones again. Says whether there is a new
    /// one. On an error the present one stays.
    pub fn refresh(&self, now: Timestamp) -> Result<bool, TlsError> {
        let fresh = obtain(&self.source, now)?;
        let mut current = self.current.0.write();
        let changed = fresh.cert != current.cert;
        if changed {
            *current = Arc::new(fresh);
        }
        Ok(changed)
    }

    /// What connections are accepted with.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The file that clients are to trust, if the authority is ours.
    pub fn authority_path(&self) -> Option<PathBuf> {
        match &self.source {
            TlsSource::Own { directory, .. } => Some(authority_path(directory)),
            TlsSource::Files { .. } => None,
        }
    }
}

fn obtain(source: &TlsSource, now: Timestamp) -> Result<CertifiedKey, TlsError> {
    match source {
        TlsSource::Own { directory, names } => {
            let mut all = default_names();
            all.extend(names.iter().map(|n| n.trim_matches(['[', ']']).to_lowercase()));
            Authority::open(directory, now)?.server_certificate(directory, &all, now)
        }
        TlsSource::Files { certificate, key } => read_pair(certificate, key),
    }
}
