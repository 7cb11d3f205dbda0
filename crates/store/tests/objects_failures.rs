//! Failing storage: what is tried again, what is not, and what an unclear outcome means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use object_store::memory::InMemory;
use strongroom_store::objects::fault::{
    Crash, Fault, FaultPlan, FaultStore, Matches, Nth, OpKind, Operation,
};
use strongroom_store::objects::testing::{ErrorAnswer, S3Server};
use strongroom_store::objects::{
    BlobStore, DurableLocal, Kind, Location, OpenOptions, RetryLimits, TEMP_DIR,
};

const QUICK: RetryLimits = RetryLimits {
    attempts: 4,
    first_delay: Duration::from_millis(2),
    max_delay: Duration::from_millis(20),
    total: Duration::from_secs(20),
};

fn blobs(store: Arc<dyn ObjectStore>) -> BlobStore {
    BlobStore::from_object_store(store, "test", OpenOptions { retry: QUICK, ..OpenOptions::default() })
        .unwrap()
}

fn faulty(plan: FaultPlan) -> (BlobStore, FaultStore, BlobStore) {
    let inner = Arc::new(InMemory::new());
    let faults = FaultStore::new(inner.clone(), plan);
    (blobs(Arc::new(faults.clone())), faults, blobs(inner))
}

fn on(op: OpKind, nth: Nth) -> Matches {
    Matches { op: Some(op), nth, ..Matches::default() }
}

#[test]
fn passing_failures_are_tried_again_within_limits() {
    let plan = |n| {
        FaultPlan::none().rule(Matches { nth: Nth::Before(n), ..Matches::default() }, fail(Kind::Transient))
    };
    let (store, faults, inner) = faulty(FaultPlan::none());
    inner.put("a", "abc".into()).unwrap();
    type Operate = fn(&BlobStore) -> Result<(), Kind>;
    let all: [(&str, Operate); 8] = [
        ("put", |s| s.put("b", "x".into()).map_err(|e| e.kind)),
        ("put_new", |s| s.put_new("c", "x".into()).map_err(|e| e.kind)),
        ("get", |s| s.get("a").map(|b| assert_eq!(b, "abc")).map_err(|e| e.kind)),
        ("get_range", |s| s.get_range("a", 1..2).map(|b| assert_eq!(b, "b")).map_err(|e| e.kind)),
        ("get_ranges", |s| {
            s.get_ranges("a", &[0..1, 2..3]).map(|b| assert_eq!(b, ["a", "c"])).map_err(|e| e.kind)
        }),
        ("head", |s| s.head("a").map(|i| assert!(i.is_some())).map_err(|e| e.kind)),
        ("list", |s| s.list("").map(|l| assert!(!l.is_empty())).map_err(|e| e.kind)),
        ("delete", |s| s.delete_many(["b", "c"]).map_err(|e| e.kind)),
    ];
    for (what, operation) in all {
        faults.set_plan(plan(3));
        assert_eq!(operation(&store), Ok(()), "{what}: three failures, four attempts");
        assert!(faults.operations() >= 4, "{what}");
        faults.set_plan(plan(100));
        assert_eq!(operation(&store), Err(Kind::Transient), "{what}: it never stops failing");
        // Two objects are deleted by two requests each time.
        assert_eq!(faults.operations(), if what == "delete" { 8 } else { 4 }, "{what}");
        if what != "delete" {
            faults.set_plan(FaultPlan::none());
            store.delete_many(["b", "c"]).unwrap();
        }
    }
}

fn fail(kind: Kind) -> Fault {
    Fault::ErrorBefore(kind)
}

#[test]
fn lasting_failures_are_not_tried_again() {
    for kind in [Kind::NoSpace, Kind::Denied, Kind::ReadOnly, Kind::Other, Kind::AlreadyExists] {
        let (store, faults, _) = faulty(FaultPlan::none().rule(on(OpKind::Put, Nth::Every), fail(kind)));
        let error = store.put_new("a", "x".into()).unwrap_err();
        assert_eq!((error.kind, faults.operations()), (kind, 1), "{error}");
    }
}

