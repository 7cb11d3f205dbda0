//! Recovery points. Restoring them is in [`crate::arm::restore`].

use super::drilled;
use crate::arm::shared::{
    Answer, App, by_shown_name, check_region, format, item_id, item_of, item_path, page, sees_drills,
};
use crate::route::LIST;
use crate::{ArmError, Params, Request, Response, Route};
use serde_json::{Value, json};
use strongroom_catalog::{Item, Point, PointDisk, PointGuest, PointScript, Transfer, Vault};
use strongroom_domain::ConsistencyLevel;
use strongroom_domain::item::ItemState;
use strongroom_domain::retention::{PointReason, Rule};
use strongroom_service::retention::{Hold, Keeping};
use strongroom_service::{points, policies, retention};

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Recovery points";
    const READ: &str = "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/read";
    vec![
        Route::get(item_path!("/recoveryPoints"), "RecoveryPoints_List", list)
            .action(READ)
            .query(LIST)
            .summary("An item's recovery points, the newest first.")
            .tag(TAG),
        Route::get(item_path!("/recoveryPoints/{point}"), "RecoveryPoints_Get", get).answers("Resource")
            .action(READ)
            .summary("A recovery point.")
            .tag(TAG),
        Route::post(
            item_path!("/recoveryPointsRecommendedForMove"),
            "RecoveryPointsRecommendedForMove_List",
            recommended,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPointsRecommendedForMove/action")
        .summary("Points that had better be moved to the archive: there is none here.")
        .tag(TAG),
    ]
}

/// The first three are those of whole points.
const QUERY_TYPES: [&str; 9] = [
    "All",
    "Full",
    "FullAndDifferential",
    "Log",
    "Differential",
    "Incremental",
    "SnapshotFull",
    "SnapshotCopyOnlyFull",
    "Invalid",
];
const LEVELS: [ConsistencyLevel; 3] =
    [ConsistencyLevel::Application, ConsistencyLevel::FileSystem, ConsistencyLevel::Crash];

fn level_name(level: ConsistencyLevel) -> &'static str {
    match level {
        ConsistencyLevel::Application => "AppConsistent",
        ConsistencyLevel::FileSystem => "FileSystemConsistent",
        ConsistencyLevel::Crash => "CrashConsistent",
    }
}

/// Azure's tiers: `InstantRP` is the snapshot, `HardenedRP` the vault. What is not there, or no more, is not listed as valid.
fn tiers(point: &Point) -> Value {
    let mut tiers = Vec::new();
    if point.snapshot.is_some() {
        tiers.push(json!({"type": "InstantRP", "status": "Valid"}));
    } else if point.snapshot_ended_at.is_some() {
        tiers.push(json!({"type": "InstantRP", "status": "Deleted"}));
    }
    if point.transfer == Transfer::Done {
        let status = if point.missing_since.is_some() { "Invalid" } else { "Valid" };
        tiers.push(json!({"type": "HardenedRP", "status": status}));
    }
    tiers.into()
}

/// What Azure has no words for.
fn tier_notes(point: &Point) -> Option<Value> {
    let mut notes = serde_json::Map::new();
    if let Some(snapshot) = &point.snapshot {
        notes.insert("snapshotExpiryTime".into(), format::time(snapshot.expires_at).into());
    }
    if let Some(ended_at) = point.snapshot_ended_at {
        notes.insert("snapshotEndTime".into(), format::time(ended_at).into());
    }
    if !point.no_snapshot.is_empty() {
        notes.insert("noSnapshotReason".into(), point.no_snapshot.clone().into());
    }
    match &point.transfer {
        Transfer::Done => {
            if let Some(at) = point.vaulted_at {
                notes.insert("vaultedTime".into(), format::time(at).into());
            }
            if let Some(at) = point.missing_since {
                notes.insert("missingSince".into(), format::time(at).into());
            }
        }
        Transfer::Pending => drop(notes.insert("transfer".into(), "Pending".into())),
        Transfer::Failed { reason } => {
            notes.insert("transfer".into(), "Failed".into());
            notes.insert("transferError".into(), reason.clone().into());
        }
    }
    (!notes.is_empty()).then_some(Value::Object(notes))
}

/// What it holds, by the LUNs that a restore takes. Azure lists disks only where some were chosen (`recoveryPointDiskConfiguration`).
fn disks(point: &Point) -> Value {
    let mut disks: Vec<&PointDisk> = point.disks.iter().collect();
    disks.sort_by_key(|d| d.lun);
    disks
        .iter()
        .map(|d| json!({"lun": d.lun, "name": d.target, "sizeBytes": d.size_bytes, "encrypted": d.encrypted}))
        .collect()
}

