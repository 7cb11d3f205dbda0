//! Brings libvirt's checkpoints and the images' bitmaps back together at the start of a snapshot.
//!
//! After it, what [`Tracked`] names can be relied on; what was ours and broken is gone; what belongs
//! to others is as it was.

use super::dom::{CHECKPOINT_REDEFINE, CHECKPOINT_REDEFINE_VALIDATE, Dom};
use super::planned::PlannedDisk;
use super::session::Session;
use super::{definition, job_xml};
use crate::error::Result;
use crate::limits::{OWN_CHECKPOINTS_KEPT, OWN_PREFIX};
use crate::model::DiskFormat;
use crate::tools;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which parents can be used.
#[derive(Debug, Default)]
pub struct Tracked {
    /// By target: the parent's checkpoint.
    pub since: BTreeMap<String, String>,
    /// By target: why there is none. Only for disks that have a parent.
    pub lost: BTreeMap<String, String>,
}

/// Whether a name is one we could have given.
pub fn is_own_name(name: &str) -> bool {
    name.strip_prefix(OWN_PREFIX).is_some_and(|id| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// For a running machine.
pub fn running(session: &Session, disks: &[PlannedDisk], warnings: &mut Vec<String>) -> Result<Tracked> {
    let dom = &session.dom();
    let mut tracked = Tracked::default();
    let mut wanted: BTreeMap<&str, Vec<&PlannedDisk>> = BTreeMap::new();
    for disk in disks.iter().filter(|d| d.format == DiskFormat::Qcow2) {
        let Some(parent) = &disk.parent else { continue };
        if is_own_name(&parent.checkpoint) {
            wanted.entry(&parent.checkpoint).or_default().push(disk);
        } else {
            tracked
                .lost
                .insert(disk.target.clone(), "its parent's checkpoint is not one of Strongroom's".into());
        }
    }
    let known = known_checkpoints(session, dom, &wanted)?;
    let own: Vec<&String> = known.iter().filter(|n| is_own_name(n)).collect();
    let all: Vec<&str> = disks.iter().map(|d| d.target.as_str()).collect();

    // Checkpoints there are: sound, sound on some disks, or broken.
    for name in &own {
        let covered: Vec<&PlannedDisk> = match covered_targets(dom, name) {
            Some(targets) => disks.iter().filter(|d| targets.contains(&d.target)).collect(),
            None => disks.iter().filter(|d| d.format == DiskFormat::Qcow2).collect(),
        };
        let sound = sound_disks(session, name, &covered, &all)?;
        let needed = wanted.get(name.as_str());
        for disk in needed.into_iter().flatten() {
            if sound.contains(&disk.target) {
                tracked.since.insert(disk.target.clone(), (*name).clone());
            } else if covered.iter().any(|d| d.target == disk.target) {
                tracked.lost.insert(
                    disk.target.clone(),
                    "its change tracking was not closed cleanly (the machine or its host crashed) or was removed".into(),
                );
            } else {
                tracked.lost.insert(disk.target.clone(), "its parent's checkpoint does not cover it".into());
            }
        }
        if sound.is_empty() {
            drop_running(dom, name, warnings);
        } else if sound.len() < covered.len() {
            for disk in covered.iter().filter(|d| !sound.contains(&d.target)) {
                remove_running_bitmap(dom, name, Some(&disk.path), warnings);
            }
        }
    }
    // Parents whose metadata was lost: their bitmaps may still be there.
    for (name, needing) in &wanted {
        if own.iter().any(|n| n == name) {
            continue;
        }
        let sound = sound_disks(session, name, needing, &all)?;
        for disk in needing {
            if sound.contains(&disk.target) {
                tracked.since.insert(disk.target.clone(), (*name).to_owned());
            } else {
                remove_running_bitmap(dom, name, Some(&disk.path), warnings);
                tracked.lost.insert(disk.target.clone(), format!("its checkpoint `{name}` was deleted"));
            }
        }
    }
    remove_forgotten_bitmaps(session, disks, &wanted, warnings);
    prune(session, disks, &wanted.keys().copied().collect(), OWN_CHECKPOINTS_KEPT, warnings);
    Ok(tracked)
}

/// The names of libvirt's checkpoints. Those that are wanted are waited for, for a moment.
fn known_checkpoints(
    session: &Session,
    dom: &Dom,
    wanted: &BTreeMap<&str, Vec<&PlannedDisk>>,
) -> Result<Vec<String>> {
    let about = |e: super::conn::VirtError| e.about("listing checkpoints of", &session.what());
    let mut known: Vec<String> = dom.checkpoints().map_err(about)?;
    for _ in 0..3 {
        if wanted.keys().all(|name| known.iter().any(|k| k == name)) {
            break;
        }
        // Missing for good, or just while libvirt redefines it for a process of ours that was killed.
        std::thread::sleep(Duration::from_millis(100));
        known = dom.checkpoints().map_err(about)?;
    }
    Ok(known)
}

/// The disks which a checkpoint tracks, by its definition.
fn covered_targets(dom: &Dom, name: &str) -> Option<BTreeSet<String>> {
    let xml = dom.checkpoint_xml(name).ok()?;
    let document = definition::parse(name, &xml).ok()?;
    let list = definition::child(document.root_element(), "disks")?;
    Some(
        list.children()
            .filter(|n| n.has_tag_name("disk") && n.attribute("checkpoint") == Some("bitmap"))
            .filter_map(|n| n.attribute("name").map(str::to_owned))
            .collect(),
    )
}

/// Has libvirt check a checkpoint against the bitmaps, first as a whole, then disk by disk, and
/// leaves its definition covering the sound ones alone. Fails rather than take for broken what could
/// not be looked at.
fn sound_disks(
    session: &Session,
    name: &str,
    covered: &[&PlannedDisk],
    all: &[&str],
) -> Result<BTreeSet<String>> {
    let mut sound: Vec<&str> = covered.iter().map(|d| d.target.as_str()).collect();
    if sound.is_empty() || validate(session, name, &sound, all)? {
        return Ok(sound.into_iter().map(str::to_owned).collect());
    }
    let mut alone = Vec::new();
    if sound.len() > 1 {
        for target in sound {
            if validate(session, name, &[target], all)? {
                alone.push(target);
            }
        }
    }
    sound = alone;
    if !sound.is_empty() && !validate(session, name, &sound, all)? {
        sound.clear();
    }
    Ok(sound.into_iter().map(str::to_owned).collect())
}

/// Redefines a checkpoint as covering these of all disks, if libvirt finds their bitmaps sound.
fn validate(session: &Session, name: &str, targets: &[&str], all: &[&str]) -> Result<bool> {
    let disks: Vec<(&str, bool)> = all.iter().map(|t| (*t, targets.contains(t))).collect();
    let created = creation_time(&session.dom(), name).unwrap_or_else(seconds_now);
    let xml = job_xml::checkpoint(name, &disks, Some(created));
    let mut tries = 0;
    loop {
        tries += 1;
        match session.dom().checkpoint_create(&xml, CHECKPOINT_REDEFINE | CHECKPOINT_REDEFINE_VALIDATE) {
            Ok(()) => return Ok(true),
            Err(e) if e.code == super::sys::ERR_CHECKPOINT_INCONSISTENT => {
                tracing::debug!(checkpoint = name, ?targets, error = %e, "not sound");
                return Ok(false);
            }
            Err(e) if tries >= 5 => return Err(e.about("validating the change tracking of", &session.what())),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn creation_time(dom: &Dom, name: &str) -> Option<u64> {
    let xml = dom.checkpoint_xml(name).ok()?;
    let document = definition::parse(name, &xml).ok()?;
    definition::child(document.root_element(), "creationTime")?.text()?.trim().parse().ok()
}

pub fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Bitmaps of ours which an image knows and libvirt does not.
pub fn remove_forgotten_bitmaps(
    session: &Session,
    disks: &[PlannedDisk],
    wanted: &BTreeMap<&str, Vec<&PlannedDisk>>,
    warnings: &mut Vec<String>,
) {
    let Ok(known) = session.dom().checkpoints() else { return };
    for disk in disks {
        for bitmap in disk.image.iter().flat_map(|i| &i.bitmaps) {
            let forgotten = is_own_name(&bitmap.name)
                && !known.contains(&bitmap.name)
                && !wanted.contains_key(bitmap.name.as_str());
            if forgotten {
                remove_running_bitmap(&session.dom(), &bitmap.name, Some(&disk.path), warnings);
            }
        }
    }
}

/// Deletes the oldest checkpoints of ours beyond `limit`, never those in `keep`.
pub fn prune(
    session: &Session,
    disks: &[PlannedDisk],
    keep: &BTreeSet<&str>,
    limit: usize,
    warnings: &mut Vec<String>,
) {
    let Ok(known) = session.dom().checkpoints() else { return };
    let mut own: Vec<(u64, &String)> = known
        .iter()
        .filter(|n| is_own_name(n))
        .map(|n| (creation_time(&session.dom(), n).unwrap_or(0), n))
        .collect();
    own.sort();
    let mut excess = own.len().saturating_sub(limit);
    for (_, name) in own {
        if excess == 0 {
            break;
        }
        if !keep.contains(name.as_str()) {
            drop_checkpoint(session, disks, name, warnings);
            excess -= 1;
        }
    }
}

/// Deletes a checkpoint of ours with its bitmaps, whether the machine runs or not.
pub fn drop_checkpoint(session: &Session, disks: &[PlannedDisk], name: &str, warnings: &mut Vec<String>) {
    debug_assert!(is_own_name(name));
    match session.dom().is_active() {
        Ok(true) => drop_running(&session.dom(), name, warnings),
        Ok(false) => drop_offline(session, disks, name, warnings),
        Err(e) => warnings.push(format!(
            "the old checkpoint `{name}` could not be deleted: {e}; the next backup tries again"
        )),
    }
}

fn drop_running(dom: &Dom, name: &str, warnings: &mut Vec<String>) {
    let Err(first) = dom.checkpoint_delete(name, false) else { return };
    if first.code == super::sys::ERR_NO_CHECKPOINT {
        return;
    }
    // Its bitmap is missing on a disk, or the disk is: libvirt then refuses, and leaves the others too.
    remove_running_bitmap(dom, name, None, warnings);
    if let Err(e) = dom.checkpoint_delete(name, true)
        && e.code != super::sys::ERR_NO_CHECKPOINT
    {
        warnings.push(format!("the old checkpoint `{name}` could not be deleted: {e}"));
    }
}

pub fn drop_offline(session: &Session, disks: &[PlannedDisk], name: &str, warnings: &mut Vec<String>) {
    for disk in disks.iter().filter(|d| d.format == DiskFormat::Qcow2) {
        let there = tools::image_info(&disk.path).is_ok_and(|i| i.bitmaps.iter().any(|b| b.name == name));
        if there {
            remove_offline_bitmap(session, disk, name, warnings);
        }
    }
    if let Err(e) = session.dom().checkpoint_delete(name, true)
        && e.code != super::sys::ERR_NO_CHECKPOINT
    {
        warnings.push(format!("the old checkpoint `{name}` could not be deleted: {e}"));
    }
}

/// Removes a bitmap of ours from an image that nobody has open.
pub fn remove_offline_bitmap(session: &Session, disk: &PlannedDisk, name: &str, warnings: &mut Vec<String>) {
    if let Err(e) = tools::bitmap_remove(&disk.path, name) {
        warnings.push(format!(
            "the old change tracking of {} could not be removed: {e}",
            session.disk(&disk.target)
        ));
    }
}

/// Removes a bitmap of ours from a running machine's disks (from one, if its path is given) where
/// libvirt has no way to.
fn remove_running_bitmap(dom: &Dom, name: &str, path: Option<&Path>, warnings: &mut Vec<String>) {
    let query = r#"{"execute":"query-named-block-nodes","arguments":{"flat":true}}"#;
    let nodes = match dom.monitor_command(query) {
        Ok(answer) => nodes_with_bitmap(&answer, name, path),
        Err(e) => {
            warnings.push(format!("the old change tracking `{name}` could not be looked for: {e}"));
            return;
        }
    };
    for node in nodes {
        let command = serde_json::json!({
            "execute": "block-dirty-bitmap-remove", "arguments": { "node": node, "name": name }
        });
        let done = dom.monitor_command(&command.to_string());
        if let Some(problem) = monitor_error(done) {
            warnings.push(format!("the old change tracking `{name}` could not be removed: {problem}"));
        }
    }
}

fn monitor_error(answer: Result<String, super::conn::VirtError>) -> Option<String> {
    match answer {
        Err(e) => Some(e.message),
        Ok(text) => serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|v| v.pointer("/error/desc").and_then(|d| d.as_str()).map(crate::text::shorten)),
    }
}

fn nodes_with_bitmap(answer: &str, name: &str, path: Option<&Path>) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(answer) else { return Vec::new() };
    let Some(nodes) = value.get("return").and_then(|r| r.as_array()) else { return Vec::new() };
    nodes
        .iter()
        .filter(|node| {
            let bitmaps = node.get("dirty-bitmaps").and_then(|b| b.as_array());
            let has_it = bitmaps.is_some_and(|list| {
                list.iter().any(|b| b.get("name").and_then(|n| n.as_str()) == Some(name))
            });
            let file = node.get("file").and_then(|f| f.as_str());
            has_it && path.is_none_or(|p| p.to_str() == file)
        })
        .filter_map(|node| node.get("node-name").and_then(|n| n.as_str()).map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_only() {
        assert!(is_own_name("strongroom-0190a1b2"));
        for name in
            ["", "strongroom-", "strongroom-a/b", "strongroom-a b", "virtnbdbackup.0", "xstrongroom-1"]
        {
            assert!(!is_own_name(name), "{name}");
        }
    }

    #[test]
    fn nodes_are_found_by_bitmap_and_file() {
        let answer = r#"{"return":[
            {"node-name":"a","file":"/x","dirty-bitmaps":[{"name":"strongroom-1"}]},
            {"node-name":"b","file":"/y","dirty-bitmaps":[{"name":"strongroom-1"},{"name":"other"}]},
            {"node-name":"c","file":"/z"}]}"#;
        assert_eq!(nodes_with_bitmap(answer, "strongroom-1", None), ["a", "b"]);
        assert_eq!(nodes_with_bitmap(answer, "strongroom-1", Some(Path::new("/y"))), ["b"]);
        assert!(nodes_with_bitmap("[]", "x", None).is_empty());
    }
}
