//! Object stores that know less than Amazon's, refuse, hang, or show certificates of their own.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use strongroom_store::check::{CheckOptions, check};
use strongroom_store::objects::testing::{Asked, Refuse, S3Server};
use strongroom_store::objects::{
    BlobStore, Kind, Location, ObjectError, OpenOptions, Reach, RetryLimits, Stop,
};
use strongroom_store::{InitOptions, KeyFile, Progress, Vault};

const QUICK: RetryLimits = RetryLimits {
    attempts: 4,
    first_delay: Duration::from_millis(2),
    max_delay: Duration::from_millis(20),
    total: Duration::from_secs(20),
};

fn options(server: &S3Server) -> OpenOptions {
    let variables = server.environment().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    OpenOptions { variables: Some(variables), retry: QUICK, ..OpenOptions::default() }
}

fn try_open(server: &S3Server, options: OpenOptions) -> Result<BlobStore, ObjectError> {
    BlobStore::open(&Location::parse(&server.location("p")).unwrap(), options)
}

fn open(server: &S3Server) -> BlobStore {
    try_open(server, options(server)).unwrap()
}

fn not_implemented(when: fn(&Asked) -> bool) -> impl Fn(&Asked) -> Option<Refuse> {
    move |asked| when(asked).then_some(Refuse::with(501, "NotImplemented"))
}

#[test]
fn what_is_deleted_is_deleted_by_requests_of_its_own() {
    let server = S3Server::start();
    let store = open(&server);
    let names: Vec<String> = (0..50).map(|i| format!("n/{i}")).collect();
    for name in &names {
        store.put(name, "x".into()).unwrap();
    }
    server.refuse(not_implemented(Asked::deletes_many));
    server.take_asked();
    store.delete("n/0").unwrap();
    store.delete_many(names.iter().map(String::as_str)).unwrap();
    let asked = server.take_asked();
    assert!(asked.iter().all(|a| a.method == "DELETE"), "{asked:?}");
    assert_eq!(asked.len(), 51);
    assert!(store.list("").unwrap().is_empty());
}

#[test]
fn many_deletes_come_through_a_store_that_is_often_busy() {
    let server = S3Server::start();
    let store = open(&server);
    let names: Vec<String> = (0..30).map(|i| format!("n/{i}")).collect();
    for name in &names {
        store.put(name, "x".into()).unwrap();
    }
    // Each object is refused twice: far more in all than the attempts that one operation has.
    let seen = parking_lot::Mutex::new(HashMap::<String, u32>::new());
    server.refuse(move |asked| {
        let mut seen = seen.lock();
        let times = seen.entry(asked.target.clone()).or_default();
        *times += 1;
        (asked.method == "DELETE" && *times <= 2).then_some(Refuse::with(503, "SlowDown"))
    });
    store.delete_many(names.iter().map(String::as_str)).unwrap();
    assert!(store.list("").unwrap().is_empty());
    // One that is never let go of is named.
    store.put("n/1", "x".into()).unwrap();
    server.refuse(|asked| asked.target.ends_with("n/1").then_some(Refuse::with(403, "AccessDenied")));
    let error = store.delete_many(["n/0", "n/1", "n/2"]).unwrap_err();
    assert_eq!((error.kind, error.name.as_str()), (Kind::Denied, "n/1"), "{error}");
}

