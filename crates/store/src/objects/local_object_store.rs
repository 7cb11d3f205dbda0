//! [`DurableLocal`] behind the [`ObjectStore`] trait, for wrappers and the conformance suite.
//!
//! Every call runs the blocking method on a tokio blocking thread. Left out, with an error that says so:
//! multipart uploads (packs are written whole), conditional update, attributes and versions.

use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::ObjectInfo;
use super::durable_local::DurableLocal;
use super::error::LocalIo;
use super::limits::{LIST_PAGE_NAMES, MAX_OBJECT_BYTES};
use super::local_fs::Existing;

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root().display())
    }
}

fn unsupported<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented { operation: operation.into(), implementer: "DurableLocal".into() })
}

fn meta(info: ObjectInfo) -> ObjectMeta {
    ObjectMeta {
        // Names are checked to be of characters that a Path takes as they are.
        location: Path::from(info.name),
        last_modified: info.last_modified.into(),
        size: info.size_bytes,
        e_tag: None,
        version: None,
    }
}

impl DurableLocal {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DurableLocal) -> std::result::Result<T, LocalIo> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        Ok(tokio::task::spawn_blocking(move || work(&store)).await??)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let existing = match opts.mode {
            PutMode::Create => Existing::Keep,
            PutMode::Overwrite => Existing::Replace,
            PutMode::Update(_) => return unsupported("put with PutMode::Update"),
        };
        if !opts.attributes.is_empty() {
            return unsupported("put with attributes");
        }
        let name = location.to_string();
        let parts: Vec<Bytes> = payload.iter().cloned().collect();
        self.blocking(move |store| store.put(&name, &parts, existing)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unsupported("multipart upload")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let name = location.to_string();
        let (file, info, path) = self
            .blocking(move |store| {
                let (file, size_bytes, path) = store.open_object(&name)?;
                let last_modified = file
                    .metadata()
                    .and_then(|m| m.modified())
                    .map_err(|e| LocalIo::new("look up", &path, e))?;
                let info = ObjectInfo { name, size_bytes, last_modified };
                Ok((file, info, path))
            })
            .await?;
        let meta = meta(info);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|e| Error::Generic {
                store: "local directory",
                source: io::Error::new(io::ErrorKind::UnexpectedEof, e).into(),
            })?,
        };
        Ok(GetResult {
            payload: GetResultPayload::File(file, path),
            range,
            meta,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let name = location.to_string();
        let ranges = ranges.to_vec();
        self.blocking(move |store| store.get_ranges(&name, &ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let name = location.to_string();
                    store.blocking(move |store| store.delete(&name)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let store = self.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(LIST_PAGE_NAMES);
        let walk = move || {
            let walked = store.for_each(&prefix, &mut |info| match sender.blocking_send(Ok(meta(info))) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
            if let Err(e) = walked {
                let _ = sender.blocking_send(Err(e.into()));
            }
        };
        // The walk starts with the first poll, on the runtime that polls.
        stream::once(async move {
            tokio::task::spawn_blocking(walk);
            stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) })
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut result =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        let mut all = self.list(Some(&prefix));
        while let Some(meta) = all.next().await.transpose()? {
            let Some(mut rest) = meta.location.prefix_match(&prefix) else {
                continue;
            };
            match (rest.next(), rest.next()) {
                (Some(first), Some(_)) => {
                    let common = prefix.clone().join(first);
                    drop(rest);
                    if result.common_prefixes.last() != Some(&common) {
                        result.common_prefixes.push(common);
                    }
                }
                _ => {
                    drop(rest);
                    result.objects.push(meta);
                }
            }
        }
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let existing = match options.mode {
            CopyMode::Overwrite => Existing::Replace,
            CopyMode::Create => Existing::Keep,
        };
        let (from, to) = (from.to_string(), to.to_string());
        self.blocking(move |store| {
            let bytes = store.get(&from, MAX_OBJECT_BYTES)?;
            store.put(&to, &[bytes], existing)
        })
        .await
    }
}
