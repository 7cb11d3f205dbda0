//! Our client against servers that stop, stall, or lie. Conversations are recorded from a real
//! `qemu-nbd` and played back, cut short or changed. Whatever comes, calls return, with an error or
//! with the right data.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use strongroom_nbd::*;

const IMAGE_BYTES: u64 = 256 * KIB;

fn options_for_test(silence: Duration) -> ConnectOptions {
    ConnectOptions {
        negotiation_timeout: silence,
        io_timeout: silence,
        ..options(&[BASE_ALLOCATION, "qemu:dirty-bitmap:b"])
    }
}

fn byte_at(offset: u64) -> u8 {
    // Data in the first 64 KiB, then a hole.
    if offset < 64 * KIB { 0x5a } else { 0 }
}

/// A fixed sequence of requests, one after the other. True if all of it worked; what did work must
/// be right.
fn converse(endpoint: &Endpoint, silence: Duration) -> Result<(), Error> {
    let client = Client::connect(endpoint, &options_for_test(silence))?;
    assert_eq!(client.size_bytes(), IMAGE_BYTES);
    for (offset, length) in [(0, 700), (64 * KIB - 300, 600), (128 * KIB, 5000)] {
        let mut buf = vec![0xaa; length];
        client.read_at(offset, &mut buf)?;
        assert!(buf.iter().enumerate().all(|(i, byte)| *byte == byte_at(offset + i as u64)));
    }
    let mut covered = 0;
    client.map(BASE_ALLOCATION, 0, IMAGE_BYTES, |extent| {
        assert_eq!(extent.offset_bytes, covered);
        covered = extent.end_bytes();
        assert_eq!(extent.flags & STATE_ZERO != 0, byte_at(extent.offset_bytes) == 0);
    })?;
    assert_eq!(covered, IMAGE_BYTES);
    assert!(client.dirty_extents("qemu:dirty-bitmap:b", 0, IMAGE_BYTES)?.is_empty());
    Ok(())
}

/// What `qemu-nbd` says in that conversation.
fn recorded(dir: &Path) -> Vec<u8> {
    let image = dir.join("disk.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "256k"]);
    tool("qemu-io", &["-c", "write -P 0x5a 0 64k", text(&image)]);
    tool("qemu-img", &["bitmap", "--add", text(&image), "b"]);
    let peer = qemu_nbd(dir, &image, &["--format=qcow2", "--read-only", "-B", "b"]);
    let between = dir.join("between.sock");
    let listener = UnixListener::bind(&between).unwrap();
    let real = peer.socket.clone();
    let recorder = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = UnixStream::connect(real).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let forward = std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Write).ok();
        });
        let mut heard = Vec::new();
        let (mut server, mut client) = (server, client);
        let mut buf = [0; 65536];
        loop {
            match server.read(&mut buf) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    heard.extend(&buf[..count]);
                    client.write_all(&buf[..count]).ok();
                }
            }
        }
        forward.join().unwrap();
        heard
    });
    converse(&Endpoint::Unix(between), Duration::from_secs(20)).unwrap();
    recorder.join().unwrap()
}

/// Plays a server: says its piece to each client in turn, then does `after`.
enum After {
    Close,
    Stall,
}

struct Player {
    endpoint: Endpoint,
    say: mpsc::Sender<(Vec<u8>, After)>,
}

fn player(dir: &Path, name: &str) -> Player {
    let path = dir.join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let (say, lines) = mpsc::channel::<(Vec<u8>, After)>();
    std::thread::spawn(move || {
        for (line, after) in lines {
            let Ok((mut client, _)) = listener.accept() else { return };
            // The client may leave before it has heard everything.
            client.write_all(&line).ok();
            if let After::Close = after {
                client.shutdown(Shutdown::Write).ok();
            }
            // Listens until the client goes.
            std::io::copy(&mut client, &mut std::io::sink()).ok();
        }
    });
    Player { endpoint: Endpoint::Unix(path), say }
}

#[test]
fn a_server_that_closes_at_any_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let script = recorded(dir.path());
    assert!(script.len() > 1500, "{}", script.len());
    let player = player(dir.path(), "player.sock");
    let silence = Duration::from_secs(20);
    player.say.send((script.clone(), After::Close)).unwrap();
    converse(&player.endpoint, silence).expect("the whole script works");
    for cut in 0..script.len() {
        player.say.send((script[..cut].to_vec(), After::Close)).unwrap();
        let error = converse(&player.endpoint, silence).expect_err("cut short");
        assert_eq!(error.kind(), ErrorKind::Disconnected, "cut at {cut}: {error}");
    }
}

