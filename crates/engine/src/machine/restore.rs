//! Restoring a machine's point as a new machine: the whole of it, or nothing.
//!
//! Disks are written next to where they will be, under names of their own; when all are complete and durable they get
//! their final names, and then the machine is defined. Whatever goes wrong or is cancelled before that takes all of it away
//! again. Killed on the way, it leaves files that its [`RestorePlan`] names, for [`remove_unfinished`].

use super::definition::networks;
use super::encryption;
use super::record::{DEFINITION_KIND, DiskRecord, MachineRecord};
use super::storage::{Storage, check_machine_name};
use crate::error::{Error, Result};
use crate::limits::FIRMWARE_STATE_MAX_BYTES;
use crate::points::kind_name;
use crate::restore::write_image;
use crate::source::{DiskSource, PointSource};
use crate::target::{self, FileIdentity, NewImage, NewImageOptions, check_absent, check_room};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::PointSelector;
use strongroom_hypervisor::{
    CreatedMachine, DiskFormat, Error as HypervisorError, Firmware, Hypervisor, NetworkChoice, NewSecret,
    RestoreMachineRequest, RestoredDisk,
};
use strongroom_store::{
    BlockTarget as _, Definition, Disk, Manifest, PointKind, Progress, ReadSession, Vault,
};
use uuid::Uuid;

/// What to make of a point.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Must be free.
    pub new_name: String,
    /// Default: the directory the machine's disks were in, where there is one, else libvirt's default pool.
    pub storage: Option<PathBuf>,
    /// What its interfaces are connected to. Refused if there is no such network on the host.
    pub network: NetworkChoice,
    /// By target name; the new machine has these alone. Empty: all.
    pub disks: Vec<String>,
    /// Default: as each disk was; qcow2 where it is encrypted.
    pub format: Option<DiskFormat>,
    /// Disks that libvirt encrypted are restored without encryption. Default: each is encrypted, with a new key.
    pub unencrypted: bool,
    /// Told what will be made before anything is, and once more before anything gets its final name.
    pub planned: Option<Planned>,
}

/// Writes a plan down before it is carried out.
pub type KeepPlan = dyn Fn(&RestorePlan) -> Result<()> + Send + Sync;

/// Somebody who keeps what a restore has planned, for the case that it is killed.
#[derive(Clone)]
pub struct Planned {
    /// Part of the hidden files' names.
    pub tag: String,
    /// Called with the plan. When it fails, the restore does.
    pub keep: Arc<KeepPlan>,
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planned").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// The files of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// [`Planned::tag`]; what the hidden files are found by.
    pub tag: String,
    /// All that may be left of it. Empty: nothing is.
    pub files: Vec<PlannedFile>,
}

impl RestorePlan {
    /// Whether nothing was planned: there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// A file that a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its final name.
    pub path: PathBuf,
    /// Which file is to get that name, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<FileIdentity>,
}

/// Removes what a restore that was killed before its commit left. Files of others are left alone, whatever their names.
pub fn remove_unfinished(plan: &RestorePlan) {
    for file in &plan.files {
        if let Ok(hidden) = target::partial_name(&file.path, &plan.tag) {
            let _ = fs::remove_file(hidden);
        }
        if file.identity.is_some() && FileIdentity::of(&file.path).ok() == file.identity {
            let _ = fs::remove_file(&file.path);
        }
    }
}

/// One disk of a restored machine.
#[derive(Debug, Clone)]
pub struct DiskRestore {
    /// As the definition calls it: `vda`.
    pub name: String,
    /// Its file, which was new.
    pub path: PathBuf,
    /// What that is.
    pub format: DiskFormat,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// What of it is not holes.
    pub data_bytes: u64,
}

