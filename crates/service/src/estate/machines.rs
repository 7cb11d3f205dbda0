//! Machines, as they are discovered on the hosts.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::{Host, Inner, Service};
use crate::jobs::chore::{Chore, Rest};
use crate::jobs::operations;
use crate::limits::{
    DISCOVERY_INTERVAL, DISCOVERY_ON_DEMAND_REST, DISCOVERY_ON_DEMAND_REST_MAX, INSPECTION_INTERVAL,
    MACHINES_AT_ONCE,
};
use crate::vaults::{groups, lookup as vaults};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use strongroom_catalog::{Change, Item, Machine, MachineDisk, Operation, Query, ServiceError, actor, key};
use strongroom_engine::machine::definition;
use strongroom_hypervisor::MachineSummary;
use uuid::Uuid;

/// What discovery remembers between its runs.
pub struct Discovery {
    /// Held while one goes on.
    turn: Mutex<()>,
    seen: Mutex<Seen>,
    refreshes: Mutex<Refreshes>,
    /// Who is told of machines that appeared.
    tell: fn(&Service, &Machine) -> Result<()>,
}

impl Discovery {
    /// Tells of each machine that appears.
    pub(crate) fn telling(tell: fn(&Service, &Machine) -> Result<()>) -> Self {
        Self { turn: Mutex::default(), seen: Mutex::default(), refreshes: Mutex::default(), tell }
    }
}

impl Inner {
    fn discovery(&self) -> &Discovery {
        self.part()
    }
}

/// Discovers machines by itself.
#[derive(Default)]
pub(crate) struct Discover;

impl Chore for Discover {
    fn name(&self) -> &'static str {
        "discovery"
    }

    fn turn(&mut self, service: &Service) -> Rest {
        if let Err(error) = look_around(service, false) {
            tracing::error!(%error, "machines could not be discovered");
        }
        Rest::For(DISCOVERY_INTERVAL)
    }
}

#[derive(Default)]
struct Seen {
    /// When each host was looked at last, and what went wrong then.
    hosts: BTreeMap<String, HostSeen>,
    /// When the last look at all of them began.
    began: Option<Instant>,
    /// When each machine was looked at closely.
    inspected: HashMap<Uuid, Instant>,
    /// When the next is due that only somebody's question asks for.
    rested: Option<Instant>,
}

/// Looks at everything that somebody asked for.
#[derive(Default)]
struct Refreshes {
    /// Operations whose look has not begun: the next one is all of theirs.
    waiting: Vec<Uuid>,
    /// A thread sees to them.
    running: bool,
}

/// What came of looking at a host.
#[derive(Debug, Clone)]
pub struct HostSeen {
    /// When it was looked at.
    pub at: jiff::Timestamp,
    /// How many machines it has; 0 where it did not answer.
    pub machines: usize,
    /// Why it did not answer, for people. None: it did.
    pub problem: Option<String>,
}

/// Why backups lack a disk, though it holds data of its machine.
pub fn missed(disk: &MachineDisk) -> Option<&str> {
    disk.skipped.as_deref().filter(|why| strongroom_hypervisor::is_missed(why))
}

/// The refusal for a machine that is not there, in Azure's words.
pub(crate) fn not_found(group: &str, name: &str) -> Error {
    crate::core::refusals::resource_not_found(&format!("Microsoft.Compute/virtualMachines/{name}"), group)
}

/// The machine of that name as it is known, in any case, without looking at its host. None: it is not known, or is gone.
pub fn find(service: &Service, group: &str, name: &str) -> Result<Option<Machine>> {
    let query = Query::all().eq("group_key", key(group)).eq("name_key", key(name)).eq("gone", false);
    Ok(service.catalog.first(query)?)
}

/// The machine of that name. One that is not known yet is looked for by the next look of those that have their rests
/// between them: it is not said to be missing for what was, or was not, there before somebody asked.
pub fn get(service: &Service, group: &str, name: &str) -> Result<Machine> {
    find_or_look(service, group, name, true)
}

/// The machine of that name, for whoever is about to do something with it: one that is not known yet is looked for, however
/// short a while ago somebody looked.
pub fn get_or_look(service: &Service, group: &str, name: &str) -> Result<Machine> {
    find_or_look(service, group, name, false)
}

fn find_or_look(service: &Service, group: &str, name: &str, rests: bool) -> Result<Machine> {
    if let Some(machine) = find(service, group, name)? {
        return Ok(machine);
    }
    let asked = Instant::now();
    loop {
        let turn = service.discovery().turn.lock();
        let (began, rested) = {
            let seen = service.discovery().seen.lock();
            (seen.began, seen.rested.filter(|_| rests))
        };
        // Somebody else's look, which began after this was asked for, is as good.
        if began.is_some_and(|began| began >= asked) {
            break;
        }
        let left = rested.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if left.is_zero() || service.life.is_stopping() {
            look_around_in(&turn, service, false)?;
            break;
        }
        // All who wait share the look of the one that comes first.
        drop(turn);
        service.life.pause(left);
    }
    find(service, group, name)?.ok_or_else(|| not_found(group, name))
}

