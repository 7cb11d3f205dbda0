//! Restoring the disks of a point into a place: a directory, or a libvirt storage pool.
//!
//! Everything is written into a hidden directory of the place, `.MACHINE-JOB`; when all disks are there with the machine's
//! definition, that directory gets its name, which is the commit. In a pool the disks then move up, so that libvirt lists
//! them as volumes; that is done again after a crash.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::estate::places::Pool;
use crate::jobs::ledger as jobs;
use crate::restore::request::RestoreRequest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use strongroom_catalog::{Change, Job};
use strongroom_domain::fact;
use strongroom_engine::machine::record::{DEFINITION_KIND, DiskRecord};
use strongroom_engine::machine::{firmware_of, nvram_of};
use strongroom_engine::restore::{RestoreOptions, restore_disk};
use strongroom_engine::source::PointSource;
use strongroom_engine::target::DiskFormat;
use strongroom_hypervisor::{NetworkChoice, RestoreMachineRequest, RestoredDisk};
use strongroom_store::{Disk, Manifest, Progress};
use uuid::Uuid;

/// Where the disks go.
pub(crate) struct Destination<'a> {
    pub directory: &'a Path,
    pub pool: Option<&'a Pool>,
    /// Default: as each disk was.
    pub format: Option<DiskFormat>,
}

/// A disk and the file it is restored to.
pub(crate) struct Restored {
    pub target: String,
    pub file: String,
    pub format: DiskFormat,
}

/// Azure's name of the container that restored disks come in: the machine's, without hyphens, and 32 digits.
pub(crate) fn container(job: &Job) -> String {
    let plain: String = job.entity.chars().filter(|c| c.is_alphanumeric()).collect();
    format!("{}-{}", plain.to_lowercase(), job.id.simple())
}

/// The disks that were asked for, each with its file's name and format.
pub(crate) fn choose<'m>(
    job: &Job,
    request: &RestoreRequest,
    manifest: &'m Manifest,
    format: Option<DiskFormat>,
    in_pool: bool,
) -> Vec<(&'m Disk, String, DiskFormat)> {
    let id = job.id.simple().to_string();
    manifest
        .disks
        .iter()
        .filter(|disk| request.disks.is_empty() || request.disks.contains(&disk.name))
        .map(|disk| {
            let format =
                format.or(DiskRecord::of(disk).format.map(DiskFormat::from)).unwrap_or(DiskFormat::Qcow2);
            // A pool's volumes are all in one directory: the job's first digits tell them apart.
            let job_part = if in_pool { format!("-{}", &id[..8]) } else { String::new() };
            let file = format!("{}-{}{job_part}.{}", job.entity, disk.name, format.suffix());
            (disk, file, format)
        })
        .collect()
}

