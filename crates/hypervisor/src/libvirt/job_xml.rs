//! The XML of backup jobs and checkpoints.

use crate::text::Xml;
use std::path::Path;

/// A disk in a checkpoint: tracked by a bitmap, or not.
pub fn checkpoint(name: &str, disks: &[(&str, bool)], creation_time: Option<u64>) -> String {
    let mut xml = Xml::new();
    xml.start("domaincheckpoint").element("name", name);
    if let Some(seconds) = creation_time {
        xml.element("creationTime", &seconds.to_string());
    }
    xml.start("disks");
    for (target, tracked) in disks {
        xml.start("disk").attribute("name", target);
        if *tracked {
            xml.attribute("checkpoint", "bitmap").attribute("bitmap", name);
        } else {
            xml.attribute("checkpoint", "no");
        }
        xml.end();
    }
    xml.finish()
}

/// A disk in a pull-mode job.
pub struct JobDisk<'a> {
    pub target: &'a str,
    /// `None`: not part of the job.
    pub scratch: Option<&'a Path>,
    pub since: Option<&'a str>,
}

/// The name under which a job exports a disk's changes.
pub const EXPORT_BITMAP: &str = "changed";

pub fn pull_job(socket: &Path, disks: &[JobDisk<'_>]) -> String {
    let mut xml = Xml::new();
    xml.start("domainbackup").attribute("mode", "pull");
    xml.start("server").attribute("transport", "unix").attribute("socket", &socket.to_string_lossy()).end();
    xml.start("disks");
    for disk in disks {
        xml.start("disk").attribute("name", disk.target);
        let Some(scratch) = disk.scratch else {
            xml.attribute("backup", "no").end();
            continue;
        };
        xml.attribute("backup", "yes").attribute("type", "file").attribute("exportname", disk.target);
        match disk.since {
            Some(checkpoint) => xml
                .attribute("exportbitmap", EXPORT_BITMAP)
                .attribute("backupmode", "incremental")
                .attribute("incremental", checkpoint),
            None => xml.attribute("backupmode", "full"),
        };
        xml.start("scratch").attribute("file", &scratch.to_string_lossy()).end();
        xml.end();
    }
    xml.finish()
}