/// What a machine's size is called; nothing of one that is not known.
pub fn size_name(vcpus: u32, memory_mib: u64) -> String {
    match vcpus {
        0 => String::new(),
        _ => format!("{vcpus}vcpu_{memory_mib}MiB"),
    }
}

/// Machines that are there, by name.
pub fn list(service: &Service, group: Option<&str>) -> Result<Vec<Machine>> {
    let mut query = Query::all().eq("gone", false).ascending("name_key").ascending("group_key");
    if let Some(group) = group {
        query = query.eq("group_key", key(group));
    }
    Ok(service.catalog.find(&query)?)
}

/// What was seen of each host when it was looked at last.
pub fn hosts_seen(service: &Service) -> BTreeMap<String, HostSeen> {
    service.discovery().seen.lock().hosts.clone()
}

/// Looks at all hosts, and closely at every machine. One that does not answer changes nothing about its machines.
pub fn discover(service: &Service) -> Result<()> {
    look_around(service, true)
}

/// [`discover`] as an operation that can be followed. Those that ask while a look goes on share the next one, which
/// begins after they asked, so that nothing that was there then is missed.
pub fn refresh(service: &Service, vault: Option<Uuid>) -> Result<Operation> {
    let operation = Operation {
        id: Uuid::new_v4(),
        version: 0,
        vault,
        started_at: service.now(),
        ended_at: None,
        job: None,
        follows_job: false,
        error: None,
        validates: false,
    };
    service.catalog.apply(&[Change::put(&operation)])?;
    let mut refreshes = service.discovery().refreshes.lock();
    refreshes.waiting.push(operation.id);
    if !refreshes.running {
        let worker = service.clone();
        let thread = std::thread::Builder::new()
            .name("refresh".into())
            .spawn(move || actor::named("service: discovery", || run_refreshes(&worker)))
            .map_err(|e| Error::io("starting the thread for discovery", e))?;
        refreshes.running = true;
        service.life.keep(thread);
    }
    Ok(operation)
}

fn run_refreshes(service: &Service) {
    loop {
        let asked = {
            let mut refreshes = service.discovery().refreshes.lock();
            if refreshes.waiting.is_empty() {
                refreshes.running = false;
                return;
            }
            std::mem::take(&mut refreshes.waiting)
        };
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| discover(service)))
            .unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Failed, "discovery ended by itself; this is a bug, see the log"))
            });
        let problem = looked.err().or_else(|| {
            service.life.is_stopping().then(|| operations::interrupted("machines were being discovered"))
        });
        for id in asked {
            if let Err(error) = operations::end(service, id, problem.as_ref()) {
                tracing::error!(operation = %id, %error, "the end of an operation could not be written");
            }
        }
    }
}

/// Looks closely at one machine.
pub fn look_at(service: &Service, machine: &Machine) -> Result<()> {
    let host = service.host(&machine.host)?;
    let _turn = service.discovery().turn.lock();
    let inspected = host.hypervisor.inspect(&machine.name)?;
    if let Some(row) = noted(service, host, &inspected, service.catalog.get::<Machine>(machine.id)?) {
        write(service, vec![row])?;
    }
    Ok(())
}

/// Looks at all hosts; without `closely` only at machines that are new, that changed their power, or whose last close look
/// was a while ago.
pub(crate) fn look_around(service: &Service, closely: bool) -> Result<()> {
    // One at a time; who waits sees what the one before found.
    look_around_in(&service.discovery().turn.lock(), service, closely)
}

fn look_around_in(_turn: &MutexGuard<'_, ()>, service: &Service, closely: bool) -> Result<()> {
    let began = Instant::now();
    service.discovery().seen.lock().began = Some(began);
    for host in &service.hosts {
        let result = discover_host(service, host, closely);
        if let Err(error) = &result {
            tracing::warn!(host = host.name, %error, "machines could not be listed");
        }
        let entry = HostSeen {
            at: service.now(),
            machines: *result.as_ref().unwrap_or(&0),
            problem: result.as_ref().err().map(ToString::to_string),
        };
        service.discovery().seen.lock().hosts.insert(host.name.clone(), entry);
    }
    let rest = (began.elapsed() * DISCOVERY_ON_DEMAND_REST).min(DISCOVERY_ON_DEMAND_REST_MAX);
    service.discovery().seen.lock().rested = Some(Instant::now() + rest);
    Ok(())
}

