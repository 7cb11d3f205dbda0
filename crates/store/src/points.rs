//! Which points a vault has: listed, found, forgotten, vanished.

use crate::error::{Result, StoreError};
use crate::limits::MANIFEST_MAX_BYTES;
use crate::manifest::{self, Manifest, POINTS_PREFIX};
use crate::objects::{Kind, ObjectInfo, try_all_at_once};
use crate::roll::RollPoint;
use crate::tombstone::{self, TOMBSTONES_PREFIX, Tombstone};
use crate::vault::Vault;
use std::collections::HashSet;
use strongroom_domain::{ItemName, PointId, PointSelector, SessionId};

/// A point that cannot be read, and why.
#[derive(Debug)]
pub struct DamagedPoint {
    /// The object of its manifest.
    pub object: String,
    /// As the object's name says. None: it is no name of a point's.
    pub point: Option<PointId>,
    /// Always damage: see [`StoreError::is_damage`].
    pub error: StoreError,
}

/// The points of a vault.
#[derive(Debug, Default)]
pub struct PointList {
    /// Oldest first.
    pub points: Vec<Manifest>,
    /// Those that are there, or were listed, and cannot be read.
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
    /// All points, or those of one item; oldest first. A damaged manifest hides no other.
    pub fn points(&self, item: Option<&ItemName>) -> Result<PointList> {
        Ok(self.survey(item)?.list)
    }

    /// Where manifests of an item are.
    pub(crate) fn points_prefix(&self, item: &ItemName) -> String {
        format!("{POINTS_PREFIX}{}/", self.keys().item_key(item))
    }

    /// What there is of points. A point that was forgotten is none, whether its manifest is gone yet or not.
    pub(crate) fn survey(&self, item: Option<&ItemName>) -> Result<Survey> {
        let below = |prefix: &str| match item {
            Some(item) => format!("{prefix}{}/", self.keys().item_key(item)),
            None => prefix.to_owned(),
        };
        let listed = self.objects().list(&below(POINTS_PREFIX))?;
        let load = || {
            let load = |object: &ObjectInfo| self.load_manifest(&object.name);
            try_all_at_once(self.objects().is_remote(), &listed, load, |error: &StoreError| {
                !error.is_damage()
            })
        };
        let tombstones_below = below(TOMBSTONES_PREFIX);
        // Tombstones after manifests: one that went since it was listed has its tombstone by now.
        let list_tombstones = || tombstone::Names::list(&self.plain(), &tombstones_below);
        let (loaded, tombstones) = match self.objects().is_remote() {
            false => (load()?, None),
            true => std::thread::scope(|scope| {
                let listing = scope.spawn(list_tombstones);
                let loaded = load()?;
                let none_went = loaded.iter().all(|loaded| !matches!(loaded, Ok(None)));
                Ok::<_, StoreError>((loaded, listing.join().ok().filter(|_| none_went)))
            })?,
        };
        let tombstones = tombstones.unwrap_or_else(list_tombstones)?;
        let manifests = listed.iter().map(|object| object.name.clone()).zip(loaded);
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
        match self.objects().get_bounded(object, MANIFEST_MAX_BYTES) {
            Ok(bytes) => manifest::open(self.keys(), object, &bytes).map(Some),
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

    /// The point of this id, of whichever item; costs a listing. [`StoreError::NotFound`] where it is not, or was forgotten.
    pub fn point(&self, id: &PointId) -> Result<Manifest> {
        let object = self.point_object(id)?;
        self.visible(&object.name)?.ok_or_else(|| point_not_found(id))
    }

    /// Ids of an item's points that a listing shows and that were not forgotten, whether they can be read or not. Costs two
    /// listings.
    pub fn listed_points(&self, item: &ItemName) -> Result<HashSet<PointId>> {
        let item_key = self.keys().item_key(item);
        let manifests = self.objects().list(&format!("{POINTS_PREFIX}{item_key}/"))?;
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
        self.visible(&manifest::object_name(&self.keys().item_key(item), id))
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
        self.objects().for_each(POINTS_PREFIX, |object| match manifest::parse_object_name(&object.name) {
            Some((_, point)) if point == *id => {
                found = Some(object);
                std::ops::ControlFlow::Break(())
            }
            _ => std::ops::ControlFlow::Continue(()),
        })?;
        found.ok_or_else(|| point_not_found(id))
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
