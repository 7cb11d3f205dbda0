//! The policies of a vault, as rows: what a new vault has, and finding them.

use crate::core::error::Result;
use crate::core::service::Service;
use serde_json::Value;
use strongroom_catalog::{Policy, Query, Vault, key};
use strongroom_domain::Datasource;
use strongroom_domain::policy::Policy as Rules;
use uuid::Uuid;

/// The policy that a new vault has for backups once a day.
pub(crate) const DEFAULT: &str = "DefaultPolicy";

/// The policy that a new vault has for backups several times a day.
pub(crate) const ENHANCED: &str = "EnhancedPolicy";

/// A vault's policies, by name.
pub fn list(service: &Service, vault: &Vault) -> Result<Vec<Policy>> {
    Ok(service.catalog.find(&Query::all().eq("vault", vault.id).ascending("name_key"))?)
}

/// A vault's policy of that name, in any case.
pub fn find(service: &Service, vault: &Vault, name: &str) -> Result<Option<Policy>> {
    Ok(service.catalog.first(Query::all().eq("vault", vault.id).eq("name_key", key(name)))?)
}

/// The policy of this id, of whichever vault.
pub fn by_id(service: &Service, id: Uuid) -> Result<Option<Policy>> {
    Ok(service.catalog.get(id)?)
}

/// A new policy, as it is to be written.
pub(crate) fn draft(service: &Service, vault: Uuid, name: &str, rules: Rules) -> Policy {
    let now = service.now();
    Policy {
        id: Uuid::new_v4(),
        version: 0,
        vault,
        name: name.into(),
        datasource: Datasource::Machine,
        rules,
        wire: Value::Null,
        created_at: now,
        changed_at: now,
    }
}
