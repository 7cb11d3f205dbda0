//! A vault whose catalog was lost, or that another service made, is brought back: with its location and its key alone.
//!
//! Its settings, policies, items and what each point was promised are in the vault: notes and manifests. What is missing
//! there, or is not understood, is told, and never makes anything go sooner: an item of which it is not known by what its
//! points are to go comes back with its protection stopped, which keeps them all.

use crate::core::error::{Error, Result};
use crate::core::service::Service;
use crate::points::row::{free_name, point_row};
use crate::protection::items;
use crate::reconciliation::{adopt, reconcile};
use crate::vaults::noted::{self, NotedItem, NotedPoint};
use crate::vaults::{groups, keys, lookup as vaults, notes, older_catalog, policy_rows, settings};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use strongroom_catalog::{Change, Item, Machine, Point, Policy, Query, Redundancy, Vault, key};
use strongroom_domain::item::ItemState;
use strongroom_domain::policy::Policy as Rules;
use strongroom_domain::{Datasource, ItemName, PointId, arm_names};
use strongroom_engine::machine::record::MachineRecord;
use strongroom_store::objects::Location;
use strongroom_store::{Manifest, PointKind, Promise};
use uuid::Uuid;

/// What an import found.
#[derive(Debug)]
pub struct Imported {
    /// The new one, as it was written.
    pub vault: Vault,
    /// Items that it has from now on.
    pub items: usize,
    /// Points that they have, all together.
    pub points: usize,
    /// Policies that the vault named; without any it has the two default ones.
    pub policies: usize,
    /// The vault said what its settings are; else they are the default ones.
    pub settings: bool,
    /// Items whose protection is stopped: all their points are kept until somebody resumes it.
    pub stopped: usize,
    /// Points that are not of machines, and all that cannot be read or is not understood.
    pub passed_over: Vec<String>,
}

/// Makes a vault of the store at `location`, with its settings and policies, all its machines with their states, and their
/// points with what they were promised.
pub fn import(
    service: &Service,
    location: &str,
    key_file: Option<&Path>,
    group: &str,
    name: &str,
    vault_location: &str,
) -> Result<Imported> {
    arm_names::check_vault_name(name)
        .map_err(|e| Error::invalid(e.to_string()).coded("InvalidResourceName"))?;
    if vaults::find(service, group, name)?.is_some() {
        return Err(Error::already_exists(format!(
            "there is a vault '{name}' in resource group '{group}' already; give another --name"
        )));
    }
    let group = groups::ensure(service, group, vault_location)?.name;
    // The key that the vault was made with lies here, where the catalog alone was lost.
    let own_key = match key_file {
        None => keys::of_store(service, location)?,
        Some(_) => None,
    };
    let key_file = key_file.or(own_key.as_deref());
    let store = service.opener.open(&Location::parse(location)?, key_file)?;
    check_new(service, &store)?;
    let mut vault = settings::draft(service, group, name, vault_location);
    let id = vault.id;
    vault.redundancy = Redundancy::Local;
    vault.store_location = location.into();
    vault.store_id = store.id();
    vault.key_file = Some(keep_key(service, location, key_file, id)?);
    vault.is_as_listed = !store.knows_its_points()?;
    // Before the notes are read: what is written meanwhile is news.
    let generation = older_catalog::noted(&store)?;
    let list = store.points(None)?;
    let mut passed_over: Vec<String> =
        list.damaged.iter().map(|d| format!("{}: {}", d.object, d.error)).collect();
    let mut by_item: BTreeMap<ItemName, Vec<&Manifest>> = BTreeMap::new();
    for point in &list.points {
        match point.kind {
            PointKind::Machine => by_item.entry(point.item.clone()).or_default().push(point),
            PointKind::Image => passed_over.push(format!("{} of image {}", point.point, point.item)),
        }
    }
    tell_what_is_missing(&store, &vault, &mut passed_over)?;
    let noted = noted::items_in(&store, &mut passed_over)?;
    let has_noted_items = noted.is_some();
    let settings = noted::take_settings(&mut vault, &store, has_noted_items, &mut passed_over)?;
    let (drafts, named) = policies_of(service, id, &store, &mut passed_over)?;
    // A default one that stands in for what the vault did not name is not the one that its items went by.
    let nothing = BTreeMap::new();
    let named_policies = if named > 0 { &drafts } else { &nothing };
    let mut noted = noted.unwrap_or_default();
    let known = older_catalog::known_from_now(id, generation);
    let mut changes = vec![Change::put(&vault), Change::put(&known)];
    changes.extend(drafts.values().map(Change::put));
    let names: BTreeSet<ItemName> = by_item.keys().chain(noted.keys()).cloned().collect();
    let (items, mut points, mut stopped) = (names.len(), 0, 0);
    let mut taken = HashSet::new();
    for store_item in names {
        let manifests = by_item.remove(&store_item).unwrap_or_default();
        let said = noted::points_in(&store, &store_item, &mut passed_over)?;
        let item_note = noted.remove(&store_item);
        if item_note.is_none() && has_noted_items {
            passed_over.push(format!(
                "the state of {store_item}, of which the vault's note says nothing: its protection is stopped"
            ));
        }
        let mut found =
            Found { store_item: &store_item, manifests: &manifests, said: &said, note: item_note };
        let item = found.item(service, &vault, named_policies, &mut taken, &mut passed_over)?;
        stopped += usize::from(item.state == ItemState::ProtectionStopped);
        changes.push(Change::put(&item));
        for point in points_of(service, &vault, &item, &manifests, &said, &mut passed_over)? {
            points += 1;
            changes.push(Change::put(&point));
        }
    }
    // The commit: all of it, or nothing.
    service.catalog.apply(&changes)?;
    vault.version = 1;
    notes::changed(service, &vault);
    // What differs is shown from the start.
    reconcile::one(service, &vault)?;
    Ok(Imported { vault, items, points, policies: named, settings, stopped, passed_over })
}

