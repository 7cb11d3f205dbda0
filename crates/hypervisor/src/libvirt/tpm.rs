//! What an emulated TPM remembers: libvirt keeps it for swtpm in a directory for each machine, by its UUID.
//!
//! A new machine's is put there before the machine is defined; libvirt gives it to swtpm's user when the machine starts. A marker
//! beside it says until then that no machine has it: what a process that was killed in between left is removed by a later one.

use super::definition::{self, child};
use crate::error::{Error, Result};
use crate::limits::TPM_ABANDONED_AFTER;
use crate::model::RestoreMachineRequest;
use crate::text::machine;
use roxmltree::Document;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Of the system's libvirt.
const ROOT: &str = "/var/lib/libvirt/swtpm";
const MARKER: &str = "strongroom-new";

/// Directory and file of the state, below a machine's directory. None: there is no emulated TPM, or its state is elsewhere.
fn place(document: &Document<'_>) -> Option<(&'static str, &'static str)> {
    let devices = child(document.root_element(), "devices")?;
    let tpms = devices.children().filter(|n| n.has_tag_name("tpm"));
    let backend =
        tpms.filter_map(|n| child(n, "backend")).find(|b| b.attribute("type") == Some("emulator"))?;
    if child(backend, "source").is_some() {
        return None;
    }
    Some(match backend.attribute("version") {
        Some("1.2") => ("tpm1.2", "tpm-00.permall"),
        _ => ("tpm2", "tpm2-00.permall"),
    })
}

/// The file with the state of a machine's TPM, if there is one. A machine that never ran has none yet.
pub fn state(document: &Document<'_>, uuid: &str) -> Option<PathBuf> {
    state_in(Path::new(ROOT), document, uuid)
}

fn state_in(root: &Path, document: &Document<'_>, uuid: &str) -> Option<PathBuf> {
    let (directory, file) = place(document)?;
    let uuid = Uuid::parse_str(uuid).ok()?;
    let path = root.join(uuid.hyphenated().to_string()).join(directory).join(file);
    path.is_file().then_some(path)
}

/// State that was put in place, and goes again unless it is kept.
pub struct Placed(Option<PathBuf>);

impl Placed {
    /// The machine has it now.
    pub fn keep(mut self) {
        if let Some(directory) = self.0.take()
            && let Err(error) = fs::remove_file(directory.join(MARKER))
        {
            // Removed by a later one, which sees that there is a machine.
            tracing::debug!(%error, "the marker of a TPM's state stays");
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(directory) = self.0.take()
            && let Err(error) = fs::remove_dir_all(&directory)
            // libvirt takes it away with a machine that was never defined.
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "a TPM's state could not be removed");
        }
    }
}

/// Puts the request's state in place for the machine that is to have this UUID. `exists` says of UUIDs whether there is such a
/// machine.
pub fn prepare(
    request: &RestoreMachineRequest,
    uuid: Uuid,
    exists: impl Fn(&Uuid) -> Result<bool>,
) -> Result<Placed> {
    prepare_in(Path::new(ROOT), request, uuid, exists)
}

