//! Disks that are volumes of storage pools (`type='volume'`): a definition names pool and volume, and never the path.

use super::conn::Conn;
use super::definition::{self, child};
use crate::error::Result;
use crate::model::Disk;
use crate::text::{Xml, shorten};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Volumes that have no path here, by their disk's target, and why.
#[derive(Debug, Default)]
pub struct Unresolved(BTreeMap<String, String>);

impl Unresolved {
    /// Says so of the disks.
    pub fn explain(&self, mut disks: Vec<Disk>) -> Vec<Disk> {
        for disk in disks.iter_mut().filter(|d| d.missed().is_some()) {
            if let Some(why) = self.0.get(&disk.target) {
                disk.skipped = Some(why.clone());
            }
        }
        disks
    }
}

/// What a volume is here.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File(String),
    Block(String),
}

/// The definition with what each volume is: a file or a block device. For reading disks alone, never to be defined.
pub fn resolve(conn: &Arc<Conn>, what: &str, xml: String) -> Result<(String, Unresolved)> {
    resolve_by(what, xml, &|pool, volume| place(conn, pool, volume))
}

fn resolve_by(
    what: &str,
    xml: String,
    place: &dyn Fn(&str, &str) -> std::result::Result<Place, String>,
) -> Result<(String, Unresolved)> {
    let mut unresolved = Unresolved::default();
    if !xml.contains("volume") {
        return Ok((xml, unresolved));
    }
    let mut edits = Vec::new();
    let document = definition::parse(what, &xml)?;
    let devices = child(document.root_element(), "devices");
    let disks = devices.into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk"));
    for disk in disks.filter(|d| d.attribute("type") == Some("volume")) {
        let target = child(disk, "target").and_then(|t| t.attribute("dev")).unwrap_or_default();
        let kind = disk.attributes().find(|a| a.name() == "type");
        let (Some(kind), Some(source)) = (kind, child(disk, "source")) else { continue };
        let (Some(pool), Some(volume)) = (source.attribute("pool"), source.attribute("volume")) else {
            continue;
        };
        let (name, attribute, path) = match place(pool, volume) {
            Ok(Place::File(path)) => ("file", "file", path),
            Ok(Place::Block(path)) => ("block", "dev", path),
            Err(why) => {
                let why = format!("volume `{}` of storage pool `{}`: {why}", shorten(volume), shorten(pool));
                unresolved.0.insert(target.to_owned(), why);
                continue;
            }
        };
        let mut written = Xml::new();
        written.start("x").attribute(attribute, &path);
        let written = written.finish();
        let Some(added) = written.strip_prefix("<x").and_then(|w| w.strip_suffix("/>")) else { continue };
        edits.push((kind.range(), format!("type=\"{name}\"")));
        let after_name = source.range().start + "<source".len();
        edits.push((after_name..after_name, added.to_owned()));
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut resolved = xml.clone();
    for (range, new) in edits.into_iter().rev() {
        resolved.replace_range(range, &new);
    }
    Ok((resolved, unresolved))
}

/// libvirt's numbers for kinds of volumes.
const FILE: i32 = 0;
const BLOCK: i32 = 1;

fn place(conn: &Arc<Conn>, pool: &str, volume: &str) -> std::result::Result<Place, String> {
    match conn.volume(pool, volume) {
        Ok((FILE, path)) => Ok(Place::File(path)),
        Ok((BLOCK, path)) => Ok(Place::Block(path)),
        Ok(_) => {
            Err("it is neither a file nor a block device of this host, which alone are backed up".into())
        }
        // A pool that is not active tells nothing of its volumes, which may be there all the same.
        Err(error) => in_inactive(conn, pool, volume).ok_or_else(|| {
            format!("libvirt does not find it ({error}); is the pool active (`virsh pool-start`)?")
        }),
    }
}

fn in_inactive(conn: &Arc<Conn>, pool: &str, volume: &str) -> Option<Place> {
    let pools = conn.storage_pools().ok()?;
    let (_, _, xml) = pools.into_iter().find(|(name, is_active, _)| name == pool && !is_active)?;
    let document = definition::parse(pool, &xml).ok()?;
    let root = document.root_element();
    let directory = child(child(root, "target")?, "path")?.text()?.trim();
    if volume.contains('/') {
        return None;
    }
    let path = Path::new(directory).join(volume);
    let text = path.to_str()?.to_owned();
    match root.attribute("type")? {
        "dir" | "fs" | "netfs" => path.is_file().then_some(Place::File(text)),
        "logical" | "disk" => path.exists().then_some(Place::Block(text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DiskSource;

    #[test]
    fn a_volume_is_what_its_pool_says() {
        let xml = r#"<domain><devices>
          <disk type='file'><driver type='qcow2'/><source file='/a'/><target dev='vda'/></disk>
          <disk device='disk' type='volume'><driver type='qcow2'/><source pool='p' volume='v&amp;1' index='2'/><backingStore/><target dev='vdb'/></disk>
          <disk type='volume'><source volume='lv' pool='vg'/><target dev='vdc'/></disk>
          <disk type='volume'><source pool='ceph' volume='image'/><target dev='vdd'/></disk>
          <disk type='volume' device='cdrom'><source pool='gone' volume='iso'/><target dev='sda'/></disk>
        </devices></domain>"#;
        let (resolved, unresolved) = resolve_by("m", xml.into(), &|pool, volume| match pool {
            "p" => Ok(Place::File(format!("/pool/'{volume}\""))),
            "vg" => Ok(Place::Block(format!("/dev/{pool}/{volume}"))),
            _ => Err("not here".into()),
        })
        .unwrap();
        let document = definition::parse("m", &resolved).unwrap();
        let disks = unresolved.explain(definition::disks(&document));
        assert_eq!(disks[1].source, DiskSource::File("/pool/'v&1\"".into()));
        assert_eq!(disks[2].source, DiskSource::Block("/dev/vg/lv".into()));
        assert!(disks[..3].iter().all(|d| d.skipped.is_none()));
        assert_eq!(disks[3].missed(), Some("volume `image` of storage pool `ceph`: not here"));
        assert!(disks[4].skipped.is_some() && disks[4].missed().is_none());
        assert!(definition::layer(&document, "vdb").is_some());
        // What names no volumes stays as it is.
        let plain = xml.replace("'volume'", "'network'");
        assert_eq!(resolve_by("m", plain.clone(), &|_, _| Err(String::new())).unwrap().0, plain);
    }
}
