//! A certificate with its key, from files.

use super::error::TlsError;
use super::files;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::sync::Arc;

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate with its chain and the key that belongs to it.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let unusable = |path: &Path, detail: String| TlsError::Unusable { path: path.to_owned(), detail };
    let pem = files::read(certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| unusable(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(certificate, String::from("there is no certificate in it")));
    }
    let pem = files::read(key)?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| unusable(key, e.to_string()))?;
    CertifiedKey::from_der(chain, der, &provider()).map_err(|e| unusable(key, e.to_string()))
}
