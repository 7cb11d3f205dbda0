//! A vault: making one, opening one, and what is in it.

use crate::crypto::{Id, VaultKeys};
use crate::damage;
use crate::environment::{Environment, System};
use crate::error::{Result, StoreError};
use crate::frame::FrameKind;
use crate::frames::{Decoded, Frames};
use crate::header::{HEADER_COPY_NAME, HEADER_NAME, Header};
use crate::index::{Excluded, Index, Location};
use crate::keys::KeyProvider;
use crate::limits::{BLOCK_SIZE_DEFAULT_BYTES, MANIFEST_MAX_BYTES};
use crate::manifest::{self, Manifest, POINTS_PREFIX};
use crate::node::Node;
use crate::objects::{BlobStore, Kind, ObjectInfo};
use crate::reclaim::condemned;
use crate::tree::NodeSource;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use strongroom_domain::{ItemName, PointId, PointSelector, VaultId};

/// Interior and leaf nodes kept decoded.
const NODE_CACHE_MAX: usize = 2048;

/// An open vault. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    objects: BlobStore,
    keys: VaultKeys,
    header: Header,
    environment: Arc<dyn Environment>,
    index: Mutex<Option<Arc<Index>>>,
    frames: Frames,
    nodes: Mutex<HashMap<Id, Arc<Node>>>,
    /// Whether at most one run at a time may write; once it is known.
    single_writer: OnceLock<bool>,
}

/// What to make a vault with.
#[derive(Clone)]
pub struct InitOptions {
    pub vault: VaultId,
    pub block_size_bytes: u32,
    pub environment: Arc<dyn Environment>,
}

