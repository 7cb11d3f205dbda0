//! Sockets of both kinds behind one type, with deadlines.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::limits::SOCKET_BUFFER_BYTES;

/// A connected socket. Clones are the same socket: several threads may read and write it.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<Socket>);

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream(Arc::new(Socket::Unix(stream)))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream(Arc::new(Socket::Tcp(stream)))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.0 {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Stream {
    /// Connects to a Unix socket; unlike the standard library's call it does not wait for ever when
    /// the server's queue is full.
    pub fn connect_unix(path: &std::path::Path, timeout: Duration) -> io::Result<Stream> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(at_least(timeout)))?;
        let address = SocketAddrUnix::new(path)?;
        // Waiting for a place in the server's queue can be interrupted.
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(UnixStream::from(socket).into())
    }

    /// Asks for large buffers and no delay. Best effort: it only concerns speed.
    pub fn tune(&self) {
        if let Socket::Tcp(socket) = &*self.0 {
            let _ = socket.set_nodelay(true);
        }
        // The privileged call may exceed the system's maximum; without the privilege, ask politely.
        if sockopt::set_socket_send_buffer_size_force(self, SOCKET_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(self, SOCKET_BUFFER_BYTES);
        }
        if let Socket::Unix(_) = &*self.0 {
            let _ = sockopt::set_socket_recv_buffer_size(self, SOCKET_BUFFER_BYTES);
        }
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(at_least);
        Ok(sockopt::set_socket_timeout(self, sockopt::Timeout::Recv, timeout)?)
    }

    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(at_least);
        Ok(sockopt::set_socket_timeout(self, sockopt::Timeout::Send, timeout)?)
    }

    pub fn shutdown(&self, how: Shutdown) {
        // Fails only when the peer is already gone, which is what is wanted.
        let _ = match &*self.0 {
            Socket::Unix(socket) => socket.shutdown(how),
            Socket::Tcp(socket) => socket.shutdown(how),
        };
    }
}

/// The kernel takes a timeout of zero for none at all.
fn at_least(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Unix(socket) => (&mut &*socket).read(buf),
            Socket::Tcp(socket) => (&mut &*socket).read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Unix(socket) => (&mut &*socket).write(buf),
            Socket::Tcp(socket) => (&mut &*socket).write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Unix(socket) => (&mut &*socket).write_vectored(bufs),
            Socket::Tcp(socket) => (&mut &*socket).write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream on which everything must be over by one instant, however slowly the peer drips.
pub(crate) struct Deadline {
    stream: Stream,
    until: Instant,
}

impl Deadline {
    pub fn new(stream: Stream, within: Duration) -> Deadline {
        Deadline { stream, until: Instant::now() + within }
    }

    fn left(&self) -> io::Result<Duration> {
        match self.until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Deadline {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buf)
    }
}

impl Write for Deadline {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
