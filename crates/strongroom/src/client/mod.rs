//! The client of the API that the commands are written against. Three ways lead to it, all to the same routes:
//!
//! - `--server https://…`: over TLS, signed in with a service principal's id and secret;
//! - the Unix socket of the service that runs on the data directory: root and the service's user are administrators;
//! - where none runs, the service in this very process, over the same data directory.

mod address;
mod http;
mod in_process;
pub mod limits;

pub use address::{literal, of_id, part_of_id, query, segment};

use self::http::{Credentials, Http};
use crate::context::Context;
use crate::failure::{ApiError, Failure, Result};
use crate::serve;
use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use clap::Args;
use in_process::InProcess;
use limits::{LOCK_RETRY, LOCK_WAIT, OPERATION_TIMEOUT, PAGES_MAX, POLL_INTERVAL_MAX, POLL_INTERVAL_MIN};
use serde_json::Value;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_engine::{Error, ErrorKind};
use strongroom_store::Progress;

/// Any will do; it is Azure's way to require one.
const API_VERSION: &str = "2026-07-01";

/// Which service.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// The service's data directory; default: /var/lib/strongroom for root, else $XDG_DATA_HOME/strongroom.
    #[arg(
        long,
        help_heading = "Service options",
        value_name = "DIR",
        env = "STRONGROOM_DATA",
        hide_env_values = true
    )]
    pub data: Option<PathBuf>,
    /// The configuration, where no service runs; default: /etc/strongroom/strongroom.toml, if it is there.
    #[arg(
        long,
        help_heading = "Service options",
        value_name = "FILE",
        env = "STRONGROOM_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// A server, as in https://backup.example.org:8443; sign in with STRONGROOM_CLIENT_ID and
    /// STRONGROOM_CLIENT_SECRET.
    #[arg(
        long,
        help_heading = "Service options",
        value_name = "URL",
        env = "STRONGROOM_SERVER",
        hide_env_values = true
    )]
    pub server: Option<String>,
    /// Certificate authorities to trust, in PEM; default: those of the system.
    #[arg(
        long,
        help_heading = "Service options",
        value_name = "FILE",
        env = "STRONGROOM_CA",
        hide_env_values = true
    )]
    pub ca: Option<PathBuf>,
}

enum Transport {
    Http(Box<Http>),
    InProcess(Box<InProcess>),
}

/// What was answered, with a status of success.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    headers: HeaderMap,
    pub body: Value,
}

pub struct Client {
    transport: Transport,
    /// `/subscriptions/…`.
    subscription: String,
    interrupted: Arc<Progress>,
    opened: Instant,
}

impl Client {
    /// Finds the service, or brings it up in this process, on a data directory that is there.
    pub fn connect(args: &ServiceArgs, context: &Context) -> Result<Self> {
        Self::connect_to(args, context, false)
    }

    /// The same, for a command that may be the first of all: the data directory is made if there is none.
    pub fn connect_or_make(args: &ServiceArgs, context: &Context) -> Result<Self> {
        Self::connect_to(args, context, true)
    }

    fn connect_to(args: &ServiceArgs, context: &Context, makes: bool) -> Result<Self> {
        let transport = match &args.server {
            Some(url) => Transport::Http(Box::new(Http::server(url, args.ca.as_deref(), credentials()?)?)),
            None => local(args, context, makes)?,
        };
        let mut client = Self {
            transport,
            subscription: String::new(),
            interrupted: context.progress.clone(),
            opened: Instant::now(),
        };
        let subscriptions = client.list("/subscriptions", None)?;
        client.subscription = match subscriptions.first().and_then(|s| s["id"].as_str()) {
            Some(id) => id.to_owned(),
            None => return Err(Error::new(ErrorKind::Denied, "the service shows no subscription").into()),
        };
        Ok(client)
    }

