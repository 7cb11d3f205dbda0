//! Backing a machine up: from the session's lease to the commit.
//!
//! The order is what makes it safe. The session begins first, so that the parent cannot be reclaimed; the snapshot is taken
//! relative to the parent; the commit is the point's manifest; only then is the snapshot told that it was committed. Killed
//! before the commit, there is no point, and the next backup clears away what the snapshot left. Killed after it, the
//! point is whole and its checkpoint is there; the next backup finds both.
//!
//! In two halves, [`take`] and the transfer. Where the snapshot can be kept the transfer is [`transfer_kept`], done as often
//! as it takes, by any process; where it cannot, the snapshot lives as long as [`TakenMachine::transfer`].

use super::parent::{Parent, Plan};
use super::record::{DEFINITION_KIND, DiskRecord, MachineRecord, SkippedRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::FIRMWARE_STATE_MAX_BYTES;
use base64::Engine as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::{ExtentKind, ItemName, PointId};
use strongroom_hypervisor::{
    Disk as MachineDisk, DiskParent, DiskSnapshot, DiskSource, GuestWork, Hypervisor, KeptSnapshot, Machine,
    MachineSnapshot, Outcome, Quiesce, ReadDisk, Road, SnapshotRequest, Timings, UseClones, is_missed,
};
use strongroom_store::{
    BlockSource, Definition, Disk, DiskRequest, DiskWritten, Kept, Manifest, PointDraft, PointKind, Progress,
    Promise, Session, StoreError, Vault,
};
use uuid::Uuid;

/// How to back up. The default is right for nearly everyone.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Disks to leave out, by target name.
    pub exclude: BTreeSet<String>,
    /// Fails when a disk that is not excluded cannot be backed up; otherwise that is a warning.
    pub require_all_disks: bool,
    /// Whether the guest's file systems are frozen for the instant.
    pub quiesce: Quiesce,
    /// Whether disk files may be cloned beside the disks.
    pub clones: UseClones,
    /// Where a pull-mode job keeps what the guest overwrites; default: beside each disk.
    pub scratch_dir: Option<PathBuf>,
    /// What the files in there may take, all together; default: what is free, less a reserve.
    pub scratch_limit_bytes: Option<u64>,
    /// The item's name in the vault; default: the machine's.
    pub item: Option<ItemName>,
    /// What the point is found by again after its maker was killed: kept in its manifest.
    pub job: Option<String>,
    /// What the item's last point recorded of each disk, for a snapshot that is taken while the vault cannot be asked.
    pub parents: BTreeMap<String, DiskParent>,
    /// Why the point is made. None: because somebody wants it, for as long as nobody deletes it.
    pub kept: Option<Kept>,
    /// Told once when the snapshot has been taken.
    pub taken: Option<SnapshotTaken>,
}

/// Somebody who wants to know when the snapshot has been taken.
#[derive(Clone)]
pub struct SnapshotTaken(pub Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for SnapshotTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotTaken")
    }
}

/// One disk of a finished backup.
#[derive(Debug, Clone)]
pub struct DiskBackup {
    /// As the machine's definition calls it: `vda`.
    pub name: String,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// How it was read.
    pub road: Road,
    /// Whether only what changed since the item's last point was read.
    pub incremental: bool,
    /// Pieces that were read.
    pub extents: u64,
    /// What was read of the snapshot, holes left out.
    pub read_bytes: u64,
    /// Blocks that differ from the last point's, in whole blocks and before compression.
    pub changed_bytes: u64,
    /// Those of them that the vault did not have yet, likewise.
    pub new_bytes: u64,
    /// Why everything was read, where changes were to be expected.
    pub full_reason: Option<String>,
}

