//! A machine that is shut off. Its disks are cloned where the storage can, else read in place, without
//! locks: it can be started at any time, and reading then fails cleanly.
//!
//! Changes come from the bitmaps that QEMU left in qcow2 images. The next snapshot's bitmap is put into
//! the image here and made known to libvirt as a checkpoint, which validates it at the machine's next start.

use super::backend::{Backend, Clone, Watched, changed_since};
use super::dom::{CHECKPOINT_REDEFINE, Dom};
use super::planned::PlannedDisk;
use super::taking::{Taken, Taking};
use super::{job_xml, reconcile, state};
use crate::error::{Error, Result};
use crate::export::{NbdDisk, ServeOptions};
use crate::files::{self, PreparedClone, RawFile};
use crate::limits::OWN_CHECKPOINTS_KEPT;
use crate::model::DiskFormat;
use crate::reader::ReadDisk;
use crate::snapshot::*;
use crate::tools::{self, ImageInfo};
use crate::whole::{self, Condition};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use strongroom_domain::{Consistency, ConsistencyLevel};

pub fn take(taking: &mut Taking<'_>, cloneable: bool) -> Result<Taken> {
    let session = taking.session.clone();
    let name = session.checkpoint();
    for disk in &taking.disks {
        if disk.is_encrypted {
            return Err(Error::unsupported(
                session.disk(&disk.target),
                "it is encrypted by QEMU and can only be read while the machine runs; start it, or exclude the disk",
            ));
        }
        check_whole(disk, &session.disk(&disk.target))?;
    }
    let consistency = consistency(taking);
    // A saved memory image goes on with the disks exactly as they are.
    let is_saved = session
        .dom()
        .has_managed_save()
        .map_err(|e| e.about("asking for the saved memory of", &session.what()))?;
    let mut since = BTreeMap::new();
    let mut lost = BTreeMap::new();
    let tracked = if is_saved { Vec::new() } else { prepare_bitmaps(taking, &name, &mut since, &mut lost)? };
    let checkpoint = (!tracked.is_empty()).then(|| name.clone());
    let mut backend = Backend {
        session: session.clone(),
        disks: taking.disks.clone(),
        checkpoint,
        clones: Vec::new(),
        job: None,
        untouched: Arc::default(),
        spoiled: taking.spoiled.clone(),
        watch: None,
    };
    let opened = open(taking, &mut backend, cloneable, &tracked, &since, &mut lost);
    match opened {
        Ok((taken_at, disks)) => {
            backend.start_watch();
            Ok(Taken { taken_at, consistency, disks, backend })
        }
        Err(error) => {
            let _ = backend.finish(Outcome::Abandoned);
            Err(error)
        }
    }
}

