//! Reading images over NBD: our own read-only `qemu-nbd` for files, or the socket of a backup job.

use crate::error::{Error, Result};
use crate::extents::Collector;
use crate::image::{Layer, node_name};
use crate::limits::{MAP_CHUNK_BYTES, NBD_CONNECTIONS_PER_DISK, NBD_START_TIMEOUT};
use crate::reader::ReadDisk;
use crate::text::shorten;
use std::io::{PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use strongroom_domain::{Extent, TypedExtent};
use strongroom_nbd::{Client, ConnectOptions, Endpoint};
use tempfile::TempDir;

const ALLOCATION: &str = "base:allocation";
const STATE_ZERO: u32 = 2;

/// The metadata context under which QEMU exports a bitmap.
pub fn bitmap_context(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

/// A read-only NBD server for one image, ended when dropped. It ends when this process is gone, however
/// that went: a watcher beside it reads a pipe whose other end only this process has.
pub struct ImageServer {
    child: Child,
    /// Closed by the kernel, if not by us.
    _alive: PipeWriter,
    socket: PathBuf,
    image: PathBuf,
    directory: TempDir,
}

/// What the server has to say, in its directory.
const LOG: &str = "log";

/// How an image is opened.
#[derive(Clone, Copy)]
pub struct ServeOptions<'a> {
    /// A bitmap to be told about.
    pub bitmap: Option<&'a str>,
    /// Take no locks, so that the machine whose disk it is can start at any time.
    pub without_locks: bool,
}

impl ImageServer {
    /// Starts serving an image, with the layers below it that are named and none else.
    pub fn start(
        image: &Layer,
        options: &ServeOptions<'_>,
        export: &str,
        run_directory: &Path,
    ) -> Result<Self> {
        let mut node = image.node()?;
        if options.without_locks {
            node["force-share"] = true.into();
        }
        let directory = tempfile::Builder::new()
            .prefix("nbd-")
            .tempdir_in(run_directory)
            .map_err(|e| Error::io("creating a directory in", run_directory, e))?;
        let socket = directory.path().join("s");
        // The socket is ours and listens before the server runs, so that nothing has to be waited for.
        let cannot = |e| Error::io("listening on", &socket, e);
        let listener = UnixListener::bind(&socket).map_err(cannot)?;
        let log_path = directory.path().join(LOG);
        let log = std::fs::File::create_new(&log_path).map_err(|e| Error::io("creating", &log_path, e))?;
        // Socket activation wants the socket as descriptor 3 and the process's own number.
        // The watcher comes first: qemu-nbd by itself ends with its last connection, but not before
        // there was one; and asked kindly, it may go on if it is just starting.
        const SCRIPT: &str = r#"exec 3<&0 4<&1 </dev/null >/dev/null
            (exec 3<&- 2>/dev/null; read -r _ <&4; kill -9 $$) &
            exec 4<&-
            LISTEN_FDS=1 LISTEN_PID=$$ exec qemu-nbd "$@""#;
        let (watched, alive) =
            std::io::pipe().map_err(|e| Error::failed("making a pipe for", "qemu-nbd", e))?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "qemu-nbd", "--read-only", "--aio=threads", "--shared"])
            .arg((NBD_CONNECTIONS_PER_DISK + 2).to_string())
            .args(["--export-name", export]);
        if let Some(bitmap) = options.bitmap {
            command.arg("--bitmap").arg(bitmap);
        }
        command.arg(node_name(&node));
        let child = command
            .stdin(OwnedFd::from(listener))
            .stdout(watched)
            .stderr(log)
            .spawn()
            .map_err(|e| Error::failed("starting", "qemu-nbd", e))?;
        let image = image.place.path().unwrap_or(Path::new("")).to_owned();
        Ok(Self { child, _alive: alive, socket, image, directory })
    }

    /// Makes the first connection, which waits until the server is ready.
    fn first_client(&mut self, options: &ConnectOptions) -> Result<Client> {
        let client = Client::connect(&self.endpoint(), options).map_err(|e| {
            let mut text = Vec::new();
            if let Ok(log) = std::fs::File::open(self.directory.path().join(LOG)) {
                let _ = log.take(1 << 16).read_to_end(&mut text);
            }
            let said = shorten(&String::from_utf8_lossy(&text));
            if said.contains("qemu-nbd") && said.contains("not found") {
                return crate::tools::missing("qemu-nbd", std::io::ErrorKind::NotFound.into());
            }
            let cause = if said.is_empty() { e.to_string() } else { said };
            Error::failed("opening", self.image.display().to_string(), cause)
        })?;
        Ok(client)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn options(export: &str, contexts: Option<&[String]>) -> ConnectOptions {
    let mut meta_contexts = Vec::new();
    if let Some(contexts) = contexts {
        meta_contexts.push(ALLOCATION.to_owned());
        meta_contexts.extend_from_slice(contexts);
    }
    ConnectOptions {
        export_name: export.to_owned(),
        meta_contexts,
        negotiation_timeout: NBD_START_TIMEOUT,
        ..ConnectOptions::default()
    }
}

/// Several connections to one export, and the server behind them where it is ours.
pub struct NbdDisk {
    clients: Vec<Client>,
    next: AtomicUsize,
    what: String,
    // After the clients: it is ended last.
    _server: Option<ImageServer>,
}

impl NbdDisk {
    /// Connects to an export of somebody's server; `contexts` beside the allocation map are asked for
    /// on the first connection.
    pub fn connect(
        endpoint: &Endpoint,
        export: &str,
        contexts: &[String],
        connections: usize,
        what: &str,
    ) -> Result<Self> {
        let first = Client::connect(endpoint, &options(export, Some(contexts)))
            .map_err(|e| Error::failed("reading", what, e))?;
        Self::with_more(first, endpoint, export, connections, None, what)
    }

    /// Serves an image and connects to it.
    pub fn open_image(
        image: &Layer,
        serve: &ServeOptions<'_>,
        run_directory: &Path,
        what: &str,
    ) -> Result<Self> {
        const EXPORT: &str = "disk";
        let mut server = ImageServer::start(image, serve, EXPORT, run_directory)?;
        let contexts: Vec<String> = serve.bitmap.map(bitmap_context).into_iter().collect();
        let first = server.first_client(&options(EXPORT, Some(&contexts)))?;
        let endpoint = server.endpoint();
        Self::with_more(first, &endpoint, EXPORT, NBD_CONNECTIONS_PER_DISK, Some(server), what)
    }

    fn with_more(
        first: Client,
        endpoint: &Endpoint,
        export: &str,
        connections: usize,
        server: Option<ImageServer>,
        what: &str,
    ) -> Result<Self> {
        let mut clients = vec![first];
        while clients.len() < connections {
            let next = Client::connect(endpoint, &options(export, None));
            clients.push(next.map_err(|e| Error::failed("reading", what, e))?);
        }
        Ok(Self { clients, next: AtomicUsize::new(0), what: what.to_owned(), _server: server })
    }

    pub fn size_bytes(&self) -> u64 {
        self.clients[0].size_bytes()
    }

    /// Data and zeroes of these sorted, disjoint ranges.
    pub fn kinds_within(&self, ranges: &[Extent]) -> Result<Vec<TypedExtent>> {
        let mut list = Collector::default();
        if !self.clients[0].contexts().iter().any(|c| c == ALLOCATION) {
            ranges.iter().for_each(|r| list.push(TypedExtent::data(r.offset_bytes, r.length_bytes)));
            return Ok(list.finish());
        }
        for range in ranges {
            self.walk(ALLOCATION, *range, |flags, offset, length| {
                list.push(if flags & STATE_ZERO != 0 {
                    TypedExtent::zero(offset, length)
                } else {
                    TypedExtent::data(offset, length)
                });
            })?;
        }
        Ok(list.finish())
    }

    /// Data and zeroes of the whole disk.
    pub fn kinds(&self) -> Result<Vec<TypedExtent>> {
        self.kinds_within(&[Extent::new(0, self.size_bytes())])
    }

    /// The ranges which a bitmap marks.
    pub fn dirty(&self, bitmap: &str) -> Result<Vec<Extent>> {
        let context = bitmap_context(bitmap);
        let mut list = Collector::default();
        self.walk(&context, Extent::new(0, self.size_bytes()), |flags, offset, length| {
            if flags & 1 != 0 {
                list.push(TypedExtent::data(offset, length));
            }
        })?;
        Ok(list.finish_ranges())
    }

    fn walk(&self, context: &str, range: Extent, mut each: impl FnMut(u32, u64, u64)) -> Result<()> {
        let mut at = range.offset_bytes;
        while at < range.end_bytes() {
            let length = (range.end_bytes() - at).min(MAP_CHUNK_BYTES);
            self.clients[0]
                .map(context, at, length, |extent| {
                    each(extent.flags, extent.offset_bytes, extent.length_bytes)
                })
                .map_err(|e| Error::failed("mapping", self.what.as_str(), e))?;
            at += length;
        }
        Ok(())
    }
}

impl ReadDisk for NbdDisk {
    fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        self.clients[index]
            .read_at(offset_bytes, buffer)
            .map_err(|e| Error::failed("reading", self.what.as_str(), e))
    }

    fn kinds(&self) -> Result<Vec<TypedExtent>> {
        Self::kinds(self)
    }
}