impl InitOptions {
    /// Defaults, with a fresh vault id.
    pub fn new() -> Self {
        Self {
            vault: System.new_vault_id(),
            block_size_bytes: BLOCK_SIZE_DEFAULT_BYTES,
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
    /// Makes a vault. The commit is `vault.json`, created if absent: of two at once, one wins.
    pub fn init(objects: BlobStore, provider: &dyn KeyProvider, options: InitOptions) -> Result<Self> {
        let exists = |location: &str| StoreError::AlreadyExists { what: format!("a vault at {location}") };
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            if objects.head(name)?.is_some() {
                return Err(exists(objects.location()));
            }
        }
        let now = options.environment.now();
        let (header, keys) = Header::create(options.vault, now, options.block_size_bytes, provider)?;
        let bytes = header.to_bytes()?;
        match objects.put_new(HEADER_NAME, bytes.clone()) {
            Err(e) if e.kind == Kind::AlreadyExists => return Err(exists(objects.location())),
            other => other?,
        }
        objects.put(HEADER_COPY_NAME, bytes)?;
        Ok(Self::assemble(objects, header, keys, options.environment))
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
        Self(Arc::new(Inner {
            objects,
            keys,
            header,
            environment,
            index: Mutex::default(),
            frames: Frames::default(),
            nodes: Mutex::default(),
            single_writer: OnceLock::new(),
        }))
    }

    pub fn id(&self) -> VaultId {
        self.0.header.id
    }

    pub fn header(&self) -> &Header {
        &self.0.header
    }

    pub fn block_size_bytes(&self) -> u32 {
        self.0.header.block_size_bytes
    }

    pub fn location(&self) -> &str {
        self.0.objects.location()
    }

    pub fn objects(&self) -> &BlobStore {
        &self.0.objects
    }

    pub(crate) fn single_writer(&self) -> &OnceLock<bool> {
        &self.0.single_writer
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
        let loaded = Arc::new(Index::load(&self.0.objects, &self.0.keys, self.read_excluded()?)?);
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
        let missing = |name| matches!(self.0.objects.head(name), Ok(None));
        if missing(HEADER_NAME) && missing(HEADER_COPY_NAME) {
            return Err(StoreError::NotAVault {
                location: self.location().to_owned(),
                detail: "the vault that was there is gone; mount its file system, or put it back".into(),
            });
        }
        Ok(())
    }

    /// Puts both copies of the header right, if one is missing or damaged.
    pub(crate) fn heal_header(&self) -> Result<()> {
        for name in [HEADER_NAME, HEADER_COPY_NAME] {
            let sound = match Header::load_copy(&self.0.objects, name) {
                Ok(header) => header == self.0.header,
                Err(StoreError::Object(e)) if e.kind != Kind::NotFound => return Err(e.into()),
                Err(_) => false,
            };
            if !sound {
                tracing::warn!("{name} was missing or damaged; writing it anew");
                self.0.objects.put(name, self.0.header.to_bytes()?)?;
            }
        }
        Ok(())
    }

    /// All points, or those of one item; oldest first. A damaged manifest hides no other.
    pub fn points(&self, item: Option<&ItemName>) -> Result<PointList> {
        let prefix = match item {
            Some(item) => format!("{POINTS_PREFIX}{}/", self.0.keys.item_key(item)),
            None => POINTS_PREFIX.to_owned(),
        };
        let mut list = PointList::default();
        for object in self.0.objects.list(&prefix)? {
            match self.load_manifest(&object) {
                Ok(Some(manifest)) => list.points.push(manifest),
                Ok(None) => {}
                Err(error) if error.is_damage() => list.damaged.push(DamagedPoint {
                    point: manifest::parse_object_name(&object.name).map(|(_, point)| point),
                    object: object.name,
                    error,
                }),
                Err(error) => return Err(error),
            }
        }
        list.points.sort_by_key(|manifest| (manifest.taken_at, manifest.point));
        Ok(list)
    }

    fn load_manifest(&self, object: &ObjectInfo) -> Result<Option<Manifest>> {
        match self.0.objects.get_bounded(&object.name, MANIFEST_MAX_BYTES) {
            Ok(bytes) => manifest::open(&self.0.keys, &object.name, &bytes).map(Some),
            // Forgotten since it was listed.
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) if e.kind == Kind::TooLarge => {
                Err(StoreError::corrupt(&object.name, "it is larger than a manifest can be"))
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
        self.load_manifest(&object)?.ok_or_else(|| point_not_found(id))
    }

    /// The point of an item with this id, if it is there.
    pub fn point_of(&self, item: &ItemName, id: &PointId) -> Result<Option<Manifest>> {
        let name = manifest::object_name(&self.0.keys.item_key(item), id);
        match self.0.objects.get_bounded(&name, MANIFEST_MAX_BYTES) {
            Ok(bytes) => manifest::open(&self.0.keys, &name, &bytes).map(Some),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) if e.kind == Kind::TooLarge => {
                Err(StoreError::corrupt(&name, "it is larger than a manifest can be"))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn point_object(&self, id: &PointId) -> Result<ObjectInfo> {
        let mut found = None;
        self.0.objects.for_each(POINTS_PREFIX, |object| match manifest::parse_object_name(&object.name) {
            Some((_, point)) if point == *id => {
                found = Some(object);
                std::ops::ControlFlow::Break(())
            }
            _ => std::ops::ControlFlow::Continue(()),
        })?;
        found.ok_or_else(|| point_not_found(id))
    }

    /// Deletes a point's manifest: from then on the point is gone, and the next reclaims give back what only it used.
    /// Also takes points whose manifest is damaged.
    pub fn forget(&self, id: &PointId) -> Result<()> {
        let object = self.point_object(id)?;
        Ok(self.0.objects.delete(&object.name)?)
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
        self.0.frames.get_many(&self.0.objects, &self.0.keys, self.block_size_bytes() as usize, places)
    }

    /// The frame that holds `id`, and where in it: from any place that still has it.
    pub(crate) fn find_frame(&self, id: &Id, kind: FrameKind) -> Result<(Arc<Decoded>, usize)> {
        let index = self.index()?;
        let mut error = None;
        let mut marked = Vec::new();
        for attempt in 0..3 {
            let places = match attempt {
                0 => index.places(id),
                1 => {
                    // Moved by reclaim since the index was read.
                    index.refresh(&self.0.objects, &self.0.keys)?;
                    index.places(id)
                }
                _ => {
                    let mut places = Vec::new();
                    if error.is_some() && index.drop_damaged(&self.0.keys) {
                        // The index was wrong, not what it named.
                        index.exclude(|excluded| {
                            marked.iter().for_each(|place| {
                                excluded.damaged_frames.remove(place);
                            });
                        });
                        places = index.places(id);
                    }
                    places.extend(index.rescue(&self.0.objects, id)?);
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
            return Ok(index.has_damage() || index.awaits_deletion());
        }
        if condemned::list(self)?.awaits_deletion() {
            return Ok(true);
        }
        let mut found = false;
        self.0.objects.for_each(damage::DAMAGED_PREFIX, |_| {
            found = true;
            std::ops::ControlFlow::Break(())
        })?;
        Ok(found)
    }
}
