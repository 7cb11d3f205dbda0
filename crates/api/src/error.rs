//! Errors as Azure Resource Manager words them: `{"error":{"code","message","target","details"}}` and a status.
//!
//! Handlers return [`ArmError`]; its constructors give the codes and texts that clients of Azure compare with. Messages
//! are for people: they say what was wrong and what is allowed, and never hold a secret.

use crate::limits;
use http::{HeaderName, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// One refusal or failure, on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What programs compare, such as `ResourceNotFound`.
    pub code: Cow<'static, str>,
    /// What people read.
    pub message: String,
    /// The part of the request that it is about.
    pub target: Option<Box<str>>,
    /// Several reasons, where there are; empty: the message says it all.
    pub details: Vec<ArmErrorDetail>,
    /// Headers to send with it, such as `Retry-After`.
    pub headers: Vec<(HeaderName, String)>,
}

/// One of several reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ArmErrorDetail {
    /// What programs compare.
    pub code: String,
    /// What people read.
    pub message: String,
    /// The part of the request that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub target: Option<String>,
}

/// What a client gets of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorBody<'a> {
    error: Shown<'a>,
}

#[derive(Serialize, JsonSchema)]
struct Shown<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "<[ArmErrorDetail]>::is_empty")]
    details: &'a [ArmErrorDetail],
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ArmError {}

