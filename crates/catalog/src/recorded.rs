//! A catalog in which no change goes without its row in the audit.

use crate::error::Result;
use crate::model::{
    AuditEntry, Item, Job, Machine, Point, Policy, Principal, ResourceGroup, RoleAssignment, Setting, Vault,
};
use crate::row::{Change, Query, Row, Stored};
use crate::table::Table;
use crate::{ServiceCatalog, actor, differences};
use jiff::Timestamp;
use std::sync::{Arc, OnceLock};
use strongroom_domain::arm_names;
use uuid::Uuid;

/// Where the time of rows comes from.
pub type RecordClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Of one kind of change in one list so many have a row each; more share one.
const ROWS_OF_A_KIND_MAX: usize = 8;
/// What a shared row names, in bytes.
const NAMES_MAX_BYTES: usize = 1024;

/// All changes pass here. What is done in a request's name is noted for its row ([`actor`]); for all else the row is written here, in
/// the same transaction as the change.
pub struct Recorded<C> {
    inner: C,
    clock: RecordClock,
    subscription: OnceLock<String>,
}

/// One change, as the audit says it.
struct Note {
    /// `Microsoft.RecoveryServices/Vaults/delete`.
    action: String,
    scope: String,
    /// `vault main`.
    what: String,
    /// `made`, `changed`, `removed`.
    verb: &'static str,
    /// Which of its fields were changed, from what to what.
    fields: String,
}

impl Note {
    fn text(&self) -> String {
        let Self { verb, what, fields, .. } = self;
        if fields.is_empty() { format!("{verb} {what}") } else { format!("{verb} {what}: {fields}") }
    }
}

impl<C: ServiceCatalog> Recorded<C> {
    /// Around `inner`, which nobody else may write to: what passes by is not in the audit.
    pub fn new(inner: C, clock: RecordClock) -> Self {
        Self { inner, clock, subscription: OnceLock::new() }
    }

    fn stored(&self, table: Table, id: &str) -> Result<Option<Stored>> {
        Ok(self.inner.fetch(table, &Query::all().eq("id", id).limit(1))?.pop())
    }

    fn row<R: Row>(&self, id: Uuid) -> Option<R> {
        self.stored(R::TABLE, &id.to_string()).ok().flatten()?.read().ok()
    }

    /// What of a list is a change that somebody made, rather than bookkeeping.
    fn notes(&self, changes: &[Change]) -> Result<Vec<Note>> {
        let mut notes = Vec::new();
        for change in changes {
            let mut fields = String::new();
            let (table, id, verb, stored) = match change {
                Change::Put { table, id, version, doc, .. } if is_recorded(*table) => {
                    let new = Stored { table: *table, id: id.clone(), version: *version, doc: doc.clone() };
                    if *version == 0 {
                        (*table, id, "made", new)
                    } else if *table == Table::Jobs {
                        // How far it is, which it says itself.
                        continue;
                    } else {
                        match self.stored(*table, id)? {
                            Some(old) if !differs(*table, &old.doc, &new.doc) => continue,
                            // Without the old one the change is refused.
                            old => {
                                fields = old
                                    .map_or_else(String::new, |old| self.fields(*table, &old, &new, changes));
                                (*table, id, "changed", new)
                            }
                        }
                    }
                }
                Change::Delete { table, id, .. } if is_recorded(*table) => match self.stored(*table, id)? {
                    Some(old) => (*table, id, "removed", old),
                    None => continue,
                },
                _ => continue,
            };
            let (kind, scope, what) = self.describe(table, &stored, changes).unwrap_or_else(|| {
                (table.name().to_owned(), String::from("/"), format!("{} {id}", table.name()))
            });
            let action = format!("{kind}/{}", if verb == "removed" { "delete" } else { "write" });
            notes.push(Note { action, scope, what, verb, fields });
        }
        Ok(notes)
    }

    /// Which fields of a row are others, from what to what.
    fn fields(&self, table: Table, old: &Stored, new: &Stored, changes: &[Change]) -> String {
        let read = |stored: &Stored| {
            let mut doc = said(table, &stored.doc);
            // Under the name that people know it by.
            if let Some(policy) = doc.get_mut("policy")
                && let Some(id) = policy.as_str().and_then(|id| id.parse().ok())
                && let Some(known) = self.known::<Policy>(id, changes)
            {
                *policy = known.name.into();
            }
            if let Some(fields) = doc.as_object_mut() {
                fields.retain(|name, _| !FOLLOWING.contains(&name.as_str()));
            }
            doc
        };
        differences::of_rows(&read(old), &read(new), WORDS)
    }

    fn subscription(&self) -> String {
        let read = || {
            let row: Setting = self.stored(Table::Settings, "subscription").ok()??.read().ok()?;
            Some(format!("/subscriptions/{}", row.value.as_str()?))
        };
        match self.subscription.get() {
            Some(known) => known.clone(),
            None => read().map_or_else(String::new, |id| self.subscription.get_or_init(|| id).clone()),
        }
    }

