//! Who has no rights here takes nothing away from those who have: not the server's connections, not the room for bodies, not
//! anybody's sign-in, not the audit's space.

mod common;

use common::people::{World, account};
use common::wire::*;
use http::{HeaderMap, Method, header};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use strongroom_api::auth::AccountKind;
use strongroom_api::http::ServerBounds;
use strongroom_api::{Client, Request, limits};

const VAULT: &str =
    "/subscriptions/s/resourceGroups/g2/providers/Microsoft.RecoveryServices/vaults/v?api-version=1";
const SIGN_IN: &str = "grant_type=client_credentials&client_id=robot&client_secret=right+horse";

/// A connection from an address of this host's own.
fn plain_from(address: &str, server: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        socket.connect(server).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn local(server: &Running) -> UnixStream {
    let stream = UnixStream::connect(server.directory.path().join("sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn sign_in_raw() -> String {
    format!(
        "POST /adfs/oauth2/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{SIGN_IN}",
        SIGN_IN.len()
    )
}

/// Seventeen that each held back the last byte of a body made every other body answer 503.
#[test]
fn bodies_that_are_held_back_keep_nobody_out() {
    let world = World::new();
    let (robot, anna) = (world.robot(), world.anna()["access_token"].as_str().unwrap().to_owned());
    let server = start(world.api, ServerBounds::default());
    let most = limits::BODIES_TOTAL_MAX_BYTES / limits::BODY_MAX_BYTES + 1;
    let body = vec![b'x'; limits::BODY_MAX_BYTES - 1];
    // Without a token, with a wrong one, with one that has no right to this, and over a public route.
    let kinds = [
        ("DELETE", VAULT, String::new()),
        ("DELETE", VAULT, String::from("Authorization: Bearer x.y.z\r\n")),
        ("DELETE", VAULT, format!("Authorization: Bearer {anna}\r\n")),
        ("POST", "/adfs/oauth2/token", String::from("Content-Type: application/x-www-form-urlencoded\r\n")),
    ];
    let held: Vec<Tls> = (0..most)
        .map(|n| {
            let (method, target, headers) = &kinds[n % kinds.len()];
            let mut stream = server.connect();
            write!(
                stream,
                "{method} {target} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {}\r\n\r\n",
                body.len() + 1
            )
            .unwrap();
            // Refused already, the server may have stopped listening.
            let _ = stream.write_all(&body);
            stream
        })
        .collect();
    let signed_in = server.ask(&sign_in_raw());
    assert_eq!(signed_in.status, 200, "sign-in: {signed_in:?}");
    let change = |authorization: &str| {
        format!("DELETE {VAULT} HTTP/1.1\r\nHost: h\r\n{authorization}Content-Length: 2\r\n\r\n{{}}")
    };
    let changed = server.ask(&change(&format!("Authorization: Bearer {robot}\r\n")));
    assert_eq!(changed.status, 200, "{changed:?}");
    let mut socket = local(&server);
    socket.write_all(change("").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut socket, false).unwrap().status, 200, "over the socket");
    drop(held);
}

/// Each of a stranger's bodies is small, and there may be as many as there are connections: none needs another's room.
#[test]
fn small_bodies_that_are_held_back_keep_nobody_out() {
    let server = start(World::new().api, ServerBounds::default());
    let body = vec![b'x'; 60 << 10];
    let held: Vec<Tls> = (0..40)
        .map(|_| {
            let mut stream = server.connect();
            write!(
                stream,
                "POST /adfs/oauth2/token HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
                body.len() + 1
            )
            .unwrap();
            stream.write_all(&body).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.ask(&sign_in_raw()).status, 200);
    drop(held);
}

#[test]
fn who_asks_is_looked_at_before_the_body_is() {
    let world = World::new();
    let (robot, anna) = (world.robot(), world.anna()["access_token"].as_str().unwrap().to_owned());
    let server = start(world.api, quick());
    let large = limits::BODY_MAX_BYTES;
    for (authorization, status) in [("", 401), ("Bearer x.y.z", 401), (&*format!("Bearer {anna}"), 403)] {
        let line = match authorization {
            "" => String::new(),
            value => format!("Authorization: {value}\r\n"),
        };
        // Not a byte of the body is sent; nor is the client told to send it.
        for expect in ["", "Expect: 100-continue\r\n"] {
            let mut stream = server.connect();
            write!(
                stream,
                "DELETE {VAULT} HTTP/1.1\r\nHost: h\r\n{line}{expect}Content-Length: {large}\r\n\r\n"
            )
            .unwrap();
            let answer = read_answer(&mut stream, false).unwrap();
            assert_eq!(answer.status, status, "{authorization:.20} {expect}");
            assert_eq!(answer.headers["connection"], "close");
            assert!(is_closed(&mut stream));
        }
        // Who sends all of it before it listens is told the same.
        let mut stream = server.connect();
        write!(stream, "DELETE {VAULT} HTTP/1.1\r\nHost: h\r\n{line}Content-Length: {large}\r\n\r\n")
            .unwrap();
        stream.write_all(&vec![b'x'; large]).unwrap();
        assert_eq!(read_answer(&mut stream, false).unwrap().status, status);
    }
    // What does not exist is said without its body, too, to whoever signed in.
    let mut stream = server.connect();
    write!(
        stream,
        "PUT /nothing HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {anna}\r\nContent-Length: {large}\r\n\r\n"
    )
    .unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().status, 404);
    // Who may is told to go on, and is heard.
    let mut stream = server.connect();
    write!(
        stream,
        "DELETE {VAULT} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {robot}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    .unwrap();
    assert_eq!(read_answer(&mut stream, true).unwrap().status, 100);
    stream.write_all(b"{}").unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().status, 200);
}

#[test]
fn public_routes_take_64_kib() {
    let server = start(World::new().api, ServerBounds::default());
    let head = |length: usize| {
        format!(
            "POST /adfs/oauth2/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // Refused by what it says of itself.
    let answer = server.ask(&head((64 << 10) + 1));
    assert_eq!((answer.status, answer.code().as_str()), (413, "RequestEntityTooLarge"));
    // And by what comes, where nothing is said.
    let mut stream = server.connect();
    write!(stream, "POST /adfs/oauth2/token HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    for _ in 0..9 {
        let _ = write!(stream, "2000\r\n{}\r\n", "x".repeat(0x2000));
    }
    let answer = read_answer(&mut stream, false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "RequestEntityTooLarge"));
    let padded = format!("{SIGN_IN}&x={}", "y".repeat((64 << 10) - SIGN_IN.len() - 3));
    // As large as that it is read: what it says is another matter.
    let answer = server.ask(&(head(padded.len()) + &padded));
    assert!(answer.json()["error"].is_string(), "the token endpoint answers: {answer:?}");
}

/// Two addresses with all connections that there are shut out everybody, the local administrator too.
#[test]
fn quiet_connections_give_way() {
    let bounds = ServerBounds { connections: 12, connections_per_address: 6, ..ServerBounds::default() };
    let server = start(World::new().api, bounds);
    // One that the server is answering at the moment would stay; these have said nothing yet.
    let mut quiet: Vec<TcpStream> = ["127.0.0.2", "127.0.0.3"]
        .iter()
        .flat_map(|address| (0..6).map(|_| plain_from(address, server.address)))
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let mut socket = local(&server);
    socket.write_all(b"GET /who HTTP/1.1\r\n\r\n").unwrap();
    let answer = read_answer(&mut socket, false).expect("the administrator is let in");
    assert_eq!(answer.status, 200);
    // Another address gets in; who was quiet the longest among the many goes.
    assert_eq!(server.get("/metadata/endpoints?api-version=1").status, 200);
    assert!(is_closed(&mut quiet[0]), "the oldest goes first");
    quiet[11].set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(!is_closed(&mut quiet[11]), "the newest stays");
    // Whole handshakes that then say nothing are no better, and one address alone has its own to give.
    let more: Vec<TcpStream> = (0..20).map(|_| plain_from("127.0.0.2", server.address)).collect();
    assert_eq!(server.get("/metadata/endpoints?api-version=1").status, 200);
    drop(more);
}

/// The same of bodies that never end, which strangers may begin.
#[test]
fn connections_with_an_endless_body_of_a_stranger_give_way() {
    let patient = Duration::from_secs(300);
    let bounds = ServerBounds {
        connections: 6,
        connections_per_address: 4,
        body_timeout: patient,
        small_body_timeout: patient,
        ..ServerBounds::default()
    };
    let server = start(World::new().api, bounds);
    let mut held: Vec<Tls> = (0..4)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "POST /adfs/oauth2/token HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
                .unwrap();
            stream.flush().unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.ask(&sign_in_raw()).status, 200);
    // Which one waited longest is the server's to see: their first bytes may have been read in any order.
    let until = Instant::now() + Duration::from_secs(20);
    held.iter().for_each(|stream| stream.sock.set_read_timeout(Some(Duration::from_millis(50))).unwrap());
    while !held.iter_mut().any(is_closed) {
        assert!(Instant::now() < until, "none gave way");
    }
}

fn sign_in_from(world: &World, from: &str, form: &str) -> u16 {
    let from: IpAddr = from.parse().unwrap();
    let mut request = Request::new(Method::POST, "/adfs/oauth2/token", Client::Address(from)).unwrap();
    request.base_url = "https://box:8443".into();
    request.body = form.to_owned().into();
    let kind = "application/x-www-form-urlencoded".parse().unwrap();
    request.set_headers(HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]));
    world.api.dispatch(request).status.as_u16()
}

