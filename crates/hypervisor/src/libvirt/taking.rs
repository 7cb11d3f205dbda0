//! What is known of a snapshot while it is taken: the roads have it in common.

use super::backend::{Backend, Spoiled};
use super::guest::GuestSession;
use super::planned::PlannedDisk;
use super::session::Session;
use super::{guest_port, reconcile};
use crate::error::{Error, Result};
use crate::export::NbdDisk;
use crate::extents;
use crate::files;
use crate::guest::GuestReport;
use crate::limits::OWN_PREFIX;
use crate::model::{AgentState, DiskFormat, MachineState};
use crate::snapshot::{Changes, DiskSnapshot, Quiesce, SnapshotRequest, Timings};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use strongroom_domain::{Consistency, Extent, TypedExtent};

/// Why nothing tells the changes of a machine with internal snapshots.
pub const UNTRACKED: &str = "the machine has internal snapshots, so that its changes are not tracked";

/// What the roads have in common.
pub struct Taking<'r> {
    pub session: Arc<Session>,
    pub request: &'r SnapshotRequest,
    pub disks: Vec<PlannedDisk>,
    pub state: MachineState,
    pub state_reason: i32,
    pub agent: AgentState,
    /// The extension in the guest.
    pub inside: Inside,
    pub warnings: Vec<String>,
    pub timings: Timings,
    /// Set when the snapshot cannot be read any more.
    pub spoiled: Arc<Spoiled>,
}

/// What a road answers.
pub struct Taken {
    pub taken_at: SystemTime,
    pub consistency: Consistency,
    pub disks: Vec<DiskSnapshot>,
    pub backend: Backend,
}

/// What is done in the guest around the instant.
#[derive(Default)]
pub struct Inside {
    /// The host's end of the extension's port, where the guest's is open.
    pub port: Option<PathBuf>,
    /// Between opening and closing the window.
    pub session: Option<GuestSession>,
    pub report: Option<GuestReport>,
    /// Why the snapshot is not wanted, though it was taken.
    pub failure: Option<Error>,
}

impl Inside {
    /// Of a machine by its definition.
    pub fn of(document: &roxmltree::Document<'_>) -> Self {
        Self { port: guest_port::path_in(document), ..Self::default() }
    }
}

impl Taking<'_> {
    /// The clone of a raw disk that its parent point left.
    pub fn previous_clone(&self, disk: &PlannedDisk) -> Option<PathBuf> {
        let parent = disk.parent.as_ref()?;
        let ours = disk.format == DiskFormat::Raw && reconcile::is_own_name(&parent.checkpoint);
        ours.then(|| self.session.clone_path(&disk.path, &disk.target, &parent.checkpoint))
    }

    /// How the files below the disks are: they are read in place, and may be merged by somebody.
    pub fn chain_fingerprints(&self) -> Result<Vec<(PathBuf, files::Fingerprint)>> {
        let below: BTreeSet<PathBuf> = self.disks.iter().flat_map(|d| d.layer.files_below()).collect();
        below
            .into_iter()
            .map(|path| {
                let fingerprint = files::fingerprint(&path)?;
                Ok((path, fingerprint))
            })
            .collect()
    }

    /// Why the guest cannot be frozen, if so.
    pub fn cannot_freeze(&self) -> Option<String> {
        if self.request.quiesce == Quiesce::Never {
            return Some("freezing was not asked for".into());
        }
        match (self.state, self.agent) {
            (MachineState::Running, AgentState::Connected) => None,
            (MachineState::Running, AgentState::NotConnected) => {
                Some("its guest agent is not running; install and start qemu-guest-agent inside".into())
            }
            (MachineState::Running, AgentState::NoChannel) => {
                Some("it has no channel for a guest agent (org.qemu.guest_agent.0)".into())
            }
            (state, _) => Some(format!("it was {state}")),
        }
    }

    /// Whether freezing was asked for and the machine could be, if only its agent were there.
    pub fn is_agent_missing(&self) -> bool {
        self.request.quiesce == Quiesce::Auto
            && self.state == MachineState::Running
            && self.agent != AgentState::Connected
    }

    /// What a disk's extents will cover, before sizes are known. `since` is the usable parent.
    pub fn full_reason(&mut self, disk: &PlannedDisk, lost: Option<String>) -> String {
        match (&disk.parent, lost) {
            (None, _) if disk.has_snapshots => UNTRACKED.into(),
            (None, _) => "it was not backed up before".into(),
            (Some(_), lost) => {
                let why = lost.unwrap_or_else(|| "its changes since then were not tracked".into());
                self.warnings.push(format!(
                    "disk `{}` is read fully: {why}. Only what changed is stored; the next backup is incremental again where its changes can be tracked",
                    disk.target
                ));
                why
            }
        }
    }

    /// Extents to take over of a disk served over NBD.
    pub fn changes_of(
        &mut self,
        disk: &PlannedDisk,
        nbd: &NbdDisk,
        dirty: Option<(String, Vec<Extent>)>,
        lost: Option<String>,
    ) -> Result<(Changes, Vec<TypedExtent>)> {
        let size = nbd.size_bytes();
        let parent_size = disk.parent.as_ref().map_or(0, |p| p.size_bytes);
        match dirty {
            Some((checkpoint, mut dirty)) if parent_size <= size => {
                debug_assert!(checkpoint.starts_with(OWN_PREFIX));
                extents::clip(&mut dirty, size);
                if parent_size < size {
                    extents::add_tail(&mut dirty, parent_size, size);
                }
                Ok((Changes::Since { checkpoint }, nbd.kinds_within(&dirty)?))
            }
            dirty => {
                let lost = dirty.map(|_| "it was made smaller".to_owned()).or(lost);
                Ok((Changes::Full { reason: self.full_reason(disk, lost) }, nbd.kinds()?))
            }
        }
    }
}
