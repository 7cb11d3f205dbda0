//! A recovery point, as commands show it.

use super::drill::ResultDocument;
use crate::commands::common::{Vault, some_time, text};
use crate::text::time;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the extension in the guest did, as the API says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct GuestDocument {
    pub extension_version: String,
    /// `agent` or `port`.
    pub reached_by: String,
    pub installed: bool,
    pub was_tampered_with: bool,
    pub scripts_configured: bool,
    pub pre_script: Option<ScriptDocument>,
    pub post_script: Option<ScriptDocument>,
    /// Azure's names.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct ScriptDocument {
    pub tries: u32,
    pub elapsed_milliseconds: u64,
    pub exit_code: Option<i32>,
}

impl ScriptDocument {
    pub(super) fn shown(&self) -> String {
        let end = self.exit_code.map_or_else(|| "was ended".into(), |code| format!("exit {code}"));
        let tries = if self.tries == 1 { String::new() } else { format!(", {} tries", self.tries) };
        format!("{end} after {} ms{tries}", self.elapsed_milliseconds)
    }
}

impl GuestDocument {
    pub(super) fn shown(&self) -> String {
        let mut told = format!("extension {}", self.extension_version);
        if self.was_tampered_with {
            told += ", replaced because it had been tampered with";
        } else if self.installed {
            told += ", installed for this point";
        }
        if !self.scripts_configured {
            told += "; no scripts are configured";
        }
        if let Some(script) = &self.pre_script {
            told += &format!("; pre-script: {}", script.shown());
        }
        if let Some(script) = &self.post_script {
            told += &format!("; post-script: {}", script.shown());
        }
        if !self.problems.is_empty() {
            told += &format!("; {}", self.problems.join(", "));
        }
        told
    }
}

/// A disk that a point holds, as the API says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct DiskDocument {
    pub lun: i64,
    pub name: String,
    pub size_bytes: u64,
    /// libvirt encrypted it.
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct PointDocument {
    pub point: String,
    pub machine: String,
    pub vault: String,
    pub resource_group: String,
    pub taken_at: Option<Timestamp>,
    pub consistency: String,
    /// Why it is not better.
    pub reason: String,
    /// When it goes. None: not by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// By which rule: `Daily`, `Weekly`, `Monthly`, `Yearly`, `OnDemand`; or what keeps it beyond them, as in `held_by`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Of this policy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule_of_policy: String,
    /// `LastRecoveryPoint` (it goes when there is a newer one, at the earliest), `ProtectionStopped`, `SoftDeleted`, `NoPolicy`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub held_by: String,
    /// Why it was made: `scheduled`, `on-demand`, `before-restore` or `unknown`.
    pub made: String,
    /// The time of the schedule that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// `snapshot`, `snapshot+vault`, `vault`, or `missing` in the vault.
    pub tier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_expires_at: Option<Timestamp>,
    /// Why there is no snapshot, or no more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub no_snapshot: String,
    /// Why it is not in the vault, where it never will be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub transfer_error: String,
    pub disks: Vec<DiskDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_disks: Vec<String>,
    /// Those of them that nobody excluded, and why they are not in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub missed_disks: BTreeMap<String, String>,
    /// What was done inside the machine around its instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestDocument>,
    /// How its last drill came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<ResultDocument>,
    pub id: String,
}

