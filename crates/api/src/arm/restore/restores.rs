//! Restoring a recovery point: as disks, as a new machine, in the machine's place. And asking beforehand whether that could begin.

use crate::arm::estate::places::SUBNET_NAME;
use crate::arm::jobs::job;
use crate::arm::protection::points::point_of;
use crate::arm::shared::{
    Answer, App, caller, format, ids, item_id, item_machine_links, item_path, not_available, vault_id,
    vault_of, vault_path,
};
use crate::route::{Link, Named, Needs, OF_THE_PATH};
use crate::{ArmError, Params, Request, Response, Route};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_catalog::service::{Item, Job, Machine, Point, Vault, key};
use strongroom_domain::access::linked;
use strongroom_domain::arm_names::ResourceId;
use strongroom_engine::service::restore::{self, Target};
use strongroom_engine::service::{groups, machines, operations, places, vaults};

/// What a restore's request can name.
pub(crate) const NAMES: &[Named] = &[
    Named { field: "properties.recoveryPointId", needs: OF_THE_PATH },
    Named { field: "properties.sourceResourceId", needs: OF_THE_PATH },
    Named { field: "properties.targetVirtualMachineId", needs: Needs::Id(linked::TARGET_MACHINE) },
    Named { field: "properties.targetResourceGroupId", needs: Needs::Id(linked::TARGET_GROUP) },
    Named { field: "properties.storageAccountId", needs: Needs::Id(linked::TARGET_ACCOUNT) },
    Named { field: "properties.virtualNetworkId", needs: Needs::Id(linked::TARGET_NETWORK) },
    Named { field: "properties.subnetId", needs: Needs::Id(linked::TARGET_NETWORK) },
];

/// The same where it is only asked about.
const NAMES_BEFOREHAND: &[Named] = &[
    Named { field: "id", needs: Needs::Id(linked::READ_POINT) },
    Named { field: "properties.restoreRequest.recoveryPointId", needs: OF_THE_ID },
    Named { field: "properties.restoreRequest.sourceResourceId", needs: OF_THE_ID },
    Named {
        field: "properties.restoreRequest.targetVirtualMachineId",
        needs: Needs::Id(linked::TARGET_MACHINE),
    },
    Named {
        field: "properties.restoreRequest.targetResourceGroupId",
        needs: Needs::Id(linked::TARGET_GROUP),
    },
    Named { field: "properties.restoreRequest.storageAccountId", needs: Needs::Id(linked::TARGET_ACCOUNT) },
    Named { field: "properties.restoreRequest.virtualNetworkId", needs: Needs::Id(linked::TARGET_NETWORK) },
    Named { field: "properties.restoreRequest.subnetId", needs: Needs::Id(linked::TARGET_NETWORK) },
];
const OF_THE_ID: Needs = Needs::Nothing("it repeats what the id names, and is refused if it does not");

