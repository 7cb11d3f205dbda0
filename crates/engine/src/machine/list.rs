//! What machines there are, and when each was backed up last.

use crate::error::Result;
use strongroom_catalog::{Catalog, ItemKind, StoredPoint};
use strongroom_hypervisor::{Error as HypervisorError, Hypervisor, Machine, MachineSummary};

/// A machine on this host.
#[derive(Debug, Clone)]
pub struct ListedMachine {
    pub summary: MachineSummary,
    /// None if it could not be looked at: then `problem` says why.
    pub machine: Option<Machine>,
    pub problem: Option<String>,
    /// The newest point that is known, in whichever vault.
    pub last_point: Option<StoredPoint>,
}

#[derive(Debug, Clone, Default)]
pub struct MachineList {
    /// By name.
    pub machines: Vec<ListedMachine>,
    pub warnings: Vec<String>,
}

/// All machines. No vault is opened: last points are what the catalog knows.
pub fn list(hypervisor: &dyn Hypervisor, catalog: Option<&dyn Catalog>) -> Result<MachineList> {
    let mut list = MachineList::default();
    let mut points = Vec::new();
    if let Some(catalog) = catalog {
        match catalog.last_points(ItemKind::Machine) {
            Ok(known) => points = known,
            Err(error) => list.warnings.push(format!("last points are not shown: {error}")),
        }
        list.warnings.extend(catalog.take_warnings());
    }
    for summary in hypervisor.list()? {
        let (machine, problem) = match hypervisor.inspect(&summary.name) {
            Ok(machine) => (Some(machine), None),
            // Gone since.
            Err(HypervisorError::NotFound { .. }) => continue,
            Err(error) => (None, Some(error.to_string())),
        };
        let last_point = points
            .iter()
            .filter(|p| p.point.item.as_str() == summary.name)
            // Another machine of this name, before this one or on another host, does not count.
            .filter(|p| p.point.source_id.as_ref().is_none_or(|uuid| *uuid == summary.uuid))
            .max_by_key(|p| p.point.taken_at)
            .cloned();
        list.machines.push(ListedMachine { summary, machine, problem, last_point });
    }
    Ok(list)
}
