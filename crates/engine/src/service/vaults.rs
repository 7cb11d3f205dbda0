//! Recovery Services vaults: their settings in the catalog, their bytes in a store.

use super::{Service, groups, held, keys, notes, older_catalog, policies, reconcile, storage};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::CATALOG_ROOM_BYTES;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strongroom_catalog::{
    Change, Immutability, Item, Query, Redundancy, Row, ServiceError, Setting, SoftDelete, Vault, key,
};
use strongroom_domain::arm_names;
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_store::objects::{Kind, Location, ObjectError, Op};
use strongroom_store::reclaim::{ReclaimOptions, reclaim};
use strongroom_store::{Progress, StoreError};
use uuid::Uuid;

/// How long a deleted vault with data can be brought back.
pub const SOFT_DELETE_DAYS: i64 = 14;

/// The object of [`VaultSettings::kept`] that says where points may be restored to.
pub const RESTORE_SETTINGS: &str = "restoreSettings";

/// The text of [`VaultSettings::kept`] that says whether the vault's data goes to addresses that the configuration does not list.
pub const PUBLIC_NETWORK_ACCESS: &str = "publicNetworkAccess";

/// Whether a vault's data goes out only to the service's own host and the listed networks.
pub fn is_closed_to_public_networks(vault: &Vault) -> bool {
    vault.kept.get(PUBLIC_NETWORK_ACCESS).and_then(Value::as_str) == Some("Disabled")
}

/// What a client may set. None: as it was, or Azure's default.
#[derive(Debug, Clone, Default)]
pub struct VaultSettings {
    pub tags: Option<BTreeMap<String, String>>,
    pub sku: Option<Value>,
    pub identity: Option<Option<Value>>,
    pub redundancy: Option<Redundancy>,
    pub cross_region_restore: Option<bool>,
    pub soft_delete: Option<SoftDelete>,
    pub enhanced_security: Option<SoftDelete>,
    pub soft_delete_days: Option<u32>,
    pub immutability: Option<Immutability>,
    /// At most one run at a time is to write to its store, which need not honour create-if-absent then. Only of a new vault.
    pub single_writer: Option<bool>,
    /// Objects that are only kept and shown.
    pub kept: BTreeMap<String, Value>,
}

pub fn not_found(group: &str, name: &str) -> Error {
    super::resource_not_found(&format!("Microsoft.RecoveryServices/vaults/{name}"), group)
}

pub fn find(service: &Service, group: &str, name: &str) -> Result<Option<Vault>> {
    let query = Query::all().eq("group_key", key(group)).eq("name_key", key(name)).eq("deleted", false);
    Ok(service.catalog.first(query)?)
}

pub fn get(service: &Service, group: &str, name: &str) -> Result<Vault> {
    match find(service, group, name)? {
        Some(vault) => Ok(vault),
        None => Err(not_found(&groups::get(service, group)?.name, name)),
    }
}

/// Vaults by name, of one group or of all.
pub fn list(service: &Service, group: Option<&str>) -> Result<Vec<Vault>> {
    let mut query = Query::all().eq("deleted", false).ascending("group_key").ascending("name_key");
    if let Some(group) = group {
        let group = groups::get(service, group)?.name;
        query = query.eq("group_key", key(&group));
    }
    Ok(service.catalog.find(&query)?)
}

/// Vaults that were deleted and can be brought back.
pub fn list_deleted(service: &Service, location: &str) -> Result<Vec<Vault>> {
    Ok(list_all_deleted(service)?.into_iter().filter(|v| same_location(&v.location, location)).collect())
}

/// Deleted vaults of all locations.
pub fn list_all_deleted(service: &Service) -> Result<Vec<Vault>> {
    Ok(service.catalog.find(&Query::all().eq("deleted", true).ascending("name_key"))?)
}

