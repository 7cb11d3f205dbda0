//! Certificates: made, kept, renewed, replaced; judged by a client that trusts the authority's file.

mod common;

use common::wire::client_config;
use jiff::{SignedDuration, Timestamp};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConnection, RootCertStore, ServerConnection};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strongroom_api::limits;
use strongroom_api::tls::{Certificates, TlsError, TlsSource, default_names};

fn own(directory: &Path, names: &[&str]) -> TlsSource {
    TlsSource::Own { directory: directory.to_owned(), names: names.iter().map(|n| n.to_string()).collect() }
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn in_days(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

fn handshake(certificates: &Certificates, authority: &Path, name: &str) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(authority)), name)?;
    let mut server = ServerConnection::new(certificates.server_config())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// Whether a client with this authority takes the server's file at a time.
fn trusted_at(authority: &[u8], server: &Path, at: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let certificate = CertificateDer::from_pem_file(server).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second() as u64));
    verifier.verify_server_cert(&certificate, &[], &name, &[], at).is_ok()
}

#[test]
fn the_first_start_makes_all_that_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let certificates =
        Certificates::open(own(directory.path(), &["Backup.Example.org", "10.1.2.3", "[fd00::1]"]), now())
            .unwrap();
    let authority = certificates.authority_path().unwrap();
    for name in
        default_names().iter().map(String::as_str).chain(["backup.example.org", "10.1.2.3", "fd00::1"])
    {
        handshake(&certificates, &authority, name).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in ["example.org", "10.1.2.4"] {
        assert!(handshake(&certificates, &authority, name).is_err(), "{name}");
    }
    let mode = |name: &str| directory.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("authority-key.pem"), mode("server-key.pem")), (0o600, 0o600));
    assert_eq!((mode("authority.pem"), mode("server.pem")), (0o644, 0o644));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4, "nothing temporary stays");
    assert!(default_names().contains(&String::from("localhost")));

    // Another installation's clients do not trust it.
    let other = tempfile::tempdir().unwrap();
    let stranger = Certificates::open(own(other.path(), &[]), now()).unwrap();
    assert!(handshake(&certificates, &stranger.authority_path().unwrap(), "localhost").is_err());
}

#[test]
fn it_is_kept_until_it_will_not_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let open = |names: &[&str], at| Certificates::open(own(directory.path(), names), at).unwrap();
    open(&["a.example"], now());
    let (authority, server) = (file("authority.pem"), file("server.pem"));
    open(&["a.example"], now());
    open(&[], in_days(limits::CERTIFICATE_DAYS - limits::CERTIFICATE_RENEW_DAYS - 1));
    assert_eq!((file("authority.pem"), file("server.pem")), (authority.clone(), server.clone()));

    open(&["a.example", "b.example"], now());
    let renamed = file("server.pem");
    assert_ne!(renamed, server);
    let late = in_days(limits::CERTIFICATE_DAYS - limits::CERTIFICATE_RENEW_DAYS + 1);
    open(&[], late);
    assert_ne!(file("server.pem"), renamed);
    assert!(trusted_at(&authority, &directory.path().join("server.pem"), late));

    // Broken in any way, it is made anew: it is ours.
    for (name, content) in [
        ("server.pem", "nonsense"),
        ("server-key.pem", ""),
        ("server-key.pem", &String::from_utf8(file("authority-key.pem")).unwrap()),
    ] {
        fs::write(directory.path().join(name), content).unwrap();
        let certificates = open(&[], now());
        handshake(&certificates, &certificates.authority_path().unwrap(), "localhost").unwrap();
    }
    fs::remove_file(directory.path().join("server-key.pem")).unwrap();
    open(&[], now());
    assert_eq!(file("authority.pem"), authority, "through all of it clients trust the same file");
}

