//! Pull-mode backup jobs: as the road itself where disks cannot be cloned, and for a moment on the
//! clone road, to be told what changed.

use super::backend::{Backend, Watched};
use super::conn::VirtError;
use super::job::Job;
use super::job_xml::{self, EXPORT_BITMAP, JobDisk};
use super::reconcile::Tracked;
use super::session::Session;
use super::taking::{Taken, Taking};
use super::{job_end, sys};
use crate::error::{Error, Result};
use crate::export::{NbdDisk, bitmap_context};
use crate::files::{self, OwnedFile};
use crate::limits::{NBD_CONNECTIONS_PER_DISK, SCRATCH_RESERVE_BYTES};
use crate::snapshot::*;
use crate::tools;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use strongroom_domain::{Consistency, Extent};
use strongroom_nbd::Endpoint;

/// Where block devices' scratch files go when nothing else is said.
const SCRATCH_DIR_DEFAULT: &str = "/var/tmp";

fn scratch_directory(taking: &Taking<'_>, index: usize) -> PathBuf {
    let disk = &taking.disks[index];
    match &taking.request.scratch_dir {
        Some(directory) => directory.clone(),
        None if disk.is_block => SCRATCH_DIR_DEFAULT.into(),
        None => disk.directory(),
    }
}

/// The files, and for each of the disks the path of its.
type Scratch = (Vec<OwnedFile>, Vec<Option<PathBuf>>);

/// Makes the scratch files of the disks that take part; `None` for the others.
///
/// They are made here, ahead of time, rather than by libvirt: that takes it out of the time in which
/// the guest is frozen, and QEMU 7.2 dies of an assertion when anybody asks it about its images in the
/// moment it makes one.
fn make_scratch(taking: &Taking<'_>, takes_part: impl Fn(&str) -> bool) -> Result<Scratch> {
    let session = &taking.session;
    let mut files = Vec::new();
    let mut paths = Vec::new();
    for (index, disk) in taking.disks.iter().enumerate() {
        if !takes_part(&disk.target) {
            paths.push(None);
            continue;
        }
        let info = session.dom().block_info(&disk.target);
        let size_bytes = info.map_err(|e| e.about("looking at", &session.disk(&disk.target)))?.capacity;
        let path = session.scratch_path(&scratch_directory(taking, index), &disk.target);
        files.push(OwnedFile::create(&path)?);
        tools::create_qcow2(&path, size_bytes)?;
        paths.push(Some(path));
    }
    Ok((files, paths))
}

fn job_of(
    taking: &Taking<'_>,
    socket: &Path,
    scratch: &[Option<PathBuf>],
    since: &BTreeMap<String, String>,
) -> String {
    let disks: Vec<JobDisk<'_>> = taking
        .disks
        .iter()
        .zip(scratch)
        .map(|(disk, scratch)| JobDisk {
            target: &disk.target,
            scratch: scratch.as_deref(),
            since: since.get(&disk.target).map(String::as_str),
        })
        .collect();
    job_xml::pull_job(socket, &disks)
}

fn begin_error(taking: &Taking<'_>, error: VirtError) -> Error {
    match error.code {
        // Also what libvirt says when a migration, a snapshot or the like is under way.
        sys::ERR_OPERATION_INVALID => Error::Busy { what: taking.session.what(), why: error.message },
        _ => error.about("beginning a backup job on", &taking.session.what()),
    }
}

/// A job could not begin because another is there. It may be one that libvirt still began for a
/// process of ours that was killed meanwhile; then it is ended. Otherwise `error` it is.
fn end_late_job(taking: &mut Taking<'_>, error: VirtError) -> Result<()> {
    let before = taking.warnings.len();
    let session = taking.session.clone();
    job_end::end_leftover_job(&session, &mut taking.warnings)?;
    if taking.warnings.len() > before { Ok(()) } else { Err(begin_error(taking, error)) }
}

