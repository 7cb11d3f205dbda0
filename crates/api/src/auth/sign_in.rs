//! The real gate: tokens given out and checked, roles looked up, everything remembered.

use super::directory::{Account, AccountKind, Directory, KeyStore, Unavailable};
use super::documents::AUDIENCE;
use super::gate::{AuditEvent, Caller, CallerKind, Credentials, Gate};
use super::jwt::{Claims, Kind, TokenRefusal, Unverified, sign};
use super::keys::KeyRing;
use super::secret::{SecretChecker, Verdict};
use super::throttle::{Failures, Refusals};
use crate::http::Source;
use crate::{ArmError, limits};
use jiff::Timestamp;
use std::sync::Arc;
use strongroom_domain::access::is_allowed;
use uuid::Uuid;

/// What signing in needs to know of this installation.
#[derive(Debug, Clone)]
pub struct SignInConfig {
    /// The installation's tenant; tokens of any other are refused.
    pub tenant: Uuid,
    /// Users of this host who are administrators over the Unix socket: root and the service's own.
    pub administrators: Vec<u32>,
}

impl SignInConfig {
    /// root, and whoever runs this process.
    pub fn new(tenant: Uuid) -> Self {
        Self { tenant, administrators: vec![0, rustix::process::geteuid().as_raw()] }
    }
}

/// An application's state that has a [`SignIn`]: what the sign-in routes need of it.
pub trait HasSignIn {
    /// The one of the gate that the API was built with.
    fn sign_in(&self) -> &SignIn;
}

/// Gives out tokens, and is the gate that checks them.
pub struct SignIn {
    pub(super) config: SignInConfig,
    directory: Arc<dyn Directory>,
    pub(super) keys: KeyRing,
    secrets: SecretChecker,
    failures: Failures,
    /// Sign-ins that failed, and those that did not: which of them the audit tells.
    pub(super) refused: Refusals,
    pub(super) signed_in: Refusals,
    pub(super) issuer: String,
}

/// Why somebody could not sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignInError {
    /// No such account, a wrong secret, or a disabled account: which of them is nobody's business.
    Refused,
    /// The refresh token is no good (any more).
    RefreshToken(TokenRefusal),
    Throttled {
        seconds: u32,
    },
    Busy,
    Unavailable(Unavailable),
}

impl From<Unavailable> for SignInError {
    fn from(cause: Unavailable) -> Self {
        Self::Unavailable(cause)
    }
}

impl SignIn {
    /// Reads no account and makes no key yet. Fails where no secret could be checked.
    pub fn new(
        config: SignInConfig,
        directory: Arc<dyn Directory>,
        keys: Arc<dyn KeyStore>,
    ) -> Result<Self, Unavailable> {
        Ok(Self {
            // Azure's form. A name: where the server is reached may change, tokens stay good.
            issuer: format!("https://sts.strongroom.local/{}/", config.tenant),
            config,
            directory,
            keys: KeyRing::new(keys),
            secrets: SecretChecker::new()?,
            failures: Failures::default(),
            refused: Refusals::default(),
            signed_in: Refusals::new(limits::SIGN_INS_BURST, limits::SIGN_INS_PER_SECOND),
        })
    }

    /// The account of a name and a secret. `source` is where the attempt comes from.
    pub(super) fn check_secret(
        &self,
        kind: AccountKind,
        name: &str,
        secret: &str,
        source: Source,
        now: Timestamp,
    ) -> Result<Account, SignInError> {
        if let Some(seconds) = self.failures.wait_seconds(name, source, now) {
            return Err(SignInError::Throttled { seconds });
        }
        let too_long =
            name.len() > limits::SIGN_IN_NAME_MAX_BYTES || secret.len() > limits::SIGN_IN_SECRET_MAX_BYTES;
        let account = if too_long { None } else { self.directory.by_name(kind, name)? };
        // One verdict for all: how long it takes must not tell which names exist.
        let verdict = match too_long {
            true => Verdict::Wrong,
            false => self.secrets.check(account.as_ref().map(|a| a.secret_hash.as_str()), secret, source),
        };
        match (verdict, account) {
            (Verdict::Busy, _) => Err(SignInError::Busy),
            (Verdict::Right, Some(account)) if !account.disabled => Ok(account),
            _ => {
                self.failures.note(name, source, now);
                Err(SignInError::Refused)
            }
        }
    }

    /// The account of a refresh token that was given to `client_id`.
    pub(super) fn check_refresh(
        &self,
        token: &str,
        client_id: &str,
        now: Timestamp,
    ) -> Result<Account, SignInError> {
        let refused = SignInError::RefreshToken;
        let claims = self.verified(token, now)?.map_err(refused)?;
        claims.check(Kind::Refresh, &self.issuer, &self.issuer, &self.tenant(), now).map_err(refused)?;
        if claims.appid.as_deref() != Some(client_id) {
            return Err(refused(TokenRefusal::Audience));
        }
        let account = self.account_of(&claims)?.ok_or(refused(TokenRefusal::Principal))?;
        // A new secret ends what the old one began.
        if claims.secret.as_deref() != Some(fingerprint(&account.secret_hash).as_str()) {
            return Err(refused(TokenRefusal::Principal));
        }
        Ok(account)
    }

    /// An access token.
    pub(super) fn access_token(
        &self,
        account: &Account,
        client_id: &str,
        now: Timestamp,
    ) -> Result<String, Unavailable> {
        self.token(
            Kind::Access,
            AUDIENCE,
            &self.issuer,
            limits::ACCESS_TOKEN_SECONDS,
            account,
            client_id,
            now,
        )
    }

