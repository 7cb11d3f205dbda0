//! Protected items.

use crate::arm::shared::kinds::{Kinds, check_is_machine, labels};
use crate::arm::shared::{
    Answer, App, by_name, caller, check_container, check_region, format, ids, item_id, item_id_in, item_of,
    item_path, machine_id, machine_link, page, resource, vault_id, vault_of, vault_path,
};
use crate::odata::parse_time;
use crate::route::{FILTER, LIST, Link, Named, Needs, OF_THE_PATH};
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use strongroom_catalog::{DiskChoice, Item, LastBackup, MissedDisk, Policy, Vault, key};
use strongroom_domain::Datasource;
use strongroom_domain::access::{ItemWrite, linked};
use strongroom_domain::arm_names::{self, MachineKey, ResourceId};
use strongroom_domain::item::ItemState;
use strongroom_domain::job::JobStatus;
use strongroom_service::items::{self, Changed};
use strongroom_service::{backup, groups, machines, operations, points, policies};
use uuid::Uuid;

const WRITE: &str =
    "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/write";

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Protected items";
    const READ: &str =
        "Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/read";
    vec![
        Route::get(vault_path!("/backupProtectedItems"), "BackupProtectedItems_List", list)
            .action("Microsoft.RecoveryServices/Vaults/backupProtectedItems/read")
            .query(LIST)
            .summary("The vault's protected items.")
            .tag(TAG),
        Route::get(item_path!(""), "ProtectedItems_Get", get)
            .answers("Resource")
            .action(READ)
            .query(&[FILTER])
            .summary("A protected item.")
            .tag(TAG),
        Route::put(item_path!(""), "ProtectedItems_CreateOrUpdate", put)
            .action(WRITE)
            .reads::<Body>("ProtectedItem")
            .names(&[
                Named { field: "properties.sourceResourceId", needs: OF_THE_PATH },
                Named { field: "properties.policyId", needs: Needs::Id(linked::READ_POLICY) },
            ])
            .also_needs(
                "to protect a machine, to resume that, or to choose its disks: Microsoft.Compute/virtualMachines/write over it, or this route's action",
                copied_machine,
            )
            .success(&[202])
            .summary("Protects a machine; changes its policy or disks; stops, resumes or undeletes.")
            .tag(TAG),
        Route::delete(item_path!(""), "ProtectedItems_Delete", delete)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/delete")
            .success(&[202])
            .summary("Stops protection and deletes the data.")
            .tag(TAG),
        Route::post(item_path!("/backup"), "Backups_Trigger", backup_now)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/backup/action")
            .reads::<BackupBody>("BackupRequest")
            .success(&[202])
            .summary("Backs the machine up now.")
            .tag(TAG),
    ]
}

pub(crate) fn policy_id(app: &App, vault: &Vault, name: &str) -> String {
    policy_id_in(&vault_id(app, vault), name)
}

fn policy_id_in(vault_id: &str, name: &str) -> String {
    [vault_id, "/backupPolicies/", name].concat()
}

fn status_name(status: JobStatus) -> &'static str {
    match status {
        JobStatus::CompletedWithWarnings => "Completed",
        other => other.arm_name(),
    }
}

