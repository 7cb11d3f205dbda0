//! A real S3 server on a loopback port, for tests: `s3s-fs` over a temporary directory.
//!
//! `s3s-fs` looks whether an object exists before it writes a conditional put, and renames it into place
//! later: two creates at once could both succeed. AWS promises that one fails, so the puts to one
//! key are taken one after the other here. Nor are its directories objects, as they aren't on S3.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::encrypted::Encrypted;
use super::front::{Asked, Front, Refuse};
use crate::objects::Reach;
use crate::objects::location::{Location, s3_client};

/// An error that the server answers with in place of its own answer.
#[derive(Clone, Copy, Debug)]
pub struct ErrorAnswer {
    /// HTTP status.
    pub status: u16,
    /// S3 error code, as in `SlowDown`.
    pub code: &'static str,
    /// Whether the request is carried out all the same.
    pub after_effect: bool,
}

/// How long it takes to write, after it was looked.
const LOOKS_THEN_WRITES: Duration = Duration::from_millis(200);

type Denied = Arc<parking_lot::Mutex<Option<&'static str>>>;
type Answers = Arc<parking_lot::Mutex<VecDeque<ErrorAnswer>>>;

/// A running S3 server with one bucket; stops and forgets everything when dropped.
pub struct S3Server {
    address: SocketAddr,
    answers: Answers,
    ignores_conditions: Arc<AtomicBool>,
    looks_then_writes: Arc<AtomicBool>,
    denied: Denied,
    front: Arc<Front>,
    encrypted: Option<Encrypted>,
    runtime: Option<Runtime>,
    directory: PathBuf,
    _root: Option<TempDir>,
}

impl S3Server {
    /// The access key it takes.
    pub const ACCESS_KEY_ID: &'static str = "test-access-key";
    /// The secret key it takes.
    pub const SECRET_ACCESS_KEY: &'static str = "test-secret-key";
    /// The bucket that is there.
    pub const BUCKET: &'static str = "vaults";

    /// Starts a server on a free loopback port.
    ///
    /// # Panics
    /// When it can't: a test has nothing else to do.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same over TLS, with a certificate of an authority of its own.
    ///
    /// # Panics
    /// When it can't.
    pub fn start_encrypted() -> Self {
        Self::start_with(Some(Encrypted::new()))
    }

    fn start_with(encrypted: Option<Encrypted>) -> Self {
        let root = tempfile::tempdir().expect("a directory for the S3 server");
        std::fs::create_dir(root.path().join(Self::BUCKET)).expect("the bucket's directory");
        let mut server = Self::begin(root.path(), 0, encrypted);
        server._root = Some(root);
        server
    }

    /// Starts a server over a directory whose directories are buckets, on this loopback port.
    ///
    /// # Panics
    /// When it can't.
    pub fn start_at(root: &std::path::Path, port: u16) -> Self {
        Self::begin(root, port, None)
    }

