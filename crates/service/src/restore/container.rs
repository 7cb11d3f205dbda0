//! Restoring the disks of a point into a container of a storage account: Azure Blob Storage or S3.
//!
//! Disks are sent as `DIRECTORY/FILE`, in parts, while they are read ([`strongroom_engine::stream`]); none is visible before all are there.
//! The configuration's JSON comes last: **it is the commit**, and a directory without it is nobody's. The job's row says which
//! uploads were begun, before anything is sent; what is not committed is taken away again, also after a crash: then
//! by the job itself, which is begun once more for it.

use crate::core::config::StorageAccount;
use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::jobs::ledger as jobs;
use crate::limits::{CLEANING_PATIENCE, PROBE_PATIENCE, SETTLING_PATIENCE, STREAM_PIECE_BYTES};
use crate::points::snapshots::OpenPoint;
use crate::restore::disks as restore_disks;
use crate::restore::disks::{Names, Restored};
use crate::restore::request::{self, RestoreRequest, Sent, Target};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use strongroom_catalog::{Change, Job, key};
use strongroom_engine::machine::nvram_of;
use strongroom_engine::stream::{Image, Sink};
use strongroom_engine::target::DiskFormat;
use strongroom_store::objects::{Container, Kind, ObjectError, Upload};
use strongroom_store::{Manifest, Progress};

/// The storage account of a request; it may have gone from the configuration.
pub(crate) fn account<'s>(service: &'s Service, group: &str, name: &str) -> Result<&'s StorageAccount> {
    let mut accounts = service.config.storage_accounts.iter();
    accounts.find(|a| key(&a.group) == key(group) && key(&a.name) == key(name)).ok_or_else(|| {
        Error::not_found(format!("Storage account '{name}' is no longer in the service's configuration."))
            .coded("UserErrorStorageAccountNotReachable")
    })
}

/// A container, and how its errors are told.
struct Place<'a> {
    account: &'a StorageAccount,
    container: Container,
    progress: &'a Progress,
}

impl<'a> Place<'a> {
    fn open(account: &'a StorageAccount, progress: &'a Arc<Progress>) -> Result<Self> {
        let cannot = |why: String| {
            Error::invalid(format!("Storage account '{}' cannot be used: {why}.", account.name))
                .coded("UserErrorStorageAccountNotReachable")
        };
        let settings = account.settings().map_err(|e| cannot(e.into_message()))?;
        let stop = progress.clone();
        let container = Container::open(&settings, move || stop.is_cancelled()).map_err(cannot)?;
        Ok(Self { account, container, progress })
    }

    fn told(&self, error: ObjectError) -> Error {
        if self.progress.is_cancelled() {
            return Error::cancelled();
        }
        let (name, url) = (&self.account.name, &self.account.url);
        let cause = short(&error.source.to_string());
        match error.kind {
            Kind::Denied => Error::new(
                ErrorKind::Denied,
                format!("Storage account '{name}' refuses access to {url}: {cause}"),
            )
            .coded("UserErrorStorageAccountAccessDenied")
            .numbered(400341, "Check the account, its key and what the key permits, then restore again."),
            Kind::NotFound => Error::not_found(format!(
                "The container {url} of storage account '{name}' does not exist, or what was sent to it is gone: {cause}"
            ))
            .coded("UserErrorStorageContainerNotFound")
            .numbered(400342, "Make the container, or correct its name in the configuration, then restore again."),
            Kind::Transient => Error::new(
                ErrorKind::Unavailable,
                format!("Storage account '{name}' does not answer at {url}: {cause}"),
            )
            .coded("UserErrorStorageAccountNotReachable")
            .numbered(400343, "Make sure that it can be reached from the service's host, then restore again."),
            _ => {
                let told = format!("Storage account '{name}' at {url}: {error}");
                let mut other = Error::from(error);
                other.message = told;
                other
            }
        }
    }
}