/// Returns how many machines there are.
fn discover_host(service: &Service, host: &Host, closely: bool) -> Result<usize> {
    let there = host.hypervisor.list()?;
    let count = there.len();
    let known: Vec<Machine> = service.catalog.find(&Query::all().eq("host", host.name.as_str()))?;
    let mut known: HashMap<String, Machine> = known.into_iter().map(|m| (m.host_uuid.clone(), m)).collect();
    let mut chosen: Vec<MachineSummary> = Vec::new();
    let mut before: Vec<Option<Machine>> = Vec::new();
    for summary in there {
        let row = known.remove(&summary.uuid);
        if let Some(machine) = row.as_ref().filter(|m| !closely && m.gone_at.is_none()) {
            let inspected = service.discovery().seen.lock().inspected.get(&machine.id).copied();
            let is_fresh = inspected.is_some_and(|at| at.elapsed() < INSPECTION_INTERVAL);
            if is_fresh && machine.name == summary.name && machine.power == summary.state.to_string() {
                continue;
            }
        }
        chosen.push(summary);
        before.push(row);
    }
    let mut rows = Vec::new();
    let mut appeared = Vec::new();
    let mut problem = None;
    host.hypervisor.inspect_each(&chosen, &mut |at, found| {
        match found {
            Ok(machine) => {
                let row = before[at].take();
                let appears = row.as_ref().is_none_or(|b| b.gone_at.is_some());
                if let Some(row) = &row {
                    service.discovery().seen.lock().inspected.insert(row.id, Instant::now());
                }
                let noted = noted(service, host, &machine, row);
                appeared.extend(noted.as_ref().filter(|_| appears).map(|m| m.id));
                rows.extend(noted);
            }
            Err(error) => {
                let machine = &chosen[at].name;
                tracing::warn!(host = host.name, machine, %error, "a machine could not be looked at");
            }
        }
        if rows.len() >= MACHINES_AT_ONCE {
            problem = write(service, std::mem::take(&mut rows)).err();
        }
        problem.is_none() && !service.life.is_stopping()
    })?;
    problem.map_or_else(|| write(service, rows), Err)?;
    // What is no longer there keeps its row: its points may be restored.
    for mut gone in known.into_values().filter(|m| m.gone_at.is_none()) {
        gone.gone_at = Some(service.now());
        apply_quietly(service, &[Change::put(&gone)])?;
    }
    for id in appeared {
        if let Some(machine) = service.catalog.get::<Machine>(id)? {
            (service.discovery().tell)(service, &machine)?;
        }
    }
    Ok(count)
}

/// Writes what is new about machines, together if that goes; else each by itself.
fn write(service: &Service, rows: Vec<Machine>) -> Result<()> {
    let seen_at = Instant::now();
    let changes: Vec<Change> = rows.iter().map(Change::put).collect();
    match service.catalog.apply(&changes) {
        Err(ServiceError::Taken { .. } | ServiceError::Conflict { .. }) => {
            for row in &rows {
                match service.catalog.apply(&[Change::put(row)]) {
                    Err(ServiceError::Taken { .. }) => take_over(service, row.clone())?,
                    // Somebody was faster: the next discovery sees to it.
                    Err(ServiceError::Conflict { .. }) => {}
                    other => other?,
                }
            }
        }
        other => other?,
    }
    let mut seen = service.discovery().seen.lock();
    seen.inspected.extend(rows.iter().map(|row| (row.id, seen_at)));
    Ok(())
}

