//! Backing up one image: from the parent point to the commit.

use super::extents::ExtentList;
use super::source::{Source, SourceFormat};
use crate::error::{Error, ErrorKind, Result};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_domain::extent::normalize;
use strongroom_domain::{Consistency, ConsistencyLevel, Extent, ItemName};
use strongroom_store::{
    Disk, DiskRequest, Kept, Manifest, PointDraft, PointKind, PointList, Progress, Promise, Session, Vault,
};

/// The name of an image's only disk.
pub const DISK_NAME: &str = "disk";

/// What to back up, and as what.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The image's file, or a block device.
    pub source: PathBuf,
    /// What it is read as.
    pub format: SourceFormat,
    /// Also if its format's own check finds it damaged.
    pub is_forced: bool,
    /// The item of the vault that its point becomes one of.
    pub item: ItemName,
    /// A list of what changed since the item's last point; everything else is taken from there unread.
    pub changed_extents: Option<PathBuf>,
    /// Until when the point is promised to be kept, as its manifest says. None: it never goes by itself.
    pub keep_until: Option<Timestamp>,
}

/// A finished backup.
#[derive(Debug)]
pub struct ImageBackup {
    /// As it was committed; what there is to warn of is in it.
    pub point: Manifest,
    /// What the image was read as.
    pub format: &'static str,
    /// From the beginning to the commit.
    pub elapsed: Duration,
}

/// Backs an image up. The commit is the point's manifest: before it nothing is visible. After it `meanwhile` is called, while
/// the rest is put in order.
pub fn backup(
    vault: &Vault,
    options: &BackupOptions,
    progress: &Arc<Progress>,
    meanwhile: &dyn Fn(&Manifest),
) -> Result<ImageBackup> {
    let started = Instant::now();
    // Everything that can be refused is, before the vault is written to.
    let list = options.changed_extents.as_deref().map(ExtentList::load).transpose()?;
    let mut source = Source::open(&options.source, options.format, options.is_forced, progress)?;
    let size_bytes = source.size_bytes();
    let changed = list.as_ref().map(|list| list.within(size_bytes)).transpose()?;
    progress.check()?;
    // The parent is chosen under the session's lease: nothing it has is reclaimed from then on.
    let purpose = format!("backup of image {}", options.item);
    let (session, points) = Session::begin_point(vault, &purpose, &options.item)?;
    let taken_at = vault.environment().now();
    let mut warnings = Vec::new();
    let parent = choose_parent(vault, points, &options.item, changed.is_some(), &mut warnings)?;
    let (parent_id, parent_disk) = match &parent {
        Some(point) => (Some(point.point), point.disks.first()),
        None => (None, None),
    };
    let ranges = match changed {
        None => vec![Extent::new(0, size_bytes)],
        Some(changed) => with_growth(changed, parent_disk.map_or(0, |disk| disk.size_bytes), size_bytes)?,
    };
    let extents = source.kinds(&ranges)?;
    let written = session.write_disk(DiskRequest {
        source: source.reader()?,
        name: options.source.display().to_string(),
        size_bytes,
        extents,
        parent: parent_disk.map(Disk::tree),
        progress: progress.clone(),
    })?;
    source.check_unchanged()?;
    progress.check()?;
    warnings.append(&mut source.warnings);
    let mut disk = Disk::new(DISK_NAME, &written);
    disk.attributes.insert("source_format".into(), source.format().into());
    let mut attributes = serde_json::Map::new();
    attributes.insert("source".into(), absolute(&options.source).into());
    let draft = PointDraft {
        item: options.item.clone(),
        kind: PointKind::Image,
        taken_at,
        parent: parent_id,
        consistency: Consistency::new(
            ConsistencyLevel::Crash,
            "image read as it was; nobody was asked to keep it still",
        ),
        disks: vec![disk],
        definition: None,
        kept: Some(Promise::Known(Kept::on_demand(options.keep_until))),
        warnings,
        attributes,
    };
    let point = session.commit_and(draft, meanwhile)?;
    Ok(ImageBackup { point, format: source.format(), elapsed: started.elapsed() })
}

/// The item's last point, if there is one that can be built on.
pub(super) fn choose_parent(
    vault: &Vault,
    mut points: PointList,
    item: &ItemName,
    relies_on_it: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Manifest>> {
    let parent = points.take_last();
    let damaged = points.damaged;
    // Ids sort by the time they were made.
    let newer_damaged = damaged.iter().find(|d| match (&parent, d.point) {
        (Some(parent), Some(point)) => point > parent.point,
        _ => true,
    });
    if let Some(damaged) = newer_damaged {
        let told = format!("the last point of item {item} is damaged ({})", damaged.error);
        if relies_on_it {
            return Err(Error::new(
                ErrorKind::NeedsFull,
                format!(
                    "{told}, so changed extents have nothing to be relative to: back up without --changed-extents"
                ),
            ));
        }
        warnings.push(told);
    }
    if let Some(point) = &parent
        && relies_on_it
        && point.taken_at > vault.environment().now()
    {
        return Err(Error::new(
            ErrorKind::NeedsFull,
            format!(
                "the last point of item {item} was taken at {}, which is in the future by this clock, so which point is the \
                 last is not certain: put the clock right, or back up without --changed-extents",
                point.taken_at
            ),
        ));
    }
    match parent {
        Some(point) if point.kind != PointKind::Image || point.disks.len() != 1 => Err(Error::invalid(
            format!("item {item} has points of a machine in this vault: choose another name with --item"),
        )),
        None if relies_on_it => Err(Error::new(
            ErrorKind::NeedsFull,
            format!(
                "item {item} has no point in this vault yet, so changed extents have nothing to be relative to: \
                 back up without --changed-extents first"
            ),
        )),
        other => Ok(other),
    }
}

/// What lies beyond the parent's end is changed, whoever forgot to say so.
fn with_growth(changed: Vec<Extent>, parent_size_bytes: u64, size_bytes: u64) -> Result<Vec<Extent>> {
    if size_bytes <= parent_size_bytes {
        return Ok(changed);
    }
    let mut all: Vec<Extent> = changed
        .into_iter()
        .filter(|e| e.offset_bytes < parent_size_bytes)
        .map(|e| Extent::new(e.offset_bytes, e.end_bytes().min(parent_size_bytes) - e.offset_bytes))
        .collect();
    all.push(Extent::new(parent_size_bytes, size_bytes - parent_size_bytes));
    Ok(normalize(&all, size_bytes)?)
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_as_changed() {
        let grown = with_growth(vec![Extent::new(0, 10), Extent::new(90, 40)], 100, 200).unwrap();
        assert_eq!(grown, [Extent::new(0, 10), Extent::new(90, 110)]);
        assert_eq!(with_growth(vec![Extent::new(5, 5)], 100, 50).unwrap(), [Extent::new(5, 5)]);
        assert_eq!(with_growth(vec![], 100, 100).unwrap(), []);
    }
}
