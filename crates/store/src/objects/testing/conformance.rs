//! What every back-end of [`BlobStore`] must do, as one function.

use std::ops::ControlFlow;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::objects::{BlobStore, Kind};

/// Runs the whole suite on an empty store; panics at the first difference. Leaves the store empty.
///
/// # Panics
/// When the back-end does not do what it must.
pub fn conformance(store: &BlobStore) {
    assert_eq!(names(store, ""), Vec::<String>::new(), "the suite needs an empty store");
    put_and_get(store);
    create_only_once(store);
    one_of_many_creates(store);
    ranges(store);
    listing(store);
    deleting(store);
    deleting_beside_putting(store);
    bad_names(store);
    clear(store);
}

fn names(store: &BlobStore, prefix: &str) -> Vec<String> {
    let listed = store.list(prefix).expect("list");
    listed.into_iter().map(|info| info.name).collect()
}

fn clear(store: &BlobStore) {
    let all = names(store, "");
    store.delete_many(all.iter().map(String::as_str)).expect("delete_many");
    assert_eq!(names(store, ""), Vec::<String>::new());
}

fn kind<T: std::fmt::Debug>(result: Result<T, crate::objects::ObjectError>) -> Kind {
    let error = result.expect_err("this must fail");
    let text = error.to_string();
    assert!(text.starts_with("cannot "), "{text}");
    error.kind
}

fn put_and_get(store: &BlobStore) {
    let large: Bytes = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in
        [("a", Bytes::from_static(b"top level")), ("dir/empty", Bytes::new()), ("dir/sub/large.pack", large)]
    {
        store.put(name, bytes.clone()).expect("put");
        assert_eq!(store.get(name).expect("get"), bytes);
        let info = store.head(name).expect("head").expect("it is there");
        assert_eq!((info.name.as_str(), info.size_bytes), (name, bytes.len() as u64));
        assert_eq!(store.get_bounded(name, bytes.len() as u64).expect("fits"), bytes);
        if !bytes.is_empty() {
            assert_eq!(kind(store.get_bounded(name, bytes.len() as u64 - 1)), Kind::TooLarge);
        }
    }
    store.put("a", "replaced".into()).expect("put over");
    assert_eq!(store.get("a").expect("get"), "replaced");
    assert_eq!(kind(store.get("absent")), Kind::NotFound);
    assert_eq!(kind(store.get("dir")), Kind::NotFound);
    assert_eq!(kind(store.get_range("absent", 0..1)), Kind::NotFound);
    assert_eq!(store.head("absent").expect("head"), None);
    assert_eq!(store.head("dir/absent").expect("head"), None);
    assert_eq!(store.head("dir/sub").expect("head"), None);
    clear(store);
}

fn create_only_once(store: &BlobStore) {
    store.put_new("points/1", "first".into()).expect("create");
    assert_eq!(kind(store.put_new("points/1", "second".into())), Kind::AlreadyExists);
    assert_eq!(kind(store.put_new("points/1", "first".into())), Kind::AlreadyExists);
    assert_eq!(store.get("points/1").expect("get"), "first");
    store.delete("points/1").expect("delete");
    store.put_new("points/1", "third".into()).expect("create again");
    assert_eq!(store.get("points/1").expect("get"), "third");
    clear(store);
}

/// Threads create the same names at once: one wins each, and its bytes stay.
fn one_of_many_creates(store: &BlobStore) {
    const THREADS: usize = 6;
    const ROUNDS: usize = 15;
    let barrier = Barrier::new(THREADS);
    let wins: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, wins) = (&barrier, &wins);
            scope.spawn(move || {
                for (round, won) in wins.iter().enumerate() {
                    let bytes = Bytes::from(vec![thread as u8; 50_000]);
                    barrier.wait();
                    match store.put_new(&format!("race/{round}/x"), bytes) {
                        Ok(()) => {
                            assert_eq!(won.swap(thread + 1, Ordering::SeqCst), 0, "two created round {round}")
                        }
                        Err(e) => assert_eq!(e.kind, Kind::AlreadyExists, "{e}"),
                    }
                }
            });
        }
    });
    for (round, won) in wins.iter().enumerate() {
        let winner = won.load(Ordering::SeqCst);
        assert_ne!(winner, 0, "nobody created round {round}");
        let bytes = store.get(&format!("race/{round}/x")).expect("get");
        assert_eq!(bytes, vec![winner as u8 - 1; 50_000]);
    }
    clear(store);
}