    pub(super) fn refresh_token(
        &self,
        account: &Account,
        client_id: &str,
        now: Timestamp,
    ) -> Result<String, Unavailable> {
        self.token(
            Kind::Refresh,
            &self.issuer,
            &self.issuer,
            limits::REFRESH_TOKEN_SECONDS,
            account,
            client_id,
            now,
        )
    }

    /// An id token, which says to the client who signed in; it opens nothing here.
    pub(super) fn id_token(
        &self,
        issuer: &str,
        account: &Account,
        client_id: &str,
        now: Timestamp,
    ) -> Result<String, Unavailable> {
        self.token(Kind::Id, client_id, issuer, limits::ACCESS_TOKEN_SECONDS, account, client_id, now)
    }

    #[expect(clippy::too_many_arguments, reason = "what a token is made of")]
    fn token(
        &self,
        kind: Kind,
        audience: &str,
        issuer: &str,
        seconds: i64,
        account: &Account,
        client_id: &str,
        now: Timestamp,
    ) -> Result<String, Unavailable> {
        let user = account.kind == AccountKind::User;
        let name = || user.then(|| account.name.clone());
        let claims = Claims {
            iss: issuer.to_owned(),
            aud: audience.to_owned(),
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: now.as_second() + seconds,
            sub: account.object_id.to_string(),
            oid: account.object_id.to_string(),
            tid: self.tenant(),
            kind,
            uti: Uuid::new_v4().simple().to_string(),
            ver: String::from("1.0"),
            idtyp: Some(String::from(if user { "user" } else { "app" })),
            appid: Some(if user { client_id.to_owned() } else { account.app_id.to_string() }),
            upn: name(),
            unique_name: name(),
            preferred_username: name(),
            name: name(),
            secret: (kind == Kind::Refresh).then(|| fingerprint(&account.secret_hash)),
        };
        let claims = if kind == Kind::Refresh {
            // Bound to the client that it is given to, not to the account.
            Claims { appid: Some(client_id.to_owned()), ..claims }
        } else {
            claims
        };
        sign(&*self.keys.signing(now)?, &claims)
    }

    /// A token's claims, if one of our keys signed them.
    fn verified(&self, token: &str, now: Timestamp) -> Result<Result<Claims, TokenRefusal>, Unavailable> {
        let token = match Unverified::parse(token) {
            Ok(token) => token,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(match self.keys.verifying(&token.key_id, now)? {
            Some(key) => token.verify(&key),
            None => Err(TokenRefusal::UnknownKey),
        })
    }

    fn account_of(&self, claims: &Claims) -> Result<Option<Account>, Unavailable> {
        let Ok(object_id) = Uuid::try_parse(&claims.oid) else { return Ok(None) };
        Ok(self.directory.by_object_id(object_id)?.filter(|account| !account.disabled))
    }

    /// Who a bearer token is from.
    fn check_token(&self, token: &str, now: Timestamp) -> Result<Caller, ArmError> {
        let claims = self.verified(token, now)??;
        claims.check(Kind::Access, &self.issuer, AUDIENCE, &self.tenant(), now)?;
        let account = self.account_of(&claims)?.ok_or(TokenRefusal::Principal)?;
        Ok(caller_of(&account))
    }

    fn tenant(&self) -> String {
        self.config.tenant.to_string()
    }

    /// Remembers an event, or says in the log that it could not be.
    pub(super) fn record(&self, event: &AuditEvent) {
        if let Err(cause) = self.directory.record(event) {
            tracing::error!(%cause, operation = event.operation, caller = event.caller_name, status = event.status,
                "the audit could not be written");
        }
    }
}

pub(super) fn caller_of(account: &Account) -> Caller {
    let kind = match account.kind {
        AccountKind::Application => CallerKind::Application,
        AccountKind::User => CallerKind::User,
    };
    Caller { kind, object_id: account.object_id, name: account.name.clone() }
}

/// Names a secret's hash without telling it.
fn fingerprint(hash: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, hash.as_bytes());
    digest.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

impl Gate for SignIn {
    fn authenticate(&self, credentials: &Credentials, now: Timestamp) -> Result<Caller, ArmError> {
        match credentials {
            Credentials::None => Err(ArmError::authentication_missing()),
            Credentials::Unreadable => {
                Err(ArmError::invalid_token("the Authorization header holds no bearer token"))
            }
            Credentials::Bearer(token) => self.check_token(token, now),
            Credentials::LocalUser { uid } if self.config.administrators.contains(uid) => {
                Ok(Caller::local_administrator(format_args!("user {uid}")))
            }
            Credentials::LocalUser { uid } => {
                let message = format!(
                    "The local user with id {uid} may not use this socket; root and the service's own user may. Others \
                     sign in over HTTPS."
                );
                Err(ArmError::new(http::StatusCode::FORBIDDEN, "AuthorizationFailed", message))
            }
            Credentials::Process => {
                let uid = rustix::process::getuid().as_raw();
                Ok(Caller::local_administrator(format_args!("user {uid}, this process")))
            }
        }
    }

    fn allowed(&self, caller: &Caller, action: &str, scope: &str) -> Result<bool, ArmError> {
        match caller.kind {
            CallerKind::Anonymous => Ok(false),
            CallerKind::LocalAdministrator => Ok(true),
            CallerKind::Application | CallerKind::User => {
                Ok(is_allowed(&self.directory.assignments(caller.object_id)?, action, scope))
            }
        }
    }

    fn audit(&self, event: &AuditEvent) {
        self.record(event);
    }

    fn tick(&self, now: Timestamp, is_last: bool) {
        for event in self.refused.due(now, is_last).into_iter().chain(self.signed_in.due(now, is_last)) {
            self.record(&event);
        }
    }
}
