//! The index: its runs, and what they name. It is derived from packs: where it is damaged it is rebuilt from them.

use super::run::Run;
use crate::error::{Result, StoreError};
use crate::frame::PackId;
use crate::index::run::PackRow;
use crate::index::{Excluded, INDEX_PREFIX, Index, Pending};
use crate::lease::{self, LeaseState};
use crate::objects::{Kind, ObjectInfo};
use crate::pack::read_directory;
use crate::reclaim::condemned;
use std::collections::HashSet;
use strongroom_domain::SessionId;

impl Run<'_> {
    /// Index runs: their macs, and that they name packs that are there. Rebuilds what is missing.
    pub(super) fn index(&mut self, listed: &[ObjectInfo]) -> Result<std::sync::Arc<Index>> {
        let index = self.vault.index_of_store()?;
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
}
