//! Snapshots that outlive the process that took them: the format of their record, their files, reading them again.
//!
//! A kept snapshot is the clones of the machine's disks, each beside its disk, and a record that says all that is to be
//! known of them (`docs/snapshots.md`). Its commit point is the first record's final name: before it the files are strays
//! that the machine's next snapshot removes, after it they stay until [`remove`]. What is read of a record is checked: it
//! may have been damaged, and was written by a version of its own.

mod write;

use crate::error::{Error, Result};
use crate::files::{self, Fingerprint, RawFile};
use crate::guest::GuestReport;
use crate::image::Layer;
use crate::limits::{CLONE_PREFIX, KEPT_RECORD_BYTES_MAX, OWN_PREFIX};
use crate::model::{DiskFormat, Firmware};
use crate::snapshot::{Changes, Timings};
use crate::text::machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use strongroom_domain::{Consistency, ExtentKind, TypedExtent};

const VERSION: u32 = 1;
/// Kept clones end like this.
pub const FILE_SUFFIX: &str = ".kept";
/// And their records.
pub const RECORD_SUFFIX: &str = ".kept.json";
/// A record that is being written.
pub const NEW_RECORD_SUFFIX: &str = ".kept.json.new";

/// A snapshot that was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSnapshot {
    /// [`crate::SnapshotRequest::id`].
    pub id: String,
    /// Whose it is: what its maker said.
    pub owner: String,
    /// The machine's UUID.
    pub machine_uuid: String,
    /// The machine's name then.
    pub machine: String,
    /// The instant.
    pub taken_at: SystemTime,
    /// What it is opened and removed by.
    pub record: PathBuf,
    /// Its maker's own.
    pub extra: serde_json::Value,
    /// In the order of the machine's.
    pub disks: Vec<KeptDisk>,
}

/// A disk of a kept snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDisk {
    /// By which the machine knows it.
    pub target: String,
    /// A file of the disk's format, never to be written to.
    pub path: PathBuf,
    /// The file's.
    pub format: DiskFormat,
    /// As the guest sees it.
    pub size_bytes: u64,
    /// It needs the files below it, which are the machine's.
    pub has_backing: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub id: String,
    pub owner: String,
    pub extra: serde_json::Value,
    /// All directories' records; the first one counts.
    pub records: Vec<PathBuf>,
    pub uuid: String,
    pub name: String,
    pub taken_at: SystemTime,
    pub consistency: Consistency,
    pub definition_xml: String,
    pub nvram: Option<PathBuf>,
    #[serde(default)]
    pub firmware: Option<Firmware>,
    #[serde(default)]
    pub tpm: Option<PathBuf>,
    pub disks: Vec<RecordDisk>,
    pub skipped: Vec<(String, String)>,
    pub warnings: Vec<String>,
    pub timings: Timings,
    #[serde(default)]
    pub guest: Option<GuestReport>,
    /// Files below the clones that belong to the machine, and how they were.
    pub below: Vec<(PathBuf, Fingerprint)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RecordDisk {
    pub target: String,
    pub size_bytes: u64,
    pub format: DiskFormat,
    pub changes: Changes,
    /// See [`pack`].
    extents: Vec<u64>,
    pub checkpoint: Option<String>,
    pub file: PathBuf,
    /// What any write to the file would change.
    length_bytes: u64,
    modified: (i64, i64),
    pub has_backing: bool,
    /// What libvirt said is below it. None of records from before this was noted.
    #[serde(default)]
    layer: Option<Layer>,
    /// What the next snapshot of a raw disk compares with: the same file by another name.
    pub compare: Option<PathBuf>,
    /// The one before, which goes when the point is committed.
    pub previous: Option<PathBuf>,
}

impl RecordDisk {
    pub fn extents(&self) -> Result<Vec<TypedExtent>> {
        unpack(&self.extents, self.size_bytes).ok_or_else(|| {
            Error::failed("understanding", self.file.display().to_string(), "its record is damaged")
        })
    }