impl PointDocument {
    pub fn of(document: &Value, vault: &Vault, machine: &str) -> Self {
        let excluded =
            document["properties"]["recoveryPointDiskConfiguration"]["excludedDiskList"].as_array();
        let level = text(document, "/properties/recoveryPointType");
        let tiers = document["properties"]["recoveryPointTierDetails"].as_array();
        let is_in =
            |tier: &str| tiers.into_iter().flatten().any(|t| t["type"] == tier && t["status"] == "Valid");
        let missing_since = some_time(document, "/properties/strongroomTier/missingSince");
        Self {
            point: text(document, "/name"),
            machine: machine.to_owned(),
            vault: vault.name.clone(),
            resource_group: vault.group.clone(),
            taken_at: some_time(document, "/properties/recoveryPointTime"),
            consistency: match level.as_str() {
                "AppConsistent" => "application".into(),
                "FileSystemConsistent" => "file-system".into(),
                "CrashConsistent" => "crash".into(),
                _ => level,
            },
            reason: text(document, "/properties/recoveryPointAdditionalInfo"),
            expires_at: some_time(document, "/properties/recoveryPointProperties/expiryTime"),
            rule: text(document, "/properties/recoveryPointProperties/ruleName"),
            rule_of_policy: text(document, "/properties/strongroomRetention/policyName"),
            held_by: text(document, "/properties/strongroomRetention/heldBy"),
            made: text(document, "/properties/strongroomRetention/reason"),
            scheduled_for: some_time(document, "/properties/strongroomRetention/scheduledTime"),
            tier: match (is_in("InstantRP"), is_in("HardenedRP")) {
                (true, true) => "snapshot+vault",
                (true, false) => "snapshot",
                // In the catalog, and not found in the vault.
                (false, false) if missing_since.is_some() => "missing",
                _ => "vault",
            }
            .into(),
            missing_since,
            snapshot_expires_at: some_time(document, "/properties/strongroomTier/snapshotExpiryTime"),
            no_snapshot: text(document, "/properties/strongroomTier/noSnapshotReason"),
            transfer_error: text(document, "/properties/strongroomTier/transferError"),
            disks: serde_json::from_value(document["properties"]["strongroomDisks"].clone())
                .unwrap_or_default(),
            excluded_disks: excluded.into_iter().flatten().map(|d| text(d, "/name")).collect(),
            missed_disks: document["properties"]["strongroomMissedDisks"]
                .as_array()
                .map(|disks| disks.iter().map(|d| (text(d, "/name"), text(d, "/reason"))).collect())
                .unwrap_or_default(),
            guest: serde_json::from_value(document["properties"]["strongroomGuest"].clone()).ok(),
            drill: ResultDocument::of(&document["properties"]["drill"]),
            id: text(document, "/id"),
        }
    }
}

pub(super) fn made(point: &PointDocument) -> String {
    match (point.made.as_str(), point.scheduled_for) {
        ("scheduled", Some(run)) => format!("by the schedule, for {}", time(run)),
        ("scheduled", None) => "by the schedule".into(),
        ("on-demand", _) => "on demand".into(),
        ("before-restore", _) => "before a restore replaced the disks".into(),
        _ => "unknown".into(),
    }
}

/// What keeps it: a rule of a policy, its own date, or what holds it beyond both.
pub(super) fn kept_by(point: &PointDocument) -> String {
    let rule = match point.rule.as_str() {
        "Daily" => "daily",
        "Weekly" => "weekly",
        "Monthly" => "monthly",
        "Yearly" => "yearly",
        "OnDemand" => "on demand",
        "ProtectionStopped" => "stopped protection",
        "SoftDeleted" => "soft delete",
        "NoPolicy" => "no policy yet",
        // Nothing of it is there: neither in the vault nor as a snapshot.
        "" if point.missing_since.is_some() => "-",
        "" => "its snapshot",
        other => other,
    };
    let mut told = rule.to_owned();
    if !point.rule_of_policy.is_empty() {
        told += &format!(" of {}", point.rule_of_policy);
    }
    if point.held_by == "LastRecoveryPoint" {
        told += ", the last";
    }
    told
}

pub(super) fn tier(point: &PointDocument) -> String {
    let mut told = point.tier.clone();
    if let Some(until) = point.snapshot_expires_at {
        told += &format!(" (the snapshot until {})", time(until));
    } else if !point.no_snapshot.is_empty() {
        told += &format!(" (no snapshot: {})", point.no_snapshot);
    }
    if let Some(since) = point.missing_since {
        told += &format!(", not found in the vault since {}", time(since));
    }
    if !point.transfer_error.is_empty() {
        told += &format!("; it never came into the vault: {}", point.transfer_error);
    }
    told
}

pub fn consistency(point: &PointDocument) -> String {
    match point.reason.is_empty() {
        true => point.consistency.clone(),
        false => format!("{} ({})", point.consistency, point.reason),
    }
}