/// Of a vault whose points live as long as they were promised to: nothing may let them go sooner.
pub(super) fn immutable(vault: &Vault, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Denied, format!("Vault '{}' is immutable: {why}", vault.name))
        .coded("UserErrorOperationNotAllowedOnImmutableVault")
}

/// A location as it is kept and compared: Azure writes them with blanks and capitals, or without.
pub fn plain_location(location: &str) -> String {
    location.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

pub fn same_location(a: &str, b: &str) -> bool {
    plain_location(a) == plain_location(b)
}

/// A new vault with Azure's defaults, not written yet, and without a store.
pub(super) fn draft(service: &Service, group: String, name: &str, location: &str) -> Vault {
    let now = service.now();
    Vault {
        id: Uuid::new_v4(),
        version: 0,
        group,
        name: name.into(),
        location: plain_location(location),
        tags: BTreeMap::new(),
        sku: json!({"name": "Standard"}),
        identity: None,
        redundancy: Redundancy::Geo,
        cross_region_restore: false,
        soft_delete: SoftDelete::Enabled,
        soft_delete_days: SOFT_DELETE_DAYS as u32,
        enhanced_security: SoftDelete::Enabled,
        immutability: Immutability::Disabled,
        kept: BTreeMap::new(),
        store_location: String::new(),
        store_id: strongroom_domain::VaultId::from_uuid(Uuid::nil()),
        key_file: None,
        created_at: now,
        changed_at: now,
        deleted_at: None,
        purge_at: None,
        is_being_removed: false,
        is_as_listed: false,
        reclaim_due: false,
        reclaimed_at: None,
    }
}

/// Points went: their space is to be reclaimed.
pub(super) fn reclaim_later(service: &Service, vault: Uuid) -> Result<()> {
    service.catalog.update::<Vault, Error>(vault, |row| {
        row.reclaim_due = true;
        Ok(Vec::new())
    })?;
    Ok(())
}

/// Makes a vault, or changes the settings of one. The commit is its row; the store is there before it.
pub fn put(
    service: &Service,
    group: &str,
    name: &str,
    location: &str,
    settings: &VaultSettings,
) -> Result<(Vault, bool)> {
    if let Some(vault) = find(service, group, name)? {
        if !same_location(&vault.location, location) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "The resource '{name}' already exists in location '{}' in resource group '{group}'. A resource with the same name cannot be created in location '{location}'. Please select a new resource name.",
                    vault.location
                ),
            )
            .coded("InvalidResourceLocation"));
        }
        return Ok((update(service, &vault, settings)?, false));
    }
    arm_names::check_vault_name(name)
        .map_err(|e| Error::invalid(e.to_string()).coded("InvalidResourceName"))?;
    let group = groups::get(service, group)?.name;
    groups::check_location(location)?;
    let mut vault = draft(service, group, name, location);
    let id = vault.id;
    change(service, &mut vault, settings)?;
    make_store(service, &mut vault, settings.single_writer.unwrap_or(false))?;
    let result = service.catalog.apply(&[
        Change::put(&vault),
        Change::put(&policies::draft(service, id, policies::DEFAULT, Rules::default_standard())),
        Change::put(&policies::draft(service, id, policies::ENHANCED, Rules::default_enhanced())),
    ]);
    match result {
        Ok(()) => {
            vault.version = 1;
            notes::changed(service, &vault);
            Ok((vault, true))
        }
        Err(error) => {
            // The new store, which holds nothing, stays where it is: whether the row was written may not be known.
            service.close_store(vault.id);
            tracing::warn!(
                location = vault.store_location,
                "a vault could not be made; its new store and key are left (see `strongroom vault list --strays`)"
            );
            match error {
                // Somebody else made it at the same moment.
                ServiceError::Taken { .. } => put(service, &vault.group.clone(), name, location, settings),
                other => Err(other.into()),
            }
        }
    }
}