/// A finished backup.
#[derive(Debug)]
pub struct MachineBackup {
    /// As it was committed.
    pub point: Manifest,
    /// Those that are in the point, in its order.
    pub disks: Vec<DiskBackup>,
    /// Drives that were left out, and why.
    pub skipped: Vec<(String, String)>,
    /// The point's, and those of tidying up after it.
    pub warnings: Vec<String>,
    /// How long the machine felt the snapshot.
    pub timings: Timings,
    /// From the beginning until the snapshot was tidied up after.
    pub elapsed: Duration,
}

/// What a backup has to know beside the snapshot; kept with one that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Of the recovery point, whether it is in the vault already or not.
    pub point: PointId,
    /// The item that the point becomes one of.
    pub item: ItemName,
    /// The job that makes it, by the service's id. None: it is made without one.
    #[serde(default)]
    pub job: Option<String>,
    /// None: kept by a program that did not write it down yet.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// All disks of the machine, also those that are left out.
    pub disks: Vec<DiskFacts>,
}

/// How a disk was attached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// As the machine's definition calls it: `vda`.
    pub target: String,
    /// `virtio`, `scsi`, `sata`, …
    pub bus: String,
    /// The path of its file or block device. None: it is neither.
    #[serde(default)]
    pub source: Option<String>,
    /// That path is a block device's.
    #[serde(default)]
    pub source_is_block: bool,
}

impl Facts {
    fn new(machine: &Machine, item: ItemName, options: &BackupOptions) -> Self {
        let disk = |d: &MachineDisk| DiskFacts {
            target: d.target.clone(),
            bus: d.bus.clone(),
            source: d.source.path().map(|p| p.display().to_string()),
            source_is_block: matches!(d.source, DiskSource::Block(_)),
        };
        Self {
            point: PointId::from_uuid(Uuid::now_v7()),
            item,
            job: options.job.clone(),
            kept: Some(options.kept.clone().unwrap_or_else(|| Kept::on_demand(None))),
            disks: machine.disks.iter().map(disk).collect(),
        }
    }

    /// Those of a kept snapshot.
    pub fn of(kept: &KeptSnapshot) -> Result<Self> {
        serde_json::from_value(kept.extra.clone()).map_err(|e| {
            Error::new(
                ErrorKind::Corrupt,
                format!("the record {} is not understood: {e}", kept.record.display()),
            )
            .coded(SPOILED)
        })
    }
}

/// Azure's name for a snapshot that can no longer be read.
pub const SPOILED: &str = "UserErrorSnapshotNotUsable";

/// A machine taken at one instant, with what its transfer into the vault needs.
pub struct TakenMachine {
    started: Instant,
    /// What its point will say beside the disks' bytes.
    pub facts: Facts,
    /// To be read while this lives, unless it is kept.
    pub snapshot: MachineSnapshot,
    /// Or why the vault could not be reached.
    vault: Result<(Session, Parent)>,
    warnings: Vec<String>,
    /// The directories that its disks are in.
    pub directories: BTreeSet<PathBuf>,
}

