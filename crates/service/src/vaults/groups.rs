//! Resource groups: names that machines and vaults are gathered under.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use std::collections::BTreeMap;
use strongroom_catalog::{Change, Machine, Query, ResourceGroup, ServiceError, Vault, key};
use strongroom_domain::arm_names;
use uuid::Uuid;

/// The refusal for a group that is not there, in Azure's words.
pub(crate) fn not_found(name: &str) -> Error {
    Error::not_found(format!("Resource group '{name}' could not be found.")).coded("ResourceGroupNotFound")
}

/// All of them, by name.
pub fn list(service: &Service) -> Result<Vec<ResourceGroup>> {
    Ok(service.catalog.find(&Query::all().ascending("name_key"))?)
}

/// The group of that name, in any case.
pub fn find(service: &Service, name: &str) -> Result<Option<ResourceGroup>> {
    Ok(service.catalog.first(Query::all().eq("name_key", key(name)))?)
}

/// As [`find`]; fails where there is none.
pub fn get(service: &Service, name: &str) -> Result<ResourceGroup> {
    find(service, name)?.ok_or_else(|| not_found(name))
}

/// Makes a group, or changes one's tags. Returns whether it is new.
pub fn put(
    service: &Service,
    name: &str,
    location: &str,
    tags: Option<BTreeMap<String, String>>,
) -> Result<(ResourceGroup, bool)> {
    arm_names::check_resource_group_name(name)
        .map_err(|e| Error::invalid(e.to_string()).coded("InvalidResourceGroupName"))?;
    check_location(location)?;
    tags.as_ref().map_or(Ok(()), check_tags)?;
    loop {
        let found = find(service, name)?;
        let is_new = found.is_none();
        let mut group = found.unwrap_or_else(|| ResourceGroup {
            id: Uuid::new_v4(),
            version: 0,
            name: name.into(),
            location: location.to_lowercase(),
            tags: BTreeMap::new(),
            created_at: service.now(),
        });
        if key(&group.location) != key(location) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "Invalid resource group location '{location}'. The Resource group already exists in location '{}'.",
                    group.location
                ),
            )
            .coded("InvalidResourceGroupLocation"));
        }
        if let Some(tags) = tags.clone() {
            group.tags = tags;
        }
        match service.catalog.apply(&[Change::put(&group)]) {
            Ok(()) => return Ok((group, is_new)),
            Err(ServiceError::Conflict { .. } | ServiceError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The group of that name, made if need be.
pub fn ensure(service: &Service, name: &str, location: &str) -> Result<ResourceGroup> {
    match find(service, name)? {
        Some(group) => Ok(group),
        None => Ok(put(service, name, location, None)?.0),
    }
}

/// Removes a group that has nothing in it: machines and vaults never go along.
pub fn delete(service: &Service, name: &str) -> Result<()> {
    let group = get(service, name)?;
    let of_group = Query::all().eq("group_key", key(name));
    let vaults: Vec<Vault> = service.catalog.find(&of_group.clone().eq("deleted", false))?;
    let machines: Vec<Machine> = service.catalog.find(&of_group.eq("gone", false))?;
    let inside: Vec<String> = vaults
        .iter()
        .map(|v| format!("vault '{}'", v.name))
        .chain(machines.iter().map(|m| format!("machine '{}'", m.name)))
        .take(5)
        .collect();
    if !inside.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Resource group '{}' cannot be deleted: it holds {}{}. Delete its vaults and move its machines to another group first (POST …/virtualMachines/{{name}}/providers/Strongroom.Backup/place; docs/service.md has an example).",
                group.name,
                inside.join(", "),
                if vaults.len() + machines.len() > 5 { " and more" } else { "" }
            ),
        )
        .coded("ResourceGroupDeletionBlocked"));
    }
    if service.hosts.iter().any(|h| key(&h.group) == key(name)) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Resource group '{}' cannot be deleted: the configuration puts discovered machines there.",
                group.name
            ),
        )
        .coded("ResourceGroupDeletionBlocked"));
    }
    Ok(service.catalog.apply(&[Change::delete(&group)])?)
}

/// Tags' names are Azure's: of any resource.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    for name in tags.keys() {
        arm_names::check_tag_name(name)
            .map_err(|e| Error::invalid(e.to_string()).coded("InvalidTagNameCharacters"))?;
    }
    Ok(())
}

/// Any name will do, as long as it can be one: locations are what the configuration and the vaults say they are.
pub fn check_location(location: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b' ');
    if location.is_empty() || location.len() > 90 || !location.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "The provided location '{}' is not a location's name: letters, digits and hyphens.",
            location.chars().take(90).flat_map(char::escape_debug).collect::<String>()
        ))
        .coded("LocationNotAvailableForResourceType"));
    }
    Ok(())
}
