//! JSON Web Tokens, RS256 and nothing else (RFC 7519, RFC 7515).
//!
//! A token says which algorithm it was made with; that is where forgeries begin. Here the algorithm is a constant: a header
//! that names another is refused, and no key is ever used but as an RSA key.

use super::keys::Key;
use crate::{ArmError, limits};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a token is refused. The texts are for the caller and complete "The access token is invalid: …".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum TokenRefusal {
    #[error("it is too long")]
    TooLong,
    #[error("it is not a JSON Web Token")]
    Malformed,
    #[error("it is not signed with RS256")]
    Algorithm,
    #[error("the key that it names is not, or no longer, one of this server's")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is not an access token")]
    Kind,
    #[error("its issuer is another")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
    #[error("it is for another tenant")]
    Tenant,
    #[error("it expired at {expired}, and it is {now}")]
    Expired { expired: Timestamp, now: Timestamp },
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("its principal does not exist, or is disabled")]
    Principal,
}

impl From<TokenRefusal> for ArmError {
    fn from(refusal: TokenRefusal) -> Self {
        let code = match &refusal {
            TokenRefusal::Expired { .. } => "ExpiredAuthenticationToken",
            TokenRefusal::Tenant | TokenRefusal::Issuer => "InvalidAuthenticationTokenTenant",
            TokenRefusal::Audience => "InvalidAuthenticationTokenAudience",
            TokenRefusal::UnknownKey => "InvalidSigningKey",
            _ => return Self::invalid_token(refusal),
        };
        Self::unauthorized(code, format!("The access token is invalid: {refusal}."))
    }
}

/// What a token's first part says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub alg: String,
    pub typ: Option<String>,
    pub kid: Option<String>,
    /// Extensions that must be understood: there are none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit: Option<serde_json::Value>,
}

const ALGORITHM: &str = "RS256";

/// Signs claims.
pub(super) fn sign(key: &Key, claims: &impl Serialize) -> Result<String, super::Unavailable> {
    let header =
        Header { alg: ALGORITHM.into(), typ: Some("JWT".into()), kid: Some(key.id().into()), crit: None };
    let part = |json: Result<Vec<u8>, serde_json::Error>| {
        json.map(|json| BASE64.encode(json)).map_err(|e| super::Unavailable(format!("writing a token: {e}")))
    };
    let mut token = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(claims))?);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&BASE64.encode(signature));
    Ok(token)
}

/// A token taken apart; nothing in it is to be believed yet.
pub(super) struct Unverified<'a> {
    signed: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
    pub key_id: String,
}

impl<'a> Unverified<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenRefusal> {
        if token.len() > limits::TOKEN_MAX_BYTES {
            return Err(TokenRefusal::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenRefusal::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenRefusal::Malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| TokenRefusal::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenRefusal::Malformed)?;
        // Before anything else: what is not RS256 is not looked at.
        if header.alg != ALGORITHM {
            return Err(TokenRefusal::Algorithm);
        }
        if header.crit.is_some() {
            return Err(TokenRefusal::Malformed);
        }
        let key_id = header.kid.ok_or(TokenRefusal::UnknownKey)?;
        Ok(Self { signed, claims: decode(claims)?, signature: decode(signature)?, key_id })
    }

    /// The claims, if the key signed them.
    pub(super) fn verify<T: DeserializeOwned>(&self, key: &Key) -> Result<T, TokenRefusal> {
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(TokenRefusal::Signature);
        }
        serde_json::from_slice(&self.claims).map_err(|_| TokenRefusal::Malformed)
    }
}

/// What all of our tokens say. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub iss: String,
    pub aud: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    /// The principal's object id, also as `oid`, which Azure's clients read.
    pub sub: String,
    pub oid: String,
    /// The tenant.
    pub tid: String,
    /// Which sort of token: see [`Kind`].
    #[serde(rename = "strongroom_use")]
    pub kind: Kind,
    /// Names of this token alone.
    pub uti: String,
    pub ver: String,
    /// `app` or `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idtyp: Option<String>,
    /// The application that was signed in, or that a user signed in with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a refresh token: which secret it came from, so that a new one ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// One sort must never pass for another: each is checked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Access,
    Refresh,
    Id,
}

impl Claims {
    /// Whether the token is of this kind, from us, for this audience, and for now.
    pub(super) fn check(
        &self,
        kind: Kind,
        issuer: &str,
        audience: &str,
        tenant: &str,
        now: Timestamp,
    ) -> Result<(), TokenRefusal> {
        if self.kind != kind {
            return Err(TokenRefusal::Kind);
        }
        if self.tid != tenant {
            return Err(TokenRefusal::Tenant);
        }
        if self.iss != issuer {
            return Err(TokenRefusal::Issuer);
        }
        if self.aud != audience {
            return Err(TokenRefusal::Audience);
        }
        let seconds = now.as_second();
        if self.exp.saturating_add(limits::TOKEN_LEEWAY_SECONDS) <= seconds {
            let expired = Timestamp::from_second(self.exp).unwrap_or(Timestamp::MIN);
            return Err(TokenRefusal::Expired { expired, now });
        }
        if self.nbf.saturating_sub(limits::TOKEN_LEEWAY_SECONDS) > seconds {
            return Err(TokenRefusal::NotYetValid);
        }
        Ok(())
    }
}