    /// The clone, and what is below it.
    pub fn layer(&self) -> Result<Layer> {
        match &self.layer {
            Some(layer) => Ok(layer.with_first(&self.file)),
            None if !self.has_backing => Layer::alone(&self.file, self.format.name()),
            None => Err(Error::Spoiled {
                what: self.file.display().to_string(),
                why: "it is based on other images, and what libvirt said of them was not noted with it"
                    .into(),
            }),
        }
    }

    /// Fails when the clone is gone or was written to.
    pub fn check(&self) -> Result<()> {
        self.open().map(drop)
    }

    /// Opens the clone, and makes sure of what was opened.
    fn open(&self) -> Result<File> {
        let spoiled = |why: &str| Error::Spoiled { what: self.file.display().to_string(), why: why.into() };
        let file = files::open_own(&self.file).map_err(|e| match e {
            Error::NotFound { .. } => spoiled("it was removed"),
            error => error,
        })?;
        let meta = file.metadata().map_err(|e| Error::io("looking at", &self.file, e))?;
        let now = (meta.len(), (meta.mtime(), meta.mtime_nsec()));
        if now == (self.length_bytes, self.modified) {
            Ok(file)
        } else {
            Err(spoiled("it was written to since the snapshot was taken"))
        }
    }
}

/// The gap before each extent, and its length doubled, plus one if it is zeroes.
fn pack(extents: &[TypedExtent]) -> Vec<u64> {
    let mut at = 0;
    let mut packed = Vec::with_capacity(extents.len() * 2);
    for typed in extents {
        packed.push(typed.extent.offset_bytes.saturating_sub(at));
        packed.push(typed.extent.length_bytes << 1 | u64::from(typed.kind == ExtentKind::Zero));
        at = typed.extent.end_bytes();
    }
    packed
}

fn unpack(packed: &[u64], size_bytes: u64) -> Option<Vec<TypedExtent>> {
    let mut at = 0u64;
    let mut extents = Vec::with_capacity(packed.len() / 2);
    let (pairs, rest) = packed.as_chunks::<2>();
    for [gap, length] in pairs {
        let offset = at.checked_add(*gap)?;
        at = offset.checked_add(length >> 1)?;
        extents.push(match length & 1 {
            0 => TypedExtent::data(offset, length >> 1),
            _ => TypedExtent::zero(offset, length >> 1),
        });
    }
    (at <= size_bytes && rest.is_empty()).then_some(extents)
}

fn file_path(beside: &Path, uuid: &str, target: &str, id: &str) -> PathBuf {
    beside.with_file_name(format!("{CLONE_PREFIX}{uuid}-{target}-{OWN_PREFIX}{id}{FILE_SUFFIX}"))
}

fn record_name(uuid: &str, id: &str) -> String {
    format!("{CLONE_PREFIX}{uuid}-{OWN_PREFIX}{id}{RECORD_SUFFIX}")
}

/// The record that a kept file of a machine belongs to, by its name.
pub fn record_of_file(name: &str, uuid: &str) -> Option<String> {
    let rest = name.strip_prefix(CLONE_PREFIX)?.strip_prefix(uuid)?.strip_suffix(FILE_SUFFIX)?;
    let (_, id) = rest.split_once(&format!("-{OWN_PREFIX}"))?;
    Some(record_name(uuid, id))
}

/// Reads a record. Where its directory was moved, its files are taken to have moved with it.
pub(crate) fn read(path: &Path) -> Result<Record> {
    let damaged = |why: String| Error::Spoiled { what: path.display().to_string(), why };
    check_is_record(path)?;
    let mut bytes = Vec::new();
    files::open_own(path)?
        .take(KEPT_RECORD_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("reading", path, e))?;
    if bytes.len() as u64 > KEPT_RECORD_BYTES_MAX {
        return Err(damaged("it is not a record that Strongroom wrote".into()));
    }
    let mut record: Record =
        serde_json::from_slice(&bytes).map_err(|e| damaged(format!("the record is not understood: {e}")))?;
    if record.version != VERSION {
        return Err(Error::unsupported(
            path.display().to_string(),
            format!("it was written by another version of Strongroom (format {})", record.version),
        ));
    }
    let moved = |file: &mut PathBuf| {
        if !file.exists()
            && let Some(name) = file.file_name()
            && path.with_file_name(name).exists()
        {
            *file = path.with_file_name(name);
        }
    };
    record.records.iter_mut().for_each(moved);
    for disk in &mut record.disks {
        moved(&mut disk.file);
    }
    record.nvram.iter_mut().chain(&mut record.tpm).for_each(moved);
    match record.names_others(path) {
        None => Ok(record),
        Some(other) => Err(damaged(format!("it names {}, which is none of its files", other.display()))),
    }
}