/// The beginning of what a server said.
fn short(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Letters that every server takes in names.
fn plain(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let plain: String = name.chars().take(40).map(kept).collect();
    if plain.is_empty() { "machine".into() } else { plain }
}

fn directory(job: &Job) -> String {
    let letters: String = plain(&job.entity).chars().filter(char::is_ascii_alphanumeric).collect();
    format!(
        "{}-{}",
        if letters.is_empty() { "machine".into() } else { letters.to_lowercase() },
        job.id.simple()
    )
}

/// Returns warnings. `open`: opens the point.
pub(crate) fn run(
    service: &Service,
    job: &Job,
    request: &RestoreRequest,
    open: &dyn Fn() -> Result<OpenPoint>,
    progress: &Arc<Progress>,
) -> Result<Vec<String>> {
    let Target::Container { place, place_group, format } = &request.target else {
        return Err(Error::invalid("the job is not about a container"));
    };
    let place = Place::open(account(service, place_group, place)?, progress)?;
    let directory = directory(job);
    let names = Names::new(&plain(&job.entity), job.id);
    let mut request = request.clone();
    if request.sent.begun {
        return settle(service, job, &request, &place, &directory, &names).map(|()| Vec::new());
    }
    progress.check()?;
    // What is wrong with the account is found before anything is sent.
    place.container.patient(PROBE_PATIENCE).probe().map_err(|e| place.told(e))?;
    let sent = send(
        service,
        job,
        &mut request,
        open,
        &place,
        &directory,
        &names,
        format.unwrap_or(DiskFormat::Qcow2),
    );
    if sent.as_ref().is_err_and(|error| !error.is_unsettled())
        && let Err(error) = clean(service, job, &request, &place.container, &directory)
    {
        tracing::warn!(directory, %error, "what a restore had sent could not be taken away");
        let left = format!(
            "What had been sent could not be taken away again ({error}); remove {directory} from {} yourself.",
            place.account.url
        );
        let told = jobs::update(service, job, |job| {
            job.warnings.push(left.clone());
            Ok(Vec::<Change>::new())
        });
        if let Err(error) = told {
            tracing::warn!(%error, "the job's warning could not be written");
        }
    }
    sent
}

#[allow(clippy::too_many_arguments)]
fn send(
    service: &Service,
    job: &Job,
    request: &mut RestoreRequest,
    open: &dyn Fn() -> Result<OpenPoint>,
    place: &Place<'_>,
    directory: &str,
    names: &Names,
    format: DiskFormat,
) -> Result<Vec<String>> {
    let (container, progress) = (&place.container, place.progress);
    let open = open()?;
    let unencrypted = request::check_encryption(&open, request)?;
    let OpenPoint { source, manifest, mut warnings } = open;
    warnings.extend(unencrypted);
    let mut restored = Vec::new();
    let mut readers = Vec::new();
    for disk in &manifest.disks {
        if request.disks.is_empty() || request.disks.contains(&disk.name) {
            let file = format!("{}-{}.{}", plain(&job.entity), plain(&disk.name), format.suffix());
            restored.push(Restored { target: disk.name.clone(), file, format });
            readers.push(source.open(disk)?);
        }
    }
    let mut images = Vec::new();
    for reader in &readers {
        images.push(Image::plan(reader, format, progress)?);
    }
    progress.add_total(images.iter().map(Image::file_bytes).sum());
    let uploads = send_images(service, job, request, place, directory, &images, &restored)?;
    source.check()?;
    for upload in uploads {
        upload.finish().map_err(|e| place.told(e))?;
        progress.check()?;
    }
    let put = |name: &str, bytes: Vec<u8>| {
        container.put(&format!("{directory}/{name}"), &Bytes::from(bytes)).map_err(|e| place.told(e))
    };
    // Where the disks will be is for whoever fetches them to say.
    let path = |file: &str| Path::new("/DIRECTORY").join(file);
    let nvram = nvram_of(&manifest, &mut warnings);
    if let Some(bytes) = &nvram {
        put(&names.nvram, bytes.clone())?;
    }
    let nvram = nvram.map(|_| path(&names.nvram));
    let unencrypted = request.allowed.unencrypted;
    let template = restore_disks::template(&job.entity, &manifest, &restored, nvram, unencrypted, &path)?;
    if let Some(xml) = &template {
        put(&names.definition, xml.clone().into_bytes())?;
    }
    let definition = template.is_some().then_some(names.definition.as_str());
    let config = restore_disks::config(job, &manifest, &restored, definition);
    put(&names.template, config.clone())?;
    // Said before the commit, so that it is known whatever happens after it.
    tell(service, job, place, directory, names, &manifest, &restored)?;
    progress.check()?;
    // The commit.
    let Err(error) = put(&names.config, config) else { return Ok(warnings) };
    // Its answer may have been lost, and it be there all the same: then all is.
    match container.cleaning(SETTLING_PATIENCE).size_bytes(&format!("{directory}/{}", names.config)) {
        Ok(Some(_)) => Ok(warnings),
        Ok(None) => Err(error),
        // Nothing is taken away before that is known; the job is begun once more for it.
        Err(_) => Err(error.unsettled()),
    }
}

/// Begins to send the images, and sends all their bytes: what is left of each is to be finished.
fn send_images(
    service: &Service,
    job: &Job,
    request: &mut RestoreRequest,
    place: &Place<'_>,
    directory: &str,
    images: &[Image<'_>],
    restored: &[Restored],
) -> Result<Vec<Upload>> {
    request.sent.begun = true;
    jobs::save_params(service, job, request)?;
    let mut uploads = Vec::new();
    for (image, disk) in images.iter().zip(restored) {
        let name = format!("{directory}/{}", disk.file);
        let upload = place.container.upload(&name, image.file_bytes()).map_err(|e| place.told(e))?;
        request.sent.uploads.push((name, upload.id().to_owned()));
        uploads.push(upload);
    }
    // From here on whoever cleans up knows their ids.
    jobs::save_params(service, job, request)?;
    for (image, upload) in images.iter().zip(&mut uploads) {
        let mut parts = Parts { upload, place, told_bytes: 0 };
        image.write(&mut parts, place.progress)?;
        parts.flush()?;
    }
    place.progress.check()?;
    Ok(uploads)
}

/// The job says where everything is, as whoever fetches it finds it.
fn tell(
    service: &Service,
    job: &Job,
    place: &Place<'_>,
    directory: &str,
    names: &Names,
    manifest: &Manifest,
    restored: &[Restored],
) -> Result<()> {
    let shown = place.account.shown()?;
    let at = |name: &str| match shown.prefix.as_str() {
        "" => format!("{directory}/{name}"),
        prefix => format!("{prefix}/{directory}/{name}"),
    };
    let full = Names {
        config: at(&names.config),
        template: at(&names.template),
        definition: at(&names.definition),
        nvram: at(&names.nvram),
    };
    restore_disks::tell(service, job, &full, &shown.container, &shown.base, manifest, restored)
}

/// After a crash: either all was committed, or what was sent is taken away, and the job has failed.
fn settle(
    service: &Service,
    job: &Job,
    request: &RestoreRequest,
    place: &Place<'_>,
    directory: &str,
    names: &Names,
) -> Result<()> {
    // Also of a job that is cancelled: what it sent goes first.
    let container = place.container.cleaning(SETTLING_PATIENCE);
    let quiet = Progress::default();
    let place = Place { account: place.account, container, progress: &quiet };
    let commit = format!("{directory}/{}", names.config);
    if place.container.size_bytes(&commit).map_err(|e| place.told(e))?.is_some() {
        return Ok(());
    }
    clean(service, job, request, &place.container, directory).map_err(|mut error| {
        error.message = format!(
            "The service ended while this job ran, and what it had sent to {} is still there: {}",
            place.account.url, error.message
        );
        error
    })?;
    if service.catalog.get::<Job>(job.id)?.is_some_and(|job| job.cancel_requested) {
        return Err(Error::cancelled());
    }
    Err(Error::new(ErrorKind::Failed, "The service ended while this job ran.")
        .coded("UserErrorServiceInterrupted")
        .numbered(400340, "Nothing of it remains. Run it again."))
}

/// Takes away what was sent, and notes that it is gone.
fn clean(
    service: &Service,
    job: &Job,
    request: &RestoreRequest,
    container: &Container,
    directory: &str,
) -> Result<()> {
    let container = container.cleaning(CLEANING_PATIENCE);
    for (name, id) in &request.sent.uploads {
        container.discard(name, id)?;
    }
    container.delete_all(directory)?;
    let clean = RestoreRequest { sent: Sent::default(), ..request.clone() };
    jobs::save_params(service, job, &clean)
}

/// An upload as what an image is written to.
struct Parts<'u, 'a> {
    upload: &'u mut Upload,
    place: &'u Place<'a>,
    told_bytes: u64,
}

impl Parts<'_, '_> {
    fn flush(&mut self) -> Result<()> {
        let done = self.upload.flush();
        self.count(done)
    }

    fn count(&mut self, done: Result<(), ObjectError>) -> Result<()> {
        done.map_err(|e| self.place.told(e))?;
        let sent_bytes = self.upload.sent_bytes();
        self.place.progress.add_done(sent_bytes - self.told_bytes);
        self.told_bytes = sent_bytes;
        Ok(self.place.progress.check()?)
    }
}

impl Sink for Parts<'_, '_> {
    fn write(&mut self, bytes: Bytes) -> strongroom_engine::Result<()> {
        let done = self.upload.write(bytes);
        Ok(self.count(done)?)
    }

    fn write_zeroes(&mut self, length_bytes: u64) -> strongroom_engine::Result<()> {
        // In steps, so that progress is seen and cancelling heard.
        let mut left = length_bytes;
        while left > 0 {
            let now = left.min(STREAM_PIECE_BYTES);
            let done = self.upload.write_zeroes(now);
            self.count(done)?;
            left -= now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        assert_eq!(plain("web-01_a"), "web-01_a");
        assert_eq!(plain("größe/../x y"), "gr--e----x-y");
        assert_eq!(plain(""), "machine");
        assert_eq!(plain(&"x".repeat(300)).len(), 40);
        assert_eq!(short("a\n  b"), "a b");
        assert_eq!(short(&"ü".repeat(400)).chars().count(), 301);
    }
}
