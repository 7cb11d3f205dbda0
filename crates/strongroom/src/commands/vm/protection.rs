//! The state of a machine's protection.

use crate::commands::common::{Item, Vault, some_text, some_time, text};
use jiff::Timestamp;
use serde::Serialize;

/// The state of a machine's protection.
#[derive(Debug, Clone, Serialize)]
pub struct ProtectionDocument {
    pub machine: String,
    pub resource_group: String,
    pub vault: String,
    /// Azure's word: IRPending, Protected, ProtectionStopped, BackupsSuspended; or `Deleted`.
    pub state: String,
    pub policy: Option<String>,
    pub last_backup_status: Option<String>,
    pub last_backup_at: Option<Timestamp>,
    pub last_point: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_for_good_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Those that backups take; only where that was just chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<String>>,
}

impl ProtectionDocument {
    pub(super) fn of(item: &Item, vault: &Vault) -> Self {
        let d = &item.document;
        let is_well = text(d, "/properties/healthStatus") == "Passed";
        Self {
            machine: item.name.clone(),
            resource_group: item.group.clone(),
            vault: vault.name.clone(),
            state: match item.is_deleted() {
                true => "Deleted".into(),
                false => text(d, "/properties/protectionState"),
            },
            policy: some_text(d, "/properties/policyName"),
            last_backup_status: some_text(d, "/properties/lastBackupStatus"),
            last_backup_at: some_time(d, "/properties/lastBackupTime"),
            last_point: some_time(d, "/properties/lastRecoveryPoint"),
            deleted_for_good_in: some_text(d, "/properties/deferredDeleteTimeRemaining"),
            problem: some_text(d, "/properties/healthDetails/0/message").filter(|_| !is_well),
            disks: None,
        }
    }
}
