//! A vault: making one, opening one, and what is in it.

use crate::crypto::{Id, VaultKeys};
use crate::damage;
use crate::environment::{Environment, System};
use crate::error::{Result, StoreError};
use crate::frame::FrameKind;
use crate::frames::{Decoded, Frames};
use crate::header::{HEADER_COPY_NAME, HEADER_NAME, Header, SINGLE_WRITER};
use crate::index::{Excluded, Index, Location};
use crate::keys::KeyProvider;
use crate::limits::{BLOCK_SIZE_DEFAULT_BYTES, MANIFEST_MAX_BYTES};
use crate::manifest::{self, Manifest, POINTS_PREFIX};
use crate::node::Node;
use crate::objects::{BlobStore, Kind, ObjectInfo};
use crate::reclaim::condemned;
use crate::roll::{self, Roll, RollPoint};
use crate::tombstone::{self, TOMBSTONES_PREFIX, Tombstone};
use crate::tree::NodeSource;
use crate::{lists, marker};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use strongroom_domain::{ItemName, PointId, PointSelector, SessionId, VaultId};

/// Interior and leaf nodes kept decoded.
const NODE_CACHE_MAX: usize = 2048;

/// An open vault. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>, BlobStore);

struct Inner {
    keys: VaultKeys,
    header: RwLock<Header>,
    block_size_bytes: u32,
    environment: Arc<dyn Environment>,
    index: Mutex<Option<Arc<Index>>>,
    frames: Frames,
    nodes: Mutex<HashMap<Id, Arc<Node>>>,
    /// Whether its note says that at most one run at a time may write; once it is known.
    single_writer: OnceLock<bool>,
    /// The highest number of the commit log that this program knows of; 0 until it knows one.
    last_commit: AtomicU64,
}

/// What to make a vault with.
#[derive(Clone)]
pub struct InitOptions {
    pub vault: VaultId,
    pub block_size_bytes: u32,
    /// At most one run at a time is to write to it; its store need not honour create-if-absent then. There is no way back.
    pub single_writer: bool,
    pub environment: Arc<dyn Environment>,
}

impl InitOptions {
    /// Defaults, with a fresh vault id.
    pub fn new() -> Self {
        Self {
            vault: System.new_vault_id(),
            block_size_bytes: BLOCK_SIZE_DEFAULT_BYTES,
            single_writer: false,
            environment: Arc::new(System),
        }
    }
}

impl Default for InitOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A point that cannot be read, and why.
#[derive(Debug)]
pub struct DamagedPoint {
    pub object: String,
    pub point: Option<PointId>,
    pub error: StoreError,
}

/// The points of a vault.
#[derive(Debug, Default)]
pub struct PointList {
    /// Oldest first.
    pub points: Vec<Manifest>,
    pub damaged: Vec<DamagedPoint>,
}

impl PointList {
    /// Of one item's points, the last that was made. That is one which no other builds on, whatever clocks said at the time: of
    /// several, the latest.
    pub fn take_last(&mut self) -> Option<Manifest> {
        let parents: HashSet<PointId> = self.points.iter().filter_map(|manifest| manifest.parent).collect();
        let last = self.points.iter().rposition(|manifest| !parents.contains(&manifest.point))?;
        Some(self.points.remove(last))
    }
}

