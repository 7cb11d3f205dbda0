//! What a replacement of disks is to do, and how far it is, as the job's row keeps it.

use crate::core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use strongroom_catalog::Job;
use strongroom_engine::target::DiskFormat;
use uuid::Uuid;

/// How a disk becomes the point's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The new disk is complete, under the hidden name.
    #[default]
    Ready,
    /// The disk itself is put under the hidden name, and what differs is written to it there.
    InPlace,
}

/// A disk that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyDisk {
    /// The hidden name beside the disk.
    pub new: PathBuf,
    pub disk: PathBuf,
    /// As the machine calls it.
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub format: DiskFormat,
    #[serde(default)]
    pub way: Way,
    /// None: written down by a version that renamed the one over the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// Which file is which, whatever they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The disk that is ready.
    pub(super) new: File,
    /// The machine's.
    pub(super) old: File,
}

/// A file of one file system: an inode's number is given to another file when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) inode: u64,
    /// When it was made, where the file system knows.
    pub(super) made_ns: Option<u64>,
}

impl Files {
    pub fn of(disk: &ReadyDisk) -> Result<Self> {
        let of = |path: &Path| {
            file_at(path)?.ok_or_else(|| Error::not_found(format!("{} is gone", path.display())))
        };
        Ok(Self { new: of(&disk.new)?, old: of(&disk.disk)? })
    }
}

/// None: there is no such file.
pub(super) fn file_at(path: &Path) -> Result<Option<File>> {
    match path.symlink_metadata() {
        Ok(metadata) => {
            let made = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let made_ns = made.and_then(|since| u64::try_from(since.as_nanos()).ok());
            Ok(Some(File { inode: metadata.ino(), made_ns }))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("looking at {}", path.display()), e)),
    }
}

impl ReadyDisk {
    /// Where the old disk waits while it is the gate.
    pub(super) fn aside(&self) -> PathBuf {
        let mut name = self.new.clone().into_os_string();
        name.push("-old");
        name.into()
    }

    /// Under its name. That it cannot be seen is another answer.
    pub(super) fn is_there(&self) -> Result<bool> {
        Ok(file_at(&self.disk)?.is_some())
    }
}

/// What of a replacement is done; kept in the job's request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Not empty: all is ready, and goes on from here.
    pub disks: Vec<ReadyDisk>,
    /// The point of the disks before.
    #[serde(default)]
    pub before: Option<Uuid>,
    /// The gate is shut: the machine cannot be started until all is done.
    #[serde(default)]
    pub is_shut: bool,
    /// The file system cannot exchange two files: a single disk takes the gate's way, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_gate: bool,
    /// It goes back to the disks before, and why; empty: the job was cancelled.
    #[serde(default)]
    pub back: Option<String>,
    /// UEFI variables that follow the disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<Ready>,
}

impl Swap {
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    pub(super) fn gate(&self) -> usize {
        self.disks.iter().position(|d| d.way == Way::InPlace).unwrap_or(0)
    }

    pub(super) fn needs_gate(&self) -> bool {
        self.by_gate || self.disks.len() > 1 || self.disks.iter().any(|d| d.way == Way::InPlace)
    }
}

/// Whether a job has a replacement that is ready: files, and perhaps a machine, wait for what comes of it.
pub(crate) fn has_begun(job: &Job) -> bool {
    let disks = job.request.pointer("/swap/disks").and_then(serde_json::Value::as_array);
    disks.is_some_and(|disks| !disks.is_empty())
}

/// Variables that are ready to take the machine's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub(crate) new: PathBuf,
    pub(crate) at: PathBuf,
}
