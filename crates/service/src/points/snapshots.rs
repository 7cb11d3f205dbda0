//! The snapshot tier: clones of machines' disks, beside them, from which points are restored at once.
//!
//! A backup's point exists as soon as its snapshot is kept (see [`super::backup`]); the transfer into the vault follows. From
//! then on the snapshot is a second way to the same bytes, until it expires by the policy, or its space is needed: then the
//! oldest go first, and only ever those that are in the vault. `docs/snapshots.md` says what is kept where.
//!
//! Who reads a snapshot holds it ([`hold`]); who removes one claims it, which nobody can while it is held. The row changes
//! before the files go: cut short, the files are found and removed as nobody's later ([`remove_orphans`]).

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::{Inner, Service};
use crate::jobs::ledger as jobs;
use crate::limits::{
    FREE_LOOK_INTERVAL, FREE_SETTLED, FREE_SETTLED_MAX, ORPHANS_INTERVAL, SNAPSHOT_DAYS_DEFAULT,
    SNAPSHOT_DAYS_MAX,
};
use crate::points::lookup as points;
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;
use strongroom_catalog::{
    Change, Item, Job, Point, PointSnapshot, Policy, Query, ServiceError, Transfer, Vault,
};
use strongroom_domain::PointId;
use strongroom_domain::retention::RetentionMode;
use strongroom_engine::machine::Facts;
use strongroom_engine::source::PointSource;
use strongroom_hypervisor::{Hypervisor, Outcome};
use strongroom_store::{Manifest, ReadSession};
use uuid::Uuid;

/// Who reads snapshots and who removes them, and where there are any.
#[derive(Default)]
pub struct Snapshots {
    users: Mutex<Users>,
    /// Directories that snapshots were seen in.
    places: Mutex<BTreeSet<PathBuf>>,
    orphans_looked_for: Mutex<Option<Instant>>,
    /// Read while a snapshot is kept that has no row yet; written while what has none is removed.
    keeping: RwLock<()>,
}

#[derive(Default)]
struct Users {
    held: HashMap<PointId, usize>,
    claimed: HashSet<PointId>,
}

/// Keeps a snapshot from being removed while it is read.
pub struct Hold {
    service: Service,
    point: PointId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut users = self.service.snapshots().users.lock();
        if let Some(count) = users.held.get_mut(&self.point) {
            *count -= 1;
            if *count == 0 {
                users.held.remove(&self.point);
            }
        }
    }
}

/// The right to remove a snapshot: nobody reads it, and nobody begins to.
pub(crate) struct Claim<'s> {
    snapshots: &'s Snapshots,
    point: PointId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.snapshots.users.lock().claimed.remove(&self.point);
    }
}

impl Inner {
    /// Who reads snapshots and who removes them.
    pub(crate) fn snapshots(&self) -> &Snapshots {
        self.part()
    }
}

impl Snapshots {
    /// None: somebody reads it, or is removing it already.
    pub(crate) fn claim(&self, point: PointId) -> Option<Claim<'_>> {
        let mut users = self.users.lock();
        if users.held.contains_key(&point) || !users.claimed.insert(point) {
            return None;
        }
        Some(Claim { snapshots: self, point })
    }

    /// To be held from before a snapshot is kept until its row is written.
    pub(crate) fn keeping(&self) -> RwLockReadGuard<'_, ()> {
        self.keeping.read()
    }

    fn note_place(&self, record: &Path) {
        if let Some(directory) = record.parent() {
            self.places.lock().insert(directory.to_owned());
        }
    }
}

/// Holds a point's snapshot, if it has one.
pub(crate) fn hold(service: &Service, point: PointId) -> Result<Option<(Hold, PointSnapshot)>> {
    // Under the lock: whoever removes it has either changed the row already, or finds it held.
    let mut users = service.snapshots().users.lock();
    if users.claimed.contains(&point) {
        return Ok(None);
    }
    let row: Option<Point> = service.catalog.get(point)?;
    let Some(snapshot) = row.and_then(|p| p.snapshot) else { return Ok(None) };
    *users.held.entry(point).or_insert(0) += 1;
    drop(users);
    Ok(Some((Hold { service: service.clone(), point }, snapshot)))
}