/// A restored machine. It is defined and shut off.
#[derive(Debug, Clone)]
pub struct MachineRestore {
    /// What it was made of.
    pub point: Manifest,
    /// The new machine's name.
    pub name: String,
    /// The new machine's; never that of the one that was backed up.
    pub uuid: String,
    /// The directory that its files are in.
    pub storage: PathBuf,
    /// Those that it has, in the point's order.
    pub disks: Vec<DiskRestore>,
    /// For people: what is not as it was, or may keep it from starting. Empty if all is well.
    pub warnings: Vec<String>,
    /// Those of the warnings that only say what is different from the saved machine, as it must be.
    pub notes: Vec<String>,
    /// From the beginning until it was defined.
    pub elapsed: Duration,
}

/// Restores a machine's point as a new machine, with its own UUID and MAC addresses. The commit is its definition.
pub fn restore(
    hypervisor: &dyn Hypervisor,
    vault: &Vault,
    selector: &PointSelector,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<MachineRestore> {
    check_machine_name(&options.new_name)?;
    hypervisor.name_is_free(&options.new_name)?;
    // The lease before the point is chosen: from then on nothing it has is reclaimed.
    let session = ReadSession::begin(vault, &format!("restore of {selector}"))?;
    let point = vault.find_point(selector)?;
    restore_from(hypervisor, &session.into(), point, options, progress)
}

/// As [`restore`], of a point that is open.
pub fn restore_from(
    hypervisor: &dyn Hypervisor,
    source: &PointSource,
    point: Manifest,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<MachineRestore> {
    let started = Instant::now();
    let mut prepared = prepare(hypervisor, source, &point, options, progress)?;
    // Before anything is written with them; without its key a disk is nothing.
    let (mut plan, mut secrets) = (plan_of(&prepared, options), encryption::Secrets::new(hypervisor));
    if let Some(planned) = &options.planned {
        (planned.keep)(&plan)?;
    }
    for key in prepared.keys.values() {
        secrets.make(key)?;
    }
    let images = write_all(source, &prepared, &mut plan, progress)?;
    if let Some(planned) = &options.planned {
        (planned.keep)(&plan)?;
    }
    let mut files = NewFiles::default();
    for (image, file) in images.into_iter().zip(&plan.files) {
        image.finish()?;
        files.0.push(file.path.clone());
        progress.check()?;
    }
    let request = machine_request(&point, &mut prepared, options)?;
    let created = create(hypervisor, &request, &mut files)?;
    // The commit was the definition: from here on the files are the machine's.
    files.keep();
    secrets.keep();
    let Prepared { storage, keys, disks, warnings, .. } = prepared;
    let directory = storage.directory.clone();
    storage.keep();
    let disks: Vec<DiskRestore> = disks.into_iter().map(|(_, disk)| disk).collect();
    let CreatedMachine { name, uuid, warnings: mut notes, losses } = created;
    notes.extend(disks.iter().filter_map(|d| keys.get(&d.name).map(|key| (d, key))).map(|(disk, key)| {
        format!(
            "disk {} is encrypted (LUKS) with a new key, which libvirt keeps as secret {}",
            disk.name, key.uuid
        )
    }));
    let mut warnings: Vec<String> = warnings.into_iter().chain(losses).collect();
    for note in &notes {
        if !warnings.contains(note) {
            warnings.push(note.clone());
        }
    }
    Ok(MachineRestore {
        point,
        name,
        uuid,
        storage: directory,
        disks,
        warnings,
        notes,
        elapsed: started.elapsed(),
    })
}

/// A restore of which nothing can be refused any more, and nothing is made yet but perhaps its directory.
struct Prepared {
    storage: Storage,
    disks: Vec<(DiskSource, DiskRestore)>,
    /// New keys, of the disks that are to be encrypted.
    keys: HashMap<String, NewSecret>,
    nvram: Option<(PathBuf, Vec<u8>)>,
    warnings: Vec<String>,
}

/// Everything that can be refused is, before anything is made.
fn prepare(
    hypervisor: &dyn Hypervisor,
    source: &PointSource,
    point: &Manifest,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Prepared> {
    check_machine_name(&options.new_name)?;
    hypervisor.name_is_free(&options.new_name)?;
    let chosen = choose_disks(point, &options.disks)?;
    check_networks(hypervisor, definition_of(point)?, &options.network)?;
    let storage = Storage::open(options.storage.as_deref(), hypervisor, &chosen)?;
    let mut warnings: Vec<String> = storage.barriers().into_iter().collect();
    let encrypted = encrypted_anew(point, &chosen, options, &mut warnings)?;
    if options.disks.is_empty() {
        warnings.extend(missed_disks(point));
    }
    let nvram = nvram_of(point, &mut warnings).map(|bytes| (storage.nvram_path(&options.new_name), bytes));
    if let Some((path, _)) = &nvram {
        check_absent(path)?;
    }
    let mut keys: HashMap<String, NewSecret> = HashMap::new();
    let mut disks = Vec::new();
    for disk in chosen {
        let is_encrypted = encrypted.contains(&disk.name);
        let format = options.format.or(DiskRecord::of(disk).format).unwrap_or(DiskFormat::Qcow2);
        // Encrypted raw images have no holes.
        let format = if is_encrypted { DiskFormat::Qcow2 } else { format };
        let path = storage.disk_path(&options.new_name, &disk.name, format);
        check_absent(&path)?;
        if is_encrypted {
            keys.insert(disk.name.clone(), encryption::new_secret(&options.new_name, &disk.name, &path)?);
        }
        let reader = source.open(disk)?;
        let data_bytes = reader.data_bytes()?;
        progress.check()?;
        disks.push((
            reader,
            DiskRestore { name: disk.name.clone(), path, format, size_bytes: disk.size_bytes, data_bytes },
        ));
    }
    let total_bytes = disks.iter().map(|(_, d)| d.data_bytes).sum();
    // What is a file already may be cloned, which takes no room; else that is found out in time.
    let copied_bytes = disks.iter().filter(|(r, _)| r.file().is_none()).map(|(_, d)| d.data_bytes).sum();
    check_room(&storage.directory.join(&options.new_name), target::DiskFormat::Qcow2, copied_bytes)?;
    progress.add_total(total_bytes);
    Ok(Prepared { storage, disks, keys, nvram, warnings })
}

/// The disks among these that libvirt encrypted, and that get a new key; none where they may come unencrypted.
fn encrypted_anew(
    point: &Manifest,
    chosen: &[&Disk],
    options: &RestoreOptions,
    warnings: &mut Vec<String>,
) -> Result<BTreeSet<String>> {
    let mut encrypted = encryption::encrypted_disks(point);
    encrypted.retain(|name| chosen.iter().any(|d| d.name == *name));
    if options.unencrypted {
        warnings.extend(encrypted.iter().map(|disk| encryption::warning(disk)));
        encrypted.clear();
    }
    match encrypted.first().filter(|_| options.format == Some(DiskFormat::Raw)) {
        None => Ok(encrypted),
        Some(disk) => Err(Error::unsupported(format!(
            "disk {disk} was encrypted by libvirt and is restored encrypted, as qcow2: leave out --format raw, or say that it may be \
             unencrypted (--unencrypted)"
        ))),
    }
}

/// The files that will be made, before any is.
fn plan_of(prepared: &Prepared, options: &RestoreOptions) -> RestorePlan {
    let paths = prepared.disks.iter().map(|(_, disk)| &disk.path);
    let paths = paths.chain(prepared.nvram.as_ref().map(|(path, _)| path));
    RestorePlan {
        tag: options.planned.as_ref().map_or_else(new_tag, |p| p.tag.clone()),
        files: paths.map(|path| PlannedFile { path: path.clone(), identity: None }).collect(),
    }
}

/// Writes all files under hidden names, and takes down in the plan which they are.
fn write_all(
    source: &PointSource,
    prepared: &Prepared,
    plan: &mut RestorePlan,
    progress: &Progress,
) -> Result<Vec<NewImage>> {
    let mut images = Vec::new();
    for (reader, disk) in &prepared.disks {
        let new = NewImageOptions {
            path: disk.path.clone(),
            format: disk.format.into(),
            size_bytes: disk.size_bytes,
            data_bytes: disk.data_bytes,
            durable: true,
            tag: Some(plan.tag.clone()),
            passphrase: prepared.keys.get(&disk.name).map(|key| key.passphrase.clone()),
        };
        images.push(write_image(reader, new, progress)?);
        progress.check()?;
    }
    source.check()?;
    if let Some((path, bytes)) = &prepared.nvram {
        images.push(small_file(path, bytes, &plan.tag)?);
    }
    for (image, file) in images.iter().zip(&mut plan.files) {
        file.identity = Some(image.identity()?);
    }
    Ok(images)
}

/// What the hypervisor is asked to make of the files.
fn machine_request(
    point: &Manifest,
    prepared: &mut Prepared,
    options: &RestoreOptions,
) -> Result<RestoreMachineRequest> {
    let nvram = prepared.nvram.as_ref().map(|(path, _)| path.clone());
    Ok(RestoreMachineRequest {
        definition_xml: definition_of(point)?.text.clone(),
        new_name: options.new_name.clone(),
        disks: prepared
            .disks
            .iter()
            .map(|(_, d)| RestoredDisk {
                target: d.name.clone(),
                path: d.path.clone(),
                format: d.format,
                secret: prepared.keys.get(&d.name).map(|key| key.uuid),
            })
            .collect(),
        network: options.network.clone(),
        firmware: firmware_of(point, nvram.as_deref()),
        nvram,
        tpm: tpm_of(point, &mut prepared.warnings),
        unencrypted: options.unencrypted,
    })
}

pub(super) fn definition_of(point: &Manifest) -> Result<&Definition> {
    if point.kind != PointKind::Machine {
        return Err(Error::invalid(format!(
            "recovery point {} is of an {}, not of a machine: restore it with `strongroom image restore`",
            point.point,
            kind_name(point.kind)
        )));
    }
    let definition = point.definition.as_ref().filter(|d| d.kind == DEFINITION_KIND);
    definition.ok_or_else(|| {
        Error::unsupported(format!(
            "recovery point {} has no definition that libvirt understands; restore its disks one by one with `strongroom image restore`",
            point.point
        ))
    })
}

pub(super) fn choose_disks<'p>(point: &'p Manifest, names: &[String]) -> Result<Vec<&'p Disk>> {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    if let Some(unknown) = names.iter().find(|name| !point.disks.iter().any(|d| d.name == **name)) {
        let known: Vec<&str> = point.disks.iter().map(|d| d.name.as_str()).collect();
        return Err(Error::not_found(format!(
            "recovery point {} has no disk `{unknown}`; it has: {}",
            point.point,
            known.join(", ")
        )));
    }
    let chosen: Vec<&Disk> =
        point.disks.iter().filter(|d| names.is_empty() || names.contains(d.name.as_str())).collect();
    // They become parts of file names.
    let is_plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match chosen.iter().find(|d| !is_plain(&d.name)) {
        Some(odd) => {
            Err(Error::unsupported(format!("`{}` is not the name of a disk", odd.name.escape_debug())))
        }
        None => Ok(chosen),
    }
}

