//! What signing in needs to know, and where it is kept: accounts, what they may, keys, the audit.

use super::AuditEvent;
use crate::ArmError;
use http::StatusCode;
use jiff::Timestamp;
use std::fmt;
use strongroom_domain::access::Assignment;
use thiserror::Error;
use uuid::Uuid;

/// It cannot be found out now; trying again may help. Holds the cause, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl From<Unavailable> for ArmError {
    fn from(cause: Unavailable) -> Self {
        tracing::error!(%cause, "accounts or keys cannot be read");
        let message =
            "Who you are and what you may do cannot be found out now. Please retry after some time.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(5)
    }
}

/// What an account is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountKind {
    /// A service principal: an application's id and its secret.
    Application,
    /// A person: a name and a password.
    User,
}

/// Somebody who may sign in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// What roles and tokens name it by. It never changes.
    pub object_id: Uuid,
    /// The application's id; a user's is not used.
    pub app_id: Uuid,
    /// What it is of.
    pub kind: AccountKind,
    /// As messages and the audit show it.
    pub name: String,
    /// argon2id, as a PHC string.
    pub secret_hash: String,
    /// It may not sign in, and its tokens are refused.
    pub disabled: bool,
}

/// Hashes are not for logs.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({:?} {} {})", self.kind, self.object_id, self.name)
    }
}

/// Accounts, their roles, and the audit. Calls block.
pub trait Directory: Send + Sync {
    /// The account that signs in with this: an application's id (or its name), or a user's name, in any case.
    fn by_name(&self, kind: AccountKind, name: &str) -> Result<Option<Account>, Unavailable>;

    /// The account of this id. None: there is none, or no more.
    fn by_object_id(&self, object_id: Uuid) -> Result<Option<Account>, Unavailable>;

    /// The roles that an account has.
    fn assignments(&self, object_id: Uuid) -> Result<Vec<Assignment>, Unavailable>;

    /// Writes a row of the audit.
    fn record(&self, event: &AuditEvent) -> Result<(), Unavailable>;
}

/// A key that tokens are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The `kid`: 43 characters of base64url.
    pub id: String,
    /// PKCS #8, PEM.
    pub private_key_pem: String,
    /// By which keys are replaced and end.
    pub created_at: Timestamp,
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredKey({} of {})", self.id, self.created_at)
    }
}

/// Where signing keys are kept. Calls block.
pub trait KeyStore: Send + Sync {
    /// All of them, the newest first.
    fn load(&self) -> Result<Vec<StoredKey>, Unavailable>;

    /// Keeps a new one. When this returns, a restart finds it.
    fn add(&self, key: &StoredKey) -> Result<(), Unavailable>;

    /// Removes a key; fine if it is gone.
    fn remove(&self, id: &str) -> Result<(), Unavailable>;
}
