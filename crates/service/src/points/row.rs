//! A point as the catalog keeps it.

use crate::core::error::Result;
use crate::core::service::Service;
use crate::estate::machines;
use std::collections::BTreeSet;
use strongroom_catalog::{
    Item, MachineDisk, Point, PointDisk, PointGuest, PointScript, Query, Transfer, Vault,
};
use strongroom_domain::arm_names;
use strongroom_domain::retention::PointReason;
use strongroom_engine::machine;
use strongroom_engine::machine::record::{DiskRecord, MachineRecord};
use strongroom_hypervisor::{GuestReport, GuestVia, ScriptRun};
use strongroom_store::{Manifest, Promise};

pub(crate) fn luns(disks: &[MachineDisk]) -> Vec<(String, i32)> {
    disks.iter().map(|d| (d.target.clone(), d.lun)).collect()
}

fn guest_note(report: GuestReport) -> PointGuest {
    let script = |run: ScriptRun| PointScript {
        tries: run.tries,
        elapsed_ms: run.elapsed_ms,
        exit_code: run.exit_code,
    };
    PointGuest {
        version: report.version,
        via: match report.via {
            GuestVia::Agent => "agent".into(),
            GuestVia::Port => "port".into(),
        },
        installed: report.installed,
        was_tampered_with: report.was_tampered_with,
        configured: report.configured,
        pre: report.pre.map(script),
        post: report.post.map(script),
        problems: report.problems.iter().map(|code| code.name().to_owned()).collect(),
    }
}

/// A point as the catalog keeps it, from its manifest.
pub(crate) fn point_row(vault: &Vault, item: &Item, manifest: &Manifest, luns: &[(String, i32)]) -> Point {
    // A disk that was not known yet gets a number that no other has: a restore names disks by it.
    let mut taken: BTreeSet<i32> = luns.iter().map(|(_, lun)| *lun).collect();
    let mut lun_of = |target: &str| {
        let known = luns.iter().find(|(known, _)| known == target).map(|(_, lun)| *lun);
        known.unwrap_or_else(|| {
            let free = (-1..).find(|lun| !taken.contains(lun)).unwrap_or(i32::MAX);
            taken.insert(free);
            free
        })
    };
    let (reason, scheduled_for, keep_until) = match &manifest.kept {
        // What a policy promised changes with it.
        Some(Promise::Known(kept)) if kept.reason == PointReason::Scheduled => {
            (Some(kept.reason), kept.scheduled_for, None)
        }
        Some(Promise::Known(kept)) => (Some(kept.reason), None, kept.keep_until),
        // It may say anything: nothing lets it go by itself.
        Some(Promise::NotUnderstood(_)) => (Some(PointReason::OnDemand), None, None),
        None => (None, None, None),
    };
    let encrypted = strongroom_engine::machine::encryption::encrypted_disks(manifest);
    let disks = manifest
        .disks
        .iter()
        .map(|d| PointDisk {
            lun: lun_of(&d.name),
            target: d.name.clone(),
            size_bytes: d.size_bytes,
            encrypted: encrypted.contains(&d.name),
            reason: String::new(),
        })
        .collect();
    // How large those are that were left out it does not say.
    let excluded: Vec<PointDisk> = MachineRecord::of(manifest)
        .skipped
        .into_iter()
        .filter(|s| {
            s.reason == strongroom_hypervisor::EXCLUDED || strongroom_hypervisor::is_missed(&s.reason)
        })
        .map(|skipped| PointDisk {
            lun: lun_of(&skipped.disk),
            target: skipped.disk,
            size_bytes: 0,
            encrypted: false,
            reason: Some(skipped.reason)
                .filter(|why| strongroom_hypervisor::is_missed(why))
                .unwrap_or_default(),
        })
        .collect();
    Point {
        id: manifest.point,
        version: 0,
        vault: vault.id,
        item: item.id,
        name: arm_names::recovery_point_name(&manifest.point, 0),
        taken_at: manifest.taken_at,
        consistency: manifest.consistency.clone(),
        disks,
        has_choice: !excluded.is_empty(),
        excluded,
        os: "Linux".into(),
        machine_size: manifest
            .definition
            .as_ref()
            .map(|d| machine::definition::facts(&d.text))
            .map_or_else(String::new, |facts| machines::size_name(facts.vcpus, facts.memory_mib)),
        stored_bytes: manifest.stored_bytes,
        reason,
        scheduled_for,
        keep_until,
        kept_in_manifest: manifest.kept.is_some(),
        policy_type: "V1".into(),
        job: None,
        drill: None,
        guest: MachineRecord::of(manifest).guest.map(guest_note),
        transfer: Transfer::Done,
        vaulted_at: Some(manifest.committed_at),
        snapshot: None,
        checkpoints: manifest
            .disks
            .iter()
            .filter_map(|d| Some((d.name.clone(), (DiskRecord::of(d).checkpoint?, d.size_bytes))))
            .collect(),
        going_at: None,
        snapshot_ended_at: None,
        missing_since: None,
        no_snapshot: String::new(),
    }
}

/// The point's number; the next one where another point of the item has it.
pub(crate) fn free_name(service: &Service, point: &Point) -> Result<String> {
    for attempt in 0.. {
        let name = arm_names::recovery_point_name(&point.id, attempt);
        let query = Query::all().eq("item", point.item).eq("name", name.as_str());
        match service.catalog.first::<Point>(query)? {
            Some(other) if other.id != point.id => {}
            _ => return Ok(name),
        }
    }
    unreachable!("an item has fewer points than there are numbers")
}

/// The disk that a machine boots from.
pub(crate) const OS_DISK_LUN: i32 = -1;
