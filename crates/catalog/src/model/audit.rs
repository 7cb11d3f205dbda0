//! What was done or refused, and whose it was.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A change, or a refusal, and whose it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEntry {
    /// A UUID of version 7.
    pub id: Uuid,
    /// See [`Row::version`](crate::Row::version).
    #[serde(skip)]
    pub version: i64,
    /// When it was done, or refused. Rows may be written in another order:
    /// [`Query::written_after`](crate::Query::written_after).
    pub at: Timestamp,
    /// Its name; of one that is not known, what it gave.
    pub principal: String,
    /// Azure's name of the action, like `Microsoft.RecoveryServices/Vaults/delete`; of a request that needs no permission its
    /// method and operation.
    pub action: String,
    /// The path of what it was done to; `/` where that is more than one thing, or is not known.
    pub scope: String,
    /// The HTTP status that was answered.
    pub status: u16,
    /// Azure's code of the refusal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Where the request came from: an address, or the kind of connection. Empty: there was no request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The request's, as the client gave it or as it was made for it. Empty: there was no request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation_id: String,
    /// Others of the same kind and the same principal that were left out before this one, because they were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What became of what, where action and scope do not say it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl AuditEntry {
    /// Something that was done, by somebody, to something; what else there is to say of it is set afterwards.
    pub fn new(
        at: Timestamp,
        principal: impl Into<String>,
        action: impl Into<String>,
        scope: impl Into<String>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            version: 0,
            at,
            principal: principal.into(),
            action: action.into(),
            scope: scope.into(),
            status: 200,
            code: String::new(),
            client: String::new(),
            correlation_id: String::new(),
            left_out: 0,
            detail: String::new(),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
