//! Protected items: their states, and what may happen to them.
//!
//! ```text
//! NotProtected ─Protect→ IrPending ─FirstBackupDone→ Protected
//!       ↑                   └──────────┬───────────────┘
//!     Purge                Stop, Suspend ↓   ↑ Resume
//!       │               ProtectionStopped, BackupsSuspended
//!       │                              ↓ Delete      ↑ Undelete (to ProtectionStopped)
//!       └───────────────────────── SoftDeleted
//! ```
//!
//! Transitions are a function of state and event; times and rows are the caller's. Where soft delete is off, what is deleted is
//! purged at once: deleting is one change of state, whatever a crash does to the work that follows.

use crate::limits::SOFT_DELETE_DAYS;
use crate::retention::RetentionMode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The state of a machine's protection in a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// There is no item: never protected, or gone.
    NotProtected,
    /// Protected; the initial replica, that is the first backup, is pending.
    IrPending,
    /// By a policy; it has points.
    Protected,
    /// No backups are made and no policy applies any more: what is there is kept for ever, or until somebody resumes or deletes it.
    ProtectionStopped,
    /// No backups are made, but the policy stays: what is there expires by it, but for the last point.
    BackupsSuspended,
    /// Deleted, but can be brought back for some days.
    SoftDeleted,
}

/// What happens to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemEvent {
    /// Protect, by a policy, or resume that.
    Protect,
    /// A backup was completed; only the first one changes anything.
    FirstBackupDone,
    /// Stop protection, keep the data.
    Stop,
    /// Stop protection, let the data expire by the policy.
    Suspend,
    /// Protect again what was stopped or suspended. `has_points`: whether it has any recovery point.
    Resume {
        /// Whether it has any recovery point.
        has_points: bool,
    },
    /// Another policy, or other disks, for what is protected.
    ChangePolicy,
    /// Delete with all data. It can be brought back until it is purged: see [`purge_at`].
    Delete,
    /// Bring back what was deleted softly.
    Undelete,
    /// The time in which it could be brought back is over.
    Purge,
}

/// Why something can't be done to an item. Named by what the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ItemError {
    /// Change its policy, or stop it first.
    #[error("the machine is already protected")]
    AlreadyProtected,
    /// Undelete it first.
    #[error("the item is deleted and can still be brought back: undelete it first")]
    SoftDeleted,
    /// Protect it first.
    #[error("the machine is not protected")]
    NotProtected,
    /// Resume it first.
    #[error("protection of the machine is stopped: resume it first")]
    Stopped,
    /// There is nothing to resume.
    #[error("protection of the machine is not stopped")]
    NotStopped,
    /// There is nothing to undelete.
    #[error("the item is not deleted")]
    NotDeleted,
}

impl ItemError {
    /// Azure's code; where it has published none, one of the same form.
    pub fn code(self) -> &'static str {
        match self {
            Self::AlreadyProtected => "UserErrorVmAlreadyProtected",
            Self::SoftDeleted => "UserErrorItemInSoftDeletedState",
            Self::NotProtected => "UserErrorItemNotProtected",
            Self::Stopped => "UserErrorItemProtectionStopped",
            Self::NotStopped => "UserErrorItemProtectionNotStopped",
            Self::NotDeleted => "UserErrorItemNotInSoftDeletedState",
        }
    }
}