impl ArmError {
    /// Any refusal. Where one of the constructors below fits, it has Azure's code and words.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { status, code, message, target: None, details: Vec::new(), headers: Vec::new() }
    }

    /// Names the part of the request that it is about.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into().into_boxed_str());
        self
    }

    /// Adds one of several reasons.
    pub fn detail(mut self, code: impl Into<String>, message: impl Into<String>) -> Self {
        self.details.push(ArmErrorDetail { code: code.into(), message: message.into(), target: None });
        self
    }

    /// Adds a header to send with it.
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds.to_string())
    }

    /// `{"error":{"code","message"[,"target"][,"details"]}}`; absent fields are left out, as Azure does.
    pub fn to_json(&self) -> Value {
        json!(ErrorBody {
            error: Shown {
                code: &self.code,
                message: &self.message,
                target: self.target.as_deref(),
                details: &self.details,
            }
        })
    }

    // 400

    /// The request as a whole is wrong: `code` says in which way.
    pub fn bad_request(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The path or query cannot be read.
    pub fn invalid_uri(why: &str) -> Self {
        Self::bad_request("InvalidRequestUri", format!("The request URI is invalid: {why}."))
    }

    /// The body cannot be read as what the operation takes.
    pub fn invalid_content(why: impl fmt::Display) -> Self {
        let message = format!(
            "The request content was invalid and could not be deserialized: '{}'.",
            shorten(&why.to_string())
        );
        Self::bad_request("InvalidRequestContent", message)
    }

    /// A value that was read, and is not one of those allowed.
    pub fn invalid_parameter(name: &str, why: impl fmt::Display) -> Self {
        Self::bad_request("InvalidParameter", format!("The value of parameter {name} is invalid: {why}"))
            .target(name)
    }

    /// A request without an api-version, which Azure wants in each.
    pub(crate) fn missing_api_version() -> Self {
        let message = "The api-version query parameter (?api-version=) is required for all requests.";
        Self::bad_request("MissingApiVersionParameter", message)
    }

    pub(crate) fn invalid_api_version(given: &str) -> Self {
        let message = format!(
            "The api-version '{}' is invalid. Letters, digits, '-' and '.' are allowed.",
            shorten(given)
        );
        Self::bad_request("InvalidApiVersionParameter", message)
    }

    /// `$filter` cannot be parsed, or asks for what this list cannot be filtered by.
    pub fn invalid_filter(filter: &str, why: impl fmt::Display) -> Self {
        let message = format!("Invalid $filter '{}' specified in the query string: {why}.", shorten(filter));
        Self::bad_request("InvalidFilterInQueryString", message)
    }

    // 401: all of them challenge, as RFC 6750 has it.

    /// No token at all.
    pub fn authentication_missing() -> Self {
        let message = "Authentication failed. The 'Authorization' header is missing.";
        Self::unauthorized("AuthenticationFailed", message)
    }

    /// The token is malformed, not signed by us, or of another kind.
    pub fn invalid_token(why: impl fmt::Display) -> Self {
        Self::unauthorized(
            "InvalidAuthenticationToken",
            format!("The access token is invalid: {}.", shorten(&why.to_string())),
        )
    }

    /// The other refusals of a token: with a challenge (RFC 6750, section 3), which repeats the message as far as a header can.
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        // Nothing of the caller's own words gets into messages of this kind, yet a quote would end the value early.
        let description: String = message
            .chars()
            .filter(|c| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\'))
            .collect();
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
        Self::new(StatusCode::UNAUTHORIZED, code, message).header(header::WWW_AUTHENTICATE, challenge)
    }

    // 403

    /// The caller lacks `action` over `scope`.
    pub fn authorization_failed(name: &str, object_id: &str, action: &str, scope: &str) -> Self {
        let message = format!(
            "The client '{}' with object id '{object_id}' does not have authorization to perform action '{action}' \
             over scope '{}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
            shorten(name),
            shorten_to(scope, limits::TARGET_MAX_BYTES),
        );
        Self::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message)
    }

    /// The caller may do what the path says, but not what is needed over something else that the request names.
    pub fn linked_authorization_failed(
        (name, object_id): (&str, &str),
        (action, scope): (&str, &str),
        (linked_action, linked_scope): (&str, &str),
    ) -> Self {
        let message = format!(
            "The client '{}' with object id '{object_id}' has permission to perform action '{action}' on scope '{}'; however, \
             it does not have permission to perform action(s) '{linked_action}' on the linked scope(s) '{}' (respectively) or \
             the linked scope(s) are invalid.",
            shorten(name),
            shorten_to(scope, limits::TARGET_MAX_BYTES),
            shorten_to(linked_scope, limits::TARGET_MAX_BYTES),
        );
        Self::new(StatusCode::FORBIDDEN, "LinkedAuthorizationFailed", message)
    }

    // 404

    /// A resource that is not there. `kind` is its type and name from the provider on, such as
    /// `Microsoft.RecoveryServices/vaults/v1`.
    pub fn resource_not_found(kind_and_name: &str, group: &str) -> Self {
        let message = format!(
            "The Resource '{}' under resource group '{}' was not found. For more details please go to \
             https://aka.ms/ARMResourceNotFoundFix",
            shorten(kind_and_name),
            shorten(group)
        );
        Self::not_found("ResourceNotFound", message).gateway()
    }

    pub(crate) fn invalid_resource_namespace(namespace: &str) -> Self {
        let message = format!("The resource namespace '{}' is invalid.", shorten(namespace));
        Self::not_found("InvalidResourceNamespace", message).gateway()
    }

    /// Azure may have it, under a provider that is here as well.
    pub fn not_available_here(rest: &str, namespace: &str) -> Self {
        let message = format!(
            "'{}' of {} is not available on this server; GET /openapi.json lists what is.",
            shorten(rest),
            shorten(namespace)
        );
        Self::bad_request("UserErrorFeatureNotSupportedOnThisServer", message)
    }

    /// Nothing begins like this.
    pub fn missing_subscription() -> Self {
        let message = "The request did not have a subscription or a valid tenant level resource provider.";
        Self::not_found("MissingSubscription", message).gateway()
    }

    /// Anything that is not there, by its own code.
    pub fn not_found(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Marks an answer of the front door, as opposed to one of a provider.
    fn gateway(self) -> Self {
        self.header(HeaderName::from_static("x-ms-failure-cause"), "gateway")
    }

    // The rest

    /// The path exists, the method does not. `allowed` goes into `Allow`.
    pub fn method_not_allowed(method: &http::Method, allowed: &str) -> Self {
        let message =
            format!("The requested resource does not support http method '{}'.", shorten(method.as_str()));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).header(header::ALLOW, allowed)
    }

    /// What is asked for does not go together with how things are: wait, or change that first.
    pub fn conflict(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// `If-Match` or `If-None-Match` does not hold: somebody else was faster.
    pub fn precondition_failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
    }

    /// The capability is not on this server (yet): a decision, not a gap of the router.
    pub fn not_supported(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn too_large(what: &str, limit_bytes: usize) -> Self {
        let message = format!("The {what} exceeds the maximum of {limit_bytes} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(crate) fn unsupported_media_type(given: &str) -> Self {
        let message = format!(
            "The content media type '{}' is not supported. Only 'application/json' is supported.",
            shorten(given)
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(crate) fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", "The request was not received in time.")
    }

    /// More is asked of the server than it takes at once.
    pub fn busy() -> Self {
        let message = "The server is busy. Please retry after some time.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", message)
            .retry_after(limits::BUSY_RETRY_AFTER_SECONDS)
    }

    /// Something went wrong inside. The cause goes to the log, the number to the caller.
    pub fn internal(request_id: impl fmt::Display) -> Self {
        let message = format!(
            "The server encountered an internal error. Please retry the request. If the problem persists, look for \
             request id '{request_id}' in the server's log."
        );
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }
}

/// A caller's own words as an error repeats them: not long, and without control characters.
pub fn shorten(text: &str) -> String {
    shorten_to(text, limits::ECHO_MAX_CHARS)
}

pub(crate) fn shorten_to(text: &str, chars: usize) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(chars).collect();
    if text.chars().nth(chars).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_what_is_set_and_nothing_else() {
        let plain = ArmError::conflict("InUse", "It is in use.");
        assert_eq!(plain.to_json().to_string(), r#"{"error":{"code":"InUse","message":"It is in use."}}"#);
        let full = plain.target("name").detail("A", "b");
        let text = full.to_json().to_string();
        assert!(
            text.contains(r#""target":"name""#) && text.contains(r#""details":[{"code":"A","message":"b"}]"#),
            "{text}"
        );
    }

    #[test]
    fn a_challenge_cannot_be_broken_out_of() {
        let error = ArmError::invalid_token("x\" y=\"z\r\n\\");
        let (_, challenge) = &error.headers[0];
        assert_eq!(challenge.matches('"').count(), 4, "{challenge}");
        assert!(!error.to_json().to_string().contains('\r'));
        assert!(challenge.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{challenge:?}");
    }

    #[test]
    fn callers_words_are_cut() {
        let error = ArmError::invalid_resource_namespace(&"ä".repeat(10_000));
        assert!(error.message.chars().count() < 300);
    }
}
