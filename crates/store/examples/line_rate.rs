//! What a store's line carries: `line_rate s3://BUCKET/PREFIX MEBIBYTES CONNECTIONS` puts so much random data in objects of
//! 16 MiB, reads it again in ranges of 4 MiB, both over so many connections, and removes it. Nothing is hashed, compressed or
//! encrypted. Prints seconds, as JSON. The store is reached as `AWS_…` in the environment say.

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use strongroom_store::objects::{BlobStore, Location, OpenOptions};

const OBJECT_BYTES: u64 = 16 << 20;
const RANGE_BYTES: u64 = 4 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, location, mebibytes, connections] = arguments.as_slice() else {
        eprintln!("line_rate LOCATION MEBIBYTES CONNECTIONS");
        std::process::exit(2);
    };
    let location = Location::parse(location).expect("a location");
    let store = BlobStore::open(&location, OpenOptions::default()).expect("a store");
    let objects = (mebibytes.parse::<u64>().expect("mebibytes") << 20) / OBJECT_BYTES;
    let connections: usize = connections.parse().expect("connections");
    // Noise that no line compresses, made before anything is measured.
    let mut noise = vec![0; OBJECT_BYTES as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);
    let name = |number: u64| format!("rate/{number}");
    let put_s = all(connections, objects, |number| store.put(&name(number), noise.clone()).expect("a put"));
    let ranges = OBJECT_BYTES / RANGE_BYTES;
    let get_s = all(connections, objects * ranges, |range| {
        let from = range % ranges * RANGE_BYTES;
        store.get_range(&name(range / ranges), from..from + RANGE_BYTES).expect("a range");
    });
    let names: Vec<String> = (0..objects).map(name).collect();
    store.delete_many(names.iter().map(String::as_str)).expect("deleting");
    println!("{{\"mib\": {}, \"put_s\": {put_s:.3}, \"get_s\": {get_s:.3}}}", (objects * OBJECT_BYTES) >> 20);
}

/// Does it with each number below `count`, on so many threads; how many seconds that took.
fn all(threads: usize, count: u64, work: impl Fn(u64) + Sync) -> f64 {
    let next = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
    began.elapsed().as_secs_f64()
}