/// Takes the machine at one instant, also while the vault cannot be reached: the snapshot can then be kept, and transferred later.
pub fn take(
    hypervisor: &dyn Hypervisor,
    vault: Result<Vault>,
    name: &str,
    options: &BackupOptions,
    progress: &Arc<Progress>,
) -> Result<TakenMachine> {
    let started = Instant::now();
    // Everything that can be refused is, before the vault is written to.
    let machine = hypervisor.inspect(name)?;
    let item = match &options.item {
        Some(item) => item.clone(),
        None => item_name(name)?,
    };
    check_disks(&machine, options)?;
    progress.check()?;
    let mut warnings = Vec::new();
    let begun = vault.and_then(|vault| {
        let session = Session::begin(&vault, &format!("backup of machine {item}"))?;
        let parent = Parent::find(&vault, &item, &machine.summary.uuid, None, &mut warnings)?;
        Ok((session, parent))
    });
    let vault = match begun {
        // What waiting does not mend.
        Err(error) if matches!(error.kind, ErrorKind::Invalid | ErrorKind::Unsupported) => return Err(error),
        begun => begun,
    };
    let parents = match &vault {
        Ok((_, parent)) => parent.disks(),
        Err(error) => {
            tracing::warn!(machine = name, %error, "the snapshot is taken while the vault cannot be reached");
            options.parents.clone()
        }
    };
    let request = SnapshotRequest {
        id: Uuid::now_v7().simple().to_string(),
        parents,
        exclude: options.exclude.clone(),
        quiesce: options.quiesce,
        was_frozen: vault.as_ref().is_ok_and(|(_, parent)| parent.was_frozen),
        guest: GuestWork::Auto,
        clones: options.clones,
        scratch_dir: options.scratch_dir.clone(),
        scratch_limit_bytes: options.scratch_limit_bytes,
    };
    progress.check()?;
    let snapshot = hypervisor.snapshot(name, &request)?;
    // A disk that came after it was looked at.
    let missed = snapshot.skipped.iter().filter(|(_, why)| is_missed(why));
    check_all(name, missed.map(|(target, why)| (target.as_str(), why.as_str())), options)?;
    let facts = Facts::new(&machine, item, options);
    let directories = snapshot
        .disks
        .iter()
        .filter_map(|taken| facts.disks.iter().find(|d| d.target == taken.target))
        .filter_map(|d| Path::new(d.source.as_deref()?).parent().map(Path::to_owned))
        .collect();
    Ok(TakenMachine { started, facts, snapshot, vault, warnings, directories })
}

impl TakenMachine {
    /// Makes the snapshot independent of this process: it is then transferred by [`transfer_kept`], any number of times.
    /// `Err`: it cannot be, and is as it was.
    pub fn keep(&mut self, owner: &str) -> Result<KeptSnapshot> {
        let extra = serde_json::to_value(&self.facts)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("a snapshot's facts: {e}")))?;
        let warnings = std::mem::take(&mut self.warnings);
        self.snapshot.warnings.splice(0..0, warnings);
        Ok(self.snapshot.keep(owner, extra)?)
    }

    /// Transfers the disks into the vault while the snapshot lives. The commit is the point's manifest: before it nothing
    /// is visible.
    pub fn transfer(self, progress: &Arc<Progress>) -> Result<MachineBackup> {
        let Self { started, facts, snapshot, vault, warnings, .. } = self;
        let done = vault
            .and_then(|(session, parent)| transfer(session, &facts, &parent, &snapshot, warnings, progress));
        match done {
            Ok((point, disks)) => {
                let mut warnings = point.warnings.clone();
                let skipped = snapshot.skipped.clone();
                let timings = snapshot.timings;
                match snapshot.finish(Outcome::Committed) {
                    Ok(more) => warnings.extend(more),
                    Err(error) => warnings.push(not_tidied(&error)),
                }
                Ok(MachineBackup { point, disks, skipped, warnings, timings, elapsed: started.elapsed() })
            }
            Err(error) => {
                let name = snapshot.name.clone();
                match snapshot.finish(Outcome::Abandoned) {
                    Ok(more) => more.iter().for_each(|warning| tracing::warn!(machine = name, "{warning}")),
                    Err(error) => {
                        tracing::warn!(machine = name, %error, "tidying up after a backup that did not succeed");
                    }
                }
                Err(error)
            }
        }
    }
}

/// Backs a machine up as the item of its name. The commit is the point's manifest: before it nothing is visible.
pub fn backup(
    hypervisor: &dyn Hypervisor,
    vault: &Vault,
    name: &str,
    options: &BackupOptions,
    progress: &Arc<Progress>,
) -> Result<MachineBackup> {
    let taken = take(hypervisor, Ok(vault.clone()), name, options, progress)?;
    if let Some(told) = &options.taken {
        (told.0)();
    }
    taken.transfer(progress)
}