/// Whatever a row or a record says, nothing else is opened or removed as a record.
fn check_is_record(path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if path.is_absolute() && name.starts_with(CLONE_PREFIX) && name.ends_with(RECORD_SUFFIX) {
        return Ok(());
    }
    Err(Error::unsupported(path.display().to_string(), "it is no name of a kept snapshot's record"))
}

fn is_plain(word: &str) -> bool {
    (1..=64).contains(&word.len())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Record {
    /// Directories that its files may be in.
    fn directories<'a>(&'a self, path: &'a Path) -> BTreeSet<&'a Path> {
        self.records.iter().map(PathBuf::as_path).chain([path]).filter_map(Path::parent).collect()
    }

    /// The first file in it that is not named as its files are, or is elsewhere.
    fn names_others(&self, path: &Path) -> Option<PathBuf> {
        if !is_plain(&self.uuid) || !is_plain(&self.id) || !self.disks.iter().all(|d| is_plain(&d.target)) {
            return Some(path.to_owned());
        }
        let name = record_name(&self.uuid, &self.id);
        let has_name =
            |file: &Path, name: &str| file.is_absolute() && file.file_name() == Some(name.as_ref());
        if let Some(other) =
            self.records.iter().map(PathBuf::as_path).chain([path]).find(|r| !has_name(r, &name))
        {
            return Some(other.to_owned());
        }
        let directories = self.directories(path);
        let is_own = |file: &Path, part: &str| {
            file.parent().is_some_and(|parent| directories.contains(parent))
                && file == file_path(file, &self.uuid, part, &self.id)
        };
        let disks = self.disks.iter().find(|d| !is_own(&d.file, &d.target)).map(|d| d.file.clone());
        // Where it could not be copied, the machine's own is named.
        let is_copy = |file: &&PathBuf| {
            file.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(CLONE_PREFIX))
        };
        let small = |file: &Option<PathBuf>, part: &str| {
            file.as_ref().filter(is_copy).filter(|f| !is_own(f, part)).cloned()
        };
        disks.or_else(|| small(&self.nvram, "nvram")).or_else(|| small(&self.tpm, "tpm"))
    }

    /// Whether a clone that is to go is one of this machine's, beside its disks.
    pub fn may_remove(&self, clone: &Path) -> bool {
        let name = clone.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let is_named = name.starts_with(&format!("{CLONE_PREFIX}{}-", self.uuid)) && name.ends_with(".clone");
        let beside = self.disks.iter().filter_map(|d| d.file.parent()).any(|d| clone.parent() == Some(d));
        is_named && beside && files::is_own_file(clone)
    }

    /// Fails where others could have put something else in the place of its files.
    pub fn check_directories(&self) -> Result<()> {
        let directories: BTreeSet<&Path> = self.disks.iter().filter_map(|d| d.file.parent()).collect();
        match directories.into_iter().find_map(files::why_not_private) {
            None => Ok(()),
            Some(why) => Err(Error::unsupported(format!("the snapshot of {}", machine(&self.name)), why)),
        }
    }
}

