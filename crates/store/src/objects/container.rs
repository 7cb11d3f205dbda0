//! Containers that whole files are given to: Azure Blob Storage or S3, streamed in parts.
//!
//! Nothing of a file is visible before [`Upload::finish`]; parts of one that is not finished are taken away by
//! [`Container::discard`], also after a crash, by the id that [`Upload::id`] had. What is sent is held in memory only
//! while it is on its way, within a fixed bound; holes are sent without being held at all.

use super::error::{ObjectError, classify};
use super::kind::{Kind, Op};
use super::limits::{
    LATE_OBJECT_INTERVAL, LATE_OBJECT_WAIT, PART_BUFFER_BYTES, PART_MAX_BYTES, PART_MIN_BYTES, PARTS_AT_ONCE,
    PARTS_END_PATIENCE, PARTS_MAX, RETRY_TOTAL, S3_CONNECT_TIMEOUT, S3_READ_TIMEOUT, S3_REQUEST_TIMEOUT,
    STOP_LOOK_INTERVAL,
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
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, PutPayload, RetryConfig};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, ObjectError>;
type StoreResult<T> = std::result::Result<T, object_store::Error>;

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
type ToldToStop = Arc<dyn Fn() -> bool + Send + Sync>;

/// What both kinds of store can do.
trait Parts: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Parts for T {}

