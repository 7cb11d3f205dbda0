//! Machines that run before their disks are there: each disk is a thin overlay over an export of the vault.
//!
//! A [`Plan`] says what will be made, before anything is: whoever writes it down first can take all of it away again,
//! whatever happens. It is used in two ways: a machine that stays, whose data is moved in behind it until it needs the vault
//! no longer; and one that is thrown away.
//!
//! The commit of a machine that stays is its start. From there on what is written in it is somebody's data: it is
//! removed by [`abandon`] alone.

use super::encryption;
pub use super::exports::Exports;
use super::record::MachineRecord;
use super::restore::{
    check_networks, choose_disks, definition_of, firmware_of, missed_disks, nvram_of, tpm_of,
};
use super::storage::{Storage, check_machine_name};
use crate::error::{Error, Result};
use crate::limits::{EXPORT_RECONNECT, PULL_AGAIN_AFTER};
use crate::qemu_nbd::{self, qemu_img};
use crate::target::{self, check_absent, check_room};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use strongroom_hypervisor::image::Qcow2Header;
use strongroom_hypervisor::{
    CreatedMachine, DiskFormat, Hypervisor, MachineSummary, NetworkChoice, OverlayMachine, PullState,
    RestoreMachineRequest, RestoredDisk, ThrowAway,
};
use strongroom_nbd::Endpoint;
use strongroom_store::{Manifest, Progress, ReadSession};
use uuid::Uuid;

/// What is to be made of a point. Everything that may ever be left of it is in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The new machine's name.
    pub machine: String,
    /// The new machine's, which libvirt knows it by.
    pub uuid: Uuid,
    /// The Unix socket over which its disks are served from the vault, on its host.
    pub socket: PathBuf,
    /// Where its files are.
    pub directory: PathBuf,
    /// Overlays over the exports; at least one.
    pub disks: Vec<PlannedDisk>,
    /// The file of its UEFI variables. None: it has none of ours.
    #[serde(default)]
    pub nvram: Option<PathBuf>,
    /// None: as it was.
    pub network: Network,
    /// Disks that libvirt encrypted may be unencrypted.
    #[serde(default)]
    pub unencrypted: bool,
}

/// An overlay: what is written goes there, and the rest is read from the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// The disk's name in the definition and in the point: `vda`.
    pub target: String,
    /// The overlay's file, qcow2. It does not exist while this is only planned.
    pub path: PathBuf,
    /// As the guest sees it.
    pub size_bytes: u64,
}

/// What a new machine's interfaces are connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// What the definition says.
    AsItWas,
    /// All to this virtual network, by libvirt's name of it.
    To(String),
    /// It gets no interfaces.
    None,
}