/// Changes settings of a vault.
pub fn update(service: &Service, vault: &Vault, settings: &VaultSettings) -> Result<Vault> {
    if let Some(wanted) = settings.single_writer
        && service.store(vault)?.is_single_writer()? != wanted
    {
        let is = if wanted { "for several writers" } else { "for a single writer" };
        return Err(Error::invalid(format!(
            "Vault '{}' was made {is}, which cannot be changed; make another vault.",
            vault.name
        ))
        .coded("InvalidParameter"));
    }
    let updated = service
        .catalog
        .update::<Vault, Error>(vault.id, |row| {
            change(service, row, settings)?;
            Ok(Vec::new())
        })?
        .ok_or_else(|| not_found(&vault.group, &vault.name))?;
    notes::changed(service, &updated);
    Ok(updated)
}

fn change(service: &Service, vault: &mut Vault, settings: &VaultSettings) -> Result<()> {
    let refused = |code, message: String| Err(Error::invalid(message).coded(code));
    if let Some(wanted) = settings.soft_delete {
        if vault.soft_delete == SoftDelete::AlwaysOn && wanted != SoftDelete::AlwaysOn {
            return refused(
                "BMSUserErrorDisablingSoftDeleteStateNotAllowed",
                format!(
                    "Soft delete of vault '{}' is always on: it can neither be turned off nor be made optional again.",
                    vault.name
                ),
            );
        }
        vault.soft_delete = wanted;
    }
    if let Some(wanted) = settings.enhanced_security {
        if vault.enhanced_security == SoftDelete::AlwaysOn && wanted != SoftDelete::AlwaysOn {
            return refused(
                "BMSUserErrorDisablingSoftDeleteStateNotAllowed",
                format!("The enhanced security of vault '{}' is always on.", vault.name),
            );
        }
        vault.enhanced_security = wanted;
    }
    if let Some(days) = settings.soft_delete_days {
        if !(SOFT_DELETE_DAYS as u32..=180).contains(&days) {
            return refused(
                "BMSUserErrorInvalidSoftDeleteRetentionPeriod",
                format!("Soft delete keeps data for {SOFT_DELETE_DAYS} to 180 days, not {days}."),
            );
        }
        if vault.soft_delete == SoftDelete::AlwaysOn && vault.version > 0 && days < vault.soft_delete_days {
            return refused(
                "BMSUserErrorDisablingSoftDeleteStateNotAllowed",
                format!(
                    "Soft delete of vault '{}' is always on: its {} days cannot become fewer.",
                    vault.name, vault.soft_delete_days
                ),
            );
        }
        vault.soft_delete_days = days;
    }
    if let Some(wanted) = settings.immutability {
        // What nobody can take back takes two steps, and the first can be lived with for a while.
        if vault.immutability == Immutability::Disabled && wanted == Immutability::Locked {
            return refused(
                "BMSUserErrorImmutabilityMustBeUnlockedFirst",
                format!(
                    "The immutability of vault '{}' cannot be locked at once: locked, nobody can ever take it back. Set it to Unlocked first, which makes the vault immutable and can be taken back; then to Locked.",
                    vault.name
                ),
            );
        }
        if vault.immutability == Immutability::Locked && wanted != Immutability::Locked {
            return refused(
                "BMSUserErrorImmutabilityLocked",
                format!("The immutability of vault '{}' is locked: nobody can take it back.", vault.name),
            );
        }
        vault.immutability = wanted;
    }
    if let Some(wanted) = settings.redundancy {
        if wanted != vault.redundancy && vault.version > 0 && item_count(service, vault, false)? > 0 {
            return refused(
                "CloudVaultRedundancyLocked",
                format!(
                    "The redundancy of vault '{}' cannot be changed any more: it has protected items.",
                    vault.name
                ),
            );
        }
        vault.redundancy = wanted;
        vault.cross_region_restore &= wanted == Redundancy::Geo;
    }
    if let Some(wanted) = settings.cross_region_restore {
        if wanted && vault.redundancy != Redundancy::Geo {
            return refused(
                "UserErrorCrossRegionRestoreNeedsGrs",
                "Cross-region restore needs a vault with geo-redundant storage.".into(),
            );
        }
        vault.cross_region_restore = wanted;
    }
    if let Some(tags) = &settings.tags {
        groups::check_tags(tags)?;
        vault.tags.clone_from(tags);
    }
    if let Some(sku) = &settings.sku {
        vault.sku.clone_from(sku);
    }
    if let Some(identity) = &settings.identity {
        vault.identity.clone_from(identity);
    }
    for (name, value) in &settings.kept {
        keep(vault, name, value)?;
    }
    vault.changed_at = service.now();
    Ok(())
}