/// An open container. Requests that fail in a way that may pass are tried again until a limit, or until told to stop.
#[derive(Clone)]
pub struct Container {
    remote: Arc<Remote>,
    store: Arc<dyn Parts>,
    make: Make,
    prefix: String,
    stop: ToldToStop,
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
        use_ring_for_tls();
        let client = ClientOptions::new()
            .with_connect_timeout(S3_CONNECT_TIMEOUT)
            .with_read_timeout(S3_READ_TIMEOUT)
            .with_timeout(S3_REQUEST_TIMEOUT)
            .with_allow_http(settings.allow_http);
        let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty() && make == Make::S3);
        let client = settings
            .reach
            .trust(client, bundle.as_deref().map(std::path::Path::new))
            .map_err(|why| format!("{}: {why}", settings.url))?;
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

    fn name(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    fn path(&self, op: Op, name: &str) -> Result<Path> {
        let name = self.name(name);
        check_name(&name)
            .map_err(|e| ObjectError::new(Kind::Invalid, op, &name, &self.remote.location, e))?;
        Ok(Path::from(name))
    }

    fn error(&self, op: Op, name: &str, error: object_store::Error) -> ObjectError {
        ObjectError::from_store(op, &self.name(name), &self.remote.location, error)
    }

    /// Tries until it works, fails for good, or has taken too long.
    fn patiently<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
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
    fn may_try_again(&self, began: Instant, attempt: u32) -> bool {
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

    /// Begins an object of exactly this size.
    pub fn upload(&self, name: &str, size_bytes: u64) -> Result<Upload> {
        let path = self.path(Op::Put, name)?;
        let part_bytes = size_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART_MIN_BYTES);
        if part_bytes > PART_MAX_BYTES {
            let most = PART_MAX_BYTES * PARTS_MAX;
            let why =
                format!("{size_bytes} bytes are more than the {most} that a container takes in one object");
            return Err(ObjectError::new(
                Kind::TooLarge,
                Op::Put,
                &self.name(name),
                &self.remote.location,
                why,
            ));
        }
        let id = self.patiently(|| {
            let (store, path) = (self.store.clone(), path.clone());
            let made = self.remote.attempt(async move { store.create_multipart(&path).await });
            made.map_err(|e| self.error(Op::Put, name, e))
        })?;
        Ok(Upload {
            container: self.clone(),
            name: name.to_owned(),
            path,
            id,
            size_bytes,
            part_bytes,
            at_once: ((PART_BUFFER_BYTES / part_bytes) as usize).clamp(1, PARTS_AT_ONCE),
            taken_bytes: 0,
            sent_bytes: 0,
            filling: Vec::new(),
            filling_bytes: 0,
            under_way: VecDeque::new(),
            parts: Vec::new(),
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

/// Zeroes that are sent again and again.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// A part on its way.
struct Sending {
    index: usize,
    length_bytes: u64,
    payload: PutPayload,
    began: Instant,
    attempt: u32,
    answer: mpsc::Receiver<StoreResult<PartId>>,
}

/// An object being sent, from its beginning to its end.
pub struct Upload {
    container: Container,
    name: String,
    path: Path,
    id: String,
    size_bytes: u64,
    part_bytes: u64,
    at_once: usize,
    /// Given to us.
    taken_bytes: u64,
    /// Taken by the server.
    sent_bytes: u64,
    filling: Vec<Bytes>,
    filling_bytes: u64,
    under_way: VecDeque<Sending>,
    parts: Vec<Option<PartId>>,
}

impl Upload {
    /// What [`Container::discard`] wants.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As it was given to [`Container::upload`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How much of it the server has.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The next bytes. Waits while too many are on their way.
    pub fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            let room = (self.part_bytes - self.filling_bytes).min(bytes.len() as u64);
            self.filling.push(bytes.split_to(room as usize));
            self.filling_bytes += room;
            self.taken_bytes += room;
            if self.filling_bytes == self.part_bytes {
                self.send_part()?;
            }
        }
        Ok(())
    }

    /// The next bytes, which are zeroes.
    pub fn write_zeroes(&mut self, length_bytes: u64) -> Result<()> {
        let mut left = length_bytes;
        while left > 0 {
            let now = left.min(ZEROES.len() as u64);
            self.write(Bytes::from_static(&ZEROES[..now as usize]))?;
            left -= now;
        }
        Ok(())
    }

    fn send_part(&mut self) -> Result<()> {
        while self.under_way.len() >= self.at_once {
            self.wait_for_one()?;
        }
        let payload = PutPayload::from_iter(self.filling.drain(..));
        let length_bytes = std::mem::take(&mut self.filling_bytes);
        let index = self.parts.len();
        self.parts.push(None);
        let answer = self.begin(index, payload.clone());
        self.under_way.push_back(Sending {
            index,
            length_bytes,
            payload,
            began: Instant::now(),
            attempt: 0,
            answer,
        });
        Ok(())
    }

    fn begin(&self, index: usize, payload: PutPayload) -> mpsc::Receiver<StoreResult<PartId>> {
        let (store, path, id) = (self.container.store.clone(), self.path.clone(), self.id.clone());
        self.container.remote.executor.begin(async move { store.put_part(&path, &id, index, payload).await })
    }

    /// Waits for the oldest part on its way, sending it again if need be.
    fn wait_for_one(&mut self) -> Result<()> {
        let Some(mut part) = self.under_way.pop_front() else { return Ok(()) };
        loop {
            let error = match part.answer.recv_timeout(STOP_LOOK_INTERVAL) {
                Ok(Ok(id)) => {
                    self.parts[part.index] = Some(id);
                    self.sent_bytes += part.length_bytes;
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(mpsc::RecvTimeoutError::Timeout) if !(self.container.stop)() => continue,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // Still on its way: whoever takes it back waits for it.
                    self.under_way.push_front(part);
                    return Err(self.container.error(Op::Put, &self.name, generic("it was told to stop")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => generic("the task that sent a part died"),
            };
            let passes = classify(&error) == Kind::Transient;
            if !passes || !self.container.may_try_again(part.began, part.attempt) {
                return Err(self.container.error(Op::Put, &self.name, error));
            }
            tracing::debug!(name = self.name, part = part.index, %error, "sending a part again");
            part.attempt += 1;
            part.answer = self.begin(part.index, part.payload.clone());
        }
    }

    /// Returns when all was taken by the server. The object is not visible yet.
    pub fn flush(&mut self) -> Result<()> {
        if self.taken_bytes != self.size_bytes {
            let why = format!("{} of its {} bytes were written", self.taken_bytes, self.size_bytes);
            return Err(self.container.error(Op::Put, &self.name, generic(&why)));
        }
        // An empty object has one part, too.
        if self.filling_bytes > 0 || self.parts.is_empty() {
            self.send_part()?;
        }
        while !self.under_way.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    /// The object is there from now on, with all its bytes.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let parts: Option<Vec<PartId>> = self.parts.iter().cloned().collect();
        let parts = parts
            .ok_or_else(|| self.container.error(Op::Put, &self.name, generic("a part of it was not sent")))?;
        let mut again = false;
        self.container.patiently(|| {
            let (store, path, id) = (self.container.store.clone(), self.path.clone(), self.id.clone());
            let parts = parts.clone();
            let done = self
                .container
                .remote
                .attempt(async move { store.complete_multipart(&path, &id, parts).await });
            let error = match done {
                Ok(_) => return Ok(()),
                Err(error) => self.container.error(Op::Put, &self.name, error),
            };
            // The attempt before may have done it unseen.
            if std::mem::replace(&mut again, true)
                && error.kind != Kind::Transient
                && self.container.size_bytes(&self.name)? == Some(self.size_bytes)
            {
                return Ok(());
            }
            Err(error)
        })?;
        let there = self.container.size_bytes(&self.name)?;
        if there != Some(self.size_bytes) {
            let there = there.map_or("it is not there".to_owned(), |size| format!("it has {size} bytes"));
            let why = format!("after {} bytes were sent {there}", self.size_bytes);
            return Err(self.container.error(Op::Put, &self.name, generic(&why)));
        }
        Ok(())
    }
}

impl Drop for Upload {
    /// Parts that are on their way come to an end first: one that arrives after it was all taken away would be left.
    fn drop(&mut self) {
        let until = Instant::now() + PARTS_END_PATIENCE;
        for part in self.under_way.drain(..) {
            let _ = part.answer.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

fn generic(why: &str) -> object_store::Error {
    object_store::Error::Generic { store: "container", source: why.to_owned().into() }
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
