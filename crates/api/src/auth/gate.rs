//! The gate that every request passes: one trait, asked by [`crate::Api::dispatch`] and by handlers whose scope is in
//! the body.

use crate::ArmError;
use crate::error::{shorten, shorten_to};
use crate::limits;
use jiff::Timestamp;
use serde::Serialize;
use std::fmt;
use uuid::Uuid;

/// What a request brings to say who it is from.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// No `Authorization` header.
    None,
    /// The token of `Authorization: Bearer …`, unchecked.
    Bearer(String),
    /// An `Authorization` header of another kind, or none that can be read.
    Unreadable,
    /// The user id at the other end of the Unix socket, as the kernel says.
    LocalUser {
        /// The kernel's number of the user.
        uid: u32,
    },
    /// This very process: the command line without a server.
    Process,
}

impl Credentials {
    /// Reads an `Authorization` header.
    pub fn from_header(value: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(value) else { return Self::Unreadable };
        match text.split_once(' ') {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case("bearer") && value.len() <= limits::TOKEN_MAX_BYTES =>
            {
                Self::Bearer(token.trim().to_owned())
            }
            _ => Self::Unreadable,
        }
    }
}

/// Tokens are not for logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bearer(token) => write!(f, "Bearer({} bytes)", token.len()),
            Self::Unreadable => f.write_str("Unreadable"),
            Self::LocalUser { uid } => write!(f, "LocalUser({uid})"),
            Self::Process => f.write_str("Process"),
        }
    }
}

/// What a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    /// Nobody known: public routes only.
    Anonymous,
    /// A service principal.
    Application,
    /// A person.
    User,
    /// root or the service's own user, on this host: Owner of everything.
    LocalAdministrator,
}

/// Who asks, once that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What they are.
    pub kind: CallerKind,
    /// The principal's object id; nil for the local administrator and for nobody.
    pub object_id: Uuid,
    /// Application id or user name, as messages and the audit show it.
    pub name: String,
}

impl Caller {
    /// Nobody who is known.
    pub fn anonymous() -> Self {
        Self { kind: CallerKind::Anonymous, object_id: Uuid::nil(), name: String::from("anonymous") }
    }

    /// `who` tells root from the service's own user and from the process itself in the audit.
    pub fn local_administrator(who: impl fmt::Display) -> Self {
        Self {
            kind: CallerKind::LocalAdministrator,
            object_id: Uuid::nil(),
            name: format!("local administrator ({who})"),
        }
    }

    /// The refusal for this caller.
    pub fn refused(&self, action: &str, scope: &str) -> ArmError {
        ArmError::authorization_failed(&self.name, &self.object_id.to_string(), action, scope)
    }

    /// The refusal for this caller where `own`, the action and scope of the path, is allowed, and `linked` is not.
    pub fn refused_linked(&self, own: (&str, &str), linked: (&str, &str)) -> ArmError {
        let object_id = self.object_id.to_string();
        ArmError::linked_authorization_failed((&self.name, &object_id), own, linked)
    }
}

/// One row of the audit: a change that was asked for, or a refusal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditEvent {
    /// When it was dispatched.
    pub at: Timestamp,
    /// The request's own id, as its answer has it in `x-ms-request-id`.
    pub request_id: Uuid,
    /// The caller's, by which several requests belong together; else the request's own.
    pub correlation_id: Uuid,
    /// Who asked.
    pub caller_kind: CallerKind,
    /// Nil where there is none.
    pub caller_object_id: Uuid,
    /// As [`Caller::name`].
    pub caller_name: String,
    /// Where from: an address, or a local user.
    pub client: String,
    /// The route's operation, such as `Vaults_CreateOrUpdate`; empty where no route was found.
    pub operation: String,
    /// The ARM action that was needed; empty where none was.
    pub action: String,
    /// The resource, as an ARM id; else the path.
    pub scope: String,
    /// The HTTP method.
    pub method: String,
    /// The answer's HTTP status.
    pub status: u16,
    /// The error's code; empty on success.
    pub code: String,
    /// Events of the same kind that were left out before this one, because there were too many at once.
    pub left_out: u64,
    /// What became of what, where it is not said by action and scope.
    pub detail: String,
}

impl AuditEvent {
    /// Bounds what a stranger wrote into it.
    pub(crate) fn bounded(mut self) -> Self {
        self.scope = shorten_to(&self.scope, limits::AUDIT_SCOPE_MAX_BYTES);
        self.detail = shorten_to(&self.detail, limits::AUDIT_SCOPE_MAX_BYTES);
        self.caller_name = shorten(&self.caller_name);
        self.method = shorten(&self.method);
        self
    }
}

/// Decides who somebody is and what they may, and remembers it. Calls block.
pub trait Gate: Send + Sync {
    /// Who this is. Refuses with 401 where there is no valid token, 403 where a local user may not use the socket.
    /// [`Credentials::None`] is refused too: public routes are not asked about.
    fn authenticate(&self, credentials: &Credentials, now: Timestamp) -> Result<Caller, ArmError>;

    /// Whether the caller may do `action` (such as `Microsoft.RecoveryServices/Vaults/read`) over `scope`, an ARM id or a
    /// part of one. Errors are failures to find out.
    fn allowed(&self, caller: &Caller, action: &str, scope: &str) -> Result<bool, ArmError>;

    /// Remembers a change or a refusal. It has happened already: what cannot be written is logged, not refused.
    fn audit(&self, event: &AuditEvent);

    /// Called once a minute, and at the end.
    fn tick(&self, _now: Timestamp, _is_last: bool) {}
}
