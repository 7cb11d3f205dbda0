//! Takes a snapshot: chooses the road, holds the machine for the instant, and says what changed.

use super::backend::{Backend, Clone, Spoiled, Watched};
use super::conn::{Dom, XML_INACTIVE, XML_SECURE};
use super::inside::Inside;
use super::reconcile::{self, Tracked};
use super::session::Session;
use super::volumes::{self, Unresolved};
use super::{LibvirtOptions, block_job, definition, firmware, job_xml, offline, pull, state, tpm, untrack};
use crate::error::{Error, Result};
use crate::export::{NbdDisk, ServeOptions};
use crate::extents;
use crate::files::{self, PreparedClone, RawFile};
use crate::image::Layer;
use crate::limits::OWN_PREFIX;
use crate::model::{AgentState, DiskFormat, DiskSource, MachineState};
use crate::snapshot::*;
use crate::tools::{self, ImageInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use strongroom_domain::{Consistency, Extent};

/// A disk that is taken.
#[derive(Debug, Clone)]
pub struct PlannedDisk {
    pub target: String,
    pub path: PathBuf,
    pub is_block: bool,
    pub is_encrypted: bool,
    /// To the machine: libvirt makes no checkpoints of it.
    pub is_read_only: bool,
    pub format: DiskFormat,
    /// Its image, and what libvirt says is below that.
    pub layer: Layer,
    /// Of qcow2 disks.
    pub image: Option<ImageInfo>,
    /// Whether the machine outlives its stop: libvirt keeps no checkpoints for others.
    pub is_persistent: bool,
    /// An image of the machine has snapshots within it: none of them can be reverted to while images keep bitmaps.
    pub has_snapshots: bool,
    pub parent: Option<DiskParent>,
}

impl PlannedDisk {
    pub fn directory(&self) -> PathBuf {
        self.path.parent().map(Into::into).unwrap_or_else(|| "/".into())
    }

    pub fn can_track(&self) -> bool {
        self.is_persistent
            && !self.is_read_only
            && !self.has_snapshots
            && self.image.as_ref().is_some_and(|i| i.can_keep_bitmaps)
    }

    pub fn has_backing(&self) -> bool {
        self.layer.below().next().is_some() || self.image.as_ref().is_some_and(|i| i.names_backing)
    }

    /// Why its file cannot be cloned, on whatever storage.
    fn why_no_clone(&self) -> Option<String> {
        if self.is_block {
            Some("is a block device".into())
        } else if self.is_encrypted {
            Some("is encrypted by QEMU".into())
        } else if self.image.as_ref().is_some_and(|i| i.has_data_file) {
            Some("keeps its data in a file of its own".into())
        } else {
            self.layer.why_not_here()
        }
    }
}

const UNTRACKED: &str = "the machine has internal snapshots, so that its changes are not tracked";

/// What the roads have in common.
pub struct Taking<'r> {
    pub session: Arc<Session>,
    pub request: &'r SnapshotRequest,
    pub disks: Vec<PlannedDisk>,
    pub state: MachineState,
    pub state_reason: i32,
    pub agent: AgentState,
    /// The extension in the guest.
    pub inside: Inside,
    pub warnings: Vec<String>,
    pub timings: Timings,
    /// Set when the snapshot cannot be read any more.
    pub spoiled: Arc<Spoiled>,
}

/// What a road answers.
pub struct Taken {
    pub taken_at: SystemTime,
    pub consistency: Consistency,
    pub disks: Vec<DiskSnapshot>,
    pub backend: Backend,
}

