//! What a machine's recovery point records beyond its disks' bytes: the free attributes of its manifest.
//!
//! Whatever is missing or not understood is taken as not recorded: the next backup then reads more, a restore chooses by itself.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use strongroom_hypervisor::{DiskFormat, Firmware, GuestReport, Road, Timings};
use strongroom_store::{Disk, Manifest};

/// The definition's kind in manifests.
pub const DEFINITION_KIND: &str = "libvirt-domain-xml";

/// Attributes of the point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineRecord {
    /// The machine's UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_uuid: Option<String>,
    /// How long the machine felt the snapshot.
    pub timings: TimingsRecord,
    /// Drives that are not in the point, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedRecord>,
    /// The UEFI variables' file, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvram: Option<String>,
    /// What they are for; without them: that the machine had not got any yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// What its emulated TPM remembers, swtpm's file, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<String>,
    /// The job that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What the extension in the guest did; nothing where it had no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
}

/// How long the machine felt the snapshot, in milliseconds. `None`: it was not frozen, or not suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimingsRecord {
    /// From asking to freeze the guest's file systems until they were thawed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<f64>,
    /// From asking to suspend the machine until it was resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<f64>,
    /// From the beginning until the snapshot could be read.
    pub snapshot_ms: f64,
}

/// Whether a point is of this machine and was taken frozen. Looks at no more than it needs: a record can be large.
pub fn was_frozen(point: &Manifest, machine_uuid: &str) -> bool {
    let is_its = point.attributes.get("machine_uuid").is_none_or(|uuid| uuid == machine_uuid);
    is_its && point.attributes.get("timings").is_some_and(|timings| timings["frozen_ms"].is_number())
}

impl From<Timings> for TimingsRecord {
    fn from(timings: Timings) -> Self {
        let ms = |d: Duration| (d.as_secs_f64() * 10_000.0).round() / 10.0;
        Self {
            frozen_ms: timings.frozen.map(ms),
            suspended_ms: timings.suspended.map(ms),
            snapshot_ms: ms(timings.total),
        }
    }
}

/// A drive that is not in the point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SkippedRecord {
    /// As the definition calls it: `vdb`.
    pub disk: String,
    /// For people, in one sentence.
    pub reason: String,
}

/// Attributes of a disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskRecord {
    /// What tracks its changes from the point's instant on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What the disk's image was. None: of a format that this version does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// How it was attached: `virtio`, `scsi`, `sata`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The path of its file or block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// That is a block device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub source_is_block: bool,
    /// How it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub road: Option<Road>,
    /// Read in parts, relative to the parent's checkpoint.
    pub incremental: bool,
    /// libvirt encrypted it. What is in the vault is what the guest saw; the key is not with it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// How many pieces had to be read.
    pub extents: u64,
}

impl MachineRecord {
    /// Of a point, whichever version wrote it: what cannot be read is as if it were not there.
    pub fn of(point: &Manifest) -> Self {
        read(&point.attributes)
    }

    /// As they are kept in a manifest, [`MachineRecord::of`] reads them.
    pub fn to_attributes(&self) -> Map<String, Value> {
        write(self)
    }
}

impl DiskRecord {
    /// Of a point's disk, whichever version wrote it: what cannot be read is as if it were not there.
    pub fn of(disk: &Disk) -> Self {
        read(&disk.attributes)
    }

    /// As they are kept in a manifest, [`DiskRecord::of`] reads them.
    pub fn to_attributes(&self) -> Map<String, Value> {
        write(self)
    }
}

/// Field by field, so that one that is not understood does not take the others along.
fn read<T: DeserializeOwned + Default + Serialize>(attributes: &Map<String, Value>) -> T {
    let mut sound = Map::new();
    for (name, value) in attributes {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if serde_json::from_value::<T>(Value::Object(alone)).is_ok() {
            sound.insert(name.clone(), value.clone());
        }
    }
    serde_json::from_value(Value::Object(sound)).unwrap_or_default()
}

fn write<T: Serialize>(record: &T) -> Map<String, Value> {
    match serde_json::to_value(record) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_the_rest_passed_over() {
        let record = DiskRecord {
            checkpoint: Some("strongroom-1".into()),
            format: Some(DiskFormat::Qcow2),
            bus: Some("virtio".into()),
            source: Some("/vm/a.qcow2".into()),
            source_is_block: true,
            road: Some(Road::PullJob),
            incremental: true,
            encrypted: true,
            extents: 7,
        };
        let mut attributes = record.to_attributes();
        assert_eq!(attributes["road"], "pull-job");
        assert_eq!(read::<DiskRecord>(&attributes), record);
        attributes.insert("format".into(), "vmdk".into());
        attributes.insert("of_a_later_version".into(), Value::Null);
        assert_eq!(read::<DiskRecord>(&attributes), DiskRecord { format: None, ..record });
        assert_eq!(read::<MachineRecord>(&Map::new()), MachineRecord::default());
    }
}
