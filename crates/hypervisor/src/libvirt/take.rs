//! Takes a snapshot: chooses the road, holds the machine for the instant, and says what changed.

use super::conn::VirtError;
use super::dom::{Dom, XML_INACTIVE, XML_SECURE};
use super::options::LibvirtOptions;
use super::planned::{PlannedDisk, missed, plan};
use super::reconcile::{self, Tracked};
use super::session::Session;
use super::taking::{Inside, Taken, Taking, UNTRACKED};
use super::{block_job, definition, firmware, job_end, offline, pull, state, tpm, untrack, volumes};
use crate::error::Result;
use crate::files;
use crate::model::DiskFormat;
use crate::snapshot::{MachineSnapshot, Outcome, SnapshotBackend as _, SnapshotRequest, Timings};
use crate::text::shorten;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub fn snapshot(options: &LibvirtOptions, dom: Dom, request: &SnapshotRequest) -> Result<MachineSnapshot> {
    let started = Instant::now();
    let session = Arc::new(Session::open(options, dom, &request.id)?);
    let Seen { mut taking, definition_xml, skipped, uefi, tpm } = look(options, &session, request)?;
    let not_cloned = taking.why_no_clones();
    let cloneable = not_cloned.is_none();
    let not_kept = not_cloned.or_else(|| {
        let directories: BTreeSet<PathBuf> = taking.disks.iter().map(PlannedDisk::directory).collect();
        directories.iter().find_map(|directory| files::why_not_private(directory))
    });
    let taken = taking.take_road(cloneable)?;
    if let Some(failure) = taking.inside.failure.take() {
        let Taken { disks, mut backend, .. } = taken;
        // Readers first, as always.
        drop(disks);
        backend.finish(Outcome::Abandoned)?;
        return Err(failure);
    }
    taking.timings.total = started.elapsed();
    tracing::info!(
        machine = session.name,
        timings = ?taking.timings,
        consistency = %taken.consistency,
        "snapshot taken"
    );
    Ok(MachineSnapshot {
        uuid: session.uuid.clone(),
        name: session.name.clone(),
        taken_at: taken.taken_at,
        consistency: taken.consistency,
        nvram: uefi.variables,
        firmware: uefi.firmware,
        tpm,
        definition_xml,
        disks: taken.disks,
        skipped,
        warnings: taking.warnings,
        timings: taking.timings,
        guest: taking.inside.report,
        not_kept,
        backend: Some(Box::new(taken.backend)),
    })
}

/// What is seen of a machine before anything is done to it.
struct Seen<'r> {
    taking: Taking<'r>,
    /// As it will be at its next start.
    definition_xml: String,
    skipped: Vec<(String, String)>,
    uefi: firmware::Found,
    tpm: Option<PathBuf>,
}

fn look<'r>(
    options: &LibvirtOptions,
    session: &Arc<Session>,
    request: &'r SnapshotRequest,
) -> Result<Seen<'r>> {
    let what = session.what();
    let about = |e: VirtError| e.about("inspecting", &what);
    let dom = &session.dom();
    let (state, state_reason) = state::now(dom).map_err(about)?;
    let live_xml = dom.xml(0).map_err(about)?;
    let (live_xml, volumes) = volumes::resolve(&dom.conn, &what, live_xml)?;
    let document = definition::parse(&what, &live_xml)?;
    let persistent = dom.is_persistent().map_err(about)?;
    let flags = if persistent { XML_INACTIVE | XML_SECURE } else { XML_SECURE };
    let definition_xml = dom.xml(flags).map_err(about)?;
    let (disks, skipped) = plan(&what, &document, &volumes, request, persistent)?;
    let mut taking = Taking {
        session: session.clone(),
        request,
        disks,
        state,
        state_reason,
        agent: definition::agent(&document),
        inside: Inside::of(&document),
        warnings: skipped.iter().filter_map(|(target, why)| missed(target, why)).collect(),
        timings: Timings::default(),
        spoiled: Arc::default(),
    };
    let mut uefi = firmware::find(options, &dom.conn, &live_xml, &document, state.is_active());
    taking.warnings.extend(uefi.problem.take());
    Ok(Seen { taking, definition_xml, skipped, uefi, tpm: tpm::state(&document, &session.uuid) })
}

impl Taking<'_> {
    /// Takes the road that state and storage leave, once what earlier snapshots left is put in order.
    fn take_road(&mut self, cloneable: bool) -> Result<Taken> {
        // What is read by others than the machine's own process is opened as libvirt says, or not at all; before it is held.
        if cloneable || !self.state.is_active() {
            let images = self.disks.iter().filter(|d| d.format == DiskFormat::Qcow2 && !d.is_encrypted);
            images.map(|d| d.layer.node()).try_for_each(|node| node.map(drop))?;
        }
        if !self.state.is_active() {
            self.remove_leftovers();
            self.leave_snapshots_revertible()?;
            return offline::take(self, cloneable);
        }
        let session = self.session.clone();
        job_end::end_leftover_job(&session, &mut self.warnings)?;
        let targets: Vec<&str> = self.disks.iter().map(|d| d.target.as_str()).collect();
        block_job::refuse(&session, &targets)?;
        self.remove_leftovers();
        let tracked = match self.leave_snapshots_revertible()? {
            Some(tracked) => tracked,
            None => reconcile::running(&session, &self.disks, &mut self.warnings)?,
        };
        if cloneable { self.clone_running(tracked) } else { pull::take(self, tracked) }
    }

    /// Files of ours beside the disks, except the clones which this snapshot compares with.
    fn remove_leftovers(&self) {
        let keep: Vec<PathBuf> = self.disks.iter().filter_map(|d| self.previous_clone(d)).collect();
        let mut directories: BTreeSet<PathBuf> = self.disks.iter().map(PlannedDisk::directory).collect();
        directories.extend(self.request.scratch_dir.clone());
        for directory in directories {
            self.session.remove_leftovers(&directory, &keep);
        }
    }

    /// Of a machine with snapshots within its images nothing is tracked, and what tracked it is taken away.
    fn leave_snapshots_revertible(&mut self) -> Result<Option<Tracked>> {
        if !self.disks.iter().any(|d| d.has_snapshots) {
            return Ok(None);
        }
        untrack::remove(&self.session, &self.disks, &mut self.warnings)?;
        let names: BTreeSet<&String> =
            self.disks.iter().flat_map(|d| &d.image).flat_map(|i| &i.snapshots).collect();
        let mut named: Vec<String> = names.iter().take(3).map(|n| format!("`{}`", shorten(n))).collect();
        if names.len() > named.len() {
            named.push(format!("{} more", names.len() - named.len()));
        }
        self.warnings.push(format!(
            "the machine has internal snapshots ({}), which could not be reverted to if its changes were tracked: each backup reads its disks fully (only what changed is stored). Delete them to have incremental backups again (`virsh snapshot-delete`)",
            named.join(", ")
        ));
        let mut tracked = Tracked::default();
        for disk in self.disks.iter_mut().filter(|d| d.format == DiskFormat::Qcow2) {
            if let Some(image) = &mut disk.image {
                image.bitmaps.retain(|b| !reconcile::is_own_name(&b.name));
            }
            // Said once, above.
            if disk.parent.take().is_some() {
                tracked.lost.insert(disk.target.clone(), UNTRACKED.into());
            }
        }
        Ok(Some(tracked))
    }
}