/// A machine whose network is missing could not be started.
pub(super) fn check_networks(
    hypervisor: &dyn Hypervisor,
    definition: &Definition,
    choice: &NetworkChoice,
) -> Result<()> {
    let wanted = match choice {
        NetworkChoice::None => return Ok(()),
        NetworkChoice::Network(wanted) => BTreeSet::from([wanted.clone()]),
        NetworkChoice::Keep => networks(&definition.text),
    };
    if wanted.is_empty() {
        return Ok(());
    }
    let there: BTreeSet<String> = hypervisor.networks()?.into_iter().map(|n| n.name).collect();
    let Some(missing) = wanted.difference(&there).next() else { return Ok(()) };
    let known: Vec<&str> = there.iter().map(String::as_str).collect();
    let known = if known.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    let which = match choice {
        NetworkChoice::Keep => ", which the machine was connected to,",
        _ => "",
    };
    Err(Error::not_found(format!(
        "network `{missing}`{which} does not exist here ({known}): choose one with --network, or --no-network"
    )))
}

/// Disks that the machine had, and that the point lacks though nobody excluded them.
pub fn missed_disks(point: &Manifest) -> Vec<String> {
    let skipped = MachineRecord::of(point).skipped.into_iter();
    let missed = skipped.filter(|s| strongroom_hypervisor::is_missed(&s.reason));
    missed.map(|s| format!("disk `{}` of the machine is not in the point: {}", s.disk, s.reason)).collect()
}