    fn group_scope(&self, group: &str) -> String {
        format!("{}/resourceGroups/{group}", self.subscription())
    }

    fn vault_scope(&self, vault: &Vault) -> String {
        let group = self.group_scope(&vault.group);
        format!("{group}/providers/Microsoft.RecoveryServices/vaults/{}", vault.name)
    }

    /// A row that is there, or comes with the same list.
    fn known<R: Row>(&self, id: Uuid, changes: &[Change]) -> Option<R> {
        self.row(id).or_else(|| {
            changes.iter().find_map(|change| match change {
                Change::Put { table, id: put, doc, .. } if *table == R::TABLE && *put == id.to_string() => {
                    serde_json::from_str(doc).ok()
                }
                _ => None,
            })
        })
    }

    /// The kind of resource, its scope, and a name for it.
    fn describe(
        &self,
        table: Table,
        stored: &Stored,
        changes: &[Change],
    ) -> Option<(String, String, String)> {
        let vaults = "Microsoft.RecoveryServices/Vaults";
        let of_vault = |id: Uuid| self.known::<Vault>(id, changes).map(|vault| self.vault_scope(&vault));
        let item_scope = |item: &Item| {
            let container = arm_names::container_short_name(&item.group, &item.machine_name);
            of_vault(item.vault).map(|vault| {
                format!(
                    "{vault}/backupFabrics/Azure/protectionContainers/{}/protectedItems/{}",
                    arm_names::container_name_of(&container),
                    arm_names::item_name_of(&container)
                )
            })
        };
        Some(match table {
            Table::Principals => {
                let row: Principal = stored.read().ok()?;
                let scope = format!("/principals/{}", row.id);
                ("Strongroom.Backup/principals".into(), scope, format!("principal {}", row.name))
            }
            Table::RoleAssignments => {
                let row: RoleAssignment = stored.read().ok()?;
                let whose = self.known::<Principal>(row.principal, changes);
                let whose = whose.map_or_else(|| row.principal.to_string(), |p| p.name);
                let what = format!("role {} of {whose}", row.role.arm_name());
                ("Microsoft.Authorization/roleAssignments".into(), row.scope, what)
            }
            Table::SigningKeys => {
                let what = format!("signing key {}", stored.id);
                ("Strongroom.Backup/signingKeys".into(), "/".into(), what)
            }
            Table::ResourceGroups => {
                let row: ResourceGroup = stored.read().ok()?;
                let kind = "Microsoft.Resources/subscriptions/resourceGroups";
                (kind.into(), self.group_scope(&row.name), format!("resource group {}", row.name))
            }
            Table::Vaults => {
                let row: Vault = stored.read().ok()?;
                (vaults.into(), self.vault_scope(&row), format!("vault {}", row.name))
            }
            Table::Policies => {
                let row: Policy = stored.read().ok()?;
                let scope = format!("{}/backupPolicies/{}", of_vault(row.vault)?, row.name);
                (format!("{vaults}/backupPolicies"), scope, format!("policy {}", row.name))
            }
            Table::Machines => {
                let row: Machine = stored.read().ok()?;
                let group = self.group_scope(&row.group);
                let scope = format!("{group}/providers/Microsoft.Compute/virtualMachines/{}", row.name);
                let gone = if row.gone_at.is_some() { " (gone)" } else { "" };
                let what = format!("machine {}{gone}", row.name);
                ("Microsoft.Compute/virtualMachines".into(), scope, what)
            }
            Table::Items => {
                let row: Item = stored.read().ok()?;
                let kind = format!("{vaults}/backupFabrics/protectionContainers/protectedItems");
                let what = format!("item {} ({})", row.machine_name, row.state.arm_name());
                (kind, item_scope(&row)?, what)
            }
            Table::RecoveryPoints => {
                let row: Point = stored.read().ok()?;
                let item: Item = self.known(row.item, changes)?;
                let kind =
                    format!("{vaults}/backupFabrics/protectionContainers/protectedItems/recoveryPoints");
                let scope = format!("{}/recoveryPoints/{}", item_scope(&item)?, row.name);
                let what = format!("point {} of {}, taken {}", row.id, item.machine_name, row.taken_at);
                (kind, scope, what)
            }
            Table::Jobs => {
                let row: Job = stored.read().ok()?;
                let scope = format!("{}/backupJobs/{}", of_vault(row.vault)?, row.id);
                let item = row.item.and_then(|item| self.known::<Item>(item, changes));
                let whose = item.map_or_else(String::new, |item| format!(" of {}", item.machine_name));
                let what = format!("job {} {}{whose}", row.operation.arm_name(), row.id);
                (format!("{vaults}/backupJobs"), scope, what)
            }
            Table::Settings | Table::Operations | Table::Audit => return None,
        })
    }

