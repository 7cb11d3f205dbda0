//! Whether wall time may be trusted to delete by.
//!
//! Retention compares wall time with a point's expiry. A clock that jumps (a dead battery, a wrong time server, a typing
//! mistake, an attack) would expire everything at once. So nothing is deleted by a clock that jumped before it has run
//! evenly for a grace of [`CLOCK_GRACE`], in which somebody can see the warning and put it right; an operator who
//! looked at the clock can end the grace ([`ClockGuard::confirm`]).
//!
//! A jump is seen by comparing wall time with monotonic time, which nobody can set. Slow drift is compared over a day
//! ([`CLOCK_WINDOW`]), so that a clock that is made to run faster is found out as well. What happened while the service
//! was not running can't be compared: a start within a day of the last sign of life is taken as it is, a later one, and
//! the very first, wait for the grace.
//!
//! Monotonic time should count the time that the host sleeps (`CLOCK_BOOTTIME`); one that does not makes each waking a
//! jump, which costs a grace and nothing else.

use crate::limits::{CLOCK_DRIFT_MAX, CLOCK_GRACE, CLOCK_START_GAP_MAX, CLOCK_WINDOW};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Why wall time is not trusted. Shown to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// Nothing is known of any earlier run.
    FirstStart,
    /// The service was not running for a long time, in seconds by the wall clock.
    LongPause {
        /// For how long.
        seconds: i64,
    },
    /// Wall time went so many seconds further than time passed.
    Forward {
        /// By how much.
        seconds: i64,
    },
    /// Wall time went so many seconds back, or stayed so many seconds behind.
    Back {
        /// By how much.
        seconds: i64,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstStart => f.write_str("this is the first start"),
            Self::LongPause { seconds } => {
                write!(f, "the service did not run for {} hours", seconds / 3600)
            }
            Self::Forward { seconds } => write!(f, "the clock jumped {seconds} seconds forward"),
            Self::Back { seconds } => write!(f, "the clock jumped {seconds} seconds back"),
        }
    }
}

/// What is kept from one run of the service to the next. Save it now and then: each minute will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRecord {
    /// The last sign of life.
    pub wall: Timestamp,
    /// What the clock was doubted for, if it was.
    #[serde(default)]
    pub doubt: Option<Doubt>,
    /// For how long it has run evenly since, in seconds.
    #[serde(default)]
    pub even_seconds: u64,
}

/// Watches a wall clock. All times come in as arguments: wall time, and monotonic time since any fixed instant.
#[derive(Debug, Clone)]
pub struct ClockGuard {
    /// Both clocks at the beginning of the present comparison.
    base: (Timestamp, Duration),
    /// Both clocks when last seen.
    last: (Timestamp, Duration),
    doubt: Option<Doubt>,
    /// Time of grace that was served.
    even: Duration,
}

impl ClockGuard {
    /// Begins, with what was kept of the run before.
    pub fn start(saved: Option<&ClockRecord>, wall: Timestamp, monotonic: Duration) -> Self {
        let now = (wall, monotonic);
        let fresh = |doubt| Self { base: now, last: now, doubt: Some(doubt), even: Duration::ZERO };
        let Some(saved) = saved else { return fresh(Doubt::FirstStart) };
        let pause = wall.duration_since(saved.wall);
        if pause < -CLOCK_DRIFT_MAX {
            return fresh(Doubt::Back { seconds: -pause.as_secs() });
        }
        if pause > CLOCK_START_GAP_MAX {
            return fresh(Doubt::LongPause { seconds: pause.as_secs() });
        }
        // Hours that nobody watched are no part of the grace.
        let even = Duration::from_secs(saved.even_seconds);
        Self { base: now, last: now, doubt: saved.doubt, even }
    }

    /// Takes both clocks' time. Call it often, and before everything that wall time decides.
    pub fn observe(&mut self, wall: Timestamp, monotonic: Duration) {
        // Monotonic time that goes back is a caller's mistake: nothing can be told from it.
        let passed = monotonic.saturating_sub(self.last.1);
        let since_base = monotonic.saturating_sub(self.base.1);
        let expected = SignedDuration::try_from(since_base).unwrap_or(SignedDuration::MAX);
        let drift = wall.duration_since(self.base.0).saturating_sub(expected);
        self.last = (wall, monotonic);
        if drift.abs() > CLOCK_DRIFT_MAX {
            let seconds = drift.as_secs().abs();
            self.doubt =
                Some(if drift.is_negative() { Doubt::Back { seconds } } else { Doubt::Forward { seconds } });
            self.even = Duration::ZERO;
            self.base = self.last;
            return;
        }
        if self.doubt.is_some() {
            self.even = self.even.saturating_add(passed);
            if self.even >= CLOCK_GRACE {
                self.doubt = None;
                self.even = Duration::ZERO;
            }
        }
        if since_base >= CLOCK_WINDOW {
            self.base = self.last;
        }
    }

    /// Whether things may be deleted by what the clock says: it has run evenly for long enough.
    pub fn may_expire(&self) -> bool {
        self.doubt.is_none()
    }

