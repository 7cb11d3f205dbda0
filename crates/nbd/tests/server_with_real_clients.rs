//! Our server read by `nbdinfo`, `nbdcopy`, `qemu-img` and our own client.

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use strongroom_nbd::*;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server with one read-only disk, its contents, and the same contents in a file.
fn serve(dir: &Path, seed: u64, size: u64) -> (ServerHandle, Vec<u8>, std::path::PathBuf) {
    let bytes = patchy(seed, size as usize);
    let file = dir.join("source.raw");
    std::fs::write(&file, &bytes).unwrap();
    let server = Server::new()
        .export("vda", MemoryDisk::read_only(bytes.clone()))
        .unwrap()
        .listen_unix(dir.join("server.sock"))
        .unwrap();
    (server, bytes, file)
}

#[test]
fn nbdinfo_describes_and_maps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (server, bytes, _) = serve(dir.path(), 10, 3 * MIB);
    let uri = server.uri("vda").to_string();
    let told = tool("nbdinfo", &["--json", &uri]);
    for part in [
        "\"export-name\": \"vda\"",
        "\"description\": \"a disk in memory\"",
        "\"structured\": true",
        "\"is_read_only\": true",
        "\"can_multi_conn\": true",
        "\"export-size\": 3145728",
        "\"base:allocation\"",
        "\"block_size_maximum\": 33554432",
        "\"can_df\": true",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let map = tool("nbdinfo", &["--map", &uri]);
    let mut covered = 0;
    for line in map.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, length): (u64, u64) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        assert_eq!(start, covered, "{map}");
        let range = &bytes[start as usize..(start + length) as usize];
        match words[2] {
            "0" => assert!(range.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0))),
            "3" => assert!(range.iter().all(|byte| *byte == 0)),
            other => panic!("flags {other}"),
        }
        covered += length;
    }
    assert_eq!(covered, bytes.len() as u64);
    assert!(map.lines().count() > 4);
    // The default export, and the list.
    assert!(tool("nbdinfo", &["--size", &server.uri("").to_string()]).trim() == "3145728");
    assert!(tool("nbdinfo", &["--list", &server.uri("").to_string()]).contains("export=\"vda\""));
    let unknown = run("nbdinfo", &[&server.uri("nothing").to_string()]);
    assert!(!unknown.status.success());
}

#[test]
fn nbdcopy_and_qemu_img_read_identically() {
    let dir = tempfile::tempdir().unwrap();
    let (server, bytes, source) = serve(dir.path(), 11, 40 * MIB + 512);
    let uri = server.uri("vda").to_string();
    let copy = dir.path().join("copy.raw");
    for extra in [&[][..], &["--no-extents", "--connections=3", "--requests=32"], &["--synchronous"]] {
        let mut arguments = extra.to_vec();
        arguments.extend([uri.as_str(), text(&copy)]);
        tool("nbdcopy", &arguments);
        assert!(std::fs::read(&copy).unwrap() == bytes, "nbdcopy {extra:?}");
        std::fs::remove_file(&copy).unwrap();
    }
    let info = tool("qemu-img", &["info", "-f", "raw", &uri]);
    assert!(info.contains("40 MiB"), "{info}");
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, text(&source)]);
    let qcow2 = dir.path().join("copy.qcow2");
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, text(&qcow2)]);
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(&qcow2), text(&source)]);
    let map = tool("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains("\"zero\": true") && map.contains("\"data\": true"), "{map}");
    let write = run("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]);
    let said = String::from_utf8_lossy(&write.stderr);
    assert!(!write.status.success() && said.contains("denied"), "{said}");
}

#[test]
fn qemu_writes_through_it() {
    let disk = Arc::new(MemoryDisk::writable(vec![0x11; 8 * MIB as usize]));
    let server = Server::new().export_shared("w", disk.clone()).unwrap().listen_tcp(loopback()).unwrap();
    let uri = server.uri("w").to_string();
    tool(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 0x22 0 1M",
            "-c",
            "write -z 2M 1M",
            "-c",
            "discard 4M 1M",
            "-c",
            "write -f -P 0x33 5M 3M",
            "-c",
            "flush",
            "-c",
            "read -P 0x33 5M 3M",
            "-c",
            "read -P 0 2M 1M",
            &uri,
        ],
    );
    let bytes = disk.bytes.read().unwrap();
    let at = |mib: u64| bytes[(mib * MIB) as usize];
    assert_eq!([at(0), at(1), at(2), at(3), at(4), at(5), at(7)], [0x22, 0x11, 0, 0x11, 0, 0x33, 0x33]);
}

