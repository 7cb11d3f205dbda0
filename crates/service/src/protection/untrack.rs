//! What backups leave in a machine to follow its changes (checkpoints, bitmaps, clones to compare with) goes when nobody backs
//! it up any more: libvirt undefines no machine with checkpoints, and reverts to no snapshot within an image with bitmaps.

use super::lookup;
use crate::core::error::{Error, Result};
use crate::core::service::Service;
use strongroom_catalog::{Item, Machine, Query};
use strongroom_domain::item::ItemState;
use strongroom_hypervisor::{Error as HypervisorError, Untracked};

/// Takes it out of a machine, which may be protected: its next backup reads everything once.
pub fn untrack(service: &Service, machine: &Machine) -> Result<Untracked> {
    Ok(service.host(&machine.host)?.hypervisor.untrack(&machine.name)?)
}

/// States in which an item is not backed up.
const OVER: [ItemState; 3] =
    [ItemState::ProtectionStopped, ItemState::BackupsSuspended, ItemState::SoftDeleted];

fn is_over(item: &Item) -> bool {
    OVER.contains(&item.state)
}

/// Of an item whose backups are over, at once where that can be; else housekeeping does it.
pub(crate) fn now(service: &Service, item: &mut Item) {
    match of(service, item) {
        Ok(true) => item.version += 1,
        Ok(false) => {}
        Err(error) => {
            tracing::info!(machine = item.machine_name, %error, "its change tracking is taken away later");
        }
    }
}

/// Of all items whose backups are over.
pub(crate) fn keep(service: &Service) -> Result<()> {
    for state in OVER {
        for item in service.catalog.find::<Item>(&Query::all().eq("state", state.arm_name()))? {
            if service.life.is_stopping() {
                return Ok(());
            }
            if let Err(error) = of(service, &item) {
                tracing::debug!(machine = item.machine_name, %error, "its change tracking could not be taken away yet");
            }
        }
    }
    Ok(())
}

/// Answers whether it was noted that nothing is left to be done.
fn of(service: &Service, item: &Item) -> Result<bool> {
    if item.untracked || !is_over(item) || !item.datasource.is_tracked_in_machine() {
        return Ok(false);
    }
    let machine = service.catalog.get::<Machine>(item.machine)?.filter(|m| m.gone_at.is_none());
    // In another vault it may be backed up.
    let others = lookup::of_machine(service, item.machine)?;
    let is_used = others.iter().any(|other| other.id != item.id && !is_over(other));
    if let Some(machine) = machine.filter(|_| !is_used) {
        let done = match service.host(&machine.host)?.hypervisor.untrack(&machine.name) {
            Err(HypervisorError::NotFound { .. }) => Untracked::default(),
            done => done?,
        };
        if done.checkpoints > 0 || !done.warnings.is_empty() {
            tracing::info!(machine = machine.name, checkpoints = done.checkpoints, warnings = ?done.warnings, "its changes are not tracked any more");
        }
    }
    let mut noted = false;
    service.catalog.update::<Item, Error>(item.id, |row| {
        // Protected again meanwhile, it begins anew with a full read.
        noted = is_over(row);
        row.untracked = noted;
        Ok(Vec::new())
    })?;
    Ok(noted)
}
