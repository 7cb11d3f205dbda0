//! The blocks of a leaf: where they are, and their bytes.

use crate::ahead::Ahead;
use crate::crypto::Id;
use crate::error::Result;
use crate::frame::FrameKind;
use crate::frames::Decoded;
use crate::index::Location;
use crate::node::Node;
use crate::vault::Vault;
use std::collections::HashMap;
use std::sync::Arc;

/// Blocks of a leaf that are wanted, and where they were last seen.
pub(crate) struct Wanted {
    /// Number in the leaf, id, place.
    blocks: Vec<(usize, Id, Option<Location>)>,
    /// The frames that these are in, each once, in the order of their packs.
    pub frames: Vec<Location>,
}

impl Wanted {
    /// What fetching them moves.
    pub fn stored_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.frame_len)).sum()
    }
}

impl Vault {
    /// The present blocks of a leaf that `mask` has.
    pub(crate) fn wanted(&self, leaf: &Node, mask: u128) -> Result<Wanted> {
        let index = self.index()?;
        let place = |id: &Id| index.places(id).into_iter().next();
        let blocks: Vec<_> = leaf
            .present()
            .filter(|(number, _)| mask >> number & 1 == 1)
            .map(|(number, id)| (number, id, place(&id)))
            .collect();
        let mut frames: Vec<Location> = blocks.iter().filter_map(|(_, _, place)| *place).collect();
        frames.sort_by_key(|place| (place.pack, place.offset));
        frames.dedup_by_key(|place| (place.pack, place.offset));
        Ok(Wanted { blocks, frames })
    }

    /// Calls `each` with the data of these blocks, in order; neighbours that lie side by side in a frame come together.
    pub(crate) fn read_blocks(
        &self,
        wanted: &Wanted,
        ahead: Option<&Ahead>,
        each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Wanted { blocks, frames } = wanted;
        let fetched: HashMap<_, Arc<Decoded>> = frames
            .iter()
            .zip(self.frames_at(frames, ahead))
            // What could not be had here is looked for elsewhere below.
            .filter_map(|(place, result)| Some(((place.pack, place.offset), result.ok()?)))
            .collect();
        let mut at = 0;
        while at < blocks.len() {
            let (block, id, place) = blocks[at];
            let found = place.and_then(|place| {
                let frame = fetched.get(&(place.pack, place.offset))?;
                (frame.ids.get(place.slot as usize) == Some(&id))
                    .then(|| (frame.clone(), place.slot as usize))
            });
            let (frame, slot) = match found {
                Some(found) => found,
                None => self.find_frame(&id, FrameKind::Blocks)?,
            };
            let mut count = 1;
            while let Some((next_block, next_id, _)) = blocks.get(at + count)
                && *next_block == block + count
                && frame.ids.get(slot + count) == Some(next_id)
            {
                count += 1;
            }
            each(block, frame.parts(slot, count))?;
            at += count;
        }
        Ok(())
    }
}