pub(crate) fn show(
    app: &App,
    request: &Request,
    vault: &Vault,
    item: &Item,
    policy: Option<&Policy>,
) -> Value {
    let tier = policy
        .map(|p| p.rules.tier)
        .or_else(|| item.last_rules.as_ref().map(|r| r.tier))
        .map_or("V1", |tier| tier.arm_name());
    // Lists hold thousands: what several properties say is put together once.
    let vault_id = vault_id(app, vault);
    let machine = machine_id(app, &item.group, &item.machine_name);
    let container = arm_names::container_short_name(&item.group, &item.machine_name);
    // A policy stays with an item only while it is in force, or suspended.
    let shown_policy = policy.filter(|_| item.policy.is_some());
    let mut p = serde_json::Map::new();
    let mut set = |name: &str, value: Value| {
        p.insert(name.to_owned(), value);
    };
    set("friendlyName", item.machine_name.clone().into());
    set("virtualMachineId", machine.clone().into());
    set("protectionStatus", if has_failed(item) { "Unhealthy" } else { "Healthy" }.into());
    set("protectionState", item.state.arm_state().into());
    match &item.last_backup {
        Some(last) => {
            set("healthStatus", health(item).into());
            set("healthDetails", json!([health_detail(last)]));
        }
        None => set("healthStatus", "Passed".into()),
    }
    let last = item.last_backup.as_ref();
    set("lastBackupStatus", last.map_or("", |l| status_name(l.status)).into());
    set(
        "lastBackupTime",
        last.map_or_else(|| "2001-01-01T00:00:00Z".into(), |l| format::time(l.started_at)).into(),
    );
    set("protectedItemDataId", item.data_id.clone().into());
    if let Some(choice) = &item.disks {
        set(
            "extendedProperties",
            json!({"diskExclusionProperties": {"diskLunList": choice.luns, "isInclusionList": choice.inclusion}}),
        );
    }
    set("policyType", tier.into());
    let labels = labels(item.datasource);
    set("protectedItemType", labels.item.into());
    set("backupManagementType", labels.management.into());
    set("workloadType", labels.workload.into());
    set("containerName", container.clone().into());
    set("sourceResourceId", machine.into());
    set("policyId", shown_policy.map(|p| policy_id_in(&vault_id, &p.name)).unwrap_or_default().into());
    set("policyName", shown_policy.map(|p| p.name.clone()).unwrap_or_default().into());
    // Present before the first backup too: clients look for it.
    set("lastRecoveryPoint", item.last_point_at.map(format::time).map_or(Value::Null, Value::from));
    set("vaultId", [request.base_url.as_str(), &vault_id].concat().into());
    set("isArchiveEnabled", false.into());
    if let (ItemState::SoftDeleted, Some(deleted_at)) = (item.state, item.deleted_at) {
        set("deferredDeleteTimeInUTC", format::time(deleted_at).into());
        set("isScheduledForDeferredDelete", true.into());
        let left = item.purge_at.map(|at| at.duration_since(request.now)).unwrap_or_default();
        set("deferredDeleteTimeRemaining", format::remaining(left).into());
        set("softDeleteRetentionPeriod", vault.soft_delete_days.into());
    } else {
        set("softDeleteRetentionPeriod", 0.into());
    }
    resource(
        item_id_in(&vault_id, &container),
        arm_names::item_name_of(&container),
        "Microsoft.RecoveryServices/vaults/backupFabrics/protectionContainers/protectedItems",
        p,
    )
}

fn has_failed(item: &Item) -> bool {
    item.last_backup.as_ref().is_some_and(|last| last.status == JobStatus::Failed)
}

/// What is told of the last backup.
fn health_detail(last: &LastBackup) -> Value {
    match &last.error {
        Some(error) if last.status == JobStatus::Failed => json!({
            "code": error.code, "title": error.name, "message": error.message,
            "recommendations": [error.recommendation],
        }),
        _ if !last.missed.is_empty() => {
            let missed = |d: &MissedDisk| format!("disk {}: {}", d.target, d.reason);
            let missed: Vec<String> = last.missed.iter().map(missed).collect();
            json!({
                "code": 400345, "title": "UserErrorDisksNotBackedUp",
                "message": format!("The last backup lacks disks: {}.", missed.join("; ")),
                "recommendations": ["Exclude them from the machine's backups if that is as it should be; else back their data up in another way."],
            })
        }
        _ => json!({
            "code": 400239, "title": "IaasVmHealthGreenDefault",
            "message": "Backup pre-check status of this virtual machine is OK.", "recommendations": [],
        }),
    }
}

const HEALTH: [&str; 9] = [
    "Passed",
    "ActionRequired",
    "ActionSuggested",
    "Healthy",
    "TransientDegraded",
    "PersistentDegraded",
    "TransientUnhealthy",
    "PersistentUnhealthy",
    "Invalid",
];