impl Vault {
    /// Makes a vault. The commit is `vault.json`, created if absent: of two at once, one wins. Cut short after that, the
    /// first opening for writing does the rest.
    pub fn init(objects: BlobStore, provider: &dyn KeyProvider, options: InitOptions) -> Result<Self> {
        let exists = |location: &str| StoreError::AlreadyExists { what: format!("a vault at {location}") };
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            if objects.head(name)?.is_some() {
                return Err(exists(objects.location()));
            }
        }
        let now = options.environment.now();
        let (mut header, keys) = Header::create(options.vault, now, options.block_size_bytes, provider)?;
        if options.single_writer {
            header.require(SINGLE_WRITER);
            objects.look_before_creating();
        }
        match objects.put_new(HEADER_NAME, header.to_bytes()?) {
            Err(e) if e.kind == Kind::AlreadyExists => return Err(exists(objects.location())),
            other => other?,
        }
        let vault = Self::assemble(objects, header, keys, options.environment);
        vault.write_version_2(&Roll { generation: 1, confirmed: true, ..Roll::default() })?;
        if options.single_writer {
            vault.note_single_writer()?;
        }
        Ok(vault)
    }

    /// Which vault is at a location; needs no key.
    pub fn identify(objects: &BlobStore) -> Result<VaultId> {
        Ok(Header::load(objects)?.0.id)
    }

    /// Opens a vault.
    pub fn open(objects: BlobStore, provider: &dyn KeyProvider) -> Result<Self> {
        Self::open_in(objects, provider, Arc::new(System))
    }

    pub fn open_in(
        objects: BlobStore,
        provider: &dyn KeyProvider,
        environment: Arc<dyn Environment>,
    ) -> Result<Self> {
        let (header, fault) = Header::load(&objects)?;
        if let Some(fault) = fault {
            tracing::warn!("the vault's header was read from its copy: {fault}");
        }
        let keys = header.unwrap_keys(provider)?;
        Ok(Self::assemble(objects, header, keys, environment))
    }

    fn assemble(
        objects: BlobStore,
        header: Header,
        keys: VaultKeys,
        environment: Arc<dyn Environment>,
    ) -> Self {
        if header.requires(SINGLE_WRITER) {
            objects.look_before_creating();
        }
        let inner = Inner {
            keys,
            block_size_bytes: header.block_size_bytes,
            header: RwLock::new(header),
            environment,
            index: Mutex::default(),
            frames: Frames::default(),
            nodes: Mutex::default(),
            single_writer: OnceLock::new(),
            last_commit: AtomicU64::new(0),
        };
        Self(Arc::new(inner), objects)
    }

    pub fn id(&self) -> VaultId {
        self.0.keys.vault
    }

    pub(crate) fn header(&self) -> Header {
        self.0.header.read().clone()
    }

    /// The header says it from here on, once its copies are written.
    pub(crate) fn require(&self, name: &str) {
        self.0.header.write().require(name);
    }

    /// Whether it has what version 2 brought.
    pub(crate) fn is_marked(&self) -> bool {
        self.version() > 1
    }

    fn version(&self) -> u64 {
        self.0.header.read().version
    }

    pub fn block_size_bytes(&self) -> u32 {
        self.0.block_size_bytes
    }

    pub fn location(&self) -> &str {
        self.1.location()
    }

    pub fn objects(&self) -> &BlobStore {
        &self.1
    }

    /// The same vault for whoever frees space of it: on a disk that is full, what that takes is written all the same.
    pub(crate) fn freeing(&self) -> Self {
        Self(self.0.clone(), self.1.freeing())
    }

    /// Gives up some of the reserve, for somebody else who has to write to the same disk before space can be freed. False if there is
    /// none left.
    pub fn give_up_reserve(&self, bytes: u64) -> bool {
        self.1.give_up_reserve(bytes)
    }

    pub(crate) fn single_writer(&self) -> &OnceLock<bool> {
        &self.0.single_writer
    }

    pub(crate) fn last_commit(&self) -> &AtomicU64 {
        &self.0.last_commit
    }

    pub(crate) fn keys(&self) -> &VaultKeys {
        &self.0.keys
    }

    pub fn environment(&self) -> &dyn Environment {
        &*self.0.environment
    }

    /// The index, read at first use: a run that finds nothing changed never needs it.
    pub(crate) fn index(&self) -> Result<Arc<Index>> {
        let mut index = self.0.index.lock();
        if let Some(index) = &*index {
            return Ok(index.clone());
        }
        let loaded = Arc::new(Index::load(&self.1, &self.0.keys, self.read_excluded()?)?);
        *index = Some(loaded.clone());
        Ok(loaded)
    }

    fn read_excluded(&self) -> Result<Excluded> {
        let mut excluded = Excluded::default();
        damage::load_into(self, &mut excluded)?;
        condemned::load_into(self, &mut excluded)?;
        Ok(excluded)
    }

    /// Forgets what was read, so that the next use sees what others did meanwhile.
    pub(crate) fn reload(&self) {
        *self.0.index.lock() = None;
    }

    /// Fails when the location no longer has this vault: its file system is not mounted, say. Whoever writes asks first, or it
    /// would write into whatever is there instead.
    pub(crate) fn check_there(&self) -> Result<()> {
        if self.version() > 1 {
            return marker::check(self);
        }
        // Read by somebody who never writes, and so never upgraded.
        let missing = |name| matches!(self.1.head(name), Ok(None));
        match missing(HEADER_NAME) && missing(HEADER_COPY_NAME) {
            true => Err(marker::vault_is_gone(self)),
            false => Ok(()),
        }
    }

    /// What everybody does first who is about to write or delete: makes sure that the location is this vault's, and
    /// brings a vault of an earlier version up to this one.
    pub(crate) fn begin_writing(&self) -> Result<()> {
        if !self.0.header.read().is_current() {
            self.upgrade()?;
        }
        marker::check(self)
    }

    /// Makes a vault of version 1 one of version 2; one of version 2 gets the names that it does not require yet. Cut short
    /// anywhere, it is done again: the header comes last. What the vault has is taken from a listing, so the roll is not
    /// confirmed, and nothing is freed by it.
    fn upgrade(&self) -> Result<()> {
        // Another process may have done it since this one opened the vault.
        let (header, _) = Header::load(&self.1)?;
        if header.id != self.id() {
            return Err(marker::vault_is_gone(self));
        }
        if header.version > 1 {
            let is_current = header.is_current();
            *self.0.header.write() = header;
            return if is_current { Ok(()) } else { self.write_upgraded_header() };
        }
        tracing::info!("the vault at {} becomes one of format version 2", self.location());
        let mut roll = roll::anew(self)?;
        if let roll::RollState::Known { roll: before, .. } = roll::load(self)? {
            roll.generation = before.generation + 1;
            roll.accounted = roll.accounted.max(before.accounted);
        }
        roll.points = self.survey(None)?.roll_points(self);
        self.write_version_2(&roll)
    }

    fn write_version_2(&self, roll: &Roll) -> Result<()> {
        marker::write(self)?;
        roll::put(self, roll)?;
        lists::begin(self, roll.accounted)?;
        self.write_upgraded_header()
    }

    fn write_upgraded_header(&self) -> Result<()> {
        marker::check(self)?;
        self.require_single_writer()?;
        let header = self.header().upgraded();
        for name in [HEADER_COPY_NAME, HEADER_NAME] {
            self.1.put(name, header.to_bytes()?)?;
        }
        *self.0.header.write() = header;
        Ok(())
    }

    /// Puts both copies of header and marker right, if one is missing or damaged, beside a right marker.
    pub(crate) fn heal(&self) -> Result<()> {
        marker::heal(self)?;
        self.require_single_writer()?;
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            let sound = match Header::load_copy(&self.1, name) {
                // An earlier program, at work since before the upgrade, has put its own back: what it forgot has no
                // tombstones.
                Ok(header) if header.id == self.id() && header.version == 1 => {
                    *self.0.header.write() = header;
                    self.upgrade()?;
                    true
                }
                Ok(header) => header == self.header(),
                Err(StoreError::Object(e)) if e.kind != Kind::NotFound => return Err(e.into()),
                Err(e @ (StoreError::NewerFormat { .. } | StoreError::UnknownRequirement { .. })) => {
                    return Err(e);
                }
                Err(_) => false,
            };
            if !sound {
                tracing::warn!("{name} was missing or damaged; writing it anew");
                self.1.put(name, self.header().to_bytes()?)?;
            }
        }
        Ok(())
    }

    /// Writes the marker anew, both copies: for somebody who made sure that this is the right location. It has this vault's
    /// header, or it would not be open.
    pub fn renew_marker(&self) -> Result<()> {
        let (header, _) = Header::load(&self.1)?;
        if header.id != self.id() {
            return Err(marker::vault_is_gone(self));
        }
        if header.version == 1 {
            return self.upgrade();
        }
        marker::write(self)
    }

    /// All points, or those of one item; oldest first. A damaged manifest hides no other.
    pub fn points(&self, item: Option<&ItemName>) -> Result<PointList> {
        Ok(self.survey(item)?.list)
    }

    /// What there is of points. A point that was forgotten is none, whether its manifest is gone yet or not.
    pub(crate) fn survey(&self, item: Option<&ItemName>) -> Result<Survey> {
        let below = |prefix: &str| match item {
            Some(item) => format!("{prefix}{}/", self.0.keys.item_key(item)),
            None => prefix.to_owned(),
        };
        let mut manifests = Vec::new();
        for object in self.1.list(&below(POINTS_PREFIX))? {
            let loaded = match self.load_manifest(&object.name) {
                Err(error) if !error.is_damage() => return Err(error),
                other => other,
            };
            manifests.push((object.name, loaded));
        }
        // Tombstones after manifests: one that went since it was listed has its tombstone by now.
        let tombstones = tombstone::Names::list(self, &below(TOMBSTONES_PREFIX))?;
        let mut survey = Survey { tombstones, ..Survey::default() };
        for (object, loaded) in manifests {
            let point = manifest::parse_object_name(&object).map(|(_, point)| point);
            let session = match &loaded {
                Ok(Some(manifest)) => Some(manifest.session),
                _ => None,
            };
            let forgotten = match &point {
                Some(point) => survey.tombstones.covering(self, point, session)?.is_some(),
                None => false,
            };
            match loaded {
                _ if forgotten => survey.forgotten.push(object),
                Ok(Some(manifest)) => survey.list.points.push(manifest),
                // Before there were tombstones, it has been forgotten since it was listed.
                Ok(None) if self.version() == 1 => {}
                Ok(None) => {
                    survey.vanished.extend(point);
                    let error = StoreError::corrupt(
                        &object,
                        "it was listed, but the store says that it is not there, and nobody forgot the point",
                    );
                    survey.list.damaged.push(DamagedPoint { point, object, error });
                }
                Err(error) => survey.list.damaged.push(DamagedPoint { point, object, error }),
            }
        }
        survey.list.points.sort_by_key(|manifest| (manifest.taken_at, manifest.point));
        Ok(survey)
    }

    /// Whether the manifest that is there now is covered by a tombstone.
    pub(crate) fn is_forgotten(&self, object: &str) -> Result<bool> {
        let Some((item_key, point)) = manifest::parse_object_name(object) else { return Ok(false) };
        let session = match self.load_manifest(object) {
            Ok(Some(manifest)) => Some(manifest.session),
            Ok(None) => return Ok(false),
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        Ok(self.covering(item_key, &point, session)?.is_some())
    }

    /// A tombstone of this point, asked for by its name, that covers a manifest of this session; none: one that cannot be
    /// read.
    pub(crate) fn covering(
        &self,
        item_key: &str,
        point: &PointId,
        session: Option<SessionId>,
    ) -> Result<Option<Tombstone>> {
        for item_key in [item_key, tombstone::UNKNOWN_ITEM] {
            match tombstone::load(self, &tombstone::object_name(item_key, point)) {
                Ok(Some(tombstone)) if tombstone.covers(session) => return Ok(Some(tombstone)),
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// None if the store says that it is not there.
    pub(crate) fn load_manifest(&self, object: &str) -> Result<Option<Manifest>> {
        match self.1.get_bounded(object, MANIFEST_MAX_BYTES) {
            Ok(bytes) => manifest::open(&self.0.keys, object, &bytes).map(Some),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) if e.kind == Kind::TooLarge => {
                Err(StoreError::corrupt(object, "it is larger than a manifest can be"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The point a user named.
    pub fn find_point(&self, selector: &PointSelector) -> Result<Manifest> {
        let not_found = |hint| StoreError::NotFound { what: format!("recovery point {selector}"), hint };
        match selector {
            PointSelector::Id(id) => self.point(id),
            PointSelector::Latest(item) | PointSelector::At(item, _) => {
                let mut list = self.points(Some(item))?;
                if list.points.is_empty() && list.damaged.is_empty() {
                    return Err(not_found(
                        ": the vault has no points of this item (see `strongroom rescue point list`)",
                    ));
                }
                let found = match selector {
                    PointSelector::At(_, at) => {
                        list.points.retain(|manifest| manifest.taken_at <= *at);
                        list.points.pop()
                    }
                    _ => list.take_last(),
                };
                match found {
                    Some(manifest) => Ok(manifest),
                    None if list.damaged.is_empty() => Err(not_found(
                        ": the item's first point is later (see `strongroom rescue point list`)",
                    )),
                    None => Err(list.damaged.swap_remove(0).error),
                }
            }
        }
    }

    pub fn point(&self, id: &PointId) -> Result<Manifest> {
        let object = self.point_object(id)?;
        self.visible(&object.name)?.ok_or_else(|| point_not_found(id))
    }

    /// Ids of an item's points that a listing shows and that were not forgotten, whether they can be read or not. Costs two
    /// listings.
    pub fn listed_points(&self, item: &ItemName) -> Result<HashSet<PointId>> {
        let item_key = self.0.keys.item_key(item);
        let manifests = self.1.list(&format!("{POINTS_PREFIX}{item_key}/"))?;
        // Tombstones after manifests: one that went since it was listed has its tombstone by now.
        let tombstones = tombstone::Names::list(self, &format!("{TOMBSTONES_PREFIX}{item_key}/"))?;
        let mut listed = HashSet::new();
        for object in manifests {
            let Some((_, point)) = manifest::parse_object_name(&object.name) else { continue };
            let is_there = !tombstones.is_named(&point)
                || match self.visible(&object.name) {
                    Ok(found) => found.is_some(),
                    Err(error) if error.is_damage() => true,
                    Err(error) => return Err(error),
                };
            if is_there {
                listed.insert(point);
            }
        }
        Ok(listed)
    }

    /// The point of an item with this id, if it is there.
    pub fn point_of(&self, item: &ItemName, id: &PointId) -> Result<Option<Manifest>> {
        self.visible(&manifest::object_name(&self.0.keys.item_key(item), id))
    }

    /// A manifest, unless its point was forgotten.
    fn visible(&self, object: &str) -> Result<Option<Manifest>> {
        let loaded = self.load_manifest(object);
        let session = match &loaded {
            Ok(Some(manifest)) => Some(manifest.session),
            Err(e) if e.is_damage() => None,
            _ => return loaded,
        };
        let Some((item_key, point)) = manifest::parse_object_name(object) else { return loaded };
        match tombstone::load(self, &tombstone::object_name(item_key, &point)) {
            Ok(Some(tombstone)) if tombstone.covers(session) => Ok(None),
            Err(e) if !e.is_damage() => Err(e),
            _ => loaded,
        }
    }

    pub(crate) fn point_object(&self, id: &PointId) -> Result<ObjectInfo> {
        let mut found = None;
        self.1.for_each(POINTS_PREFIX, |object| match manifest::parse_object_name(&object.name) {
            Some((_, point)) if point == *id => {
                found = Some(object);
                std::ops::ControlFlow::Break(())
            }
            _ => std::ops::ControlFlow::Continue(()),
        })?;
        found.ok_or_else(|| point_not_found(id))
    }

    /// Makes damage that this vault's readers came across known to all later runs.
    pub fn record_damage(&self) -> Result<()> {
        let index = self.0.index.lock().clone();
        match index {
            Some(index) => damage::save_new(self, &index),
            None => Ok(()),
        }
    }

    /// Fetches the frames at these places, concurrently wanted ones once.
    pub(crate) fn frames_at(&self, places: &[Location]) -> Vec<Result<Arc<Decoded>>> {
        self.0.frames.get_many(&self.1, &self.0.keys, self.block_size_bytes() as usize, places)
    }

    /// The frame that holds `id`, and where in it: from any place that still has it.
    pub(crate) fn find_frame(&self, id: &Id, kind: FrameKind) -> Result<(Arc<Decoded>, usize)> {
        let index = self.index()?;
        let dropped = index.dropped();
        let mut error = None;
        let mut marked = Vec::new();
        for attempt in 0..3 {
            let places = match attempt {
                0 => index.places(id),
                1 => {
                    // Moved by reclaim since the index was read.
                    index.refresh(&self.1, &self.0.keys)?;
                    index.places(id)
                }
                _ => {
                    let mut places = Vec::new();
                    // Found in no place, or in a wrong one: a damaged run may be why, and hides its packs from the rescue.
                    index.drop_damaged(&self.0.keys);
                    // Another reader may have been the one to drop it.
                    if index.dropped() > dropped {
                        // The index was wrong, not what it named.
                        index.exclude(|excluded| {
                            marked.iter().for_each(|place| {
                                excluded.damaged_frames.remove(place);
                            });
                        });
                        places = index.places(id);
                    }
                    places.extend(index.rescue(&self.1, id)?);
                    places
                }
            };
            for place in places.into_iter().filter(|place| place.kind == kind) {
                let mut results = self.frames_at(&[place]);
                match results.pop() {
                    Some(Ok(frame)) if frame.ids.get(place.slot as usize) == Some(id) => {
                        return Ok((frame, place.slot as usize));
                    }
                    Some(Ok(_)) => {
                        error = Some(StoreError::corrupt(
                            place.pack.object_name(),
                            format!("the frame at offset {} does not hold what the index says", place.offset),
                        ));
                    }
                    Some(Err(e)) if e.is_damage() => {
                        let frame = (place.pack, place.offset);
                        index.exclude(|excluded| {
                            if excluded.damaged_frames.insert(frame) {
                                marked.push(frame);
                            }
                        });
                        error = Some(e);
                    }
                    Some(Err(e)) => return Err(e),
                    None => {}
                }
            }
        }
        Err(error.unwrap_or_else(|| {
            let kind = if kind == FrameKind::Nodes { "tree node" } else { "block" };
            StoreError::corrupt(format!("{kind} {id}"), "no pack of the vault holds it")
        }))
    }
}

/// What a look at all manifests and tombstones showed.
#[derive(Default)]
pub(crate) struct Survey {
    pub list: PointList,
    /// Points that were listed, are not there when asked for, and have no tombstone. They are in `list.damaged` too.
    pub vanished: Vec<PointId>,
    /// Manifests of points that were forgotten.
    pub forgotten: Vec<String>,
    pub tombstones: tombstone::Names,
}

impl Survey {
    /// The points that are there, readable or not.
    pub fn present(&self) -> impl Iterator<Item = PointId> {
        let damaged = self.list.damaged.iter().filter_map(|damaged| damaged.point);
        let damaged = damaged.filter(|point| !self.vanished.contains(point));
        self.list.points.iter().map(|manifest| manifest.point).chain(damaged)
    }

    /// The points that are there, for the roll.
    pub fn roll_points(&self, vault: &Vault) -> Vec<RollPoint> {
        let damaged = self.list.damaged.iter().filter_map(|damaged| {
            let (item_key, point) = manifest::parse_object_name(&damaged.object)?;
            let there = !self.vanished.contains(&point);
            there.then(|| RollPoint { point, item_key: item_key.to_owned(), session: None })
        });
        let readable = self.list.points.iter().map(|manifest| RollPoint {
            point: manifest.point,
            item_key: vault.keys().item_key(&manifest.item),
            session: Some(manifest.session),
        });
        let mut points: Vec<RollPoint> = readable.chain(damaged).collect();
        points.sort_unstable();
        points
    }
}

fn point_not_found(id: &PointId) -> StoreError {
    StoreError::NotFound {
        what: format!("recovery point {id}"),
        hint: " (see `strongroom rescue point list`)",
    }
}

impl NodeSource for Vault {
    fn node(&self, id: &Id) -> Result<Arc<Node>> {
        if let Some(node) = self.0.nodes.lock().get(id) {
            return Ok(node.clone());
        }
        let (frame, slot) = self.find_frame(id, FrameKind::Nodes)?;
        let (node, _) = Node::decode(frame.part(slot))
            .map_err(|detail| StoreError::corrupt(format!("tree node {id}"), detail))?;
        let node = Arc::new(node);
        let mut nodes = self.0.nodes.lock();
        if nodes.len() >= NODE_CACHE_MAX {
            // Whatever is in there is likely passed: trees are walked from left to right.
            nodes.clear();
        }
        nodes.insert(*id, node.clone());
        Ok(node)
    }
}

impl Vault {
    /// Whether any damage is on record, or packs are about to go; cheaper than reading the index.
    pub(crate) fn has_doubtful_packs(&self) -> Result<bool> {
        if let Some(index) = &*self.0.index.lock() {
            return Ok(index.has_damage() || index.awaits_deletion() || index.is_distrusted());
        }
        let lists = condemned::list(self)?;
        if lists.awaits_deletion() || lists.are_doubtful() || lists.incomplete {
            return Ok(true);
        }
        let mut found = false;
        self.1.for_each(damage::DAMAGED_PREFIX, |_| {
            found = true;
            std::ops::ControlFlow::Break(())
        })?;
        Ok(found)
    }
}
