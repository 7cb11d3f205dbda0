//! An answer: status, headers, and a body that is JSON or bytes.

use crate::ArmError;
use crate::http::request::Request;
use crate::limits::PAGE_MAX_ITEMS;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

const JSON: &str = "application/json; charset=utf-8";

/// What an answer carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Nothing, without a content type.
    Empty,
    /// Sent as compact UTF-8, `application/json; charset=utf-8`.
    Json(Value),
    /// The same, written already: a list of thousands of rows is written row by row.
    JsonText(Bytes),
    /// Anything else, such as a file of the portal.
    Bytes {
        /// As in the header of that name.
        content_type: &'static str,
        /// All of it.
        bytes: Bytes,
    },
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The HTTP status.
    pub status: StatusCode,
    /// Beside those that every answer has.
    pub headers: HeaderMap,
    /// What it carries.
    pub body: Body,
    /// An error's code, for the log and the audit.
    pub error_code: Option<String>,
}

impl Response {
    /// 200 with JSON.
    pub fn ok(body: impl Serialize) -> Result<Self, ArmError> {
        Self::with(StatusCode::OK, body)
    }

    /// Any status with JSON.
    pub fn with(status: StatusCode, body: impl Serialize) -> Result<Self, ArmError> {
        let body = serde_json::to_value(body).map_err(|e| {
            // A map with keys that are not text: a mistake in our types, not the caller's.
            tracing::error!(error = %e, "an answer could not be written as JSON");
            ArmError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalServerError",
                "The answer could not be written.",
            )
        })?;
        Ok(Self::json(status, body))
    }

    /// Any status with JSON that is there already.
    pub fn json(status: StatusCode, body: Value) -> Self {
        Self { status, headers: HeaderMap::new(), body: Body::Json(body), error_code: None }
    }

    /// 200 with a list, `{"value":[…]}`, and `nextLink` if there is one. Written row by row: building thousands of them
    /// first takes several times as long.
    pub fn list(rows: impl IntoIterator<Item = Value>, next_link: Option<&str>) -> Self {
        let mut text = br#"{"value":["#.to_vec();
        let rows = rows.into_iter();
        let more = rows.size_hint().0.saturating_sub(1).min(PAGE_MAX_ITEMS);
        for (n, row) in rows.enumerate() {
            if n > 0 {
                text.push(b',');
            }
            write_json(&mut text, &row);
            if n == 0 {
                // The others are about as long.
                text.reserve(more * (text.len() + text.len() / 8));
            }
        }
        text.push(b']');
        if let Some(link) = next_link {
            text.extend_from_slice(br#","nextLink":"#);
            write_json(&mut text, link);
        }
        text.push(b'}');
        let body = Body::JsonText(text.into());
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body, error_code: None }
    }

    /// A status alone: 202 and 204.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Body::Empty, error_code: None }
    }

    /// 200 with anything else, such as a picture.
    pub fn bytes(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let body = Body::Bytes { content_type, bytes: bytes.into() };
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body, error_code: None }
    }

    /// Adds a header. A value that cannot be one (control characters) is left out and logged: it can only come from a
    /// name that should have been encoded.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(_) => tracing::error!(%name, "a header's value was not one"),
        }
        self
    }

    /// 202 with an empty body and where to follow it: `Azure-AsyncOperation` and `Location`, each a path of ours, sent
    /// as URLs with the caller's api-version, and `Retry-After`.
    pub fn accepted(
        request: &Request,
        status_path: Option<&str>,
        result_path: Option<&str>,
        retry_after_seconds: u32,
    ) -> Self {
        let mut out = Self::empty(StatusCode::ACCEPTED);
        if let Some(path) = status_path {
            out = out.header(HeaderName::from_static("azure-asyncoperation"), request.url_of(path));
        }
        if let Some(path) = result_path {
            out = out.header(header::LOCATION, request.url_of(path));
        }
        out.retry_after(retry_after_seconds)
    }

    /// After how many seconds to ask again.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds.to_string())
    }

    /// The body's bytes and their type, as they go over the wire.
    pub fn wire_body(&self) -> (Option<&'static str>, Bytes) {
        match &self.body {
            Body::Empty => (None, Bytes::new()),
            Body::Json(value) => {
                let mut text = Vec::new();
                write_json(&mut text, value);
                (Some(JSON), text.into())
            }
            Body::JsonText(text) => (Some(JSON), text.clone()),
            Body::Bytes { content_type, bytes } => (Some(content_type), bytes.clone()),
        }
    }

    /// The JSON of the body, if it is JSON.
    pub fn json_body(&self) -> Option<Value> {
        match &self.body {
            Body::Json(value) => Some(value.clone()),
            Body::JsonText(text) => serde_json::from_slice(text).ok(),
            Body::Empty | Body::Bytes { .. } => None,
        }
    }

    /// The headers that every answer of Azure's carries, as far as the handler has not set them.
    pub(crate) fn complete(&mut self, request: Option<&Request>) {
        let mut set = |name: &'static str, value: HeaderValue| {
            self.headers.entry(HeaderName::from_static(name)).or_insert(value);
        };
        set("cache-control", HeaderValue::from_static("no-cache"));
        set("pragma", HeaderValue::from_static("no-cache"));
        set("expires", HeaderValue::from_static("-1"));
        set("strict-transport-security", HeaderValue::from_static("max-age=31536000; includeSubDomains"));
        set("x-content-type-options", HeaderValue::from_static("nosniff"));
        let Some(request) = request else { return };
        let id = |id: uuid::Uuid| HeaderValue::from_str(&id.to_string()).ok();
        if let (Some(own), Some(correlation)) = (id(request.request_id), id(request.correlation_id)) {
            set("x-ms-request-id", own);
            set("x-ms-correlation-request-id", correlation);
        }
        // Clients that number their requests get the number back when they ask for it.
        let wanted = request.headers.get("x-ms-return-client-request-id");
        if wanted.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"))
            && let Some(given) = request.headers.get("x-ms-client-request-id")
        {
            set("x-ms-client-request-id", given.clone());
        }
    }
}

impl From<ArmError> for Response {
    fn from(error: ArmError) -> Self {
        let mut out = Self::json(error.status, error.to_json());
        for (name, value) in &error.headers {
            out = out.header(name.clone(), value);
        }
        out.error_code = Some(error.code.into_owned());
        out
    }
}

/// Appends JSON. Into memory, of values whose keys are text, that does not fail.
fn write_json(text: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    if let Err(e) = serde_json::to_writer(text, value) {
        tracing::error!(error = %e, "an answer could not be written as JSON");
    }
}
