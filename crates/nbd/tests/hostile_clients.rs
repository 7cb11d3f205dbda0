//! Our server against clients that stop, stall, lie, or come in crowds. It ends their connections
//! in bounded time and goes on serving the others.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::*;
use strongroom_nbd::wire::{self, Request, cmd, opt};
use strongroom_nbd::*;

/// More than a busy host needs: who is let go is let go for what was said.
fn limits() -> ServerLimits {
    ServerLimits {
        max_connections: 4,
        negotiation_timeout: Duration::from_secs(20),
        io_timeout: Duration::from_secs(20),
        ..ServerLimits::default()
    }
}

/// Where the time is to run out.
const PATIENCE: Duration = Duration::from_secs(2);

fn hasty() -> ServerLimits {
    ServerLimits { negotiation_timeout: PATIENCE, io_timeout: PATIENCE, ..limits() }
}

struct Here {
    _dir: tempfile::TempDir,
    server: ServerHandle,
}

impl Here {
    fn new(limits: ServerLimits) -> Here {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new()
            .export("disk", MemoryDisk::writable(patchy(5, MIB as usize)))
            .unwrap()
            .limits(limits)
            .listen_unix(dir.path().join("s.sock"))
            .unwrap();
        Here { _dir: dir, server }
    }

    fn raw(&self) -> UnixStream {
        let Endpoint::Unix(path) = self.server.endpoint() else { panic!() };
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A client that has just begun to negotiate.
    fn greeted(&self) -> UnixStream {
        let mut stream = self.raw();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream
    }

    /// A client that has chosen the export, with structured replies.
    fn chosen(&self) -> UnixStream {
        let mut stream = self.greeted();
        stream.write_all(&wire::encode_option(opt::STRUCTURED_REPLY, &[])).unwrap();
        stream.read_exact(&mut [0; 20]).unwrap();
        stream.write_all(&wire::encode_option(opt::GO, &wire::encode_go("disk", &[]))).unwrap();
        stream.read_exact(&mut [0; 20 + 12 + 20]).unwrap();
        stream
    }

    fn still_serves(&self) {
        self.wait_for_none();
        let mut buf = [0; 4096];
        let client = connect(self.server.endpoint(), &[]);
        client.read_at(0, &mut buf).unwrap();
        drop(client);
        self.wait_for_none();
    }

    fn wait_for_none(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.server.connections() > 0 {
            assert!(Instant::now() < until, "a client is not let go");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads until the server closes; how long it took.
fn until_closed(mut stream: UnixStream) -> Duration {
    let started = Instant::now();
    match std::io::copy(&mut stream, &mut std::io::sink()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    started.elapsed()
}

fn request(command: u16, offset_bytes: u64, length_bytes: u32) -> Request {
    Request { flags: 0, command, cookie: 1, offset_bytes, length_bytes }
}

#[test]
fn nonsense_in_the_negotiation_ends_it() {
    // Ended for what was said, long before the time is up.
    let here = Here::new(limits());
    let mut magic = wire::encode_option(opt::LIST, &[]);
    magic[3] ^= 1;
    let mut oversize = wire::encode_option(opt::GO, &[]);
    oversize[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let says: &[(&str, Vec<u8>)] = &[
        ("garbage", vec![0xff; 300]),
        ("wrong magic", magic),
        ("oversize option", oversize),
        ("giant export name", wire::encode_option(opt::EXPORT_NAME, &[b'x'; 60_000])),
        ("name that is not text", wire::encode_option(opt::EXPORT_NAME, &[0xff; 10])),
        ("unknown export", wire::encode_option(opt::EXPORT_NAME, b"nothing")),
        ("thousands of options", wire::encode_option(opt::LIST, &[]).repeat(300)),
    ];
    for (what, bytes) in says {
        let mut stream = here.greeted();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes);
        assert!(until_closed(stream) < Duration::from_secs(15), "{what}");
        here.still_serves();
    }
    // Refused, yet the client may go on.
    let mut stream = here.greeted();
    let giant = wire::encode_go(&"x".repeat(5000), &[]);
    let bad_count = [&4u32.to_be_bytes()[..], b"disk", &9u16.to_be_bytes()].concat();
    for (option, payload) in [
        (opt::GO, giant),
        (opt::GO, bad_count),
        (opt::GO, vec![]),
        (opt::INFO, u32::MAX.to_be_bytes().to_vec()),
        (opt::SET_META_CONTEXT, vec![0xff; 12]),
        (opt::STARTTLS, vec![]),
        (4242, vec![1, 2, 3]),
        (opt::LIST, vec![1]),
        (opt::STRUCTURED_REPLY, vec![1]),
    ] {
        stream.write_all(&wire::encode_option(option, &payload)).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[12] & 0x80, 0x80, "option {option} is refused");
        let mut words = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut words).unwrap();
    }
    drop(stream);
    here.still_serves();
    // Unknown client flags.
    let mut stream = here.raw();
    stream.write_all(&0xff00_u32.to_be_bytes()).unwrap();
    until_closed(stream);
    here.still_serves();
}

#[test]
fn silence_and_dripping_are_bounded() {
    let here = Here::new(hasty());
    // Says nothing at all.
    assert!(until_closed(here.raw()) < 8 * PATIENCE);
    // Drips through the negotiation.
    let mut stream = here.raw();
    let started = Instant::now();
    let drip = [&3u32.to_be_bytes()[..], &wire::encode_option(opt::LIST, &[]).repeat(50)].concat();
    for byte in drip {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(started.elapsed() < 8 * PATIENCE, "dripping is endured for ever");
    }
    here.still_serves();
    // Half a request, then half a payload.
    for bytes in [
        request(cmd::READ, 0, 512).encode()[..10].to_vec(),
        [&request(cmd::WRITE, 0, 512).encode()[..], &[1; 100]].concat(),
    ] {
        let mut stream = here.chosen();
        stream.write_all(&bytes).unwrap();
        let took = until_closed(stream);
        assert!(took > PATIENCE.mul_f32(0.8) && took < 8 * PATIENCE, "{took:?}");
        here.still_serves();
    }
    // Between requests there is no hurry.
    let client = connect(here.server.endpoint(), &[]);
    client.read_at(0, &mut [0; 512]).unwrap();
    std::thread::sleep(PATIENCE.mul_f32(1.5));
    client.read_at(0, &mut [0; 512]).unwrap();
}

#[test]
fn crowds_are_turned_away_and_room_comes_back() {
    let here = Here::new(limits());
    let clients: Vec<Client> = (0..4).map(|_| connect(here.server.endpoint(), &[])).collect();
    let error = Client::connect(here.server.endpoint(), &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    clients[0].read_at(0, &mut [0; 512]).unwrap();
    drop(clients);
    here.still_serves();
}

#[test]
fn bad_requests_are_refused_with_the_right_numbers() {
    let here = Here::new(limits());
    let mut stream = here.chosen();
    let mut ask = |request: Request, payload: &[u8]| -> u32 {
        stream.write_all(&request.encode()).unwrap();
        stream.write_all(payload).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0..4], wire::CHUNK_MAGIC.to_be_bytes());
        let mut payload = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut payload).unwrap();
        if head[6] & 0x80 == 0 { 0 } else { u32::from_be_bytes(payload[..4].try_into().unwrap()) }
    };
    let mib = MIB as u32;
    assert_eq!(ask(request(cmd::READ, 0, 4096), &[]), 0);
    assert_eq!(ask(request(cmd::READ, 0, 0), &[]), 0);
    assert_eq!(ask(request(cmd::READ, MIB, 1), &[]), Errno::INVAL.0);
    assert_eq!(ask(request(cmd::READ, u64::MAX, 2), &[]), Errno::INVAL.0);
    assert_eq!(ask(request(cmd::READ, 0, u32::MAX), &[]), Errno::INVAL.0);
    assert_eq!(ask(request(cmd::WRITE, MIB - 1, 2), &[0; 2]), Errno::NOSPC.0);
    let large = vec![0; 2 * mib as usize];
    assert_eq!(ask(request(cmd::WRITE, 0, 2 * mib), &large), Errno::NOSPC.0);
    assert_eq!(ask(request(cmd::TRIM, 1, mib), &[]), Errno::NOSPC.0);
    assert_eq!(ask(request(cmd::BLOCK_STATUS, 0, 4096), &[]), Errno::INVAL.0);
    assert_eq!(ask(request(77, 0, 0), &[]), Errno::INVAL.0);
    assert_eq!(ask(Request { flags: 0x4000, ..request(cmd::READ, 0, 512) }, &[]), Errno::INVAL.0);
    assert_eq!(ask(request(cmd::FLUSH, 0, 0), &[]), 0);
    assert_eq!(ask(request(cmd::FLUSH, 1, 0), &[]), Errno::INVAL.0);
    let unfragmented = |length| Request { flags: wire::cflag::DF, ..request(cmd::READ, 0, length) };
    assert_eq!(ask(unfragmented(mib), &[]), 0);
    drop(stream);

    // The read-only and the large ones.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new()
        .export("disk", MemoryDisk::read_only(vec![1; 4 * MIB as usize]))
        .unwrap()
        .listen_unix(dir.path().join("s.sock"))
        .unwrap();
    let here = Here { _dir: dir, server };
    let mut stream = here.chosen();
    for (request, payload, errno) in [
        (unfragmented(mib + 1), 0, Errno::OVERFLOW),
        (request(cmd::WRITE, 0, 512), 512, Errno::PERM),
        (request(cmd::WRITE, 0, 3 * mib), 3 * mib as usize, Errno::PERM),
        (request(cmd::TRIM, 0, 512), 0, Errno::PERM),
        (request(cmd::WRITE_ZEROES, 0, 512), 0, Errno::PERM),
    ] {
        stream.write_all(&request.encode()).unwrap();
        stream.write_all(&vec![0; payload]).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(body[..4], errno.0.to_be_bytes(), "{request:?}");
    }
    // A write too large to be worth reading, and a request that is none.
    stream.write_all(&request(cmd::WRITE, 0, u32::MAX).encode()).unwrap();
    until_closed(stream);
    let mut stream = here.chosen();
    stream.write_all(&[0x55; 28]).unwrap();
    until_closed(stream);
    here.still_serves();
}

#[test]
fn who_takes_no_replies_holds_up_only_himself() {
    let here = Here::new(ServerLimits { io_timeout: PATIENCE, ..limits() });
    let mut greedy = here.chosen();
    greedy.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let asked =
        (0..100_000).take_while(|_| greedy.write_all(&request(cmd::READ, 0, MIB as u32).encode()).is_ok());
    let asking = std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = connect(here.server.endpoint(), &[]);
            for _ in 0..200 {
                client.read_at(0, &mut [0; 4096]).unwrap();
            }
        });
        asked.count()
    });
    assert!(asking < 100_000, "the server queues without end");
    here.still_serves();
    drop(greedy);
}