pub(crate) fn run(
    service: &Service,
    job: &Job,
    request: &RestoreRequest,
    source: &PointSource,
    manifest: &Manifest,
    to: &Destination<'_>,
    progress: &Progress,
) -> Result<Vec<String>> {
    let container = container(job);
    let final_directory = to.directory.join(&container);
    let hidden = Hidden(to.directory.join(format!(".{container}")));
    // Of an attempt that was interrupted.
    let _ = fs::remove_dir_all(&hidden.0);
    DirBuilder::new()
        .mode(0o711)
        .create(&hidden.0)
        .map_err(|e| Error::io(format!("making directory {}", hidden.0.display()), e))?;
    let mut restored = Vec::new();
    for (disk, file, format) in choose(job, request, manifest, to.format, to.pool.is_some()) {
        let options = RestoreOptions { to: hidden.0.join(&file), format, force: false, durable: true };
        restore_disk(source, disk, &options, progress)?;
        restored.push(Restored { target: disk.name.clone(), file, format });
    }
    progress.check()?;
    let disks_in = if to.pool.is_some() { to.directory } else { &final_directory };
    let disks_in = std::path::absolute(disks_in)
        .map_err(|e| Error::io(format!("looking at {}", disks_in.display()), e))?;
    let names = Names::of(job);
    let mut warnings = Vec::new();
    let nvram = nvram_of(manifest, &mut warnings);
    if let Some(bytes) = &nvram {
        write_new(&hidden.0.join(&names.nvram), bytes)?;
    }
    // Unlike disks it stays in the directory, also in a pool.
    let nvram_in = std::path::absolute(&final_directory)
        .map_err(|e| Error::io(format!("looking at {}", final_directory.display()), e))?;
    let nvram = nvram.map(|_| nvram_in.join(&names.nvram));
    let template = template(&job.entity, manifest, &restored, nvram, request.allowed.unencrypted, &|file| {
        disks_in.join(file)
    })?;
    if let Some(xml) = &template {
        write_new(&hidden.0.join(&names.definition), xml.as_bytes())?;
    }
    let text = config(job, manifest, &restored, template.is_some().then_some(names.definition.as_str()));
    write_new(&hidden.0.join(&names.config), &text)?;
    write_new(&hidden.0.join(&names.template), &text)?;
    sync(&hidden.0)?;
    progress.check()?;
    // Said before the commit, so that it is known whatever happens after it.
    let at = format!("file://{}", final_directory.display());
    tell(service, job, &names, &container, &at, manifest, &restored)?;
    // The commit: from here on the disks are there, under their name.
    fs::rename(&hidden.0, &final_directory)
        .map_err(|e| Error::io(format!("naming {}", final_directory.display()), e))?;
    warnings.extend(publish(service, job, to.directory, to.pool));
    Ok(warnings)
}

/// After the commit: a pool's disks become its volumes. Done again after a crash. Returns what could not be done of it: the disks
/// are there all the same.
pub(crate) fn publish(service: &Service, job: &Job, directory: &Path, pool: Option<&Pool>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Err(error) = sync(directory) {
        warnings.push(format!("the disks are there, but might not outlive a crash of the host now: {error}"));
    }
    if let Some(pool) = pool
        && let Err(error) = move_up(service, job, directory, pool)
    {
        warnings.push(format!(
            "disks that could not become volumes of pool {} are in {}, from where they can be moved: {error}",
            pool.name,
            directory.join(container(job)).display()
        ));
    }
    warnings
}

fn move_up(service: &Service, job: &Job, directory: &Path, pool: &Pool) -> Result<()> {
    let from = directory.join(container(job));
    let failed = |e| Error::io(format!("looking at {}", from.display()), e);
    let names = Names::of(job);
    for entry in fs::read_dir(&from).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if [&names.definition, &names.config, &names.template, &names.nvram]
            .iter()
            .any(|n| name == n.as_str())
        {
            continue;
        }
        let to = directory.join(&name);
        renameat_with(CWD, from.join(&name), CWD, &to, RenameFlags::NOREPLACE)
            .map_err(|e| Error::io(format!("naming {}", to.display()), e.into()))?;
    }
    sync(&from)?;
    sync(directory)?;
    if let Err(error) = service.host(&pool.host).and_then(|h| Ok(h.hypervisor.refresh_pool(&pool.name)?)) {
        // The disks are there all the same.
        tracing::warn!(pool = pool.name, %error, "the storage pool could not be refreshed");
    }
    Ok(())
}

/// What is left of a restore that was not committed.
pub(crate) fn remove_leftovers(job: &Job, directory: &Path) {
    let _ = fs::remove_dir_all(directory.join(format!(".{}", container(job))));
}

/// Names of what comes beside the disks.
pub(crate) struct Names {
    pub config: String,
    /// What Azure's clients deploy a machine from.
    pub template: String,
    /// libvirt's definition.
    pub definition: String,
    /// UEFI variables, of a machine that has them.
    pub nvram: String,
}

