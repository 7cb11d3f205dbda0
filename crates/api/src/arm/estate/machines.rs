//! Virtual machines, as discovered, and their disks.

use crate::arm::jobs::following;
use crate::arm::shared::{
    Answer, App, by_name, by_shown_name, check_subscription, format, group_id, id_of_machine, page,
    subscription_id,
};
use crate::route::PAGED;
use crate::{ArmError, Params, Request, Response, Route};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_catalog::{Machine, MachineDisk};
use strongroom_service::machines::{self, Power};
use strongroom_service::operations;

const VM: &str = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}";
pub(crate) const READ: &str = "Microsoft.Compute/virtualMachines/read";

macro_rules! vm {
    ($rest:literal) => {
        concat!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{machine}",
            $rest
        )
    };
}

pub fn routes() -> Vec<Route<App>> {
    const TAG: &str = "Virtual machines";
    const DISKS: &str = "Disks";
    vec![
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.Compute/virtualMachines",
            "VirtualMachines_ListAll",
            list,
        )
        .action(READ)
        .query(PAGED)
        .by_row()
        .summary("All machines.")
        .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines",
            "VirtualMachines_List",
            list,
        )
        .action(READ)
        .query(PAGED)
        .by_row()
        .summary("The machines of a group.")
        .tag(TAG),
        Route::get(VM, "VirtualMachines_Get", get).answers("Resource").action(READ).summary("A machine.").tag(TAG),
        Route::get(vm!("/instanceView"), "VirtualMachines_InstanceView", instance_view)
            .action("Microsoft.Compute/virtualMachines/instanceView/read")
            .summary("How a machine runs.")
            .tag(TAG),
        Route::patch(VM, "VirtualMachines_Update", update)
            .action("Microsoft.Compute/virtualMachines/write")
            .reads::<Tags>("TagsPatch")
            .summary("Changes a machine's tags.")
            .tag(TAG),
        Route::post(vm!("/start"), "VirtualMachines_Start", start)
            .action("Microsoft.Compute/virtualMachines/start/action")
            .success(&[202])
            .summary("Starts a machine.")
            .tag(TAG),
        Route::post(vm!("/powerOff"), "VirtualMachines_PowerOff", power_off)
            .action("Microsoft.Compute/virtualMachines/powerOff/action")
            .success(&[202])
            .summary("Shuts a machine down; with skipShutdown=true its plug is pulled.")
            .tag(TAG),
        Route::post(vm!("/deallocate"), "VirtualMachines_Deallocate", power_off)
            .action("Microsoft.Compute/virtualMachines/deallocate/action")
            .success(&[202])
            .summary("Shuts a machine down.")
            .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{location}/operations/{operation}",
            "ComputeOperations_Get",
            operation,
        ).shows::<following::OperationShown>("OperationStatus")
        .action("Microsoft.Compute/locations/operations/read")
        .summary("How an operation stands.")
        .tag(TAG),
        Route::get(
            "/subscriptions/{subscription}/providers/Microsoft.Compute/disks",
            "Disks_List",
            disks,
        )
        .action("Microsoft.Compute/disks/read")
        .query(PAGED)
        .by_row()
        .summary("All machines' disks.")
        .tag(DISKS),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/disks",
            "Disks_ListByResourceGroup",
            disks,
        )
        .action("Microsoft.Compute/disks/read")
        .query(PAGED)
        .by_row()
        .summary("The disks of a group's machines.")
        .tag(DISKS),
        Route::get(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/disks/{disk}",
            "Disks_Get",
            disk,
        ).answers("Resource")
        .action("Microsoft.Compute/disks/read")
        .summary("A disk.")
        .tag(DISKS),
    ]
}

fn disk_name(machine: &Machine, disk: &MachineDisk) -> String {
    format!("{}_{}", machine.name, disk.target)
}

fn disk_id(app: &App, machine: &Machine, disk: &MachineDisk) -> String {
    format!(
        "{}/providers/Microsoft.Compute/disks/{}",
        group_id(app, &machine.group),
        disk_name(machine, disk)
    )
}