    /// A path under the subscription; `rest` is encoded and begins with a slash.
    pub fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.subscription)
    }

    pub fn group_path(&self, group: &str, rest: &str) -> String {
        format!("{}/resourceGroups/{}{rest}", self.subscription, segment(group))
    }

    /// An ARM id as bodies hold them, not encoded.
    pub fn group_id(&self, group: &str) -> String {
        format!("{}/resourceGroups/{group}", self.subscription)
    }

    pub fn is_in_process(&self) -> bool {
        matches!(self.transport, Transport::InProcess(_))
    }

    /// Has jobs done: without a service this process does them, from here until the client is dropped.
    pub fn run_jobs(&self) -> Result<()> {
        match &self.transport {
            Transport::InProcess(service) => service.start(),
            Transport::Http(_) => Ok(()),
        }
    }

    /// Looks for machines now, where nothing does so by itself.
    pub fn discover_if_alone(&self) -> Result<()> {
        if self.is_in_process() { self.discover() } else { Ok(()) }
    }

    pub fn discover(&self) -> Result<()> {
        self.post(&self.path("/providers/Strongroom.Backup/discover"), None).map(|_| ())
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(self.send(&Method::GET, path, None)?.body)
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(&Method::PUT, path, Some(body))
    }

    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.send(&Method::POST, path, body)
    }

    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.send(&Method::DELETE, path, None)
    }

    /// All pages of a list.
    pub fn list(&self, path: &str, filter: Option<&str>) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        self.pages(path, filter, |page| {
            all.extend(page);
            true
        })?;
        Ok(all)
    }

    /// Page by page, until `take` has had enough.
    pub fn pages(
        &self,
        path: &str,
        filter: Option<&str>,
        mut take: impl FnMut(Vec<Value>) -> bool,
    ) -> Result<()> {
        let mut target = match filter {
            Some(filter) => format!("{path}?$filter={}", query(filter)),
            None => path.to_owned(),
        };
        for _ in 0..PAGES_MAX {
            let mut page = self.get(&target)?;
            let next = page["nextLink"].as_str().and_then(address::target_of);
            let Value::Array(values) = page["value"].take() else {
                return Err(Error::new(ErrorKind::Failed, format!("the answer to {path} is no list")).into());
            };
            match (take(values), next) {
                (true, Some(next)) => target = next,
                _ => return Ok(()),
            }
        }
        Err(Error::new(ErrorKind::Failed, format!("the list {path} has no end")).into())
    }

    fn send(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let target = match (path.contains("api-version="), path.contains('?')) {
            (true, _) => path.to_owned(),
            (false, true) => format!("{path}&api-version={API_VERSION}"),
            (false, false) => format!("{path}?api-version={API_VERSION}"),
        };
        let (status, headers, body) = match &self.transport {
            Transport::Http(http) => {
                let (parts, body) = http.send(method, &target, body)?.into_parts();
                (parts.status, parts.headers, read(parts.status, &body)?)
            }
            Transport::InProcess(service) => service.send(method, &target, body)?,
        };
        if status.is_success() {
            return Ok(Answer { status, headers, body });
        }
        let error = &body["error"];
        let code = error["code"].as_str().map_or_else(|| format!("HTTP{}", status.as_u16()), str::to_owned);
        let message = error["message"].as_str().unwrap_or("the service gave no reason");
        Err(ApiError::new(status.as_u16(), code, message).into())
    }

    /// Waits until what was accepted is over, or its job has begun. The job's id, if there is one.
    pub fn follow(&self, answer: &Answer) -> Result<Option<String>> {
        let header =
            |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok()).and_then(address::target_of);
        if let Some(status) = header("azure-asyncoperation") {
            return self.until(|| {
                let operation = self.get(&status)?;
                match operation["status"].as_str() {
                    Some("Succeeded") => {
                        let job = operation.pointer("/properties/jobId").and_then(Value::as_str);
                        Ok(Some(job.map(str::to_owned)))
                    }
                    Some("InProgress") => Ok(None),
                    _ => Err(failed_operation(&operation["error"])),
                }
            });
        }
        if answer.status != StatusCode::ACCEPTED {
            return Ok(None);
        }
        let Some(result) = header("location") else {
            let message = "the service accepted it and did not say where to follow it";
            return Err(Error::new(ErrorKind::Failed, message).into());
        };
        self.until(|| {
            let there = self.send(&Method::GET, &result, None)?;
            Ok((there.status != StatusCode::ACCEPTED).then_some(None))
        })
    }

    fn until<T>(&self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if began.elapsed() > OPERATION_TIMEOUT {
                return Err(
                    Error::new(ErrorKind::Unavailable, "the operation does not come to an end").into()
                );
            }
            self.pause()?;
        }
    }

    /// Until the next look at something: soon at first, for what takes no time, then a tenth of how long it has taken.
    /// Ends early when the user wants to stop.
    pub fn pause(&self) -> Result<()> {
        let most = if self.is_in_process() { POLL_INTERVAL_MIN } else { POLL_INTERVAL_MAX };
        let until = Instant::now() + (self.opened.elapsed() / 10).clamp(POLL_INTERVAL_MIN, most);
        while Instant::now() < until {
            if self.interrupted.is_cancelled() {
                return Err(Error::cancelled().into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn failed_operation(error: &Value) -> Failure {
    let code = error["code"].as_str().unwrap_or("OperationFailed");
    let message = error["message"].as_str().unwrap_or("the operation failed and gave no reason");
    ApiError::new(0, code, message).into()
}

fn read(status: StatusCode, body: &Bytes) -> Result<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        // Whatever stands between us and the service speaks otherwise.
        Err(_) if !status.is_success() => Ok(Value::Null),
        Err(e) => Err(Error::new(ErrorKind::Failed, format!("the answer is not JSON: {e}")).into()),
    }
}

fn credentials() -> Result<Credentials> {
    let variable = |name: &str| {
        std::env::var(name).ok().filter(|v| !v.is_empty()).ok_or_else(|| {
            Error::new(
                ErrorKind::Denied,
                format!(
                    "{name} is not set: a server wants to know who asks. Set STRONGROOM_CLIENT_ID and STRONGROOM_CLIENT_SECRET (`strongroom access principal create` makes them)"
                ),
            )
        })
    };
    Ok(Credentials {
        client_id: variable("STRONGROOM_CLIENT_ID")?,
        secret: variable("STRONGROOM_CLIENT_SECRET")?,
    })
}

/// Fails where no service ever was: the name of the data directory may be mistyped, or its file system not mounted.
fn check_data(data: &Path) -> Result<()> {
    let catalog = serve::directory(data).catalog();
    match catalog.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::not_found(format!(
            "there is no data directory of Strongroom at {}: name the right one with --data, or mount it; a new one is made by `strongroom serve` and `strongroom vault create NAME`",
            data.display()
        ))
        .into()),
        Err(e) => Err(Error::io(format!("looking for {}", catalog.display()), e).into()),
    }
}