#[test]
fn a_server_that_stalls_anywhere_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let script = recorded(dir.path());
    let cuts: Vec<usize> = (0..script.len()).step_by(script.len() / 64).collect();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (script, cuts, dir) = (&script, &cuts, dir.path());
            scope.spawn(move || {
                let player = player(dir, &format!("player-{number}.sock"));
                for cut in cuts.iter().skip(number).step_by(8) {
                    player.say.send((script[..*cut].to_vec(), After::Stall)).unwrap();
                    let started = Instant::now();
                    let error = converse(&player.endpoint, Duration::from_millis(150)).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "stalled at {cut}: {error}");
                    assert!(started.elapsed() < Duration::from_secs(30));
                }
            });
        }
    });
}

/// A dripping server never makes a read time out, yet must not hold the client for ever.
#[test]
fn a_server_that_drips_through_the_negotiation_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drip.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let dripping = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        for byte in b"NBDMAGICIHAVEOPT\0\x03".iter().chain(std::iter::repeat(&0)) {
            if client.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    let started = Instant::now();
    let error =
        Client::connect(&Endpoint::Unix(path), &options_for_test(Duration::from_millis(400))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    dripping.join().unwrap();
}

#[test]
fn changed_scripts_never_hang_or_panic() {
    let dir = tempfile::tempdir().unwrap();
    let script = recorded(dir.path());
    let player = player(dir.path(), "player.sock");
    let mut random = Random(2024);
    for _ in 0..1500 {
        let mut changed = script.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(changed.len() as u64) as usize;
            match random.below(4) {
                0 => changed[at] ^= 1 << random.below(8),
                1 => changed[at] = random.next() as u8,
                2 => drop(changed.drain(at..(at + 1 + random.below(30) as usize).min(changed.len()))),
                _ => {
                    let end = (at + random.below(30) as usize).min(changed.len());
                    let piece = changed[at..end].to_vec();
                    changed.splice(at..at, piece);
                }
            }
        }
        player.say.send((changed, After::Close)).unwrap();
        // Data bytes are not protected by anything: what comes back may be wrong, or an error.
        let _ = play_through(&player.endpoint);
    }
}

/// The same requests as [`converse`], believing everything.
fn play_through(endpoint: &Endpoint) -> Result<(), Error> {
    let client = Client::connect(endpoint, &options_for_test(Duration::from_secs(20)))?;
    for (offset, length) in [(0, 700), (64 * KIB - 300, 600), (128 * KIB, 5000)] {
        client.read_at(offset, &mut vec![0; length])?;
    }
    let size = client.size_bytes().min(1 << 40);
    let mut covered = 0;
    client.map(BASE_ALLOCATION, 0, size, |extent| {
        assert_eq!(extent.offset_bytes, covered);
        covered = extent.end_bytes();
    })?;
    assert_eq!(covered, size);
    client.dirty_extents("qemu:dirty-bitmap:b", 0, size).map(drop)
}

/// A server that answers reads just as told, byte by byte.
fn lying_server(dir: &Path, answer: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Client {
    let act = move |cookie, client: &mut UnixStream| client.write_all(&answer(cookie));
    acting_server(dir, Duration::from_secs(20), act)
}

/// A server that negotiates well and then does to each request, known by its cookie, what it is told to.
fn acting_server(
    dir: &Path,
    silence: Duration,
    mut act: impl FnMut(u64, &mut UnixStream) -> std::io::Result<()> + Send + 'static,
) -> Client {
    let path = dir.join(format!("liar-{:?}.sock", Instant::now()).replace([' ', '{', '}', ':', ','], ""));
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut word = [0; 4];
        client.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        client.read_exact(&mut word).unwrap();
        for option in [8u32, 7] {
            let mut head = [0; 16];
            client.read_exact(&mut head).unwrap();
            let mut payload = vec![0; u32::from_be_bytes(head[12..].try_into().unwrap()) as usize];
            client.read_exact(&mut payload).unwrap();
            let mut reply = Vec::new();
            let mut say = |kind: u32, payload: &[u8]| {
                reply.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
                reply.extend(option.to_be_bytes());
                reply.extend(kind.to_be_bytes());
                reply.extend((payload.len() as u32).to_be_bytes());
                reply.extend(payload);
            };
            if option == 7 {
                say(3, &[&[0, 0][..], &(1u64 << 30).to_be_bytes(), &[0, 1]].concat());
            }
            say(1, &[]);
            client.write_all(&reply).unwrap();
        }
        let mut request = [0; 28];
        while client.read_exact(&mut request).is_ok() {
            let cookie = u64::from_be_bytes(request[8..16].try_into().unwrap());
            if act(cookie, &mut client).is_err() {
                break;
            }
        }
    });
    let options = ConnectOptions { io_timeout: silence, ..options(&[]) };
    Client::connect(&Endpoint::Unix(path), &options).unwrap()
}

