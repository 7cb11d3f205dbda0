//! Which point a backup builds on, and what of it can be trusted to tell what changed.

use super::record::{self, DiskRecord, MachineRecord};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use strongroom_domain::{ItemName, PointId, TypedExtent};
use strongroom_hypervisor::{Changes, DiskParent, DiskSnapshot};
use strongroom_store::{DiskTree, Manifest, PointKind, PointList};

/// The last point of the item, if there is one.
pub struct Parent {
    pub point: Option<Manifest>,
    /// Whether it is of this very machine, not of another of this name.
    same_machine: bool,
    /// Whether any of this machine's points was taken frozen.
    pub was_frozen: bool,
}

/// What to read of a disk, and what the rest is as in.
pub struct Plan {
    pub extents: Vec<TypedExtent>,
    pub tree: Option<DiskTree>,
    pub incremental: bool,
    /// Why everything is read although there is a point to build on.
    pub full_reason: Option<String>,
}

impl Parent {
    /// `points`: as they were seen under the session's lease: what the parent has is not reclaimed from then on. `before`: of
    /// the points older than this one.
    pub fn find(
        points: PointList,
        item: &ItemName,
        machine_uuid: &str,
        before: Option<PointId>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let PointList { mut points, damaged } = points;
        // Ids sort by the time they were made.
        points.retain(|p| before.is_none_or(|before| p.point < before));
        let was_frozen = points.iter().rev().any(|p| record::was_frozen(p, machine_uuid));
        let point = points.pop();
        let newer = damaged.iter().find(|d| match (&point, d.point) {
            (Some(parent), Some(id)) => id > parent.point,
            _ => true,
        });
        if let Some(newer) = newer {
            warnings.push(format!(
                "the last point of `{item}` is damaged ({}); run `strongroom rescue vault check`. This backup does not rely on it",
                newer.error
            ));
        }
        if point.as_ref().is_some_and(|p| p.kind != PointKind::Machine) {
            return Err(Error::invalid(format!(
                "item `{item}` of this vault holds points of an image, and a machine's would be mixed up with them: \
                 use another vault, or forget those points first (see `strongroom rescue point list --item`)"
            )));
        }
        let same_machine = point
            .as_ref()
            .is_some_and(|p| MachineRecord::of(p).machine_uuid.is_none_or(|uuid| uuid == machine_uuid));
        if point.is_some() && !same_machine {
            warnings.push(format!(
                "the points of `{item}` so far are of another machine of this name; everything is read, and only what differs is stored"
            ));
        }
        Ok(Self { point, same_machine, was_frozen })
    }

    /// Whether the last point is of this machine and has UEFI variables.
    pub fn has_nvram_of(&self, machine_uuid: &str) -> bool {
        let record = self.point.as_ref().map(MachineRecord::of).unwrap_or_default();
        record.nvram.is_some() && record.machine_uuid.as_deref() == Some(machine_uuid)
    }

    /// What each disk's changes can be relative to.
    pub fn disks(&self) -> BTreeMap<String, DiskParent> {
        let Some(point) = self.point.as_ref().filter(|_| self.same_machine) else { return BTreeMap::new() };
        point
            .disks
            .iter()
            .filter_map(|disk| {
                let checkpoint = DiskRecord::of(disk).checkpoint?;
                Some((disk.name.clone(), DiskParent { checkpoint, size_bytes: disk.size_bytes }))
            })
            .collect()
    }

    pub fn plan(&self, disk: &DiskSnapshot, warnings: &mut Vec<String>) -> Plan {
        let before = self.point.iter().flat_map(|p| &p.disks).find(|d| d.name == disk.target);
        let tree = before.map(|d| d.tree());
        let recorded = before.filter(|_| self.same_machine).and_then(|d| DiskRecord::of(d).checkpoint);
        match (&disk.changes, before, &recorded) {
            // Only what is relative to the very checkpoint that this disk's parent recorded, and not beyond its size.
            (Changes::Since { checkpoint }, Some(before), Some(recorded))
                if checkpoint == recorded && before.size_bytes <= disk.size_bytes =>
            {
                Plan { extents: disk.extents.clone(), tree, incremental: true, full_reason: None }
            }
            (Changes::Since { .. }, ..) => {
                let reason = "its changes were told relative to another point than its last one";
                warnings.push(format!("disk `{}` is read fully: {reason}", disk.target));
                Plan {
                    extents: vec![TypedExtent::data(0, disk.size_bytes)],
                    tree,
                    incremental: false,
                    full_reason: Some(reason.into()),
                }
            }
            (Changes::Full { reason }, before, recorded) => {
                let full_reason = match (&self.point, before, recorded) {
                    (None, ..) => None,
                    (Some(_), None, _) => Some("it is not in the last point".into()),
                    (Some(_), Some(_), None) if !self.same_machine => {
                        Some("the last point is of another machine of this name".into())
                    }
                    (Some(_), Some(_), None) => {
                        Some("its changes since the last point could not be tracked".into())
                    }
                    (Some(_), Some(_), Some(_)) => Some(reason.clone()),
                };
                Plan { extents: disk.extents.clone(), tree, incremental: false, full_reason }
            }
        }
    }
}
