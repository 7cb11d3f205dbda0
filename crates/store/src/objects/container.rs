//! Containers that whole files are given to: Azure Blob Storage or S3, streamed in parts.
//!
//! Files are sent by [`upload`](super::upload). Parts of one that is not finished are taken away by [`Container::discard`].

use super::error::ObjectError;
use super::kind::{Kind, Op};
use super::limits::{
    LATE_OBJECT_INTERVAL, LATE_OBJECT_WAIT, RETRY_TOTAL, S3_CONNECT_TIMEOUT, S3_READ_TIMEOUT,
    S3_REQUEST_TIMEOUT,
};
use super::location::{check_bucket, use_ring_for_tls};
use super::name::{check_name, check_prefix};
use super::reach::Reach;
use super::remote::{Executor, Remote, RetryLimits};
use super::stop::{Stop, sleep_unless};
use super::transport::{Connector, Dialect};
use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, PutPayload, RetryConfig};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, ObjectError>;

/// A word that is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Which container, and how to reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSettings {
    /// `azure://CONTAINER/PREFIX` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Default: Azure's, or Amazon's.
    pub endpoint: Option<String>,
    /// Azure's account, or S3's access key id.
    pub account: String,
    /// Azure's account key, or S3's secret access key.
    pub key: Secret,
    /// S3's; default `us-east-1`.
    pub region: Option<String>,
    /// Also where the endpoint is not encrypted.
    pub allow_http: bool,
    /// Which servers are trusted besides, and how fast to send.
    pub reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Azure,
    S3,
}

impl ContainerSettings {
    /// Scheme, container and prefix, or what is wrong with them.
    fn parts(&self) -> std::result::Result<(Make, &str, &str), String> {
        let wrong = |why: &str| format!("`{}` is no container: {why}", self.url);
        let (scheme, rest) = self
            .url
            .split_once("://")
            .ok_or_else(|| wrong("give azure://CONTAINER/PREFIX or s3://BUCKET/PREFIX"))?;
        let make = match scheme {
            "azure" => Make::Azure,
            "s3" => Make::S3,
            _ => return Err(wrong("it must begin with azure:// or s3://")),
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(name).map_err(wrong)?;
        let prefix = check_prefix(prefix).map_err(|e| wrong(&e.to_string()))?;
        Ok((make, name, prefix))
    }

    /// What is wrong with them, if anything, as far as can be seen without the key.
    pub fn check(&self) -> std::result::Result<(), String> {
        self.parts()?;
        if self.account.is_empty() {
            return Err(format!("{}: the account is missing", self.url));
        }
        match self.endpoint.as_deref().map(|e| (e, e.split_once("://").map_or("", |(scheme, _)| scheme))) {
            None | Some((_, "https")) => Ok(()),
            Some((_, "http")) if self.allow_http => Ok(()),
            Some((endpoint, "http")) => {
                Err(format!("the endpoint {endpoint} is not encrypted: use https, or say allow_http = true"))
            }
            Some((endpoint, _)) => {
                Err(format!("the endpoint {endpoint} must begin with https:// or http://"))
            }
        }
    }

    /// Options of the client that requests are sent by, or what is wrong with the authorities that it is to trust.
    fn client(&self, make: Make) -> std::result::Result<ClientOptions, String> {
        use_ring_for_tls();
        let client = ClientOptions::new()
            .with_connect_timeout(S3_CONNECT_TIMEOUT)
            .with_read_timeout(S3_READ_TIMEOUT)
            .with_timeout(S3_REQUEST_TIMEOUT)
            .with_allow_http(self.allow_http);
        let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty() && make == Make::S3);
        self.reach
            .trust(client, bundle.as_deref().map(std::path::Path::new))
            .map_err(|why| format!("{}: {why}", self.url))
    }

    /// Where its objects are, to be shown.
    pub fn shown(&self) -> std::result::Result<ContainerAddress, String> {
        let (make, name, prefix) = self.parts()?;
        let base = match (make, &self.endpoint) {
            (_, Some(endpoint)) => format!("{}/{name}", endpoint.trim_end_matches('/')),
            (Make::Azure, None) => format!("https://{}.blob.core.windows.net/{name}", self.account),
            (Make::S3, None) => {
                let region = self.region.as_deref().unwrap_or(DEFAULT_REGION);
                format!("https://{name}.s3.{region}.amazonaws.com")
            }
        };
        Ok(ContainerAddress { container: name.to_owned(), base, prefix: prefix.to_owned() })
    }
}

/// Where a container's objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerAddress {
    /// Its name, without where it is.
    pub container: String,
    /// The container as browsers have it, without a slash at the end.
    pub base: String,
    /// What its objects' names begin with, without slashes at its ends; may be empty.
    pub prefix: String,
}

const DEFAULT_REGION: &str = "us-east-1";

/// Whether whoever waits has been told to stop.
pub(super) type ToldToStop = Arc<dyn Fn() -> bool + Send + Sync>;

