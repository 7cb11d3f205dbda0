//! Forgetting points: on purpose, back from a session that must not have committed, and written off.

use crate::error::{Result, StoreError};
use crate::roll::{self, RollState};
use crate::tombstone::{
    DamagedTombstone, Names, TOMBSTONES_PREFIX, Tombstone, TombstoneList, UNKNOWN_ITEM, load,
    parse_object_name, write,
};
use crate::vault::Vault;
use crate::{manifest, marker};
use strongroom_domain::{PointId, SessionId};

impl Vault {
    fn new_tombstone(&self, point: &PointId, why: &str, session: Option<SessionId>) -> Tombstone {
        Tombstone {
            point: *point,
            at: self.environment().now(),
            why: why.to_owned(),
            by: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            session,
            taken_back: Vec::new(),
        }
    }

    /// Forgets a point: its tombstone is the commit, then its manifest goes, and the next reclaims give back what only
    /// it used. May be called again after any failure. Also takes points whose manifest is damaged. `why` is for
    /// whoever looks at the tombstone later.
    pub fn forget(&self, id: &PointId, why: &str) -> Result<()> {
        self.freeing().forget_point(id, why)
    }

    fn forget_point(&self, id: &PointId, why: &str) -> Result<()> {
        self.begin_writing()?;
        let object = match self.point_object(id) {
            Ok(object) => object.name,
            // Forgotten before, all of it.
            Err(StoreError::NotFound { .. }) if self.tombstone(id)?.is_some() => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some((item_key, _)) = manifest::parse_object_name(&object) else {
            return Err(StoreError::corrupt(object, "its name is not that of a point"));
        };
        let session = match self.load_manifest(&object) {
            Ok(manifest) => manifest.map(|manifest| manifest.session),
            Err(e) if e.is_damage() => None,
            Err(e) => return Err(e),
        };
        write(self, item_key, self.new_tombstone(id, why, session))?;
        marker::check(self)?;
        Ok(self.objects().delete(&object)?)
    }

    /// Takes back a point whose session must not have committed it. The id stays free.
    pub(crate) fn take_back(
        &self,
        item_key: &str,
        id: &PointId,
        session: SessionId,
        why: &str,
    ) -> Result<()> {
        marker::check(self)?;
        let mut tombstone = self.new_tombstone(id, why, Some(session));
        tombstone.taken_back = vec![session];
        write(self, item_key, tombstone)?;
        let object = manifest::object_name(item_key, id);
        match self.load_manifest(&object) {
            // Somebody else's point of that id.
            Ok(Some(manifest)) if manifest.session != session => Ok(()),
            Err(e) if !e.is_damage() => Err(e),
            _ => Ok(self.objects().delete(&object)?),
        }
    }

    /// Writes a point that is gone without a tombstone off: what only it used may be freed from then on. Refused where
    /// the point is there.
    pub fn accept_loss(&self, id: &PointId, why: &str) -> Result<()> {
        self.freeing().write_off(id, why)
    }

    fn write_off(&self, id: &PointId, why: &str) -> Result<()> {
        self.begin_writing()?;
        let item_key = match roll::load(self)? {
            RollState::Known { roll, .. } => {
                roll.points.into_iter().find(|known| known.point == *id).map(|known| known.item_key)
            }
            RollState::Unknown { .. } => None,
        };
        let is_there = match &item_key {
            // By its name: a listing may leave it out.
            Some(item_key) => self.objects().head(&manifest::object_name(item_key, id))?.is_some(),
            None => false,
        };
        match self.point_object(id) {
            Err(StoreError::NotFound { .. }) if !is_there => {}
            Err(StoreError::NotFound { .. }) | Ok(_) => {
                return Err(StoreError::Invalid {
                    what: "point to write off",
                    detail: format!(
                        "point {id} is there. `strongroom rescue point forget {id}` removes it, if that is what is wanted"
                    ),
                });
            }
            Err(e) => return Err(e),
        }
        let item_key = item_key.as_deref().unwrap_or(UNKNOWN_ITEM);
        write(self, item_key, self.new_tombstone(id, why, None))
    }

    /// The tombstone of a point that was forgotten for good; none if there is none, or it is no longer kept.
    pub fn tombstone(&self, id: &PointId) -> Result<Option<Tombstone>> {
        let mut objects = Vec::new();
        self.objects().for_each(TOMBSTONES_PREFIX, |object| {
            if parse_object_name(&object.name).is_some_and(|(_, point)| point == *id) {
                objects.push(object.name);
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let mut damage = None;
        for object in objects {
            match load(self, &object) {
                Ok(Some(tombstone)) if tombstone.is_final() => return Ok(Some(tombstone)),
                Ok(_) => {}
                Err(e) if e.is_damage() => damage = Some(e),
                Err(e) => return Err(e),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// All points that were forgotten for good, as far back as tombstones are kept.
    pub fn tombstones(&self) -> Result<TombstoneList> {
        let mut list = TombstoneList::default();
        let names = Names::list(self, TOMBSTONES_PREFIX)?;
        for (point, object, _) in names.iter() {
            match load(self, object) {
                Ok(Some(tombstone)) if tombstone.is_final() => list.tombstones.push(tombstone),
                // Made yet, or pruned since it was listed.
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    list.damaged.push(DamagedTombstone {
                        object: object.to_owned(),
                        point: Some(*point),
                        error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        list.tombstones.sort_by_key(|tombstone| (tombstone.at, tombstone.point));
        list.damaged.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(list)
    }
}
