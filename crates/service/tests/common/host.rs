//! A host whose machines are rows of a table, with real files as disks. What happens in a test at a certain moment is hooked
//! to what the service asks of it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use strongroom_domain::{Consistency, ConsistencyLevel, TypedExtent};
use strongroom_hypervisor::*;
use uuid::Uuid;

type Hook = Box<dyn FnMut(&FakeHost) + Send>;

#[derive(Clone, Default)]
pub struct FakeHost(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sockets: Mutex<PathBuf>,
    machines: Mutex<BTreeMap<String, Machine>>,
    /// What happens right after a machine was looked at.
    after_inspect: Mutex<Option<Hook>>,
    /// What happens when a pull is looked at.
    on_pull: Mutex<Option<Hook>>,
    /// What is read of kept snapshots; none: the host does not answer.
    kept: Mutex<Option<(Machine, serde_json::Value)>>,
    /// How often its machines were listed, and how long that takes.
    listed: Mutex<(usize, Duration)>,
    /// What each snapshot was to be.
    asked: Mutex<Vec<Quiesce>>,
    /// Answers lost on the way: the machine is made, and an error told.
    loses_answers: Mutex<bool>,
}

fn not_found(name: &str) -> Error {
    Error::NotFound { what: format!("machine `{name}`") }
}

impl FakeHost {
    /// `sockets`: where exports listen.
    pub fn new(sockets: &Path) -> Self {
        let host = Self::default();
        *host.0.sockets.lock().unwrap() = sockets.to_owned();
        host
    }

    /// As a service has it.
    pub fn as_host(&self) -> strongroom_service::Host {
        strongroom_service::Host {
            name: "host".into(),
            hypervisor: Arc::new(self.clone()),
            group: "group".into(),
            location: "local".into(),
        }
    }

    /// A machine that is off, with one raw disk.
    pub fn add(&self, name: &str, disks: &[(&str, &Path)]) -> Machine {
        let devices: String = disks
            .iter()
            .map(|(target, path)| {
                format!(
                    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
                    path.display()
                )
            })
            .collect();
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>{devices}</devices></domain>"
        );
        let disks = disks.iter().map(|(target, path)| disk(target, path, DiskFormat::Raw)).collect();
        let machine = machine(name, Uuid::new_v4(), MachineState::ShutOff, disks, xml);
        self.0.machines.lock().unwrap().insert(name.to_owned(), machine.clone());
        machine
    }

    pub fn get(&self, name: &str) -> Option<Machine> {
        self.0.machines.lock().unwrap().get(name).cloned()
    }

    pub fn set_state(&self, name: &str, state: MachineState) {
        if let Some(machine) = self.0.machines.lock().unwrap().get_mut(name) {
            machine.summary.state = state;
        }
    }

    pub fn after_inspect(&self, hook: impl FnMut(&FakeHost) + Send + 'static) {
        *self.0.after_inspect.lock().unwrap() = Some(Box::new(hook));
    }

    pub fn on_pull(&self, hook: impl FnMut(&FakeHost) + Send + 'static) {
        *self.0.on_pull.lock().unwrap() = Some(Box::new(hook));
    }

    /// How often its machines were listed.
    pub fn times_listed(&self) -> usize {
        self.0.listed.lock().unwrap().0
    }

    pub fn take_long_to_list(&self, time: Duration) {
        self.0.listed.lock().unwrap().1 = time;
    }

    /// Whether each snapshot was to freeze the guest.
    pub fn asked_to_freeze(&self) -> Vec<Quiesce> {
        self.0.asked.lock().unwrap().clone()
    }

    pub fn lose_answers(&self) {
        *self.0.loses_answers.lock().unwrap() = true;
    }

    /// There is a kept snapshot of a machine, whose record says this.
    pub fn keep(&self, machine: &Machine, extra: serde_json::Value) {
        *self.0.kept.lock().unwrap() = Some((machine.clone(), extra));
    }

    pub fn forget_kept(&self) {
        *self.0.kept.lock().unwrap() = None;
    }

    fn snapshot_of(&self, machine: &Machine) -> Result<MachineSnapshot> {
        let disks: Result<Vec<DiskSnapshot>> = machine
            .disks
            .iter()
            .map(|d| {
                let file = File::open(d.source.path().unwrap()).unwrap();
                let size_bytes = file.metadata().unwrap().len();
                DiskSnapshot::full(&d.target, size_bytes, DiskFormat::Raw, Arc::new(RawDisk(file)))
            })
            .collect();
        let consistency = Consistency::new(ConsistencyLevel::Crash, "a test");
        Ok(MachineSnapshot::of_disks(machine, consistency, disks?))
    }

    fn happen(&self, hook: &Mutex<Option<Hook>>) {
        // Not under the lock: it may look itself.
        let taken = hook.lock().unwrap().take();
        if let Some(mut taken) = taken {
            taken(self);
            hook.lock().unwrap().get_or_insert(taken);
        }
    }

    fn put(&self, machine: Machine) {
        self.0.machines.lock().unwrap().insert(machine.summary.name.clone(), machine);
    }
}