    fn entry(&self, principal: &str, action: String, scope: String, detail: String) -> AuditEntry {
        AuditEntry { detail, ..AuditEntry::new((self.clock)(), principal, action, scope) }
    }
}

/// Whether a table's rows are changes that somebody made. Every table is named: a new one has to be thought about.
fn is_recorded(table: Table) -> bool {
    match table {
        Table::Principals
        | Table::RoleAssignments
        | Table::SigningKeys
        | Table::ResourceGroups
        | Table::Vaults
        | Table::Policies
        | Table::Machines
        | Table::Items
        | Table::RecoveryPoints
        | Table::Jobs => true,
        // What the service remembers for itself, what follows something else, and the audit.
        Table::Settings | Table::Operations | Table::Audit => false,
    }
}

/// Fields whose values are one of a few words, told as Azure writes them.
const WORDS: &[&str] = &["immutability", "soft_delete", "enhanced_security", "redundancy", "state"];
/// Fields that follow from others.
const FOLLOWING: &[&str] = &["changed_at", "last_rules"];

/// A row without how its work goes, and what was seen of it.
fn said(table: Table, doc: &str) -> serde_json::Value {
    let mut doc: serde_json::Value = serde_json::from_str(doc).unwrap_or_default();
    let bookkeeping: &[&str] = match table {
        Table::Vaults => &["reclaim_due", "reclaimed_at"],
        Table::Items => &["considered_until", "last_backup", "last_point_at", "untracked"],
        Table::Machines => {
            &["power", "agent", "disks", "networks", "vcpus", "memory_mib", "os", "discovered_at"]
        }
        Table::RecoveryPoints => {
            // How long it is kept, and where: the rest is how it came about, and what was found out later.
            return serde_json::json!({"keep_until": doc["keep_until"], "snapshot": doc["snapshot"].is_object()});
        }
        _ => &[],
    };
    if let Some(fields) = doc.as_object_mut() {
        fields.retain(|name, _| !bookkeeping.contains(&name.as_str()));
    }
    doc
}

/// Whether a new version of a row says something else.
fn differs(table: Table, old: &str, new: &str) -> bool {
    said(table, old) != said(table, new)
}

/// Notes of one kind, where they are too many for one each: the number, and as many names as fit.
fn together(notes: &[&Note]) -> String {
    let mut text = format!("{} ", notes.len());
    for (at, note) in notes.iter().enumerate() {
        if text.len() + note.what.len() > NAMES_MAX_BYTES {
            text.push_str(", …");
            break;
        }
        text.push_str(if at == 0 { "" } else { ", " });
        text.push_str(&note.what);
    }
    text
}

/// By kind of change, in the order in which they come.
fn by_kind(notes: &[Note]) -> Vec<Vec<&Note>> {
    let mut kinds: Vec<Vec<&Note>> = Vec::new();
    for note in notes {
        match kinds.iter_mut().find(|k| k[0].action == note.action && k[0].verb == note.verb) {
            Some(kind) => kind.push(note),
            None => kinds.push(vec![note]),
        }
    }
    kinds
}

impl<C: ServiceCatalog> ServiceCatalog for Recorded<C> {
    fn apply(&self, changes: &[Change]) -> Result<()> {
        let notes = self.notes(changes)?;
        if notes.is_empty() {
            return self.inner.apply(changes);
        }
        let kinds = by_kind(&notes);
        let Some(principal) = actor::current() else {
            self.inner.apply(changes)?;
            for kind in kinds {
                match kind.len() <= ROWS_OF_A_KIND_MAX {
                    true => kind.iter().for_each(|note| actor::note(note.text())),
                    false => actor::note(format!("{} {}", kind[0].verb, together(&kind))),
                }
            }
            return Ok(());
        };
        let mut all = changes.to_vec();
        for kind in kinds {
            if kind.len() <= ROWS_OF_A_KIND_MAX {
                all.extend(kind.iter().map(|note| {
                    let entry = self.entry(&principal, note.action.clone(), note.scope.clone(), note.text());
                    Change::put(&entry)
                }));
            } else {
                let detail = format!("{} {}", kind[0].verb, together(&kind));
                all.push(Change::put(&self.entry(&principal, kind[0].action.clone(), "/".into(), detail)));
            }
        }
        self.inner.apply(&all)
    }

    fn fetch(&self, table: Table, query: &Query) -> Result<Vec<Stored>> {
        self.inner.fetch(table, query)
    }

    fn count(&self, table: Table, query: &Query) -> Result<u64> {
        self.inner.count(table, query)
    }

    fn bytes(&self, table: Table) -> Result<u64> {
        self.inner.bytes(table)
    }
}