#[test]
fn a_running_server_renews() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(own(directory.path(), &[]), now()).unwrap();
    assert!(!certificates.refresh(now()).unwrap());
    let before = fs::read(directory.path().join("server.pem")).unwrap();
    assert!(certificates.refresh(in_days(limits::CERTIFICATE_DAYS)).unwrap());
    assert_ne!(fs::read(directory.path().join("server.pem")).unwrap(), before);
    assert!(!certificates.refresh(in_days(limits::CERTIFICATE_DAYS)).unwrap());
    // On an error the present one goes on.
    fs::write(directory.path().join("authority-key.pem"), "broken").unwrap();
    assert!(certificates.refresh(now()).is_err());
}

#[test]
fn an_old_authority_is_renewed_without_breaking_trust() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    Certificates::open(own(directory.path(), &[]), now()).unwrap();
    let old = fs::read(&authority).unwrap();
    let late = in_days(limits::AUTHORITY_DAYS - limits::AUTHORITY_RENEW_DAYS + 1);
    Certificates::open(own(directory.path(), &[]), late).unwrap();
    let new = fs::read(&authority).unwrap();
    assert_ne!(old, new);
    let server = directory.path().join("server.pem");
    assert!(trusted_at(&old, &server, late) && trusted_at(&new, &server, late));
    Certificates::open(own(directory.path(), &[]), late).unwrap();
    assert_eq!(fs::read(&authority).unwrap(), new, "once");
}

#[test]
fn a_broken_authority_is_never_replaced_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Certificates::open(own(directory.path(), &[]), now());
    let (path, key) = (directory.path().join("authority.pem"), directory.path().join("authority-key.pem"));
    open().unwrap();
    let (good, good_key) = (fs::read(&path).unwrap(), fs::read(&key).unwrap());
    let unusable = |what: &str| match open() {
        Err(TlsError::Unusable { .. }) => {}
        other => panic!("{what}: {:?}", other.map(|_| ())),
    };
    fs::remove_file(&key).unwrap();
    unusable("no key");
    fs::write(&key, "x").unwrap();
    unusable("a broken key");
    fs::copy(directory.path().join("server-key.pem"), &key).unwrap();
    unusable("another's key");
    fs::write(&key, &good_key).unwrap();
    fs::write(&path, "x").unwrap();
    unusable("a broken certificate");
    // The key alone was written when a start was broken off: its certificate is made.
    fs::remove_file(&path).unwrap();
    open().unwrap();
    assert!(
        trusted_at(&good, &directory.path().join("server.pem"), now()),
        "the same key under the same name"
    );
}

#[test]
fn provided_files_are_used_and_read_again() {
    let (first, second, place) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&first, &second] {
        Certificates::open(own(directory.path(), &[]), now()).unwrap();
    }
    let (certificate, key) = (place.path().join("tls.crt"), place.path().join("tls.key"));
    let provide = |from: &Path| {
        fs::copy(from.join("server.pem"), &certificate).unwrap();
        fs::copy(from.join("server-key.pem"), &key).unwrap();
    };
    provide(first.path());
    let source = TlsSource::Files { certificate: certificate.clone(), key: key.clone() };
    let certificates = Certificates::open(source.clone(), now()).unwrap();
    assert_eq!(certificates.authority_path(), None);
    handshake(&certificates, &first.path().join("authority.pem"), "localhost").unwrap();
    assert!(!certificates.refresh(now()).unwrap());
    // Half a change: the old pair stays.
    fs::copy(second.path().join("server.pem"), &certificate).unwrap();
    assert!(matches!(certificates.refresh(now()), Err(TlsError::Unusable { .. })));
    handshake(&certificates, &first.path().join("authority.pem"), "localhost").unwrap();
    provide(second.path());
    assert!(certificates.refresh(now()).unwrap());
    handshake(&certificates, &second.path().join("authority.pem"), "localhost").unwrap();

    fs::write(&certificate, "").unwrap();
    assert!(matches!(Certificates::open(source.clone(), now()), Err(TlsError::Unusable { .. })));
    fs::remove_file(&certificate).unwrap();
    assert!(matches!(Certificates::open(source, now()), Err(TlsError::Io { .. })));
    let names = own(first.path(), &["not a name"]);
    assert!(matches!(Certificates::open(names, now()), Err(TlsError::Make(_))));
}
