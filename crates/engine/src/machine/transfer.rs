//! From a snapshot to its point: reading the disks into the vault side by side, and the commit.

use super::facts::{Facts, disk_record, machine_record};
use super::parent::{Parent, Plan};
use super::record::{DEFINITION_KIND, DiskRecord};
use crate::error::{Error, ErrorKind, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use strongroom_domain::ExtentKind;
use strongroom_hypervisor::{DiskSnapshot, MachineSnapshot, ReadDisk, Road};
use strongroom_store::{
    BlockSource, Definition, Disk, DiskRequest, DiskWritten, Manifest, PointDraft, PointKind, Progress,
    Promise, Session, StoreError,
};

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

/// From the snapshot to the commit.
pub(super) fn transfer(
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

    let (disks, report) = describe(snapshot, facts, &plans, &written);
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
    // The commit point.
    let point = commit(session, facts, draft)?;
    Ok((point, report))
}

/// What the point says of its disks, and what is told of them.
fn describe(
    snapshot: &MachineSnapshot,
    facts: &Facts,
    plans: &[Plan],
    written: &[DiskWritten],
) -> (Vec<Disk>, Vec<DiskBackup>) {
    let encrypted = super::definition::encrypted_disks(&snapshot.definition_xml);
    let mut disks = Vec::new();
    let mut report = Vec::new();
    for ((taken, plan), written) in snapshot.disks.iter().zip(plans).zip(written) {
        let extents = plan.extents.iter().filter(|e| e.kind == ExtentKind::Data).count() as u64;
        let mut disk = Disk::new(&taken.target, written);
        disk.full_reason.clone_from(&plan.full_reason);
        let record = disk_record(taken, facts, &encrypted);
        disk.attributes = DiskRecord { incremental: plan.incremental, extents, ..record }.to_attributes();
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
    (disks, report)
}

/// Commits the point. An error is unsettled where it could not be seen that there is none.
fn commit(session: Session, facts: &Facts, draft: PointDraft) -> Result<Manifest> {
    let vault = session.vault().clone();
    session.commit_as(facts.point, draft).map_err(|error| {
        let is_known = matches!(error, StoreError::LeaseLost { .. })
            || matches!(vault.point_of(&facts.item, &facts.point), Ok(None));
        let error = Error::from(error);
        // It may be there all the same, or come to be: whoever asks later finds it.
        if is_known { error } else { error.unsettled() }
    })
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