/// What was done inside the machine: Azure has no words for it.
fn guest(guest: &PointGuest) -> Value {
    let script = |run: &Option<PointScript>| {
        run.as_ref().map(|run| {
            json!({"tries": run.tries, "elapsedMilliseconds": run.elapsed_ms, "exitCode": run.exit_code})
        })
    };
    json!({
        "extensionVersion": guest.version,
        "reachedBy": guest.via,
        "installed": guest.installed,
        "wasTamperedWith": guest.was_tampered_with,
        "scriptsConfigured": guest.configured,
        "preScript": script(&guest.pre),
        "postScript": script(&guest.post),
        "problems": guest.problems,
    })
}

/// Until when it is kept, in Azure's words. What is kept for ever has no time; what its item's soft deletion holds has that one's.
fn life(item: &Item, keeping: &Keeping) -> Value {
    let until = match keeping.hold {
        None | Some(Hold::LastPoint) => keeping.until,
        Some(Hold::SoftDeleted) => item.purge_at,
        Some(Hold::ProtectionStopped | Hold::NoPolicy) => None,
    };
    let mut life = json!({"isSoftDeleted": item.state == ItemState::SoftDeleted});
    if let Some(until) = until {
        life["expiryTime"] = format::time(until).into();
    }
    let rule = match keeping.hold {
        None | Some(Hold::LastPoint) => keeping.rule.map(Rule::name),
        Some(hold) => Some(hold_name(hold)),
    };
    if let Some(rule) = rule {
        life["ruleName"] = rule.into();
    }
    life
}

fn hold_name(hold: Hold) -> &'static str {
    match hold {
        Hold::LastPoint => "LastRecoveryPoint",
        Hold::ProtectionStopped => "ProtectionStopped",
        Hold::SoftDeleted => "SoftDeleted",
        Hold::NoPolicy => "NoPolicy",
    }
}

/// Why it was made and what keeps it: Azure has no words for it.
fn retention_notes(point: &Point, keeping: &Keeping, policy: Option<&str>) -> Value {
    let reason = point.reason.or(match (point.scheduled_for, point.keep_until) {
        (Some(_), _) => Some(PointReason::Scheduled),
        (None, Some(_)) => Some(PointReason::OnDemand),
        (None, None) => None,
    });
    let mut notes = json!({"reason": reason.map_or("unknown", PointReason::name)});
    if let Some(run) = point.scheduled_for {
        notes["scheduledTime"] = format::time(run).into();
    }
    if let Some(hold) = keeping.hold {
        notes["heldBy"] = hold_name(hold).into();
    }
    let is_by_policy = keeping.rule.is_some_and(|rule| rule != Rule::OnDemand);
    let is_by_rule = matches!(keeping.hold, None | Some(Hold::LastPoint));
    if let Some(policy) = policy.filter(|_| is_by_policy && is_by_rule) {
        notes["policyName"] = policy.into();
    }
    notes
}

fn show(app: &App, vault: &Vault, item: &Item, policy: Option<&str>, (point, keeping): &Kept) -> Value {
    let disk = |d: &PointDisk| json!({"lun": d.lun, "name": d.target});
    let mut p = json!({
        "objectType": "IaasVMRecoveryPoint",
        "recoveryPointType": level_name(point.consistency.level),
        "recoveryPointTime": format::time(point.taken_at),
        "recoveryPointAdditionalInfo": point.consistency.reason,
        "sourceVMStorageType": "PremiumVMOnPartialPremiumStorage",
        "isSourceVMEncrypted": false,
        "isInstantIlrSessionActive": false,
        "recoveryPointTierDetails": tiers(point),
        "isManagedVirtualMachine": true,
        "originalStorageAccountOption": false,
        "recoveryPointMoveReadinessInfo": {"ArchivedRP": {
            "isReadyForMove": false,
            "additionalInfo": "This server has no archive tier.",
        }},
        "securityType": "None",
        "isPrivateAccessEnabledOnAnyDisk": false,
        "createdWithPolicyType": point.policy_type,
    });
    if !point.machine_size.is_empty() {
        p["virtualMachineSize"] = point.machine_size.clone().into();
    }
    if !point.os.is_empty() {
        p["osType"] = point.os.clone().into();
    }
    if point.has_choice {
        let mut included: Vec<&PointDisk> = point.disks.iter().collect();
        included.sort_by_key(|d| d.lun);
        p["recoveryPointDiskConfiguration"] = json!({
            "numberOfDisksIncludedInBackup": point.disks.len(),
            "numberOfDisksAttachedToVm": point.disks.len() + point.excluded.len(),
            "includedDiskList": included.into_iter().map(disk).collect::<Vec<_>>(),
            "excludedDiskList": point.excluded.iter().map(disk).collect::<Vec<_>>(),
        });
    }
    if let Some(drill) = &point.drill {
        p["drill"] = json!(drilled::show(drill));
    }
    p["strongroomDisks"] = disks(point);
    let missed: Vec<&PointDisk> = point.excluded.iter().filter(|d| !d.reason.is_empty()).collect();
    if !missed.is_empty() {
        let disk = |d: &&PointDisk| json!({"lun": d.lun, "name": d.target, "reason": d.reason});
        p["strongroomMissedDisks"] = missed.iter().map(disk).collect();
    }
    if let Some(more) = tier_notes(point) {
        p["strongroomTier"] = more;
    }
    if let Some(done) = &point.guest {
        p["strongroomGuest"] = guest(done);
    }
    p["recoveryPointProperties"] = life(item, keeping);
    p["strongroomRetention"] = retention_notes(point, keeping, policy);
    json!({
        "id": format!("{}/recoveryPoints/{}", item_id(app, vault, item), point.name),
        "name": point.name,
        "type": "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints",
        "properties": p,
    })
}