/// The service of this host.
fn local(args: &ServiceArgs, context: &Context, makes: bool) -> Result<Transport> {
    let data = args.data.clone().unwrap_or_else(serve::default_data_directory);
    let socket = serve::directory(&data).socket();
    let began = Instant::now();
    let mut told = false;
    loop {
        if is_listening(&socket)? {
            return Ok(Transport::Http(Box::new(Http::socket(&socket)?)));
        }
        if !makes {
            check_data(&data)?;
        }
        match InProcess::open(&data, args.config.as_deref(), context) {
            Ok(service) => return Ok(Transport::InProcess(Box::new(service))),
            // Another command, or a service that does not listen yet.
            Err(Failure::Here(error)) if error.kind == ErrorKind::Busy && began.elapsed() < LOCK_WAIT => {
                if !told && began.elapsed() > Duration::from_secs(1) {
                    told = true;
                    context.note("waiting for another command to end");
                }
            }
            Err(Failure::Here(error)) if error.kind == ErrorKind::Busy => {
                let message = format!(
                    "{}. With a service (`strongroom serve`) commands need not wait for one another",
                    error.message
                );
                return Err(Error::new(ErrorKind::Busy, message).into());
            }
            Err(error) => return Err(error),
        }
        if context.progress.is_cancelled() {
            return Err(Error::cancelled().into());
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

fn is_listening(socket: &Path) -> Result<bool> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(true),
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(false),
            io::ErrorKind::PermissionDenied => Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "the service at {} is for root and its own user: run this as root, name another data directory with --data, or a server with --server",
                    socket.display()
                ),
            )
            .into()),
            // A path too long for a socket: none can be there.
            io::ErrorKind::InvalidInput => Ok(false),
            _ => Err(Error::io(format!("connecting to {}", socket.display()), e).into()),
        },
    }
}