fn prepare_in(
    root: &Path,
    request: &RestoreMachineRequest,
    uuid: Uuid,
    exists: impl Fn(&Uuid) -> Result<bool>,
) -> Result<Placed> {
    let Some(bytes) = &request.tpm else { return Ok(Placed(None)) };
    let document = definition::parse(&machine(&request.new_name), &request.definition_xml)?;
    let Some((directory, file)) = place(&document) else { return Ok(Placed(None)) };
    let own = root.join(uuid.hyphenated().to_string());
    let written = || -> io::Result<()> {
        make_directory(root, 0o711)?;
        make_directory(&own, 0o711)?;
        write_private(&own.join(MARKER), b"")?;
        let directory = own.join(directory);
        make_directory(&directory, 0o700)?;
        write_private(&directory.join(file), bytes)?;
        [directory.as_path(), &own, root].into_iter().try_for_each(|d| File::open(d)?.sync_all())
    };
    let placed = Placed(Some(own.clone()));
    written().map_err(|e| Error::io("writing the TPM's state in", &own, e))?;
    remove_abandoned(root, &uuid, exists);
    Ok(placed)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What was put there for machines that never came to be.
fn remove_abandoned(root: &Path, but: &Uuid, exists: impl Fn(&Uuid) -> Result<bool>) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(uuid) = name.to_str().and_then(|n| Uuid::parse_str(n).ok()).filter(|u| u != but) else {
            continue;
        };
        let Ok(marker) = fs::metadata(entry.path().join(MARKER)) else { continue };
        let age = marker.modified().ok().and_then(|m| m.elapsed().ok()).unwrap_or_default();
        if age < TPM_ABANDONED_AFTER {
            continue;
        }
        match exists(&uuid) {
            Ok(true) => Placed(Some(entry.path())).keep(),
            Ok(false) => drop(Placed(Some(entry.path()))),
            Err(error) => {
                tracing::debug!(%uuid, %error, "whether a machine has this TPM's state is not known")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NetworkChoice;

    fn machine(backend: &str) -> String {
        format!("<domain><name>m</name><devices><tpm model='tpm-crb'>{backend}</tpm></devices></domain>")
    }

    fn request(backend: &str) -> RestoreMachineRequest {
        RestoreMachineRequest {
            definition_xml: machine(backend),
            new_name: "new".into(),
            disks: Vec::new(),
            network: NetworkChoice::Keep,
            nvram: None,
            firmware: None,
            tpm: Some(b"what it remembers".to_vec()),
            unencrypted: false,
        }
    }

    fn found(root: &Path, backend: &str, uuid: Uuid) -> Option<PathBuf> {
        let xml = machine(backend);
        let document = definition::parse("m", &xml).unwrap();
        state_in(root, &document, &uuid.to_string())
    }

    #[test]
    fn state_is_where_libvirt_looks_for_it() {
        for (backend, path) in [
            ("<backend type='emulator' version='2.0'/>", "tpm2/tpm2-00.permall"),
            ("<backend type='emulator'/>", "tpm2/tpm2-00.permall"),
            ("<backend type='emulator' version='1.2'/>", "tpm1.2/tpm-00.permall"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let uuid = Uuid::new_v4();
            assert_eq!(found(root.path(), backend, uuid), None);
            prepare_in(root.path(), &request(backend), uuid, |_| Ok(false)).unwrap().keep();
            let file = found(root.path(), backend, uuid).unwrap();
            assert_eq!(file, root.path().join(uuid.to_string()).join(path));
            assert_eq!(fs::read(file).unwrap(), b"what it remembers");
            assert!(!root.path().join(uuid.to_string()).join(MARKER).exists());
        }
        let root = tempfile::tempdir().unwrap();
        for backend in [
            "<backend type='passthrough'/>",
            "<backend type='emulator'><source type='file' path='/x'/></backend>",
        ] {
            prepare_in(root.path(), &request(backend), Uuid::new_v4(), |_| Ok(false)).unwrap().keep();
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_no_machine_has_goes() {
        let root = tempfile::tempdir().unwrap();
        let backend = "<backend type='emulator' version='2.0'/>";
        let [refused, killed, defined, young, next] = [(); 5].map(|()| Uuid::new_v4());
        drop(prepare_in(root.path(), &request(backend), refused, |_| Ok(false)).unwrap());
        assert!(!root.path().join(refused.to_string()).exists());
        for uuid in [killed, defined, young] {
            std::mem::forget(prepare_in(root.path(), &request(backend), uuid, |_| Ok(false)).unwrap());
        }
        let long_ago = std::time::SystemTime::now() - 2 * TPM_ABANDONED_AFTER;
        for uuid in [killed, defined] {
            let marker = root.path().join(uuid.to_string()).join(MARKER);
            File::options().write(true).open(marker).unwrap().set_modified(long_ago).unwrap();
        }
        prepare_in(root.path(), &request(backend), next, |uuid| Ok(*uuid == defined)).unwrap().keep();
        assert!(!root.path().join(killed.to_string()).exists());
        for uuid in [defined, young, next] {
            assert!(found(root.path(), backend, uuid).is_some());
        }
        assert!(!root.path().join(defined.to_string()).join(MARKER).exists());
    }
}
