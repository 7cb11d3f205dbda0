//! One request and its answer: from hyper's types to ours and back, with every bound on the way.

use super::bodies::{Bodies, Held};
use super::io::Activity;
use super::pool::{NoAnswer, Pool};
use super::source::Source;
use super::target::is_host_and_port;
use crate::http::{Client, Request, Response};
use crate::{Admission, ArmError, Dispatch, limits};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What requests of one kind share, and no other kind takes from them: those over the network, those over the Unix socket.
pub(super) struct Lane {
    pub pool: Pool,
    /// Of callers who have the right to what they ask for.
    pub bodies: Arc<Bodies>,
}

/// What answers requests, for all connections.
pub(super) struct Exchange {
    pub api: Arc<dyn Dispatch>,
    pub network: Lane,
    pub local: Lane,
    /// Begins URLs where a client does not say how it addressed us.
    pub public_url: String,
    pub body_timeout: Duration,
    pub small_body_timeout: Duration,
    pub request_timeout: Duration,
}

/// A connection, as its requests see it.
pub(super) struct Channel {
    pub client: Client,
    pub activity: Arc<Activity>,
    /// Room for bodies that anybody may send. Each connection has its own: a stranger's takes nothing from others'.
    pub small_bodies: Arc<Bodies>,
}

impl Channel {
    pub(super) fn new(client: Client, activity: Arc<Activity>) -> Self {
        let most = limits::SMALL_BODY_MAX_BYTES;
        Self { client, activity, small_bodies: Bodies::new(most, most) }
    }
}

impl Exchange {
    fn lane(&self, source: Source) -> &Lane {
        if source.is_local() { &self.local } else { &self.network }
    }

    /// The answer, and whether the rest of the request was left unread for it.
    pub(super) async fn answer(
        &self,
        channel: &Channel,
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
        let response = match self.read(channel, parts, &mut body).await {
            Ok((request, held)) => {
                let _kept = channel.activity.keep();
                let response = self.dispatch(channel.client.into(), request).await;
                drop(held);
                response
            }
            Err(response) => {
                let is_late = response.status == StatusCode::REQUEST_TIMEOUT;
                left_unread = is_late || !drain(&mut body, asks_first).await;
                *response
            }
        };
        let client = channel.client;
        tracing::debug!(%client, %method, path, status = response.status.as_u16(), took_us = began.elapsed().as_micros() as u64);
        let mut answer = to_wire(&response, method == Method::HEAD);
        // A connection that was to become something else is no good for more: the library ends it without ceremony.
        let is_upgrade = method == Method::CONNECT || wants_upgrade;
        if (left_unread || is_upgrade) && is_one_by_one {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        (answer, left_unread)
    }

    async fn dispatch(&self, source: Source, request: Request) -> Response {
        let api = self.api.clone();
        let done = self.work(source, request.request_id, move || api.dispatch(request)).await;
        done.unwrap_or_else(|refusal| *refused(refusal))
    }

    /// Work that blocks, within its time.
    async fn work<T: Send + 'static>(
        &self,
        source: Source,
        request_id: Uuid,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ArmError> {
        let running = self.lane(source).pool.run(source, work);
        let refusal = match tokio::time::timeout(self.request_timeout, running).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(NoAnswer::Busy)) => ArmError::busy(),
            Ok(Err(NoAnswer::Died)) => ArmError::internal(request_id),
            Err(_) => {
                let message = "The operation takes longer than this server lets a client wait. It may still be completed.";
                ArmError::new(StatusCode::GATEWAY_TIMEOUT, "GatewayTimeout", message)
            }
        };
        tracing::warn!(%request_id, code = %refusal.code, "a request was given up");
        Err(refusal)
    }

    /// Reads all of it, the body last: nothing of it is taken before it is known who asks, and whether they may. The room
    /// that it takes is given back when the request has been answered.
    async fn read(
        &self,
        channel: &Channel,
        parts: http::request::Parts,
        body: &mut Incoming,
    ) -> Result<(Request, Option<Held>), Box<Response>> {
        let target = parts.uri.path_and_query().map_or("/", |t| t.as_str());
        let mut out = Request::new(parts.method, target, channel.client).map_err(refused)?;
        out.base_url = match channel.client {
            Client::Address(_) => {
                self.base_url(parts.version, parts.uri.authority(), &parts.headers).map_err(refused)?
            }
            // Over the socket the Host header says nothing.
            Client::LocalUser { .. } | Client::Process => self.public_url.clone(),
        };
        out.set_headers(parts.headers);
        if body.is_end_stream() {
            return Ok((out, None));
        }
        let source = Source::from(channel.client);
        let (mut out, admission) = {
            let _kept = channel.activity.keep();
            let (api, request_id) = (self.api.clone(), out.request_id);
            let admitted = self.work(source, request_id, move || {
                let admission = api.admit(&mut out);
                (out, admission)
            });
            admitted.await.map_err(refused)?
        };
        let (mut held, most, timeout, _kept) = match admission {
            Admission::Refused(response) => return Err(response),
            Admission::Small => (
                channel.small_bodies.hold(Uuid::nil()),
                limits::SMALL_BODY_MAX_BYTES,
                self.small_body_timeout,
                None,
            ),
            Admission::Authorised { caller } => (
                self.lane(source).bodies.hold(caller),
                limits::BODY_MAX_BYTES,
                self.body_timeout,
                Some(channel.activity.keep()),
            ),
        };
        let reading = tokio::time::timeout(timeout, read_body(body, most, &mut held)).await;
        out.body = reading.unwrap_or_else(|_| Err(ArmError::request_timeout())).map_err(refused)?;
        Ok((out, Some(held)))
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
}

async fn read_body(body: &mut Incoming, most: usize, held: &mut Held) -> Result<Bytes, ArmError> {
    let too_large = || ArmError::too_large("request body", most);
    // Said in advance: nothing of it is read.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ArmError::invalid_content("the body was cut short"))?;
        let Ok(data) = frame.into_data() else { continue };
        if out.len() + data.len() > most {
            return Err(too_large());
        }
        if !held.grow_to(out.len() + data.len()) {
            return Err(ArmError::busy());
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}

/// A refusal as an answer.
fn refused(refusal: ArmError) -> Box<Response> {
    let mut response = Response::from(refusal);
    response.complete(None);
    Box::new(response)
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