/// Transfers a kept snapshot into the vault. May be called again after any failure, or after it was done: there is one
/// point in the end. The commit is its manifest; then the machine's change tracking goes on from there.
pub fn transfer_kept(
    hypervisor: &dyn Hypervisor,
    vault: &Vault,
    record: &Path,
    progress: &Arc<Progress>,
) -> Result<(Manifest, Vec<String>)> {
    let (snapshot, kept) = hypervisor.open_kept(record)?;
    let facts = Facts::of(&kept)?;
    let point = match vault.point_of(&facts.item, &facts.point)? {
        // By an earlier try, whose answer was lost.
        Some(point) => point,
        None => {
            progress.check()?;
            let session = Session::begin(vault, &format!("backup of machine {}", facts.item))?;
            let mut warnings = Vec::new();
            let parent = Parent::find(vault, &facts.item, &snapshot.uuid, Some(facts.point), &mut warnings)?;
            transfer(session, &facts, &parent, &snapshot, warnings, progress)?.0
        }
    };
    drop(snapshot);
    let mut warnings = point.warnings.clone();
    match hypervisor.conclude_kept(record, Outcome::Committed) {
        Ok(more) => warnings.extend(more),
        Err(error) => warnings.push(not_tidied(&error)),
    }
    Ok((point, warnings))
}

/// A point is complete, and what was left at its machine is not.
pub fn not_tidied(error: &dyn std::fmt::Display) -> String {
    format!(
        "the point is complete, but the machine could not be tidied up after it; the next backup tries again: {error}"
    )
}

fn item_name(name: &str) -> Result<ItemName> {
    name.parse().map_err(|e| {
        Error::invalid(format!(
            "machine `{name}` cannot be backed up under its name: {e}. Rename it with `virsh domrename`"
        ))
    })
}

/// Refuses what the snapshot would refuse, before anything is begun.
fn check_disks(machine: &Machine, options: &BackupOptions) -> Result<()> {
    let what = format!("machine `{}`", machine.summary.name);
    for target in &options.exclude {
        if !machine.disks.iter().any(|d| d.target == *target) {
            return Err(Error::not_found(format!(
                "{what} has no disk `{target}`; it has: {}",
                targets(&machine.disks)
            )));
        }
    }
    let wanted = machine.disks.iter().filter(|d| !options.exclude.contains(&d.target));
    check_all(&machine.summary.name, wanted.filter_map(|d| Some((d.target.as_str(), d.missed()?))), options)?;
    if machine.disks.iter().any(|d| d.skipped.is_none() && !options.exclude.contains(&d.target)) {
        return Ok(());
    }
    let why: Vec<String> = machine
        .disks
        .iter()
        .map(|d| format!("`{}`: {}", d.target, d.skipped.as_deref().unwrap_or("it is excluded")))
        .collect();
    let why = if why.is_empty() { "it has no disks".to_owned() } else { why.join("; ") };
    Err(Error::unsupported(format!("{what} has no disk that can be backed up: {why}")))
}

/// Refuses a backup that would lack disks, where that was asked for.
fn check_all<'a>(
    name: &str,
    missed: impl Iterator<Item = (&'a str, &'a str)>,
    options: &BackupOptions,
) -> Result<()> {
    let missed: Vec<String> = missed.map(|(target, why)| format!("disk `{target}`: {why}")).collect();
    if missed.is_empty() || !options.require_all_disks {
        return Ok(());
    }
    let error = Error::unsupported(format!(
        "machine `{name}` has disks that cannot be backed up, and all are required: {}",
        missed.join("; ")
    ));
    Err(error.coded("UserErrorDisksNotBackedUp").numbered(
        400344,
        "Exclude these disks from the machine's backups, or let its policy back up what can be (`strongroom policy set NAME --require-all-disks no`). Then run the job again.",
    ))
}

fn targets(disks: &[MachineDisk]) -> String {
    disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>().join(", ")
}