/// Somebody was faster: the next discovery sees to it.
fn apply_quietly(service: &Service, changes: &[Change]) -> Result<()> {
    match service.catalog.apply(changes) {
        Ok(()) | Err(ServiceError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A machine's row, if there is anything new about it.
fn noted(
    service: &Service,
    host: &Host,
    inspected: &strongroom_hypervisor::Machine,
    before: Option<Machine>,
) -> Option<Machine> {
    let summary = &inspected.summary;
    let facts = definition::facts(&inspected.definition_xml);
    // The first is what Azure calls the OS disk; data disks are numbered from 0.
    let attached = inspected.disks.iter().filter(|d| d.device == "disk" || d.device == "lun");
    let disks = (-1..)
        .zip(attached)
        .map(|(lun, disk)| MachineDisk {
            lun,
            target: disk.target.clone(),
            size_bytes: disk.size_bytes,
            format: disk.format.map(|f| f.name().to_owned()),
            skipped: disk.skipped.clone(),
        })
        .collect();
    let mut machine = before.clone().unwrap_or_else(|| Machine {
        id: Uuid::new_v4(),
        version: 0,
        host: host.name.clone(),
        host_uuid: summary.uuid.clone(),
        name: summary.name.clone(),
        group: host.group.clone(),
        location: host.location.clone(),
        placed: false,
        power: String::new(),
        agent: String::new(),
        disks: Vec::new(),
        networks: Vec::new(),
        vcpus: 0,
        memory_mib: 0,
        os: String::new(),
        tags: BTreeMap::new(),
        discovered_at: service.now(),
        gone_at: None,
    });
    machine.name.clone_from(&summary.name);
    machine.gone_at = None;
    machine.power = summary.state.to_string();
    machine.agent = inspected.agent.name().into();
    machine.disks = disks;
    machine.networks = facts.networks.into_iter().collect();
    machine.vcpus = facts.vcpus;
    machine.memory_mib = facts.memory_mib;
    machine.os = facts.os.to_owned();
    if !machine.placed && before.as_ref().is_none_or(|b| b.gone_at.is_some()) {
        // A machine that was restored under its own name and group goes on being protected: it takes over the item.
        machine.group.clone_from(&host.group);
        machine.location.clone_from(&host.location);
    }
    (before.as_ref() != Some(&machine)).then_some(machine)
}

/// Another machine has, or had, this name in this group. If it is gone from its host it gives the name up; if not,
/// this one is kept apart by its host's name.
fn take_over(service: &Service, mut machine: Machine) -> Result<()> {
    let Some(mut other) = find(service, &machine.group, &machine.name)? else { return Ok(()) };
    let host = service.host(&other.host);
    let still_there = match &host {
        Ok(host) => host
            .hypervisor
            .list()?
            .iter()
            .any(|m| m.uuid == other.host_uuid && key(&m.name) == key(&other.name)),
        Err(_) => false,
    };
    if still_there {
        machine.group = format!("{}-{}", machine.group, machine.host);
        groups::ensure(service, &machine.group, &machine.location)?;
        return apply_quietly(service, &[Change::put(&machine)]);
    }
    other.gone_at = Some(service.now());
    apply_quietly(service, &[Change::put(&other), Change::put(&machine)])
}

/// Puts a machine into another group and location. Not while it is protected: its items are named after them.
pub fn place(service: &Service, machine: &Machine, group: &str, location: &str) -> Result<Machine> {
    let group = groups::get(service, group)?.name;
    groups::check_location(location)?;
    let items: Vec<Item> = service.catalog.find(&Query::all().eq("machine", machine.id))?;
    if !items.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Machine '{}' is protected, or has recovery points, under resource group '{}': it cannot be moved.",
                machine.name, machine.group
            ),
        )
        .coded("ResourceMoveNotAllowed"));
    }
    service
        .catalog
        .update::<Machine, Error>(machine.id, |row| {
            row.group.clone_from(&group);
            row.location = vaults::plain_location(location);
            row.placed = true;
            Ok(Vec::new())
        })
        .map_err(|error| match error.kind {
            ErrorKind::AlreadyExists => Error::already_exists(format!(
                "Resource group '{group}' has another machine '{}' already: choose another group.",
                machine.name
            ))
            .coded("MoveCannotOverwriteResource"),
            _ => error,
        })?
        .ok_or_else(|| not_found(&machine.group, &machine.name))
}

/// Gives a machine tags.
pub fn tag(service: &Service, machine: &Machine, tags: BTreeMap<String, String>) -> Result<Machine> {
    groups::check_tags(&tags)?;
    service
        .catalog
        .update::<Machine, Error>(machine.id, |row| {
            row.tags.clone_from(&tags);
            Ok(Vec::new())
        })?
        .ok_or_else(|| not_found(&machine.group, &machine.name))
}

/// What can be done to a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It is switched on.
    Start,
    /// The guest shuts down by itself, or after a while its plug is pulled.
    Stop,
    /// The plug is pulled at once.
    Off,
}

/// Does that to a machine, and looks then how it is. A guest that is to stop gets a minute, after which its plug is pulled.
pub fn power(service: &Service, machine: &Machine, wanted: Power) -> Result<()> {
    let hypervisor = &service.host(&machine.host)?.hypervisor;
    match wanted {
        Power::Start => hypervisor.start(&machine.name)?,
        Power::Stop => {
            if hypervisor.shutdown(&machine.name, SHUTDOWN_TIMEOUT).is_err() {
                hypervisor.power_off(&machine.name)?;
            }
        }
        Power::Off => hypervisor.power_off(&machine.name)?,
    }
    look_at(service, machine)
}

/// How long a guest may take to shut down before its plug is pulled.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// A machine as its host sees it now, looked at without changing anything.
pub(crate) fn look(service: &Service, machine: &Machine) -> Result<strongroom_hypervisor::Machine> {
    let found = service.host(&machine.host)?.hypervisor.inspect(&machine.name)?;
    if found.summary.uuid != machine.host_uuid {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "Machine '{}' on host '{}' is another one than the one that is known here: run discovery again.",
                machine.name, machine.host
            ),
        )
        .coded("UserErrorVmNotFound"));
    }
    Ok(found)
}
