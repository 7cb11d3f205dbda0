//! The server over real TLS: what clients do right, what they do wrong, and what they never finish doing.

mod common;

use common::wire::*;
use common::{SUBSCRIPTION, request, vault};
use http::{Method, StatusCode};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use strongroom_api::http::{Server, ServerBounds, ServerConfig, ServerError};
use strongroom_api::tls::{Certificates, TlsSource};
use strongroom_api::{Client, Dispatch, Request, Response, limits};

/// Answers with what it understood.
fn mirror() -> impl Dispatch {
    Answers(|request: Request| {
        let body = json!({
            "method": request.method.as_str(), "path": request.path, "base": request.base_url,
            "body": request.body.len(), "client": request.client.to_string(),
        });
        Response::json(StatusCode::OK, body)
    })
}

#[test]
fn one_connection_many_requests() {
    let server = start(common::api().0, ServerBounds::default());
    let mut stream = server.connect();
    for n in 0..20 {
        let target = format!("{}?api-version=1", vault(&format!("v%3B{n}")));
        write!(stream, "GET {target} HTTP/1.1\r\nHost: LOCALHOST:1\r\nAuthorization: Bearer owner\r\n\r\n")
            .unwrap();
        let answer = read_answer(&mut stream, false).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
        assert!(answer.headers.contains_key("x-ms-request-id") && answer.headers.contains_key("date"));
        let body = answer.json();
        assert_eq!(body["params"]["vault"], format!("v;{n}"));
        assert_eq!(body["params"]["subscription"], SUBSCRIPTION);
        assert_eq!(body["base"], "https://LOCALHOST:1");
    }
    // HEAD has GET's headers and no body; 202 has an empty one, 204 none.
    write!(stream, "HEAD /public HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let head = read_answer(&mut stream, true).unwrap();
    assert!(head.status == 200 && head.headers["content-length"] != "0" && head.body.is_empty(), "{head:?}");
    let start = format!("{}/start?api-version=2", vault("v"));
    write!(
        stream,
        "POST {start} HTTP/1.1\r\nHost: h:2\r\nAuthorization: Bearer owner\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let accepted = read_answer(&mut stream, false).unwrap();
    assert_eq!((accepted.status, accepted.headers["content-length"].as_str()), (202, "0"));
    assert_eq!(accepted.headers["location"], "https://h:2/result/1?api-version=2");
}

#[test]
fn http_2_as_well() {
    let server = start(mirror(), quick());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = client_config(&server.authority());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let connection = tokio::spawn(connection);
        let ask = |method: Method, path: String, body: usize| {
            let mut sender = sender.clone();
            async move {
                let body = http_body_util::Full::new(bytes::Bytes::from(vec![b'x'; body]));
                let request = http::Request::builder()
                    .method(method)
                    .uri(format!("https://box:8443{path}"))
                    .body(body)
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                let (parts, body) = answer.into_parts();
                let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
                (parts, serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
            }
        };
        // Fewer at once than the server takes streams: a client that has not heard its limit yet may not know.
        for batch in (0..100usize).collect::<Vec<_>>().chunks(25) {
            let many: Vec<_> = batch
                .iter()
                .map(|&n| (n, tokio::spawn(ask(Method::POST, format!("/a/{n}"), n * 1000))))
                .collect();
            for (n, one) in many {
                let (parts, body) = one.await.unwrap();
                assert_eq!(parts.status, 200);
                assert_eq!(body["path"], json!(["a", n.to_string()]));
                assert_eq!(
                    (body["body"].as_u64(), body["base"].as_str()),
                    (Some(n as u64 * 1000), Some("https://box:8443"))
                );
            }
        }
        let (parts, body) = ask(Method::PUT, "/x".into(), limits::BODY_MAX_BYTES + 1).await;
        assert_eq!(
            (parts.status.as_u16(), body["error"]["code"].as_str()),
            (413, Some("RequestEntityTooLarge"))
        );
        let (parts, _) = ask(Method::HEAD, "/x".into(), 0).await;
        assert!(parts.status == 200 && parts.headers["content-length"] != "0");
        // A quiet connection is ended, politely.
        let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
        ended.expect("the server closes it").unwrap().unwrap();
    });
}

#[test]
fn what_is_not_http_is_answered_or_closed_and_the_server_goes_on() {
    let server = start(mirror(), quick());
    let host = "Host: localhost\r\n";
    let long = "a".repeat(2000);
    for raw in [
        "GARBAGE\r\n\r\n".into(),
        "\r\n\r\n\r\n\r\n\0\0\0".into(),
        "GET /\r\n\r\n".into(),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/3.7\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\n{host}{host}\r\n"),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: user@host\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost:\r\n\r\n".into(),
        "CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n".into(),
        format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host} folded: a\r\n\r\n"),
        format!("GET /\u{7f} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a/../b HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a/%2e%2e/b HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a%2fb HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a%00 HTTP/1.1\r\n{host}\r\n"),
        format!("GET /?a=1&a=2 HTTP/1.1\r\n{host}\r\n"),
        format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a/".repeat(3000)),
        format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(9000)),
        format!("GET / HTTP/1.1\r\n{host}{}\r\n", format!("X: {long}\r\n").repeat(20)),
        format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(200)),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
    ] {
        let mut stream = server.connect();
        stream.write_all(raw.as_bytes()).unwrap();
        match read_answer(&mut stream, false) {
            Ok(answer) => {
                assert!((400..500).contains(&answer.status) || answer.status == 505, "{raw:.80}: {answer:?}")
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{raw:.80}: {error}"),
        }
    }
    // Two lengths of one body: whichever is believed, nothing that follows may pass for a request of its own.
    let mut stream = server.connect();
    write!(stream, "POST /a HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n{host}\r\n").unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(
        !String::from_utf8_lossy(&all).contains("smuggled") || all.starts_with(b"HTTP/1.1 400"),
        "{}",
        String::from_utf8_lossy(&all)
    );

    // Not TLS at all.
    let mut plain = TcpStream::connect(server.address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(is_closed(&mut plain));
    assert_eq!(server.get("/still/there").json()["path"], json!(["still", "there"]));
}

#[test]
fn what_is_too_large_is_said_to_be() {
    let server = start(mirror(), ServerBounds::default());
    let host = "Host: localhost\r\n";
    let code = |raw: String| {
        let answer = server.ask(&raw);
        (answer.status, if answer.body.is_empty() { String::new() } else { answer.code() })
    };
    let body = limits::BODY_MAX_BYTES;
    // Not a byte of it has to be sent.
    assert_eq!(
        code(format!("PUT / HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n", body + 1)),
        (413, "RequestEntityTooLarge".into())
    );
    assert_eq!(
        code(format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(limits::TARGET_MAX_BYTES))),
        (414, "RequestUriTooLong".into())
    );
    assert_eq!(
        code(format!(
            "GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n",
            "a".repeat(limits::HEADERS_MAX_BYTES + limits::TARGET_MAX_BYTES)
        ))
        .0,
        431
    );
    assert_eq!(
        code(format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(limits::HEADERS_MAX))).0,
        431
    );
    // Chunks, whose sum nobody says in advance.
    let mut stream = server.connect();
    write!(stream, "PUT / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536));
    for _ in 0..=body / 65536 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let answer = read_answer(&mut stream, false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "RequestEntityTooLarge"));
    // The largest that is allowed.
    let mut stream = server.connect();
    write!(stream, "PUT / HTTP/1.1\r\n{host}Content-Length: {body}\r\n\r\n").unwrap();
    stream.write_all(&vec![b'x'; body]).unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().json()["body"], body);
}