impl Network {
    fn choice(&self) -> NetworkChoice {
        match self {
            Self::AsItWas => NetworkChoice::Keep,
            Self::To(network) => NetworkChoice::Network(network.clone()),
            Self::None => NetworkChoice::None,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The new machine's; must be free on its host.
    pub name: &'a str,
    /// The new machine's; also what its socket is named by.
    pub uuid: Uuid,
    /// Default: where the machine's disks were.
    pub directory: Option<&'a Path>,
    /// What its interfaces are connected to.
    pub network: Network,
    /// By target name; empty: all.
    pub disks: &'a [String],
    /// Its files are hidden ones, and room is only needed for what it writes.
    pub is_thrown_away: bool,
    /// Disks that libvirt encrypted may be unencrypted: otherwise they are refused.
    pub unencrypted: bool,
}

/// Refuses what can be refused, and makes nothing.
pub fn plan(
    hypervisor: &dyn Hypervisor,
    session: &Arc<ReadSession>,
    point: &Manifest,
    wanted: &Wanted<'_>,
) -> Result<Plan> {
    check_machine_name(wanted.name)?;
    hypervisor.name_is_free(wanted.name)?;
    let definition = definition_of(point)?;
    let chosen = choose_disks(point, wanted.disks)?;
    if chosen.is_empty() {
        return Err(Error::not_found(format!("recovery point {} has no disks", point.point)));
    }
    encryption::check(point, wanted.disks, wanted.unencrypted)?;
    check_networks(hypervisor, definition, &wanted.network.choice())?;
    let storage = Storage::open(wanted.directory, hypervisor, &chosen)?;
    let directory = storage.directory.clone();
    // Names that nobody else uses: whatever has one is ours to remove.
    let id = &wanted.uuid.simple().to_string()[..8];
    let hidden = if wanted.is_thrown_away { "." } else { "" };
    let file = |part: &str, kind: &str| directory.join(format!("{hidden}{}-{part}-{id}.{kind}", wanted.name));
    let mut disks = Vec::new();
    let mut data_bytes = 0;
    for disk in chosen {
        let path = file(&disk.name, "qcow2");
        check_absent(&path)?;
        if !wanted.is_thrown_away {
            data_bytes += session.open_disk(disk.tree()).data_bytes()?;
        }
        disks.push(PlannedDisk { target: disk.name.clone(), path, size_bytes: disk.size_bytes });
    }
    check_room(&file("disk", "qcow2"), target::DiskFormat::Qcow2, data_bytes)?;
    let has_nvram = nvram_of(point, &mut Vec::new()).is_some();
    // Those that libvirt makes of a machine that is thrown away have to go as well: they get a name by which they do.
    let needs_nvram = wanted.is_thrown_away && super::definition::is_uefi(&definition.text);
    let nvram = (has_nvram || needs_nvram).then(|| file("uefi-variables", "fd"));
    if let Some(path) = &nvram {
        check_absent(path)?;
    }
    let socket = hypervisor.export_socket(&format!("instant-{}", wanted.uuid.simple()))?;
    storage.keep();
    Ok(Plan {
        machine: wanted.name.to_owned(),
        uuid: wanted.uuid,
        socket,
        directory,
        disks,
        nvram,
        network: wanted.network.clone(),
        unencrypted: wanted.unencrypted,
    })
}

/// What the point cannot give the machine back, and a user is to know.
pub fn warnings(point: &Manifest, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    let has_nvram = nvram_of(point, &mut warnings).is_some();
    // Of one that never had any the point says so.
    if plan.nvram.is_some()
        && !has_nvram
        && warnings.is_empty()
        && MachineRecord::of(point).firmware.is_none()
    {
        warnings.push("the point has no UEFI variables; the machine begins with fresh ones".into());
    }
    tpm_of(point, &mut warnings);
    // Of those that are wanted none is missed.
    if plan.disks.len() == point.disks.len() {
        warnings.extend(missed_disks(point));
    }
    warnings
}

/// The exports of a plan.
pub fn serve(
    hypervisor: &dyn Hypervisor,
    session: &Arc<ReadSession>,
    point: &Manifest,
    plan: &Plan,
) -> Result<Exports> {
    let disks: Vec<&str> = plan.disks.iter().map(|d| d.target.as_str()).collect();
    Exports::serve(hypervisor, session, point, &disks, &plan.socket)
}

/// Makes the overlays, and the UEFI variables.
pub fn make_files(point: &Manifest, plan: &Plan) -> Result<()> {
    for disk in &plan.disks {
        make_overlay(plan, disk)?;
    }
    if let (Some(path), Some(bytes)) = (&plan.nvram, nvram_of(point, &mut Vec::new())) {
        let mut file = new_file(path)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
    }
    File::open(&plan.directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| Error::io(format!("writing directory {}", plan.directory.display()), e))
}

fn new_file(path: &Path) -> Result<File> {
    // Only for its owner: it will hold somebody's disk.
    File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Error::already_exists(format!(
            "{} appeared while the machine was being restored; it was left as it is. Give another name",
            path.display()
        )),
        _ => Error::io(format!("making {}", path.display()), e),
    })
}

fn make_overlay(plan: &Plan, disk: &PlannedDisk) -> Result<()> {
    drop(new_file(&disk.path)?);
    // The image names its export, so that it never reads as empty where the export is not.
    let backing = export_name(plan, disk);
    let size = disk.size_bytes.to_string();
    let path = disk.path.as_os_str();
    let arguments: [&std::ffi::OsStr; 11] = [
        "create".as_ref(),
        "-q".as_ref(),
        "-u".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        "raw".as_ref(),
        "-b".as_ref(),
        backing.as_ref(),
        path,
        size.as_ref(),
    ];
    qemu_img(&arguments, &disk.path).map(drop)
}

fn overlay_machine(point: &Manifest, plan: &Plan) -> Result<OverlayMachine> {
    Ok(OverlayMachine {
        machine: RestoreMachineRequest {
            definition_xml: definition_of(point)?.text.clone(),
            new_name: plan.machine.clone(),
            disks: plan
                .disks
                .iter()
                .map(|d| RestoredDisk {
                    target: d.target.clone(),
                    path: d.path.clone(),
                    format: DiskFormat::Qcow2,
                    secret: None,
                })
                .collect(),
            network: plan.network.choice(),
            nvram: plan.nvram.clone(),
            firmware: firmware_of(point, plan.nvram.as_deref()),
            tpm: tpm_of(point, &mut Vec::new()),
            unencrypted: plan.unencrypted,
        },
        uuid: plan.uuid,
        socket: plan.socket.clone(),
        reconnect_seconds: EXPORT_RECONNECT.as_secs() as u32,
    })
}