pub fn snapshot(options: &LibvirtOptions, dom: Dom, request: &SnapshotRequest) -> Result<MachineSnapshot> {
    let started = Instant::now();
    let session = Arc::new(Session::open(options, dom, &request.id)?);
    let what = session.what();
    let about = |e: super::conn::VirtError| e.about("inspecting", &what);
    let dom = &session.dom();
    let (number, state_reason) = dom.state().map_err(about)?;
    let state = state::from_numbers(number, state_reason);
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
    let uefi = firmware::find(options, &dom.conn, &live_xml, &document, state.is_active());
    taking.warnings.extend(uefi.problem);
    let not_cloned = taking.why_no_clones();
    let cloneable = not_cloned.is_none();
    let not_kept = not_cloned.or_else(|| {
        let directories: BTreeSet<PathBuf> = taking.disks.iter().map(PlannedDisk::directory).collect();
        directories.iter().find_map(|directory| files::why_not_private(directory))
    });
    // What is read by others than the machine's own process is opened as libvirt says, or not at all; before it is held.
    if cloneable || !state.is_active() {
        let images = taking.disks.iter().filter(|d| d.format == DiskFormat::Qcow2 && !d.is_encrypted);
        images.map(|d| d.layer.node()).try_for_each(|node| node.map(drop))?;
    }
    let taken = if !state.is_active() {
        taking.remove_leftovers();
        taking.leave_snapshots_revertible()?;
        offline::take(&mut taking, cloneable)?
    } else {
        reconcile::end_leftover_job(&session, &mut taking.warnings)?;
        let targets: Vec<&str> = taking.disks.iter().map(|d| d.target.as_str()).collect();
        block_job::refuse(&session, &targets)?;
        taking.remove_leftovers();
        let tracked = match taking.leave_snapshots_revertible()? {
            Some(tracked) => tracked,
            None => reconcile::running(&session, &taking.disks, &mut taking.warnings)?,
        };
        if cloneable { taking.clone_running(tracked)? } else { pull::take(&mut taking, tracked)? }
    };
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
        tpm: tpm::state(&document, &session.uuid),
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

type Skipped = Vec<(String, String)>;

/// The disks of a machine that a snapshot would take.
pub fn disks_of(dom: &Dom, what: &str) -> Result<Vec<PlannedDisk>> {
    let about = |e: super::conn::VirtError| e.about("inspecting", what);
    let (xml, volumes) = volumes::resolve(&dom.conn, what, dom.xml(0).map_err(about)?)?;
    let document = definition::parse(what, &xml)?;
    let persistent = dom.is_persistent().map_err(about)?;
    plan(what, &document, &volumes, &SnapshotRequest::default(), persistent).map(|(disks, _)| disks)
}

/// What is to be said of a disk that is left out, unless somebody left it out or there is nothing to say.
fn missed(target: &str, why: &str) -> Option<String> {
    let target = crate::text::shorten(target);
    is_missed(why).then(|| {
        format!("disk `{target}` is not in the backup: {why}. If that is as it should be, exclude it from the machine's backups")
    })
}

pub fn plan(
    what: &str,
    document: &roxmltree::Document<'_>,
    volumes: &Unresolved,
    request: &SnapshotRequest,
    is_persistent: bool,
) -> Result<(Vec<PlannedDisk>, Skipped)> {
    let mut disks = Vec::new();
    let mut skipped = Vec::new();
    let all = volumes.explain(definition::disks(document));
    for target in &request.exclude {
        if !all.iter().any(|d| d.target == *target) {
            return Err(Error::NotFound {
                what: format!("disk `{}` of {what}", crate::text::shorten(target)),
            });
        }
    }
    for disk in all {
        if request.exclude.contains(&disk.target) {
            skipped.push((disk.target, crate::snapshot::EXCLUDED.to_owned()));
            continue;
        }
        if let Some(why) = disk.skipped {
            skipped.push((disk.target, why));
            continue;
        }
        let is_block = matches!(disk.source, DiskSource::Block(_));
        let layer = definition::layer(document, &disk.target);
        let path = disk.source.path().map(PathBuf::from);
        let (Some(layer), Some(path), Some(format)) = (layer, path, disk.format) else {
            skipped.push((disk.target, "what its definition says of its source is not understood".into()));
            continue;
        };
        let image = match format {
            DiskFormat::Qcow2 => Some(tools::image_info(&path)?),
            DiskFormat::Raw => None,
        };
        disks.push(PlannedDisk {
            parent: request.parents.get(&disk.target).cloned(),
            target: disk.target,
            path,
            is_block,
            is_encrypted: disk.encrypted,
            is_read_only: disk.read_only,
            is_persistent,
            has_snapshots: false,
            format,
            layer,
            image,
        });
    }
    if disks.iter().any(|d| d.image.as_ref().is_some_and(|i| !i.snapshots.is_empty())) {
        disks.iter_mut().for_each(|d| d.has_snapshots = true);
    }
    if disks.is_empty() {
        let reasons: Vec<String> = skipped.iter().map(|(target, why)| format!("`{target}`: {why}")).collect();
        let why = if reasons.is_empty() { "it has no disks".to_owned() } else { reasons.join("; ") };
        return Err(Error::unsupported(format!("{what}: none of its disks"), why));
    }
    Ok((disks, skipped))
}

impl Taking<'_> {
    /// Why the disks are not cloned, if so.
    fn why_no_clones(&self) -> Option<String> {
        if self.request.clones == UseClones::Never {
            return Some("clones were not asked for".into());
        }
        let disk = self.disks.iter().find_map(|d| d.why_no_clone().map(|why| (d, why)));
        if let Some((disk, why)) = disk {
            return Some(format!("disk `{}` {why}, which cannot be cloned", disk.target));
        }
        let directories: BTreeSet<PathBuf> = self.disks.iter().map(PlannedDisk::directory).collect();
        let directory = directories.into_iter().find(|d| !files::can_clone(d))?;
        Some(format!(
            "the file system of {} cannot clone files (XFS with reflink and btrfs can)",
            directory.display()
        ))
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
        let mut named: Vec<String> =
            names.iter().take(3).map(|n| format!("`{}`", crate::text::shorten(n))).collect();
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

    /// The clone of a raw disk that its parent point left.
    pub fn previous_clone(&self, disk: &PlannedDisk) -> Option<PathBuf> {
        let parent = disk.parent.as_ref()?;
        let ours = disk.format == DiskFormat::Raw && reconcile::is_own_name(&parent.checkpoint);
        ours.then(|| self.session.clone_path(&disk.path, &disk.target, &parent.checkpoint))
    }

    /// How the files below the disks are: they are read in place, and may be merged by somebody.
    pub fn chain_fingerprints(&self) -> Result<Vec<(PathBuf, files::Fingerprint)>> {
        let below: BTreeSet<PathBuf> = self.disks.iter().flat_map(|d| d.layer.files_below()).collect();
        below
            .into_iter()
            .map(|path| {
                let fingerprint = files::fingerprint(&path)?;
                Ok((path, fingerprint))
            })
            .collect()
    }

    /// Why the guest cannot be frozen, if so.
    pub fn cannot_freeze(&self) -> Option<String> {
        if self.request.quiesce == Quiesce::Never {
            return Some("freezing was not asked for".into());
        }
        match (self.state, self.agent) {
            (MachineState::Running, AgentState::Connected) => None,
            (MachineState::Running, AgentState::NotConnected) => {
                Some("its guest agent is not running; install and start qemu-guest-agent inside".into())
            }
            (MachineState::Running, AgentState::NoChannel) => {
                Some("it has no channel for a guest agent (org.qemu.guest_agent.0)".into())
            }
            (state, _) => Some(format!("it was {state}")),
        }
    }

    /// Whether freezing was asked for and the machine could be, if only its agent were there.
    pub fn is_agent_missing(&self) -> bool {
        self.request.quiesce == Quiesce::Auto
            && self.state == MachineState::Running
            && self.agent != AgentState::Connected
    }

    /// What a disk's extents will cover, before sizes are known. `since` is the usable parent.
    pub fn full_reason(&mut self, disk: &PlannedDisk, lost: Option<String>) -> String {
        match (&disk.parent, lost) {
            (None, _) if disk.has_snapshots => UNTRACKED.into(),
            (None, _) => "it was not backed up before".into(),
            (Some(_), lost) => {
                let why = lost.unwrap_or_else(|| "its changes since then were not tracked".into());
                self.warnings.push(format!(
                    "disk `{}` is read fully: {why}. Only what changed is stored; the next backup is incremental again where its changes can be tracked",
                    disk.target
                ));
                why
            }
        }
    }

    /// The road on cloning storage, for a machine that has a hypervisor process.
    fn clone_running(&mut self, mut tracked: Tracked) -> Result<Taken> {
        let session = self.session.clone();
        let name = session.checkpoint();
        let mut prepared = Vec::new();
        for disk in &self.disks {
            let path = session.clone_path(&disk.path, &disk.target, &name);
            prepared.push(PreparedClone::new(&disk.path, &path)?);
        }
        // What the host has cached of the disks would otherwise be written while the machine is held.
        std::thread::scope(|scope| {
            for clone in &prepared {
                scope.spawn(|| clone.flush_source());
            }
        });
        let trackable: Vec<(&str, bool)> =
            self.disks.iter().map(|d| (d.target.as_str(), d.can_track())).collect();
        let checkpoint_xml =
            trackable.iter().any(|(_, tracks)| *tracks).then(|| job_xml::checkpoint(&name, &trackable, None));

        let chains = self.chain_fingerprints()?;

        let running = self.state == MachineState::Running;
        let (window, mut consistency) = self.open_window(running)?;
        if running {
            window.suspend().map_err(|e| e.about("suspending", &session.what()))?;
        }
        let taken_at = SystemTime::now();
        // From here on the new checkpoint records; what is written before the clones is in both.
        let began = Instant::now();
        let checkpoint = checkpoint_xml.map(|xml| session.dom().checkpoint_create(&xml, 0));
        self.timings.tracking = checkpoint.as_ref().map(|_| began.elapsed());
        let began = Instant::now();
        let cloned = prepared.iter().zip(&self.disks).try_for_each(|(clone, disk)| {
            clone.run().map_err(|e| Error::failed("cloning", session.disk(&disk.target), e))
        });
        self.timings.cloning = Some(began.elapsed());
        let held = self.close_window(window, &mut consistency);
        let cloned = cloned.and_then(|()| {
            // Let go by the timer, it has written while it was cloned.
            if held {
                Ok(())
            } else {
                Err(Error::failed(
                    "holding",
                    session.what(),
                    "the storage is too slow to clone its disks in time",
                ))
            }
        });

        let checkpoint = match checkpoint {
            Some(Ok(())) => Some(name.clone()),
            Some(Err(e)) => {
                self.warnings.push(format!(
                    "changes cannot be tracked from here on, so that the next backup reads everything: {e}"
                ));
                None
            }
            None => None,
        };
        let mut backend = Backend {
            session: session.clone(),
            disks: self.disks.clone(),
            checkpoint: checkpoint.clone(),
            clones: prepared
                .into_iter()
                .map(|p| Clone { file: p.into_file(), keep: false, previous: None })
                .collect(),
            job: None,
            untouched: Arc::new(chains),
            spoiled: self.spoiled.clone(),
            watch: None,
        };
        let built = cloned.and_then(|()| {
            let mut changed = pull::changed_since(self, &tracked).unwrap_or_else(|error| {
                let why = format!("what changed could not be found out ({error})");
                for target in std::mem::take(&mut tracked.since).into_keys() {
                    tracked.lost.insert(target, why.clone());
                }
                BTreeMap::new()
            });
            let mut disks = Vec::new();
            for (index, disk) in self.disks.clone().iter().enumerate() {
                let since = tracked.since.get(&disk.target).cloned();
                let dirty = since.and_then(|s| changed.remove(&disk.target).map(|d| (s, d)));
                let lost = tracked.lost.remove(&disk.target);
                disks.push(self.open_clone(
                    disk,
                    &mut backend.clones[index],
                    dirty,
                    lost,
                    checkpoint.as_deref(),
                    None,
                )?);
            }
            Ok(disks)
        });
        match built {
            Ok(disks) => {
                backend.start_watch();
                Ok(Taken { taken_at, consistency, disks, backend })
            }
            Err(error) => {
                let _ = backend.finish(Outcome::Abandoned);
                Err(error)
            }
        }
    }

    /// A disk as read from its clone. For qcow2 `dirty` are its changes (or `bitmap` names one in the
    /// image that tells them); raw ones find theirs by comparing with the clone kept before.
    pub fn open_clone(
        &mut self,
        disk: &PlannedDisk,
        clone: &mut Clone,
        dirty: Option<(String, Vec<Extent>)>,
        lost: Option<String>,
        checkpoint: Option<&str>,
        bitmap: Option<&str>,
    ) -> Result<DiskSnapshot> {
        let path = clone.file.path().to_owned();
        match disk.format {
            DiskFormat::Qcow2 => {
                // The clone is ours, but the files below it are the machine's.
                let options = ServeOptions { bitmap, without_locks: disk.has_backing() };
                let what = self.session.disk(&disk.target);
                let layer = disk.layer.with_first(&path);
                let nbd = NbdDisk::open_image(&layer, &options, &self.session.run_directory, &what)?;
                let dirty = match bitmap {
                    Some(name) => Some((name.to_owned(), nbd.dirty(name)?)),
                    None => dirty,
                };
                let (changes, extents) = self.changes_of(disk, &nbd, dirty, lost)?;
                Ok(DiskSnapshot {
                    target: disk.target.clone(),
                    size_bytes: nbd.size_bytes(),
                    format: disk.format,
                    road: Road::Clone,
                    changes,
                    extents,
                    checkpoint: checkpoint.filter(|_| disk.can_track()).map(str::to_owned),
                    reader: Arc::new(Watched { inner: nbd, spoiled: self.spoiled.clone() }),
                })
            }
            DiskFormat::Raw => self.open_raw_clone(disk, clone, &path),
        }
    }

    fn open_raw_clone(
        &mut self,
        disk: &PlannedDisk,
        clone: &mut Clone,
        path: &std::path::Path,
    ) -> Result<DiskSnapshot> {
        let raw = RawFile::open(path)?;
        let size_bytes = raw.size_bytes();
        let new_map = files::physical_map(path);
        clone.keep = new_map.is_some();
        clone.previous = self.previous_clone(disk);
        let old_map = clone
            .previous
            .as_deref()
            .and_then(|p| if files::is_own_file(p) { files::physical_map(p) } else { None });
        let since = match (&disk.parent, old_map, new_map) {
            (Some(parent), Some(old), Some(new)) if parent.size_bytes <= size_bytes => {
                let mut changed = files::differing(&old, &new, size_bytes);
                if parent.size_bytes < size_bytes {
                    extents::add_tail(&mut changed, parent.size_bytes, size_bytes);
                }
                Ok((parent.checkpoint.clone(), changed))
            }
            (Some(parent), Some(_), Some(_)) if parent.size_bytes > size_bytes => Err("it was made smaller"),
            _ => Err("its last clone to compare with is not there"),
        };
        let kinds = raw.map();
        let (changes, extents) = match since {
            Ok((checkpoint, changed)) => {
                (Changes::Since { checkpoint }, strongroom_domain::extent::intersect(&changed, &kinds))
            }
            Err(why) => (Changes::Full { reason: self.full_reason(disk, Some(why.into())) }, kinds),
        };
        Ok(DiskSnapshot {
            target: disk.target.clone(),
            size_bytes,
            format: disk.format,
            road: Road::Clone,
            changes,
            extents,
            checkpoint: clone.keep.then(|| self.session.checkpoint()),
            reader: Arc::new(raw),
        })
    }

    /// Extents to take over of a disk served over NBD.
    pub fn changes_of(
        &mut self,
        disk: &PlannedDisk,
        nbd: &NbdDisk,
        dirty: Option<(String, Vec<Extent>)>,
        lost: Option<String>,
    ) -> Result<(Changes, Vec<strongroom_domain::TypedExtent>)> {
        let size = nbd.size_bytes();
        let parent_size = disk.parent.as_ref().map_or(0, |p| p.size_bytes);
        match dirty {
            Some((checkpoint, mut dirty)) if parent_size <= size => {
                debug_assert!(checkpoint.starts_with(OWN_PREFIX));
                extents::clip(&mut dirty, size);
                if parent_size < size {
                    extents::add_tail(&mut dirty, parent_size, size);
                }
                Ok((Changes::Since { checkpoint }, nbd.kinds_within(&dirty)?))
            }
            dirty => {
                let lost = dirty.map(|_| "it was made smaller".to_owned()).or(lost);
                Ok((Changes::Full { reason: self.full_reason(disk, lost) }, nbd.kinds()?))
            }
        }
    }
}