/// Takes in an object that is only kept and shown; of restores to other subscriptions, what was ruled out for good stays so.
fn keep(vault: &mut Vault, name: &str, value: &Value) -> Result<()> {
    const STATE: &str = "/crossSubscriptionRestoreSettings/crossSubscriptionRestoreState";
    const FOR_GOOD: &str = "PermanentlyDisabled";
    let state = |value: &Value| value.pointer(STATE).and_then(Value::as_str).map(str::to_owned);
    if name == RESTORE_SETTINGS {
        let wanted = state(value);
        let is_known =
            |state: &str| ["Enabled", "Disabled", FOR_GOOD].iter().any(|k| k.eq_ignore_ascii_case(state));
        if value.pointer(STATE).is_some_and(|given| !given.is_null())
            && !wanted.as_deref().is_some_and(is_known)
        {
            return Err(Error::invalid(format!(
                "The crossSubscriptionRestoreState of a vault is Enabled, Disabled or {FOR_GOOD}."
            ))
            .coded("InvalidParameter"));
        }
        let before = vault.kept.get(name).and_then(state);
        if before.is_some_and(|before| before.eq_ignore_ascii_case(FOR_GOOD)) {
            return match wanted {
                Some(wanted) if !wanted.eq_ignore_ascii_case(FOR_GOOD) => Err(Error::invalid(format!(
                    "Restores to other subscriptions are disabled for vault '{}' permanently: that cannot be taken back.",
                    vault.name
                ))
                .coded("BMSUserErrorCrossSubscriptionRestorePermanentlyDisabled")),
                _ => Ok(()),
            };
        }
    }
    vault.kept.insert(name.to_owned(), value.clone());
    Ok(())
}

/// Whether at most one run at a time may write to a vault's store.
pub fn is_single_writer(service: &Service, vault: &Vault) -> Result<bool> {
    Ok(service.store(vault)?.is_single_writer()?)
}

/// How much a vault's store holds.
pub fn stats(service: &Service, vault: &Vault) -> Result<strongroom_store::Stats> {
    Ok(service.store(vault)?.stats()?)
}

/// Items of a vault: live ones, or soft-deleted ones too.
pub fn item_count(service: &Service, vault: &Vault, with_deleted: bool) -> Result<u64> {
    let mut query = Query::all().eq("vault", vault.id);
    if !with_deleted {
        query = query.ne("state", ItemState::SoftDeleted.arm_name());
    }
    Ok(service.catalog.count(Item::TABLE, &query)?)
}

/// Deletes a vault without live items. It stays, with what it holds, for its soft delete's days, and can be brought back (see
/// [`undelete`]); without soft delete an empty one is purged at once. The vault itself is asked what it holds: one that holds what the catalog does not know is not deleted, and neither is one that does not answer.
pub fn delete(service: &Service, vault: &Vault) -> Result<()> {
    check_no_items(service, vault)?;
    let held = held::look(service, vault)?;
    check_strangers(service, vault, &held, "deleted")?;
    check_in_sight(vault, &held)?;
    let deleted = service.catalog.update::<Vault, Error>(vault.id, |row| {
        check_no_items(service, row)?;
        let is_kept = row.soft_delete != SoftDelete::Disabled || item_count(service, row, true)? > 0;
        let now = service.now();
        row.deleted_at = Some(now);
        row.changed_at = now;
        let days = if is_kept { i64::from(row.soft_delete_days) } else { 0 };
        let until = now.saturating_add(jiff::SignedDuration::from_hours(24 * days))?;
        // Not before any of its items, whatever was promised to those.
        let items: Vec<Item> = service.catalog.find(&Query::all().eq("vault", row.id))?;
        row.purge_at = items.iter().filter_map(|item| item.purge_at).chain([until]).max();
        Ok(Vec::new())
    })?;
    service.runner.wake();
    deleted.map(|_| ()).ok_or_else(|| not_found(&vault.group, &vault.name))
}