    /// Why not, and how long the clock has yet to run evenly.
    pub fn doubt(&self) -> Option<(Doubt, Duration)> {
        self.doubt.map(|doubt| (doubt, CLOCK_GRACE.saturating_sub(self.even)))
    }

    /// An operator says that the clock is right: the grace is over. A jump after this is a new one.
    pub fn confirm(&mut self) {
        self.doubt = None;
        self.even = Duration::ZERO;
        self.base = self.last;
    }

    /// What to keep for the next run.
    pub fn record(&self) -> ClockRecord {
        ClockRecord { wall: self.last.0, doubt: self.doubt, even_seconds: self.even.as_secs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A host: wall and monotonic time, and its guard.
    struct Host {
        wall: Timestamp,
        monotonic: Duration,
        guard: ClockGuard,
    }

    impl Host {
        fn new() -> Self {
            let wall = "2026-11-21T12:00:00Z".parse().unwrap();
            let saved = ClockRecord { wall, doubt: None, even_seconds: 0 };
            let guard = ClockGuard::start(Some(&saved), wall, Duration::ZERO);
            Self { wall, monotonic: Duration::ZERO, guard }
        }

        /// Lets minutes pass; of each the wall clock shows `rate` seconds.
        fn run(&mut self, minutes: i64, rate: i64) {
            for _ in 0..minutes {
                self.monotonic += MINUTE;
                self.jump(rate);
            }
        }

        fn jump(&mut self, seconds: i64) {
            self.wall += SignedDuration::from_secs(seconds);
            self.guard.observe(self.wall, self.monotonic);
        }

        fn restart(&mut self, pause: SignedDuration) {
            self.wall += pause;
            self.monotonic = Duration::from_secs(7);
            self.guard = ClockGuard::start(Some(&self.guard.record()), self.wall, self.monotonic);
        }
    }

    #[test]
    fn an_even_clock_may_expire_for_years() {
        let mut host = Host::new();
        host.run(60 * 24 * 400, 60);
        assert!(host.guard.may_expire());
    }

    #[test]
    fn a_jump_costs_a_day_and_another_begins_it_anew() {
        for seconds in [30 * 86_400, 301, -3600] {
            let mut host = Host::new();
            host.run(10, 60);
            host.jump(seconds);
            assert!(!host.guard.may_expire());
            host.run(24 * 60 - 1, 60);
            assert!(!host.guard.may_expire());
            host.jump(-seconds);
            host.run(24 * 60 - 1, 60);
            assert!(!host.guard.may_expire(), "put right is a jump as well");
            host.run(1, 60);
            assert!(host.guard.may_expire());
        }
        let mut host = Host::new();
        host.jump(299);
        assert!(host.guard.may_expire(), "a time service may put it right a little");
    }

    #[test]
    fn a_clock_made_to_run_faster_is_found_out() {
        let mut host = Host::new();
        host.run(2 * 24 * 60, 61);
        assert!(!host.guard.may_expire());
        host.run(5 * 24 * 60, 61);
        assert!(!host.guard.may_expire(), "and does not serve its grace");
    }

    #[test]
    fn restarts_neither_serve_nor_lose_the_grace() {
        let mut host = Host::new();
        host.jump(86_400);
        host.run(12 * 60, 60);
        host.restart(SignedDuration::from_hours(20));
        host.run(12 * 60 - 1, 60);
        assert!(!host.guard.may_expire());
        host.run(1, 60);
        assert!(host.guard.may_expire());
        host.restart(SignedDuration::from_hours(24));
        assert!(host.guard.may_expire());
    }

    #[test]
    fn long_pauses_steps_back_and_first_starts_wait() {
        let mut host = Host::new();
        host.restart(SignedDuration::from_hours(25));
        assert!(matches!(host.guard.doubt(), Some((Doubt::LongPause { .. }, left)) if left == CLOCK_GRACE));
        let mut host = Host::new();
        host.restart(SignedDuration::from_hours(-1));
        assert_eq!(host.guard.doubt().map(|(doubt, _)| doubt), Some(Doubt::Back { seconds: 3600 }));
        let first = ClockGuard::start(None, host.wall, host.monotonic);
        assert_eq!(first.doubt().map(|(doubt, _)| doubt), Some(Doubt::FirstStart));
    }

    #[test]
    fn an_operator_ends_the_grace_but_not_the_watch() {
        let mut host = Host::new();
        host.jump(86_400);
        host.guard.confirm();
        assert!(host.guard.may_expire());
        host.run(60, 60);
        assert!(host.guard.may_expire());
        host.jump(86_400);
        assert!(!host.guard.may_expire());
    }

    #[test]
    fn records_survive_json() {
        let mut host = Host::new();
        host.jump(86_400);
        let record = host.guard.record();
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<ClockRecord>(&json).unwrap(), record);
        assert_eq!(
            serde_json::from_str::<ClockRecord>(r#"{"wall":"2026-11-21T12:00:00Z"}"#).unwrap().doubt,
            None
        );
    }
}
