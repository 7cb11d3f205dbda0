//! The host: what [`Hypervisor`] asks of it, handed to the files beside this one.

use super::conn::{Conn, VirtError};
use super::dom::Dom;
use super::options::LibvirtOptions;
use super::state::{self, is_active, summary};
use super::{
    agent, definition, instant, job, kept, listing, new_machine, screen, session, take, tpm, untrack,
};
use crate::Hypervisor;
use crate::error::{Error, Result};
use crate::instant::{OverlayMachine, PullState, Screenshot, ThrowAway};
use crate::kept::KeptSnapshot;
use crate::model::*;
use crate::snapshot::{MachineSnapshot, Outcome, SnapshotRequest};
use crate::text::machine;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// QEMU machines under libvirt. Cheap to make; connects with each call, so that a libvirt restart
/// in between goes unnoticed.
///
/// ```no_run
/// use strongroom_hypervisor::{Hypervisor, Libvirt};
/// for machine in Libvirt::default().list()? {
///     println!("{} is {}", machine.name, machine.state);
/// }
/// # Ok::<(), strongroom_hypervisor::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Libvirt {
    options: LibvirtOptions,
}

impl Libvirt {
    /// Connects with each call, not here.
    pub fn new(options: LibvirtOptions) -> Self {
        Self { options }
    }

    fn connect(&self) -> Result<Arc<Conn>> {
        let conn = Conn::open(&self.options.uri)?;
        job::end_left(&self.options, &conn, None);
        Ok(conn)
    }

    fn domain(&self, name: &str) -> Result<Dom> {
        self.connect()?.domain(name).map_err(|e| e.about("looking up", &machine(name)))
    }
}

