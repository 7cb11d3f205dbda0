//! Many callers on one connection, without a thread of its own.
//!
//! Any caller may send. Of those waiting for a reply, one at a time holds the receiving half and
//! reads. When it meets a reply that is not its own, it hands receiver and header to the caller the
//! reply belongs to, who reads the payload straight into its own buffer and goes on reading. So no
//! payload is copied, and no buffer is ever shared between threads.
//!
//! Promises: replies reach the right caller or nobody; when the connection dies, every caller
//! waiting and every later one gets the reason; no call waits for ever, however slowly the peer
//! drips and whichever request it forgets.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::reply::{Refusal, Reply};
use crate::error::{Error, Result};
use crate::limits::MAX_REQUEST_AGE_IN_TIMEOUTS;
use crate::net::Stream;
use crate::wire::{self, ReplyHeader, Request, cmd};

/// Small on purpose: headers come with one system call, payloads bypass it.
const HEADER_BUFFER_BYTES: usize = 512;

type Receiver = BufReader<Incoming>;

/// The receiving half. The socket itself bounds the time of one read; this bounds that of a message.
struct Incoming {
    stream: Stream,
    until: Instant,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.read(buf)
    }
}

pub(crate) struct Link {
    stream: Stream,
    sender: Mutex<Stream>,
    state: Mutex<State>,
    place_free: Condvar,
    structured: bool,
    max_in_flight: usize,
    io_timeout: Duration,
}

struct State {
    dead: Option<Error>,
    /// Here whenever nobody is reading.
    receiver: Option<Receiver>,
    waiters: HashMap<u64, Waiter>,
    next_cookie: u64,
}

struct Waiter {
    wake: Arc<Condvar>,
    /// A reply for this caller has begun: its header, and the receiver to read on with.
    turn: Option<(Receiver, ReplyHeader)>,
    asleep: bool,
}

impl Link {
    /// Takes over a connection whose negotiation is done.
    pub fn new(stream: Stream, structured: bool, max_in_flight: usize, io_timeout: Duration) -> Result<Link> {
        stream
            .set_read_timeout(Some(io_timeout))
            .and_then(|()| stream.set_write_timeout(Some(io_timeout)))
            .map_err(|error| Error::io("setting socket timeouts", error))?;
        let incoming = Incoming { stream: stream.clone(), until: Instant::now() };
        let receiver = BufReader::with_capacity(HEADER_BUFFER_BYTES, incoming);
        Ok(Link {
            sender: Mutex::new(stream.clone()),
            state: Mutex::new(State {
                dead: None,
                receiver: Some(receiver),
                waiters: HashMap::new(),
                next_cookie: 1,
            }),
            place_free: Condvar::new(),
            stream,
            structured,
            max_in_flight: max_in_flight.max(1),
            io_timeout,
        })
    }

    pub fn io_timeout(&self) -> Duration {
        self.io_timeout
    }

    /// The reason why the connection cannot be used any more.
    pub fn dead(&self) -> Option<Error> {
        self.state.lock().dead.clone()
    }

    /// Ends the connection now; everyone gets `reason`, unless there was one before.
    pub fn kill(&self, reason: Error) -> Error {
        let mut state = self.state.lock();
        if state.dead.is_none() {
            tracing::debug!(%reason, "NBD connection ends");
        }
        let reason = state.dead.get_or_insert(reason).clone();
        state.receiver = None;
        for waiter in state.waiters.values_mut() {
            waiter.turn = None;
            waiter.wake.notify_all();
        }
        self.place_free.notify_all();
        self.stream.shutdown(Shutdown::Both);
        reason
    }

    /// Sends one request and takes in its reply.
    pub fn call(
        &self,
        mut request: Request,
        payload: &[u8],
        reply: &mut Reply<'_>,
    ) -> Result<Result<(), Refusal>> {
        let (cookie, wake) = self.register()?;
        request.cookie = cookie;
        let sent = wire::write_both(&mut *self.sender.lock(), &request.encode(), payload);
        let outcome = match sent {
            // A request sent in part has broken the stream for everyone.
            Err(error) => Err(self.kill(Error::socket("sending a request", self.io_timeout, error))),
            Ok(()) => self
                .receive(cookie, &wake, reply)
                .and_then(|()| reply.finish().map_err(|error| self.kill(error))),
        };
        let mut state = self.state.lock();
        state.waiters.remove(&cookie);
        self.place_free.notify_one();
        // Normally someone else is reading; if nobody is, someone asleep must take over.
        wake_one(&mut state);
        outcome
    }

    /// Says goodbye, as far as the socket takes it at once.
    pub fn disconnect(&self) {
        if self.state.lock().dead.is_none() {
            let request =
                Request { flags: 0, command: cmd::DISC, cookie: 0, offset_bytes: 0, length_bytes: 0 };
            let mut sender = self.sender.lock();
            if self.stream.set_write_timeout(Some(Duration::from_millis(200))).is_ok() {
                // The server learns of it anyway when the socket closes.
                let _ = wire::write_both(&mut *sender, &request.encode(), &[]);
            }
        }
        self.stream.shutdown(Shutdown::Write);
    }