#[test]
fn the_total_time_bounds_the_attempts() {
    let faults = FaultStore::new(
        Arc::new(InMemory::new()),
        FaultPlan::none().rule(Matches::default(), fail(Kind::Transient)),
    );
    let retry = RetryLimits {
        attempts: 1000,
        first_delay: Duration::from_millis(200),
        max_delay: Duration::from_millis(200),
        total: Duration::from_millis(3000),
    };
    let store = BlobStore::from_object_store(
        Arc::new(faults.clone()),
        "test",
        OpenOptions { retry, ..Default::default() },
    );
    let start = Instant::now();
    assert_eq!(store.unwrap().get("a").unwrap_err().kind, Kind::Transient);
    // A delay is half of what is said, at least; and a busy host makes it longer. Far from the thousand attempts in any case.
    assert!(start.elapsed() < Duration::from_secs(50));
    assert!((2..=31).contains(&faults.operations()), "{} attempts", faults.operations());
}

/// The create happened, the answer was lost: the second attempt finds its own object.
#[test]
fn a_create_with_a_lost_answer_succeeds_once() {
    let plan = FaultPlan::none().rule(on(OpKind::Put, Nth::Only(0)), Fault::ErrorAfter(Kind::Transient));
    let (store, faults, inner) = faulty(plan.clone());
    store.put_new("points/1", "mine".into()).expect("it is our own");
    assert_eq!(inner.get("points/1").unwrap(), "mine");
    // Without a failure before, the same bytes are somebody else's.
    faults.set_plan(FaultPlan::none());
    assert_eq!(store.put_new("points/1", "mine".into()).unwrap_err().kind, Kind::AlreadyExists);
}

/// The first attempt failed before its effect and somebody else came in between.
#[test]
fn a_retried_create_does_not_take_anothers_object_for_its_own() {
    for theirs in ["theirs", "mine, but longer"] {
        let plan = FaultPlan::none().rule(on(OpKind::Put, Nth::Only(0)), fail(Kind::Transient));
        let (store, _, inner) = faulty(plan);
        inner.put_new("points/1", theirs.into()).unwrap();
        assert_eq!(store.put_new("points/1", "mine".into()).unwrap_err().kind, Kind::AlreadyExists);
        assert_eq!(inner.get("points/1").unwrap(), theirs);
    }
}