#[test]
fn a_vault_lives_on_a_store_that_knows_neither_checksums_nor_many_deletes() {
    let server = S3Server::start();
    server.refuse(not_implemented(|asked| asked.has_checksums() || asked.deletes_many()));
    let init = InitOptions::new();
    let key = KeyFile::generate(init.vault).unwrap();
    let vault = Vault::init(open(&server), &key, init).unwrap();
    vault.check_exclusive().unwrap();
    let report = check(&vault, &CheckOptions { read_data: true }, &Progress::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let all = server.names("p");
    open(&server).delete_many(all.iter().map(String::as_str)).unwrap();
    // Where they are wanted, and the store does not take them, that is said.
    let mut wanted = options(&server);
    wanted.variables.as_mut().unwrap().push(("AWS_CHECKSUM_ALGORITHM".into(), "SHA256".into()));
    server.refuse(|asked| {
        let why = "The checksum header is not supported";
        asked.has_checksums().then_some(Refuse { message: why, ..Refuse::with(400, "InvalidArgument") })
    });
    let error = try_open(&server, wanted).unwrap().put("a", "x".into()).unwrap_err();
    assert!(error.to_string().contains("unset AWS_CHECKSUM_ALGORITHM"), "{error}");
}

#[test]
fn a_refusal_that_means_later_is_tried_again_and_one_that_does_not_is_not() {
    let server = S3Server::start();
    let store = open(&server);
    let mut short = options(&server);
    short.retry.total = Duration::from_millis(300);
    let impatient = try_open(&server, short).unwrap();
    store.put("a", "x".into()).unwrap();
    let times = |status: u16, code: &'static str, times: usize| {
        let left = std::sync::atomic::AtomicUsize::new(times);
        server.take_asked();
        server.refuse(move |_| {
            use std::sync::atomic::Ordering::SeqCst;
            let more = left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
            more.then_some(Refuse::with(status, code))
        });
    };
    for (status, code) in [(400, "RequestTimeout"), (500, "InternalError")] {
        times(status, code, 3);
        assert_eq!(store.get("a").unwrap(), "x", "{status} {code}");
        assert_eq!(server.take_asked().len(), 4, "{status} {code}");
        times(status, code, 100);
        assert_eq!(store.get("a").unwrap_err().kind, Kind::Transient, "{status} {code}");
        assert_eq!(server.take_asked().len(), 4, "{status} {code}");
    }
    // One that has too much to do is waited for as long as that takes, within reason.
    for (status, code) in [
        (403, "SlowDown"),
        (403, "RequestLimitExceeded"),
        (403, "Throttling"),
        (403, "TooManyRequests"),
        (429, ""),
        (503, "SlowDown"),
    ] {
        times(status, code, 30);
        assert_eq!(store.get("a").unwrap(), "x", "{status} {code}");
        assert_eq!(server.take_asked().len(), 31, "{status} {code}");
        times(status, code, 10_000);
        assert_eq!(impatient.get("a").unwrap_err().kind, Kind::Transient, "{status} {code}");
    }
    // And asked again when it says, not before.
    for after in ["1", "Wed, 21 Oct 2015 07:28:01 GMT"] {
        let left = std::sync::atomic::AtomicBool::new(true);
        server.refuse(move |_| {
            let first = left.swap(false, std::sync::atomic::Ordering::SeqCst);
            let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
            first.then_some(Refuse { retry_after: Some(after), date, ..Refuse::with(503, "SlowDown") })
        });
        let began = std::time::Instant::now();
        assert_eq!(store.get("a").unwrap(), "x");
        assert!(began.elapsed() >= Duration::from_secs(1), "{after}");
    }
    for code in ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"] {
        times(403, code, 100);
        assert_eq!(store.get("a").unwrap_err().kind, Kind::Denied, "{code}");
        assert_eq!(server.take_asked().len(), 1, "{code}");
    }
}

