//! A writing session: its lease, its writers, and the commit.

use crate::commits::{self, Commit, Entry};
use crate::compress::Level;
use crate::damage;
use crate::error::{Result, StoreError};
use crate::index::merge;
use crate::lease::Lease;
use crate::limits::{LOG_END_KNOWN, RECORD_MAX_BYTES, TOMBSTONE_MAX_BYTES};
use crate::lists::{self, LISTS_NAME, Lists};
use crate::manifest::{Definition, Disk, Manifest, PointKind, Promise, object_name, seal};
use crate::marker;
use crate::objects::{Kind, ObjectError, Questions};
use crate::points::PointList;
use crate::reclaim::condemned;
use crate::roll::{self, RollState};
use crate::tombstone;
use crate::vault::Vault;
use crate::write::stream::StreamRequest;
use crate::write::{DiskRequest, DiskWritten, Writers};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::RwLock;
use std::collections::HashSet;
use std::time::Instant;
use strongroom_domain::{Consistency, ItemName, PointId, SessionId};

/// A run that writes to a vault. Several sessions may write at once, of one program or many.
///
/// Choose the parent point after the session began: from then on nothing it can see is reclaimed.
pub struct Session {
    vault: Vault,
    /// The same, which knows what was asked when it began, under its lease.
    begun: Vault,
    begun_at: Instant,
    id: SessionId,
    lease: Option<Lease>,
    /// What of condemned lists was in force when it began.
    lists: Option<Lists>,
    /// Started with the first disk: a session that finds nothing to write costs next to nothing.
    writers: RwLock<Option<Writers>>,
    level: Level,
}

/// What a point is to say of itself; the rest is the session's to know.
#[derive(Debug, Clone)]
pub struct PointDraft {
    /// What it is a point of.
    pub item: ItemName,
    /// What it was taken of.
    pub kind: PointKind,
    /// The instant the data is of.
    pub taken_at: Timestamp,
    /// The point that it was compared with. None: with none.
    pub parent: Option<PointId>,
    /// What the data is fit for, and why it is no better.
    pub consistency: Consistency,
    /// As [`Session::write_disk`] answered for each, by [`Disk::new`].
    pub disks: Vec<Disk>,
    /// None: it is of no machine.
    pub definition: Option<Definition>,
    /// Why it is made and what is promised of it. None: nothing is said of that.
    pub kept: Option<Promise>,
    /// What whoever restores it is to know, in words.
    pub warnings: Vec<String>,
    /// Free for the writer.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl Session {
    /// Begins a session. `purpose`: a few words that others are shown.
    pub fn begin(vault: &Vault, purpose: &str) -> Result<Self> {
        Self::begin_asking(vault, purpose, Questions::default())
    }

