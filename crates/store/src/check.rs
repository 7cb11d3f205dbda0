//! Checking a vault: every object, every tree, and on request every stored byte.
//!
//! What is found damaged is recorded, so that the next backup of the same data heals it, and named with the points
//! it touches. The index is derived from packs: where it is damaged it is rebuilt here, and reported all the same.

use crate::commits;
use crate::crypto::Id;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::frames::decode;
use crate::header::{HEADER_COPY_NAME, HEADER_NAME, Header};
use crate::index::run::PackRow;
use crate::index::{Excluded, INDEX_PREFIX, Index, Location, Pending};
use crate::lease::{self, Lease, LeaseState};
use crate::limits::PACK_MAX_BYTES;
use crate::manifest::Manifest;
use crate::objects::{Kind, ObjectInfo};
use crate::pack::{read_directory, walk};
use crate::progress::Progress;
use crate::reclaim::condemned;
use crate::roll::{self, RollState};
use crate::tree::NodeSource as _;
use crate::vault::Vault;
use crate::{damage, lists, marker, note, record, tombstone};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use strongroom_domain::{ItemName, PointId, SessionId};

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Read, decrypt and verify every stored byte, not only structure and tree nodes.
    pub read_data: bool,
}

/// A point that damage touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TouchedPoint {
    /// Which.
    pub point: PointId,
    /// None if the manifest itself cannot be read.
    pub item: Option<ItemName>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The object that is damaged, or missing; `block or node ID` where no object can be named.
    pub object: String,
    /// What is wrong with it, and what becomes of it, in words.
    pub detail: String,
    /// Those that damage touches, as far as is known; empty where it touches none.
    pub points: BTreeSet<TouchedPoint>,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Those that are there, readable or not.
    pub points: u64,
    /// All that were listed.
    pub objects: u64,
    /// Those that were listed.
    pub packs: u64,
    /// Bytes of packs read in full.
    pub read_bytes: u64,
    /// Tree nodes that were read, each once.
    pub nodes: u64,
    /// Damaged packs whose content has been stored again elsewhere since: no point misses anything; reclaim removes them.
    pub healed_packs: u64,
    /// Packs that belong to no point yet or any more; reclaim looks after them.
    pub unindexed_packs: u64,
    /// Everything that is not as it should be. Empty: the vault is sound.
    pub findings: Vec<Finding>,
    /// What the check wrote for itself and was not allowed to delete; reclaim does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks a vault. An error means that it could not look; damage is in the report.
pub fn check(vault: &Vault, options: &CheckOptions, progress: &Progress) -> Result<CheckReport> {
    let started = vault.environment().elapsed();
    let lease = Lease::acquire(vault, vault.environment().new_session_id(), "check", true)?;
    vault.reload();
    let mut run =
        Run { vault, report: CheckReport::default(), faults: BTreeMap::new(), sizes: HashMap::new() };
    run.header()?;
    run.roll()?;
    let listed = vault.objects().list("")?;
    run.report.objects = listed.len() as u64;
    run.records(&listed)?;
    let points = run.manifests()?;
    let index = run.index(&listed)?;
    run.packs(&index, options.read_data, progress)?;
    let mut trees = run.trees(&points, &index, progress)?;
    run.look_again(&index, &mut trees)?;
    run.attribute(&points, &index, trees, progress)?;
    match vault.record_damage() {
        // Looking does not need writing.
        Err(StoreError::Object(e)) if matches!(e.kind, Kind::Denied | Kind::ReadOnly | Kind::NoSpace) => {
            tracing::warn!("damage that was found could not be recorded: {e}");
        }
        done => done?,
    }
    let mut report = run.report;
    if let Some(lease) = lease {
        report.left_behind.extend(lease.release_or_end()?);
    }
    report.findings.extend(run.faults.into_iter().map(|(object, fault)| Finding {
        object,
        detail: match fault.details.is_empty() {
            true => "damage was found here before; `strongroom rescue vault reclaim` keeps what of it is sound".into(),
            false => fault.details.into_iter().collect::<Vec<_>>().join("; "),
        },
        points: fault.points,
    }));
    report.seconds = vault.environment().elapsed().saturating_sub(started).as_secs_f64();
    Ok(report)
}

#[derive(Default)]
struct Fault {
    details: BTreeSet<String>,
    points: BTreeSet<TouchedPoint>,
}