fn health(item: &Item) -> &'static str {
    match &item.last_backup {
        _ if has_failed(item) => "ActionRequired",
        Some(last) if !last.missed.is_empty() => "ActionSuggested",
        _ => "Passed",
    }
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    check_region(request)?;
    let policies: HashMap<Uuid, Policy> =
        policies::list(&app.service, &vault)?.into_iter().map(|p| (p.id, p)).collect();
    let policy_of = |item: &Item| item.policy.and_then(|id| policies.get(&id));
    let mut found = items::list(&app.service, &vault)?;
    if let Some(filter) = request.filter()? {
        let refused = |e| ArmError::invalid_filter(filter.source(), e);
        let wanted = filter
            .equalities(&[
                "backupManagementType",
                "itemType",
                "workloadType",
                "policyName",
                "friendlyName",
                "containerName",
                "healthState",
                "backupEngineName",
                "backupSetName",
                "fabricName",
            ])
            .map_err(refused)?;
        wanted.one_of("healthState", &HEALTH).map_err(refused)?;
        // Backup servers and sets have other items than machines.
        let of_a_server = wanted.get("backupEngineName").or(wanted.get("backupSetName")).is_some();
        if of_a_server {
            found.clear();
        }
        let kinds = Kinds::wanted(&wanted).map_err(refused)?;
        found.retain(|i| {
            // Clients name containers in either form.
            let container = i.container();
            let is_in = wanted.passes("containerName", &container)
                || wanted.passes("containerName", container.split_once(';').map_or("", |(_, short)| short));
            is_in
                && kinds.take(i.datasource)
                && wanted.passes("fabricName", "Azure")
                && wanted.passes("healthState", health(i))
                && wanted.passes("friendlyName", &i.machine_name)
                && wanted.passes("policyName", policy_of(i).map_or("", |p| p.name.as_str()))
        });
    }
    page(request, found, 1000, |i| by_name(&i.name(), ""), |i| show(app, request, &vault, i, policy_of(i)))
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let policy = item.policy.map(|id| policies::by_id(&app.service, id)).transpose()?.flatten();
    let mut shown = show(app, request, &vault, &item, policy.as_ref());
    if expands(request)? {
        let all = points::list(&app.service, &item, None, None)?;
        let mut extended = json!({"recoveryPointCount": all.len(), "policyInconsistent": false});
        if let Some(oldest) = all.last() {
            extended["oldestRecoveryPoint"] = format::time(oldest.taken_at).into();
        }
        shown["properties"]["extendedInfo"] = extended;
    }
    Response::ok(shown)
}