/// What both kinds of store can do.
pub(super) trait Parts: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Parts for T {}

/// An open container. Requests that fail in a way that may pass are tried again until a limit, or until told to stop.
#[derive(Clone)]
pub struct Container {
    pub(super) remote: Arc<Remote>,
    pub(super) store: Arc<dyn Parts>,
    make: Make,
    prefix: String,
    pub(super) stop: ToldToStop,
    patience: Duration,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("location", &self.remote.location).finish_non_exhaustive()
    }
}

impl Container {
    /// Opens a container, without asking it anything yet. `stop` ends long waits. `Err`: what is wrong with the settings.
    pub fn open(
        settings: &ContainerSettings,
        stop: impl Fn() -> bool + Send + Sync + 'static,
    ) -> std::result::Result<Self, String> {
        settings.check()?;
        let (make, name, prefix) = settings.parts()?;
        if settings.key.0.is_empty() {
            return Err(format!("{}: its key is missing", settings.url));
        }
        let client = settings.client(make)?;
        let pace = settings.reach.pace(&settings.shown()?.base);
        // Trying again is done here, where somebody may want it to stop.
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store: Arc<dyn Parts> = match make {
            Make::Azure => {
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_http_connector(Connector { dialect: Dialect::Azure, pace })
                    .with_client_options(client)
                    .with_retry(once)
                    .with_container_name(name)
                    .with_account(&settings.account)
                    .with_access_key(&settings.key.0);
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
                }
                let built = builder.build();
                Arc::new(built.map_err(|_| format!("{}: the key is not one of Azure's", settings.url))?)
            }
            Make::S3 => {
                let mut builder = AmazonS3Builder::new()
                    .with_http_connector(Connector { dialect: Dialect::S3, pace })
                    .with_disable_bulk_delete(true)
                    .with_client_options(client)
                    .with_retry(once)
                    .with_bucket_name(name)
                    .with_region(settings.region.as_deref().unwrap_or(DEFAULT_REGION))
                    .with_access_key_id(&settings.account)
                    .with_secret_access_key(&settings.key.0);
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                Arc::new(builder.build().map_err(|e| e.to_string())?)
            }
        };
        let executor = Executor::own().map_err(|e| format!("starting threads: {e}"))?;
        let remote = Remote {
            // What was begun must be taken away again: a single request is waited for to its end.
            stop: Stop::new(),
            store: store.clone(),
            executor,
            retry: RetryLimits::NONE,
            location: settings.url.trim_end_matches('/').to_owned(),
            hardships: std::sync::atomic::AtomicU64::new(0),
            pulse: Arc::default(),
        };
        Ok(Self {
            remote: Arc::new(remote),
            store,
            make,
            prefix: prefix.to_owned(),
            stop: Arc::new(stop),
            patience: RETRY_TOTAL,
        })
    }

    /// The same, trying again only for so long.
    pub fn patient(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// The same, for taking away what was sent: it does not stop, but is tried again only for so long.
    pub fn cleaning(&self, patience: Duration) -> Self {
        Self { stop: Arc::new(|| false), patience, ..self.clone() }
    }

    pub(super) fn name(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    pub(super) fn path(&self, op: Op, name: &str) -> Result<Path> {
        let name = self.name(name);
        check_name(&name)
            .map_err(|e| ObjectError::new(Kind::Invalid, op, &name, &self.remote.location, e))?;
        Ok(Path::from(name))
    }

    pub(super) fn error(&self, op: Op, name: &str, error: object_store::Error) -> ObjectError {
        ObjectError::from_store(op, &self.name(name), &self.remote.location, error)
    }

    /// Tries until it works, fails for good, or has taken too long.
    pub(super) fn patiently<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            let error = match work() {
                Err(error) if error.kind == Kind::Transient => error,
                other => return other,
            };
            if !self.may_try_again(began, attempt) {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// Pauses before the next attempt; not if there is to be none.
    pub(super) fn may_try_again(&self, began: Instant, attempt: u32) -> bool {
        let pause = RetryLimits::default().pause(attempt);
        if began.elapsed() + pause > self.patience {
            return false;
        }
        sleep_unless(&*self.stop, pause)
    }

    /// One cheap request that fails if the container, the key or the endpoint are wrong.
    pub fn probe(&self) -> Result<()> {
        self.patiently(|| self.remote.probe())
    }

    /// A small object, at once.
    pub fn put(&self, name: &str, bytes: &Bytes) -> Result<()> {
        let name = self.name(name);
        self.patiently(|| self.remote.put(&name, bytes, Op::Put))
    }

    /// How long an object is; none if it is not there.
    pub fn size_bytes(&self, name: &str) -> Result<Option<u64>> {
        let name = self.name(name);
        self.patiently(|| Ok(self.remote.head(&name)?.map(|info| info.size_bytes)))
    }

    /// Deletes everything below a directory.
    pub fn delete_all(&self, directory: &str) -> Result<()> {
        let directory = self.name(directory);
        self.patiently(|| {
            let mut names = Vec::new();
            self.remote.for_each(&directory, &mut |info| {
                names.push(info.name);
                ControlFlow::Continue(())
            })?;
            self.remote.delete_many(&names.iter().map(String::as_str).collect::<Vec<_>>())
        })
    }

    /// Takes away what is there of an object, finished or not. Fine if there is nothing.
    pub fn discard(&self, name: &str, id: &str) -> Result<()> {
        if self.take_back(name, id)? {
            return Ok(());
        }
        // The upload is over: either its object has just been deleted, or the server, which was told to put it together
        // by someone who has gone since, is still about it.
        let began = Instant::now();
        while began.elapsed() < LATE_OBJECT_WAIT {
            std::thread::sleep(LATE_OBJECT_INTERVAL);
            if self.size_bytes(name)?.is_some() {
                return self.patiently(|| self.remote.delete_many(&[&self.name(name)]));
            }
        }
        Ok(())
    }

    /// Whether that was all: false where the server knew nothing of the upload any more, and there was no object.
    fn take_back(&self, name: &str, id: &str) -> Result<bool> {
        let path = self.path(Op::Delete, name)?;
        let mut was_all = false;
        self.patiently(|| {
            let aborted = match self.make {
                Make::S3 => {
                    let (store, path, id) = (self.store.clone(), path.clone(), id.to_owned());
                    self.remote.attempt(async move { store.abort_multipart(&path, &id).await })
                }
                // Azure has no such call; writing the blob in one piece drops the blocks that were sent for it.
                Make::Azure => {
                    let (store, path) = (self.store.clone(), path.clone());
                    let empty = PutPayload::from(Bytes::new());
                    self.remote
                        .attempt(async move { store.put_opts(&path, empty, Default::default()).await })
                        .map(|_| ())
                }
            };
            match aborted.map_err(|e| self.error(Op::Delete, name, e)) {
                Err(e) if e.kind == Kind::NotFound => {}
                // Some servers deny what they do not know.
                Err(error) if error.kind == Kind::Denied && self.make == Make::S3 => {
                    tracing::debug!(%error, "an upload could not be taken back; it may be over");
                }
                Err(error) => return Err(error),
                Ok(()) => was_all = true,
            }
            let name = self.name(name);
            was_all = was_all || self.remote.head(&name)?.is_some();
            self.remote.delete_many(&[&name])
        })?;
        Ok(was_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> ContainerSettings {
        ContainerSettings {
            url: url.into(),
            account: "account".into(),
            key: Secret("aHVzaA==".into()),
            ..ContainerSettings::default()
        }
    }

    #[test]
    fn settings_that_cannot_be_right_say_why_and_show_no_key() {
        let opened = |s: &ContainerSettings| Container::open(s, || false).map(|_| ());
        assert_eq!(opened(&settings("azure://restores/a/b")), Ok(()));
        assert_eq!(opened(&settings("s3://restores")), Ok(()));
        let http = |allow_http| ContainerSettings {
            endpoint: Some("http://127.0.0.1:1".into()),
            allow_http,
            ..settings("s3://restores")
        };
        assert_eq!(opened(&http(true)), Ok(()));
        let no_base64 = ContainerSettings { key: Secret("hush!".into()), ..settings("azure://restores") };
        for (settings, why) in [
            (settings("restores"), "azure://CONTAINER"),
            (settings("gs://restores"), "must begin with"),
            (settings("s3://Upper"), "lower-case"),
            (settings("s3://restores/../x"), "starts with a dot"),
            (ContainerSettings { account: String::new(), ..settings("s3://restores") }, "account is missing"),
            (ContainerSettings { key: Secret::default(), ..settings("s3://restores") }, "key is missing"),
            (http(false), "allow_http"),
            (
                ContainerSettings { endpoint: Some("host".into()), ..settings("s3://restores") },
                "must begin with https",
            ),
            (no_base64, "the key is not one of Azure's"),
        ] {
            let message = opened(&settings).unwrap_err();
            assert!(message.contains(why), "{message}");
            assert!(!message.contains("hush") && !format!("{settings:?}").contains("hush"), "{message}");
        }
    }

    #[test]
    fn addresses_are_shown_as_browsers_have_them() {
        let shown = |s: ContainerSettings| s.shown().unwrap();
        assert_eq!(
            shown(settings("azure://restores/a")),
            ContainerAddress {
                container: "restores".into(),
                base: "https://account.blob.core.windows.net/restores".into(),
                prefix: "a".into()
            }
        );
        assert_eq!(
            shown(settings("s3://restores")).base,
            "https://restores.s3.us-east-1.amazonaws.com".to_owned()
        );
        let own =
            ContainerSettings { endpoint: Some("https://host:9000/".into()), ..settings("s3://bucket/x/") };
        assert_eq!(shown(own).base, "https://host:9000/bucket");
    }
}