const WRONG: &str = "grant_type=client_credentials&client_id=robot&client_secret=wrong";

/// Guesses from anywhere else slow nobody down here.
#[test]
fn wrong_tries_do_not_lock_the_right_secret_out_elsewhere() {
    let world = World::new();
    for n in 0..35 {
        assert_eq!(sign_in_from(&world, &format!("198.51.100.{}", n / 5), WRONG), 401);
    }
    assert_eq!(sign_in_from(&world, "192.0.2.7", SIGN_IN), 200);
    // Where it was guessed, guessing is over for now.
    assert_eq!(sign_in_from(&world, "198.51.100.0", SIGN_IN), 429);
}

/// Whoever has one IPv6 address has all of its /64.
#[test]
fn ipv6_counts_by_its_network() {
    let world = World::new();
    for n in 1..=5 {
        assert_eq!(sign_in_from(&world, &format!("2001:db8::{n}"), WRONG), 401);
    }
    assert_eq!(sign_in_from(&world, "2001:db8::ffff:1", SIGN_IN), 429);
    assert_eq!(sign_in_from(&world, "2001:db8:0:1::1", SIGN_IN), 200, "another network");
    // IPv4 in IPv6's clothes is IPv4.
    for _ in 0..5 {
        assert_eq!(sign_in_from(&world, "::ffff:203.0.113.1", WRONG), 401);
    }
    assert_eq!(sign_in_from(&world, "203.0.113.1", SIGN_IN), 429);
    assert_eq!(sign_in_from(&world, "::ffff:203.0.113.2", SIGN_IN), 200);
}