fn machine(name: &str, uuid: Uuid, state: MachineState, disks: Vec<Disk>, xml: String) -> Machine {
    Machine {
        summary: MachineSummary {
            name: name.to_owned(),
            uuid: uuid.to_string(),
            state,
            persistent: true,
            autostart: false,
        },
        disks,
        agent: AgentState::Connected,
        definition_xml: xml,
        nvram: None,
    }
}

fn disk(target: &str, path: &Path, format: DiskFormat) -> Disk {
    Disk {
        has_backing_store: false,
        target: target.to_owned(),
        bus: "virtio".into(),
        device: "disk".into(),
        source: DiskSource::File(path.to_owned()),
        format: Some(format),
        size_bytes: std::fs::metadata(path).ok().map(|m| m.len()),
        allocated_bytes: None,
        read_only: false,
        shareable: false,
        transient: false,
        encrypted: false,
        skipped: None,
    }
}

struct RawDisk(File);

impl ReadDisk for RawDisk {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, offset_bytes).map_err(|e| Error::Failed {
            doing: "reading",
            what: "a disk".into(),
            cause: e.to_string(),
        })
    }

    fn kinds(&self) -> Result<Vec<TypedExtent>> {
        let length = self.0.metadata().unwrap().len();
        Ok(vec![TypedExtent::data(0, length)])
    }
}

fn of_request(wanted: &RestoreMachineRequest, uuid: Uuid, state: MachineState) -> Machine {
    let disks = wanted.disks.iter().map(|d| disk(&d.target, &d.path, d.format)).collect();
    machine(&wanted.new_name, uuid, state, disks, wanted.definition_xml.clone())
}

impl Hypervisor for FakeHost {
    fn list(&self) -> Result<Vec<MachineSummary>> {
        let time = {
            let mut listed = self.0.listed.lock().unwrap();
            listed.0 += 1;
            listed.1
        };
        std::thread::sleep(time);
        let machines = self.0.machines.lock().unwrap();
        Ok(machines.values().filter(|m| m.summary.persistent).map(|m| m.summary.clone()).collect())
    }

    fn inspect(&self, name: &str) -> Result<Machine> {
        let answer = self.get(name).ok_or_else(|| not_found(name));
        self.happen(&self.0.after_inspect);
        answer
    }

    fn snapshot(&self, name: &str, request: &SnapshotRequest) -> Result<MachineSnapshot> {
        self.0.asked.lock().unwrap().push(request.quiesce);
        self.snapshot_of(&self.get(name).ok_or_else(|| not_found(name))?)
    }

    fn open_kept(&self, record: &Path) -> Result<(MachineSnapshot, KeptSnapshot)> {
        let kept = self.0.kept.lock().unwrap().clone();
        let (machine, extra) = kept.ok_or_else(|| Error::Unavailable {
            what: "the host".into(),
            hint: "it does not answer".into(),
        })?;
        let kept = KeptSnapshot {
            id: "kept".into(),
            owner: String::new(),
            machine_uuid: machine.summary.uuid.clone(),
            machine: machine.summary.name.clone(),
            taken_at: SystemTime::now(),
            record: record.to_owned(),
            extra,
            disks: Vec::new(),
        };
        Ok((self.snapshot_of(&machine)?, kept))
    }

    fn conclude_kept(&self, _record: &Path, _outcome: Outcome) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn remove_kept(&self, _record: &Path) -> Result<()> {
        Ok(())
    }

    fn kept_in(&self, _directory: &Path) -> Result<Vec<KeptSnapshot>> {
        Ok(Vec::new())
    }

    fn networks(&self) -> Result<Vec<Network>> {
        Ok(Vec::new())
    }

