//! Buckets that empty by themselves: for failed sign-ins, and for rows that strangers could fill the audit with.

use crate::limits;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;

/// A leaky bucket. A clock that goes back gives nothing back, nor takes anything.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    used: f64,
    since: Option<Timestamp>,
}

impl Bucket {
    fn leak(&mut self, now: Timestamp, per_second: f64) {
        let passed = self.since.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        self.since = Some(now);
        self.used = (self.used - passed.max(0.0) * per_second).max(0.0);
    }
}

/// How many of something may happen: a burst, then so many a second. Counts what was left out.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: f64,
    per_second: f64,
    state: Mutex<(Bucket, u64)>,
}

impl Budget {
    pub(crate) fn new(burst: u32, per_second: f64) -> Self {
        Self { burst: f64::from(burst), per_second, state: Mutex::default() }
    }

    /// Whether one more may happen; if so, how many were left out before it.
    pub(crate) fn admit(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.state.lock();
        let (bucket, left_out) = &mut *state;
        bucket.leak(now, self.per_second);
        if bucket.used + 1.0 > self.burst {
            *left_out = left_out.saturating_add(1);
            return None;
        }
        bucket.used += 1.0;
        Some(std::mem::take(left_out))
    }
}

/// Failed sign-ins, by name and by address. Bounded: the calmest are forgotten first.
#[derive(Default)]
pub(super) struct Failures {
    buckets: Mutex<HashMap<Key, Bucket>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Both(String, String),
    Name(String),
    Client(String),
}

impl Key {
    fn limit(&self) -> (f64, f64) {
        let (burst, seconds) = match self {
            Self::Both(..) => limits::FAILURES_NAME_AND_CLIENT,
            Self::Name(_) => limits::FAILURES_NAME,
            Self::Client(_) => limits::FAILURES_CLIENT,
        };
        (f64::from(burst), 1.0 / seconds)
    }

    fn of(name: &str, client: &str) -> [Self; 3] {
        // Longer ones are no account's, and share a bucket.
        let name: String =
            name.chars().take(limits::SIGN_IN_NAME_MAX_BYTES).collect::<String>().to_lowercase();
        [Self::Both(name.clone(), client.to_owned()), Self::Name(name), Self::Client(client.to_owned())]
    }
}

impl Failures {
    /// How many seconds this one has to wait before it may try, if any. Asked before the secret is looked at, so that
    /// guessing goes no faster when it guesses right.
    pub(super) fn wait_seconds(&self, name: &str, client: &str, now: Timestamp) -> Option<u32> {
        let mut buckets = self.buckets.lock();
        let wait = |key: Key| {
            let (burst, per_second) = key.limit();
            let bucket = buckets.get_mut(&key)?;
            bucket.leak(now, per_second);
            let over = bucket.used + 1.0 - burst;
            (over > 0.0).then(|| (over / per_second).ceil().clamp(1.0, 3600.0) as u32)
        };
        Key::of(name, client).into_iter().filter_map(wait).max()
    }

    pub(super) fn note(&self, name: &str, client: &str, now: Timestamp) {
        let mut buckets = self.buckets.lock();
        for key in Key::of(name, client) {
            if !buckets.contains_key(&key) && buckets.len() >= limits::FAILURES_REMEMBERED_MAX {
                make_room(&mut buckets, now);
            }
            let (burst, per_second) = key.limit();
            let bucket = buckets.entry(key).or_default();
            bucket.leak(now, per_second);
            bucket.used = (bucket.used + 1.0).min(burst);
        }
    }
}

/// Forgets those that are empty again, else the emptier half: whoever tries hardest is forgotten last.
fn make_room(buckets: &mut HashMap<Key, Bucket>, now: Timestamp) {
    for (key, bucket) in buckets.iter_mut() {
        bucket.leak(now, key.limit().1);
    }
    buckets.retain(|_, bucket| bucket.used > 0.0);
    if buckets.len() < limits::FAILURES_REMEMBERED_MAX {
        return;
    }
    let mut used: Vec<f64> = buckets.iter().map(|(key, bucket)| bucket.used / key.limit().0).collect();
    used.sort_by(f64::total_cmp);
    let middle = used[used.len() / 2];
    let mut room = used.len() / 2;
    buckets.retain(|key, bucket| {
        let goes = room > 0 && bucket.used / key.limit().0 <= middle;
        room -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn failures_slow_down_and_are_forgiven() {
        let failures = Failures::default();
        let (burst, seconds) = limits::FAILURES_NAME_AND_CLIENT;
        for _ in 0..burst {
            assert_eq!(failures.wait_seconds("Anna", "a", at(0)), None);
            failures.note("anna", "a", at(0));
        }
        assert_eq!(failures.wait_seconds("ANNA", "a", at(0)), Some(seconds as u32));
        assert_eq!(failures.wait_seconds("anna", "b", at(0)), None, "elsewhere she can sign in");
        assert_eq!(failures.wait_seconds("ben", "a", at(0)), None, "and others can here");
        assert_eq!(
            failures.wait_seconds("anna", "a", at(-100)),
            Some(seconds as u32),
            "not by turning the clock back"
        );
        assert_eq!(failures.wait_seconds("anna", "a", at(seconds as i64)), None);
    }

    #[test]
    fn many_addresses_and_many_names_are_slowed_down_too() {
        let failures = Failures::default();
        for n in 0..limits::FAILURES_NAME.0 {
            failures.note("anna", &n.to_string(), at(0));
        }
        assert!(failures.wait_seconds("anna", "new", at(0)).is_some());
        for n in 0..limits::FAILURES_CLIENT.0 {
            failures.note(&format!("name {n}"), "a", at(0));
        }
        assert!(failures.wait_seconds("new", "a", at(0)).is_some());
    }

    #[test]
    fn memory_is_bounded_and_the_worst_is_remembered() {
        let failures = Failures::default();
        for _ in 0..limits::FAILURES_NAME_AND_CLIENT.0 {
            failures.note("victim", "attacker", at(0));
        }
        for n in 0..20_000 {
            failures.note(&format!("n{n}"), &format!("c{n}"), at(0));
        }
        assert!(failures.buckets.lock().len() <= limits::FAILURES_REMEMBERED_MAX + 3);
        assert!(failures.wait_seconds("victim", "attacker", at(0)).is_some());
        failures.note("x", "y", at(1_000_000));
        for n in 0..20_000 {
            failures.note(&format!("n{n}"), "one", at(1_000_000));
        }
        assert!(failures.wait_seconds("victim", "attacker", at(1_000_000)).is_none());
    }

    #[test]
    fn a_budget_counts_what_it_left_out() {
        let budget = Budget::new(2, 1.0);
        assert_eq!([(); 5].map(|()| budget.admit(at(0))), [Some(0), Some(0), None, None, None]);
        assert_eq!(budget.admit(at(1)), Some(3));
        assert_eq!(budget.admit(at(0)), None);
    }
}