/// What changed since the parents, by a job that lives just for the question. It sees a little more
/// than was changed at the snapshot's instant, never less.
pub fn changed_since(taking: &mut Taking<'_>, tracked: &Tracked) -> Result<BTreeMap<String, Vec<Extent>>> {
    if tracked.since.is_empty() {
        return Ok(BTreeMap::new());
    }
    let session = taking.session.clone();
    let socket = session.job_socket()?;
    let (scratch, paths) = make_scratch(taking, |target| tracked.since.contains_key(target))?;
    let xml = job_of(taking, &socket, &paths, &tracked.since);
    job_end::end_leftover_job(&session, &mut taking.warnings)?;
    let job = Job::prepare(&session, &socket, scratch, None)?;
    if let Err(e) = begin(&session, &job, &xml, None) {
        if !e.is_in_the_way() {
            return Err(begin_error(taking, e));
        }
        end_late_job(taking, e)?;
        begin(&session, &job, &xml, None).map_err(|e| begin_error(taking, e))?;
    }
    let endpoint = Endpoint::Unix(socket);
    let found = tracked
        .since
        .keys()
        .map(|target| {
            let contexts = [bitmap_context(EXPORT_BITMAP)];
            let nbd = NbdDisk::connect(&endpoint, target, &contexts, 1, &session.disk(target))?;
            Ok((target.clone(), nbd.dirty(EXPORT_BITMAP)?))
        })
        .collect::<Result<_>>();
    job.end(&session)?;
    found
}

/// Has libvirt begin a job. Where the answer was lost with libvirt, it may have begun.
fn begin(session: &Session, job: &Job, xml: &str, checkpoint: Option<&str>) -> Result<(), VirtError> {
    job.begins();
    let begun = session.dom().backup_begin(xml, checkpoint);
    if begun.as_ref().is_err_and(|e| !e.is_away()) {
        job.did_not_begin();
    }
    begun
}

/// The road where disks cannot be cloned: the job stays open while its data is read.
pub fn take(taking: &mut Taking<'_>, mut tracked: Tracked) -> Result<Taken> {
    let session = taking.session.clone();
    let socket = session.job_socket()?;
    check_scratch_room(taking)?;
    let (scratch, paths) = make_scratch(taking, |_| true)?;
    let job = Job::prepare(&session, &socket, scratch, taking.request.scratch_limit_bytes)?;
    let Begun { taken_at, consistency, trackable } = begin_road(taking, &job, &paths, &mut tracked)?;
    let mut backend = Backend {
        session: session.clone(),
        disks: taking.disks.clone(),
        checkpoint: trackable.iter().any(|(_, on)| *on).then(|| session.checkpoint()),
        clones: Vec::new(),
        job: Some(Arc::new(job)),
        untouched: Arc::default(),
        spoiled: taking.spoiled.clone(),
        watch: None,
    };
    backend.start_watch();
    match open_exports(taking, &Endpoint::Unix(socket), &trackable, tracked) {
        Ok(disks) => Ok(Taken { taken_at, consistency, disks, backend }),
        Err(error) => {
            let _ = backend.finish(Outcome::Abandoned);
            Err(error)
        }
    }
}

/// Refuses scratch directories without any room to speak of.
fn check_scratch_room(taking: &Taking<'_>) -> Result<()> {
    for index in 0..taking.disks.len() {
        let directory = scratch_directory(taking, index);
        let free = files::free_bytes(&directory)
            .ok_or_else(|| Error::NotFound { what: format!("scratch directory {}", directory.display()) })?;
        if free < SCRATCH_RESERVE_BYTES / 16 {
            return Err(Error::failed(
                "backing up",
                taking.session.what(),
                format!(
                    "the scratch directory {} has only {free} bytes free; choose another",
                    directory.display()
                ),
            ));
        }
    }
    Ok(())
}

/// A job that is open.
struct Begun {
    taken_at: SystemTime,
    consistency: Consistency,
    /// By target: whether its changes are tracked from here on.
    trackable: Vec<(String, bool)>,
}

