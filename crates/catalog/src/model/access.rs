//! Who may sign in, and what they may do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_domain::access::Role;
use uuid::Uuid;

/// How somebody signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Signs in with an application id and a secret.
    Service,
    /// Signs in with a name and a password.
    User,
}

/// Somebody who may sign in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Principal {
    /// Azure's object id.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// How it signs in.
    pub kind: PrincipalKind,
    /// Azure's application (client) id; of a user it has no use.
    pub app_id: Uuid,
    /// What it is called, and what a user signs in with.
    pub name: String,
    /// argon2, in the PHC format.
    pub secret_hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// It may not sign in.
    #[serde(default)]
    pub disabled: bool,
}

/// What a principal may do at a scope and all below it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoleAssignment {
    /// The name of the assignment in Azure's API: a GUID.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// The [`Principal::id`] of whose it is. The row goes with the principal.
    pub principal: Uuid,
    /// What it may do there.
    pub role: Role,
    /// A path: `/`, `/subscriptions/S`, and so on.
    pub scope: String,
    /// When it was given.
    pub created_at: Timestamp,
}

/// A key that tokens are signed with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    pub id: String,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// PKCS #8, PEM.
    pub private_key_pem: String,
    /// When it was made. Of those that may sign the newest does.
    pub created_at: Timestamp,
    /// No longer signs; what it signed is still accepted for a while.
    pub retired_at: Option<Timestamp>,
}