#[test]
fn a_listing_that_breaks_off_goes_on_where_it_was() {
    let server = S3Server::start();
    let store = blobs(server.client("p"));
    let names: Vec<String> = (0..1100).map(|i| format!("n/{i:04}")).collect();
    for part in names.chunks(275) {
        std::thread::scope(|scope| {
            scope.spawn(|| part.iter().for_each(|n| store.put(n, "x".into()).unwrap()));
        });
    }
    let slow_down = ErrorAnswer { status: 503, code: "SlowDown", after_effect: false };
    let mut seen = Vec::new();
    store
        .for_each("n", |info| {
            if seen.len() == 500 {
                server.answer_next([slow_down, slow_down]);
            }
            seen.push(info.name);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, names);
}

/// What a real client makes of a real server's statuses; this holds the reading of error texts in place.
#[test]
fn s3_statuses_mean_what_they_say() {
    let server = S3Server::start();
    let retry = RetryLimits::NONE;
    let store =
        BlobStore::from_object_store(server.client("p"), "s3", OpenOptions { retry, ..Default::default() })
            .unwrap();
    store.put("there", "x".into()).unwrap();
    for (status, code, kind) in [
        (500, "InternalError", Kind::Transient),
        (503, "SlowDown", Kind::Transient),
        (503, "ServiceUnavailable", Kind::Transient),
        (429, "TooManyRequests", Kind::Transient),
        (408, "RequestTimeout", Kind::Transient),
        (409, "ConditionalRequestConflict", Kind::Transient),
        (409, "OperationAborted", Kind::Transient),
        (412, "PreconditionFailed", Kind::AlreadyExists),
        (507, "InsufficientStorage", Kind::NoSpace),
        (507, "XMinioStorageFull", Kind::NoSpace),
        (403, "QuotaExceeded", Kind::NoSpace),
        (403, "AccessDenied", Kind::Denied),
        (401, "InvalidToken", Kind::Denied),
        (501, "NotImplemented", Kind::Other),
        (400, "InvalidRequest", Kind::Other),
        (400, "EntityTooLarge", Kind::TooLarge),
    ] {
        server.answer_next([ErrorAnswer { status, code, after_effect: false }]);
        let error = store.put_new("new", "x".into()).unwrap_err();
        assert_eq!(error.kind, kind, "{status} {code}: {error}");
        assert!(error.to_string().contains("new at s3"), "{error}");
        assert!(!error.to_string().contains(S3Server::SECRET_ACCESS_KEY), "{error}");
    }
    for (status, kind) in [(500, Kind::Transient), (403, Kind::Denied)] {
        server.answer_next([ErrorAnswer { status, code: "X", after_effect: false }]);
        assert_eq!(store.get("there").unwrap_err().kind, kind);
    }
    assert_eq!(store.get("absent").unwrap_err().kind, Kind::NotFound);
    assert_eq!(store.head("new").unwrap(), None);
}

#[test]
fn an_s3_create_with_a_lost_answer_succeeds_once() {
    let server = S3Server::start();
    let store = blobs(server.client("p"));
    server.answer_next([
        ErrorAnswer { status: 503, code: "SlowDown", after_effect: false },
        ErrorAnswer { status: 500, code: "InternalError", after_effect: true },
        ErrorAnswer { status: 409, code: "ConditionalRequestConflict", after_effect: false },
    ]);
    store.put_new("points/1", "mine".into()).unwrap();
    assert_eq!(store.get("points/1").unwrap(), "mine");
    assert_eq!(store.put_new("points/1", "mine".into()).unwrap_err().kind, Kind::AlreadyExists);
}

#[test]
fn an_unreachable_or_wrong_s3_location_is_refused_when_opened() {
    let server = S3Server::start();
    let open = |location: &str, change: &[(&str, &str)]| {
        let mut variables: Vec<(String, String)> =
            server.environment().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        for (key, value) in change {
            variables.retain(|(k, _)| k != key);
            variables.push(((*key).to_owned(), (*value).to_owned()));
        }
        let options = OpenOptions { variables: Some(variables), retry: QUICK, ..OpenOptions::default() };
        BlobStore::open(&Location::parse(location).unwrap(), options)
    };
    open("s3://vaults/a/b", &[]).expect("the right settings");
    for (location, change, kind) in [
        ("s3://no-such-bucket/a", vec![], Kind::NotFound),
        ("s3://vaults/a", vec![("AWS_SECRET_ACCESS_KEY", "wrong-hush")], Kind::Denied),
        ("s3://vaults/a", vec![("AWS_ACCESS_KEY_ID", "nobody")], Kind::Denied),
        ("s3://vaults/a", vec![("AWS_ENDPOINT_URL", "http://127.0.0.1:1")], Kind::Transient),
        ("s3://vaults/a", vec![("AWS_ACCESS_KEY_ID", "")], Kind::Invalid),
        ("s3://vaults/a", vec![("AWS_ALLOW_HTTP", "false")], Kind::Invalid),
    ] {
        let error = open(location, &change).unwrap_err();
        assert_eq!(error.kind, kind, "{change:?}: {error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot open {location}")), "{text}");
        assert!(!text.contains("hush") && !text.contains(S3Server::SECRET_ACCESS_KEY), "{text}");
    }
}

#[test]
fn a_server_that_goes_away_is_reported() {
    let server = S3Server::start();
    let store = blobs(server.client("p"));
    store.put("a", "x".into()).unwrap();
    drop(server);
    assert_eq!(store.get("a").unwrap_err().kind, Kind::Transient);
}

// What the fault store itself does.

