//! How a remote store is reached, beside its address and credentials: whose certificates are trusted, and how fast.

use object_store::{Certificate, ClientOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Authorities are a few.
const CA_FILE_MAX_BYTES: u64 = 4 << 20;

/// How a remote store is reached. A directory has no use for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reach {
    /// Certificates of authorities, in PEM, that are trusted in place of the system's. Default: `AWS_CA_BUNDLE`, for S3.
    pub ca_file: Option<PathBuf>,
    /// At most so many requests are begun each second, by this process; default: as many as there are.
    pub requests_per_second: Option<NonZeroU32>,
}

impl Reach {
    /// Client options under which the authorities are trusted, or what is wrong with them. `bundle`: the environment's word.
    pub(super) fn trust(
        &self,
        options: ClientOptions,
        bundle: Option<&Path>,
    ) -> std::result::Result<ClientOptions, String> {
        let Some(path) = self.ca_file.as_deref().or(bundle) else { return Ok(options) };
        let named = format!("the certificates of authorities in {}", path.display());
        let mut pem = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(CA_FILE_MAX_BYTES).read_to_end(&mut pem))
            .map_err(|e| format!("{named} cannot be read: {e}"))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|e| format!("{named} are not right: {e}"))?;
        if found.is_empty() {
            return Err(format!("{named}: there are none; it must be PEM (-----BEGIN CERTIFICATE-----)"));
        }
        let trusting = options.with_no_system_certificates(true);
        Ok(found.into_iter().fold(trusting, ClientOptions::with_root_certificate))
    }

    /// What requests to this store wait for; the same for all who name it in this process.
    pub(super) fn pace(&self, store: &str) -> Option<Arc<Pace>> {
        static PACES: LazyLock<Mutex<Paces>> = LazyLock::new(Mutex::default);
        let rate = self.requests_per_second?;
        let mut paces = PACES.lock();
        Some(paces.entry((store.to_owned(), rate)).or_insert_with(|| Arc::new(Pace::new(rate))).clone())
    }
}

/// By store and rate.
type Paces = HashMap<(String, NonZeroU32), Arc<Pace>>;

/// Lets one after another go, so many a second.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: NonZeroU32) -> Self {
        Self { every: Duration::from_secs(1) / rate.get(), next: Mutex::new(Instant::now()) }
    }

    pub(super) async fn turn(&self) {
        let mine = {
            let mut next = self.next.lock();
            let mine = (*next).max(Instant::now());
            *next = mine + self.every;
            mine
        };
        tokio::time::sleep_until(mine.into()).await;
    }
}
