//! Backing a machine up: from the session's lease to the commit.
//!
//! The order is what makes it safe. The session begins first, so that the parent cannot be reclaimed; the snapshot is taken
//! relative to the parent; the commit is the point's manifest; only then is the snapshot told that it was committed. Killed
//! before the commit, there is no point, and the next backup clears away what the snapshot left. Killed after it, the
//! point is whole and its checkpoint is there; the next backup finds both.
//!
//! In two halves, [`take`] and the transfer. Where the snapshot can be kept the transfer is [`transfer_kept`], done as often
//! as it takes, by any process; where it cannot, the snapshot lives as long as [`TakenMachine::transfer`].

use super::facts::Facts;
use super::parent::Parent;
use super::transfer::{DiskBackup, transfer};
use crate::error::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::ItemName;
use strongroom_hypervisor::{
    Disk as MachineDisk, DiskParent, GuestWork, Hypervisor, KeptSnapshot, Machine, MachineSnapshot, Outcome,
    Quiesce, SnapshotRequest, Timings, UseClones, is_missed,
};
use strongroom_store::{Kept, Manifest, Progress, Session, Vault};
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
        let purpose = format!("backup of machine {item}");
        let (session, points) = Session::begin_point(&vault, &purpose, &item)?;
        let parent = Parent::find(points, &item, &machine.summary.uuid, None, &mut warnings)?;
        vault.settle_exclusive()?;
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
    let kept = options.kept.clone().unwrap_or_else(|| Kept::on_demand(None));
    let facts = Facts::new(&machine, item, options.job.clone(), kept);
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
            let purpose = format!("backup of machine {}", facts.item);
            let (session, points) = Session::begin_point(vault, &purpose, &facts.item)?;
            let mut warnings = Vec::new();
            let parent = Parent::find(points, &facts.item, &snapshot.uuid, Some(facts.point), &mut warnings)?;
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
