//! The places that vaults' stores are made in, and what is found there that no vault has.
//!
//! Each place that is a directory carries a marker. Without it nothing is made or removed there: its file system may not be
//! mounted, and what is seen is not the place. It gets its marker when one of its vaults opens with its key, or when there is no
//! trace of any vault yet; else somebody says so (`strongroom vault create --init-storage`).

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::vaults::purged;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use strongroom_catalog::{Query, Vault};
use strongroom_domain::VaultId;
use strongroom_store::objects::{Location, TEMP_DIR};
use strongroom_store::{KeyFile, StoreError, Vault as Store};
use uuid::Uuid;

/// The marker's file.
pub const MARKER: &str = ".strongroom-storage";

/// Where new vaults' stores go, if that is a directory; a bucket is never an unmounted one.
fn place(service: &Service) -> Result<Option<PathBuf>> {
    let Some(base) = &service.config.vault_storage else { return Ok(Some(service.data().vaults())) };
    match Location::parse(base)? {
        Location::Directory(path) => Ok(Some(path)),
        Location::S3 { .. } => Ok(None),
    }
}

/// All directories that hold stores that this service makes, or made.
fn places(service: &Service) -> Vec<PathBuf> {
    let mut places = vec![service.data().vaults()];
    // One that cannot be understood is told of by whoever makes a vault.
    if let Ok(Some(other)) = place(service)
        && !places.contains(&other)
    {
        places.push(other);
    }
    places
}

fn is_marked(place: &Path) -> Result<bool> {
    match fs::symlink_metadata(place.join(MARKER)) {
        Ok(found) => Ok(found.is_file()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io(format!("looking for {}", place.join(MARKER).display()), e)),
    }
}

fn mark(place: &Path) -> Result<()> {
    let path = place.join(MARKER);
    let failed = |e| Error::io(format!("writing {}", path.display()), e);
    let text = format!("strongroom-storage 1\nid {}\n", Uuid::new_v4());
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    File::open(place).and_then(|d| d.sync_all()).map_err(failed)?;
    tracing::info!(place = %place.display(), "vaults are kept here: the place has its marker");
    Ok(())
}