pub(crate) fn describe(record: &Record) -> Result<KeptSnapshot> {
    let first = record.records.first().cloned();
    Ok(KeptSnapshot {
        record: first
            .ok_or_else(|| Error::failed("understanding", record.id.as_str(), "it has no record"))?,
        id: record.id.clone(),
        owner: record.owner.clone(),
        machine_uuid: record.uuid.clone(),
        machine: record.name.clone(),
        taken_at: record.taken_at,
        extra: record.extra.clone(),
        disks: record
            .disks
            .iter()
            .map(|d| KeptDisk {
                target: d.target.clone(),
                path: d.file.clone(),
                format: d.format,
                size_bytes: d.size_bytes,
                has_backing: d.has_backing,
            })
            .collect(),
    })
}

/// Fails when what lies below the clones is no longer as it was.
pub(crate) fn check_below(record: &Record) -> Result<()> {
    for (path, before) in &record.below {
        let same = files::fingerprint(path).is_ok_and(|now| now == *before);
        if !same {
            return Err(Error::Spoiled {
                what: format!("the snapshot of {}", machine(&record.name)),
                why: format!(
                    "{}, which a disk is based on, was changed or removed since it was taken",
                    path.display()
                ),
            });
        }
    }
    Ok(())
}

/// Removes a kept snapshot: its files, then its records, the first one last. One that is gone is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    check_is_record(path)?;
    let record = match read(path) {
        Ok(record) => record,
        Err(Error::NotFound { .. }) => return Ok(()),
        // The machine's next snapshot removes files without a record.
        Err(Error::Spoiled { .. }) if files::is_own_file(path) => return remove_file(path),
        Err(error) => return Err(error),
    };
    let files: BTreeSet<&PathBuf> =
        record.disks.iter().map(|d| &d.file).chain(&record.nvram).chain(&record.tpm).collect();
    for file in files {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // Whatever a record says, nothing else goes.
        if name.starts_with(CLONE_PREFIX) && name.ends_with(FILE_SUFFIX) {
            remove_file(file)?;
        }
    }
    for other in record.records.iter().rev().filter(|r| *r != path) {
        if other.file_name() == path.file_name() {
            remove_file(other)?;
        }
    }
    remove_file(path)
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("removing", path, e)),
    }
}

/// All kept snapshots whose records are in a directory. Records that cannot be read are passed over.
pub(crate) fn list(directory: &Path) -> Result<Vec<KeptSnapshot>> {
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io("reading", directory, e))?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(CLONE_PREFIX) || !name.ends_with(RECORD_SUFFIX) {
            continue;
        }
        match read(&entry.path()).and_then(|record| describe(&record)) {
            // A further directory's record says nothing new, unless the first one is gone.
            Ok(kept) if kept.record != entry.path() && kept.record.exists() => {}
            Ok(kept) => found.push(KeptSnapshot { record: entry.path(), ..kept }),
            Err(error) => tracing::warn!(path = %entry.path().display(), %error, "a snapshot's record"),
        }
    }
    found.sort_by(|a, b| (a.taken_at, &a.id).cmp(&(b.taken_at, &b.id)));
    Ok(found)
}

