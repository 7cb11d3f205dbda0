//! Which of a machine's disks a snapshot takes, and what is to be known of them.

use super::conn::VirtError;
use super::definition;
use super::dom::Dom;
use super::volumes::{self, Unresolved};
use crate::error::{Error, Result};
use crate::image::Layer;
use crate::model::{DiskFormat, DiskSource};
use crate::skipped::{EXCLUDED, is_missed};
use crate::snapshot::{DiskParent, SnapshotRequest};
use crate::text::shorten;
use crate::tools::{self, ImageInfo};
use std::path::PathBuf;

/// A disk that is taken.
#[derive(Debug, Clone)]
pub struct PlannedDisk {
    pub target: String,
    pub path: PathBuf,
    pub is_block: bool,
    pub is_encrypted: bool,
    /// To the machine: libvirt makes no checkpoints of it.
    pub is_read_only: bool,
    pub format: DiskFormat,
    /// Its image, and what libvirt says is below that.
    pub layer: Layer,
    /// Of qcow2 disks.
    pub image: Option<ImageInfo>,
    /// Whether the machine outlives its stop: libvirt keeps no checkpoints for others.
    pub is_persistent: bool,
    /// An image of the machine has snapshots within it: none of them can be reverted to while images keep bitmaps.
    pub has_snapshots: bool,
    pub parent: Option<DiskParent>,
}

impl PlannedDisk {
    pub fn directory(&self) -> PathBuf {
        self.path.parent().map(Into::into).unwrap_or_else(|| "/".into())
    }

    pub fn can_track(&self) -> bool {
        self.is_persistent
            && !self.is_read_only
            && !self.has_snapshots
            && self.image.as_ref().is_some_and(|i| i.can_keep_bitmaps)
    }

    pub fn has_backing(&self) -> bool {
        self.layer.below().next().is_some() || self.image.as_ref().is_some_and(|i| i.names_backing)
    }

    /// Why its file cannot be cloned, on whatever storage.
    pub fn why_no_clone(&self) -> Option<String> {
        if self.is_block {
            Some("is a block device".into())
        } else if self.is_encrypted {
            Some("is encrypted by QEMU".into())
        } else if self.image.as_ref().is_some_and(|i| i.has_data_file) {
            Some("keeps its data in a file of its own".into())
        } else {
            self.layer.why_not_here()
        }
    }
}

/// Drives that are left out, and why.
type Skipped = Vec<(String, String)>;

/// The disks of a machine that a snapshot would take.
pub fn disks_of(dom: &Dom, what: &str) -> Result<Vec<PlannedDisk>> {
    let about = |e: VirtError| e.about("inspecting", what);
    let (xml, volumes) = volumes::resolve(&dom.conn, what, dom.xml(0).map_err(about)?)?;
    let document = definition::parse(what, &xml)?;
    let persistent = dom.is_persistent().map_err(about)?;
    plan(what, &document, &volumes, &SnapshotRequest::default(), persistent).map(|(disks, _)| disks)
}

/// What is to be said of a disk that is left out, unless somebody left it out or there is nothing to say.
pub fn missed(target: &str, why: &str) -> Option<String> {
    let target = shorten(target);
    is_missed(why).then(|| {
        format!("disk `{target}` is not in the backup: {why}. If that is as it should be, exclude it from the machine's backups")
    })
}

pub fn plan(
    what: &str,
    document: &roxmltree::Document<'_>,
    volumes: &Unresolved,
    request: &SnapshotRequest,
    is_persistent: bool,
) -> Result<(Vec<PlannedDisk>, Skipped)> {
    let mut disks = Vec::new();
    let mut skipped = Vec::new();
    let all = volumes.explain(definition::disks(document));
    for target in &request.exclude {
        if !all.iter().any(|d| d.target == *target) {
            return Err(Error::NotFound { what: format!("disk `{}` of {what}", shorten(target)) });
        }
    }
    for disk in all {
        if request.exclude.contains(&disk.target) {
            skipped.push((disk.target, EXCLUDED.to_owned()));
            continue;
        }
        if let Some(why) = disk.skipped {
            skipped.push((disk.target, why));
            continue;
        }
        let is_block = matches!(disk.source, DiskSource::Block(_));
        let layer = definition::layer(document, &disk.target);
        let path = disk.source.path().map(PathBuf::from);
        let (Some(layer), Some(path), Some(format)) = (layer, path, disk.format) else {
            skipped.push((disk.target, "what its definition says of its source is not understood".into()));
            continue;
        };
        let image = match format {
            DiskFormat::Qcow2 => Some(tools::image_info(&path)?),
            DiskFormat::Raw => None,
        };
        disks.push(PlannedDisk {
            parent: request.parents.get(&disk.target).cloned(),
            target: disk.target,
            path,
            is_block,
            is_encrypted: disk.encrypted,
            is_read_only: disk.read_only,
            is_persistent,
            has_snapshots: false,
            format,
            layer,
            image,
        });
    }
    if disks.iter().any(|d| d.image.as_ref().is_some_and(|i| !i.snapshots.is_empty())) {
        disks.iter_mut().for_each(|d| d.has_snapshots = true);
    }
    if disks.is_empty() {
        let reasons: Vec<String> = skipped.iter().map(|(target, why)| format!("`{target}`: {why}")).collect();
        let why = if reasons.is_empty() { "it has no disks".to_owned() } else { reasons.join("; ") };
        return Err(Error::unsupported(format!("{what}: none of its disks"), why));
    }
    Ok((disks, skipped))
}