/// Nothing says that there ever was a vault: neither rows nor keys, and the place is empty or not there.
fn has_no_trace(service: &Service, place: &Path) -> Result<bool> {
    if service.catalog.first::<Vault>(Query::all())?.is_some() {
        return Ok(false);
    }
    let keys = service.data().keys();
    let is_empty = |directory: &Path| -> Result<bool> {
        match fs::read_dir(directory) {
            Ok(entries) => {
                for entry in entries {
                    let entry =
                        entry.map_err(|e| Error::io(format!("reading {}", directory.display()), e))?;
                    let name = entry.file_name();
                    // What a fresh file system has.
                    if name != "lost+found" && name != TEMP_DIR {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(Error::io(format!("reading {}", directory.display()), e)),
        }
    };
    Ok(is_empty(&keys)? && is_empty(place)?)
}

/// Whether a vault that the catalog knows is there and opens with its key.
fn has_known_vault(service: &Service, place: &Path) -> Result<bool> {
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    let is_below = |vault: &&Vault| Path::new(&vault.store_location).parent() == Some(place);
    Ok(known.iter().filter(is_below).any(|vault| service.store(vault).is_ok()))
}

/// Gives places their markers where that can be known to be right.
pub(crate) fn mark_known(service: &Service) {
    for place in places(service) {
        let done = || -> Result<()> {
            if is_marked(&place)? || !place.is_dir() {
                return Ok(());
            }
            if has_known_vault(service, &place)? || has_no_trace(service, &place)? {
                return mark(&place);
            }
            tracing::warn!(
                place = %place.display(),
                "the place for vaults has no marker, and no vault of the catalog is in it: it may not be mounted; nothing is made or removed there"
            );
            Ok(())
        };
        if let Err(error) = done() {
            tracing::warn!(place = %place.display(), %error, "the place for vaults could not be looked at");
        }
    }
}

fn unmarked(place: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "The place for vaults, {}, has no marker ({MARKER}): its file system may not be mounted, and nothing is made or removed there. Mount it, then run it again; if it is a new place, say so with --init-storage (of `strongroom vault create` and `strongroom vault key delete`).",
            place.display()
        ),
    )
    .coded("VaultStorageNotMarked")
}

/// Refuses where a new store would be made in a place that does not show that it is that.
pub(crate) fn check(service: &Service) -> Result<()> {
    let Some(place) = place(service)? else { return Ok(()) };
    if is_marked(&place)? {
        return Ok(());
    }
    if has_no_trace(service, &place)? {
        make(&place)?;
        return mark(&place);
    }
    Err(unmarked(&place))
}

/// The same of where stores in the data directory are.
pub(crate) fn check_own(service: &Service) -> Result<()> {
    let place = service.data().vaults();
    if is_marked(&place)? { Ok(()) } else { Err(unmarked(&place)) }
}

fn make(place: &Path) -> Result<()> {
    fs::create_dir_all(place).map_err(|e| Error::io(format!("making directory {}", place.display()), e))
}

/// Fails where a store at this location, or where one would be of which only the key is known, may be out of sight: its
/// place does not show that it is that.
pub(crate) fn check_seen(service: &Service, location: Option<&str>) -> Result<()> {
    for place in places(service) {
        let is_there = location.is_none_or(|location| Path::new(location).parent() == Some(&place));
        if is_there && !is_marked(&place)? {
            return Err(unmarked(&place));
        }
    }
    Ok(())
}

/// Somebody says that the place is the right one: it gets its marker. So does that in the data directory where vaults go elsewhere, if
/// no vault of the catalog is to be in it: one that is not seen there would be lost. False: there was nothing to mark.
pub fn init(service: &Service) -> Result<bool> {
    let chosen = place(service)?;
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    let mut is_new = false;
    for place in places(service) {
        let is_used = known.iter().any(|vault| Path::new(&vault.store_location).parent() == Some(&place));
        if is_marked(&place)? || is_used && chosen.as_ref() != Some(&place) {
            continue;
        }
        make(&place)?;
        mark(&place)?;
        is_new = true;
    }
    Ok(is_new)
}

/// A store that no vault of the catalog has.
#[derive(Debug, Clone)]
pub struct StrayStore {
    /// Its directory.
    pub path: PathBuf,
    /// Which vault it says it is.
    pub vault: Option<VaultId>,
    /// Its key in the data directory, if it is there.
    pub key_file: Option<PathBuf>,
    /// Points that it lists, where its key opens it.
    pub points: Option<u64>,
    /// What else is to say: why it cannot be read, for one.
    pub problem: Option<String>,
}

/// A key in the data directory that no vault of the catalog has.
#[derive(Debug, Clone)]
pub struct StrayKey {
    /// Its file.
    pub path: PathBuf,
    /// The vault that it opens.
    pub vault: Option<VaultId>,
    /// What that was called, if it was purged here.
    pub name: Option<String>,
    /// Why it cannot be read. None: it can.
    pub problem: Option<String>,
}

/// What a start that was cut short, a lost catalog or a purged vault left.
#[derive(Debug, Clone, Default)]
pub struct Strays {
    /// By path.
    pub stores: Vec<StrayStore>,
    /// By path.
    pub keys: Vec<StrayKey>,
    /// Places that could not be looked at.
    pub problems: Vec<String>,
}

impl Strays {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty() && self.keys.is_empty() && self.problems.is_empty()
    }
}