/// Defines and starts the machine: the commit.
pub fn start(hypervisor: &dyn Hypervisor, point: &Manifest, plan: &Plan) -> Result<CreatedMachine> {
    Ok(hypervisor.start_over_exports(&overlay_machine(point, plan)?)?)
}

/// Of one that is defined, and off.
pub fn start_again(hypervisor: &dyn Hypervisor, point: &Manifest, plan: &Plan) -> Result<()> {
    Ok(hypervisor.start_over_exports_again(&overlay_machine(point, plan)?)?)
}

/// Starts a machine that ends with the answer.
pub fn start_throw_away(hypervisor: &dyn Hypervisor, point: &Manifest, plan: &Plan) -> Result<ThrowAway> {
    Ok(hypervisor.start_throw_away(&overlay_machine(point, plan)?)?)
}

/// The plan's machine, if it is there: by its UUID, whatever it is called by now.
pub fn find(hypervisor: &dyn Hypervisor, plan: &Plan) -> Result<Option<MachineSummary>> {
    let uuid = plan.uuid.hyphenated().to_string();
    if let Some(machine) = hypervisor.list()?.into_iter().find(|m| m.uuid == uuid) {
        return Ok(Some(machine));
    }
    // One that is thrown away is not listed.
    match hypervisor.inspect(&plan.machine) {
        Ok(machine) => Ok(Some(machine.summary).filter(|m| m.uuid == uuid)),
        Err(strongroom_hypervisor::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Looks at every disk of the running machine and begins what is not moving: how many bytes are done, or None when all
/// disks stand on their own. `begun`: when each was begun last.
pub fn advance(
    hypervisor: &dyn Hypervisor,
    name: &str,
    plan: &Plan,
    begun: &mut HashMap<String, Instant>,
) -> Result<Option<u64>> {
    let (mut done, mut open) = (0, false);
    for disk in &plan.disks {
        match hypervisor.pull_state(name, &disk.target)? {
            PullState::Done => done += disk.size_bytes,
            PullState::Moving { done_bytes, .. } => {
                open = true;
                done += done_bytes.min(disk.size_bytes);
            }
            PullState::Waiting => {
                open = true;
                // One that failed is not begun again at once.
                if begun.get(&disk.target).is_none_or(|at| at.elapsed() >= PULL_AGAIN_AFTER) {
                    begun.insert(disk.target.clone(), Instant::now());
                    hypervisor.begin_pull(name, &disk.target)?;
                }
            }
        }
    }
    Ok(open.then_some(done))
}

/// Whether none of the images names the vault any longer.
pub fn stands_alone(plan: &Plan) -> Result<bool> {
    for disk in &plan.disks {
        if backing_of(&disk.path)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What an image of ours says it is based on.
fn backing_of(path: &Path) -> Result<Option<String>> {
    let header = Qcow2Header::read(path)?
        .ok_or_else(|| Error::unsupported(format!("{} is no qcow2 image", path.display())))?;
    Ok(header.backing)
}

fn export_name(plan: &Plan, disk: &PlannedDisk) -> String {
    Endpoint::Unix(plan.socket.clone()).uri(&disk.target).to_string()
}

/// Moves the data into the images of a machine that is off. Cut short, what was moved is not moved again.
pub fn move_offline(plan: &Plan, progress: &Progress) -> Result<()> {
    for disk in plan.disks.iter().filter(|d| d.path.exists()) {
        if let Some(named) = backing_of(&disk.path)? {
            // It was written by whoever ran the machine since.
            if named != export_name(plan, disk) {
                return Err(Error::unsupported(format!(
                    "{} is based on {named}, and was made to be based on the vault: it was changed meanwhile, and what it names now \
                     is not followed",
                    disk.path.display()
                )));
            }
            qemu_nbd::flatten(&disk.path, progress)?;
        }
    }
    Ok(())
}

/// Takes everything away: the machine with what was written in it, its files, its socket. What is not there is passed over.
pub fn abandon(hypervisor: &dyn Hypervisor, plan: &Plan) -> Result<()> {
    if let Some(machine) = find(hypervisor, plan)? {
        // One that nothing remains of is gone with its end.
        let gone = hypervisor.power_off(&machine.name).and_then(|()| hypervisor.undefine(&machine.name));
        match gone {
            Ok(()) | Err(strongroom_hypervisor::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    remove_files(plan);
    Ok(())
}

/// The images and UEFI variables alone.
pub fn remove_files(plan: &Plan) {
    for path in plan.disks.iter().map(|d| &d.path).chain(&plan.nvram) {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what a restore had made could not be removed")
            }
        }
    }
}