impl Names {
    pub fn of(job: &Job) -> Self {
        Self::new(&job.entity, job.id)
    }

    pub fn new(machine: &str, job: Uuid) -> Self {
        let plain: String = machine.chars().filter(|c| *c != '-').collect();
        Self {
            config: format!("config-{plain}-{job}.json"),
            template: format!("azuredeploy{job}.json"),
            definition: format!("{machine}.xml"),
            nvram: format!("{machine}-uefi-variables.fd"),
        }
    }
}

pub(crate) fn config(
    job: &Job,
    manifest: &Manifest,
    restored: &[Restored],
    definition: Option<&str>,
) -> Vec<u8> {
    let config = json!({
        "machine": job.entity,
        "recoveryPoint": manifest.point.to_string(),
        "takenAt": manifest.taken_at.to_string(),
        "disks": restored.iter().map(|disk| json!({
            "target": disk.target, "file": disk.file, "format": disk.format.name(),
        })).collect::<Vec<_>>(),
        "definition": definition,
    });
    serde_json::to_vec_pretty(&config).unwrap_or_default()
}

/// Writes into the job what is made, as Azure's clients look for it.
pub(crate) fn tell(
    service: &Service,
    job: &Job,
    names: &Names,
    container: &str,
    at: &str,
    manifest: &Manifest,
    restored: &[Restored],
) -> Result<()> {
    let list = |disks: Vec<&str>| disks.join("; ");
    let made = [
        (fact::CONFIGURATION, names.config.clone()),
        (fact::CONFIGURATION_DIRECTORY, container.to_owned()),
        (fact::CONFIGURATION_URI, format!("{at}/{}", names.config)),
        (fact::TEMPLATE_URI, format!("{at}/{}", names.template)),
        (fact::RESTORED_DISKS_NAMED, list(restored.iter().map(|d| d.target.as_str()).collect())),
        (fact::POINT_DISKS, list(manifest.disks.iter().map(|d| d.name.as_str()).collect())),
    ];
    jobs::update(service, job, |job| {
        let last = job.properties.pop();
        job.properties.extend(made.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        job.properties.extend(last);
        Ok(Vec::<Change>::new())
    })?;
    Ok(())
}

/// The machine's definition with its disks where they were restored to, to be edited and used.
pub(crate) fn template(
    machine: &str,
    manifest: &Manifest,
    disks: &[Restored],
    nvram: Option<PathBuf>,
    unencrypted: bool,
    path: &dyn Fn(&str) -> PathBuf,
) -> Result<Option<String>> {
    let Some(definition) = manifest.definition.as_ref().filter(|d| d.kind == DEFINITION_KIND) else {
        return Ok(None);
    };
    let request = RestoreMachineRequest {
        definition_xml: definition.text.clone(),
        new_name: format!("{machine}-restored"),
        disks: disks
            .iter()
            .map(|disk| RestoredDisk {
                target: disk.target.clone(),
                path: path(&disk.file),
                format: match disk.format {
                    DiskFormat::Raw | DiskFormat::Vhd => strongroom_hypervisor::DiskFormat::Raw,
                    DiskFormat::Qcow2 => strongroom_hypervisor::DiskFormat::Qcow2,
                },
                secret: None,
            })
            .collect(),
        network: NetworkChoice::Keep,
        firmware: firmware_of(manifest, nvram.as_deref()),
        nvram,
        tpm: None,
        unencrypted,
    };
    let drivers: Vec<(&str, &str)> = disks
        .iter()
        .filter(|d| d.format == DiskFormat::Vhd)
        .map(|d| (d.target.as_str(), DiskFormat::Vhd.name()))
        .collect();
    Ok(Some(strongroom_hypervisor::new_definition(&request, &drivers)?))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn sync(directory: &Path) -> Result<()> {
    fs::File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::io(format!("syncing {}", directory.display()), e))
}

/// A directory that goes again unless it got its final name.
struct Hidden(PathBuf);

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
