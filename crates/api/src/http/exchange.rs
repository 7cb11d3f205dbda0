//! One request and its answer: from hyper's types to ours and back, with every bound on the way.

use super::pool::{NoAnswer, Pool};
use super::target::is_host_and_port;
use crate::http::{Client, Request, Response};
use crate::{ArmError, limits};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What bodies' bytes are counted in: a permit each.
const BODY_UNIT_BYTES: usize = 4 << 10;

/// What answers requests, for all connections.
pub(super) struct Exchange {
    pub pool: Pool,
    pub bodies: Arc<Semaphore>,
    /// Begins URLs where a client does not say how it addressed us.
    pub public_url: String,
    pub body_timeout: Duration,
    pub request_timeout: Duration,
}

impl Exchange {
    pub(super) fn body_permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(limits::BODIES_TOTAL_MAX_BYTES / BODY_UNIT_BYTES))
    }

    /// The answer, and whether the rest of the request was left unread for it.
    pub(super) async fn answer(
        &self,
        client: Client,
        request: http::Request<Incoming>,
    ) -> (http::Response<Full<Bytes>>, bool) {
        let began = std::time::Instant::now();
        let (parts, mut body) = request.into_parts();
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let is_one_by_one = parts.version <= Version::HTTP_11;
        // Who asks before it sends has sent nothing yet, and is told without being asked for it.
        let asks_first = parts.headers.contains_key(header::EXPECT);
        let wants_upgrade = parts.headers.contains_key(header::UPGRADE);
        let mut left_unread = false;
        let response = match self.read(client, parts, &mut body).await {
            Ok((request, _permits)) => self.dispatch(request).await,
            Err(refusal) => {
                let is_late = refusal.status == StatusCode::REQUEST_TIMEOUT;
                left_unread = is_late || !drain(&mut body, asks_first).await;
                let mut response = Response::from(refusal);
                response.complete(None);
                response
            }
        };
        tracing::debug!(%client, %method, path, status = response.status.as_u16(), took_us = began.elapsed().as_micros() as u64);
        let mut answer = to_wire(&response, method == Method::HEAD);
        // A connection that was to become something else is no good for more: the library ends it without ceremony.
        let is_upgrade = method == Method::CONNECT || wants_upgrade;
        if (left_unread || is_upgrade) && is_one_by_one {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        (answer, left_unread)
    }

    async fn dispatch(&self, request: Request) -> Response {
        let request_id = request.request_id;
        let refusal = match tokio::time::timeout(self.request_timeout, self.pool.answer(request)).await {
            Ok(Ok(response)) => return response,
            Ok(Err(NoAnswer::Busy)) => ArmError::busy(),
            Ok(Err(NoAnswer::Died)) => ArmError::internal(request_id),
            Err(_) => {
                let message = "The operation takes longer than this server lets a client wait. It may still be completed.";
                ArmError::new(StatusCode::GATEWAY_TIMEOUT, "GatewayTimeout", message)
            }
        };
        tracing::warn!(%request_id, code = %refusal.code, "a request was given up");
        let mut response = Response::from(refusal);
        response.complete(None);
        response
    }

    /// Reads all of it. The permits are given back when the request has been answered.
    async fn read(
        &self,
        client: Client,
        parts: http::request::Parts,
        body: &mut Incoming,
    ) -> Result<(Request, Vec<OwnedSemaphorePermit>), ArmError> {
        let target = parts.uri.path_and_query().map_or("/", |t| t.as_str());
        let mut out = Request::new(parts.method, target, client)?;
        out.base_url = match client {
            Client::Address(_) => self.base_url(parts.version, parts.uri.authority(), &parts.headers)?,
            // Over the socket the Host header says nothing.
            Client::LocalUser { .. } | Client::Process => self.public_url.clone(),
        };
        out.set_headers(parts.headers);
        let reading = tokio::time::timeout(self.body_timeout, self.read_body(body));
        let (body, permits) = reading.await.map_err(|_| ArmError::request_timeout())??;
        out.body = body;
        Ok((out, permits))
    }

    /// `https://host:port` as the client says it.
    fn base_url(
        &self,
        version: Version,
        authority: Option<&http::uri::Authority>,
        headers: &HeaderMap,
    ) -> Result<String, ArmError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (authority, hosts.next(), hosts.next()) {
            (_, _, Some(_)) => {
                return Err(ArmError::bad_request(
                    "InvalidHostHeader",
                    "There is more than one Host header.",
                ));
            }
            (Some(authority), _, _) => authority.as_str(),
            (None, Some(host), None) => host.to_str().unwrap_or_default(),
            (None, None, _) if version <= Version::HTTP_10 => return Ok(self.public_url.clone()),
            (None, None, _) => "",
        };
        if !is_host_and_port(host) {
            return Err(ArmError::bad_request(
                "InvalidHostHeader",
                "The Host header is not a host name and port.",
            ));
        }
        Ok(format!("https://{host}"))
    }

    async fn read_body(&self, body: &mut Incoming) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), ArmError> {
        let too_large = || ArmError::too_large("request body", limits::BODY_MAX_BYTES);
        // Said in advance: nothing of it is read.
        if body.size_hint().lower() > limits::BODY_MAX_BYTES as u64 {
            return Err(too_large());
        }
        let (mut out, mut permits, mut paid) = (BytesMut::new(), Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ArmError::invalid_content("the body was cut short"))?;
            let Ok(data) = frame.into_data() else { continue };
            if out.len() + data.len() > limits::BODY_MAX_BYTES {
                return Err(too_large());
            }
            let units = (out.len() + data.len()).div_ceil(BODY_UNIT_BYTES);
            if units > paid {
                // No waiting for what others hold: all of them could wait for each other.
                let more = u32::try_from(units - paid).map_err(|_| too_large())?;
                permits.push(self.bodies.clone().try_acquire_many_owned(more).map_err(|_| ArmError::busy())?);
                paid = units;
            }
            out.extend_from_slice(&data);
        }
        Ok((out.freeze(), permits))
    }
}

/// Reads what is left of a refused request into nothing, if it is little. Whether that was all of it.
async fn drain(body: &mut Incoming, asks_first: bool) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if asks_first || body.size_hint().lower() > limits::DRAIN_MAX_BYTES as u64 {
        return false;
    }
    let reading = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > limits::DRAIN_MAX_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(limits::DRAIN_TIMEOUT, reading).await.unwrap_or(false)
}

fn to_wire(response: &Response, is_head: bool) -> http::Response<Full<Bytes>> {
    let (content_type, body) = response.wire_body();
    let length = body.len();
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut out = http::Response::new(Full::new(if is_head || bodiless { Bytes::new() } else { body }));
    *out.status_mut() = response.status;
    *out.headers_mut() = response.headers.clone();
    if !bodiless {
        if let Some(content_type) = content_type {
            out.headers_mut().entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        }
        out.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    out
}