#[test]
fn a_crash_stops_everything_from_its_operation_on() {
    for (how, there, temp) in [
        (Crash::Before, None, 0),
        (Crash::After, Some("0123456789"), 0),
        (Crash::TornTemp, None, 1),
        (Crash::TornObject, Some("01234"), 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let local = || DurableLocal::open(dir.path(), &[], false).unwrap();
        let temps = dir.path().join(TEMP_DIR);
        let faults = FaultStore::new(Arc::new(local()), FaultPlan::crash_at(1, how)).with_temp_dir(&temps);
        let store = blobs(Arc::new(faults.clone()));
        store.put_new("a", "first".into()).unwrap();
        assert!(!faults.crashed());
        store.put_new("b", "0123456789".into()).unwrap_err();
        assert!(faults.crashed());
        store.get("a").unwrap_err();
        store.put_new("c", "x".into()).unwrap_err();
        store.delete("a").unwrap_err();
        store.list("").unwrap_err();
        assert_eq!(std::fs::read_dir(&temps).unwrap().count(), temp, "{how:?}");
        // The next process.
        let after = BlobStore::local(local());
        assert_eq!(after.get("a").unwrap(), "first");
        assert_eq!(after.head("b").unwrap().is_some(), there.is_some(), "{how:?}");
        if let Some(there) = there {
            assert_eq!(after.get("b").unwrap(), there, "{how:?}");
        }
        assert_eq!(after.head("c").unwrap(), None);
        assert_eq!(std::fs::read_dir(&temps).unwrap().count(), 0, "the torn temporary goes");
    }
}

#[test]
fn a_full_store_refuses_from_its_byte_on() {
    let (store, faults, inner) = faulty(FaultPlan::full_after(10));
    store.put("a", "12345".into()).unwrap();
    assert_eq!(store.put("b", "123456".into()).unwrap_err().kind, Kind::NoSpace);
    store.put("c", "12345".into()).unwrap();
    assert_eq!(store.put("d", "1".into()).unwrap_err().kind, Kind::NoSpace);
    assert_eq!(store.get("a").unwrap(), "12345");
    assert_eq!(inner.list("").unwrap().len(), 2);
    faults.set_plan(FaultPlan::none());
    store.put("d", "1".into()).unwrap();
}

#[test]
fn rules_match_by_operation_name_and_count() {
    let rule = Matches { op: Some(OpKind::Put), name_prefix: Some("packs/".into()), nth: Nth::Only(1) };
    let (store, faults, inner) = faulty(FaultPlan::none().rule(rule, fail(Kind::Other)));
    store.put("packs/1", "x".into()).unwrap();
    store.put("points/1", "x".into()).unwrap();
    store.get("packs/1").unwrap();
    store.put("packs/2", "x".into()).unwrap_err();
    store.put("packs/3", "x".into()).unwrap();
    assert_eq!(inner.list("packs").unwrap().len(), 2);
    assert_eq!(faults.operations(), 5);
    assert_eq!(faults.log()[2], Operation { op: OpKind::Get, name: "packs/1".into() });
    faults.set_plan(FaultPlan::fail_operation(1, Fault::ErrorAfter(Kind::Other)));
    store.head("packs/1").unwrap();
    store.delete("packs/1").unwrap_err();
    assert_eq!(inner.head("packs/1").unwrap(), None, "the delete was done before the error");
}

#[test]
fn deletes_get_lost_and_operations_take_their_time() {
    let plan = FaultPlan::none()
        .rule(on(OpKind::Delete, Nth::Only(0)), Fault::LoseDelete)
        .rule(on(OpKind::Get, Nth::Every), Fault::Delay(Duration::from_millis(60)));
    let (store, _, _) = faulty(plan);
    store.put("a", "x".into()).unwrap();
    store.delete("a").unwrap();
    let start = Instant::now();
    assert_eq!(store.get("a").expect("the delete was lost"), "x");
    assert!(start.elapsed() >= Duration::from_millis(60));
    store.delete("a").unwrap();
    assert_eq!(store.head("a").unwrap(), None);
}