fn ranges(store: &BlobStore) {
    let bytes: Bytes = (0..300_000u32).map(|i| (i / 7) as u8 ^ (i % 251) as u8).collect();
    store.put("r", bytes.clone()).expect("put");
    let end = bytes.len() as u64;
    let slice = |r: &std::ops::Range<u64>| bytes.slice(r.start as usize..r.end as usize);
    let good = [0..1, 0..end, end - 1..end, 5..5, end..end, 100..70_000, 150_000..150_010];
    for range in &good {
        let read = store.get_range("r", range.clone()).expect("in range");
        assert_eq!(read, slice(range), "{range:?}");
    }
    // Any order, overlapping, repeated, near and far.
    let mixed = [290_000..300_000, 0..10, 20..30, 0..10, 5..25, 7..7, 100_000..200_000, 299_999..300_000];
    let read = store.get_ranges("r", &mixed).expect("in range");
    assert_eq!(read, mixed.iter().map(slice).collect::<Vec<_>>());
    assert_eq!(store.get_ranges("r", &[]).expect("none"), Vec::<Bytes>::new());
    for range in [0..end + 1, end..end + 1, end + 5..end + 9] {
        assert_eq!(kind(store.get_range("r", range.clone())), Kind::Short, "{range:?}");
        assert_eq!(kind(store.get_ranges("r", &[0..5, range.clone()])), Kind::Short, "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 9..3;
    assert_eq!(kind(store.get_range("r", backwards)), Kind::Invalid);
    assert_eq!(kind(store.get_range("r", 0..u64::MAX)), Kind::TooLarge);
    clear(store);
}

fn listing(store: &BlobStore) {
    // Names whose order differs between full names and directory by directory.
    let mut wanted = vec!["a/x", "a/y/z", "a.b", "a-c", "ab", "b/1", "b/2", "b2/1", "Z", "sessions/s1"];
    for name in &wanted {
        store.put(name, Bytes::from(name.as_bytes().to_vec())).expect("put");
    }
    wanted.sort_unstable();
    let listed = store.list("").expect("list");
    assert_eq!(listed.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), wanted);
    for info in &listed {
        assert_eq!(info.size_bytes, info.name.len() as u64);
        let age = info.last_modified.elapsed().unwrap_or_default();
        assert!(age.as_secs() < 3600, "{info:?}");
    }
    assert_eq!(names(store, "b"), ["b/1", "b/2"]);
    assert_eq!(names(store, "b/"), ["b/1", "b/2"]);
    assert_eq!(names(store, "a/y"), ["a/y/z"]);
    assert_eq!(names(store, "absent"), Vec::<String>::new());
    let mut seen = 0;
    store
        .for_each("", |_| {
            seen += 1;
            match seen {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .expect("list");
    assert_eq!(seen, 3, "a listing that is broken off ends");
    clear(store);
    // More than a page.
    let many: Vec<String> = (0..1205).map(|i| format!("many/{:02}/{i:05}", i % 16)).collect();
    std::thread::scope(|scope| {
        for part in many.chunks(many.len().div_ceil(8)) {
            scope.spawn(move || {
                for name in part {
                    store.put(name, "x".into()).expect("put");
                }
            });
        }
    });
    let mut sorted = many.clone();
    sorted.sort_unstable();
    assert_eq!(names(store, "many"), sorted);
    store.delete_many(many.iter().map(String::as_str)).expect("delete_many");
    assert_eq!(names(store, ""), Vec::<String>::new());
}

fn deleting(store: &BlobStore) {
    for name in ["d/1", "d/2", "d/e/3", "f"] {
        store.put(name, "x".into()).expect("put");
    }
    store.delete("d/1").expect("delete");
    store.delete("d/1").expect("a second delete is fine");
    store.delete("never/was").expect("what never was is fine");
    assert_eq!(names(store, ""), ["d/2", "d/e/3", "f"]);
    store.delete_many(["d/e/3", "absent", "d/2"]).expect("delete_many");
    store.delete_many([]).expect("none");
    assert_eq!(names(store, ""), ["f"]);
    clear(store);
}

/// A directory that is emptied over and over while others put into it.
fn deleting_beside_putting(store: &BlobStore) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..40 {
                    let name = format!("busy/deep/{thread}-{round}");
                    store.put_new(&name, "x".into()).expect("put beside deletes");
                    assert_eq!(store.get(&name).expect("get"), "x");
                    store.delete(&name).expect("delete beside puts");
                }
            });
        }
    });
    assert_eq!(names(store, ""), Vec::<String>::new());
}

fn bad_names(store: &BlobStore) {
    for name in ["", "/etc/x", "../x", "a/../x", "a//b", "a/", ".tmp/x", "a b", "a%2e"] {
        assert_eq!(kind(store.put(name, "x".into())), Kind::Invalid, "{name:?}");
        assert_eq!(kind(store.put_new(name, "x".into())), Kind::Invalid, "{name:?}");
        assert_eq!(kind(store.get(name)), Kind::Invalid, "{name:?}");
        assert_eq!(kind(store.get_range(name, 0..1)), Kind::Invalid, "{name:?}");
        assert_eq!(kind(store.head(name)), Kind::Invalid, "{name:?}");
        assert_eq!(kind(store.delete(name)), Kind::Invalid, "{name:?}");
    }
    assert_eq!(kind(store.list("../")), Kind::Invalid);
}