impl Hypervisor for Libvirt {
    fn list(&self) -> Result<Vec<MachineSummary>> {
        let connection = self.connect()?;
        let mut found = listing::summaries(&connection).map_err(|e| e.about("listing", "machines"))?;
        found.retain(|m| !instant::is_throw_away(m));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn inspect(&self, name: &str) -> Result<Machine> {
        let dom = self.domain(name)?;
        let summary = summary(&dom).map_err(|e| e.about("inspecting", &machine(name)))?;
        listing::inspect(&self.options, &dom, summary, false)
    }

    fn inspect_each(
        &self,
        machines: &[MachineSummary],
        each: &mut dyn FnMut(usize, Result<Machine>) -> bool,
    ) -> Result<()> {
        let connection = self.connect()?;
        for (at, summary) in machines.iter().enumerate() {
            let found = connection
                .domain(&summary.name)
                .map_err(|e| e.about("looking up", &machine(&summary.name)))
                // Of another machine that got the name since, what was listed does not hold.
                .and_then(|dom| match dom.uuid() {
                    Ok(uuid) if uuid == summary.uuid => {
                        listing::inspect(&self.options, &dom, summary.clone(), true)
                    }
                    _ => self.inspect(&summary.name),
                });
            if !each(at, found) {
                break;
            }
        }
        Ok(())
    }

    fn snapshot(&self, name: &str, request: &SnapshotRequest) -> Result<MachineSnapshot> {
        let about = |e: VirtError| e.about("looking up", &machine(name));
        let dom = Conn::open(&self.options.uri)?.domain(name).map_err(about)?;
        // What was left in this machine is a warning of this backup.
        job::end_left(&self.options, &dom.conn, Some(&dom.uuid().map_err(about)?));
        take::snapshot(&self.options, dom, request)
    }

    fn open_kept(&self, record: &Path) -> Result<(MachineSnapshot, KeptSnapshot)> {
        kept::open(&self.options, record)
    }

    fn conclude_kept(&self, record: &Path, outcome: Outcome) -> Result<Vec<String>> {
        kept::conclude(&self.options, || self.connect(), record, outcome)
    }

    fn remove_kept(&self, record: &Path) -> Result<()> {
        crate::kept::remove(record)
    }

    fn kept_in(&self, directory: &Path) -> Result<Vec<KeptSnapshot>> {
        crate::kept::list(directory)
    }

    fn networks(&self) -> Result<Vec<Network>> {
        let found = self.connect()?.networks().map_err(|e| e.about("listing", "networks"))?;
        Ok(found.into_iter().map(|(name, active)| Network { name, active }).collect())
    }

    fn storage_pools(&self) -> Result<Vec<StoragePool>> {
        let found = self.connect()?.storage_pools().map_err(|e| e.about("listing", "storage pools"))?;
        Ok(found
            .into_iter()
            .map(|(name, active, xml)| {
                let path = definition::parse(&name, &xml).ok().and_then(|document| {
                    let root = document.root_element();
                    let is_directory = matches!(root.attribute("type"), Some("dir" | "fs" | "netfs"));
                    let target = definition::child(root, "target")?;
                    let path = definition::child(target, "path")?.text()?;
                    is_directory.then(|| PathBuf::from(path))
                });
                StoragePool { name, active, path }
            })
            .collect())
    }

    fn refresh_pool(&self, name: &str) -> Result<()> {
        let what = format!("storage pool `{}`", crate::text::shorten(name));
        self.connect()?.refresh_pool(name).map_err(|e| e.about("refreshing", &what))
    }

    fn name_is_free(&self, name: &str) -> Result<()> {
        match self.domain(name) {
            Ok(_) => Err(Error::AlreadyExists { what: machine(name) }),
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn create(&self, request: &RestoreMachineRequest) -> Result<CreatedMachine> {
        let connection = self.connect()?;
        let rewritten = new_machine::definition(&connection, request, Uuid::new_v4())?;
        for disk in &request.disks {
            std::fs::metadata(&disk.path).map_err(|e| Error::io("looking at", &disk.path, e))?;
        }
        if let NetworkChoice::Network(wanted) = &request.network
            && !self.networks()?.iter().any(|n| n.name == *wanted)
        {
            return Err(Error::NotFound { what: format!("network `{}`", crate::text::shorten(wanted)) });
        }
        self.name_is_free(&request.new_name)?;
        // Two at the same time: libvirt refuses the second, because its UUID is another.
        let what = machine(&request.new_name);
        let tpm = tpm::prepare(request, rewritten.uuid, |uuid| connection.exists(uuid))?;
        let made = connection.define(&rewritten.xml);
        let dom = made.map_err(|e| match self.name_is_free(&request.new_name) {
            Err(exists @ Error::AlreadyExists { .. }) => exists,
            _ => e.about("defining", &what),
        })?;
        tpm.keep();
        Ok(CreatedMachine {
            name: dom.name(),
            uuid: rewritten.uuid.to_string(),
            warnings: rewritten.warnings,
            losses: rewritten.losses,
        })
    }

    fn make_secret(&self, secret: &NewSecret) -> Result<()> {
        let mut xml = crate::text::Xml::new();
        xml.start("secret").attribute("ephemeral", "no").attribute("private", "no");
        xml.element("uuid", &secret.uuid.hyphenated().to_string());
        xml.element("description", &secret.description);
        xml.start("usage").attribute("type", "volume");
        xml.element("volume", &secret.usage);
        xml.end();
        xml.end();
        self.connect()?
            .make_secret(&xml.finish(), secret.passphrase.as_bytes())
            .map_err(|e| e.about("keeping in libvirt", "a disk's key"))
    }

    fn remove_secret(&self, uuid: Uuid) -> Result<()> {
        self.connect()?
            .remove_secret(&uuid.hyphenated().to_string())
            .map_err(|e| e.about("removing from libvirt", &format!("secret {uuid}")))
    }

    fn untrack(&self, name: &str) -> Result<Untracked> {
        untrack::untrack(&self.options, self.domain(name)?)
    }

    fn unfinished(&self, name: &str) -> Result<Option<Unfinished>> {
        let dom = self.domain(name)?;
        let about = |e: VirtError| e.about("inspecting", &machine(name));
        if dom.has_managed_save().map_err(about)? {
            return Ok(Some(Unfinished::SavedState));
        }
        let lock = self.options.run_dir.join(format!("{}.lock", dom.uuid().map_err(about)?));
        let is_free = !lock.exists() || session::try_lock(&lock)?.is_some();
        Ok((!is_free).then_some(Unfinished::Snapshot))
    }

    fn discard_saved_state(&self, name: &str) -> Result<()> {
        let dom = self.domain(name)?;
        dom.remove_managed_save().map_err(|e| e.about("discarding the saved memory of", &machine(name)))
    }

    fn start(&self, name: &str) -> Result<()> {
        let dom = self.domain(name)?;
        if is_active(&dom)? {
            return Err(Error::Busy { what: machine(name), why: "it is running already".into() });
        }
        dom.create().map_err(|e| e.about("starting", &machine(name)))
    }

    fn shutdown(&self, name: &str, timeout: Duration) -> Result<()> {
        let dom = self.domain(name)?;
        if !is_active(&dom)? {
            return Ok(());
        }
        dom.shutdown().map_err(|e| e.about("shutting down", &machine(name)))?;
        let deadline = Instant::now() + timeout;
        while is_active(&dom)? {
            if Instant::now() > deadline {
                return Err(Error::Busy {
                    what: machine(name),
                    why: format!("it did not shut down within {timeout:?}"),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn power_off(&self, name: &str) -> Result<()> {
        let dom = self.domain(name)?;
        match dom.destroy() {
            Ok(()) => Ok(()),
            Err(_) if !is_active(&dom)? => Ok(()),
            Err(e) => Err(e.about("powering off", &machine(name))),
        }
    }

    fn undefine(&self, name: &str) -> Result<()> {
        let dom = self.domain(name)?;
        if is_active(&dom)? {
            return Err(Error::Busy { what: machine(name), why: "it is running; power it off first".into() });
        }
        dom.undefine().map_err(|e| e.about("undefining", &machine(name)))
    }

    fn wait_for_agent(&self, name: &str, timeout: Duration) -> Result<()> {
        agent::wait(&self.domain(name)?, timeout)
    }

    fn guest_exec_while(
        &self,
        name: &str,
        program: &str,
        arguments: &[&str],
        timeout: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<GuestOutput> {
        agent::exec(&self.domain(name)?, program, arguments, timeout, is_wanted)
    }

    fn export_socket(&self, id: &str) -> Result<PathBuf> {
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Error::unsupported(crate::text::shorten(id), "it cannot be a socket's name"));
        }
        session::make_directory(&self.options.run_dir, 0o711)?;
        Ok(self.options.run_dir.join(format!("{id}.sock")))
    }

    fn hand_over_socket(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        let failed = |e| Error::io("handing over", path, e);
        if !std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
            return Err(Error::unsupported(path.display().to_string(), "it is no socket"));
        }
        // Who runs machines is seen at the directory that they are run in.
        let owner = match std::fs::metadata(&self.options.qemu_dir) {
            Ok(owner) => owner,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("looking at", &self.options.qemu_dir, e)),
        };
        std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed)
    }

    fn start_over_exports(&self, wanted: &OverlayMachine) -> Result<CreatedMachine> {
        self.name_is_free(&wanted.machine.new_name)?;
        instant::start(&self.connect()?, wanted)
    }

    fn start_over_exports_again(&self, wanted: &OverlayMachine) -> Result<()> {
        instant::start_again(&self.connect()?, wanted)
    }

    fn start_throw_away(&self, wanted: &OverlayMachine) -> Result<ThrowAway> {
        instant::start_throw_away(&self.connect()?, wanted)
    }

    fn pull_state(&self, name: &str, target: &str) -> Result<PullState> {
        instant::pull_state(&self.domain(name)?, target)
    }

    fn begin_pull(&self, name: &str, target: &str) -> Result<()> {
        instant::begin_pull(&self.domain(name)?, target)
    }

    fn resume_after_io_error(&self, name: &str) -> Result<bool> {
        let dom = self.domain(name)?;
        let failed = |e: VirtError| e.about("resuming", &machine(name));
        if dom.state().map_err(failed)? != (state::PAUSED, state::PAUSED_IO_ERROR) {
            return Ok(false);
        }
        dom.resume().map_err(failed)?;
        Ok(true)
    }

    fn screenshot(&self, name: &str) -> Result<Screenshot> {
        screen::take(&self.domain(name)?)
    }
}