/// A client that sends all that it has to say before it listens gets to hear why it was refused, every time.
#[test]
fn every_refusal_can_be_read() {
    let server = start(mirror(), ServerBounds::default());
    let host = "Host: localhost\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536));
    let cases = [
        (413, format!("PUT / HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{}", 5 << 20, "x".repeat(5 << 20))),
        (
            413,
            format!(
                "PUT / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
                chunk.repeat(80)
            ),
        ),
        (
            400,
            format!(
                "PUT / HTTP/1.1\r\nHost: a b\r\nContent-Length: {}\r\n\r\n{}",
                2 << 20,
                "x".repeat(2 << 20)
            ),
        ),
        (400, format!("PUT /a/../b HTTP/1.1\r\n{host}Content-Length: 3000\r\n\r\n{}", "x".repeat(3000))),
        (400, format!("PUT / HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n{}", "x".repeat(1 << 20))),
        (414, format!("PUT /{} HTTP/1.1\r\n{host}Content-Length: 9\r\n\r\n123456789", "a".repeat(9000))),
        (
            431,
            format!(
                "PUT / HTTP/1.1\r\n{host}{}Content-Length: {}\r\n\r\n{}",
                "X: y\r\n".repeat(200),
                1 << 20,
                "x".repeat(1 << 20)
            ),
        ),
        (431, format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(300_000))),
    ];
    for round in 0..8 {
        for (status, raw) in &cases {
            let what = format!("round {round}: {raw:.40}");
            let mut stream = server.connect();
            stream.write_all(raw.as_bytes()).unwrap_or_else(|e| panic!("TLS, {what}: {e}"));
            let answer = read_answer(&mut stream, false).unwrap_or_else(|e| panic!("TLS, {what}: {e}"));
            assert_eq!(answer.status, *status, "{what}");

            let mut stream = UnixStream::connect(server.directory.path().join("sock")).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            // Over the socket nobody asks for a Host header.
            let wanted = if raw.contains("Host: a b") { 200 } else { *status };
            stream.write_all(raw.as_bytes()).unwrap_or_else(|e| panic!("socket, {what}: {e}"));
            let answer = read_answer(&mut stream, false).unwrap_or_else(|e| panic!("socket, {what}: {e}"));
            assert_eq!(answer.status, wanted, "{what}");
        }
    }
    // Where what was left is little, the connection goes on.
    let mut stream = server.connect();
    write!(stream, "PUT /a/../b HTTP/1.1\r\n{host}Content-Length: 5\r\n\r\nhello").unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().status, 400);
    write!(stream, "GET /again HTTP/1.1\r\n{host}\r\n").unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().json()["path"], json!(["again"]));
    // Where it is much, the answer says that it does not.
    write!(stream, "PUT / HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n", 5 << 20).unwrap();
    let answer = read_answer(&mut stream, false).unwrap();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (413, "close"));
}

