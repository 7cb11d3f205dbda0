//! Places: directories and containers that disks can be restored to, shown as storage accounts, and virtual networks.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use strongroom_catalog::key;
use strongroom_engine::target::DiskFormat;

/// A libvirt storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The host's name in the configuration.
    pub host: String,
    /// libvirt's name of the pool.
    pub name: String,
}

/// A directory or container that disks can be restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Like a storage account's name.
    pub name: String,
    /// The resource group that it is shown in.
    pub group: String,
    /// Of what is at a host: the host's location.
    pub location: String,
    /// None of a container.
    pub path: Option<PathBuf>,
    /// Where it is.
    pub url: String,
    /// `directory`, `pool NAME on HOST`, or `container`.
    pub kind: String,
    /// The pool whose directory it is.
    pub pool: Option<Pool>,
    /// What disks are restored as; none: as each was, in a container qcow2.
    pub format: Option<DiskFormat>,
}

/// A virtual network of a host, by which restored machines are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNetwork {
    /// libvirt's name of it.
    pub name: String,
    /// The host's resource group, which it is shown in.
    pub group: String,
    /// The host's location.
    pub location: String,
    /// The host's name in the configuration.
    pub host: String,
    /// Whether it is running.
    pub active: bool,
}

/// Where libvirt keeps disks unless it is told otherwise.
const LIBVIRT_IMAGES: &str = "/var/lib/libvirt/images";

/// Configured directories and containers, then the directories of the hosts' storage pools. Where there is none of all that:
/// libvirt's own directory of disks. None at all, where a host does not answer, is an error.
pub fn list(service: &Service) -> Result<Vec<Place>> {
    let found = look(service);
    match found.places.is_empty() && !found.silent.is_empty() {
        true => Err(not_asked(Error::not_found("No storage account was found."), &found.silent)),
        false => Ok(found.places),
    }
}

struct Found {
    places: Vec<Place>,
    /// Hosts that did not answer, and why.
    silent: Vec<String>,
}

fn look(service: &Service) -> Found {
    let mut silent = Vec::new();
    let mut places: Vec<Place> = service
        .config
        .restore_directories
        .iter()
        .map(|d| Place {
            name: d.name.clone(),
            group: d.group.clone(),
            location: d.location.clone(),
            path: Some(d.path.clone()),
            url: format!("file://{}/", d.path.display()),
            kind: "directory".into(),
            pool: None,
            format: d.format,
        })
        .collect();
    places.extend(service.config.storage_accounts.iter().map(|a| Place {
        name: a.name.clone(),
        group: a.group.clone(),
        location: a.location.clone(),
        path: None,
        url: a.shown().map_or_else(|_| a.url.clone(), |shown| format!("{}/{}", shown.base, shown.prefix)),
        kind: "container".into(),
        pool: None,
        format: a.format,
    }));
    for host in &service.hosts {
        let pools = match host.hypervisor.storage_pools() {
            Ok(pools) => pools,
            Err(error) => {
                tracing::warn!(host = host.name, %error, "storage pools could not be listed");
                silent.push(format!("{} ({error})", host.name));
                continue;
            }
        };
        for pool in pools.into_iter().filter(|p| p.active) {
            let Some(path) = pool.path else { continue };
            // Two hosts may have pools of one name.
            let mut name = pool.name.clone();
            if places.iter().any(|p| key(&p.name) == key(&name)) {
                name = format!("{}{}", host.name, pool.name);
            }
            places.push(Place {
                name,
                group: host.group.clone(),
                location: host.location.clone(),
                url: format!("file://{}/", path.display()),
                path: Some(path),
                kind: format!("pool {} on {}", pool.name, host.name),
                pool: Some(Pool { host: host.name.clone(), name: pool.name }),
                format: None,
            });
        }
    }
    let images = Path::new(LIBVIRT_IMAGES);
    if places.is_empty()
        && silent.is_empty()
        && let Some(host) = service.hosts.first()
        && images.is_dir()
    {
        places.push(Place {
            name: "images".into(),
            group: host.group.clone(),
            location: host.location.clone(),
            url: format!("file://{LIBVIRT_IMAGES}/"),
            path: Some(images.to_owned()),
            kind: "directory".into(),
            pool: None,
            format: None,
        });
    }
    Found { places, silent }
}

/// The place of that name, in any case. Not found: no host has it; unavailable: one that may have it does not answer.
pub fn get(service: &Service, group: &str, name: &str) -> Result<Place> {
    let found = look(service);
    let place = found.places.into_iter().find(|p| key(&p.group) == key(group) && key(&p.name) == key(name));
    place.ok_or_else(|| {
        let missing = crate::core::refusals::resource_not_found(
            &format!("Microsoft.Storage/storageAccounts/{name}"),
            group,
        );
        not_asked(missing, &found.silent)
    })
}

/// What was not found may be on a host that could not be asked: then nobody knows.
fn not_asked(missing: Error, silent: &[String]) -> Error {
    if silent.is_empty() {
        return missing;
    }
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "{} It may be on a host that could not be asked: {}. Make that reachable, then ask again.",
            missing.message,
            silent.join("; ")
        ),
    )
}

/// Lets the pools of a directory see what was put into it.
pub(crate) fn refresh_pools(service: &Service, host: &str, directory: &Path) {
    let Ok(host) = service.host(host) else { return };
    let pools = host.hypervisor.storage_pools().unwrap_or_default();
    for pool in pools.into_iter().filter(|p| p.active && p.path.as_deref() == Some(directory)) {
        if let Err(error) = host.hypervisor.refresh_pool(&pool.name) {
            tracing::warn!(pool = pool.name, %error, "the storage pool could not be refreshed");
        }
    }
}

/// The virtual networks of all hosts; of none of them, where no host answers, is an error.
pub fn networks(service: &Service) -> Result<Vec<VirtualNetwork>> {
    let (found, silent) = look_for_networks(service);
    match found.is_empty() && !silent.is_empty() {
        true => Err(not_asked(Error::not_found("No virtual network was found."), &silent)),
        false => Ok(found),
    }
}

fn look_for_networks(service: &Service) -> (Vec<VirtualNetwork>, Vec<String>) {
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for host in &service.hosts {
        match host.hypervisor.networks() {
            Ok(networks) => found.extend(networks.into_iter().map(|n| VirtualNetwork {
                name: n.name,
                group: host.group.clone(),
                location: host.location.clone(),
                host: host.name.clone(),
                active: n.active,
            })),
            Err(error) => {
                tracing::warn!(host = host.name, %error, "networks could not be listed");
                silent.push(format!("{} ({error})", host.name));
            }
        }
    }
    (found, silent)
}

/// The network of that name, in any case; fails as [`get`] does.
pub fn network(service: &Service, group: &str, name: &str) -> Result<VirtualNetwork> {
    let (found, silent) = look_for_networks(service);
    found.into_iter().find(|n| key(&n.group) == key(group) && key(&n.name) == key(name)).ok_or_else(|| {
        let missing = crate::core::refusals::resource_not_found(
            &format!("Microsoft.Network/virtualNetworks/{name}"),
            group,
        );
        not_asked(missing, &silent)
    })
}
