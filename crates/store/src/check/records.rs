//! What the vault says of itself: header, marker, roll, records and manifests.

use super::report::TouchedPoint;
use super::run::Run;
use crate::commits;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::header::{HEADER_COPY_NAME, HEADER_NAME, Header};
use crate::lease;
use crate::manifest::Manifest;
use crate::objects::{Kind, ObjectInfo};
use crate::roll::{self, RollState};
use crate::{damage, lists, marker, note, record, tombstone};

impl Run<'_> {
    pub(super) fn header(&mut self) -> Result<()> {
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
    pub(super) fn roll(&mut self) -> Result<()> {
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
    pub(super) fn records(&mut self, listed: &[ObjectInfo]) -> Result<()> {
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

    pub(super) fn manifests(&mut self) -> Result<Vec<Manifest>> {
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
}
