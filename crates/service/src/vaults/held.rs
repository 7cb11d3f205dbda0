//! What a vault itself says that it holds. Not found, empty, unreadable and unknown are four answers; here they are kept apart:
//! whoever asks learns what is there from a store that showed that it is the vault's, or that nothing is known.

use crate::core::error::{Error, ErrorKind, Result};
use crate::core::service::Service;
use std::collections::HashSet;
use strongroom_catalog::{Item, Point, Query, Transfer, Vault};
use strongroom_domain::PointId;
use strongroom_store::{DamagedPoint, Manifest, PointKind, PointList, Vault as Store};

/// What is in a vault.
pub(crate) struct Held {
    pub store: Store,
    pub points: Vec<Manifest>,
    pub damaged: Vec<DamagedPoint>,
}

impl Held {
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.damaged.is_empty()
    }

    pub fn ids(&self) -> HashSet<PointId> {
        self.points.iter().map(|m| m.point).chain(self.damaged.iter().filter_map(|d| d.point)).collect()
    }
}

fn unknown(vault: &Vault, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "What vault '{}' holds is not known, since its store at {} cannot be looked at: {why}. Mount its file system or make it reachable, then run it again.",
            vault.name, vault.store_location
        ),
    )
    .coded("VaultStoreNotReachable")
}

/// The vault's store, after it showed now that it is that: its header is there.
pub(crate) fn present(service: &Service, vault: &Vault) -> Result<Store> {
    let store = service.store(vault).map_err(|e| unknown(vault, e))?;
    check(vault, &store)?;
    Ok(store)
}

fn check(vault: &Vault, store: &Store) -> Result<()> {
    match Store::identify(store.objects()) {
        Ok(id) if id == vault.store_id => Ok(()),
        Ok(id) => Err(unknown(vault, format!("another vault is there ({id})"))),
        Err(error) => Err(unknown(vault, error)),
    }
}

/// All that it holds. The header was there before and after: a file system that went away meanwhile is noticed.
pub(crate) fn look(service: &Service, vault: &Vault) -> Result<Held> {
    let store = present(service, vault)?;
    let PointList { points, damaged } = store.points(None).map_err(|e| unknown(vault, e))?;
    check(vault, &store)?;
    Ok(Held { store, points, damaged })
}

/// The rows of the vault's points that were in it when they were written.
pub(crate) fn expected(service: &Service, vault: &Vault) -> Result<Vec<Point>> {
    let rows: Vec<Point> = service.catalog.find(&Query::all().eq("vault", vault.id))?;
    Ok(rows.into_iter().filter(|p| p.transfer == Transfer::Done).collect())
}

/// Those of a vault's points that the catalog does not know.
#[derive(Default)]
pub(crate) struct Strangers<'h> {
    pub points: Vec<&'h Manifest>,
    pub damaged: Vec<&'h DamagedPoint>,
}

impl Strangers<'_> {
    pub fn count(&self) -> usize {
        self.points.len() + self.damaged.len()
    }

    /// Objects among the points whose names are not those of points.
    pub fn foreign(&self) -> impl Iterator<Item = &str> {
        self.damaged.iter().filter(|d| d.point.is_none()).map(|d| d.object.as_str())
    }

    /// For an error: how many of what.
    pub fn told(&self) -> String {
        let images = self.points.iter().filter(|m| m.kind == PointKind::Image).count();
        let mut parts = Vec::new();
        if images > 0 {
            parts.push(format!("{images} of an image"));
        }
        if self.points.len() > images {
            parts.push(format!("{} of a machine", self.points.len() - images));
        }
        let foreign = self.foreign().count();
        if self.damaged.len() > foreign {
            parts.push(format!("{} that cannot be read", self.damaged.len() - foreign));
        }
        if foreign > 0 {
            parts.push(format!("{foreign} by their place, whose names are of no point"));
        }
        let all = self.count();
        let noun = if all == 1 { "recovery point" } else { "recovery points" };
        format!("{all} {noun} ({})", parts.join(", "))
    }
}

pub(crate) fn strangers<'h>(service: &Service, vault: &Vault, held: &'h Held) -> Result<Strangers<'h>> {
    let rows: Vec<Point> = service.catalog.find(&Query::all().eq("vault", vault.id))?;
    let known: HashSet<PointId> = rows.iter().map(|p| p.id).collect();
    Ok(Strangers {
        points: held.points.iter().filter(|m| !known.contains(&m.point)).collect(),
        damaged: held
            .damaged
            .iter()
            .filter(|d| d.point.is_none_or(|point| !known.contains(&point)))
            .collect(),
    })
}

/// What is known of a point that a listing did not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It is there: the listing was short.
    Present,
    /// Somebody forgot it.
    Forgotten,
    /// It is not there, and nobody said that it may go.
    Missing,
}

pub(crate) fn absence(service: &Service, store: &Store, point: &Point) -> Result<Absence> {
    let item: Option<Item> = service.catalog.get(point.item)?;
    if let Some(item) = item {
        match store.point_of(&item.store_item, &point.id) {
            Ok(Some(_)) => return Ok(Absence::Present),
            // It is there, and harmed.
            Err(error) if error.is_damage() => return Ok(Absence::Present),
            Ok(None) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(if is_forgotten(store, &point.id)? { Absence::Forgotten } else { Absence::Missing })
}

/// Whether the vault says that a point was forgotten.
pub(crate) fn is_forgotten(store: &Store, point: &PointId) -> Result<bool> {
    match store.tombstone(point) {
        Ok(found) => Ok(found.is_some()),
        // What cannot be read says nothing.
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
