//! The routes of signing in: metadata, OpenID discovery, keys, and the token endpoint (RFC 6749).

use super::directory::{Account, AccountKind};
use super::documents::{endpoints, issuer, means_us, openid_configuration};
use super::gate::{AuditEvent, Caller, Gate as _};
use super::sign_in::{HasSignIn, SignInError, caller_of};
use super::throttle::Whose;
use crate::api::audit_event;
use crate::http::target::Query;
use crate::{ArmError, Params, Request, Response, Route, limits};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{StatusCode, header};
use serde_json::{Value, json};

/// The sign-in routes, for any state that has a [`super::SignIn`]. All public.
pub fn routes<S: HasSignIn + Send + Sync + 'static>() -> Vec<Route<S>> {
    let tag = "Sign-in";
    let get =
        |pattern, id, handler, summary| Route::get(pattern, id, handler).public().tag(tag).summary(summary);
    let token =
        |pattern, id| {
            Route::post(pattern, id, token::<S>).public().unaudited().tag(tag).summary(
                "Gives out tokens: grant_type client_credentials, password or refresh_token, as a form.",
            )
        };
    let discovery = "OpenID discovery: the token endpoint and where the keys are.";
    let tenant_discovery = "The same under a tenant, where clients of Microsoft Entra look.";
    vec![
        get(
            "/metadata/endpoints",
            "Metadata_Endpoints",
            metadata::<S>,
            "Where everything is, as Azure Stack says it.",
        ),
        get("/adfs/.well-known/openid-configuration", "Adfs_Discovery", configuration::<S>, discovery),
        get(
            "/adfs/discovery/keys",
            "Adfs_Keys",
            keys::<S>,
            "The public halves of the keys that sign tokens.",
        ),
        token("/adfs/oauth2/token", "Adfs_Token"),
        get(
            "/{tenant}/.well-known/openid-configuration",
            "Tenant_Discovery",
            configuration::<S>,
            tenant_discovery,
        ),
        get(
            "/{tenant}/v2.0/.well-known/openid-configuration",
            "Tenant_DiscoveryV2",
            configuration::<S>,
            tenant_discovery,
        ),
        token("/{tenant}/oauth2/token", "Tenant_Token"),
        token("/{tenant}/oauth2/v2.0/token", "Tenant_TokenV2"),
    ]
}

fn metadata<S: HasSignIn>(state: &S, request: &Request, _: &Params) -> Result<Response, ArmError> {
    Response::ok(endpoints(&request.base_url, state.sign_in().config.tenant))
}

fn configuration<S: HasSignIn>(state: &S, request: &Request, params: &Params) -> Result<Response, ArmError> {
    check_tenant(state, params)?;
    Response::ok(openid_configuration(&request.base_url, &state.sign_in().issuer))
}

fn keys<S: HasSignIn>(state: &S, request: &Request, _: &Params) -> Result<Response, ArmError> {
    Response::ok(state.sign_in().keys.published(request.now)?)
}

/// A tenant in a path: ours, or one of the words that stand for any.
fn check_tenant<S: HasSignIn>(state: &S, params: &Params) -> Result<(), ArmError> {
    let Some(given) = params.get("tenant") else { return Ok(()) };
    let ours = state.sign_in().config.tenant.to_string();
    if ["adfs", "common", "organizations", &ours].iter().any(|t| t.eq_ignore_ascii_case(given)) {
        return Ok(());
    }
    Err(ArmError::not_found(
        "invalid_tenant",
        format!("The tenant '{}' is not this server's.", crate::error::shorten(given)),
    ))
}

/// An error as OAuth says it.
struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    retry_after_seconds: Option<u32>,
}

impl OAuthError {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error,
            description: description.into(),
            retry_after_seconds: None,
        }
    }

    fn response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut out = Response::json(self.status, body);
        out.error_code = Some(self.error.to_owned());
        if let Some(seconds) = self.retry_after_seconds {
            out = out.retry_after(seconds);
        }
        out
    }
}

