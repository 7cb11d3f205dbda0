//! Machines as they are listed and looked at: few calls for each, since there may be thousands.

use super::conn::{Conn, VirtResult};
use super::dom::{Dom, XML_INACTIVE};
use super::options::LibvirtOptions;
use super::state::summary;
use super::{definition, firmware, sys, volumes};
use crate::error::Result;
use crate::model::{Machine, MachineState, MachineSummary};
use crate::text::machine;
use std::collections::HashSet;
use std::sync::Arc;

/// libvirt's filters of its list.
const PERSISTENT: u32 = 1 << 2;
const RUNNING: u32 = 1 << 4;
const SHUT_OFF: u32 = 1 << 6;
const AUTOSTART: u32 = 1 << 10;

/// All machines, with five calls in all instead of three for each: libvirt's filters say which are persistent, running
/// and so on. What is in none of these lists, or changes between them, is asked by itself.
pub(super) fn summaries(connection: &Arc<Conn>) -> VirtResult<Vec<MachineSummary>> {
    let ids = |filter: u32| -> VirtResult<HashSet<String>> {
        Ok(connection.domains(filter)?.iter().filter_map(|d| d.uuid().ok()).collect())
    };
    let all = connection.domains(0)?;
    let (persistent, autostart) = (ids(PERSISTENT)?, ids(AUTOSTART)?);
    let (running, shut_off) = (ids(RUNNING)?, ids(SHUT_OFF)?);
    let one = |dom: &Dom| -> VirtResult<Option<MachineSummary>> {
        let uuid = dom.uuid()?;
        let state = match (running.contains(&uuid), shut_off.contains(&uuid)) {
            (true, false) => MachineState::Running,
            (false, true) => MachineState::ShutOff,
            _ => {
                return match summary(dom) {
                    Ok(found) => Ok(Some(found)),
                    // One that vanished since is left out; of one that could not be asked for that is not known.
                    Err(e) if e.code == sys::ERR_NO_DOMAIN => Ok(None),
                    Err(e) => Err(e),
                };
            }
        };
        let (persistent, autostart) = (persistent.contains(&uuid), autostart.contains(&uuid));
        Ok(Some(MachineSummary { name: dom.name(), uuid, state, persistent, autostart }))
    };
    all.iter().filter_map(|dom| one(dom).transpose()).collect()
}

/// A machine whose state is known. `listed`: it was when it was listed, so that of one that was off then, its definition
/// is asked for once; one that was started since is seen to run the next time.
pub(super) fn inspect(
    options: &LibvirtOptions,
    dom: &Dom,
    summary: MachineSummary,
    listed: bool,
) -> Result<Machine> {
    let what = machine(&summary.name);
    let is_off = listed && summary.persistent && summary.state == MachineState::ShutOff;
    let flags = if is_off { XML_INACTIVE } else { 0 };
    let live = dom.xml(flags).map_err(|e| e.about("inspecting", &what))?;
    let (seen, volumes) = volumes::resolve(&dom.conn, &what, live.clone())?;
    let document = definition::parse(&what, &seen)?;
    let mut disks = volumes.explain(definition::disks(&document));
    let streamed = definition::streamed_disks(&document);
    for disk in disks.iter_mut().filter(|disk| !streamed.contains(&disk.target)) {
        if let Ok(info) = dom.block_info(&disk.target) {
            disk.size_bytes = Some(info.capacity);
            disk.allocated_bytes = Some(info.allocation);
        }
    }
    let definition_xml = if summary.persistent && !is_off {
        dom.xml(XML_INACTIVE).map_err(|e| e.about("inspecting", &what))?
    } else {
        live.clone()
    };
    let agent = definition::agent(&document);
    let nvram = match listed {
        true => definition::nvram(&document),
        false => firmware::find(options, &dom.conn, &seen, &document, summary.state.is_active()).variables,
    };
    Ok(Machine { agent, nvram, summary, disks, definition_xml })
}
