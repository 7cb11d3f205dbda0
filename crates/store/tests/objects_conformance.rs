//! The conformance suite of the object layer, on every back-end.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use strongroom_store::objects::fault::{FaultPlan, FaultStore};
use strongroom_store::objects::testing::{S3Server, conformance};
use strongroom_store::objects::{
    BlobStore, DurableLocal, Kind, Location, OpenOptions, RetryLimits, VOLATILE_PREFIXES,
};

fn remote(store: Arc<dyn ObjectStore>) -> BlobStore {
    BlobStore::from_object_store(store, "test", OpenOptions::default()).unwrap()
}

#[test]
fn local_directory() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::parse(dir.path().join("new/vault").to_str().unwrap()).unwrap();
    assert_eq!(BlobStore::open(&location, OpenOptions::default()).unwrap_err().kind, Kind::NotFound);
    assert!(!dir.path().join("new").exists(), "opening made a directory unasked");
    let store = BlobStore::open(&location, OpenOptions { create: true, ..OpenOptions::default() }).unwrap();
    conformance(&store);
    let left: Vec<_> = walk(dir.path());
    assert_eq!(left, ["new", "new/vault", "new/vault/.tmp"], "files or directories were left behind");
}

fn walk(root: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                queue.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn local_directory_behind_the_trait() {
    let dir = tempfile::tempdir().unwrap();
    let local = DurableLocal::open(dir.path(), VOLATILE_PREFIXES, false).unwrap();
    conformance(&remote(Arc::new(local)));
}

#[test]
fn memory() {
    conformance(&remote(Arc::new(InMemory::new())));
}

#[test]
fn fault_store_without_faults() {
    let inner = Arc::new(InMemory::new());
    let faults = FaultStore::new(inner, FaultPlan::none());
    conformance(&remote(Arc::new(faults.clone())));
    assert!(faults.operations() > 2000);
}

#[test]
fn fault_store_around_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let local = DurableLocal::open(dir.path(), VOLATILE_PREFIXES, false).unwrap();
    conformance(&remote(Arc::new(FaultStore::new(Arc::new(local), FaultPlan::none()))));
}

#[test]
fn s3() {
    let server = S3Server::start();
    let location = Location::parse(&server.location("hosts/one")).unwrap();
    let variables = server.environment().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let options = OpenOptions { variables: Some(variables), ..OpenOptions::default() };
    let store = BlobStore::open(&location, options).unwrap();
    // A neighbour in the same bucket must stay out of sight.
    let neighbour = remote(server.client("hosts/one-and-a-half"));
    neighbour.put("theirs", "x".into()).unwrap();
    conformance(&store);
    assert_eq!(neighbour.list("").unwrap().len(), 1);
}

#[test]
fn a_server_that_replaces_what_it_is_to_create_is_found_out() {
    let server = S3Server::start();
    let location = Location::parse(&server.location("hosts/one")).unwrap();
    let variables: Vec<_> = server.environment().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let options =
        OpenOptions { variables: Some(variables), retry: RetryLimits::NONE, ..OpenOptions::default() };
    let store = BlobStore::open(&location, options).unwrap();
    store.check_exclusive().unwrap();
    assert!(store.list("").unwrap().is_empty());
    server.ignore_conditions();
    let error = store.check_exclusive().unwrap_err();
    assert_eq!(error.kind, Kind::NotExclusive, "{error}");
    let told = error.to_string();
    for word in [server.endpoint().as_str(), "hosts/one", "If-None-Match", "use a server"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(store.list("").unwrap().is_empty());
    // One that cannot be asked is neither.
    drop(server);
    assert_ne!(store.check_exclusive().unwrap_err().kind, Kind::NotExclusive);
}

/// Two clients with separate connections: the server itself must let only one create.
#[test]
fn s3_creates_once_among_clients() {
    let server = S3Server::start();
    let clients: Vec<_> = (0..4).map(|_| remote(server.client("race"))).collect();
    for round in 0..20 {
        let name = format!("points/{round}");
        let wins: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = clients
                .iter()
                .enumerate()
                .map(|(i, client)| {
                    let name = &name;
                    scope.spawn(move || match client.put_new(name, vec![i as u8; 100_000].into()) {
                        Ok(()) => 1,
                        Err(e) => {
                            assert_eq!(e.kind, Kind::AlreadyExists, "{e}");
                            0
                        }
                    })
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(wins, 1, "round {round}");
    }
}

#[test]
fn a_given_runtime_is_used_and_kept() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = OpenOptions { runtime: Some(runtime.handle().clone()), ..OpenOptions::default() };
    let store = BlobStore::from_object_store(Arc::new(InMemory::new()), "memory", options).unwrap();
    store.put("a", "x".into()).unwrap();
    drop(store);
    runtime.block_on(async {});
}

/// The last clone may go on an async thread, where waiting for a runtime would panic.
#[test]
fn the_own_runtime_may_be_dropped_anywhere() {
    let store = remote(Arc::new(InMemory::new()));
    store.put("a", "x".into()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move { drop(store) });
}
