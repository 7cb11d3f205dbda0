//! Takes away what backups leave in a machine to follow its changes: checkpoints in libvirt, bitmaps in its images, clones of
//! raw disks to compare with. The next backup reads everything once.
//!
//! libvirt refuses to undefine a machine that has checkpoints, and QEMU to revert to a snapshot within an image that has
//! bitmaps.

use super::dom::Dom;
use super::options::LibvirtOptions;
use super::planned::{PlannedDisk, disks_of};
use super::session::Session;
use super::{job_end, reconcile};
use crate::error::Result;
use crate::model::{DiskFormat, Untracked};
use crate::tools;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub fn untrack(options: &LibvirtOptions, dom: Dom) -> Result<Untracked> {
    let session = Session::open(options, dom, "untrack")?;
    let what = session.what();
    let dom = session.dom();
    let about = |e: super::conn::VirtError| e.about("inspecting", &what);
    let mut warnings = Vec::new();
    let disks = disks_of(&dom, &what).unwrap_or_else(|error| {
        warnings
            .push(format!("its disks could not be looked at, so that bitmaps may remain in them: {error}"));
        Vec::new()
    });
    if dom.is_active().map_err(about)? {
        job_end::end_leftover_job(&session, &mut warnings)?;
    }
    let checkpoints = remove(&session, &disks, &mut warnings)?;
    let directories: BTreeSet<PathBuf> = disks.iter().map(PlannedDisk::directory).collect();
    directories.iter().for_each(|directory| session.remove_leftovers(directory, &[]));
    Ok(Untracked { checkpoints, warnings })
}

/// Removes all checkpoints and bitmaps of ours; answers how many checkpoints those were.
pub fn remove(session: &Session, disks: &[PlannedDisk], warnings: &mut Vec<String>) -> Result<usize> {
    let dom = session.dom();
    let list = || -> Result<Vec<String>> {
        let known = dom.checkpoints().map_err(|e| e.about("listing checkpoints of", &session.what()))?;
        Ok(known.into_iter().filter(|name| reconcile::is_own_name(name)).collect())
    };
    let known = list()?;
    for name in &known {
        reconcile::drop_checkpoint(session, disks, name, warnings);
    }
    let active = dom.is_active().map_err(|e| e.about("asking for the state of", &session.what()))?;
    if active {
        reconcile::remove_forgotten_bitmaps(session, disks, &BTreeMap::new(), warnings);
    } else {
        remove_bitmaps(session, disks, warnings);
    }
    Ok(known.len() - list()?.len().min(known.len()))
}

/// Bitmaps of ours in images that nobody has open.
fn remove_bitmaps(session: &Session, disks: &[PlannedDisk], warnings: &mut Vec<String>) {
    for disk in disks.iter().filter(|d| d.format == DiskFormat::Qcow2) {
        let there = match tools::image_info(&disk.path) {
            Ok(info) => info.bitmaps,
            Err(error) => {
                warnings.push(format!("{} could not be looked at: {error}", session.disk(&disk.target)));
                continue;
            }
        };
        for bitmap in there.iter().filter(|b| reconcile::is_own_name(&b.name)) {
            reconcile::remove_offline_bitmap(session, disk, &bitmap.name, warnings);
        }
    }
}
