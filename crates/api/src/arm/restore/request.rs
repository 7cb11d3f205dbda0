//! What restores are asked with, and what is to be made of a point.

use crate::arm::estate::places::SUBNET_NAME;
use crate::arm::shared::{Answer, App, format, ids, item_id, item_machine_links, not_available};
use crate::route::{Link, Named, Needs, OF_THE_PATH};
use crate::{ArmError, Request, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use strongroom_catalog::{Item, Job, Machine, Point, Vault, key};
use strongroom_domain::access::linked;
use strongroom_domain::arm_names::ResourceId;
use strongroom_service::restore::{self, Target};
use strongroom_service::{groups, machines, operations, places, vaults};

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

pub(crate) const USES_SOURCE: &str = "to replace a machine's disks, or to make a new machine without naming an account and a network for it: Microsoft.Compute/virtualMachines/write over the machine of the item, or the action of restoring";

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("required" = ["properties"]))]
pub(crate) struct Body {
    pub(crate) properties: Properties,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["recoveryType"]))]
pub(crate) struct Properties {
    #[schemars(extend("enum" = ["IaasVMRestoreRequest"]))]
    object_type: Option<String>,
    #[schemars(extend("enum" = ["RestoreDisks", "AlternateLocation", "OriginalLocation"]))]
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
    #[schemars(extend("enum" = ["qcow2", "raw", "vhd"]))]
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

    pub(crate) fn allowed(&self) -> restore::Allowed {
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
    pub(crate) fn target(
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
                let format = self
                    .disk_format
                    .as_deref()
                    .map(str::parse)
                    .transpose()
                    .map_err(strongroom_service::Error::from)?
                    .or(place.format);
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
