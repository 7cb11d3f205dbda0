//! Damage lists: places found unreadable, recorded so that every later writer takes them as absent.
//! Writing the same data again then heals all points that share it. See `docs/vault-format.md`, section 7.

use crate::error::Result;
use crate::frame::PackId;
use crate::index::{Excluded, Index};
use crate::objects::Kind;
use crate::record;
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use strongroom_domain::SessionId;

pub const DAMAGED_PREFIX: &str = "damaged/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackRef {
    pub session: SessionId,
    pub seq: u32,
}

impl From<PackId> for PackRef {
    fn from(pack: PackId) -> Self {
        Self { session: pack.session, seq: pack.sequence }
    }
}

impl From<PackRef> for PackId {
    fn from(pack: PackRef) -> Self {
        Self { session: pack.session, sequence: pack.seq }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameRef {
    #[serde(flatten)]
    pub pack: PackRef,
    pub offset: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DamageRecord {
    pub frames: Vec<FrameRef>,
    pub packs: Vec<PackRef>,
}

/// Adds what is recorded to `excluded`. A damage list that is damaged itself is passed over: `check` names it.
pub fn load_into(vault: &Vault, excluded: &mut Excluded) -> Result<()> {
    for object in vault.objects().list(DAMAGED_PREFIX)? {
        match record::load::<DamageRecord>(vault.objects(), vault.keys(), &object.name) {
            Ok(list) => {
                excluded.damaged_frames.extend(list.frames.iter().map(|f| (f.pack.into(), f.offset)));
                excluded.damaged_packs.extend(list.packs.into_iter().map(PackId::from));
            }
            Err(crate::StoreError::Object(e)) if e.kind == Kind::NotFound => {}
            Err(e) if e.is_damage() => tracing::warn!("{e}; passing it over"),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes what `index` knows to be damaged and no list says yet.
pub fn save_new(vault: &Vault, index: &Index) -> Result<()> {
    if !index.has_damage() {
        return Ok(());
    }
    let mut recorded = Excluded::default();
    load_into(vault, &mut recorded)?;
    let known = index.excluded();
    let mut list = DamageRecord {
        frames: known
            .damaged_frames
            .difference(&recorded.damaged_frames)
            .map(|(pack, offset)| FrameRef { pack: (*pack).into(), offset: *offset })
            .collect(),
        packs: known.damaged_packs.difference(&recorded.damaged_packs).map(|pack| (*pack).into()).collect(),
    };
    if list.frames.is_empty() && list.packs.is_empty() {
        return Ok(());
    }
    if let Err(e) = vault.check_there() {
        tracing::warn!("damage that was found is not recorded: {e}");
        return Ok(());
    }
    list.frames.sort_unstable();
    list.packs.sort_unstable();
    let name = format!("{DAMAGED_PREFIX}{}", vault.environment().new_session_id());
    let bytes = record::encode(vault.keys(), &name, &list)?;
    Ok(vault.objects().put_new(&name, bytes)?)
}
