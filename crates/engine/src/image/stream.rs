//! Backing up what comes in on a stream: a dump from a pipe. It can be read once, and its length is known at its end.

use super::backup::{DISK_NAME, ImageBackup, choose_parent};
use super::signature;
use crate::error::{Error, Result};
use crate::limits::STREAM_LOOK_INTERVAL;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use strongroom_domain::{Consistency, ConsistencyLevel, ItemName};
use strongroom_store::{
    Disk, Kept, Manifest, PointDraft, PointKind, Progress, Promise, Session, StreamRequest, Vault,
};

/// How the stream is called in messages.
const NAME: &str = "standard input";
/// Looked at before the vault is written to.
const HEAD_BYTES: u64 = 512;

/// What a stream is to become.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The item of the vault that its point becomes one of.
    pub item: ItemName,
    /// How long it is to be; another length makes no point.
    pub size_bytes: Option<u64>,
    /// Somebody said that its bytes are what is wanted, whatever they look like.
    pub is_raw: bool,
    /// Until when the point is promised to be kept, as its manifest says. None: it never goes by itself.
    pub keep_until: Option<Timestamp>,
}

/// Backs a stream up, to its end. What is read of it and does not come to its end, or not to the end that was named, makes no
/// point. `meanwhile` as of [`backup`](super::backup()).
pub fn backup_stream(
    vault: &Vault,
    input: File,
    options: &StreamOptions,
    progress: &Arc<Progress>,
    meanwhile: &dyn Fn(&Manifest),
) -> Result<ImageBackup> {
    let started = Instant::now();
    let mut input =
        Input { file: input, progress: progress.clone(), read_bytes: 0, wanted_bytes: options.size_bytes };
    let mut head = Vec::new();
    let read = (&mut input).take(HEAD_BYTES).read_to_end(&mut head);
    progress.check()?;
    read.map_err(|e| Error::io(format!("reading {NAME}"), e))?;
    if head.is_empty() {
        return Err(Error::invalid(format!(
            "{NAME} ended before its first byte: nothing was backed up. Look at what was to write to it"
        )));
    }
    let mut warnings = Vec::new();
    if !options.is_raw
        && let Some(signature) = signature::of_head(&head)
    {
        warnings.push(signature.warning(Path::new(NAME)));
    }
    let purpose = format!("backup of image {}", options.item);
    let (session, points) = Session::begin_point(vault, &purpose, &options.item)?;
    let taken_at = vault.environment().now();
    let parent = choose_parent(vault, points, &options.item, false, &mut warnings)?;
    let mut source = Cursor::new(head).chain(input);
    let written = session.write_stream(StreamRequest {
        source: &mut source,
        name: NAME.into(),
        parent: parent.as_ref().and_then(|point| point.disks.first()).map(Disk::tree),
        progress: progress.clone(),
    })?;
    progress.check()?;
    let mut disk = Disk::new(DISK_NAME, &written);
    disk.attributes.insert("source_format".into(), "raw".into());
    let mut attributes = serde_json::Map::new();
    attributes.insert("source".into(), "-".into());
    let draft = PointDraft {
        item: options.item.clone(),
        kind: PointKind::Image,
        taken_at,
        parent: parent.map(|point| point.point),
        consistency: Consistency::new(
            ConsistencyLevel::Crash,
            "a stream read to its end; what wrote it says what it is of",
        ),
        disks: vec![disk],
        definition: None,
        kept: Some(Promise::Known(Kept::on_demand(options.keep_until))),
        warnings,
        attributes,
    };
    let point = session.commit_and(draft, meanwhile)?;
    Ok(ImageBackup { point, format: "raw", elapsed: started.elapsed() })
}

/// A stream that can be waited for without being deaf to the wish to stop, and that has the length it is to have.
struct Input {
    file: File,
    progress: Arc<Progress>,
    read_bytes: u64,
    wanted_bytes: Option<u64>,
}

impl Input {
    fn wait(&self) -> io::Result<()> {
        let time = Timespec::try_from(STREAM_LOOK_INTERVAL).ok();
        loop {
            if self.progress.is_cancelled() {
                return Err(io::Error::other("stopped"));
            }
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], time.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.wait()?;
        let count = self.file.read(buffer)?;
        self.read_bytes += count as u64;
        match self.wanted_bytes {
            Some(wanted) if self.read_bytes > wanted => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than the {wanted} bytes of --size; no point was made"),
            )),
            Some(wanted) if count == 0 && self.read_bytes < wanted => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "it ended after {} of the {wanted} bytes of --size; no point was made",
                    self.read_bytes
                ),
            )),
            _ => Ok(count),
        }
    }
}