#[test]
fn clients_that_leave_at_any_byte_leave_nothing_behind() {
    let here = Here::new(limits());
    let mut script = 3u32.to_be_bytes().to_vec();
    script.extend(wire::encode_option(opt::LIST, &[]));
    script.extend(wire::encode_option(opt::STRUCTURED_REPLY, &[]));
    let context = [BASE_ALLOCATION.to_owned()];
    script.extend(wire::encode_option(opt::SET_META_CONTEXT, &wire::encode_meta_context("disk", &context)));
    script.extend(wire::encode_option(opt::GO, &wire::encode_go("disk", &[3, 2, 1])));
    script.extend(request(cmd::READ, 4096, 8192).encode());
    script.extend(request(cmd::WRITE, 0, 40).encode());
    script.extend([9; 40]);
    script.extend(request(cmd::BLOCK_STATUS, 0, MIB as u32).encode());
    script.extend(request(cmd::DISC, 0, 0).encode());
    for cut in 0..=script.len() {
        for half in [false, true] {
            let mut stream = here.raw();
            stream.write_all(&script[..cut]).unwrap();
            if half {
                // Only stops talking; the server must come to an end by itself.
                stream.shutdown(Shutdown::Write).unwrap();
                until_closed(stream);
            } else {
                drop(stream);
            }
        }
        here.wait_for_none();
    }
    here.still_serves();
}

