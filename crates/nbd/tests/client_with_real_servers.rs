//! Our client against `qemu-nbd` and `nbdkit`.

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use strongroom_nbd::*;

#[test]
fn raw_image_of_qemu_nbd_reads_identically() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let bytes = patchy(1, 6 * MIB as usize + 512);
    std::fs::write(&image, &bytes).unwrap();
    let peer = qemu_nbd(dir.path(), &image, &["--format=raw", "--read-only", "-x", "disk", "-D", "told"]);
    let with_name = ConnectOptions { export_name: "disk".into(), ..options(&[BASE_ALLOCATION]) };
    let client = Client::connect(&peer.endpoint(), &with_name).unwrap();
    assert_eq!(client.size_bytes(), bytes.len() as u64);
    assert!(client.info().is_read_only() && client.has_structured_replies());
    assert_eq!(client.info().description.as_deref(), Some("told"));
    assert_eq!(client.contexts(), [BASE_ALLOCATION]);
    assert_eq!(read_all(&client).unwrap(), bytes);

    let refused = client.write_at(0, &[1; 512]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    let beyond = client.read_at(bytes.len() as u64 - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Invalid, "{beyond}");
    client.read_at(u64::MAX, &mut [0; 2]).unwrap_err();
    client.read_at(bytes.len() as u64, &mut []).unwrap();

    let missing = ConnectOptions { export_name: "nothing".into(), ..with_name };
    let error = Client::connect(&peer.endpoint(), &missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let listed = Client::list_exports(&peer.endpoint(), &options(&[])).unwrap();
    assert_eq!(listed, [ListedExport { name: "disk".into(), description: "told".into() }]);
    let uri = peer.endpoint().uri("disk").to_string();
    assert_eq!(Client::connect_uri(&uri, &options(&[])).unwrap().size_bytes(), bytes.len() as u64);
}

#[test]
fn requests_larger_than_the_servers_maximum_are_split() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let bytes = patchy(2, 70 * MIB as usize);
    std::fs::write(&image, &bytes).unwrap();
    let peer = qemu_nbd(dir.path(), &image, &["--format=raw"]);
    let client = connect(&peer.endpoint(), &[]);
    assert!(client.info().max_block_bytes <= 32 * MIB as u32);
    assert!(read_all(&client).unwrap() == bytes);
    let other = patchy(3, 70 * MIB as usize);
    client.write_at(0, &other).unwrap();
    client.flush().unwrap();
    assert!(read_all(&client).unwrap() == other);
    drop(client);
    assert!(std::fs::read(&image).unwrap() == other);
}

#[test]
fn holes_of_qcow2_are_mapped_and_read_as_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "20G"]);
    tool(
        "qemu-io",
        &["-c", "write -P 7 1M 192k", "-c", "write -z 3M 64k", "-c", "write -P 9 10G 64k", text(&image)],
    );
    let peer = qemu_nbd(dir.path(), &image, &["--format=qcow2", "--read-only"]);
    let client = connect(&peer.endpoint(), &[BASE_ALLOCATION]);
    let mut found = Vec::new();
    client.map(BASE_ALLOCATION, 0, client.size_bytes(), |extent| found.push(extent)).unwrap();
    let data: Vec<_> = found
        .iter()
        .filter(|extent| extent.flags & STATE_ZERO == 0)
        .map(|extent| (extent.offset_bytes, extent.length_bytes))
        .collect();
    assert_eq!(data, [(MIB, 192 * KIB), (10 * 1024 * MIB, 64 * KIB)]);
    assert_eq!(found[0].offset_bytes, 0);
    assert!(found.windows(2).all(|two| two[0].end_bytes() == two[1].offset_bytes));
    assert!(found.windows(2).all(|two| two[0].flags != two[1].flags));
    assert_eq!(found.last().unwrap().end_bytes(), 20 * 1024 * MIB);
    let mut buf = vec![0xaa; 4 * MIB as usize];
    client.read_at(0, &mut buf).unwrap();
    let (start, end) = (MIB as usize, (MIB + 192 * KIB) as usize);
    assert!(buf[..start].iter().all(|byte| *byte == 0));
    assert!(buf[start..end].iter().all(|byte| *byte == 7));
    assert!(buf[end..].iter().all(|byte| *byte == 0));
    // A range within one extent, with odd ends.
    let mut part = Vec::new();
    client.map(BASE_ALLOCATION, MIB + 1, 100, |extent| part.push(extent)).unwrap();
    assert_eq!(part, [StatusExtent { offset_bytes: MIB + 1, length_bytes: 100, flags: 0 }]);
}