/// From the snapshot to the commit.
fn transfer(
    session: Session,
    facts: &Facts,
    parent: &Parent,
    snapshot: &MachineSnapshot,
    mut warnings: Vec<String>,
    progress: &Arc<Progress>,
) -> Result<(Manifest, Vec<DiskBackup>)> {
    warnings.extend(snapshot.warnings.iter().cloned());
    let plans: Vec<Plan> = snapshot.disks.iter().map(|d| parent.plan(d, &mut warnings)).collect();
    let written = write_disks(&session, snapshot, &plans, progress)?;
    // From here on nothing is read any more.
    snapshot.check()?;
    progress.check()?;

    let encrypted = super::definition::encrypted_disks(&snapshot.definition_xml);
    let known: BTreeMap<&str, &DiskFacts> = facts.disks.iter().map(|d| (d.target.as_str(), d)).collect();
    let mut disks = Vec::new();
    let mut report = Vec::new();
    for ((taken, plan), written) in snapshot.disks.iter().zip(&plans).zip(&written) {
        let was = known.get(taken.target.as_str());
        let extents = plan.extents.iter().filter(|e| e.kind == ExtentKind::Data).count() as u64;
        let mut disk = Disk::new(&taken.target, written);
        disk.full_reason.clone_from(&plan.full_reason);
        disk.attributes = DiskRecord {
            checkpoint: taken.checkpoint.clone(),
            format: Some(taken.format),
            bus: was.map(|d| d.bus.clone()),
            source: was.and_then(|d| d.source.clone()),
            source_is_block: was.is_some_and(|d| d.source_is_block),
            road: Some(taken.road),
            incremental: plan.incremental,
            encrypted: encrypted.contains(&taken.target),
            extents,
        }
        .to_attributes();
        disks.push(disk);
        report.push(DiskBackup {
            name: taken.target.clone(),
            size_bytes: taken.size_bytes,
            road: taken.road,
            incremental: plan.incremental,
            extents,
            read_bytes: written.read_bytes,
            changed_bytes: written.changed_bytes,
            new_bytes: written.new_bytes,
            full_reason: plan.full_reason.clone(),
        });
    }
    let mut record = machine_record(snapshot, facts, &mut warnings);
    if snapshot.nvram.is_none() && parent.has_nvram_of(&snapshot.uuid) {
        warnings.push(
            "the UEFI variables that the machine's last point has are gone; a restored machine begins with fresh ones"
                .into(),
        );
        record.firmware = None;
    }
    let attributes = record.to_attributes();
    let taken_at = Timestamp::try_from(snapshot.taken_at).map_err(|e| {
        Error::new(ErrorKind::Failed, format!("the clock of this host is beyond reason: {e}"))
    })?;
    // The commit point.
    let draft = PointDraft {
        item: facts.item.clone(),
        kind: PointKind::Machine,
        taken_at,
        parent: parent.point.as_ref().map(|p| p.point),
        consistency: snapshot.consistency.clone(),
        disks,
        definition: Some(Definition { kind: DEFINITION_KIND.into(), text: snapshot.definition_xml.clone() }),
        kept: facts.kept.clone().map(Promise::Known),
        warnings,
        attributes,
    };
    let vault = session.vault().clone();
    let point = session.commit_as(facts.point, draft).map_err(|error| {
        let is_known = matches!(error, StoreError::LeaseLost { .. })
            || matches!(vault.point_of(&facts.item, &facts.point), Ok(None));
        let error = Error::from(error);
        // It may be there all the same, or come to be: whoever asks later finds it.
        if is_known { error } else { error.unsettled() }
    })?;
    Ok((point, report))
}

