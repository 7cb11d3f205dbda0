//! A vault, as commands name it and show it.

use crate::client::{Client, ServiceArgs};
use crate::commands::common::{InVault, Vault, find_vault, text};
use crate::failure::Result;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

/// A vault by its name.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The vault's name; may be left out where there is one.
    name: Option<String>,
    /// Its resource group, where two have vaults of one name.
    #[arg(short = 'g', long = "resource-group", value_name = "GROUP")]
    group: Option<String>,
    #[command(flatten)]
    pub(super) service: ServiceArgs,
}

impl Named {
    pub(super) fn find(&self, client: &Client) -> Result<Vault> {
        let args =
            InVault { vault: self.name.clone(), group: self.group.clone(), service: self.service.clone() };
        find_vault(client, &args)
    }
}

#[derive(Serialize)]
pub(super) struct VaultDocument {
    pub(super) name: String,
    pub(super) resource_group: String,
    pub(super) location: String,
    pub(super) redundancy: String,
    pub(super) soft_delete: String,
    pub(super) soft_delete_days: u64,
    pub(super) immutability: String,
    pub(super) id: String,
}

pub(super) fn document(vault: &Vault) -> VaultDocument {
    let security = |rest: &str| text(&vault.document, &format!("/properties/securitySettings/{rest}"));
    VaultDocument {
        name: vault.name.clone(),
        resource_group: vault.group.clone(),
        location: text(&vault.document, "/location"),
        redundancy: text(&vault.document, "/properties/redundancySettings/standardTierStorageRedundancy"),
        soft_delete: security("softDeleteSettings/softDeleteState"),
        soft_delete_days: vault
            .document
            .pointer("/properties/securitySettings/softDeleteSettings/softDeleteRetentionPeriodInDays")
            .and_then(Value::as_u64)
            .unwrap_or(0),
        immutability: security("immutabilitySettings/state"),
        id: text(&vault.document, "/id"),
    }
}

pub(super) fn entries(document: &VaultDocument) -> Vec<(&'static str, String)> {
    vec![
        ("vault", document.name.clone()),
        ("group", document.resource_group.clone()),
        ("location", document.location.clone()),
        ("redundancy", document.redundancy.clone()),
        (
            "soft delete",
            match document.soft_delete.as_str() {
                "Disabled" => "off".into(),
                state => format!("{}, {} days", state.to_lowercase(), document.soft_delete_days),
            },
        ),
        ("immutability", document.immutability.to_lowercase()),
    ]
}