fn check_no_items(service: &Service, vault: &Vault) -> Result<()> {
    let live = item_count(service, vault, false)?;
    if live == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault cannot be deleted as there are existing resources within the vault. Vault '{}' has {live} protected item(s). Please ensure there are no containers or protected items associated with this vault: stop their protection and delete their data first.",
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}

/// Brings a deleted vault back, to the group that it was in.
pub fn undelete(service: &Service, id: Uuid) -> Result<Vault> {
    let purged = || {
        Error::not_found(format!("The deleted vault {id} was not found; it may have been purged."))
            .coded("ResourceNotFound")
    };
    let deleted = service.catalog.get::<Vault>(id)?.ok_or_else(purged)?;
    groups::get(service, &deleted.group)?;
    let vault = service.catalog.update::<Vault, Error>(id, |row| {
        if row.is_being_removed {
            return Err(purged());
        }
        row.deleted_at = None;
        row.purge_at = None;
        row.changed_at = service.now();
        Ok(Vec::new())
    });
    match vault {
        Ok(Some(vault)) => Ok(vault),
        Ok(None) => Err(purged()),
        Err(error) if error.kind == ErrorKind::AlreadyExists => Err(Error::already_exists(format!(
            "Resource group '{}' has another vault '{}' by now. Delete that one, then bring this one back.",
            deleted.group, deleted.name
        ))
        .coded("ResourceAlreadyExists")),
        Err(error) => Err(error),
    }
}

/// Removes a deleted vault whose time is over, with all it holds; the key stays. It goes only by the vault's own word: its store shows
/// that it is this vault's, its points are the catalog's and are forgotten one by one, and then there is none.
pub(super) fn purge(service: &Service, vault: &Vault) -> Result<()> {
    let own = own_store(service, vault);
    // Cut short after the store was moved out of its place: what was found then holds.
    let is_moved = vault.is_being_removed && matches!(own.as_deref().map(exists), Some(Ok(false)));
    if !is_moved {
        older_catalog::ensure_current(service, vault)?;
        if service.catalog.get::<Vault>(vault.id)?.is_none_or(|row| row.deleted_at.is_none()) {
            return Ok(());
        }
        empty(service, vault)?;
        let marked = service.catalog.update::<Vault, Error>(vault.id, |row| {
            if row.deleted_at.is_none() {
                return Err(Error::new(ErrorKind::Busy, "it was brought back"));
            }
            row.is_being_removed = true;
            Ok(Vec::new())
        })?;
        if marked.is_none() {
            return Ok(());
        }
    }
    let key = key_path(service, vault);
    match &own {
        Some(own) => remove_own_store(service, vault, own)?,
        None => tracing::warn!(
            vault = vault.name, id = %vault.store_id,
            location = vault.store_location,
            "the store of a purged vault is left where it is; remove it by hand"
        ),
    }
    let purged = keys::Purged {
        name: vault.name.clone(),
        store_id: vault.store_id,
        store_location: vault.store_location.clone(),
        purged_at: service.now(),
    };
    let Some(row) = service.catalog.get::<Vault>(vault.id)? else { return Ok(()) };
    let mut changes = vec![Change::delete(&row)];
    let report = service.catalog.get::<Setting>(reconcile::setting(vault.id))?;
    changes.extend(report.as_ref().map(Change::delete));
    let noted = service.catalog.get::<Setting>(older_catalog::setting(vault.id))?;
    changes.extend(noted.as_ref().map(Change::delete));
    let id = keys::purged_setting(vault.id);
    let version = service.catalog.get::<Setting>(&id)?.map_or(0, |s| s.version);
    let value = serde_json::to_value(&purged).unwrap_or_default();
    changes.push(Change::put(&Setting { id, version, value }));
    service.catalog.apply(&changes)?;
    tracing::info!(
        vault = vault.name, id = %vault.store_id, key = %key.display(),
        "a deleted vault was purged; its key stays (`strongroom vault key delete` deletes it)"
    );
    Ok(())
}