/// Writes all disks side by side. The first that fails stops the others.
fn write_disks(
    session: &Session,
    snapshot: &MachineSnapshot,
    plans: &[Plan],
    progress: &Arc<Progress>,
) -> Result<Vec<DiskWritten>> {
    let cancelled_before = progress.is_cancelled();
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |error: Error| {
        failure.lock().get_or_insert(error);
        // Ends the others; whether it was the user's wish is seen by the error.
        progress.cancel();
    };
    let written: Vec<Option<DiskWritten>> = std::thread::scope(|scope| {
        let threads: Vec<_> = snapshot
            .disks
            .iter()
            .zip(plans)
            .map(|(disk, plan)| {
                let fail = &fail;
                let write = move || match write_disk(session, disk, plan, progress) {
                    Ok(written) => Some(written),
                    Err(error) => {
                        fail(error);
                        None
                    }
                };
                std::thread::Builder::new().name(format!("disk {}", disk.target)).spawn_scoped(scope, write)
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.map(|t| t.join()) {
                Ok(Ok(written)) => written,
                Ok(Err(_)) => {
                    fail(Error::new(
                        ErrorKind::Failed,
                        "a thread that wrote a disk ended by itself; this is a bug",
                    ));
                    None
                }
                Err(e) => {
                    fail(Error::io("starting a thread", e));
                    None
                }
            })
            .collect()
    });
    if cancelled_before {
        return Err(Error::cancelled());
    }
    if let Some(error) = failure.into_inner() {
        // A machine that ended, a job that was cancelled: the snapshot knows better than the reader.
        return Err(match (error.kind, snapshot.check()) {
            (ErrorKind::Cancelled | ErrorKind::NoSpace, _) | (_, Ok(())) => error,
            (_, Err(why)) => why.into(),
        });
    }
    Ok(written.into_iter().flatten().collect())
}

fn write_disk(
    session: &Session,
    disk: &DiskSnapshot,
    plan: &Plan,
    progress: &Arc<Progress>,
) -> Result<DiskWritten> {
    let source = Arc::new(SnapshotSource { reader: disk.reader(), failure: Mutex::new(None) });
    let done = session.write_disk(DiskRequest {
        source: source.clone(),
        name: format!("disk `{}`", disk.target),
        size_bytes: disk.size_bytes,
        extents: plan.extents.clone(),
        parent: plan.tree,
        progress: progress.clone(),
    });
    done.map_err(|error| match (error, source.failure.lock().take()) {
        (StoreError::Cancelled, _) | (_, None) if progress.is_cancelled() => Error::cancelled(),
        (_, Some(cause)) => cause.into(),
        (error, None) => error.into(),
    })
}

/// A snapshot's disk as the store reads it. Keeps the first failure as it was: an I/O error would not say what to do.
struct SnapshotSource {
    reader: Arc<dyn ReadDisk>,
    failure: Mutex<Option<strongroom_hypervisor::Error>>,
}

impl BlockSource for SnapshotSource {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_at(offset_bytes, buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failure.lock().get_or_insert(error);
            told
        })
    }
}

/// What a point says of its machine beside the definition.
pub(super) fn machine_record(
    snapshot: &MachineSnapshot,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> MachineRecord {
    let nvram = read_state(snapshot.nvram.as_deref(), "the UEFI variables", "with fresh ones", warnings);
    let is_known = nvram.is_some() || snapshot.nvram.is_none();
    MachineRecord {
        machine_uuid: Some(snapshot.uuid.clone()),
        timings: snapshot.timings.into(),
        skipped: snapshot
            .skipped
            .iter()
            .map(|(disk, reason)| SkippedRecord { disk: disk.clone(), reason: reason.clone() })
            .collect(),
        nvram,
        firmware: snapshot.firmware.clone().filter(|_| is_known),
        tpm: read_state(snapshot.tpm.as_deref(), "the state of its TPM", "with an empty one", warnings),
        job: facts.job.clone(),
        guest: snapshot.guest.clone(),
    }
}

/// A small file of the machine's, base64.
fn read_state(path: Option<&Path>, what: &str, instead: &str, warnings: &mut Vec<String>) -> Option<String> {
    let path = path?;
    read_small(path)
        .inspect_err(|e| {
            warnings.push(format!(
                "{what} in {} could not be read ({e}); a restored machine begins {instead}",
                path.display()
            ));
        })
        .ok()
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FIRMWARE_STATE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FIRMWARE_STATE_MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {FIRMWARE_STATE_MAX_BYTES} bytes")));
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