impl ItemState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NotProtected,
        Self::IrPending,
        Self::Protected,
        Self::ProtectionStopped,
        Self::BackupsSuspended,
        Self::SoftDeleted,
    ];

    /// The state after an event, or why it can't happen. What is asked for twice is done once: stopping what is stopped,
    /// suspending what is suspended and deleting what is deleted change nothing.
    pub fn after(self, event: &ItemEvent) -> Result<Self, ItemError> {
        use ItemState::*;
        match (self, *event) {
            (NotProtected, ItemEvent::Protect) => Ok(IrPending),
            (NotProtected, ItemEvent::Undelete) => Err(ItemError::NotDeleted),
            (NotProtected, ItemEvent::Purge) => Ok(NotProtected),
            (NotProtected, _) => Err(ItemError::NotProtected),

            (SoftDeleted, ItemEvent::Undelete) => Ok(ProtectionStopped),
            (SoftDeleted, ItemEvent::Purge) => Ok(NotProtected),
            (SoftDeleted, ItemEvent::Delete) => Ok(SoftDeleted),
            (SoftDeleted, _) => Err(ItemError::SoftDeleted),
            (_, ItemEvent::Undelete | ItemEvent::Purge) => Err(ItemError::NotDeleted),

            (_, ItemEvent::Delete) => Ok(SoftDeleted),
            (_, ItemEvent::Stop) => Ok(ProtectionStopped),

            (IrPending | Protected, ItemEvent::FirstBackupDone) => Ok(Protected),
            (IrPending | Protected, ItemEvent::Suspend) => Ok(BackupsSuspended),
            (IrPending | Protected, ItemEvent::ChangePolicy) => Ok(self),
            (IrPending | Protected, ItemEvent::Protect) => Err(ItemError::AlreadyProtected),
            (IrPending | Protected, ItemEvent::Resume { .. }) => Err(ItemError::NotStopped),

            // A backup that was under way when protection was stopped.
            (ProtectionStopped | BackupsSuspended, ItemEvent::FirstBackupDone) => Ok(self),
            (BackupsSuspended, ItemEvent::Suspend) => Ok(self),
            (ProtectionStopped | BackupsSuspended, ItemEvent::Resume { has_points: true }) => Ok(Protected),
            (ProtectionStopped | BackupsSuspended, ItemEvent::Resume { has_points: false }) => Ok(IrPending),
            (ProtectionStopped | BackupsSuspended, ItemEvent::Protect) => Err(ItemError::AlreadyProtected),
            (ProtectionStopped, ItemEvent::Suspend) => Err(ItemError::Stopped),
            (ProtectionStopped | BackupsSuspended, ItemEvent::ChangePolicy) => Err(ItemError::Stopped),
        }
    }

    /// Whether backups are made: by schedule and on demand.
    pub fn check_backup(self) -> Result<(), ItemError> {
        match self {
            Self::IrPending | Self::Protected => Ok(()),
            Self::ProtectionStopped | Self::BackupsSuspended => Err(ItemError::Stopped),
            Self::SoftDeleted => Err(ItemError::SoftDeleted),
            Self::NotProtected => Err(ItemError::NotProtected),
        }
    }

    /// Whether its points can be restored.
    pub fn check_restore(self) -> Result<(), ItemError> {
        match self {
            Self::SoftDeleted => Err(ItemError::SoftDeleted),
            Self::NotProtected => Err(ItemError::NotProtected),
            _ => Ok(()),
        }
    }

    /// Whether the schedule applies.
    pub fn is_scheduled(self) -> bool {
        self.check_backup().is_ok()
    }

    /// Whether the vault holds it: a vault that holds items can't be deleted.
    pub fn is_held(self) -> bool {
        self != Self::NotProtected
    }

    /// How its points expire. As in Azure, what is stopped keeps all of them; they expire by the policy only where that was
    /// asked for, which is what being suspended means.
    ///
    /// The last point never goes by retention alone, whatever the state: where backups have been failing, or the only point
    /// expires while its successor is still being made, there would be nothing left to restore. What is soft-deleted is kept
    /// whole until it is purged, so that it can be brought back as it was.
    pub fn retention_mode(self) -> RetentionMode {
        match self {
            Self::ProtectionStopped | Self::SoftDeleted => RetentionMode::KeepAll,
            _ => RetentionMode::KeepLast,
        }
    }

    /// The state's own name: `IRPending`, `SoftDeleted` and so on.
    pub fn arm_name(self) -> &'static str {
        match self {
            Self::NotProtected => "NotProtected",
            Self::IrPending => "IRPending",
            Self::Protected => "Protected",
            Self::ProtectionStopped => "ProtectionStopped",
            Self::BackupsSuspended => "BackupsSuspended",
            Self::SoftDeleted => "SoftDeleted",
        }
    }

    /// Azure's `protectionState`, which shows what is soft-deleted as stopped; other fields tell.
    pub fn arm_state(self) -> &'static str {
        match self {
            Self::SoftDeleted => Self::ProtectionStopped.arm_name(),
            other => other.arm_name(),
        }
    }

    /// Reads an [`arm_name`](Self::arm_name), whatever its case.
    pub fn from_arm(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.arm_name().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for ItemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.arm_name())
    }
}

/// When what is deleted, an item or a vault, goes for good: after so many days of soft delete, or at once where that is off (None).
pub fn purge_at(deleted_at: Timestamp, soft_delete_days: Option<u32>) -> Timestamp {
    let days = soft_delete_days.unwrap_or(0);
    deleted_at.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX)
}