/// A raw clone.
pub(crate) fn open_raw(disk: &RecordDisk) -> Result<RawFile> {
    let raw = RawFile::of(disk.open()?, &disk.file)?;
    if raw.size_bytes() == disk.size_bytes {
        return Ok(raw);
    }
    Err(Error::Spoiled { what: disk.file.display().to_string(), why: "it has another size".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_come_back() {
        let list = [TypedExtent::data(0, 10), TypedExtent::zero(10, 5), TypedExtent::data(100, 28)];
        let packed = pack(&list);
        assert_eq!(packed, [0, 20, 0, 11, 85, 56]);
        assert_eq!(unpack(&packed, 128).unwrap(), list);
        // Beyond the disk, wrapping around, cut short.
        assert!(unpack(&packed, 127).is_none());
        assert!(unpack(&[u64::MAX, 2, 5, 2], u64::MAX).is_none());
        assert!(unpack(&packed[..5], 128).is_none());
    }

    /// A record of one raw disk, and its file.
    fn record(directory: &Path, change: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
        let (uuid, id) = ("11111111-2222-3333-4444-555555555555", "ab-1");
        let file = file_path(&directory.join("disk"), uuid, "vda", id);
        std::fs::write(&file, [7; 4096]).unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        let path = directory.join(record_name(uuid, id));
        let mut record = serde_json::json!({
            "version": VERSION, "id": id, "owner": "o", "extra": null, "records": [path], "uuid": uuid, "name": "m",
            "taken_at": SystemTime::now(), "definition_xml": "", "nvram": null,
            "consistency": Consistency::new(strongroom_domain::ConsistencyLevel::Crash, "a test"),
            "disks": [{
                "target": "vda", "size_bytes": 4096, "format": "raw", "changes": Changes::Full { reason: "new".into() },
                "extents": [0, 8192], "checkpoint": null, "file": file, "length_bytes": 4096,
                "modified": [meta.mtime(), meta.mtime_nsec()], "has_backing": false, "compare": null, "previous": null,
            }],
            "skipped": [], "warnings": [], "timings": Timings::default(), "below": [],
        });
        change(&mut record);
        std::fs::write(&path, record.to_string()).unwrap();
        path
    }

    #[test]
    fn a_record_names_no_files_but_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let secret = root.join("secret");
        std::fs::write(&secret, [9; 4096]).unwrap();
        let meta = std::fs::metadata(&secret).unwrap();
        let sound = read(&record(root, |_| {})).unwrap();
        sound.check_directories().unwrap();
        assert_eq!(open_raw(&sound.disks[0]).unwrap().size_bytes(), 4096);
        type Change<'a> = Box<dyn FnOnce(&mut serde_json::Value) + 'a>;
        let changes: [Change<'_>; 5] = [
            Box::new(|r| {
                r["disks"][0]["file"] = secret.to_str().unwrap().into();
                r["disks"][0]["modified"] = serde_json::json!([meta.mtime(), meta.mtime_nsec()]);
            }),
            Box::new(|r| r["disks"][0]["target"] = "../vda".into()),
            Box::new(|r| r["uuid"] = "../../x".into()),
            Box::new(|r| r["records"] = serde_json::json!(["/elsewhere/record"])),
            Box::new(|r| r["tpm"] = format!("/etc/{CLONE_PREFIX}x.kept").into()),
        ];
        for change in changes {
            let read = read(&record(root, change));
            assert!(matches!(&read, Err(Error::Spoiled { .. })), "{:?}", read.map(|r| r.id));
        }
        // A link in the place of its file, also to a file of the same length and time.
        let path = record(root, |r| {
            r["disks"][0]["modified"] = serde_json::json!([meta.mtime(), meta.mtime_nsec()]);
        });
        let sound = read(&path).unwrap();
        std::fs::remove_file(&sound.disks[0].file).unwrap();
        std::os::unix::fs::symlink(&secret, &sound.disks[0].file).unwrap();
        assert!(matches!(open_raw(&sound.disks[0]), Err(Error::Spoiled { .. })));
        assert!(matches!(sound.disks[0].check(), Err(Error::Spoiled { .. })));
        // What a row says is no record is neither read nor removed.
        assert!(matches!(remove(&secret), Err(Error::Unsupported { .. })));
        assert!(secret.exists());
        let previous = root.join(format!("{CLONE_PREFIX}{}-vda-strongroom-0.clone", sound.uuid));
        std::fs::write(&previous, "").unwrap();
        assert!(sound.may_remove(&previous) && !sound.may_remove(&secret));
        let link = root.join(format!("{CLONE_PREFIX}{}-vda-strongroom-1.clone", sound.uuid));
        std::os::unix::fs::symlink(&previous, &link).unwrap();
        assert!(!sound.may_remove(&link));
    }

    #[test]
    fn files_name_their_record() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let file = file_path(Path::new("/vm/disk.qcow2"), uuid, "vda", "ab-1");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(file.parent(), Some(Path::new("/vm")));
        assert_eq!(record_of_file(name, uuid), Some(record_name(uuid, "ab-1")));
        assert_eq!(record_of_file(name, "22222222-2222-3333-4444-555555555555"), None);
        assert_eq!(record_of_file(&record_name(uuid, "ab-1"), uuid), None);
    }
}