/// Forgets a deleted vault's points; fails unless it says then that it holds none.
fn empty(service: &Service, vault: &Vault) -> Result<()> {
    service.close_store(vault.id);
    let held = held::look(service, vault)?;
    check_strangers(service, vault, &held, "purged")?;
    let mut left = Vec::new();
    for point in held::expected(service, vault)? {
        if service.catalog.get::<Vault>(vault.id)?.is_none_or(|row| row.deleted_at.is_none()) {
            return Err(Error::new(ErrorKind::Busy, "it was brought back"));
        }
        if !super::retention::forget(service, &held.store, &point)? {
            left.push(point.id.to_string());
        }
    }
    if !left.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: {} of its recovery points are not found in it, and it does not say that they were forgotten: {}. Put them back; or bring the vault back (`strongroom vault undelete`) and accept the loss with `strongroom point forget POINT --missing`.",
                vault.name,
                left.len(),
                left.join(", ")
            ),
        ));
    }
    // The vault knows what was in it: a point that it neither finds nor was told to forget stops this.
    let options = ReclaimOptions { thorough: true, ..ReclaimOptions::default() };
    let report = reclaim(&held.store, &options, &Progress::default())?;
    if !report.waiting_for.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: it has data of which it is not known that nobody needs it, of {}. Its points may be out of sight: put them back, or look with `strongroom rescue vault check`; it is tried again.",
                vault.name,
                report.waiting_for.join("; ")
            ),
        ));
    }
    let after = held::look(service, vault)?;
    if !after.is_empty() {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "Vault '{}' cannot be purged: it holds {} recovery point(s) still.",
                vault.name,
                after.points.len() + after.damaged.len()
            ),
        ));
    }
    Ok(())
}

/// Refuses for a vault that knows of points which are not to be seen: nobody can say that they are not needed.
fn check_in_sight(vault: &Vault, held: &held::Held) -> Result<()> {
    let out = held.store.out_of_sight()?;
    if out.is_nothing() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault '{}' cannot be deleted: of what it holds, this is not to be seen: {}. Mount or restore what is missing in {}; a point that is lost for good is written off by `strongroom point forget POINT --missing --vault {}`.",
            vault.name,
            out.told(),
            vault.store_location,
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}

/// Refuses for a vault that holds what the catalog does not know.
fn check_strangers(service: &Service, vault: &Vault, held: &held::Held, what: &str) -> Result<()> {
    let strangers = held::strangers(service, vault, held)?;
    if strangers.count() == 0 {
        return Ok(());
    }
    let foreign: Vec<&str> = strangers.foreign().take(10).collect();
    let files = match foreign[..] {
        [] => String::new(),
        _ => format!(
            " What is none of the vault's has to be taken out of it by hand: {} at {}.",
            foreign.join(", "),
            vault.store_location
        ),
    };
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "Vault cannot be {what} as there are existing resources within the vault. Vault '{}' holds {} that the catalog does not know. Look at them with `strongroom point list --unmanaged --vault {}`; then adopt each (`strongroom point adopt`) or forget it (`strongroom point forget POINT --unmanaged`).{files}",
            vault.name,
            strangers.told(),
            vault.name
        ),
    )
    .coded("ServiceResourceNotEmptyWithContainerDetails"))
}