#[test]
fn several_exports_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new()
        .export("vda", MemoryDisk::read_only(vec![1; 4096]))
        .unwrap()
        .export("vdb", MemoryDisk::read_only(vec![2; 8192]))
        .unwrap();
    let error = server.clone().export("vda", MemoryDisk::read_only(vec![])).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(server.clone().default_export("vdc").is_err());
    let first = server.clone().listen_unix(dir.path().join("a.sock")).unwrap();
    let names: Vec<_> = Client::list_exports(first.endpoint(), &options(&[]))
        .unwrap()
        .into_iter()
        .map(|listed| listed.name)
        .collect();
    assert_eq!(names, ["vda", "vdb"]);
    let error = Client::connect(first.endpoint(), &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "no default among two: {error}");
    let second = server.default_export("vdb").unwrap().listen_unix(dir.path().join("b.sock")).unwrap();
    assert_eq!(connect(second.endpoint(), &[]).size_bytes(), 8192);
    let client = Client::connect_uri(&second.uri("vda").to_string(), &options(&[])).unwrap();
    assert_eq!(read_all(&client).unwrap(), vec![1; 4096]);
    assert_eq!(Client::list_contexts(second.endpoint(), &options(&[])).unwrap(), [BASE_ALLOCATION]);
}

#[test]
fn random_concurrent_requests_agree_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let size = 24 * MIB;
    let bytes = patchy(12, size as usize);
    let disk = Arc::new(MemoryDisk::writable(bytes.clone()));
    let server = Server::new()
        .export_shared("", disk.clone())
        .unwrap()
        .limits(ServerLimits { max_request_bytes: 4 * MIB as u32, ..ServerLimits::default() })
        .listen_unix(dir.path().join("s.sock"))
        .unwrap();
    let clients: Vec<Client> = (0..2).map(|_| connect(server.endpoint(), &[BASE_ALLOCATION])).collect();
    let slice = size / 8;
    std::thread::scope(|scope| {
        for number in 0..8u64 {
            let (client, bytes) = (&clients[number as usize % 2], &bytes);
            scope.spawn(move || {
                let base = number * slice;
                let mut model = bytes[base as usize..(base + slice) as usize].to_vec();
                let mut random = Random(number + 77);
                for _ in 0..150 {
                    let at = random.below(slice);
                    let limit = if random.below(8) == 0 { slice - at } else { (slice - at).min(70_000) };
                    let range = at as usize..(at + 1 + random.below(limit)).min(slice) as usize;
                    let length = range.len() as u64;
                    match random.below(8) {
                        0 => {
                            random.fill(&mut model[range.clone()]);
                            client.write_at(base + at, &model[range]).unwrap();
                        }
                        1 => {
                            client.write_zeroes(base + at, length).unwrap();
                            model[range].fill(0);
                        }
                        2 => {
                            let mut covered = base + at;
                            client
                                .map(BASE_ALLOCATION, base + at, length, |extent| {
                                    assert_eq!(extent.offset_bytes, covered);
                                    covered = extent.end_bytes();
                                    let inside = &model[(extent.offset_bytes - base) as usize..]
                                        [..extent.length_bytes as usize];
                                    assert!(
                                        extent.flags & STATE_ZERO == 0
                                            || inside.iter().all(|byte| *byte == 0)
                                    );
                                })
                                .unwrap();
                            assert_eq!(covered, base + at + length);
                        }
                        _ => {
                            let mut buf = vec![0xaa; range.len()];
                            client.read_at(base + at, &mut buf).unwrap();
                            assert!(buf == model[range]);
                        }
                    }
                }
                model
            });
        }
    });
    clients[0].flush().unwrap();
    assert!(read_all(&clients[1]).unwrap() == *disk.bytes.read().unwrap());
}

/// Fails, panics or lies on demand.
struct Moody;