/// Checks the days of a vault's soft delete.
pub fn check_soft_delete_days(days: u32) -> Result<(), String> {
    let (least, most) = SOFT_DELETE_DAYS;
    if (least..=most).contains(&days) {
        return Ok(());
    }
    Err(format!("Soft delete keeps data for {least} to {most} days, not {days}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ItemState::*;

    fn events() -> Vec<ItemEvent> {
        vec![
            ItemEvent::Protect,
            ItemEvent::FirstBackupDone,
            ItemEvent::Stop,
            ItemEvent::Suspend,
            ItemEvent::Resume { has_points: true },
            ItemEvent::Resume { has_points: false },
            ItemEvent::ChangePolicy,
            ItemEvent::Delete,
            ItemEvent::Undelete,
            ItemEvent::Purge,
        ]
    }

    fn walk(events: &[ItemEvent]) -> Result<ItemState, ItemError> {
        events.iter().try_fold(NotProtected, |state, event| state.after(event))
    }

    #[test]
    fn an_items_life() {
        let stopped = [ItemEvent::Protect, ItemEvent::FirstBackupDone, ItemEvent::Stop];
        assert_eq!(walk(&stopped), Ok(ProtectionStopped));
        assert_eq!(walk(&[&stopped[..], &[ItemEvent::Resume { has_points: true }]].concat()), Ok(Protected));
        let deleted = [&stopped[..], &[ItemEvent::Delete]].concat();
        assert_eq!(walk(&deleted), Ok(SoftDeleted));
        assert_eq!(walk(&[&deleted[..], &[ItemEvent::Undelete]].concat()), Ok(ProtectionStopped));
        assert_eq!(walk(&[&deleted[..], &[ItemEvent::Purge, ItemEvent::Protect]].concat()), Ok(IrPending));
        let never = [ItemEvent::Protect, ItemEvent::Stop, ItemEvent::Resume { has_points: false }];
        assert_eq!(walk(&never), Ok(IrPending));
    }

    #[test]
    fn the_rules_hold_for_every_state_and_event() {
        for state in ItemState::ALL {
            for event in events() {
                let after = state.after(&event);
                if let Ok(next) = after {
                    // Only undeleting and purging end a soft delete, and nothing but deleting begins one.
                    if state == SoftDeleted && next != SoftDeleted {
                        assert!(matches!(event, ItemEvent::Undelete | ItemEvent::Purge));
                    }
                    if state != SoftDeleted && next == SoftDeleted {
                        assert_eq!(event, ItemEvent::Delete);
                    }
                    // Data goes only when the time in which it could be brought back is over.
                    if state.is_held() && !next.is_held() {
                        assert_eq!((state, event), (SoftDeleted, ItemEvent::Purge));
                    }
                    // What is stopped is never protected again by the way.
                    if !state.is_scheduled() && next.is_scheduled() {
                        assert!(matches!(event, ItemEvent::Protect | ItemEvent::Resume { .. }));
                    }
                } else {
                    assert_ne!(state.after(&event).unwrap_err().code(), "");
                }
            }
        }
    }

    #[test]
    fn refusals_say_what_to_do_first() {
        assert_eq!(Protected.after(&ItemEvent::Protect), Err(ItemError::AlreadyProtected));
        assert_eq!(SoftDeleted.after(&ItemEvent::Protect), Err(ItemError::SoftDeleted));
        assert_eq!(ProtectionStopped.after(&ItemEvent::ChangePolicy), Err(ItemError::Stopped));
        assert_eq!(Protected.after(&ItemEvent::Resume { has_points: true }), Err(ItemError::NotStopped));
        assert_eq!(ProtectionStopped.check_backup(), Err(ItemError::Stopped));
        assert_eq!(SoftDeleted.check_restore(), Err(ItemError::SoftDeleted));
        assert_eq!(ProtectionStopped.check_restore(), Ok(()));
    }

    #[test]
    fn names_are_azures() {
        assert_eq!(IrPending.arm_state(), "IRPending");
        assert_eq!(SoftDeleted.arm_state(), "ProtectionStopped");
        for state in ItemState::ALL {
            assert_eq!(ItemState::from_arm(&state.arm_name().to_lowercase()), Some(state));
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<ItemState>(&json).unwrap(), state);
        }
        assert_eq!(serde_json::to_string(&IrPending).unwrap(), "\"ir_pending\"");
    }

    #[test]
    fn soft_delete_has_its_days() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!(purge_at(now, Some(14)).to_string(), "2026-12-05T12:00:00Z");
        assert_eq!(purge_at(Timestamp::MAX, Some(14)), Timestamp::MAX);
        assert_eq!(purge_at(now, None), now);
        assert!(check_soft_delete_days(180).is_ok());
        assert!(check_soft_delete_days(181).unwrap_err().contains("14 to 180"));
        assert!(check_soft_delete_days(13).is_err() && check_soft_delete_days(14).is_ok());
    }
}
