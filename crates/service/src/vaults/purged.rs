//! Vaults that were purged, as they are remembered while their keys are there.

use crate::core::error::Result;
use crate::core::service::Service;
use strongroom_catalog::Setting;
use strongroom_domain::VaultId;
use uuid::Uuid;

/// A purged vault, as it is remembered while its key is there.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Purged {
    pub name: String,
    pub store_id: VaultId,
    pub store_location: String,
    pub purged_at: jiff::Timestamp,
}

pub(crate) fn purged_setting(vault: Uuid) -> String {
    format!("purged/{vault}")
}

/// A vault that was purged here.
pub(crate) fn purged(service: &Service, vault: Uuid) -> Result<Option<Purged>> {
    let setting = service.catalog.get::<Setting>(purged_setting(vault))?;
    Ok(setting.and_then(|s| serde_json::from_value(s.value).ok()))
}