impl Export for Moody {
    fn size_bytes(&self) -> u64 {
        16 * MIB
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> std::io::Result<()> {
        match offset_bytes / MIB {
            0 => {
                buf.fill(1);
                Ok(())
            }
            1 => Err(std::io::Error::other("block 17 is damaged")),
            2 => panic!("deliberate, in a test"),
            3 => Err(std::io::ErrorKind::OutOfMemory.into()),
            _ => {
                buf.fill(2);
                Ok(())
            }
        }
    }

    fn extents(&self, offset_bytes: u64, length_bytes: u64) -> std::io::Result<Vec<Extent>> {
        let kind = ExtentKind::Data;
        Ok(match offset_bytes / MIB {
            8 => vec![],
            9 => vec![Extent { offset_bytes: offset_bytes + 1, length_bytes, kind }],
            10 => vec![Extent { offset_bytes, length_bytes: 0, kind }],
            11 => vec![Extent { offset_bytes, length_bytes: u64::MAX, kind }],
            // More than asked for is fine.
            _ => vec![Extent { offset_bytes, length_bytes: length_bytes + 5, kind }],
        })
    }
}

#[test]
fn errors_of_an_export_reach_the_client_and_harm_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new().export("", Moody).unwrap().listen_unix(dir.path().join("s.sock")).unwrap();
    let client = connect(server.endpoint(), &[BASE_ALLOCATION]);
    let mut buf = vec![0; 4096];
    let mut error_at = |mib: u64| match client.read_at(mib * MIB, &mut buf) {
        Err(Error::Command { errno, message, .. }) => (errno, message),
        other => panic!("{other:?}"),
    };
    assert_eq!(error_at(1), (Errno::IO, "block 17 is damaged".into()));
    assert_eq!(error_at(2).0, Errno::IO);
    assert_eq!(error_at(3).0, Errno::NOMEM);
    for lie in 8..=11 {
        assert_eq!(error_at(lie).0, Errno::IO, "{lie}");
        assert!(client.block_status(lie * MIB, 4096).is_err());
    }
    // In the middle of a reply that has begun.
    let mut large = vec![0; 2 * MIB as usize];
    let error = client.read_at(0, &mut large).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    client.read_at(0, &mut buf).unwrap();
    assert_eq!(buf, vec![1; 4096]);
    client.block_status(0, 4096).unwrap();
    let denied = client.trim(0, 4096).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
}

#[test]
fn only_loopback_is_served_over_tcp() {
    let server = || Server::new().export("", MemoryDisk::read_only(vec![0; 512])).unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let error = server().listen_tcp(address.parse().unwrap()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    let first = server().listen_tcp(loopback()).unwrap();
    let Endpoint::Tcp(host, port) = first.endpoint().clone() else { panic!() };
    assert_eq!(connect(first.endpoint(), &[]).size_bytes(), 512);
    let error = server().listen_tcp(format!("{host}:{port}").parse().unwrap()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
}

#[test]
fn socket_files_are_made_and_removed_with_care() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let server = || Server::new().export("", MemoryDisk::read_only(vec![0; 512])).unwrap();
    let first = server().listen_unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = server().listen_unix(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(connect(first.endpoint(), &[]).size_bytes(), 512);
    first.stop();
    assert!(!path.exists());
    // Stale: bound once, nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = server().socket_mode(0o660).listen_unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660 & !0o022);
    // Someone has put something else in its place: not ours to remove.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(second);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let error = server().listen_unix(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(server().listen_unix(dir.path().join("no/such/dir.sock")).is_err());
    assert!(Server::new().listen_unix(dir.path().join("empty.sock")).is_err());
    let long = dir.path().join("x".repeat(200));
    assert!(server().listen_unix(long).is_err());
}

#[test]
fn of_many_servers_started_at_once_over_a_stale_socket_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    for _ in 0..150 {
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let won = AtomicUsize::new(0);
        let (all_ready, all_tried) = (std::sync::Barrier::new(4), std::sync::Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let server = Server::new().export("", MemoryDisk::read_only(vec![0; 512])).unwrap();
                    all_ready.wait();
                    let result = server.listen_unix(&path);
                    all_tried.wait();
                    match result {
                        Ok(server) => {
                            won.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(connect(server.endpoint(), &[]).size_bytes(), 512);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                    }
                });
            }
        });
        assert_eq!(won.load(Ordering::SeqCst), 1);
        assert!(!path.exists());
    }
}