    fn begin(root: &std::path::Path, port: u16, encrypted: Option<Encrypted>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .expect("a runtime for the S3 server");
        let files = FileSystem::new(root).expect("the S3 server's file system");
        let answers = Answers::default();
        let ignores_conditions = Arc::<AtomicBool>::default();
        let looks_then_writes = Arc::<AtomicBool>::default();
        let denied = Denied::default();
        let mut service = S3ServiceBuilder::new(Serialised {
            answers: answers.clone(),
            ignores_conditions: ignores_conditions.clone(),
            looks_then_writes: looks_then_writes.clone(),
            denied: denied.clone(),
            inner: Arc::new(files),
            root: root.to_owned(),
            keys: tokio::sync::Mutex::default(),
        });
        service.set_auth(SimpleAuth::from_single(Self::ACCESS_KEY_ID, Self::SECRET_ACCESS_KEY));
        let service = service.build();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).expect("a loopback port");
        let address = listener.local_addr().expect("the port's address");
        let front = Arc::<Front>::default();
        let (in_front, acceptor) = (front.clone(), encrypted.as_ref().map(Encrypted::acceptor));
        let answers_to = service_fn(move |request| {
            let (front, service) = (in_front.clone(), service.clone());
            async move { front.answer(&service, request).await }
        });
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answers_to, acceptor) = (answers_to.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    match acceptor {
                        None => drop(http.serve_connection(TokioIo::new(socket), answers_to).await),
                        Some(acceptor) => {
                            let Ok(socket) = acceptor.accept(socket).await else { return };
                            drop(http.serve_connection(TokioIo::new(socket), answers_to).await);
                        }
                    }
                });
            }
        });
        S3Server {
            address,
            answers,
            ignores_conditions,
            looks_then_writes,
            denied,
            front,
            encrypted,
            runtime: Some(runtime),
            directory: root.to_owned(),
            _root: None,
        }
    }

    /// The next requests are answered with these errors, one each.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = ErrorAnswer>) {
        self.answers.lock().extend(answers);
    }

    /// From here on puts are carried out whatever they were made conditional on, as some servers do (Garage 2).
    pub fn ignore_conditions(&self) {
        self.ignores_conditions.store(true, Ordering::Relaxed);
    }

    /// From here on puts look whether there is an object, and write a while later, as some servers do (SeaweedFS 4.16).
    pub fn look_then_write(&self) {
        self.looks_then_writes.store(true, Ordering::Relaxed);
    }

    /// As before.
    pub fn honour_conditions(&self) {
        self.ignores_conditions.store(false, Ordering::Relaxed);
    }

    /// From here on nothing can be put that has this in its name, as where a bucket's policy denies it; nothing is denied for
    /// `None`.
    pub fn deny_puts(&self, of: Option<&'static str>) {
        *self.denied.lock() = of;
    }

    /// From here on requests for which `rule` has an answer are refused with it, before the server sees them.
    pub fn refuse(&self, rule: impl Fn(&Asked) -> Option<Refuse> + Send + Sync + 'static) {
        self.front.refuse(Some(Box::new(rule)));
    }

    /// As before.
    pub fn refuse_nothing(&self) {
        self.front.refuse(None);
    }

    /// From here on requests like these are taken and never answered.
    pub fn hang_on(&self, these: impl Fn(&Asked) -> bool + Send + Sync + 'static) {
        self.front.hang(Some(Box::new(these)));
    }

    /// As before.
    pub fn hang_no_more(&self) {
        self.front.hang(None);
    }

    /// The requests that came since this was asked last.
    pub fn take_asked(&self) -> Vec<Asked> {
        self.front.take_asked()
    }

    /// The certificate of its authority in PEM, of a server that is encrypted.
    ///
    /// # Panics
    /// When it is not.
    pub fn authority_file(&self) -> &std::path::Path {
        self.encrypted.as_ref().expect("an encrypted server").authority_file()
    }

    /// `http://127.0.0.1:port`, or with `https`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.encrypted.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The environment variables that lead a client here.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY_ID.into()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_ACCESS_KEY.into()),
        ]
    }

    /// Names of all objects below a prefix of the bucket.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        use crate::objects::{BlobStore, OpenOptions};
        let store = BlobStore::from_object_store(self.client(prefix), "test", OpenOptions::default());
        let listed = store.and_then(|store| store.list("")).expect("the bucket's objects");
        listed.into_iter().map(|info| info.name).collect()
    }

    /// How many uploads were begun and neither finished nor given up.
    ///
    /// # Panics
    /// When its directory cannot be read.
    pub fn open_uploads(&self) -> usize {
        let files = std::fs::read_dir(&self.directory).expect("the S3 server's directory");
        let names = files.flatten().map(|file| file.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".upload-")).count()
    }

    /// `s3://vaults/prefix`.
    pub fn location(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", Self::BUCKET)
    }

    /// A client for names below `prefix`, without touching the environment.
    ///
    /// # Panics
    /// When it can't be set up.
    pub fn client(&self, prefix: &str) -> Arc<dyn ObjectStore> {
        let location = Location::S3 { bucket: Self::BUCKET.into(), prefix: String::new() };
        let variables = self.environment().into_iter().map(|(name, value)| (name.to_owned(), value));
        let ca_file = self.encrypted.as_ref().map(|encrypted| encrypted.authority_file().to_owned());
        let reach = Reach { ca_file, ..Reach::default() };
        let client = s3_client(&location, Self::BUCKET, variables, &reach).expect("an S3 client");
        Arc::new(PrefixStore::new(client, prefix))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The file server with puts to one key taken in turn.
struct Serialised {
    answers: Answers,
    ignores_conditions: Arc<AtomicBool>,
    looks_then_writes: Arc<AtomicBool>,
    denied: Denied,
    inner: Arc<FileSystem>,
    root: PathBuf,
    keys: tokio::sync::Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Serialised {
    /// Carries a request out, unless the next planned answer says otherwise.
    async fn answered<T>(&self, work: impl Future<Output = S3Result<T>>) -> S3Result<T> {
        let Some(answer) = self.answers.lock().pop_front() else {
            return work.await;
        };
        if answer.after_effect {
            work.await?;
        }
        let mut error = S3Error::new(S3ErrorCode::Custom(answer.code.into()));
        error.set_status_code(answer.status.try_into().map_err(S3Error::internal_error)?);
        Err(error)
    }

    /// Reads what comes with a request that is to be refused. Answered before that, its client may see a connection that breaks
    /// off in place of the answer, and tries again.
    async fn read_what_is_refused(&self, body: &mut Option<StreamingBlob>) {
        if self.answers.lock().front().is_some_and(|answer| !answer.after_effect) {
            read_all(body).await;
        }
    }

    fn check_is_no_directory(&self, bucket: &str, key: &str) -> S3Result<()> {
        match self.root.join(bucket).join(key).is_dir() {
            true => Err(s3_error!(NoSuchKey)),
            false => Ok(()),
        }
    }

    async fn key(&self, bucket: &str, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().await;
        keys.retain(|_, lock| lock.strong_count() > 0);
        let entry = keys.entry(format!("{bucket}/{key}")).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let lock = Arc::default();
            *entry = Arc::downgrade(&lock);
            lock
        })
    }
}