/// Looks for what no vault has. It is only ever told of.
pub fn strays(service: &Service) -> Result<Strays> {
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    let ids: HashSet<Uuid> = known.iter().map(|v| v.id).collect();
    let locations: HashSet<&Path> = known.iter().map(|v| Path::new(&v.store_location)).collect();
    let mut found = Strays::default();
    for place in places(service) {
        let entries = match fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound && place != service.data().vaults() => continue,
            Err(e) => {
                found.problems.push(format!("reading {}: {e}", place.display()));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    found.problems.push(format!("reading {}: {e}", place.display()));
                    break;
                }
            };
            let Ok(id) = entry.file_name().to_string_lossy().parse::<Uuid>() else { continue };
            if !ids.contains(&id) && !locations.contains(entry.path().as_path()) {
                found.stores.push(stray_store(service, entry.path(), id));
            }
        }
    }
    let keys = service.data().keys();
    match fs::read_dir(&keys) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some(name) = name.strip_suffix(".key") else { continue };
                let is_used = name.parse::<Uuid>().is_ok_and(|id| ids.contains(&id))
                    || known.iter().any(|v| v.key_file.as_deref().is_some_and(|f| Path::new(f) == path));
                if !is_used {
                    found.keys.push(stray_key(service, path, name.parse().ok())?);
                }
            }
        }
        Err(e) => found.problems.push(format!("reading {}: {e}", keys.display())),
    }
    found.stores.sort_by(|a, b| a.path.cmp(&b.path));
    found.keys.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn stray_store(service: &Service, path: PathBuf, id: Uuid) -> StrayStore {
    let key = service.data().key(id);
    let key_file = key.is_file().then_some(key);
    let mut stray = StrayStore { path, vault: None, key_file, points: None, problem: None };
    let mut look = || -> Result<()> {
        let location = Location::Directory(stray.path.clone());
        stray.vault = Some(Store::identify(&service.opener.open_objects(&location)?)?);
        let Some(key) = &stray.key_file else { return Ok(()) };
        let list = service.opener.open(&location, Some(key))?.points(None)?;
        stray.points = Some((list.points.len() + list.damaged.len()) as u64);
        Ok(())
    };
    let problem = look().err().map(|e| e.to_string());
    stray.problem = problem;
    stray
}

fn stray_key(service: &Service, path: PathBuf, id: Option<Uuid>) -> Result<StrayKey> {
    let purged = id.map(|id| purged::purged(service, id)).transpose()?.flatten();
    let name = purged.map(|p| p.name);
    Ok(match KeyFile::load(&path) {
        Ok(key) => StrayKey { path, vault: Some(key.vault), name, problem: None },
        Err(error) => StrayKey { path, vault: None, name, problem: Some(error.to_string()) },
    })
}

/// At the start: what no vault has is told of. Nothing of it is removed.
pub(crate) fn tell_strays(service: &Service) {
    let found = match strays(service) {
        Ok(found) => found,
        Err(error) => {
            return tracing::warn!(%error, "stores and keys that no vault has could not be looked for");
        }
    };
    for store in &found.stores {
        tracing::warn!(
            path = %store.path.display(), points = ?store.points, problem = store.problem.as_deref(),
            "a store that no vault of the catalog has: `strongroom vault import` brings it back (see `strongroom vault list --strays`)"
        );
    }
    // That of a purged vault was told of when that was purged.
    for key in found.keys.iter().filter(|k| k.name.is_none()) {
        tracing::warn!(
            path = %key.path.display(), vault = key.vault.map(|v| v.to_string()),
            "a key that no vault of the catalog has; it is kept (see `strongroom vault list --strays`)"
        );
    }
    for problem in &found.problems {
        tracing::warn!("{problem}");
    }
}

/// What is at a location: a vault, none, or nobody knows.
pub(crate) fn vault_at(service: &Service, location: &str) -> std::result::Result<Option<VaultId>, String> {
    let location = Location::parse(location).map_err(|e| e.to_string())?;
    if let Location::Directory(path) = &location {
        match fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        }
    }
    let objects = service.opener.open_objects(&location).map_err(|e| e.to_string())?;
    match Store::identify(&objects) {
        Ok(id) => Ok(Some(id)),
        Err(StoreError::NotAVault { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