fn token<S: HasSignIn>(state: &S, request: &Request, params: &Params) -> Result<Response, ArmError> {
    let sign_in = state.sign_in();
    let grant = match check_tenant(state, params) {
        Ok(()) => read_form(request).and_then(|form| Grant::read(&form, &request.base_url)),
        Err(error) => Err(OAuthError::new("invalid_request", error.message)),
    };
    let grant = match grant {
        Ok(grant) => grant,
        // Nobody tried to be anybody: nothing for the audit.
        Err(error) => return Ok(no_store(error.response())),
    };
    let outcome = sign_in_by(state, request, &grant);
    let response = match &outcome {
        Ok(account) => answer(state, request, &grant, account)?,
        Err(error) => oauth_error(&grant, error).response(),
    };
    let caller = outcome
        .as_ref()
        .map_or_else(|_| Caller { name: grant.name().to_owned(), ..Caller::anonymous() }, caller_of);
    let event = audit_event(request, &caller, response.status, response.error_code.as_deref());
    let event = AuditEvent {
        operation: String::from("SignIn"),
        action: format!("Strongroom.Backup/signIn/{}", grant.kind()),
        scope: String::from("/"),
        ..event
    };
    sign_in.tick(request.now, false);
    let event = event.bounded();
    // Whoever has a secret can use it without end, and whoever has none can try.
    let is_told = match &outcome {
        Ok(account) => sign_in.signed_in.admit(Whose::Principal(account.object_id), event),
        Err(_) => sign_in.refused.admit(Whose::Source(request.client.into()), event),
    };
    if let Some(event) = is_told {
        sign_in.record(&event);
    }
    Ok(no_store(response))
}

/// Tokens are in no cache.
fn no_store(response: Response) -> Response {
    response.header(header::CACHE_CONTROL, "no-store")
}

fn read_form(request: &Request) -> Result<Query, OAuthError> {
    let invalid = |what: &str| OAuthError::new("invalid_request", what);
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return Err(invalid("The body must be a form (application/x-www-form-urlencoded)."));
    }
    let text = std::str::from_utf8(&request.body).map_err(|_| invalid("The body is not UTF-8."))?;
    Query::parse(text).map_err(|e| invalid(&format!("The form cannot be read: {e}.")))
}

/// What is asked for.
enum Grant {
    Secret {
        client_id: String,
        secret: String,
    },
    Password {
        client_id: String,
        name: String,
        password: String,
        openid: bool,
        offline: bool,
        client_info: bool,
    },
    Refresh {
        client_id: String,
        token: String,
        openid: bool,
        client_info: bool,
    },
}

impl Grant {
    fn read(form: &Query, base_url: &str) -> Result<Self, OAuthError> {
        let need = |name: &str| match form.get(name) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(OAuthError::new("invalid_request", format!("The request has no '{name}'."))),
        };
        let grant = need("grant_type")?;
        let scopes: Vec<&str> = form.get("scope").unwrap_or_default().split_whitespace().collect();
        let word =
            |w: &&&str| ["openid", "profile", "offline_access", "email", "user_impersonation"].contains(&**w);
        let resource = form.get("resource").filter(|r| !r.is_empty());
        for asked in scopes.iter().filter(|s| !word(s)).copied().chain(resource) {
            if !means_us(asked, base_url) {
                let description =
                    format!("The resource '{}' was not found in the tenant.", crate::error::shorten(asked));
                return Err(OAuthError::new("invalid_scope", description));
            }
        }
        let asked_for = |scope: &str| scopes.contains(&scope);
        let client_info = form.get("client_info") == Some("1");
        match grant.as_str() {
            "client_credentials" if form.get("client_assertion").is_some() => {
                let description = "Client certificates are not supported; use a client secret.";
                Err(OAuthError {
                    status: StatusCode::UNAUTHORIZED,
                    ..OAuthError::new("invalid_client", description)
                })
            }
            "client_credentials" => {
                Ok(Self::Secret { client_id: need("client_id")?, secret: need("client_secret")? })
            }
            "password" => Ok(Self::Password {
                client_id: need("client_id")?,
                name: need("username")?,
                password: need("password")?,
                openid: asked_for("openid"),
                offline: asked_for("offline_access"),
                client_info,
            }),
            "refresh_token" => Ok(Self::Refresh {
                client_id: need("client_id")?,
                token: need("refresh_token")?,
                openid: asked_for("openid"),
                client_info,
            }),
            other => {
                let description =
                    format!("The grant type '{}' is not supported.", crate::error::shorten(other));
                Err(OAuthError::new("unsupported_grant_type", description))
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "clientCredentials",
            Self::Password { .. } => "password",
            Self::Refresh { .. } => "refreshToken",
        }
    }