#[test]
fn one_extent_is_told_when_one_is_asked_for() {
    let here = Here::new(limits());
    let mut stream = here.greeted();
    stream.write_all(&wire::encode_option(opt::STRUCTURED_REPLY, &[])).unwrap();
    let context = [BASE_ALLOCATION.to_owned()];
    let meta = wire::encode_meta_context("disk", &context);
    stream.write_all(&wire::encode_option(opt::SET_META_CONTEXT, &meta)).unwrap();
    stream.write_all(&wire::encode_option(opt::GO, &wire::encode_go("disk", &[]))).unwrap();
    stream.read_exact(&mut [0; 20 + (20 + 4 + 15 + 20) + (20 + 12 + 20)]).unwrap();
    let mut extents = |flags| {
        let request = Request { flags, ..request(cmd::BLOCK_STATUS, 0, MIB as u32) };
        stream.write_all(&request.encode()).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[6..8], wire::chunk::BLOCK_STATUS.to_be_bytes());
        let mut body = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).unwrap();
        body[4..]
            .chunks(8)
            .map(|extent| u32::from_be_bytes(extent[..4].try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    let all = extents(0);
    assert!(all.len() > 2 && all.iter().sum::<u32>() == MIB as u32, "{all:?}");
    assert_eq!(extents(wire::cflag::REQ_ONE), all[..1]);
}