/// A disk's size, where it is known.
fn set_size(shown: &mut Value, disk: &MachineDisk) {
    if let Some(bytes) = disk.size_bytes {
        shown["diskSizeGB"] = bytes.div_ceil(1 << 30).into();
    }
}

/// A disk as its machine shows it.
fn attached(app: &App, machine: &Machine, disk: &MachineDisk) -> Value {
    let mut shown = json!({
        "name": disk_name(machine, disk), "createOption": "Attach", "caching": "None",
        "managedDisk": {"id": disk_id(app, machine, disk), "storageAccountType": "Premium_LRS"},
    });
    set_size(&mut shown, disk);
    match disk.lun {
        lun if lun >= 0 => shown["lun"] = lun.into(),
        _ if machine.os.is_empty() => {}
        _ => shown["osType"] = machine.os.clone().into(),
    }
    shown
}

fn power_state(machine: &Machine) -> (&'static str, &'static str) {
    match machine.power.as_str() {
        "running" => ("PowerState/running", "VM running"),
        "shut off" | "crashed" => ("PowerState/deallocated", "VM deallocated"),
        "shutting down" => ("PowerState/stopping", "VM stopping"),
        _ => ("PowerState/stopped", "VM stopped"),
    }
}

fn statuses(machine: &Machine) -> Value {
    let (code, shown) = power_state(machine);
    json!([
        {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded"},
        {"code": code, "level": "Info", "displayStatus": shown},
    ])
}

fn view(machine: &Machine) -> Value {
    let (code, level, shown, message) = match machine.agent.as_str() {
        "connected" => ("succeeded", "Info", "Ready", "The guest agent is connected."),
        "not-connected" => {
            ("Unavailable", "Warning", "Not Ready", "The guest agent is not running in the machine.")
        }
        "no-channel" => {
            ("Unavailable", "Warning", "No channel", "The machine has no channel for a guest agent.")
        }
        _ => ("Unavailable", "Warning", "Unknown", "The machine was not looked at yet."),
    };
    json!({
        "statuses": statuses(machine),
        "vmAgent": {"vmAgentVersion": "Unknown", "statuses": [{
            "code": format!("ProvisioningState/{code}"), "level": level, "displayStatus": shown, "message": message,
        }]},
    })
}

/// Says why backups lack a disk, if they do.
fn with_missed(mut shown: Value, disk: &MachineDisk) -> Value {
    if let Some(why) = machines::missed(disk) {
        shown["strongroomNotBackedUp"] = why.into();
    }
    shown
}

pub fn show(app: &App, machine: &Machine, with_view: bool) -> Value {
    let data_disks =
        machine.disks.iter().filter(|d| d.lun >= 0).map(|d| with_missed(attached(app, machine, d), d));
    let os_disk = machine.disks.iter().find(|d| d.lun < 0).map(|d| with_missed(attached(app, machine, d), d));
    let mut properties = json!({
        "vmId": machine.host_uuid,
        "provisioningState": "Succeeded",
        "storageProfile": {"dataDisks": data_disks.collect::<Vec<_>>()},
        "osProfile": {"computerName": machine.name},
        "networkProfile": {"networkInterfaces": []},
        "timeCreated": format::time(machine.discovered_at),
    });
    let size = machines::size_name(machine.vcpus, machine.memory_mib);
    if !size.is_empty() {
        properties["hardwareProfile"] = json!({"vmSize": size});
    }
    if let Some(os_disk) = os_disk {
        properties["storageProfile"]["osDisk"] = os_disk;
    }
    if with_view {
        properties["instanceView"] = view(machine);
    }
    json!({
        "id": id_of_machine(app, machine),
        "name": machine.name,
        "type": "Microsoft.Compute/virtualMachines",
        "location": machine.location,
        "tags": machine.tags,
        "properties": properties,
    })
}

fn found(app: &App, params: &Params) -> Result<Machine, ArmError> {
    check_subscription(app, params)?;
    Ok(machines::get(&app.service, &params["group"], &params["machine"])?)
}

fn list(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let group = params.get("group");
    if let Some(group) = group {
        strongroom_service::groups::get(&app.service, group)?;
    }
    let with_view = request.query.get("statusOnly").is_some() || request.query.get("$expand").is_some();
    page(
        request,
        machines::list(&app.service, group)?,
        1000,
        |m| by_name(&m.name, &m.group),
        |m| show(app, m, with_view),
    )
}

fn get(app: &App, request: &Request, params: &Params) -> Answer {
    let with_view = request.query.get("$expand").is_some_and(|e| e.eq_ignore_ascii_case("instanceView"));
    Response::ok(show(app, &found(app, params)?, with_view))
}

fn instance_view(app: &App, _: &Request, params: &Params) -> Answer {
    Response::ok(view(&found(app, params)?))
}

#[derive(Deserialize, JsonSchema)]
struct Tags {
    tags: Option<std::collections::BTreeMap<String, String>>,
}

fn update(app: &App, request: &Request, params: &Params) -> Answer {
    let machine = found(app, params)?;
    let body: Tags = request.json()?;
    let machine = machines::tag(&app.service, &machine, body.tags.unwrap_or_default())?;
    Response::ok(show(app, &machine, false))
}

fn start(app: &App, request: &Request, params: &Params) -> Answer {
    change_power(app, request, params, Power::Start)
}

fn power_off(app: &App, request: &Request, params: &Params) -> Answer {
    let at_once = request.query.get("skipShutdown").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    change_power(app, request, params, if at_once { Power::Off } else { Power::Stop })
}

fn change_power(app: &App, request: &Request, params: &Params, wanted: Power) -> Answer {
    let machine = found(app, params)?;
    machines::power(&app.service, &machine, wanted)?;
    let operation = operations::done(&app.service, None)?;
    let path = format!(
        "{}/providers/Microsoft.Compute/locations/{}/operations/{}",
        subscription_id(app),
        machine.location,
        operation.id
    );
    Ok(Response::accepted(request, Some(&path), Some(&path), 1))
}

fn operation(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let state = operations::state(&app.service, following::parse_operation(&params["operation"])?)?;
    Response::ok(following::show_operation(&state))
}

fn show_disk(app: &App, machine: &Machine, disk: &MachineDisk) -> Value {
    let mut properties = json!({
        "diskState": "Attached",
        "provisioningState": "Succeeded",
        "creationData": {"createOption": "Attach"},
    });
    set_size(&mut properties, disk);
    if let Some(bytes) = disk.size_bytes {
        properties["diskSizeBytes"] = bytes.into();
    }
    if disk.lun < 0 && !machine.os.is_empty() {
        properties["osType"] = machine.os.clone().into();
    }
    let properties = with_missed(properties, disk);
    json!({
        "id": disk_id(app, machine, disk),
        "name": disk_name(machine, disk),
        "type": "Microsoft.Compute/disks",
        "location": machine.location,
        "managedBy": id_of_machine(app, machine),
        "sku": {"name": "Premium_LRS", "tier": "Premium"},
        "properties": properties,
    })
}

fn all_disks(app: &App, group: Option<&str>) -> Result<Vec<Value>, ArmError> {
    let machines = machines::list(&app.service, group)?;
    Ok(machines.iter().flat_map(|m| m.disks.iter().map(|d| show_disk(app, m, d))).collect())
}

fn disks(app: &App, request: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    page(request, all_disks(app, params.get("group"))?, 1000, by_shown_name, Value::clone)
}

fn disk(app: &App, _: &Request, params: &Params) -> Answer {
    check_subscription(app, params)?;
    let wanted = &params["disk"];
    let found = all_disks(app, Some(&params["group"]))?
        .into_iter()
        .find(|d| d["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(wanted)));
    match found {
        Some(disk) => Response::ok(disk),
        None => {
            Err(ArmError::resource_not_found(&format!("Microsoft.Compute/disks/{wanted}"), &params["group"]))
        }
    }
}