/// Begins the job in the window. Should libvirt refuse what reconciliation found sound, it goes without: first without the
/// parents, then without a new checkpoint.
fn begin_road(
    taking: &mut Taking<'_>,
    job: &Job,
    scratch: &[Option<PathBuf>],
    tracked: &mut Tracked,
) -> Result<Begun> {
    let session = taking.session.clone();
    let name = session.checkpoint();
    let mut trackable: Vec<(String, bool)> =
        taking.disks.iter().map(|d| (d.target.clone(), d.can_track())).collect();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let list: Vec<(&str, bool)> = trackable.iter().map(|(t, on)| (t.as_str(), *on)).collect();
        let checkpoint_xml = list.iter().any(|(_, on)| *on).then(|| job_xml::checkpoint(&name, &list, None));
        let xml = job_of(taking, &job.socket, scratch, &tracked.since);
        // Once more, as late as can be: libvirt would wait for half a minute, with the guest frozen.
        job_end::end_leftover_job(&session, &mut taking.warnings)?;
        let (window, mut consistency) = taking.open_window(false)?;
        let begun = begin(&session, job, &xml, checkpoint_xml.as_deref());
        let taken_at = SystemTime::now();
        taking.close_window(window, &mut consistency);
        match begun {
            Ok(()) => return Ok(Begun { taken_at, consistency, trackable }),
            Err(e) if attempt > 3 => return Err(begin_error(taking, e)),
            Err(e) if e.is_in_the_way() => end_late_job(taking, e)?,
            Err(e) if !tracked.since.is_empty() => {
                for target in std::mem::take(&mut tracked.since).into_keys() {
                    tracked.lost.insert(target, format!("its changes could not be used ({e})"));
                }
            }
            Err(e) if checkpoint_xml.is_some() => {
                taking.warnings.push(format!(
                    "changes cannot be tracked from here on, so that the next backup reads everything: {e}"
                ));
                trackable.iter_mut().for_each(|(_, on)| *on = false);
            }
            Err(e) => return Err(begin_error(taking, e)),
        }
    }
}

/// The disks as the job serves them, with what changed since the parents.
fn open_exports(
    taking: &mut Taking<'_>,
    endpoint: &Endpoint,
    trackable: &[(String, bool)],
    mut tracked: Tracked,
) -> Result<Vec<DiskSnapshot>> {
    let session = taking.session.clone();
    let mut disks = Vec::new();
    for (disk, (_, is_tracked)) in taking.disks.clone().iter().zip(trackable) {
        let since = tracked.since.get(&disk.target).cloned();
        let contexts: Vec<String> = since.iter().map(|_| bitmap_context(EXPORT_BITMAP)).collect();
        let what = session.disk(&disk.target);
        let nbd = NbdDisk::connect(endpoint, &disk.target, &contexts, NBD_CONNECTIONS_PER_DISK, &what)?;
        let dirty = match since {
            Some(checkpoint) => Some((checkpoint, nbd.dirty(EXPORT_BITMAP)?)),
            None => None,
        };
        let lost = tracked.lost.remove(&disk.target).or_else(|| {
            (!disk.can_track()).then(|| match disk.image {
                Some(_) => "its image or its machine cannot keep track of changes".to_owned(),
                None => "raw disks keep no track of changes on this storage".to_owned(),
            })
        });
        let (changes, extents) = taking.changes_of(disk, &nbd, dirty, lost)?;
        disks.push(DiskSnapshot {
            target: disk.target.clone(),
            size_bytes: nbd.size_bytes(),
            format: disk.format,
            road: Road::PullJob,
            changes,
            extents,
            checkpoint: is_tracked.then(|| session.checkpoint()),
            reader: Arc::new(Watched { inner: nbd, spoiled: taking.spoiled.clone() }),
        });
    }
    Ok(disks)
}