#[test]
fn dirty_bitmaps_say_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "64M"]);
    tool("qemu-io", &["-c", "write -P 1 0 4M", text(&image)]);
    tool("qemu-img", &["bitmap", "--add", "-g", "65536", text(&image), "since"]);
    tool("qemu-img", &["bitmap", "--add", text(&image), "unused"]);
    tool(
        "qemu-io",
        &["-c", "write -P 2 1M 128k", "-c", "write -z -u 2M 1M", "-c", "write -P 3 40M 1k", text(&image)],
    );
    let peer = qemu_nbd(dir.path(), &image, &["--format=qcow2", "--read-only", "-B", "since", "-A"]);
    let bitmap = "qemu:dirty-bitmap:since";
    let client = connect(&peer.endpoint(), &[BASE_ALLOCATION, bitmap, "qemu:dirty-bitmap:missing"]);
    assert_eq!(client.contexts(), [BASE_ALLOCATION, bitmap]);
    let dirty = client.dirty_extents(bitmap, 0, client.size_bytes()).unwrap();
    let expected = [
        DirtyExtent { offset_bytes: MIB, length_bytes: 128 * KIB, zero: false },
        DirtyExtent { offset_bytes: 2 * MIB, length_bytes: MIB, zero: true },
        DirtyExtent { offset_bytes: 40 * MIB, length_bytes: 64 * KIB, zero: false },
    ];
    assert_eq!(dirty, expected);
    let only_bitmap = connect(&peer.endpoint(), &[bitmap]);
    let dirty = only_bitmap.dirty_extents(bitmap, 0, client.size_bytes()).unwrap();
    assert!(dirty.iter().all(|extent| !extent.zero) && dirty.len() == 3);
    let error = client.map("qemu:dirty-bitmap:missing", 0, 1, |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(client.block_status(0, MIB).unwrap().len(), 2);
    let listed = Client::list_contexts(&peer.endpoint(), &options(&[])).unwrap();
    assert!(listed.iter().any(|name| name == bitmap), "{listed:?}");
    let listed = Client::list_contexts(&peer.endpoint(), &options(&["base:"])).unwrap();
    assert_eq!(listed, [BASE_ALLOCATION]);
}

#[test]
fn many_threads_share_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let size = 16 * MIB;
    // Replies come late and out of order.
    let peer = nbdkit(
        dir.path(),
        &["--threads=16", "memory", "16M", "--filter=delay", "rdelay=30ms", "wdelay=20ms"],
    );
    let client = connect(&peer.endpoint(), &[]);
    let slice = size / 16;
    let started = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..16u64 {
            let client = &client;
            scope.spawn(move || {
                let mut random = Random(number);
                let base = number * slice;
                let mut model = vec![0; slice as usize];
                for _ in 0..60 {
                    let at = random.below(slice);
                    let length = random.below((slice - at).min(100_000)) + 1;
                    let range = at as usize..(at + length).min(slice) as usize;
                    match random.below(4) {
                        0 => {
                            random.fill(&mut model[range.clone()]);
                            client.write_at(base + at, &model[range]).unwrap();
                        }
                        1 => {
                            model[range.clone()].fill(0);
                            client.write_zeroes(base + at, range.len() as u64).unwrap();
                        }
                        _ => {
                            let mut buf = vec![0xaa; range.len()];
                            client.read_at(base + at, &mut buf).unwrap();
                            assert!(buf == model[range]);
                        }
                    }
                }
            });
        }
    });
    // 960 requests of 20 ms and more, one after the other, would take longer than this; beside one another they take two seconds.
    assert!(
        started.elapsed() < Duration::from_millis(19_000),
        "requests wait for one another: {:?}",
        started.elapsed()
    );
    client.flush().unwrap();
    client.trim(0, size).unwrap();
}

#[test]
fn servers_without_structured_replies_or_new_options_work() {
    let dir = tempfile::tempdir().unwrap();
    for extra in [&["--no-sr"][..], &["--mask-handshake=0"], &["--mask-handshake=1"], &["--mask-handshake=2"]]
    {
        let mut arguments = extra.to_vec();
        arguments.extend(["data", "data=1 2 3 @0x1000 4", "size=1M"]);
        let mut peer = nbdkit(dir.path(), &arguments);
        let client = connect(&peer.endpoint(), &[BASE_ALLOCATION]);
        let simple = client.contexts().is_empty();
        assert_eq!(simple, extra != ["--mask-handshake=1"], "{extra:?}");
        assert_eq!(client.has_structured_replies(), !simple);
        let bytes = read_all(&client).unwrap();
        assert_eq!((bytes.len(), &bytes[..4], bytes[0x1000]), (MIB as usize, &[1u8, 2, 3, 0][..], 4));
        if simple {
            assert_eq!(client.block_status(0, 10).unwrap_err().kind(), ErrorKind::Unsupported);
        }
        peer.kill();
        std::fs::remove_file(&peer.socket).unwrap();
    }
}

