//! Requests on their way to a remote store: how fast they may go, and what comes back in place of an answer.

use super::reach::Pace;
use super::refusal::Refusal;
use async_trait::async_trait;
use futures::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Of an error's text nothing behind this matters.
const ERROR_BODY_MAX_BYTES: usize = 16 << 10;

/// Whose permissions are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    S3,
    Azure,
}

/// Makes clients whose errors are [`Refusal`]s and [`Unreachable`]s.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) dialect: Dialect,
    pub(super) pace: Option<Arc<Pace>>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Transport { inner, made: self.clone() }))
    }
}

#[derive(Debug)]
struct Transport {
    inner: HttpClient,
    made: Connector,
}

/// A server that could not be asked.
#[derive(Clone, Debug)]
pub(super) struct Unreachable {
    endpoint: String,
    why: String,
}

impl Unreachable {
    /// The server was there, and showed a certificate that nobody here vouches for.
    pub(super) fn is_distrusted(&self) -> bool {
        self.why.contains("certificate")
    }

    pub(super) fn advice(&self) -> &'static str {
        match self.is_distrusted() {
            true => {
                "if its authority is your own, name its certificate with --ca FILE or AWS_CA_BUNDLE (the service: ca_file in its configuration)"
            }
            false => "",
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from {}: {}", self.endpoint, self.why)
    }
}

impl StdError for Unreachable {}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        let host = uri.host().unwrap_or_default().to_owned();
        // The machine's own metadata service is not the store.
        if host.starts_with("169.254.") || host == "[fd00:ec2::254]" {
            return self.inner.execute(request).await;
        }
        let endpoint = match uri.port() {
            Some(port) => format!("{}://{host}:{port}", uri.scheme_str().unwrap_or_default()),
            None => format!("{}://{host}", uri.scheme_str().unwrap_or_default()),
        };
        let method = request.method().as_str().to_owned();
        let permission = permission(self.made.dialect, &method, uri.query().unwrap_or_default());
        if let Some(pace) = &self.made.pace {
            pace.turn().await;
        }
        let answer = match self.inner.execute(request).await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(HttpError::new(error.kind(), Unreachable { endpoint, why: root(&error) }));
            }
        };
        let status = answer.status();
        if status.is_success() || status.as_u16() == 304 {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        let body = beginning(body).await;
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let code = ["x-ms-error-code", "x-minio-error-code", "x-amz-error-code"].into_iter().find_map(header);
        let message = ["x-minio-error-desc", "x-amz-error-message"].into_iter().find_map(header);
        let asked = (method.as_str(), permission);
        let refusal = Refusal::read(asked, status.as_u16(), (code, message), header("date"), &body)
            .with_retry_after(header("retry-after"));
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

fn permission(dialect: Dialect, method: &str, query: &str) -> &'static str {
    let lists = query.contains("list-type=") || query.contains("comp=list");
    match (dialect, method) {
        (Dialect::S3, "GET") if lists => "s3:ListBucket",
        (Dialect::S3, "GET" | "HEAD") => "s3:GetObject",
        (Dialect::S3, "DELETE") if query.contains("uploadId=") => "s3:AbortMultipartUpload",
        (Dialect::S3, "DELETE") => "s3:DeleteObject",
        (Dialect::S3, "PUT" | "POST") => "s3:PutObject",
        (Dialect::Azure, "GET" | "HEAD") => {
            "to read and list (as the role Storage Blob Data Contributor has it)"
        }
        (Dialect::Azure, _) => "to write and delete (as the role Storage Blob Data Contributor has it)",
        _ => "",
    }
}

/// What it came of in the end: the errors around that say little.
fn root(error: &HttpError) -> String {
    let mut last: &dyn StdError = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

async fn beginning(body: HttpResponseBody) -> Vec<u8> {
    let mut read = Vec::new();
    let mut pieces = body.bytes_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        read.extend_from_slice(&piece);
        if read.len() >= ERROR_BODY_MAX_BYTES {
            read.truncate(ERROR_BODY_MAX_BYTES);
            break;
        }
    }
    read
}
