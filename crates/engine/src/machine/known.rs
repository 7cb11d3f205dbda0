//! Telling the catalog what happened. It only remembers: where it cannot, the user is told, and nothing else is different.

use super::record::MachineRecord;
use strongroom_catalog::{
    Catalog, CatalogError, DiskRow, ItemKind, PointRow, SqliteCatalog, VaultSeen, default_path,
};
use strongroom_domain::{ItemName, PointId};
use strongroom_store::{Manifest, PointKind, Vault};

/// The user's catalog; without one, what the user should be told.
pub fn open_catalog() -> Result<SqliteCatalog, String> {
    let path = default_path()
        .ok_or("there is no place for a catalog of vaults: neither STRONGROOM_CATALOG nor HOME is set")?;
    SqliteCatalog::open(&path).map_err(|e| e.to_string())
}

/// Like [`open_catalog`], for commands that need none: if there is no catalog yet, none is made.
pub fn open_known_catalog() -> Option<Result<SqliteCatalog, String>> {
    default_path().filter(|path| path.exists()).map(|_| open_catalog())
}

pub fn vault_seen(vault: &Vault) -> VaultSeen {
    VaultSeen { id: vault.id(), location: vault.location().to_owned() }
}

/// A point as the catalog keeps it.
pub fn row_of(point: &Manifest) -> PointRow {
    PointRow {
        id: point.point,
        item: point.item.clone(),
        kind: match point.kind {
            PointKind::Machine => ItemKind::Machine,
            PointKind::Image => ItemKind::Image,
        },
        source_id: match point.kind {
            PointKind::Machine => MachineRecord::of(point).machine_uuid,
            PointKind::Image => None,
        },
        parent: point.parent,
        taken_at: point.taken_at,
        committed_at: point.committed_at,
        consistency: point.consistency.clone(),
        disks: point
            .disks
            .iter()
            .map(|d| DiskRow { name: d.name.clone(), size_bytes: d.size_bytes })
            .collect(),
        read_bytes: point.disks.iter().map(|d| d.read_bytes).sum(),
        new_bytes: point.disks.iter().map(|d| d.new_bytes).sum(),
        stored_bytes: point.stored_bytes,
        warnings: point.warnings.len() as u64,
    }
}

/// Notes a point after its commit. Returns what the user should be told.
pub fn remember(catalog: Option<&dyn Catalog>, vault: &Vault, point: &Manifest) -> Vec<String> {
    tell(catalog, |catalog| catalog.record(&vault_seen(vault), &row_of(point)))
}

/// Notes that points were forgotten. Returns what the user should be told.
pub fn forget(catalog: Option<&dyn Catalog>, vault: &Vault, points: &[PointId]) -> Vec<String> {
    tell(catalog, |catalog| catalog.remove(vault.id(), points).map(|_| ()))
}

/// Notes all points there are of a vault, or of one of its items, as they were just read from it.
pub fn remember_item(
    catalog: Option<&dyn Catalog>,
    vault: &Vault,
    item: Option<&ItemName>,
    points: &[Manifest],
) -> Vec<String> {
    let rows: Vec<PointRow> = points.iter().map(row_of).collect();
    tell(catalog, |catalog| catalog.sync(&vault_seen(vault), item, &rows).map(|_| ()))
}

fn tell(
    catalog: Option<&dyn Catalog>,
    change: impl Fn(&dyn Catalog) -> Result<(), CatalogError>,
) -> Vec<String> {
    let Some(catalog) = catalog else { return Vec::new() };
    let done = change(catalog);
    let mut warnings = catalog.take_warnings();
    if let Err(error) = done {
        warnings.push(format!("{error}. The vault is complete; `vm list` may show an older point"));
    }
    warnings
}