/// Refused where the store is a vault's already.
fn check_new(service: &Service, store: &strongroom_store::Vault) -> Result<()> {
    let known: Vec<Vault> = service.catalog.find(&Query::all())?;
    let Some(other) = known.iter().find(|v| v.store_id == store.id()) else { return Ok(()) };
    let advice = match other.deleted_at {
        None => String::new(),
        Some(_) => format!(
            ", which was deleted and is not purged yet: bring it back with `strongroom vault undelete {}`",
            other.name
        ),
    };
    Err(Error::already_exists(format!("this store is that of the vault '{}' already{advice}", other.name)))
}

/// Where the vault's key is from now on: where it was given, or, if the user's keyring has it, in a copy of the service's.
fn keep_key(service: &Service, location: &str, key_file: Option<&Path>, id: Uuid) -> Result<String> {
    let path = match key_file {
        Some(path) => {
            std::path::absolute(path).map_err(|e| Error::io(format!("looking at {}", path.display()), e))?
        }
        None => {
            let key = service.opener.export_key(&Location::parse(location)?, None)?;
            let path = service.data().keys().join(format!("{id}.key"));
            key.save_new(&path)?;
            path
        }
    };
    Ok(path.display().to_string())
}

/// Says what of the store cannot be seen now, and where that cannot be known.
fn tell_what_is_missing(
    store: &strongroom_store::Vault,
    vault: &Vault,
    passed_over: &mut Vec<String>,
) -> Result<()> {
    let out = store.out_of_sight()?;
    if !out.is_nothing() {
        passed_over.push(format!(
            "what is not to be seen: {}. Mount or restore it; nothing of the vault is freed, and it is not deleted, until then",
            out.told()
        ));
    }
    if vault.is_as_listed {
        passed_over.push(
            "which points the vault had: its list of them is not there, or not confirmed, and what is to be seen cannot tell whether it is all. Nothing of \
             the vault is freed until somebody looked at them (`strongroom point list`) and said so (`strongroom rescue vault reclaim --as-listed`)"
                .into(),
        );
    }
    Ok(())
}