    fn client_id(&self) -> &str {
        match self {
            Self::Secret { client_id, .. }
            | Self::Password { client_id, .. }
            | Self::Refresh { client_id, .. } => client_id,
        }
    }

    /// Who it says it is.
    fn name(&self) -> &str {
        match self {
            Self::Secret { client_id, .. } => client_id,
            Self::Password { name, .. } => name,
            Self::Refresh { .. } => "anonymous",
        }
    }
}

fn sign_in_by<S: HasSignIn>(state: &S, request: &Request, grant: &Grant) -> Result<Account, SignInError> {
    let sign_in = state.sign_in();
    let source = request.client.into();
    match grant {
        Grant::Secret { client_id, secret } => {
            sign_in.check_secret(AccountKind::Application, client_id, secret, source, request.now)
        }
        Grant::Password { name, password, .. } => {
            sign_in.check_secret(AccountKind::User, name, password, source, request.now)
        }
        Grant::Refresh { client_id, token, .. } => sign_in.check_refresh(token, client_id, request.now),
    }
}

fn answer<S: HasSignIn>(
    state: &S,
    request: &Request,
    grant: &Grant,
    account: &Account,
) -> Result<Response, ArmError> {
    let (sign_in, now, client_id) = (state.sign_in(), request.now, grant.client_id());
    // A second less than it is good for, as Azure says it.
    let seconds = limits::ACCESS_TOKEN_SECONDS - 1;
    let mut body = json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": sign_in.access_token(account, client_id, now)?,
    });
    let (openid, refreshable, client_info) = match grant {
        Grant::Secret { .. } => (false, false, false),
        Grant::Password { openid, offline, client_info, .. } => (*openid, *offline || *openid, *client_info),
        Grant::Refresh { openid, client_info, .. } => (*openid, true, *client_info),
    };
    if openid {
        body["id_token"] =
            Value::String(sign_in.id_token(&issuer(&request.base_url), account, client_id, now)?);
    }
    if refreshable {
        body["refresh_token"] = Value::String(sign_in.refresh_token(account, client_id, now)?);
        body["refresh_token_expires_in"] = json!(limits::REFRESH_TOKEN_SECONDS - 1);
    }
    if client_info {
        let info = json!({ "uid": account.object_id, "utid": sign_in.config.tenant });
        body["client_info"] = Value::String(BASE64.encode(info.to_string()));
    }
    Ok(Response::json(StatusCode::OK, body))
}

fn oauth_error(grant: &Grant, error: &SignInError) -> OAuthError {
    let with = |status, error, description: &str, retry_after_seconds| OAuthError {
        status,
        retry_after_seconds,
        ..OAuthError::new(error, description)
    };
    match error {
        SignInError::Refused => match grant {
            Grant::Secret { .. } => with(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "The application id or its secret is wrong.",
                None,
            ),
            Grant::Password { .. } | Grant::Refresh { .. } => {
                OAuthError::new("invalid_grant", "The user name or the password is wrong.")
            }
        },
        SignInError::RefreshToken(why) => {
            OAuthError::new("invalid_grant", format!("The refresh token is invalid: {why}. Sign in again."))
        }
        SignInError::Throttled { seconds } => with(
            StatusCode::TOO_MANY_REQUESTS,
            "temporarily_unavailable",
            &format!("There were too many failed attempts. Try again in {seconds} seconds."),
            Some(*seconds),
        ),
        SignInError::Busy => with(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "Too many are signing in at the moment.",
            Some(limits::BUSY_RETRY_AFTER_SECONDS),
        ),
        SignInError::Unavailable(cause) => {
            tracing::error!(%cause, "nobody can sign in");
            let description = "Accounts or keys cannot be read at the moment.";
            with(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description, Some(5))
        }
    }
}