/// A principal without any role made the audit grow by being refused.
#[test]
fn refusals_of_anybody_are_counted_and_not_all_written() {
    let world = World::new();
    let stranger = account(AccountKind::User, "stranger@example.org", 3);
    world.memory.accounts.lock().unwrap().push((stranger, vec![]));
    let (_, body) = world.token(&format!(
        "client_id={}&grant_type=password&username=stranger%40example.org&password=right+horse",
        common::people::AZ
    ));
    let stranger = body["access_token"].as_str().unwrap().to_owned();
    let anna = world.anna()["access_token"].as_str().unwrap().to_owned();
    let before = world.memory.events.lock().unwrap().len();
    let rows = || world.memory.events.lock().unwrap().len() - before;
    for n in 0..1000 {
        assert_eq!(world.call(Method::DELETE, VAULT, Some(&stranger)).status, 403);
        // Neither by asking wrongly.
        let without = VAULT.split('?').next().unwrap();
        assert_eq!(world.call(Method::DELETE, &format!("{without}{n}"), Some(&stranger)).status, 400);
    }
    assert!((10..=100).contains(&rows()), "{} rows", rows());
    // Others' refusals are not left out for it.
    assert_eq!(world.call(Method::DELETE, VAULT, Some(&anna)).status, 403);
    assert_eq!(world.memory.events.lock().unwrap().last().unwrap().caller_name, "anna@example.org");
    // What was left out is counted: once a minute, in one row.
    let told = rows();
    world.pass(61);
    world.get("/metadata/endpoints?api-version=1", None);
    let events = world.memory.events.lock().unwrap();
    assert_eq!(events.len() - before, told + 1);
    let summary = events.last().unwrap();
    assert_eq!(summary.caller_name, "stranger@example.org");
    // The summary is a row of one of them, with the number of the others; anna's is among those told.
    assert_eq!(summary.left_out as usize + told, 2000, "{summary:?}");
}

/// Nor by signing in over and over.
#[test]
fn sign_ins_are_counted_and_not_all_written() {
    let world = World::new();
    let anna = world.anna();
    let refresh = format!(
        "grant_type=refresh_token&client_id={}&refresh_token={}",
        common::people::AZ,
        anna["refresh_token"].as_str().unwrap()
    );
    for _ in 0..400 {
        assert_eq!(world.token(&refresh).0, 200);
    }
    let written = world.memory.events.lock().unwrap().len();
    assert!((20..=150).contains(&written), "{written}");
}