#[test]
fn all_bodies_together_are_bounded() {
    let most = limits::BODIES_TOTAL_MAX_BYTES / limits::BODY_MAX_BYTES;
    // Bodies count until they are answered for: these are held by their handlers.
    let (begins, began) = channel();
    let (begins, let_go) = (Mutex::new(begins), Arc::new((Mutex::new(false), Condvar::new())));
    let wait = let_go.clone();
    let api = Answers(move |request: Request| {
        if request.body.len() == limits::BODY_MAX_BYTES {
            begins.lock().unwrap().send(()).unwrap();
            drop(wait.1.wait_while(wait.0.lock().unwrap(), |go| !*go).unwrap());
        }
        Response::empty(StatusCode::OK)
    });
    let server = start(api, ServerBounds { handlers: most + 4, ..ServerBounds::default() });
    let mut held: Vec<Tls> = (0..most)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", limits::BODY_MAX_BYTES)
                .unwrap();
            stream.write_all(&vec![b'x'; limits::BODY_MAX_BYTES]).unwrap();
            began.recv_timeout(Duration::from_secs(20)).unwrap();
            stream
        })
        .collect();
    let one_more = || server.ask("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    let full = one_more();
    assert_eq!((full.status, full.code().as_str()), (503, "ServerBusy"));
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(server.get("/").status, 200, "what has no body goes on");
    *let_go.0.lock().unwrap() = true;
    let_go.1.notify_all();
    for stream in &mut held {
        assert_eq!(read_answer(stream, false).unwrap().status, 200);
    }
    assert_eq!(one_more().status, 200);
}