/// A point that is open for a restore.
pub(crate) struct OpenPoint {
    pub source: PointSource,
    pub manifest: Manifest,
    /// What the user should know of the choice.
    pub warnings: Vec<String>,
}

/// Opens a point: from its snapshot while there is one, which needs nothing of the vault, else from the vault.
/// `machine`: whose it is, where it is still there.
pub(crate) fn open_point(
    service: &Service,
    vault: &Vault,
    machine: &str,
    id: PointId,
    purpose: &str,
) -> Result<OpenPoint> {
    let row: Option<Point> = service.catalog.get(id)?;
    let transfer = row.map(|p| p.transfer).unwrap_or_default();
    let mut warnings = Vec::new();
    if let Some((hold, snapshot)) = hold(service, id)? {
        let opened = service.host(&snapshot.host).and_then(|host| {
            let record = locate(service, id, &snapshot, &*host.hypervisor, machine)?;
            let (open, kept) = host.hypervisor.open_kept(&record)?;
            let manifest = strongroom_engine::machine::manifest_of_kept(&open, &Facts::of(&kept)?)?;
            Ok((PointSource::snapshot(open, kept, Box::new(hold)), manifest))
        });
        match opened {
            Ok((source, manifest)) => return Ok(OpenPoint { source, manifest, warnings }),
            Err(error) if transfer == Transfer::Done => {
                tracing::warn!(point = %id, %error, "a snapshot cannot be read; the vault is");
                warnings.push(format!(
                    "the point's snapshot could not be used, so it was read from the vault: {error}"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if transfer != Transfer::Done {
        return Err(Error::not_found(
            "The recovery point's snapshot is gone, and its data never came into the vault: choose another point.",
        )
        .coded("UserErrorRecoveryPointNotFound"));
    }
    let store = service.store(vault)?;
    let session = ReadSession::begin(&store, purpose)?;
    let manifest = store.point(&id)?;
    Ok(OpenPoint { source: session.into(), manifest, warnings })
}

/// Fails for a point that is not in the vault: some things are done from there alone.
pub(crate) fn check_vaulted(point: &Point) -> Result<()> {
    let why = match &point.transfer {
        Transfer::Done => return Ok(()),
        Transfer::Pending => "is still on its way into the vault: wait until its backup job is over",
        Transfer::Failed { .. } => "never came into the vault: choose another one",
    };
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Recovery point '{}' {why}, or restore its disks or a new machine, which its snapshot is enough for.",
            point.name
        ),
    )
    .coded("UserErrorRecoveryPointNotInVault"))
}

/// The point of a job whose transfer is not over.
pub(crate) fn pending(service: &Service, job: &Job) -> Result<Option<Point>> {
    let Some(item) = job.item else { return Ok(None) };
    // Points are taken after their job began; the clock may have been put back since.
    let newest: Vec<Point> =
        service.catalog.find(&Query::all().eq("item", item).descending("taken_us").limit(50))?;
    Ok(newest.into_iter().find(|p| p.job == Some(job.id) && p.transfer == Transfer::Pending))
}

/// When a snapshot taken at `taken_at` expires, by the item's policy.
pub(crate) fn expires_at(service: &Service, item: &Item, taken_at: Timestamp) -> Result<Timestamp> {
    let policy: Option<Policy> = item.policy.map(|id| service.catalog.get(id)).transpose()?.flatten();
    let rules = policy.map(|p| p.rules).or_else(|| item.last_rules.clone());
    let days = rules.map_or(SNAPSHOT_DAYS_DEFAULT, |r| r.snapshot_days).min(SNAPSHOT_DAYS_MAX);
    Ok(taken_at.saturating_add(SignedDuration::from_hours(24 * i64::from(days)))?)
}

/// Where a point's record is: where it was, or beside the machine's disks where those are now.
pub(crate) fn locate(
    service: &Service,
    point: PointId,
    snapshot: &PointSnapshot,
    hypervisor: &dyn Hypervisor,
    machine: &str,
) -> Result<PathBuf> {
    if snapshot.record.exists() {
        return Ok(snapshot.record.clone());
    }
    let disks = hypervisor.inspect(machine).map(|m| m.disks).unwrap_or_default();
    let directories: BTreeSet<&Path> = disks.iter().filter_map(|d| d.source.path()?.parent()).collect();
    for directory in directories {
        let kept = hypervisor.kept_in(directory).unwrap_or_default();
        let Some(found) = kept.iter().find(|k| Facts::of(k).is_ok_and(|f| f.point == point)) else {
            continue;
        };
        service.catalog.update::<Point, Error>(point, |row| {
            if let Some(snapshot) = &mut row.snapshot {
                snapshot.record.clone_from(&found.record);
            }
            Ok(Vec::new())
        })?;
        service.snapshots().note_place(&found.record);
        return Ok(found.record.clone());
    }
    Err(Error::not_found(format!(
        "The snapshot's record {} is not there: mount its file system, or put it back beside the machine's disks.",
        snapshot.record.display()
    )))
}

/// It was kept: where to look for others.
pub(crate) fn note(service: &Service, record: &Path) {
    service.snapshots().note_place(record);
}

/// After the end of a job whose point never came into the vault: the machine's change tracking goes on from the parent, and
/// of a point that was dropped the files go. What fails here is made up for by the next backup, and by [`remove_orphans`].
pub(crate) fn abandoned(service: &Service, point: &Point, remove: bool) {
    let Some(snapshot) = &point.snapshot else { return };
    let Ok(host) = service.host(&snapshot.host) else { return };
    let record = record_of(service, point.id, point.item, snapshot, &*host.hypervisor);
    let record = record.unwrap_or_else(|_| snapshot.record.clone());
    match host.hypervisor.conclude_kept(&record, Outcome::Abandoned) {
        Ok(warnings) => warnings.iter().for_each(|w| tracing::warn!(point = %point.id, "{w}")),
        Err(error) => tracing::warn!(point = %point.id, %error, "the next backup tidies the machine up"),
    }
    if remove && let Err(error) = host.hypervisor.remove_kept(&record) {
        tracing::warn!(point = %point.id, %error, "a snapshot's files will be removed later");
    }
}

/// Removes the snapshot of a point that is in the vault; of one that is not, the point. Returns whether that was done.
pub(crate) fn remove(service: &Service, point: &Point, why: &str) -> Result<bool> {
    let Some(_claim) = service.snapshots().claim(point.id) else { return Ok(false) };
    let Some(snapshot) = point.snapshot.clone() else { return Ok(false) };
    let mut row = point.clone();
    let change = match row.transfer {
        Transfer::Pending => return Ok(false),
        // All there is of the point: a job that reads it, or is going to, keeps it.
        Transfer::Failed { .. } if jobs::needing(service, &row)?.is_some() => return Ok(false),
        Transfer::Failed { .. } => Change::delete(&row),
        Transfer::Done => {
            row.snapshot = None;
            row.no_snapshot = why.to_owned();
            row.snapshot_ended_at = Some(service.now());
            Change::put(&row)
        }
    };
    match service.catalog.apply(&[change]) {
        Ok(()) => {}
        // Changed meanwhile: it is looked at again.
        Err(ServiceError::Conflict { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(point = %point.id, why, "a snapshot goes");
    remove_files(service, point.id, point.item, &snapshot)?;
    Ok(true)
}

/// Removes a snapshot's files, wherever they were moved.
pub(crate) fn remove_files(
    service: &Service,
    point: PointId,
    item: Uuid,
    snapshot: &PointSnapshot,
) -> Result<()> {
    let hypervisor = service.host(&snapshot.host)?.hypervisor.clone();
    Ok(hypervisor.remove_kept(&record_of(service, point, item, snapshot, &*hypervisor)?)?)
}

/// Where the record is, or else was.
fn record_of(
    service: &Service,
    point: PointId,
    item: Uuid,
    snapshot: &PointSnapshot,
    hypervisor: &dyn Hypervisor,
) -> Result<PathBuf> {
    let Some(item) = service.catalog.get::<Item>(item)? else { return Ok(snapshot.record.clone()) };
    let found = locate(service, point, snapshot, hypervisor, &item.machine_name);
    Ok(found.unwrap_or_else(|_| snapshot.record.clone()))
}

/// All points with a snapshot, the oldest first.
fn with_snapshot(service: &Service) -> Result<Vec<Point>> {
    // No snapshot is kept for longer; a clock that was put back by more must not hide one for good.
    let from =
        service.now().saturating_sub(SignedDuration::from_hours(24 * 3 * i64::from(SNAPSHOT_DAYS_MAX)))?;
    let query = Query::all().at_least("taken_us", from).ascending("taken_us");
    let points: Vec<Point> = service.catalog.find(&query)?;
    let found: Vec<Point> = points.into_iter().filter(|p| p.snapshot.is_some()).collect();
    for snapshot in found.iter().filter_map(|p| p.snapshot.as_ref()) {
        service.snapshots().note_place(&snapshot.record);
    }
    Ok(found)
}

/// Snapshots whose time is over, by the policy as it is now, go. The caller trusts the clock. One that is not in the vault stays
/// while it is its item's newest point: it is all there is of the machine's last state; and while nothing of its item's goes.
pub(crate) fn expire(service: &Service) -> Result<usize> {
    let now = service.now();
    let mut gone = 0;
    let mut items: HashMap<Uuid, Option<Item>> = HashMap::new();
    for point in with_snapshot(service)? {
        if service.life.is_stopping() {
            return Ok(gone);
        }
        let item = match items.entry(point.item) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(service.catalog.get(point.item)?),
        };
        let point = match item {
            Some(item) => follow_policy(service, item, point)?,
            None => point,
        };
        if point.snapshot.as_ref().is_none_or(|s| s.expires_at > now) {
            continue;
        }
        if point.missing_since.is_some() {
            // All there is of it, until it is found in the vault again.
            continue;
        }
        if point.transfer != Transfer::Done {
            // All there is of a point that is to be kept.
            if item.as_ref().is_some_and(|i| i.state.retention_mode() == RetentionMode::KeepAll) {
                continue;
            }
            let newest_first: Vec<Point> =
                service.catalog.find(&Query::all().eq("item", point.item).descending("taken_us"))?;
            let newest = newest_first.iter().find(|n| points::is_there(n) || n.snapshot.is_some());
            if newest.is_none_or(|n| n.id == point.id) {
                continue;
            }
        }
        // Restores read it from here sooner than from the vault.
        if jobs::needing(service, &point)?.is_some() {
            continue;
        }
        match remove(service, &point, "its time, which the policy gives, is over") {
            Ok(done) => gone += usize::from(done),
            Err(error) => {
                tracing::error!(point = %point.id, %error, "an expired snapshot could not be removed")
            }
        }
    }
    Ok(gone)
}

/// A policy's change counts for snapshots that are there already.
fn follow_policy(service: &Service, item: &Item, mut point: Point) -> Result<Point> {
    let expires_at = expires_at(service, item, point.taken_at)?;
    let Some(snapshot) = point.snapshot.as_mut().filter(|s| s.expires_at != expires_at) else {
        return Ok(point);
    };
    snapshot.expires_at = expires_at;
    match service.catalog.apply(&[Change::put(&point)]) {
        Ok(()) => point.version += 1,
        // Changed meanwhile: it is looked at again.
        Err(ServiceError::Conflict { .. }) => point.snapshot = None,
        Err(error) => return Err(error.into()),
    }
    Ok(point)
}

/// A file system's free space against what is to stay free.
struct Room {
    free_bytes: u64,
    reserve_bytes: u64,
}

impl Room {
    fn of(service: &Service, directory: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(directory).ok()?;
        let total_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
        let percent = u64::from(service.config.snapshots.reserve_percent.min(100));
        Some(Self {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            reserve_bytes: total_bytes / 100 * percent,
        })
    }

    /// After space was given up, which a file system may count a little later (XFS does): when it is enough, or has stopped changing.
    fn settled(service: &Service, directory: &Path) -> Option<Self> {
        if let Ok(handle) = std::fs::File::open(directory) {
            let _ = rustix::fs::syncfs(&handle);
        }
        let mut room = Self::of(service, directory)?;
        let (began, mut changed) = (Instant::now(), Instant::now());
        while !room.is_enough() && changed.elapsed() < FREE_SETTLED && began.elapsed() < FREE_SETTLED_MAX {
            std::thread::sleep(FREE_LOOK_INTERVAL);
            let now = Self::of(service, directory)?;
            if now.free_bytes != room.free_bytes {
                changed = Instant::now();
            }
            room = now;
        }
        Some(room)
    }

    fn is_enough(&self) -> bool {
        self.free_bytes >= self.reserve_bytes
    }
}

fn file_system(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|m| m.dev())
}

/// Keeps the reserve of all file systems that have snapshots.
pub(crate) fn keep_reserve(service: &Service) -> Result<()> {
    let places: Vec<PathBuf> = service.snapshots().places.lock().iter().cloned().collect();
    let mut seen = HashSet::new();
    for place in places {
        if file_system(&place).is_some_and(|id| seen.insert(id)) {
            make_room(service, &place)?;
        }
    }
    Ok(())
}

/// Removes snapshots beside `directory` until its file system's reserve is free: the oldest first, only those that are in
/// the vault and that nobody reads. `Some`: that was not enough, and why.
pub(crate) fn make_room(service: &Service, directory: &Path) -> Result<Option<String>> {
    let Some(mut room) = Room::of(service, directory) else { return Ok(None) };
    if room.is_enough() {
        return Ok(None);
    }
    let id = file_system(directory);
    for point in with_snapshot(service)? {
        let is_here = point.snapshot.as_ref().is_some_and(|s| {
            s.record.parent().is_some_and(|d| file_system(d).is_some() && file_system(d) == id)
        });
        if !is_here || !points::is_there(&point) {
            continue;
        }
        let why = format!("its space in {} was needed", directory.display());
        match remove(service, &point, &why) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::error!(point = %point.id, %error, "a snapshot could not be removed");
                continue;
            }
        }
        match Room::settled(service, directory) {
            Some(now) if !now.is_enough() => room = now,
            _ => return Ok(None),
        }
    }
    Ok(Some(format!(
        "{} has {} MiB free, and {} MiB are to stay free",
        directory.display(),
        room.free_bytes >> 20,
        room.reserve_bytes >> 20
    )))
}

/// Kept files of this service that no point has: left by a process that was killed, or by a catalog that was put back.
pub(crate) fn remove_orphans(service: &Service) -> Result<()> {
    {
        let mut last = service.snapshots().orphans_looked_for.lock();
        if last.is_some_and(|at| at.elapsed() < ORPHANS_INTERVAL) {
            return Ok(());
        }
        *last = Some(Instant::now());
    }
    let known: HashMap<PointId, PathBuf> =
        with_snapshot(service)?.into_iter().filter_map(|p| Some((p.id, p.snapshot?.record))).collect();
    for host in service.hosts() {
        let mut directories = service.snapshots().places.lock().clone();
        for machine in host.hypervisor.list().unwrap_or_default() {
            let Ok(machine) = host.hypervisor.inspect(&machine.name) else { continue };
            let paths = machine.disks.iter().filter_map(|d| d.source.path()?.parent().map(Path::to_owned));
            directories.extend(paths);
        }
        for directory in directories {
            for kept in host.hypervisor.kept_in(&directory).unwrap_or_default() {
                if kept.owner != owner(service) || service.life.is_stopping() {
                    continue;
                }
                let Ok(facts) = Facts::of(&kept) else { continue };
                let _nobody_keeps = service.snapshots().keeping.write();
                if known.contains_key(&facts.point) || is_open(service, facts.job.as_deref())? {
                    continue;
                }
                // The last word is the row's, as it is now.
                if service.catalog.get::<Point>(facts.point)?.is_some_and(|p| p.snapshot.is_some()) {
                    continue;
                }
                tracing::info!(record = %kept.record.display(), "removing a snapshot that no point has");
                if let Err(error) = host.hypervisor.remove_kept(&kept.record) {
                    tracing::warn!(record = %kept.record.display(), %error, "a snapshot could not be removed");
                }
            }
        }
    }
    Ok(())
}

fn is_open(service: &Service, job: Option<&str>) -> Result<bool> {
    let Some(job) = job else { return Ok(false) };
    Ok(service.catalog.get::<Job>(job)?.is_some_and(|job| !job.status.is_over()))
}

/// Whose kept files are: this installation's.
pub(crate) fn owner(service: &Service) -> String {
    service.subscription.to_string()
}