async fn read_all(body: &mut Option<StreamingBlob>) {
    if let Some(mut body) = body.take() {
        while let Some(Ok(_)) = body.next().await {}
    }
}

#[async_trait::async_trait]
impl S3 for Serialised {
    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        if self.ignores_conditions.load(Ordering::Relaxed) {
            request.input.if_none_match = None;
            request.input.if_match = None;
        }
        if self.looks_then_writes.load(Ordering::Relaxed) && request.input.if_none_match.take().is_some() {
            if self.root.join(&request.input.bucket).join(&request.input.key).exists() {
                read_all(&mut request.input.body).await;
                return Err(s3_error!(PreconditionFailed));
            }
            tokio::time::sleep(LOOKS_THEN_WRITES).await;
            return self.inner.put_object(request).await;
        }
        let is_denied = self.denied.lock().is_some_and(|part| request.input.key.contains(part));
        let lock = self.key(&request.input.bucket, &request.input.key).await;
        let _turn = lock.lock().await;
        if is_denied {
            read_all(&mut request.input.body).await;
            return Err(s3_error!(AccessDenied));
        }
        self.read_what_is_refused(&mut request.input.body).await;
        self.answered(self.inner.put_object(request)).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.check_is_no_directory(&request.input.bucket, &request.input.key)?;
        self.answered(self.inner.get_object(request)).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check_is_no_directory(&request.input.bucket, &request.input.key)?;
        self.answered(self.inner.head_object(request)).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.answered(self.inner.head_bucket(request)).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let lock = self.key(&request.input.bucket, &request.input.key).await;
        let _turn = lock.lock().await;
        self.answered(self.inner.delete_object(request)).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.answered(self.inner.delete_objects(request)).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.answered(self.inner.create_multipart_upload(request)).await
    }

    async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.read_what_is_refused(&mut request.input.body).await;
        self.answered(self.inner.upload_part(request)).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        // It is done whole, also for a client that has gone meanwhile, as S3 does it.
        let inner = self.inner.clone();
        let work = async move {
            let done = tokio::spawn(async move { inner.complete_multipart_upload(request).await }).await;
            done.unwrap_or_else(|e| Err(S3Error::internal_error(e)))
        };
        self.answered(work).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.answered(self.inner.abort_multipart_upload(request)).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.answered(self.inner.list_objects_v2(request)).await
    }
}