#[test]
fn slow_clients_are_cut_off() {
    let server = start(Answers(|_| Response::bytes("text/plain", vec![b'x'; 64 << 20])), quick());
    let within = |began: Instant, most: u64| {
        assert!(began.elapsed() < Duration::from_millis(most), "{:?}", began.elapsed())
    };

    // A handshake that never begins.
    let began = Instant::now();
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(is_closed(&mut silent));
    within(began, 5000);

    // A head that comes letter by letter: each letter does not begin the time anew.
    let mut stream = server.connect();
    let began = Instant::now();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "y".repeat(1000));
    let cut = head.bytes().any(|byte| {
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err()
    });
    assert!(cut, "all of it was taken");
    within(began, 8000);

    // A body that does not come.
    let mut stream = server.connect();
    let began = Instant::now();
    write!(stream, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    let answer = read_answer(&mut stream, false).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "RequestTimeout"));
    assert!(is_closed(&mut stream));
    within(began, 5000);

    // Nothing at all after the handshake.
    let mut stream = server.connect();
    let began = Instant::now();
    assert!(is_closed(&mut stream));
    within(began, 8000);
    assert!(
        began.elapsed() >= Duration::from_millis(1400),
        "not sooner than it has to be: {:?}",
        began.elapsed()
    );

    // An answer that nobody takes.
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(read_answer(&mut stream, false).is_err(), "64 MiB cannot have waited in buffers");
}

/// A handler that says when it begins, and ends when it is let go.
fn held() -> (impl Dispatch, Receiver<()>, Sender<()>) {
    let (begins, began) = channel();
    let (let_go, wait) = channel::<()>();
    let (begins, wait) = (Mutex::new(begins), Mutex::new(wait));
    let api = Answers(move |_| {
        begins.lock().unwrap().send(()).unwrap();
        wait.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap();
        Response::empty(StatusCode::NO_CONTENT)
    });
    (api, began, let_go)
}

#[test]
fn handlers_and_their_queue_are_bounded() {
    // One at a time, since the handler above waits under a lock.
    let (api, began, let_go) = held();
    let bounds = ServerBounds { handlers: 1, handlers_waiting: 2, ..ServerBounds::default() };
    let server = start(api, bounds);
    let ask = || {
        let mut stream = server.connect();
        write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        stream
    };
    let mut running = vec![ask()];
    began.recv_timeout(Duration::from_secs(10)).unwrap();
    running.extend([ask(), ask()]);
    // The two must have taken their places before a third is turned away.
    let deadline = Instant::now() + Duration::from_secs(10);
    let turned_away = loop {
        let mut stream = ask();
        stream.sock.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        match read_answer(&mut stream, false) {
            Ok(answer) => break answer,
            // It got a place: one of the two was not there yet. By leaving it gives the place back.
            Err(_) => assert!(Instant::now() < deadline),
        }
    };
    assert_eq!((turned_away.status, turned_away.code().as_str()), (503, "ServerBusy"));
    assert!(turned_away.headers.contains_key("retry-after"));
    for mut stream in running {
        let_go.send(()).unwrap();
        assert_eq!(read_answer(&mut stream, false).unwrap().status, 204);
    }
}

#[test]
fn one_address_does_not_get_all_connections() {
    let bounds = ServerBounds { connections: 10, connections_per_address: 3, ..ServerBounds::default() };
    let server = start(mirror(), bounds);
    let mut held: Vec<Tls> = (0..3).map(|_| server.connect()).collect();
    // The one that has waited longest makes room for the fourth.
    assert_eq!(server.get("/").status, 200);
    assert!(is_closed(&mut held[0]));
    for stream in &mut held[1..] {
        write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(read_answer(stream, false).unwrap().status, 200);
    }
}

#[test]
fn connections_that_are_answered_give_way_to_nobody() {
    let (api, began, let_go) = held();
    let bounds = ServerBounds { connections: 10, connections_per_address: 2, ..ServerBounds::default() };
    let server = start(api, bounds);
    let mut running: Vec<Tls> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            began.recv_timeout(Duration::from_secs(10)).unwrap();
            stream
        })
        .collect();
    assert!(connect(server.address, &server.authority(), "localhost").is_err());
    for stream in &mut running {
        let_go.send(()).unwrap();
        assert_eq!(read_answer(stream, false).unwrap().status, 204);
    }
    assert!(connect(server.address, &server.authority(), "localhost").is_ok(), "a place was given back");
}