    fn register(&self) -> Result<(u64, Arc<Condvar>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = &state.dead {
                return Err(reason.clone());
            }
            if state.waiters.len() < self.max_in_flight {
                break;
            }
            self.place_free.wait(&mut state);
        }
        let cookie = state.next_cookie;
        state.next_cookie = cookie.wrapping_add(1);
        let wake = Arc::new(Condvar::new());
        let waiter = Waiter { wake: wake.clone(), turn: None, asleep: false };
        state.waiters.insert(cookie, waiter);
        Ok((cookie, wake))
    }

    fn receive(&self, cookie: u64, wake: &Condvar, reply: &mut Reply<'_>) -> Result<()> {
        let give_up = Instant::now() + self.io_timeout.saturating_mul(MAX_REQUEST_AGE_IN_TIMEOUTS);
        let mut complete_by = None;
        loop {
            let (receiver, mut header) = self.wait_for_turn(cookie, wake, give_up)?;
            // Dropped on the way, by a panic, it takes the connection with it.
            let mut held = Held { link: self, receiver: Some(receiver) };
            loop {
                let receiver = held.get();
                let begun = match header.take() {
                    Some(header) => header,
                    None if complete_by.is_none() && Instant::now() >= give_up => {
                        return Err(self.kill(self.forgotten()));
                    }
                    None => self.read_header(receiver).map_err(|error| self.kill(error))?,
                };
                if begun.cookie() != cookie {
                    let receiver = held.release();
                    self.hand_over(receiver, begun)?;
                    break;
                }
                receiver.get_mut().until =
                    *complete_by.get_or_insert_with(|| Instant::now() + reply.must_arrive_within());
                if reply.take(begun, receiver).map_err(|error| self.kill(error))? {
                    let receiver = held.release();
                    let mut state = self.state.lock();
                    if state.dead.is_none() {
                        state.receiver = Some(receiver);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The server answers, but not this.
    fn forgotten(&self) -> Error {
        let after = self.io_timeout.saturating_mul(MAX_REQUEST_AGE_IN_TIMEOUTS);
        Error::TimedOut { during: "waiting for the reply to one request", after }
    }

    fn read_header(&self, receiver: &mut Receiver) -> Result<ReplyHeader> {
        receiver.get_mut().until = Instant::now() + self.io_timeout;
        ReplyHeader::read(receiver, self.structured)
            .map_err(|error| Error::socket("waiting for a reply", self.io_timeout, error))?
    }

    fn wait_for_turn(
        &self,
        cookie: u64,
        wake: &Condvar,
        give_up: Instant,
    ) -> Result<(Receiver, Option<ReplyHeader>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = &state.dead {
                return Err(reason.clone());
            }
            let idle = state.receiver.take();
            let Some(me) = state.waiters.get_mut(&cookie) else {
                return Err(Error::malformed("a reply to no request"));
            };
            me.asleep = false;
            if let Some((receiver, header)) = me.turn.take() {
                return Ok((receiver, Some(header)));
            }
            if let Some(receiver) = idle {
                return Ok((receiver, None));
            }
            me.asleep = true;
            if wake.wait_until(&mut state, give_up).timed_out() && state.dead.is_none() {
                let turn_came = state.waiters.get(&cookie).is_some_and(|me| me.turn.is_some());
                if !turn_came {
                    drop(state);
                    return Err(self.kill(self.forgotten()));
                }
            }
        }
    }

    fn hand_over(&self, receiver: Receiver, header: ReplyHeader) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.dead {
            return Err(reason.clone());
        }
        match state.waiters.get_mut(&header.cookie()) {
            Some(waiter) => {
                waiter.turn = Some((receiver, header));
                waiter.wake.notify_one();
                Ok(())
            }
            None => {
                drop(state);
                let what = format!("a reply with cookie {:#x}, which belongs to no request", header.cookie());
                Err(self.kill(Error::malformed(what)))
            }
        }
    }
}

fn wake_one(state: &mut State) {
    if state.receiver.is_some()
        && let Some(waiter) = state.waiters.values_mut().find(|waiter| waiter.asleep)
    {
        waiter.asleep = false;
        waiter.wake.notify_one();
    }
}

struct Held<'a> {
    link: &'a Link,
    receiver: Option<Receiver>,
}

impl Held<'_> {
    fn get(&mut self) -> &mut Receiver {
        self.receiver.as_mut().expect("held until released")
    }

    fn release(&mut self) -> Receiver {
        self.receiver.take().expect("held until released")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.link.kill(Error::Disconnected {
                during: "reading replies",
                reason: "the reading thread stopped half way".into(),
            });
        }
    }
}
