//! A request as handlers see it: read whole, decoded, checked, with its caller known.
//!
//! The server makes them from what comes over HTTP; the command line makes them itself where no server runs
//! ([`Request::in_process`]). Both take the same way through [`crate::Api::dispatch`].

use super::target::{self, Query};
use crate::ArmError;
use crate::auth::{Caller, Credentials, Gate};
use crate::limits;
use crate::odata::{Filter, Pager};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::TypeId;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// Over the network.
    Address(IpAddr),
    /// Over the Unix socket, from a process of this user.
    LocalUser {
        /// The kernel's number of it.
        uid: u32,
    },
    /// From within this process.
    Process,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LocalUser { uid } => write!(f, "local user {uid}"),
            Self::Process => f.write_str("this process"),
        }
    }
}

/// One request. Everything in it is bounded (`limits.rs`).
#[derive(Debug, Clone)]
pub struct Request {
    /// Any; routes know those of Azure.
    pub method: Method,
    /// Decoded segments, case kept; none is empty, `.` or `..`, or has a slash.
    pub path: Vec<String>,
    /// Whether the path came with a slash after its last segment, which routes do not see.
    pub ends_in_slash: bool,
    /// What follows the question mark.
    pub query: Query,
    /// As they came. `Authorization` is read into `credentials`.
    pub headers: HeaderMap,
    /// Empty: there is none.
    pub body: Bytes,
    /// `https://host:port` as the client addressed the server: what URLs in answers begin with.
    pub base_url: String,
    /// Where it came from.
    pub client: Client,
    /// What it says of who asks, unchecked.
    pub credentials: Credentials,
    /// This request's own id, new for each.
    pub request_id: Uuid,
    /// The caller's `x-ms-correlation-request-id`, else the request's own id.
    pub correlation_id: Uuid,
    /// When it was dispatched. Handlers take their time from here.
    pub now: Timestamp,
    pub(crate) caller: Caller,
    pub(crate) pager: Option<Arc<Pager>>,
    /// What the document says that the body is read into; none where a handler was not come to by a route.
    pub(crate) body_type: Option<TypeId>,
    /// The ids in the body that dispatch knows of: [`crate::route::Named`].
    pub(crate) named: Vec<String>,
    /// The action and scope that the caller lacks, where they are not the path's own.
    pub(crate) lacks: Option<(String, String)>,
    /// Which rows of a list the caller may see, where it may not see all.
    pub(crate) rows: Option<Rows>,
}

/// Rows that the caller has an action over.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) action: &'static str,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({})", self.action)
    }
}

impl Request {
    /// A request from its parts. `target` is path and query as they come over the wire.
    pub fn new(method: Method, target: &str, client: Client) -> Result<Self, ArmError> {
        if target.len() > limits::TARGET_MAX_BYTES {
            let what = target::TargetError::TooLong.to_string();
            return Err(ArmError::new(
                http::StatusCode::URI_TOO_LONG,
                "RequestUriTooLong",
                format!("The request URI is invalid: {what}."),
            ));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let invalid = |e: target::TargetError| ArmError::invalid_uri(&e.to_string());
        let request_id = Uuid::new_v4();
        Ok(Self {
            method,
            path: target::parse_path(path).map_err(invalid)?,
            ends_in_slash: path.ends_with('/'),
            query: Query::parse(query).map_err(invalid)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            base_url: String::from("https://localhost"),
            client,
            credentials: match client {
                Client::Address(_) => Credentials::None,
                Client::LocalUser { uid } => Credentials::LocalUser { uid },
                Client::Process => Credentials::Process,
            },
            request_id,
            correlation_id: request_id,
            now: Timestamp::UNIX_EPOCH,
            caller: Caller::anonymous(),
            pager: None,
            body_type: None,
            named: Vec::new(),
            lacks: None,
            rows: None,
        })
    }

    /// A request from within the process, as the local administrator.
    pub fn in_process(method: Method, target: &str, body: Option<&Value>) -> Result<Self, ArmError> {
        let mut request = Self::new(method, target, Client::Process)?;
        if let Some(body) = body {
            request.body = Bytes::from(body.to_string());
        }
        Ok(request)
    }

    /// Takes headers in: a bearer token, the correlation id. A token outranks what the socket says of its peer.
    pub fn set_headers(&mut self, headers: HeaderMap) {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            self.credentials = Credentials::from_header(value.as_bytes());
        }
        let id = |name: &str| {
            headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| Uuid::try_parse(v.trim()).ok())
        };
        if let Some(id) = id("x-ms-correlation-request-id") {
            self.correlation_id = id;
        }
        self.headers = headers;
    }

    /// Who asks; anonymous on public routes.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the route declares the field that this id is in: then what is needed over it was looked at.
    pub(crate) fn was_named(&self, id: &str) -> bool {
        self.named.iter().any(|named| named == id)
    }

    /// Whether a list shows the caller a row. An error is a failure to find out.
    pub(crate) fn shows_row(&self, id: &str) -> Result<bool, ArmError> {
        match &self.rows {
            Some(rows) => rows.gate.allowed(&self.caller, rows.action, id),
            None => Ok(true),
        }
    }

    /// The caller's `api-version`, valid wherever a route asks for one, else empty.
    pub fn api_version(&self) -> &str {
        self.query.get("api-version").unwrap_or_default()
    }

    /// The path as text, case kept, encoded.
    pub fn path_text(&self) -> String {
        let mut out = String::new();
        for segment in &self.path {
            out.push('/');
            out.push_str(&target::encode_segment(segment));
        }
        if out.is_empty() { String::from("/") } else { out }
    }

    /// An absolute URL for a path of ours, with the caller's api-version: what `Location` and
    /// `Azure-AsyncOperation` hold. `path` begins with a slash; what no URL can have in it is encoded, what is encoded
    /// already stays.
    pub fn url_of(&self, path: &str) -> String {
        let path = target::encode_path(path);
        format!("{}{path}?api-version={}", self.base_url, target::encode_query(self.api_version()))
    }

    /// The body as JSON: an object. Unknown fields are for `T` to tolerate (serde does); depth is limited by the parser, size by
    /// the server.
    pub fn json<T: DeserializeOwned + 'static>(&self) -> Result<T, ArmError> {
        // Else the document would tell of another body than the one that is read.
        debug_assert!(
            self.body_type.is_none_or(|declared| declared == TypeId::of::<T>()),
            "{} is not what the route declares that it takes",
            std::any::type_name::<T>()
        );
        self.parse()
    }

    /// The same, into whatever type.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ArmError> {
        if let Some(kind) = self.headers.get(header::CONTENT_TYPE) {
            let kind = kind.to_str().unwrap_or("?");
            let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if essence != "application/json" && essence != "text/json" && !essence.ends_with("+json") {
                return Err(ArmError::unsupported_media_type(kind));
            }
        }
        let body = self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ArmError::invalid_content("the body is empty"));
        }
        // Into a struct serde would take an array as well, field by field.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(ArmError::invalid_content("the body is not an object"));
        }
        serde_json::from_slice(body).map_err(ArmError::invalid_content)
    }

    /// The same where the body may be left out.
    pub fn json_or_default<T: DeserializeOwned + Default + 'static>(&self) -> Result<T, ArmError> {
        if self.body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { self.json() }
    }

    /// `$filter`, parsed; `None` if absent or empty.
    pub fn filter(&self) -> Result<Option<Filter>, ArmError> {
        match self.query.get("$filter").map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => Filter::parse(text).map(Some).map_err(|e| ArmError::invalid_filter(text, e)),
        }
    }
}
