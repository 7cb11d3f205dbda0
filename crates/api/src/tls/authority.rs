//! An authority of our own: made once, its key never leaves its directory; it signs the server's certificate alone.
//!
//! Files, each written whole: `authority-key.pem` and `server-key.pem` (0600), `authority.pem` and `server.pem`. Keys
//! are written before what belongs to them: a crash in between is seen at the next start, and mended.
//! When the authority grows old its certificate is made anew for the same key and name, so that what trusts the old one
//! trusts what it signs until the old one's end.

use super::error::TlsError;
use super::files::{self, authority_path};
use super::pair::{provider, read_pair};
use crate::limits;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_cert::der::Decode;

const DAY_SECONDS: i64 = 24 * 3600;

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
}

impl Authority {
    /// The directory's authority, made or renewed if need be.
    pub(super) fn open(directory: &Path, now: Timestamp) -> Result<Self, TlsError> {
        let (path, key_path) = (authority_path(directory), directory.join("authority-key.pem"));
        let unusable = |path: &Path, detail: String| TlsError::Unusable { path: path.to_owned(), detail };
        let key = match optional(files::read(&key_path))? {
            Some(pem) => {
                let text = String::from_utf8(pem).map_err(|e| unusable(&key_path, e.to_string()))?;
                KeyPair::from_pem(&text).map_err(|e| unusable(&key_path, e.to_string()))?
            }
            None if path.exists() => {
                let detail = "the key of the authority beside it is missing. Put authority-key.pem back; or move this \
                              away, and a new authority is made, which clients have to be told to trust";
                return Err(unusable(&path, detail.into()));
            }
            None => {
                let key = KeyPair::generate().map_err(make)?;
                files::write(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
        };
        let params = params(&key, now)?;
        let present = match optional(files::read(&path))? {
            Some(pem) => {
                let der = CertificateDer::from_pem_slice(&pem).map_err(|e| unusable(&path, e.to_string()))?;
                let parsed =
                    x509_cert::Certificate::from_der(&der).map_err(|e| unusable(&path, e.to_string()))?;
                let public = parsed.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
                if public != key.der_bytes() {
                    return Err(unusable(&path, String::from("authority-key.pem beside it is not its key")));
                }
                let end = parsed.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
                Some((
                    der,
                    i64::try_from(end).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(now),
                ))
            }
            None => None,
        };
        let (certificate, not_after) = match present {
            Some((der, end)) if end > after(now, limits::AUTHORITY_RENEW_DAYS)? => (der, end),
            old => {
                let made = params.self_signed(&key).map_err(make)?;
                files::write(&path, &made.pem(), 0o644)?;
                match old {
                    Some((_, end)) => tracing::warn!(%end, path = %path.display(),
                        "the certificate authority was renewed: clients that trust the old file need this one by then"),
                    None => tracing::info!(path = %path.display(), "a certificate authority was made"),
                }
                (made.der().clone(), after(now, limits::AUTHORITY_DAYS)?)
            }
        };
        Ok(Self { issuer: Issuer::new(params, key), certificate, not_after })
    }

    /// The server's certificate for these names: the one that is there if it will do for a while, else a new one.
    pub(super) fn server_certificate(
        &self,
        directory: &Path,
        names: &[String],
        now: Timestamp,
    ) -> Result<CertifiedKey, TlsError> {
        let (path, key_path) = (directory.join("server.pem"), directory.join("server-key.pem"));
        match read_pair(&path, &key_path) {
            Ok(present) => match self.will_do(&present, names, now) {
                Ok(()) => return Ok(present),
                Err(why) => tracing::info!(why, "the server's certificate is made anew"),
            },
            Err(TlsError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
            // It is ours to make: what is wrong with the old one is only worth a line.
            Err(error) => tracing::warn!(%error, "the server's certificate is made anew"),
        }
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_, _>>()?;
        params.distinguished_name.push(DnType::CommonName, "Strongroom");
        params.not_before = offset(after(now, -1)?)?;
        params.not_after = offset(after(now, limits::CERTIFICATE_DAYS)?.min(self.not_after))?;
        params.serial_number = Some(serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&key, &self.issuer).map_err(make)?;
        files::write(&key_path, &key.serialize_pem(), 0o600)?;
        files::write(&path, &made.pem(), 0o644)?;
        read_pair(&path, &key_path)
    }

    /// Whether a client that trusts this authority will take the certificate, now and for a while, for each name.
    fn will_do(&self, present: &CertifiedKey, names: &[String], now: Timestamp) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|e| e.to_string())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| e.to_string())?;
        let certificate = present.cert.first().ok_or("there is none")?;
        let seconds = |at: Timestamp| Duration::from_secs(at.as_second().max(0).unsigned_abs());
        let later = after(now, limits::CERTIFICATE_RENEW_DAYS).map_err(|e| e.to_string())?;
        for name in names {
            let server = ServerName::try_from(name.as_str()).map_err(|e| format!("{name}: {e}"))?;
            for at in [now, later] {
                verifier
                    .verify_server_cert(
                        certificate,
                        &[],
                        &server,
                        &[],
                        UnixTime::since_unix_epoch(seconds(at)),
                    )
                    .map_err(|e| format!("{name} at {at}: {e}"))?;
            }
        }
        Ok(())
    }
}

/// What the authority's certificate says. Its name follows from its key: two installations never share one.
fn params(key: &KeyPair, now: Timestamp) -> Result<CertificateParams, TlsError> {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.der_bytes());
    let id: String = digest.as_ref().iter().take(4).map(|b| format!("{b:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Strongroom authority {id}"));
    params.not_before = offset(after(now, -1)?)?;
    params.not_after = offset(after(now, limits::AUTHORITY_DAYS)?)?;
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn san(name: &str) -> Result<SanType, TlsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong =
        |why: String| TlsError::Make(format!("'{name}' is neither a DNS name nor an address ({why})"));
    ServerName::try_from(name).map_err(|e| wrong(e.to_string()))?;
    Ok(SanType::DnsName(name.try_into().map_err(|e: rcgen::Error| wrong(e.to_string()))?))
}

fn serial() -> SerialNumber {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    // Positive, and never with a leading zero.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from(bytes.to_vec())
}

fn after(now: Timestamp, days: i64) -> Result<Timestamp, TlsError> {
    now.checked_add(SignedDuration::from_secs(days * DAY_SECONDS)).map_err(|e| TlsError::Make(e.to_string()))
}

fn offset(at: Timestamp) -> Result<time::OffsetDateTime, TlsError> {
    time::OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|e| TlsError::Make(e.to_string()))
}

fn make(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}

/// What is read, if it is there.
fn optional(read: Result<Vec<u8>, TlsError>) -> Result<Option<Vec<u8>>, TlsError> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(TlsError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
