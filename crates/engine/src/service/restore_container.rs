//! Restoring the disks of a point into a container of a storage account: Azure Blob Storage or S3.
//!
//! Disks are sent as `MACHINE-JOB/FILE`, in parts; none is visible before all are there. The configuration's JSON comes last: it
//! is the commit, and a directory without it is nobody's. Raw disks and VHDs are sent as they are read; qcow2 is made in
//! the data directory first.

use super::Service;
use super::config::StorageAccount;
use super::restore::RestoreRequest;
use super::restore_disks::{self, Names, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::{RestoreOptions, restore_disk};
use crate::target::DiskFormat;
use crate::vhd;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom_catalog::service::Job;
use strongroom_store::objects::{Container, Upload};
use strongroom_store::{Disk, DiskReader, Manifest, Progress, ReadSession};
use uuid::Uuid;

pub(super) fn open(account: &StorageAccount) -> Result<Container> {
    Container::open(&account.settings()?).map_err(|why| {
        Error::invalid(format!("Storage account '{}' cannot be used: {why}.", account.name))
            .coded("UserErrorStorageAccountNotReachable")
    })
}

#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    service: &Service,
    job: &Job,
    request: &RestoreRequest,
    session: &Arc<ReadSession>,
    manifest: &Manifest,
    account: &StorageAccount,
    format: Option<DiskFormat>,
    progress: &Progress,
) -> Result<()> {
    let container = open(account)?;
    let directory = restore_disks::container(job);
    container.delete_all(&directory)?;
    let scratch = Scratch::new(service, job)?;
    let mut guard = Guard { container: &container, directory: &directory, committed: false };
    let mut uploads = Vec::new();
    let mut restored = Vec::new();
    for (disk, file, format) in restore_disks::choose(job, request, manifest, format, false) {
        let name = format!("{directory}/{file}");
        uploads.push(match format {
            DiskFormat::Qcow2 => {
                let made = scratch.0.join(&file);
                let options = RestoreOptions { to: made.clone(), format, force: false, durable: false };
                restore_disk(session, disk, &options, progress)?;
                let upload = send_file(&container, &name, &made, progress)?;
                std::fs::remove_file(&made)
                    .map_err(|e| Error::io(format!("removing {}", made.display()), e))?;
                upload
            }
            _ => send_disk(&container, &name, &session.open_disk(disk.tree()), format, progress)?,
        });
        restored.push(Restored { target: disk.name.clone(), file, format });
    }
    progress.check()?;
    for upload in uploads {
        upload.finish()?;
    }
    let names = Names::of(job);
    // Where the disks will be is for whoever fetches them to say.
    let template =
        restore_disks::template(&job.entity, manifest, &restored, &|file| Path::new("/DIRECTORY").join(file))?;
    if let Some(xml) = &template {
        container.put(&format!("{directory}/{}", names.definition), xml.clone().into_bytes().into())?;
    }
    let definition = template.is_some().then_some(names.definition.as_str());
    let config = restore_disks::config(job, manifest, &restored, definition);
    container.put(&format!("{directory}/{}", names.template), config.clone().into())?;
    let at = format!("{}/{directory}", account.url.trim_end_matches('/'));
    restore_disks::tell(service, job, &names, &directory, &at, manifest, &restored)?;
    progress.check()?;
    // The commit.
    container.put(&format!("{directory}/{}", names.config), config.into())?;
    guard.committed = true;
    Ok(())
}

/// After a crash: whether it was committed. If not, nothing is left.
pub(super) fn recover(service: &Service, job: &Job, account: &StorageAccount) -> Result<bool> {
    let _ = std::fs::remove_dir_all(Scratch::path(service, job));
    let container = open(account)?;
    let directory = restore_disks::container(job);
    let config = Names::of(job).config;
    if container.list(&directory)?.iter().any(|(name, _)| *name == config) {
        return Ok(true);
    }
    container.delete_all(&directory)?;
    Ok(false)
}

/// Sends a disk as it is read. A VHD gets its padding and its footer.
fn send_disk(
    container: &Container,
    name: &str,
    disk: &DiskReader,
    format: DiskFormat,
    progress: &Progress,
) -> Result<Upload> {
    let (total_bytes, footer) = match format {
        DiskFormat::Vhd => {
            let padded = vhd::padded(disk.size_bytes());
            let made_at = jiff::Timestamp::now().as_second();
            (padded, vhd::footer(padded, Uuid::new_v4(), made_at).to_vec())
        }
        _ => (disk.size_bytes(), Vec::new()),
    };
    progress.add_total(total_bytes);
    let mut upload = container.upload(name, total_bytes + footer.len() as u64)?;
    let mut at = 0;
    while at < total_bytes {
        progress.check()?;
        let length = (upload.part_bytes() as u64).min(total_bytes - at);
        let mut part = vec![0; length as usize];
        let there = disk.size_bytes().saturating_sub(at).min(length) as usize;
        disk.read_at(at, &mut part[..there])?;
        at += length;
        if at == total_bytes {
            part.extend_from_slice(&footer);
        }
        upload.part(part)?;
        progress.add_done(length);
    }
    upload.sent()?;
    Ok(upload)
}

fn send_file(container: &Container, name: &str, path: &Path, progress: &Progress) -> Result<Upload> {
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let mut file = File::open(path).map_err(failed)?;
    let size_bytes = file.metadata().map_err(failed)?.len();
    progress.add_total(size_bytes);
    let mut upload = container.upload(name, size_bytes)?;
    let mut left = size_bytes;
    while left > 0 {
        progress.check()?;
        let mut part = vec![0; (upload.part_bytes() as u64).min(left) as usize];
        file.read_exact(&mut part).map_err(failed)?;
        left -= part.len() as u64;
        progress.add_done(part.len() as u64);
        upload.part(part)?;
    }
    upload.sent()?;
    Ok(upload)
}

/// Takes away what was made of a directory, unless it was committed.
struct Guard<'a> {
    container: &'a Container,
    directory: &'a str,
    committed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.container.delete_all(self.directory)
        {
            tracing::warn!(directory = self.directory, %error, "what a restore had sent could not be deleted");
        }
    }
}

/// Where images are made before they are sent.
struct Scratch(PathBuf);

impl Scratch {
    fn path(service: &Service, job: &Job) -> PathBuf {
        service.config.data.join("cache").join(format!("restore-{}", job.id.simple()))
    }

    fn new(service: &Service, job: &Job) -> Result<Self> {
        let path = Self::path(service, job);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(format!("making {}", path.display()), e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