    /// The same, to make a point of this item. Answers which points it has, as [`Vault::points`] does.
    pub fn begin_point(vault: &Vault, purpose: &str, item: &ItemName) -> Result<(Self, PointList)> {
        let questions = Questions::default().list(vault.points_prefix(item));
        let mut session = Self::begin_asking(vault, purpose, questions)?;
        let begun = &session.begun;
        if !begun.objects().is_remote() {
            let points = begun.points(Some(item))?;
            return Ok((session, points));
        }
        let (points, knows_end) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| begun.asking(commits::end_question(begun)));
            (begun.points(Some(item)), asking.join())
        });
        if let Ok(knows_end) = knows_end {
            session.begun = knows_end;
        }
        Ok((session, points?))
    }

    fn begin_asking(vault: &Vault, purpose: &str, questions: Questions) -> Result<Self> {
        let opened = vault.just_opened();
        let is_whole = opened.as_ref().is_some_and(Vault::is_whole);
        let asked = opened.unwrap_or_else(|| vault.plain());
        let asked = asked.asking(vault.single_writer_question(marker::question()));
        asked.begin_writing()?;
        let id = vault.environment().new_session_id();
        let lease = Lease::acquire(&asked, id, purpose, false)?;
        // What was read before the lease was written may be out of date.
        vault.reload();
        let questions =
            questions.and(condemned::questions()).and(commits::questions()).list(damage::DAMAGED_PREFIX);
        let begun = match is_whole {
            true => vault.asking(questions),
            false => {
                let begun = vault.asking(Vault::heal_questions().and(questions));
                begun.heal()?;
                begun
            }
        };
        vault.objects().keep_reserve();
        let lists = lists::load(&begun)?;
        Ok(Self {
            vault: vault.plain(),
            begun,
            begun_at: Instant::now(),
            id,
            lease,
            lists,
            writers: RwLock::default(),
            level: Level::default(),
        })
    }

    /// What its lease, its packs and its point go by.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The vault that it writes to.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Sets how hard to compress; before the first disk.
    pub fn set_level(&mut self, level: Level) {
        self.level = level;
    }

    /// Writes one disk. May be called from several threads at once: disks then go side by side.
    pub fn write_disk(&self, request: DiskRequest) -> Result<DiskWritten> {
        if request.extents.is_empty()
            && let Some(parent) = request.parent
            && parent.size_bytes == request.size_bytes
            && !self.begun.has_doubtful_packs()?
        {
            // Nothing changed: the parent's tree is this point's too.
            return Ok(DiskWritten { tree: parent, read_bytes: 0, changed_bytes: 0, new_bytes: 0 });
        }
        self.with_writers(|writers| writers.write_disk(request))
    }

    /// Writes one disk from a stream, to its end.
    pub fn write_stream(&self, request: StreamRequest<'_>) -> Result<DiskWritten> {
        self.with_writers(|writers| writers.write_stream(request))
    }

    fn with_writers<T>(&self, write: impl FnOnce(&Writers) -> Result<T>) -> Result<T> {
        let mut running = self.writers.read();
        if running.is_none() {
            drop(running);
            {
                let mut starting = self.writers.write();
                if starting.is_none() {
                    self.vault.settle_exclusive()?;
                    *starting = Some(Writers::start(&self.vault, self.id, self.level)?);
                }
            }
            running = self.writers.read();
        }
        match &*running {
            Some(writers) => write(writers),
            None => Err(StoreError::Cancelled),
        }
    }

    /// Makes a recovery point of what was written. The commit is the manifest, created if absent, after everything
    /// it refers to is durable; an error from here means that there is no point.
    pub fn commit(self, draft: PointDraft) -> Result<Manifest> {
        self.commit_and(draft, &|_| ())
    }

    /// As [`commit`](Self::commit), of a point whose id was chosen before. Fails when there is one of it.
    pub fn commit_as(self, point: PointId, draft: PointDraft) -> Result<Manifest> {
        self.commit_point(point, draft, &|_| ())
    }

    /// As [`commit`](Self::commit); once the point is there, `meanwhile` is called while the session ends.
    pub fn commit_and(self, draft: PointDraft, meanwhile: &dyn Fn(&Manifest)) -> Result<Manifest> {
        let point = self.vault.environment().new_point_id();
        self.commit_point(point, draft, meanwhile)
    }

    fn commit_point(
        mut self,
        point: PointId,
        draft: PointDraft,
        meanwhile: &dyn Fn(&Manifest),
    ) -> Result<Manifest> {
        let stored_bytes = self.finish_writers()?;
        self.vault.settle_exclusive()?;
        let manifest = self.manifest(point, draft, stored_bytes);
        let item_key = self.vault.keys().item_key(&manifest.item);
        let name = object_name(&item_key, &manifest.point);
        let bytes = seal(self.vault.keys(), &manifest)?;
        let Some(lease) = self.lease.take() else {
            return Err(StoreError::LeaseLost { detail: "it has ended".into() });
        };
        let commit = Commit { point, item_key: item_key.clone() };
        let number = match self.write_down(&lease, &commit) {
            Ok(number) => number,
            Err(error) => {
                let _ = lease.end();
                return Err(error);
            }
        };
        // The commit point.
        match self.put_manifest(&name, bytes) {
            Ok(()) => {}
            // Another's: not for this session to take back.
            Err(error) if error.kind == Kind::AlreadyExists => {
                let _ = lease.end();
                return Err(error.into());
            }
            // It may be there all the same.
            Err(error) => return Err(self.take_back(lease, &item_key, &point, error.into())),
        }
        // The write may have taken long, and others may have deleted what the point needs meanwhile: then there is none.
        let asked = self
            .vault
            .asking(lease.questions(&name).and(marker::question()).get(LISTS_NAME, RECORD_MAX_BYTES));
        if let Err(error) = lease.covers(&asked, &name).and_then(|()| self.was_seen(&asked, number, &point)) {
            return Err(self.take_back(lease, &item_key, &point, error));
        }
        // From here on nothing can fail any more: the point is there. The lease still stands while runs are merged: a
        // merged run may name packs that are gone, and the list that says so must not go meanwhile.
        let mut there = asked;
        if stored_bytes > 0 {
            if let Err(e) = self.tidy_index() {
                tracing::warn!("index runs could not be merged: {e}");
            }
            // That may have taken long.
            there = self.vault.clone();
        }
        let end = move || {
            if let Err(e) = lease.committed(&there, commit) {
                tracing::warn!("the lease of this session could not be ended; it runs out by itself: {e}");
            }
        };
        beside(self.vault.objects().is_remote(), end, || meanwhile(&manifest));
        Ok(manifest)
    }

    /// Makes durable what was written. Answers how many bytes that are; where it fails, the session is over.
    fn finish_writers(&mut self) -> Result<u64> {
        let Some(writers) = self.writers.write().take() else { return Ok(0) };
        let sink = writers.shared_sink();
        match writers.finish() {
            Ok(stored_bytes) => Ok(stored_bytes),
            Err(error) => {
                end_lease(&mut self.lease, sink.next_numbers().0 > 0);
                Err(error)
            }
        }
    }

    fn manifest(&self, point: PointId, draft: PointDraft, stored_bytes: u64) -> Manifest {
        Manifest {
            point,
            item: draft.item,
            kind: draft.kind,
            taken_at: draft.taken_at,
            committed_at: self.vault.environment().now(),
            parent: draft.parent,
            consistency: draft.consistency,
            disks: draft.disks,
            definition: draft.definition,
            kept: draft.kept,
            warnings: draft.warnings,
            attributes: draft.attributes,
            stored_bytes,
            session: self.id,
            writer: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// What comes right before the commit: from then on nobody can overlook the point. Answers its number in the log.
    fn write_down(&self, lease: &Lease, commit: &Commit) -> Result<u64> {
        // Where the log ends is asked for anew where it may have grown since.
        let asked = match self.begun_at.elapsed() < LOG_END_KNOWN {
            true => self.begun.clone(),
            false => self.vault.asking(commits::questions()),
        };
        let number = commits::add(&asked, &Entry { session: self.id, commit: Some(commit.clone()) })?;
        let entry = commits::object_name(number);
        let tombstone = tombstone::object_name(&commit.item_key, &commit.point);
        let asked = self.vault.asking(lease.questions(&entry).get(tombstone, TOMBSTONE_MAX_BYTES));
        // Its store's clock is the one that counts.
        lease.covers(&asked, &entry)?;
        refuse_forgotten(&asked, &commit.item_key, &commit.point)?;
        Ok(number)
    }

    /// In place of a manifest that its session took back and could not remove, if there is one.
    fn put_manifest(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        match self.vault.objects().put_new(name, bytes.clone()) {
            Err(error)
                if error.kind == Kind::AlreadyExists && self.vault.is_forgotten(name).is_ok_and(|is| is) =>
            {
                self.vault.objects().delete(name)?;
                self.vault.objects().put_new(name, bytes)
            }
            done => done,
        }
    }

    /// A reclaim that condemns packs lists the sessions at work, and waits for them. One that was not shown this session
    /// does not wait for it, and may have deleted what the point needs.
    /// `asked`: which knows what `lists` says since the manifest was written.
    fn was_seen(&self, asked: &Vault, number: u64, point: &PointId) -> Result<()> {
        let unseen = |detail: &str| Err(StoreError::LeaseLost { detail: detail.into() });
        let now = lists::load(asked)?;
        // One that came between the manifest and this has the point in its roll.
        if now.as_ref().is_some_and(|now| now.accounted >= number) && !self.is_in_roll(point)? {
            return unseen("a reclaim accounted for its place in the commit log before it was taken");
        }
        let Some(before) = &self.lists else { return Ok(()) };
        let Some(now) = now else {
            return unseen(
                "whether a reclaim saw it cannot be told: the object `lists` is missing or damaged",
            );
        };
        if now.written == before.written {
            return Ok(());
        }
        let mut seen = 0;
        for name in now.names.difference(&before.names) {
            match condemned::load(&self.vault, name)? {
                Some(list) if list.sessions.as_ref().is_none_or(|of| of.contains(&self.id)) => seen += 1,
                _ => {}
            }
        }
        match now.written.checked_sub(before.written) {
            Some(new) if new == seen => Ok(()),
            _ => unseen("a reclaim did not see it, and may have deleted what it builds on"),
        }
    }

    fn is_in_roll(&self, point: &PointId) -> Result<bool> {
        Ok(match roll::load(&self.vault)? {
            RollState::Known { roll, .. } => {
                roll.points.iter().any(|known| known.point == *point && known.session == Some(self.id))
            }
            RollState::Unknown { .. } => false,
        })
    }

    /// Takes back a point that was, or may have been, written. Answers the error that it ends with.
    fn take_back(&self, lease: Lease, item_key: &str, point: &PointId, error: StoreError) -> StoreError {
        let why = format!("not committed: {error}");
        match self.vault.take_back(item_key, point, self.id, &why) {
            Ok(()) => {
                let _ = lease.end();
                error
            }
            Err(undone) => {
                // The log goes on saying that there may be a point.
                lease.leave();
                match error {
                    StoreError::LeaseLost { detail } => StoreError::LeaseLost {
                        detail: format!(
                            "{detail}. Point {point} was written and could not be removed again ({undone}); it may be \
                             damaged: `strongroom rescue vault check` tells, `strongroom rescue point forget` removes it"
                        ),
                    },
                    other => other,
                }
            }
        }
    }

    /// Keeps the number of index runs low.
    fn tidy_index(&self) -> Result<()> {
        let index = self.vault.index()?;
        let sources = merge::choose(self.vault.keys(), &index.runs());
        if sources.is_empty() {
            return Ok(());
        }
        let name = format!("{}-ffffffff", self.id);
        let merged =
            merge::merge(self.vault.objects(), self.vault.keys(), &index, &sources, &HashSet::new(), &name);
        match merged {
            // Another session is merging the same runs.
            Err(StoreError::Object(e)) if e.kind == Kind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let wrote = match self.writers.write().take() {
            Some(writers) => {
                let sink = writers.shared_sink();
                drop(writers);
                // A pack whose upload failed may be there all the same.
                sink.next_numbers().0 > 0
            }
            None => false,
        };
        end_lease(&mut self.lease, wrote);
    }
}

/// Does the one in a thread while it does the other, or one after the other.
fn beside(at_once: bool, one: impl FnOnce() + Send, other: impl FnOnce()) {
    if !at_once {
        one();
        return other();
    }
    std::thread::scope(|scope| {
        scope.spawn(one);
        other();
    });
}

/// A point that was forgotten is not made again: its tombstone would hide it.
fn refuse_forgotten(vault: &Vault, item_key: &str, point: &PointId) -> Result<()> {
    match tombstone::load(vault, &tombstone::object_name(item_key, point)) {
        Ok(Some(tombstone)) if tombstone.is_final() => {
            Err(StoreError::AlreadyExists { what: format!("a tombstone of recovery point {point}") })
        }
        Ok(_) => Ok(()),
        Err(e) if e.is_damage() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Ends a session that did not commit: packs it may have left behind need looking after; one that wrote none just goes.
fn end_lease(lease: &mut Option<Lease>, wrote: bool) {
    let Some(lease) = lease.take() else { return };
    let over = if wrote { lease.end() } else { lease.release() };
    if let Err(e) = over {
        tracing::warn!("the lease of this session could not be ended; it runs out by itself: {e}");
    }
}
