//! Buckets that empty by themselves: for failed sign-ins, and for rows that strangers could fill the audit with.

use super::gate::{AuditEvent, CallerKind};
use crate::http::Source;
use crate::{Request, limits};
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use uuid::Uuid;

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

/// Whose refusals are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    Principal(Uuid),
    /// Nobody known, from there; or the administrator on this host.
    Source(Source),
    /// More than can be told apart.
    Others,
}

impl Whose {
    pub(crate) fn of(request: &Request) -> Self {
        let caller = request.caller();
        match caller.kind {
            CallerKind::Application | CallerKind::User => Self::Principal(caller.object_id),
            CallerKind::Anonymous | CallerKind::LocalAdministrator => Self::Source(request.client.into()),
        }
    }
}

/// Which events of a kind that anybody can cause without end go to the audit: of each who causes them a burst, then so many a
/// second; and of all who are not known no more than so many either. The others are counted, and told once a minute.
#[derive(Debug)]
pub(crate) struct Refusals {
    burst: f64,
    per_second: f64,
    state: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    buckets: HashMap<Whose, Bucket>,
    nobody: Bucket,
    /// By principal; of nobody known, wherever from, together.
    left_out: HashMap<Option<Uuid>, LeftOut>,
}

#[derive(Debug)]
struct LeftOut {
    count: u64,
    since: Timestamp,
    last: AuditEvent,
}

impl Default for Refusals {
    fn default() -> Self {
        Self::new(limits::REFUSALS_BURST, limits::REFUSALS_PER_SECOND)
    }
}

impl Refusals {
    pub(crate) fn new(burst: u32, per_second: f64) -> Self {
        Self { burst: f64::from(burst), per_second, state: Mutex::default() }
    }

    /// The event, if it is to be written now.
    pub(crate) fn admit(&self, whose: Whose, event: AuditEvent) -> Option<AuditEvent> {
        let mut state = self.state.lock();
        let now = event.at;
        let state = &mut *state;
        let key = match state.buckets.contains_key(&whose) || state.has_room(now, self.per_second) {
            true => whose,
            false => Whose::Others,
        };
        let is_known = matches!(whose, Whose::Principal(_));
        let bucket = state.buckets.entry(key).or_default();
        bucket.leak(now, self.per_second);
        let nobody = &mut state.nobody;
        nobody.leak(now, limits::ANONYMOUS_REFUSALS_PER_SECOND);
        let nobody_has_room = nobody.used + 1.0 <= f64::from(limits::ANONYMOUS_REFUSALS_BURST);
        if bucket.used + 1.0 <= self.burst && (is_known || nobody_has_room) {
            bucket.used += 1.0;
            nobody.used += if is_known { 0.0 } else { 1.0 };
            return Some(event);
        }
        let principal = match key {
            Whose::Principal(id) => Some(id),
            Whose::Source(_) | Whose::Others => None,
        };
        let left_out = state.left_out.entry(principal).or_insert_with(|| LeftOut {
            count: 0,
            since: now,
            last: event.clone(),
        });
        left_out.count += 1;
        left_out.last = event;
        None
    }

    /// What is to be told of those that were left out a minute ago: the last of them, with the number of the others.
    pub(crate) fn due(&self, now: Timestamp, all: bool) -> Vec<AuditEvent> {
        let mut state = self.state.lock();
        if state.left_out.is_empty() {
            return Vec::new();
        }
        let is_due =
            |left: &LeftOut| all || now.duration_since(left.since).unsigned_abs() >= limits::TICK_INTERVAL;
        let told = state.left_out.extract_if(|_, left| is_due(left));
        told.map(|(_, left)| AuditEvent { at: now, left_out: left.count - 1, ..left.last }).collect()
    }
}

impl Counted {
    /// Whether one more can be told apart; those that have calmed down are forgotten for it.
    fn has_room(&mut self, now: Timestamp, per_second: f64) -> bool {
        if self.buckets.len() < limits::REFUSED_REMEMBERED_MAX {
            return true;
        }
        self.buckets.retain(|_, bucket| {
            bucket.leak(now, per_second);
            bucket.used > 0.0
        });
        self.buckets.len() < limits::REFUSED_REMEMBERED_MAX
    }
}

/// Failed sign-ins, by name and source, and by source. What is slowed down is the source: a name that is guessed elsewhere
/// signs in here as ever. Bounded: the calmest are forgotten first.
#[derive(Default)]
pub(super) struct Failures {
    buckets: Mutex<HashMap<Key, Bucket>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Both(String, Source),
    Source(Source),
}

impl Key {
    fn limit(&self) -> (f64, f64) {
        let (burst, seconds) = match self {
            Self::Both(..) => limits::FAILURES_NAME_AND_CLIENT,
            Self::Source(_) => limits::FAILURES_CLIENT,
        };
        (f64::from(burst), 1.0 / seconds)
    }

    fn of(name: &str, source: Source) -> [Self; 2] {
        // Longer ones are no account's, and share a bucket.
        let name: String =
            name.chars().take(limits::SIGN_IN_NAME_MAX_BYTES).collect::<String>().to_lowercase();
        [Self::Both(name, source), Self::Source(source)]
    }
}