struct Run<'a> {
    vault: &'a Vault,
    report: CheckReport,
    /// By object.
    faults: BTreeMap<String, Fault>,
    /// Packs there are, with their sizes.
    sizes: HashMap<PackId, u64>,
}

const NO_PLACE: &str = "no sound place of the vault holds it";

/// What walking the trees found.
#[derive(Default)]
struct TreeFaults {
    /// Ids that no place of the vault holds in a readable way.
    lost: HashMap<Id, String>,
}

impl Run<'_> {
    fn fault(&mut self, object: impl Into<String>, detail: impl Into<String>) {
        self.faults.entry(object.into()).or_default().details.insert(detail.into());
    }

    fn header(&mut self) -> Result<()> {
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            match Header::load_copy(self.vault.objects(), name) {
                Ok(header) if header == self.vault.header() => {}
                Ok(_) => self.fault(name, "it differs from the copy in use"),
                Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {
                    self.fault(name, "it is missing; the next backup writes it anew");
                }
                Err(StoreError::Object(e)) if e.kind != Kind::TooLarge => return Err(e.into()),
                Err(StoreError::Corrupt { detail, .. }) => {
                    self.fault(name, format!("{detail}; the next backup writes it anew"));
                }
                Err(other) => self.fault(name, other.to_string()),
            }
        }
        Ok(())
    }

    /// The marker, the roll and the list of lists: what the vault knows of itself. Points that the roll names must be there,
    /// or forgotten.
    fn roll(&mut self) -> Result<()> {
        if !self.vault.is_marked() {
            return Ok(());
        }
        let mut faults = Vec::new();
        for name in marker::MARKER_NAMES {
            faults.extend(marker::fault(self.vault, name)?.map(|detail| (name, detail)));
        }
        let advice = match faults.len() < marker::MARKER_NAMES.len() {
            true => "the next backup writes it anew beside the right copy",
            false => {
                "make sure that the location is right, then `strongroom rescue vault check LOCATION --renew-marker` marks it anew"
            }
        };
        for (name, detail) in faults {
            self.fault(name, format!("{detail}; {advice}"));
        }
        if lists::load(self.vault)?.is_none() {
            self.fault(lists::LISTS_NAME, "it is missing or damaged; reclaim writes it anew");
        }
        let advice = match roll::load(self.vault)? {
            RollState::Known { .. } => "reclaim writes it anew from the other copy",
            RollState::Unknown { .. } => {
                "put a copy back if you have one; else look at `strongroom rescue point list` and, if all points are there, run `strongroom rescue vault reclaim LOCATION --as-listed`"
            }
        };
        for name in roll::ROLL_NAMES {
            match roll::load_copy(self.vault, name) {
                Ok(Some(_)) => {}
                Ok(None) => self.fault(name, format!("it is missing; {advice}")),
                Err(StoreError::Corrupt { detail, .. }) => self.fault(name, format!("{detail}; {advice}")),
                Err(e) => return Err(e),
            }
        }
        let out = self.vault.out_of_sight()?;
        for missing in out.points {
            let vault = self.vault.location();
            let detail = match missing.was_there {
                true => format!(
                    "the point is not there, and nobody forgot it: mount or restore what is missing, or `strongroom rescue \
                     vault reclaim {vault} --accept-loss {}` writes it off",
                    missing.point
                ),
                false => "a session was about to commit this point, which is not there: it died then, or what it wrote is out \
                          of sight. Mount or restore what is missing; a day later it is taken for not committed"
                    .to_owned(),
            };
            self.fault(&missing.object, detail);
            let fault = self.faults.entry(missing.object).or_default();
            fault.points.insert(TouchedPoint { point: missing.point, item: None });
        }
        for object in out.log {
            self.fault(
                object,
                "it is not there, and a later entry is: which points the vault has is not known. Mount or restore what is \
                 missing; where all points are listed, `strongroom rescue vault reclaim --as-listed` goes on without it",
            );
        }
        if out.unexplained_packs {
            self.fault(
                "packs/",
                "there are packs, and neither a point nor a tombstone nor a session: what tells whose they are is out of sight. \
                 Mount or restore what is missing",
            );
        }
        Ok(())
    }

    /// Every record must carry its mac.
    fn records(&mut self, listed: &[ObjectInfo]) -> Result<()> {
        for object in listed {
            let is_record = [
                lease::SESSIONS_PREFIX,
                commits::COMMITS_PREFIX,
                lists::CONDEMNED_PREFIX,
                damage::DAMAGED_PREFIX,
                "locks/",
            ]
            .iter()
            .any(|prefix| object.name.starts_with(prefix));
            if is_record {
                let loaded =
                    record::load::<serde_json::Value>(self.vault.objects(), self.vault.keys(), &object.name);
                match loaded {
                    Ok(_) => {}
                    Err(StoreError::Object(e)) if e.kind == Kind::NotFound => {}
                    Err(StoreError::Corrupt { detail, .. }) => {
                        self.fault(&object.name, format!("{detail}; reclaim removes it in time"));
                    }
                    Err(e) => return Err(e),
                }
            }
            if object.name.starts_with(tombstone::TOMBSTONES_PREFIX) {
                match tombstone::load(self.vault, &object.name) {
                    Ok(_) => {}
                    Err(StoreError::Corrupt { detail, .. }) => self.fault(
                        &object.name,
                        format!("{detail}; reclaim removes it if the point is gone for good, else forget the point again"),
                    ),
                    Err(e) => return Err(e),
                }
            }
            if let Some(note) = object.name.strip_prefix(note::NOTES_PREFIX) {
                match self.vault.read_note(note) {
                    Ok(_) | Err(StoreError::Invalid { .. }) => {}
                    Err(StoreError::Corrupt { detail, .. }) => {
                        self.fault(
                            &object.name,
                            format!("{detail}; the service writes it anew when it starts"),
                        );
                    }
                    Err(e) => return Err(e),
                }
            }
            if let Some(pack) = PackId::from_object_name(&object.name) {
                self.sizes.insert(pack, object.size_bytes);
            }
        }
        self.report.packs = self.sizes.len() as u64;
        Ok(())
    }

    fn manifests(&mut self) -> Result<Vec<Manifest>> {
        let list = self.vault.points(None)?;
        self.report.points = (list.points.len() + list.damaged.len()) as u64;
        for damaged in list.damaged {
            let fault = self.faults.entry(damaged.object).or_default();
            if let StoreError::Corrupt { detail, .. } = damaged.error {
                fault.details.insert(format!(
                    "{detail}; this point is lost: `strongroom rescue point forget` removes it"
                ));
            }
            fault.points.extend(damaged.point.map(|point| TouchedPoint { point, item: None }));
        }
        Ok(list.points)
    }

    /// Index runs: their macs, and that they name packs that are there. Rebuilds what is missing.
    fn index(&mut self, listed: &[ObjectInfo]) -> Result<std::sync::Arc<Index>> {
        let index = self.vault.index()?;
        let mut bad: Vec<String> = Vec::new();
        for (name, detail) in index.faults() {
            self.fault(&name, format!("{detail}; rebuilt from the packs"));
            bad.push(name);
        }
        for run in index.runs() {
            match run.is_sound(self.vault.keys()) {
                Ok(true) => {}
                Ok(false) => {
                    self.fault(&run.name, "its mac is wrong; rebuilt from the packs");
                    bad.push(run.name.clone());
                }
                Err(detail) => {
                    self.fault(&run.name, format!("{detail}; rebuilt from the packs"));
                    bad.push(run.name.clone());
                }
            }
        }
        // Backups and reclaims go on meanwhile: what they wrote or condemned since the objects were listed counts too.
        for pack in index.named_packs() {
            if !self.sizes.contains_key(&pack)
                && let Some(info) = self.vault.objects().head(&pack.object_name())?
            {
                self.sizes.insert(pack, info.size_bytes);
            }
        }
        let mut latest = Excluded::default();
        condemned::load_into(self.vault, &mut latest)?;
        index.exclude(|excluded| excluded.condemned.extend(latest.condemned));
        let excluded = index.excluded();
        let mut gone: Vec<PackId> = Vec::new();
        for run in index.runs().iter().filter(|run| !bad.contains(&run.name)) {
            for row in &run.packs {
                if excluded.condemned.contains(&row.id) {
                    continue;
                }
                match self.sizes.get(&row.id) {
                    Some(size) if *size == u64::from(row.size_bytes) => {}
                    Some(size) => {
                        let detail = format!("it has {size} bytes instead of {}", row.size_bytes);
                        self.fault(row.id.object_name(), detail);
                        gone.push(row.id);
                    }
                    None => {
                        self.fault(row.id.object_name(), "it is missing");
                        gone.push(row.id);
                    }
                }
            }
        }
        index.exclude(|excluded| excluded.damaged_packs.extend(gone));
        self.rebuild(&index, &bad, listed)?;
        Ok(index)
    }

    /// Writes a run for packs that none covers, and removes runs that are damaged. Packs of sessions at work are
    /// left alone: they get their run when their writer is ready.
    fn rebuild(&mut self, index: &Index, bad: &[String], listed: &[ObjectInfo]) -> Result<()> {
        let committed: HashSet<SessionId> = lease::list(self.vault)?
            .into_iter()
            .filter(|found| found.record.as_ref().is_some_and(|record| record.state == LeaseState::Committed))
            .map(|found| found.session)
            .collect();
        let active: HashSet<SessionId> = listed
            .iter()
            .filter_map(|o| o.name.strip_prefix(lease::SESSIONS_PREFIX)?.parse().ok())
            .filter(|session| !committed.contains(session))
            .collect();
        let covered: HashSet<PackId> = index
            .runs()
            .iter()
            .filter(|run| !bad.contains(&run.name))
            .flat_map(|run| run.packs.iter().map(|row| row.id))
            .collect();
        if self.vault.check_there().is_err() {
            // Nothing is written where the marker is not right.
            return Ok(());
        }
        let mut pending = Pending::default();
        let uncovered: Vec<(PackId, u64)> =
            self.sizes.iter().filter(|(pack, _)| !covered.contains(pack)).map(|(p, s)| (*p, *s)).collect();
        for (pack, size) in uncovered {
            if active.contains(&pack.session) {
                self.report.unindexed_packs += 1;
                continue;
            }
            match read_directory(self.vault.objects(), &pack, size) {
                Ok(frames) => {
                    if bad.is_empty() {
                        self.fault(
                            pack.object_name(),
                            "no index run names it: one is missing; rebuilt from the pack",
                        );
                    }
                    pending.add(
                        PackRow { id: pack, size_bytes: size as u32 },
                        frames.into_iter().map(|f| (f.offset, f.head.frame_len() as u32, f.head.kind, f.ids)),
                    );
                }
                Err(StoreError::Corrupt { detail, .. }) => self.fault(pack.object_name(), detail),
                Err(e) => return Err(e),
            }
        }
        let rebuilt = if pending.records.is_empty() {
            Ok(())
        } else {
            let name = format!("{INDEX_PREFIX}{}-00000000", self.vault.environment().new_session_id());
            self.vault.objects().put_new(&name, pending.encode(self.vault.keys()))
        };
        let rebuilt = rebuilt.and_then(|()| self.vault.objects().delete_many(bad.iter().map(String::as_str)));
        match rebuilt {
            Ok(()) => index.refresh(self.vault.objects(), self.vault.keys()),
            // Looking does not need writing.
            Err(e) if matches!(e.kind, Kind::Denied | Kind::ReadOnly | Kind::NoSpace) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Packs: their directories, or every byte of them.
    fn packs(&mut self, index: &Index, read_data: bool, progress: &Progress) -> Result<()> {
        let packs: Vec<(PackId, u64)> = self.sizes.iter().map(|(p, s)| (*p, *s)).collect();
        if read_data {
            progress.add_total(packs.iter().map(|(_, size)| size).sum());
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8);
        let next = AtomicUsize::new(0);
        let read_bytes = AtomicU64::new(0);
        type Faults = Vec<(PackId, Option<u32>, String)>;
        let faults: Mutex<Faults> = Mutex::default();
        let failure: Mutex<Option<StoreError>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((pack, size)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if failure.lock().is_some() {
                            return;
                        }
                        match check_pack(self.vault, pack, *size, read_data, progress) {
                            Ok(found) => {
                                faults
                                    .lock()
                                    .extend(found.into_iter().map(|(at, detail)| (*pack, at, detail)));
                                if read_data {
                                    read_bytes.fetch_add(*size, Ordering::Relaxed);
                                    progress.add_done(*size);
                                }
                            }
                            Err(e) => {
                                failure.lock().get_or_insert(e);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        self.report.read_bytes = read_bytes.into_inner();
        let condemned = index.excluded().condemned;
        for (pack, offset, detail) in faults.into_inner() {
            if condemned.contains(&pack) {
                continue;
            }
            index.exclude(|excluded| {
                match offset {
                    Some(offset) => excluded.damaged_frames.insert((pack, offset)),
                    None => excluded.damaged_packs.insert(pack),
                };
            });
            let at = offset.map_or(String::new(), |offset| format!("frame at offset {offset}: "));
            self.fault(pack.object_name(), format!("{at}{detail}"));
        }
        Ok(())
    }

    /// Walks every tree once, shared parts once for all, and looks every block up.
    fn trees(&mut self, points: &[Manifest], index: &Index, progress: &Progress) -> Result<TreeFaults> {
        let mut faults = TreeFaults::default();
        let mut seen: HashSet<Id> = HashSet::new();
        for manifest in points {
            for disk in &manifest.disks {
                let mut stack: Vec<Id> = disk.root.iter().map(|root| root.0).collect();
                while let Some(id) = stack.pop() {
                    if !seen.insert(id) {
                        continue;
                    }
                    progress.check()?;
                    self.place(&id, index, &mut faults)?;
                    match self.vault.node(&id) {
                        Ok(node) => {
                            self.report.nodes += 1;
                            for (_, child) in node.present() {
                                if node.level > 0 {
                                    stack.push(child);
                                } else {
                                    self.place(&child, index, &mut faults)?;
                                }
                            }
                        }
                        Err(StoreError::Corrupt { object, detail }) => {
                            faults.lost.insert(id, format!("{object}: {detail}"));
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(faults)
    }

    /// Notes an id that no sound place holds.
    fn place(&self, id: &Id, index: &Index, faults: &mut TreeFaults) -> Result<()> {
        if !self.has_place(id, index)? {
            faults.lost.insert(*id, NO_PLACE.into());
        }
        Ok(())
    }

    /// A condemned pack that is still there counts: reclaim moves what points need before it deletes it.
    fn has_place(&self, id: &Id, index: &Index) -> Result<bool> {
        if index.good_place(id).is_some() {
            return Ok(true);
        }
        let excluded = index.excluded();
        let is_waiting = |place: &Location| {
            excluded.condemned.contains(&place.pack)
                && self.sizes.contains_key(&place.pack)
                && !excluded.is_damaged(&place.pack, place.offset)
        };
        Ok(index.places(id).iter().any(is_waiting) || !index.rescue(self.vault.objects(), id)?.is_empty())
    }

    /// What had no place may have been moved by a reclaim meanwhile.
    fn look_again(&self, index: &Index, faults: &mut TreeFaults) -> Result<()> {
        if faults.lost.is_empty() {
            return Ok(());
        }
        index.refresh(self.vault.objects(), self.vault.keys())?;
        faults.lost.retain(|id, detail| detail != NO_PLACE || index.good_place(id).is_none());
        Ok(())
    }

    /// Says which points each damaged object touches; drops faults of frames that have been stored again.
    fn attribute(
        &mut self,
        points: &[Manifest],
        index: &Index,
        trees: TreeFaults,
        progress: &Progress,
    ) -> Result<()> {
        let excluded = index.excluded();
        // Which lost ids each damaged object was to hold.
        let mut objects_of: HashMap<Id, BTreeSet<String>> = HashMap::new();
        let mut unhealed: HashSet<PackId> = HashSet::new();
        if excluded.has_damage() || !trees.lost.is_empty() {
            for run in index.runs() {
                let walked = run.for_each(|row, record| {
                    if excluded.condemned.contains(&row.id) || excluded.is_good(&row.id, record.offset) {
                        return;
                    }
                    if trees.lost.contains_key(&record.id) {
                        objects_of.entry(record.id).or_default().insert(row.id.object_name());
                    }
                    if index.good_place(&record.id).is_none() {
                        unhealed.insert(row.id);
                    }
                });
                if let Err(detail) = walked {
                    self.fault(&run.name, detail);
                }
            }
        }
        for (id, detail) in &trees.lost {
            if !objects_of.contains_key(id) {
                let object = format!("block or node {id}");
                self.fault(&object, detail.clone());
                objects_of.entry(*id).or_default().insert(object);
            }
        }
        // Everything in it has been stored again elsewhere since: no longer damage.
        let indexed = index.named_packs();
        let before = self.faults.len();
        self.faults.retain(|object, fault| match PackId::from_object_name(object) {
            Some(pack) if indexed.contains(&pack) => {
                unhealed.contains(&pack)
                    || fault.details.iter().any(|detail| detail.starts_with("no index run"))
            }
            _ => true,
        });
        self.report.healed_packs = (before - self.faults.len()) as u64;
        if trees.lost.is_empty() {
            return Ok(());
        }
        // Nodes known to lead to nothing lost.
        let mut clean: HashSet<Id> = HashSet::new();
        for manifest in points {
            let touched = TouchedPoint { point: manifest.point, item: Some(manifest.item.clone()) };
            let mut hit: BTreeSet<String> = BTreeSet::new();
            for disk in &manifest.disks {
                if let Some(root) = &disk.root {
                    self.lost_below(&root.0, &trees.lost, &objects_of, &mut clean, &mut hit, progress)?;
                }
            }
            for object in hit {
                self.faults.entry(object).or_default().points.insert(touched.clone());
            }
        }
        Ok(())
    }

    /// Adds to `hit` the objects that anything below `id` is missing from. Whether nothing was missing.
    fn lost_below(
        &self,
        id: &Id,
        lost: &HashMap<Id, String>,
        objects_of: &HashMap<Id, BTreeSet<String>>,
        clean: &mut HashSet<Id>,
        hit: &mut BTreeSet<String>,
        progress: &Progress,
    ) -> Result<bool> {
        if clean.contains(id) {
            return Ok(true);
        }
        progress.check()?;
        let mut all = !lost.contains_key(id);
        if !all {
            hit.extend(objects_of.get(id).into_iter().flatten().cloned());
        }
        let node = match self.vault.node(id) {
            Ok(node) => node,
            Err(e) if e.is_damage() && !all => return Ok(false),
            Err(e) => return Err(e),
        };
        for (_, child) in node.present() {
            if node.level > 0 {
                all &= self.lost_below(&child, lost, objects_of, clean, hit, progress)?;
            } else if lost.contains_key(&child) {
                hit.extend(objects_of.get(&child).into_iter().flatten().cloned());
                all = false;
            }
        }
        if all {
            clean.insert(*id);
        }
        Ok(all)
    }
}

/// Faults of one pack: with the offset of a frame, or of the pack as a whole.
fn check_pack(
    vault: &Vault,
    pack: &PackId,
    size: u64,
    read_data: bool,
    progress: &Progress,
) -> Result<Vec<(Option<u32>, String)>> {
    progress.check()?;
    let name = pack.object_name();
    let gone = |kind: Kind| match kind {
        Kind::NotFound => Some("it is missing"),
        Kind::Short => Some("it is cut short"),
        Kind::TooLarge => Some("it is larger than a pack can be"),
        _ => None,
    };
    if !read_data {
        return match read_directory(vault.objects(), pack, size) {
            Ok(_) => Ok(Vec::new()),
            Err(StoreError::Corrupt { detail, .. }) => Ok(vec![(None, detail)]),
            Err(StoreError::Object(e)) => match gone(e.kind) {
                Some(detail) => Ok(vec![(None, detail.into())]),
                None => Err(e.into()),
            },
            Err(e) => Err(e),
        };
    }
    let bytes = match vault.objects().get_bounded(&name, PACK_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) => {
            return match gone(e.kind) {
                Some(detail) => Ok(vec![(None, detail.into())]),
                None => Err(e.into()),
            };
        }
    };
    let walked = walk(&bytes, pack, &vault.id());
    let mut faults: Vec<(Option<u32>, String)> =
        walked.faults.into_iter().map(|(at, detail)| (at, detail.to_owned())).collect();
    for entry in walked.frames {
        if faults.iter().any(|(at, _)| *at == Some(entry.offset)) {
            continue;
        }
        progress.check()?;
        let frame = bytes.get(entry.offset as usize..).unwrap_or_default();
        match decode(frame, pack, entry.offset, vault.keys(), vault.block_size_bytes() as usize) {
            Ok(_) => {}
            Err(StoreError::Corrupt { detail, .. }) => faults.push((Some(entry.offset), detail)),
            Err(e) => return Err(e),
        }
    }
    Ok(faults)
}