/// The rows of an item's points, with what manifests and notes promise of them.
fn points_of(
    service: &Service,
    vault: &Vault,
    item: &Item,
    manifests: &[&Manifest],
    said: &HashMap<PointId, NotedPoint>,
    passed_over: &mut Vec<String>,
) -> Result<Vec<Point>> {
    let (mut names, mut points) = (HashSet::new(), Vec::new());
    for manifest in manifests {
        let mut point: Point = point_row(vault, item, manifest, &[]);
        if manifest.kept.is_none()
            && let Some(noted) = said.get(&manifest.point)
        {
            point.reason = noted.reason;
            point.scheduled_for = noted.scheduled_for;
            point.keep_until = noted.keep_until;
        }
        if let Some(Promise::NotUnderstood(_)) = manifest.kept {
            passed_over.push(format!(
                "how long point {} of {} is to be kept: it is kept until somebody deletes it",
                manifest.point, item.store_item
            ));
        }
        point.name = free_name(service, &point)?;
        let mut attempt = 0;
        while !names.insert(point.name.clone()) {
            attempt += 1;
            point.name = arm_names::recovery_point_name(&point.id, attempt);
        }
        points.push(point);
    }
    Ok(points)
}

/// The policies that a store names, or where it names none, the default ones; and how many it named.
fn policies_of(
    service: &Service,
    vault: Uuid,
    store: &strongroom_store::Vault,
    passed_over: &mut Vec<String>,
) -> Result<(BTreeMap<String, Policy>, usize)> {
    let found = noted::policies_in(store, passed_over)?;
    let mut drafts: BTreeMap<String, Policy> = BTreeMap::new();
    for noted in found.into_iter().flatten() {
        if let Err(error) = arm_names::check_policy_name(&noted.name) {
            passed_over.push(format!("policy {}: {error}", noted.name.escape_debug()));
            continue;
        }
        if let Err(error) = noted.rules.validate() {
            passed_over.push(format!("policy {}: {error}", noted.name.escape_debug()));
            continue;
        }
        let mut policy = policy_rows::draft(service, vault, &noted.name, noted.rules);
        policy.datasource = noted.datasource;
        policy.wire = noted.wire;
        policy.changed_at = noted.changed_at;
        drafts.entry(key(&noted.name)).or_insert(policy);
    }
    let named = drafts.len();
    if named == 0 {
        let defaults = [
            (policy_rows::DEFAULT, Rules::default_standard()),
            (policy_rows::ENHANCED, Rules::default_enhanced()),
        ];
        drafts.extend(
            defaults.map(|(name, rules)| (key(name), policy_rows::draft(service, vault, name, rules))),
        );
    }
    Ok((drafts, named))
}

/// What a vault has of an item.
struct Found<'a> {
    store_item: &'a ItemName,
    manifests: &'a [&'a Manifest],
    said: &'a HashMap<PointId, NotedPoint>,
    note: Option<NotedItem>,
}

