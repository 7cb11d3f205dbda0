//! Disks as read from clones of their files.

use super::backend::{Backend, Clone, Watched};
use super::planned::PlannedDisk;
use super::reconcile::Tracked;
use super::taking::{Taken, Taking};
use super::window::Ended;
use super::{job_xml, pull, state};
use crate::error::{Error, Result};
use crate::export::{NbdDisk, ServeOptions};
use crate::extents;
use crate::files::{self, PreparedClone, RawFile};
use crate::model::{DiskFormat, MachineState};
use crate::snapshot::{Changes, DiskSnapshot, Outcome, Road, SnapshotBackend as _, UseClones};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use strongroom_domain::{Consistency, Extent};

/// What holding a machine and cloning its disks came to.
struct Cloned {
    taken_at: SystemTime,
    consistency: Consistency,
    /// The new one, if changes are tracked from here on.
    checkpoint: Option<String>,
    /// Whether the clones are all of the instant.
    done: Result<()>,
}

impl Taking<'_> {
    /// Why the disks are not cloned, if so.
    pub fn why_no_clones(&self) -> Option<String> {
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

    /// The road on cloning storage, for a machine that has a hypervisor process.
    pub fn clone_running(&mut self, tracked: Tracked) -> Result<Taken> {
        let prepared = self.prepare_clones()?;
        let chains = self.chain_fingerprints()?;
        let Cloned { taken_at, consistency, checkpoint, done } = self.hold_and_clone(&prepared)?;
        let mut backend = Backend {
            session: self.session.clone(),
            disks: self.disks.clone(),
            checkpoint,
            clones: prepared
                .into_iter()
                .map(|p| Clone { file: p.into_file(), keep: false, previous: None })
                .collect(),
            job: None,
            untouched: Arc::new(chains),
            spoiled: self.spoiled.clone(),
            watch: None,
        };
        match done.and_then(|()| self.open_clones(&mut backend, tracked)) {
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

    fn state_now(&self) -> Result<MachineState> {
        state::now(&self.session.dom())
            .map(|(state, _)| state)
            .map_err(|e| e.about("inspecting", &self.session.what()))
    }

    /// Files for the clones, and disks that need no writing out any more.
    fn prepare_clones(&self) -> Result<Vec<PreparedClone>> {
        let name = self.session.checkpoint();
        let mut prepared = Vec::new();
        for disk in &self.disks {
            let path = self.session.clone_path(&disk.path, &disk.target, &name);
            prepared.push(PreparedClone::new(&disk.path, &path)?);
        }
        // What the host has cached of the disks would otherwise be written while the machine is held.
        std::thread::scope(|scope| {
            for clone in &prepared {
                scope.spawn(|| clone.flush_source());
            }
        });
        Ok(prepared)
    }

    /// The instant: while the machine is held, a new checkpoint begins to record and the disks are cloned.
    fn hold_and_clone(&mut self, prepared: &[PreparedClone]) -> Result<Cloned> {
        let session = self.session.clone();
        let name = session.checkpoint();
        let trackable: Vec<(&str, bool)> =
            self.disks.iter().map(|d| (d.target.as_str(), d.can_track())).collect();
        let checkpoint_xml =
            trackable.iter().any(|(_, tracks)| *tracks).then(|| job_xml::checkpoint(&name, &trackable, None));
        // Somebody may have paused or resumed it since it was looked at.
        self.state = self.state_now()?;
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
        let mut ended = self.close_window(window, &mut consistency);
        // One that stands still anyway is not ours to suspend, and may be resumed at any time.
        if !running && self.state_now()? != self.state {
            ended = ended.or(Some(Ended::Resumed));
        }
        let done = cloned.and_then(|()| {
            // Let go, it has written while it was cloned.
            let why = match ended {
                Some(Ended::ByLimit) => "the storage is too slow to clone its disks in time",
                Some(Ended::Resumed) => {
                    "somebody else resumed it while its disks were cloned, so that they are not of one moment; back it up again"
                }
                Some(Ended::Thawed | Ended::Unknown) | None => return Ok(()),
            };
            Err(Error::failed("holding", session.what(), why))
        });
        let checkpoint = match checkpoint {
            Some(Ok(())) => Some(name),
            Some(Err(e)) => {
                self.warnings.push(format!(
                    "changes cannot be tracked from here on, so that the next backup reads everything: {e}"
                ));
                None
            }
            None => None,
        };
        Ok(Cloned { taken_at, consistency, checkpoint, done })
    }

    /// The disks as read from their clones, with what changed since the parents.
    fn open_clones(&mut self, backend: &mut Backend, mut tracked: Tracked) -> Result<Vec<DiskSnapshot>> {
        let mut changed = pull::changed_since(self, &tracked).unwrap_or_else(|error| {
            let why = format!("what changed could not be found out ({error})");
            for target in std::mem::take(&mut tracked.since).into_keys() {
                tracked.lost.insert(target, why.clone());
            }
            BTreeMap::new()
        });
        let checkpoint = backend.checkpoint.clone();
        let mut disks = Vec::new();
        for (disk, clone) in self.disks.clone().iter().zip(&mut backend.clones) {
            let since = tracked.since.get(&disk.target).cloned();
            let dirty = since.and_then(|s| changed.remove(&disk.target).map(|d| (s, d)));
            let lost = tracked.lost.remove(&disk.target);
            disks.push(self.open_clone(disk, clone, dirty, lost, checkpoint.as_deref(), None)?);
        }
        Ok(disks)
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

    fn open_raw_clone(&mut self, disk: &PlannedDisk, clone: &mut Clone, path: &Path) -> Result<DiskSnapshot> {
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
}