/// Waits in every read until told to go on.
#[derive(Default)]
struct Slow {
    go: Arc<AtomicBool>,
    begun: Arc<AtomicUsize>,
}

impl Export for Slow {
    fn size_bytes(&self) -> u64 {
        MIB
    }

    fn read_at(&self, _offset_bytes: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        while !self.go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        buf.fill(9);
        Ok(())
    }
}

#[test]
fn stopping_lets_requests_in_progress_finish() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Slow::default();
    let (go, begun) = (slow.go.clone(), slow.begun.clone());
    let server = Server::new().export("", slow).unwrap().listen_unix(dir.path().join("s.sock")).unwrap();
    let endpoint = server.endpoint().clone();
    let client = connect(&endpoint, &[]);
    let idle = connect(&endpoint, &[]);
    assert_eq!(server.connections(), 2);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut buf = [0; 512];
            client.read_at(0, &mut buf).map(|()| buf)
        });
        while begun.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            go.store(true, Ordering::SeqCst);
        });
        server.stop();
        assert_eq!(reading.join().unwrap().unwrap(), [9; 512]);
    });
    assert!(Client::connect(&endpoint, &options(&[])).is_err());
    assert_eq!(idle.read_at(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Disconnected);
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Slow::default();
    let (go, begun) = (slow.go.clone(), slow.begun.clone());
    let limits = ServerLimits { stop_grace: Duration::from_millis(200), ..ServerLimits::default() };
    let server = Server::new()
        .export("", slow)
        .unwrap()
        .limits(limits)
        .listen_unix(dir.path().join("s.sock"))
        .unwrap();
    let client = connect(server.endpoint(), &[]);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| client.read_at(0, &mut [0; 512]).unwrap_err());
        while begun.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let started = Instant::now();
        server.stop();
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(reading.join().unwrap().kind(), ErrorKind::Disconnected);
        go.store(true, Ordering::SeqCst);
    });
}

/// 10 TiB of nothing but one block at the end.
struct Vast;

const VAST_BYTES: u64 = 10 << 40;

impl Export for Vast {
    fn size_bytes(&self) -> u64 {
        VAST_BYTES
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(if offset_bytes >= VAST_BYTES - 4096 { 5 } else { 0 });
        Ok(())
    }

    fn extents(&self, offset_bytes: u64, _length_bytes: u64) -> std::io::Result<Vec<Extent>> {
        let data = VAST_BYTES - 4096;
        let hole = offset_bytes < data;
        Ok(vec![Extent {
            offset_bytes,
            length_bytes: if hole { data } else { VAST_BYTES } - offset_bytes,
            kind: if hole { ExtentKind::Hole } else { ExtentKind::Data },
        }])
    }
}

#[test]
fn vast_sparse_exports_are_mapped_by_few_requests() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new().export("", Vast).unwrap().listen_unix(dir.path().join("s.sock")).unwrap();
    // One at a time on the connection: callers take turns.
    let narrow = ConnectOptions { max_in_flight: 1, ..options(&[BASE_ALLOCATION]) };
    let client = Client::connect(server.endpoint(), &narrow).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut found = Vec::new();
                client.map(BASE_ALLOCATION, 0, VAST_BYTES, |extent| found.push(extent)).unwrap();
                let data = VAST_BYTES - 4096;
                let hole =
                    StatusExtent { offset_bytes: 0, length_bytes: data, flags: STATE_ZERO | STATE_HOLE };
                assert_eq!(found, [hole, StatusExtent { offset_bytes: data, length_bytes: 4096, flags: 0 }]);
                let mut end = [0; 5000];
                client.read_at(VAST_BYTES - 5000, &mut end).unwrap();
                assert!(end[..904].iter().all(|byte| *byte == 0) && end[904..].iter().all(|byte| *byte == 5));
            });
        }
    });
    let map = tool("nbdinfo", &["--map", "--totals", &server.uri("").to_string()]);
    assert!(map.contains("4096") && map.contains("hole,zero"), "{map}");
}
