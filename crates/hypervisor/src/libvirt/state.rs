//! libvirt's numbers for machines' states, and the reasons used here.

use super::conn::VirtResult;
use super::dom::Dom;
use crate::error::Result;
use crate::model::{MachineState, MachineSummary};
use crate::text::machine;
use libc::c_int;

pub const SHUTOFF_SHUTDOWN: c_int = 1;
pub const SHUTOFF_DESTROYED: c_int = 2;
pub const SHUTOFF_CRASHED: c_int = 3;
pub const SHUTOFF_MIGRATED: c_int = 4;
pub const SHUTOFF_SAVED: c_int = 5;
pub const PAUSED: c_int = 3;
pub const PAUSED_IO_ERROR: c_int = 5;
const PAUSED_CRASHED: c_int = 10;

fn from_numbers(state: c_int, reason: c_int) -> MachineState {
    match (state, reason) {
        (3, PAUSED_CRASHED) | (6, _) => MachineState::Crashed,
        (3, _) => MachineState::Paused,
        (4, _) => MachineState::ShuttingDown,
        (5, _) => MachineState::ShutOff,
        (7, _) => MachineState::Suspended,
        _ => MachineState::Running,
    }
}

/// A machine's state, and the reason for it as libvirt numbers it.
pub fn now(dom: &Dom) -> VirtResult<(MachineState, c_int)> {
    let (state, reason) = dom.state()?;
    Ok((from_numbers(state, reason), reason))
}

pub fn is_active(dom: &Dom) -> Result<bool> {
    dom.is_active().map_err(|e| e.about("asking for the state of", &machine(&dom.name())))
}

pub fn summary(dom: &Dom) -> VirtResult<MachineSummary> {
    Ok(MachineSummary {
        name: dom.name(),
        uuid: dom.uuid()?,
        state: now(dom)?.0,
        persistent: dom.is_persistent()?,
        autostart: dom.autostart()?,
    })
}