impl Found<'_> {
    fn item(
        &mut self,
        service: &Service,
        vault: &Vault,
        policies: &BTreeMap<String, Policy>,
        taken: &mut HashSet<String>,
        passed_over: &mut Vec<String>,
    ) -> Result<Item> {
        let note = self.note.take();
        let uuid = match (&note, self.manifests.last()) {
            (Some(note), _) => note.machine_uuid.clone(),
            (None, Some(newest)) => MachineRecord::of(newest).machine_uuid.unwrap_or_default(),
            (None, None) => String::new(),
        };
        let machine: Option<Machine> =
            service.catalog.first(Query::all().eq("host_uuid", uuid.as_str()).eq("gone", false))?;
        let (group, machine_name) = self.place(vault, machine.as_ref(), note.as_ref(), taken);
        let now = service.now();
        let id = Uuid::new_v4();
        let mut item = Item {
            id,
            version: 0,
            vault: vault.id,
            datasource: note.as_ref().map_or(Datasource::Machine, |note| note.datasource),
            machine: machine.as_ref().map_or_else(Uuid::new_v4, |m| m.id),
            machine_uuid: uuid,
            group,
            machine_name,
            store_item: self.store_item.clone(),
            state: ItemState::ProtectionStopped,
            policy: None,
            last_rules: adopt::promised_by(self.manifests),
            disks: None,
            protected_at: now,
            considered_until: now,
            last_backup: None,
            last_point_at: self.manifests.iter().map(|m| m.taken_at).max(),
            deleted_at: None,
            purge_at: None,
            untracked: false,
            data_id: arm_names::numeric_name(id.as_bytes(), 0),
        };
        if let Some(note) = note {
            self.take_in(service, vault, policies, machine.as_ref(), note, &mut item, passed_over)?;
        }
        Ok(item)
    }

    /// Takes in what the vault's note says of an item, which is stopped so far.
    #[allow(clippy::too_many_arguments)]
    fn take_in(
        &self,
        service: &Service,
        vault: &Vault,
        policies: &BTreeMap<String, Policy>,
        machine: Option<&Machine>,
        note: NotedItem,
        item: &mut Item,
        passed_over: &mut Vec<String>,
    ) -> Result<()> {
        item.disks = note.disks;
        item.protected_at = note.protected_at;
        item.data_id = note.data_id;
        item.last_rules = note.last_rules.or(item.last_rules.take());
        match note.state {
            ItemState::NotProtected | ItemState::ProtectionStopped => return Ok(()),
            ItemState::SoftDeleted => {
                match (note.deleted_at, note.purge_at) {
                    (Some(_), Some(_)) => {
                        item.state = ItemState::SoftDeleted;
                        item.deleted_at = note.deleted_at;
                        item.purge_at = note.purge_at;
                    }
                    _ => passed_over.push(format!(
                        "when {} was deleted: its protection is stopped instead",
                        self.store_item
                    )),
                }
                return Ok(());
            }
            ItemState::IrPending | ItemState::Protected | ItemState::BackupsSuspended => {}
        }
        let policy = note.policy.as_deref().and_then(|name| policies.get(&key(name)));
        let unknown = self.of_unknown_promise();
        let elsewhere = match machine {
            Some(machine) => {
                items::of_machine(service, machine.id)?.iter().any(|other| items::holds_machine(other, vault))
            }
            None => false,
        };
        let why = match policy {
            None => format!("its policy {} is not there", note.policy.unwrap_or_default().escape_debug()),
            // It would go by the policy, and may have been promised more.
            Some(_) if unknown > 0 => {
                format!("of {unknown} of its points it is not known how long they are to be kept")
            }
            Some(_) if elsewhere => "another vault protects its machine".to_owned(),
            Some(policy) => {
                item.state = match note.state {
                    ItemState::IrPending if !self.manifests.is_empty() => ItemState::Protected,
                    state => state,
                };
                item.policy = Some(policy.id);
                item.last_rules = None;
                return Ok(());
            }
        };
        if let Some(policy) = policy {
            item.last_rules = Some(policy.rules.clone());
        }
        passed_over.push(format!("the protection of {}, which is stopped: {why}", self.store_item));
        Ok(())
    }

    /// Points of which neither manifest nor note says how long they are kept.
    fn of_unknown_promise(&self) -> usize {
        self.manifests.iter().filter(|m| m.kept.is_none() && !self.said.contains_key(&m.point)).count()
    }

    /// Under which group and name: the machine's, where it is known here; no two of a vault have the same.
    fn place(
        &self,
        vault: &Vault,
        machine: Option<&Machine>,
        note: Option<&NotedItem>,
        taken: &mut HashSet<String>,
    ) -> (String, String) {
        let whole = self.store_item.as_str();
        let last = whole.rsplit('/').next().unwrap_or_default();
        let candidates = [
            machine.map(|m| (m.group.clone(), m.name.clone())),
            note.map(|n| (n.group.clone(), n.machine.clone())),
            Some((vault.group.clone(), last.to_owned())),
            Some((vault.group.clone(), whole.replace('/', "-"))),
        ];
        let unique = || (vault.group.clone(), format!("{last}-{}", Uuid::new_v4().simple()));
        let mut candidates = candidates.into_iter().flatten();
        let free = candidates.find(|(group, name)| taken.insert(key(&arm_names::item_name(group, name))));
        free.unwrap_or_else(unique)
    }
}
