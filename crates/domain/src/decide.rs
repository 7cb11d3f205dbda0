//! What the scheduler does about an item at an instant: nothing yet, a backup, or a warning that one was skipped.
//!
//! An item remembers how far its schedule was looked at (`considered_until`). A run is due once, when it lies after that and
//! not after now; deciding about it moves `considered_until` to it. So:
//!
//! - Runs that were missed, because the server was down or its clock was put forward by a month, are one run: the latest.
//! - A clock that is put back runs nothing twice: until it has passed `considered_until` again, nothing is due.
//! - A clock that had been wrong, far ahead, would hold an item's schedule up until then. Once it has been found to run evenly
//!   for a day ([`crate::clock::ClockGuard`]), a `considered_until` that is still far ahead no longer counts: what was held up in
//!   that day is due, and the schedule goes on from there.
//! - A run that is due while a backup of the item still runs is skipped, with a warning.
//!
//! When an item is protected or resumed, or its policy changes, begin anew with [`anchor`]: the new schedule's past is no
//! miss.

use crate::limits::{CLOCK_GRACE, SCHEDULE_AHEAD_MAX};
use crate::policy::Policy;
use jiff::Timestamp;

/// What there is to know about an item and the instant.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The policy that says when.
    pub policy: &'a Policy,
    /// How far the item's schedule was looked at.
    pub considered_until: Timestamp,
    /// The time by the service's clock.
    pub now: Timestamp,
    /// Whether a backup of the item runs, or waits to.
    pub running: bool,
    /// Whether the clock has been found to run evenly: [`crate::clock::ClockGuard::may_expire`].
    pub clock_trusted: bool,
}

/// What to do about an item, and the `considered_until` to remember in the same transaction. Waiting changes nothing: there
/// is nothing to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Make a backup, which stands for this run.
    Run {
        /// The time in the schedule.
        scheduled_for: Timestamp,
        /// To be remembered as the situation's.
        considered_until: Timestamp,
    },
    /// Record that this run was skipped: another backup of the item was not over.
    Skip {
        /// The time in the schedule.
        scheduled_for: Timestamp,
        /// To be remembered as the situation's.
        considered_until: Timestamp,
    },
    /// Nothing before `until`; None when the schedule has no further run.
    Wait {
        /// The next time in the schedule; None: there is none.
        until: Option<Timestamp>,
        /// To be remembered as the situation's.
        considered_until: Timestamp,
    },
}

impl Decision {
    /// What to remember.
    pub fn considered_until(&self) -> Timestamp {
        match self {
            Self::Run { considered_until, .. }
            | Self::Skip { considered_until, .. }
            | Self::Wait { considered_until, .. } => *considered_until,
        }
    }
}

/// Decides about an item. Pure: asked twice with the same, it answers the same.
pub fn decide(situation: &Situation<'_>) -> Decision {
    let Situation { policy, considered_until, now, running, clock_trusted } = *situation;
    let mut after = considered_until;
    if clock_trusted && considered_until.duration_since(now) > SCHEDULE_AHEAD_MAX {
        // The clock has run evenly for so long: what lies within was held up, not made.
        after = now.saturating_sub(CLOCK_GRACE).unwrap_or(now);
    }
    match policy.last_due(after, now) {
        Some(scheduled_for) if running => Decision::Skip { scheduled_for, considered_until: scheduled_for },
        Some(scheduled_for) => Decision::Run { scheduled_for, considered_until: scheduled_for },
        None => Decision::Wait { until: policy.next_run(after.max(now)), considered_until },
    }
}

/// Where an item's schedule begins when it is protected or resumed, or its policy changes: now, or what was looked at
/// before where that is later, so that a clock put back repeats nothing.
pub fn anchor(considered_until: Option<Timestamp>, now: Timestamp) -> Timestamp {
    considered_until.map_or(now, |before| before.max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ask(considered_until: &str, now: &str, running: bool, clock_trusted: bool) -> Decision {
        let policy = Policy::default_standard();
        let considered_until = at(considered_until);
        decide(&Situation { policy: &policy, considered_until, now: at(now), running, clock_trusted })
    }

    fn wait(until: &str, considered_until: &str) -> Decision {
        Decision::Wait { until: Some(at(until)), considered_until: at(considered_until) }
    }

    #[test]
    fn a_run_is_due_once() {
        let due = ask("2026-11-20T20:30:00Z", "2026-11-21T20:30:00Z", false, true);
        let scheduled_for = at("2026-11-21T20:30:00Z");
        assert_eq!(due, Decision::Run { scheduled_for, considered_until: scheduled_for });
        let again = ask("2026-11-21T20:30:00Z", "2026-11-21T20:30:00Z", false, true);
        assert_eq!(again, wait("2026-11-22T20:30:00Z", "2026-11-21T20:30:00Z"));
    }

    #[test]
    fn a_run_beside_another_is_skipped() {
        let due = ask("2026-11-20T20:30:00Z", "2026-11-21T21:00:00Z", true, true);
        let scheduled_for = at("2026-11-21T20:30:00Z");
        assert_eq!(due, Decision::Skip { scheduled_for, considered_until: scheduled_for });
    }

    #[test]
    fn a_clock_put_forward_runs_once_and_put_back_runs_nothing_again() {
        let due = ask("2026-11-20T20:30:00Z", "2026-12-21T12:00:00Z", false, false);
        let scheduled_for = at("2026-12-20T20:30:00Z");
        assert_eq!(due, Decision::Run { scheduled_for, considered_until: scheduled_for });
        // Back where it was: nothing is due while the clock is in doubt.
        let back = ask("2026-12-20T20:30:00Z", "2026-11-21T20:30:00Z", false, false);
        assert_eq!(back, wait("2026-12-21T20:30:00Z", "2026-12-20T20:30:00Z"));
        // Found to run evenly, it is believed.
        let believed = ask("2026-12-20T20:30:00Z", "2026-11-22T20:29:00Z", false, true);
        let scheduled_for = at("2026-11-21T20:30:00Z");
        assert_eq!(believed, Decision::Run { scheduled_for, considered_until: scheduled_for });
        // An hour back, as an administrator does it, is waited for.
        let hour = ask("2026-11-21T20:30:00Z", "2026-11-21T19:45:00Z", false, true);
        assert_eq!(hour.considered_until(), at("2026-11-21T20:30:00Z"));
    }

    #[test]
    fn a_new_schedule_has_no_past() {
        let now = at("2026-11-21T21:00:00Z");
        assert_eq!(anchor(None, now), now);
        assert_eq!(anchor(Some(at("2026-11-20T20:30:00Z")), now), now);
        let ahead = at("2026-11-21T22:00:00Z");
        assert_eq!(anchor(Some(ahead), now), ahead);
    }
}
