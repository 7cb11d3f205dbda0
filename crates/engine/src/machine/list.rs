//! What machines there are, and when each was backed up last.

use super::record::MachineRecord;
use crate::error::Result;
use strongroom_hypervisor::{Error as HypervisorError, Hypervisor, Machine, MachineSummary};
use strongroom_store::{Manifest, PointKind};

/// A machine on this host.
#[derive(Debug, Clone)]
pub struct ListedMachine {
    /// What is known of each without looking closely.
    pub summary: MachineSummary,
    /// None if it could not be looked at: then `problem` says why.
    pub machine: Option<Machine>,
    /// For people. None: it could be looked at.
    pub problem: Option<String>,
    /// The newest of its points.
    pub last_point: Option<Manifest>,
}

/// All machines, by name, each with its newest among `points`.
pub fn list(hypervisor: &dyn Hypervisor, points: &[Manifest]) -> Result<Vec<ListedMachine>> {
    let mut machines = Vec::new();
    for summary in hypervisor.list()? {
        let (machine, problem) = match hypervisor.inspect(&summary.name) {
            Ok(machine) => (Some(machine), None),
            // Gone since.
            Err(HypervisorError::NotFound { .. }) => continue,
            Err(error) => (None, Some(error.to_string())),
        };
        let last_point = points
            .iter()
            .filter(|p| p.kind == PointKind::Machine && p.item.as_str() == summary.name)
            // Another machine of this name, before this one or on another host, does not count.
            .filter(|p| MachineRecord::of(p).machine_uuid.is_none_or(|uuid| uuid == summary.uuid))
            .max_by_key(|p| p.taken_at)
            .cloned();
        machines.push(ListedMachine { summary, machine, problem, last_point });
    }
    Ok(machines)
}
