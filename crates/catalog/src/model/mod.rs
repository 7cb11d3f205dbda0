//! The rows of the service's state. What they mean and how they change is `service`'s; here they only keep.

mod access;
mod audit;
mod item;
mod job;
mod machine;
mod point;
mod vault;

pub use access::*;
pub use audit::*;
pub use item::*;
pub use job::*;
pub use machine::*;
pub use point::*;
pub use vault::*;

use crate::row::{Row, Value};
use crate::table::Table;
use serde::{Deserialize, Serialize};
use strongroom_domain::item::ItemState;

macro_rules! rows {
    ($($row:ty => $table:ident, |$self:ident| [$($value:expr),* $(,)?];)*) => { $(
        impl Row for $row {
            const TABLE: Table = Table::$table;

            fn id(&self) -> String {
                self.id.to_string()
            }

            fn version(&self) -> i64 {
                self.version
            }

            fn set_version(&mut self, version: i64) {
                self.version = version;
            }

            fn values(&self) -> Vec<Value> {
                let $self = self;
                let _ = $self;
                vec![$($value.into()),*]
            }
        }
    )* };
}

rows! {
    Setting => Settings, |s| [];
    Principal => Principals, |s| [s.app_id, key(&s.name)];
    RoleAssignment => RoleAssignments, |s| [s.principal];
    SigningKey => SigningKeys, |s| [s.created_at];
    ResourceGroup => ResourceGroups, |s| [key(&s.name)];
    Vault => Vaults, |s| [key(&s.group), key(&s.name), s.deleted_at.is_some()];
    Policy => Policies, |s| [s.vault, key(&s.name)];
    Machine => Machines, |s| [s.host.as_str(), s.host_uuid.as_str(), key(&s.group), key(&s.name), s.gone_at.is_some()];
    Item => Items, |s| [s.vault, s.machine, s.policy, state_key(s.state), key(&s.name())];
    Point => RecoveryPoints, |s| [s.vault, s.item, s.name.as_str(), s.taken_at];
    Job => Jobs, |s| [s.vault, s.item, s.operation.arm_name(), s.kind.as_str(), s.datasource.name(), s.status.arm_name(), !s.status.is_over(), s.started_at];
    Operation => Operations, |s| [s.vault, s.ended_at.is_none(), s.started_at];
    AuditEntry => Audit, |s| [s.at];
}

/// A name as it is looked up: without regard to case.
pub fn key(name: &str) -> String {
    name.to_lowercase()
}

/// A state as items are found by it.
pub fn state_key(state: ItemState) -> &'static str {
    state.arm_name()
}

/// Something the service remembers under a name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    /// The name, which says what the value means.
    pub id: String,
    /// See [`Row::version`].
    #[serde(skip)]
    pub version: i64,
    /// Of the form that whoever reads it under this name knows.
    pub value: serde_json::Value,
}