fn key_path(service: &Service, vault: &Vault) -> PathBuf {
    match &vault.key_file {
        Some(path) => PathBuf::from(path),
        None => storage::own_key(service, vault.id),
    }
}

/// The vault's store is made at its place, and its key in the data directory.
fn make_store(service: &Service, vault: &mut Vault, single_writer: bool) -> Result<()> {
    storage::check(service)?;
    let location = match &service.config.vault_storage {
        Some(base) => format!("{}/{}", base.trim_end_matches('/'), vault.id),
        None => service.data().vaults().join(vault.id.to_string()).display().to_string(),
    };
    let made = service.opener.init(
        &Location::parse(&location)?,
        Some(&key_path(service, vault)),
        None,
        single_writer,
    )?;
    vault.store_location = location;
    vault.store_id = made.vault.id();
    super::exclusive::opened(service, vault.id, &made.vault);
    service.stores.lock().insert(vault.id, made.vault);
    Ok(())
}

pub(super) fn open_store(service: &Service, vault: &Vault) -> Result<strongroom_store::Vault> {
    let location = Location::parse(&vault.store_location)?;
    let store = service
        .opener
        .open(&location, Some(&key_path(service, vault)))
        .map_err(|e| out_of_sight(vault, e))?;
    if store.id() != vault.store_id {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} holds another vault ({}) than '{}' ({})",
                vault.store_location,
                store.id(),
                vault.name,
                vault.store_id
            ),
        ));
    }
    Ok(store)
}

/// Of a vault that was there: nobody is to make another one in its place.
fn out_of_sight(vault: &Vault, error: Error) -> Error {
    let why = match (error.cause(), error.cause::<ObjectError>()) {
        (Some(StoreError::NotAVault { location, detail }), _) => format!("{location} is no vault: {detail}"),
        (_, Some(object)) if object.op == Op::Open && object.kind == Kind::NotFound => {
            object.without_advice()
        }
        _ => return error,
    };
    let what = format!(
        "The store of vault '{}' is not there: {why}. Mount {}, or make it reachable, and run it again.",
        vault.name, vault.store_location
    );
    Error::new(error.kind, what).caused_by(error)
}

/// Vaults on the disk of the catalog give up some of their reserves, so that the catalog can be written to where that is what
/// frees space. False: none could.
pub(super) fn give_up_reserves(service: &Service) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
    let own = device(&service.config.data);
    let Ok(vaults) = list(service, None) else { return false };
    let mut has_given = false;
    for vault in vaults.iter().filter(|v| own.is_some() && device(Path::new(&v.store_location)) == own) {
        has_given |= service.store(vault).is_ok_and(|store| store.give_up_reserve(CATALOG_ROOM_BYTES));
    }
    has_given
}

/// The store's directory, if it is one that this service made in its own data directory.
fn own_store(service: &Service, vault: &Vault) -> Option<PathBuf> {
    let own = service.data().vaults().join(vault.id.to_string());
    (vault.key_file.is_none() && Path::new(&vault.store_location) == own).then_some(own)
}

fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("looking at {}", path.display()), e)),
    }
}

/// Removes a store that was found to hold nothing. Moved out of its place first: nobody takes half of one for a vault.
fn remove_own_store(service: &Service, vault: &Vault, own: &Path) -> Result<()> {
    storage::check_own(service)?;
    service.close_store(vault.id);
    let aside = own.with_file_name(format!(".removing-{}", vault.id));
    if exists(own)? {
        std::fs::rename(own, &aside)
            .map_err(|e| Error::io(format!("moving {} to {}", own.display(), aside.display()), e))?;
    }
    if exists(&aside)? {
        std::fs::remove_dir_all(&aside).map_err(|e| Error::io(format!("removing {}", aside.display()), e))?;
    }
    Ok(())
}