#[test]
fn oldstyle_servers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let peer = nbdkit(dir.path(), &["--oldstyle", "null", "1M"]);
    let error = Client::connect(&peer.endpoint(), &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn block_size_constraints_are_honoured() {
    let dir = tempfile::tempdir().unwrap();
    let peer = nbdkit(
        dir.path(),
        &[
            "--filter=blocksize-policy",
            "pattern",
            "1M",
            "blocksize-minimum=4096",
            "blocksize-preferred=64K",
            "blocksize-maximum=128K",
            "blocksize-error-policy=error",
        ],
    );
    let client = connect(&peer.endpoint(), &[BASE_ALLOCATION]);
    let info = client.info();
    assert_eq!(
        (info.min_block_bytes, info.preferred_block_bytes, info.max_block_bytes),
        (4096, 65536, 131_072)
    );
    let whole = read_all(&client).unwrap();
    assert!(whole.chunks(8).enumerate().all(|(i, word)| word == (i as u64 * 8).to_be_bytes()));
    let mut random = Random(4);
    for _ in 0..200 {
        let at = random.below(MIB);
        let length = random.below((MIB - at).min(300 * KIB)) + 1;
        let mut buf = vec![0; length as usize];
        client.read_at(at, &mut buf).unwrap();
        assert!(buf == whole[at as usize..(at + length) as usize]);
        let mut covered = at;
        client
            .map(BASE_ALLOCATION, at, length, |extent| {
                assert_eq!(extent.offset_bytes, covered);
                covered = extent.end_bytes();
            })
            .unwrap();
        assert_eq!(covered, at + length);
    }
}

#[test]
fn errors_of_single_requests_leave_the_connection_alive() {
    let dir = tempfile::tempdir().unwrap();
    let trigger = dir.path().join("fail");
    let rule = format!("error-pread-file={}", text(&trigger));
    let peer = nbdkit(
        dir.path(),
        &["--filter=error", "memory", "1M", "error-pread=ENOSPC", "error-pread-rate=100%", &rule],
    );
    let client = connect(&peer.endpoint(), &[]);
    let mut buf = [0; 4096];
    client.read_at(0, &mut buf).unwrap();
    std::fs::write(&trigger, "").unwrap();
    let error = client.read_at(4096, &mut buf).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    match error {
        Error::Command { offset_bytes: 4096, length_bytes: 4096, errno: Errno::NOSPC, .. } => {}
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(&trigger).unwrap();
    client.read_at(4096, &mut buf).unwrap();
}

#[test]
fn a_server_killed_wakes_every_caller() {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = nbdkit(dir.path(), &["--threads=16", "memory", "1M", "--filter=delay", "rdelay=60"]);
    let client = connect(&peer.endpoint(), &[]);
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = client.read_at(0, &mut [0; 512]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
                failed.fetch_add(1, Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(failed.load(Ordering::Relaxed), 0);
        peer.kill();
    });
    assert_eq!(failed.load(Ordering::Relaxed), 8);
    assert!(client.failure().is_some());
    assert_eq!(client.read_at(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Disconnected);
}

#[test]
fn a_silent_server_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let peer = nbdkit(dir.path(), &["memory", "1M", "--filter=delay", "rdelay=60"]);
    let hasty = ConnectOptions { io_timeout: Duration::from_millis(300), ..options(&[]) };
    let client = Client::connect(&peer.endpoint(), &hasty).unwrap();
    let started = Instant::now();
    let error = client.read_at(0, &mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));

    // Another caller can give up for all.
    let client = connect(&peer.endpoint(), &[]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.read_at(0, &mut [0; 512]).unwrap_err());
        std::thread::sleep(Duration::from_millis(200));
        client.abort();
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn tcp_works_and_nobody_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let endpoint = Endpoint::Tcp("127.0.0.1".into(), port);
    let error = Client::connect(&endpoint, &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    let port_text = port.to_string();
    let mut child = Command::new("nbdkit")
        .args([
            "--foreground",
            "--exit-with-parent",
            "--ipaddr=127.0.0.1",
            "--port",
            &port_text,
            "pattern",
            "1M",
        ])
        .spawn()
        .expect("nbdkit");
    let until = Instant::now() + Duration::from_secs(20);
    let client = loop {
        match Client::connect(&endpoint, &options(&[])) {
            Ok(client) => break client,
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let whole = read_all(&client).unwrap();
    assert!(whole.chunks(8).enumerate().all(|(i, word)| word == (i as u64 * 8).to_be_bytes()));
    drop(client);
    child.kill().unwrap();
    child.wait().unwrap();
    let nobody = Endpoint::Unix(dir.path().join("nobody.sock"));
    let error = Client::connect(&nobody, &options(&[])).unwrap_err();
    assert!(error.to_string().contains("nobody.sock"), "{error}");
}