impl Failures {
    /// How many seconds this one has to wait before it may try, if any. Asked before the secret is looked at, so that
    /// guessing goes no faster when it guesses right.
    pub(super) fn wait_seconds(&self, name: &str, source: Source, now: Timestamp) -> Option<u32> {
        let mut buckets = self.buckets.lock();
        let wait = |key: Key| {
            let (burst, per_second) = key.limit();
            let bucket = buckets.get_mut(&key)?;
            bucket.leak(now, per_second);
            let over = bucket.used + 1.0 - burst;
            (over > 0.0).then(|| (over / per_second).ceil().clamp(1.0, 3600.0) as u32)
        };
        Key::of(name, source).into_iter().filter_map(wait).max()
    }

    pub(super) fn note(&self, name: &str, source: Source, now: Timestamp) {
        let mut buckets = self.buckets.lock();
        for key in Key::of(name, source) {
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

    fn source(n: u32) -> Source {
        Source::V4(n.to_be_bytes())
    }

    #[test]
    fn failures_slow_down_and_are_forgiven() {
        let failures = Failures::default();
        let (burst, seconds) = limits::FAILURES_NAME_AND_CLIENT;
        let (a, b) = (source(1), source(2));
        for _ in 0..burst {
            assert_eq!(failures.wait_seconds("Anna", a, at(0)), None);
            failures.note("anna", a, at(0));
        }
        assert_eq!(failures.wait_seconds("ANNA", a, at(0)), Some(seconds as u32));
        assert_eq!(failures.wait_seconds("anna", b, at(0)), None, "elsewhere she can sign in");
        assert_eq!(failures.wait_seconds("ben", a, at(0)), None, "and others can here");
        assert_eq!(
            failures.wait_seconds("anna", a, at(-100)),
            Some(seconds as u32),
            "not by turning the clock back"
        );
        assert_eq!(failures.wait_seconds("anna", a, at(seconds as i64)), None);
    }

    #[test]
    fn many_names_are_slowed_down_too_and_a_name_is_nowhere_else() {
        let failures = Failures::default();
        for n in 0..1000 {
            failures.note("anna", source(n), at(0));
        }
        assert_eq!(failures.wait_seconds("anna", source(1001), at(0)), None);
        for n in 0..limits::FAILURES_CLIENT.0 {
            failures.note(&format!("name {n}"), source(1), at(0));
        }
        assert!(failures.wait_seconds("new", source(1), at(0)).is_some());
    }

    #[test]
    fn memory_is_bounded_and_the_worst_is_remembered() {
        let failures = Failures::default();
        let attacker = source(1);
        for _ in 0..limits::FAILURES_NAME_AND_CLIENT.0 {
            failures.note("victim", attacker, at(0));
        }
        for n in 0..20_000 {
            failures.note(&format!("n{n}"), source(n + 2), at(0));
        }
        assert!(failures.buckets.lock().len() <= limits::FAILURES_REMEMBERED_MAX + 2);
        assert!(failures.wait_seconds("victim", attacker, at(0)).is_some());
        failures.note("x", source(2), at(1_000_000));
        for n in 0..20_000 {
            failures.note(&format!("n{n}"), source(3), at(1_000_000));
        }
        assert!(failures.wait_seconds("victim", attacker, at(1_000_000)).is_none());
    }

    fn event(seconds: i64, scope: &str) -> AuditEvent {
        let request = Request::new(http::Method::GET, "/x", crate::Client::Process).unwrap();
        let caller = super::super::Caller::anonymous();
        let event = crate::api::audit_event(&request, &caller, http::StatusCode::FORBIDDEN, None);
        AuditEvent { at: at(seconds), scope: scope.into(), ..event }
    }

    #[test]
    fn what_is_left_out_is_counted_and_told() {
        let refusals = Refusals::new(2, 1.0 / 60.0);
        let (one, other) = (Whose::Principal(Uuid::from_u128(1)), Whose::Principal(Uuid::from_u128(2)));
        let told = |whose, n: i64| refusals.admit(whose, event(0, &format!("/{n}"))).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(|n| told(one, n)), [true, true, false, false, false]);
        assert!(told(other, 0), "others have their own");
        assert!(refusals.due(at(59), false).is_empty());
        let due = refusals.due(at(60), false);
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].left_out, due[0].scope.as_str(), due[0].at), (2, "/4", at(60)));
        assert!(refusals.due(at(120), true).is_empty(), "told once");
        assert!(!told(one, 5) && refusals.due(at(1), true).len() == 1, "at the end at once");
    }

    #[test]
    fn strangers_are_bounded_together_and_so_is_what_is_remembered_of_them() {
        let refusals = Refusals::new(2, 1.0 / 60.0);
        let told = (0..20_000).filter(|n| refusals.admit(Whose::Source(source(*n)), event(0, "/")).is_some());
        assert_eq!(told.count(), limits::ANONYMOUS_REFUSALS_BURST as usize);
        assert!(refusals.state.lock().buckets.len() <= limits::REFUSED_REMEMBERED_MAX + 1);
        let due = refusals.due(at(60), false);
        assert_eq!(due.len(), 1, "one row for all of them");
        assert_eq!(due[0].left_out + 1 + u64::from(limits::ANONYMOUS_REFUSALS_BURST), 20_000);
        assert!(refusals.admit(Whose::Principal(Uuid::from_u128(1)), event(0, "/")).is_some());
    }
}