fn chunk(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn data(offset: u64, length: usize) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &vec![7; length]].concat()
}

fn hole(offset: u64, length: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat()
}

#[test]
fn lies_in_structured_replies_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    type Answer = fn(u64) -> Vec<u8>;
    // Each answers a read of 4096 bytes at 8192.
    let lies: &[(&str, Answer)] = &[
        ("overlap", |c| [chunk(c, 0, 1, &data(8192, 3000)), chunk(c, 1, 1, &data(9192, 3096))].concat()),
        ("same twice", |c| [chunk(c, 0, 2, &hole(8192, 4096)), chunk(c, 1, 2, &hole(8192, 4096))].concat()),
        ("gap", |c| [chunk(c, 0, 1, &data(8192, 1000)), chunk(c, 1, 1, &data(11288, 1000))].concat()),
        ("too short", |c| chunk(c, 1, 1, &data(8192, 4095))),
        ("nothing", |c| chunk(c, 1, 0, &[])),
        ("before the range", |c| chunk(c, 1, 1, &data(8191, 4096))),
        ("beyond the range", |c| chunk(c, 1, 1, &data(8193, 4096))),
        ("at the end of numbers", |c| chunk(c, 1, 2, &hole(u64::MAX, 4096))),
        ("hole beyond", |c| chunk(c, 1, 2, &hole(8192, 4097))),
        ("hole of nothing", |c| chunk(c, 1, 2, &hole(8192, 0))),
        ("data of nothing", |c| chunk(c, 1, 1, &data(8192, 0))),
        ("short hole", |c| chunk(c, 1, 2, &hole(8192, 4096)[..11])),
        ("simple reply", |c| {
            [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &c.to_be_bytes(), &[0; 4096]].concat()
        }),
        ("another's cookie", |c| chunk(c + 1, 1, 1, &data(8192, 4096))),
        ("block status", |c| chunk(c, 1, 5, &[0; 12])),
        ("unknown kind", |c| chunk(c, 1, 9, &[])),
        ("unknown flag", |c| chunk(c, 3, 1, &data(8192, 4096))),
        ("none, not done", |c| chunk(c, 0, 0, &[])),
        ("error of zero", |c| chunk(c, 1, 0x8001, &[0; 6])),
        ("error cut short", |c| chunk(c, 1, 0x8001, &[0, 0, 0, 5, 0, 9])),
        ("endless error", |c| chunk(c, 1, 0x8001, &[1; 9000])),
        ("error elsewhere", |c| chunk(c, 1, 0x8002, &[0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("errors without end", |c| chunk(c, 0, 0x8001, &[0, 0, 0, 5, 0, 0]).repeat(100_000)),
        ("garbage", |_| vec![0x55; 64]),
    ];
    for (name, answer) in lies {
        let client = lying_server(dir.path(), answer);
        let error = client.read_at(8192, &mut [0; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{name}: {error}");
        let after = client.read_at(8192, &mut [0; 4096]).unwrap_err();
        assert_eq!(after.to_string(), error.to_string(), "{name}: later callers get the reason");
    }
}

#[test]
fn honest_replies_in_odd_shapes_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let client = lying_server(dir.path(), |c| {
        let mut out = chunk(c, 0, 1, &data(8192 + 3000, 1096));
        out.extend(chunk(c, 0, 2, &hole(8192 + 1000, 2000)));
        out.extend(chunk(c, 0, 1, &data(8192, 1000)));
        out.extend(chunk(c, 1, 0, &[]));
        out
    });
    let mut buf = [0xaa; 4096];
    client.read_at(8192, &mut buf).unwrap();
    assert!(buf[..1000].iter().chain(&buf[3000..]).all(|byte| *byte == 7));
    assert!(buf[1000..3000].iter().all(|byte| *byte == 0));

    // An error after data, with its place; then business as usual is possible.
    let client = lying_server(dir.path(), |c| {
        let error = [&5u32.to_be_bytes()[..], &[0, 3], b"bad", &9000u64.to_be_bytes()].concat();
        [chunk(c, 0, 1, &data(8192, 100)), chunk(c, 0, 0x8002, &error), chunk(c, 1, 0, &[])].concat()
    });
    for _ in 0..2 {
        match client.read_at(8192, &mut buf).unwrap_err() {
            Error::Command { errno: Errno::IO, message, .. } => assert_eq!(message, "bad"),
            other => panic!("{other:?}"),
        }
    }
    // One byte at a time, every other first: as scattered as can be.
    let client = lying_server(dir.path(), |c| {
        let mut out = Vec::new();
        for at in (0..4096).step_by(2).chain((1..4096).step_by(2)) {
            out.extend(chunk(c, 0, 1, &data(8192 + at, 1)));
        }
        out.extend(chunk(c, 1, 0, &[]));
        out
    });
    client.read_at(8192, &mut buf).unwrap();
    assert_eq!(buf, [7; 4096]);
}

#[test]
fn a_reply_that_drips_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let drip = |silence: Duration, reply: Vec<u8>, pause_ms: u64| {
        acting_server(dir.path(), silence, move |cookie, client| {
            let mut reply = reply.clone();
            reply[8..16].copy_from_slice(&cookie.to_be_bytes());
            for byte in reply {
                client.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
            Ok(())
        })
    };
    for reply in [chunk(0, 1, 1, &data(8192, 4096)), chunk(0, 0, 2, &hole(8192, 1))] {
        let client = drip(Duration::from_millis(300), reply, 40);
        let started = Instant::now();
        let error = client.read_at(8192, &mut [0; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
    // Slow, but soon enough.
    drip(Duration::from_secs(20), chunk(0, 1, 1, &data(8192, 8)), 1).read_at(8192, &mut [0; 8]).unwrap();
}

#[test]
fn a_request_forgotten_among_others_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (asked, first_asked) = mpsc::channel();
    // So long that no other reply is ever late, on however busy a host.
    let silence = Duration::from_millis(500);
    let client = acting_server(dir.path(), silence, move |cookie, client| match cookie {
        1 => {
            asked.send(()).unwrap();
            Ok(())
        }
        _ => client.write_all(&chunk(cookie, 1, 1, &data(8192, 512))),
    });
    let started = Instant::now();
    std::thread::scope(|scope| {
        let forgotten = scope.spawn(|| client.read_at(8192, &mut [0; 512]).unwrap_err());
        first_asked.recv().unwrap();
        while client.read_at(8192, &mut [0; 512]).is_ok() {
            std::thread::sleep(Duration::from_millis(2));
            assert!(started.elapsed() < Duration::from_secs(60), "waits for ever");
        }
        assert_eq!(forgotten.join().unwrap().kind(), ErrorKind::TimedOut);
    });
    assert!(started.elapsed() >= 9 * silence, "{:?}", started.elapsed());
}

/// Many threads on one connection, replies to all of them in every order and in interleaved chunks.
#[test]
fn interleaved_replies_find_their_callers() {
    let dir = tempfile::tempdir().unwrap();
    let mut waiting: Vec<u64> = Vec::new();
    let mut random = Random(99);
    let client = acting_server(dir.path(), Duration::from_secs(20), move |cookie, client| {
        waiting.push(cookie);
        if waiting.len() < 8 {
            return Ok(());
        }
        // Each of the eight reads gets its own cookie as data, in four chunks.
        let mut parts: Vec<(u64, u64)> = waiting.iter().flat_map(|c| (0..4).map(|part| (*c, part))).collect();
        for place in (1..parts.len()).rev() {
            parts.swap(place, random.below(place as u64 + 1) as usize);
        }
        let mut left: std::collections::HashMap<u64, u16> = waiting.drain(..).map(|c| (c, 4)).collect();
        let mut out = Vec::new();
        for (cookie, part) in parts {
            let left = left.get_mut(&cookie).unwrap();
            *left -= 1;
            let place = (8192 + part * 8).to_be_bytes();
            out.extend(chunk(cookie, u16::from(*left == 0), 1, &[place, cookie.to_be_bytes()].concat()));
        }
        client.write_all(&out)
    });
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let mut buf = [0; 32];
                    client.read_at(8192, &mut buf).unwrap();
                    assert!(buf.chunks(8).all(|word| *word == buf[..8]), "chunks of different replies");
                    assert!(seen.lock().unwrap().insert(buf), "one reply went to two callers");
                }
            });
        }
    });
    assert_eq!(seen.lock().unwrap().len(), 2400);
}

#[test]
fn a_client_dropped_says_goodbye() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, cookies) = mpsc::channel();
    let client = acting_server(dir.path(), Duration::from_secs(20), move |cookie, client| {
        seen.send(cookie).unwrap();
        client.write_all(&chunk(cookie, 1, 1, &data(8192, 512)))
    });
    client.read_at(8192, &mut [0; 512]).unwrap();
    drop(client);
    // Requests count from 1; the goodbye has no reply and no number. Then the connection is closed.
    assert_eq!(cookies.iter().collect::<Vec<_>>(), [1, 0]);
}