pub(crate) const USES_SOURCE: &str = "to replace a machine's disks, or to make a new machine without naming an account and a network for it: Microsoft.Compute/virtualMachines/write over the machine of the item, or the action of restoring";

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Recovery points";
    const BEFOREHAND: &str = "Asking beforehand";
    vec![
        Route::post(item_path!("/recoveryPoints/{point}/restore"), "Restores_Trigger", restore)
            .action("Microsoft.RecoveryServices/Vaults/backupFabrics/protectionContainers/protectedItems/recoveryPoints/restore/action")
            .takes("RestoreRequest")
            .names(NAMES)
            .also_needs(USES_SOURCE, |app, request, params| {
                let (_, item, _) = point_of(app, params)?;
                request.json::<Body>()?.properties.used_source(app, &item, false)
            })
            .success(&[202])
            .summary("Restores a recovery point: as disks, as a new machine, or in the machine's place.")
            .tag(TAG),
        Route::post(vault_path!("/backupValidateOperation"), "Operation_Validate", validate)
            .action("Microsoft.RecoveryServices/Vaults/backupValidateOperation/action")
            .takes("ValidateRequest")
            .names(NAMES_BEFOREHAND)
            .also_needs(USES_SOURCE, used_beforehand)
            .answers("ValidateResponse")
            .summary("Whether a restore could begin: what stands in its way.")
            .tag(BEFOREHAND),
        Route::post(vault_path!("/backupTriggerValidateOperation"), "ValidateOperation_Trigger", trigger)
            .action("Microsoft.RecoveryServices/Vaults/backupTriggerValidateOperation/action")
            .takes("ValidateRequest")
            .names(NAMES_BEFOREHAND)
            .also_needs(USES_SOURCE, used_beforehand)
            .success(&[202])
            .summary("The same, as an operation that is followed.")
            .tag(BEFOREHAND),
        Route::get(
            vault_path!("/backupValidateOperationsStatuses/{operation}"),
            "ValidateOperationStatuses_Get",
            status,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupValidateOperationsStatuses/read")
        .answers("OperationStatus")
        .summary("How a validation stands, and what it found.")
        .tag(BEFOREHAND),
        Route::get(
            vault_path!("/backupValidateOperationResults/{operation}"),
            "ValidateOperationResults_Get",
            result,
        )
        .action("Microsoft.RecoveryServices/Vaults/backupValidateOperationResults/read")
        .answers("ValidateResponse")
        .summary("What a validation found.")
        .tag(BEFOREHAND),
    ]
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Body {
    pub(crate) properties: Properties,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Properties {
    object_type: Option<String>,
    recovery_type: Option<String>,
    recovery_point_id: Option<String>,
    source_resource_id: Option<String>,
    target_virtual_machine_id: Option<String>,
    target_resource_group_id: Option<String>,
    storage_account_id: Option<String>,
    virtual_network_id: Option<String>,
    subnet_id: Option<String>,
    region: Option<String>,
    /// Ours: `qcow2`, `raw` or `vhd`, of restored disks.
    disk_format: Option<String>,
    /// Ours: disks that libvirt encrypted may be restored without encryption.
    pub(crate) unencrypted: bool,
    /// Ours: saved memory of the machine whose disks are replaced is thrown away.
    discard_saved_state: bool,
    #[serde(deserialize_with = "format::luns")]
    restore_disk_lun_list: Option<Vec<i32>>,
}

pub(crate) fn invalid(message: impl Into<String>) -> ArmError {
    ArmError::bad_request(ids::INVALID, message)
}

/// The `recoveryType` that replaces a machine's disks, and the one that makes a new machine.
const REPLACE: &str = "OriginalLocation";
const NEW_MACHINE: &str = "AlternateLocation";

/// Names are compared without regard to case, as the catalog does.
fn is_same(a: &str, b: &str) -> bool {
    key(a) == key(b)
}

/// Whether anything of an item can be restored in its state.
pub(crate) fn check_item(item: &Item) -> Result<(), ArmError> {
    item.state.check_restore().map_err(|e| {
        ArmError::bad_request(e.code(), format!("'{}' cannot be restored: {e}.", item.machine_name))
    })
}

/// The answer when a job has begun. Of restores the operation's id is the job's.
pub(crate) fn accepted(app: &App, request: &Request, vault: &Vault, item: &Item, job: &Job) -> Answer {
    let operation = operations::begun(&app.service, job, true)?;
    let base = item_id(app, vault, item);
    let status = format!("{base}/operationsStatus/{operation}");
    let result = format!("{base}/operationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

impl Properties {
    /// The machine whose disks are replaced, or beside whose disks, or in whose networks, a new one comes to be, for want of others.
    pub(crate) fn used_source(
        &self,
        app: &App,
        item: &Item,
        is_new_machine: bool,
    ) -> Result<Vec<Link>, ArmError> {
        let is_own = self.storage_account_id.is_none() || self.virtual_network_id.is_none();
        match self.is(REPLACE) || (is_new_machine || self.is(NEW_MACHINE)) && is_own {
            true => item_machine_links(app, linked::TARGET_MACHINE, item),
            false => Ok(Vec::new()),
        }
    }

    fn is(&self, recovery_type: &str) -> bool {
        self.recovery_type.as_deref().unwrap_or_default().eq_ignore_ascii_case(recovery_type)
    }

    fn allowed(&self) -> restore::Allowed {
        restore::Allowed { unencrypted: self.unencrypted, discard_saved_state: self.discard_saved_state }
    }

    /// The disks chosen, by LUN.
    pub(crate) fn luns(&self) -> Option<&[i32]> {
        self.restore_disk_lun_list.as_deref()
    }

    /// The place that `storageAccountId` names.
    pub(crate) fn place(&self, app: &App, request: &Request) -> Result<Option<places::Place>, ArmError> {
        let Some(id) = &self.storage_account_id else { return Ok(None) };
        let account = ids::read(app, request, "storageAccountId", id, &ids::STORAGE_ACCOUNT)?;
        Ok(Some(places::get(&app.service, &account.group, account.name())?))
    }

    /// The group that `targetResourceGroupId` names; the item's own where it is not given.
    pub(crate) fn group(&self, app: &App, request: &Request, item: &Item) -> Result<String, ArmError> {
        let Some(id) = &self.target_resource_group_id else { return Ok(item.group.clone()) };
        let id = ids::read(app, request, "targetResourceGroupId", id, &ids::GROUP)?;
        Ok(groups::get(&app.service, &id.group)?.name)
    }

    /// Whether `sourceResourceId` is the item's machine, where it is given.
    pub(crate) fn check_source(&self, app: &App, request: &Request, item: &Item) -> Result<(), ArmError> {
        let Some(id) = self.source_resource_id.as_deref().filter(|id| !id.is_empty()) else { return Ok(()) };
        let source = ids::read(app, request, "sourceResourceId", id, &ids::MACHINE)?;
        if is_same(&source.group, &item.group) && is_same(source.name(), &item.machine_name) {
            return Ok(());
        }
        Err(invalid(format!(
            "sourceResourceId is not the virtual machine of the item that the path names, '{}' in resource group '{}'.",
            item.machine_name, item.group
        )))
    }

    /// The group and name in `virtualNetworkId`, which `subnetId` must be a subnet of.
    fn network(&self, app: &App, request: &Request) -> Result<Option<(String, String)>, ArmError> {
        let read = |field, id: &Option<String>, kind| {
            id.as_deref().map(|id| ids::read(app, request, field, id, kind)).transpose()
        };
        let network = read("virtualNetworkId", &self.virtual_network_id, &ids::NETWORK)?;
        if let Some(subnet) = read("subnetId", &self.subnet_id, &ids::SUBNET)? {
            let is_its = |network: &ResourceId| {
                is_same(&network.group, &subnet.group) && is_same(network.name(), &subnet.names[0])
            };
            if !network.as_ref().is_some_and(is_its) {
                return Err(invalid("subnetId is not a subnet of the network that virtualNetworkId names."));
            }
            if !is_same(subnet.name(), SUBNET_NAME) {
                return Err(invalid(format!(
                    "subnetId is not a subnet that is there: a network has one, '{}'.",
                    SUBNET_NAME
                )));
            }
        }
        Ok(network.map(|mut id| (id.group, id.names.remove(0))))
    }

    /// What to make of the point, and the resource group it comes to.
    fn target(
        &self,
        app: &App,
        request: &Request,
        vault: &Vault,
        item: &Item,
        point: &Point,
    ) -> Result<(Target, String), ArmError> {
        let kinds = ["IaasVMRestoreRequest", "IaasVMRestoreWithRehydrationRequest"];
        if self.object_type.as_deref().is_some_and(|t| !kinds.iter().any(|k| k.eq_ignore_ascii_case(t))) {
            return Err(invalid("The restore request's objectType must be IaasVMRestoreRequest."));
        }
        if self.recovery_point_id.as_deref().is_some_and(|id| !id.is_empty() && id != point.name) {
            return Err(invalid("recoveryPointId is not the recovery point that the path names."));
        }
        self.check_source(app, request, item)?;
        // Whatever they are needed for: what is wrong is not passed over.
        self.network(app, request)?;
        if let Some(id) = &self.target_virtual_machine_id {
            ids::read(app, request, "targetVirtualMachineId", id, &ids::MACHINE)?;
        }
        let place = self.place(app, request)?;
        let region = self.region.as_deref().unwrap_or(&vault.location);
        if !vaults::same_location(region, &vault.location) {
            return Err(not_available("Restoring to another region"));
        }
        let group = self.group(app, request, item)?;
        let kind = self.recovery_type.as_deref().unwrap_or_default();
        let target = match kind.to_lowercase().as_str() {
            _ if self.is(REPLACE) => Target::Replace,
            _ if self.is(NEW_MACHINE) => self.new_machine(app, request, item, place, &group)?,
            "restoredisks" => {
                let place = place.ok_or_else(|| invalid("storageAccountId is missing."))?;
                let format = self.disk_format.as_deref().map(str::parse).transpose()?.or(place.format);
                match place.path {
                    Some(directory) => {
                        Target::Disks { place: place.name, directory, pool: place.pool, format }
                    }
                    None => Target::Container { place: place.name, place_group: place.group, format },
                }
            }
            _ => {
                return Err(invalid(
                    "recoveryType must be RestoreDisks, AlternateLocation or OriginalLocation.",
                ));
            }
        };
        Ok((target, group))
    }

    pub(crate) fn new_machine(
        &self,
        app: &App,
        request: &Request,
        item: &Item,
        place: Option<places::Place>,
        target_group: &str,
    ) -> Result<Target, ArmError> {
        let service = &app.service;
        let id = self
            .target_virtual_machine_id
            .as_deref()
            .ok_or_else(|| invalid("targetVirtualMachineId is missing."))?;
        let target = ids::read(app, request, "targetVirtualMachineId", id, &ids::MACHINE)?;
        if !is_same(&target.group, target_group) {
            return Err(invalid("targetVirtualMachineId is not in the target resource group."));
        }
        let network = self
            .network(app, request)?
            .map(|(group, name)| places::network(service, &group, &name))
            .transpose()?;
        // The host the network is on; else the machine's own; else the first.
        let known: Option<Machine> = machines::get(service, &item.group, &item.machine_name).ok();
        let host = network.as_ref().map(|n| n.host.clone()).or(known.map(|m| m.host));
        let host = match host {
            Some(host) => host,
            None => service.hosts().first().map(|h| h.name.clone()).ok_or_else(|| {
                ArmError::bad_request(
                    "UserErrorNoHost",
                    "There is no host to restore to: add one to the configuration.",
                )
            })?,
        };
        Ok(Target::Machine {
            name: target.name().to_owned(),
            group: target_group.to_owned(),
            host,
            directory: place.map(directory_of).transpose()?,
            network: network.map(|n| n.name),
        })
    }
}

/// A machine runs from files.
fn directory_of(place: places::Place) -> Result<std::path::PathBuf, ArmError> {
    place.path.ok_or_else(|| {
        ArmError::bad_request(
            "UserErrorStorageAccountNotSupported",
            format!(
                "The disks of a machine cannot be in '{}', which is a container: choose a directory or a storage pool, or restore the disks alone.",
                place.name
            ),
        )
    })
}

fn restore(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, item, point) = point_of(app, params)?;
    check_item(&item)?;
    let p = request.json::<Body>()?.properties;
    let (target, group) = p.target(app, request, &vault, &item, &point)?;
    let service = &app.service;
    let job = restore::restore(
        service,
        &vault,
        &item,
        &point,
        target,
        p.luns(),
        &group,
        &caller(request),
        p.allowed(),
    )?;
    accepted(app, request, &vault, &item, &job)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ValidateBody {
    /// Of the recovery point.
    id: String,
    properties: ValidateProperties,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ValidateProperties {
    object_type: String,
    restore_request: Option<Properties>,
}

fn used_beforehand(app: &App, request: &Request, _: &Params) -> Result<Vec<Link>, ArmError> {
    let body: ValidateBody = request.json()?;
    let Some(asked) = body.properties.restore_request else { return Ok(Vec::new()) };
    let id = ids::read(app, request, "id", &body.id, &ids::POINT)?;
    // Of what is not there nothing is replaced; the answer says that it is not.
    match point_of(app, &point_path(&id)) {
        Ok((_, item, _)) => asked.used_source(app, &item, false),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What stands in the way of the restore that a body describes; the outer error: the body is none.
fn look(app: &App, request: &Request, params: &Params) -> Result<(Vault, Option<ArmError>), ArmError> {
    let vault = vault_of(app, params)?;
    let body: ValidateBody = request.json()?;
    let kinds = ["ValidateIaasVMRestoreOperationRequest", "ValidateRestoreOperationRequest"];
    if !kinds.iter().any(|k| k.eq_ignore_ascii_case(&body.properties.object_type)) {
        return Err(invalid(
            "Restores of virtual machines can be validated: objectType must be ValidateIaasVMRestoreOperationRequest.",
        ));
    }
    let asked = body.properties.restore_request.ok_or_else(|| invalid("restoreRequest is missing."))?;
    let id = ids::read(app, request, "id", &body.id, &ids::POINT)?;
    let path = point_path(&id);
    let found = (|| -> Result<(), ArmError> {
        let (of, item, point) = point_of(app, &path)?;
        if of.id != vault.id {
            return Err(invalid("The recovery point is not of this vault."));
        }
        check_item(&item)?;
        let (target, _) = asked.target(app, request, &vault, &item, &point)?;
        restore::check(&app.service, &item, &point, &target, asked.luns(), asked.allowed())?;
        Ok(())
    })();
    match found {
        // That nothing could be looked at says nothing about the restore.
        Err(error) if error.status.is_server_error() => Err(error),
        found => Ok((vault, found.err())),
    }
}

/// A recovery point's id as the parameters of its path.
fn point_path(id: &ResourceId) -> Params {
    let [vault, fabric, container, item, point] = [0, 1, 2, 3, 4].map(|at| id.names[at].as_str());
    Params::from([
        ("group", id.group.as_str()),
        ("vault", vault),
        ("fabric", fabric),
        ("container", container),
        ("item", item),
        ("point", point),
    ])
}

fn show(found: Option<(&str, &str)>) -> Value {
    let results = found.map(|(code, message)| {
        json!({"code": code, "message": message, "recommendations": ["Correct this, then ask again."]})
    });
    json!({"validateOperationResponse": {"validationResults": results.into_iter().collect::<Vec<_>>()}})
}

fn validate(app: &App, request: &Request, params: &Params) -> Answer {
    let (_, found) = look(app, request, params)?;
    Response::ok(show(found.as_ref().map(|e| (e.code.as_ref(), e.message.as_str()))))
}

fn trigger(app: &App, request: &Request, params: &Params) -> Answer {
    let (vault, found) = look(app, request, params)?;
    let found = found.map(|e| (e.code.to_string(), e.message));
    let operation = operations::validated(&app.service, &vault, found)?.id;
    let base = vault_id(app, &vault);
    let status = format!("{base}/backupValidateOperationsStatuses/{operation}");
    let result = format!("{base}/backupValidateOperationResults/{operation}");
    Ok(Response::accepted(request, Some(&status), Some(&result), 1))
}

/// A validation that a path names, and what it found. What is no validation is as if it were not there.
fn validation(app: &App, params: &Params) -> Result<(operations::OperationState, Value), ArmError> {
    let vault = vault_of(app, params)?;
    let mut state = job::operation_of(app, &vault, &params["operation"])?;
    if !state.validates {
        return Err(ArmError::new(
            StatusCode::NOT_FOUND,
            "OperationNotFound",
            format!("Operation {} is no validation.", state.id),
        ));
    }
    // That it found something is no failure of its own.
    let found = state.error.take();
    let shown = show(found.as_ref().map(|(code, message)| (code.as_str(), message.as_str())));
    Ok((state, shown))
}

fn status(app: &App, _: &Request, params: &Params) -> Answer {
    let (state, mut found) = validation(app, params)?;
    let mut shown = job::show_operation(&state);
    found["objectType"] = "OperationStatusValidateOperationExtendedInfo".into();
    shown["properties"] = found;
    Response::ok(shown)
}

fn result(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(validation(app, params)?.1)
}