/// A point as it is shown, without what its drill saw inside for who may not see that.
fn for_caller(mut shown: Value, sees_drills: bool) -> Value {
    if !sees_drills {
        drilled::withhold_output(&mut shown["properties"]["drill"]);
        // Looking for it has put it there.
        if let Some(properties) = shown["properties"].as_object_mut() {
            properties.retain(|_, value| !value.is_null());
        }
    }
    shown
}

/// A point with what keeps it.
type Kept = (Point, Keeping);

fn kept(app: &App, item: &Item) -> Result<Vec<Kept>, ArmError> {
    let all = points::list(&app.service, item, None, None)?;
    let keepings = retention::keepings(&app.service, item, &all)?;
    Ok(all.into_iter().zip(keepings).collect())
}

/// The name of the policy that an item goes by.
fn policy_name(app: &App, item: &Item) -> Result<Option<String>, ArmError> {
    let policy = item.policy.map(|id| policies::by_id(&app.service, id)).transpose()?.flatten();
    Ok(policy.map(|p| p.name))
}

/// The point that a path names, with its vault and item.
pub(crate) fn point_of(app: &App, params: &Params) -> Result<(Vault, Item, Point), ArmError> {
    let (vault, item) = item_of(app, params)?;
    let point = points::get(&app.service, &item, &params["point"])?;
    Ok((vault, item, point))
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    check_region(request)?;
    let mut found = kept(app, &item)?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&[
                "startDate",
                "endDate",
                "restorePointQueryType",
                "extendedInfo",
                "isVaultTierRecoveryPoint",
                "recoveryPointType",
            ])
            .map_err(refused)?;
        let from = wanted.time("startDate").map_err(refused)?;
        let until = wanted.time("endDate").map_err(refused)?;
        // Points of machines are whole. What extendedInfo asks for is shown anyhow.
        let kind = wanted.one_of("restorePointQueryType", &QUERY_TYPES).map_err(refused)?;
        let in_vault = wanted.flag("isVaultTierRecoveryPoint").map_err(refused)?;
        wanted.flag("extendedInfo").map_err(refused)?;
        wanted.one_of("recoveryPointType", &LEVELS.map(level_name)).map_err(refused)?;
        if kind.is_some_and(|kind| !QUERY_TYPES[..3].contains(&kind)) {
            found.clear();
        }
        found.retain(|(p, _)| {
            in_vault.is_none_or(|wanted| wanted == (p.transfer == Transfer::Done))
                && from.is_none_or(|from| p.taken_at >= from)
                && until.is_none_or(|until| p.taken_at <= until)
                && wanted.passes("recoveryPointType", level_name(p.consistency.level))
        });
    }
    // The newest first.
    let key = |(p, _): &Kept| format!("{:020}\u{1}{}", i64::MAX - p.taken_at.as_microsecond().max(0), p.id);
    let sees = sees_drills(app, request, &vault, &item_id(app, &vault, &item))?;
    let policy = policy_name(app, &item)?;
    page(request, found, 500, key, |kept| for_caller(show(app, &vault, &item, policy.as_deref(), kept), sees))
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    let found = kept(app, &item)?.into_iter().find(|(p, _)| p.id == point.id);
    // It went at this moment.
    let found = found.ok_or_else(|| points::not_found(&item, &point.name))?;
    let shown = show(app, &vault, &item, policy_name(app, &item)?.as_deref(), &found);
    let sees = sees_drills(app, request, &vault, shown["id"].as_str().unwrap_or("/"))?;
    Response::ok(for_caller(shown, sees))
}

fn recommended(app: &App, request: &Request, params: &Params) -> Answer {
    item_of(app, params)?;
    page(request, Vec::<Value>::new(), 500, by_shown_name, Value::clone)
}