/// Whether the filter asks for more than an item has by itself: `expand eq 'extendedInfo'`.
fn expands(request: &Request) -> Result<bool, ArmError> {
    let Some(filter) = request.filter()? else { return Ok(false) };
    let refused = |e| ArmError::invalid_filter(filter.source(), e);
    let wanted = filter.equalities(&["expand"]).map_err(refused)?;
    Ok(wanted.one_of("expand", &["extendedInfo"]).map_err(refused)?.is_some())
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
struct Body {
    properties: Properties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    #[schemars(extend("enum" = ["ProtectionStopped", "BackupsSuspended"]))]
    protection_state: Option<String>,
    policy_id: Option<String>,
    source_resource_id: Option<String>,
    is_rehydrate: Option<bool>,
    extended_properties: Option<ExtendedProperties>,
    #[schemars(extend("enum" = ["Microsoft.Compute/virtualMachines"]))]
    protected_item_type: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct ExtendedProperties {
    disk_exclusion_properties: Option<DiskExclusion>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct DiskExclusion {
    #[serde(deserialize_with = "format::luns")]
    disk_lun_list: Option<Vec<i32>>,
    is_inclusion_list: Option<bool>,
}

fn invalid(why: &str) -> ArmError {
    ArmError::bad_request(
        "BMSUserErrorInvalidConfigureProtectionRequest",
        format!(
            "Input for configure protection is not in proper format\r\nPlease ensure that container exists and other parameters are in valid format: {why}"
        ),
    )
}

/// What `field` names, or what is wrong with this request.
fn read_id(
    app: &App,
    request: &Request,
    field: &str,
    id: &str,
    kind: &ids::Kind,
) -> Result<ResourceId, ArmError> {
    ids::read(app, request, field, id, kind)
        .map_err(|e| if e.code == ids::INVALID { invalid(&e.message) } else { e })
}

/// What a client may ask an item's state to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WantedState {
    /// Protected, by the policy that the body names.
    Protected,
    Stopped,
    Suspended,
}

impl WantedState {
    fn parse(text: &str) -> Result<Self, ArmError> {
        match text.to_lowercase().as_str() {
            "protectionstopped" => Ok(Self::Stopped),
            "backupssuspended" => Ok(Self::Suspended),
            // What is shown of a protected item, and comes back as it was shown.
            "" | "protected" | "irpending" => Ok(Self::Protected),
            _ => Err(invalid(&format!(
                "protectionState '{}' cannot be set; ProtectionStopped and BackupsSuspended can, and without it the machine is protected",
                crate::error::shorten(text)
            ))),
        }
    }
}

/// Whether `sourceResourceId` is the machine that the path names, where it is given.
fn check_source(app: &App, request: &Request, params: &Params, given: Option<&str>) -> Result<(), ArmError> {
    let Some(id) = given else { return Ok(()) };
    let source = read_id(app, request, "sourceResourceId", id, &ids::MACHINE)?;
    let own = MachineKey { group: key(&source.group), machine: key(source.name()) };
    let is_own = |named: Option<MachineKey>| named.as_ref() == Some(&own);
    let (item, container) = (&params["item"], &params["container"]);
    if is_own(arm_names::parse_item_name(item)) && is_own(arm_names::parse_container_name(container)) {
        return Ok(());
    }
    Err(invalid("sourceResourceId is not the virtual machine that the path names"))
}

/// The machine that a write to an item's path makes a vault copy, or copy more of: by the path, whatever is there. Another
/// policy for what is backed up as it was does not.
fn copied_machine(app: &App, request: &Request, params: &Params) -> Result<Vec<Link>, ArmError> {
    let p = request.json::<Body>()?.properties;
    let state = WantedState::parse(p.protection_state.as_deref().unwrap_or_default())?;
    if p.is_rehydrate == Some(true) || state != WantedState::Protected {
        return Ok(Vec::new());
    }
    // What names no machine is refused.
    let Some(named) = arm_names::parse_item_name(&params["item"]) else { return Ok(Vec::new()) };
    let vault = vault_of(app, params)?;
    let existing = items::find(&app.service, &vault, &params["item"])?;
    let is_backed_up = |item: &Item| matches!(item.state, ItemState::IrPending | ItemState::Protected);
    if existing.as_ref().is_some_and(is_backed_up) && p.extended_properties.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![machine_link(app, linked::PROTECTED_MACHINE, &named.group, &named.machine)])
}

/// What is needed beside the route's own action.
fn may(app: &App, request: &Request, scope: &str, write: ItemWrite) -> Result<(), ArmError> {
    for action in write.actions() {
        if !app.gate.allowed(request.caller(), action, scope)? {
            return Err(request.caller().refused(action, scope));
        }
    }
    Ok(())
}

fn put(app: &App, request: &Request, params: &Params) -> Answer {
    let vault = vault_of(app, params)?;
    let body: Body = request.json()?;
    let p = body.properties;
    let who = caller(request);
    let names = [labels(Datasource::Machine).item, "AzureIaaSVMProtectedItem"];
    check_is_machine(p.protected_item_type.as_deref(), &names)?;
    let scope = request.path_text();
    let state = WantedState::parse(p.protection_state.as_deref().unwrap_or_default())?;
    let source = p.source_resource_id.as_deref().filter(|id| !id.is_empty());
    check_source(app, request, params, source)?;
    let policy_id = p.policy_id.as_deref().filter(|id| !id.is_empty());
    let changed = if p.is_rehydrate == Some(true) {
        may(app, request, &scope, ItemWrite::Undelete)?;
        let (_, item) = item_of(app, params)?;
        items::undelete(&app.service, &item, &who)?
    } else if state != WantedState::Protected {
        may(app, request, &scope, ItemWrite::Stop)?;
        let (_, item) = item_of(app, params)?;
        items::stop(&app.service, &item, state == WantedState::Suspended, &who)?
    } else {
        protect(app, request, params, &vault, &p, policy_id, &who)?
    };
    Ok(accepted(app, request, &vault, &changed))
}

fn protect(
    app: &App,
    request: &Request,
    params: &Params,
    vault: &Vault,
    p: &Properties,
    policy_id: Option<&str>,
    who: &str,
) -> Result<Changed, ArmError> {
    let service = &app.service;
    // What sourceResourceId names is the same, if it is there.
    let named = arm_names::parse_item_name(&params["item"])
        .ok_or_else(|| invalid("the path names no virtual machine"))?;
    groups::get(service, &named.group)?;
    let machine = machines::get_or_look(service, &named.group, &named.machine)?;
    check_container(params, &arm_names::container_name(&machine.group, &machine.name))?;
    let existing = items::find(service, vault, &params["item"])?;
    let policy = match policy_id {
        Some(id) => policy_of(app, request, vault, id)?,
        // Other disks, under the policy it has.
        None => existing
            .as_ref()
            .and_then(|item| item.policy)
            .map(|id| policies::by_id(service, id))
            .transpose()?
            .flatten()
            .ok_or_else(|| invalid("policyId is missing"))?,
    };
    let write = match &existing {
        None => ItemWrite::Protect,
        Some(item) if item.policy == Some(policy.id) => ItemWrite::ChangeDisks,
        Some(_) => ItemWrite::ChangePolicy,
    };
    may(app, request, &request.path_text(), write)?;
    let disks = p.extended_properties.as_ref().map(|extended| {
        extended.disk_exclusion_properties.as_ref().map(|d| DiskChoice {
            luns: d.disk_lun_list.clone().unwrap_or_default(),
            inclusion: d.is_inclusion_list.unwrap_or(true),
        })
    });
    Ok(items::protect(service, vault, &machine, &policy, disks, who)?)
}

/// The policy a client named by its ARM id; of this vault.
fn policy_of(app: &App, request: &Request, vault: &Vault, id: &str) -> Result<Policy, ArmError> {
    let named = read_id(app, request, "policyId", id, &ids::POLICY)?;
    if key(&named.group) != key(&vault.group) || key(&named.names[0]) != key(&vault.name) {
        return Err(invalid("policyId names a policy of another vault"));
    }
    Ok(policies::get(&app.service, vault, named.name())?)
}

fn accepted(app: &App, request: &Request, vault: &Vault, changed: &Changed) -> Response {
    let base = item_id(app, vault, &changed.item);
    let status = format!("{base}/operationsStatus/{}", changed.operation.id);
    let result = format!("{base}/operationResults/{}", changed.operation.id);
    Response::accepted(request, Some(&status), Some(&result), 1)
}

fn delete(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let changed = items::delete(&app.service, &vault, &item, &caller(request))?;
    let base = vault_id(app, &vault);
    let status = format!("{base}/backupOperations/{}", changed.operation.id);
    let result = format!("{base}/backupOperationResults/{}", changed.operation.id);
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
struct BackupBody {
    properties: BackupProperties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct BackupProperties {
    #[serde(rename = "recoveryPointExpiryTimeInUTC")]
    #[schemars(extend("format" = "date-time"))]
    expiry: Option<String>,
    #[schemars(extend("enum" = ["IaasVMBackupRequest"]))]
    object_type: Option<String>,
}

fn backup_now(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item) = item_of(app, params)?;
    let body: BackupBody = request.json_or_default()?;
    if body.properties.object_type.as_deref().is_some_and(|t| !t.eq_ignore_ascii_case("IaasVMBackupRequest"))
    {
        return Err(ArmError::bad_request(
            "BMSUserErrorInvalidInput",
            "The backup request's objectType must be IaasVMBackupRequest.",
        ));
    }
    let keep_until = match body.properties.expiry.as_deref().filter(|t| !t.is_empty()) {
        None => None,
        Some(text) => Some(parse_time(text).ok_or_else(|| {
            ArmError::invalid_parameter(
                "recoveryPointExpiryTimeInUTC",
                "it is not a time such as 2026-12-31T00:00:00Z",
            )
        })?),
    };
    let job = backup::backup_now(&app.service, &item, keep_until, &caller(request))?;
    let operation = operations::begun(&app.service, &job, false)?;
    let base = item_id(app, &vault, &item);
    let status = format!("{base}/operationsStatus/{operation}");
    let result = format!("{base}/operationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}
