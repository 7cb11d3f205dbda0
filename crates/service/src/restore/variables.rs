//! UEFI variables when a machine's disks are replaced: those of the point take the place of the machine's.
//!
//! They are written beside the machine's before the commit, under a hidden name that the job's row knows, and get their name when
//! the disks are in place. A machine that was started in between keeps its own, and that is said.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::estate::machines;
use crate::restore::hidden::{hidden_name, like};
use crate::restore::request::{self, RestoreRequest};
use crate::restore::swap_plan::Ready;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use strongroom_catalog::{Item, Job, Machine};
use strongroom_engine::machine::nvram_of;
use strongroom_store::Manifest;

/// Writes the point's variables beside the machine's, if its first disk is replaced: they go with the system on it.
pub(crate) fn prepare(
    service: &Service,
    job: &Job,
    machine: &Machine,
    manifest: &Manifest,
    request: &RestoreRequest,
    warnings: &mut Vec<String>,
) -> Result<Option<Ready>> {
    let has_first = manifest.disks.first().is_some_and(|first| request.disks.contains(&first.name));
    if !request.disks.is_empty() && !has_first {
        return Ok(None);
    }
    let Some(bytes) = nvram_of(manifest, warnings) else { return Ok(None) };
    let mut not_put_back = |why: &str| {
        warnings.push(format!("the UEFI variables of the point were not put back: {why}"));
        Ok(None)
    };
    let Some(at) = machines::look(service, machine)?.nvram else {
        return not_put_back("the machine has no file of its own for them");
    };
    match fs::metadata(&at) {
        Ok(metadata) if metadata.is_file() && metadata.len() == bytes.len() as u64 => {}
        Ok(_) => {
            return not_put_back(
                "the machine has other firmware by now, whose variables are of another size",
            );
        }
        Err(error) => return not_put_back(&format!("{} cannot be looked at: {error}", at.display())),
    }
    let ready = Ready { new: hidden_name(&at, job)?, at };
    let written = write(&ready, &bytes);
    if written.is_err() {
        ready.remove();
    }
    written.map(|()| Some(ready))
}

fn write(ready: &Ready, bytes: &[u8]) -> Result<()> {
    let _ = fs::remove_file(&ready.new);
    let failed = |e| Error::io(format!("writing {}", ready.new.display()), e);
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(&ready.new).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    like(&ready.new, &ready.at)
}

impl Ready {
    /// With the disks in place. Those that have their name already had it from an earlier try.
    pub(crate) fn put(&self, service: &Service, machine: &Machine, warnings: &mut Vec<String>) {
        if !self.new.exists() {
            return;
        }
        let put = request::check_replace(service, machine, request::Allowed::default()).and_then(|()| {
            let failed = |e| Error::io(format!("naming {}", self.at.display()), e);
            fs::rename(&self.new, &self.at).map_err(failed)?;
            let directory = self.at.parent().unwrap_or(Path::new("/"));
            File::open(directory).and_then(|d| d.sync_all()).map_err(failed)
        });
        if let Err(error) = put {
            self.remove();
            warnings.push(format!(
                "the UEFI variables of the point were not put back, and the machine has those that it had: {error}"
            ));
        }
    }

    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.new);
    }
}

/// What a replacement that was cut short before its commit left.
pub(crate) fn remove_leftovers(service: &Service, job: &Job, item: &Item) {
    let Ok(Some(machine)) = service.catalog.get::<Machine>(item.machine) else { return };
    let at = machines::look(service, &machine).ok().and_then(|seen| seen.nvram);
    if let Some(new) = at.and_then(|at| hidden_name(&at, job).ok()) {
        let _ = fs::remove_file(new);
    }
}
