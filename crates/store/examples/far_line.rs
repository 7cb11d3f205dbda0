//! A line to a server that is far away: `far_line SERVER ROUND_TRIP_MS RATE [PORT]`, until it is killed. Prints its address.
//!
//! Every connection has a latency of its own and a rate of its own, `RATE` bytes a second each way (0: as fast as it goes);
//! all together have no limit. To open one takes a round trip, as it does on a real line. What is on its way is kept: so much
//! as the line holds, and a mebibyte.

use bytes::BytesMut;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Read at once: a few milliseconds' worth of a line of tens of megabytes a second.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy)]
struct Line {
    one_way: Duration,
    /// Bytes a second.
    rate: f64,
}

impl Line {
    fn takes(self, bytes: usize) -> Duration {
        match self.rate > 0.0 {
            true => Duration::from_secs_f64(bytes as f64 / self.rate),
            false => Duration::ZERO,
        }
    }

    /// How many pieces are on their way at most.
    fn holds(self) -> usize {
        let bytes = self.rate * self.one_way.as_secs_f64() * 2.0 + f64::from(1 << 20);
        (bytes / PIECE_BYTES as f64).ceil() as usize
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let Some((server, line, port)) = parse(&arguments) else {
        eprintln!("far_line SERVER ROUND_TRIP_MS RATE [PORT]");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (near, _) = listener.accept().await?;
        tokio::spawn(async move {
            // The kernel answered at once: what follows waits for the round trip that this would have taken.
            let opened = Instant::now() + line.one_way * 2;
            let Ok(far) = TcpStream::connect(server).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::join!(carry(near_in, far_out, line, opened), carry(far_in, near_out, line, opened));
        });
    }
}

fn parse(arguments: &[String]) -> Option<(SocketAddr, Line, u16)> {
    let (server, round_trip, rate, port) = match arguments {
        [_, server, round_trip, rate] => (server, round_trip, rate, "0"),
        [_, server, round_trip, rate, port] => (server, round_trip, rate, port.as_str()),
        _ => return None,
    };
    let round_trip: f64 = round_trip.parse().ok()?;
    let line = Line { one_way: Duration::from_secs_f64(round_trip / 2000.0), rate: rate.parse().ok()? };
    Some((server.parse().ok()?, line, port.parse().ok()?))
}

/// Carries what comes in at one end out at the other, later, until either ends.
async fn carry(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, line: Line, opened: Instant) {
    let (sender, mut on_its_way) = mpsc::channel::<(Instant, BytesMut)>(line.holds());
    let (give_back, mut spare) = mpsc::unbounded_channel::<BytesMut>();
    let reading = async move {
        let mut free_at = opened;
        loop {
            let mut piece = spare.try_recv().unwrap_or_default();
            piece.clear();
            piece.reserve(PIECE_BYTES);
            let Ok(read @ 1..) = from.read_buf(&mut piece).await else { return };
            free_at = free_at.max(Instant::now()) + line.takes(read);
            if sender.send((free_at + line.one_way, piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((at, piece)) = on_its_way.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            let _ = give_back.send(piece);
        }
    };
    tokio::join!(reading, writing);
}