    fn storage_pools(&self) -> Result<Vec<StoragePool>> {
        Ok(Vec::new())
    }

    fn name_is_free(&self, name: &str) -> Result<()> {
        match self.get(name) {
            Some(_) => Err(Error::AlreadyExists { what: format!("machine `{name}`") }),
            None => Ok(()),
        }
    }

    fn create(&self, request: &RestoreMachineRequest) -> Result<CreatedMachine> {
        self.name_is_free(&request.new_name)?;
        let uuid = Uuid::new_v4();
        self.put(of_request(request, uuid, MachineState::ShutOff));
        if *self.0.loses_answers.lock().unwrap() {
            return Err(Error::Unavailable { what: "the host".into(), hint: "its answer was lost".into() });
        }
        Ok(CreatedMachine {
            name: request.new_name.clone(),
            uuid: uuid.to_string(),
            warnings: Vec::new(),
            losses: Vec::new(),
        })
    }

    fn start(&self, name: &str) -> Result<()> {
        self.set_state(name, MachineState::Running);
        Ok(())
    }

    fn shutdown(&self, name: &str, _timeout: Duration) -> Result<()> {
        self.power_off(name)
    }

    fn power_off(&self, name: &str) -> Result<()> {
        self.set_state(name, MachineState::ShutOff);
        Ok(())
    }

    fn undefine(&self, name: &str) -> Result<()> {
        self.0.machines.lock().unwrap().remove(name);
        Ok(())
    }

    fn wait_for_agent(&self, _name: &str, _timeout: Duration) -> Result<()> {
        Ok(())
    }

    fn guest_exec_while(
        &self,
        name: &str,
        _program: &str,
        _arguments: &[&str],
        _timeout: Duration,
        _is_wanted: &dyn Fn() -> bool,
    ) -> Result<GuestOutput> {
        Err(not_found(name))
    }

    fn export_socket(&self, id: &str) -> Result<PathBuf> {
        Ok(self.0.sockets.lock().unwrap().join(id))
    }

    fn hand_over_socket(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn start_over_exports(&self, wanted: &OverlayMachine) -> Result<CreatedMachine> {
        self.put(of_request(&wanted.machine, wanted.uuid, MachineState::Running));
        if *self.0.loses_answers.lock().unwrap() {
            return Err(Error::Unavailable { what: "the host".into(), hint: "its answer was lost".into() });
        }
        Ok(CreatedMachine {
            name: wanted.machine.new_name.clone(),
            uuid: wanted.uuid.to_string(),
            warnings: vec!["a note of its start".into()],
            losses: Vec::new(),
        })
    }

    fn start_over_exports_again(&self, wanted: &OverlayMachine) -> Result<()> {
        self.start(&wanted.machine.new_name)
    }

    fn start_throw_away(&self, wanted: &OverlayMachine) -> Result<ThrowAway> {
        let name = wanted.machine.new_name.clone();
        let mut made = of_request(&wanted.machine, wanted.uuid, MachineState::Running);
        made.summary.persistent = false;
        self.put(made);
        struct Ends(FakeHost, String);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.0.machines.lock().unwrap().remove(&self.1);
            }
        }
        Ok(ThrowAway::new(name.clone(), Box::new(Ends(self.clone(), name))))
    }

    fn pull_state(&self, name: &str, target: &str) -> Result<PullState> {
        self.happen(&self.0.on_pull);
        let machine = self.get(name).ok_or_else(|| not_found(name))?;
        let disk = machine.disks.iter().find(|d| d.target == target).unwrap();
        let path = disk.source.path().unwrap();
        let run = |arguments: &[&str]| {
            let done = Command::new("qemu-img").args(arguments).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            done.stdout
        };
        let path = path.to_str().unwrap();
        let info: serde_json::Value =
            serde_json::from_slice(&run(&["info", "-U", "--output=json", path])).unwrap();
        if !info["backing-filename"].is_null() {
            // Done at once; that it is read from the exports is what tests of real machines are for.
            run(&["rebase", "-u", "-f", "qcow2", "-b", "", path]);
        }
        Ok(PullState::Done)
    }

    fn begin_pull(&self, _name: &str, _target: &str) -> Result<()> {
        Ok(())
    }

    fn resume_after_io_error(&self, _name: &str) -> Result<bool> {
        Ok(false)
    }
}