#[test]
fn what_takes_too_long_is_answered_for() {
    let api = Answers(|_| {
        std::thread::sleep(Duration::from_millis(1000));
        Response::empty(StatusCode::NO_CONTENT)
    });
    let server =
        start(api, ServerBounds { request_timeout: Duration::from_millis(200), ..ServerBounds::default() });
    let answer = server.get("/");
    assert_eq!((answer.status, answer.code().as_str()), (504, "GatewayTimeout"));
}

#[test]
fn a_panic_that_nothing_caught_is_still_an_answer() {
    let server =
        start(
            Answers(|request: Request| {
                if request.path.is_empty() { panic!("on purpose") } else { Response::empty(StatusCode::OK) }
            }),
            quick(),
        );
    assert_eq!(server.get("/").status, 500);
    assert_eq!(server.get("/x").status, 200);
}

#[test]
fn stopping_lets_what_runs_end() {
    let (api, began, let_go) = held();
    let mut server = start(api, quick());
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    began.recv_timeout(Duration::from_secs(10)).unwrap();
    let mut idle = server.connect();
    server.stop.stop();
    assert!(is_closed(&mut idle), "quiet connections go at once");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
        std::thread::sleep(Duration::from_millis(20));
    }
    let_go.send(()).unwrap();
    let answer = read_answer(&mut stream, false).unwrap();
    assert_eq!(answer.status, 204);
    assert!(is_closed(&mut stream));
    server.end();
    assert!(!server.directory.path().join("sock").exists());
}

#[test]
fn what_does_not_end_is_cut_off() {
    let (api, began, _let_go) = held();
    let mut server = start(api, ServerBounds { shutdown_timeout: Duration::from_millis(300), ..quick() });
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    began.recv_timeout(Duration::from_secs(10)).unwrap();
    let asked = Instant::now();
    server.end();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn the_socket_says_who_is_there() {
    let server = start(mirror(), quick());
    let path = server.directory.path().join("sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    write!(stream, "GET /a HTTP/1.1\r\nHost: nonsense of any kind\r\n\r\n").unwrap();
    let body = read_answer(&mut stream, false).unwrap().json();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(body["client"], format!("{}", Client::LocalUser { uid }));
    assert_eq!(body["base"], format!("https://localhost:{}", server.address.port()));

    // Somebody listens there: it is left alone. Nobody does: it is replaced.
    let bind = |socket: &std::path::Path| {
        let source = TlsSource::Own { directory: server.directory.path().to_owned(), names: vec![] };
        let certificates = Arc::new(Certificates::open(source, jiff::Timestamp::now()).unwrap());
        let bounds = ServerBounds::default();
        Server::bind(ServerConfig {
            listen: vec![],
            socket: Some(socket.to_owned()),
            certificates,
            public_url: None,
            bounds,
        })
    };
    assert!(matches!(bind(&path), Err(ServerError::InUse { .. })));
    let stale = server.directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists() && bind(&stale).is_ok());
    let file = server.directory.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(matches!(bind(&file), Err(ServerError::Listen { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn an_address_in_use_is_said_to_be() {
    let server = start(mirror(), quick());
    let source = TlsSource::Own { directory: server.directory.path().to_owned(), names: vec![] };
    let certificates = Arc::new(Certificates::open(source, jiff::Timestamp::now()).unwrap());
    let config = ServerConfig {
        listen: vec![server.address],
        socket: None,
        certificates,
        public_url: None,
        bounds: quick(),
    };
    assert!(matches!(Server::bind(config), Err(ServerError::InUse { .. })));
}

#[test]
fn in_process_and_over_the_wire_are_one() {
    let (api, _) = common::api();
    let target = format!("{}?api-version=1", vault("v"));
    let direct = api.dispatch(request(Method::GET, &target, Some("reader")));
    let server = start(api, ServerBounds::default());
    let wire = server
        .ask(&format!("GET {target} HTTP/1.1\r\nHost: box:8443\r\nAuthorization: Bearer reader\r\n\r\n"));
    assert_eq!((direct.status.as_u16(), direct.json_body().unwrap()), (wire.status, wire.json()));
}
