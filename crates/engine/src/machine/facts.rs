//! What a backup knows of its machine beside the disks' bytes: kept with a snapshot that is kept, and said by the point.

use super::record::{DiskRecord, MachineRecord, SkippedRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::FIRMWARE_STATE_MAX_BYTES;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use strongroom_domain::{ItemName, PointId};
use strongroom_hypervisor::{
    Disk as MachineDisk, DiskSnapshot, DiskSource, KeptSnapshot, Machine, MachineSnapshot,
};
use strongroom_store::Kept;
use uuid::Uuid;

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
    /// Those of a point that is to be made.
    pub(super) fn new(machine: &Machine, item: ItemName, job: Option<String>, kept: Kept) -> Self {
        let disk = |d: &MachineDisk| DiskFacts {
            target: d.target.clone(),
            bus: d.bus.clone(),
            source: d.source.path().map(|p| p.display().to_string()),
            source_is_block: matches!(d.source, DiskSource::Block(_)),
        };
        Self {
            point: PointId::from_uuid(Uuid::now_v7()),
            item,
            job,
            kept: Some(kept),
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

/// What a point says of a disk before anything of it is read.
pub(super) fn disk_record(disk: &DiskSnapshot, facts: &Facts, encrypted: &BTreeSet<String>) -> DiskRecord {
    let was = facts.disks.iter().find(|d| d.target == disk.target);
    DiskRecord {
        checkpoint: disk.checkpoint.clone(),
        format: Some(disk.format),
        bus: was.map(|d| d.bus.clone()),
        source: was.and_then(|d| d.source.clone()),
        source_is_block: was.is_some_and(|d| d.source_is_block),
        road: Some(disk.road),
        encrypted: encrypted.contains(&disk.target),
        ..DiskRecord::default()
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
