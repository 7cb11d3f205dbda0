//! A kept snapshot as a point is described: for restores from a snapshot whose transfer has not been done, or failed.

use super::facts::{Facts, disk_record, machine_record};
use super::record::DEFINITION_KIND;
use crate::error::{Error, ErrorKind, Result};
use jiff::Timestamp;
use strongroom_domain::SessionId;
use strongroom_hypervisor::MachineSnapshot;
use strongroom_store::{Definition, Disk, Manifest, PointKind, Promise};
use uuid::Uuid;

/// What the point's manifest says, or will say, but for what only the transfer knows: trees and bytes.
pub fn manifest_of_kept(snapshot: &MachineSnapshot, facts: &Facts) -> Result<Manifest> {
    let taken_at = Timestamp::try_from(snapshot.taken_at)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("the snapshot's time is beyond reason: {e}")))?;
    let encrypted = super::definition::encrypted_disks(&snapshot.definition_xml);
    let disks = snapshot.disks.iter().map(|taken| Disk {
        name: taken.target.clone(),
        size_bytes: taken.size_bytes,
        root: None,
        read_bytes: 0,
        changed_bytes: 0,
        new_bytes: 0,
        full_reason: None,
        attributes: disk_record(taken, facts, &encrypted).to_attributes(),
    });
    let mut warnings = snapshot.warnings.clone();
    let attributes = machine_record(snapshot, facts, &mut warnings).to_attributes();
    Ok(Manifest {
        point: facts.point,
        disks: disks.collect(),
        item: facts.item.clone(),
        kind: PointKind::Machine,
        taken_at,
        committed_at: taken_at,
        parent: None,
        consistency: snapshot.consistency.clone(),
        definition: Some(Definition { kind: DEFINITION_KIND.into(), text: snapshot.definition_xml.clone() }),
        kept: facts.kept.clone().map(Promise::Known),
        warnings,
        attributes,
        stored_bytes: 0,
        session: SessionId::from_uuid(Uuid::nil()),
        writer: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
    })
}
