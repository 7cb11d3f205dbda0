//! The connections there are. When there are too many, one that waits for its client gives way: the one that has waited
//! longest among those of whoever has most.
//!
//! A connection keeps its place while a request of somebody known is taken in, or a request is being answered. While nobody
//! knows whose it is, in its handshake, between requests, over a body that anybody may send, it gives way.

use super::io::Activity;
use super::source::Source;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

pub(super) struct Connections {
    max: usize,
    max_per_source: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Entry>,
}

struct Entry {
    source: Source,
    activity: Arc<Activity>,
    gives_way: Arc<Notify>,
}

/// A connection's place; given back when this goes.
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    pub(super) activity: Arc<Activity>,
    gives_way: Arc<Notify>,
}

impl Connections {
    pub(super) fn new(max: usize, max_per_source: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_source, open: Mutex::default() })
    }

    /// A place for a connection; None if there is none and nobody gives way.
    pub(super) fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut open = self.open.lock();
        let of_source = open.connections.values().filter(|c| c.source == source).count();
        if of_source >= self.max_per_source {
            open.make_room(|c| c == source)?;
        } else if open.connections.len() >= self.max {
            let mut counts: HashMap<Source, usize> = HashMap::from([(source, 1)]);
            for connection in open.connections.values() {
                *counts.entry(connection.source).or_default() += 1;
            }
            let mut sources: Vec<(usize, Source)> = counts.into_iter().map(|(s, n)| (n, s)).collect();
            sources.sort_unstable_by(|a, b| b.cmp(a));
            // Those who have equally many are one; who has fewer is asked when nobody who has more can give.
            let mut levels = sources.chunk_by(|a, b| a.0 == b.0);
            levels.find_map(|level| open.make_room(|c| level.iter().any(|(_, source)| *source == c)))?;
        }
        let number = open.next;
        open.next += 1;
        let (activity, gives_way) = (Activity::new(), Arc::new(Notify::new()));
        open.connections
            .insert(number, Entry { source, activity: activity.clone(), gives_way: gives_way.clone() });
        Some(Place { connections: self.clone(), number, activity, gives_way })
    }
}

impl Open {
    fn make_room(&mut self, of: impl Fn(Source) -> bool) -> Option<()> {
        let waits = |(number, c): (&u64, &Entry)| Some((c.activity.waits_since()?, *number));
        let (_, number) = self.connections.iter().filter(|(_, c)| of(c.source)).filter_map(waits).min()?;
        let gone = self.connections.remove(&number)?;
        tracing::debug!(source = %gone.source, "a connection that waited gave way to another");
        gone.gives_way.notify_one();
        Some(())
    }
}

impl Place {
    /// Comes when this connection is to end for another.
    pub(super) async fn gives_way(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: u8) -> Source {
        Source::V4([192, 0, 2, n])
    }

    fn is_open(place: &Place) -> bool {
        place.connections.open.lock().connections.contains_key(&place.number)
    }

    #[tokio::test]
    async fn who_has_most_gives_way_and_what_is_answered_stays() {
        let all = Connections::new(5, 4);
        let many: Vec<Place> = (0..3).map(|_| all.take(from(1)).unwrap()).collect();
        let few: Vec<Place> = (0..2).map(|_| all.take(from(2)).unwrap()).collect();
        let _answered = many[0].activity.keep();
        let new = all.take(from(3)).unwrap();
        assert!(is_open(&many[0]) && !is_open(&many[1]) && is_open(&many[2]) && is_open(&new));
        many[1].gives_way().await;
        // Two, two and one: the longest waiting of those with two.
        let newer = all.take(from(4)).unwrap();
        assert!(is_open(&few[1]) && is_open(&new) && is_open(&newer));
        assert_eq!(usize::from(is_open(&many[2])) + usize::from(is_open(&few[0])), 1);
    }

    #[tokio::test]
    async fn nobody_gives_way_while_all_are_answered() {
        let all = Connections::new(2, 2);
        let places: Vec<Place> = (0..2).map(|_| all.take(from(1)).unwrap()).collect();
        let kept: Vec<_> = places.iter().map(|p| p.activity.keep()).collect();
        assert!(all.take(from(2)).is_none());
        drop(kept);
        assert!(all.take(from(2)).is_some());
    }

    #[tokio::test]
    async fn one_source_makes_room_among_its_own() {
        let all = Connections::new(10, 2);
        let other = all.take(from(2)).unwrap();
        let own: Vec<Place> = (0..5).map(|_| all.take(from(1)).unwrap()).collect();
        assert!(is_open(&other));
        assert_eq!(own.iter().map(is_open).collect::<Vec<_>>(), [false, false, false, true, true]);
    }
}