/// Refuses a disk of which some image is cut short or damaged: QEMU would read zeroes there. Looks at next to nothing, unless
/// that gives reason to.
fn check_whole(disk: &PlannedDisk, what: &str) -> Result<()> {
    for layer in std::iter::once(&disk.layer).chain(disk.layer.below()) {
        let Some(path) = layer.place.path().filter(|_| layer.format == DiskFormat::Qcow2.name()) else {
            continue;
        };
        if whole::qcow2_suspicion(path)?.is_none() {
            continue;
        }
        if let Condition::Damaged(why) = whole::check_itself(path)? {
            return Err(Error::unsupported(
                what,
                format!(
                    "{} is damaged: {why}. Read as it is, it would be backed up with zeroes in place of what is missing; put it right \
                     (`qemu-img check`), restore it from an earlier point, or exclude the disk",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

fn consistency(taking: &Taking<'_>) -> Consistency {
    let crash = |why: &str| Consistency::new(ConsistencyLevel::Crash, why);
    match taking.state_reason {
        state::SHUTOFF_SHUTDOWN => {
            Consistency::new(ConsistencyLevel::FileSystem, "the machine was shut down cleanly")
        }
        state::SHUTOFF_DESTROYED => crash("the machine was powered off without a shutdown"),
        state::SHUTOFF_CRASHED => crash("the machine had crashed"),
        state::SHUTOFF_SAVED => {
            crash("the machine's memory was saved while it ran; it is not part of the backup")
        }
        _ => crash("how the machine was shut off is not known"),
    }
}

/// Finds the parents' bitmaps and adds the new one to each image that can hold it; returns the
/// targets where that was done.
fn prepare_bitmaps(
    taking: &mut Taking<'_>,
    name: &str,
    since: &mut BTreeMap<String, String>,
    lost: &mut BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let session = taking.session.clone();
    let dom = &session.dom();
    let known = dom.checkpoints().map_err(|e| e.about("listing checkpoints of", &session.what()))?;
    let known: BTreeSet<String> = known.into_iter().collect();
    let mut alive: BTreeSet<String> = BTreeSet::new();
    let mut tracked = Vec::new();
    let disks = taking.disks.clone();
    for disk in disks.iter().filter(|d| d.format == DiskFormat::Qcow2) {
        let Some(image) = &disk.image else { continue };
        find_parent(taking, disk, image, &known, &mut alive, since, lost);
        if !disk.can_track() || image.has_data_file {
            continue;
        }
        match tools::bitmap_add(&disk.path, name) {
            Ok(()) => tracked.push(disk.target.clone()),
            Err(error @ Error::Busy { .. }) => {
                tracked.iter().for_each(|target| undo(&disks, target, name));
                return Err(error);
            }
            Err(error) => taking.warnings.push(format!(
                "changes of {} cannot be tracked from here on, so that its next backup reads everything: {error}",
                session.disk(&disk.target)
            )),
        }
    }
    // Checkpoints of ours that no image knows any more.
    for gone in known.iter().filter(|n| reconcile::is_own_name(n) && !alive.contains(*n)) {
        reconcile::drop_offline(&session, &disks, gone, &mut taking.warnings);
    }
    if tracked.is_empty() || !define_checkpoint(taking, dom, &disks, &tracked, name) {
        return Ok(Vec::new());
    }
    let keep: BTreeSet<&str> = since.values().map(String::as_str).chain([name]).collect();
    reconcile::prune(&session, &disks, &keep, OWN_CHECKPOINTS_KEPT + 1, &mut taking.warnings);
    Ok(tracked)
}

/// Whether the parent's bitmap can be relied on, else why not; sound bitmaps are `alive`, others of ours are removed.
fn find_parent(
    taking: &mut Taking<'_>,
    disk: &PlannedDisk,
    image: &ImageInfo,
    known: &BTreeSet<String>,
    alive: &mut BTreeSet<String>,
    since: &mut BTreeMap<String, String>,
    lost: &mut BTreeMap<String, String>,
) {
    let session = taking.session.clone();
    let parent = disk.parent.as_ref().map(|p| p.checkpoint.as_str()).filter(|p| reconcile::is_own_name(p));
    for bitmap in image.bitmaps.iter().filter(|b| reconcile::is_own_name(&b.name)) {
        let is_parent = parent == Some(bitmap.name.as_str());
        if bitmap.is_sound() && (is_parent || known.contains(&bitmap.name)) {
            alive.insert(bitmap.name.clone());
            if is_parent && !disk.has_backing() {
                since.insert(disk.target.clone(), bitmap.name.clone());
            }
            continue;
        }
        if is_parent {
            lost.insert(
                disk.target.clone(),
                "its change tracking was not closed cleanly (the machine or its host crashed)".into(),
            );
        }
        reconcile::remove_offline_bitmap(&session, disk, &bitmap.name, &mut taking.warnings);
    }
    if let Some(parent) = parent
        && !since.contains_key(&disk.target)
    {
        lost.entry(disk.target.clone()).or_insert_with(|| {
            if disk.has_backing() {
                "its changes are spread over a chain of images, which are told only while it runs".into()
            } else {
                format!("its checkpoint `{parent}` was deleted")
            }
        });
    }
}

/// Makes the new bitmaps known to libvirt; where it will not have them, they are taken back, and the answer is no.
fn define_checkpoint(
    taking: &mut Taking<'_>,
    dom: &Dom,
    disks: &[PlannedDisk],
    tracked: &[String],
    name: &str,
) -> bool {
    let list: Vec<(&str, bool)> =
        disks.iter().map(|d| (d.target.as_str(), tracked.contains(&d.target))).collect();
    let xml = job_xml::checkpoint(name, &list, Some(reconcile::seconds_now()));
    if let Err(e) = dom.checkpoint_create(&xml, CHECKPOINT_REDEFINE) {
        tracked.iter().for_each(|target| undo(disks, target, name));
        taking.warnings.push(format!(
            "changes cannot be tracked from here on, so that the next backup reads everything: {e}"
        ));
        return false;
    }
    true
}

fn undo(disks: &[PlannedDisk], target: &str, name: &str) {
    if let Some(disk) = disks.iter().find(|d| d.target == target)
        && let Err(error) = tools::bitmap_remove(&disk.path, name)
    {
        tracing::warn!(target, %error, "a new bitmap could not be taken back");
    }
}

type Opened = (SystemTime, Vec<DiskSnapshot>);

fn open(
    taking: &mut Taking<'_>,
    backend: &mut Backend,
    cloneable: bool,
    tracked: &[String],
    since: &BTreeMap<String, String>,
    lost: &mut BTreeMap<String, String>,
) -> Result<Opened> {
    let session = taking.session.clone();
    let name = session.checkpoint();
    let disks = taking.disks.clone();
    let fingerprints = disks
        .iter()
        .map(|d| Ok((d.path.clone(), files::fingerprint(&d.path)?)))
        .collect::<Result<Vec<_>>>()?;
    let chains = taking.chain_fingerprints()?;
    let taken_at = SystemTime::now();
    if cloneable {
        for disk in &disks {
            let path: PathBuf = session.clone_path(&disk.path, &disk.target, &name);
            let prepared = PreparedClone::new(&disk.path, &path)?;
            prepared.run().map_err(|e| Error::failed("cloning", session.disk(&disk.target), e))?;
            backend.clones.push(Clone { file: prepared.into_file(), keep: false, previous: None });
        }
        // Cloned from a machine that was still off.
        still_off(taking, &fingerprints)?;
        backend.untouched = Arc::new(chains);
    } else {
        still_off(taking, &fingerprints)?;
        backend.untouched = Arc::new(fingerprints.into_iter().chain(chains).collect());
    }
    let mut opened = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let bitmap = since.get(&disk.target).map(String::as_str);
        let checkpoint = tracked.contains(&disk.target).then_some(name.as_str());
        let lost = lost.remove(&disk.target);
        opened.push(if cloneable {
            taking.open_clone(disk, &mut backend.clones[index], None, lost, checkpoint, bitmap)?
        } else {
            open_in_place(taking, disk, backend, bitmap, lost, checkpoint)?
        });
    }
    Ok((taken_at, opened))
}

fn still_off(taking: &Taking<'_>, fingerprints: &[(PathBuf, files::Fingerprint)]) -> Result<()> {
    let active = taking.session.dom().is_active();
    if active.map_err(|e| e.about("asking for the state of", &taking.session.what()))? {
        return Err(Error::Busy {
            what: taking.session.what(),
            why: "it was started just now; run the backup again".into(),
        });
    }
    changed_since(fingerprints, &taking.session.what())
}

fn open_in_place(
    taking: &mut Taking<'_>,
    disk: &PlannedDisk,
    backend: &Backend,
    bitmap: Option<&str>,
    lost: Option<String>,
    checkpoint: Option<&str>,
) -> Result<DiskSnapshot> {
    let spoiled = backend.spoiled.clone();
    let what = taking.session.disk(&disk.target);
    let (size_bytes, changes, extents, reader): (_, _, _, Arc<dyn ReadDisk>) = match disk.format {
        DiskFormat::Qcow2 => {
            let options = ServeOptions { bitmap, without_locks: true };
            let nbd = NbdDisk::open_image(&disk.layer, &options, &taking.session.run_directory, &what)?;
            let dirty = match bitmap {
                Some(name) => Some((name.to_owned(), nbd.dirty(name)?)),
                None => None,
            };
            let (changes, extents) = taking.changes_of(disk, &nbd, dirty, lost)?;
            (nbd.size_bytes(), changes, extents, Arc::new(Watched { inner: nbd, spoiled }))
        }
        DiskFormat::Raw => {
            let raw = RawFile::open(&disk.path)?;
            let why = lost.unwrap_or_else(|| "raw disks keep no track of changes on this storage".into());
            let changes = Changes::Full { reason: taking.full_reason(disk, Some(why)) };
            (raw.size_bytes(), changes, raw.map(), Arc::new(Watched { inner: raw, spoiled }))
        }
    };
    Ok(DiskSnapshot {
        target: disk.target.clone(),
        size_bytes,
        format: disk.format,
        road: Road::Offline,
        changes,
        extents,
        checkpoint: checkpoint.map(str::to_owned),
        reader,
    })
}
