//! Containers that whole files are given to: Azure Blob Storage or S3, streamed in parts.
//!
//! Nothing of a file is visible before [`Upload::finish`]; an [`Upload`] that is dropped is taken back. Killed, it leaves parts that
//! nobody sees: Azure forgets them after a week, an S3 bucket by its lifecycle rule.

use super::error::{ObjectError, Op};
use super::limits::{
    PART_MIN_BYTES, PARTS_AT_ONCE, PARTS_MAX, S3_CONNECT_TIMEOUT, S3_READ_TIMEOUT, S3_REQUEST_TIMEOUT,
};
use super::location::use_ring_for_tls;
use super::remote::{Executor, Remote, RetryLimits};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};

type Result<T> = std::result::Result<T, ObjectError>;

/// A word that is not shown.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
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
}

/// An open container.
#[derive(Debug, Clone)]
pub struct Container(Arc<Remote>, Path);

impl Container {
    /// Opens a container, without asking it anything yet. `Err`: what is wrong with the settings.
    pub fn open(settings: &ContainerSettings) -> std::result::Result<Self, String> {
        let (scheme, rest) = settings.url.split_once("://").ok_or_else(|| {
            format!("`{}` is no container: give azure://CONTAINER/PREFIX or s3://BUCKET/PREFIX", settings.url)
        })?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() || settings.account.is_empty() || settings.key.0.is_empty() {
            return Err(format!("{}: the container's name, its account or its key is missing", settings.url));
        }
        if let Some(endpoint) = &settings.endpoint {
            match endpoint.split_once("://").map(|(scheme, _)| scheme) {
                Some("https") => {}
                Some("http") if settings.allow_http => {}
                Some("http") => {
                    return Err(format!(
                        "the endpoint {endpoint} is not encrypted: use https, or say allow_http"
                    ));
                }
                _ => return Err(format!("the endpoint {endpoint} must begin with https:// or http://")),
            }
        }
        use_ring_for_tls();
        let client = ClientOptions::new()
            .with_connect_timeout(S3_CONNECT_TIMEOUT)
            .with_read_timeout(S3_READ_TIMEOUT)
            .with_timeout(S3_REQUEST_TIMEOUT)
            .with_allow_http(settings.allow_http);
        let store: Arc<dyn ObjectStore> = match scheme {
            "azure" => {
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_client_options(client)
                    .with_container_name(name)
                    .with_account(&settings.account)
                    .with_access_key(&settings.key.0);
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
                }
                Arc::new(builder.build().map_err(|e| e.to_string())?)
            }
            "s3" => {
                let mut builder = AmazonS3Builder::new()
                    .with_client_options(client)
                    .with_bucket_name(name)
                    .with_region(settings.region.as_deref().unwrap_or("us-east-1"))
                    .with_access_key_id(&settings.account)
                    .with_secret_access_key(&settings.key.0);
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                Arc::new(builder.build().map_err(|e| e.to_string())?)
            }
            other => return Err(format!("the scheme {other:?} is not supported: azure or s3")),
        };
        let executor = Executor::own().map_err(|e| format!("starting threads: {e}"))?;
        // The client tries again by itself.
        let remote = Remote { store, executor, retry: RetryLimits::NONE, location: settings.url.clone() };
        Ok(Self(Arc::new(remote), Path::from(prefix)))
    }

    fn path(&self, name: &str) -> Path {
        let parts = self.1.parts().map(|p| p.as_ref().to_owned());
        let name: Vec<String> = name.split('/').map(str::to_owned).collect();
        Path::from_iter(parts.chain(name))
    }

    fn error(&self, op: Op, name: &str) -> impl Fn(object_store::Error) -> ObjectError {
        let (name, location) = (name.to_owned(), self.0.location.clone());
        move |error| ObjectError::from_store(op, &name, &location, error)
    }

    /// A small object, at once.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let (store, path) = (self.0.store.clone(), self.path(name));
        self.0
            .attempt(async move { store.put(&path, PutPayload::from(bytes)).await.map(|_| ()) })
            .map_err(self.error(Op::Put, name))
    }

    /// A small object's bytes.
    pub fn get(&self, name: &str) -> Result<Bytes> {
        let (store, path) = (self.0.store.clone(), self.path(name));
        self.0
            .attempt(async move { store.get(&path).await?.bytes().await })
            .map_err(self.error(Op::Get, name))
    }

    /// Names below a directory, with their sizes.
    pub fn list(&self, directory: &str) -> Result<Vec<(String, u64)>> {
        let (store, path) = (self.0.store.clone(), self.path(directory));
        let listed = self.0.attempt(async move {
            let metas: Vec<_> = store.list(Some(&path)).try_collect().await?;
            Ok(metas
                .into_iter()
                .filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size)))
                .collect())
        });
        listed.map_err(self.error(Op::List, directory))
    }

    /// Deletes everything below a directory.
    pub fn delete_all(&self, directory: &str) -> Result<()> {
        let (store, path) = (self.0.store.clone(), self.path(directory));
        self.0
            .attempt(async move {
                let paths = store.list(Some(&path)).map_ok(|meta| meta.location).boxed();
                store.delete_stream(paths).try_collect::<Vec<_>>().await.map(|_| ())
            })
            .map_err(self.error(Op::Delete, directory))
    }

    /// Begins an object of about this size.
    pub fn upload(&self, name: &str, size_bytes: u64) -> Result<Upload> {
        let (store, path) = (self.0.store.clone(), self.path(name));
        let upload = self
            .0
            .attempt(async move { store.put_multipart(&path).await })
            .map_err(self.error(Op::Put, name))?;
        let least = size_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
        Ok(Upload {
            container: self.clone(),
            name: name.to_owned(),
            upload: Some(upload),
            part_bytes: PART_MIN_BYTES.max(least) as usize,
            under_way: VecDeque::new(),
        })
    }
}

/// An object being uploaded. Taken back unless it is finished.
pub struct Upload {
    container: Container,
    name: String,
    upload: Option<Box<dyn MultipartUpload>>,
    part_bytes: usize,
    under_way: VecDeque<mpsc::Receiver<std::result::Result<(), object_store::Error>>>,
}

impl Upload {
    /// How long each part but the last is to be.
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Sends the next part; waits while too many are on their way.
    pub fn part(&mut self, bytes: Vec<u8>) -> Result<()> {
        while self.under_way.len() >= PARTS_AT_ONCE {
            self.wait_for_one()?;
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let part = upload.put_part(PutPayload::from(bytes));
        self.under_way.push_back(self.container.0.executor.begin(part));
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<()> {
        let Some(part) = self.under_way.pop_front() else { return Ok(()) };
        let done = part.recv().unwrap_or_else(|_| {
            Err(object_store::Error::Generic {
                store: "objects",
                source: "the task that sent a part died".into(),
            })
        });
        done.map_err(self.container.error(Op::Put, &self.name))
    }

    /// Returns when all parts are there. The object is not visible yet.
    pub fn sent(&mut self) -> Result<()> {
        while !self.under_way.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    /// The object is there from now on.
    pub fn finish(mut self) -> Result<()> {
        self.sent()?;
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        self.container
            .0
            .attempt(async move { upload.complete().await.map(|_| ()) })
            .map_err(self.container.error(Op::Put, &self.name))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.under_way.clear();
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = self.container.0.attempt(async move { upload.abort().await })
        {
            tracing::warn!(name = self.name, %error, "an upload could not be taken back; what is there of it is not visible");
        }
    }
}