/// The point's UEFI variables, as bytes. None: it has none, or they cannot be read, which is then among `warnings`.
pub fn nvram_of(point: &Manifest, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    state_of(MachineRecord::of(point).nvram, "UEFI variables are", "with fresh ones", warnings)
}

/// What a machine's UEFI variables, if it gets any, are for.
pub fn firmware_of(point: &Manifest, nvram: Option<&Path>) -> Option<Firmware> {
    let record = MachineRecord::of(point);
    // Variables that were there and could not be read are not none at all.
    record.firmware.filter(|_| nvram.is_some() == record.nvram.is_some())
}

/// What the point's TPM remembers.
pub fn tpm_of(point: &Manifest, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    state_of(MachineRecord::of(point).tpm, "TPM state is", "with an empty TPM", warnings)
}

fn state_of(text: Option<String>, what: &str, instead: &str, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text?).ok();
    let sound = bytes.filter(|b| b.len() as u64 <= FIRMWARE_STATE_MAX_BYTES);
    if sound.is_none() {
        warnings.push(format!("the point's {what} not readable; the machine begins {instead}"));
    }
    sound
}

/// Defines the machine. Where only the answer got lost it is there. Where that cannot be seen the files stay, since they may be a
/// machine's.
fn create(
    hypervisor: &dyn Hypervisor,
    request: &RestoreMachineRequest,
    files: &mut NewFiles,
) -> Result<CreatedMachine> {
    let error = match hypervisor.create(request) {
        Ok(created) => return Ok(created),
        Err(error) => error,
    };
    let is_made_here = |path: &Path| files.0.iter().any(|file| file == path);
    match hypervisor.inspect(&request.new_name) {
        Ok(machine) if machine.disks.iter().any(|d| d.source.path().is_some_and(is_made_here)) => {
            tracing::warn!(machine = request.new_name, %error, "the machine is defined all the same");
            Ok(CreatedMachine {
                name: machine.summary.name,
                uuid: machine.summary.uuid,
                warnings: Vec::new(),
                losses: Vec::new(),
            })
        }
        Ok(_) | Err(HypervisorError::NotFound { .. }) => Err(error.into()),
        Err(_) => {
            files.keep();
            let told = format!(
                "{error}; whether machine `{}` was defined cannot be seen now: its files stay until somebody has looked",
                request.new_name
            );
            Err(Error::new(Error::from(error).kind, told).unsettled())
        }
    }
}

fn new_tag() -> String {
    let mut tag = Uuid::new_v4().simple().to_string();
    tag.truncate(8);
    tag
}

/// A file that is written at once.
fn small_file(path: &Path, bytes: &[u8], tag: &str) -> Result<NewImage> {
    let image = NewImage::create(NewImageOptions {
        path: path.to_owned(),
        format: target::DiskFormat::Raw,
        size_bytes: bytes.len() as u64,
        data_bytes: bytes.len() as u64,
        durable: true,
        tag: Some(tag.to_owned()),
        passphrase: None,
    })?;
    image.write_at(0, bytes).map_err(|e| Error::io(format!("making {}", path.display()), e))?;
    Ok(image)
}

/// Files under their final names. Removed unless kept.
#[derive(Default)]
struct NewFiles(Vec<PathBuf>);

impl NewFiles {
    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "removing what a restore had made");
            }
        }
    }
}