#[test]
fn a_refusal_says_what_the_store_said_and_what_is_needed() {
    let server = S3Server::start();
    let store = open(&server);
    store.put("a", "x".into()).unwrap();
    server.refuse(|_| Some(Refuse { message: "User x may not.", ..Refuse::with(403, "AccessDenied") }));
    let refused: [(&str, ObjectError); 6] = [
        ("s3:PutObject", store.put("a", "x".into()).unwrap_err()),
        ("s3:PutObject", store.put_new("a", "x".into()).unwrap_err()),
        ("s3:GetObject", store.get("a").unwrap_err()),
        ("s3:GetObject", store.get_range("a", 0..1).unwrap_err()),
        ("s3:DeleteObject", store.delete("a").unwrap_err()),
        ("s3:ListBucket", store.list("").unwrap_err()),
    ];
    for (permission, error) in refused {
        let told = error.to_string();
        for words in [permission, "403 AccessDenied", "User x may not", "s3://vaults/p"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(permission == "s3:ListBucket" || told.contains("object a at"), "{told}");
    }
    let told = try_open(&server, options(&server)).unwrap_err().to_string();
    assert!(told.contains("s3:ListBucket on the bucket"), "{told}");
    // HEAD's answer has no words: they are asked for.
    let only_head = |asked: &Asked| match asked.method.as_str() {
        "HEAD" => Some(Refuse::with(403, "")),
        _ => Some(Refuse::with(403, "AccessDenied")),
    };
    server.refuse(only_head);
    let told = store.head("a").unwrap_err().to_string();
    assert!(told.contains("AccessDenied") && told.contains("s3:GetObject"), "{told}");
    server.refuse(|asked| (asked.method == "HEAD").then_some(Refuse::with(403, "")));
    assert_eq!(store.head("a").unwrap().unwrap().size_bytes, 1);
    assert_eq!(store.head("absent").unwrap(), None);
    for (status, code, words) in [
        (404, "NoSuchBucket", "make the bucket"),
        (301, "PermanentRedirect", "AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
        (403, "InvalidObjectState", "archive"),
    ] {
        server.refuse(move |_| Some(Refuse::with(status, code)));
        let told = store.get("a").unwrap_err().to_string();
        assert!(told.contains(words) && told.contains(code), "{told}");
    }
}

#[test]
fn a_skewed_clock_is_told_with_both_times() {
    let server = S3Server::start();
    let store = open(&server);
    let date = Some("Mon, 27 Nov 2023 10:50:34 GMT");
    for code in ["RequestTimeTooSkewed", "AccessDenied"] {
        server.refuse(move |_| Some(Refuse { date, ..Refuse::with(403, code) }));
        let error = store.get("a").unwrap_err();
        let told = error.to_string();
        assert_eq!(error.kind, Kind::Denied);
        for words in [code, "clock", "2023-11-27T10:50:34Z", "this host's 20"] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
    server.refuse(|_| Some(Refuse::with(403, "AccessDenied")));
    let told = store.get("a").unwrap_err().to_string();
    assert!(!told.contains("clock"), "{told}");
}

#[test]
fn a_store_that_refuses_conditions_is_one_for_a_single_writer() {
    let server = S3Server::start();
    let conditions = |asked: &Asked| asked.headers.iter().any(|h| h == "if-none-match");
    server.refuse(not_implemented(conditions));
    let store = open(&server);
    let error = store.check_exclusive().unwrap_err();
    assert_eq!(error.kind, Kind::NotExclusive, "{error}");
    assert!(error.to_string().contains("--single-writer"), "{error}");
    assert!(store.list("").unwrap().is_empty());
    let init = InitOptions { single_writer: true, ..InitOptions::new() };
    let key = KeyFile::generate(init.vault).unwrap();
    let vault = Vault::init(open(&server), &key, init).unwrap();
    let again = InitOptions { single_writer: true, ..InitOptions::new() };
    Vault::init(open(&server), &KeyFile::generate(again.vault).unwrap(), again)
        .err()
        .expect("there is one already");
    let report = check(&vault, &CheckOptions { read_data: true }, &Progress::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_store_that_looks_first_and_writes_then_is_found_out() {
    let server = S3Server::start();
    let store = open(&server);
    store.check_exclusive().unwrap();
    server.look_then_write();
    store.put_new("a", "x".into()).unwrap();
    assert_eq!(store.put_new("a", "y".into()).unwrap_err().kind, Kind::AlreadyExists);
    let error = store.check_exclusive().unwrap_err();
    assert_eq!(error.kind, Kind::NotExclusive, "{error}");
    assert!(error.to_string().contains("several at once"), "{error}");
    assert_eq!(store.list("").unwrap().len(), 1, "what it tried is gone");
}

#[test]
fn who_may_not_delete_can_still_look_and_write() {
    let server = S3Server::start();
    let init = InitOptions::new();
    let key = KeyFile::generate(init.vault).unwrap();
    drop(Vault::init(open(&server), &key, init).unwrap());
    server.refuse(|asked| (asked.method == "DELETE").then_some(Refuse::with(403, "AccessDenied")));
    let vault = Vault::open(open(&server), &key).unwrap();
    let report = check(&vault, &CheckOptions::default(), &Progress::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let left = server.names("p/sessions");
    assert_eq!(left.len(), 1);
    assert_eq!(report.left_behind, [format!("sessions/{}", left[0])]);
    // It is told to be over: nobody waits for it.
    let lease = String::from_utf8_lossy(&vault.objects().get(&report.left_behind[0]).unwrap()).into_owned();
    assert!(lease.contains(r#""state":"ended""#), "{lease}");
    vault.check_exclusive().unwrap();
    // Whoever may delete again leaves nothing.
    server.refuse_nothing();
    let report = check(&vault, &CheckOptions::default(), &Progress::default()).unwrap();
    assert!(report.is_sound() && report.left_behind.is_empty(), "{report:?}");
}

#[test]
fn own_authorities_are_trusted_where_they_are_named() {
    let server = S3Server::start_encrypted();
    let dir = tempfile::tempdir().unwrap();
    let file = server.authority_file();
    let error = try_open(&server, options(&server)).unwrap_err();
    let told = error.to_string();
    assert_eq!(error.kind, Kind::Invalid, "{told}");
    assert!(told.contains("certificate") && told.contains("--ca"), "{told}");
    let with = |ca_file: Option<&std::path::Path>| OpenOptions {
        reach: Reach { ca_file: ca_file.map(Into::into), ..Reach::default() },
        ..options(&server)
    };
    try_open(&server, with(Some(file))).unwrap().put("a", "x".into()).unwrap();
    let mut named = options(&server);
    let bundle = file.to_str().unwrap().to_owned();
    named.variables.as_mut().unwrap().push(("AWS_CA_BUNDLE".into(), bundle));
    assert_eq!(try_open(&server, named).unwrap().get("a").unwrap(), "x");
    // What is no such file says so.
    let wrong = dir.path().join("wrong.pem");
    assert!(try_open(&server, with(Some(&wrong))).unwrap_err().to_string().contains("wrong.pem"));
    std::fs::write(&wrong, "no certificate").unwrap();
    let told = try_open(&server, with(Some(&wrong))).unwrap_err().to_string();
    assert!(told.contains("wrong.pem") && told.contains("PEM"), "{told}");
}

#[test]
fn requests_go_no_faster_than_they_may() {
    let server = S3Server::start();
    let reach = Reach { requests_per_second: NonZeroU32::new(20), ..Reach::default() };
    let start = Instant::now();
    // All who name a store share its pace.
    let stores: Vec<_> = (0..2)
        .map(|_| try_open(&server, OpenOptions { reach: reach.clone(), ..options(&server) }).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| (0..6).for_each(|i| store.put(&format!("n/{i}"), "x".into()).unwrap()));
        }
    });
    // 14 requests: the last begins 13 twentieths after the first.
    assert!(start.elapsed() >= Duration::from_millis(645), "{:?}", start.elapsed());
}

#[test]
fn a_store_that_hangs_is_not_waited_for_once_told_to_stop() {
    let server = S3Server::start();
    let stop = Stop::new();
    let store = try_open(&server, OpenOptions { stop: stop.clone(), ..options(&server) }).unwrap();
    store.put("a", "x".into()).unwrap();
    server.hang_on(|_| true);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|i| {
                let store = &store;
                scope.spawn(move || match i {
                    0 => store.get("a").unwrap_err(),
                    1 => store.put_new("b", "x".into()).unwrap_err(),
                    _ => store.delete_many(["a", "c"]).unwrap_err(),
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        assert!(waiting.iter().all(|w| !w.is_finished()));
        let told = Instant::now();
        stop.stop();
        for waited in waiting {
            let error = waited.join().unwrap();
            assert_eq!(error.kind, Kind::Cancelled, "{error}");
        }
        // Cleaning up is tried, once.
        for _ in 0..10 {
            assert_eq!(store.delete("b").unwrap_err().kind, Kind::Cancelled);
        }
        assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    });
    // A store that answers is still cleaned up.
    server.hang_no_more();
    let stop = Stop::new();
    let store = try_open(&server, OpenOptions { stop: stop.clone(), ..options(&server) }).unwrap();
    stop.stop();
    store.delete("a").unwrap();
}
