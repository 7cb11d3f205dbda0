//! Disks that libvirt encrypts (`<encryption>` in their definition). QEMU decrypts them, so that a point holds what the guest saw;
//! the vault encrypts it. The key stays where it was: no point has it.
//!
//! A restored disk is never unencrypted without somebody having said so. A new machine's is encrypted again, with a key
//! that is made for it and kept in libvirt; every other restore is refused.

use super::definition;
use super::record::DiskRecord;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use strongroom_hypervisor::{Hypervisor, NewSecret};
use strongroom_store::Manifest;
use uuid::Uuid;

/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// The point's disks that were encrypted: by their attributes, or by the definition, which says it of older points too.
pub fn encrypted_disks(point: &Manifest) -> BTreeSet<String> {
    let by_definition = point.definition.iter().flat_map(|d| definition::encrypted_disks(&d.text));
    let by_record = point.disks.iter().filter(|d| DiskRecord::of(d).encrypted).map(|d| d.name.clone());
    by_definition.chain(by_record).filter(|name| point.disks.iter().any(|d| d.name == *name)).collect()
}

/// Refuses a restore that would leave disks unencrypted; or says so in warnings, where that is wanted. `chosen`: by name; empty: all.
pub fn check(point: &Manifest, chosen: &[String], unencrypted: bool) -> Result<Vec<String>> {
    let mut disks = encrypted_disks(point);
    disks.retain(|disk| chosen.is_empty() || chosen.contains(disk));
    if unencrypted {
        return Ok(disks.iter().map(|disk| warning(disk)).collect());
    }
    match disks.first() {
        None => Ok(Vec::new()),
        Some(disk) => Err(Error::unsupported(format!(
            "Disk {disk} was encrypted by libvirt when recovery point {} was taken, and its key is not in the point: this restore would leave \
             it unencrypted. Restore the point as a new machine, which gets encrypted disks with a new key, or say that it may be \
             unencrypted (`--unencrypted`).",
            point.point
        ))
        .coded("UserErrorEncryptedDiskNotSupported")),
    }
}

/// What is said of a disk that was restored unencrypted.
pub(crate) fn warning(disk: &str) -> String {
    format!("disk {disk} was encrypted by libvirt and is restored UNENCRYPTED, as was asked for")
}

/// A new key for a disk.
pub(crate) fn new_secret(machine: &str, disk: &str, path: &Path) -> Result<NewSecret> {
    let mut bytes = [0; KEY_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|e| Error::io("making a key", e))?;
    let uuid = Uuid::new_v4();
    Ok(NewSecret {
        uuid,
        description: format!("disk {disk} of {machine}, restored by Strongroom"),
        // No two may be used for one and the same: a disk of that name may have been there before.
        usage: format!("{}#{uuid}", path.display()),
        passphrase: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Keys that were put into libvirt. Removed again unless kept.
pub(crate) struct Secrets<'h> {
    hypervisor: &'h dyn Hypervisor,
    made: Vec<Uuid>,
}

impl<'h> Secrets<'h> {
    /// None yet.
    pub fn new(hypervisor: &'h dyn Hypervisor) -> Self {
        Self { hypervisor, made: Vec::new() }
    }

    /// Puts a key into libvirt. One that may be there although it failed is removed, too.
    pub fn make(&mut self, secret: &NewSecret) -> Result<()> {
        self.made.push(secret.uuid);
        Ok(self.hypervisor.make_secret(secret)?)
    }

    /// From here on the keys stay: disks need them.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Secrets<'_> {
    fn drop(&mut self) {
        for uuid in &self.made {
            if let Err(error) = self.hypervisor.remove_secret(*uuid)
                && !matches!(error, strongroom_hypervisor::Error::NotFound { .. })
            {
                tracing::warn!(%uuid, %error, "a key that no disk uses could not be removed from libvirt");
            }
        }
    }
}
