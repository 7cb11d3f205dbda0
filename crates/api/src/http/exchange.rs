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

    pub(super) async fn answer(
        &self,
        client: Client,
        request: http::Request<Incoming>,
    ) -> http::Response<Full<Bytes>> {
        let is_head = request.method() == Method::HEAD;
        let began = std::time::Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = match self.read(client, request).await {
            Ok((request, _permits)) => self.dispatch(request).await,
            Err(refusal) => {
                let mut response = Response::from(refusal);
                response.complete(None);
                response
            }
        };
        tracing::debug!(%client, %method, path, status = response.status.as_u16(), took_us = began.elapsed().as_micros() as u64);
        to_wire(&response, is_head)
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
        request: http::Request<Incoming>,
    ) -> Result<(Request, Vec<OwnedSemaphorePermit>), ArmError> {
        let (parts, body) = request.into_parts();
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

    async fn read_body(&self, mut body: Incoming) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), ArmError> {
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
