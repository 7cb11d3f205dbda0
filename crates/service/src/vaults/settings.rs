//! Recovery Services vaults: their settings in the catalog, their bytes in a store.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use crate::vaults::lookup::RESTORE_SETTINGS;
use crate::vaults::{groups, lookup as vaults, notes, policy_rows, storage, stores};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use strongroom_catalog::{Change, Immutability, Redundancy, ServiceError, SoftDelete, Vault};
use strongroom_domain::arm_names;
use strongroom_domain::item::check_soft_delete_days;
use strongroom_domain::limits::SOFT_DELETE_DEFAULT_DAYS;
use strongroom_domain::policy::Policy as Rules;
use strongroom_store::objects::Location;
use uuid::Uuid;

/// What a client may set. None: as it was, or Azure's default.
#[derive(Debug, Clone, Default)]
pub struct VaultSettings {
    /// All of them: those that are not among these go.
    pub tags: Option<BTreeMap<String, String>>,
    /// Only kept and shown: there is one kind of vault here.
    pub sku: Option<Value>,
    /// Azure's managed identity, only kept and shown. `Some(None)`: it goes.
    pub identity: Option<Option<Value>>,
    /// What Azure calls so, only kept and shown. It stays from the first protected item on.
    pub redundancy: Option<Redundancy>,
    /// Likewise; refused without geo-redundancy.
    pub cross_region_restore: Option<bool>,
    /// Whether deleted items stay for a while. What is always on remains so.
    pub soft_delete: Option<SoftDelete>,
    /// Azure's enhanced security, likewise.
    pub enhanced_security: Option<SoftDelete>,
    /// Days that deleted items stay.
    pub soft_delete_days: Option<u32>,
    /// Whether points may go before their time. What is disabled has to be unlocked before it can be locked.
    pub immutability: Option<Immutability>,
    /// At most one run at a time is to write to its store, which need not honour create-if-absent then. Only of a new vault.
    pub single_writer: Option<bool>,
    /// Objects that are only kept and shown.
    pub kept: BTreeMap<String, Value>,
}

/// A new vault with Azure's defaults, not written yet, and without a store.
pub(crate) fn draft(service: &Service, group: String, name: &str, location: &str) -> Vault {
    let now = service.now();
    Vault {
        id: Uuid::new_v4(),
        version: 0,
        group,
        name: name.into(),
        location: vaults::plain_location(location),
        tags: BTreeMap::new(),
        sku: json!({"name": "Standard"}),
        identity: None,
        redundancy: Redundancy::Geo,
        cross_region_restore: false,
        soft_delete: SoftDelete::Enabled,
        soft_delete_days: SOFT_DELETE_DEFAULT_DAYS,
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

/// Makes a vault, or changes the settings of one. The commit is its row; the store is there before it.
pub fn put(
    service: &Service,
    group: &str,
    name: &str,
    location: &str,
    settings: &VaultSettings,
) -> Result<(Vault, bool)> {
    if let Some(vault) = vaults::find(service, group, name)? {
        if !vaults::same_location(&vault.location, location) {
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
        Change::put(&policy_rows::draft(service, id, policy_rows::DEFAULT, Rules::default_standard())),
        Change::put(&policy_rows::draft(service, id, policy_rows::ENHANCED, Rules::default_enhanced())),
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
        .ok_or_else(|| vaults::not_found(&vault.group, &vault.name))?;
    notes::changed(service, &updated);
    Ok(updated)
}

fn change(service: &Service, vault: &mut Vault, settings: &VaultSettings) -> Result<()> {
    change_soft_delete(vault, settings)?;
    if let Some(wanted) = settings.immutability {
        check_immutability(vault, wanted)?;
        vault.immutability = wanted;
    }
    change_redundancy(service, vault, settings)?;
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

fn refused<T>(code: &'static str, message: impl Into<String>) -> Result<T> {
    Err(Error::invalid(message).coded(code))
}

const ALWAYS_ON: &str = "BMSUserErrorDisablingSoftDeleteStateNotAllowed";

fn change_soft_delete(vault: &mut Vault, settings: &VaultSettings) -> Result<()> {
    if let Some(wanted) = settings.soft_delete {
        if vault.soft_delete == SoftDelete::AlwaysOn && wanted != SoftDelete::AlwaysOn {
            return refused(
                ALWAYS_ON,
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
                ALWAYS_ON,
                format!("The enhanced security of vault '{}' is always on.", vault.name),
            );
        }
        vault.enhanced_security = wanted;
    }
    if let Some(days) = settings.soft_delete_days {
        if let Err(why) = check_soft_delete_days(days) {
            return refused("BMSUserErrorInvalidSoftDeleteRetentionPeriod", why);
        }
        if vault.soft_delete == SoftDelete::AlwaysOn && vault.version > 0 && days < vault.soft_delete_days {
            return refused(
                ALWAYS_ON,
                format!(
                    "Soft delete of vault '{}' is always on: its {} days cannot become fewer.",
                    vault.name, vault.soft_delete_days
                ),
            );
        }
        vault.soft_delete_days = days;
    }
    Ok(())
}

/// What nobody can take back takes two steps, and the first can be lived with for a while.
fn check_immutability(vault: &Vault, wanted: Immutability) -> Result<()> {
    match (vault.immutability, wanted) {
        (Immutability::Disabled, Immutability::Locked) => refused(
            "BMSUserErrorImmutabilityMustBeUnlockedFirst",
            format!(
                "The immutability of vault '{}' cannot be locked at once: locked, nobody can ever take it back. Set it to Unlocked first, which makes the vault immutable and can be taken back; then to Locked.",
                vault.name
            ),
        ),
        (Immutability::Locked, Immutability::Disabled | Immutability::Unlocked) => refused(
            "BMSUserErrorImmutabilityLocked",
            format!("The immutability of vault '{}' is locked: nobody can take it back.", vault.name),
        ),
        _ => Ok(()),
    }
}

fn change_redundancy(service: &Service, vault: &mut Vault, settings: &VaultSettings) -> Result<()> {
    if let Some(wanted) = settings.redundancy {
        if wanted != vault.redundancy && vault.version > 0 && vaults::item_count(service, vault, false)? > 0 {
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
                "Cross-region restore needs a vault with geo-redundant storage.",
            );
        }
        vault.cross_region_restore = wanted;
    }
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

/// The vault's store is made at its place, and its key in the data directory.
fn make_store(service: &Service, vault: &mut Vault, single_writer: bool) -> Result<()> {
    storage::check(service)?;
    let location = match &service.config.vault_storage {
        Some(base) => format!("{}/{}", base.trim_end_matches('/'), vault.id),
        None => service.data().vaults().join(vault.id.to_string()).display().to_string(),
    };
    let made = service.opener.init(
        &Location::parse(&location)?,
        Some(&stores::key_path(service, vault)),
        None,
        single_writer,
    )?;
    vault.store_location = location;
    vault.store_id = made.vault.id();
    service.keep_store(vault.id, made.vault);
    Ok(())
}
